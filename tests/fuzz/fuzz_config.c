// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
// The file of options, as `postern run --config` reads it, values and all.
// Nothing is opened or started by them.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <unistd.h>

#include "cli/options.h"

static int file = -1;
static char path[64];

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	file = memfd_create("config", MFD_CLOEXEC);
	if (file < 0)
		abort();
	snprintf(path, sizeof(path), "/proc/self/fd/%d", file);
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *argv[] = { "run", "--config", path, "--paused", NULL };
	struct options options;
	struct err err = { 0 };
	int r;

	if (ftruncate(file, 0) < 0 || pwrite(file, data, size, 0) != (ssize_t)size)
		abort();
	r = options_parse(&options, 4, argv, &err);
	if ((r < 0) != (err.text[0] != '\0') || (!r && !options.paused))
		__builtin_trap();
	options_fini(&options);
	return 0;
}
