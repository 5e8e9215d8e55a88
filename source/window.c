// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "source/window.h"

#include "base/clock.h"

/* Each request takes so much of what is remembered away: a line may become slower. */
#define RATE_FADES 64

void window_init(struct window *window, uint64_t least, uint64_t most)
{
	*window = (struct window){ .least = least, .most = most, .size = least };
}

struct window_mark window_begin(const struct window *window, int64_t now_ns)
{
	return (struct window_mark){ .begun_ns = now_ns, .came = window->came };
}

void window_end(struct window *window, const struct window_mark *mark, uint64_t n, int64_t now_ns)
{
	int64_t took = now_ns > mark->begun_ns ? now_ns - mark->begun_ns : 1;
	double rate, size;

	window->came += n;
	if (!n)
		return;
	/* All that came meanwhile: so it is the line's rate, not this request's. */
	rate = (double)(window->came - mark->came) * (double)NS_PER_SEC / (double)took;
	window->rate -= window->rate / RATE_FADES;
	if (rate > window->rate)
		window->rate = rate;
	if (!window->shortest_ns || took < window->shortest_ns)
		window->shortest_ns = took;
	size = 2 * window->rate * (double)window->shortest_ns / (double)NS_PER_SEC;
	window->size = size < (double)window->least ? window->least :
		       size > (double)window->most  ? window->most :
						      (uint64_t)size;
}
