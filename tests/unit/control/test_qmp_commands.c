// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * What QMP's commands do, say and refuse.
 */
#include "control/qmp_args.h"
#include "qmp_session.h"

static void test_block(void **state)
{
	const struct device_event events[] = {
		{ .type = DEVICE_EVENT_DISK_AWAY, .device = "disk0", .reason = "gone", .requests = 2 },
		{ .type = DEVICE_EVENT_DISK_BACK, .device = "disk0" },
		{ .type = DEVICE_EVENT_DISK_ERROR, .device = "disk0", .error = -ENOSPC },
	};
	struct setup *s = *state;
	json_t *disks = ask_return(s, "{\"execute\":\"query-block\"}"),
	       *disk = json_array_get(disks, 0), *inserted, *event;
	unsigned int i;

	assert_int_equal(json_array_size(disks), 1);
	inserted = json_object_get(disk, "inserted");
	assert_string_equal(json_string_value(json_object_get(disk, "device")), "disk0");
	assert_string_equal(json_string_value(json_object_get(disk, "io-status")), "failed");
	assert_string_equal(json_string_value(json_object_get(inserted, "file")), "nbd://host/x");
	assert_string_equal(json_string_value(json_object_get(inserted, "drv")), "raw");
	assert_true(json_is_false(json_object_get(inserted, "ro")));
	assert_int_equal(json_integer_value(json_object_get(json_object_get(inserted, "image"),
							    "virtual-size")),
			 512);
	assert_int_equal(
		json_integer_value(json_object_get(json_object_get(disk, "x-postern"), "requests")),
		3);
	assert_null(json_object_get(json_object_get(disk, "x-postern"), "held"));
	json_decref(disks);
	s->machine->doubt = (struct disk_doubt){ .ms = 4000, .held = 2 };
	disks = ask_return(s, "{\"execute\":\"query-block\"}");
	disk = json_object_get(json_array_get(disks, 0), "x-postern");
	assert_int_equal(json_integer_value(json_object_get(disk, "in-doubt-ms")), 4000);
	assert_int_equal(json_integer_value(json_object_get(disk, "held")), 2);
	json_decref(disks);
	ask_error(s, "{\"execute\":\"postern-disk-fenced\",\"arguments\":{\"device\":\"disk7\"}}",
		  "GenericError", "Device 'disk7' not found");
	json_decref(ask_return(
		s, "{\"execute\":\"postern-disk-fenced\",\"arguments\":{\"device\":\"disk0\"}}"));
	assert_int_equal(s->machine->doubt.ms, 0);
	for (i = 0; i < 3; i++) {
		static const char *const names[] = { "POSTERN_DISK_AWAY", "POSTERN_DISK_BACK",
						     "BLOCK_IO_ERROR" };

		s->machine->observers->device(s->machine->observers->arg, &events[i]);
		event = receive(s);
		assert_string_equal(json_string_value(json_object_get(event, "event")), names[i]);
		if (i == 2)
			assert_true(json_is_true(
				json_object_get(json_object_get(event, "data"), "nospace")));
		json_decref(event);
	}
}

