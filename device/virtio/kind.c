// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "device/virtio/kind.h"

#include <errno.h>
#include <string.h>

const struct virtio_kind *const virtio_kinds[] = { &rng_kind, &blk_kind, &net_kind, &console_kind, &balloon_kind, &vsock_kind };
const unsigned int virtio_kinds_n = sizeof(virtio_kinds) / sizeof(virtio_kinds[0]);

static const struct virtio_kind *kind_find(const char *option)
{
	unsigned int i;

	for (i = 0; i < virtio_kinds_n; i++)
		if (!strcmp(virtio_kinds[i]->option, option))
			return virtio_kinds[i];
	return NULL;
}

int virtio_choose(struct virtio_choices *choices, const char *option, const char *text, struct err *err)
{
	const struct virtio_kind *kind = kind_find(option);
	struct virtio_choice *at = &choices->choice[choices->n];
	unsigned int i, same = 0;
	int r;

	if (!kind)
		return err_set(err, -EINVAL, "--%s: there is no such device", option);
	for (i = 0; i < choices->n; i++) {
		same += choices->choice[i].kind == kind;
		/* The last word counts, as with options that are no devices. */
		if (choices->choice[i].kind == kind && kind->max == 1)
			at = &choices->choice[i];
	}
	if (same == kind->max && kind->max > 1)
		return err_set(err, -EINVAL, "--%s %s: at most %u allowed", option, text, kind->max);
	if (at == &choices->choice[VIRTIO_DEVICES_MAX])
		return err_set(err, -EINVAL, "--%s %s: at most %d devices are allowed", option, text, VIRTIO_DEVICES_MAX);
	r = kind->check(text, err);
	if (r < 0)
		return err_prefix(err, r, "--%s", option);
	choices->n += at == &choices->choice[choices->n];
	*at = (struct virtio_choice){ kind, text };
	return 0;
}
