// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "kvm/irq.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "arch/arch.h"
#include "kvm/internal.h"

/* Interrupts behind the lines of any interrupt controller that an architecture has. */
#define MSI_GSI_BASE 256u

static void route_msi(struct kvm_irq_routing_entry *entry, unsigned int msi, const struct vm_msi *m)
{
	*entry = (struct kvm_irq_routing_entry){
		.gsi = MSI_GSI_BASE + msi,
		.type = KVM_IRQ_ROUTING_MSI,
		.u.msi = {
			.address_lo = (uint32_t)m->address,
			.address_hi = (uint32_t)(m->address >> 32),
			.data = m->data,
		},
	};
}

/* All routes anew: KVM knows no other way. msi_lock held. */
static int routes_commit(struct vm *vm)
{
	struct kvm_irq_routing *routing;
	unsigned int i;
	int r = 0;

	routing = calloc(1, sizeof(*routing) + (ARCH_IRQ_ROUTES_MAX + VM_MSI_MAX) *
						       sizeof(routing->entries[0]));
	if (!routing)
		return -ENOMEM;
	routing->nr = arch_irq_routes(routing->entries);
	for (i = 0; i < VM_MSI_MAX; i++)
		if (vm->msi[i].routed)
			route_msi(&routing->entries[routing->nr++], i, &vm->msi[i]);
	if (ioctl(vm->fd, KVM_SET_GSI_ROUTING, routing) < 0)
		r = -errno;
	free(routing);
	return r;
}

int vm_irq_routes_init(struct vm *vm, struct err *err)
{
	int r;

	pthread_mutex_lock(&vm->msi_lock);
	r = routes_commit(vm);
	pthread_mutex_unlock(&vm->msi_lock);
	return r < 0 ? err_errno(err, r, "KVM: set interrupt routes") : 0;
}

int vm_msi_open(struct vm *vm, unsigned int *msi, struct err *err)
{
	struct kvm_irqfd irqfd = { 0 };
	struct vm_msi *m;
	unsigned int i;
	int fd;

	for (i = 0; i < VM_MSI_MAX && vm->msi[i].open; i++)
		;
	if (i == VM_MSI_MAX)
		return err_set(err, -ENOSPC, "all %d message signalled interrupts are in use",
			       VM_MSI_MAX);
	fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (fd < 0)
		return err_errno(err, -errno, "event for an interrupt");
	m = &vm->msi[i];
	irqfd.fd = (uint32_t)fd;
	irqfd.gsi = MSI_GSI_BASE + i;
	pthread_mutex_lock(&vm->msi_lock);
	*m = (struct vm_msi){ .open = true, .fd = fd, .irqfd = ioctl(vm->fd, KVM_IRQFD, &irqfd) == 0 };
	pthread_mutex_unlock(&vm->msi_lock);
	*msi = i;
	return 0;
}

void vm_msi_close(struct vm *vm, unsigned int msi)
{
	struct vm_msi *m = &vm->msi[msi];
	struct kvm_irqfd irqfd = {
		.fd = (uint32_t)m->fd, .gsi = MSI_GSI_BASE + msi, .flags = KVM_IRQFD_FLAG_DEASSIGN,
	};

	pthread_mutex_lock(&vm->msi_lock);
	if (m->irqfd)
		ioctl(vm->fd, KVM_IRQFD, &irqfd);
	close(m->fd);
	*m = (struct vm_msi){ .fd = -1 };
	pthread_mutex_unlock(&vm->msi_lock);
}

int vm_msi_set(struct vm *vm, unsigned int msi, uint64_t address, uint32_t data)
{
	struct vm_msi *m = &vm->msi[msi];
	int r = 0;

	pthread_mutex_lock(&vm->msi_lock);
	if (!m->routed || m->address != address || m->data != data) {
		m->address = address;
		m->data = data;
		m->routed = true;
		r = routes_commit(vm);
		if (r < 0) {
			m->routed = false;
			routes_commit(vm);
		}
	}
	pthread_mutex_unlock(&vm->msi_lock);
	return r;
}

/* Without irqfd: the message itself. */
static void msi_send(struct vm *vm, unsigned int msi)
{
	struct kvm_msi message = { 0 };
	struct vm_msi *m = &vm->msi[msi];
	bool routed;

	pthread_mutex_lock(&vm->msi_lock);
	routed = m->routed;
	message.address_lo = (uint32_t)m->address;
	message.address_hi = (uint32_t)(m->address >> 32);
	message.data = m->data;
	pthread_mutex_unlock(&vm->msi_lock);
	if (routed)
		ioctl(vm->fd, KVM_SIGNAL_MSI, &message);
}

void vm_msi_fire(struct vm *vm, unsigned int msi)
{
	/*
	 * Neither changes between vm_msi_open and vm_msi_close, which are not
	 * called at the same time as this.
	 */
	if (!vm->msi[msi].irqfd)
		msi_send(vm, msi);
	else
		eventfd_write(vm->msi[msi].fd, 1);
}

static int ioeventfd(struct vm *vm, gpa_t gpa, int fd, uint32_t flags)
{
	struct kvm_ioeventfd event = { .addr = gpa.v, .len = 0, .fd = fd, .flags = flags };

	return ioctl(vm->fd, KVM_IOEVENTFD, &event) < 0 ? -errno : 0;
}

int vm_ioeventfd_add(struct vm *vm, gpa_t gpa, int fd)
{
	return ioeventfd(vm, gpa, fd, 0);
}

int vm_ioeventfd_remove(struct vm *vm, gpa_t gpa, int fd)
{
	return ioeventfd(vm, gpa, fd, KVM_IOEVENTFD_FLAG_DEASSIGN);
}
