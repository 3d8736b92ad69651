/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is said of an attempt: that it started, how it ended, and in which words. Neighbours:
 * agent.c, which knows when; agent_session.c, which sends and keeps. It must not change an attempt
 * beyond noting which report speaks of it.
 */
#include <inttypes.h>
#include <string.h>

#include "agentd/agent_impl.h"
#include "common/limits.h"

static Accel__V1__AttemptRef *make_ref(struct attempt_key key, uint64_t era, struct arena *arena)
{
    Accel__V1__AttemptRef *ref = ARENA_NEW(arena, Accel__V1__AttemptRef);
    accel__v1__attempt_ref__init(ref);
    ref->job_id = key.job_id;
    ref->attempt = (uint32_t)key.attempt;
    ref->era = era;
    return ref;
}

static ProtobufCBinaryData make_path(const struct agent *a, const struct attempt *t, uint32_t rank,
                                     const char *suffix, struct arena *arena)
{
    char *path = arena_printf(arena, "%s/%" PRIu64 ".%" PRIu64 "/%" PRIu32 ".%s", a->attempts_dir,
                              t->key.job_id, t->key.attempt, rank, suffix);
    return (ProtobufCBinaryData){strlen(path), (uint8_t *)path};
}

/* For people and shells: what a shell would say of a command that it cannot find or run. */
static int32_t exit_code_of_errno(int32_t sys)
{
    return sys == 2 /* ENOENT */ ? 127 : 126;
}

static Accel__V1__Rank *make_rank(const struct agent *a, const struct attempt *t, uint32_t i,
                                  struct arena *arena)
{
    const struct worker *w = &t->workers[i];
    Accel__V1__Rank *rank = ARENA_NEW(arena, Accel__V1__Rank);
    size_t first, len;
    accel__v1__rank__init(rank);
    rank->rank = w->rank;
    rank->local_rank = w->local_rank;
    rank->node = a->node_name;
    rank->pid = w->pid;
    rank->state = arena_strdup(arena, worker_state_name(w->state));
    rank->exited = w->exited;
    rank->exit_code = w->error && !w->exit_code ? exit_code_of_errno(w->start_errno) : w->exit_code;
    rank->signal = w->signal;
    rank->start_ms = w->start_ms;
    rank->end_ms = w->end_ms;
    environ_split(t->device_count, t->local_size, i, &first, &len);
    rank->n_devices = len;
    rank->devices = t->devices + first;
    rank->stderr_tail = (ProtobufCBinaryData){w->tail_len, w->tail};
    rank->stdout_path = make_path(a, t, w->rank, "out", arena);
    rank->stderr_path = make_path(a, t, w->rank, "err", arena);
    if (w->error)
        rank->error = w->error;
    return rank;
}

static Accel__V1__Rank **make_ranks(const struct agent *a, const struct attempt *t,
                                    struct arena *arena)
{
    Accel__V1__Rank **ranks = ARENA_ARRAY(arena, Accel__V1__Rank *, t->local_size);
    for (uint32_t i = 0; i < t->local_size; i++)
        ranks[i] = make_rank(a, t, i, arena);
    return ranks;
}

void agent_report_started(struct agent *a, const struct agent_event *ev, struct attempt *t,
                          struct agent_actions *out)
{
    Accel__V1__Report report = ACCEL__V1__REPORT__INIT;
    Accel__V1__AttemptStarted started = ACCEL__V1__ATTEMPT_STARTED__INIT;
    CHECK(t->is_started && !t->is_gone);
    started.ref = make_ref(t->key, t->era, &out->arena);
    started.n_ranks = t->local_size;
    started.ranks = make_ranks(a, t, &out->arena);
    started.master_addr = t->master_addr;
    started.master_port = t->master_port;
    started.isolation = t->isolation;
    started.n_isolation = t->isolation_count;
    report.body_case = ACCEL__V1__REPORT__BODY_STARTED;
    report.started = &started;
    t->started_seq = agent_session_report(a, ev, t->key, &report, 0, false, out);
}

