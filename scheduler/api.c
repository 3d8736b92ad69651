/* SPDX-License-Identifier: Apache-2.0 */
/*
 * api.c - the service table of the coordinator: every method that may be called, who may, and how
 * large a request may be. Calls about jobs, nodes and events go to the core; those about the daemon
 * and its store are answered here.
 */
#include <string.h>
#include <unistd.h>

#include "accel/v1/admin.pb-c.h"
#include "accel/v1/agent.pb-c.h"
#include "accel/v1/event.pb-c.h"
#include "accel/v1/files.pb-c.h"
#include "accel/v1/job.pb-c.h"
#include "accel/v1/node.pb-c.h"
#include "accel/v1/trust.pb-c.h"
#include "common/clock.h"
#include "common/limits.h"
#include "scheduler/api_files.h"
#include "scheduler/shell.h"

enum admin_method {
    ADMIN_STATUS = COORD_METHOD_COUNT + 1,
    ADMIN_SNAPSHOT,
    ADMIN_BACKUP,
    ADMIN_CHECK,
    ADMIN_SHUTDOWN
};

static void to_core(void *ctx, const struct rpc_event *ev)
{
    if (ev->method->id == COORD_SESSION && api_files_on_session(ctx, ev))
        return;
    shell_on_call(ctx, ev, NULL);
}

static void end_with(struct shell *s, uint64_t call, const ProtobufCMessage *msg)
{
    size_t len = protobuf_c_message_get_packed_size(msg);
    uint8_t *packed = xcalloc(1, len + 1);

    protobuf_c_message_pack(msg, packed);
    shell_end(s, call, packed, len, 0, "");
    free(packed);
}

static void fill_refusals(const struct shell *s, Accel__V1__Refusals *m)
{
    const uint64_t *refused = coord_refused(s->core);

    m->handshakes = refused[COORD_REFUSED_HANDSHAKE];
    m->certificates = refused[COORD_REFUSED_CERTIFICATE];
    m->tokens = refused[COORD_REFUSED_TOKEN];
    m->rights = refused[COORD_REFUSED_RIGHTS];
    m->sessions = refused[COORD_REFUSED_SESSION];
    m->reports = refused[COORD_REFUSED_REPORT];
}

static void on_status(struct shell *s, uint64_t call)
{
    Accel__V1__StatusReply m = ACCEL__V1__STATUS_REPLY__INIT;
    Accel__V1__Refusals refused = ACCEL__V1__REFUSALS__INIT;

    m.version = (char *)ACCEL_VERSION;
    m.era = coord_era(s->core);
    m.epoch = coord_epoch(s->core);
    m.pid = (uint32_t)getpid();
    m.start_ms = s->start_wall_ms;
    m.now_ms = clock_wall_ms();
    m.nodes_ready = coord_nodes_ready(s->core);
    m.nodes_known = coord_nodes_known(s->core);
    m.jobs_live = coord_jobs_live(s->core);
    m.row_writes = __atomic_load_n(&s->store->row_writes, __ATOMIC_RELAXED);
    m.commits = __atomic_load_n(&s->store->commits, __ATOMIC_RELAXED);
    m.store = (char *)s->store->ops->describe(s->store);
    m.store_error = (char *)(s->failing.code ? s->failing.text : "");
    m.idle_exit = s->options->idle_exit_ms > 0;
    fill_refusals(s, &refused);
    m.refused = &refused;
    end_with(s, call, &m.base);
}

/* --- store operations: answered when the store's thread has done them --- */

struct admin_op {
    struct shell *shell;
    uint64_t call;
};

static struct admin_op *op_new(struct shell *s, uint64_t call)
{
    struct admin_op *op = xcalloc(1, sizeof(*op));

    op->shell = s;
    op->call = call;
    s->admin_calls++;
    return op;
}

static void on_snapshot_done(void *ctx, int r, uint64_t bytes, const struct accel_error *err)
{
    struct admin_op *op = ctx;
    Accel__V1__SnapshotReply m = ACCEL__V1__SNAPSHOT_REPLY__INIT;

    op->shell->admin_calls--;
    m.bytes = bytes;
    if (!op->shell->server)
        ; /* stopping: the caller was told that the connection is gone */
    else if (r < 0)
        shell_end(op->shell, op->call, NULL, 0, r, err->text);
    else
        end_with(op->shell, op->call, &m.base);
    free(op);
}

