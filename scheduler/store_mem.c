/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The store of the simulator: the promises of store.h kept in memory, so that a seed gives the same
 * run everywhere. Rows are deep copies, found by a hash of their key; those of a job are chained
 * from a second hash, so that deleting a job does not look at all the others. load() sorts, so
 * that no order of a hash table is ever seen. It reads no clock, file or random number.
 */
#include "scheduler/store.h"

#include <string.h>

#include "accel/v1/job.pb-c.h"
#include "accel/v1/trust.pb-c.h"
#include "common/pki.h"

struct mem_row {
    struct mem_row *next;                      /* of its bucket */
    struct mem_row *job_next, **job_link;      /* of its job's bucket; job_link NULL: of no job */
    uint64_t hash;
    struct record rec;
    char *bytes; /* what rec's strings and blobs point into */
};

struct store_mem {
    struct store base;
    struct mem_row **rows, **jobs; /* `buckets` of each */
    size_t buckets, count;
    uint64_t epoch;
    unsigned fail_count;
    bool fail_applied;
};

/* ---- what a record is made of ---- */

struct parts {
    const char **texts[8];
    struct record_blob *blobs[4];
};

static struct parts parts_of(struct record *rec)
{
    switch (rec->table) {
    case RECORD_ENVIRONMENT: return (struct parts){.blobs = {&rec->u.environment.env}};
    case RECORD_JOB: {
        struct record_job *j = &rec->u.job;
        return (struct parts){{&j->name, &j->user, &j->reason, &j->command},
                              {&j->request_id, &j->spec}};
    }
    case RECORD_ATTEMPT: {
        struct record_attempt *a = &rec->u.attempt;
        return (struct parts){{&a->text, &a->master_addr, &a->placement}, {NULL}};
    }
    case RECORD_WORKER: {
        struct record_worker *w = &rec->u.worker;
        return (struct parts){{&w->node, &w->devices, &w->error},
                              {&w->stderr_tail, &w->stdout_path, &w->stderr_path}};
    }
    case RECORD_NODE: {
        struct record_node *n = &rec->u.node;
        return (struct parts){{&n->name, &n->machine_id, &n->address, &n->version, &n->state,
                               &n->reason, &n->isolation},
                              {NULL}};
    }
    case RECORD_DEVICE: {
        struct record_device *d = &rec->u.device;
        return (struct parts){{&d->node, &d->id, &d->model, &d->visible, &d->fault}, {NULL}};
    }
    case RECORD_REQUEST:
        return (struct parts){{&rec->u.request.method},
                              {&rec->u.request.id, &rec->u.request.reply}};
    case RECORD_EVENT:
        return (struct parts){{&rec->u.event.kind, &rec->u.event.node, &rec->u.event.text}, {NULL}};
    case RECORD_USER: return (struct parts){{&rec->u.user.name}, {NULL}};
    case RECORD_CERTIFICATE:
        return (struct parts){{&rec->u.certificate.serial, &rec->u.certificate.name}, {NULL}};
    case RECORD_TOKEN: return (struct parts){{&rec->u.token.by}, {&rec->u.token.hash}};
    default: return (struct parts){0};
    }
}

struct mem_key {
    uint64_t number[3];
    const char *text[2];
    struct record_blob blob;
};

static struct mem_key key_of(const struct record *rec)
{
    struct mem_key k = {.text = {"", ""}};
    switch (rec->table) {
    case RECORD_ENVIRONMENT: k.number[0] = rec->u.environment.id; break;
    case RECORD_JOB: k.number[0] = rec->u.job.id; break;
    case RECORD_ATTEMPT:
        k.number[0] = rec->u.attempt.job_id;
        k.number[1] = rec->u.attempt.attempt;
        break;
    case RECORD_WORKER:
        k.number[0] = rec->u.worker.job_id;
        k.number[1] = rec->u.worker.attempt;
        k.number[2] = rec->u.worker.rank;
        break;
    case RECORD_NODE: k.text[0] = rec->u.node.name; break;
    case RECORD_DEVICE:
        k.text[0] = rec->u.device.node;
        k.text[1] = rec->u.device.id;
        break;
    case RECORD_REQUEST: k.blob = rec->u.request.id; break;
    case RECORD_EVENT: k.number[0] = rec->u.event.seq; break;
    case RECORD_USER: k.text[0] = rec->u.user.name; break;
    case RECORD_CERTIFICATE: k.text[0] = rec->u.certificate.serial; break;
    case RECORD_TOKEN: k.blob = rec->u.token.hash; break;
    default: break; /* meta has one row */
    }
    return k;
}

