// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * What the manifest of an encrypted image has beyond others': it names the image
 * and the key, says the machine's options sealed, and is signed. The signature
 * stands before the checksum, so that whoever has no key can tell damage all the
 * same.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "image/manifest_internal.h"
#include "image/name.h"
#include "image/seal.h"
#include "image/sum.h"

#define SIGNATURE_KEY ",\"hmac-sha-256\":\""
#define SIGNATURE_TEXT (2 * SEAL_SIGNATURE_BYTES)
/* With the quotation mark behind it. */
#define SIGNATURE_MEMBER (sizeof(SIGNATURE_KEY) - 1 + SIGNATURE_TEXT + 1)

_Static_assert(sizeof(((struct manifest *)NULL)->signature) == SEAL_SIGNATURE_BYTES &&
		       sizeof(((struct manifest *)NULL)->key_id) == IMAGE_KEY_ID_BYTES,
	       "a manifest has room for both");

static const struct seal_whole sealed_options = { .part = SEAL_OPTIONS };

/* ---- reading ---- */

static void sealed_read_options(struct json_reading *reading, const json_t *top,
				struct manifest *manifest)
{
	const json_t *value = json_object_get(top, "sealed-options");
	const char *text = json_string_value(value);
	size_t len = text ? strlen(text) / 2 : 0;

	if (!value || reading->error)
		return;
	if (len <= SEAL_TAG_BYTES || len > MANIFEST_OPTIONS_MAX + SEAL_TAG_BYTES) {
		json_refuse(reading, -EBADMSG, "\"sealed-options\" cannot be so long");
		return;
	}
	manifest->sealed_options = malloc(len);
	manifest->sealed_bytes = len;
	if (!manifest->sealed_options)
		json_refuse(reading, -ENOMEM, "no memory");
	else if (sum_parse_hex(manifest->sealed_options, len, text))
		json_refuse(reading, -EBADMSG, "\"sealed-options\" are not hexadecimal digits");
}

/* It is where it has to be: the last member but the checksum. */
static void sealed_read_signature(struct json_reading *reading, struct manifest *manifest,
				  const char *text, size_t len)
{
	const char *at = text + len - SIGNATURE_MEMBER;
	char hex[SIGNATURE_TEXT + 1];

	if (reading->error)
		return;
	if (len <= SIGNATURE_MEMBER || memcmp(at, SIGNATURE_KEY, strlen(SIGNATURE_KEY)) ||
	    text[len - 1] != '"') {
		json_refuse(reading, -EBADMSG, "it is encrypted and not signed");
		return;
	}
	memcpy(hex, at + strlen(SIGNATURE_KEY), SIGNATURE_TEXT);
	hex[SIGNATURE_TEXT] = '\0';
	if (sum_parse_hex(manifest->signature, SEAL_SIGNATURE_BYTES, hex))
		json_refuse(reading, -EBADMSG, "\"hmac-sha-256\" is not %d hexadecimal digits",
			    SIGNATURE_TEXT);
	manifest->signed_bytes = len - SIGNATURE_MEMBER;
}

void manifest_read_sealed(struct json_reading *reading, const json_t *top,
			  struct manifest *manifest, const char *text, size_t len)
{
	struct err err;

	json_read_text(reading, top, "name", manifest->name, sizeof(manifest->name));
	if (!reading->error && image_name_check(manifest->name, &err))
		json_refuse(reading, -EBADMSG, "%s", err.text);
	json_read_hex(reading, top, "key-id", manifest->key_id, sizeof(manifest->key_id));
	sealed_read_options(reading, top, manifest);
	if (!reading->error && manifest->machine.options)
		json_refuse(reading, -EBADMSG, "it is encrypted, and its \"options\" are not");
	sealed_read_signature(reading, manifest, text, len);
}

static int sealed_open_options(struct manifest *manifest, struct seal *seal, const char *where,
			       struct err *err)
{
	struct json_reading reading = { where, err, 0 };
	size_t len = manifest->sealed_bytes - SEAL_TAG_BYTES;
	char *text = malloc(manifest->sealed_bytes);
	json_t *value;
	int r = -ENOMEM;

	if (text)
		r = seal_open_whole(seal, &sealed_options, manifest->sealed_options, len, text);
	if (r) {
		free(text);
		return err_set(err, r, "%s: %s", where,
			       r == -ENOMEM ? "no memory" : "its options cannot be opened");
	}
	value = json_loadb(text, len, JSON_REJECT_DUPLICATES, NULL);
	explicit_bzero(text, len);
	free(text);
	if (!value)
		json_refuse(&reading, -EBADMSG, "its options are no JSON");
	manifest_read_options(&reading, value, &manifest->machine);
	json_decref(value);
	return reading.error;
}

int manifest_unseal(struct manifest *manifest, struct seal *seal, const void *text,
		    const char *where, struct err *err)
{
	if (!seal_is_signed(seal, text, manifest->signed_bytes, manifest->signature))
		return err_set(err, -EBADMSG,
			       "%s: its signature is wrong: it is damaged, or was altered by "
			       "somebody who does not have the key",
			       where);
	return manifest->sealed_options ? sealed_open_options(manifest, seal, where, err) : 0;
}

/* ---- writing ---- */

static json_t *sealed_hex(const uint8_t *bytes, size_t n)
{
	char *text = malloc(2 * n + 1);
	json_t *value = NULL;

	if (text) {
		sum_format_hex(bytes, n, text);
		value = json_string(text);
	}
	free(text);
	return value;
}

static json_t *sealed_format_options(const char *options, struct seal *seal)
{
	json_t *check = json_loads(options, JSON_REJECT_DUPLICATES, NULL), *value = NULL;
	size_t len = strlen(options);
	uint8_t *sealed = malloc(len + SEAL_TAG_BYTES);

	if (sealed && json_is_object(check) &&
	    !seal_whole(seal, &sealed_options, options, len, sealed))
		value = sealed_hex(sealed, len + SEAL_TAG_BYTES);
	json_decref(check);
	free(sealed);
	return value;
}

int manifest_format_sealed(const struct manifest *manifest, struct seal *seal, json_t *top)
{
	const char *options = manifest->machine.options;

	if (json_object_set_new(top, "name", json_string(manifest->name)) ||
	    json_object_set_new(top, "key-id", sealed_hex(seal_key_id(seal), IMAGE_KEY_ID_BYTES)))
		return -1;
	return options ? json_object_set_new(top, "sealed-options",
					     sealed_format_options(options, seal)) :
			 0;
}

int manifest_add_signature(struct buf *out, size_t start, const struct seal *seal)
{
	uint8_t signature[SEAL_SIGNATURE_BYTES];
	char member[SIGNATURE_MEMBER + 1];

	seal_sign(seal, out->data + start, out->len - start, signature);
	strcpy(member, SIGNATURE_KEY);
	sum_format_hex(signature, SEAL_SIGNATURE_BYTES, member + strlen(SIGNATURE_KEY));
	strcat(member, "\"");
	return buf_append(out, member, SIGNATURE_MEMBER);
}
