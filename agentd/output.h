/* SPDX-License-Identifier: Apache-2.0 */
/*
 * output.h - answers LogRead from the files of attempts/JOB.N (shim.h has their layout) and parks
 * the waiting ones until the launcher's watch says that output grew. Data plane of acceld; no
 * decision of the core. Loop's thread; blocks only in reads of local files. Aborts when memory
 * ends.
 *
 * An answer: one chunk per cursor that has something (data, a cut, or its end), at most max_bytes
 * in all, shared evenly; `ended` when every cursor asked for is at its end. Without cursors: both
 * streams of `ranks`, of all ranks of this node if that is empty too. At the cap of LIMIT_LOG_READS
 * parked reads further ones get RESOURCE_EXHAUSTED.
 */
#ifndef ACCEL_AGENTD_OUTPUT_H
#define ACCEL_AGENTD_OUTPUT_H

#include "accel/v1/agent.pb-c.h"
#include "agentd/launcher.h"

struct output;
/* reply(): sends one LogData up. launcher is used for watch() only. node_name stands in errors. */
struct output *output_create(const char *attempts_dir, const char *node_name,
                             struct launcher *launcher,
                             void (*reply)(void *ctx, const Accel__V1__LogData *msg), void *ctx);
void output_destroy(struct output *o);
void output_read(struct output *o, const Accel__V1__LogRead *msg);
void output_cancel(struct output *o, uint64_t id);
void output_cancel_all(struct output *o); /* the session is gone */
/* The attempt is being started or was adopted: until on_gone its output may grow, and files that
 * are not there yet are no error. Without this it counts as ended. */
void output_on_live(struct output *o, struct attempt_id id);
void output_on_grown(struct output *o, struct attempt_id id); /* launcher's on_output */
void output_on_gone(struct output *o, struct attempt_id id);  /* files are complete */
size_t output_parked(const struct output *o);

#endif
