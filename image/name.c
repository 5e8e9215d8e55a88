// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/* See name.h. */
#include "image/name.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "image/sum.h"
#include "store/store.h"

#define PACK "pack-"

void image_id_format(const struct image_id *id, char out[IMAGE_ID_TEXT])
{
	sum_format_hex(id->bytes, IMAGE_ID_BYTES, out);
}

int image_name_check(const char *name, struct err *err)
{
	const char *why = NULL;

	if (!store_name_is_valid(name, &why))
		return err_set(err, -EINVAL, "image \"%.64s\": %s", name, why);
	if (strlen(name) >= IMAGE_NAME_MAX)
		return err_set(err, -EINVAL, "image %.64s...: a name has at most %d characters",
			       name, IMAGE_NAME_MAX - 1);
	return 0;
}

bool image_what_is_valid(const char *what)
{
	size_t len = strspn(what, "abcdefghijklmnopqrstuvwxyz0123456789-");

	return len && !what[len] && len < WHAT_ROOM;
}

void image_name_plain(char out[NAME_ROOM], const char *image, const char *base)
{
	snprintf(out, NAME_ROOM, "%.159s/%.63s", image, base);
}

void image_name_object(char out[NAME_ROOM], const char *image, const char *what,
		       const struct image_id *id)
{
	char text[IMAGE_ID_TEXT];

	image_id_format(id, text);
	snprintf(out, NAME_ROOM, "%.159s/%.31s.%s", image, what, text);
}

void image_name_pack(char out[NAME_ROOM], const char *image, uint32_t number,
		     const struct image_id *id)
{
	char what[WHAT_ROOM];

	snprintf(what, sizeof(what), PACK "%u", number);
	image_name_object(out, image, what, id);
}

/* "pack-7", as it is written here and not otherwise. */
static bool parse_pack(const char *what, uint32_t *number)
{
	char again[WHAT_ROOM];
	unsigned long long value;

	if (strncmp(what, PACK, strlen(PACK)))
		return false;
	value = strtoull(what + strlen(PACK), NULL, 10);
	if (value > UINT32_MAX)
		return false;
	snprintf(again, sizeof(again), PACK "%llu", value);
	*number = (uint32_t)value;
	return !strcmp(again, what);
}

static enum name_kind parse_base(struct name_parts *parts, const char *base)
{
	const char *dot = strrchr(base, '.');

	if (!strcmp(base, "manifest.json"))
		return NAME_MANIFEST;
	if (!strcmp(base, "saving"))
		return NAME_CLAIM;
	if (!strcmp(base, "working-set"))
		return NAME_WORKING_SET;
	if (!dot || (size_t)(dot - base) >= WHAT_ROOM ||
	    sum_parse_hex(parts->id.bytes, IMAGE_ID_BYTES, dot + 1))
		return NAME_FOREIGN;
	memcpy(parts->what, base, (size_t)(dot - base));
	parts->what[dot - base] = '\0';
	if (parse_pack(parts->what, &parts->number))
		return NAME_PACK;
	return image_what_is_valid(parts->what) ? NAME_OBJECT : NAME_FOREIGN;
}

void image_name_parse(struct name_parts *parts, const char *object)
{
	const char *slash = strrchr(object, '/');

	memset(parts, 0, sizeof(*parts));
	if (!slash || slash == object || (size_t)(slash - object) >= IMAGE_NAME_MAX)
		return;
	memcpy(parts->image, object, (size_t)(slash - object));
	parts->kind = parse_base(parts, slash + 1);
}
