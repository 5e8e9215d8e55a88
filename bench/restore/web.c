// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * web.c - a web server that is as far away as it is told, and the barest clients of it: what a
 * store's answer takes at least. Knows nothing of postern.
 *
 *   web serve DIR DELAY_US [ONE_IN STALL_MS]
 *       files by GET, whole or one range; each answer DELAY_US after its request, and one in so
 *       many STALL_MS later. Prints its port on 127.0.0.1; ends with its standard input.
 *   web time PORT PATH LEN COUNT       one after the other, at places all over the object
 *   web stream PORT PATH...            each whole, over one connection; prints us, and bytes
 *   web read FILE LEN COUNT [cold]     the same as time of a file; cold: not from the page cache
 *
 * time and read print each one's microseconds, a line.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define CLIENTS_MAX 256
#define HEAD_MAX 8192
#define NS_PER_US 1000

static _Noreturn void die(const char *what)
{
	fprintf(stderr, "web: %s: %s\n", what, strerror(errno));
	exit(1);
}

static int64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

/* ---- the server ---- */

struct client {
	int fd;
	char head[HEAD_MAX];
	size_t head_len;
	int64_t due_ns; /* the answer goes then; 0: there is none */
	char answer[512];
	size_t answer_len, answer_sent;
	int file; /* -1: none */
	off_t at, end;
	uint8_t *map;
	size_t map_len;
};

struct server {
	const char *dir;
	int64_t delay_ns, stall_ns;
	unsigned int one_in, requests;
	int listener;
	struct client *client[CLIENTS_MAX];
	unsigned int n;
};

static void client_drop_file(struct client *c)
{
	if (c->map)
		munmap(c->map, c->map_len);
	if (c->file >= 0)
		close(c->file);
	c->map = NULL;
	c->file = -1;
	c->at = c->end = 0;
}

static void client_open(struct client *c, const char *dir, const char *path)
{
	char name[4096];
	struct stat st;

	snprintf(name, sizeof(name), "%s/%s", dir, path);
	c->file = strstr(path, "..") ? -1 : open(name, O_RDONLY | O_CLOEXEC);
	if (c->file < 0 || fstat(c->file, &st) < 0 || !S_ISREG(st.st_mode)) {
		client_drop_file(c);
		return;
	}
	c->end = st.st_size;
	c->map_len = (size_t)st.st_size;
	c->map = c->map_len ? mmap(NULL, c->map_len, PROT_READ, MAP_SHARED, c->file, 0) : NULL;
	if (c->map == MAP_FAILED)
		die("mmap");
}

static void say(struct client *c, const char *status, long long bytes, const char *more)
{
	c->answer_len = (size_t)snprintf(c->answer, sizeof(c->answer),
					 "HTTP/1.1 %s\r\nContent-Length: %lld\r\n%s\r\n", status,
					 bytes, more);
}

/* A whole head is there: what will be said. */
static void client_ask(struct client *c, struct server *server)
{
	char path[2048], range[128] = "", *field = strcasestr(c->head, "\r\nrange: bytes=");
	long long first = 0, last = -1, size;

	client_drop_file(c);
	if (sscanf(c->head, "GET /%2047s HTTP/1.1", path) != 1) {
		say(c, "405 No", 0, "");
	} else {
		client_open(c, server->dir, path);
		size = c->end;
		if (c->file < 0) {
			say(c, "404 Not found", 0, "");
		} else if (field &&
			   sscanf(field, "\r\n%*[Rr]ange: bytes=%lld-%lld", &first, &last) == 2 &&
			   first < size && last >= first) {
			last = last < size ? last : size - 1;
			c->at = first;
			c->end = last + 1;
			snprintf(range, sizeof(range), "Content-Range: bytes %lld-%lld/%lld\r\n",
				 first, last, size);
			say(c, "206 Partial", c->end - c->at, range);
		} else {
			say(c, "200 OK", size, "");
		}
	}
	c->answer_sent = 0;
	c->due_ns = now_ns() + server->delay_ns;
	if (server->one_in && ++server->requests % server->one_in == 0)
		c->due_ns += server->stall_ns;
}

/* False: it is gone. */
static bool client_read(struct client *c, struct server *server)
{
	ssize_t n = read(c->fd, c->head + c->head_len, sizeof(c->head) - 1 - c->head_len);
	char *end;

	if (n < 0 && errno == EAGAIN)
		return true;
	if (n <= 0)
		return false;
	c->head_len += (size_t)n;
	c->head[c->head_len] = '\0';
	end = strstr(c->head, "\r\n\r\n");
	if (!end)
		return c->head_len < sizeof(c->head) - 1;
	client_ask(c, server);
	c->head_len = 0; /* nobody sends two at once */
	return true;
}

