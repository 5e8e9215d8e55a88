// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/* An ELF core's head: runs are merged, places follow each other, and any number of runs can be told. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <elf.h>
#include <errno.h>
#include <string.h>

#include "snapshot/elf_core.h"

static void test_runs_that_touch_are_one(void **state)
{
	struct elf_core core = { .machine = EM_X86_64 };
	struct buf out = { 0 };
	struct err err;
	Elf64_Ehdr head;
	Elf64_Phdr load[3];

	(void)state;
	assert_int_equal(elf_core_add_pages(&core, GFN(16), 2, &err), 0);
	assert_int_equal(elf_core_add_pages(&core, GFN(18), 1, &err), 0);
	assert_int_equal(elf_core_add_pages(&core, GFN(19), 0, &err), 0);
	assert_int_equal(elf_core_add_pages(&core, GFN(1 << 20), 1, &err), 0);
	assert_int_equal(core.n_runs, 2);
	assert_int_equal(elf_core_head(&core, &out), 0);
	assert_int_equal(out.len % PAGE_BYTES, 0);
	memcpy(&head, out.data, sizeof(head));
	assert_memory_equal(head.e_ident, ELFMAG, SELFMAG);
	assert_int_equal(head.e_type, ET_CORE);
	assert_int_equal(head.e_phnum, 3);
	memcpy(load, out.data + head.e_phoff, sizeof(load));
	assert_int_equal(load[0].p_type, PT_NOTE);
	assert_int_equal(load[1].p_paddr, 16 * PAGE_BYTES);
	assert_int_equal(load[1].p_vaddr, 16 * PAGE_BYTES);
	assert_int_equal(load[1].p_filesz, 3 * PAGE_BYTES);
	assert_int_equal(load[1].p_offset, out.len);
	assert_int_equal(load[2].p_paddr, UINT64_C(1) << 32);
	assert_int_equal(load[2].p_offset, out.len + 3 * PAGE_BYTES);
	assert_int_equal(core.bytes, out.len + 4 * PAGE_BYTES);
	buf_fini(&out);
	elf_core_fini(&core);
}

static void test_each_vcpu_has_a_note(void **state)
{
	struct elf_core core = { .machine = EM_X86_64 };
	uint64_t regs[27];
	struct buf out = { 0 };
	Elf64_Phdr note;
	Elf64_Nhdr head;
	int32_t pid;

	(void)state;
	memset(regs, 0x11, sizeof(regs));
	assert_int_equal(elf_core_add_cpu(&core, regs, sizeof(regs)), 0);
	memset(regs, 0x22, sizeof(regs));
	assert_int_equal(elf_core_add_cpu(&core, regs, sizeof(regs)), 0);
	assert_int_equal(elf_core_head(&core, &out), 0);
	memcpy(&note, out.data + sizeof(Elf64_Ehdr), sizeof(note));
	assert_int_equal(note.p_filesz, 2 * (12 + 8 + 336));
	memcpy(&head, out.data + note.p_offset + 356, sizeof(head));
	assert_int_equal(head.n_type, NT_PRSTATUS);
	assert_int_equal(head.n_descsz, 336);
	memcpy(&pid, out.data + note.p_offset + 356 + 20 + 32, sizeof(pid));
	assert_int_equal(pid, 2);
	assert_memory_equal(out.data + note.p_offset + 356 + 20 + 112, regs, sizeof(regs));
	buf_fini(&out);
	elf_core_fini(&core);
}

/* More than the header's 16 bits can say; and more than there may be. */
static void test_very_many_runs(void **state)
{
	struct elf_core core = { .machine = EM_X86_64 };
	struct buf out = { 0 };
	struct err err;
	Elf64_Ehdr head;
	Elf64_Shdr number;
	uint64_t i;

	(void)state;
	for (i = 0; i < 70000; i++)
		assert_int_equal(elf_core_add_pages(&core, GFN(2 * i), 1, &err), 0);
	assert_int_equal(elf_core_head(&core, &out), 0);
	memcpy(&head, out.data, sizeof(head));
	assert_int_equal(head.e_phnum, PN_XNUM);
	assert_int_equal(head.e_shnum, 1);
	memcpy(&number, out.data + head.e_shoff, sizeof(number));
	assert_int_equal(number.sh_info, 70001);
	for (; i < ELF_CORE_RUNS_MAX; i++)
		assert_int_equal(elf_core_add_pages(&core, GFN(2 * i), 1, &err), 0);
	assert_int_equal(elf_core_add_pages(&core, GFN(2 * i), 1, &err), -E2BIG);
	buf_fini(&out);
	elf_core_fini(&core);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_runs_that_touch_are_one),
		cmocka_unit_test(test_each_vcpu_has_a_note),
		cmocka_unit_test(test_very_many_runs),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