void agent_report_never_started(struct agent *a, const struct agent_event *ev,
                                struct attempt_key key, uint64_t era, uint32_t cause,
                                const char *text, struct agent_actions *out)
{
    Accel__V1__Report report = ACCEL__V1__REPORT__INIT;
    Accel__V1__AttemptEnded ended = ACCEL__V1__ATTEMPT_ENDED__INIT;
    ended.ref = make_ref(key, era, &out->arena);
    ended.cause = cause;
    ended.text = arena_printf(&out->arena, "%.*s", LIMIT_REASON_BYTES - 1, text);
    ended.first_failed_rank = -1;
    ended.never_started = true;
    report.body_case = ACCEL__V1__REPORT__BODY_ENDED;
    report.ended = &ended;
    agent_session_report(a, ev, key, &report, 0, false, out);
}

/* ---- how it ended ---- */

/* The first thing that happened names the end: a rank that failed by itself, or the stop that was
 * obeyed. Gangs that were all done before a stop reached them have succeeded. */
static uint32_t end_cause(const struct attempt *t, const Accel__V1__ExitRecord *record,
                          bool is_shim_lost)
{
    uint32_t obeyed = record ? record->stop_cause : 0;
    if (obeyed == ACCEL__V1__CAUSE__CAUSE_SHIM_LOST)
        obeyed = 0; /* nobody stopped it: the record was made up after a sweep */
    /* Ours, or that of the acceld before us. */
    uint32_t asked = t->stop_cause ? t->stop_cause : obeyed;
    if (t->first_failed >= 0 && (!asked || asked == ACCEL__V1__CAUSE__CAUSE_WORKER_FAILED))
        return ACCEL__V1__CAUSE__CAUSE_WORKER_FAILED;
    if (is_shim_lost)
        return asked ? asked : ACCEL__V1__CAUSE__CAUSE_SHIM_LOST;
    if ((record && record->start_failed) || t->unstarted >= 0)
        return asked ? asked : ACCEL__V1__CAUSE__CAUSE_START_FAILED;
    if (obeyed)
        return asked;
    for (uint32_t i = 0; i < t->local_size; i++) {
        const struct worker *w = &t->workers[i];
        if (!w->exited || w->exit_code || w->signal)
            return asked ? asked : ACCEL__V1__CAUSE__CAUSE_WORKER_FAILED;
    }
    return ACCEL__V1__CAUSE__CAUSE_SUCCEEDED;
}

static char *text_of_memory(const struct attempt *t, struct arena *arena)
{
    const uint64_t gib = 1ull << 30;
    if (!t->memory_bytes) /* the machine's own, or that of a group above ours */
        return arena_strdup(arena, "");
    return arena_printf(arena, " (limit %.1f %s)",
                        (double)t->memory_bytes / (double)(t->memory_bytes >= gib ? gib : 1 << 20),
                        t->memory_bytes >= gib ? "GiB" : "MiB");
}

/* is_oom: the kernel killed something of the attempt for memory. */
static char *text_of_failure(const struct attempt *t, const struct worker *w, bool is_oom,
                             struct arena *arena)
{
    if (w->oom_killed)
        return arena_printf(arena, "rank %" PRIu32 " (pid %" PRIu32 ") was killed for memory%s",
                            w->rank, w->pid, text_of_memory(t, arena));
    if (!w->signal && is_oom)
        return arena_printf(arena,
                            "rank %" PRIu32 " (pid %" PRIu32 ") exited with code %" PRId32
                            "; a process of the job was killed for memory%s",
                            w->rank, w->pid, w->exit_code, text_of_memory(t, arena));
    if (!w->signal)
        return arena_printf(arena, "rank %" PRIu32 " (pid %" PRIu32 ") exited with code %" PRId32,
                            w->rank, w->pid, w->exit_code);
    const char *name = sigdescr_np(w->signal);
    return arena_printf(arena,
                        "rank %" PRIu32 " (pid %" PRIu32 ") was killed by signal %" PRId32 " (%s)",
                        w->rank, w->pid, w->signal, name ? name : "real-time");
}

static char *text_of_start(const struct attempt *t, const Accel__V1__ExitRecord *record,
                           struct arena *arena)
{
    if (t->unstarted >= 0)
        return arena_printf(arena, "rank %" PRIu32 " could not be started: %.*s",
                            t->workers[t->unstarted].rank, LIMIT_REASON_BYTES - 64,
                            t->workers[t->unstarted].error);
    const char *text = record && record->text[0] ? record->text : "the shim gave no reason";
    return arena_printf(arena, "%.*s", LIMIT_REASON_BYTES - 1, text);
}