static void on_snapshot(struct shell *s, uint64_t call, const Accel__V1__SnapshotRequest *rq)
{
    if (rq->path.len == 0 || rq->path.data[0] != '/' || rq->path.len >= 4096 ||
        memchr(rq->path.data, 0, rq->path.len)) {
        shell_end(s, call, NULL, 0, ACCEL_EINVAL, "the file must be an absolute path");
        return;
    }
    char *path = xcalloc(1, rq->path.len + 1);
    memcpy(path, rq->path.data, rq->path.len);
    store_thread_snapshot(s->thread, path, on_snapshot_done, op_new(s, call));
    free(path);
}

static void on_check_done(void *ctx, int r, const char *const *problems,
                          const struct accel_error *err)
{
    struct admin_op *op = ctx;
    Accel__V1__CheckReply m = ACCEL__V1__CHECK_REPLY__INIT;

    op->shell->admin_calls--;
    m.problems = (char **)problems;
    while (problems && problems[m.n_problems])
        m.n_problems++;
    if (!op->shell->server)
        ;
    else if (r < 0)
        shell_end(op->shell, op->call, NULL, 0, r, err->text);
    else
        end_with(op->shell, op->call, &m.base);
    free(op);
}

static void on_admin(void *ctx, const struct rpc_event *ev)
{
    struct shell *s = ctx;
    Accel__V1__ShutdownReply bye = ACCEL__V1__SHUTDOWN_REPLY__INIT;

    if (ev->type != RPC_OPEN)
        return;
    switch (ev->method->id) {
    case ADMIN_STATUS: on_status(s, ev->call); break;
    case ADMIN_SNAPSHOT:
    case ADMIN_BACKUP: on_snapshot(s, ev->call, (const Accel__V1__SnapshotRequest *)ev->msg); break;
    case ADMIN_CHECK: store_thread_check(s->thread, on_check_done, op_new(s, ev->call)); break;
    case ADMIN_SHUTDOWN:
        end_with(s, ev->call, &bye.base);
        shell_stop(s, "asked to by a caller");
        break;
    }
}

#define DESC(name) &accel__v1__##name##__descriptor
#define SMALL      LIMIT_SMALL_MESSAGE_BYTES
#define UNARY(path, rq, rp, role, cap, handler, id)                                                \
    {                                                                                              \
        path, DESC(rq), DESC(rp), false, false, role, cap, handler, id                             \
    }
#define STREAM(path, rq, rp, role, cap, handler, id)                                               \
    {                                                                                              \
        path, DESC(rq), DESC(rp), false, true, role, cap, handler, id                              \
    }

/* What not everybody may: told in the words of the verb. */
#define VERB(path, rq, rp, role, handler, id, people)                                              \
    {                                                                                              \
        path, DESC(rq), DESC(rp), false, false, role, SMALL, handler, id, people                   \
    }

