// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "device/virtio/type.h"

#include <errno.h>
#include <string.h>

const struct virtio_type *const virtio_types[] = { &rng_type,	  &blk_type,	 &net_type,
						   &console_type, &balloon_type, &vsock_type };
const unsigned int virtio_types_n = sizeof(virtio_types) / sizeof(virtio_types[0]);

static const struct virtio_type *type_find(const char *option)
{
	unsigned int i;

	for (i = 0; i < virtio_types_n; i++)
		if (!strcmp(virtio_types[i]->option, option))
			return virtio_types[i];
	return NULL;
}

int virtio_options_add(struct virtio_options *options, const char *option, const char *text,
		       struct err *err)
{
	const struct virtio_type *type = type_find(option);
	struct virtio_option *at = &options->option[options->n];
	unsigned int i, same = 0;
	int r;

	if (!type)
		return err_set(err, -EINVAL, "--%s: there is no such device", option);
	for (i = 0; i < options->n; i++) {
		same += options->option[i].type == type;
		/* The last word counts, as with options that are no devices. */
		if (options->option[i].type == type && type->max == 1)
			at = &options->option[i];
	}
	if (same == type->max && type->max > 1)
		return err_set(err, -EINVAL, "--%s %s: at most %u allowed", option, text,
			       type->max);
	if (at == &options->option[VIRTIO_DEVICES_MAX])
		return err_set(err, -EINVAL, "--%s %s: at most %d devices are allowed", option,
			       text, VIRTIO_DEVICES_MAX);
	r = type->check(text, err);
	if (r < 0)
		return err_prefix(err, r, "--%s", option);
	options->n += at == &options->option[options->n];
	*at = (struct virtio_option){ type, text };
	return 0;
}
