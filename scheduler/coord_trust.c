/* SPDX-License-Identifier: Apache-2.0 */
/*
 * coord_trust.c - the tables of trust: certificates that this coordinator has signed, tokens of
 * enrolment, roles of users; and the count of what was refused. Who may change them is decided in
 * coord_trust_calls.c; keys and signatures are the shell's (enrol.c). No I/O, no cryptography.
 */
#include "scheduler/coord_trust.h"

struct trust *trust_create(void)
{
    return xcalloc(1, sizeof(struct trust));
}

void trust_destroy(struct trust *t)
{
    struct certificate *cert, *next_cert;
    struct token *token, *next_token;

    HASH_ITER(hh, t->certificates, cert, next_cert) {
        HASH_DELETE(hh, t->certificates, cert);
        free(cert);
    }
    HASH_ITER(hh, t->tokens, token, next_token) {
        HASH_DELETE(hh, t->tokens, token);
        free(token);
    }
    free(t);
}

/* --- refusals --- */

const char *trust_who(struct coord *c, const struct rpc_identity *who)
{
    struct arena *a = &c->out->arena;

    if (who->role == RPC_ROLE_NODE)
        return arena_printf(a, "node %s", who->node);
    if (who->is_local)
        return arena_printf(a, "uid %u (%s) on this host", who->uid, who->user);
    if (who->role == RPC_ROLE_NONE)
        return "a caller without a certificate";
    return arena_printf(a, "user %s", who->user);
}

void trust_refuse(struct coord *c, enum coord_refusal kind, const char *fmt, ...)
{
    struct trust *t = c->trust;
    char text[LIMIT_REASON_BYTES];
    va_list ap;

    t->refused[kind]++;
    if (t->window_count == 0 || c->now_ms - t->window_ms >= LIMIT_REFUSALS_WINDOW_MS) {
        t->window_ms = c->now_ms;
        t->window_count = 0;
    }
    if (t->window_count >= LIMIT_REFUSALS_TOLD) {
        t->untold++;
        return;
    }
    t->window_count++;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    if (t->untold > 0)
        history_add(c, EVENT_REFUSED, 0, 0, NULL, "%u more before were not told one by one",
                    t->untold);
    t->untold = 0;
    history_add(c, EVENT_REFUSED, 0, 0, NULL, "%s", text);
    note_log(c, text);
}

/* --- what a coordinator has said of itself --- */

void coord_set_seal_key(struct coord *c, const uint8_t key[HASH_BYTES])
{
    memcpy(c->trust->seal_key, key, HASH_BYTES);
    c->trust->has_seal_key = true;
}

static void hash_keyed(const uint8_t *key, uint8_t pad, const void *p, size_t len, uint8_t *ret)
{
    uint8_t block[64]; /* of SHA-256 */
    struct hash h;

    memset(block, pad, sizeof(block));
    for (size_t i = 0; i < HASH_BYTES; i++)
        block[i] ^= key[i];
    hash_init(&h);
    hash_add(&h, block, sizeof(block));
    hash_add(&h, p, len);
    hash_end(&h, ret);
}

bool trust_seal(const struct coord *c, uint64_t era, uint64_t epoch, uint8_t ret_seal[HASH_BYTES])
{
    const struct trust *t = c->trust;
    uint8_t text[16], inner[HASH_BYTES];

    if (!t->has_seal_key)
        return false;
    for (size_t i = 0; i < 8; i++) {
        text[i] = (uint8_t)(era >> (56 - 8 * i));
        text[8 + i] = (uint8_t)(epoch >> (56 - 8 * i));
    }
    hash_keyed(t->seal_key, 0x36, text, sizeof(text), inner);
    hash_keyed(t->seal_key, 0x5c, inner, sizeof(inner), ret_seal);
    return true;
}

const uint64_t *coord_refused(const struct coord *c)
{
    return c->trust->refused;
}

static const Accel__V1__AttemptRef *ref_of(const Accel__V1__AgentUp *up)
{
    switch (up->body_case) {
    case ACCEL__V1__AGENT_UP__BODY_REPORT:
        if (up->report->body_case == ACCEL__V1__REPORT__BODY_STARTED)
            return up->report->started->ref;
        return up->report->body_case == ACCEL__V1__REPORT__BODY_ENDED ? up->report->ended->ref
                                                                      : NULL;
    case ACCEL__V1__AGENT_UP__BODY_PREPARED: return up->prepared->ref;
    case ACCEL__V1__AGENT_UP__BODY_FENCE: return up->fence->ref;
    default: return NULL;
    }
}

