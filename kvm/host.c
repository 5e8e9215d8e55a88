// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "kvm/host.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "arch/arch.h"

struct vm_host {
	int fd;
	int spare; /* a VM that no machine has yet, or -1 */
	pthread_mutex_t lock; /* guards the rest; held while it is asked */
	bool is_asked;
	void *asked;
};

int vm_host_fd(const struct vm_host *host)
{
	return host->fd;
}

void vm_host_prepare(struct vm_host *host)
{
	if (host->spare < 0)
		host->spare = ioctl(host->fd, KVM_CREATE_VM, 0ul);
}

int vm_host_take_vm(struct vm_host *host, unsigned long type)
{
	int fd = host->spare;

	host->spare = -1;
	if (fd >= 0 && type) {
		close(fd);
		fd = -1;
	}
	return fd;
}

const void *vm_host_asked(const struct vm_host *host)
{
	return host->asked;
}

static int host_open(struct vm_host *host, struct err *err)
{
	int version;

	host->fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (host->fd < 0 && errno == ENOENT)
		return err_set(err, -ENOENT,
			       "no /dev/kvm: load kvm_intel or kvm_amd (on arm64: start the kernel "
			       "at EL2), or enable virtualisation in the firmware (or nesting in "
			       "the hypervisor)");
	if (host->fd < 0)
		return err_errno(err, -errno, "/dev/kvm (is this user in the group kvm?)");
	version = ioctl(host->fd, KVM_GET_API_VERSION, 0);
	if (version != KVM_API_VERSION)
		return err_set(err, -ENOTSUP, "KVM API version %d, %d is needed", version,
			       KVM_API_VERSION);
	if (ioctl(host->fd, KVM_CHECK_EXTENSION, KVM_CAP_IMMEDIATE_EXIT) <= 0)
		return err_set(err, -ENOTSUP,
			       "KVM lacks immediate_exit: Linux 4.13 or later is needed");
	return 0;
}

int vm_host_ask(struct vm_host *host, struct err *err)
{
	int r = 0;

	pthread_mutex_lock(&host->lock);
	if (!host->is_asked)
		r = arch_host_ask(host->fd, &host->asked, err);
	host->is_asked = !r;
	pthread_mutex_unlock(&host->lock);
	return r;
}

int vm_host_open(struct vm_host **out, struct err *err)
{
	struct vm_host *host = calloc(1, sizeof(*host));
	int r;

	if (!host)
		return err_set(err, -ENOMEM, "no memory for the VM");
	host->spare = -1;
	pthread_mutex_init(&host->lock, NULL);
	r = host_open(host, err);
	if (r < 0) {
		vm_host_free(host);
		return r;
	}
	*out = host;
	return 0;
}

int vm_host_new(struct vm_host **out, struct err *err)
{
	struct vm_host *host;
	int r = vm_host_open(&host, err);

	if (r < 0)
		return r;
	r = vm_host_ask(host, err);
	if (r < 0) {
		vm_host_free(host);
		return r;
	}
	*out = host;
	return 0;
}

void vm_host_free(struct vm_host *host)
{
	if (!host)
		return;
	if (host->spare >= 0)
		close(host->spare);
	if (host->fd >= 0)
		close(host->fd);
	pthread_mutex_destroy(&host->lock);
	free(host->asked);
	free(host);
}
