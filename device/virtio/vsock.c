// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * vsock.c - virtio-vsock (virtio 1.2, section 5.10): stream sockets between the
 * guest and the host, here unix sockets (vsock_host.h).
 *
 * All of it in user space. The kernel's own device (vhost-vsock) reads and
 * writes guest memory from a kernel thread that nothing can bring out of its
 * wait for a missing page.
 *
 * Towards the guest everything is pulled: when its rx queue has a buffer, who
 * has something to say gets it, in turn: refusals first, then each connection.
 * A socket's bytes are read straight into the guest's buffer, so none are in
 * flight; without buffers, or credit, they are left in the socket, and whoever
 * sends them waits. From the guest, bytes are written to the socket, and what
 * it does not take is kept: VSOCK_BUFFER_BYTES a connection at most, which is
 * the credit that the guest is given (5.10.6.3). What one connection does is in
 * vsock_conn.c.
 *
 * Who calls the guest before its driver is up waits for it, CALL_PATIENCE_NS at
 * most: the call is told when there is a buffer for that. A driver begins with
 * a reset, which ends what the guest knows of, and no call that it has not
 * heard of.
 *
 * Connections end with a migration: the destination tells the driver so
 * (VIRTIO_VSOCK_EVENT_TRANSPORT_RESET, 5.10.6.7).
 *
 * The device's lock guards all of it. Everything but `reset` runs on the main
 * thread.
 */
#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <linux/virtio_vsock.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/loop.h"
#include "device/virtio/type.h"
#include "device/virtio/vsock_conn.h"
#include "device/virtio/vsock_host.h"

#define HOST_CID 2u
#define QUEUE_SIZE 128
/*
 * Resets that answer packets of no connection; while there are so many no more
 * packets are taken.
 */
#define REFUSALS_MAX 64u
/* How long the guest has to answer a shutdown. */
#define LINGER_NS (2 * NS_PER_SEC)
#define LINGER_LOOK_MS 500
/* How long a call waits for a guest that has no driver: a machine boots meanwhile. */
#define CALL_PATIENCE_NS (60 * NS_PER_SEC)
/* Ports of connections that the host begins. */
#define PORT_FIRST (UINT32_C(1) << 30)

enum { QUEUE_RX, QUEUE_TX, QUEUE_EVENT, QUEUES };

/* Handles that outlive the device until they are closed. */
struct vsock_loop {
	unsigned int handles;	/* first: see loop_close_one_of */
	uv_async_t reap;
	uv_timer_t linger;
	struct vsock *vs;
};

struct vsock {
	struct vsock_table table;	/* first: who has it has the device */
	struct vdev dev;
	struct virtio_vsock_config config;
	struct vsock_host *host;
	struct vsock_loop *loop;
	unsigned int turn;		/* whose turn it is to send */
	struct virtio_vsock_hdr refusal[REFUSALS_MAX];
	unsigned int refusals;
	bool tx_waits;			/* for refusals to be sent */
	bool event;			/* the driver is to be told that its connections are gone */
	uint32_t next_port;
};

static void pump(struct vsock *vs);

/* ---- packets from the guest ---- */

/* A reset in answer to this packet. There is room: see on_tx. */
static void vsock_refuse(struct vsock *vs, const struct virtio_vsock_hdr *to)
{
	if (le16toh(to->op) == VIRTIO_VSOCK_OP_RST)
		return;
	vs->refusal[vs->refusals++] = (struct virtio_vsock_hdr){
		.src_cid = to->dst_cid, .dst_cid = to->src_cid, .src_port = to->dst_port, .dst_port = to->src_port,
		.type = to->type, .op = htole16(VIRTIO_VSOCK_OP_RST),
	};
}

/* The guest calls the host. */
static void take_request(struct vsock *vs, const struct virtio_vsock_hdr *header)
{
	int fd = vs->table.n < VSOCK_CONNS_MAX ?
			 vsock_host_connect(vs->host, le32toh(header->dst_port)) :
			 -EMFILE;
	struct vsock_conn *c = fd >= 0 ? vsock_conn_new(&vs->table, fd, VSOCK_OPEN) : NULL;

	if (!c) {
		vsock_refuse(vs, header);
		return;
	}
	c->host_port = le32toh(header->dst_port);
	c->guest_port = le32toh(header->src_port);
	c->peer_alloc = le32toh(header->buf_alloc);
	c->peer_gone = le32toh(header->fwd_cnt);
	c->response = true;
	vsock_conn_update(c);
}

