/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * What a machine is made of, without KVM: a VM and a board that only note what
 * was asked of them. One of each.
 */
#ifndef POSTERN_TESTS_MACHINE_FAKE_PARTS_H
#define POSTERN_TESTS_MACHINE_FAKE_PARTS_H

#include <stdbool.h>
#include <stdint.h>

struct vm {
	bool running;
	uint32_t alone;		/* vCPUs that run while the machine does not */
	unsigned int loads;	/* of a kernel */
};

struct board {
	bool busy;
	unsigned int disrupted;	/* how often the guest was told of other clocks */
};

extern struct vm fake_vm;
extern struct board fake_board;

#endif
