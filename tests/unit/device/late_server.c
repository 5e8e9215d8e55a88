// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "late_server.h"

#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define REQUESTS_MAX 512
#define LINKS_MAX 4096
#define REQUEST_BYTES_MAX (UINT32_C(32) << 20)

enum { NBD_READ, NBD_WRITE, NBD_DISCONNECT, NBD_FLUSH, NBD_TRIM, NBD_ZERO = 6 };

struct link {
	struct late_server *server;
	pthread_t thread;
	int fd;
	bool over;
};

struct wire_request {
	uint32_t magic;
	uint16_t flags, type;
	uint64_t cookie, offset;
	uint32_t len;
} __attribute__((packed));

struct asked {
	struct link *link;		/* NULL: this one is free */
	uint16_t type, flags;
	uint64_t cookie, offset, id;
	uint32_t len;
	uint8_t *data;
	bool late;
};

struct late_server {
	pthread_mutex_t lock;
	pthread_cond_t more;
	pthread_t listening, working;
	struct media *media;
	struct late_options options;
	struct asked asked[REQUESTS_MAX];
	struct link *link[LINKS_MAX];
	unsigned int links, late, refused, largest, flushes, name_bytes, seed;
	uint64_t next_id;
	bool hold, end;
	int fd;
	char dir[40], path[60], uri[100];
};

/* ---- what was asked ---- */

static void asked_free(struct asked *asked)
{
	free(asked->data);
	*asked = (struct asked){ .link = NULL };
}

static void apply(struct late_server *server, struct asked *asked)
{
	if (asked->type == NBD_WRITE)
		media_put(server->media, asked->id, asked->offset, asked->data, asked->len);
	else if (asked->type == NBD_TRIM || asked->type == NBD_ZERO)
		media_put(server->media, asked->id, asked->offset, NULL, asked->len);
}

static uint32_t wrong(struct late_server *server, const struct asked *asked)
{
	const struct late_options *o = &server->options;
	bool data = asked->type == NBD_READ || asked->type == NBD_WRITE;

	if (asked->type == NBD_FLUSH)
		return 0;
	if (asked->offset > server->media->bytes ||
	    asked->len > server->media->bytes - asked->offset)
		return EINVAL;
	if (o->block_min &&
	    ((asked->offset | asked->len) % o->block_min || (data && asked->len > o->block_max))) {
		server->refused++;
		return EINVAL;
	}
	if (data && asked->len > server->largest)
		server->largest = asked->len;
	return 0;
}

static void answer(struct late_server *server, struct asked *asked)
{
	struct {
		uint32_t magic, error;
		uint64_t cookie;
	} __attribute__((packed))
	reply = { htobe32(0x67446698), htobe32(wrong(server, asked)), asked->cookie };
	struct iovec iov[] = {
		{ &reply, sizeof(reply) },
		{ server->media->now + asked->offset, asked->type == NBD_READ && !reply.error ? asked->len : 0 },
	};
	struct msghdr message = { .msg_iov = iov, .msg_iovlen = 2 };

	if (!reply.error)
		apply(server, asked);
	server->flushes += asked->type == NBD_FLUSH;
	if (asked->type == NBD_FLUSH)
		media_flush_end(server->media, media_flush_begin(server->media));
	/* Where nothing can be made stable by asking, all is. */
	media_acknowledge(server->media, asked->id,
			  asked->flags & 1 || (!server->options.flush && !server->options.fua));
	sendmsg(asked->link->fd, &message, MSG_NOSIGNAL);
	asked_free(asked);
}

/* One of them, at random. */
static struct asked *choose(struct late_server *server, bool late)
{
	unsigned int i, n = 0, at;

	for (i = 0; i < REQUESTS_MAX; i++)
		n += server->asked[i].link && server->asked[i].late == late;
	if (!n)
		return NULL;
	at = (unsigned int)rand_r(&server->seed) % n;
	for (i = 0;; i++)
		if (server->asked[i].link && server->asked[i].late == late && !at--)
			return &server->asked[i];
}

static void late_do(struct late_server *server, struct asked *asked)
{
	if (!wrong(server, asked))
		apply(server, asked);
	server->late++;
	asked_free(asked);
}

static void *work(void *arg)
{
	struct late_server *server = arg;
	struct timespec moment = { 0 };
	struct asked *asked;

	pthread_mutex_lock(&server->lock);
	while (!server->end) {
		asked = server->hold ? NULL : choose(server, false);
		if (!asked) {
			pthread_cond_wait(&server->more, &server->lock);
			continue;
		}
		answer(server, asked);
		/* What is late comes after what was asked later. */
		asked = rand_r(&server->seed) % 8 ? NULL : choose(server, true);
		if (asked)
			late_do(server, asked);
		moment.tv_nsec = rand_r(&server->seed) % 100000;
		pthread_mutex_unlock(&server->lock);
		nanosleep(&moment, NULL);
		pthread_mutex_lock(&server->lock);
	}
	pthread_mutex_unlock(&server->lock);
	return NULL;
}

