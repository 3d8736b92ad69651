/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Enrolment of this node; see join.h. Neighbours: main.c, join_renewal.c (keeps it enrolled),
 * tls_files.c (reads what is written here), uplink.c (uses it). It must not log or pass on a token
 * or a key.
 */
#include "agentd/join.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "accel/v1/trust.pb-c.h"
#include "agentd/join_internal.h"
#include "agentd/node.h"
#include "common/clock.h"
#include "common/codec.h"
#include "common/hash.h"
#include "common/limits.h"
#include "common/log.h"
#include "common/notify.h"
#include "common/path.h"
#include "common/token.h"

#define ROUNDS         5    /* through the addresses of a token, with pauses of 1, 2, 4, 8 s */
#define ROUND_PAUSE_MS 1000 /* doubling */
/* What a service manager is asked for before each address: a name, 10 s to connect, a pause */
#define STEP_MS 60000
/* One round, and so long for each address, where the node is enrolled already: work waits for it */
#define SHORT_CONNECT_MS 3000

/* --- texts --- */

static int read_text(const char *path, char **ret_text, struct accel_error *err)
{
    size_t len;

    return path_read_all(AT_FDCWD, path, TOKEN_TEXT_BYTES, ret_text, &len, err);
}

static int read_stdin(char **ret_text, struct accel_error *err)
{
    char *text = xcalloc(1, TOKEN_TEXT_BYTES + 1);
    size_t len = 0;
    ssize_t n;

    while (len < TOKEN_TEXT_BYTES && (n = read(STDIN_FILENO, text + len, TOKEN_TEXT_BYTES - len)))
        if (n < 0) {
            free(text);
            return error_set(err, ACCEL_EIO, "cannot read the token from stdin");
        } else {
            len += (size_t)n;
        }
    *ret_text = text;
    return 0;
}

/* --- the token --- */

static void forget(char *secret)
{
    if (secret)
        explicit_bzero(secret, strlen(secret));
}

/* *ret_text NULL: none was given. One in argv is seen by everybody on this host until here. */
static int take_token_text(struct acceld_options *o, char **ret_text, struct accel_error *err)
{
    char *env = getenv("ACCEL_JOIN_TOKEN");
    int r = 0;

    *ret_text = NULL;
    if (o->join && strcmp(o->join, "-") == 0)
        r = read_stdin(ret_text, err);
    else if (o->join && o->join[0] == '@')
        r = read_text(o->join + 1, ret_text, err) < 0
                ? error_wrap(err, err->code, "cannot read the enrolment token")
                : 0;
    else if (o->join)
        *ret_text = xstrdup(o->join);
    else if (env && env[0])
        *ret_text = xstrdup(env);
    if (o->join && o->join[0] != '@')
        forget(o->join);
    forget(env);
    unsetenv("ACCEL_JOIN_TOKEN");
    return r;
}

static int decode_token(const char *text, Accel__V1__EnrolToken **ret_token,
                        struct accel_error *err)
{
    AUTO_FREE uint8_t *packed = NULL;
    size_t len;
    int r = token_decode(text, &packed, &len, err);

    if (r < 0)
        return r;
    Accel__V1__EnrolToken *t = accel__v1__enrol_token__unpack(&codec_memory, len, packed);
    explicit_bzero(packed, len);
    if (t && t->ca_pem[0] && t->n_addresses > 0 && t->secret.len == TOKEN_SECRET_BYTES) {
        *ret_token = t;
        return 0;
    }
    if (t)
        accel__v1__enrol_token__free_unpacked(t, NULL);
    return error_set(err, ACCEL_EINVAL,
                     "the enrolment token was cut or changed\ntry: copy the whole line, or make a"
                     " new one: accelctl node token");
}

/* --- one call, waited for --- */

struct enrolment {
    uv_loop_t *loop;
    const struct remote_ops *remote;
    const Accel__V1__EnrolToken *token;
    char token_hash[HASH_HEX_SIZE];
    bool is_enrolled; /* there is something to go on with */
    Accel__V1__EnrollRequest request;
    const char *address; /* that answered */
    char *cert, *ca;
    bool is_ended, is_closed;
    int code;
    struct accel_error *err;
};

static void on_message(void *ctx, const ProtobufCMessage *msg)
{
    struct enrolment *e = ctx;
    const Accel__V1__EnrollReply *reply = (const Accel__V1__EnrollReply *)msg;

    if (e->cert)
        return;
    e->cert = xstrdup(reply->certificate_pem);
    e->ca = xstrdup(reply->ca_pem);
}

static void on_end(void *ctx, int code, const char *text)
{
    struct enrolment *e = ctx;

    e->is_ended = true;
    e->code = code;
    if (code < 0)
        error_set(e->err, code, "%s", text);
}

static void on_closed(void *ctx)
{
    ((struct enrolment *)ctx)->is_closed = true;
}

