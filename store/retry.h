/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * A layer that asks again where that may help: -EAGAIN, -ETIMEDOUT, -EBADMSG and -EIO from below.
 * The pauses double from one to the next, up to a limit, and half of each is random, so that those
 * who failed together do not come back together.
 *
 * What is done twice. A GET or DELETE may be. A PUT writes the same again. One with STORE_NEW may
 * meet what it put itself, the first time, when the answer was lost: where a repetition finds an
 * object of just these bytes, it has succeeded. (So what several try to put at once, to see who
 * is first, has something of its own in it.) A LIST is repeated only as long as no name was told.
 */
#ifndef POSTERN_STORE_RETRY_H
#define POSTERN_STORE_RETRY_H

#include "store/store.h"
#include "store/timer.h"

struct retry_store_config {
	unsigned int attempts;		/* at most, the first among them: at least 1 */
	unsigned int first_ms;		/* the first pause is half to all of this */
	unsigned int most_ms;
};

/* Takes `below`, also where it fails. -EINVAL, -ENOMEM. */
int retry_store_new(struct store **out, struct store *below, struct timers *timers,
		    const struct retry_store_config *config, struct err *err);

#endif