static char *text_of_end(const struct attempt *t, const Accel__V1__ExitRecord *record,
                         uint32_t cause, struct arena *arena)
{
    const char *s = t->local_size == 1 ? "" : "s";
    switch (cause) {
    case ACCEL__V1__CAUSE__CAUSE_SUCCEEDED:
        return t->local_size == 1
                   ? arena_strdup(arena, "the rank exited with code 0")
                   : arena_printf(arena, "all %" PRIu32 " ranks exited with code 0", t->local_size);
    case ACCEL__V1__CAUSE__CAUSE_WORKER_FAILED:
        if (t->first_failed < 0 && t->stop_cause && t->world_size > t->local_size)
            return arena_strdup(arena, "stopped: a rank on another node failed");
        return t->first_failed >= 0 ? text_of_failure(t, &t->workers[t->first_failed],
                                                      record && record->oom_killed, arena)
                                    : arena_strdup(arena, "a rank ended and nobody saw how");
    case ACCEL__V1__CAUSE__CAUSE_START_FAILED: return text_of_start(t, record, arena);
    case ACCEL__V1__CAUSE__CAUSE_CANCELLED: return arena_strdup(arena, "stopped on request");
    case ACCEL__V1__CAUSE__CAUSE_TIME_LIMIT:
        return arena_strdup(arena, "stopped at its time limit");
    case ACCEL__V1__CAUSE__CAUSE_SHIM_LOST:
        return arena_printf(arena, "the shim was killed; its %" PRIu32 " worker%s went with it",
                            t->local_size, s);
    case ACCEL__V1__CAUSE__CAUSE_FENCED:
        return arena_strdup(arena, "stopped: a newer attempt or era exists");
    case ACCEL__V1__CAUSE__CAUSE_DEVICE_FAULT:
        return arena_printf(arena, "%.*s", LIMIT_REASON_BYTES - 1,
                            t->broken ? t->broken : "a device of it failed");
    default: return arena_printf(arena, "stopped (%s)", agent_cause_name(cause));
    }
}

/* What the output itself could not tell any more. */
static char *text_of_loss(const Accel__V1__ExitRecord *record, struct arena *arena)
{
    uint64_t bytes = 0;
    int sys = 0;
    for (size_t i = 0; record && i < record->n_ranks; i++) {
        bytes += record->ranks[i]->lost_bytes;
        sys = record->ranks[i]->lost_bytes ? record->ranks[i]->lost_errno : sys;
    }
    if (bytes == 0)
        return (char *)"";
    const char *why = strerrordesc_np(sys);
    return arena_printf(arena, "%" PRIu64 STR_OUTPUT_LOST "%s", bytes, why ? why : "unknown error");
}

void agent_report_ended(struct agent *a, const struct agent_event *ev, struct attempt *t,
                        const Accel__V1__ExitRecord *record, bool is_shim_lost,
                        struct agent_actions *out)
{
    Accel__V1__Report report = ACCEL__V1__REPORT__INIT;
    Accel__V1__AttemptEnded ended = ACCEL__V1__ATTEMPT_ENDED__INIT;
    uint64_t failed_ns = 0;
    CHECK(t->is_gone);
    ended.ref = make_ref(t->key, t->era, &out->arena);
    ended.cause = end_cause(t, record, is_shim_lost);
    /* Ranks that fail because their GPU does are not to blame. */
    if (t->broken && ended.cause == ACCEL__V1__CAUSE__CAUSE_WORKER_FAILED)
        ended.cause = ACCEL__V1__CAUSE__CAUSE_DEVICE_FAULT;
    ended.text = text_of_end(t, record, ended.cause, &out->arena);
    ended.lost_output = text_of_loss(record, &out->arena);
    ended.first_failed_rank = -1;
    int32_t failed =
        ended.cause == ACCEL__V1__CAUSE__CAUSE_START_FAILED ? t->unstarted : t->first_failed;
    if (failed >= 0) {
        ended.first_failed_rank = (int32_t)t->workers[failed].rank;
        failed_ns = t->workers[failed].end_boot_ns;
    }
    ended.n_ranks = t->local_size;
    ended.ranks = make_ranks(a, t, &out->arena);
    report.body_case = ACCEL__V1__REPORT__BODY_ENDED;
    report.ended = &ended;
    agent_session_report(a, ev, t->key, &report, failed_ns, true, out);
}
