// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * The head is: ELF header, program headers (the notes' first), where there are
 * too many of them for the header's 16 bits a section header that has their
 * number (PN_XNUM), the notes; up to the next page.
 */
#include "snapshot/elf_core.h"

#include <elf.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Of struct elf_prstatus, 64-bit Linux: where pr_pid and pr_reg are, and what follows pr_reg. */
#define PRSTATUS_PID 32u
#define PRSTATUS_REG 112u
#define PRSTATUS_TAIL 8u

void elf_core_fini(struct elf_core *core)
{
	buf_fini(&core->notes);
	free(core->runs);
	core->runs = NULL;
	core->n_runs = core->room = 0;
}

int elf_core_add_cpu(struct elf_core *core, const void *regs, size_t bytes)
{
	const Elf64_Nhdr head = {
		.n_namesz = sizeof("CORE"),
		.n_descsz = (uint32_t)(PRSTATUS_REG + bytes + PRSTATUS_TAIL),
		.n_type = NT_PRSTATUS,
	};
	size_t len = sizeof(head) + 8 + head.n_descsz;
	uint8_t *to = buf_reserve(&core->notes, len);
	int32_t pid = (int32_t)++core->cpus;

	if (!to)
		return -ENOMEM;
	memset(to, 0, len);
	memcpy(to, &head, sizeof(head));
	memcpy(to + sizeof(head), "CORE", sizeof("CORE"));
	to += sizeof(head) + 8;
	memcpy(to + PRSTATUS_PID, &pid, sizeof(pid));
	memcpy(to + PRSTATUS_REG, regs, bytes);
	core->notes.len += len;
	return 0;
}

int elf_core_add_pages(struct elf_core *core, gfn_t first, uint64_t n, struct err *err)
{
	struct elf_core_run *last = core->n_runs ? &core->runs[core->n_runs - 1] : NULL, *more;

	if (!n)
		return 0;
	if (last && last->first.v + last->pages == first.v) {
		last->pages += n;
		return 0;
	}
	if (core->n_runs == ELF_CORE_RUNS_MAX)
		return err_set(err, -E2BIG,
			       "its pages have more than %u gaps, more than an ELF core can have",
			       ELF_CORE_RUNS_MAX);
	if (core->n_runs == core->room) {
		core->room = core->room ? core->room * 2 : 16;
		more = realloc(core->runs, core->room * sizeof(*more));
		if (!more)
			return err_set(err, -ENOMEM, "no memory for an ELF core");
		core->runs = more;
	}
	core->runs[core->n_runs++] = (struct elf_core_run){ .first = first, .pages = n };
	return 0;
}

static Elf64_Ehdr elf_core_header(const struct elf_core *core, bool many)
{
	Elf64_Ehdr head = {
		.e_ident = { ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64, ELFDATA2LSB,
			     EV_CURRENT },
		.e_type = ET_CORE,
		.e_machine = (uint16_t)core->machine,
		.e_version = EV_CURRENT,
		.e_phoff = sizeof(head),
		.e_ehsize = sizeof(head),
		.e_phentsize = sizeof(Elf64_Phdr),
		.e_phnum = many ? PN_XNUM : (uint16_t)(core->n_runs + 1),
	};

	if (many) {
		head.e_shoff = sizeof(head) + (core->n_runs + 1) * sizeof(Elf64_Phdr);
		head.e_shentsize = sizeof(Elf64_Shdr);
		head.e_shnum = 1;
	}
	return head;
}

/* Sets the runs' places, and writes their headers. */
static void elf_core_runs(struct elf_core *core, uint64_t offset, Elf64_Phdr *to)
{
	size_t i;

	for (i = 0; i < core->n_runs; i++) {
		struct elf_core_run *run = &core->runs[i];
		uint64_t bytes = run->pages << PAGE_SHIFT;

		run->offset = offset;
		to[i] = (Elf64_Phdr){
			.p_type = PT_LOAD,
			.p_flags = PF_R | PF_W | PF_X,
			.p_offset = offset,
			.p_vaddr = gfn_to_gpa(run->first).v,
			.p_paddr = gfn_to_gpa(run->first).v,
			.p_filesz = bytes,
			.p_memsz = bytes,
		};
		offset += bytes;
	}
	core->bytes = offset;
}

int elf_core_head(struct elf_core *core, struct buf *out)
{
	bool many = core->n_runs + 1 >= PN_XNUM;
	Elf64_Ehdr head = elf_core_header(core, many);
	size_t headers = (core->n_runs + 1) * sizeof(Elf64_Phdr);
	size_t notes = sizeof(head) + headers + (many ? sizeof(Elf64_Shdr) : 0);
	size_t len = (notes + core->notes.len + PAGE_BYTES - 1) & ~(PAGE_BYTES - 1);
	uint8_t *to = buf_reserve(out, len);
	Elf64_Phdr *program = calloc(core->n_runs + 1, sizeof(*program));

	if (!to || !program) {
		free(program);
		return -ENOMEM;
	}
	memset(to, 0, len);
	program[0] = (Elf64_Phdr){ .p_type = PT_NOTE,
				   .p_offset = notes,
				   .p_filesz = core->notes.len,
				   .p_align = 4 };
	elf_core_runs(core, len, program + 1);
	memcpy(to, &head, sizeof(head));
	memcpy(to + sizeof(head), program, headers);
	if (many) {
		const Elf64_Shdr number = { .sh_info = (uint32_t)(core->n_runs + 1) };

		memcpy(to + sizeof(head) + headers, &number, sizeof(number));
	}
	if (core->notes.len)
		memcpy(to + notes, core->notes.data, core->notes.len);
	out->len += len;
	free(program);
	return 0;
}
