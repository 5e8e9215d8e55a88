// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * The bytes are walked as protobuf-c will walk them, and nothing is kept of them but counts.
 * What unpacking can cost is then bounded by the counts and by the length: protobuf-c notes
 * each field that it meets (some 32 bytes) and allocates for each element of a repeated field.
 */
#include "base/proto.h"

#include <errno.h>
#include <stdbool.h>

/* In so many bytes protobuf-c reads a tag, or a length. */
#define PREFIX_BYTES_MAX 5

enum wire_type {
	WIRE_TYPE_VARINT = 0,
	WIRE_TYPE_64 = 1,
	WIRE_TYPE_LEN = 2,
	WIRE_TYPE_32 = 5,
};

struct walk {
	const ProtobufCMessageDescriptor *outermost;
	unsigned int fields, fields_max;
	struct err *err;
};

struct bytes {
	const uint8_t *at, *end;
};

static int walk_message(struct walk *walk, const ProtobufCMessageDescriptor *descriptor,
			struct bytes bytes, unsigned int depth);

static int proto_refuse(const struct walk *walk, const char *why)
{
	return err_set(walk->err, -EINVAL, "not a %s message: %s", walk->outermost->short_name,
		       why);
}

static int count_field(struct walk *walk)
{
	if (walk->fields++ < walk->fields_max)
		return 0;
	return err_set(walk->err, -EINVAL, "not a %s message: more than %u fields",
		       walk->outermost->short_name, walk->fields_max);
}

static int take_varint(struct walk *walk, struct bytes *bytes, uint64_t *value)
{
	unsigned int shift;

	*value = 0;
	for (shift = 0; shift < 70; shift += 7) {
		if (bytes->at == bytes->end)
			break;
		*value |= shift < 64 ? (uint64_t)(*bytes->at & 0x7f) << shift : 0;
		if (*bytes->at++ < 0x80)
			return 0;
	}
	return proto_refuse(walk, "a number that does not end");
}

static int take_bytes(struct walk *walk, struct bytes *bytes, uint64_t len, struct bytes *taken)
{
	if (len > (uint64_t)(bytes->end - bytes->at))
		return proto_refuse(walk, "a field that is longer than the message");
	*taken = (struct bytes){ bytes->at, bytes->at + len };
	bytes->at += len;
	return 0;
}

/*
 * The content of a field: of a number what it is encoded as, of all else what stands behind its
 * length.
 */
static int take_content(struct walk *walk, struct bytes *bytes, enum wire_type type,
			struct bytes *content)
{
	const uint8_t *begin = bytes->at;
	uint64_t value;
	int r;

	switch (type) {
	case WIRE_TYPE_VARINT:
		content->at = bytes->at;
		r = take_varint(walk, bytes, &value);
		content->end = bytes->at;
		return r;
	case WIRE_TYPE_64:
		return take_bytes(walk, bytes, 8, content);
	case WIRE_TYPE_LEN:
		r = take_varint(walk, bytes, &value);
		if (!r && bytes->at - begin > PREFIX_BYTES_MAX)
			r = proto_refuse(walk, "a length in more bytes than one has");
		return r < 0 ? r : take_bytes(walk, bytes, value, content);
	case WIRE_TYPE_32:
		return take_bytes(walk, bytes, 4, content);
	default:
		return proto_refuse(walk, "a field of a type that is not used");
	}
}

static enum wire_type declared_type(const ProtobufCFieldDescriptor *field)
{
	switch (field->type) {
	case PROTOBUF_C_TYPE_SFIXED32:
	case PROTOBUF_C_TYPE_FIXED32:
	case PROTOBUF_C_TYPE_FLOAT:
		return WIRE_TYPE_32;
	case PROTOBUF_C_TYPE_SFIXED64:
	case PROTOBUF_C_TYPE_FIXED64:
	case PROTOBUF_C_TYPE_DOUBLE:
		return WIRE_TYPE_64;
	case PROTOBUF_C_TYPE_STRING:
	case PROTOBUF_C_TYPE_BYTES:
	case PROTOBUF_C_TYPE_MESSAGE:
		return WIRE_TYPE_LEN;
	default:
		return WIRE_TYPE_VARINT;
	}
}

