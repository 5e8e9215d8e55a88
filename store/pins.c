// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * A table of sets of WAYS places: an object has its place in one set, and
 * pushes out the set's oldest.
 */
#include "store/pins.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#define SETS 4096u
#define WAYS 8u

struct pin {
	char *object;		/* NULL: free */
	bool has_total;
	uint64_t total;
	char etag[WEB_TAG_MAX];
	char modified[40];
};

struct pin_set {
	struct pin *pin[WAYS];
	unsigned int oldest;
};

struct pins {
	pthread_mutex_t lock;	/* all of it */
	struct pin_set set[SETS];
};

struct pins *pins_new(void)
{
	struct pins *pins = calloc(1, sizeof(*pins));

	if (pins)
		pthread_mutex_init(&pins->lock, NULL);
	return pins;
}

static void pin_free(struct pin *pin)
{
	if (pin)
		free(pin->object);
	free(pin);
}

void pins_free(struct pins *pins)
{
	unsigned int i, way;

	for (i = 0; pins && i < SETS; i++)
		for (way = 0; way < WAYS; way++)
			pin_free(pins->set[i].pin[way]);
	if (pins)
		pthread_mutex_destroy(&pins->lock);
	free(pins);
}

static struct pin_set *set_of(struct pins *pins, const char *object)
{
	return &pins->set[XXH64(object, strlen(object), 0) % SETS];
}

/* Its place; a free one, or NULL, where it has none. */
static struct pin **find_pin(struct pins *pins, const char *object)
{
	struct pin_set *set = set_of(pins, object);
	struct pin **room = NULL;
	unsigned int way;

	for (way = 0; way < WAYS; way++) {
		if (!set->pin[way])
			room = &set->pin[way];
		else if (!strcmp(set->pin[way]->object, object))
			return &set->pin[way];
	}
	return room;
}

static void pin_take(struct pin *pin, const struct web_answer *answer)
{
	pin->has_total = answer->has_total;
	pin->total = answer->total;
	memcpy(pin->etag, answer->etag, sizeof(pin->etag));
	memcpy(pin->modified, answer->modified, sizeof(pin->modified));
}

static int pin_new(struct pins *pins, struct pin **room, const char *object,
		   const struct web_answer *answer, struct err *err)
{
	struct pin_set *set = set_of(pins, object);
	struct pin *pin = calloc(1, sizeof(*pin));

	if (pin)
		pin->object = strdup(object);
	if (!pin || !pin->object) {
		pin_free(pin);
		return err_set(err, -ENOMEM, "no memory for an object's version");
	}
	pin_take(pin, answer);
	if (!room) {
		room = &set->pin[set->oldest];
		set->oldest = (set->oldest + 1) % WAYS;
		pin_free(*room);
	}
	*room = pin;
	return 0;
}

/* What both have is compared; with an ETag on both sides the time says nothing more. */
static bool pin_agrees(const struct pin *pin, const struct web_answer *answer)
{
	if (pin->has_total && answer->has_total && pin->total != answer->total)
		return false;
	if (pin->etag[0] && answer->etag[0])
		return !strcmp(pin->etag, answer->etag);
	return !pin->modified[0] || !answer->modified[0] ||
	       !strcmp(pin->modified, answer->modified);
}

static int pins_compare(struct pins *pins, const char *object, const struct web_answer *answer,
			bool whole, struct err *err)
{
	struct pin **pin = find_pin(pins, object);

	if (!pin || !*pin)
		return pin_new(pins, pin, object, answer, err);
	if (pin_agrees(*pin, answer))
		return 0;
	if (!whole)
		return err_set(err, -ESTALE,
			       "it was replaced while it was being read (%s before, %s now): "
			       "whoever writes there must not change objects; open the image anew",
			       (*pin)->etag[0] ? (*pin)->etag : "another version",
			       answer->etag[0] ? answer->etag : "another");
	pin_take(*pin, answer);
	return 0;
}

int pins_check(struct pins *pins, const char *object, const struct web_answer *answer, bool whole,
	       struct err *err)
{
	int r;

	pthread_mutex_lock(&pins->lock);
	r = pins_compare(pins, object, answer, whole, err);
	pthread_mutex_unlock(&pins->lock);
	return r;
}

bool pins_etag(struct pins *pins, const char *object, char etag[WEB_TAG_MAX])
{
	struct pin **pin;
	bool strong;

	pthread_mutex_lock(&pins->lock);
	pin = find_pin(pins, object);
	strong = pin && *pin && (*pin)->etag[0] == '"';
	if (strong)
		memcpy(etag, (*pin)->etag, WEB_TAG_MAX);
	pthread_mutex_unlock(&pins->lock);
	return strong;
}

void pins_forget(struct pins *pins, const char *object)
{
	struct pin **pin;

	pthread_mutex_lock(&pins->lock);
	pin = find_pin(pins, object);
	if (pin && *pin) {
		pin_free(*pin);
		*pin = NULL;
	}
	pthread_mutex_unlock(&pins->lock);
}
