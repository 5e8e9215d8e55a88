/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * An image's manifest: enough to say "cannot be restored here, because ..."
 * before anything else is read. JSON, strict: a field that is missing, of
 * another type, out of bounds or twice there is an error that names it; fields
 * that are not known are passed over (docs/image.md). Pure.
 */
#ifndef POSTERN_IMAGE_MANIFEST_H
#define POSTERN_IMAGE_MANIFEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "base/types.h"
#include "memory/memory.h"

#define IMAGE_VERSION 1
#define IMAGE_ID_BYTES 16
#define IMAGE_NAME_MAX 160
#define MANIFEST_BYTES_MAX (1 << 20)
#define MANIFEST_DEVICES_MAX 64
#define MANIFEST_DISKS_MAX 32
#define MANIFEST_OBJECTS_MAX 16
#define MANIFEST_IMAGES_MAX 1024
#define MANIFEST_OPTIONS_MAX 65536

struct image_id {
	uint8_t bytes[IMAGE_ID_BYTES];
};

struct manifest_disk {
	char name[64];		/* of the device */
	char target[256];	/* what it is on, as the user said it */
	uint64_t bytes;
	bool read_only;
};

struct manifest_object {
	char what[32];
	uint64_t bytes;
	uint8_t sum[16];	/* xxh3-128, big-endian (canonical) */
};

/* An image whose packs the index names. */
struct manifest_image {
	char name[IMAGE_NAME_MAX];
	struct image_id id;
};

/* What the machine was. The saver fills it in; all of it is checked when it is read. */
struct manifest_machine {
	char architecture[16];	/* "x86_64", "arm64" */
	char postern[32];	/* the version that saved it, for people */
	char name[64];		/* the machine's, for people; may be empty */
	unsigned int cpus;	/* 1 to 4096 */
	struct memory_range ranges[MEMORY_REGIONS_MAX];
	unsigned int n_ranges;	/* 1 to MEMORY_REGIONS_MAX */
	char devices[MANIFEST_DEVICES_MAX][64];
	unsigned int n_devices;
	struct manifest_disk disks[MANIFEST_DISKS_MAX];
	unsigned int n_disks;
	/*
	 * The saver's own JSON object, at most MANIFEST_OPTIONS_MAX bytes; NULL: none. Read:
	 * owned by the manifest, compact.
	 */
	const char *options;
	/* It was imported: there is no state, and nothing but memory and its ranges counts. */
	bool memory_only;
};

struct manifest {
	uint32_t version;
	struct image_id id;
	bool has_parent;
	/* what it was saved on top of; its packs may still be needed, it itself is not */
	struct manifest_image parent;
	int64_t time_s;			/* since 1970, when the save began */
	struct manifest_machine machine;
	unsigned int span_pages;	/* 16, 32 or 64 */
	char compression[16];		/* "zstd" or "none" */
	char encryption[32]; /* "none" or "aes-256-gcm" */
	bool encrypted;
	/*
	 * Of an encrypted one: the name that it was saved by, the id of its key (key.h), the
	 * machine's options, sealed, or NULL (owned), and the signature, which is of the first
	 * signed_bytes of its text. manifest_unseal looks at them.
	 */
	char name[IMAGE_NAME_MAX];
	uint8_t key_id[16];
	uint8_t *sealed_options;
	size_t sealed_bytes;
	uint8_t signature[32];
	size_t signed_bytes;
	uint64_t data_pages;		/* of this image's index: own and others' */
	uint64_t zero_pages;
	uint64_t absent_pages;
	uint64_t own_bytes;		/* of its own packs */
	struct manifest_object objects[MANIFEST_OBJECTS_MAX];	/* "index" is one */
	unsigned int n_objects;
	/*
	 * [0] is this one itself (its name is not in the manifest: the one it was opened by).
	 * The manifest's own.
	 */
	struct manifest_image *images;
	unsigned int n_images;		/* 1 to MANIFEST_IMAGES_MAX */
};

/*
 * -EBADMSG: it is none, or damaged; -EPROTO: of a version, a compression or an
 * encryption that is not known here; -ENOMEM. where names it in texts.
 */
int manifest_parse(struct manifest *out, const void *json, size_t len, const char *where,
		   struct err *err);
/*
 * Appends it. seal: of an encrypted one, whose name is manifest->name; else NULL.
 * -EINVAL: what manifest_parse would refuse; -ENOMEM.
 */
struct seal;
int manifest_format(const struct manifest *manifest, struct seal *seal, struct buf *out,
		    struct err *err);
/*
 * Of an encrypted one that was parsed out of `text`: is it signed by the seal's key? Then its
 * options are opened. -EBADMSG: it is not, or they cannot be; -ENOMEM.
 */
int manifest_unseal(struct manifest *manifest, struct seal *seal, const void *text,
		    const char *where, struct err *err);
void manifest_fini(struct manifest *manifest);
/* NULL: it has no object called so. */
const struct manifest_object *manifest_find(const struct manifest *manifest, const char *what);
/* Guest frames of all ranges. */
uint64_t manifest_pages(const struct manifest *manifest);

#define IMAGE_ID_TEXT (2 * IMAGE_ID_BYTES + 1)
void image_id_format(const struct image_id *id, char out[IMAGE_ID_TEXT]);

#endif
