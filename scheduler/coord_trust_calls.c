/* SPDX-License-Identifier: Apache-2.0 */
/*
 * coord_trust_calls.c - the service Trust: enrolment, renewal, users, removal of nodes. The shell
 * has done the cryptography before (struct coord_grant); here it is decided whether it counts, so
 * of two that redeem one token at the same time exactly one wins. Roles were checked by the
 * transport.
 */
#include "scheduler/coord_trust.h"

/* --- enrolment --- */

static int token_problem(const struct token *t, int64_t wall_ms, struct accel_error *err)
{
    static const char try[] = "try: a new one: accelctl node token";

    if (!t)
        return error_set(err, ACCEL_EPERM,
                         "this enrolment token is not known here\nwhy: it is of another cluster, or"
                         " has expired\n%s",
                         try);
    if (t->used_ms)
        return error_set(err, ACCEL_EPERM,
                         "this enrolment token was used\nwhy: one token serves one node, once\n%s",
                         try);
    if (t->expires_ms <= wall_ms)
        return error_set(err, ACCEL_EPERM, "this enrolment token has expired\n%s", try);
    return 0;
}

/* A name belongs to a machine until `node remove` says otherwise. */
static int node_name_problem(const struct coord *c, const char *name, const char *machine_id,
                             struct accel_error *err)
{
    static const char try[] = "try: acceld --node-name ANOTHER, or first: accelctl node remove";
    const struct node *n = node_find(c, name);
    int64_t not_after_ms;

    if (!is_valid_name(name) || !strcmp(name, PKI_COORDINATOR_NAME))
        return error_set(err, ACCEL_EINVAL, "\"%.80s\" is no name of a node", name);
    if (n && n->session)
        return error_set(err, ACCEL_EEXIST, "a node %s is connected\n%s %s", name, try, name);
    if (n && n->machine_id && strcmp(n->machine_id, machine_id))
        return error_set(err, ACCEL_EEXIST, "node %s is another machine\n%s %s", name, try, name);
    if (!n && certificates_count(c, PKI_NODE, name, &not_after_ms) > 0)
        return error_set(err, ACCEL_EEXIST, "a node %s has enrolled already\n%s %s", name, try,
                         name);
    return 0;
}

static int room_problem(struct coord *c, struct accel_error *err)
{
    trust_sweep(c);
    if (HASH_CNT(hh, c->trust->certificates) >= LIMIT_CERTIFICATES)
        return error_set(err, ACCEL_EFULL, "%u certificates are kept, which is the most",
                         LIMIT_CERTIFICATES);
    return 0;
}

static void call_enroll(struct coord *c, const struct coord_event *ev)
{
    const Accel__V1__EnrollRequest *rq = (const Accel__V1__EnrollRequest *)ev->msg;
    const struct coord_grant *g = ev->grant;
    Accel__V1__EnrollReply reply = ACCEL__V1__ENROLL_REPLY__INIT;
    struct accel_error err = {0};

    if (request_answered(c, ev, rq->request_id, "Enroll"))
        return;
    struct token *t = token_find(c, g->hash);
    int r = token_problem(t, c->wall_ms, &err);
    if (r < 0) {
        trust_refuse(c, COORD_REFUSED_TOKEN, "a node %.64s came with %s", rq->node,
                     !t           ? "an unknown token"
                     : t->used_ms ? "a used token"
                                  : "an expired token");
        out_fail(c, ev->call, r, "%s", err.text);
        return;
    }
    r = node_name_problem(c, rq->node, rq->machine_id, &err);
    if (r == ACCEL_EEXIST)
        trust_refuse(c, COORD_REFUSED_SESSION, "another machine asked to be node %.64s", rq->node);
    if (r == 0)
        r = room_problem(c, &err);
    if (r < 0) {
        out_fail(c, ev->call, r, "%s", err.text);
        return;
    }
    CHECK(g->certificate_pem);
    t->used_ms = MAX(c->wall_ms, 1);
    token_mark(c, t, false);
    certificate_add(c, g->serial, PKI_NODE, rq->node, g->not_after_ms);
    history_add(c, EVENT_NODE_ENROLLED, 0, 0, rq->node, "node %s enrolled with a token of %s",
                rq->node, t->by);
    reply.certificate_pem = (char *)g->certificate_pem;
    reply.ca_pem = (char *)g->ca_pem;
    request_end(c, ev, rq->request_id, "Enroll", &reply.base);
}