static void test_run_control(void **state)
{
	struct setup *s = *state;

	ask(s, "{\"execute\":\"query-status\"}",
	    "{\"return\":{\"running\":false,\"singlestep\":false,\"status\":\"paused\"}}");
	send_text(s, "{\"execute\":\"cont\"}");
	expect_event(s, "RESUME", "");
	ask(s, "", "{\"return\":{}}");
	ask(s, "{\"execute\":\"cont\"}", "{\"return\":{}}");
	ask(s, "{\"execute\":\"query-status\"}",
	    "{\"return\":{\"running\":true,\"singlestep\":false,\"status\":\"running\"}}");
	send_text(s, "{\"execute\":\"stop\"}");
	expect_event(s, "STOP", "");
	ask(s, "", "{\"return\":{}}");
	ask(s, "{\"execute\":\"stop\"}", "{\"return\":{}}");
	/* A state that must not be left is not left by stop. */
	fake_set_state(s->machine, RUN_STATE_POSTMIGRATE);
	ask(s, "{\"execute\":\"stop\"}", "{\"return\":{}}");
	assert_int_equal(s->machine->state, RUN_STATE_POSTMIGRATE);
	ask_error(s, "{\"execute\":\"cont\"}", "GenericError", "the guest runs elsewhere");
	fake_set_state(s->machine, RUN_STATE_INMIGRATE);
	ask(s, "{\"execute\":\"cont\"}", "{\"return\":{}}");
	assert_true(s->machine->autostart);
	ask(s, "{\"execute\":\"stop\"}", "{\"return\":{}}");
	assert_false(s->machine->autostart);
	send_text(s, "{\"execute\":\"system_reset\"}");
	expect_event(s, "RESET", "{\"guest\":false,\"reason\":\"host-qmp-system-reset\"}");
	ask(s, "", "{\"return\":{}}");
	send_text(s, "{\"execute\":\"system_powerdown\"}");
	expect_event(s, "POWERDOWN", "");
	ask(s, "", "{\"return\":{}}");
}

static void test_balloon(void **state)
{
	struct setup *s = *state;

	ask(s, "{\"execute\":\"query-balloon\"}",
	    "{\"error\":{\"class\":\"DeviceNotActive\",\"desc\":\"No balloon device has been activated\"}}");
	ask(s, "{\"execute\":\"balloon\",\"arguments\":{\"value\":4096}}",
	    "{\"error\":{\"class\":\"DeviceNotActive\",\"desc\":\"No balloon device has been activated\"}}");
	s->machine->balloon = true;
	ask(s, "{\"execute\":\"balloon\",\"arguments\":{\"value\":0}}",
	    "{\"error\":{\"class\":\"GenericError\",\"desc\":\"Parameter 'value' expects a size\"}}");
	send_text(s, "{\"execute\":\"balloon\",\"arguments\":{\"value\":8192}}");
	expect_event(s, "BALLOON_CHANGE", "{\"actual\":8192}");
	ask(s, "", "{\"return\":{}}");
	ask(s, "{\"execute\":\"query-balloon\"}", "{\"return\":{\"actual\":8192}}");
}

static bool has_ended(void *arg)
{
	return ((struct machine *)arg)->ended;
}

/* The reply comes first, then the event; both arrive although the server ends at once. */
static void test_quit(void **state)
{
	struct setup *s = *state;

	send_text(s, "{\"execute\":\"quit\",\"id\":9}");
	fake_pump(s->machine, s->fd, has_ended, s->machine);
	qmp_free(s->qmp);
	s->qmp = NULL;
	ask(s, "", "{\"return\":{},\"id\":9}");
	expect_event(s, "SHUTDOWN", "{\"guest\":false,\"reason\":\"host-qmp-quit\"}");
}

