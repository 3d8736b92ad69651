/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How a job ended, for shells (the exit code) and for people (the report). The coordinator has
 * decided which rank failed first; here it is only put into words.
 */
#include "client/accelctl/result.h"

#include <stdio.h>
#include <string.h>

#define REPORT_RANKS_MAX 16 /* rows of the table; the rest is counted */
#define REPORT_LINES_MAX 20 /* of the failing rank's stderr */

const Accel__V1__Attempt *result_find_attempt(const Accel__V1__Job *job, uint32_t number)
{
    for (size_t i = 0; i < job->n_attempts; i++) {
        if (job->attempts[i]->number == number)
            return job->attempts[i];
    }
    return NULL;
}

int result_exit_code(const Accel__V1__Job *job)
{
    const Accel__V1__Attempt *last = result_find_attempt(job, job->attempt);
    int code = job->exit_code;

    switch (job->result) {
    case ACCEL__V1__JOB_RESULT__RESULT_SUCCEEDED: return EXIT_CODE_OK;
    case ACCEL__V1__JOB_RESULT__RESULT_CANCELLED: return EXIT_CODE_INTERRUPTED;
    case ACCEL__V1__JOB_RESULT__RESULT_TIMED_OUT: return EXIT_CODE_TIMEOUT;
    case ACCEL__V1__JOB_RESULT__RESULT_FAILED: break;
    default: return exit_code_not_run();
    }
    if (last && last->cause == ACCEL__V1__CAUSE__CAUSE_WORKER_FAILED)
        return code > 0 && code <= 255 ? code : EXIT_CODE_FAILED;
    if (code == EXIT_CODE_NOT_EXECUTABLE || code == EXIT_CODE_NOT_FOUND)
        return code;
    if (code <= 0 || code > 255 || code == EXIT_CODE_NOT_RUN ||
        (last && last->cause != ACCEL__V1__CAUSE__CAUSE_NONE))
        return exit_code_not_run();
    return code;
}

static void add_signal(struct str *out, int signo)
{
    const char *text = sigdescr_np(signo);

    str_addf(out, "signal %d%s%s%s", signo, text ? " (" : "", text ? text : "", text ? ")" : "");
}

void result_add_rank_end(struct str *out, const Accel__V1__Rank *rank)
{
    if (rank->error && rank->error[0] != '\0') {
        str_adds(out, "not started: ");
        str_add_visible(out, rank->error, strlen(rank->error));
    } else if (!rank->exited && rank->state && strcmp(rank->state, "EXITED") == 0) {
        str_adds(out, rank->pid == 0 ? "not started" : "not known"); /* nobody saw its exit */
    } else if (!rank->exited) {
        str_adds(out, rank->state && rank->state[0] != '\0' ? rank->state : "not known");
    } else if (rank->signal != 0) {
        add_signal(out, rank->signal);
    } else {
        str_addf(out, "exit code %d", rank->exit_code);
    }
}

static const Accel__V1__Rank *find_rank(const Accel__V1__Attempt *a, int32_t number)
{
    for (size_t i = 0; i < a->n_ranks && number >= 0; i++) {
        if (a->ranks[i]->rank == (uint32_t)number)
            return a->ranks[i];
    }
    return NULL;
}

void result_add_attempt_end(struct str *out, const Accel__V1__Attempt *a)
{
    const Accel__V1__Rank *rank = find_rank(a, a->first_failed_rank);
    /* What the node knows besides the exit of the rank: the limit that it met. */
    bool says_more = a->text && strstr(a->text, "was killed for memory");

    if (says_more || !rank || a->cause != ACCEL__V1__CAUSE__CAUSE_WORKER_FAILED || !rank->exited) {
        const char *text = a->text && a->text[0] != '\0' ? a->text : "it is not known why";

        str_add_visible(out, text, strlen(text));
        return;
    }
    str_addf(out, "rank %u (pid %u) ", rank->rank, rank->pid);
    if (rank->signal != 0) {
        str_adds(out, "was killed by ");
        add_signal(out, rank->signal);
    } else {
        str_addf(out, "exited with code %d", rank->exit_code);
    }
}

static void add_rank_row(struct str *out, const Accel__V1__Attempt *a, const Accel__V1__Rank *rank,
                         bool is_first)
{
    AUTO_STR struct str end = {0}, ran = {0}, pid = {0};

    str_init(&pid);
    str_init(&end);
    str_init(&ran);
    result_add_rank_end(&end, rank);
    if (rank->start_ms > 0 && rank->end_ms >= rank->start_ms)
        str_addf(&ran, "%.1fs", (double)(rank->end_ms - rank->start_ms) / 1000);
    if (rank->pid > 0)
        str_addf(&pid, "%u", rank->pid);
    str_addf(out, "  %5u%s %-16s %8s  %8s  %s%s\n", rank->rank, is_first ? "*" : " ", rank->node,
             pid.len > 0 ? pid.data : "-", ran.len > 0 ? ran.data : "-", end.data,
             is_first ? "  <- failed first" : "");
}

