// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * The stream, big-endian: magic and version; the configuration (the machine
 * type, and subsections with the capabilities that matter and the like); then
 * the section "ram". That begins with the length of all RAM, and after each
 * block's name and length stands where its bitmap and its pages are. The stream
 * goes on behind the block's pages.
 */
#include "snapshot/mapped_ram.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define MAGIC 0x5145564du /* "QEVM" */
#define VERSION 3u
#define SECTION_START 1u
#define SUBSECTION 5u
#define CONFIGURATION 7u
#define MACHINE_BYTES_MAX 4096u
#define CAPABILITIES_MAX 64u
#define FLAG_MEM_SIZE 4u
#define HEADER_VERSION 1u
#define BLOCK_BYTES_MAX (UINT64_C(1) << 52)

struct stream {
	const struct mapped_ram_input *input;
	uint64_t at;
	bool ignores_shared; /* each block has an address more */
	int error;
	struct err *err;
};

static void stream_refuse(struct stream *s, int code, const char *why)
{
	if (!s->error)
		s->error = err_set(s->err, code, "at %" PRIu64 ": %s", s->at, why);
}

static void stream_bytes(struct stream *s, void *data, size_t len)
{
	memset(data, 0, len);
	if (s->error)
		return;
	if (s->at > s->input->bytes || len > s->input->bytes - s->at) {
		stream_refuse(s, -EBADMSG, "the file ends here");
		return;
	}
	s->error = s->input->read(s->input->arg, s->at, data, len, s->err);
	s->at += len;
}

static uint64_t stream_number(struct stream *s, size_t len)
{
	uint8_t data[8];
	uint64_t value = 0;
	size_t i;

	stream_bytes(s, data, len);
	for (i = 0; i < len; i++)
		value = value << 8 | data[i];
	return value;
}

static void stream_skip(struct stream *s, uint64_t len)
{
	if (s->error)
		return;
	if (s->at > s->input->bytes || len > s->input->bytes - s->at)
		stream_refuse(s, -EBADMSG, "the file ends within what begins here");
	else
		s->at += len;
}

/* A length in a byte, and a name. */
static void stream_name(struct stream *s, char name[256])
{
	size_t len = stream_number(s, 1), i;

	stream_bytes(s, name, len);
	name[len] = '\0';
	for (i = 0; i < len; i++)
		if (name[i] <= ' ' || name[i] > '~')
			stream_refuse(s, -EBADMSG, "a name that is none");
}

static uint8_t stream_peek(struct stream *s)
{
	uint64_t at = s->at;
	uint8_t value = (uint8_t)stream_number(s, 1);

	s->at = at;
	return value;
}

/* ---- the configuration ---- */

static void read_capabilities(struct stream *s)
{
	uint64_t n = stream_number(s, 4), i;
	bool mapped = false;
	char name[256];

	if (n > CAPABILITIES_MAX)
		stream_refuse(s, -EBADMSG, "too many capabilities");
	for (i = 0; i < n && !s->error; i++) {
		stream_name(s, name);
		mapped |= !strcmp(name, "mapped-ram");
		s->ignores_shared |= !strcmp(name, "x-ignore-shared");
	}
	if (!mapped)
		stream_refuse(s, -EBADMSG,
			      "a migration without the capability mapped-ram: its pages have no "
			      "place of their own");
}

/* 1: it had the capabilities. */
static bool read_subsection(struct stream *s)
{
	char name[256];

	stream_skip(s, 1);
	stream_name(s, name);
	stream_skip(s, 4);
	if (!strcmp(name, "configuration/capabilities")) {
		read_capabilities(s);
		return true;
	}
	if (!strcmp(name, "configuration/target-page-bits")) {
		if (stream_number(s, 4) != PAGE_SHIFT)
			stream_refuse(s, -EPROTO, "pages of other than 4 KiB");
	} else if (!strcmp(name, "configuration/uuid")) {
		stream_skip(s, 16);
	} else {
		stream_refuse(s, -EPROTO, "a part of the configuration that is not known here");
	}
	return false;
}