static bool client_write(struct client *c)
{
	ssize_t n = 0;

	while (c->answer_sent < c->answer_len && n >= 0) {
		n = send(c->fd, c->answer + c->answer_sent, c->answer_len - c->answer_sent,
			 MSG_NOSIGNAL | (c->at < c->end ? MSG_MORE : 0));
		c->answer_sent += n > 0 ? (size_t)n : 0;
	}
	while (c->at < c->end && n >= 0) {
		n = send(c->fd, c->map + c->at, (size_t)(c->end - c->at), MSG_NOSIGNAL);
		c->at += n > 0 ? n : 0;
	}
	if (n < 0)
		return errno == EAGAIN;
	c->due_ns = 0;
	return true;
}

static void server_accept(struct server *server)
{
	int fd = accept4(server->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	struct client *c;

	if (fd < 0)
		return;
	c = server->n < CLIENTS_MAX ? calloc(1, sizeof(*c)) : NULL;
	if (!c) {
		close(fd);
		return;
	}
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){ 1 }, sizeof(int));
	c->fd = fd;
	c->file = -1;
	server->client[server->n++] = c;
}

static void server_drop(struct server *server, unsigned int i)
{
	struct client *c = server->client[i];

	client_drop_file(c);
	close(c->fd);
	free(c);
	server->client[i] = server->client[--server->n];
}

/* What is due; returns when to look again, or INT64_MAX. */
static int64_t server_turn(struct server *server, const struct pollfd *fds, unsigned int n)
{
	int64_t now = now_ns(), next = INT64_MAX;
	unsigned int i;

	/* From the end: who is dropped has his place taken by one that was looked at. */
	for (i = n; i-- > 0;) {
		struct client *c = server->client[i];
		bool ok = true;

		if (!c->due_ns && fds[i].revents)
			ok = client_read(c, server);
		if (ok && c->due_ns && c->due_ns <= now)
			ok = client_write(c);
		if (!ok)
			server_drop(server, i);
		else if (c->due_ns && c->due_ns > now && c->due_ns < next)
			next = c->due_ns;
	}
	return next;
}

static int serve(char **words, int n_words)
{
	struct server server = { .dir = words[0], .delay_ns = atoll(words[1]) * NS_PER_US };
	struct sockaddr_in address = { .sin_family = AF_INET,
				       .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(address);
	struct pollfd fds[CLIENTS_MAX + 2];
	int64_t next = INT64_MAX, wait;
	struct timespec until;
	unsigned int i, n;

	if (n_words > 3) {
		server.one_in = (unsigned int)atoi(words[2]);
		server.stall_ns = atoll(words[3]) * 1000 * NS_PER_US;
	}
	server.listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (bind(server.listener, (struct sockaddr *)&address, sizeof(address)) < 0 ||
	    listen(server.listener, 128) < 0 ||
	    getsockname(server.listener, (struct sockaddr *)&address, &len) < 0)
		die("listening");
	printf("%d\n", ntohs(address.sin_port));
	fflush(stdout);
	for (;;) {
		n = server.n;
		for (i = 0; i < n; i++) {
			struct client *c = server.client[i];
			bool sends = c->due_ns && c->due_ns <= now_ns();

			fds[i] = (struct pollfd){ c->fd,
						  sends	    ? POLLOUT :
						  c->due_ns ? 0 :
							      POLLIN,
						  0 };
		}
		fds[n] = (struct pollfd){ server.listener, POLLIN, 0 };
		fds[n + 1] = (struct pollfd){ STDIN_FILENO, POLLIN, 0 };
		wait = next == INT64_MAX ? 0 : next - now_ns();
		wait = wait > 0 ? wait : 0;
		until = (struct timespec){ wait / 1000000000, wait % 1000000000 };
		if (ppoll(fds, n + 2, next == INT64_MAX ? NULL : &until, NULL) < 0)
			die("ppoll");
		if (fds[n + 1].revents)
			return 0;
		next = server_turn(&server, fds, n);
		if (fds[n].revents)
			server_accept(&server);
	}
}

/* ---- the clients ---- */

static int dial(const char *port)
{
	struct sockaddr_in address = { .sin_family = AF_INET,
				       .sin_port = htons((uint16_t)atoi(port)),
				       .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		die("connecting");
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){ 1 }, sizeof(int));
	return fd;
}

