/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * `postern run`, for whoever runs several (clone.c).
 */
#ifndef POSTERN_CLI_RUN_H
#define POSTERN_CLI_RUN_H

struct image_key; /* image/key.h */
struct vm_host; /* kvm/host.h */

/* Called once the machine runs, or is paused as it was told; before the loop. */
struct run_started {
	void (*fn)(void *arg);
	void *arg;
	const struct image_key *key; /* in place of what options say; NULL: they say */
	const char *overlay_name; /* of --overlay's files, where there is no --name */
	/* It is one of many: each network device has an address that follows from this; or NULL. */
	const char *mac_name;
	struct vm_host *host; /* outlives the call; NULL: it asks KVM itself */
};

/* As cmd_run. started: NULL, or lasts as long. */
int run_main(int argc, char **argv, const struct run_started *started);

#endif
