/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What every verb of accelctl shares: how errors read, which exit code belongs to them, colours,
 * and writing to a reader that may be slow or gone. Knows no verb and no connection.
 */
#include "client/accelctl/cli.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

char **cli_argv;

bool color_is_wanted(const char *choice, bool is_tty)
{
    const char *no = getenv("NO_COLOR");
    const char *force = getenv("CLICOLOR_FORCE");
    const char *wish = getenv("CLICOLOR");
    const char *term = getenv("TERM");

    if (choice && strcmp(choice, "auto") != 0)
        return strcmp(choice, "always") == 0;
    if (no && no[0] != '\0')
        return false;
    if (force && force[0] != '\0' && strcmp(force, "0") != 0)
        return true;
    if (wish && strcmp(wish, "0") == 0)
        return false;
    if (!term || strcmp(term, "dumb") == 0)
        return false;
    return is_tty;
}

void cli_error_text(const char *text)
{
    AUTO_STR struct str out = {0};
    static const char *const words[] = {"accelctl: error: ", "why: ", "try: "};
    size_t line = 0;

    str_init(&out);
    while (*text != '\0') {
        size_t len = strcspn(text, "\n");

        if (line == 0 || (strncmp(text, "why: ", 5) != 0 && strncmp(text, "try: ", 5) != 0))
            str_adds(&out, line < ARRAY_LEN(words) ? words[line] : "     ");
        str_add_visible(&out, text, len);
        str_addc(&out, '\n');
        text += len;
        text += *text == '\n';
        line++;
    }
    if (line == 0)
        str_adds(&out, "accelctl: error: unknown\n");
    cli_write_str(STDERR_FILENO, &out);
}

int exit_code_of_error(int code)
{
    switch (code) {
    case ACCEL_EINVAL: return EXIT_CODE_USAGE;
    case ACCEL_EPERM:
    case ACCEL_EUNAUTH: return EXIT_CODE_DENIED;
    case ACCEL_ECLOSED:
    case ACCEL_EUNAVAIL: return EXIT_CODE_UNREACHABLE;
    case ACCEL_ETIME: return EXIT_CODE_TIMEOUT;
    case ACCEL_ECANCELLED: return EXIT_CODE_INTERRUPTED;
    default: return EXIT_CODE_FAILED;
    }
}

/* Where whoever found the error could not say what helps. */
static const char *advice_of(int code)
{
    switch (code) {
    case ACCEL_EINVAL: return "accelctl help";
    case ACCEL_EPERM:
    case ACCEL_EUNAUTH: return "ask its owner, an operator or an admin";
    case ACCEL_ENOENT: return "accelctl ps -aA, accelctl nodes";
    case ACCEL_EFULL: return "less at a time";
    case ACCEL_ENOSPC: return "make room on that disk";
    case ACCEL_EBUSY:
    case ACCEL_ESTATE: return "again in a moment";
    case ACCEL_ECANCELLED: return "again";
    default: return "accelctl doctor";
    }
}

/* "WHAT: why the system refused" of error_sys in two lines, and advice where there is none. */
static void add_error(struct str *out, const struct accel_error *err)
{
    const char *text = err->text[0] != '\0' ? err->text : accel_error_sentence(err->code);
    const char *sentence = err->sys != 0 ? strerrordesc_np(err->sys) : NULL;
    size_t len = strlen(text), n = sentence ? strlen(sentence) : 0;
    bool is_split = n > 0 && len > n + 2 && !strchr(text, '\n') &&
                    strcmp(text + len - n, sentence) == 0 &&
                    memcmp(text + len - n - 2, ": ", 2) == 0;

    if (is_split)
        str_addf(out, "%.*s\nwhy: %s", (int)(len - n - 2), text, sentence);
    else
        str_adds(out, text);
    if (!strstr(text, "\ntry: "))
        str_addf(out, "\ntry: %s", advice_of(err->code));
}

int cli_error(const struct accel_error *err)
{
    AUTO_STR struct str text = {0};

    str_init(&text);
    add_error(&text, err);
    cli_error_text(text.data);
    return exit_code_of_error(err->code);
}

int exit_code_not_run(void)
{
    const char *text = getenv("ACCEL_EXIT_ERROR");
    uint64_t code;

    if (text && parse_u64(text, 0, 255, &code) == 0)
        return (int)code;
    return EXIT_CODE_NOT_RUN;
}

void cli_say(const char *fmt, ...)
{
    AUTO_STR struct str out = {0};
    char text[1024];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    str_init(&out);
    str_adds(&out, "accelctl: ");
    str_add_visible(&out, text, strlen(text));
    str_addc(&out, '\n');
    cli_write_str(STDERR_FILENO, &out);
}

void cli_say_goes_on(uint64_t job_id)
{
    cli_say("job %llu goes on; accelctl logs -f %llu attaches to its output",
            (unsigned long long)job_id, (unsigned long long)job_id);
}