static void call_renew(struct coord *c, const struct coord_event *ev)
{
    const Accel__V1__RenewRequest *rq = (const Accel__V1__RenewRequest *)ev->msg;
    const struct coord_grant *g = ev->grant;
    Accel__V1__RenewReply reply = ACCEL__V1__RENEW_REPLY__INIT;
    const struct certificate *cert = certificate_find(c, ev->who->serial);
    struct accel_error err = {0};

    if (!cert || !certificate_is_live(cert, c->wall_ms)) {
        trust_refuse(c, COORD_REFUSED_CERTIFICATE, "%s asked to renew a certificate",
                     trust_who(c, ev->who));
        out_fail(c, ev->call, ACCEL_EPERM,
                 "only the holder of a certificate can renew it\ntry: enrol, or ask an admin");
        return;
    }
    if (request_answered(c, ev, rq->request_id, "Renew"))
        return;
    int r = room_problem(c, &err);
    if (r < 0) {
        out_fail(c, ev->call, r, "%s", err.text);
        return;
    }
    CHECK(g->certificate_pem);
    enum pki_kind kind = (enum pki_kind)cert->kind;
    certificate_add(c, g->serial, kind, ev->who->user, g->not_after_ms);
    reply.certificate_pem = (char *)g->certificate_pem;
    reply.ca_pem = (char *)g->ca_pem;
    request_end(c, ev, rq->request_id, "Renew", &reply.base);
}

static void call_create_token(struct coord *c, const struct coord_event *ev)
{
    const struct coord_grant *g = ev->grant;
    Accel__V1__CreateNodeTokenReply reply = ACCEL__V1__CREATE_NODE_TOKEN_REPLY__INIT;
    uint32_t open = 0;

    trust_sweep(c);
    for (const struct token *each = c->trust->tokens; each; each = each->hh.next)
        open += each->used_ms == 0;
    if (open >= LIMIT_TOKENS) {
        out_fail(c, ev->call, ACCEL_EFULL,
                 "%u enrolment tokens are open\nwhy: that is the limit\ntry: use one, or wait"
                 " until some expire",
                 open);
        return;
    }
    CHECK(!token_find(c, g->hash)); /* 256 random bits */
    struct token *t = xcalloc(1, sizeof(*t));
    memcpy(t->hash, g->hash, sizeof(t->hash));
    t->expires_ms = g->not_after_ms;
    str_copy(t->by, sizeof(t->by), ev->who->user);
    HASH_ADD(hh, c->trust->tokens, hash, sizeof(t->hash), t);
    token_mark(c, t, false);
    reply.token = (char *)g->token;
    reply.expires_ms = t->expires_ms;
    out_end(c, ev->call, &reply.base);
}

/* --- users --- */

static const char *const role_names[] = {"user", "user", "operator", "admin"};

static bool name_and_role_are_good(struct coord *c, const struct coord_event *ev, const char *name,
                                   Accel__V1__UserRole role)
{
    if (is_valid_name(name) && strcmp(name, PKI_COORDINATOR_NAME) != 0 &&
        (unsigned)role < ARRAY_LEN(role_names))
        return true;
    out_fail(c, ev->call, ACCEL_EINVAL,
             "\"%.80s\" is no name of a user, or the role does not exist\nwhy: names are letters,"
             " digits, '.', '_' and '-'",
             name);
    return false;
}

static struct user *user_or_fail(struct coord *c, const struct coord_event *ev, const char *name,
                                 Accel__V1__UserRole role)
{
    struct user *u = user_enter(c, name, role);

    if (!u)
        out_fail(c, ev->call, ACCEL_EFULL, "%u users are known, which is the most", LIMIT_USERS);
    return u;
}

static void call_sign_user(struct coord *c, const struct coord_event *ev)
{
    const Accel__V1__SignUserRequest *rq = (const Accel__V1__SignUserRequest *)ev->msg;
    const struct coord_grant *g = ev->grant;
    Accel__V1__SignUserReply reply = ACCEL__V1__SIGN_USER_REPLY__INIT;
    struct accel_error err = {0};

    if (request_answered(c, ev, rq->request_id, "SignUser") ||
        !name_and_role_are_good(c, ev, rq->name, rq->role))
        return;
    int r = room_problem(c, &err);
    if (r < 0) {
        out_fail(c, ev->call, r, "%s", err.text);
        return;
    }
    struct user *u = user_or_fail(c, ev, rq->name, rq->role);
    if (!u)
        return;
    CHECK(g->certificate_pem);
    certificate_add(c, g->serial, PKI_USER, rq->name, g->not_after_ms);
    history_add(c, EVENT_USER, 0, 0, NULL, "%s gave user %s (role %s) a certificate",
                trust_who(c, ev->who), u->name, role_names[u->role]);
    reply.certificate_pem = (char *)g->certificate_pem;
    reply.ca_pem = (char *)g->ca_pem;
    reply.addresses = (char **)g->addresses;
    reply.n_addresses = g->address_count;
    reply.not_after_ms = g->not_after_ms;
    request_end(c, ev, rq->request_id, "SignUser", &reply.base);
}