/* ---- connections ---- */

static bool take_bytes(int fd, void *to, size_t len)
{
	return !len || recv(fd, to, len, MSG_WAITALL) == (ssize_t)len;
}

static bool say_bytes(int fd, const void *from, size_t len)
{
	return send(fd, from, len, MSG_NOSIGNAL) == (ssize_t)len;
}

static bool say_reply(int fd, uint32_t option, uint32_t type, const void *data, uint32_t len)
{
	const struct {
		uint64_t magic;
		uint32_t option, type, len;
	} __attribute__((packed))
	head = { htobe64(UINT64_C(0x3e889045565a9)), htobe32(option), htobe32(type), htobe32(len) };

	return say_bytes(fd, &head, sizeof(head)) && (!len || say_bytes(fd, data, len));
}

static bool say_export(struct late_server *server, int fd)
{
	const struct late_options *o = &server->options;
	const struct {
		uint16_t info;
		uint64_t bytes;
		uint16_t flags;
	} __attribute__((packed)) export = {
		0, htobe64(server->media->bytes), htobe16((uint16_t)(1 | o->flush << 2 | o->fua << 3 | 1 << 5 | 1 << 6)),
	};
	const struct {
		uint16_t info;
		uint32_t min, preferred, max;
	} __attribute__((packed)) block = {
		htobe16(3),
		htobe32(o->block_min),
		htobe32(o->block_preferred),
		htobe32(o->block_max),
	};

	return say_reply(fd, 7, 3, &export, sizeof(export)) &&
	       (!o->block_min || say_reply(fd, 7, 3, &block, sizeof(block))) &&
	       say_reply(fd, 7, 1, NULL, 0);
}

static bool shake_hands(struct late_server *server, int fd)
{
	struct {
		uint64_t magic;
		uint32_t option, len;
	} __attribute__((packed)) ask;
	uint8_t data[8192];
	uint32_t name_bytes;
	bool good;

	good = say_bytes(fd, "NBDMAGICIHAVEOPT\0\x03", 18) && take_bytes(fd, data, 4);
	while (good) {
		good = take_bytes(fd, &ask, sizeof(ask)) && be32toh(ask.len) <= sizeof(data) &&
		       take_bytes(fd, data, be32toh(ask.len));
		if (good && be32toh(ask.option) == 7) {
			pthread_mutex_lock(&server->lock);
			memcpy(&name_bytes, data, 4);
			server->name_bytes = be32toh(name_bytes);
			pthread_mutex_unlock(&server->lock);
			return say_export(server, fd);
		}
		good = good && say_reply(fd, be32toh(ask.option), 0x80000001, NULL, 0);
	}
	return false;
}

static bool take_request(struct link *link)
{
	struct late_server *server = link->server;
	struct wire_request wire;
	struct asked asked;
	unsigned int i;

	if (!take_bytes(link->fd, &wire, sizeof(wire)) || be16toh(wire.type) == NBD_DISCONNECT)
		return false;
	asked = (struct asked){
		.link = link, .type = be16toh(wire.type), .flags = be16toh(wire.flags), .cookie = wire.cookie,
		.offset = be64toh(wire.offset), .len = be32toh(wire.len),
	};
	if (asked.type == NBD_WRITE) {
		asked.data = malloc(asked.len < REQUEST_BYTES_MAX ? asked.len : REQUEST_BYTES_MAX);
		if (!take_bytes(link->fd, asked.data, asked.len)) {
			free(asked.data);
			return false;
		}
	}
	pthread_mutex_lock(&server->lock);
	for (i = 0; server->asked[i].link; i++)
		assert(i + 1 < REQUESTS_MAX);
	asked.id = ++server->next_id;
	if (link->over)
		free(asked.data);
	else
		server->asked[i] = asked;
	pthread_cond_signal(&server->more);
	pthread_mutex_unlock(&server->lock);
	return true;
}

/* Called locked. What has no answer: never, or done, or late. */
static void link_end(struct link *link, bool late)
{
	struct late_server *server = link->server;
	unsigned int i, fate;

	if (link->over)
		return;
	link->over = true;
	shutdown(link->fd, SHUT_RDWR);
	for (i = 0; i < REQUESTS_MAX; i++) {
		struct asked *asked = &server->asked[i];

		if (asked->link != link)
			continue;
		fate = (unsigned int)rand_r(&server->seed) % 3;
		if (fate && !wrong(server, asked) && !late)
			apply(server, asked);
		if (fate && late && asked->type != NBD_READ && asked->type != NBD_FLUSH)
			asked->late = true;
		else
			asked_free(asked);
	}
}

static void *serve(void *arg)
{
	struct link *link = arg;
	struct late_server *server = link->server;

	if (shake_hands(server, link->fd))
		while (take_request(link))
			;
	pthread_mutex_lock(&server->lock);
	link_end(link, true);
	pthread_mutex_unlock(&server->lock);
	return NULL;
}