/* The job that takes the row along when it is deleted; 0: none. */
static uint64_t job_of(const struct record *rec)
{
    switch (rec->table) {
    case RECORD_ATTEMPT: return rec->u.attempt.job_id;
    case RECORD_WORKER: return rec->u.worker.job_id;
    case RECORD_EVENT: return rec->u.event.job_id;
    default: return 0;
    }
}

/* As SQLite compares: blobs and text by bytes, the shorter first. */
static int compare_bytes(const void *a, size_t a_len, const void *b, size_t b_len)
{
    size_t len = MIN(a_len, b_len);
    int r = len == 0 ? 0 : memcmp(a, b, len);
    return r != 0 ? r : (a_len > b_len) - (a_len < b_len);
}

static int compare_keys(const struct record *a, const struct record *b)
{
    if (a->table != b->table) {
        return a->table < b->table ? -1 : 1;
    }
    struct mem_key x = key_of(a);
    struct mem_key y = key_of(b);
    for (size_t i = 0; i < ARRAY_LEN(x.number); i++) {
        if (x.number[i] != y.number[i]) {
            return x.number[i] < y.number[i] ? -1 : 1;
        }
    }
    for (size_t i = 0; i < ARRAY_LEN(x.text); i++) {
        int r = strcmp(x.text[i], y.text[i]);
        if (r != 0) {
            return r;
        }
    }
    return compare_bytes(x.blob.data, x.blob.len, y.blob.data, y.blob.len);
}

static uint64_t hash_bytes(uint64_t h, const void *p, size_t len)
{
    const unsigned char *bytes = p; /* FNV-1a */
    for (size_t i = 0; i < len; i++) {
        h = (h ^ bytes[i]) * 0x100000001b3u;
    }
    return h;
}

static uint64_t hash_number(uint64_t n)
{
    uint64_t h = hash_bytes(0xcbf29ce484222325u, &n, sizeof(n));
    return h ^ h >> 32;
}

static uint64_t hash_of(const struct record *rec)
{
    struct mem_key k = key_of(rec);
    uint64_t h = hash_number(rec->table);
    h = hash_bytes(h, k.number, sizeof(k.number));
    h = hash_bytes(h, k.text[0], strlen(k.text[0]) + 1);
    h = hash_bytes(h, k.text[1], strlen(k.text[1]) + 1);
    h = hash_bytes(h, k.blob.data, k.blob.len);
    return h ^ h >> 32;
}

/* ---- rows ---- */

/* Deep-copies *rec into row, whose old bytes are freed afterwards (rec may point into them). */
static void row_fill(struct mem_row *row, const struct record *rec)
{
    struct record copy = *rec;
    struct parts p = parts_of(&copy);
    size_t total = 1;
    for (size_t i = 0; i < ARRAY_LEN(p.texts) && p.texts[i] != NULL; i++) {
        *p.texts[i] = *p.texts[i] != NULL ? *p.texts[i] : "";
        total += strlen(*p.texts[i]) + 1;
    }
    for (size_t i = 0; i < ARRAY_LEN(p.blobs) && p.blobs[i] != NULL; i++) {
        total += p.blobs[i]->len;
    }
    char *bytes = xcalloc(1, total);
    char *at = bytes;
    for (size_t i = 0; i < ARRAY_LEN(p.texts) && p.texts[i] != NULL; i++) {
        size_t len = strlen(*p.texts[i]) + 1;
        memcpy(at, *p.texts[i], len);
        *p.texts[i] = at;
        at += len;
    }
    for (size_t i = 0; i < ARRAY_LEN(p.blobs) && p.blobs[i] != NULL; i++) {
        if (p.blobs[i]->len > 0) {
            memcpy(at, p.blobs[i]->data, p.blobs[i]->len);
        }
        p.blobs[i]->data = at;
        at += p.blobs[i]->len;
    }
    free(row->bytes);
    row->bytes = bytes;
    row->rec = copy;
}

