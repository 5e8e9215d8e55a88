// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "control/share_message.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define SHARE_MAGIC 0x52485350u	/* "PSHR" */
#define SHARE_VERSION 1

void share_message_init(struct share_message *msg, enum share_kind kind)
{
	memset(msg, 0, sizeof(*msg));
	msg->magic = SHARE_MAGIC;
	msg->version = SHARE_VERSION;
	msg->kind = (uint16_t)kind;
}

static int regions_check(const struct share_message *msg, struct err *err)
{
	uint64_t pages = 0;
	unsigned int i;

	if (msg->n > MEMORY_REGIONS_MAX)
		return err_set(err, -EBADMSG, "share: %u memory regions", msg->n);
	for (i = 0; i < msg->n; i++)
		if (msg->region[i].host % PAGE_BYTES ||
		    __builtin_add_overflow(pages, msg->region[i].pages, &pages) ||
		    pages > INT64_MAX / PAGE_BYTES)
			return err_set(err, -EBADMSG, "share: memory region %u is none", i);
	return 0;
}

int share_message_read(struct share_message *msg, const void *data, size_t n, struct err *err)
{
	if (n != sizeof(*msg))
		return err_set(err, -EBADMSG, "share: a message of %zu bytes", n);
	memcpy(msg, data, n);
	if (msg->magic != SHARE_MAGIC)
		return err_set(err, -EBADMSG, "share: this is no message of a share");
	if (msg->version != SHARE_VERSION)
		return err_set(err, -EPROTO,
			       "share: the other side speaks version %u, this one %d: another postern "
			       "keeps it; use another name for the share",
			       msg->version, SHARE_VERSION);
	if (!msg->kind || msg->kind >= SHARE_KINDS)
		return err_set(err, -EBADMSG, "share: a message of kind %u", msg->kind);
	msg->text[sizeof(msg->text) - 1] = '\0';
	return regions_check(msg, err);
}

uint64_t share_message_regions(const struct share_message *msg, struct memory_region *regions)
{
	uint64_t pages = 0;
	unsigned int i;

	for (i = 0; i < msg->n; i++) {
		regions[i] = (struct memory_region){
			.host = (uint8_t *)(uintptr_t)msg->region[i].host,
			.pages = msg->region[i].pages,
		};
		pages += msg->region[i].pages;
	}
	return pages;
}

/* Room for one descriptor, as messages carry it. */
union share_control {
	struct cmsghdr head;
	uint8_t space[CMSG_SPACE(sizeof(int))];
};

int share_message_send(int sock, const struct share_message *msg, int fd)
{
	union share_control control = {
		.head = { CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS },
	};
	struct iovec data = { (void *)(uintptr_t)msg, sizeof(*msg) };
	struct msghdr head = { .msg_iov = &data, .msg_iovlen = 1 };
	ssize_t n;

	if (fd >= 0) {
		memcpy(CMSG_DATA(&control.head), &fd, sizeof(fd));
		head.msg_control = &control;
		head.msg_controllen = sizeof(control);
	}
	do
		n = sendmsg(sock, &head, MSG_NOSIGNAL);
	while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : 0;
}

int share_message_receive(int sock, struct share_message *msg, int *fd, struct err *err)
{
	union share_control control = { 0 };
	uint8_t bytes[sizeof(*msg) + 1];
	struct iovec data = { bytes, sizeof(bytes) };
	struct msghdr head = {
		.msg_iov = &data, .msg_iovlen = 1,
		.msg_control = &control, .msg_controllen = sizeof(control),
	};
	ssize_t n;
	int r;

	*fd = -1;
	do
		n = recvmsg(sock, &head, MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return err_errno(err, -errno, "share");
	if (head.msg_controllen >= CMSG_LEN(sizeof(int)) && control.head.cmsg_level == SOL_SOCKET &&
	    control.head.cmsg_type == SCM_RIGHTS && control.head.cmsg_len == CMSG_LEN(sizeof(int)))
		memcpy(fd, CMSG_DATA(&control.head), sizeof(*fd));
	if (!n)
		r = err_set(err, -EPIPE, "share: its keeper has gone");
	else
		r = share_message_read(msg, bytes, (size_t)n, err);
	if (r < 0 && *fd >= 0) {
		close(*fd);
		*fd = -1;
	}
	return r;
}
