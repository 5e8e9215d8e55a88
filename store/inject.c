// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// Which rule hits a request is decided when it comes; what it does, when it is
// answered. See inject.h.
#include "store/inject.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <sys/random.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/random.h"
#include "store/layer.h"

struct inject_rule_state {
	struct store_inject_rule is;
	uint64_t seen;
};

struct inject_store {
	struct store_layer layer;
	/* With the layer's lock: */
	struct inject_rule_state rule[STORE_INJECT_RULES_MAX];
	unsigned int rules;
	uint64_t seed;
	bool on;
	struct store_inject_stats stats;
};

/* Where no timer is set, the request below is under way. */
struct inject_op {
	struct store_op op;
	struct store_request below;
	struct timer timer;
	const struct store_inject_rule *rule; /* NULL: no fault */
};

static struct inject_op *inject_of_timer(struct timer *timer)
{
	return (struct inject_op *)(void *)((char *)timer - offsetof(struct inject_op, timer));
}

static void inject_release(struct store_op *op)
{
	free(op);
}

static bool rule_hits(const struct inject_store *inject, unsigned int i, uint64_t k)
{
	const struct store_inject_rule *rule = &inject->rule[i].is;

	if (rule->nth)
		return k >= rule->nth && (!rule->requests || k - rule->nth < rule->requests);
	/* 53 bits: what a double holds. */
	return (double)(random_at(inject->seed + i, k) >> 11) < rule->chance * 0x1p53;
}

/* What happens to the next request; every rule counts it. With the lock held. */
static const struct store_inject_rule *pick(struct inject_store *inject, enum store_verb verb)
{
	const struct store_inject_rule *picked = NULL;
	struct inject_rule_state *rule;
	unsigned int i;

	inject->stats.requests++;
	if (!inject->on)
		return NULL;
	for (i = 0; i < inject->rules; i++) {
		rule = &inject->rule[i];
		if (rule->is.verbs && !(rule->is.verbs & 1u << verb))
			continue;
		if (rule_hits(inject, i, ++rule->seen) && !picked)
			picked = &rule->is;
	}
	if (picked)
		inject->stats.hit[picked->fault]++;
	return picked;
}

static void flip(struct inject_store *inject, const struct store_request *below)
{
	uint64_t bit;

	if (below->verb != STORE_GET || below->result <= 0)
		return;
	pthread_mutex_lock(&inject->layer.lock);
	bit = random_at(inject->seed, inject->stats.hit[STORE_FAULT_CORRUPT]) %
	      ((uint64_t)below->result * 8);
	pthread_mutex_unlock(&inject->layer.lock);
	((uint8_t *)below->data)[bit / 8] ^= (uint8_t)(1u << bit % 8);
}

/* What came from below, spoilt. */
static void spoil(struct inject_op *op)
{
	const struct store_inject_rule *rule = op->rule;
	struct store_request *below = &op->below;
	struct inject_store *inject = (struct inject_store *)op->op.layer;

	if (!rule)
		return;
	if (rule->fault == STORE_FAULT_CORRUPT)
		flip(inject, below);
	if (rule->fault == STORE_FAULT_UNSURE)
		below->result = err_set(&below->err, rule->code ? rule->code : -EAGAIN,
					"%s: \"%s\": the answer was lost, as injected",
					store_label(&inject->layer.store), below->object);
	if (rule->fault == STORE_FAULT_SHORT && below->verb == STORE_GET && below->result > 0) {
		below->result /= 2;
		if (!(below->flags & STORE_UP_TO))
			below->result = err_set(&below->err, -EBADMSG,
						"%s: \"%s\": too short, as "
						"injected",
						store_label(&inject->layer.store), below->object);
	}
}

static void inject_finish(struct inject_op *op, int code)
{
	struct store_request *request;

	pthread_mutex_lock(&op->op.layer->lock);
	request = store_op_end(&op->op);
	pthread_mutex_unlock(&op->op.layer->lock);
	if (code)
		store_fail(&op->op.layer->store, request, code, "as injected");
	else
		store_pass_on(request, &op->below);
	store_op_put(&op->op);
}

static void inject_done(struct store_request *below)
{
	struct inject_op *op = below->arg;

	spoil(op);
	inject_finish(op, 0);
}

/* A delay is over, or what was swallowed is cancelled. */
static void inject_fire(struct timer *timer)
{
	struct inject_op *op = inject_of_timer(timer);
	bool cancelled;

	pthread_mutex_lock(&op->op.layer->lock);
	cancelled = store_is_cancelled(op->op.request);
	pthread_mutex_unlock(&op->op.layer->lock);
	if (cancelled)
		inject_finish(op, -ECANCELED);
	else
		store_begin(op->op.layer->below, &op->below);
}