static void *listen_for(void *arg)
{
	struct late_server *server = arg;
	struct link *link;
	int fd;

	while ((fd = accept(server->fd, NULL, NULL)) >= 0) {
		link = calloc(1, sizeof(*link));
		assert(link);
		*link = (struct link){ .server = server, .fd = fd };
		pthread_mutex_lock(&server->lock);
		assert(server->links < LINKS_MAX);
		server->link[server->links++] = link;
		pthread_mutex_unlock(&server->lock);
		pthread_create(&link->thread, NULL, serve, link);
	}
	return NULL;
}

/* ---- the interface ---- */

struct late_server *late_server_new(struct media *media, const struct late_options *options,
				    unsigned int seed)
{
	struct late_server *server = calloc(1, sizeof(*server));
	struct sockaddr_un at = { .sun_family = AF_UNIX };

	assert(server);
	server->media = media;
	server->options = *options;
	server->seed = seed;
	pthread_mutex_init(&server->lock, NULL);
	pthread_cond_init(&server->more, NULL);
	strcpy(server->dir, "/tmp/postern-late-XXXXXX");
	if (!mkdtemp(server->dir))
		abort();
	snprintf(server->path, sizeof(server->path), "%s/s", server->dir);
	snprintf(server->uri, sizeof(server->uri), "nbd+unix:///?socket=%s", server->path);
	strcpy(at.sun_path, server->path);
	server->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (bind(server->fd, (struct sockaddr *)&at, sizeof(at)) < 0 || listen(server->fd, 16) < 0)
		abort();
	pthread_create(&server->listening, NULL, listen_for, server);
	pthread_create(&server->working, NULL, work, server);
	return server;
}

void late_server_free(struct late_server *server)
{
	unsigned int i;

	shutdown(server->fd, SHUT_RDWR);
	pthread_join(server->listening, NULL);
	late_server_cut_links(server);
	pthread_mutex_lock(&server->lock);
	server->end = true;
	pthread_cond_signal(&server->more);
	pthread_mutex_unlock(&server->lock);
	pthread_join(server->working, NULL);
	for (i = 0; i < server->links; i++) {
		pthread_join(server->link[i]->thread, NULL);
		close(server->link[i]->fd);
		free(server->link[i]);
	}
	for (i = 0; i < REQUESTS_MAX; i++)
		free(server->asked[i].data);
	close(server->fd);
	unlink(server->path);
	rmdir(server->dir);
	pthread_cond_destroy(&server->more);
	pthread_mutex_destroy(&server->lock);
	free(server);
}

const char *late_server_uri(const struct late_server *server)
{
	return server->uri;
}

void late_server_hold(struct late_server *server, bool hold)
{
	pthread_mutex_lock(&server->lock);
	server->hold = hold;
	pthread_cond_signal(&server->more);
	pthread_mutex_unlock(&server->lock);
}

void late_server_cut_links(struct late_server *server)
{
	unsigned int i;

	pthread_mutex_lock(&server->lock);
	for (i = 0; i < server->links; i++)
		link_end(server->link[i], true);
	pthread_cond_signal(&server->more);
	pthread_mutex_unlock(&server->lock);
}

void late_server_cut_power(struct late_server *server)
{
	unsigned int i;

	pthread_mutex_lock(&server->lock);
	for (i = 0; i < server->links; i++)
		link_end(server->link[i], false);
	for (i = 0; i < REQUESTS_MAX; i++)
		asked_free(&server->asked[i]);
	media_cut(server->media);
	pthread_mutex_unlock(&server->lock);
}

void late_server_finish(struct late_server *server)
{
	unsigned int i;

	pthread_mutex_lock(&server->lock);
	for (i = 0; i < REQUESTS_MAX; i++)
		if (server->asked[i].late)
			late_do(server, &server->asked[i]);
	pthread_mutex_unlock(&server->lock);
}

static unsigned int counted(struct late_server *server, const unsigned int *count)
{
	unsigned int n;

	pthread_mutex_lock(&server->lock);
	n = *count;
	pthread_mutex_unlock(&server->lock);
	return n;
}

unsigned int late_server_late(struct late_server *server)
{
	return counted(server, &server->late);
}

unsigned int late_server_flushes(struct late_server *server)
{
	return counted(server, &server->flushes);
}

unsigned int late_server_name_bytes(struct late_server *server)
{
	return counted(server, &server->name_bytes);
}

unsigned int late_server_refused(struct late_server *server)
{
	return counted(server, &server->refused);
}

uint32_t late_server_largest(struct late_server *server)
{
	return counted(server, &server->largest);
}

unsigned int late_server_pending(struct late_server *server)
{
	unsigned int i, n = 0;

	pthread_mutex_lock(&server->lock);
	for (i = 0; i < REQUESTS_MAX; i++)
		n += server->asked[i].link != NULL;
	pthread_mutex_unlock(&server->lock);
	return n;
}

void late_server_lock(struct late_server *server)
{
	pthread_mutex_lock(&server->lock);
}

void late_server_unlock(struct late_server *server)
{
	pthread_mutex_unlock(&server->lock);
}
