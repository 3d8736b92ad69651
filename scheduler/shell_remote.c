/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shell_remote.c - what the coordinator's shell has only with --listen tcp: servers of
 * accel-grpc.so, our own keys (enrol.c), who calls (names.c), and the way of the calls of Trust
 * through the cryptography into the core. It decides nothing: who is refused is told to the core,
 * which counts.
 */
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "accel/v1/trust.pb-c.h"
#include "common/clock.h"
#include "common/codec.h"
#include "common/limits.h"
#include "common/log.h"
#include "common/str.h"
#include "scheduler/names.h"
#include "scheduler/shell.h"

#define ADDRESSES_MAX 8u      /* in a token; an agent tries one after the other */
#define RENEW_TRY_MS  3600000 /* after a renewal of our own certificate that failed */
#define PARKED_MAX    256u /* submissions that wait for the name service; above, they do not wait */
#define PARKED_BYTES  (64u << 20) /* the same */

/* --- where we are --- */

struct addresses {
    char *text[ADDRESSES_MAX];
    size_t count;
};

static void add_address(struct addresses *a, const char *host, unsigned port)
{
    char text[320];

    if (a->count == ADDRESSES_MAX)
        return;
    snprintf(text, sizeof(text), strchr(host, ':') ? "tcp:[%s]:%u" : "tcp:%s:%u", host, port);
    for (size_t i = 0; i < a->count; i++)
        if (!strcmp(a->text[i], text))
            return;
    a->text[a->count++] = xstrdup(text);
}

/* Every address of this host but those that mean something else elsewhere. */
static void add_interfaces(struct addresses *a, unsigned port)
{
    struct ifaddrs *list = NULL;
    char host[NI_MAXHOST];

    if (getifaddrs(&list) < 0)
        return;
    for (const struct ifaddrs *i = list; i; i = i->ifa_next) {
        int family = i->ifa_addr ? i->ifa_addr->sa_family : AF_UNSPEC;
        socklen_t len =
            family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6);
        bool is_usable = (family == AF_INET || family == AF_INET6) &&
                         !(i->ifa_flags & IFF_LOOPBACK) && (i->ifa_flags & IFF_UP);
        if (!is_usable ||
            getnameinfo(i->ifa_addr, len, host, sizeof(host), NULL, 0, NI_NUMERICHOST) != 0)
            continue;
        if (!strchr(host, '%')) /* link-local */
            add_address(a, host, port);
    }
    freeifaddrs(list);
}

static bool is_wildcard(const char *host)
{
    return !strcmp(host, "0.0.0.0") || !strcmp(host, "::");
}

static int collect_addresses(const struct coordinator_options *o, struct addresses *a,
                             struct accel_error *err)
{
    struct remote_address address;
    char name[256] = "";
    int r = 0;

    for (size_t i = 0; i < o->advertise_count && r == 0; i++) {
        r = remote_address_parse(o->advertise[i], &address, err);
        if (r == 0)
            add_address(a, address.host, address.port);
    }
    for (size_t i = 0; i < o->listen_count && o->advertise_count == 0 && r == 0; i++) {
        r = remote_address_parse(o->listen[i], &address, err);
        if (r < 0)
            break;
        if (!is_wildcard(address.host)) {
            add_address(a, address.host, address.port);
            continue;
        }
        if (gethostname(name, sizeof(name) - 1) == 0 && name[0])
            add_address(a, name, address.port);
        add_interfaces(a, address.port);
    }
    return r;
}

int shell_remote_open(struct shell *s, struct accel_error *err)
{
    const struct coordinator_options *o = s->options;
    struct addresses a = {0};
    int r;

    if (o->listen_count == 0)
        return 0;
    r = remote_load(&s->remote, err);
    if (r == 0)
        r = collect_addresses(o, &a, err);
    if (r == 0) {
        const struct enrol_config config = {.remote = s->remote,
                                            .state_dir = o->state_dir,
                                            .addresses = (const char *const *)a.text,
                                            .address_count = a.count,
                                            .certificate_ms = o->certificate_ms};
        r = enrol_create(&config, &s->enrol, err);
    }
    if (r == 0) {
        uint8_t key[PKI_HASH_BYTES];
        enrol_seal_key(s->enrol, key);
        coord_set_seal_key(s->core, key);
        explicit_bzero(key, sizeof(key));
    }
    for (size_t i = 0; i < a.count; i++)
        free(a.text[i]);
    return r;
}

/* --- who calls --- */

void shell_refused(struct shell *s, enum coord_refusal kind, const char *text)
{
    struct clock_now now = clock_read();
    struct coord_event ev = {.type = COORD_EV_REFUSED,
                             .refusal = kind,
                             .text = text,
                             .now_ms = now.mono_ms,
                             .wall_ms = now.wall_ms};

    if (!s->is_flushed && !s->failing.code)
        coord_step(s->core, &ev, s->open);
}

