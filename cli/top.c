// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// postern top: the named machines of this user, looked at once a second. Each
// look connects anew, so a machine that came, went or hung needs no care of its
// own; one that hangs costs LOOK_TIMEOUT_MS. The picture is text (top_text.c);
// ncurses only puts it on the screen.
#include <errno.h>
#include <getopt.h>
#define NCURSES_NOMACROS
#include <ncurses.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/dynamic.h"
#include "cli/cli.h"
#include "cli/top_text.h"
#include "control/qmp_remote.h"
#include "control/rundir.h"

#define LOOK_TIMEOUT_MS 500
#define REFRESH_MS 1000
#define MAP_CELLS 512
#define LOST_SIGHT 3	/* exit code: as ctl's for no answer */

/* Adds a query's result to the machine. */
static int look(struct qmp_remote *remote, json_t *machine, const char *key, const char *command,
		json_t *args, struct err *err)
{
	json_t *result = NULL;
	int r = qmp_remote_call(remote, command, args, &result, err);

	if (!r)
		json_object_set_new(machine, key, result);
	return r;
}

static json_t *machine_look(const char *name, pid_t pid)
{
	json_t *machine = json_pack("{s:s,s:i}", "name", name, "pid", (int)pid);
	struct qmp_remote *remote = NULL;
	char path[RUNDIR_PATH_MAX];
	struct err err = { 0 };
	int r = rundir_path(path, name, "qmp", &err);

	if (!r)
		r = qmp_remote_open(&remote, path, LOOK_TIMEOUT_MS, &err);
	if (!r)
		r = look(remote, machine, "status", "query-status", NULL, &err);
	if (!r)
		r = look(remote, machine, "migration", "query-migrate", NULL, &err);
	if (!r)
		r = look(remote, machine, "faults", "query-postern-faults", NULL, &err);
	if (!r)
		r = look(remote, machine, "map", "query-postern-map",
			 json_pack("{s:i}", "cells", MAP_CELLS), &err);
	if (r < 0)
		json_object_set_new(machine, "error", json_string(err.text));
	qmp_remote_free(remote);
	return machine;
}

/* Every machine that is there: an array, or NULL and the error. */
static json_t *look_around(struct err *err)
{
	char (*names)[RUNDIR_NAME_MAX + 1];
	int i, n = rundir_list(&names, err);
	json_t *machines;
	pid_t pid;

	if (n < 0)
		return NULL;
	machines = json_array();
	for (i = 0; i < n; i++) {
		pid = rundir_owner(names[i]);
		if (pid >= 0)
			json_array_append_new(machines, machine_look(names[i], pid));
	}
	free(names);
	return machines;
}

static const json_t *top_find(const json_t *machines, const json_t *like)
{
	const json_t *m;
	size_t i;

	json_array_foreach(machines, i, m)
		if (json_equal(json_object_get(m, "name"), json_object_get(like, "name")) &&
		    json_equal(json_object_get(m, "pid"), json_object_get(like, "pid")))
			return m;
	return NULL;
}

static void set_rates(json_t *machines, const json_t *before, int64_t ns)
{
	json_t *m;
	size_t i;

	json_array_foreach(machines, i, m)
		json_object_set_new(m, "faults-per-second",
				    json_integer((json_int_t)top_fault_rate(
					    json_object_get(top_find(before, m), "faults"),
					    json_object_get(m, "faults"), ns)));
}

static char *picture(const json_t *machines, unsigned int width)
{
	char *text = NULL;
	size_t size, i;
	FILE *out = open_memstream(&text, &size);
	const json_t *m;

	if (!out)
		return NULL;
	fprintf(out, "postern top: %zu machines; q ends\n%s\n\n", json_array_size(machines),
		top_legend);
	json_array_foreach(machines, i, m) {
		top_text_machine(out, m, width);
		putc('\n', out);
	}
	fclose(out);
	return text;
}

/* ---- the screen ---- */

#define SCREEN_FUNCTIONS(f)                                                                        \
	f(initscr) f(endwin) f(cbreak) f(noecho) f(curs_set) f(keypad) f(wtimeout) f(wgetch)       \
	f(werase) f(wmove) f(waddnstr) f(wrefresh) f(getmaxx) f(getmaxy)