static void test_migration(void **state)
{
	struct setup *s = *state;
	json_t *out;

	ask(s, "{\"execute\":\"migrate\",\"arguments\":{\"uri\":\"tcp:a:1\",\"detach\":true}}",
	    "{\"return\":{}}");
	assert_string_equal(s->migration.last, "outgoing tcp:a:1");
	ask_error(s, "{\"execute\":\"migrate\",\"arguments\":{\"uri\":\"tcp:a:1\",\"blk\":true}}",
		  "GenericError", "migration of disks (blk, inc) is not supported");
	ask(s, "{\"execute\":\"migrate\",\"arguments\":{\"uri\":\"tcp:a:2\",\"resume\":true}}",
	    "{\"return\":{}}");
	assert_string_equal(s->migration.last, "resume tcp:a:2");
	ask(s, "{\"exec-oob\":\"migrate-recover\",\"arguments\":{\"uri\":\"tcp:b:1\"}}",
	    "{\"return\":{}}");
	assert_string_equal(s->migration.last, "recover tcp:b:1");
	ask(s,
	    "{\"execute\":\"migrate\",\"arguments\":{\"uri\":\"tcp:a:3\",\"x-postern-secret-file\":\"/s\"}}",
	    "{\"return\":{}}");
	assert_string_equal(s->migration.last, "outgoing tcp:a:3 with a secret");
	ask(s,
	    "{\"execute\":\"migrate-recover\",\"arguments\":{\"uri\":\"tcp:b:2\",\"x-postern-insecure\":true}}",
	    "{\"return\":{}}");
	assert_string_equal(s->migration.last, "recover tcp:b:2 insecure");
	ask_error(s, "{\"execute\":\"migrate-incoming\",\"arguments\":{\"uri\":\"tcp:b:1\"}}",
		  "GenericError", "'-incoming' was not specified on the command line");
	/* An error's text need not be UTF-8. */
	s->migration.fail = true;
	ask_error(s, "{\"execute\":\"migrate_cancel\"}", "GenericError", "no ? luck");
	s->migration.fail = false;
	ask_error(s, "{\"execute\":\"migrate-start-postcopy\"}", "GenericError",
		  "Start a migration before switching to postcopy");
	s->migration.info.ram_total_bytes = 8192;
	s->migration.info.recoveries = 2;
	fake_migration_status(&s->migration, MIGRATION_POSTCOPY_ACTIVE);
	expect_event(s, "MIGRATION", "{\"status\":\"postcopy-active\"}");
	ask(s, "{\"execute\":\"migrate-start-postcopy\"}", "{\"return\":{}}");
	out = ask_return(s, "{\"execute\":\"query-migrate\"}");
	assert_string_equal(json_string_value(json_object_get(out, "status")), "postcopy-active");
	assert_int_equal(json_integer_value(json_object_get(json_object_get(out, "ram"), "total")),
			 8192);
	assert_int_equal(
		json_integer_value(json_object_get(json_object_get(out, "postern"), "recoveries")),
		2);
	assert_null(json_object_get(out, "error-desc"));
	json_decref(out);
}

static void test_parameters(void **state)
{
	struct setup *s = *state;

	ask(s,
	    "{\"execute\":\"migrate-set-parameters\",\"arguments\":{\"max-postcopy-bandwidth\":1000,"
	    "\"x-postern-link-timeout\":250}}",
	    "{\"return\":{}}");
	ask_error(
		s,
		"{\"execute\":\"migrate-set-parameters\",\"arguments\":{\"x-postern-link-timeout\":99}}",
		"GenericError",
		"Parameter 'x-postern-link-timeout' expects an integer in the range of 100 to 600000 ms");
	ask(s, "{\"execute\":\"query-migrate-parameters\"}",
	    "{\"return\":{\"max-bandwidth\":0,\"downtime-limit\":0,\"max-postcopy-bandwidth\":1000,"
	    "\"x-postern-link-timeout\":250}}");
}

static void test_capabilities(void **state)
{
	struct setup *s = *state;

#define SET(name, value) "{\"execute\":\"migrate-set-capabilities\",\"arguments\":{\"capabilities\":" \
			 "[{\"capability\":\"" name "\",\"state\":" value "}]}}"
	ask(s, SET("postcopy-ram", "true"), "{\"return\":{}}");
	ask_error(s, SET("postcopy-ram", "false"), "GenericError",
		  "capability 'postcopy-ram' is always on: postcopy is how postern migrates");
	ask_error(s, SET("multifd", "true"), "GenericError",
		  "capability 'multifd' is not supported");
	ask_error(s, SET("magic", "true"), "GenericError",
		  "Parameter 'capability' does not accept value 'magic'");
	ask_error(s, SET("events", "1"), "GenericError",
		  "Invalid parameter type for 'state', expected: boolean");
	/* Without "events" none is sent: the next thing heard is the reply. */
	ask(s, SET("events", "false"), "{\"return\":{}}");
	fake_migration_status(&s->migration, MIGRATION_SETUP);
	ask(s, "{\"execute\":\"query-name\"}", "{\"return\":{\"name\":\"fake\"}}");
}

