// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * Virtio sockets: the tests are the guest's driver on one side and the host's programs on the other.
 */
#include <linux/virtio_vsock.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "device/virtio/vsock_conn.h"
#include "device/virtio/vsock_host.h"
#include "small.h"
#include "tests/own_dir.h"
#include "tests/unit/crowd.h"

enum { RX, TX, EVENT };

#define CID 7
#define HEADER sizeof(struct virtio_vsock_hdr)
#define RX_BYTES 4096u
#define RX_AT(id) (SMALL_DATA + 0x10000 * (uint64_t)(id))
#define TX_AT (SMALL_DATA + 0x800000)

/* The device, its socket's path, and the guest's side of one connection. */
struct world {
	struct small *s;
	struct own_dir dir;
	char path[64];
	int listener;
	uint32_t host_port, guest_port, alloc, gone;
};

/* A packet that has come to the guest. */
struct packet {
	struct virtio_vsock_hdr h;
	uint8_t data[RX_BYTES];
};

static void give_buffer(struct world *w)
{
	struct driver *d = &w->s->driver[RX];
	const struct driver_buf buf = { RX_AT(d->next), RX_BYTES, true };

	driver_add(d, &buf, 1, 0);
	small_notify(w->s, RX);
}

static struct world world_late(bool late)
{
	struct world w = { .listener = -1, .alloc = 1 << 20 };
	char text[96];

	w.dir = own_dir_new();
	snprintf(w.path, sizeof(w.path), "%s/vsock", w.dir.path);
	snprintf(text, sizeof(text), "cid=%d,socket=%s", CID, w.path);
	w.s = small_new(&vsock_kind, text, late);
	return w;
}

static struct world world_new(unsigned int buffers)
{
	struct world w = world_late(false);

	small_start(w.s, 0);
	while (buffers--)
		give_buffer(&w);
	return w;
}

static void world_free(struct world *w)
{
	char path[80];

	small_free(w->s);
	assert_int_equal(access(w->path, F_OK), -1);
	if (w->listener >= 0) {
		close(w->listener);
		snprintf(path, sizeof(path), "%s_7000", w->path);
		unlink(path);
	}
	own_dir_free(&w->dir);
}

/* ---- the guest ---- */

static void guest_send(struct world *w, unsigned int op, uint32_t flags, const void *data, uint32_t len)
{
	struct virtio_vsock_hdr h = {
		.src_cid = CID, .dst_cid = 2, .src_port = w->guest_port, .dst_port = w->host_port, .len = len,
		.type = VIRTIO_VSOCK_TYPE_STREAM, .op = (uint16_t)op, .flags = flags, .buf_alloc = w->alloc, .fwd_cnt = w->gone,
	};
	const struct driver_buf bufs[] = { { TX_AT, HEADER, false }, { TX_AT + 0x1000, len, false } };
	uint32_t used;

	memcpy(w->s->ram + TX_AT, &h, sizeof(h));
	if (len)
		memcpy(w->s->ram + TX_AT + 0x1000, data, len);
	driver_add(&w->s->driver[TX], bufs, len ? 2 : 1, 0);
	small_notify(w->s, TX);
	small_until(w->s, driver_used(&w->s->driver[TX], 1, &used) >= 0);
}

/* The next packet; the guest has its buffer back when it is read. */
static struct packet guest_receive(struct world *w)
{
	static struct packet p;
	uint32_t len;
	int id;

	small_until(w->s, (id = driver_used(&w->s->driver[RX], 1, &len)) >= 0);
	assert_true(len >= HEADER && len <= RX_BYTES);
	memcpy(&p, w->s->ram + RX_AT(id), len);
	assert_int_equal(p.h.src_cid, 2);
	assert_int_equal(p.h.dst_cid, CID);
	assert_int_equal(p.h.len, len - HEADER);
	assert_int_equal(p.h.type, VIRTIO_VSOCK_TYPE_STREAM);
	give_buffer(w);
	return p;
}

static struct packet expect_op(struct world *w, unsigned int op)
{
	struct packet p = guest_receive(w);

	assert_int_equal(p.h.op, op);
	assert_int_equal(p.h.dst_port, w->guest_port);
	return p;
}

