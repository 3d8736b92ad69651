/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `accelctl describe`: all about a job, for people as a page, for programs as JSON. The page and
 * the JSON show the same message; nothing is computed that a program could not read too.
 */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "client/accelctl/result.h"
#include "client/accelctl/session.h"
#include "client/accelctl/view.h"
#include "common/clock.h"

struct page {
    const struct cli *cli;
    enum view_form form;
    int64_t now_ms;
    json_t *items;
    struct str text;
};

static void add_when(struct page *p, const char *label, int64_t at_ms)
{
    char buf[40];

    if (at_ms <= 0)
        return;
    str_addf(&p->text, "%-13s ", label);
    if (option_given(&p->cli->opt, OPT_UTC)) {
        str_addf(&p->text, "%s\n", clock_format_utc(at_ms, buf, sizeof buf));
    } else {
        str_add_age(&p->text, p->now_ms - at_ms);
        str_addf(&p->text, " ago (%s)\n", clock_format_utc(at_ms, buf, sizeof buf));
    }
}

static void add_line(struct page *p, const char *label, const void *value, size_t len)
{
    if (len == 0)
        return;
    str_addf(&p->text, "%-13s ", label);
    str_add_visible(&p->text, value, len);
    str_addc(&p->text, '\n');
}

static void add_rank(struct page *p, const Accel__V1__Rank *rank)
{
    str_addf(&p->text, "    rank %-4u %s", rank->rank, rank->node);
    if (rank->pid > 0)
        str_addf(&p->text, " pid %u", rank->pid);
    str_adds(&p->text, "  ");
    if (!rank->exited && rank->error[0] == '\0')
        str_adds(&p->text, rank->state);
    else
        result_add_rank_end(&p->text, rank);
    for (size_t i = 0; i < rank->n_devices; i++)
        str_addf(&p->text, "%s%s", i == 0 ? "  on " : ",", rank->devices[i]);
    str_addc(&p->text, '\n');
    if (rank->stdout_path.len > 0) {
        str_adds(&p->text, "              ");
        str_add_visible(&p->text, rank->stdout_path.data, rank->stdout_path.len);
        str_addc(&p->text, '\n');
    }
}

static void add_attempt(struct page *p, const Accel__V1__Attempt *a)
{
    AUTO_STR struct str span = {0};

    str_init(&span);
    if (a->start_ms > 0)
        str_add_age(&span, (a->end_ms > 0 ? a->end_ms : p->now_ms) - a->start_ms);
    str_addf(&p->text, "  attempt %u: ", a->number);
    if (a->cause == ACCEL__V1__CAUSE__CAUSE_NONE)
        str_addf(&p->text, "going on for %s", span.data);
    else
        str_addf(&p->text, "%s after %s: ", view_cause(a->cause), span.data);
    if (a->cause != ACCEL__V1__CAUSE__CAUSE_NONE)
        result_add_attempt_end(&p->text, a);
    if (a->master_port > 0)
        str_addf(&p->text, "  (rendezvous %s:%u)", a->master_addr, a->master_port);
    str_addc(&p->text, '\n');
    for (size_t i = 0; i < a->n_isolation; i++)
        str_addf(&p->text, "%s%s", i == 0 ? "    limits: " : ", ", a->isolation[i]);
    if (a->n_isolation > 0)
        str_addc(&p->text, '\n');
    for (size_t i = 0; i < a->n_ranks; i++)
        add_rank(p, a->ranks[i]);
}

