/* SPDX-License-Identifier: Apache-2.0 */
/*
 * coord.h - the pure core of the coordinator. coord_step() takes one event with the time in it; no
 * I/O, clock, thread or environment inside. It appends outputs (SEND and END of calls) to a batch,
 * in step order, and marks what must become durable; coord_collect() turns the marks into records,
 * the last version of each row once.
 *
 * The shell's duty, which is the order contract (STYLE 3): outputs appended by a step leave only
 * after a commit that holds every record marked up to that step. So: step until the queue is empty;
 * if no commit runs, collect; if there are records, commit them, then let out the outputs; if there
 * are none, let them out at once.
 *
 * A call number is the rpc server's. The core answers each unary call exactly once, and may keep
 * streams open.
 */
#ifndef ACCEL_SCHEDULER_COORD_H
#define ACCEL_SCHEDULER_COORD_H

#include <protobuf-c/protobuf-c.h>

#include "accel/v1/agent.pb-c.h"
#include "common/arena.h"
#include "common/caller.h"
#include "common/error.h"
#include "common/pki.h"
#include "common/trace.h"
#include "scheduler/record.h"

struct coord; /* opaque */

/* Methods that the core handles; the id of their row in the service table (api.c). Admin's others
 * belong to the shell. */
enum coord_method {
    COORD_SUBMIT = 1,
    COORD_LIST,
    COORD_GET,
    COORD_WATCH,
    COORD_CANCEL,
    COORD_SIGNAL,
    COORD_INPUT,
    COORD_LOG_READ,
    COORD_NODES,
    COORD_EVENTS,
    COORD_SESSION, /* an agent: bidi */
    COORD_ENROLL,  /* from here on the service Trust; see struct coord_grant */
    COORD_RENEW,
    COORD_CREATE_TOKEN,
    COORD_SIGN_USER,
    COORD_REVOKE_USER,
    COORD_REMOVE_NODE,
    COORD_LIST_USERS,
    COORD_SET_ROLE,
    COORD_METHOD_COUNT
};

struct coord_config {
    int64_t session_grace_ms; /* LIMIT_SESSION_GRACE_MS */
    uint32_t history_jobs;    /* LIMIT_HISTORY_JOBS */
    int64_t history_ms;       /* LIMIT_HISTORY_MS */
    uint64_t live_bytes;      /* 0: LIMIT_LIVE_BYTES */
    struct trace *trace;      /* NULL in production */
};

/* What the shell's cryptography has made for a call of Trust. It counts only if the core says so:
 * then it is kept, and sent after the commit. All borrowed during the step. */
struct coord_grant {
    const uint8_t *hash; /* Enroll, CreateNodeToken: SHA-256 of the secret; else NULL */
    /* Enroll, Renew, SignUser: the certificate. NULL: coord_may_enroll() said no. */
    const char *certificate_pem, *ca_pem;
    const char *serial;
    int64_t not_after_ms;         /* of the certificate; CreateNodeToken: of the token */
    const char *token;            /* CreateNodeToken: its text */
    const char *const *addresses; /* of this coordinator */
    size_t address_count;
};

/* Why somebody was not let do what he tried; counted since the start. */
enum coord_refusal {
    COORD_REFUSED_HANDSHAKE,   /* no certificate of ours, or it is not valid now */
    COORD_REFUSED_CERTIFICATE, /* revoked, or not known here */
    COORD_REFUSED_TOKEN,
    COORD_REFUSED_RIGHTS,  /* his role, or the job is not his */
    COORD_REFUSED_SESSION, /* a node that is not who it says */
    COORD_REFUSED_REPORT,  /* about an attempt that is not the node's or never was */
    COORD_REFUSAL_COUNT
};

enum coord_event_type {
    COORD_EV_CALL,    /* method, call, who, rpc_type, msg */
    COORD_EV_REFUSED, /* refusal, text: the shell or a transport has refused somebody */
    COORD_EV_TICK,    /* the deadline passed */
    COORD_EV_STOP,    /* a planned stop: agents are told (Bye) */
};
struct coord_event {
    enum coord_event_type type;
    int64_t now_ms; /* mono, of this event */
    int64_t wall_ms;
    /* COORD_EV_CALL: what the transport said */
    enum coord_method method;
    enum rpc_event_type rpc_type;
    uint64_t call;
    const struct rpc_identity *who;
    const ProtobufCMessage *msg;     /* borrowed during the step */
    const struct coord_grant *grant; /* calls of Trust only */
    enum coord_refusal refusal;
    const char *text;
};