bool trust_is_forged(const struct coord *c, const struct node *n, const Accel__V1__AttemptRef *ref)
{
    if (ref->era != c->era)
        return ref->era > c->era; /* older ones are those of a store that was put back */
    const struct job *j = job_find(c, ref->job_id);
    if (!j)
        return ref->job_id >= c->job_id_next; /* else it has left the history */
    if (ref->attempt == 0 || ref->attempt > j->run->attempt)
        return true;
    const struct attempt *a = attempt_find(j, ref->attempt);
    bool is_carried = !a; /* only the first and the newest are kept */
    for (size_t i = 0; a && i < a->share_count; i++)
        is_carried |= !strcmp(a->shares[i].node_name, n->name);
    return !is_carried;
}

void trust_watch(struct coord *c, const struct node *n, const Accel__V1__AgentUp *up)
{
    const Accel__V1__AttemptRef *ref = ref_of(up);

    if (ref && trust_is_forged(c, n, ref))
        trust_refuse(c, COORD_REFUSED_REPORT,
                     "node %s spoke of job %llu attempt %u, which it never had", n->name,
                     (unsigned long long)ref->job_id, ref->attempt);
}

/* --- rows: one record of each key in a batch, the last --- */

static struct record *loose_of(struct coord *c, enum record_table table, const char *key,
                               const uint8_t *hash)
{
    for (size_t i = 0; i < c->loose_count; i++) {
        struct record *r = &c->loose[i];
        if (r->table != table)
            continue;
        if (table == RECORD_USER && !strcmp(r->u.user.name, key))
            return r;
        if (table == RECORD_CERTIFICATE && !strcmp(r->u.certificate.serial, key))
            return r;
        if (table == RECORD_TOKEN && !memcmp(r->u.token.hash.data, hash, PKI_HASH_BYTES))
            return r;
    }
    return mark_loose(c, table);
}

static void user_mark(struct coord *c, const struct user *u)
{
    loose_of(c, RECORD_USER, u->name, NULL)->u.user =
        (struct record_user){.name = arena_strdup(&c->loose_arena, u->name),
                             .role = u->role,
                             .created_ms = u->created_ms};
}

static void certificate_mark(struct coord *c, const struct certificate *cert, bool is_delete)
{
    struct record *r = loose_of(c, RECORD_CERTIFICATE, cert->serial, NULL);

    r->is_delete = is_delete;
    r->u.certificate =
        (struct record_certificate){.serial = arena_strdup(&c->loose_arena, cert->serial),
                                    .kind = cert->kind,
                                    .name = arena_strdup(&c->loose_arena, cert->name),
                                    .not_after_ms = cert->not_after_ms,
                                    .revoked_ms = cert->revoked_ms};
}

void token_mark(struct coord *c, const struct token *t, bool is_delete)
{
    struct record *r = loose_of(c, RECORD_TOKEN, NULL, t->hash);

    r->is_delete = is_delete;
    r->u.token = (struct record_token){
        .hash = {arena_dup(&c->loose_arena, t->hash, sizeof(t->hash)), sizeof(t->hash)},
        .kind = PKI_NODE,
        .expires_ms = t->expires_ms,
        .used_ms = t->used_ms,
        .by = arena_strdup(&c->loose_arena, t->by)};
}

/* --- certificates --- */

struct certificate *certificate_find(const struct coord *c, const char *serial)
{
    struct certificate *cert = NULL;

    HASH_FIND_STR(c->trust->certificates, serial, cert);
    return cert;
}

bool certificate_is_live(const struct certificate *cert, int64_t wall_ms)
{
    return cert->revoked_ms == 0 && cert->not_after_ms > wall_ms;
}

static struct certificate *certificate_new(struct coord *c, const char *serial, uint32_t kind,
                                           const char *name, int64_t not_after_ms)
{
    struct certificate *cert = xcalloc(1, sizeof(*cert));

    str_copy(cert->serial, sizeof(cert->serial), serial);
    str_copy(cert->name, sizeof(cert->name), name);
    cert->kind = (uint8_t)kind;
    cert->not_after_ms = not_after_ms;
    HASH_ADD_STR(c->trust->certificates, serial, cert);
    return cert;
}

