/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `accelctl ps`: jobs as a table or as JSON. Which jobs is asked of the coordinator as far as it
 * can tell (ended, of all users, ids); state, user and age are sorted out here.
 */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "client/accelctl/ps.h"
#include "client/accelctl/session.h"
#include "client/accelctl/table.h"
#include "client/accelctl/view.h"
#include "common/clock.h"
#include "common/limits.h"

/* As view_state_name has them, and what Slurm and others call the same. */
static const struct {
    const char *name, *others;
} state_names[] = {
    {"PENDING", "PD,QUEUED,WAITING"},
    {"STARTING", "CF,CONFIGURING"},
    {"RUNNING", "R,ACTIVE"},
    {"STOPPING", "CG,COMPLETING"},
    {"HELD", "SUSPENDED"},
    {"ENDED", "FINISHED"},
    {"SUCCEEDED", "CD,COMPLETED,DONE"},
    {"FAILED", "F"},
    {"CANCELLED", "CA,CANCELED"},
    {"TIMED_OUT", "TO,TIMEOUT"},
    {"LOST", "NF,NODE_FAIL"},
};

static const struct table_column columns[] = {
    {.name = "ID", .is_right = true},
    {.name = "NAME", .may_cut = true},
    {.name = "USER", .is_wide = true},
    {.name = "STATE"},
    {.name = "PROCS", .is_right = true, .may_hide = true},
    {.name = "DEVICES", .may_hide = true},
    {.name = "WHERE", .may_cut = true, .may_hide = true},
    {.name = "AGE", .is_right = true},
    {.name = "RAN", .is_right = true, .may_hide = true},
    {.name = "ATTEMPT", .is_wide = true, .may_hide = true},
    {.name = "COMMAND", .may_cut = true, .is_wide = true},
    {.name = "REASON", .may_cut = true},
};
/* With -A the user matters in the plain table too. */
static struct table_column columns_all[ARRAY_LEN(columns)];

static bool list_has_word(const char *list, const char *word, size_t n)
{
    while (*list != '\0') {
        size_t len = strcspn(list, ",");

        if (len == n && strncasecmp(list, word, n) == 0)
            return true;
        list += len;
        list += *list == ',';
    }
    return false;
}

/* The bit of a state, 0 for none. */
static uint32_t state_bit(const char *name, size_t len)
{
    for (size_t i = 0; i < ARRAY_LEN(state_names); i++) {
        if (list_has_word(state_names[i].name, name, len) ||
            list_has_word(state_names[i].others, name, len))
            return 1u << i;
    }
    return 0;
}

static int no_such_state(const char *name, struct accel_error *err)
{
    AUTO_STR struct str names = {0}, shown = {0};
    const char *near = "accelctl ps -a, which shows all";
    unsigned best = 3;
    char upper[64];

    str_copy(upper, sizeof upper, name);
    for (char *c = upper; *c != '\0'; c++)
        *c = *c >= 'a' && *c <= 'z' ? (char)(*c - 'a' + 'A') : *c;
    str_init(&names);
    str_init(&shown);
    for (size_t i = 0; i < ARRAY_LEN(state_names); i++) {
        unsigned d = edit_distance(upper, state_names[i].name, best - 1);

        if (d < best) {
            best = d;
            near = state_names[i].name;
        }
        str_addf(&names, "%s%s", i > 0 ? ", " : "", state_names[i].name);
    }
    str_add_shell_quoted(&shown, name, strlen(name));
    return error_set(err, ACCEL_EINVAL,
                     "--state %s: no such state\nwhy: the states are %s\ntry: %s%s", shown.data,
                     names.data, best < 3 ? "--state " : "", near);
}

static int parse_states(const char *list, uint32_t *ret_states, struct accel_error *err)
{
    uint32_t states = 0;

    for (const char *p = list; *p != '\0'; p += strspn(p, ",")) {
        size_t len = strcspn(p, ",");
        uint32_t bit = state_bit(p, len);
        char name[64];

        if (bit == 0) {
            snprintf(name, sizeof name, "%.*s", (int)MIN(len, sizeof name - 1), p);
            return no_such_state(name, err);
        }
        states |= bit;
        p += len;
    }
    *ret_states = states;
    return 0;
}

static bool has_state(const struct listing *l, const char *name)
{
    return (l->states & state_bit(name, strlen(name))) != 0;
}

