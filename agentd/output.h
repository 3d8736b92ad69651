/* SPDX-License-Identifier: Apache-2.0 */
/*
 * output.h - answers LogRead from the files of attempts/JOB.N (shim.h has their layout) and parks the waiting ones until the
 * launcher's watch says that output grew. Data plane of acceld; no decision of the core.
 */
#ifndef ACCEL_AGENTD_OUTPUT_H
#define ACCEL_AGENTD_OUTPUT_H

#include "accel/v1/agent.pb-c.h"
#include "agentd/launcher.h"

struct output;
/* reply(): sends one LogData up. launcher is used for watch() only. */
struct output *output_create(const char *attempts_dir, struct launcher *launcher,
                             void (*reply)(void *ctx, const Accel__V1__LogData *msg), void *ctx);
void output_destroy(struct output *o);
void output_read(struct output *o, const Accel__V1__LogRead *msg);
void output_cancel(struct output *o, uint64_t id);
void output_cancel_all(struct output *o);                     /* the session is gone */
void output_on_grown(struct output *o, struct attempt_id id); /* launcher's on_output */
void output_on_gone(struct output *o, struct attempt_id id);  /* files are complete */

#endif
