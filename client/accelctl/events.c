/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `accelctl events`: the history as a table, or followed as it is made. A broken connection is
 * taken up after the last sequence number seen, so nothing is shown twice.
 */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "client/accelctl/session.h"
#include "client/accelctl/table.h"
#include "client/accelctl/view.h"
#include "common/clock.h"

struct history {
    struct cli *cli;
    struct session *session;
    enum view_form form;
    bool is_following;
    uint64_t job_id;
    int64_t since_ms, now_ms;
    uint64_t last_seq;
    struct view_items *items;
    struct table *table;
    struct rpc_call *call;
    bool is_over;
    struct accel_error err;
};

static const struct table_column columns[] = {
    {.name = "SEQ", .is_right = true, .is_wide = true},
    {.name = "WHEN", .is_right = true},
    {.name = "KIND"},
    {.name = "JOB", .is_right = true},
    {.name = "ATTEMPT", .is_right = true, .is_wide = true},
    {.name = "NODE"},
    {.name = "TEXT", .may_cut = true},
};

static void add_row(struct history *h, const Accel__V1__Event *ev)
{
    AUTO_STR struct str when = {0};
    char buf[40];

    str_init(&when);
    if (option_given(&h->cli->opt, OPT_UTC)) {
        str_adds(&when, clock_format_utc(ev->time_ms, buf, sizeof buf));
    } else {
        str_add_age(&when, h->now_ms - ev->time_ms);
        str_adds(&when, " ago");
    }
    table_cell_number(h->table, ev->seq);
    table_cell(h->table, when.data, TABLE_PLAIN);
    table_cell(h->table, ev->kind, TABLE_PLAIN);
    table_cellf(h->table, ev->job_id > 0 ? "%llu" : "", (unsigned long long)ev->job_id);
    table_cellf(h->table, ev->attempt > 0 ? "%u" : "", ev->attempt);
    table_cell(h->table, ev->node, TABLE_PLAIN);
    table_cell(h->table, ev->text, TABLE_PLAIN);
}

/* Following: each event at once, a line each. */
static void print_event(const struct history *h, const Accel__V1__Event *ev)
{
    AUTO_STR struct str line = {0};
    char buf[40];

    if (h->form == VIEW_JSON || h->form == VIEW_YAML) {
        json_t *items = json_array();
        struct accel_error err = {0};

        json_array_append_new(items, view_event(ev));
        if (option_given(&h->cli->opt, OPT_JSON) &&
            view_select(items, h->cli->opt.v[OPT_JSON].text, &err) < 0)
            exit(cli_error(&err));
        view_print_line(json_incref(json_array_get(items, 0)));
        json_decref(items);
        return;
    }
    str_init(&line);
    if (h->form == VIEW_NAME) {
        str_addf(&line, "%llu\n", (unsigned long long)ev->seq);
    } else {
        str_addf(&line, "%s  %-18s ", clock_format_utc(ev->time_ms, buf, sizeof buf), ev->kind);
        if (ev->job_id > 0)
            str_addf(&line, "job %llu: ", (unsigned long long)ev->job_id);
        str_add_visible(&line, ev->text, strlen(ev->text));
        str_addc(&line, '\n');
    }
    cli_write_str(STDOUT_FILENO, &line);
}

static void on_events(void *ctx, const ProtobufCMessage *msg)
{
    struct history *h = ctx;
    const Accel__V1__EventsReply *reply = (const Accel__V1__EventsReply *)msg;

    for (size_t i = 0; i < reply->n_events; i++) {
        const Accel__V1__Event *ev = reply->events[i];

        if (ev->seq <= h->last_seq)
            continue;
        h->last_seq = ev->seq;
        if (ev->time_ms < h->since_ms)
            continue;
        if (h->is_following || h->form == VIEW_NAME)
            print_event(h, ev);
        else if (h->items)
            view_items_add(h->items, view_event(ev));
        else
            add_row(h, ev);
    }
}