bool ps_wants(const struct listing *l, const Accel__V1__Job *job)
{
    const struct options *o = &l->cli->opt;

    if (option_given(o, OPT_USER) && strcmp(job->user, o->v[OPT_USER].text) != 0)
        return false;
    if (l->states != 0 && !has_state(l, view_state_name(job)) &&
        !has_state(l, view_job_state(job->state)))
        return false;
    /* Not older: it still lives, or it ended after. */
    return l->since_ms == 0 || job->state != ACCEL__V1__JOB_STATE__JOB_ENDED ||
           job->end_ms >= l->since_ms;
}

static void add_time_cell(struct table *t, const struct listing *l, int64_t at_ms, int64_t span_ms)
{
    char buf[40];

    if (at_ms <= 0)
        table_cell(t, "", TABLE_PLAIN);
    else if (option_given(&l->cli->opt, OPT_UTC))
        table_cell(t, clock_format_utc(at_ms, buf, sizeof buf), TABLE_PLAIN);
    else
        table_cell_age(t, span_ms);
}

void ps_add_row(struct listing *l, const Accel__V1__Job *job)
{
    struct table *t = l->table;
    const char *state = view_state_name(job);

    table_cell_number(t, job->id);
    table_cell(t, job->name, TABLE_PLAIN);
    table_cell(t, job->user, TABLE_PLAIN);
    table_cell(t, state, state_color(state));
    if (job->nodes > 1 && job->procs > 0)
        table_cellf(t, "%ux%u", job->nodes, job->procs / job->nodes);
    else if (job->procs > 0)
        table_cell_number(t, job->procs);
    else
        table_cell(t, "", TABLE_PLAIN);
    if (job->device_kind == ACCEL__V1__DEVICE_KIND__DEVICE_GPU)
        table_cellf(t, "%ux%u gpu", job->nodes, job->gpus_per_node);
    else if (job->device_kind == ACCEL__V1__DEVICE_KIND__DEVICE_TPU && job->gpus_per_node > 0)
        table_cellf(t, "%ux%u tpu", job->nodes, job->gpus_per_node);
    else
        table_cell(t,
                   job->device_kind == ACCEL__V1__DEVICE_KIND__DEVICE_CPU   ? "cpu"
                   : job->device_kind == ACCEL__V1__DEVICE_KIND__DEVICE_TPU ? "tpu"
                                                                            : "auto",
                   TABLE_PLAIN);
    if (job->n_where > 1)
        table_cellf(t, "%s+%zu", job->where[0], job->n_where - 1);
    else
        table_cell(t, job->n_where > 0 ? job->where[0] : "-", TABLE_PLAIN);
    add_time_cell(t, l, job->submit_ms, l->now_ms - job->submit_ms);
    add_time_cell(t, l, job->start_ms, (job->end_ms > 0 ? job->end_ms : l->now_ms) - job->start_ms);
    table_cellf(t, "%u/%u", job->attempt, job->max_restarts + 1);
    table_cell_bytes(t, job->command.data, job->command.len);
    table_cell(t, job->reason, TABLE_PLAIN);
}

/* One of those asked for was passed over. */
static void note_missing(struct listing *l, uint64_t id)
{
    while (l->id_at < l->id_count && l->ids[l->id_at] != id) {
        if (l->missing == 0)
            l->missing = l->ids[l->id_at];
        l->id_at++;
    }
    l->id_at++;
}

static void on_jobs(void *ctx, const ProtobufCMessage *msg)
{
    struct listing *l = ctx;
    const Accel__V1__ListReply *reply = (const Accel__V1__ListReply *)msg;

    for (size_t i = 0; i < reply->n_jobs; i++) {
        const Accel__V1__Job *job = reply->jobs[i];

        l->last_id = job->id;
        note_missing(l, job->id);
        if (!ps_wants(l, job))
            continue;
        l->shown++;
        if (l->items)
            view_items_add_job(l->items, job);
        else if (l->table)
            ps_add_row(l, job);
        else
            str_addf(&l->names, "%llu\n", (unsigned long long)job->id);
    }
    l->has_more = reply->more && reply->n_jobs > 0;
}

/* A part of the list at a time: both ends decode and format one in memory that the next one uses
 * again, and a coordinator with a long queue is not held up for long. */
#define PAGE_JOBS 1000u