/* The guest has accepted what the host called. */
static void take_response(struct vsock_conn *c)
{
	char line[VSOCK_LINE_MAX];
	int n = snprintf(line, sizeof(line), "OK %" PRIu32 "\n", c->host_port);

	/* The first bytes into a socket: it takes all, or its other side has gone. */
	if (c->state != VSOCK_CALLING ||
	    send(c->fd, line, (size_t)n, MSG_NOSIGNAL | MSG_DONTWAIT) != n)
		vsock_conn_refuse(c);
	else
		c->state = VSOCK_OPEN;
}

static void take_shutdown(struct vsock_conn *c, uint32_t flags)
{
	if (c->state == VSOCK_CLOSING && flags == VSOCK_BOTH)
		vsock_conn_refuse(c);
	if (c->state != VSOCK_OPEN)
		return;
	c->guest_ended |= flags & VSOCK_BOTH;
	if (flags & VSOCK_RCV && c->guest_ended != VSOCK_BOTH)
		shutdown(c->fd, SHUT_RD);
	vsock_conn_finish(c);
}

static void take_reset(struct vsock_conn *c)
{
	if (c->state == VSOCK_OPEN && c->len)
		c->state = VSOCK_DRAINING;
	else
		vsock_conn_free(c);
}

/* A packet of a connection that there is. */
static void take_known(struct vsock_conn *c, const struct virtio_vsock_hdr *header,
		       const struct vchain *chain)
{
	uint16_t op = le16toh(header->op);

	c->peer_alloc = le32toh(header->buf_alloc);
	c->peer_gone = le32toh(header->fwd_cnt);
	c->asked = false;
	if (op == VIRTIO_VSOCK_OP_RST) {
		take_reset(c);
		return;
	}
	/* The answer is on its way. */
	if (c->state == VSOCK_REFUSED)
		return;
	if (op == VIRTIO_VSOCK_OP_RESPONSE)
		take_response(c);
	else if (op == VIRTIO_VSOCK_OP_SHUTDOWN)
		take_shutdown(c, le32toh(header->flags));
	else if (op == VIRTIO_VSOCK_OP_RW && c->state == VSOCK_OPEN)
		vsock_conn_receive(c, chain, le32toh(header->len));
	else if (op == VIRTIO_VSOCK_OP_CREDIT_REQUEST)
		c->credit = true;
	else if (op != VIRTIO_VSOCK_OP_CREDIT_UPDATE && c->state != VSOCK_CLOSING)
		vsock_conn_refuse(c);
	vsock_conn_update(c);
}

static void vsock_take(struct vsock *vs, const struct virtio_vsock_hdr *header,
		       const struct vchain *chain)
{
	struct vsock_conn *c;

	/* Nobody else's packets are passed on (5.10.6.4), and nobody else would get an answer. */
	if (header->src_cid != vs->config.guest_cid)
		return;
	if (le64toh(header->dst_cid) != HOST_CID ||
	    le16toh(header->type) != VIRTIO_VSOCK_TYPE_STREAM) {
		vsock_refuse(vs, header);
		return;
	}
	c = vsock_conn_find(&vs->table, le32toh(header->dst_port), le32toh(header->src_port));
	if (c)
		take_known(c, header, chain);
	else if (le16toh(header->op) == VIRTIO_VSOCK_OP_REQUEST)
		take_request(vs, header);
	else
		vsock_refuse(vs, header);
}

static void on_tx(struct vsock *vs, struct vqueue *q)
{
	struct vchain *chain;
	struct virtio_vsock_hdr header;
	unsigned int n;

	for (n = 0; n < VDEV_TURN_CHAINS; n++) {
		vs->tx_waits = vs->refusals == REFUSALS_MAX;
		if (vs->tx_waits || !vdev_take(&vs->dev, q, &chain))
			break;
		if (!vchain_read(chain, 0, &header, sizeof(header)) ||
		    le32toh(header.len) > chain->out_bytes - sizeof(header)) {
			vqueue_drop(q, chain);
			vdev_fail(&vs->dev, "queue %u: a packet that is shorter than it says",
				  q->index);
			return;
		}
		vsock_take(vs, &header, chain);
		vdev_give(&vs->dev, q, chain, 0);
	}
	if (n == VDEV_TURN_CHAINS)
		vqueue_kick(q);
	pump(vs);
}

/* ---- packets to the guest ---- */