static void test_generation_id(void **state)
{
	struct setup *s = *state;

	/* Sixteen bytes, 1 to 16, as a GUID is written. */
	ask(s, "{\"execute\":\"query-vm-generation-id\"}",
	    "{\"return\":{\"guid\":\"04030201-0605-0807-090a-0b0c0d0e0f10\"}}");
}

static void test_faults(void **state)
{
	struct setup *s = *state;
	json_t *out, *vcpu, *want;

	s->machine->mem.page[3] = PAGE_REQUESTED;
	s->machine->mem.page[4] = PAGE_LOST;
	s->machine->mem.page[5] = PAGE_MISSING;
	s->machine->mem.nwaiters = 2;
	s->machine->mem.waiter[0] = (struct memory_waiter){
		.name = "vcpu1", .cpu = 1, .gpa = GPA(FAKE_GPA + 3 * PAGE_BYTES), .since_ns = 1,
	};
	s->machine->mem.waiter[1] = (struct memory_waiter){
		.name = "gup", .cpu = -1, .gpa = GPA(FAKE_GPA + 4 * PAGE_BYTES), .since_ns = 1,
	};
	hist_add(&s->machine->mem.latency, 1000);
	out = ask_return(s, "{\"execute\":\"query-postern-faults\"}");
	assert_int_equal(json_array_size(json_object_get(out, "vcpus")), 1);
	vcpu = json_array_get(json_object_get(out, "vcpus"), 0);
	assert_int_equal(json_integer_value(json_object_get(vcpu, "cpu-index")), 1);
	assert_int_equal(json_integer_value(json_object_get(vcpu, "gpa")),
			 FAKE_GPA + 3 * PAGE_BYTES);
	assert_string_equal(json_string_value(json_object_get(vcpu, "page")), "requested");
	assert_true(json_integer_value(json_object_get(vcpu, "since-us")) > 0);
	assert_int_equal(json_array_size(json_object_get(out, "others")), 1);
	want = json_loads("{\"total\":16,\"present\":13,\"missing\":1,\"requested\":1,\"lost\":1,"
			  "\"split-huge\":0,\"broken-huge\":0}", 0, NULL);
	assert_true(json_equal(json_object_get(out, "pages"), want));
	json_decref(want);
	assert_int_equal(
		json_integer_value(json_object_get(json_object_get(out, "latency"), "count")), 1);
	assert_string_equal(json_string_value(json_object_get(out, "way-out")), "kernel");
	assert_int_equal(json_integer_value(json_object_get(json_object_get(out, "counters"),
							    "direct-accesses")),
			 2);
	/* Its name in 0.1. */
	assert_int_equal(json_integer_value(
				 json_object_get(json_object_get(out, "counters"), "stray-faults")),
			 2);
	json_decref(out);

	ask(s, "{\"execute\":\"query-postern-map\",\"arguments\":{\"cells\":4}}",
	    "{\"return\":{\"pages\":16,\"every\":1,\"looked\":[4,4,4,4],\"present\":[3,2,4,4],\"requested\":[1,0,0,0],"
	    "\"lost\":[0,1,0,0]}}");
	out = ask_return(s, "{\"execute\":\"query-postern-map\"}");
	assert_int_equal(json_array_size(json_object_get(out, "looked")), 64);
	json_decref(out);
	ask_error(s, "{\"execute\":\"query-postern-map\",\"arguments\":{\"cells\":0}}",
		  "GenericError", "Parameter 'cells' expects an integer in the range of 1 to 4096");

	out = ask_return(s, "{\"execute\":\"query-cpus-fast\"}");
	assert_int_equal(json_array_size(out), FAKE_CPUS);
	vcpu = json_array_get(out, 0);
	assert_int_equal(json_integer_value(json_object_get(vcpu, "thread-id")), 1000);
	assert_null(json_object_get(json_object_get(vcpu, "x-postern"), "waits-for"));
	vcpu = json_object_get(json_object_get(json_array_get(out, 1), "x-postern"), "waits-for");
	assert_int_equal(json_integer_value(json_object_get(vcpu, "gpa")),
			 FAKE_GPA + 3 * PAGE_BYTES);
	json_decref(out);
}

