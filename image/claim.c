// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * See claim.h. A process is told from a later one with its pid by when it was
 * started; and its pid means something only to who is in the same pid namespace
 * of the same boot, which is what `boot` and `namespace` are compared for.
 */
#include "image/claim.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "image/json.h"
#include "image/name.h"
#include "image/sum.h"

#define FORMAT "postern-claim"

/* ---- this process ---- */

/* A small file of /proc, its last newline gone; "" when it cannot be read. */
static void claim_read_line(const char *path, char *out, size_t room)
{
	FILE *file = fopen(path, "re");

	out[0] = '\0';
	if (!file)
		return;
	if (fgets(out, (int)room, file))
		out[strcspn(out, "\n")] = '\0';
	fclose(file);
}

/*
 * When that process was started; 0: there is none. proc(5): the 22nd field, behind the name's
 * bracket.
 */
static uint64_t start_of(int64_t pid)
{
	char path[64], line[1024], *at;
	int field;

	snprintf(path, sizeof(path), "/proc/%" PRId64 "/stat", pid);
	claim_read_line(path, line, sizeof(line));
	at = strrchr(line, ')');
	for (field = 2; at && field < 22; field++)
		at = strchr(at + 1, ' ');
	return at ? strtoull(at, NULL, 10) : 0;
}

/*
 * Does that very process live? Where processes of other users are hidden
 * (hidepid), kill still tells that there is one; then it is believed.
 */
static bool process_lives(int64_t pid, uint64_t start)
{
	uint64_t now;

	if (kill((pid_t)pid, 0) && errno == ESRCH)
		return false;
	now = start_of(pid);
	return !now || now == start;
}

static void read_namespace(char *out, size_t room)
{
	ssize_t n = readlink("/proc/self/ns/pid", out, room - 1);

	out[n > 0 ? n : 0] = '\0';
}

static void claim_of_self(struct claim *claim, const struct image_id *id,
			  const struct manifest_image *parent)
{
	memset(claim, 0, sizeof(*claim));
	claim->id = *id;
	if (gethostname(claim->node, sizeof(claim->node) - 1))
		strcpy(claim->node, "?");
	claim_read_line("/proc/sys/kernel/random/boot_id", claim->boot, sizeof(claim->boot));
	read_namespace(claim->namespace, sizeof(claim->namespace));
	claim->pid = getpid();
	claim->start = start_of(claim->pid);
	claim->time_s = time(NULL);
	claim->has_parent = parent != NULL;
	if (parent)
		claim->parent = *parent;
}

bool claim_is_dead(const struct claim *claim, int64_t now_s, int64_t dead_after_s)
{
	char boot[64], namespace[64];

	claim_read_line("/proc/sys/kernel/random/boot_id", boot, sizeof(boot));
	read_namespace(namespace, sizeof(namespace));
	if (boot[0] && namespace[0] && !strcmp(boot, claim->boot) &&
	    !strcmp(namespace, claim->namespace) && !process_lives(claim->pid, claim->start))
		return true;
	return dead_after_s > 0 && now_s - claim->time_s > dead_after_s;
}

/* ---- as text ---- */

static json_t *claim_image(const struct manifest_image *image)
{
	char id[IMAGE_ID_TEXT];

	image_id_format(&image->id, id);
	return json_pack("{s:s, s:s}", "name", image->name, "id", id);
}

static char *claim_format(const struct claim *claim)
{
	char id[IMAGE_ID_TEXT], *text;
	json_t *top;

	image_id_format(&claim->id, id);
	top = json_pack("{s:s, s:i, s:s, s:s, s:s, s:s, s:I, s:I, s:I}", "format", FORMAT,
			"version", 1, "id", id, "node", claim->node, "boot", claim->boot,
			"namespace", claim->namespace, "pid", (json_int_t)claim->pid, "start",
			(json_int_t)claim->start, "time", (json_int_t)claim->time_s);
	if (top && claim->has_parent)
		json_object_set_new(top, "parent", claim_image(&claim->parent));
	text = top ? json_dumps(top, JSON_COMPACT) : NULL;
	json_decref(top);
	return text;
}

int claim_parse(struct claim *claim, const void *json, size_t len, const char *where,
		struct err *err)
{
	struct json_reading reading = { where, err, 0 };
	json_t *top = json_loadb(json, len, JSON_REJECT_DUPLICATES, NULL);
	const json_t *parent = json_object_get(top, "parent");

