/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `accelctl user`: certificates and roles of people. The private key of a new certificate is made
 * here and never leaves this machine but in the file that this verb writes.
 */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "accel/v1/trust.pb-c.h"
#include "client/accelctl/credentials.h"
#include "client/accelctl/session.h"
#include "client/accelctl/submit.h"
#include "client/accelctl/table.h"
#include "client/accelctl/view.h"
#include "common/clock.h"
#include "common/limits.h"
#include "common/pki.h"

static const char *const role_names[] = {"", "user", "operator", "admin"};

struct user_call {
    struct cli *cli;
    struct session *session;
    uint8_t id[LIMIT_REQUEST_ID_BYTES];
    char *cert, *ca, *address;
    int64_t not_after_ms;
    uint32_t revoked;
};

static ProtobufCBinaryData request_id(struct user_call *u)
{
    request_id_make(u->id);
    return (ProtobufCBinaryData){sizeof u->id, u->id};
}

/* --- cert --- */

static void on_signed(void *ctx, const ProtobufCMessage *msg)
{
    const Accel__V1__SignUserReply *reply = (const Accel__V1__SignUserReply *)msg;
    struct user_call *u = ctx;

    free(u->cert);
    free(u->ca);
    free(u->address);
    u->cert = xstrdup(reply->certificate_pem);
    u->ca = xstrdup(reply->ca_pem);
    u->address = xstrdup(reply->n_addresses > 0 ? reply->addresses[0] : "");
    u->not_after_ms = reply->not_after_ms;
}

static void tell_cert(const struct user_call *u, const char *name, const char *file)
{
    struct remote_address address;
    char until[40];

    cli_say("%s: key and certificate of %s, good until %s", file, name,
            clock_format_utc(u->not_after_ms, until, sizeof until));
    if (remote_address_parse(u->address, &address, NULL) == 0)
        cli_say("it belongs, readable by %s alone, in ~/.config/accel/credentials/%s.pem; then:"
                " accelctl --coordinator %s:%u ps",
                name, address.host, address.host, address.port);
}

static int user_cert(struct user_call *u, struct accel_error *err)
{
    const struct options *o = &u->cli->opt;
    Accel__V1__SignUserRequest req = ACCEL__V1__SIGN_USER_REQUEST__INIT;
    struct credentials c = {0};
    const struct remote_ops *remote;
    AUTO_FREE char *csr = NULL;
    char file[LIMIT_NAME_BYTES + 8];
    const char *path = file;

    snprintf(file, sizeof file, "%s.pem", o->args[1]);
    if (option_given(o, OPT_OUT))
        path = o->v[OPT_OUT].text;
    if (access(path, F_OK) == 0) /* before a certificate is made for nothing */
        return credentials_save(path, &c, err);
    int r = remote_load(&remote, err);
    if (r == 0)
        r = remote->pki->make_key(o->args[1], &c.key, &csr, err);
    if (r < 0)
        return r;
    req.request_id = request_id(u);
    req.name = o->args[1];
    req.csr_pem = csr;
    if (option_given(o, OPT_ROLE))
        req.role = (Accel__V1__UserRole)(o->v[OPT_ROLE].number + 1);
    r = session_call(u->session, "/accel.v1.Trust/SignUser", &req.base,
                     &accel__v1__sign_user_reply__descriptor, on_signed, u, err);
    if (r == 0) {
        c.cert = STEAL_PTR(u->cert);
        c.ca = STEAL_PTR(u->ca);
        r = credentials_save(path, &c, err);
    }
    if (r == 0)
        tell_cert(u, o->args[1], path);
    free(STEAL_PTR(u->address));
    credentials_done(&c);
    return r;
}

/* --- revoke and role --- */

static void on_revoked(void *ctx, const ProtobufCMessage *msg)
{
    ((struct user_call *)ctx)->revoked = ((const Accel__V1__RevokeUserReply *)msg)->certificates;
}

static int user_revoke(struct user_call *u, struct accel_error *err)
{
    Accel__V1__RevokeUserRequest req = ACCEL__V1__REVOKE_USER_REQUEST__INIT;

    req.request_id = request_id(u);
    req.name = u->cli->opt.args[1];
    int r = session_call(u->session, "/accel.v1.Trust/RevokeUser", &req.base,
                         &accel__v1__revoke_user_reply__descriptor, on_revoked, u, err);
    if (r == 0)
        cli_say("%u certificate%s revoked", u->revoked, u->revoked == 1 ? "" : "s");
    return r;
}

