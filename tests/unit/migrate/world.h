/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * Two machines without KVM, their migrations on one loop, and a relay between
 * them that cuts the link where it is told to. The machines watch that the
 * guest never runs on both sides.
 */
#ifndef POSTERN_TESTS_MIGRATE_WORLD_H
#define POSTERN_TESTS_MIGRATE_WORLD_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "machine/machine.h"
#include "migrate/handshake.h"
#include "migrate/migration.h"

/* ---- the relay ---- */

/* A frame on the control connection: the field number of the Envelope's body, or CUT_AT_PAGES. */
enum cut_at {
	CUT_NEVER = 0,
	AT_HELLO = 1,
	AT_HELLO_REPLY,
	AT_STATE,
	AT_STATE_REPLY,
	AT_RUN,
	AT_RUN_REPLY,
	AT_RESUME,
	AT_RESUME_REPLY,
	AT_MISSING,
	AT_MISSING_END,
	AT_RESUME_ACK,
	AT_COMPLETE,
	AT_COMPLETE_ACK,
	AT_BOOT = 17,
	AT_BOOT_DATA,
	AT_BOOT_END,
	AT_BOOT_REPLY,
	AT_PAGES = 100,
};

struct relay;
struct relay *relay_new(const char *listen_path, const char *connect_path);
void relay_free(struct relay *relay);
/* Cuts all three connections at the next such frame, once; `deliver`: after handing it on. */
void relay_cut_at(struct relay *relay, enum cut_at at, bool deliver);
/* Swallows the next such frame, and nothing else. */
void relay_swallow(struct relay *relay, enum cut_at at);
bool relay_has_swallowed(struct relay *relay);
bool relay_has_cut(struct relay *relay);
void relay_cut_now(struct relay *relay);
/* Has such a message been handed on, on any link? */
bool relay_has_passed(struct relay *relay, enum cut_at at);
/* Hands the next such message on with another payload, which is copied. */
void relay_replace(struct relay *relay, enum cut_at at, const void *payload, size_t len);
/* Puts a message of the relay's own into the last link's control connection, between two frames. */
void relay_say(struct relay *relay, bool to_source, const void *payload, size_t len);
/* Each Hello from now on does not say what the guest starts with. */
void relay_hush(struct relay *relay);
/* Holds everything back, in both directions, until it is let go. */
void relay_hold(struct relay *relay, bool hold);
/* ... from the next such frame on, which has not passed when relay_holds says so. */
void relay_hold_at(struct relay *relay, enum cut_at at);
bool relay_holds(struct relay *relay);
/* The last preface that went through. */
struct preface relay_preface(struct relay *relay);
/* Damages the next byte on the given connection, from the source (or to it). */
void relay_damage(struct relay *relay, enum wire_channel channel, bool from_source);

/* ---- the machines ---- */

struct world;

struct machine {
	struct world *world;
	struct machine_config config;
	struct machine_observer *observers;
	struct memory *mem;
	enum run_state state;
	bool saving;
	bool autostart;
	bool to_run;		/* once a reset is done */
	bool ran;		/* was RUNNING at any time since it was made */
	int save_error, load_error;
	struct boot_files boot;	/* what it resets to */
	unsigned int early_pages;
};

struct side {
	struct machine machine;
	struct migration *migration;
	enum migration_status seen[64];	/* statuses told to the observer */
	unsigned int nseen;
};

struct world {
	struct loop *loop;
	uv_timer_t tick;
	char dir[64];
	char relay_uri[128], direct_uri[128];
	struct relay *relay;
	struct side from, to;
};

/* Everybody is trusted. */
extern const struct migration_trust world_open;

/* What machine_save says, with its end. */
#define WORLD_STATE "the state of a machine without KVM"
#define WORLD_PAGES 6144u	/* two regions: 16 and 8 MiB */

/* False: no userfaultfd here, the test is to be skipped. */
bool world_new(struct world *world);
void world_free(struct world *world);
/* Runs the loop until the condition holds; fails the test after 30 s. */
#define world_until(world, condition) \
	do { \
		int64_t world_end = world_deadline(); \
		while (!(condition)) \
			world_step(world, world_end, #condition); \
	} while (0)
int64_t world_deadline(void);
void world_step(struct world *world, int64_t deadline, const char *what);
enum migration_status world_status(const struct side *side);
/* Starts the migration through the relay. */
void world_migrate(struct world *world, bool resume);
/*
 * World's kernel is WORLD_KERNEL_BYTES of world_boot_byte, its initial RAM disk
 * WORLD_INITRD_BYTES of what follows.
 */
#define WORLD_KERNEL_BYTES 600001u
#define WORLD_INITRD_BYTES (4u << 20)
#define WORLD_CMDLINE "console=ttyS0 quiet"
uint8_t world_boot_byte(uint64_t offset);
/* The destination resets to what the source does. */
void world_check_boot(struct world *world);
/* Everything there, right, running where it must, and only there. */
void world_check_arrived(struct world *world);

#endif