	memset(claim, 0, sizeof(*claim));
	json_read_format(&reading, top, FORMAT);
	json_read_number(&reading, top, "version", 1, 1);
	json_read_hex(&reading, top, "id", claim->id.bytes, IMAGE_ID_BYTES);
	json_read_text(&reading, top, "node", claim->node, sizeof(claim->node));
	json_read_text(&reading, top, "boot", claim->boot, sizeof(claim->boot));
	json_read_text(&reading, top, "namespace", claim->namespace, sizeof(claim->namespace));
	claim->pid = (int64_t)json_read_number(&reading, top, "pid", 1, INT32_MAX);
	claim->start = json_read_number(&reading, top, "start", 0, INT64_MAX);
	claim->time_s = (int64_t)json_read_number(&reading, top, "time", 0, INT64_MAX);
	claim->has_parent = parent != NULL;
	if (parent)
		json_read_image(&reading, parent, &claim->parent);
	json_decref(top);
	return reading.error;
}

/* ---- in the store ---- */

int claim_read(struct store *store, struct store_scope *scope, const char *image,
	       struct claim *claim, struct err *err)
{
	char object[NAME_ROOM];
	struct buf text = { 0 };
	int64_t n;
	int r;

	image_name_plain(object, image, "saving");
	n = store_get_all(store, scope, object, CLAIM_BYTES_MAX, &text, err);
	if (n == -EFBIG)
		n = err_set(err, -EBADMSG, "%s: no claim: too long", object);
	r = n < 0 ? (int)n : claim_parse(claim, text.data, text.len, object, err);
	buf_fini(&text);
	return r;
}

/* Somebody else's. 0: it was a dead one's and is gone. */
static int claim_clear(struct store *store, struct store_scope *scope, const char *image,
		       struct err *err)
{
	struct claim claim;
	char object[NAME_ROOM], when[32] = "?";
	struct tm tm;
	time_t since;
	int r = claim_read(store, scope, image, &claim, err);

	if (r == -ENOENT)
		return 0;
	image_name_plain(object, image, "saving");
	if (r == -EBADMSG || r == -EPROTO)
		return err_prefix(err, -EBUSY,
				  "image %s is claimed by a saver; remove the claim "
				  "(object %s) if none is alive",
				  image, object);
	if (r)
		return r;
	if (claim_is_dead(&claim, 0, 0))
		return store_delete(store, scope, object, err);
	since = (time_t)claim.time_s;
	if (gmtime_r(&since, &tm))
		strftime(when, sizeof(when), "%Y-%m-%d %H:%M:%S UTC", &tm);
	return err_set(err, -EBUSY,
		       "image %s is being saved by process %" PRId64 " of host %s "
		       "since %s; if that one is dead, gc with an age for claims removes what it "
		       "left",
		       image, claim.pid, claim.node, when);
}

int claim_take(struct store *store, struct store_scope *scope, const char *image,
	       const struct image_id *id, const struct manifest_image *parent, struct err *err)
{
	char object[NAME_ROOM];
	struct claim claim;
	int tries = 3, r;
	char *text;
	int64_t n;

	claim_of_self(&claim, id, parent);
	text = claim_format(&claim);
	if (!text)
		return err_set(err, -ENOMEM, "image %s: no memory", image);
	image_name_plain(object, image, "saving");
	do {
		n = store_put(store, scope, object, text, strlen(text), STORE_NEW, err);
		/* A layer may have repeated a PUT that had been done. */
		if (n == -EEXIST && !claim_check(store, scope, image, id, NULL))
			n = 0;
		if (n != -EEXIST)
			break;
		r = claim_clear(store, scope, image, err);
		n = r ? r : -EEXIST;
	} while (n == -EEXIST && --tries);
	free(text);
	if (n == -EEXIST)
		return err_set(err, -EBUSY, "image %s: others claim it and give it up all the time",
			       image);
	return n < 0 ? (int)n : 0;
}

int claim_check(struct store *store, struct store_scope *scope, const char *image,
		const struct image_id *id, struct err *err)
{
	struct claim claim;
	int r = claim_read(store, scope, image, &claim, err);

	if (r && r != -ENOENT && r != -EBADMSG && r != -EPROTO)
		return r;
	if (!r && !memcmp(&claim.id, id, sizeof(*id)))
		return 0;
	return err_set(err, -ESTALE,
		       "image %s: this saver's claim is gone: it was taken for dead; "
		       "save again",
		       image);
}

int claim_drop(struct store *store, struct store_scope *scope, const char *image,
	       const struct image_id *id, struct err *err)
{
	char object[NAME_ROOM];
	int r = claim_check(store, scope, image, id, err);

	if (r == -ESTALE)
		return 0;
	image_name_plain(object, image, "saving");
	return r ? r : store_delete(store, scope, object, err);
}
