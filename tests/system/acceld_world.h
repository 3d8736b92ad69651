/* SPDX-License-Identifier: Apache-2.0 */
/*
 * acceld_world.h - a coordinator in this process and real acceld, accel-spawn and shims around it,
 * for tests of the node alone. Everything waits for an event; a wait that lasts 30 s fails the
 * test.
 */
#ifndef ACCEL_TESTS_SYSTEM_ACCELD_WORLD_H
#define ACCEL_TESTS_SYSTEM_ACCELD_WORLD_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/types.h>

#include <cmocka.h>
#include <uv.h>

#include "accel/v1/agent.pb-c.h"
#include "common/rpc.h"
#include "common/str.h"

#define UPS_MAX 4096 /* messages of one test */

struct world {
    uv_loop_t loop;
    uv_timer_t limit;
    struct rpc_server *server;
    uint64_t call;                    /* of the session; 0: none */
    unsigned sessions;                /* opened so far */
    uint64_t era, epoch;              /* said in Welcome */
    bool is_welcoming;                /* answer a Hello with Welcome */
    Accel__V1__AgentUp *hello;        /* the newest */
    Accel__V1__AgentUp *ups[UPS_MAX]; /* all others, in order */
    size_t up_count;
    char dir[64], state[96], socket[96];
    pid_t acceld;
    int ready_fd, stderr_fd;
    uint32_t next_id;
};

void world_init(struct world *w);
void world_done(struct world *w); /* ends acceld if it runs; leaves nothing behind */
void world_serve(struct world *w);
void world_stop_serving(struct world *w); /* the coordinator goes */

/* Starts acceld with these further arguments (NULL ends them). */
void world_start(struct world *w, ...);
int world_wait_exit(struct world *w); /* of acceld: as waitpid's status */
int world_end_acceld(struct world *w, int signo);
char *world_stderr(struct world *w); /* all that acceld wrote, after its exit; caller frees */

void world_run_until(struct world *w, bool (*is_true)(struct world *w, void *arg), void *arg);
void world_wait_session(struct world *w, unsigned count); /* the count-th, with its Hello */

void world_send(struct world *w, Accel__V1__CoordDown *down);
/* A job of `ranks` ranks that runs this shell line. */
void world_start_job(struct world *w, uint64_t job, uint32_t attempt, uint32_t ranks,
                     const char *line);
void world_start_full(struct world *w, Accel__V1__Start *start); /* as given, era filled in */
void world_stop_job(struct world *w, uint64_t job, uint32_t attempt, uint32_t cause,
                    uint64_t grace_ms);
void world_ack(struct world *w, uint64_t seq);

/* Wait for it, from the beginning of all that came up; the newest sequence number wins. */
const Accel__V1__Report *world_wait_started(struct world *w, uint64_t job, uint32_t attempt);
const Accel__V1__Report *world_wait_ended(struct world *w, uint64_t job, uint32_t attempt);
const Accel__V1__AgentUp *world_wait_next(struct world *w); /* whatever comes up next */
void world_forget_ups(struct world *w);
const Accel__V1__LogData *world_wait_log(struct world *w, uint64_t id);
const Accel__V1__InputDone *world_wait_input(struct world *w, uint64_t id);

/* Asks for output of one rank's stdout; returns the id. */
uint64_t world_read_log(struct world *w, uint64_t job, uint32_t attempt, uint32_t rank,
                        uint64_t offset, bool wait);
uint64_t world_send_input(struct world *w, uint64_t job, uint32_t attempt, uint64_t offset,
                          const char *data, bool eof);
bool world_has_file(struct world *w, const char *fmt, ...) PRINTF_LIKE(2, 3); /* below state */

#endif