/* What was said has consequences. */
static void conn_said(struct vsock *vs, struct vsock_conn *c, uint16_t op)
{
	c->credit = false;
	c->reported = c->gone;
	if (op == VIRTIO_VSOCK_OP_REQUEST)
		c->request = false;
	if (op == VIRTIO_VSOCK_OP_RESPONSE)
		c->response = false;
	if (op == VIRTIO_VSOCK_OP_CREDIT_REQUEST)
		c->asked = true;
	if (op == VIRTIO_VSOCK_OP_SHUTDOWN)
		c->host_end_sent = c->host_ended;
	if (op == VIRTIO_VSOCK_OP_SHUTDOWN && c->host_end_sent == VSOCK_BOTH) {
		vsock_conn_linger(c, clock_now_ns() + LINGER_NS);
		if (!uv_is_active((uv_handle_t *)&vs->loop->linger))
			uv_timer_again(&vs->loop->linger);
	}
	if (op == VIRTIO_VSOCK_OP_RST)
		vsock_conn_free(c);
	else
		vsock_conn_update(c);
}

/*
 * One packet: of a connection (then op is its), or a refusal. False: the guest
 * has no buffer for it now.
 */
static bool vsock_say(struct vsock *vs, struct vsock_conn *c, uint16_t op)
{
	struct vqueue *q = &vs->dev.queue[QUEUE_RX];
	struct virtio_vsock_hdr header = vs->refusal[0];
	struct vchain *chain;
	uint32_t len = 0;

	if (!vdev_take(&vs->dev, q, &chain))
		return false;
	if (chain->in_bytes < sizeof(header)) {
		vqueue_drop(q, chain);
		vdev_fail(&vs->dev, "queue %u: a buffer without room for a packet's header",
			  q->index);
		return false;
	}
	if (c) {
		if (op == VIRTIO_VSOCK_OP_RW)
			len = vsock_conn_read(c, chain);
		c->sent += len;
		header = (struct virtio_vsock_hdr){
			.src_cid = htole64(HOST_CID), .dst_cid = vs->config.guest_cid, .src_port = htole32(c->host_port),
			.dst_port = htole32(c->guest_port), .len = htole32(len), .type = htole16(VIRTIO_VSOCK_TYPE_STREAM),
			.op = htole16(op), .flags = htole32(op == VIRTIO_VSOCK_OP_SHUTDOWN ? c->host_ended : 0),
			.buf_alloc = htole32(VSOCK_BUFFER_BYTES), .fwd_cnt = htole32(c->gone),
		};
	} else {
		vs->refusals--;
		memmove(vs->refusal, vs->refusal + 1, vs->refusals * sizeof(vs->refusal[0]));
	}
	vchain_write(chain, 0, &header, sizeof(header));
	vdev_give(&vs->dev, q, chain, (uint32_t)sizeof(header) + len);
	if (c)
		conn_said(vs, c, op);
	return true;
}

/* The next connection, from whose turn it is on, that has something to say. */
static struct vsock_conn *next_speaker(struct vsock *vs, uint16_t *op)
{
	unsigned int i, at;

	for (i = 0; i < vs->table.n; i++) {
		at = (vs->turn + i) % vs->table.n;
		*op = vsock_conn_next_op(vs->table.conn[at]);
		/* A look may have changed what it waits for. */
		vsock_conn_update(vs->table.conn[at]);
		if (*op) {
			vs->turn = at + 1;
			return vs->table.conn[at];
		}
	}
	return NULL;
}

/* As much as the guest has buffers for. */
static void pump(struct vsock *vs)
{
	struct vsock_conn *c = NULL;
	unsigned int n = 0;
	uint16_t op = 0;

	while (n < VDEV_TURN_CHAINS && (vs->refusals || (c = next_speaker(vs, &op)))) {
		if (!vsock_say(vs, vs->refusals ? NULL : c, op))
			return;
		n++;
		if (vs->tx_waits && vs->refusals < REFUSALS_MAX) {
			vs->tx_waits = false;
			vqueue_kick(&vs->dev.queue[QUEUE_TX]);
		}
	}
	if (n == VDEV_TURN_CHAINS)
		vqueue_kick(&vs->dev.queue[QUEUE_RX]);
}

static void vsock_on_event(struct vsock *vs, struct vqueue *q)
{
	const struct virtio_vsock_event event = { .id = htole32(
							  VIRTIO_VSOCK_EVENT_TRANSPORT_RESET) };
	struct vchain *chain;

	if (!vs->event || !vdev_take(&vs->dev, q, &chain))
		return;
	vs->event = false;
	if (vchain_write(chain, 0, &event, sizeof(event)))
		vdev_give(&vs->dev, q, chain, sizeof(event));
	else
		vdev_give(&vs->dev, q, chain, 0);
}

