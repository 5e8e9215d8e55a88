// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * Debugging a guest by KVM_SET_GUEST_DEBUG: single steps, int3, and the four
 * address registers (Intel SDM volume 3, section 18.2). While watchpoints are
 * set they take the place of the guest's own.
 */
#include <errno.h>
#include <string.h>

#include "arch/arch.h"
#include "arch/x86/x86.h"

#define DR7_FIXED 0x600u	/* bit 10 reads as one; bit 9: exact data breakpoints */

/* R/W field of DR7; there is no watchpoint that sees reads alone. */
static int watch_type(enum arch_watch_type type)
{
	switch (type) {
	case ARCH_WATCH_EXEC:
		return 0;
	case ARCH_WATCH_WRITE:
		return 1;
	case ARCH_WATCH_ACCESS:
		return 3;
	default:
		return -EINVAL;
	}
}

/* LEN field of DR7. */
static int watch_len(unsigned int len)
{
	switch (len) {
	case 1:
		return 0;
	case 2:
		return 1;
	case 4:
		return 3;
	case 8:
		return 2;
	default:
		return -EINVAL;
	}
}

static int watch_set(const struct arch_debug *debug, struct kvm_guest_debug *request,
		     struct err *err)
{
	uint64_t dr7 = DR7_FIXED;
	unsigned int i;

	if (debug->nwatch > ARCH_WATCH_MAX)
		return err_set(err, -EINVAL, "%u watchpoints: the CPU has %u", debug->nwatch,
			       ARCH_WATCH_MAX);
	for (i = 0; i < debug->nwatch; i++) {
		const struct arch_watch *watch = &debug->watch[i];
		int type = watch_type(watch->type), len = watch_len(watch->len);

		if (type < 0)
			return err_set(err, -EINVAL,
				       "the CPU has no watchpoint for reads alone: watch any access");
		if (len < 0 || (watch->gva.v & (watch->len - 1)) || (type == 0 && watch->len != 1))
			return err_set(err, -EINVAL,
				       "watchpoint at 0x%llx of %u bytes: must be 1, 2, 4 or 8, and aligned",
				       (unsigned long long)watch->gva.v, watch->len);
		request->arch.debugreg[i] = watch->gva.v;
		dr7 |= 2ull << (i * 2) | (uint64_t)type << (16 + i * 4) |
		       (uint64_t)len << (18 + i * 4);
	}
	request->arch.debugreg[7] = dr7;
	return 0;
}

/*
 * Interrupts wait meanwhile, where KVM can have them wait (Linux 5.15). Else a
 * slow machine may never leave their handlers, and one that comes has the flag
 * by which the step is made in what it returns to: the guest would meet it when
 * the debugger has gone.
 */
static uint32_t step_control(struct vcpu_parked *vcpu)
{
	return KVM_GUESTDBG_SINGLESTEP |
	       ((uint32_t)x86_capability(parked_vm(vcpu), KVM_CAP_SET_GUEST_DEBUG2) &
		KVM_GUESTDBG_BLOCKIRQ);
}

int arch_debug_set(struct vcpu_parked *vcpu, const struct arch_debug *debug, struct err *err)
{
	struct kvm_guest_debug request;
	int result;

	memset(&request, 0, sizeof(request));
	result = watch_set(debug, &request, err);
	if (result)
		return result;
	if (debug->step)
		request.control |= step_control(vcpu);
	if (debug->sw_breakpoints)
		request.control |= KVM_GUESTDBG_USE_SW_BP;
	if (debug->nwatch)
		request.control |= KVM_GUESTDBG_USE_HW_BP;
	if (request.control)
		request.control |= KVM_GUESTDBG_ENABLE;
	result = parked_ioctl(vcpu, KVM_SET_GUEST_DEBUG, &request, "set guest debugging", err);
	return result < 0 ? result : 0;
}

bool arch_debug_hit(struct vcpu_parked *vcpu, const struct arch_debug *debug, unsigned int *index)
{
	uint64_t dr6 = parked_run(vcpu)->debug.arch.dr6;
	unsigned int i;

	/* An int3 leaves DR6 as it was. */
	if (parked_run(vcpu)->debug.arch.exception != 1)
		return false;
	for (i = 0; i < debug->nwatch && i < ARCH_WATCH_MAX; i++) {
		if (dr6 & 1ull << i) {
			*index = i;
			return true;
		}
	}
	return false;
}

const uint8_t *arch_breakpoint(size_t *len)
{
	static const uint8_t int3[] = { 0xcc };

	*len = sizeof(int3);
	return int3;
}