static const struct rpc_method methods[] = {
    UNARY("/accel.v1.Jobs/Submit", submit_request, submit_reply, RPC_ROLE_USER, LIMIT_SPEC_BYTES,
          shell_on_submit, COORD_SUBMIT),
    UNARY("/accel.v1.Jobs/List", list_request, list_reply, RPC_ROLE_USER, LIMIT_SPEC_BYTES, to_core,
          COORD_LIST),
    UNARY("/accel.v1.Jobs/Get", get_request, get_reply, RPC_ROLE_USER, SMALL, to_core, COORD_GET),
    STREAM("/accel.v1.Jobs/Watch", watch_request, watch_reply, RPC_ROLE_USER, SMALL, to_core,
           COORD_WATCH),
    UNARY("/accel.v1.Jobs/Cancel", cancel_request, cancel_reply, RPC_ROLE_USER, LIMIT_SPEC_BYTES,
          to_core, COORD_CANCEL),
    UNARY("/accel.v1.Jobs/Signal", signal_request, signal_reply, RPC_ROLE_USER, SMALL, to_core,
          COORD_SIGNAL),
    UNARY("/accel.v1.Jobs/Input", input_request, input_reply, RPC_ROLE_USER,
          2 * LIMIT_INPUT_CHUNK_BYTES, to_core, COORD_INPUT),
    UNARY("/accel.v1.Logs/Read", log_read_request, log_read_reply, RPC_ROLE_USER, LIMIT_SPEC_BYTES,
          to_core, COORD_LOG_READ),
    UNARY("/accel.v1.Nodes/List", nodes_request, nodes_reply, RPC_ROLE_USER, SMALL, to_core,
          COORD_NODES),
    STREAM("/accel.v1.Events/Watch", events_request, events_reply, RPC_ROLE_USER, SMALL, to_core,
           COORD_EVENTS),
    UNARY("/accel.v1.Files/Stat", file_stat_request, file_reply, RPC_ROLE_USER, SMALL,
          api_files_on_call, API_FILES_STAT),
    UNARY("/accel.v1.Files/Put", file_put_request, file_reply, RPC_ROLE_USER,
          LIMIT_BLOB_CHUNK_BYTES + SMALL, api_files_on_call, API_FILES_PUT),
    {"/accel.v1.Agent/Session", DESC(agent_up), DESC(coord_down), true, true, RPC_ROLE_NODE,
     LIMIT_FRAME_BYTES, to_core, COORD_SESSION},
    UNARY("/accel.v1.Trust/Enroll", enroll_request, enroll_reply, RPC_ROLE_NONE, SMALL,
          shell_on_trust, COORD_ENROLL),
    /* Nodes and users alike: who has a certificate is asked in the core. */
    UNARY("/accel.v1.Trust/Renew", renew_request, renew_reply, RPC_ROLE_NONE, SMALL, shell_on_trust,
          COORD_RENEW),
    VERB("/accel.v1.Trust/CreateNodeToken", create_node_token_request, create_node_token_reply,
         RPC_ROLE_ADMIN, shell_on_trust, COORD_CREATE_TOKEN, "accelctl node token"),
    VERB("/accel.v1.Trust/SignUser", sign_user_request, sign_user_reply, RPC_ROLE_ADMIN,
         shell_on_trust, COORD_SIGN_USER, "accelctl user cert"),
    VERB("/accel.v1.Trust/RevokeUser", revoke_user_request, revoke_user_reply, RPC_ROLE_ADMIN,
         to_core, COORD_REVOKE_USER, "accelctl user revoke"),
    VERB("/accel.v1.Trust/RemoveNode", remove_node_request, remove_node_reply, RPC_ROLE_ADMIN,
         to_core, COORD_REMOVE_NODE, "accelctl node remove"),
    VERB("/accel.v1.Trust/ListUsers", list_users_request, list_users_reply, RPC_ROLE_OPERATOR,
         to_core, COORD_LIST_USERS, "accelctl user ls"),
    VERB("/accel.v1.Trust/SetRole", set_role_request, set_role_reply, RPC_ROLE_ADMIN, to_core,
         COORD_SET_ROLE, "accelctl user role"),
    UNARY("/accel.v1.Admin/Status", status_request, status_reply, RPC_ROLE_USER, SMALL, on_admin,
          ADMIN_STATUS),
    VERB("/accel.v1.Admin/Snapshot", snapshot_request, snapshot_reply, RPC_ROLE_ADMIN, on_admin,
         ADMIN_SNAPSHOT, "accelctl admin snapshot"),
    VERB("/accel.v1.Admin/Backup", snapshot_request, snapshot_reply, RPC_ROLE_ADMIN, on_admin,
         ADMIN_BACKUP, "accelctl admin backup"),
    VERB("/accel.v1.Admin/Check", check_request, check_reply, RPC_ROLE_ADMIN, on_admin, ADMIN_CHECK,
         "accelctl admin check"),
    VERB("/accel.v1.Admin/Shutdown", shutdown_request, shutdown_reply, RPC_ROLE_ADMIN, on_admin,
         ADMIN_SHUTDOWN, "accelctl admin shutdown"),
};

const struct rpc_service *api_service(struct shell *s)
{
    static struct rpc_service service = {.methods = methods,
                                         .count = ARRAY_LEN(methods),
                                         .refresh = shell_refresh_role,
                                         .on_refused = shell_on_role_refused};

    service.ctx = s; /* one coordinator per process */
    return &service;
}
