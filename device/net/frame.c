// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "device/net/frame.h"

#include <arpa/inet.h>
#include <linux/if_arp.h>
#include <linux/if_ether.h>
#include <netinet/icmp6.h>
#include <netinet/ip6.h>
#include <string.h>

/* Of the destination's address in an Ethernet frame. */
#define IPV4_AT (ETH_HLEN + 16)
#define IPV6_AT (ETH_HLEN + 24)

bool net_frame_is_loopbacks(const uint8_t *head, size_t len)
{
	static const uint8_t zero[16], mapped[12] = { [10] = 0xff, [11] = 0xff };
	const uint8_t *to;
	uint16_t type;

	if (len < ETH_HLEN)
		return false;
	memcpy(&type, head + 12, sizeof(type));
	if (type == htons(ETH_P_IP) && len >= IPV4_AT + 4)
		return head[IPV4_AT] == 127 || head[IPV4_AT] == 0;
	if (type != htons(ETH_P_IPV6) || len < IPV6_AT + 16)
		return false;
	to = head + IPV6_AT;
	/* :: and ::1 */
	if (!memcmp(to, zero, 15) && to[15] <= 1)
		return true;
	return !memcmp(to, mapped, sizeof(mapped));
}

size_t net_frame_ask_ipv4(uint8_t frame[NET_FRAME_ASK_MAX], const uint8_t mac[NET_MAC_BYTES])
{
	struct {
		struct ethhdr eth;
		struct arphdr arp;
		uint8_t sender[ETH_ALEN], sender_ip[4], target[ETH_ALEN], target_ip[4];
	} __attribute__((packed)) ask = {
		.eth = { .h_proto = htons(ETH_P_ARP) },
		.arp = { .ar_hrd = htons(ARPHRD_ETHER), .ar_pro = htons(ETH_P_IP),
			.ar_hln = ETH_ALEN, .ar_pln = 4,
			 .ar_op = htons(ARPOP_REQUEST) },
		.target_ip = { 192, 0, 2, 1 },
	};

	memset(ask.eth.h_dest, 0xff, ETH_ALEN);
	memcpy(ask.eth.h_source, mac, ETH_ALEN);
	memcpy(ask.sender, mac, ETH_ALEN);
	memset(frame, 0, ETH_ZLEN);
	memcpy(frame, &ask, sizeof(ask));
	return ETH_ZLEN;
}

/* RFC 1071, over the pseudo header (RFC 8200, 8.1) and what follows. */
static uint16_t net_frame_checksum(const struct ip6_hdr *ip, const void *body, size_t len)
{
	uint32_t sum = htons((uint16_t)len) + htons(IPPROTO_ICMPV6);
	const uint8_t *part[] = { (const uint8_t *)&ip->ip6_src, body };
	const size_t bytes[] = { 2 * sizeof(ip->ip6_src), len };
	uint16_t word;
	size_t i, at;

	for (i = 0; i < 2; i++) {
		for (at = 0; at < bytes[i]; at += 2) {
			memcpy(&word, part[i] + at, 2);
			sum += word;
		}
	}
	sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)~((sum & 0xffff) + (sum >> 16));
}

size_t net_frame_ask_ipv6(uint8_t frame[NET_FRAME_ASK_MAX], const uint8_t mac[NET_MAC_BYTES])
{
	struct {
		struct ethhdr eth;
		struct ip6_hdr ip;
		struct {
			struct nd_neighbor_solicit ask;
			struct nd_opt_hdr option;
			uint8_t mac[ETH_ALEN];
		} __attribute__((packed)) body;
	} __attribute__((packed)) ask = {
		/* The group of who has that address (RFC 4291, 2.7.1). */
		.eth = { .h_dest = { 0x33, 0x33, 0xff, 0, 0, 1 }, .h_proto = htons(ETH_P_IPV6) },
		.body = { .ask = { .nd_ns_hdr = { .icmp6_type = ND_NEIGHBOR_SOLICIT } },
			  .option = { .nd_opt_type = ND_OPT_SOURCE_LINKADDR, .nd_opt_len = 1 } },
	};
	struct ip6_hdr ip = {
		.ip6_flow = htonl(6u << 28), .ip6_plen = htons(sizeof(ask.body)),
		.ip6_nxt = IPPROTO_ICMPV6, .ip6_hlim = 255,
	};
	struct in6_addr target;
	uint16_t sum;

	_Static_assert(sizeof(ask) <= NET_FRAME_ASK_MAX, "it fits");
	inet_pton(AF_INET6, "fe80::1", &target);
	inet_pton(AF_INET6, "ff02::1:ff00:1", &ip.ip6_dst);
	/*
	 * An address that no other has, out of the MAC address (RFC 4291,
	 * appendix A).
	 */
	inet_pton(AF_INET6, "fe80::ff:fe00:0", &ip.ip6_src);
	memcpy(&ip.ip6_src.s6_addr[8], mac, 3);
	ip.ip6_src.s6_addr[8] ^= 2;
	memcpy(&ip.ip6_src.s6_addr[13], mac + 3, 3);
	memcpy(ask.eth.h_source, mac, ETH_ALEN);
	memcpy(ask.body.mac, mac, ETH_ALEN);
	memcpy(&ask.body.ask.nd_ns_target, &target, sizeof(target));
	ask.ip = ip;
	sum = net_frame_checksum(&ip, &ask.body, sizeof(ask.body));
	memcpy(&ask.body.ask.nd_ns_hdr.icmp6_cksum, &sum, sizeof(sum));
	memcpy(frame, &ask, sizeof(ask));
	return sizeof(ask);
}
