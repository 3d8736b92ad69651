/* SPDX-License-Identifier: Apache-2.0 */
/*
 * accelerate.h - options of `accelerate launch` that choose nothing of ours: each becomes the
 * variable that the script's Accelerator() reads. The names that are ours too (--num_processes,
 * --cpu, --mixed_precision ...) are in option_table.c. Pure.
 */
#ifndef ACCEL_CLIENT_ACCELERATE_H
#define ACCEL_CLIENT_ACCELERATE_H

#include "common/arena.h"
#include "common/error.h"
#include "common/str.h"

struct accelerate_row; /* opaque */

/* By its name, '_' or '-' between words, len bytes; NULL if Accelerate has none of that name. */
const struct accelerate_row *accelerate_find(const char *name, size_t len);
bool accelerate_takes_value(const struct accelerate_row *row);
/* Why it cannot be used here, in three lines; NULL: it can. */
const char *accelerate_refusal(const struct accelerate_row *row, struct arena *a);
const char *accelerate_own_name(const struct accelerate_row *row); /* static, with '-' */
/* The i-th name, words separated by '-'; NULL: there are only i. Refused ones too. */
const char *accelerate_name(size_t i);

/* given: name and value of each option, in turn, count pointers in all. Calls set("NAME=VALUE")
 * with text of the arena, for the options and for what `accelerate launch` sets with them.
 * ACCEL_EINVAL: an option without the switch that makes it count. */
int accelerate_variables(const char *const *given, size_t count, struct arena *a,
                         void (*set)(void *ctx, const char *text), void *ctx,
                         struct accel_error *err);
/* `accelctl help accelerate`. */
void accelerate_add_help(struct str *out);

#endif
