// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * Where an image is, as it is written on a command line and in QMP.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "snapshot/place.h"
#include "store/store.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct snapshot_place place;
	char *text = malloc(size + 1);

	if (!text)
		return 0;
	memcpy(text, data, size);
	text[size] = 0;
	/* A name that is taken is one that a store takes. */
	if (!snapshot_place_parse(&place, text, NULL) &&
	    (!store_name_is_valid(place.name, NULL) || !*place.store))
		abort();
	free(text);
	return 0;
}
