/* SPDX-License-Identifier: Apache-2.0 */
/*
 * log.h - the daemons' log: one line per message on stderr, "<N>" priority prefix under systemd
 * (JOURNAL_STREAM set), else a UTC time. Shells only; libraries and cores never log. One thread
 * (the loop's).
 */
#ifndef ACCEL_COMMON_LOG_H
#define ACCEL_COMMON_LOG_H

#include "common/base.h"

enum log_level { LOG_LEVEL_ERROR = 3, LOG_LEVEL_WARN = 4, LOG_LEVEL_INFO = 6, LOG_LEVEL_DEBUG = 7 };
#define LOG_LEVELS "error|warn|info|debug"
/* Of its name in LOG_LEVELS; ACCEL_EINVAL. */
int log_level_parse(const char *name, enum log_level *ret_level);
void log_set_level(enum log_level max_level); /* from now on */
/* A settings_told (settings.h): a reload found this one changed. */
void log_setting(void *ctx, const char *name, bool is_taken);
void log_init(const char *program, enum log_level max_level);
void log_line(enum log_level level, const char *fmt, ...) PRINTF_LIKE(2, 3);
#define log_error(...) log_line(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warn(...)  log_line(LOG_LEVEL_WARN, __VA_ARGS__)
#define log_info(...)  log_line(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...) log_line(LOG_LEVEL_DEBUG, __VA_ARGS__)

#endif
