// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
// What --disk is given: names, options, NBD's URIs.
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "device/disk/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct disk_config config;
	struct nbd_address address;
	struct err err;
	char *text = malloc(size + 1);

	memcpy(text, data, size);
	text[size] = '\0';
	if (!disk_config_parse(&config, text, &err)) {
		/* What it has taken it takes again. */
		if (!*config.path || (config.nbd && nbd_address_parse(&address, config.path, &err)))
			__builtin_trap();
		disk_config_fini(&config);
	}
	free(text);
	return 0;
}
