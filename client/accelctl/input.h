/* SPDX-License-Identifier: Apache-2.0 */
/*
 * input.h - our stdin to rank 0, a chunk at a time: the next is read only when the shim has taken
 * the one before. Does not change how stdin was opened (it belongs to the shell too). One thread,
 * the session's loop.
 */
#ifndef ACCEL_CLIENT_INPUT_H
#define ACCEL_CLIENT_INPUT_H

#include "client/accelctl/session.h"

struct input; /* opaque */

/* Is stdin something to forward: open, and not /dev/null? */
bool input_is_wanted(void);
struct input *input_create(struct session *s, uint64_t job_id);
void input_destroy(struct input *in); /* accepts NULL; run the loop after */
/* Rank 0 runs (again): begin, or send at once what was refused and waits to be sent again. */
void input_go(struct input *in);
/* After a new connection: send again what was not answered. */
void input_resume(struct input *in);

#endif