void ps_request(const struct listing *l, Accel__V1__ListRequest *ret_req)
{
    const struct options *o = &l->cli->opt;

    accel__v1__list_request__init(ret_req);
    ret_req->all_users = option_given(o, OPT_ALL_USERS) || option_given(o, OPT_USER);
    /* Who names a job, an end or a time wants ended ones too. */
    ret_req->all_states = option_given(o, OPT_ALL_STATES) || option_given(o, OPT_STATE) ||
                          option_given(o, OPT_SINCE) || o->arg_count > 0;
    ret_req->ids = (uint64_t *)l->ids;
    ret_req->n_ids = l->id_count;
    ret_req->limit = PAGE_JOBS;
    ret_req->with_spec = l->form == VIEW_JSON || l->form == VIEW_YAML;
}

static int fetch(struct listing *l, struct session *session, struct accel_error *err)
{
    Accel__V1__ListRequest req;
    int r;

    ps_request(l, &req);
    do {
        l->has_more = false;
        req.after_id = l->last_id;
        r = session_call(session, "/accel.v1.Jobs/List", &req.base,
                         &accel__v1__list_reply__descriptor, on_jobs, l, err);
    } while (r == 0 && l->has_more);
    if (r == 0)
        note_missing(l, 0);
    return r;
}

/* What is there was shown. */
static int check_missing(const struct listing *l, struct accel_error *err)
{
    bool is_all = option_given(&l->cli->opt, OPT_ALL_USERS) || option_given(&l->cli->opt, OPT_USER);

    if (l->missing == 0)
        return 0;
    return error_set(err, ACCEL_ENOENT, "no job %llu%s\nwhy: %s\ntry: accelctl ps %s",
                     (unsigned long long)l->missing, is_all ? "" : " of yours",
                     is_all ? "none of that id was submitted, or it has left the history"
                            : "nobody has one of that id, or another user does",
                     is_all ? "-aA" : "-a, or -aA for those of all users");
}

static int show(struct listing *l, struct accel_error *err)
{
    const struct options *o = &l->cli->opt;

    if (l->table) {
        if (l->shown == 0 && l->missing > 0)
            return 0;
        if (l->shown == 0)
            cli_say("no jobs%s",
                    option_given(o, OPT_ALL_STATES) ? "" : "; accelctl ps -a lists ended ones too");
        else
            table_print(l->table, l->cli->use_color);
    } else if (l->items) {
        return view_items_print(l->items, err);
    } else {
        cli_write_str(STDOUT_FILENO, &l->names);
    }
    return 0;
}

struct table *ps_table(const struct listing *l)
{
    return table_create(columns_all, ARRAY_LEN(columns), l->form == VIEW_WIDE);
}

static int list_once(struct listing *l, struct session *session, struct accel_error *err)
{
    int r;

    if (l->form == VIEW_JSON || l->form == VIEW_YAML)
        l->items = view_items_create(l->form, view_fields_of(&l->cli->opt));
    else if (l->form != VIEW_NAME)
        l->table = ps_table(l);
    r = fetch(l, session, err);
    if (r == 0)
        r = show(l, err);
    if (r == 0)
        r = check_missing(l, err);
    table_destroy(l->table);
    view_items_destroy(l->items);
    return r;
}

static int prepare(struct listing *l, uint64_t **ret_ids, struct accel_error *err)
{
    const Accel__V1__Job example = ACCEL__V1__JOB__INIT;
    const struct options *o = &l->cli->opt;
    int r = view_check_fields(view_job(&example, false), view_fields_of(o), err);

    memcpy(columns_all, columns, sizeof columns);
    if (option_given(o, OPT_ALL_USERS))
        columns_all[2].is_wide = false;
    if (r == 0 && option_given(o, OPT_SINCE))
        r = parse_since(o->v[OPT_SINCE].text, l->now_ms, &l->since_ms, err);
    if (r == 0 && option_given(o, OPT_STATE))
        r = parse_states(o->v[OPT_STATE].text, &l->states, err);
    if (r == 0)
        r = parse_job_ids(o, 0, ret_ids, err);
    l->ids = *ret_ids;
    l->id_count = o->arg_count;
    return r;
}

int verb_ps(struct cli *cli)
{
    AUTO_SESSION struct session *session = NULL;
    AUTO_FREE uint64_t *ids = NULL;
    struct listing l = {.cli = cli, .form = view_form_of(&cli->opt), .now_ms = clock_wall_ms()};
    struct accel_error err = {0};
    int r = prepare(&l, &ids, &err);

    str_init(&l.names);
    if (r == 0)
        r = session_open(cli, &session, &err);
    if (r == 0)
        r = option_given(&cli->opt, OPT_WATCH) ? ps_watch(&l, session, &err)
                                               : list_once(&l, session, &err);
    str_done(&l.names);
    return r < 0 ? cli_error(&err) : EXIT_CODE_OK;
}
