/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The connection to the coordinator. Decides which one (option, environment, the system's, the
 * user's own), has embedded.c start the user's own, and brings a broken connection back. Verbs and
 * attach.c live above it; it knows no job.
 */
#include "client/accelctl/session.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "accel/v1/admin.pb-c.h"
#include "client/accelctl/credentials.h"
#include "client/accelctl/embedded.h"
#include "common/clock.h"
#include "common/limits.h"
#include "common/loop.h"
#include "common/path.h"
#include "common/pki.h"
#include "common/rpc_local.h"

#define SYSTEM_SOCKET "/run/accel/coordinator.sock"
#define FILES_MIN     7u /* open files: a loop's, and a connection */
/* of session_call: a coordinator that breaks every connection is no use */
#define CALL_TRIES       4
#define RETRY_FIRST_MS   50 /* to a coordinator that is not ours to start; doubling */
#define RETRY_LONGEST_MS 2000
#define RETRY_GIVE_UP_MS 120000 /* longer than a restart of a service takes */

struct session {
    uv_loop_t loop;
    struct rpc_channel *channel;
    char path[PATH_MAX];
    bool is_embedded;
    bool may_start;
    const struct remote_ops *remote; /* NULL: the coordinator is on this host */
    struct remote_address address;
    struct credentials credentials;
    bool is_probing; /* a new connection to another machine, not known to work yet */
    struct accel_error probe_error;
    const struct session_hooks *hooks;
    void *ctx;
    uv_timer_t retry;
    uint64_t retry_ms, lost_ms; /* lost_ms: of the loop's clock */
    uv_poll_t agent_poll;       /* on agent.ready_fd */
    struct embedded_start agent;
    bool is_agent_starting;
    unsigned checks; /* of session_check_agent that are under way */
    int reader_fd;   /* an epoll that has stdout in it; -1: none */
    uv_poll_t reader_poll;
    bool is_closing;
    struct {
        bool is_done;
        int code;
        struct accel_error *err;
        void (*on_message)(void *ctx, const ProtobufCMessage *msg);
        void *ctx;
    } call;
};

static void retry_later(struct session *s, const struct accel_error *err)
{
    uv_update_time(&s->loop);
    if (s->is_embedded || uv_now(&s->loop) - s->lost_ms > RETRY_GIVE_UP_MS) {
        s->hooks->on_gone(s->ctx, err);
        return;
    }
    uv_timer_start(&s->retry, s->retry.timer_cb, s->retry_ms, 0);
    s->retry_ms = MIN(s->retry_ms * 2, (uint64_t)RETRY_LONGEST_MS);
}

static void on_lost(void *ctx)
{
    struct session *s = ctx;
    struct rpc_channel *ch = s->channel;

    s->channel = NULL;
    if (ch)
        rpc_channel_close(ch, NULL, NULL);
    if (!s->hooks || s->is_closing)
        return;
    if (s->is_probing) { /* to another machine: this was no connection */
        s->is_probing = false;
        retry_later(s, &s->probe_error);
        return;
    }
    s->retry_ms = RETRY_FIRST_MS;
    s->lost_ms = uv_now(&s->loop);
    uv_timer_start(&s->retry, s->retry.timer_cb, 0, 0);
}

/* A handshake that fails for these reasons would say so less clearly. */
static int check_credentials(const struct session *s, struct accel_error *err)
{
    const struct credentials *c = &s->credentials;
    int r = s->remote->pki->match(c->key, c->cert, err);

    if (r == 0)
        r = s->remote->pki->verify(c->ca, c->cert, clock_wall_ms(), err);
    return r == ACCEL_ESTALE ? (err->code = ACCEL_EPERM) : r;
}

/* Fills *ret_path, or s->address and what a coordinator on another machine needs; else the user's
 * own is meant. */
static int find_address(struct session *s, const struct cli *cli, const char **ret_path,
                        struct accel_error *err)
{
    const char *address = option_given(&cli->opt, OPT_COORDINATOR)
                              ? cli->opt.v[OPT_COORDINATOR].text
                              : getenv("ACCEL_COORDINATOR");

    *ret_path = NULL;
    if (!address || address[0] == '\0')
        return 0;
    if (strncmp(address, "unix:", 5) == 0 && address[5] != '\0') {
        *ret_path = address + 5;
        return 0;
    }
    if (strncmp(address, "unix:", 5) == 0 || address[0] == '/' ||
        remote_address_parse(address, &s->address, NULL) < 0)
        return error_set(err, ACCEL_EINVAL,
                         "%s: not an address of a coordinator\n"
                         "why: it is unix:/path/of/socket, or HOST, HOST:PORT, tcp:HOST:PORT\n"
                         "try: --coordinator unix:/path/of/socket",
                         address);
    int r = credentials_load(&s->address, &s->credentials, err);
    if (r == 0)
        r = remote_load(&s->remote, err);
    return r < 0 ? r : check_credentials(s, err);
}

static int connect_remote(struct session *s, struct accel_error *err)
{
    const struct remote_channel_config config = {
        .host = s->address.host,
        .port = s->address.port,
        .tls = {s->credentials.ca, s->credentials.cert, s->credentials.key},
        .on_lost = on_lost,
        .ctx = s};

    return s->remote->channel_create(&s->loop, &config, &s->channel, err);
}

static int connect_named(struct session *s, int *ret_fd, struct accel_error *err)
{
    struct accel_error why = {0};
    int r = path_socket_connect(s->path, ret_fd, &why);

    if (r == 0)
        return 0;
    why.text[strcspn(why.text, "\n")] = '\0';
    return error_set(
        err, r == ACCEL_EPERM ? r : ACCEL_EUNAVAIL,
        "cannot reach the coordinator at unix:%s\n"
        "why: %s\ntry: is accel-coordinator running? unset ACCEL_COORDINATOR for your own",
        s->path, why.text);
}

/* Our own coordinator runs as us, or as root. Anybody may have made a directory in /tmp before us:
 * who listens there must not get our environment. */
static int check_peer(const struct session *s, int fd, struct accel_error *err)
{
    struct ucred peer = {0};
    socklen_t len = sizeof peer;

    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0)
        return error_sys(err, errno, "cannot tell who serves %s", s->path);
    if (peer.uid == geteuid() || peer.uid == 0)
        return 0;
    return error_set(err, ACCEL_EPERM,
                     "%s is served by another user (uid %u)\n"
                     "why: somebody else made this directory\n"
                     "try: export XDG_RUNTIME_DIR=a directory of yours",
                     s->path, (unsigned)peer.uid);
}

