// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * tap.c - a tap device, by name or already open, and sockets that carry one
 * frame a packet.
 *
 * With IFF_VNET_HDR the kernel takes checksums and segmentation off the guest,
 * and hands it large frames if TUNSETOFFLOAD says that it can take them.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "device/net/backend.h"

static ssize_t tap_write(struct net_backend *b, const struct iovec *iov, unsigned int n)
{
	ssize_t r = writev(b->fd, iov, (int)n);

	return r < 0 ? -errno : r;
}

static ssize_t tap_read(struct net_backend *b, void *to, size_t room)
{
	ssize_t r = read(b->fd, to, room);

	return r < 0 ? -errno : r;
}

static int offloads_set(int fd, unsigned int offloads)
{
	static const unsigned int flags[] = { TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6, TUN_F_TSO_ECN };
	unsigned long value = 0;
	unsigned int i;

	for (i = 0; i < sizeof(flags) / sizeof(flags[0]); i++)
		if (offloads >> i & 1)
			value |= flags[i];
	return ioctl(fd, TUNSETOFFLOAD, value) < 0 ? -errno : 0;
}

static void tap_set_offloads(struct net_backend *b, unsigned int offloads)
{
	/* A combination that the kernel refuses (segmentation without checksums): then none. */
	if (offloads_set(b->fd, offloads & b->offloads) < 0)
		offloads_set(b->fd, 0);
}

static const struct net_backend_ops tap_ops = { .write = tap_write,
						.read = tap_read,
						.set_offloads = tap_set_offloads };

/*
 * Is a tap that somebody has handed over in our network namespace? Others have
 * interfaces of its name, too.
 */
static bool is_in_our_namespace(int fd)
{
	int there = ioctl(fd, TUNGETDEVNETNS);
	struct stat ours, its;
	bool same;

	if (there < 0)
		return false;
	same = !stat("/proc/self/ns/net", &ours) && !fstat(there, &its) &&
	       ours.st_dev == its.st_dev && ours.st_ino == its.st_ino;
	close(there);
	return same;
}

/* What the interface takes and brings; one that changes later is not told to a guest that runs. */
static unsigned int mtu_find(const char *name)
{
	struct ifreq ifr = { 0 };
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	unsigned int mtu = 0;

	if (fd < 0)
		return 0;
	strncpy(ifr.ifr_name, name, IFNAMSIZ - 1);
	if (ioctl(fd, SIOCGIFMTU, &ifr) == 0 && ifr.ifr_mtu >= NET_MTU_MIN &&
	    ifr.ifr_mtu <= NET_MTU_MAX)
		mtu = (unsigned int)ifr.ifr_mtu;
	close(fd);
	return mtu;
}

/* fd is a tap device: finds out what it can do. */
static int tap_init(struct net_backend *b, const struct ifreq *ifr, struct err *err)
{
	const unsigned int all =
		NET_OFFLOAD_CSUM | NET_OFFLOAD_TSO4 | NET_OFFLOAD_TSO6 | NET_OFFLOAD_ECN;
	int size = NET_HEADER_BYTES, little = 1;

	snprintf(b->name, sizeof(b->name), "tap %.*s", IFNAMSIZ, ifr->ifr_name);
	b->ops = &tap_ops;
	if (!(ifr->ifr_flags & IFF_TAP) || !(ifr->ifr_flags & IFF_NO_PI))
		return err_set(
			err, -EINVAL,
			"%s: it is no tap, or one that puts packet information before frames",
			b->name);
	b->header = ifr->ifr_flags & IFF_VNET_HDR;
	if (!b->header)
		return 0;
	if (ioctl(b->fd, TUNSETVNETHDRSZ, &size) < 0)
		return err_errno(err, -errno, "%s: header of %d bytes", b->name, size);
	/*
	 * The guest's are little-endian, whatever the host is; hosts that are
	 * need not know how to ask.
	 */
	ioctl(b->fd, TUNSETVNETLE, &little);
	if (offloads_set(b->fd, all) == 0)
		b->offloads = all;
	offloads_set(b->fd, 0);
	return 0;
}

int net_tap_open(struct net_backend *b, const char *name, struct err *err)
{
	struct ifreq ifr = { .ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR };
	int r;

	/* A name that is not there would be made, and be nowhere connected. */
	if (!if_nametoindex(name))
		return err_set(err, -ENODEV,
			       "tap %s: there is no such interface (ip tuntap add %s mode tap)",
			       name, name);
	b->fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
	if (b->fd < 0)
		return err_errno(err, -errno, "tap %s: /dev/net/tun", name);
	strncpy(ifr.ifr_name, name, IFNAMSIZ - 1);
	r = ioctl(b->fd, TUNSETIFF, &ifr) < 0 ? -errno : 0;
	if (r == -EINVAL) {
		ifr.ifr_flags |= IFF_MULTI_QUEUE;
		r = ioctl(b->fd, TUNSETIFF, &ifr) < 0 ? -errno : 0;
	}
	if (r == -EBUSY)
		return err_set(err, r, "tap %s: something else uses it", name);
	if (r == -EINVAL)
		return err_set(err, r, "tap %s: that interface is no tap", name);
	if (r < 0)
		return err_errno(err, r, "tap %s", name);
	b->mtu = mtu_find(name);
	return tap_init(b, &ifr, err);
}

/* ---- descriptors ---- */

static ssize_t packet_write(struct net_backend *b, const struct iovec *iov, unsigned int n)
{
	const struct msghdr msg = { .msg_iov = (struct iovec *)iov, .msg_iovlen = n };
	ssize_t r = sendmsg(b->fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);

	/* A network's full queue is no error. */
	return r >= 0 ? r : errno == ENOBUFS ? -EAGAIN : -errno;
}

static ssize_t packet_read(struct net_backend *b, void *to, size_t room)
{
	ssize_t r = recv(b->fd, to, room, MSG_DONTWAIT);

	return r < 0 ? -errno : r;
}

static const struct net_backend_ops packet_ops = { .write = packet_write, .read = packet_read };

int net_fd_open(struct net_backend *b, int fd, struct err *err)
{
	struct ifreq ifr = { 0 };
	int type = 0, flags;
	socklen_t len = sizeof(type);

	flags = fcntl(fd, F_GETFL);
	if (flags < 0)
		return err_errno(err, -errno, "descriptor %d", fd);
	b->fd = fd;
	fcntl(fd, F_SETFD, FD_CLOEXEC);
	if (fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
		return err_errno(err, -errno, "descriptor %d", fd);
	if (ioctl(fd, TUNGETIFF, &ifr) == 0) {
		b->mtu = is_in_our_namespace(fd) ? mtu_find(ifr.ifr_name) : 0;
		return tap_init(b, &ifr, err);
	}
	snprintf(b->name, sizeof(b->name), "descriptor %d", fd);
	if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) == 0 && type == SOCK_STREAM)
		return net_stream_open(b, fd, err);
	if (type != SOCK_DGRAM && type != SOCK_SEQPACKET)
		return err_set(err, -EINVAL, "descriptor %d is neither a tap nor a socket", fd);
	b->ops = &packet_ops;
	return 0;
}
