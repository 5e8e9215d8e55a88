// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "base/log_limit.h"

#include <pthread.h>
#include <stdio.h>

/* One for all sites: who logs is in no hurry. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct log_site *sites;	/* a site stays in the list for good */
static void (*notify_fn)(void *arg);
static void *notify_arg;

void log_limit_set_notify(void (*notify)(void *arg), void *arg)
{
	pthread_mutex_lock(&lock);
	notify_fn = notify;
	notify_arg = arg;
	pthread_mutex_unlock(&lock);
}

static void limit_refill(struct log_site *site, int64_t now_ns)
{
	int64_t back = (now_ns - site->refilled_ns) / LOG_REFILL_NS;

	if (!site->used || back >= site->used) {
		site->used = 0;
		site->refilled_ns = now_ns;
	} else if (back > 0) {
		site->used -= (unsigned int)back;
		site->refilled_ns += back * LOG_REFILL_NS;
	}
}

static void limit_leave_out(struct log_site *site, const char *file, enum log_level level,
			    const char *message)
{
	if (!site->left_out++ && notify_fn)
		notify_fn(notify_arg);
	site->file = file;
	site->level = level;
	snprintf(site->last, sizeof(site->last), "%s", message);
	if (site->listed)
		return;
	site->listed = true;
	site->next = sites;
	sites = site;
}

static void limit_report(struct log_site *site, struct log_left_out *left_out)
{
	left_out->lines = site->left_out;
	if (!site->left_out)
		return;
	site->left_out = 0;
	left_out->file = site->file;
	left_out->level = site->level;
	snprintf(left_out->last, sizeof(left_out->last), "%s", site->last);
}

bool log_limit_take(struct log_site *site, const char *file, enum log_level level,
		    const char *message, int64_t now_ns, struct log_left_out *left_out)
{
	bool may;

	left_out->lines = 0;
	pthread_mutex_lock(&lock);
	limit_refill(site, now_ns);
	may = site->used < LOG_BURST;
	if (may) {
		site->used++;
		limit_report(site, left_out);
	} else {
		limit_leave_out(site, file, level, message);
	}
	pthread_mutex_unlock(&lock);
	return may;
}

bool log_limit_next(struct log_left_out *left_out)
{
	struct log_site *site;

	left_out->lines = 0;
	pthread_mutex_lock(&lock);
	for (site = sites; site && !left_out->lines; site = site->next)
		limit_report(site, left_out);
	pthread_mutex_unlock(&lock);
	return left_out->lines;
}