static int connect_any(struct session *s, struct accel_error *err)
{
    AUTO_CLOSE int fd = -1;
    int r;

    if (s->remote)
        return connect_remote(s, err);
    if (!s->is_embedded) {
        r = connect_named(s, &fd, err);
    } else if (path_socket_connect(SYSTEM_SOCKET, &fd, NULL) == 0) {
        str_copy(s->path, sizeof s->path, SYSTEM_SOCKET);
        s->is_embedded = false;
        r = 0;
    } else if (s->may_start) {
        /* A node daemon that we are starting holds our start.lock, and it waits for the coordinator
         * that may have to be started here: we would wait for ourselves. */
        base_close_fd(&s->agent.lock_fd);
        r = embedded_connect(s->path, &fd, err);
    } else {
        r = path_runtime_dir(s->path, sizeof s->path - 32, err);
        if (r == 0) {
            size_t len = strlen(s->path);

            snprintf(s->path + len, sizeof s->path - len, "/coordinator.sock");
            r = path_socket_connect(s->path, &fd, err);
            if (r == ACCEL_ENOENT || r == ACCEL_ECLOSED)
                r = error_set(err, ACCEL_EUNAVAIL,
                              "no coordinator runs\nwhy: nobody serves %s\n"
                              "try: accelctl ps, which starts your own",
                              s->path);
        }
    }
    if (r == 0 && s->is_embedded)
        r = check_peer(s, fd, err);
    if (r < 0)
        return r;
    return rpc_local_channel_create(&s->loop, STEAL_FD(fd), on_lost, s, &s->channel, err);
}

/* What failed on the way to a success, a first try to connect for one, is not told. */
static int session_connect(struct session *s, struct accel_error *err)
{
    struct accel_error why = {0};
    int r = connect_any(s, &why);

    if (r == ACCEL_ENOENT || r == ACCEL_ECLOSED) {
        r = ACCEL_EUNAVAIL;
    }
    if (r < 0 && err) {
        *err = why;
        err->code = r;
    }
    return r;
}

/* Also one that refuses us answers: what it says belongs to the calls that follow. */
static void on_probe_end(void *ctx, int code, const char *text)
{
    struct session *s = ctx;

    if (code == ACCEL_EUNAVAIL || code == ACCEL_ECLOSED) {
        error_set(&s->probe_error, ACCEL_EUNAVAIL, "%s", text);
        return; /* on_lost comes */
    }
    s->is_probing = false;
    s->hooks->on_back(s->ctx);
}