static struct mem_row **row_find(struct store_mem *s, const struct record *rec, uint64_t hash)
{
    struct mem_row **link = &s->rows[hash % s->buckets];
    while (*link != NULL && ((*link)->hash != hash || compare_keys(&(*link)->rec, rec) != 0)) {
        link = &(*link)->next;
    }
    return link;
}

static void job_chain_enter(struct store_mem *s, struct mem_row *row)
{
    uint64_t job_id = job_of(&row->rec);
    row->job_link = NULL;
    if (job_id != 0) {
        struct mem_row **head = &s->jobs[hash_number(job_id) % s->buckets];
        row->job_next = *head;
        row->job_link = head;
        if (*head != NULL) {
            (*head)->job_link = &row->job_next;
        }
        *head = row;
    }
}

static void job_chain_leave(struct mem_row *row)
{
    if (row->job_link != NULL) {
        *row->job_link = row->job_next;
        if (row->job_next != NULL) {
            row->job_next->job_link = row->job_link;
        }
        row->job_link = NULL;
    }
}

static void grow(struct store_mem *s)
{
    size_t old_buckets = s->buckets;
    struct mem_row **old = s->rows;
    s->buckets = MAX(old_buckets * 2, 64);
    s->rows = xcalloc(s->buckets, sizeof(struct mem_row *));
    free(s->jobs);
    s->jobs = xcalloc(s->buckets, sizeof(struct mem_row *));
    for (size_t i = 0; i < old_buckets; i++) {
        for (struct mem_row *row = old[i], *next; row != NULL; row = next) {
            next = row->next;
            row->next = s->rows[row->hash % s->buckets];
            s->rows[row->hash % s->buckets] = row;
            job_chain_enter(s, row);
        }
    }
    free(old);
}

static void row_remove(struct store_mem *s, struct mem_row **link)
{
    struct mem_row *row = *link;
    *link = row->next;
    job_chain_leave(row);
    s->count--;
    free(row->bytes);
    free(row);
}

static void row_erase(struct store_mem *s, const struct record *rec)
{
    struct mem_row **link = row_find(s, rec, hash_of(rec));
    if (*link != NULL) {
        row_remove(s, link);
    }
}

/* Of a job that exists only what may change is written, as store.h says. */
static struct record merged_job(const struct record *old, const struct record *rec)
{
    struct record m = *old;
    const struct record_job *j = &rec->u.job;
    m.u.job.state = j->state;
    m.u.job.result = j->result;
    m.u.job.reason = j->reason;
    m.u.job.attempt = j->attempt;
    m.u.job.restarts = j->restarts;
    m.u.job.max_restarts = j->max_restarts;
    m.u.job.exit_code = j->exit_code;
    m.u.job.start_ms = j->start_ms;
    m.u.job.end_ms = j->end_ms;
    m.u.job.end_seq = j->end_seq;
    return m;
}

static void row_upsert(struct store_mem *s, const struct record *rec)
{
    uint64_t hash = hash_of(rec);
    struct mem_row **link = row_find(s, rec, hash);
    if (*link == NULL) {
        if (s->count >= s->buckets) {
            grow(s);
        }
        struct mem_row *row = xcalloc(1, sizeof(*row));
        row->hash = hash;
        row_fill(row, rec);
        row->next = s->rows[hash % s->buckets];
        s->rows[hash % s->buckets] = row;
        job_chain_enter(s, row);
        s->count++;
        return;
    }
    job_chain_leave(*link);
    if (rec->table == RECORD_JOB) {
        struct record m = merged_job(&(*link)->rec, rec);
        row_fill(*link, &m);
    } else {
        row_fill(*link, rec);
    }
    job_chain_enter(s, *link);
}

/* Deletes the rows of a job, or only the workers of one attempt (-1: all of the job). */
static void erase_children(struct store_mem *s, uint64_t job_id, int64_t attempt)
{
    struct mem_row *next;
    for (struct mem_row *row = s->jobs[hash_number(job_id) % s->buckets]; row != NULL; row = next) {
        bool is_worker = row->rec.table == RECORD_WORKER;
        next = row->job_next;
        if (job_of(&row->rec) == job_id &&
            (attempt < 0 || (is_worker && row->rec.u.worker.attempt == attempt))) {
            row_remove(s, row_find(s, &row->rec, row->hash));
        }
    }
}