/* A repeated number may come in one piece: each element is counted. */
static int walk_packed(struct walk *walk, enum wire_type type, struct bytes content)
{
	struct bytes element;
	int r = 0;

	while (!r && content.at < content.end) {
		r = take_content(walk, &content, type, &element);
		if (!r)
			r = count_field(walk);
	}
	return r;
}

/*
 * What stands for a field among those that may come once: the first choice of its oneof, or
 * itself.
 */
static unsigned int place_of(const ProtobufCMessageDescriptor *descriptor,
			     const ProtobufCFieldDescriptor *field)
{
	unsigned int i, own = (unsigned int)(field - descriptor->fields);

	if (!(field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF))
		return own;
	for (i = 0; i < own; i++)
		if (descriptor->fields[i].flags & PROTOBUF_C_FIELD_FLAG_ONEOF &&
		    descriptor->fields[i].quantifier_offset == field->quantifier_offset)
			break;
	return i;
}

static int walk_field(struct walk *walk, const ProtobufCFieldDescriptor *field, enum wire_type type,
		      struct bytes content, unsigned int depth)
{
	enum wire_type declared = declared_type(field);

	if (type != declared && type == WIRE_TYPE_LEN && field->label == PROTOBUF_C_LABEL_REPEATED)
		return walk_packed(walk, declared, content);
	if (type != declared)
		return proto_refuse(walk, "a field of another type than its own");
	if (field->type != PROTOBUF_C_TYPE_MESSAGE)
		return 0;
	if (depth == PROTO_DEPTH_MAX)
		return proto_refuse(walk, "messages too deep in messages");
	return walk_message(walk, field->descriptor, content, depth + 1);
}

/*
 * What begins a field: its number and how it is encoded; protobuf-c reads five
 * bytes of it at most.
 */
static int take_tag(struct walk *walk, struct bytes *bytes, uint64_t *tag)
{
	const uint8_t *begin = bytes->at;
	int r = take_varint(walk, bytes, tag);

	if (!r && (bytes->at - begin > PREFIX_BYTES_MAX || *tag > UINT32_MAX || !(*tag >> 3)))
		r = proto_refuse(walk, "a field without a number");
	return r;
}

static int walk_message(struct walk *walk, const ProtobufCMessageDescriptor *descriptor,
			struct bytes bytes, unsigned int depth)
{
	uint64_t seen = 0;
	int r = 0;

	if (descriptor->n_fields > 64)
		return proto_refuse(walk, "it has more fields than can be checked");
	while (!r && bytes.at < bytes.end) {
		const ProtobufCFieldDescriptor *field;
		struct bytes content;
		uint64_t tag, bit;

		r = take_tag(walk, &bytes, &tag);
		if (!r)
			r = take_content(walk, &bytes, (enum wire_type)(tag & 7), &content);
		if (!r)
			r = count_field(walk);
		if (r)
			return r;
		field = protobuf_c_message_descriptor_get_field(descriptor,
								(unsigned int)(tag >> 3));
		if (!field)
			continue;
		bit = UINT64_C(1) << place_of(descriptor, field);
		if (field->label != PROTOBUF_C_LABEL_REPEATED && seen & bit &&
		    (field->type == PROTOBUF_C_TYPE_MESSAGE ||
		     field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF))
			return proto_refuse(walk, "a part that comes twice");
		seen |= bit;
		r = walk_field(walk, field, (enum wire_type)(tag & 7), content, depth);
	}
	return r;
}

int proto_check(const ProtobufCMessageDescriptor *descriptor, const void *data, size_t len,
		unsigned int fields_max, struct err *err)
{
	struct walk walk = { .outermost = descriptor, .fields_max = fields_max, .err = err };
	const uint8_t *at = data;

	/* Of nothing there may be no address. */
	return len ? walk_message(&walk, descriptor, (struct bytes){ at, at + len }, 0) : 0;
}

void *proto_unpack(const ProtobufCMessageDescriptor *descriptor, const void *data, size_t len,
		   unsigned int fields_max, struct err *err)
{
	ProtobufCMessage *message;

	if (proto_check(descriptor, data, len, fields_max, err) < 0)
		return NULL;
	message = protobuf_c_message_unpack(descriptor, NULL, len, data);
	if (!message)
		err_set(err, -EINVAL, "not a %s message of %zu bytes, or no memory for it",
			descriptor->short_name, len);
	return message;
}
