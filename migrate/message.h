/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * Messages of the control connection (wire.proto) in and out of bytes. Pure.
 */
#ifndef POSTERN_MIGRATE_MESSAGE_H
#define POSTERN_MIGRATE_MESSAGE_H

#include "base/buf.h"
#include "base/err.h"
#include "machine/boot_files.h"
#include "wire.pb-c.h"

typedef Postern__Wire__Envelope wire_message;
typedef Postern__Wire__Envelope__BodyCase wire_body;
#define WIRE(NAME) POSTERN__WIRE__ENVELOPE__BODY_##NAME

/* "Hello", "State" and so on. */
const char *message_name(wire_body body);

/*
 * Appends the encoded message. `content` is the body's struct, e.g. a Postern__Wire__Run for
 * WIRE(RUN).
 */
int message_pack(struct buf *out, wire_body body, const void *content);
/*
 * NULL: not an Envelope, or one with more in it than there can be; err says what. To be freed
 * with message_free. A body this version does not know is WIRE(_NOT_SET).
 */
wire_message *message_unpack(const uint8_t *data, size_t len, struct err *err);
void message_free(wire_message *message);

/* Hello's boot. An unknown value is BOOT_TYPE__BOOT_UNKNOWN's, and has no boot_type. */
Postern__Wire__BootType boot_type_to_wire(enum boot_type type);
/* False: unknown. */
bool boot_type_from_wire(enum boot_type *type, Postern__Wire__BootType wire);

/*
 * A text of the peer's for a person: at most 300 bytes, what is not printable ASCII becomes
 * '?'. NULL text is "". Returns out.
 */
#define PEER_TEXT_BYTES 301
const char *message_peer_text(char out[PEER_TEXT_BYTES], const char *text);

#endif