static uint64_t job_left;

void cli_leaves_job(uint64_t job_id)
{
    job_left = job_id;
}

void cli_write(int fd, const void *p, size_t len)
{
    const char *at = p;

    while (len > 0) {
        ssize_t n = write(fd, at, len);

        if (n >= 0) {
            at += n;
            len -= (size_t)n;
        } else if (errno == EAGAIN) {
            struct pollfd pfd = {.fd = fd, .events = POLLOUT};

            poll(&pfd, 1, -1); /* somebody made it non-blocking */
        } else if (errno != EINTR) {
            if (fd == STDERR_FILENO)
                return; /* nobody to tell, and the exit code matters more */
            if (errno == EPIPE)
                _exit(EXIT_CODE_PIPE);
            struct accel_error err = {0};
            int r = error_sys(&err, errno, "cannot write to stdout");

            cli_error(&err);
            if (job_left != 0)
                cli_say_goes_on(job_left);
            _exit(r < 0 ? EXIT_CODE_FAILED : EXIT_CODE_OK);
        }
    }
}

/* Length of the valid UTF-8 sequence at p that is no control character; 0 if there is none. */
static size_t visible_length(const unsigned char *p, size_t len)
{
    size_t n = p[0] < 0x80 ? 1 : p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : 4;

    if (n > len || !is_utf8(p, n))
        return 0;
    if (p[0] < 0x20 || p[0] == 0x7f || (p[0] == 0xc2 && p[1] < 0xa0))
        return 0;
    return n;
}

void str_add_visible(struct str *s, const void *p, size_t len)
{
    const unsigned char *at = p;

    while (len > 0) {
        size_t n = visible_length(at, len);

        if (n == 0 && *at == '\t') {
            str_addc(s, '\t');
            n = 1;
        } else if (n == 0) {
            str_addf(s, "\\x%02x", *at);
            n = 1;
        } else {
            str_add(s, at, n);
        }
        at += n;
        len -= n;
    }
}

/* Not by printf: lists have ten thousand rows of numbers. */
void str_add_number(struct str *s, uint64_t n)
{
    char digits[20];
    size_t at = sizeof digits;

    do {
        digits[--at] = (char)('0' + n % 10);
        n /= 10;
    } while (n > 0);
    str_add(s, digits + at, sizeof digits - at);
}

static void add_span(struct str *s, uint64_t n, char unit)
{
    str_add_number(s, n);
    str_addc(s, unit);
}

void str_add_age(struct str *s, int64_t ms)
{
    uint64_t sec = ms < 0 ? 0 : (uint64_t)ms / 1000;

    if (sec < 120) {
        add_span(s, sec, 's');
    } else if (sec < 7200) {
        add_span(s, sec / 60, 'm');
    } else if (sec < 2 * 86400) {
        add_span(s, sec / 3600, 'h');
        add_span(s, sec / 60 % 60, 'm');
    } else {
        add_span(s, sec / 86400, 'd');
        add_span(s, sec / 3600 % 24, 'h');
    }
}

void str_add_bytes(struct str *s, uint64_t bytes)
{
    static const char units[] = "BKMGTPE";
    double value = (double)bytes;
    size_t unit = 0;

    while (value >= 1024 && unit + 2 < sizeof units) {
        value /= 1024;
        unit++;
    }
    if (value < 10 && unit > 0)
        str_addf(s, "%.1f%c", value, units[unit]);
    else
        str_addf(s, "%.0f%c", value, units[unit]);
}

int parse_job_id(const char *text, uint64_t *ret_id, struct accel_error *err)
{
    const char *digits = strncmp(text, "job/", 4) == 0 ? text + 4 : text;
    int r = parse_u64(digits, 1, UINT64_MAX, ret_id);

    if (r < 0) {
        AUTO_STR struct str quoted = {0};

        str_init(&quoted);
        str_add_shell_quoted(&quoted, text, MIN(strlen(text), 100u));
        return error_set(err, ACCEL_EINVAL,
                         "%s is no job id\nwhy: an id is a number\ntry: accelctl ps -a",
                         quoted.data);
    }
    return 0;
}

int parse_job_ids(const struct options *o, size_t min, uint64_t **ret_ids, struct accel_error *err)
{
    AUTO_FREE uint64_t *ids = NULL;

    if (o->arg_count < min)
        return error_set(err, ACCEL_EINVAL,
                         "no job named\nwhy: %s wants the id of a job\n"
                         "try: accelctl ps -a",
                         o->verb->name);
    ids = xcalloc(o->arg_count + 1, sizeof ids[0]);
    for (size_t i = 0; i < o->arg_count; i++) {
        int r = parse_job_id(o->args[i], &ids[i], err);

        if (r < 0)
            return r;
    }
    *ret_ids = STEAL_PTR(ids);
    return 0;
}
