// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "cli/clone_mac.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "device/net/config.h"

static int mac_add(struct clone_macs *macs, const char *name, unsigned int number,
		   struct virtio_option *option, struct err *err)
{
	struct net_config config;
	uint8_t mac[NET_MAC_BYTES];
	char **text = &macs->text[macs->n];
	int r = net_config_parse(&config, option->text, err);

	if (r < 0 || config.has_mac)
		return r;
	net_mac_make(mac, name, option->text, number);
	if (asprintf(text, "%s,mac=%02x:%02x:%02x:%02x:%02x:%02x", option->text, mac[0], mac[1],
		     mac[2], mac[3], mac[4], mac[5]) < 0)
		return err_set(err, -ENOMEM, "no memory for a network device's options");
	macs->n++;
	option->text = *text;
	return 0;
}

int clone_macs_set(struct clone_macs *macs, const char *name, struct virtio_options *options,
		   struct err *err)
{
	unsigned int i, number = 0;
	int r = 0;

	*macs = (struct clone_macs){ 0 };
	for (i = 0; i < options->n && !r; i++)
		if (options->option[i].type == &net_type)
			r = mac_add(macs, name, number++, &options->option[i], err);
	return r < 0 ? err_prefix(err, r, "--net") : 0;
}

void clone_macs_fini(struct clone_macs *macs)
{
	while (macs->n)
		free(macs->text[--macs->n]);
}