static void certificate_forget(struct coord *c, struct certificate *cert)
{
    certificate_mark(c, cert, true);
    HASH_DELETE(hh, c->trust->certificates, cert);
    free(cert);
}

static bool is_holder(const struct certificate *cert, enum pki_kind kind, const char *name)
{
    return cert->kind == kind && !strcmp(cert->name, name);
}

uint32_t certificates_count(const struct coord *c, enum pki_kind kind, const char *name,
                            int64_t *ret_not_after_ms)
{
    const struct certificate *cert;
    uint32_t count = 0;

    *ret_not_after_ms = 0;
    for (cert = c->trust->certificates; cert; cert = cert->hh.next) {
        if (!is_holder(cert, kind, name) || !certificate_is_live(cert, c->wall_ms))
            continue;
        *ret_not_after_ms = MAX(*ret_not_after_ms, cert->not_after_ms);
        count++;
    }
    return count;
}

/* A holder that asks again and again pushes out his own. */
static void certificates_trim(struct coord *c, enum pki_kind kind, const char *name)
{
    struct certificate *cert, *first = NULL;
    uint32_t count = 0;

    for (cert = c->trust->certificates; cert; cert = cert->hh.next) {
        if (!is_holder(cert, kind, name) || !certificate_is_live(cert, c->wall_ms))
            continue;
        if (!first || cert->not_after_ms < first->not_after_ms)
            first = cert;
        count++;
    }
    if (count <= LIMIT_CERTIFICATES_EACH)
        return;
    note_drop(c, first->serial);
    certificate_forget(c, first);
}

void certificate_add(struct coord *c, const char *serial, enum pki_kind kind, const char *name,
                     int64_t not_after_ms)
{
    CHECK(!certificate_find(c, serial)); /* 128 random bits */
    certificate_mark(c, certificate_new(c, serial, kind, name, not_after_ms), false);
    certificates_trim(c, kind, name);
}

uint32_t certificates_revoke(struct coord *c, enum pki_kind kind, const char *name)
{
    uint32_t count = 0;

    for (struct certificate *cert = c->trust->certificates; cert; cert = cert->hh.next) {
        if (!is_holder(cert, kind, name) || !certificate_is_live(cert, c->wall_ms))
            continue;
        cert->revoked_ms = MAX(c->wall_ms, 1);
        certificate_mark(c, cert, false);
        note_drop(c, cert->serial);
        count++;
    }
    return count;
}

const struct certificate *trust_next_unheard(const struct coord *c,
                                             const struct certificate *before)
{
    const struct certificate *cert = before ? before->hh.next : c->trust->certificates;

    while (cert && (cert->kind != PKI_NODE || !certificate_is_live(cert, c->wall_ms) ||
                    node_find(c, cert->name)))
        cert = cert->hh.next;
    return cert;
}

int coord_identify(const struct coord *c, enum pki_kind kind, const char *name, const char *serial,
                   int64_t wall_ms, struct rpc_identity *ret_who, struct accel_error *err)
{
    const struct certificate *cert = certificate_find(c, serial);

    if (!cert || !is_holder(cert, kind, name))
        return error_set(err, ACCEL_EPERM,
                         "the certificate of %s is not known to this coordinator\nwhy: it was"
                         " signed before an older store was put back, or was replaced\ntry: a new"
                         " one",
                         name);
    if (cert->revoked_ms)
        return error_set(err, ACCEL_EPERM, "the certificate of %s was revoked\ntry: %s", name,
                         kind == PKI_NODE
                             ? "accelctl node token, and start its acceld with --join TOKEN"
                             : "ask an admin for a new one");
    if (!certificate_is_live(cert, wall_ms)) /* it was valid at the handshake */
        return error_set(err, ACCEL_EUNAUTH,
                         "the certificate of %s has expired\ntry: get a new one, and connect again"
                         " with it",
                         name);
    if (kind == PKI_NODE) {
        ret_who->role = RPC_ROLE_NODE;
        str_copy(ret_who->node, sizeof(ret_who->node), name);
    } else {
        ret_who->role = coord_role(c, name);
    }
    str_copy(ret_who->user, sizeof(ret_who->user), name);
    str_copy(ret_who->serial, sizeof(ret_who->serial), serial);
    return 0;
}

