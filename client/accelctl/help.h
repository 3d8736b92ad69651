/* SPDX-License-Identifier: Apache-2.0 */
/*
 * help.h - help and man pages, written from the option table. Pure: text into a buffer.
 */
#ifndef ACCEL_CLIENT_HELP_H
#define ACCEL_CLIENT_HELP_H

#include "client/accelctl/options.h"
#include "common/str.h"

void help_add_overview(struct str *out);
void help_add_verb(struct str *out, const struct verb *verb);
/* "environment", "accelerate" or "exit-codes"; false if there is no such topic. */
bool help_add_topic(struct str *out, const char *topic);
/* troff (man macros): accelctl(1), and accelctl-VERB(1). */
void help_add_man(struct str *out, const struct verb *verb_or_null);

#endif