static int on_identify(void *ctx, const struct remote_peer *peer, struct rpc_identity *ret_who,
                       struct accel_error *err)
{
    struct shell *s = ctx;
    char text[LIMIT_REASON_BYTES];
    int r = enrol_identify(s->core, peer, ret_who, err);

    if (r == 0 && s->names && ret_who->user[0] && ret_who->role != RPC_ROLE_NODE)
        names_get(s->names, ret_who->user, &ret_who->uid, &ret_who->gid); /* ahead of a Submit */
    if (r < 0) {
        snprintf(text, sizeof(text), "%.*s, from %s", (int)strcspn(err->text, "\n"), err->text,
                 peer->address);
        shell_refused(s, COORD_REFUSED_CERTIFICATE, text);
    }
    return r;
}

static void on_handshake_refused(void *ctx, const char *text)
{
    char line[LIMIT_REASON_BYTES], now[40];
    struct shell *s = ctx;

    if (!strncmp(text, REMOTE_DEAF, strlen(REMOTE_DEAF))) {
        log_error("no other machine is let in any more: %s\ntry: a higher limit of open files",
                  text);
        s->exit_status = 1; /* its unit starts us again; agents come back, and work runs on */
        shell_stop(s, "it cannot listen any more");
        return;
    }
    if (strstr(text, "certificate verify failed")) /* the library does not say more */
        snprintf(line, sizeof(line),
                 "a handshake failed: the caller's certificate is of another authority, has expired"
                 " or is not valid yet; this machine's clock says %s",
                 clock_format_utc(clock_wall_ms(), now, sizeof(now)));
    else
        snprintf(line, sizeof(line), "a handshake failed: %s", text);
    shell_refused(s, COORD_REFUSED_HANDSHAKE, line);
}

void shell_on_role_refused(void *ctx, const struct rpc_identity *who, const char *text)
{
    shell_refused(ctx, COORD_REFUSED_RIGHTS, text);
}

/* The kernel says who is the host; others have the role that an admin gave to their name. */
void shell_refresh_role(void *ctx, struct rpc_identity *who)
{
    const struct shell *s = ctx;
    bool is_host = who->uid == 0 || who->uid == geteuid();

    if (who->is_local)
        who->role = is_host ? RPC_ROLE_ADMIN : coord_role(s->core, who->user);
}

/* --- submissions: the one call that wants the uid --- */

struct parked {
    struct parked *next;
    struct rpc_event ev;
    struct rpc_identity who;
    ProtobufCMessage *msg;
    size_t len;
};

static void parked_free(struct parked *p)
{
    protobuf_c_message_free_unpacked(p->msg, &codec_memory);
    free(p);
}

static void parked_unlink(struct shell *s, struct parked **link)
{
    struct parked *p = *link;

    *link = p->next;
    if (!p->next)
        s->parked_tail = link;
    s->parked_count--;
    s->parked_bytes -= p->len;
}

/* False: too many wait already, or there is nobody to wait for. */
static bool park(struct shell *s, const struct rpc_event *ev)
{
    size_t len = protobuf_c_message_get_packed_size(ev->msg);

    if (s->parked_count >= PARKED_MAX || s->parked_bytes + len > PARKED_BYTES)
        return false;
    AUTO_FREE uint8_t *packed = xcalloc(1, len + 1);
    protobuf_c_message_pack(ev->msg, packed);
    ProtobufCMessage *msg =
        protobuf_c_message_unpack(ev->method->request, &codec_memory, len, packed);
    CHECK(msg); /* packed here */
    struct parked *p = xcalloc(1, sizeof(*p));
    *p = (struct parked){.ev = *ev, .who = *ev->who, .msg = msg, .len = len};
    p->ev.who = &p->who;
    p->ev.msg = msg;
    *s->parked_tail = p;
    s->parked_tail = &p->next;
    s->parked_count++;
    s->parked_bytes += len;
    return true;
}

/* In their order, as far as that concerns one user. */
static void on_names(void *ctx)
{
    struct shell *s = ctx;

    for (struct parked **link = &s->parked; *link;) {
        struct parked *p = *link;
        if (!names_get(s->names, p->who.user, &p->who.uid, &p->who.gid)) {
            link = &p->next;
            continue;
        }
        parked_unlink(s, link);
        shell_on_call(s, &p->ev, NULL);
        parked_free(p);
    }
}

