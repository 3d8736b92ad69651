/* SPDX-License-Identifier: Apache-2.0 */
/*
 * habits.h - words of other systems (Slurm, kubectl, docker, torchrun) that accelctl does not take,
 * and what says the same here. What it does take stands in option_table.c as an alias. No I/O; one
 * thread.
 */
#ifndef ACCEL_CLIENT_HABITS_H
#define ACCEL_CLIENT_HABITS_H

#include "client/accelctl/options.h"
#include "common/str.h"

/* What to type in its place: "ps -A"; NULL if the word is not known. Static. */
const char *habit_of_verb(const char *name);
/* name: long, or one letter, without dashes, '-' between words. What to do in its place, a few
 * words for people; NULL if the word is not known. Static. */
const char *habit_of_option(enum verb_id verb, const char *name);
/* The page for users of Slurm: what is taken, what is said in another way, what differs. */
void habits_add_help(struct str *out);

#endif