/* The failing rank comes first; the order of the others is that of their ranks. */
static void add_rank_table(struct str *out, const Accel__V1__Attempt *a)
{
    const Accel__V1__Rank *first = find_rank(a, a->first_failed_rank);
    size_t shown = 0;

    if (a->n_ranks == 0)
        return;
    str_addf(out, "  %5s  %-16s %8s  %8s  %s\n", "RANK", "NODE", "PID", "RAN", "END");
    if (first) {
        add_rank_row(out, a, first, true);
        shown++;
    }
    for (size_t i = 0; i < a->n_ranks && shown < REPORT_RANKS_MAX; i++) {
        if (a->ranks[i] == first)
            continue;
        add_rank_row(out, a, a->ranks[i], false);
        shown++;
    }
    if (shown < a->n_ranks)
        str_addf(out, "  and %zu more: accelctl describe shows them all\n", a->n_ranks - shown);
}

static void add_stderr_tail(struct str *out, const Accel__V1__Rank *rank)
{
    const char *p = (const char *)rank->stderr_tail.data;
    size_t len = rank->stderr_tail.len, from = len;
    int lines = 0;

    while (len > 0 && p[len - 1] == '\n')
        len--;
    if (len == 0)
        return;
    for (from = len; from > 0; from--) {
        if (p[from - 1] == '\n' && ++lines == REPORT_LINES_MAX)
            break;
    }
    str_addf(out, "last lines of stderr of rank %u:\n", rank->rank);
    while (from < len) {
        const char *end = memchr(p + from, '\n', len - from);
        size_t n = end ? (size_t)(end - p) - from : len - from;

        str_adds(out, "    ");
        str_add_visible(out, p + from, n);
        str_addc(out, '\n');
        from += n + 1;
    }
}

/* A module that is missing is most often the wrong python. */
static void add_python_hint(struct str *out, const Accel__V1__Rank *rank, const char *python)
{
    static const char *const signs[] = {"No module named 'torch", "cannot import name",
                                        "No module named", "ImportError"};

    if (!python || rank->stderr_tail.len == 0)
        return;
    for (size_t i = 0; i < ARRAY_LEN(signs); i++) {
        if (memmem(rank->stderr_tail.data, rank->stderr_tail.len, signs[i], strlen(signs[i]))) {
            str_adds(out, "it ran under ");
            str_add_visible(out, python, strlen(python));
            str_adds(out, ", the python3 of your PATH unless you named one; another: --python "
                          "/path/of/python3\n");
            return;
        }
    }
}

static const char *result_words(const Accel__V1__Job *job)
{
    switch (job->result) {
    case ACCEL__V1__JOB_RESULT__RESULT_SUCCEEDED: return "succeeded";
    case ACCEL__V1__JOB_RESULT__RESULT_FAILED: return "failed";
    case ACCEL__V1__JOB_RESULT__RESULT_CANCELLED: return "was cancelled";
    case ACCEL__V1__JOB_RESULT__RESULT_TIMED_OUT: return "ran out of its time";
    case ACCEL__V1__JOB_RESULT__RESULT_LOST: return "was lost";
    default: return "has not ended";
    }
}

static void add_log_paths(struct str *out, const Accel__V1__Job *job, const Accel__V1__Rank *rank)
{
    str_addf(out, "logs: accelctl logs %llu", (unsigned long long)job->id);
    if (rank && rank->stderr_path.len > 0) {
        str_adds(out, "   (");
        str_add_visible(out, rank->stderr_path.data, rank->stderr_path.len);
        str_addc(out, ')');
    }
    str_addc(out, '\n');
}

void result_add_loss(struct str *out, const Accel__V1__Job *job)
{
    const char *words = job->reason ? strstr(job->reason, STR_OUTPUT_LOST) : NULL;
    const char *start = words;

    while (start && start > job->reason && start[-1] >= '0' && start[-1] <= '9')
        start--;
    if (start == words)
        return;
    str_adds(out, "accelctl: ");
    str_add_visible(out, start, strlen(start));
    str_addf(out, "; accelctl logs %llu has what was kept\n", (unsigned long long)job->id);
}

void result_add_report(struct str *out, const Accel__V1__Job *job, const char *python,
                       bool use_color)
{
    const Accel__V1__Attempt *a = result_find_attempt(job, job->attempt);
    const Accel__V1__Rank *first = a ? find_rank(a, a->first_failed_rank) : NULL;

    str_addf(out, "accelctl: %sjob %llu (%s) %s%s: ", use_color ? "\033[1;31m" : "",
             (unsigned long long)job->id, job->name, result_words(job), use_color ? "\033[0m" : "");
    if (a && a->cause == ACCEL__V1__CAUSE__CAUSE_WORKER_FAILED)
        result_add_attempt_end(out, a);
    else if (job->reason && job->reason[0] != '\0')
        str_add_visible(out, job->reason, strlen(job->reason));
    else if (a)
        result_add_attempt_end(out, a);
    if (job->attempt > 1)
        str_addf(out, " (attempt %u)", job->attempt);
    str_addc(out, '\n');
    if (job->result == ACCEL__V1__JOB_RESULT__RESULT_CANCELLED || !a)
        return;
    add_rank_table(out, a);
    if (first) {
        add_stderr_tail(out, first);
        add_python_hint(out, first, python);
    }
    add_log_paths(out, job, first);
}
