/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `accelctl node`: lets a node into the cluster and takes it out again. The list is that of
 * nodes.c. The token goes to stdout alone, so that it can be piped; what to do with it is told on
 * stderr.
 */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "accel/v1/trust.pb-c.h"
#include "client/accelctl/session.h"
#include "client/accelctl/submit.h"
#include "client/accelctl/view.h"
#include "common/clock.h"
#include "common/limits.h"

struct token_reply {
    char *token;
    int64_t expires_ms;
};

static void on_token(void *ctx, const ProtobufCMessage *msg)
{
    const Accel__V1__CreateNodeTokenReply *reply = (const Accel__V1__CreateNodeTokenReply *)msg;
    struct token_reply *t = ctx;

    free(t->token);
    t->token = xstrdup(reply->token);
    t->expires_ms = reply->expires_ms;
}

static int node_token(struct cli *cli, struct session *session, struct accel_error *err)
{
    Accel__V1__CreateNodeTokenRequest req = ACCEL__V1__CREATE_NODE_TOKEN_REQUEST__INIT;
    enum view_form form = view_form_of(&cli->opt);
    struct token_reply t = {0};
    char until[40];

    if (option_given(&cli->opt, OPT_EXPIRES))
        req.life_ms = cli->opt.v[OPT_EXPIRES].number;
    int r = session_call(session, "/accel.v1.Trust/CreateNodeToken", &req.base,
                         &accel__v1__create_node_token_reply__descriptor, on_token, &t, err);
    if (r < 0 || !t.token)
        return r;
    if (form == VIEW_JSON || form == VIEW_YAML) {
        json_t *o = json_object();
        json_object_set_new(o, "token", json_string(t.token));
        json_object_set_new(o, "expires", view_time(t.expires_ms));
        view_print(view_single(o), form);
    } else {
        AUTO_STR struct str line = {0};
        str_init(&line);
        str_addf(&line, "%s\n", t.token);
        cli_write_str(STDOUT_FILENO, &line);
        cli_say("good for one node until %s; there, with the token in a file:"
                " acceld --join - <FILE",
                clock_format_utc(t.expires_ms, until, sizeof until));
    }
    explicit_bzero(t.token, strlen(t.token));
    free(t.token);
    return 0;
}

static void on_removed(void *ctx, const ProtobufCMessage *msg)
{
    const Accel__V1__RemoveNodeReply *reply = (const Accel__V1__RemoveNodeReply *)msg;

    cli_say("removed; %u certificate%s revoked, %u running attempt%s lost", reply->certificates,
            reply->certificates == 1 ? "" : "s", reply->attempts, reply->attempts == 1 ? "" : "s");
}

static int node_remove(struct cli *cli, struct session *session, struct accel_error *err)
{
    Accel__V1__RemoveNodeRequest req = ACCEL__V1__REMOVE_NODE_REQUEST__INIT;
    uint8_t id[LIMIT_REQUEST_ID_BYTES];
    char *name = cli->opt.args[1];

    request_id_make(id);
    req.request_id = (ProtobufCBinaryData){sizeof id, id};
    req.name = strncmp(name, "node/", 5) == 0 ? name + 5 : name;
    if (!is_valid_name(req.name))
        return error_set(err, ACCEL_ENOENT,
                         "no such node\nwhy: that is no name of a node\n"
                         "try: accelctl nodes");
    return session_call(session, "/accel.v1.Trust/RemoveNode", &req.base,
                        &accel__v1__remove_node_reply__descriptor, on_removed, NULL, err);
}

int verb_node(struct cli *cli)
{
    AUTO_SESSION struct session *session = NULL;
    struct options *o = &cli->opt;
    const char *command = o->arg_count > 0 ? o->args[0] : "ls";
    bool is_token = strcmp(command, "token") == 0, is_remove = strcmp(command, "remove") == 0;
    struct accel_error err = {0};
    int r;

    if (strcmp(command, "ls") == 0 || strcmp(command, "list") == 0) {
        if (o->arg_count > 0) {
            memmove(o->args, o->args + 1, o->arg_count * sizeof(*o->args)); /* and its NULL */
            o->arg_count--;
        }
        return verb_nodes(cli);
    }
    if ((!is_token && !is_remove) || o->arg_count != (is_remove ? 2 : 1)) {
        error_set(&err, ACCEL_EINVAL,
                  "node: wrong command or number of arguments\nwhy: there are token, remove NAME"
                  " and ls\ntry: accelctl help node");
        return cli_error(&err);
    }
    r = session_open(cli, &session, &err);
    if (r == 0)
        r = is_token ? node_token(cli, session, &err) : node_remove(cli, session, &err);
    return r < 0 ? cli_error(&err) : EXIT_CODE_OK;
}
