/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * A carrier of message signalled interrupts that counts.
 */
#ifndef POSTERN_TESTS_DEVICE_MSI_H
#define POSTERN_TESTS_DEVICE_MSI_H

#include <errno.h>

#include "device/pci/msix.h"

#define FAKE_MSIS 64

struct fake_msi {
	unsigned int open, sets, fired;
	unsigned int fired_of[FAKE_MSIS];
	uint64_t address;	/* as last set */
	uint32_t data;
	bool refuse;
};

static inline int fake_msi_open(void *arg, unsigned int *handle, struct err *err)
{
	struct fake_msi *m = arg;

	if (m->open == FAKE_MSIS)
		return err_set(err, -ENOSPC, "no more");
	*handle = m->open++;
	return 0;
}

static inline void fake_msi_close(void *arg, unsigned int handle)
{
	(void)handle;
	((struct fake_msi *)arg)->open--;
}

static inline int fake_msi_set(void *arg, unsigned int handle, uint64_t address, uint32_t data)
{
	struct fake_msi *m = arg;

	(void)handle;
	if (m->refuse)
		return -EINVAL;
	m->sets++;
	m->address = address;
	m->data = data;
	return 0;
}

static inline void fake_msi_fire(void *arg, unsigned int handle)
{
	struct fake_msi *m = arg;

	m->fired++;
	m->fired_of[handle]++;
}

static const struct msi_ops fake_msi_ops = { fake_msi_open, fake_msi_close, fake_msi_set,
					     fake_msi_fire };

#endif
