/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * A program that includes the public header and nothing else; it is compiled as
 * C and as C++, and run.
 */
#include <postern.h>

static int lost;

static int request(struct postern_page_source *source, postern_gfn_t first, uint64_t n)
{
	(void)source, (void)first, (void)n;
	return 0;
}

static void page_lost(void *arg, postern_gfn_t gfn)
{
	(void)arg;
	lost = gfn.v == 3;
}

static void quiet(enum postern_log_level level, const char *line)
{
	(void)level, (void)line;
}

int main(void)
{
	static struct postern_page_source_ops ops;
	static struct postern_memory_events events;
	static struct postern_page_source source;
	static struct postern_err err;
	struct postern_memory_range range = { POSTERN_GPA(0), POSTERN_HUGE_BYTES };
	struct postern_memory *mem = 0;
	char byte = 7;
	int ok;

	ops.request = request;
	events.lost = page_lost;
	source.ops = &ops;
	postern_log_set_handler(quiet);
	if (postern_memory_new(&mem, &range, 0, &err) >= 0 || !err.text[0])
		return 1;
	if (postern_memory_new(&mem, &range, 1, &err) < 0)
		return 2;
	ok = !postern_gup_write(mem, POSTERN_GPA(9), &byte, 1, 0, 0);
	byte = 0;
	ok = ok && !postern_gup_read(mem, POSTERN_GPA(9), &byte, 1, POSTERN_GUP_NOWAIT, 0) &&
	     byte == 7;
	if (postern_memory_watch(mem, &events, &err) == 0) {
		postern_memory_attach(mem, &source);
		ok = ok && postern_memory_page_state(mem, POSTERN_GFN(3)) == POSTERN_PAGE_MISSING;
		ok = ok && !postern_memory_lose(mem, POSTERN_GFN(3)) && lost;
		postern_memory_detach(mem);
	}
	ok = ok && postern_hist_quantile(postern_memory_latency(mem), 0.5) == 0;
	postern_memory_shut(mem);
	postern_memory_free(mem);
	return ok ? 0 : 3;
}