static void vsock_on_queue(void *arg, struct vqueue *q)
{
	struct vsock *vs = arg;

	if (q->index == QUEUE_TX)
		on_tx(vs, q);
	else if (q->index == QUEUE_RX)
		pump(vs);
	else
		vsock_on_event(vs, q);
}

/* ---- the loop ---- */

/* vsock_table.ready. */
static void vsock_on_ready(struct vsock_conn *c, int status, int events)
{
	struct vsock *vs = (struct vsock *)(void *)c->table;
	bool over = false;

	vdev_lock(&vs->dev);
	/* An error shows again, with its reason, at the read or write. */
	if (status < 0) {
		vsock_conn_unpolled(c);
		events = UV_READABLE | UV_WRITABLE;
	}
	if (c->state == VSOCK_CALLING && !vsock_conn_is_closed(c)) {
		/* It has said all it has to say, and waits for the answer. */
		c->readable = true;
	} else if (c->state == VSOCK_CALLING) {
		/* The caller has gone. The guest may know of it, or never will. */
		over = c->request;
		if (over)
			vsock_conn_free(c);
		else
			vsock_conn_refuse(c);
	} else if (c->state != VSOCK_DEAD) {
		c->readable |= (events & UV_READABLE) != 0;
		over = events & UV_WRITABLE && vsock_conn_flush(c);
	}
	if (!over)
		vsock_conn_update(c);
	pump(vs);
	vdev_unlock(&vs->dev);
}

static void linger_look(struct vsock *vs)
{
	if (!uv_is_active((uv_handle_t *)&vs->loop->linger))
		uv_timer_again(&vs->loop->linger);
}

/* A call that the guest has not heard of. */
static bool is_waiting(const struct vsock_conn *c)
{
	return c->state == VSOCK_CALLING && c->request;
}

/* Somebody calls the guest. */
static void vsock_on_connected(void *arg, int fd, uint32_t port)
{
	struct vsock *vs = arg;
	struct vsock_conn *c;
	unsigned int i;

	vdev_lock(&vs->dev);
	c = vsock_conn_new(&vs->table, fd, VSOCK_CALLING);
	if (c) {
		/* There are more ports than connections. */
		do {
			c->host_port = 0;
			vs->next_port =
				vs->next_port < UINT32_MAX - 1 ? vs->next_port + 1 : PORT_FIRST;
			for (i = 0;
			     i < vs->table.n && vs->table.conn[i]->host_port != vs->next_port; i++)
				;
		} while (i < vs->table.n);
		c->host_port = vs->next_port;
		c->guest_port = port;
		c->request = true;
		c->linger_ns = clock_now_ns() + CALL_PATIENCE_NS;
		vsock_conn_update(c);
		pump(vs);
		linger_look(vs);
	}
	vdev_unlock(&vs->dev);
}

static void on_reap(uv_async_t *reap)
{
	struct vsock *vs = ((struct vsock_loop *)reap->data)->vs;
	unsigned int i = 0;

	vdev_lock(&vs->dev);
	while (i < vs->table.n) {
		if (vs->table.conn[i]->state == VSOCK_DEAD)
			vsock_conn_free(vs->table.conn[i]);
		else
			i++;
	}
	linger_look(vs);
	vdev_unlock(&vs->dev);
}

/*
 * A guest that does not answer a shutdown, a call that no driver takes. The
 * time of a machine that does not run is not its guest's, and a driver that is
 * up has its reasons not to give buffers.
 */
static void linger_end(struct vsock *vs, struct vsock_conn *c, int64_t now)
{
	bool absent = vs->dev.running && !(vs->dev.status & VIRTIO_CONFIG_S_DRIVER_OK);

	if (is_waiting(c) && !absent)
		c->linger_ns = now + CALL_PATIENCE_NS;
	else if (is_waiting(c) && c->linger_ns <= now)
		vsock_conn_free(c);
	else if (c->state == VSOCK_CLOSING && c->linger_ns <= now)
		vsock_conn_refuse(c);
}

