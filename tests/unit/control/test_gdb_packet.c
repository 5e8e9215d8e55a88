// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// The framing of gdb's protocol: every event and every error, however the bytes are cut.
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "control/gdb_packet.h"

/* What was heard: "<payload>", "+", "-", "C" interrupt, "!" bad, "L" too long. */
static void feed(struct gdb_packet *packet, const char *data, size_t len, char *heard, size_t *n)
{
	enum gdb_packet_event event;
	size_t used;

	while (len) {
		event = gdb_packet_feed(packet, (const uint8_t *)data, len, &used);
		assert_true(used > 0 && used <= len);
		data += used;
		len -= used;
		if (event == GDB_GOT_PACKET) {
			assert_int_equal(packet->data[packet->len], 0);
			heard[(*n)++] = '<';
			memcpy(heard + *n, packet->data, packet->len);
			*n += packet->len;
			heard[(*n)++] = '>';
		} else if (event != GDB_GOT_NOTHING) {
			heard[(*n)++] = " .+-C!L"[event];
		} else {
			assert_int_equal(len, 0);
		}
	}
	heard[*n] = '\0';
}

static void expect(const char *input, size_t len, const char *wanted, size_t wanted_len)
{
	size_t split, n;
	char heard[1024];

	for (split = 0; split <= len; split++) {
		struct gdb_packet packet = { 0 };

		n = 0;
		feed(&packet, input, split, heard, &n);
		feed(&packet, input + split, len - split, heard, &n);
		assert_int_equal(n, wanted_len);
		assert_memory_equal(heard, wanted, n);
	}
}

#define EXPECT(input, wanted) expect(input, sizeof(input) - 1, wanted, sizeof(wanted) - 1)

static void test_packets(void **state)
{
	(void)state;
	EXPECT("$g#67", "<g>");
	EXPECT("$#00", "<>");
	EXPECT("+$g#67+$?#3F", "+<g>+<?>");
	EXPECT("-", "-");
	EXPECT("\x03", "C");
	/* Inside a packet it is data. */
	EXPECT("$\x03#03", "<\x03>");
	EXPECT("junk$g#67junk", "<g>");
}

static void test_escapes(void **state)
{
	(void)state;
	/* 0x7d 0x03 is '#', 0x7d 0x04 '$', 0x7d 0x5d '}'. */
	EXPECT("$}\x03#80", "<#>");
	EXPECT("$X}\x04}\x5d" "a#14", "<X$}a>");
	EXPECT("$a\0b#c3", "<a\0b>");
}

static void test_errors(void **state)
{
	(void)state;
	EXPECT("$g#68", "!");
	EXPECT("$g#6x", "!");
	EXPECT("$g#x7", "!");
	EXPECT("$g#$$", "!");
	/* An escape that the end cuts short, its sum right. */
	EXPECT("$}#7d", "!");
	EXPECT("$g#68$g#67", "!<g>");
	/* The first packet was lost half-way. */
	EXPECT("$abc$g#67", "<g>");
	EXPECT("$a}$g#67", "<g>");
}

static void test_length(void **state)
{
	char *input = malloc(GDB_PACKET_MAX + 10);
	struct gdb_packet *packet = calloc(1, sizeof(*packet));
	size_t used;

	(void)state;
	assert_true(input && packet);
	input[0] = '$';
	memset(input + 1, '\x40', GDB_PACKET_MAX);
	memcpy(input + 1 + GDB_PACKET_MAX, "#00", 3);
	assert_int_equal(gdb_packet_feed(packet, (uint8_t *)input, GDB_PACKET_MAX + 4, &used),
			 GDB_GOT_PACKET);
	assert_int_equal(packet->len, GDB_PACKET_MAX);
	memcpy(input + 1 + GDB_PACKET_MAX, "@#40", 4);
	assert_int_equal(gdb_packet_feed(packet, (uint8_t *)input, GDB_PACKET_MAX + 5, &used),
			 GDB_GOT_TOO_LONG);
	/* Too long and damaged: damaged comes first, it may be short when it comes again. */
	memcpy(input + 1 + GDB_PACKET_MAX, "@#41", 4);
	assert_int_equal(gdb_packet_feed(packet, (uint8_t *)input, GDB_PACKET_MAX + 5, &used),
			 GDB_GOT_BAD);
	assert_int_equal(gdb_packet_feed(packet, (const uint8_t *)"$g#67", 5, &used),
			 GDB_GOT_PACKET);
	free(input);
	free(packet);
}

/* What is framed comes back, for every byte value. */
static void test_frame(void **state)
{
	struct gdb_packet *packet = calloc(1, sizeof(*packet));
	struct buf out = { 0 };
	uint8_t payload[256];
	size_t used, i;

	(void)state;
	assert_non_null(packet);
	for (i = 0; i < sizeof(payload); i++)
		payload[i] = (uint8_t)i;
	assert_int_equal(gdb_packet_frame(&out, payload, sizeof(payload)), 0);
	assert_int_equal(gdb_packet_feed(packet, out.data, out.len, &used), GDB_GOT_PACKET);
	assert_int_equal(used, out.len);
	assert_int_equal(packet->len, sizeof(payload));
	assert_memory_equal(packet->data, payload, sizeof(payload));
	out.len = 0;
	assert_int_equal(gdb_packet_frame(&out, "OK", 2), 0);
	assert_int_equal(out.len, 6);
	assert_memory_equal(out.data, "$OK#9a", 6);
	buf_fini(&out);
	free(packet);
}

static void test_hex(void **state)
{
	const char *text = "12ab,0";
	struct buf out = { 0 };
	uint8_t data[2] = { 0 };
	uint64_t value;

	(void)state;
	assert_true(gdb_hex_number_to(&text, &value, ','));
	assert_int_equal(value, 0x12ab);
	assert_true(gdb_hex_number_to(&text, &value, '\0'));
	assert_int_equal(value, 0);
	text = "ffffffffffffffff";
	assert_true(gdb_hex_number(&text, &value) && value == UINT64_MAX);
	text = "10000000000000000";
	assert_false(gdb_hex_number(&text, &value));
	text = "";
	assert_false(gdb_hex_number(&text, &value));
	text = "12";
	assert_false(gdb_hex_number_to(&text, &value, ','));
	assert_true(gdb_hex_decode("0aFf", data, 2));
	assert_int_equal(data[0], 0x0a);
	assert_int_equal(data[1], 0xff);
	assert_false(gdb_hex_decode("0aFf0", data, 2));
	assert_false(gdb_hex_decode("0aF", data, 2));
	assert_false(gdb_hex_decode("0ag0", data, 2));
	assert_int_equal(gdb_hex_append(&out, data, 2), 0);
	assert_memory_equal(out.data, "0aff", 4);
	buf_fini(&out);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_packets), cmocka_unit_test(test_escapes),
		cmocka_unit_test(test_errors),	cmocka_unit_test(test_length),
		cmocka_unit_test(test_frame),	cmocka_unit_test(test_hex),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