void shell_on_submit(void *ctx, const struct rpc_event *ev)
{
    struct shell *s = ctx;
    struct rpc_identity who = *ev->who;
    struct rpc_event named = *ev;

    for (struct parked **link = &s->parked; *link; link = &(*link)->next) {
        struct parked *p = *link;
        if (p->ev.call != ev->call)
            continue;
        if (ev->type == RPC_CLOSED) { /* nobody waits for it any more: as if it had not come */
            parked_unlink(s, link);
            parked_free(p);
        }
        return;
    }
    bool is_waiting = ev->type == RPC_OPEN && s->names && !who.is_local &&
                      !names_get(s->names, who.user, &who.uid, &who.gid);
    named.who = &who; /* the answer may have come since the call was admitted */
    if (!is_waiting || !park(s, &named))
        shell_on_call(s, &named, NULL);
}

/* --- the calls of Trust that need a key --- */

void shell_on_trust(void *ctx, const struct rpc_event *ev)
{
    struct shell *s = ctx;
    struct enrol_grant grant = {0};
    struct accel_error err = {0};

    if (ev->type != RPC_OPEN) {
        shell_on_call(s, ev, NULL);
        return;
    }
    if (!s->enrol) {
        shell_end(s, ev->call, NULL, 0, ACCEL_ESTATE,
                  "this coordinator serves its own host only\nwhy: it was started without an"
                  " address for other machines\ntry: accel-coordinator --listen tcp:0.0.0.0:7443");
        return;
    }
    int r = enrol_grant(s->enrol, s->core, ev, &grant, &err);
    if (r < 0)
        shell_end(s, ev->call, NULL, 0, r, err.text);
    else
        shell_on_call(s, ev, &grant.grant);
    enrol_grant_done(&grant);
}

/* --- life --- */

static void arm_renewal(struct shell *s, int64_t delay_ms)
{
    loop_timer_set(&s->renew, clock_mono_ms() + MAX(delay_ms, 1000));
}

static void on_renew(void *ctx, int64_t late_ms)
{
    struct shell *s = ctx;
    struct accel_error err = {0};
    int r = enrol_renew(s->enrol, &err);

    (void)late_ms;
    for (size_t i = 0; i < s->options->listen_count && r == 0; i++) {
        struct remote_tls tls = enrol_tls(s->enrol);
        if (s->remotes[i])
            r = s->remote->server_set_tls(s->remotes[i], &tls, &err);
    }
    if (r < 0)
        log_error("our own certificate is not renewed: %s", err.text);
    arm_renewal(s, r < 0 ? RENEW_TRY_MS : enrol_renew_ms(s->enrol) - clock_wall_ms());
}

static int serve(struct shell *s, size_t i, struct accel_error *err)
{
    struct remote_address address;
    int r = remote_address_parse(s->options->listen[i], &address, err);

    if (r < 0)
        return r;
    const unsigned keepalive_ms = (unsigned)s->options->keepalive_ms;
    const struct remote_server_config config = {.host = address.host,
                                                .port = address.port,
                                                .tls = enrol_tls(s->enrol),
                                                .service = api_service(s),
                                                .tag = (unsigned)i + 1,
                                                .identify = on_identify,
                                                .on_refused = on_handshake_refused,
                                                .ctx = s,
                                                .keepalive_time_ms = keepalive_ms,
                                                .keepalive_timeout_ms = keepalive_ms / 2};
    r = s->remote->server_create(s->loop, &config, &s->remotes[i], err);
    if (r < 0)
        return error_wrap(err, r, "cannot serve %s", s->options->listen[i]);
    s->servers++;
    log_info("serving other machines on tcp:%s:%u", address.host,
             (unsigned)s->remote->server_port(s->remotes[i]));
    return 0;
}

int shell_remote_serve(struct shell *s, struct accel_error *err)
{
    int r = 0;

    if (!s->remote)
        return 0;
    s->parked_tail = &s->parked;
    s->names = names_create(s->loop, on_names, s);
    for (size_t i = 0; i < s->options->listen_count && r == 0; i++)
        r = serve(s, i, err);
    if (r < 0)
        return r;
    CHECK(loop_timer_init(s->loop, &s->renew, on_renew, s) == 0);
    arm_renewal(s, enrol_renew_ms(s->enrol) - clock_wall_ms());
    return 0;
}

void shell_remote_stop(struct shell *s, void (*on_stopped)(void *ctx))
{
    if (!s->remote)
        return;
    loop_timer_close(&s->renew, NULL);
    names_destroy(STEAL_PTR(s->names));
    while (s->parked) { /* their callers are told that the connection is gone */
        struct parked *p = s->parked;
        parked_unlink(s, &s->parked);
        parked_free(p);
    }
    for (size_t i = 0; i < ARRAY_LEN(s->remotes); i++) {
        struct rpc_server *server = s->remotes[i];
        s->remotes[i] = NULL;
        if (server)
            rpc_server_stop(server, on_stopped, s);
    }
}

void shell_remote_drop(struct shell *s, const char *serial)
{
    for (size_t i = 0; i < ARRAY_LEN(s->remotes); i++)
        if (s->remotes[i])
            s->remote->server_drop(s->remotes[i], serial);
}