static int call(struct enrolment *e, const char *where, struct accel_error *err)
{
    static const struct rpc_call_handlers handlers = {on_message, on_end};
    struct remote_address address;
    struct rpc_channel *channel;
    int r = remote_address_parse(where, &address, err);

    if (r < 0)
        return r;
    const struct remote_channel_config config = {.host = address.host,
                                                 .port = address.port,
                                                 .tls = {.ca_pem = e->token->ca_pem},
                                                 .connect_timeout_ms =
                                                     e->is_enrolled ? SHORT_CONNECT_MS : 0};
    r = e->remote->channel_create(e->loop, &config, &channel, err);
    if (r < 0)
        return r;
    e->is_ended = e->is_closed = false;
    e->err = err;
    rpc_channel_call(channel, "/accel.v1.Trust/Enroll", &e->request.base,
                     &accel__v1__enroll_reply__descriptor, &handlers, e);
    while (!e->is_ended)
        uv_run(e->loop, UV_RUN_ONCE);
    rpc_channel_close(channel, on_closed, e);
    while (!e->is_closed)
        uv_run(e->loop, UV_RUN_ONCE);
    e->address = where;
    return e->code;
}

static void on_pause(uv_timer_t *timer)
{
    *(bool *)timer->data = true;
}

static void on_timer_closed(uv_handle_t *timer)
{
    *(bool *)timer->data = true;
}

static void pause_for(uv_loop_t *loop, uint64_t ms)
{
    bool is_over = false;
    uv_timer_t timer;

    uv_timer_init(loop, &timer);
    timer.data = &is_over;
    uv_timer_start(&timer, on_pause, ms, 0);
    while (!is_over)
        uv_run(loop, UV_RUN_ONCE);
    is_over = false;
    uv_close((uv_handle_t *)&timer, on_timer_closed);
    while (!is_over)
        uv_run(loop, UV_RUN_ONCE);
}

/* A machine that has just booted may be before its network, and a coordinator be restarting. */
static int call_until_answered(struct enrolment *e, struct accel_error *err)
{
    const unsigned rounds = e->is_enrolled ? 1 : ROUNDS;
    uint64_t pause_ms = ROUND_PAUSE_MS;
    int r = ACCEL_EUNAVAIL;

    for (unsigned round = 0; round < rounds; round++) {
        for (size_t i = 0; i < e->token->n_addresses; i++) {
            notify_extend(STEP_MS);
            notify_status("enrolling at %s", e->token->addresses[i]);
            r = call(e, e->token->addresses[i], err);
            notify_status("%s", "");
            if (r != ACCEL_EUNAVAIL && r != ACCEL_ECLOSED && r != ACCEL_ETIME)
                return r;
            log_warn("cannot enrol at %s: %s", e->token->addresses[i], err->text);
        }
        if (round + 1 < rounds)
            pause_for(e->loop, pause_ms);
        pause_ms *= 2;
    }
    char now[40];
    return error_wrap(err, r, "no coordinator of the token answers (this node's clock says %s)",
                      clock_format_utc(clock_wall_ms(), now, sizeof(now)));
}

/* --- enrolment --- */

static int keep(struct enrolment *e, const char *state_dir, const char *key,
                struct accel_error *err)
{
    const struct pki_ops *pki = e->remote->pki;
    const struct join_files files = {.key_pem = key,
                                     .ca_pem = e->token->ca_pem,
                                     .cert_pem = e->cert,
                                     .token_hash = e->token_hash,
                                     .address = e->address};
    int r = pki->match(key, e->cert, err);

    if (r == 0)
        r = pki->verify(e->token->ca_pem, e->cert, clock_wall_ms(), err);
    if (r < 0)
        return error_wrap(err, r, "the certificate that came is no good here");
    return join_replace(state_dir, &files, err);
}

static int enrol(struct enrolment *e, const char *state_dir, const char *name,
                 struct accel_error *err)
{
    AUTO_FREE char *key = NULL, *csr = NULL;
    uint8_t id[LIMIT_REQUEST_ID_BYTES];
    char machine_id[64];
    int r = e->remote->pki->make_key(name, &key, &csr, err);

    if (r == 0)
        r = e->remote->pki->random(id, sizeof(id), err);
    if (r < 0)
        return r;
    node_machine_id(machine_id, sizeof(machine_id));
    accel__v1__enroll_request__init(&e->request);
    e->request.request_id = (ProtobufCBinaryData){sizeof(id), id};
    e->request.secret = e->token->secret;
    e->request.node = (char *)name;
    e->request.machine_id = machine_id;
    e->request.csr_pem = csr;
    r = call_until_answered(e, err);
    if (r == 0)
        r = e->cert ? keep(e, state_dir, key, err)
                    : error_set(err, ACCEL_EPROTO, "an empty answer to the enrolment");
    if (r == 0)
        log_info("enrolled as node %s at %s", name, e->address);
    forget(key);
    free(e->cert);
    free(e->ca);
    return r;
}

/* --- what is there already --- */

/* Whose certificate it is. ACCEL_ESTALE: it is not valid now; *ret is filled then too. */
static int read_identity(const struct remote_ops *remote, const char *dir, struct pki_cert *ret,
                         struct accel_error *err)
{
    AUTO_FREE char *pem = NULL, *ca = NULL;
    char path[PATH_MAX];
    int r = join_path(dir, "node.pem", path, err);