/* Does it wait here? With the lock held; a cancel that came already is seen by the timer. */
static bool wait_here(struct inject_op *op, bool cancelled, int *r)
{
	const struct store_inject_rule *rule = op->rule;
	bool silent = rule && rule->fault == STORE_FAULT_SILENCE;

	*r = 0;
	if (!silent && !(rule && rule->fault == STORE_FAULT_DELAY))
		return false;
	*r = timers_set(op->op.layer->timers, &op->timer,
			cancelled ? 0 :
			silent	  ? INT64_MAX :
				    clock_now_ns() + rule->ms * NS_PER_MS);
	return !*r;
}

static void inject_begin(struct store *store, struct store_request *request)
{
	struct inject_store *inject = (struct inject_store *)store;
	struct inject_op *op = store_op_new(&inject->layer, request, sizeof(*op), inject_release);
	bool waits, cancelled;
	int r;

	if (!op)
		return;
	op->timer.fire = inject_fire;
	store_op_ask(&op->op, &op->below, inject_done);
	pthread_mutex_lock(&inject->layer.lock);
	op->rule = pick(inject, request->verb);
	cancelled = store_op_enter(&op->op);
	if (cancelled)
		store_cancel(inject->layer.below, &op->below);
	waits = wait_here(op, cancelled, &r);
	pthread_mutex_unlock(&inject->layer.lock);
	if (waits)
		return;
	if (r || (op->rule && op->rule->fault == STORE_FAULT_FAIL))
		inject_finish(op, r ? r : op->rule->code ? op->rule->code : -EAGAIN);
	else
		store_begin(inject->layer.below, &op->below);
}

static void inject_cancel(struct store *store, struct store_request *request)
{
	struct inject_store *inject = (struct inject_store *)store;
	struct inject_op *op;

	pthread_mutex_lock(&inject->layer.lock);
	op = store_op_of(request);
	if (op && timers_stop(inject->layer.timers, &op->timer))
		timers_set(inject->layer.timers, &op->timer, 0);
	else if (op)
		store_cancel(inject->layer.below, &op->below);
	pthread_mutex_unlock(&inject->layer.lock);
}

static void inject_store_free(struct store *store)
{
	struct inject_store *inject = (struct inject_store *)store;

	store_layer_fini(&inject->layer);
	free(inject);
}

static const struct store_ops inject_ops = {
	.name = "inject",
	.begin = inject_begin,
	.cancel = inject_cancel,
	.free = inject_store_free,
};

/* -EINVAL: a rule that cannot be. */
static int check_rules(const struct store_inject_rule *rules, unsigned int n, struct err *err)
{
	unsigned int i;

	if (n > STORE_INJECT_RULES_MAX)
		return err_set(err, -EINVAL, "store faults: %u rules, at most %d are possible", n,
			       STORE_INJECT_RULES_MAX);
	for (i = 0; i < n; i++)
		/* Written so that a NaN is refused too. */
		if ((unsigned int)rules[i].fault >= STORE_FAULTS ||
		    !(rules[i].chance >= 0 && rules[i].chance <= 1) || rules[i].code > 0)
			return err_set(err, -EINVAL,
				       "store faults: rule %u: an unknown fault, a chance "
				       "not in 0 to 1, or a code that is no error",
				       i);
	return 0;
}

int inject_store_new(struct inject_store **out, struct store *below, struct timers *timers,
		     const struct store_inject_rule *rules, unsigned int n, uint64_t seed,
		     struct err *err)
{
	int r = check_rules(rules, n, err);
	struct inject_store *inject = r ? NULL : calloc(1, sizeof(*inject));
	unsigned int i;

	if (!inject) {
		store_free(below);
		return r ? r : err_set(err, -ENOMEM, "no memory to inject faults");
	}
	store_layer_init(&inject->layer, &inject_ops, below, timers);
	for (i = 0; i < n; i++)
		inject->rule[i].is = rules[i];
	inject->rules = n;
	if (!seed && getrandom(&seed, sizeof(seed), GRND_NONBLOCK) != (ssize_t)sizeof(seed))
		seed = (uint64_t)clock_now_ns();
	inject->seed = seed;
	inject->on = true;
	log_warn("%s: faults are injected, seed 0x%" PRIx64, store_label(below), seed);
	*out = inject;
	return 0;
}

struct store *inject_store(struct inject_store *inject)
{
	return &inject->layer.store;
}

void inject_store_enable(struct inject_store *inject, bool on)
{
	pthread_mutex_lock(&inject->layer.lock);
	inject->on = on;
	pthread_mutex_unlock(&inject->layer.lock);
}

void inject_store_stats(struct inject_store *inject, struct store_inject_stats *stats)
{
	pthread_mutex_lock(&inject->layer.lock);
	*stats = inject->stats;
	pthread_mutex_unlock(&inject->layer.lock);
}