static void add_job(struct page *p, const Accel__V1__Job *job)
{
    const char *state = view_state_name(job);
    bool is_ended = job->state == ACCEL__V1__JOB_STATE__JOB_ENDED;

    str_addf(&p->text, "%sJob %llu (%s) of %s is %s\n", p->text.len > 0 ? "\n" : "",
             (unsigned long long)job->id, job->name, job->user, state);
    add_line(p, "  reason", job->reason, strlen(job->reason));
    add_line(p, "  command", job->command.data, job->command.len);
    add_line(p, "  directory", job->cwd.data, job->cwd.len);
    str_addf(&p->text, "%-13s %u node%s, %u process%s, %s", "  size", job->nodes,
             job->nodes == 1 ? "" : "s", job->procs, job->procs == 1 ? "" : "es",
             job->device_kind == ACCEL__V1__DEVICE_KIND__DEVICE_GPU   ? "gpu"
             : job->device_kind == ACCEL__V1__DEVICE_KIND__DEVICE_TPU ? "tpu"
             : job->device_kind == ACCEL__V1__DEVICE_KIND__DEVICE_CPU ? "cpu"
                                                                      : "any device");
    if (job->gpus_per_node > 0)
        str_addf(&p->text, ", %u %s a node", job->gpus_per_node,
                 job->device_kind == ACCEL__V1__DEVICE_KIND__DEVICE_TPU ? "chips" : "GPUs");
    str_addf(&p->text, "\n%-13s %u of %u\n", "  restarts", job->restarts, job->max_restarts);
    if (job->time_limit_ms > 0) {
        str_addf(&p->text, "%-13s ", "  time limit");
        str_add_age(&p->text, (int64_t)job->time_limit_ms);
        str_addc(&p->text, '\n');
    }
    add_when(p, "  submitted", job->submit_ms);
    add_when(p, "  started", job->start_ms);
    add_when(p, "  ended", job->end_ms);
    if (is_ended)
        str_addf(&p->text, "%-13s %d\n", "  exit code", job->exit_code);
    add_line(p, "  output", job->output_pattern.data, job->output_pattern.len);
    for (size_t i = 0; i < job->n_attempts; i++)
        add_attempt(p, job->attempts[i]);
}

static void on_job(void *ctx, const ProtobufCMessage *msg)
{
    struct page *p = ctx;
    const Accel__V1__GetReply *reply = (const Accel__V1__GetReply *)msg;

    if (!reply->job)
        return;
    if (p->items)
        json_array_append_new(p->items, view_job(reply->job, true));
    else if (p->form == VIEW_NAME)
        str_addf(&p->text, "%llu\n", (unsigned long long)reply->job->id);
    else
        add_job(p, reply->job);
}

static int show(struct page *p, struct accel_error *err)
{
    const struct options *o = &p->cli->opt;

    if (!p->items) {
        cli_write_str(STDOUT_FILENO, &p->text);
        return 0;
    }
    if (option_given(o, OPT_JSON)) {
        int r = view_select(p->items, o->v[OPT_JSON].text, err);

        if (r < 0)
            return r;
    }
    if (o->arg_count == 1)
        view_print(view_single(json_incref(json_array_get(p->items, 0))), p->form);
    else
        view_print(view_list(json_incref(p->items)), p->form);
    return 0;
}

int verb_describe(struct cli *cli)
{
    AUTO_SESSION struct session *session = NULL;
    AUTO_FREE uint64_t *ids = NULL;
    struct page p = {.cli = cli, .form = view_form_of(&cli->opt), .now_ms = clock_wall_ms()};
    struct accel_error err = {0};
    int r = parse_job_ids(&cli->opt, 1, &ids, &err);

    str_init(&p.text);
    if (p.form == VIEW_JSON || p.form == VIEW_YAML)
        p.items = json_array();
    if (r == 0)
        r = session_open(cli, &session, &err);
    for (size_t i = 0; r == 0 && i < cli->opt.arg_count; i++) {
        Accel__V1__GetRequest req = ACCEL__V1__GET_REQUEST__INIT;

        req.job_id = ids[i];
        r = session_call(session, "/accel.v1.Jobs/Get", &req.base,
                         &accel__v1__get_reply__descriptor, on_job, &p, &err);
    }
    if (r == 0)
        r = show(&p, &err);
    json_decref(p.items);
    str_done(&p.text);
    return r < 0 ? cli_error(&err) : EXIT_CODE_OK;
}
