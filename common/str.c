/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Growing text, and the small parsers that command line and job files share. Parsers take the whole
 * text or nothing: no sign, no blank, no value that does not fit. What they accept is documented
 * for users; tests/unit/test_str.c is the list.
 */
#include "common/str.h"

#include <stdio.h>
#include <string.h>

#include "common/error.h"
#include "common/limits.h"

#define STR_CAP_MIN 64u

/* The content of every empty str that has no memory yet: never written, cap 0 tells it. */
static char empty_data[1];

void str_init(struct str *s)
{
    *s = (struct str){.data = empty_data};
}

void str_done(struct str *s)
{
    if (s->cap > 0) {
        free(s->data);
    }
    *s = (struct str){0};
}

void str_clear(struct str *s)
{
    s->len = 0;
    if (s->cap > 0) {
        s->data[0] = '\0';
    } else {
        s->data = empty_data;
    }
}

/* Makes room for `more` bytes and a NUL; returns where they go. */
static char *reserve(struct str *s, size_t more)
{
    CHECK(more < SIZE_MAX / 4 && s->len < SIZE_MAX / 4);
    size_t need = s->len + more + 1;
    if (need > s->cap) {
        char *old = s->cap > 0 ? s->data : NULL;
        size_t cap = MAX(MAX(s->cap * 2, need), STR_CAP_MIN);
        s->data = xrealloc(old, cap);
        s->cap = cap;
    }
    return s->data + s->len;
}

void str_add(struct str *s, const void *p, size_t len)
{
    char *end = reserve(s, len);
    if (len > 0) {
        memcpy(end, p, len);
    }
    s->len += len;
    s->data[s->len] = '\0';
}

void str_adds(struct str *s, const char *text)
{
    str_add(s, text, strlen(text));
}

void str_addc(struct str *s, char c)
{
    str_add(s, &c, 1);
}

void str_addf(struct str *s, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    str_addv(s, fmt, args);
    va_end(args);
}

void str_addv(struct str *s, const char *fmt, va_list args)
{
    va_list again;
    va_copy(again, args);
    char *end = reserve(s, STR_CAP_MIN);
    int len = vsnprintf(end, s->cap - s->len, fmt, args);
    CHECK(len >= 0);
    if ((size_t)len >= s->cap - s->len) {
        end = reserve(s, (size_t)len);
        vsnprintf(end, (size_t)len + 1, fmt, again);
    }
    va_end(again);
    s->len += (size_t)len;
}

void str_drop_front(struct str *s, size_t len)
{
    CHECK(len <= s->len);
    if (len > 0) {
        s->len -= len;
        memmove(s->data, s->data + len, s->len);
        s->data[s->len] = '\0';
    }
}

char *str_steal(struct str *s)
{
    char *data = s->cap > 0 ? s->data : xcalloc(1, 1);
    str_init(s);
    return data;
}

/* ---- text ---- */

