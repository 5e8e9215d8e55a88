// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
// The heads of web servers' answers, line by line.
#include <stdlib.h>
#include <string.h>

#include "store/web_answer.h"

static void check(const struct web_answer *answer, int r)
{
	if (strlen(answer->etag) >= sizeof(answer->etag) || answer->head_bytes > WEB_HEAD_MAX ||
	    strpbrk(answer->etag, "\r\n") || (r == 1 && answer->status < 200))
		__builtin_trap();
	if (answer->has_range && (answer->first > answer->last || answer->last > INT64_MAX ||
				  (r >= 0 && answer->has_total && answer->last >= answer->total)))
		__builtin_trap();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct web_answer answer = { 0 };
	const char *line = (const char *)data, *end = line + size, *next;
	char *copy;
	int r = 0;

	for (; r >= 0 && line < end; line = next) {
		next = memchr(line, '\n', (size_t)(end - line));
		next = next ? next + 1 : end;
		/* Of its own length: whoever reads behind it is caught. */
		copy = malloc((size_t)(next - line));
		if (!copy)
			return 0;
		memcpy(copy, line, (size_t)(next - line));
		r = web_answer_line(&answer, copy, (size_t)(next - line));
		free(copy);
		check(&answer, r);
	}
	return 0;
}
