/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `accelctl admin`: looks after the coordinator. `status`, `check` and `shutdown` do not start
 * daemons that do not run; snapshots may, because the store is theirs to open.
 */
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "accel/v1/admin.pb-c.h"
#include "client/accelctl/session.h"
#include "client/accelctl/view.h"
#include "common/clock.h"

/* What somebody tried since the start and was not let do. */
static void add_refusals(json_t *o, const Accel__V1__Refusals *r)
{
    if (!r)
        return;
    json_object_set_new(o, "refused_handshakes", json_integer((json_int_t)r->handshakes));
    json_object_set_new(o, "refused_certificates", json_integer((json_int_t)r->certificates));
    json_object_set_new(o, "refused_tokens", json_integer((json_int_t)r->tokens));
    json_object_set_new(o, "refused_rights", json_integer((json_int_t)r->rights));
    json_object_set_new(o, "refused_sessions", json_integer((json_int_t)r->sessions));
    json_object_set_new(o, "refused_reports", json_integer((json_int_t)r->reports));
}

static json_t *status_json(const Accel__V1__StatusReply *s)
{
    json_t *o = json_object();

    json_object_set_new(o, "version", json_string(s->version));
    json_object_set_new(o, "pid", json_integer(s->pid));
    json_object_set_new(o, "started", view_time(s->start_ms));
    json_object_set_new(o, "era", json_integer((json_int_t)s->era));
    json_object_set_new(o, "epoch", json_integer((json_int_t)s->epoch));
    json_object_set_new(o, "nodes_ready", json_integer(s->nodes_ready));
    json_object_set_new(o, "nodes_known", json_integer(s->nodes_known));
    json_object_set_new(o, "jobs_live", json_integer(s->jobs_live));
    json_object_set_new(o, "row_writes", json_integer((json_int_t)s->row_writes));
    json_object_set_new(o, "commits", json_integer((json_int_t)s->commits));
    json_object_set_new(o, "store", view_bytes(s->store, strlen(s->store)));
    json_object_set_new(o, "store_error",
                        s->store_error[0] != '\0'
                            ? view_bytes(s->store_error, strlen(s->store_error))
                            : json_null());
    json_object_set_new(o, "idle_exit", json_boolean(s->idle_exit));
    add_refusals(o, s->refused);
    return o;
}

static void on_status(void *ctx, const ProtobufCMessage *msg)
{
    *(json_t **)ctx = status_json((const Accel__V1__StatusReply *)msg);
}

static int admin_status(struct cli *cli, struct session *session, struct accel_error *err)
{
    Accel__V1__StatusRequest req = ACCEL__V1__STATUS_REQUEST__INIT;
    AUTO_STR struct str text = {0};
    enum view_form form = view_form_of(&cli->opt);
    json_t *status = NULL, *value;
    const char *key;
    int r = session_call(session, "/accel.v1.Admin/Status", &req.base,
                         &accel__v1__status_reply__descriptor, on_status, &status, err);

    if (r < 0 || !status)
        return r;
    if (form == VIEW_JSON || form == VIEW_YAML) {
        view_print(view_single(status), form);
        return 0;
    }
    str_init(&text);
    json_object_foreach(status, key, value)
    {
        str_addf(&text, "%-20s ", key);
        if (json_is_string(value))
            str_add_visible(&text, json_string_value(value), json_string_length(value));
        else if (json_is_integer(value))
            str_addf(&text, "%lld", (long long)json_integer_value(value));
        else
            str_adds(&text, json_is_true(value) ? "yes" : json_is_false(value) ? "no" : "-");
        str_addc(&text, '\n');
    }
    cli_write_str(STDOUT_FILENO, &text);
    json_decref(status);
    return 0;
}

static void on_snapshot(void *ctx, const ProtobufCMessage *msg)
{
    *(uint64_t *)ctx = ((const Accel__V1__SnapshotReply *)msg)->bytes;
}

static int admin_copy(struct cli *cli, struct session *session, const char *method,
                      struct accel_error *err)
{
    Accel__V1__SnapshotRequest req = ACCEL__V1__SNAPSHOT_REQUEST__INIT;
    const char *file = cli->opt.args[1];
    AUTO_STR struct str path = {0};
    char cwd[PATH_MAX];
    uint64_t bytes = 0;
    int r;

    str_init(&path);
    if (file[0] != '/' && getcwd(cwd, sizeof cwd))
        str_addf(&path, "%s/", cwd);
    str_adds(&path, file);
    req.path.data = (uint8_t *)path.data;
    req.path.len = path.len;
    r = session_call(session, method, &req.base, &accel__v1__snapshot_reply__descriptor,
                     on_snapshot, &bytes, err);
    if (r == 0)
        cli_say("%llu bytes written to %s", (unsigned long long)bytes, path.data);
    return r;
}