/* Asks, and takes all of the answer; the body's bytes. *size: of the whole object. */
static uint64_t ask(int fd, const char *path, uint64_t first, uint64_t len, uint64_t *size)
{
	static char buffer[1 << 20];
	char head[2048], *end, *field;
	size_t have = 0, n_head;
	uint64_t body, got;
	ssize_t n;

	n_head = len ? (size_t)snprintf(head, sizeof(head),
					"GET /%s HTTP/1.1\r\nHost: x\r\nRange: bytes=%" PRIu64
					"-%" PRIu64 "\r\n\r\n",
					path, first, first + len - 1) :
		       (size_t)snprintf(head, sizeof(head), "GET /%s HTTP/1.1\r\nHost: x\r\n\r\n",
					path);
	if (send(fd, head, n_head, MSG_NOSIGNAL) != (ssize_t)n_head)
		die("asking");
	do {
		n = recv(fd, buffer + have, sizeof(buffer) - 1 - have, 0);
		if (n <= 0)
			die("an answer");
		have += (size_t)n;
		buffer[have] = '\0';
		end = strstr(buffer, "\r\n\r\n");
	} while (!end);
	field = strstr(buffer, "Content-Length: ");
	body = field ? strtoull(field + 16, NULL, 10) : 0;
	field = strchr(buffer, '/') ? strstr(buffer, "Content-Range:") : NULL;
	*size = field && strchr(field, '/') ? strtoull(strchr(field, '/') + 1, NULL, 10) : body;
	got = have - (size_t)(end + 4 - buffer);
	while (got < body) {
		n = recv(fd, buffer, sizeof(buffer), 0);
		if (n <= 0)
			die("a body");
		got += (uint64_t)n;
	}
	return body;
}

/* The i-th of some places in an object. */
static uint64_t place(uint64_t i, uint64_t size, uint64_t len)
{
	return size > len ? i * UINT64_C(0x9e3779b97f4a7c15) % (size - len) : 0;
}

static int time_it(char **words)
{
	uint64_t len = strtoull(words[2], NULL, 0), count = strtoull(words[3], NULL, 0), size, i;
	int fd = dial(words[0]);
	int64_t begun;

	ask(fd, words[1], 0, 1, &size);
	for (i = 0; i < count; i++) {
		begun = now_ns();
		ask(fd, words[1], place(i, size, len), len, &(uint64_t){ 0 });
		printf("%.1f\n", (double)(now_ns() - begun) / NS_PER_US);
	}
	return 0;
}

static int stream(char **words, int n)
{
	uint64_t bytes = 0, size;
	int fd = dial(words[0]), i;
	int64_t begun = now_ns();

	for (i = 1; i < n; i++)
		bytes += ask(fd, words[i], 0, 0, &size);
	printf("%.1f %" PRIu64 "\n", (double)(now_ns() - begun) / NS_PER_US, bytes);
	return 0;
}

static int read_it(char **words, int n)
{
	uint64_t len = strtoull(words[1], NULL, 0), count = strtoull(words[2], NULL, 0), i, at;
	int fd = open(words[0], O_RDONLY | O_CLOEXEC);
	char *data = malloc(len + 1);
	struct stat st;
	int64_t begun;

	if (fd < 0 || fstat(fd, &st) < 0 || !data)
		die(words[0]);
	for (i = 0; i < count; i++) {
		at = place(i, (uint64_t)st.st_size, len);
		if (n > 3)
			posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
		begun = now_ns();
		if (pread(fd, data, len, (off_t)at) < 0)
			die("reading");
		printf("%.1f\n", (double)(now_ns() - begun) / NS_PER_US);
	}
	return 0;
}

int main(int argc, char **argv)
{
	if (argc >= 4 && !strcmp(argv[1], "serve"))
		return serve(argv + 2, argc - 2);
	if (argc == 6 && !strcmp(argv[1], "time"))
		return time_it(argv + 2);
	if (argc >= 4 && !strcmp(argv[1], "stream"))
		return stream(argv + 2, argc - 2);
	if (argc >= 5 && !strcmp(argv[1], "read"))
		return read_it(argv + 2, argc - 2);
	fprintf(stderr, "web serve|time|stream|read ...\n");
	return 2;
}
