// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * Debugging a guest by KVM_SET_GUEST_DEBUG: single steps, BRK, and the
 * breakpoint and watchpoint registers (Arm ARM, chapter D2). While they are set
 * they take the place of the guest's own.
 */
#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

#include "arch/arch.h"
#include "arch/arm64/arm64.h"

/* DBGBCR_EL1, DBGWCR_EL1: on, at EL0 and EL1 */
#define CONTROL_ON 1u
#define CONTROL_EL0_EL1 (3u << 1)
#define CONTROL_LOAD (1u << 3)
#define CONTROL_STORE (2u << 3)
#define CONTROL_BYTES(mask) ((uint64_t)(mask) << 5)

/* ESR's exception class */
#define ESR_CLASS(esr) ((esr) >> 26)
#define CLASS_BREAKPOINT 0x30u
#define CLASS_WATCHPOINT 0x34u

static uint64_t watch_access(enum arch_watch_type type)
{
	switch (type) {
	case ARCH_WATCH_WRITE:
		return CONTROL_STORE;
	case ARCH_WATCH_READ:
		return CONTROL_LOAD;
	default:
		return CONTROL_LOAD | CONTROL_STORE;
	}
}

static int watch_set(const struct arch_watch *watch, struct kvm_guest_debug_arch *arch,
		     unsigned int *breakpoints, unsigned int *watchpoints, struct err *err)
{
	uint64_t low = watch->gva.v & 7;

	if (watch->type == ARCH_WATCH_EXEC) {
		if (watch->gva.v & 3)
			return err_set(err, -EINVAL,
				       "breakpoint at 0x%llx: instructions lie at multiples of 4",
				       (unsigned long long)watch->gva.v);
		arch->dbg_bvr[*breakpoints] = watch->gva.v;
		arch->dbg_bcr[(*breakpoints)++] = CONTROL_ON | CONTROL_EL0_EL1 | CONTROL_BYTES(0xf);
		return 0;
	}
	if ((watch->len != 1 && watch->len != 2 && watch->len != 4 && watch->len != 8) ||
	    low & (watch->len - 1))
		return err_set(
			err, -EINVAL,
			"watchpoint at 0x%llx of %u bytes: must be 1, 2, 4 or 8, and aligned",
			(unsigned long long)watch->gva.v, watch->len);
	arch->dbg_wvr[*watchpoints] = watch->gva.v & ~7ull;
	arch->dbg_wcr[(*watchpoints)++] = CONTROL_ON | CONTROL_EL0_EL1 | watch_access(watch->type) |
					  CONTROL_BYTES(((1u << watch->len) - 1) << low);
	return 0;
}

/* The CPU's number of them; each kind is at least two. */
static int check_numbers(struct vcpu_parked *vcpu, unsigned int breakpoints,
			 unsigned int watchpoints, struct err *err)
{
	int fd = vm_kvm_fd(parked_vm(vcpu));
	int bps = ioctl(fd, KVM_CHECK_EXTENSION, KVM_CAP_GUEST_DEBUG_HW_BPS);
	int wps = ioctl(fd, KVM_CHECK_EXTENSION, KVM_CAP_GUEST_DEBUG_HW_WPS);

	if ((int)breakpoints > bps || (int)watchpoints > wps)
		return err_set(err, -EINVAL,
			       "%u breakpoints and %u watchpoints: the CPU has %d and %d",
			       breakpoints, watchpoints, bps, wps);
	return 0;
}

int arch_debug_set(struct vcpu_parked *vcpu, const struct arch_debug *debug, struct err *err)
{
	unsigned int i, breakpoints = 0, watchpoints = 0;
	struct kvm_guest_debug request;
	int r = 0;

	memset(&request, 0, sizeof(request));
	if (debug->nwatch > ARCH_WATCH_MAX)
		return err_set(err, -EINVAL, "%u watchpoints, at most %u", debug->nwatch,
			       ARCH_WATCH_MAX);
	for (i = 0; i < debug->nwatch && !r; i++)
		r = watch_set(&debug->watch[i], &request.arch, &breakpoints, &watchpoints, err);
	if (!r)
		r = check_numbers(vcpu, breakpoints, watchpoints, err);
	if (r < 0)
		return r;
	if (debug->step)
		request.control |= KVM_GUESTDBG_SINGLESTEP;
	if (debug->sw_breakpoints)
		request.control |= KVM_GUESTDBG_USE_SW_BP;
	if (debug->nwatch)
		request.control |= KVM_GUESTDBG_USE_HW;
	if (request.control)
		request.control |= KVM_GUESTDBG_ENABLE;
	r = parked_ioctl(vcpu, KVM_SET_GUEST_DEBUG, &request, "set guest debugging", err);
	return r < 0 ? r : 0;
}

static bool watch_is_hit(const struct arch_watch *watch, uint32_t class, uint64_t pc,
			 uint64_t address)
{
	if (watch->type == ARCH_WATCH_EXEC)
		return class == CLASS_BREAKPOINT && watch->gva.v == pc;
	/* The address is anywhere in what was accessed, within the doubleword that is watched. */
	return class == CLASS_WATCHPOINT && watch->gva.v >> 3 == address >> 3;
}

bool arch_debug_hit(struct vcpu_parked *vcpu, const struct arch_debug *debug, unsigned int *index)
{
	const struct kvm_debug_exit_arch *hit = &parked_run(vcpu)->debug.arch;
	uint64_t pc = 0;
	unsigned int i;

	reg_get64(vcpu, CORE_REG(regs.pc), &pc, NULL);
	for (i = 0; i < debug->nwatch && i < ARCH_WATCH_MAX; i++) {
		if (watch_is_hit(&debug->watch[i], ESR_CLASS(hit->hsr), pc, hit->far)) {
			*index = i;
			return true;
		}
	}
	return false;
}

const uint8_t *arch_breakpoint(size_t *len)
{
	static const uint8_t brk[] = { 0x00, 0x00, 0x20, 0xd4 };	/* brk #0 */

	*len = sizeof(brk);
	return brk;
}