static void on_check(void *ctx, const ProtobufCMessage *msg)
{
    const Accel__V1__CheckReply *reply = (const Accel__V1__CheckReply *)msg;
    AUTO_STR struct str text = {0};

    str_init(&text);
    for (size_t i = 0; i < reply->n_problems; i++) {
        str_add_visible(&text, reply->problems[i], strlen(reply->problems[i]));
        str_addc(&text, '\n');
    }
    if (reply->n_problems == 0)
        str_adds(&text, "the store is sound\n");
    cli_write_str(STDOUT_FILENO, &text);
    *(size_t *)ctx = reply->n_problems;
}

static int admin_check(struct session *session, struct accel_error *err, int *ret_code)
{
    Accel__V1__CheckRequest req = ACCEL__V1__CHECK_REQUEST__INIT;
    size_t problems = 0;
    int r = session_call(session, "/accel.v1.Admin/Check", &req.base,
                         &accel__v1__check_reply__descriptor, on_check, &problems, err);

    *ret_code = problems > 0 ? EXIT_CODE_FAILED : EXIT_CODE_OK;
    return r;
}

static int admin_shutdown(struct session *session, struct accel_error *err)
{
    Accel__V1__ShutdownRequest req = ACCEL__V1__SHUTDOWN_REQUEST__INIT;

    return session_call(session, "/accel.v1.Admin/Shutdown", &req.base,
                        &accel__v1__shutdown_reply__descriptor, NULL, NULL, err);
}

enum admin_command {
    ADMIN_STATUS,
    ADMIN_SNAPSHOT,
    ADMIN_BACKUP,
    ADMIN_CHECK,
    ADMIN_SHUTDOWN,
    ADMIN_COUNT
};
static const char *const commands[ADMIN_COUNT] = {"status", "snapshot", "backup", "check",
                                                  "shutdown"};

static int find_command(const struct options *o, enum admin_command *ret_command,
                        struct accel_error *err)
{
    size_t want;

    if (o->arg_count == 0)
        return error_set(err, ACCEL_EINVAL,
                         "no command of admin\nwhy: admin wants one of status, snapshot FILE, "
                         "backup FILE, check, shutdown\ntry: accelctl admin status");
    for (size_t i = 0; i < ADMIN_COUNT; i++) {
        if (strcmp(commands[i], o->args[0]) != 0)
            continue;
        want = i == ADMIN_SNAPSHOT || i == ADMIN_BACKUP ? 2 : 1;
        if (o->arg_count != want)
            return error_set(err, ACCEL_EINVAL,
                             "admin %s: wrong number of arguments\nwhy: it takes %s\n"
                             "try: accelctl admin %s%s",
                             commands[i], want == 2 ? "a file" : "none", commands[i],
                             want == 2 ? " FILE" : "");
        *ret_command = (enum admin_command)i;
        return 0;
    }
    for (size_t i = 0; i < ADMIN_COUNT; i++) {
        if (edit_distance(commands[i], o->args[0], 2) <= 2)
            return error_set(err, ACCEL_EINVAL,
                             "unknown command of admin\nwhy: there is none of that name\n"
                             "try: accelctl admin %s",
                             commands[i]);
    }
    return error_set(err, ACCEL_EINVAL,
                     "unknown command of admin\nwhy: there is none of that name\n"
                     "try: accelctl help admin");
}

int verb_admin(struct cli *cli)
{
    AUTO_SESSION struct session *session = NULL;
    struct accel_error err = {0};
    enum admin_command command = ADMIN_STATUS;
    int code = EXIT_CODE_OK;
    int r = find_command(&cli->opt, &command, &err);

    if (r < 0)
        return cli_error(&err);
    r = command == ADMIN_SHUTDOWN || command == ADMIN_STATUS
            ? session_open_existing(cli, &session, &err)
            : session_open(cli, &session, &err);
    if (r < 0)
        return cli_error(&err);
    switch (command) {
    case ADMIN_STATUS: r = admin_status(cli, session, &err); break;
    case ADMIN_SNAPSHOT: r = admin_copy(cli, session, "/accel.v1.Admin/Snapshot", &err); break;
    case ADMIN_BACKUP: r = admin_copy(cli, session, "/accel.v1.Admin/Backup", &err); break;
    case ADMIN_CHECK: r = admin_check(session, &err, &code); break;
    default: r = admin_shutdown(session, &err); break;
    }
    return r < 0 ? cli_error(&err) : code;
}
