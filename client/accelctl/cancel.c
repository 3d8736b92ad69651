/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `accelctl cancel`: ends jobs. Asks before it ends more than one, if there is somebody at a
 * terminal to ask; says what became of each that could not be ended.
 */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "accel/v1/job.pb-c.h"
#include "client/accelctl/session.h"
#include "client/accelctl/submit.h"

struct outcome {
    size_t ended, failed, denied; /* denied: of the failed */
};

static void on_count(void *ctx, const ProtobufCMessage *msg)
{
    *(size_t *)ctx = ((const Accel__V1__ListReply *)msg)->n_jobs;
}

static void on_cancelled(void *ctx, const ProtobufCMessage *msg)
{
    struct outcome *out = ctx;
    const Accel__V1__CancelReply *reply = (const Accel__V1__CancelReply *)msg;

    for (size_t i = 0; i < reply->n_jobs; i++) {
        const Accel__V1__CancelReply__One *one = reply->jobs[i];
        char text[LIMIT_REASON_BYTES + 128], prefix[32];

        if (one->error[0] == '\0') {
            out->ended++;
            continue;
        }
        out->failed++;
        snprintf(prefix, sizeof prefix, "job %llu", (unsigned long long)one->job_id);
        bool is_named = strstr(one->error, prefix) != NULL; /* "job 7 has ended" */
        bool is_denied = strstr(one->error, "belongs to") != NULL;
        out->denied += is_denied;
        bool has_ended = strstr(one->error, "has ended") != NULL;
        snprintf(text, sizeof text, "%s%s%s%s%s", is_named ? "" : prefix, is_named ? "" : ": ",
                 one->error,
                 has_ended   ? "\nwhy: nothing of it is left to end\ntry: accelctl describe "
                 : is_denied ? "\nwhy: only its owner and operators end it\ntry: ask one of them"
                             : "\ntry: accelctl ps -aA",
                 has_ended ? prefix + 4 : "");
        cli_error_text(text);
    }
}

/* Nobody at a terminal: nobody is asked, and nothing is held up. */
static bool is_confirmed(const struct cli *cli, size_t count)
{
    char answer[32] = "";
    ssize_t n;

    if (count <= 1 || option_given(&cli->opt, OPT_YES) || !isatty(STDIN_FILENO) ||
        !isatty(STDERR_FILENO))
        return true;
    snprintf(answer, sizeof answer, "%zu", count);
    cli_write(STDERR_FILENO, "End ", 4);
    cli_write(STDERR_FILENO, answer, strlen(answer));
    cli_write(STDERR_FILENO, " jobs? [y/N] ", 13);
    n = read(STDIN_FILENO, answer, sizeof answer - 1);
    return n > 0 && (answer[0] == 'y' || answer[0] == 'Y');
}

static int count_mine(struct session *session, size_t *ret_count, struct accel_error *err)
{
    Accel__V1__ListRequest req = ACCEL__V1__LIST_REQUEST__INIT;

    return session_call(session, "/accel.v1.Jobs/List", &req.base,
                        &accel__v1__list_reply__descriptor, on_count, ret_count, err);
}

static int cancel_with(struct cli *cli, struct session *session, uint64_t *ids)
{
    Accel__V1__CancelRequest req = ACCEL__V1__CANCEL_REQUEST__INIT;
    uint8_t request_id[LIMIT_REQUEST_ID_BYTES];
    size_t count = cli->opt.arg_count;
    struct outcome out = {0};
    struct accel_error err = {0};
    int r = option_given(&cli->opt, OPT_ALL_MINE) ? count_mine(session, &count, &err) : 0;

    if (r < 0)
        return cli_error(&err);
    if (!is_confirmed(cli, count)) {
        cli_say("nothing was ended");
        return EXIT_CODE_FAILED;
    }
    request_id_make(request_id);
    req.request_id.data = request_id;
    req.request_id.len = sizeof request_id;
    req.job_ids = ids;
    req.n_job_ids = cli->opt.arg_count;
    req.all_mine = option_given(&cli->opt, OPT_ALL_MINE);
    req.only_pending = option_given(&cli->opt, OPT_PENDING);
    req.kill = option_given(&cli->opt, OPT_KILL);
    r = session_call(session, "/accel.v1.Jobs/Cancel", &req.base,
                     &accel__v1__cancel_reply__descriptor, on_cancelled, &out, &err);
    if (r < 0)
        return cli_error(&err);
    if (cli->is_verbose || (req.all_mine && isatty(STDERR_FILENO)))
        cli_say("%zu job%s stopping", out.ended, out.ended == 1 ? "" : "s");
    if (out.failed == 0)
        return EXIT_CODE_OK;
    return out.denied == out.failed ? EXIT_CODE_DENIED : EXIT_CODE_FAILED;
}

int verb_cancel(struct cli *cli)
{
    AUTO_SESSION struct session *session = NULL;
    AUTO_FREE uint64_t *ids = NULL;
    struct accel_error err = {0};
    bool all = option_given(&cli->opt, OPT_ALL_MINE);
    int r = parse_job_ids(&cli->opt, all ? 0 : 1, &ids, &err);

    if (r == 0 && all && cli->opt.arg_count > 0)
        r = error_set(&err, ACCEL_EINVAL,
                      "--all and an id do not go together\nwhy: all are meant, or that one\n"
                      "try: accelctl cancel %s",
                      cli->opt.args[0]);
    if (r == 0)
        r = session_open(cli, &session, &err);
    return r < 0 ? cli_error(&err) : cancel_with(cli, session, ids);
}