    if (r == 0)
        r = read_text(path, &pem, err);
    if (r == 0)
        r = remote->pki->parse(pem, ret, err);
    if (r == 0)
        r = join_path(dir, "ca.pem", path, err);
    if (r == 0)
        r = read_text(path, &ca, err);
    if (r < 0)
        return r;
    return remote->pki->verify(ca, pem, clock_wall_ms(), err);
}

static int use_files(struct acceld_options *o, const char *dir, const struct remote_ops *remote,
                     struct accel_error *err)
{
    struct pki_cert cert;
    char path[PATH_MAX];
    AUTO_FREE char *address = NULL;
    int r = read_identity(remote, dir, &cert, err);

    if (r == ACCEL_ESTALE && !o->is_enrol_only) /* the clock may be set while we run */
        log_error("%s", err->text);
    else if (r < 0)
        return error_wrap(err, r, "cannot use the certificate in %s", dir);
    if (o->is_name_given && strcmp(o->node_name, cert.name) != 0)
        return error_set(err, ACCEL_EEXIST,
                         "this node is enrolled as %s, not as %s\nwhy: its certificate in %s says"
                         " so\ntry: without --node-name; or remove that directory, and enrol again",
                         cert.name, o->node_name, dir);
    str_copy(o->node_name, sizeof(o->node_name), cert.name);
    if (o->is_coordinator_given)
        return 0;
    r = join_path(dir, "coordinator", path, err);
    if (r == 0)
        r = read_text(path, &address, err);
    if (r == 0 && !str_copy(o->coordinator, sizeof(o->coordinator), address))
        r = error_set(err, ACCEL_EINVAL, "%s: the address is too long", path);
    return r;
}

/* --- a token, and what is there already --- */

/* The token that this node came with, or one that was refused here before. */
static bool is_old_token(const char *dir, const char *hash)
{
    char path[PATH_MAX];
    AUTO_FREE char *text = NULL;

    return join_path(dir, "token", path, NULL) == 0 && read_text(path, &text, NULL) == 0 &&
           !strcmp(text, hash);
}

/* Who this machine was, when nobody says who it is to be. */
static void keep_name(struct acceld_options *o, const char *dir, const struct remote_ops *remote)
{
    struct pki_cert cert;
    int r = o->is_name_given ? ACCEL_EEXIST : read_identity(remote, dir, &cert, NULL);

    if (r == 0 || r == ACCEL_ESTALE)
        str_copy(o->node_name, sizeof(o->node_name), cert.name);
}

static int redeem(struct enrolment *e, struct acceld_options *o, const struct state *state,
                  const char *dir, const char *text, struct accel_error *err)
{
    Accel__V1__EnrolToken *token = NULL;
    uint8_t hash[HASH_BYTES];
    int r = decode_token(text, &token, err);

    if (r < 0)
        return r;
    e->token = token;
    e->remote->pki->sha256(token->secret.data, token->secret.len, hash);
    hash_hex(hash, e->token_hash);
    if (!e->is_enrolled || !is_old_token(dir, e->token_hash)) {
        if (e->is_enrolled)
            keep_name(o, dir, e->remote);
        r = enrol(e, state->dir, o->node_name, err);
        if (r == ACCEL_EPERM && e->is_enrolled) /* it never will be any good */
            join_write(dir, "token", e->token_hash, NULL);
    }
    explicit_bzero(token->secret.data, token->secret.len);
    accel__v1__enrol_token__free_unpacked(token, NULL);
    return r;
}

int join_start(uv_loop_t *loop, struct acceld_options *o, const struct state *state,
               struct accel_error *err)
{
    struct enrolment e = {.loop = loop};
    char dir[PATH_MAX], path[PATH_MAX];
    AUTO_FREE char *text = NULL;
    int r = join_path(state->dir, "tls", dir, err);

    if (r == 0)
        r = join_path(dir, "coordinator", path, err);
    if (r == 0)
        r = join_recover(state->dir, err);
    if (r < 0)
        return r;
    e.is_enrolled = access(path, F_OK) == 0;
    r = take_token_text(o, &text, err);
    bool is_local = o->is_coordinator_given && strncmp(o->coordinator, "unix:", 5) == 0;
    bool has_nothing = (r == 0 && !e.is_enrolled && !text) || is_local;
    if (has_nothing && o->is_enrol_only)
        return error_set(err, ACCEL_EINVAL,
                         "there is nothing to enrol with\nwhy: --enrol-only needs a token, and no"
                         " coordinator on a socket of this host\ntry: accelctl node token, there;"
                         " then --join TOKEN");
    if (has_nothing)
        return r;
    if (r == 0 || e.is_enrolled) {
        int loaded = remote_load(&e.remote, r == 0 ? err : NULL);
        if (loaded < 0)
            return loaded;
    }
    if (r == 0 && text)
        r = redeem(&e, o, state, dir, text, err);
    forget(text);
    if (r < 0 && (!e.is_enrolled || o->is_enrol_only))
        return r;
    if (r < 0)
        log_warn("the enrolment token is not taken, this node goes on with what it has: %s",
                 err->text);
    return use_files(o, dir, e.remote, err);
}