static void expect_silence(struct world *w)
{
	uint32_t len;

	small_turn(w->s);
	assert_int_equal(driver_used(&w->s->driver[RX], 1, &len), -1);
}

/* ---- the host ---- */

static int host_dial(struct world *w)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	strcpy(address.sun_path, w->path);
	assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	return fd;
}

static void host_listen(struct world *w)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	w->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	snprintf(address.sun_path, sizeof(address.sun_path), "%s_7000", w->path);
	unlink(address.sun_path);
	assert_int_equal(bind(w->listener, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_int_equal(listen(w->listener, 4), 0);
}

/* Reads len bytes; how many came before the end. */
static size_t host_read(struct world *w, int fd, void *to, size_t len)
{
	size_t got = 0;
	ssize_t n = 1;

	small_until(w->s, ({
		n = recv(fd, (uint8_t *)to + got, len - got, MSG_DONTWAIT);
		got += n > 0 ? (size_t)n : 0;
		n == 0 || got == len || (n < 0 && errno != EAGAIN);
	}));
	return got;
}

static void expect_end(struct world *w, int fd)
{
	uint8_t byte;

	assert_int_equal(host_read(w, fd, &byte, 1), 0);
}

/* The host calls the guest's port 5000, which accepts. */
static int host_calls(struct world *w)
{
	int fd = host_dial(w);
	struct packet p;
	char line[32] = { 0 }, want[32];

	assert_int_equal(write(fd, "CONNECT 5000\n", 13), 13);
	w->guest_port = 5000;
	p = expect_op(w, VIRTIO_VSOCK_OP_REQUEST);
	w->host_port = p.h.src_port;
	assert_int_equal(p.h.buf_alloc, VSOCK_BUFFER_BYTES);
	guest_send(w, VIRTIO_VSOCK_OP_RESPONSE, 0, NULL, 0);
	snprintf(want, sizeof(want), "OK %u\n", w->host_port);
	assert_int_equal(host_read(w, fd, line, strlen(want)), strlen(want));
	assert_string_equal(line, want);
	return fd;
}

/* The guest calls the host's port 7000, where somebody listens. */
static int guest_calls(struct world *w)
{
	int fd = -1;

	if (w->listener < 0)
		host_listen(w);
	w->host_port = 7000;
	w->guest_port = 1234;
	guest_send(w, VIRTIO_VSOCK_OP_REQUEST, 0, NULL, 0);
	expect_op(w, VIRTIO_VSOCK_OP_RESPONSE);
	small_until(w->s, (fd = accept4(w->listener, NULL, NULL, SOCK_NONBLOCK)) >= 0);
	return fd;
}

/* ---- time ---- */

/* The device's clock goes so far ahead of the loop's. */
static int64_t ahead_ns;

int __real_clock_gettime(clockid_t clock, struct timespec *to);
int __wrap_clock_gettime(clockid_t clock, struct timespec *to);

int __wrap_clock_gettime(clockid_t clock, struct timespec *to)
{
	int r = __real_clock_gettime(clock, to);

	to->tv_sec += ahead_ns / NS_PER_SEC;
	return r;
}

/* ---- tests ---- */

static int call(struct world *w)
{
	int fd = host_dial(w);

	assert_int_equal(write(fd, "CONNECT 5000\n", 13), 13);
	small_turn(w->s);
	return fd;
}

/* It waits, through the reset that a driver begins with, and is answered. */
static void a_call_before_the_driver_waits_for_it(void **state)
{
	struct world w = world_late(false);
	int fd[3], i;
	char line[32] = { 0 }, want[32];
	struct packet p;

	(void)state;
	for (i = 0; i < 3; i++) {
		fd[i] = call(&w);
	}
	/* One hangs up meanwhile: the guest never hears of it. */
	close(fd[1]);
	small_turn(w.s);
	small_put(w.s->dev, VIRTIO_PCI_COMMON_STATUS, 0, 1);
	small_turn(w.s);
	small_start(w.s, 0);
	for (i = 0; i < 4; i++)
		give_buffer(&w);
	w.guest_port = 5000;
	for (i = 0; i < 3; i += 2) {
		p = expect_op(&w, VIRTIO_VSOCK_OP_REQUEST);
		w.host_port = p.h.src_port;
		guest_send(&w, VIRTIO_VSOCK_OP_RESPONSE, 0, NULL, 0);
		snprintf(want, sizeof(want), "OK %u\n", w.host_port);
		/* Whose turn it is, is the device's matter. */
		small_until(w.s, recv(fd[0], line, strlen(want), MSG_DONTWAIT) > 0 || recv(fd[2], line, strlen(want), MSG_DONTWAIT) > 0);
		assert_string_equal(line, want);
	}
	expect_silence(&w);
	close(fd[0]);
	close(fd[2]);
	world_free(&w);
}

/* A call, and its time goes by until the device has looked: is it there still? */
static bool call_outlasts(struct world *w, int fd, int64_t seconds)
{
	char byte;

	ahead_ns += seconds * NS_PER_SEC;
	uv_run(loop_uv(w->s->loop), UV_RUN_ONCE);
	small_turn(w->s);
	return recv(fd, &byte, 1, MSG_DONTWAIT) < 0;
}

static void a_call_that_no_driver_takes_ends(void **state)
{
	struct world w = world_late(false);
	int fd = call(&w);

	(void)state;
	assert_true(call_outlasts(&w, fd, 50));
	ahead_ns += 20 * NS_PER_SEC;
	expect_end(&w, fd);
	close(fd);
	/* While the machine does not run, no time passes for its guest. */
	fd = call(&w);
	vdev_stop(w.s->dev);
	assert_true(call_outlasts(&w, fd, 3600));
	vdev_start(w.s->dev);
	assert_true(call_outlasts(&w, fd, 50));
	/* A driver that is up may take its time. */
	small_start(w.s, 0);
	assert_true(call_outlasts(&w, fd, 3600));
	give_buffer(&w);
	w.guest_port = 5000;
	expect_op(&w, VIRTIO_VSOCK_OP_REQUEST);
	world_free(&w);
	close(fd);
}

static void the_host_reaches_the_guest(void **state)
{
	struct world w = world_new(8);
	int fd = host_calls(&w);
	char text[8] = { 0 };
	struct packet p;
	struct stat st;

	(void)state;
	assert_int_equal(small_get(w.s->dev, SMALL_CONFIG, 8), CID);
	assert_int_equal(stat(w.path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	assert_int_equal(write(fd, "hello", 5), 5);
	p = expect_op(&w, VIRTIO_VSOCK_OP_RW);
	assert_int_equal(p.h.len, 5);
	assert_memory_equal(p.data, "hello", 5);
	guest_send(&w, VIRTIO_VSOCK_OP_RW, 0, "world", 5);
	assert_int_equal(host_read(&w, fd, text, 5), 5);
	assert_string_equal(text, "world");
	/* The host ends its direction; the guest still sends, then ends too. */
	assert_int_equal(write(fd, "last", 4), 4);
	shutdown(fd, SHUT_WR);
	assert_int_equal(expect_op(&w, VIRTIO_VSOCK_OP_RW).h.len, 4);
	p = expect_op(&w, VIRTIO_VSOCK_OP_SHUTDOWN);
	assert_int_equal(p.h.flags, VIRTIO_VSOCK_SHUTDOWN_SEND);
	assert_int_equal(p.h.fwd_cnt, 5);
	guest_send(&w, VIRTIO_VSOCK_OP_RW, 0, "after", 5);
	guest_send(&w, VIRTIO_VSOCK_OP_SHUTDOWN, VSOCK_BOTH, NULL, 0);
	assert_int_equal(host_read(&w, fd, text, 5), 5);
	assert_string_equal(text, "after");
	expect_end(&w, fd);
	expect_op(&w, VIRTIO_VSOCK_OP_RST);
	guest_send(&w, VIRTIO_VSOCK_OP_RW, 0, "gone", 4);
	expect_op(&w, VIRTIO_VSOCK_OP_RST);
	close(fd);
	world_free(&w);
}

static void the_guest_reaches_the_host(void **state)
{
	struct world w = world_new(8);
	int fd = guest_calls(&w);
	char text[8] = { 0 };

	(void)state;
	guest_send(&w, VIRTIO_VSOCK_OP_RW, 0, "hello", 5);
	guest_send(&w, VIRTIO_VSOCK_OP_SHUTDOWN, VIRTIO_VSOCK_SHUTDOWN_SEND, NULL, 0);
	assert_int_equal(host_read(&w, fd, text, 5), 5);
	assert_string_equal(text, "hello");
	expect_end(&w, fd);
	assert_int_equal(write(fd, "answer", 6), 6);
	close(fd);
	assert_memory_equal(expect_op(&w, VIRTIO_VSOCK_OP_RW).data, "answer", 6);
	assert_int_equal(expect_op(&w, VIRTIO_VSOCK_OP_SHUTDOWN).h.flags, VSOCK_BOTH);
	guest_send(&w, VIRTIO_VSOCK_OP_RST, 0, NULL, 0);
	expect_silence(&w);
	/* Where nobody listens. */
	w.host_port = 7001;
	guest_send(&w, VIRTIO_VSOCK_OP_REQUEST, 0, NULL, 0);
	expect_op(&w, VIRTIO_VSOCK_OP_RST);
	world_free(&w);
}

static void a_caller_that_is_refused_or_goes_is_closed(void **state)
{
	struct world w = world_new(8);
	int fd = host_dial(&w);

	(void)state;
	assert_int_equal(write(fd, "CONNECT 5000\n", 13), 13);
	w.guest_port = 5000;
	w.host_port = expect_op(&w, VIRTIO_VSOCK_OP_REQUEST).h.src_port;
	guest_send(&w, VIRTIO_VSOCK_OP_RST, 0, NULL, 0);
	expect_end(&w, fd);
	close(fd);
	/* It goes before the guest has answered. */
	fd = host_dial(&w);
	assert_int_equal(write(fd, "CONNECT 5000\n", 13), 13);
	expect_op(&w, VIRTIO_VSOCK_OP_REQUEST);
	close(fd);
	expect_op(&w, VIRTIO_VSOCK_OP_RST);
	/* It has said all that it will say, with its first line. */
	fd = host_dial(&w);
	assert_int_equal(write(fd, "CONNECT 5000\nquestion", 21), 21);
	shutdown(fd, SHUT_WR);
	w.host_port = expect_op(&w, VIRTIO_VSOCK_OP_REQUEST).h.src_port;
	expect_silence(&w);
	guest_send(&w, VIRTIO_VSOCK_OP_RESPONSE, 0, NULL, 0);
	assert_memory_equal(expect_op(&w, VIRTIO_VSOCK_OP_RW).data, "question", 8);
	assert_int_equal(expect_op(&w, VIRTIO_VSOCK_OP_SHUTDOWN).h.flags, VIRTIO_VSOCK_SHUTDOWN_SEND);
	close(fd);
	world_free(&w);
}

/* A close with bytes that were not read is an error to the other side. */
static void a_host_that_goes_without_reading_is_noticed(void **state)
{
	struct world w = world_new(8);
	int fd = host_dial(&w), i;

	(void)state;
	assert_int_equal(write(fd, "CONNECT 5000\n", 13), 13);
	w.guest_port = 5000;
	w.host_port = expect_op(&w, VIRTIO_VSOCK_OP_REQUEST).h.src_port;
	guest_send(&w, VIRTIO_VSOCK_OP_RESPONSE, 0, NULL, 0);
	/* "OK" lies there. */
	close(fd);
	assert_int_equal(expect_op(&w, VIRTIO_VSOCK_OP_SHUTDOWN).h.flags, VSOCK_BOTH);
	guest_send(&w, VIRTIO_VSOCK_OP_RST, 0, NULL, 0);
	expect_silence(&w);
	/* So does what the guest sent; and what it sends later is kept. */
	fd = guest_calls(&w);
	for (i = 0; i < 3; i++)
		guest_send(&w, VIRTIO_VSOCK_OP_RW, 0, "hello", 5);
	close(fd);
	guest_send(&w, VIRTIO_VSOCK_OP_RW, 0, "hello", 5);
	while (expect_op(&w, VIRTIO_VSOCK_OP_SHUTDOWN).h.flags != VSOCK_BOTH)
		;
	/* A guest that does not answer is reset in the end. */
	expect_op(&w, VIRTIO_VSOCK_OP_RST);
	expect_silence(&w);
	world_free(&w);
}

static uint8_t byte_at(uint64_t at)
{
	return (uint8_t)(at * 7 + (at >> 8));
}

/* The host's program reads nothing: what its socket does not take is kept, up to the guest's credit, and nothing is lost. */
static void a_host_that_does_not_read_holds_up_the_guest(void **state)
{
	static uint8_t data[4096], back[4096];
	struct world w = world_new(8);
	int fd = guest_calls(&w), size = 4096;
	uint32_t sent = 0, known = 0, got = 0, i;
	struct packet p;
	uint32_t len;
	int id;

	(void)state;
	setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
	/* As long as there is credit; the device tells of it. */
	for (;;) {
		id = driver_used(&w.s->driver[RX], 1, &len);
		if (id >= 0) {
			memcpy(&p, w.s->ram + RX_AT(id), HEADER);
			assert_int_equal(p.h.op, VIRTIO_VSOCK_OP_CREDIT_UPDATE);
			known = p.h.fwd_cnt;
			give_buffer(&w);
		}
		if (sent - known + sizeof(data) > VSOCK_BUFFER_BYTES) {
			small_turn(w.s);
			if (driver_get16(&w.s->driver[RX], w.s->driver[RX].used + 2) == w.s->driver[RX].last_used)
				break;
			continue;
		}
		for (i = 0; i < sizeof(data); i++)
			data[i] = byte_at(sent + i);
		guest_send(&w, VIRTIO_VSOCK_OP_RW, 0, data, sizeof(data));
		sent += sizeof(data);
	}
	assert_true(sent > VSOCK_BUFFER_BYTES);
	/* The guest gives up: what it sent is still the host's. */
	guest_send(&w, VIRTIO_VSOCK_OP_RST, 0, NULL, 0);
	while (got < sent) {
		i = (uint32_t)host_read(&w, fd, back, sizeof(back));
		assert_int_equal(i, sizeof(back));
		for (i = 0; i < sizeof(back); i++)
			assert_int_equal(back[i], byte_at(got + i));
		got += sizeof(back);
	}
	expect_end(&w, fd);
	close(fd);
	world_free(&w);
}

static void a_guest_that_goes_over_its_credit_is_reset(void **state)
{
	static uint8_t data[65536];
	struct world w = world_new(8);
	int fd = guest_calls(&w), size = 4096;
	unsigned int i;
	uint32_t len;

	(void)state;
	setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
	for (i = 0; i < 64; i++) {
		guest_send(&w, VIRTIO_VSOCK_OP_RW, 0, data, sizeof(data));
		if (driver_used(&w.s->driver[RX], 1, &len) >= 0)
			break;
	}
	assert_true(i < 64);
	assert_int_equal(small_status(w.s), 0xf);
	close(fd);
	world_free(&w);
}

static void the_guest_gets_no_more_than_it_has_room_for(void **state)
{
	uint8_t data[3000] = { 1, 2, 3 };
	struct world w = world_new(8);
	struct packet p;
	int fd;

	(void)state;
	w.alloc = 1000;
	fd = host_calls(&w);
	assert_int_equal(write(fd, data, sizeof(data)), sizeof(data));
	assert_int_equal(expect_op(&w, VIRTIO_VSOCK_OP_RW).h.len, 1000);
	expect_op(&w, VIRTIO_VSOCK_OP_CREDIT_REQUEST);
	expect_silence(&w);
	w.gone = 600;
	guest_send(&w, VIRTIO_VSOCK_OP_CREDIT_UPDATE, 0, NULL, 0);
	assert_int_equal(expect_op(&w, VIRTIO_VSOCK_OP_RW).h.len, 600);
	expect_op(&w, VIRTIO_VSOCK_OP_CREDIT_REQUEST);
	/* It says that more has gone than came. */
	w.gone = 5000;
	guest_send(&w, VIRTIO_VSOCK_OP_CREDIT_UPDATE, 0, NULL, 0);
	expect_op(&w, VIRTIO_VSOCK_OP_CREDIT_REQUEST);
	w.gone = 1600;
	guest_send(&w, VIRTIO_VSOCK_OP_CREDIT_REQUEST, 0, NULL, 0);
	p = expect_op(&w, VIRTIO_VSOCK_OP_RW);
	assert_int_equal(p.h.len, 1000);
	close(fd);
	world_free(&w);
}

static void packets_of_nobody_are_refused_or_dropped(void **state)
{
	struct world w = world_new(8);
	struct virtio_vsock_hdr h = { .src_cid = CID + 1, .dst_cid = 2, .type = 1, .op = VIRTIO_VSOCK_OP_REQUEST };
	uint32_t len;

	(void)state;
	w.guest_port = 1;
	w.host_port = 2;
	guest_send(&w, VIRTIO_VSOCK_OP_RW, 0, "x", 1);
	expect_op(&w, VIRTIO_VSOCK_OP_RST);
	guest_send(&w, 99, 0, NULL, 0);
	expect_op(&w, VIRTIO_VSOCK_OP_RST);
	guest_send(&w, VIRTIO_VSOCK_OP_RST, 0, NULL, 0);
	expect_silence(&w);
	/* Another's address. */
	memcpy(w.s->ram + TX_AT, &h, sizeof(h));
	driver_add(&w.s->driver[TX], &(struct driver_buf){ TX_AT, HEADER, false }, 1, 0);
	small_notify(w.s, TX);
	small_until(w.s, driver_used(&w.s->driver[TX], 1, &len) >= 0);
	expect_silence(&w);
	/* A packet that says it is longer than it is. */
	h = (struct virtio_vsock_hdr){ .src_cid = CID, .dst_cid = 2, .len = 1, .type = 1, .op = VIRTIO_VSOCK_OP_RW };
	memcpy(w.s->ram + TX_AT, &h, sizeof(h));
	driver_add(&w.s->driver[TX], &(struct driver_buf){ TX_AT, HEADER, false }, 1, 0);
	small_notify(w.s, TX);
	small_until(w.s, small_status(w.s) & VIRTIO_CONFIG_S_NEEDS_RESET);
	world_free(&w);
}

/* A guest that asks and does not listen: answers are bounded, its queue stops, and goes on once it listens. */
static void refusals_are_bounded(void **state)
{
	const struct virtio_vsock_hdr h = { .src_cid = CID, .dst_cid = 2, .src_port = 1, .dst_port = 7001, .type = 1,
					    .op = VIRTIO_VSOCK_OP_REQUEST };
	struct world w = world_new(0);
	unsigned int sent = 0, idle = 0, got = 0;
	uint32_t len;

	(void)state;
	w.guest_port = 1;
	memcpy(w.s->ram + TX_AT, &h, sizeof(h));
	for (; idle < 5; idle++) {
		driver_add(&w.s->driver[TX], &(struct driver_buf){ TX_AT, HEADER, false }, 1, 0);
		small_notify(w.s, TX);
		sent++;
		small_turn(w.s);
		if (driver_used(&w.s->driver[TX], 1, &len) >= 0)
			idle = 0;
		assert_true(sent < 200);
	}
	for (; got < sent; got++) {
		if (got < 8)
			give_buffer(&w);
		if (got >= 7)
			expect_op(&w, VIRTIO_VSOCK_OP_RST);
	}
	world_free(&w);
}

static void a_reset_ends_connections(void **state)
{
	struct world w = world_new(8);
	int fd = guest_calls(&w), other = host_dial(&w);

	(void)state;
	small_put(w.s->dev, VIRTIO_PCI_COMMON_STATUS, 0, 1);
	assert_int_equal(small_status(w.s), 0);
	expect_end(&w, fd);
	/* Who is still being greeted is not concerned. */
	memset(w.s->ram + SMALL_RINGS, 0, 3 * SMALL_RING);
	small_start(w.s, SMALL_PACKED);
	assert_int_equal(write(other, "CONNECT 5000\n", 13), 13);
	w.guest_port = 5000;
	give_buffer(&w);
	expect_op(&w, VIRTIO_VSOCK_OP_REQUEST);
	close(fd);
	close(other);
	world_free(&w);
}

static void after_a_migration_the_guest_is_told(void **state)
{
	const struct driver_buf buf = { SMALL_DATA + 0x400000, 8, true };
	struct world w = world_new(8), there = w;
	int fd = guest_calls(&w);
	struct small machine = *w.s;
	char text[96];
	uint32_t len;

	(void)state;
	driver_add(&w.s->driver[EVENT], &buf, 1, 0);
	small_notify(w.s, EVENT);
	small_turn(w.s);
	vdev_stop(w.s->dev);
	/* Another machine with the same memory. */
	snprintf(text, sizeof(text), "cid=%d,socket=%s-there", CID, w.path);
	machine = *w.s;
	machine.dev = small_device(w.s, &vsock_kind, text);
	there.s = &machine;
	there.guest_port = w.guest_port;
	there.host_port = w.host_port;
	state_torture(&w.s->dev->device_ops, w.s->dev, machine.dev);
	vdev_start(machine.dev);
	small_until(w.s, driver_used(&machine.driver[EVENT], 1, &len) >= 0);
	assert_int_equal(len, 4);
	assert_int_equal(*(uint32_t *)(void *)(w.s->ram + buf.gpa), VIRTIO_VSOCK_EVENT_TRANSPORT_RESET);
	guest_send(&there, VIRTIO_VSOCK_OP_RW, 0, "x", 1);
	expect_op(&there, VIRTIO_VSOCK_OP_RST);
	vdev_free(machine.dev);
	close(fd);
	world_free(&w);
}

static void fill(struct small *s, uint64_t gpa, uint64_t pages)
{
	assert_true(memory_fill(s->mem, gpa_to_gfn(GPA(gpa)), pages, NULL) >= 0);
}

/* The guest's buffer has not come: what it is to get stays in the socket, what it sends goes on. */
static void a_missing_page_holds_up_one_direction(void **state)
{
	struct world w = world_late(true);
	char text[8] = { 0 };
	struct packet p;
	int fd;

	(void)state;
	fill(w.s, SMALL_RINGS, 16);
	fill(w.s, TX_AT, 2);
	fill(w.s, RX_AT(0), 1);
	small_start(w.s, 0);
	give_buffer(&w);
	fd = guest_calls(&w);
	assert_int_equal(write(fd, "hello", 5), 5);
	small_until(w.s, vqueue_is_parked(&w.s->dev->queue[RX]));
	guest_send(&w, VIRTIO_VSOCK_OP_RW, 0, "out", 3);
	assert_int_equal(host_read(&w, fd, text, 3), 3);
	assert_string_equal(text, "out");
	/* Stopped meanwhile, and on again. */
	vdev_stop(w.s->dev);
	assert_false(vqueue_is_parked(&w.s->dev->queue[RX]));
	small_turn(w.s);
	vdev_start(w.s->dev);
	fill(w.s, RX_AT(1), 1);
	p = expect_op(&w, VIRTIO_VSOCK_OP_RW);
	assert_memory_equal(p.data, "hello", 5);
	/* The end comes while it is parked. */
	assert_int_equal(write(fd, "more", 4), 4);
	small_until(w.s, vqueue_is_parked(&w.s->dev->queue[RX]));
	close(fd);
	world_free(&w);
}

/* There is no descriptor for another client: it waits, and the loop does not run in circles. */
static void a_client_waits_for_a_descriptor(void **state)
{
	struct world w = world_new(8);
	int fd;

	(void)state;
	fd = host_dial(&w);
	assert_in_range(turns_without_descriptor(loop_uv(w.s->loop), fd), 1, 20);
	w.guest_port = 5000;
	assert_int_equal(write(fd, "CONNECT 5000\n", 13), 13);
	expect_op(&w, VIRTIO_VSOCK_OP_REQUEST);
	close(fd);
	world_free(&w);
}

static void greetings_are_short_and_few(void **state)
{
	static const char *const bad[] = { "HELLO\n", "G", "POST / HTTP/1.1\r\n", "CONNECTED",
					    "CONNECT \n", "CONNECT x\n", "CONNECT 4294967296\n", "CONNECT 1 2\n", "\n",
					   "CONNECT 00000000000000000000000000000001\n" };
	struct world w = world_new(8);
	int fd, idle[VSOCK_GREETINGS_MAX + 4];
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		fd = host_dial(&w);
		assert_int_equal(write(fd, bad[i], strlen(bad[i])), strlen(bad[i]));
		expect_end(&w, fd);
		close(fd);
	}
	expect_silence(&w);
	/* More than are greeted at a time: the others wait, and come when one has gone. */
	for (i = 0; i < sizeof(idle) / sizeof(idle[0]); i++) {
		idle[i] = host_dial(&w);
		small_turn(w.s);
	}
	w.guest_port = 5000;
	assert_int_equal(write(idle[i - 1], "CONNECT 5000\n", 13), 13);
	expect_silence(&w);
	for (i = 0; i < 4; i++)
		close(idle[i]);
	expect_op(&w, VIRTIO_VSOCK_OP_REQUEST);
	for (; i < sizeof(idle) / sizeof(idle[0]); i++)
		close(idle[i]);
	world_free(&w);
}

static void options_say_what_is_allowed(void **state)
{
	static const char *const bad[] = { "", "cid=3", "cid=2,socket=/a", "cid=4294967295,socket=/a", "cid=3,socket=", "socket=/a,cid=3",
					   "cid=x,socket=/a", "cid=,socket=/a" };
	struct vsock_options options;
	char text[200];
	struct err err;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		assert_int_equal(vsock_options_parse(&options, bad[i], &err), -EINVAL);
		assert_non_null(strstr(err.text, "cid=N,socket=PATH"));
	}
	assert_int_equal(vsock_options_parse(&options, "cid=4294967294,socket=/run/a,b", &err), 0);
	assert_int_equal(options.cid, 4294967294u);
	assert_string_equal(options.path, "/run/a,b");
	/* With the longest port behind it. */
	snprintf(text, sizeof(text), "cid=3,socket=/%095d", 1);
	assert_int_equal(vsock_options_parse(&options, text, &err), 0);
	snprintf(text, sizeof(text), "cid=3,socket=/%096d", 1);
	assert_int_equal(vsock_options_parse(&options, text, &err), -ENAMETOOLONG);
}

static void a_socket_that_is_in_use_is_left_alone(void **state)
{
	struct world w = world_new(0);
	const struct vdev_env env = { .mem = w.s->mem, .loop = w.s->loop, .msi = { &fake_msi_ops, &w.s->msi } };
	struct vdev *dev;
	char text[96];
	struct err err;

	(void)state;
	snprintf(text, sizeof(text), "cid=3,socket=%s", w.path);
	assert_int_equal(vsock_kind.make(&dev, &env, text, 0, &err), -EADDRINUSE);
	assert_non_null(strstr(err.text, w.path));
	assert_int_equal(access(w.path, F_OK), 0);
	assert_true(vsock_kind.make(&dev, &env, "cid=3,socket=/nonexistent/x", 0, &err) < 0);
	world_free(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_host_reaches_the_guest),
		cmocka_unit_test(the_guest_reaches_the_host),
		cmocka_unit_test(a_caller_that_is_refused_or_goes_is_closed),
		cmocka_unit_test(a_host_that_goes_without_reading_is_noticed),
		cmocka_unit_test(a_host_that_does_not_read_holds_up_the_guest),
		cmocka_unit_test(a_guest_that_goes_over_its_credit_is_reset),
		cmocka_unit_test(the_guest_gets_no_more_than_it_has_room_for),
		cmocka_unit_test(packets_of_nobody_are_refused_or_dropped),
		cmocka_unit_test(refusals_are_bounded),
		cmocka_unit_test(a_reset_ends_connections),
		cmocka_unit_test(a_call_before_the_driver_waits_for_it),
		cmocka_unit_test(a_call_that_no_driver_takes_ends),
		cmocka_unit_test(after_a_migration_the_guest_is_told),
		cmocka_unit_test(a_missing_page_holds_up_one_direction),
		cmocka_unit_test(a_client_waits_for_a_descriptor),
		cmocka_unit_test(greetings_are_short_and_few),
		cmocka_unit_test(options_say_what_is_allowed),
		cmocka_unit_test(a_socket_that_is_in_use_is_left_alone),
	};

	signal(SIGPIPE, SIG_IGN);
	log_set_level(LOG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