static void test_reclaim(void **state)
{
	struct setup *s = *state;

#define RECLAIM "{\"execute\":\"postern-reclaim\",\"arguments\":{\"destination-is-dead\":true}}"
	fake_set_state(s->machine, RUN_STATE_POSTMIGRATE);
	ask_error(s, "{\"execute\":\"postern-reclaim\"}", "GenericError",
		  "Parameter 'destination-is-dead' is missing");
	ask_error(
		s,
		"{\"execute\":\"postern-reclaim\",\"arguments\":{\"destination-is-dead\":false}}",
		"GenericError",
		"the guest may run at the destination: 'destination-is-dead': true is needed, and has to be so");
	assert_int_equal(s->machine->state, RUN_STATE_POSTMIGRATE);
	assert_string_equal(s->migration.last, "");
	s->migration.fail = true;
	ask_error(s, RECLAIM, "GenericError", "no ? luck");
	s->migration.fail = false;
	ask(s, RECLAIM, "{\"return\":{}}");
	assert_string_equal(s->migration.last, "reclaim ");
}

#define SAVE(args) "{\"execute\":\"postern-snapshot-save\",\"arguments\":{" args "}}"
#define FILL(args) "{\"execute\":\"postern-set-fill\",\"arguments\":{" args "}}"

/* Live or paused, and what it costs the guest. */
static void test_how_memory_is_saved(struct setup *s, struct snapshot *snapshot)
{
	struct save_info *save = &snapshot->info.save;
	json_t *out, *job;

	*save = (struct save_info){
		.phase = SAVE_COPYING,
		.live = true,
		.memory = { .copied = 3, .buffered = 2, .throttled = 7, .throttled_ns = 5000 },
	};
	strcpy(snapshot->info.parent, "web0");
	out = ask_return(s, "{\"execute\":\"query-postern-snapshots\"}");
	job = json_array_get(out, 0);
	assert_string_equal(json_string_value(json_object_get(job, "mode")), "live");
	assert_string_equal(json_string_value(json_object_get(job, "parent")), "web0");
	assert_int_equal(json_integer_value(json_object_get(job, "copied-pages")), 48);
	assert_int_equal(json_integer_value(json_object_get(job, "buffered-bytes")), 131072);
	assert_int_equal(json_integer_value(json_object_get(job, "throttled")), 7);
	assert_int_equal(json_integer_value(json_object_get(job, "throttled-us")), 5);
	assert_null(json_object_get(job, "paused-because"));
	json_decref(out);
	save->live = false;
	strcpy(save->reason, "of this");
	out = ask_return(s, "{\"execute\":\"query-postern-snapshots\"}");
	job = json_array_get(out, 0);
	assert_string_equal(json_string_value(json_object_get(job, "mode")), "paused");
	assert_string_equal(json_string_value(json_object_get(job, "paused-because")), "of this");
	json_decref(out);
}

#define DUMP(args) "{\"execute\":\"dump-guest-memory\",\"arguments\":{" args "}}"

