// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "device/device.h"

#include <assert.h>
#include <stdio.h>

#include "base/state_version.h"

int device_version_check(const struct device *device, uint32_t version, struct err *err)
{
	const struct device_ops *ops = device->ops;
	char what[64];

	assert((ops->version > 1) == (ops->load_previous != NULL));
	snprintf(what, sizeof(what), "state of device %s", ops->name);
	return state_version_check(what, version, ops->version, err);
}

int device_load(const struct device *device, uint32_t version, const uint8_t *data, size_t len,
		struct err *err)
{
	const struct device_ops *ops = device->ops;
	int r = device_version_check(device, version, err);

	if (r < 0)
		return r;
	r = version == ops->version ? ops->load(device->dev, data, len, err) :
				      ops->load_previous(device->dev, data, len, err);
	return r < 0 ? err_prefix(err, r, "state of device %s", ops->name) : r;
}
