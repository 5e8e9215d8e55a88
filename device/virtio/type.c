// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "device/virtio/type.h"

#include <errno.h>
#include <string.h>

const struct virtio_type *const virtio_types[] = { &rng_type, &blk_type, &net_type, &console_type, &balloon_type, &vsock_type };
const unsigned int virtio_types_n = sizeof(virtio_types) / sizeof(virtio_types[0]);

static const struct virtio_type *type_find(const char *option)
{
	unsigned int i;

	for (i = 0; i < virtio_types_n; i++)
		if (!strcmp(virtio_types[i]->option, option))
			return virtio_types[i];
	return NULL;
}

int virtio_choose(struct virtio_choices *choices, const char *option, const char *text, struct err *err)
{
	const struct virtio_type *type = type_find(option);
	struct virtio_choice *at = &choices->choice[choices->n];
	unsigned int i, same = 0;
	int r;

	if (!type)
		return err_set(err, -EINVAL, "--%s: there is no such device", option);
	for (i = 0; i < choices->n; i++) {
		same += choices->choice[i].type == type;
		/* The last word counts, as with options that are no devices. */
		if (choices->choice[i].type == type && type->max == 1)
			at = &choices->choice[i];
	}
	if (same == type->max && type->max > 1)
		return err_set(err, -EINVAL, "--%s %s: at most %u allowed", option, text, type->max);
	if (at == &choices->choice[VIRTIO_DEVICES_MAX])
		return err_set(err, -EINVAL, "--%s %s: at most %d devices are allowed", option, text, VIRTIO_DEVICES_MAX);
	r = type->check(text, err);
	if (r < 0)
		return err_prefix(err, r, "--%s", option);
	choices->n += at == &choices->choice[choices->n];
	*at = (struct virtio_choice){ type, text };
	return 0;
}
