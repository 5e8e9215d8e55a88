// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * SVM: AMD APM volume 2, appendix B (layout of the VMCB). VMX: KVM's own image
 * of a VMCS, struct vmcs12, whose first part is fixed
 * (arch/x86/kvm/vmx/vmcs12.h, vmx_check_vmcs12_offsets). What neither
 * hypervisor uses may be named all the same: then a page more travels early.
 */
#include "arch/x86/nested_pages.h"

#include <errno.h>
#include <string.h>

#define SVM_IOPM_BASE 0x40
#define SVM_MSRPM_BASE 0x48
#define SVM_NESTED_CTL 0x90
#define SVM_NESTED_PAGING 1u
#define SVM_SAVE_CR3 0x550
#define PDPTES_BYTES 32u

struct named {
	uint16_t at;		/* in the image */
	uint16_t pages;
};

static const struct named svm_named[] = { { SVM_IOPM_BASE, 3 }, { SVM_MSRPM_BASE, 2 } };
static const struct named vmx_named[] = {
	{ 40, 1 }, { 48, 1 },		/* I/O bitmaps */
	{ 56, 1 },			/* MSR bitmap */
	{ 64, 1 }, { 72, 1 }, { 80, 1 },	/* MSRs stored and loaded at an exit, and at an entry */
	{ 96, 1 }, { 104, 1 },		/* virtual APIC, APIC access */
	{ 112, 1 },			/* posted interrupts */
};
#define N(array) (sizeof(array) / sizeof((array)[0]))

struct image {
	const uint8_t *data;
	size_t len;
};

static bool image_get(const struct image *image, size_t at, uint64_t *value)
{
	if (at + sizeof(*value) > image->len)
		return false;
	memcpy(value, image->data + at, sizeof(*value));
	return true;
}

typedef int range_fn(void *arg, uint64_t gpa, uint64_t len_bytes);

static int pages_named(const struct image *image, const struct named *named, size_t n, range_fn *fn,
		       void *arg)
{
	uint64_t gpa;
	size_t i;
	int r = 0;

	for (i = 0; i < n && !r; i++)
		if (image_get(image, named[i].at, &gpa))
			r = fn(arg, gpa & ~(PAGE_BYTES - 1), named[i].pages * PAGE_BYTES);
	return r;
}

static int pages_svm(const struct kvm_nested_state *state, const struct image *image, range_fn *fn,
		     void *arg)
{
	uint64_t control, cr3;
	int r = fn(arg, state->hdr.svm.vmcb_pa, PAGE_BYTES);

	if (!r)
		r = pages_named(image, svm_named, N(svm_named), fn, arg);
	/*
	 * Without nested paging the nested guest's CR3 is an address of the
	 * guest's: PAE's table is read from there.
	 */
	if (!r && image_get(image, SVM_NESTED_CTL, &control) && !(control & SVM_NESTED_PAGING) &&
	    image_get(image, SVM_SAVE_CR3, &cr3))
		r = fn(arg, cr3 & ~(uint64_t)(PDPTES_BYTES - 1), PDPTES_BYTES);
	return r;
}

int nested_pages(const struct kvm_nested_state *state, range_fn *fn, void *arg)
{
	struct image image = { .data = (const uint8_t *)&state->data };
	int r;

	if (state->size > sizeof(*state))
		image.len = state->size - sizeof(*state);
	if (state->format != KVM_STATE_NESTED_FORMAT_VMX)
		return pages_svm(state, &image, fn, arg);
	r = fn(arg, state->hdr.vmx.vmxon_pa, PAGE_BYTES);
	if (!r)
		r = fn(arg, state->hdr.vmx.vmcs12_pa, PAGE_BYTES);
	return r ? r : pages_named(&image, vmx_named, N(vmx_named), fn, arg);
}

struct check {
	const struct memory *mem;
	struct err *err;
};

static int range_check(void *arg, uint64_t gpa, uint64_t len_bytes)
{
	const struct check *check = arg;
	uint64_t at, end;

	/* Nonsense is KVM's to refuse. */
	if (__builtin_add_overflow(gpa, len_bytes - 1, &end))
		return 0;
	for (at = gpa & ~(PAGE_BYTES - 1); at <= end && at + PAGE_BYTES > at; at += PAGE_BYTES)
		if (memory_is_ram(check->mem, GPA(at), 1) &&
		    memory_page_state(check->mem, gpa_to_gfn(GPA(at))) != PAGE_PRESENT)
			return err_set(
				check->err, -EBADMSG,
				"a nested guest's state names page 0x%llx, which has not come",
				(unsigned long long)at);
	return 0;
}

int nested_check(const struct memory *mem, const struct kvm_nested_state *state, struct err *err)
{
	struct check check = { mem, err };

	return nested_pages(state, range_check, &check);
}