static void apply(struct store_mem *s, const struct record *rec)
{
    if (!rec->is_delete) {
        row_upsert(s, rec);
        return;
    }
    CHECK(rec->table != RECORD_META);
    if (rec->table == RECORD_JOB) {
        erase_children(s, rec->u.job.id, -1);
    } else if (rec->table == RECORD_ATTEMPT) {
        erase_children(s, rec->u.attempt.job_id, rec->u.attempt.attempt);
    }
    row_erase(s, rec);
}

/* ---- what SQLite's constraints refuse, so that the simulator finds it too ---- */

static const struct record_job *job_by_request(struct store_mem *s, const struct store_txn *txn,
                                               const struct record_job *j)
{
    for (size_t i = 0; i < txn->count; i++) {
        const struct record *rec = &txn->records[i];
        if (rec->table == RECORD_JOB && !rec->is_delete && rec->u.job.id != j->id &&
            compare_bytes(rec->u.job.request_id.data, rec->u.job.request_id.len,
                          j->request_id.data, j->request_id.len) == 0) {
            return &rec->u.job;
        }
    }
    for (size_t i = 0; i < s->buckets; i++) {
        for (struct mem_row *row = s->rows[i]; row != NULL; row = row->next) {
            const struct record_job *other = &row->rec.u.job;
            if (row->rec.table == RECORD_JOB && other->id != j->id &&
                compare_bytes(other->request_id.data, other->request_id.len, j->request_id.data,
                              j->request_id.len) == 0) {
                return other;
            }
        }
    }
    return NULL;
}

static bool is_holder(uint32_t kind)
{
    return kind == PKI_NODE || kind == PKI_USER;
}

static bool has_names(const struct record *rec)
{
    switch (rec->table) {
    case RECORD_JOB:
        return rec->u.job.state != ACCEL__V1__JOB_STATE__JOB_UNKNOWN &&
               rec->u.job.state <= ACCEL__V1__JOB_STATE__JOB_ENDED &&
               rec->u.job.result <= ACCEL__V1__JOB_RESULT__RESULT_LOST;
    case RECORD_ATTEMPT: return rec->u.attempt.cause <= ACCEL__V1__CAUSE__CAUSE_DEVICE_FAULT;
    case RECORD_DEVICE: return rec->u.device.kind <= ACCEL__V1__DEVICE_KIND__DEVICE_TPU;
    case RECORD_USER:
        return rec->u.user.role != ACCEL__V1__USER_ROLE__USER_ROLE_NONE &&
               rec->u.user.role <= ACCEL__V1__USER_ROLE__USER_ROLE_ADMIN;
    case RECORD_CERTIFICATE: return is_holder(rec->u.certificate.kind);
    case RECORD_TOKEN: return is_holder(rec->u.token.kind);
    default: return true;
    }
}

static int check_txn(struct store_mem *s, const struct store_txn *txn, struct accel_error *err)
{
    for (size_t i = 0; i < txn->count; i++) {
        const struct record *rec = &txn->records[i];
        if (txn->epoch < s->epoch ||
            (rec->table == RECORD_META && rec->u.meta.epoch < s->epoch)) {
            return error_set(err, ACCEL_ESTALE, "a newer coordinator has written");
        }
        if (rec->is_delete) {
            continue;
        }
        if (!has_names(rec)) {
            return error_set(err, ACCEL_EINVAL, "a record of table %d has a value with no name",
                             (int)rec->table);
        }
        /* A new job only: nobody else's request id changes. */
        if (rec->table == RECORD_JOB && rec->u.job.request_id.len > 0 &&
            *row_find(s, rec, hash_of(rec)) == NULL &&
            job_by_request(s, txn, &rec->u.job) != NULL) {
            return error_set(err, ACCEL_EEXIST, "the request id of job %llu is taken",
                             (unsigned long long)rec->u.job.id);
        }
    }
    return 0;
}

/* ---- the store ---- */