static void test_dumps(void **state)
{
	struct setup *s = *state;

	ask(s, "{\"execute\":\"query-dump\"}",
	    "{\"return\":{\"status\":\"none\",\"completed\":0,\"total\":0,"
	    "\"x-postern-missing-pages\":0}}");
	ask_error(s, DUMP("\"protocol\":\"file:/x\""), "GenericError",
		  "Parameter 'paging' is missing");
	ask_error(s, DUMP("\"paging\":true,\"protocol\":\"file:/x\""), "GenericError",
		  "Parameter 'paging' expects false: addresses are physical ones");
	ask_error(s, DUMP("\"paging\":false,\"protocol\":\"file:/x\",\"begin\":0"),
		  "GenericError", "Parameter 'length' is missing");
	ask_error(s, DUMP("\"paging\":false,\"protocol\":\"file:/x\",\"format\":\"kdump-zlib\""),
		  "GenericError", "Parameter 'format' does not accept value 'kdump-zlib'");
	ask_error(s, DUMP("\"paging\":false,\"protocol\":\"/x\""), "GenericError",
		  "Parameter 'protocol' expects a protocol of file: and a path, or fd: and a name "
		  "given by getfd");
	ask_error(s, DUMP("\"paging\":false,\"protocol\":\"fd:x\""), "GenericError",
		  "File descriptor named 'x' not found");
	ask_error(s, DUMP("\"paging\":false,\"protocol\":\"file:/nowhere\""), "GenericError",
		  "/nowhere: fake failure");
	ask(s, DUMP("\"paging\":false,\"protocol\":\"file:/x\",\"begin\":4096,\"length\":4096,"
		    "\"detach\":true"),
	    "{\"return\":{}}");
	ask(s, "{\"execute\":\"query-dump\"}",
	    "{\"return\":{\"status\":\"active\",\"completed\":4096,\"total\":4096,"
	    "\"x-postern-missing-pages\":1}}");
	ask_error(s, DUMP("\"paging\":false,\"protocol\":\"file:/x\""), "GenericError",
		  "There is a dump in process, please wait.");
	ask(s, "{\"execute\":\"query-dump-guest-memory-capability\"}",
	    "{\"return\":{\"formats\":[\"elf\"]}}");
}