static void on_events_end(void *ctx, int code, const char *text)
{
    struct history *h = ctx;

    h->call = NULL;
    if (code == ACCEL_ECLOSED)
        return; /* on_back */
    h->is_over = true;
    if (code < 0)
        error_set(&h->err, code, "%s", text[0] != '\0' ? text : accel_error_sentence(code));
}

static void begin(struct history *h)
{
    static const struct rpc_call_handlers handlers = {on_events, on_events_end};
    const struct options *o = &h->cli->opt;
    Accel__V1__EventsRequest req = ACCEL__V1__EVENTS_REQUEST__INIT;
    struct rpc_channel *ch = session_channel(h->session);

    if (!ch)
        return;
    req.after_seq = h->last_seq;
    req.job_id = h->job_id;
    if (option_given(o, OPT_NODE))
        req.node = (char *)o->v[OPT_NODE].text;
    req.follow = h->is_following;
    req.limit = h->last_seq == 0 ? (uint32_t)o->v[OPT_LINES].number : 0;
    h->call = rpc_channel_call(ch, "/accel.v1.Events/Watch", &req.base,
                               &accel__v1__events_reply__descriptor, &handlers, h);
}

static void on_back(void *ctx)
{
    begin(ctx);
}

static void on_gone(void *ctx, const struct accel_error *err)
{
    struct history *h = ctx;

    h->is_over = true;
    h->err = *err;
}

static int show(struct history *h)
{
    int r = 0;

    if (h->items) {
        r = view_items_print(h->items, &h->err);
    } else if (h->table && h->last_seq > 0) {
        table_print(h->table, h->cli->use_color);
    }
    return r;
}

static int prepare(struct history *h)
{
    const struct options *o = &h->cli->opt;
    const Accel__V1__Event example = ACCEL__V1__EVENT__INIT;
    int r = view_check_fields(view_event(&example), view_fields_of(o), &h->err);

    if (r < 0)
        return r;
    if (o->arg_count > 1)
        return error_set(&h->err, ACCEL_EINVAL,
                         "too many arguments\nwhy: events shows those of one job or of all\n"
                         "try: accelctl events %s",
                         o->args[0]);
    if (option_given(o, OPT_NODE) && !is_valid_name(o->v[OPT_NODE].text))
        return error_set(&h->err, ACCEL_EINVAL,
                         "--node: that is no name of a node\ntry: accelctl nodes");
    if (o->arg_count == 1)
        r = parse_job_id(o->args[0], &h->job_id, &h->err);
    if (r == 0 && option_given(o, OPT_SINCE))
        r = parse_since(o->v[OPT_SINCE].text, h->now_ms, &h->since_ms, &h->err);
    return r;
}

int verb_events(struct cli *cli)
{
    static const struct session_hooks hooks = {.on_back = on_back, .on_gone = on_gone};
    struct history h = {.cli = cli,
                        .form = view_form_of(&cli->opt),
                        .now_ms = clock_wall_ms(),
                        .is_following = option_given(&cli->opt, OPT_WATCH)};
    int r = prepare(&h);

    if (r == 0)
        r = session_open(cli, &h.session, &h.err);
    if (r == 0) {
        if (h.form == VIEW_JSON || h.form == VIEW_YAML)
            h.items = h.is_following ? NULL : view_items_create(h.form, view_fields_of(&cli->opt));
        else if (h.form != VIEW_NAME) /* those are printed as they come */
            h.table = table_create(columns, ARRAY_LEN(columns), h.form == VIEW_WIDE);
        session_attach(h.session, &hooks, &h);
        if (h.is_following)
            session_end_with_reader(h.session);
        begin(&h);
        while (!h.is_over)
            uv_run(session_loop(h.session), UV_RUN_ONCE);
        r = h.err.code < 0 ? h.err.code : show(&h);
        session_attach(h.session, NULL, NULL);
    }
    session_close(h.session);
    table_destroy(h.table);
    view_items_destroy(h.items);
    return r < 0 ? cli_error(&h.err) : EXIT_CODE_OK;
}