/* A connection to this host exists at once; one to another machine has to show that it works. */
static void probe(struct session *s)
{
    static const struct rpc_call_handlers handlers = {NULL, on_probe_end};
    Accel__V1__StatusRequest req = ACCEL__V1__STATUS_REQUEST__INIT;

    s->is_probing = true;
    rpc_channel_call(s->channel, "/accel.v1.Admin/Status", &req.base,
                     &accel__v1__status_reply__descriptor, &handlers, s);
}

/* The connection broke some time ago: a new one, and everybody begins again. */
static void on_retry(uv_timer_t *timer)
{
    struct session *s = timer->data;
    struct accel_error err = {0};
    int r = session_connect(s, &err);

    if (r < 0)
        retry_later(s, &err);
    else if (s->remote)
        probe(s);
    else
        s->hooks->on_back(s->ctx);
}

static int open_with(const struct cli *cli, bool may_start, struct session **ret_session,
                     struct accel_error *err)
{
    AUTO_SESSION struct session *s = NULL;
    const char *named = NULL;
    int r;

    r = loop_files_check(FILES_MIN, err);
    if (r < 0)
        return r;
    s = xcalloc(1, sizeof *s);
    r = uv_loop_init(&s->loop);
    if (r < 0) {
        free(STEAL_PTR(s)); /* there is no loop to close it in */
        return error_sys(err, -r, "cannot begin to talk to the coordinator");
    }
    s->may_start = may_start;
    s->agent.ready_fd = s->agent.lock_fd = s->reader_fd = -1;
    uv_timer_init(&s->loop, &s->retry);
    s->retry.data = s;
    s->retry.timer_cb = on_retry;
    s->retry_ms = RETRY_FIRST_MS;
    r = find_address(s, cli, &named, err);
    if (r < 0)
        return r;
    s->is_embedded = !named && !s->remote;
    if (named && !str_copy(s->path, sizeof s->path, named))
        return error_set(err, ACCEL_EINVAL, "the address of the coordinator is too long");
    r = session_connect(s, err);
    if (r < 0)
        return r;
    *ret_session = STEAL_PTR(s);
    return 0;
}

int session_open(const struct cli *cli, struct session **ret_session, struct accel_error *err)
{
    return open_with(cli, true, ret_session, err);
}

int session_open_existing(const struct cli *cli, struct session **ret_session,
                          struct accel_error *err)
{
    return open_with(cli, false, ret_session, err);
}

void session_close(struct session *s)
{
    if (!s)
        return;
    s->is_closing = true;
    if (s->channel)
        rpc_channel_close(STEAL_PTR(s->channel), NULL, NULL);
    uv_close((uv_handle_t *)&s->retry, NULL);
    if (s->is_agent_starting)
        uv_close((uv_handle_t *)&s->agent_poll, NULL);
    if (s->reader_fd >= 0)
        uv_close((uv_handle_t *)&s->reader_poll, NULL);
    uv_run(&s->loop, UV_RUN_DEFAULT);
    base_close_fd(&s->reader_fd);
    embedded_start_done(&s->agent);
    uv_loop_close(&s->loop);
    credentials_done(&s->credentials);
    free(s);
}

void session_cleanup(struct session **s)
{
    session_close(*s);
}

uv_loop_t *session_loop(struct session *s)
{
    return &s->loop;
}

struct rpc_channel *session_channel(struct session *s)
{
    return s->is_probing ? NULL : s->channel;
}

void session_attach(struct session *s, const struct session_hooks *hooks, void *ctx)
{
    s->hooks = hooks;
    s->ctx = ctx;
}

static void on_call_message(void *ctx, const ProtobufCMessage *msg)
{
    struct session *s = ctx;

    if (s->call.on_message)
        s->call.on_message(s->call.ctx, msg);
}

static void on_call_end(void *ctx, int code, const char *text)
{
    struct session *s = ctx;

    s->call.is_done = true;
    s->call.code = code;
    if (code < 0)
        error_set(s->call.err, code, "%s", text[0] != '\0' ? text : accel_error_sentence(code));
}

int session_call(struct session *s, const char *method, const ProtobufCMessage *req,
                 const ProtobufCMessageDescriptor *response,
                 void (*on_message)(void *, const ProtobufCMessage *), void *ctx,
                 struct accel_error *err)
{
    static const struct rpc_call_handlers handlers = {on_call_message, on_call_end};
    int code = ACCEL_ECLOSED;

