// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
// Addresses: what is taken fits, and prints as something that is taken again and is the same.
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/address.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = malloc(size + 1), printed[ADDRESS_TEXT_BYTES], one[SOCKADDR_TEXT_BYTES];
	struct address address, again;
	struct addresses found;
	struct err err;
	unsigned int i;

	if (!text)
		return 0;
	memcpy(text, data, size);
	text[size] = 0;
	if (!address_parse(&address, text, &err)) {
		address_print(&address, printed);
		if (address_parse(&again, printed, &err) ||
		    memcmp(&address, &again, sizeof(address)) != 0)
			__builtin_trap();
		addresses_known(&found, &address);
		for (i = 0; i < found.n; i++)
			sockaddr_print(&found.at[i], found.len[i], true, one);
	}
	free(text);
	return 0;
}