static void on_linger(uv_timer_t *timer)
{
	struct vsock *vs = ((struct vsock_loop *)timer->data)->vs;
	int64_t now = clock_now_ns();
	unsigned int i, left = 0;

	vdev_lock(&vs->dev);
	/* One that is freed has another moved to its place. */
	for (i = vs->table.n; i--;)
		linger_end(vs, vs->table.conn[i], now);
	for (i = 0; i < vs->table.n; i++)
		left += vs->table.conn[i]->state == VSOCK_CLOSING || is_waiting(vs->table.conn[i]);
	pump(vs);
	if (!left)
		uv_timer_stop(timer);
	vdev_unlock(&vs->dev);
}

static int loop_begin(struct vsock *vs, struct err *err)
{
	struct vsock_loop *loop = calloc(1, sizeof(*loop));
	uv_loop_t *uv = loop_uv(vs->dev.env.loop);
	int r;

	if (!loop)
		return err_set(err, -ENOMEM, "no memory for virtio-vsock");
	r = uv_async_init(uv, &loop->reap, on_reap);
	if (r < 0) {
		free(loop);
		return err_errno(err, r, "event loop");
	}
	uv_timer_init(uv, &loop->linger);
	uv_timer_start(&loop->linger, on_linger, LINGER_LOOK_MS, LINGER_LOOK_MS);
	loop->reap.data = loop->linger.data = loop;
	loop->handles = 2;
	loop->vs = vs;
	vs->loop = loop;
	return 0;
}

/* ---- reset and state ---- */

/* Perhaps on a vCPU thread: handles are the main thread's to close. */
static void vsock_on_reset(void *arg)
{
	struct vsock *vs = arg;
	unsigned int i;

	for (i = 0; i < vs->table.n; i++) {
		if (is_waiting(vs->table.conn[i]))
			vs->table.conn[i]->linger_ns = clock_now_ns() + CALL_PATIENCE_NS;
		else
			vs->table.conn[i]->state = VSOCK_DEAD;
	}
	vs->refusals = 0;
	vs->tx_waits = vs->event = false;
	uv_async_send(&vs->loop->reap);
}

/* Nothing travels: the guest learns that its connections are gone. */
static int vsock_on_load(void *arg, const uint8_t *data, size_t len, bool apply, struct err *err)
{
	struct vsock *vs = arg;

	(void)data;
	if (len)
		return err_set(err, -EINVAL, "%zu bytes of its own, this device has none", len);
	vs->event |= apply;
	return 0;
}

/* ---- life ---- */

static void vsock_free(void *arg)
{
	struct vsock *vs = arg;

	vsock_host_free(vs->host);
	while (vs->table.n)
		vsock_conn_free(vs->table.conn[0]);
	if (vs->loop) {
		loop_close_one_of((uv_handle_t *)&vs->loop->reap, &vs->loop->handles);
		loop_close_one_of((uv_handle_t *)&vs->loop->linger, &vs->loop->handles);
	}
	vdev_fini(&vs->dev);
	free(vs);
}

static const struct vdev_ops vsock_ops = {
	.name = "virtio-vsock",
	.version = 1,
	.type = VIRTIO_ID_VSOCK,
	.pci_class = 0x028000,
	.queue = vsock_on_queue,
	.free = vsock_free,
	.reset = vsock_on_reset,
	.load = vsock_on_load,
};

static int vsock_check(const char *text, struct err *err)
{
	struct vsock_options options;

	return vsock_options_parse(&options, text, err);
}

static int vsock_make(struct vdev **out, const struct vdev_env *env, const char *text,
		      unsigned int number, struct err *err)
{
	struct vdev_config config = {
		.number = number, .queues = QUEUES, .queue_size = QUEUE_SIZE, .config_len = sizeof(struct virtio_vsock_config),
	};
	struct vsock *vs = calloc(1, sizeof(*vs));
	struct vsock_options options;
	int r;

	if (!vs)
		return err_set(err, -ENOMEM, "no memory for virtio-vsock");
	config.config = &vs->config;
	vs->next_port = PORT_FIRST;
	vs->table = (struct vsock_table){ .loop = env->loop, .ready = vsock_on_ready };
	r = vdev_init(&vs->dev, &vsock_ops, vs, env, &config, err);
	if (!r)
		r = vsock_options_parse(&options, text, err);
	if (!r) {
		vs->config.guest_cid = htole64(options.cid);
		r = loop_begin(vs, err);
	}
	if (!r)
		r = vsock_host_new(&vs->host, env->loop, options.path, vsock_on_connected, vs, err);
	if (r < 0) {
		vsock_free(vs);
		return r;
	}
	*out = &vs->dev;
	return 0;
}

const struct virtio_type vsock_type = { .option = "vsock",
					.max = 1,
					.check = vsock_check,
					.make = vsock_make };