static void test_snapshots(void **state)
{
	struct setup *s = *state;
	struct snapshot snapshot = { 0 };
	json_t *out;

	ask_error(s, SAVE("\"to\":\"/images/web1\""), "GenericError",
		  "this machine has no snapshots");
	ask(s, "{\"execute\":\"query-postern-snapshots\"}", "{\"return\":[]}");
	qmp_set_snapshot(s->qmp, &snapshot);
	ask(s, SAVE("\"to\":\"/images/web1\""), "{\"return\":{\"id\":\"save-1\"}}");
	assert_string_equal(snapshot.last, "save /images/web1 - 0 0");
	ask(s, SAVE("\"to\":\"a/b\",\"id\":\"x\",\"level\":7"), "{\"return\":{\"id\":\"x\"}}");
	assert_string_equal(snapshot.last, "save a/b x 7 0");
	ask(s, SAVE("\"to\":\"a/b\",\"id\":\"x\",\"paused\":true"), "{\"return\":{\"id\":\"x\"}}");
	assert_string_equal(snapshot.last, "save a/b x 0 0 paused");
	ask(s, SAVE("\"to\":\"a/b\",\"id\":\"x\",\"track\":true,\"incremental\":true"),
	    "{\"return\":{\"id\":\"x\"}}");
	assert_string_equal(snapshot.last, "save a/b x 0 0 track incremental");
	ask(s, SAVE("\"to\":\"a/b\",\"id\":\"x\",\"parent\":\"c\""), "{\"return\":{\"id\":\"x\"}}");
	assert_string_equal(snapshot.last, "save a/b x 0 0 incremental c");
	ask_error(s, SAVE("\"to\":\"a/b\",\"level\":20"), "GenericError",
		  "Parameter 'level' expects an integer in the range of 0 to 19");
	ask(s, SAVE("\"to\":\"a/b\",\"store-credentials\":\"/login\",\"store-deadline\":500"),
	    "{\"return\":{\"id\":\"save-1\"}}");
	assert_string_equal(snapshot.last, "save a/b - 0 /login 500");
	ask(s, SAVE("\"to\":\"a/b\",\"key-file\":\"/key\""), "{\"return\":{\"id\":\"save-1\"}}");
	assert_string_equal(snapshot.last, "save a/b - 0 0 /key");
	ask_error(s, SAVE("\"to\":\"a/b\",\"store-deadline\":99"), "GenericError",
		  "Parameter 'store-deadline' expects milliseconds in the range of 100 to 3600000");
	ask_error(s, SAVE("\"to\":\"a/b\",\"store-deadline\":4294967396"), "GenericError",
		  "Parameter 'store-deadline' expects milliseconds in the range of 100 to 3600000");
	ask_error(s, SAVE(""), "GenericError", "Parameter 'to' is missing");
	ask(s, "{\"execute\":\"postern-snapshot-cancel\",\"arguments\":{\"id\":\"x\"}}",
	    "{\"return\":{}}");
	assert_string_equal(snapshot.last, "cancel x");
	snapshot.fail = true;
	ask_error(s, SAVE("\"to\":\"a/b\""), "GenericError", "fake failure");
	ask_error(s, "{\"execute\":\"postern-snapshot-cancel\"}", "GenericError",
		  "there is no such job");
	snapshot.saved = true;
	snapshot.info.save.phase = SAVE_FAILED;
	strcpy(snapshot.info.id, "x");
	strcpy(snapshot.info.save.err.text, "no room");
	out = ask_return(s, "{\"execute\":\"query-postern-snapshots\"}");
	assert_string_equal(json_string_value(json_object_get(json_array_get(out, 0), "status")),
			    "failed");
	assert_string_equal(
		json_string_value(json_object_get(json_array_get(out, 0), "error-desc")),
		"no room");
	assert_null(json_object_get(json_array_get(out, 0), "image-id"));
	json_decref(out);
	test_how_memory_is_saved(s, &snapshot);
}

static void test_where_memory_comes_from(void **state)
{
	struct setup *s = *state;
	struct snapshot snapshot = { 0 };
	json_t *out, *source, *set;

	qmp_set_snapshot(s->qmp, &snapshot);
	out = ask_return(s, "{\"execute\":\"query-postern-faults\"}");
	assert_null(json_object_get(out, "source"));
	json_decref(out);
	ask_error(s, FILL("\"fill\":\"off\""), "GenericError",
		  "the machine was not restored from an image");
	snapshot.restored = true;
	ask(s, FILL("\"fill\":\"off\""), "{\"return\":{}}");
	assert_true(snapshot.fill.off);
	ask(s, FILL("\"fill\":\"on\",\"rate\":4096"), "{\"return\":{}}");
	assert_false(snapshot.fill.off);
	assert_int_equal(snapshot.fill.rate, 4096);
	ask_error(s, FILL("\"fill\":\"maybe\""), "GenericError",
		  "Parameter 'fill' expects 'on' or 'off'");
	out = ask_return(s, "{\"execute\":\"query-postern-faults\"}");
	source = json_object_get(out, "source");
	assert_string_equal(json_string_value(json_object_get(source, "kind")), "image");
	assert_string_equal(json_string_value(json_object_get(source, "image")), "web1");
	assert_int_equal(json_integer_value(json_object_get(source, "rate")), 4096);
	assert_null(json_object_get(source, "error-desc"));
	set = json_object_get(source, "working-set");
	assert_string_equal(json_string_value(json_object_get(set, "mode")), "on");
	assert_string_equal(json_string_value(json_object_get(set, "replay")), "running");
	assert_string_equal(json_string_value(json_object_get(set, "record")), "running");
	assert_int_equal(json_integer_value(json_object_get(set, "runs")), 3);
	assert_int_equal(json_integer_value(json_object_get(set, "spans")), 40);
	assert_int_equal(json_integer_value(json_object_get(set, "present")), 30);
	assert_int_equal(json_integer_value(json_object_get(set, "missed")), 2);
	json_decref(out);
}