static void read_configuration(struct stream *s)
{
	bool capabilities = false;
	uint64_t len;

	if (stream_number(s, 4) != MAGIC)
		stream_refuse(s, -EBADMSG, "no migration of QEMU's begins here");
	if (stream_number(s, 4) != VERSION)
		stream_refuse(s, -EPROTO, "a migration stream of another version than 3");
	if (stream_number(s, 1) != CONFIGURATION)
		stream_refuse(s, -EBADMSG, "the configuration is missing");
	len = stream_number(s, 4);
	if (len > MACHINE_BYTES_MAX)
		stream_refuse(s, -EBADMSG, "a machine type that is too long");
	stream_skip(s, len);
	while (!s->error && stream_peek(s) == SUBSECTION)
		capabilities |= read_subsection(s);
	if (!capabilities)
		stream_refuse(s, -EBADMSG, "it does not say that it has the capability mapped-ram");
}

/* ---- the section "ram" ---- */

/* Is all of the bitmap in the file, and can each page have a place? */
static void check_block(struct stream *s, const struct mapped_ram_block *block)
{
	uint64_t bitmap = mapped_ram_bitmap_bytes(block);

	if (block->bitmap_offset > s->input->bytes ||
	    bitmap > s->input->bytes - block->bitmap_offset)
		stream_refuse(s, -EBADMSG, "a bitmap that is not all in the file");
	if (block->pages_offset > INT64_MAX - BLOCK_BYTES_MAX || block->pages_offset < s->at)
		stream_refuse(s, -EBADMSG, "pages where they cannot be");
	if (block->bitmap_offset < block->pages_offset + block->bytes &&
	    block->pages_offset < block->bitmap_offset + bitmap)
		stream_refuse(s, -EBADMSG, "pages over the bitmap");
}

static void read_block(struct stream *s, struct mapped_ram *ram, uint64_t *left)
{
	struct mapped_ram_block *block = &ram->blocks[ram->n];

	if (ram->n == MAPPED_RAM_BLOCKS_MAX) {
		stream_refuse(s, -EBADMSG, "too many RAM blocks");
		return;
	}
	stream_name(s, block->name);
	block->bytes = stream_number(s, 8);
	if (!block->bytes || block->bytes > *left)
		stream_refuse(s, -EBADMSG, "RAM blocks that are not as long as all RAM");
	if (s->ignores_shared)
		stream_skip(s, 8);
	if (stream_number(s, 4) != HEADER_VERSION)
		stream_refuse(s, -EPROTO, "a mapped-ram header of another version than 1");
	if (stream_number(s, 8) != PAGE_BYTES || block->bytes % PAGE_BYTES)
		stream_refuse(s, -EPROTO, "pages of other than 4 KiB");
	block->bitmap_offset = stream_number(s, 8);
	block->pages_offset = stream_number(s, 8);
	if (s->error)
		return;
	*left -= block->bytes;
	/* RAM that was left out, since it is shared: not to be found here. */
	if (s->ignores_shared && !block->bitmap_offset && !block->pages_offset)
		return;
	check_block(s, block);
	s->at = block->pages_offset + block->bytes;
	ram->n++;
}

static void read_ram(struct stream *s, struct mapped_ram *ram)
{
	char name[256];
	uint64_t left;

	if (stream_number(s, 1) != SECTION_START)
		stream_refuse(s, -EBADMSG, "no section begins here");
	stream_skip(s, 4);
	stream_name(s, name);
	if (strcmp(name, "ram"))
		stream_refuse(s, -EPROTO, "another section than \"ram\" is the first");
	stream_skip(s, 4);
	if (stream_number(s, 4) != 4)
		stream_refuse(s, -EPROTO, "section \"ram\" of another version than 4");
	left = stream_number(s, 8);
	if ((left & (PAGE_BYTES - 1)) != FLAG_MEM_SIZE)
		stream_refuse(s, -EBADMSG, "the length of all RAM is missing");
	left &= ~(uint64_t)(PAGE_BYTES - 1);
	if (!left || left > BLOCK_BYTES_MAX)
		stream_refuse(s, -EBADMSG, "more RAM than there can be, or none");
	while (!s->error && left)
		read_block(s, ram, &left);
	if (!s->error && !ram->n)
		stream_refuse(s, -EBADMSG, "all RAM was left out of it (x-ignore-shared)");
}

int mapped_ram_parse(struct mapped_ram *ram, const struct mapped_ram_input *input, uint64_t start,
		     struct err *err)
{
	struct stream s = { .input = input, .at = start, .err = err };

	memset(ram, 0, sizeof(*ram));
	read_configuration(&s);
	read_ram(&s, ram);
	return s.error;
}