static int mem_commit(struct store *base, const struct store_txn *txn, struct accel_error *err)
{
    struct store_mem *s = CONTAINER_OF(base, struct store_mem, base);
    bool must_fail = s->fail_count > 0;
    s->fail_count -= must_fail;
    if (must_fail && !s->fail_applied) {
        return error_set(err, ACCEL_ENOSPC, "cannot write: no space left (simulated)");
    }
    int r = check_txn(s, txn, err);
    if (r != 0) {
        return r;
    }
    for (size_t i = 0; i < txn->count; i++) {
        apply(s, &txn->records[i]);
        if (txn->records[i].table == RECORD_META) {
            s->epoch = txn->records[i].u.meta.epoch;
        }
    }
    if (must_fail) {
        return error_set(err, ACCEL_ENOSPC, "written, but not known to be (simulated)");
    }
    __atomic_fetch_add(&base->row_writes, txn->count, __ATOMIC_RELAXED);
    __atomic_fetch_add(&base->commits, 1, __ATOMIC_RELAXED);
    return 0;
}

static int compare_rows(const void *a, const void *b)
{
    return compare_keys(&(*(struct mem_row *const *)a)->rec, &(*(struct mem_row *const *)b)->rec);
}

static struct mem_row **sorted_rows(struct store_mem *s)
{
    struct mem_row **rows = xcalloc(s->count, sizeof(struct mem_row *));
    size_t n = 0;
    for (size_t i = 0; i < s->buckets; i++) {
        for (struct mem_row *row = s->rows[i]; row != NULL; row = row->next) {
            rows[n++] = row;
        }
    }
    CHECK(n == s->count);
    qsort(rows, n, sizeof(rows[0]), compare_rows);
    return rows;
}

static int mem_load(struct store *base, void (*on_record)(void *ctx, const struct record *rec),
                    void *ctx, struct accel_error *err)
{
    struct store_mem *s = CONTAINER_OF(base, struct store_mem, base);
    AUTO_FREE struct mem_row **rows = sorted_rows(s);
    for (size_t i = 0; i < s->count; i++) {
        struct record rec = rows[i]->rec;
        if (rec.table == RECORD_JOB && rec.u.job.state == ACCEL__V1__JOB_STATE__JOB_ENDED) {
            rec.u.job.spec.len = 0;
        }
        on_record(ctx, &rec);
    }
    return 0;
}

static void mem_idle(struct store *base)
{
}

static int mem_snapshot(struct store *base, const char *path, uint64_t *ret_bytes,
                        struct accel_error *err)
{
    return error_set(err, ACCEL_EUNIMPL, "a store in memory has no file to copy");
}

static int mem_check(struct store *base, void (*on_problem)(void *ctx, const char *text), void *ctx,
                     struct accel_error *err)
{
    struct store_mem *s = CONTAINER_OF(base, struct store_mem, base);
    AUTO_FREE struct mem_row **rows = sorted_rows(s);
    for (size_t i = 0; i < s->count; i++) {
        uint64_t job_id = job_of(&rows[i]->rec);
        struct record job = {.table = RECORD_JOB, .u.job.id = job_id};
        if (job_id != 0 && rows[i]->rec.table != RECORD_EVENT &&
            *row_find(s, &job, hash_of(&job)) == NULL) {
            on_problem(ctx, "an attempt or worker has no job");
        }
    }
    return 0;
}

static const char *mem_describe(struct store *base)
{
    return "memory";
}

static void mem_close(struct store *base)
{
    struct store_mem *s = CONTAINER_OF(base, struct store_mem, base);
    for (size_t i = 0; i < s->buckets; i++) {
        while (s->rows[i] != NULL) {
            row_remove(s, &s->rows[i]);
        }
    }
    free(s->rows);
    free(s->jobs);
    free(s);
}

static const struct store_ops mem_ops = {
    .load = mem_load,
    .commit = mem_commit,
    .idle = mem_idle,
    .snapshot = mem_snapshot,
    .check = mem_check,
    .describe = mem_describe,
    .close = mem_close,
};

struct store *store_mem_create(uint64_t era)
{
    struct store_mem *s = xcalloc(1, sizeof(*s));
    s->base.ops = &mem_ops;
    grow(s);
    apply(s, &(struct record){.table = RECORD_META, .u.meta.era = era});
    return &s->base;
}

void store_mem_fail_commits(struct store *base, unsigned count, bool applied)
{
    struct store_mem *s = CONTAINER_OF(base, struct store_mem, base);
    CHECK(base->ops == &mem_ops);
    s->fail_count = count;
    s->fail_applied = applied;
}
