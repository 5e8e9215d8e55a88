// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * ELF, as far as loading needs it (System V ABI, chapters 4 and 5): program
 * headers of kinds LOAD and NOTE. Structures are read before they are looked
 * at, each once: the file is somebody else's.
 */
#include "arch/x86/elf_image.h"

#include <elf.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define HEADERS_MAX 64u
#define ADDRESS_MAX (1ull << 46)
#define NOTES_MAX (1u << 20)
#define NOTE_NAME "postern"
#define NOTE_TYPE 1u
#define NOTE_VERSION 1u
#define NOTE_CPUS_MAX 4096u

bool elf_is(const uint8_t *data, size_t len)
{
	return len >= SELFMAG && !memcmp(data, ELFMAG, SELFMAG);
}

static bool in_file(uint64_t offset, uint64_t bytes, uint64_t len)
{
	return offset <= len && bytes <= len - offset;
}

static int read_header(Elf64_Ehdr *header, const struct ram_file *file, struct err *err)
{
	size_t len = file->len < sizeof(*header) ? (size_t)file->len : sizeof(*header);
	int r = ram_file_read(file, 0, header, len, err);

	if (r < 0)
		return r;
	if (!elf_is((const uint8_t *)header, len))
		return err_set(err, -EINVAL, "not an ELF file");
	if (len < sizeof(*header))
		return err_set(err, -EINVAL, "truncated: it ends within the ELF header");
	if (header->e_ident[EI_CLASS] != ELFCLASS64 || header->e_ident[EI_DATA] != ELFDATA2LSB ||
	    header->e_machine != EM_X86_64)
		return err_set(err, -EINVAL, "not a 64-bit x86 ELF file");
	if (header->e_type != ET_EXEC && header->e_type != ET_DYN)
		return err_set(err, -EINVAL, "an ELF file, but not an executable");
	if (header->e_phentsize != sizeof(Elf64_Phdr) || !header->e_phnum ||
	    header->e_phnum > HEADERS_MAX)
		return err_set(err, -EINVAL, "ELF: %u program headers of %u bytes cannot be",
			       header->e_phnum, header->e_phentsize);
	if (!in_file(header->e_phoff, header->e_phnum * sizeof(Elf64_Phdr), file->len))
		return err_set(err, -EINVAL, "truncated: the program headers lie outside the file");
	return 0;
}

static int read_load(struct elf *elf, const Elf64_Phdr *program, unsigned int index, uint64_t len,
		     struct err *err)
{
	if (!program->p_memsz)
		return 0;
	if (program->p_filesz > program->p_memsz)
		return err_set(err, -EINVAL,
			       "ELF segment %u has more bytes in the file than in memory", index);
	if (!in_file(program->p_offset, program->p_filesz, len))
		return err_set(err, -EINVAL, "truncated: segment %u lies outside the file", index);
	if (program->p_paddr > ADDRESS_MAX || program->p_memsz > ADDRESS_MAX)
		return err_set(err, -EINVAL, "ELF segment %u, 0x%llx bytes at 0x%llx, cannot be",
			       index, (unsigned long long)program->p_memsz,
			       (unsigned long long)program->p_paddr);
	if (elf->segments == ELF_SEGMENTS_MAX)
		return err_set(err, -EINVAL, "ELF: more than %u segments", ELF_SEGMENTS_MAX);
	elf->segment[elf->segments++] = (struct elf_segment){
		.gpa = program->p_paddr,
		.offset = program->p_offset,
		.file_bytes = program->p_filesz,
		.mem_bytes = program->p_memsz,
	};
	return 0;
}

static int read_bare(struct elf *elf, const uint8_t *desc, uint32_t bytes, struct err *err)
{
	struct {
		uint32_t version, max_cpus;
		uint64_t cr3, entry, stack_top, stack_stride, config, stats;
	} note;

	if (bytes < sizeof(note))
		return err_set(err, -EINVAL, "bare guest: its note has %u bytes, not %zu", bytes,
			       sizeof(note));
	memcpy(&note, desc, sizeof(note));
	if (note.version != NOTE_VERSION)
		return err_set(err, -EINVAL, "bare guest: version %u, this postern knows %u",
			       note.version, NOTE_VERSION);
	if (!note.max_cpus || note.max_cpus > NOTE_CPUS_MAX || note.stack_top > ADDRESS_MAX ||
	    note.stack_stride > ADDRESS_MAX / NOTE_CPUS_MAX ||
	    note.stack_stride * note.max_cpus > note.stack_top || (note.cr3 & 0xfff))
		return err_set(err, -EINVAL, "bare guest: its note has impossible values");
	elf->bare = true;
	elf->note = (struct elf_bare){
		.max_cpus = note.max_cpus,
		.cr3 = note.cr3,
		.entry = note.entry,
		.stack_top = note.stack_top,
		.stack_stride = note.stack_stride,
		.config = note.config,
		.stats = note.stats,
	};
	return 0;
}

