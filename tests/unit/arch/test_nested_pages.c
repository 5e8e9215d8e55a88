// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// Which pages a nested guest's state names, and that a state is refused as long
// as one of them has not come. Needs no KVM.
#include "common.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "arch/x86/nested_pages.h"
#include "memory/memory.h"

#define RAM (2u << 20)
#define IMAGE 4096u

static struct kvm_nested_state *state_new(uint16_t format, size_t image)
{
	struct kvm_nested_state *state = calloc(1, sizeof(*state) + IMAGE);

	assert_non_null(state);
	state->format = format;
	state->size = (uint32_t)(sizeof(*state) + image);
	return state;
}

static void image_set(struct kvm_nested_state *state, size_t at, uint64_t value)
{
	memcpy((uint8_t *)&state->data + at, &value, sizeof(value));
}

static struct kvm_nested_state *svm_new(size_t image)
{
	struct kvm_nested_state *state = state_new(KVM_STATE_NESTED_FORMAT_SVM, image);

	state->hdr.svm.vmcb_pa = 0x1000;
	image_set(state, 0x40, 0x10123);	/* I/O map: its low bits do not count */
	image_set(state, 0x48, 0x20000);	/* MSR map */
	image_set(state, 0x550, 0x30fe0);	/* CR3 */
	return state;
}

static struct kvm_nested_state *vmx_new(size_t image)
{
	struct kvm_nested_state *state = state_new(KVM_STATE_NESTED_FORMAT_VMX, image);
	size_t at;

	state->hdr.vmx.vmxon_pa = 0x1000;
	state->hdr.vmx.vmcs12_pa = 0x2000;
	for (at = 40; at <= 112; at += 8)
		image_set(state, at, 0x10000 + at * 0x1000);
	image_set(state, 88, 0x50000);		/* the TSC's offset: no address */
	return state;
}

static int mark(void *arg, uint64_t gpa, uint64_t len)
{
	uint8_t *seen = arg;

	assert_true(gpa + len <= RAM);
	for (; len; gpa += PAGE_BYTES, len -= len < PAGE_BYTES ? len : PAGE_BYTES)
		seen[gpa / PAGE_BYTES] = 1;
	return 0;
}

static int stop(void *arg, uint64_t gpa, uint64_t len)
{
	(void)arg, (void)gpa, (void)len;
	return -ECANCELED;
}

/* `pages` ends with 0. Takes the state. */
static void assert_named(struct kvm_nested_state *state, const uint64_t *pages)
{
	uint8_t seen[RAM / PAGE_BYTES] = { 0 };
	unsigned int i, n = 0;

	assert_int_equal(nested_pages(state, mark, seen), 0);
	for (; *pages; pages++) {
		if (!seen[*pages / PAGE_BYTES])
			fail_msg("0x%llx is not named", (unsigned long long)*pages);
		n++;
	}
	for (i = 0; i < RAM / PAGE_BYTES; i++)
		n -= seen[i];
	assert_int_equal(n, 0);
	assert_int_equal(nested_pages(state, stop, NULL), -ECANCELED);
	free(state);
}

static void test_svm(void **unused)
{
	static const uint64_t all[] = { 0x1000,	 0x10000, 0x11000, 0x12000,
					0x20000, 0x21000, 0x30000, 0 };
	struct kvm_nested_state *state;

	(void)unused;
	assert_named(svm_new(IMAGE), all);
	/* With nested paging CR3 is none of the guest's addresses. */
	state = svm_new(IMAGE);
	image_set(state, 0x90, 1);
	assert_named(state,
		     (const uint64_t[]){ 0x1000, 0x10000, 0x11000, 0x12000, 0x20000, 0x21000, 0 });
	/* A state that is cut short names what is in it. */
	assert_named(svm_new(0x4f), (const uint64_t[]){ 0x1000, 0x10000, 0x11000, 0x12000, 0 });
	assert_named(svm_new(0), (const uint64_t[]){ 0x1000, 0 });
}

static void test_vmx(void **unused)
{
	(void)unused;
	assert_named(vmx_new(IMAGE),
		     (const uint64_t[]){ 0x1000, 0x2000, 0x38000, 0x40000, 0x48000, 0x50000,
					 0x58000, 0x60000, 0x70000, 0x78000, 0x80000, 0 });
	assert_named(vmx_new(60), (const uint64_t[]){ 0x1000, 0x2000, 0x38000, 0x40000, 0 });
}

static void test_a_state_whose_pages_have_not_come(void **unused)
{
	const struct memory_range range = { GPA(0), RAM };
	static const uint64_t named[] = { 0x1000,  0x10000, 0x11000, 0x12000,
					  0x20000, 0x21000, 0x30000 };
	struct kvm_nested_state *state = svm_new(IMAGE);
	struct memory *mem;
	struct err err;
	char page[32];
	unsigned int i;

	(void)unused;
	assert_int_equal(memory_new(&mem, &range, 1, &err), 0);
	assert_int_equal(nested_check(mem, state, &err), 0);
	memory_free(mem);
	assert_int_equal(memory_new(&mem, &range, 1, &err), 0);
	if (memory_watch(mem, NULL, &err) < 0) {
		print_message("skipped: %s\n", err.text);
		memory_free(mem);
		free(state);
		skip();
	}
	for (i = 0; i < sizeof(named) / sizeof(named[0]); i++) {
		snprintf(page, sizeof(page), "page 0x%llx,", (unsigned long long)named[i]);
		assert_err(nested_check(mem, state, &err), -EBADMSG, err, page);
		assert_int_equal(memory_fill(mem, GFN(named[i] / PAGE_BYTES), 1, NULL), 1);
	}
	assert_int_equal(nested_check(mem, state, &err), 0);
	/* What is no RAM, or no address, is not ours to judge. */
	image_set(state, 0x40, ~0ull);
	image_set(state, 0x48, RAM);
	state->hdr.svm.vmcb_pa = ~0ull;
	assert_int_equal(nested_check(mem, state, &err), 0);
	memory_free(mem);
	free(state);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_svm),
		cmocka_unit_test(test_vmx),
		cmocka_unit_test(test_a_state_whose_pages_have_not_come),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