static void call_revoke_user(struct coord *c, const struct coord_event *ev)
{
    const Accel__V1__RevokeUserRequest *rq = (const Accel__V1__RevokeUserRequest *)ev->msg;
    Accel__V1__RevokeUserReply reply = ACCEL__V1__REVOKE_USER_REPLY__INIT;

    if (request_answered(c, ev, rq->request_id, "RevokeUser"))
        return;
    const struct user *u = user_find(c, rq->name);
    if (!u || u->role == ACCEL__V1__USER_ROLE__USER_ROLE_NONE) {
        out_fail(c, ev->call, ACCEL_ENOENT,
                 "no user %.80s has a certificate or a role\ntry: accelctl user ls", rq->name);
        return;
    }
    reply.certificates = certificates_revoke(c, PKI_USER, rq->name);
    user_enter(c, rq->name, ACCEL__V1__USER_ROLE__USER_ROLE_USER);
    user_calls_recheck(c, u);
    history_add(c, EVENT_USER, 0, 0, NULL, "%s revoked %u certificates of user %s",
                trust_who(c, ev->who), reply.certificates, rq->name);
    request_end(c, ev, rq->request_id, "RevokeUser", &reply.base);
}

static void call_set_role(struct coord *c, const struct coord_event *ev)
{
    const Accel__V1__SetRoleRequest *rq = (const Accel__V1__SetRoleRequest *)ev->msg;
    Accel__V1__SetRoleReply reply = ACCEL__V1__SET_ROLE_REPLY__INIT;

    if (request_answered(c, ev, rq->request_id, "SetRole") ||
        !name_and_role_are_good(c, ev, rq->name, rq->role))
        return;
    struct user *u = user_or_fail(c, ev, rq->name, rq->role);
    if (!u)
        return;
    user_calls_recheck(c, u);
    history_add(c, EVENT_USER, 0, 0, NULL, "%s gave user %s the role %s", trust_who(c, ev->who),
                u->name, role_names[u->role]);
    request_end(c, ev, rq->request_id, "SetRole", &reply.base);
}

static int compare_users(const void *a, const void *b)
{
    return strcmp((*(Accel__V1__User *const *)a)->name, (*(Accel__V1__User *const *)b)->name);
}

static void call_list_users(struct coord *c, const struct coord_event *ev)
{
    struct arena *a = &c->out->arena;
    Accel__V1__ListUsersReply reply = ACCEL__V1__LIST_USERS_REPLY__INIT;

    reply.users = ARENA_ARRAY(a, Accel__V1__User *, HASH_CNT(hh, c->users) + 1);
    for (const struct user *u = c->users; u; u = u->hh.next) {
        if (u->role == ACCEL__V1__USER_ROLE__USER_ROLE_NONE)
            continue;
        Accel__V1__User *v = ARENA_NEW(a, Accel__V1__User);
        accel__v1__user__init(v);
        v->name = (char *)u->name;
        v->role = (Accel__V1__UserRole)u->role;
        v->created_ms = u->created_ms;
        v->certificates = certificates_count(c, PKI_USER, u->name, &v->not_after_ms);
        reply.users[reply.n_users++] = v;
    }
    if (reply.n_users)
        qsort(reply.users, reply.n_users, sizeof(*reply.users), compare_users);
    out_end(c, ev->call, &reply.base);
}

/* --- nodes --- */

static void call_remove_node(struct coord *c, const struct coord_event *ev)
{
    const Accel__V1__RemoveNodeRequest *rq = (const Accel__V1__RemoveNodeRequest *)ev->msg;
    Accel__V1__RemoveNodeReply reply = ACCEL__V1__REMOVE_NODE_REPLY__INIT;

    if (request_answered(c, ev, rq->request_id, "RemoveNode"))
        return;
    struct node *n = node_find(c, rq->name);
    reply.certificates = certificates_revoke(c, PKI_NODE, rq->name);
    if (!n && reply.certificates == 0) {
        out_fail(c, ev->call, ACCEL_ENOENT, "no node %.80s\ntry: accelctl nodes", rq->name);
        return;
    }
    history_add(c, EVENT_NODE_REMOVED, 0, 0, rq->name, "%s removed node %s", trust_who(c, ev->who),
                rq->name);
    if (n)
        reply.attempts = node_remove(c, n);
    request_end(c, ev, rq->request_id, "RemoveNode", &reply.base);
}

void call_trust(struct coord *c, const struct coord_event *ev)
{
    switch (ev->method) {
    case COORD_ENROLL: call_enroll(c, ev); break;
    case COORD_RENEW: call_renew(c, ev); break;
    case COORD_CREATE_TOKEN: call_create_token(c, ev); break;
    case COORD_SIGN_USER: call_sign_user(c, ev); break;
    case COORD_REVOKE_USER: call_revoke_user(c, ev); break;
    case COORD_REMOVE_NODE: call_remove_node(c, ev); break;
    case COORD_LIST_USERS: call_list_users(c, ev); break;
    case COORD_SET_ROLE: call_set_role(c, ev); break;
    default: CHECK(!"a method of Trust");
    }
}
