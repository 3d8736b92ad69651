/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One line, one write, no buffer: what was logged before a crash is there. A message of several
 * lines becomes one, so that a text from outside cannot forge an entry. Nothing is done about a log
 * that cannot be written.
 */
#include "common/log.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/str.h"

#define LOG_LINE_BYTES 4096 /* longer messages are cut; pipes take this much in one piece */

static struct {
    char program[32];
    enum log_level max_level;
    bool has_journal;
} state = {.program = "accel", .max_level = LOG_LEVEL_INFO};

/* systemd names the device and inode of the journal's stream; stderr may have been redirected
 * since. */
static bool is_journal(void)
{
    const char *stream = getenv("JOURNAL_STREAM");
    struct stat st;
    char ours[64];
    if (stream == NULL || fstat(STDERR_FILENO, &st) < 0) {
        return false;
    }
    snprintf(ours, sizeof(ours), "%" PRIu64 ":%" PRIu64, (uint64_t)st.st_dev, (uint64_t)st.st_ino);
    return strcmp(ours, stream) == 0;
}

int log_level_parse(const char *name, enum log_level *ret_level)
{
    static const struct {
        const char *name;
        enum log_level level;
    } levels[] = {{"error", LOG_LEVEL_ERROR},
                  {"warn", LOG_LEVEL_WARN},
                  {"info", LOG_LEVEL_INFO},
                  {"debug", LOG_LEVEL_DEBUG}};

    for (size_t i = 0; i < ARRAY_LEN(levels); i++) {
        if (strcmp(name, levels[i].name))
            continue;
        *ret_level = levels[i].level;
        return 0;
    }
    return ACCEL_EINVAL;
}

void log_init(const char *program, enum log_level max_level)
{
    str_copy(state.program, sizeof(state.program), program);
    state.max_level = max_level;
    state.has_journal = is_journal();
}

void log_set_level(enum log_level max_level)
{
    state.max_level = max_level;
}

void log_setting(void *ctx, const char *name, bool is_taken)
{
    (void)ctx;
    if (is_taken)
        log_info("%s has changed", name);
    else
        log_warn("%s has changed, which is for the next start", name);
}

static const char *level_word(enum log_level level)
{
    switch (level) {
    case LOG_LEVEL_ERROR: return "error: ";
    case LOG_LEVEL_WARN: return "warning: ";
    case LOG_LEVEL_DEBUG: return "debug: ";
    case LOG_LEVEL_INFO: break;
    }
    return "";
}

void log_line(enum log_level level, const char *fmt, ...)
{
    char line[LOG_LINE_BYTES];
    char when[32];
    int len;
    if (level > state.max_level) {
        return;
    }
    if (state.has_journal) {
        len = snprintf(line, sizeof(line), "<%d>", (int)level);
    } else {
        len = snprintf(line, sizeof(line), "%s %s: %s",
                       clock_format_utc(clock_wall_ms(), when, sizeof(when)), state.program,
                       level_word(level));
    }
    size_t start = (size_t)len;
    va_list args;
    va_start(args, fmt);
    vsnprintf(line + start, sizeof(line) - start - 1, fmt, args);
    va_end(args);
    size_t end = start + strlen(line + start);
    for (size_t i = start; i < end; i++) {
        if (line[i] == '\n') { /* "no disk\nwhy: ..." reads "no disk; why: ..." */
            line[i] = ';';
            if (i + 1 < end && end < sizeof(line) - 1) {
                memmove(line + i + 2, line + i + 1, end - i - 1);
                line[i + 1] = ' ';
                end++;
            }
        } else if ((unsigned char)line[i] < 0x20 || line[i] == 0x7f) {
            line[i] = ' ';
        }
    }
    line[end++] = '\n';
    if (write(STDERR_FILENO, line, end) < 0) {
        return; /* nobody is left to tell */
    }
}
