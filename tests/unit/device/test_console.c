// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * The virtio console: bytes both ways, and who is held up when one side does not take them.
 */
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/log.h"
#include "device/chardev.h"
#include "small.h"
#include "tests/own_dir.h"

enum { RX, TX };

/* A console on a socket, and its client. */
struct world {
	struct small *s;
	struct own_dir dir;
	char path[64];
	int fd;
};

static struct world world_new(bool late)
{
	struct world w = { .fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0) };
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	char text[80];

	w.dir = own_dir_new();
	snprintf(w.path, sizeof(w.path), "%s/console", w.dir.path);
	snprintf(text, sizeof(text), "unix:%s", w.path);
	w.s = small_new(&console_type, text, late);
	strcpy(address.sun_path, w.path);
	assert_int_equal(connect(w.fd, (struct sockaddr *)&address, sizeof(address)), 0);
	return w;
}

static void world_free(struct world *w)
{
	small_free(w->s);
	close(w->fd);
	assert_int_equal(access(w->path, F_OK), -1);
	own_dir_free(&w->dir);
}

/* What the client has received, up to len bytes, within the time that tests have. */
static void expect(struct world *w, const char *text)
{
	char got[256] = { 0 };
	size_t len = 0;

	small_until(w->s, ({
		ssize_t n = read(w->fd, got + len, sizeof(got) - 1 - len);
		len += n > 0 ? (size_t)n : 0;
		len >= strlen(text);
	}));
	assert_string_equal(got, text);
}

static void output_reaches_the_far_side(uint64_t with)
{
	const struct driver_buf bufs[] = { { SMALL_DATA, 6, false }, { SMALL_DATA + 0x2000, 5, false } };
	struct world w = world_new(false);
	uint32_t len;

	small_start(w.s, with);
	memcpy(w.s->ram + SMALL_DATA, "hello ", 6);
	memcpy(w.s->ram + SMALL_DATA + 0x2000, "world", 5);
	driver_add(&w.s->driver[TX], bufs, 2, 0);
	small_notify(w.s, TX);
	small_until(w.s, driver_used(&w.s->driver[TX], 2, &len) == 0);
	assert_int_equal(len, 0);
	expect(&w, "hello world");
	world_free(&w);
}

static void output_reaches_the_far_side_by_either_ring(void **state)
{
	(void)state;
	output_reaches_the_far_side(0);
	output_reaches_the_far_side(SMALL_PACKED);
}

static void input_waits_for_buffers(void **state)
{
	const struct driver_buf small = { SMALL_DATA, 3, true }, large = { SMALL_DATA + 16, 64, true };
	struct world w = world_new(false);
	uint32_t len;

	(void)state;
	assert_int_equal(write(w.fd, "abcdefgh", 8), 8);
	small_turn(w.s);
	small_start(w.s, 0);
	small_turn(w.s);
	driver_add(&w.s->driver[RX], &small, 1, 0);
	small_notify(w.s, RX);
	small_until(w.s, driver_used(&w.s->driver[RX], 1, &len) >= 0);
	assert_int_equal(len, 3);
	assert_memory_equal(w.s->ram + SMALL_DATA, "abc", 3);
	/* The rest comes with the next buffer, nothing twice, nothing lost. */
	driver_add(&w.s->driver[RX], &large, 1, 0);
	small_notify(w.s, RX);
	small_until(w.s, driver_used(&w.s->driver[RX], 1, &len) >= 0);
	assert_int_equal(len, 5);
	assert_memory_equal(w.s->ram + SMALL_DATA + 16, "defgh", 5);
	world_free(&w);
}

/* Without buffers the back end stops reading: the client's socket is full, and that is all. */
static void a_guest_that_takes_nothing_holds_up_the_far_side(void **state)
{
	static char flood[65536];
	struct world w = world_new(false);
	const struct driver_buf buf = { SMALL_DATA, 4096, true };
	unsigned int idle = 0;
	size_t sent = 0, got = 0;
	uint32_t len;
	ssize_t n;

	(void)state;
	memset(flood, 'x', sizeof(flood));
	small_start(w.s, 0);
	while (idle < 50) {
		n = write(w.fd, flood, sizeof(flood));
		idle = n > 0 ? 0 : idle + 1;
		sent += n > 0 ? (size_t)n : 0;
		assert_true(sent < 4 << 20);
		small_turn(w.s);
	}
	assert_true(sent > 4096);
	/* Then it all comes. */
	while (got < sent) {
		driver_add(&w.s->driver[RX], &buf, 1, 0);
		small_notify(w.s, RX);
		small_until(w.s, driver_used(&w.s->driver[RX], 1, &len) >= 0);
		assert_true(len > 0);
		got += len;
	}
	assert_int_equal(got, sent);
	world_free(&w);
}

/*
 * A far side that reads nothing: the guest has its buffers back all the same,
 * the rest is dropped.
 */
static void a_far_side_that_takes_nothing_holds_up_nobody(void **state)
{
	const struct driver_buf buf = { SMALL_DATA, 1 << 20, false };
	struct world w = world_new(false);
	unsigned int i;
	uint32_t len;

	(void)state;
	small_start(w.s, 0);
	for (i = 0; i < 8; i++) {
		driver_add(&w.s->driver[TX], &buf, 1, 0);
		small_notify(w.s, TX);
		small_until(w.s, driver_used(&w.s->driver[TX], 1, &len) >= 0);
	}
	world_free(&w);
}