bool str_copy(char *dst, size_t size, const char *src)
{
    CHECK(size > 0);
    size_t len = src == NULL ? 0 : strlen(src);
    bool fits = len < size;
    if (!fits) {
        /* Half a character would make the rest of the line unreadable to JSON and terminals. */
        len = size - 1;
        for (int i = 0; i < 3 && len > 0 && ((unsigned char)src[len] & 0xc0) == 0x80; i++) {
            len--;
        }
    }
    if (len > 0) {
        memcpy(dst, src, len);
    }
    dst[len] = '\0';
    return fits;
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool is_alnum(char c)
{
    return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

bool is_valid_name(const char *s)
{
    if (s == NULL || !is_alnum(s[0])) {
        return false;
    }
    size_t len = 1;
    while (len <= LIMIT_NAME_BYTES &&
           (is_alnum(s[len]) || (s[len] != '\0' && strchr("._-", s[len])))) {
        len++;
    }
    return s[len] == '\0' && len <= LIMIT_NAME_BYTES;
}

/* ---- numbers ---- */

/* Reads digits at *p and moves it behind them; false where there are none or too many. */
static bool read_digits(const char **p, uint64_t *ret_value)
{
    const char *start = *p;
    uint64_t value = 0;
    for (; is_digit(**p); (*p)++) {
        if (__builtin_mul_overflow(value, 10u, &value) ||
            __builtin_add_overflow(value, (uint64_t)(**p - '0'), &value)) {
            return false;
        }
    }
    *ret_value = value;
    return *p > start;
}

int parse_u64(const char *text, uint64_t min, uint64_t max, uint64_t *ret_value)
{
    uint64_t value;
    if (text == NULL || !read_digits(&text, &value) || *text != '\0' || value < min ||
        value > max) {
        return ACCEL_EINVAL;
    }
    *ret_value = value;
    return 0;
}

/* A decimal number, exact: whole + part / scale. */
struct decimal {
    uint64_t whole;
    uint64_t part;
    uint64_t scale; /* a power of ten; 1: no fraction was given */
};
#define DECIMAL_SCALE_MAX 1000000000u /* nine digits after the point */

static bool read_decimal(const char **p, struct decimal *d)
{
    *d = (struct decimal){.scale = 1};
    if (!read_digits(p, &d->whole)) {
        return false;
    }
    if (**p != '.') {
        return true;
    }
    (*p)++;
    const char *start = *p;
    if (!read_digits(p, &d->part)) {
        return false;
    }
    for (const char *digit = start; digit < *p; digit++) {
        d->scale *= 10;
        if (d->scale > DECIMAL_SCALE_MAX) {
            return false;
        }
    }
    return true;
}

__extension__ typedef unsigned __int128 u128;

/* total += d * unit, rounded down; false when the sum exceeds INT64_MAX, so that it fits signed
 * fields too. */
static bool add_scaled(uint64_t *total, const struct decimal *d, uint64_t unit)
{
    uint64_t whole;
    uint64_t sum;
    uint64_t part = (uint64_t)((u128)d->part * unit / d->scale);
    if (__builtin_mul_overflow(d->whole, unit, &whole) ||
        __builtin_add_overflow(whole, part, &whole) ||
        __builtin_add_overflow(*total, whole, &sum) || sum > INT64_MAX) {
        return false;
    }
    *total = sum;
    return true;
}

/* ---- durations ---- */

#define MINUTE_MS 60000u
#define HOUR_MS   3600000u
#define DAY_MS    86400000u

/* "M:S", "H:M:S", "D-H", "D-H:M", "D-H:M:S", as Slurm. */
static int parse_clock(const char *p, uint64_t *ret_ms)
{
    struct decimal fields[4] = {{0}};
    bool has_days = false;
    size_t count = 0;
    uint64_t ms = 0;
    for (;;) {
        fields[count].scale = 1;
        if (!read_digits(&p, &fields[count].whole)) {
            return ACCEL_EINVAL;
        }
        count++;
        if (*p == '\0') {
            break;
        }
        if (*p == '-' && count == 1) {
            has_days = true;
        } else if (*p != ':' || count == (has_days ? 4 : 3)) {
            return ACCEL_EINVAL;
        }
        p++;
    }
    static const uint64_t units[] = {DAY_MS, HOUR_MS, MINUTE_MS, 1000};
    size_t first = has_days ? 0 : ARRAY_LEN(units) - count;
    for (size_t i = 0; i < count; i++) {
        if (!add_scaled(&ms, &fields[i], units[first + i])) {
            return ACCEL_EINVAL;
        }
    }
    *ret_ms = ms;
    return 0;
}

static uint64_t read_time_unit(const char **p)
{
    static const struct {
        const char *name;
        uint64_t ms;
    } units[] = {{"ms", 1}, {"s", 1000}, {"m", MINUTE_MS}, {"h", HOUR_MS}, {"d", DAY_MS}};
    for (size_t i = 0; i < ARRAY_LEN(units); i++) {
        size_t len = strlen(units[i].name);
        if (strncmp(*p, units[i].name, len) == 0) {
            *p += len;
            return units[i].ms;
        }
    }
    return 0;
}

int parse_duration_ms(const char *text, uint64_t *ret_ms)
{
    struct decimal d;
    const char *p = text;
    uint64_t ms = 0;
    uint64_t last_unit = UINT64_MAX;
    if (text == NULL) {
        return ACCEL_EINVAL;
    }
    if (strpbrk(text, ":-") != NULL) {
        return parse_clock(text, ret_ms);
    }
    do {
        bool is_first = p == text;
        if (!read_decimal(&p, &d)) {
            return ACCEL_EINVAL;
        }
        uint64_t unit = is_first && *p == '\0' ? 1000 : read_time_unit(&p);
        /* Units fall ("1h30m", not "30m1h"), and only the last number may have a fraction. */
        if (unit == 0 || unit >= last_unit || (d.scale > 1 && *p != '\0') ||
            !add_scaled(&ms, &d, unit)) {
            return ACCEL_EINVAL;
        }
        last_unit = unit;
    } while (*p != '\0');
    *ret_ms = ms;
    return 0;
}

/* ---- sizes ---- */

int parse_bytes(const char *text, uint64_t *ret_bytes)
{
    static const char prefixes[] = "KMGTPE";
    struct decimal d;
    uint64_t bytes = 0;
    uint64_t unit = 1;
    const char *p = text;
    if (text == NULL || !read_decimal(&p, &d)) {
        return ACCEL_EINVAL;
    }
    char upper = *p >= 'a' && *p <= 'z' ? (char)(*p - 'a' + 'A') : *p;
    const char *prefix = upper == '\0' ? NULL : strchr(prefixes, upper);
    if (prefix != NULL) {
        unit = (uint64_t)1024 << (10 * (prefix - prefixes));
        p++;
        if (p[0] == 'i' && (p[1] == 'B' || p[1] == 'b')) {
            p++;
        }
    }
    if (*p == 'B' || *p == 'b') {
        p++;
    }
    if (*p != '\0' || (d.scale > 1 && unit == 1) || !add_scaled(&bytes, &d, unit)) {
        return ACCEL_EINVAL;
    }
    *ret_bytes = bytes;
    return 0;
}

/* ---- distance ---- */

unsigned edit_distance(const char *a, const char *b, unsigned max)
{
    size_t a_len = strlen(a);
    size_t b_len = strlen(b);
    if ((a_len > b_len ? a_len - b_len : b_len - a_len) > max) {
        return max + 1; /* cheap for whatever a user may type */
    }
    AUTO_FREE unsigned *row =
        xcalloc(b_len + 1, sizeof(*row)); /* distances of a's first i bytes to b's first j */
    for (size_t j = 0; j <= b_len; j++) {
        row[j] = (unsigned)j;
    }
    for (size_t i = 1; i <= a_len; i++) {
        unsigned diagonal = row[0];
        unsigned best = row[0] = (unsigned)i;
        for (size_t j = 1; j <= b_len; j++) {
            unsigned above = row[j];
            unsigned replace = diagonal + (a[i - 1] != b[j - 1]);
            row[j] = MIN(replace, MIN(above, row[j - 1]) + 1);
            diagonal = above;
            best = MIN(best, row[j]);
        }
        if (best > max) {
            return max + 1; /* the least of a row never falls again */
        }
    }
    return MIN(row[b_len], max + 1);
}

/* ---- UTF-8 ---- */

/* Length of the well-formed character at p (RFC 3629: no overlong forms, no surrogates), 0 if
 * there is none. */
static size_t utf8_next(const unsigned char *p, size_t len, uint32_t *ret_char)
{
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    size_t n = p[0] < 0x80   ? 1
               : p[0] < 0xc2 ? 0
               : p[0] < 0xe0 ? 2
               : p[0] < 0xf0 ? 3
               : p[0] < 0xf5 ? 4
                             : 0;
    if (n == 0 || n > len) {
        return 0;
    }
    uint32_t c = n == 1 ? p[0] : p[0] & (0x7fu >> n);
    for (size_t i = 1; i < n; i++) {
        if ((p[i] & 0xc0) != 0x80) {
            return 0;
        }
        c = c << 6 | (p[i] & 0x3f);
    }
    if (c < least[n] || c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff)) {
        return 0;
    }
    *ret_char = c;
    return n;
}

bool is_utf8(const void *p, size_t len)
{
    const unsigned char *bytes = p;
    uint32_t c;
    for (size_t i = 0; i < len;) {
        size_t n = utf8_next(bytes + i, len - i, &c);
        if (n == 0) {
            return false;
        }
        i += n;
    }
    return true;
}

void make_utf8(char *text)
{
    unsigned char *p = (unsigned char *)text;
    size_t left = strlen(text);
    uint32_t c;

    while (left > 0) {
        size_t n = *p < 0x80 ? 1 : utf8_next(p, left, &c);
        if (n == 0) {
            *p = '?';
            n = 1;
        }
        p += n;
        left -= n;
    }
}

/* Controls, and what turns the direction of the line around: neither may reach a terminal from a
 * job's text. */
static bool is_printable(uint32_t c)
{
    return c >= 0x20 && c != 0x7f && !(c >= 0x80 && c < 0xa0) && !(c >= 0x2028 && c <= 0x202e) &&
           !(c >= 0x2066 && c <= 0x2069);
}

void str_add_shell_quoted(struct str *s, const void *p, size_t len)
{
    const unsigned char *bytes = p;
    uint32_t c = 0;
    bool is_plain = len > 0;
    bool has_odd = false;
    for (size_t i = 0, n; i < len; i += n) {
        n = utf8_next(bytes + i, len - i, &c);
        has_odd = has_odd || n == 0 || !is_printable(c);
        n = MAX(n, 1);
        is_plain = is_plain &&
                   (is_alnum((char)bytes[i]) || (bytes[i] != 0 && strchr("_@%+=:,./-", bytes[i])));
    }
    if (is_plain) {
        str_add(s, p, len);
        return;
    }
    str_adds(s, has_odd ? "$'" : "'");
    for (size_t i = 0, n; i < len; i += n) {
        n = utf8_next(bytes + i, len - i, &c);
        bool is_odd = n == 0 || !is_printable(c);
        n = MAX(n, 1);
        if (is_odd) {
            for (size_t j = 0; j < n; j++) {
                str_addf(s, "\\x%02x", bytes[i + j]);
            }
        } else if (bytes[i] == '\'') {
            str_adds(s, has_odd ? "\\'" : "'\\''");
        } else {
            if (bytes[i] == '\\' && has_odd) {
                str_addc(s, '\\');
            }
            str_add(s, bytes + i, n);
        }
    }
    str_addc(s, '\'');
}