    for (int i = 0; i < CALL_TRIES && code == ACCEL_ECLOSED; i++) {
        if (!s->channel) {
            int r = session_connect(s, err);

            if (r < 0)
                return r;
        }
        s->call.is_done = false;
        s->call.err = err;
        s->call.on_message = on_message;
        s->call.ctx = ctx;
        rpc_channel_call(s->channel, method, req, response, &handlers, s);
        while (!s->call.is_done)
            uv_run(&s->loop, UV_RUN_ONCE);
        code = s->call.code;
        /* Its loss is told after the ends of its calls; a channel that failed a call is of no
         * more use. */
        if (code == ACCEL_ECLOSED && s->channel)
            rpc_channel_close(STEAL_PTR(s->channel), NULL, NULL);
    }
    return code;
}

/* --- the reader of stdout --- */

static void on_reader_gone(uv_poll_t *poll, int status, int events)
{
    _exit(EXIT_CODE_PIPE);
}

void session_end_with_reader(struct session *s)
{
    struct epoll_event none = {0}; /* an error is always told */
    struct stat st;

    if (s->reader_fd >= 0 || fstat(STDOUT_FILENO, &st) < 0 ||
        (!S_ISFIFO(st.st_mode) && !S_ISSOCK(st.st_mode)))
        return;
    /* Not stdout itself: libuv would make it non-blocking, for all who share it. */
    AUTO_CLOSE int fd = epoll_create1(EPOLL_CLOEXEC);
    if (fd < 0 || epoll_ctl(fd, EPOLL_CTL_ADD, STDOUT_FILENO, &none) < 0 ||
        uv_poll_init(&s->loop, &s->reader_poll, fd) < 0)
        return; /* then the next write finds out */
    s->reader_fd = STEAL_FD(fd);
    uv_poll_start(&s->reader_poll, UV_READABLE, on_reader_gone);
}

/* --- the node daemon --- */

static void tell_no_agent(struct session *s, const struct accel_error *err)
{
    int exit_code = cli_error(err);

    if (s->hooks && s->hooks->on_no_agent && !s->is_closing)
        s->hooks->on_no_agent(s->ctx, exit_code);
}

static void on_agent_poll_closed(uv_handle_t *handle)
{
    struct session *s = handle->data;

    embedded_start_done(&s->agent);
    s->is_agent_starting = false;
}

static void on_agent_word(uv_poll_t *poll, int status, int events)
{
    struct session *s = poll->data;
    struct accel_error err = {0};

    int r = embedded_start_result(&s->agent, &err);

    uv_poll_stop(poll);
    uv_close((uv_handle_t *)poll, on_agent_poll_closed);
    if (r < 0)
        tell_no_agent(s, &err);
}

void session_ensure_agent(struct session *s)
{
    struct accel_error err = {0};
    int r;

    if (!s->is_embedded || s->is_agent_starting || s->is_closing)
        return;
    r = embedded_start_agent(s->path, &s->agent, &err);
    if (r == ACCEL_EBUSY)
        return;
    if (r < 0) {
        tell_no_agent(s, &err);
        return;
    }
    uv_poll_init(&s->loop, &s->agent_poll, s->agent.ready_fd);
    s->agent_poll.data = s;
    s->is_agent_starting = true;
    uv_poll_start(&s->agent_poll, UV_READABLE | UV_DISCONNECT, on_agent_word);
}

int session_ensure_agent_now(struct session *s, struct accel_error *err)
{
    struct embedded_start start;
    int r;

    if (!s->is_embedded)
        return 0;
    r = embedded_start_agent(s->path, &start, err);
    if (r < 0)
        return r == ACCEL_EBUSY ? 0 : r;
    r = embedded_start_wait(&start, err);
    embedded_start_done(&start);
    return r;
}

static void on_check_message(void *ctx, const ProtobufCMessage *msg)
{
    if (((const Accel__V1__StatusReply *)msg)->nodes_ready == 0)
        session_ensure_agent(ctx);
}

static void on_check_end(void *ctx, int code, const char *text)
{
    struct session *s = ctx;

    s->checks--;
}

void session_check_agent(struct session *s)
{
    static const struct rpc_call_handlers handlers = {on_check_message, on_check_end};
    Accel__V1__StatusRequest req = ACCEL__V1__STATUS_REQUEST__INIT;

    if (!s->is_embedded || !s->channel)
        return;
    s->checks++;
    rpc_channel_call(s->channel, "/accel.v1.Admin/Status", &req.base,
                     &accel__v1__status_reply__descriptor, &handlers, s);
}

void session_settle(struct session *s)
{
    while (s->checks > 0 || s->is_agent_starting)
        uv_run(&s->loop, UV_RUN_ONCE);
}
