// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * none.c - in place of nbd.c, net.c and qcow2.c where the build found no libnbd.
 */
#include <errno.h>

#include "device/disk/disk.h"

static int missing(struct err *err)
{
	return err_set(
		err, -ENOSYS,
		"this postern was built without libnbd, which NBD and qcow2 need: apt install libnbd-dev, "
		"and build it again");
}

int nbd_open(struct disk **out, const struct disk_config *config, const struct disk_env *env,
	     struct err *err)
{
	(void)out;
	(void)config;
	(void)env;
	return missing(err);
}

int qcow2_open(struct disk **out, const struct disk_config *config, const struct disk_env *env,
	       struct err *err)
{
	(void)out;
	(void)config;
	(void)env;
	return missing(err);
}
