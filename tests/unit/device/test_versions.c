// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * A device whose state has come to version 2: how it reads what version 1
 * wrote, and what it says to versions that it cannot read. Also what becomes
 * of fields that are missing or unknown.
 */
#include <errno.h>
#include <string.h>

#include "base/proto.h"
#include "fixture.h"
#include "thermometer.pb-c.h"

typedef Postern__Test__ThermometerState State;

#define MILLIDEGREES_MAX 100000u

struct thermometer {
	uint32_t millidegrees;
	bool alarm;
};

static int save(void *dev, struct buf *out, struct err *err)
{
	const struct thermometer *t = dev;
	State msg = POSTERN__TEST__THERMOMETER_STATE__INIT;
	uint8_t *to;

	msg.millidegrees = t->millidegrees;
	msg.alarm = t->alarm;
	to = buf_reserve(out, postern__test__thermometer_state__get_packed_size(&msg));
	if (!to)
		return err_set(err, -ENOMEM, "no memory");
	out->len += postern__test__thermometer_state__pack(&msg, to);
	return 0;
}

static int take(struct thermometer *t, uint64_t millidegrees, bool alarm, struct err *err)
{
	if (millidegrees > MILLIDEGREES_MAX)
		return err_set(err, -EINVAL, "it boils");
	*t = (struct thermometer){ (uint32_t)millidegrees, alarm };
	return 0;
}

static int load(void *dev, const uint8_t *data, size_t len, struct err *err)
{
	State *msg = proto_unpack(&postern__test__thermometer_state__descriptor, data, len,
				  PROTO_FIELDS_MAX, err);
	int r;

	if (!msg)
		return -EINVAL;
	r = take(dev, msg->millidegrees, msg->alarm, err);
	postern__test__thermometer_state__free_unpacked(msg, NULL);
	return r;
}

/* What version 1 meant, in version 2's terms; the rest is shared. */
static int load_previous(void *dev, const uint8_t *data, size_t len, struct err *err)
{
	State *msg = proto_unpack(&postern__test__thermometer_state__descriptor, data, len,
				  PROTO_FIELDS_MAX, err);
	int r;

	if (!msg)
		return -EINVAL;
	r = take(dev, msg->degrees * UINT64_C(1000), msg->alarm, err);
	postern__test__thermometer_state__free_unpacked(msg, NULL);
	return r;
}

static void reset(void *dev)
{
	*(struct thermometer *)dev = (struct thermometer){ 0 };
}

static const struct device_ops ops = {
	.name = "thermometer",
	.version = 2,
	.save = save,
	.load = load,
	.load_previous = load_previous,
	.reset = reset,
};

/* As version 1 wrote it, a literal: 21 degrees; with an alarm. */
#define OF_1 "\x08\x15"
#define OF_1_ALARM "\x08\x15\x18\x01"
/* Version 2: 21500 millidegrees. */
#define OF_2 "\x10\xfc\xa7\x01"

static int load_text(struct thermometer *t, uint32_t version, const char *bytes, size_t len,
		     struct err *err)
{
	const struct device device = { &ops, t };

	return device_load(&device, version, (const uint8_t *)bytes, len, err);
}

#define LOAD(t, version, bytes, err) load_text(t, version, bytes, sizeof(bytes) - 1, err)

static void version_2_reads_version_1(void **state)
{
	struct thermometer t = { 0 };
	struct buf buf = { 0 };
	struct err err;

	(void)state;
	assert_int_equal(LOAD(&t, 1, OF_1, &err), 0);
	assert_int_equal(t.millidegrees, 21000);
	assert_false(t.alarm);
	assert_int_equal(LOAD(&t, 1, OF_1_ALARM, &err), 0);
	assert_true(t.alarm);
	/* What it saves is of its own version, and says the same. */
	assert_int_equal(save(&t, &buf, &err), 0);
	reset(&t);
	assert_int_equal(load_text(&t, ops.version, (char *)buf.data, buf.len, &err), 0);
	assert_int_equal(t.millidegrees, 21000);
	assert_true(t.alarm);
	buf_fini(&buf);
}

static void other_versions_are_refused_by_name(void **state)
{
	struct thermometer t = { 7, true };
	struct err err;

	(void)state;
	assert_int_equal(LOAD(&t, 3, OF_2, &err), -EPROTO);
	assert_string_equal(err.text,
			    "state of device thermometer: version 3, this postern knows 1 and 2: "
			    "a newer one saved it, take one that is as new");
	assert_int_equal(LOAD(&t, 0, OF_2, &err), -EPROTO);
	assert_non_null(strstr(err.text, "state of device thermometer: version 0"));
	/*
	 * And of what is read by version only what can be: the device is named,
	 * and keeps what it had.
	 */
	assert_int_equal(LOAD(&t, 1, "\x08\x65", &err), -EINVAL);
	assert_string_equal(err.text, "state of device thermometer: it boils");
	assert_int_equal(t.millidegrees, 7);
	assert_true(t.alarm);
}

static void version_2_reads_its_own(void **state)
{
	struct thermometer t = { 0, true };
	struct err err;

	(void)state;
	assert_int_equal(LOAD(&t, 2, OF_2, &err), 0);
	assert_int_equal(t.millidegrees, 21500);
	assert_false(t.alarm);
	/* A field that nobody here knows, number 9, is passed over; one that is missing is 0. */
	assert_int_equal(LOAD(&t, 2, OF_2 "\x48\x07", &err), 0);
	assert_int_equal(t.millidegrees, 21500);
	assert_int_equal(LOAD(&t, 2, "", &err), 0);
	assert_int_equal(t.millidegrees, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(version_2_reads_version_1),
		cmocka_unit_test(other_versions_are_refused_by_name),
		cmocka_unit_test(version_2_reads_its_own),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
