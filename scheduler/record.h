/* SPDX-License-Identifier: Apache-2.0 */
/*
 * record.h - the typed rows that the core persists and the store keeps: one struct per table.
 * Strings are NUL-terminated and never NULL ("" for none); blobs are {data, len}. Who owns them is
 * said where a record is passed. Times are wall-clock milliseconds since 1970 UTC, 0 for "not yet".
 * Enumerations are those of proto/accel/v1/job.proto.
 *
 * A plain job of one worker costs five row writes: jobs twice, attempts twice, workers once. Its
 * events (submitted, started, running, ended) are columns of those rows (the *_seq numbers); the
 * events table holds all others.
 */
#ifndef ACCEL_SCHEDULER_RECORD_H
#define ACCEL_SCHEDULER_RECORD_H

#include "common/base.h"
#include "common/limits.h"

enum record_table {
    RECORD_META = 1,
    RECORD_ENVIRONMENT,
    RECORD_JOB,
    RECORD_ATTEMPT,
    RECORD_WORKER,
    RECORD_NODE,
    RECORD_DEVICE,
    RECORD_REQUEST,
    RECORD_EVENT,
    RECORD_USER,
    RECORD_CERTIFICATE,
    RECORD_TOKEN,
    RECORD_TABLE_COUNT
};

struct record_blob {
    const void *data;
    size_t len;
};

/* The one row of the table meta. */
struct record_meta {
    uint64_t era;          /* of the store: random at creation */
    uint64_t epoch;        /* coordinator starts; persisted before serving */
    uint64_t seq_reserved; /* event numbers below this may have been given out */
    uint64_t job_id_floor; /* ids below this were used, even if their rows are gone */
};
/* Environments are shared by the jobs of one shell: kept once, by number. */
struct record_environment {
    uint64_t id;
    struct record_blob env; /* packed JobSpec with only `env` filled */
};
struct record_job {
    uint64_t id;
    const char *name, *user;
    uint32_t uid, gid;
    uint32_t state, result; /* JobState, JobResult */
    const char *reason;
    uint32_t attempt, restarts, max_restarts;
    int32_t exit_code;
    int64_t submit_ms, start_ms, end_ms;
    uint64_t submit_seq, end_seq; /* event numbers; 0: not yet */
    const char *command;
    uint64_t environment_id;       /* 0: none */
    struct record_blob request_id; /* of its Submit; unique */
    struct record_blob
        spec; /* packed JobSpec without env; load may leave it empty for ended jobs */
};
struct record_attempt {
    uint64_t job_id;
    uint32_t attempt;
    uint32_t cause;
    const char *text;
    int64_t start_ms, run_ms, end_ms;
    uint64_t start_seq, run_seq, end_seq;
    int32_t first_failed_rank;
    const char *master_addr;
    uint32_t master_port;
    /* One line per node: "NODE FIRST_RANK LOCAL_SIZE DEVICE,DEVICE...". In a live attempt nothing
     * of it is left on nodes whose workers have rows; a "!" in front says so too, if the row was
     * written since. */
    const char *placement;
};
struct record_worker {
    uint64_t job_id;
    uint32_t attempt, rank;
    const char *node;
    uint32_t local_rank, pid;
    bool exited;
    int32_t exit_code, signal;
    int64_t start_ms, end_ms;
    const char *devices; /* "cpu:0,cpu:1" */
    const char *error;
    struct record_blob stderr_tail, stdout_path, stderr_path;
};
struct record_node {
    const char *name, *machine_id, *address, *version, *state, *reason, *isolation;
    int64_t since_ms;
    uint64_t incarnation;
    uint32_t cpus;
    uint64_t memory_bytes;
};
struct record_device {
    const char *node, *id, *model, *visible, *fault;
    uint32_t kind, index;
    uint64_t memory_bytes;
};
struct record_request { /* mutating calls other than Submit */
    struct record_blob id;
    const char *method;
    int64_t created_ms;
    struct record_blob reply; /* the packed first answer */
};
struct record_event {
    uint64_t seq;
    int64_t time_ms;
    const char *kind;
    uint64_t job_id;
    uint32_t attempt;
    const char *node, *text;
};

/* Somebody with a role or a certificate; other users are known by their jobs only. */
struct record_user {
    const char *name;
    uint32_t role; /* UserRole of trust.proto, not NONE */
    int64_t created_ms;
};
struct record_certificate { /* that this coordinator has signed */
    const char *serial;     /* lower-case hex */
    uint32_t kind;          /* enum pki_kind: node or user */
    const char *name;
    int64_t not_after_ms, revoked_ms;
};
struct record_token { /* of enrolment; the secret itself is kept nowhere */
    struct record_blob hash;
    uint32_t kind; /* enum pki_kind: node */
    int64_t expires_ms, used_ms;
    const char *by; /* who made it */
};

struct record {
    enum record_table table;
    /* Only the key fields count. A job takes its attempts, workers and events with it, an attempt
     * its workers. */
    bool is_delete;
    union {
        struct record_meta meta;
        struct record_environment environment;
        struct record_job job;
        struct record_attempt attempt;
        struct record_worker worker;
        struct record_node node;
        struct record_device device;
        struct record_request request;
        struct record_event event;
        struct record_user user;
        struct record_certificate certificate;
        struct record_token token;
    } u;
};

#endif