/* A buffer of more than what is kept: its end is. */
static void the_last_words_of_a_flood_are_kept(void **state)
{
	static const char words[] = "last words";
	const struct driver_buf buf = { SMALL_DATA, 1 << 20, false };
	static char got[8 << 20];
	struct world w = world_new(false);
	uint8_t *end = w.s->ram + SMALL_DATA + (1 << 20) - strlen(words);
	size_t len = 0;
	unsigned int i;
	uint32_t used;

	(void)state;
	small_start(w.s, 0);
	memset(w.s->ram + SMALL_DATA, 'x', 1 << 20);
	for (i = 0; i < 4; i++) {
		if (i == 3)
			memcpy(end, words, strlen(words));
		driver_add(&w.s->driver[TX], &buf, 1, 0);
		small_notify(w.s, TX);
		small_until(w.s, driver_used(&w.s->driver[TX], 1, &used) >= 0);
	}
	small_until(w.s, ({
		ssize_t n = read(w.fd, got + len, sizeof(got) - 1 - len);
		len += n > 0 ? (size_t)n : 0;
		strstr(got, words) != NULL;
	}));
	assert_non_null(strstr(got, " bytes are missing here]"));
	world_free(&w);
}

static void fill(struct small *s, uint64_t gpa, uint64_t pages)
{
	assert_true(memory_fill(s->mem, gpa_to_gfn(GPA(gpa)), pages, NULL) >= 0);
}

/* The buffer's page is missing: input waits, output goes on; a stop and a reset end the wait. */
static void input_waits_for_a_page_and_output_does_not(void **state)
{
	const struct driver_buf in = { SMALL_DATA, 16, true }, out = { SMALL_DATA + 0x2000, 3, false };
	struct world w = world_new(true);
	uint32_t len;

	(void)state;
	fill(w.s, SMALL_RINGS, 8);
	fill(w.s, SMALL_DATA + 0x2000, 1);
	small_start(w.s, 0);
	memcpy(w.s->ram + SMALL_DATA + 0x2000, "out", 3);
	driver_add(&w.s->driver[RX], &in, 1, 0);
	small_notify(w.s, RX);
	assert_int_equal(write(w.fd, "in", 2), 2);
	small_until(w.s, vqueue_is_parked(&w.s->dev->queue[RX]));
	driver_add(&w.s->driver[TX], &out, 1, 0);
	small_notify(w.s, TX);
	expect(&w, "out");
	vdev_stop(w.s->dev);
	assert_false(vqueue_is_parked(&w.s->dev->queue[RX]));
	vdev_start(w.s->dev);
	small_until(w.s, vqueue_is_parked(&w.s->dev->queue[RX]));
	assert_int_equal(driver_used(&w.s->driver[RX], 1, &len), -1);
	fill(w.s, SMALL_DATA, 1);
	small_until(w.s, driver_used(&w.s->driver[RX], 1, &len) >= 0);
	assert_int_equal(len, 2);
	assert_memory_equal(w.s->ram + SMALL_DATA, "in", 2);
	/* The end comes while it is parked. */
	driver_add(&w.s->driver[RX], &(struct driver_buf){ SMALL_DATA + 0x5000, 16, true }, 1, 0);
	small_notify(w.s, RX);
	assert_int_equal(write(w.fd, "more", 4), 4);
	small_until(w.s, vqueue_is_parked(&w.s->dev->queue[RX]));
	small_put(w.s->dev, VIRTIO_PCI_COMMON_STATUS, 0, 1);
	assert_int_equal(small_status(w.s), 0);
	world_free(&w);
}

static void a_stopped_machine_takes_no_input(void **state)
{
	const struct driver_buf buf = { SMALL_DATA, 64, true };
	struct world w = world_new(false);
	uint32_t len;

	(void)state;
	small_start(w.s, 0);
	driver_add(&w.s->driver[RX], &buf, 1, 0);
	small_notify(w.s, RX);
	small_turn(w.s);
	vdev_stop(w.s->dev);
	assert_int_equal(write(w.fd, "hello", 5), 5);
	small_turn(w.s);
	assert_int_equal(driver_used(&w.s->driver[RX], 1, &len), -1);
	vdev_start(w.s->dev);
	small_until(w.s, driver_used(&w.s->driver[RX], 1, &len) >= 0);
	assert_int_equal(len, 5);
	world_free(&w);
}

static void its_state_travels(void **state)
{
	struct world w = world_new(false);
	struct vdev *to = small_device(w.s, &console_type, "null");

	(void)state;
	small_start(w.s, SMALL_PACKED);
	vdev_stop(w.s->dev);
	state_torture(&w.s->dev->device_ops, w.s->dev, to);
	vdev_free(to);
	world_free(&w);
}

static void what_is_no_character_device_is_refused(void **state)
{
	struct virtio_options options = { 0 };
	struct err err;

	(void)state;
	assert_int_equal(virtio_options_add(&options, "console", "tape", &err), -EINVAL);
	assert_non_null(strstr(err.text, "--console"));
	assert_non_null(strstr(err.text, "tape"));
	/* There is one; the last word counts. */
	assert_int_equal(virtio_options_add(&options, "console", "null", &err), 0);
	assert_int_equal(virtio_options_add(&options, "console", "pty", &err), 0);
	assert_int_equal(options.n, 1);
	assert_string_equal(options.option[0].text, "pty");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(output_reaches_the_far_side_by_either_ring),
		cmocka_unit_test(input_waits_for_buffers),
		cmocka_unit_test(a_guest_that_takes_nothing_holds_up_the_far_side),
		cmocka_unit_test(a_far_side_that_takes_nothing_holds_up_nobody),
		cmocka_unit_test(the_last_words_of_a_flood_are_kept),
		cmocka_unit_test(input_waits_for_a_page_and_output_does_not),
		cmocka_unit_test(a_stopped_machine_takes_no_input),
		cmocka_unit_test(its_state_travels),
		cmocka_unit_test(what_is_no_character_device_is_refused),
	};

	log_set_level(LOG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
