// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * empty.c - the floor of a restore: a program that makes a VM and memory slots
 * of a guest's size, says so by one byte on standard output, and ends. No VMM
 * can run a guest's first instruction sooner.
 *
 * 	empty MIB
 */
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define LOW_BYTES (UINT64_C(3) << 30)	/* what of RAM lies below 4 GiB */

static _Noreturn void die(const char *what)
{
	perror(what);
	exit(1);
}

static void slot(int vm, uint32_t number, uint64_t gpa, uint64_t bytes)
{
	void *host = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	struct kvm_userspace_memory_region region = {
		.slot = number,
		.guest_phys_addr = gpa,
		.memory_size = bytes,
		.userspace_addr = (uintptr_t)host,
	};

	if (host == MAP_FAILED || ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region) < 0)
		die("empty: a memory slot");
}

int main(int argc, char **argv)
{
	uint64_t bytes = argc == 2 ? strtoull(argv[1], NULL, 10) << 20 : 0;
	uint64_t low = bytes < LOW_BYTES ? bytes : LOW_BYTES;
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC), vm;

	if (kvm < 0 || !bytes)
		die("empty MIB: /dev/kvm");
	vm = ioctl(kvm, KVM_CREATE_VM, 0);
	if (vm < 0)
		die("empty: a VM");
	slot(vm, 0, 0, low);
	if (bytes > low)
		slot(vm, 1, UINT64_C(4) << 30, bytes - low);
	return write(STDOUT_FILENO, "", 1) == 1 ? 0 : 1;
}