static int user_role(struct user_call *u, struct accel_error *err)
{
    Accel__V1__SetRoleRequest req = ACCEL__V1__SET_ROLE_REQUEST__INIT;

    req.request_id = request_id(u);
    req.name = u->cli->opt.args[1];
    for (size_t i = 1; i < ARRAY_LEN(role_names); i++)
        if (strcmp(role_names[i], u->cli->opt.args[2]) == 0)
            req.role = (Accel__V1__UserRole)i;
    if (req.role == ACCEL__V1__USER_ROLE__USER_ROLE_NONE)
        return error_set(err, ACCEL_EINVAL,
                         "no such role\nwhy: there are user, operator and admin\n"
                         "try: accelctl user role %.80s operator",
                         req.name);
    return session_call(u->session, "/accel.v1.Trust/SetRole", &req.base,
                        &accel__v1__set_role_reply__descriptor, NULL, NULL, err);
}

/* --- ls --- */

static const struct table_column columns[] = {
    {.name = "NAME"},
    {.name = "ROLE"},
    {.name = "CERTIFICATES", .is_right = true},
    {.name = "UNTIL"},
};

static json_t *user_json(const Accel__V1__User *user)
{
    json_t *o = json_object();

    json_object_set_new(o, "name", json_string(user->name));
    json_object_set_new(
        o, "role",
        json_string((unsigned)user->role < ARRAY_LEN(role_names) ? role_names[user->role] : ""));
    json_object_set_new(o, "created", view_time(user->created_ms));
    json_object_set_new(o, "certificates", json_integer(user->certificates));
    json_object_set_new(o, "until", view_time(user->not_after_ms));
    return o;
}

static void on_users(void *ctx, const ProtobufCMessage *msg)
{
    const Accel__V1__ListUsersReply *reply = (const Accel__V1__ListUsersReply *)msg;
    struct user_call *u = ctx;
    enum view_form form = view_form_of(&u->cli->opt);
    json_t *items = json_array();
    struct table *t = table_create(columns, ARRAY_LEN(columns), form == VIEW_WIDE);
    char until[40];

    for (size_t i = 0; i < reply->n_users; i++) {
        const Accel__V1__User *user = reply->users[i];
        json_array_append_new(items, user_json(user));
        table_cell(t, user->name, TABLE_PLAIN);
        table_cell(t, (unsigned)user->role < ARRAY_LEN(role_names) ? role_names[user->role] : "",
                   TABLE_PLAIN);
        table_cell_number(t, user->certificates);
        table_cell(t, clock_format_utc(user->not_after_ms, until, sizeof until), TABLE_PLAIN);
    }
    if (form == VIEW_JSON || form == VIEW_YAML)
        view_print(view_list(json_incref(items)), form);
    else if (reply->n_users == 0)
        cli_say("no users but those of the coordinator's own host");
    else
        table_print(t, u->cli->use_color);
    table_destroy(t);
    json_decref(items);
}

static int user_list(struct user_call *u, struct accel_error *err)
{
    Accel__V1__ListUsersRequest req = ACCEL__V1__LIST_USERS_REQUEST__INIT;

    return session_call(u->session, "/accel.v1.Trust/ListUsers", &req.base,
                        &accel__v1__list_users_reply__descriptor, on_users, u, err);
}

static const struct {
    const char *name;
    size_t args;
    int (*run)(struct user_call *u, struct accel_error *err);
} commands[] = {{"cert", 2, user_cert},
                {"revoke", 2, user_revoke},
                {"role", 3, user_role},
                {"ls", 1, user_list},
                {"list", 1, user_list}};

int verb_user(struct cli *cli)
{
    AUTO_SESSION struct session *session = NULL;
    struct user_call u = {.cli = cli};
    const struct options *o = &cli->opt;
    struct accel_error err = {0};

    for (size_t i = 0; i < ARRAY_LEN(commands); i++) {
        if (strcmp(commands[i].name, o->arg_count > 0 ? o->args[0] : "ls") != 0 ||
            commands[i].args != MAX(o->arg_count, (size_t)1))
            continue;
        if (o->arg_count > 1 && !is_valid_name(o->args[1])) {
            error_set(&err, ACCEL_EINVAL,
                      "no such user\nwhy: names are letters, digits, '.', '_' and '-'");
            return cli_error(&err);
        }
        int r = session_open(cli, &session, &err);
        u.session = session;
        if (r == 0)
            r = commands[i].run(&u, &err);
        return r < 0 ? cli_error(&err) : EXIT_CODE_OK;
    }
    error_set(&err, ACCEL_EINVAL,
              "user: wrong command or number of arguments\nwhy: there are cert NAME, revoke NAME,"
              " role NAME ROLE and ls\ntry: accelctl help user");
    return cli_error(&err);
}
