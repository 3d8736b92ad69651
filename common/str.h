/* SPDX-License-Identifier: Apache-2.0 */
/*
 * str.h - a growing byte buffer that is always NUL-terminated, and small text helpers. Aborts when
 * memory ends.
 */
#ifndef ACCEL_COMMON_STR_H
#define ACCEL_COMMON_STR_H

#include <stdarg.h>

#include "common/base.h"

struct str {
    char *data; /* never NULL after str_init; data[len] is 0 */
    size_t len;
    size_t cap;
};
#define AUTO_STR __attribute__((cleanup(str_done)))

void str_init(struct str *s);
void str_done(struct str *s); /* accepts one that is all zero */
void str_clear(struct str *s);
void str_add(struct str *s, const void *p, size_t len);
void str_adds(struct str *s, const char *text);
void str_addc(struct str *s, char c);
void str_addf(struct str *s, const char *fmt, ...) PRINTF_LIKE(2, 3);
void str_addv(struct str *s, const char *fmt, va_list args) PRINTF_LIKE(2, 0);
void str_drop_front(struct str *s, size_t len); /* removes the first len bytes */
char *str_steal(struct str *s);                 /* caller frees; s is as after str_init */

/* Copies with a NUL, cutting at size; returns false when it was cut. size > 0. */
bool str_copy(char *dst, size_t size, const char *src);
bool is_valid_name(const char *s); /* [A-Za-z0-9][A-Za-z0-9._-]*, at most LIMIT_NAME_BYTES */
/* Decimal number within [min, max], the whole text; ACCEL_EINVAL else. */
int parse_u64(const char *text, uint64_t min, uint64_t max, uint64_t *ret_value) MUST_CHECK;
/* "90", "90s", "1h30m", "4:00:00", "2-00:00:00", "5m", "1.5h", "2d": milliseconds. A bare number is
 * seconds (as `timeout`), M:S and H:M:S as Slurm; ACCEL_EINVAL else. */
int parse_duration_ms(const char *text, uint64_t *ret_ms) MUST_CHECK;
/* "512", "4K", "16M", "2G", "1.5G", "200GB", "4GiB": bytes, powers of 1024; ACCEL_EINVAL else. */
int parse_bytes(const char *text, uint64_t *ret_bytes) MUST_CHECK;
/* Levenshtein distance, cut at max + 1. */
unsigned edit_distance(const char *a, const char *b, unsigned max);
/* Text for a shell and for people: printable ASCII and UTF-8 stay, everything else becomes \xNN;
 * quoted if needed. */
void str_add_shell_quoted(struct str *s, const void *p, size_t len);
bool is_utf8(const void *p, size_t len);
/* Every byte that is not part of a UTF-8 character becomes '?'. A text that is one is not written
 * to, so it may be a constant. */
void make_utf8(char *text);

/* Follows a number in the reason of a job, where acceld tells what no disk took of its output, and
 * is looked for by accelctl. */
#define STR_OUTPUT_LOST " bytes of output were lost: "

#endif