static void test_a_save_is_followed_by_events(void **state)
{
	struct setup *s = *state;
	struct snapshot snapshot = { 0 };
	struct snapshot_info info = { .id = "x", .store = "/images", .name = "web1" };
	json_t *event, *data;

	qmp_set_snapshot(s->qmp, &snapshot);
	info.save.phase = SAVE_COMPLETED;
	info.save.pages = info.save.pages_done = 4096;
	snapshot.observer.progress(snapshot.observer.arg, &info);
	event = receive(s);
	data = json_object_get(event, "data");
	assert_string_equal(json_string_value(json_object_get(event, "event")), "POSTERN_SNAPSHOT");
	assert_string_equal(json_string_value(json_object_get(data, "status")), "completed");
	assert_int_equal(json_integer_value(json_object_get(data, "done-pages")), 4096);
	json_decref(event);
}

static void test_command_list(void **state)
{
	struct setup *s = *state;
	json_t *out = ask_return(s, "{\"execute\":\"query-commands\"}"), *item;
	bool quit = false;
	size_t i;

	json_array_foreach(out, i, item)
		quit |= !strcmp(json_string_value(json_object_get(item, "name")), "quit");
	assert_true(quit && json_array_size(out) > 20);
	json_decref(out);
	ask_error(s, "{\"execute\":\"query-qmp-schema\"}", "CommandNotFound",
		  "The command query-qmp-schema has not been found");
}

static void test_human_monitor(void **state)
{
	struct setup *s = *state;
	char request[5000], line[4096];

#define HUMAN(line) "{\"execute\":\"human-monitor-command\",\"arguments\":{\"command-line\":\"" line "\"}}"
	ask(s, HUMAN("info name"), "{\"return\":\"fake\\r\\n\"}");
	ask(s, HUMAN("\\t info \\n kvm "), "{\"return\":\"kvm support: enabled\\r\\n\"}");
	ask(s, HUMAN(""), "{\"return\":\"\"}");
	ask(s, HUMAN("info migrate"), "{\"return\":\"\"}");
	ask(s, HUMAN("stop now"), "{\"return\":\"unknown command: 'stop now'\\r\\n\"}");
	ask(s, HUMAN("info x%s%n"), "{\"return\":\"unknown command: 'info x%s%n'\\r\\n\"}");
	ask_error(
		s,
		"{\"execute\":\"human-monitor-command\",\"arguments\":{\"command-line\":\"stop\",\"cpu-index\":99}}",
		"GenericError", "Parameter 'cpu-index' expects a CPU number");
	ask_error(s, "{\"execute\":\"human-monitor-command\"}", "GenericError",
		  "Parameter 'command-line' is missing");
	memset(line, 'x', sizeof(line) - 1);
	line[sizeof(line) - 1] = '\0';
	snprintf(request, sizeof(request), HUMAN("%s"), line);
	ask_error(s, request, "GenericError", "Parameter 'command-line' has more than 2047 bytes");
	line[2047] = '\0';
	snprintf(request, sizeof(request), HUMAN("%s"), line);
	json_decref(ask_return(s, request));
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up_negotiated, tear_down)
	const struct CMUnitTest tests[] = {
		TEST(test_block),
		TEST(test_run_control),
		TEST(test_balloon),
		TEST(test_quit),
		TEST(test_migration),
		TEST(test_parameters),
		TEST(test_capabilities),
		TEST(test_human_monitor),
		TEST(test_generation_id),
		TEST(test_faults),
		TEST(test_reclaim),
		TEST(test_dumps),
		TEST(test_snapshots),
		TEST(test_where_memory_comes_from),
		TEST(test_a_save_is_followed_by_events),
		TEST(test_command_list),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
