/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_store_lib.h - what the tests of the store share: a temporary folder, a sequence of
 * transactions that touches every table, and all that a store holds as one text, so that two
 * stores can be compared (the SQLite one with the one in memory, which is the model).
 */
#ifndef ACCEL_TEST_STORE_LIB_H
#define ACCEL_TEST_STORE_LIB_H

#include <ftw.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "accel/v1/job.pb-c.h"
#include "accel/v1/trust.pb-c.h"
#include "common/pki.h"
#include "common/str.h"
#include "scheduler/store.h"

#define MAYBE_UNUSED __attribute__((unused))

/* ---- a folder ---- */

MAYBE_UNUSED static void make_dir(char *path, size_t size)
{
    const char *base = getenv("TMPDIR");
    snprintf(path, size, "%s/accel-store-XXXXXX", base != NULL ? base : "/tmp");
    assert_non_null(mkdtemp(path));
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
    return remove(path);
}

MAYBE_UNUSED static void remove_dir(const char *path)
{
    nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* ---- all that a store holds ---- */

static void dump_blob(struct str *s, struct record_blob b)
{
    const unsigned char *p = b.data;
    uint64_t hash = 0xcbf29ce484222325u;
    str_addf(s, " %zu:", b.len);
    for (size_t i = 0; i < b.len; i++) {
        hash = (hash ^ p[i]) * 0x100000001b3u;
        if (b.len <= 16) {
            str_addf(s, "%02x", p[i]);
        }
    }
    if (b.len > 16) {
        str_addf(s, "hash-%" PRIx64, hash);
    }
}

static void dump_job(struct str *s, const struct record_job *j)
{
    str_addf(s, "job %" PRIu64 " %s %s %u:%u state %u result %u '%s' %u %u/%u exit %d", j->id,
             j->name, j->user, j->uid, j->gid, j->state, j->result, j->reason, j->attempt,
             j->restarts, j->max_restarts, j->exit_code);
    str_addf(s, " ms %" PRId64 " %" PRId64 " %" PRId64 " seq %" PRIu64 " %" PRIu64, j->submit_ms,
             j->start_ms, j->end_ms, j->submit_seq, j->end_seq);
    str_addf(s, " '%s' env %" PRIu64, j->command, j->environment_id);
    dump_blob(s, j->request_id);
    dump_blob(s, j->spec);
}

static void dump_attempt(struct str *s, const struct record_attempt *a)
{
    str_addf(s, "attempt %" PRIu64 ".%u cause %u '%s' ms %" PRId64 " %" PRId64 " %" PRId64,
             a->job_id, a->attempt, a->cause, a->text, a->start_ms, a->run_ms, a->end_ms);
    str_addf(s, " seq %" PRIu64 " %" PRIu64 " %" PRIu64 " first %d %s:%u '%s'", a->start_seq,
             a->run_seq, a->end_seq, a->first_failed_rank, a->master_addr, a->master_port,
             a->placement);
}

static void dump_worker(struct str *s, const struct record_worker *w)
{
    str_addf(s, "worker %" PRIu64 ".%u.%u %s %u pid %u %d exit %d signal %d", w->job_id, w->attempt,
             w->rank, w->node, w->local_rank, w->pid, w->exited, w->exit_code, w->signal);
    str_addf(s, " ms %" PRId64 " %" PRId64 " %s '%s'", w->start_ms, w->end_ms, w->devices,
             w->error);
    dump_blob(s, w->stderr_tail);
    dump_blob(s, w->stdout_path);
    dump_blob(s, w->stderr_path);
}

static void dump_trust(struct str *s, const struct record *rec)
{
    const struct record_certificate *c = &rec->u.certificate;
    const struct record_token *t = &rec->u.token;
    switch (rec->table) {
    case RECORD_USER:
        str_addf(s, "user %s role %u %" PRId64, rec->u.user.name, rec->u.user.role,
                 rec->u.user.created_ms);
        break;
    case RECORD_CERTIFICATE:
        str_addf(s, "certificate %s kind %u %s %" PRId64 " %" PRId64, c->serial, c->kind, c->name,
                 c->not_after_ms, c->revoked_ms);
        break;
    case RECORD_TOKEN:
        str_addf(s, "token kind %u %" PRId64 " %" PRId64 " %s", t->kind, t->expires_ms, t->used_ms,
                 t->by);
        dump_blob(s, t->hash);
        break;
    default: fail_msg("a record of table %d", (int)rec->table);
    }
}

static void dump_rest(struct str *s, const struct record *rec)
{
    const struct record_meta *m = &rec->u.meta;
    const struct record_node *n = &rec->u.node;
    const struct record_device *d = &rec->u.device;
    const struct record_request *q = &rec->u.request;
    const struct record_event *e = &rec->u.event;
    switch (rec->table) {
    case RECORD_META: /* not the era: it is random */
        str_addf(s, "meta epoch %" PRIu64 " seq %" PRIu64 " floor %" PRIu64, m->epoch,
                 m->seq_reserved, m->job_id_floor);
        break;
    case RECORD_ENVIRONMENT:
        str_addf(s, "environment %" PRIu64, rec->u.environment.id);
        dump_blob(s, rec->u.environment.env);
        break;
    case RECORD_NODE:
        str_addf(s, "node %s %s %s %s %s '%s' %s %" PRId64 " %" PRIu64 " %u %" PRIu64, n->name,
                 n->machine_id, n->address, n->version, n->state, n->reason, n->isolation,
                 n->since_ms, n->incarnation, n->cpus, n->memory_bytes);
        break;
    case RECORD_DEVICE:
        str_addf(s, "device %s %s %s %s '%s' %u %u %" PRIu64, d->node, d->id, d->model, d->visible,
                 d->fault, d->kind, d->index, d->memory_bytes);
        break;
    case RECORD_REQUEST:
        str_addf(s, "request %s %" PRId64, q->method, q->created_ms);
        dump_blob(s, q->id);
        dump_blob(s, q->reply);
        break;
    case RECORD_EVENT:
        str_addf(s, "event %" PRIu64 " %" PRId64 " %s %" PRIu64 ".%u %s '%s'", e->seq, e->time_ms,
                 e->kind, e->job_id, e->attempt, e->node, e->text);
        break;
    default: dump_trust(s, rec);
    }
}

static void dump_record(void *ctx, const struct record *rec)
{
    struct str *s = ctx;
    assert_false(rec->is_delete);
    switch (rec->table) {
    case RECORD_JOB: dump_job(s, &rec->u.job); break;
    case RECORD_ATTEMPT: dump_attempt(s, &rec->u.attempt); break;
    case RECORD_WORKER: dump_worker(s, &rec->u.worker); break;
    default: dump_rest(s, rec);
    }
    str_addc(s, '\n');
}

/* The caller frees it. */
MAYBE_UNUSED static char *dump_store(struct store *store)
{
    struct accel_error err = {0};
    struct str s;
    str_init(&s);
    int r = store->ops->load(store, dump_record, &s, &err);
    if (r != 0) {
        fail_msg("load: %s", err.text);
    }
    return str_steal(&s);
}

MAYBE_UNUSED static void assert_same_store(struct store *a, struct store *b)
{
    AUTO_FREE char *x = dump_store(a);
    AUTO_FREE char *y = dump_store(b);
    assert_string_equal(x, y);
}

/* ---- transactions ---- */

#define STEP_RECORDS 16

/* Transaction number `k` (from 1) of a life of the coordinator: a job is submitted, the one before
 * started, the one before that ended, old ones deleted. Static: good until the next call. */
struct step {
    struct record records[STEP_RECORDS];
    size_t count;
    struct store_txn txn;
    char text[4][64];
    unsigned char ids[4][16], hash[32];
    char bulk[6000];
};

static struct record *step_add(struct step *st, enum record_table table)
{
    assert_true(st->count < STEP_RECORDS);
    struct record *rec = &st->records[st->count++];
    *rec = (struct record){.table = table};
    return rec;
}

static void step_job(struct step *st, uint64_t id, uint32_t state, unsigned char *request)
{
    bool is_ended = state == ACCEL__V1__JOB_STATE__JOB_ENDED;
    memset(request, 0, 16);
    memcpy(request, &id, sizeof(id));
    step_add(st, RECORD_JOB)->u.job = (struct record_job){
        .id = id, .name = "train", .user = "ann", .uid = 1000, .gid = 4294967294u,
        .state = state, .reason = "why", .command = "python3 train.py",
        .submit_ms = 1000 + (int64_t)id, .submit_seq = id * 10 + 1, .environment_id = 1,
        .max_restarts = 3, .attempt = state != ACCEL__V1__JOB_STATE__JOB_PENDING,
        .result = is_ended ? ACCEL__V1__JOB_RESULT__RESULT_FAILED : 0,
        .end_seq = is_ended ? id * 10 + 5 : 0, .end_ms = is_ended ? 9000 : 0,
        .exit_code = is_ended ? -1 : 0, .request_id = {request, 16},
        .spec = {st->bulk, 100 + id * 700 % 5000}, /* some on overflow pages */
    };
}

static void step_attempt(struct step *st, uint64_t id, bool ended)
{
    step_add(st, RECORD_ATTEMPT)->u.attempt = (struct record_attempt){
        .job_id = id, .attempt = 1, .text = "text", .start_ms = 2000, .start_seq = id * 10 + 2,
        .run_ms = ended ? 3000 : 0, .run_seq = ended ? id * 10 + 3 : 0,
        .end_ms = ended ? 4000 : 0, .end_seq = ended ? id * 10 + 4 : 0,
        .cause = ended ? ACCEL__V1__CAUSE__CAUSE_WORKER_FAILED : ACCEL__V1__CAUSE__CAUSE_NONE,
        .first_failed_rank = ended ? 0 : -1, .master_addr = "127.0.0.1", .master_port = 29500,
        .placement = "n1 0 1 cpu:0",
    };
}

static void step_first(struct step *st, uint64_t epoch)
{
    step_add(st, RECORD_ENVIRONMENT)->u.environment =
        (struct record_environment){.id = 1, .env = {st->bulk, 3000}};
    step_add(st, RECORD_NODE)->u.node = (struct record_node){
        .name = "n1", .machine_id = "0123", .address = "h", .version = "0.1", .state = "ready",
        .reason = "", .isolation = "none", .since_ms = 5, .incarnation = 1, .cpus = 2,
        .memory_bytes = 1ull << 40};
    for (uint32_t i = 0; i < 2; i++) {
        snprintf(st->text[i], sizeof(st->text[i]), "cpu:%u", i);
        step_add(st, RECORD_DEVICE)->u.device = (struct record_device){
            .node = "n1", .id = st->text[i], .model = "", .visible = "", .fault = "",
            .kind = ACCEL__V1__DEVICE_KIND__DEVICE_CPU, .index = i};
    }
}

/* One user for ever, a certificate that is revoked when it is written again, a token that is used
 * in the next transaction and goes in the one after. */
static void step_trust(struct step *st, uint64_t k)
{
    step_add(st, RECORD_USER)->u.user = (struct record_user){
        .name = "ann", .created_ms = 5,
        .role = k % 2 ? ACCEL__V1__USER_ROLE__USER_ROLE_USER
                      : ACCEL__V1__USER_ROLE__USER_ROLE_ADMIN};
    snprintf(st->text[2], sizeof(st->text[2]), "%032" PRIx64, k / 2 + 1);
    step_add(st, RECORD_CERTIFICATE)->u.certificate = (struct record_certificate){
        .serial = st->text[2], .kind = k % 3 ? PKI_NODE : PKI_USER, .name = "n1",
        .not_after_ms = 1ll << 50, .revoked_ms = k % 2 ? (int64_t)k : 0};
    memset(st->hash, (int)(k / 3), sizeof(st->hash));
    struct record *rec = step_add(st, RECORD_TOKEN);
    rec->is_delete = k % 3 == 2;
    rec->u.token = (struct record_token){.hash = {st->hash, 32}, .kind = PKI_NODE,
                                         .expires_ms = 99, .used_ms = k % 3 == 1, .by = "ann"};
}

MAYBE_UNUSED static const struct store_txn *step_make(struct step *st, uint64_t k, uint64_t epoch)
{
    memset(st, 0, sizeof(*st));
    for (size_t i = 0; i < sizeof(st->bulk); i++) {
        st->bulk[i] = (char)(i * 31 + k);
    }
    step_add(st, RECORD_META)->u.meta = (struct record_meta){
        .era = 7, .epoch = epoch, .seq_reserved = k * 10 + 10, .job_id_floor = k + 1};
    if (k == 1) {
        step_first(st, epoch);
    }
    step_job(st, k, ACCEL__V1__JOB_STATE__JOB_PENDING, st->ids[0]);
    if (k > 1) {
        step_job(st, k - 1, ACCEL__V1__JOB_STATE__JOB_RUNNING, st->ids[1]);
        step_attempt(st, k - 1, false);
    }
    if (k > 2) {
        step_job(st, k - 2, ACCEL__V1__JOB_STATE__JOB_ENDED, st->ids[2]);
        step_attempt(st, k - 2, true);
        step_add(st, RECORD_WORKER)->u.worker = (struct record_worker){
            .job_id = k - 2, .attempt = 1, .node = "n1", .pid = 71, .exited = true, .exit_code = 1,
            .signal = 9, .devices = "cpu:0", .error = "", .start_ms = 2, .end_ms = 3,
            .stderr_tail = {st->bulk, k * 300 % 4096}, .stdout_path = {"/o\xff", 3}};
        step_add(st, RECORD_EVENT)->u.event = (struct record_event){
            .seq = k * 10 + 9, .time_ms = 1700000000123, .kind = "node.ready", .node = "n1",
            .text = "it's", .job_id = k - 2};
    }
    if (k > 5) {
        struct record *rec = step_add(st, RECORD_JOB);
        rec->is_delete = true;
        rec->u.job.id = k - 5;
    }
    step_trust(st, k);
    memset(st->ids[3], (int)k, sizeof(st->ids[3]));
    struct record *rec = step_add(st, RECORD_REQUEST);
    rec->u.request = (struct record_request){
        .id = {st->ids[3], 16}, .method = "Cancel", .created_ms = 5, .reply = {st->bulk, k % 3}};
    st->txn = (struct store_txn){.records = st->records, .count = st->count, .epoch = epoch};
    return &st->txn;
}

#endif
