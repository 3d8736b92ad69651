/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cli.h - what every verb of accelctl shares: the parsed options, exit codes, the form of errors,
 * and output that notices when its reader is gone. One thread; blocking.
 */
#ifndef ACCEL_CLIENT_CLI_H
#define ACCEL_CLIENT_CLI_H

#include "client/accelctl/options.h"
#include "common/str.h"

/* Exit codes, the same for every verb; documented in accel-exit-codes(7). */
enum exit_code {
    EXIT_CODE_OK = 0,
    EXIT_CODE_FAILED = 1,
    EXIT_CODE_USAGE = 2,
    EXIT_CODE_DENIED = 4,
    EXIT_CODE_UNREACHABLE = 5,
    EXIT_CODE_TIMEOUT = 124,
    EXIT_CODE_NOT_RUN =
        125, /* accel could not run the job, or lost it; $ACCEL_EXIT_ERROR overrides */
    EXIT_CODE_NOT_EXECUTABLE = 126,
    EXIT_CODE_NOT_FOUND = 127,
    EXIT_CODE_SIGNAL = 128, /* + signal */
    EXIT_CODE_INTERRUPTED = 130,
    EXIT_CODE_PIPE = 141, /* 128 + SIGPIPE, what a shell shows for `yes | head` */
};

struct cli {
    struct options opt;
    bool use_color; /* on stdout */
    bool use_color_stderr;
    bool is_verbose;
};

extern char **cli_argv; /* main's, with the NULL at its end; for become.c */

typedef int verb_function(struct cli *cli); /* returns the exit code */
verb_function verb_launch, verb_submit, verb_ps, verb_describe, verb_logs, verb_wait, verb_cancel,
    verb_nodes, verb_events, verb_version, verb_help, verb_admin, verb_doctor, verb_node, verb_user,
    verb_completion;

/* Colour by the rules of the manual: option, NO_COLOR, CLICOLOR_FORCE, CLICOLOR, TERM, terminal. */
bool color_is_wanted(const char *choice, bool is_tty);

/* Prints "accelctl: error: WHAT" and then "why:" and "try:" lines on stderr; lines of text that
 * carry neither word get them in this order. */
void cli_error_text(const char *text);
/* The same for err, with something to try if it says nothing of that, and returns the exit code
 * that belongs to its code. */
int cli_error(const struct accel_error *err);
/* A line for people on stderr: "accelctl: TEXT". */
void cli_say(const char *fmt, ...) PRINTF_LIKE(1, 2);
/* "job 7 goes on; ...": what becomes of a job that is no longer attended. */
void cli_say_goes_on(uint64_t job_id);
/* From now on the same is said when stdout fails. */
void cli_leaves_job(uint64_t job_id);
int exit_code_of_error(int code);
/* EXIT_CODE_NOT_RUN or what $ACCEL_EXIT_ERROR (0..255) says instead. */
int exit_code_not_run(void);

/* Writes all to fd 1 or 2, however it was opened. A reader that is gone ends the program
 * silently with 141 (as SIGPIPE would); another failure ends it with a message and 1. */
void cli_write(int fd, const void *p, size_t len);
static inline void cli_write_str(int fd, const struct str *s)
{
    cli_write(fd, s->data, s->len);
}

/* Bytes for people: valid UTF-8 without control characters stays, all else becomes \xNN. */
void str_add_visible(struct str *s, const void *p, size_t len);
void str_add_number(struct str *s, uint64_t n);
/* "3s", "5m", "2h10m", "4d3h"; negative counts as 0. */
void str_add_age(struct str *s, int64_t ms);
/* "512M", "1.5G". */
void str_add_bytes(struct str *s, uint64_t bytes);

/* A job's id: a number, with or without "job/" before it. */
int parse_job_id(const char *text, uint64_t *ret_id, struct accel_error *err) MUST_CHECK;
/* opt.args from `first` as job ids; caller frees. ACCEL_EINVAL if there are fewer than min or
 * one is no id. */
int parse_job_ids(const struct options *o, size_t min, uint64_t **ret_ids,
                  struct accel_error *err) MUST_CHECK;

#endif
