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

struct tokens {
    enum view_form form;
    json_t *items;   /* JSON and YAML */
    struct str text; /* else */
    int64_t expires_ms;
    uint64_t count;
};

static int make_token(struct session *session, const struct options *o, struct tokens *all,
                      struct accel_error *err)
{
    Accel__V1__CreateNodeTokenRequest req = ACCEL__V1__CREATE_NODE_TOKEN_REQUEST__INIT;
    struct token_reply t = {0};

    if (option_given(o, OPT_EXPIRES))
        req.life_ms = o->v[OPT_EXPIRES].number;
    int r = session_call(session, "/accel.v1.Trust/CreateNodeToken", &req.base,
                         &accel__v1__create_node_token_reply__descriptor, on_token, &t, err);
    if (r == 0 && !t.token)
        r = error_set(err, ACCEL_EPROTO, "an empty answer to the request for a token");
    if (r == 0) {
        json_t *item = json_object();
        json_object_set_new(item, "token", json_string(t.token));
        json_object_set_new(item, "expires", view_time(t.expires_ms));
        json_array_append_new(all->items, item);
        str_addf(&all->text, "%s\n", t.token);
        all->expires_ms = t.expires_ms;
        all->count++;
    }
    if (t.token)
        explicit_bzero(t.token, strlen(t.token));
    free(t.token);
    return r;
}

static void print_tokens(const struct tokens *all, bool is_list)
{
    char until[40];

    if (all->form == VIEW_JSON || all->form == VIEW_YAML) {
        view_print(is_list ? view_list(json_incref(all->items))
                           : view_single(json_incref(json_array_get(all->items, 0))),
                   all->form);
        return;
    }
    cli_write_str(STDOUT_FILENO, &all->text);
    cli_say("%sgood for one node until %s; there, with the token in a file:"
            " acceld --join - <FILE",
            is_list ? "each line is " : "", clock_format_utc(all->expires_ms, until, sizeof until));
}

/* Those that were made are printed even if not all were: they are good, and somebody has to know
 * them. */
static int node_token(struct cli *cli, struct session *session, struct accel_error *err)
{
    const struct options *o = &cli->opt;
    struct tokens all = {.form = view_form_of(o), .items = json_array()};
    const bool is_list = option_given(o, OPT_TOKENS);
    const uint64_t wanted = is_list ? o->v[OPT_TOKENS].number : 1;
    int r = 0;

    str_init(&all.text);
    while (all.count < wanted && r == 0)
        r = make_token(session, o, &all, err);
    if (all.count > 0)
        print_tokens(&all, is_list);
    if (r < 0 && all.count > 0)
        error_wrap(err, r, "only %llu of %llu tokens were made", (unsigned long long)all.count,
                   (unsigned long long)wanted);
    explicit_bzero(all.text.data, all.text.len);
    str_done(&all.text);
    json_decref(all.items);
    return r;
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