struct screen {
	struct {
		DYNAMIC_TABLE(SCREEN_FUNCTIONS)
	} lib;
	WINDOW *window;
};

static int screen_open(struct screen *screen, struct err *err)
{
	static const char *const names[] = { DYNAMIC_NAMES(SCREEN_FUNCTIONS) };
	static const struct dynamic_library library = { "libncursesw.so.6", "libncursesw6",
							"postern top" };
	int r = dynamic_load(&screen->lib, names, sizeof(names) / sizeof(names[0]), &library, err);

	if (r < 0)
		return r;
	screen->window = screen->lib.initscr();
	if (!screen->window)
		return err_set(err, -ENOTTY, "the terminal cannot be used");
	screen->lib.cbreak();
	screen->lib.noecho();
	screen->lib.curs_set(0);
	screen->lib.keypad(screen->window, TRUE);
	screen->lib.wtimeout(screen->window, REFRESH_MS);
	return 0;
}

static void draw(const struct screen *screen, const json_t *machines)
{
	int rows = screen->lib.getmaxy(screen->window),
	    columns = screen->lib.getmaxx(screen->window), row = 0;
	char *text = picture(machines, (unsigned int)columns), *line, *save = text;

	screen->lib.werase(screen->window);
	while (row < rows && (line = strsep(&save, "\n"))) {
		screen->lib.wmove(screen->window, row++, 0);
		screen->lib.waddnstr(screen->window, line, columns);
	}
	screen->lib.wrefresh(screen->window);
	free(text);
}

static int top_watch(struct err *err)
{
	json_t *before = NULL, *now;
	int64_t at = clock_now_ns(), was;
	struct screen screen;
	int key = ERR, r = screen_open(&screen, err);

	if (r < 0)
		return r;
	while (key != 'q' && key != 'Q') {
		now = look_around(err);
		if (!now)
			break;
		was = at;
		at = clock_now_ns();
		set_rates(now, before, at - was);
		draw(&screen, now);
		json_decref(before);
		before = now;
		key = screen.lib.wgetch(screen.window);
	}
	screen.lib.endwin();
	json_decref(before);
	return now ? 0 : err->code;
}

static int print_once(struct err *err)
{
	json_t *machines = look_around(err);
	char *text;

	if (!machines)
		return err->code;
	text = json_dumps(machines, JSON_INDENT(2) | JSON_ENSURE_ASCII);
	if (text)
		puts(text);
	free(text);
	json_decref(machines);
	return 0;
}

int cmd_top(int argc, char **argv)
{
	static const struct option options[] = {
		{ "json", no_argument, NULL, 'j' },
		{ "help", no_argument, NULL, 'h' },
		{ 0 },
	};
	static char name[] = "postern top";
	struct err err = { 0 };
	bool json = false;
	int c;

	argv[0] = name;
	while ((c = getopt_long(argc, argv, "jh", options, NULL)) != -1) {
		if (c == 'h') {
			puts("usage: postern top [--json]\n\n"
			     "Shows this user's machines that have a name, once a second: state, which memory is there, faults, who\n"
			     "waits, how long pages take, the migration's link. q ends. --json: one look, for programs.\n"
			     "Exit status: 0 done, 2 bad usage or no terminal, 3 machines cannot be looked for.");
			return CLI_OK;
		}
		if (c != 'j')
			return CLI_USAGE;
		json = true;
	}
	if (optind < argc ||
	    (!json && (!isatty(STDIN_FILENO) || !isatty(STDOUT_FILENO) || !getenv("TERM")))) {
		fprintf(stderr, "postern top: %s\n", optind < argc ? "only --json is allowed" :
			"a terminal is needed; --json looks once without");
		return CLI_USAGE;
	}
	if ((json ? print_once(&err) : top_watch(&err)) < 0) {
		fprintf(stderr, "postern top: %s\n", err.text);
		return LOST_SIGHT;
	}
	return CLI_OK;
}