/* Notes follow one another, name and descriptor padded to four bytes each. */
static int read_notes(struct elf *elf, const uint8_t *data, uint64_t len, struct err *err)
{
	while (len >= sizeof(Elf64_Nhdr)) {
		Elf64_Nhdr note;
		uint64_t name, desc;

		memcpy(&note, data, sizeof(note));
		data += sizeof(note);
		len -= sizeof(note);
		name = (note.n_namesz + 3ull) & ~3ull;
		desc = (note.n_descsz + 3ull) & ~3ull;
		/* The last one may lack its padding. */
		if (name > len || note.n_descsz > len - name)
			return err_set(err, -EINVAL, "ELF: a note lies outside its segment");
		if (note.n_type == NOTE_TYPE && note.n_namesz == sizeof(NOTE_NAME) &&
		    !memcmp(data, NOTE_NAME, sizeof(NOTE_NAME)))
			return read_bare(elf, data + name, note.n_descsz, err);
		if (desc > len - name)
			return 0;
		data += name + desc;
		len -= name + desc;
	}
	return 0;
}

static int elf_compare(const void *a, const void *b)
{
	const struct elf_segment *x = a, *y = b;

	return x->gpa < y->gpa ? -1 : x->gpa > y->gpa;
}

static bool is_loaded(const struct elf *elf, uint64_t gpa)
{
	unsigned int i;

	for (i = 0; i < elf->segments; i++)
		if (gpa >= elf->segment[i].gpa &&
		    gpa - elf->segment[i].gpa < elf->segment[i].mem_bytes)
			return true;
	return false;
}

static int elf_check(struct elf *elf, struct err *err)
{
	unsigned int i;

	if (!elf->segments)
		return err_set(err, -EINVAL, "ELF: nothing to load");
	qsort(elf->segment, elf->segments, sizeof(elf->segment[0]), elf_compare);
	for (i = 1; i < elf->segments; i++)
		if (elf->segment[i].gpa - elf->segment[i - 1].gpa < elf->segment[i - 1].mem_bytes)
			return err_set(err, -EINVAL, "ELF: segments overlap at 0x%llx",
				       (unsigned long long)elf->segment[i].gpa);
	if (!is_loaded(elf, elf->entry))
		return err_set(err, -EINVAL, "ELF: the entry 0x%llx lies outside all segments",
			       (unsigned long long)elf->entry);
	if (elf->bare && (!is_loaded(elf, elf->note.entry) || !is_loaded(elf, elf->note.cr3)))
		return err_set(err, -EINVAL,
			       "bare guest: entry or page table lies outside all segments");
	return 0;
}

/* A segment of notes, which nothing says how to read piece by piece. */
static int read_note_segment(struct elf *elf, const Elf64_Phdr *program, unsigned int index,
			     const struct ram_file *file,
			     struct err *err)
{
	uint8_t *notes;
	int r;

	if (!in_file(program->p_offset, program->p_filesz, file->len))
		return err_set(err, -EINVAL, "truncated: segment %u lies outside the file", index);
	if (program->p_filesz > NOTES_MAX)
		return err_set(err, -EINVAL, "ELF: %llu bytes of notes cannot be",
			       (unsigned long long)program->p_filesz);
	notes = malloc(program->p_filesz + 1);
	if (!notes)
		return err_set(err, -ENOMEM, "no memory for an ELF file's notes");
	r = ram_file_read(file, program->p_offset, notes, program->p_filesz, err);
	if (!r)
		r = read_notes(elf, notes, program->p_filesz, err);
	free(notes);
	return r;
}

int elf_parse(struct elf *elf, const struct ram_file *file, struct err *err)
{
	Elf64_Ehdr header;
	unsigned int i;
	int result;

	memset(elf, 0, sizeof(*elf));
	result = read_header(&header, file, err);
	if (result)
		return result;
	elf->entry = header.e_entry;
	for (i = 0; i < header.e_phnum; i++) {
		Elf64_Phdr program;

		result = ram_file_read(file, header.e_phoff + i * sizeof(program), &program,
				       sizeof(program), err);
		if (!result && program.p_type == PT_LOAD)
			result = read_load(elf, &program, i, file->len, err);
		else if (!result && program.p_type == PT_NOTE)
			result = read_note_segment(elf, &program, i, file, err);
		if (result)
			return result;
	}
	return elf_check(elf, err);
}

uint64_t elf_end(const struct elf *elf)
{
	const struct elf_segment *last = &elf->segment[elf->segments - 1];

	return last->gpa + last->mem_bytes;
}
