/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * Ethernet frames, as far as back ends look into them. Pure functions over a
 * buffer.
 */
#ifndef POSTERN_DEVICE_NET_FRAME_H
#define POSTERN_DEVICE_NET_FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "device/net/config.h"

/* What net_frame_is_loopbacks looks at: an Ethernet header, and IPv6's. */
#define NET_FRAME_HEAD 54u
#define NET_FRAME_ASK_MAX 96u

/*
 * Is a frame, of which the first len bytes are here (NET_FRAME_HEAD, or all),
 * for a host's loopback: 127.0.0.0/8, 0.0.0.0/8, ::1, ::, or one of IPv4's in
 * IPv6's clothes (::ffff:0:0/96)? No such address is ever on a wire (RFC 1122,
 * 3.2.1.3; RFC 4291, 2.5). But Debian 12's passt connects to whatever address a
 * frame names, from a socket of the host's: to these, it is the host's own
 * loopback.
 */
bool net_frame_is_loopbacks(const uint8_t *head, size_t len);

/*
 * A question that every router answers, passt above all, from `mac`; returns
 * its length. Who has 192.0.2.1 (RFC 826)?
 */
size_t net_frame_ask_ipv4(uint8_t frame[NET_FRAME_ASK_MAX], const uint8_t mac[NET_MAC_BYTES]);
/* Who has fe80::1 (RFC 4861, 4.3)? */
size_t net_frame_ask_ipv6(uint8_t frame[NET_FRAME_ASK_MAX], const uint8_t mac[NET_MAC_BYTES]);

#endif