struct coord_output {
    uint64_t call;
    bool is_end;      /* the call is over with code and text (and a last message if data) */
    int code;         /* ACCEL_E* */
    const char *text; /* in the batch's arena */
    const void *data; /* packed message, in the arena; NULL: none */
    size_t len;
};
/* What else is to be done once the batch is durable. */
struct coord_note {
    const char *log;         /* a warning for the log, or NULL */
    const char *drop_serial; /* end all calls of this certificate's holder, or NULL */
};
struct coord_batch {
    struct arena arena; /* owns all that outputs and records point to */
    struct coord_output *outputs;
    size_t output_count, output_cap;
    struct coord_note *notes;
    size_t note_count, note_cap;
    struct record *records;
    size_t record_count, record_cap;
    bool is_durable; /* set by the shell when the records are committed; outputs leave only then */
};
void coord_batch_init(struct coord_batch *b);
void coord_batch_done(struct coord_batch *b);
void coord_batch_reset(struct coord_batch *b);

struct coord *coord_create(const struct coord_config *config);
void coord_destroy(struct coord *c);

/* Start: every record of the store in load order, then coord_start, which marks the new epoch;
 * serve only after the first collect is committed. new_era: for a store that has no meta row yet.
 */
void coord_load(struct coord *c, const struct record *rec);
void coord_start(struct coord *c, int64_t now_ms, int64_t wall_ms, uint64_t new_era);
/* Right after coord_start: people say that the store is an older copy, and that nobody can prove
 * it. What runs is fenced, and job ids go on at the next million. */
void coord_begin_era(struct coord *c);
/* 32 secret bytes that outlive the store: with them a node's word about eras and epochs that the
 * store does not know is checked. Without, only sessions of this host are believed. */
void coord_set_seal_key(struct coord *c, const uint8_t key[32]);

void coord_step(struct coord *c, const struct coord_event *ev, struct coord_batch *out);
/* Moves all marks into records of `out`. */
void coord_collect(struct coord *c, struct coord_batch *out);
int64_t coord_deadline_ms(const struct coord *c); /* -1: none */
void coord_check(const struct coord *c);          /* cheap invariants; run around every step */
void coord_check_all(
    const struct coord *c); /* everything, O(all); the simulator after every step */

/* Whose archive (JobSpec.sync) the session `call` may read for the attempt `ref`: ACCEL_EPERM
 * unless its node runs that attempt and the job brings this very content; ACCEL_ESTATE: it did. The
 * name lives as long as c. */
int coord_archive_owner(struct coord *c, uint64_t call, const Accel__V1__AttemptRef *ref,
                        const uint8_t hash[32], const char **ret_user, struct accel_error *err);

/* From the next step on; see struct coord_config. */
void coord_set_history(struct coord *c, uint32_t jobs, int64_t ms);

uint64_t coord_era(const struct coord *c);
uint64_t coord_epoch(const struct coord *c);
uint32_t coord_jobs_live(const struct coord *c);
uint32_t coord_nodes_ready(const struct coord *c);
uint32_t coord_nodes_known(const struct coord *c);
/* May the daemon go: no live job, no open call but agents' sessions. */
bool coord_is_idle(const struct coord *c);

/* Whether this token would serve now; Enroll decides again. Saves the cryptography for those who
 * guess. */
bool coord_may_enroll(const struct coord *c, const uint8_t hash[PKI_HASH_BYTES], int64_t wall_ms);
/* Who the holder of a certificate is that the transport has verified: fills role, user and node.
 * ACCEL_EPERM: it was revoked, or this coordinator does not know it. */
int coord_identify(const struct coord *c, enum pki_kind kind, const char *name, const char *serial,
                   int64_t wall_ms, struct rpc_identity *ret_who, struct accel_error *err);
/* Of a user by name; USER where nobody has said otherwise. */
enum rpc_role coord_role(const struct coord *c, const char *name);
const uint64_t *coord_refused(const struct coord *c); /* COORD_REFUSAL_COUNT of them */

/* For docs/LIFECYCLES.md. */
struct lifecycle;
extern const struct lifecycle job_lifecycle, node_lifecycle, session_lifecycle;

#endif