/* --- tokens --- */

struct token *token_find(const struct coord *c, const uint8_t *hash)
{
    struct token *t = NULL;

    HASH_FIND(hh, c->trust->tokens, hash, PKI_HASH_BYTES, t);
    return t;
}

bool coord_may_enroll(const struct coord *c, const uint8_t hash[PKI_HASH_BYTES], int64_t wall_ms)
{
    const struct token *t = token_find(c, hash);

    return t && t->used_ms == 0 && t->expires_ms > wall_ms;
}

void trust_sweep(struct coord *c)
{
    struct certificate *cert, *next_cert;
    struct token *t, *next;

    HASH_ITER(hh, c->trust->certificates, cert, next_cert) {
        if (cert->not_after_ms <= c->wall_ms)
            certificate_forget(c, cert);
    }
    HASH_ITER(hh, c->trust->tokens, t, next) {
        if (t->expires_ms > c->wall_ms)
            continue;
        token_mark(c, t, true);
        HASH_DELETE(hh, c->trust->tokens, t);
        free(t);
    }
}

/* --- users --- */

enum rpc_role coord_role(const struct coord *c, const char *name)
{
    const struct user *u = user_find(c, name);

    switch (u ? u->role : 0) {
    case ACCEL__V1__USER_ROLE__USER_ROLE_OPERATOR: return RPC_ROLE_OPERATOR;
    case ACCEL__V1__USER_ROLE__USER_ROLE_ADMIN: return RPC_ROLE_ADMIN;
    default: return RPC_ROLE_USER;
    }
}

struct user *user_enter(struct coord *c, const char *name, Accel__V1__UserRole role)
{
    struct user *u = user_find(c, name);
    uint32_t count = 0;

    if (!u || u->role == ACCEL__V1__USER_ROLE__USER_ROLE_NONE) {
        for (const struct user *each = c->users; each; each = each->hh.next)
            count += each->role != ACCEL__V1__USER_ROLE__USER_ROLE_NONE;
        if (count >= LIMIT_USERS)
            return NULL;
        u = user_intern(c, UINT32_MAX, name);
        u->role = ACCEL__V1__USER_ROLE__USER_ROLE_USER;
        u->created_ms = c->wall_ms;
    }
    if (role != ACCEL__V1__USER_ROLE__USER_ROLE_NONE)
        u->role = (uint8_t)role;
    user_mark(c, u);
    return u;
}

static bool is_others(const struct call *call, const struct user *u)
{
    if (call->kind == CALL_EVENTS && call->filter_job == 0)
        return true; /* those of all jobs */
    return call->job && call->job->user != u;
}

void user_calls_recheck(struct coord *c, const struct user *u)
{
    struct call *call, *next;

    if (coord_role(c, u->name) >= RPC_ROLE_OPERATOR)
        return;
    HASH_ITER(hh, c->calls, call, next) {
        if (call->user != u || !is_others(call, u))
            continue;
        out_fail(c, call->id, ACCEL_EPERM, "%s is no operator any more", u->name);
        call_free(c, call);
    }
}

/* --- load --- */

void trust_load(struct coord *c, const struct record *rec)
{
    const struct record_certificate *r = &rec->u.certificate;
    const struct record_token *k = &rec->u.token;

    if (rec->table == RECORD_USER) {
        struct user *u = user_intern(c, UINT32_MAX, rec->u.user.name);
        u->role = (uint8_t)rec->u.user.role;
        u->created_ms = rec->u.user.created_ms;
    } else if (rec->table == RECORD_CERTIFICATE && !certificate_find(c, r->serial)) {
        certificate_new(c, r->serial, r->kind, r->name, r->not_after_ms)->revoked_ms =
            r->revoked_ms;
    } else if (rec->table == RECORD_TOKEN && k->hash.len == PKI_HASH_BYTES &&
               !token_find(c, k->hash.data)) {
        struct token *t = xcalloc(1, sizeof(*t));
        memcpy(t->hash, k->hash.data, sizeof(t->hash));
        t->expires_ms = k->expires_ms;
        t->used_ms = k->used_ms;
        str_copy(t->by, sizeof(t->by), k->by);
        HASH_ADD(hh, c->trust->tokens, hash, sizeof(t->hash), t);
    }
}
