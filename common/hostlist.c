/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Lists as Slurm writes them, of hosts and of numbers for each. Pure; knows nothing of nodes or
 * jobs. Neighbours: coord_gang.c, which makes them once for a gang, and environ_slurm.c.
 */
#include "common/hostlist.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define DIGITS_MAX 9 /* of a number in a host list: fits in 32 bits */

struct host { /* a name as prefix and number; width 0: no number at its end */
    const char *name;
    size_t prefix_len, width;
    uint32_t number;
};

static struct host parse_host(const char *name)
{
    size_t len = strlen(name), digits = 0;
    struct host h = {.name = name, .prefix_len = len};
    while (digits < len && name[len - digits - 1] >= '0' && name[len - digits - 1] <= '9')
        digits++;
    if (digits == 0 || digits > DIGITS_MAX || digits == len)
        return h;
    h.prefix_len = len - digits;
    h.width = digits;
    for (const char *p = name + h.prefix_len; *p; p++)
        h.number = h.number * 10 + (uint32_t)(*p - '0');
    return h;
}

static bool is_same_prefix(const struct host *a, const struct host *b)
{
    return a->width && b->width && a->prefix_len == b->prefix_len &&
           memcmp(a->name, b->name, a->prefix_len) == 0;
}

/* Is b written as the one after a in a range that begins with so many digits? */
static bool is_next(const struct host *a, const struct host *b, size_t width)
{
    char text[DIGITS_MAX + 2];
    if (b->number != a->number + 1)
        return false;
    snprintf(text, sizeof(text), "%0*" PRIu32, (int)width, b->number);
    return strcmp(text, b->name + b->prefix_len) == 0;
}

/* The numbers of hosts [from, to), all of one prefix: "1-3,7". */
static void add_numbers(const char *const *names, size_t from, size_t to, struct str *out)
{
    for (size_t i = from; i < to;) {
        struct host first = parse_host(names[i]), last = first;
        size_t end = i + 1;
        for (; end < to; end++) {
            struct host next = parse_host(names[end]);
            if (!is_next(&last, &next, first.width))
                break;
            last = next;
        }
        if (i > from)
            str_addc(out, ',');
        str_adds(out, first.name + first.prefix_len);
        if (end - i > 1) {
            str_addc(out, '-');
            str_adds(out, last.name + last.prefix_len);
        }
        i = end;
    }
}

void hostlist_add(const char *const *names, size_t count, struct str *out)
{
    for (size_t i = 0; i < count;) {
        struct host first = parse_host(names[i]);
        size_t end = i + 1;
        for (; end < count; end++) {
            struct host next = parse_host(names[end]);
            if (!is_same_prefix(&first, &next))
                break;
        }
        if (i)
            str_addc(out, ',');
        if (end - i == 1) {
            str_adds(out, names[i]);
        } else {
            str_add(out, first.name, first.prefix_len);
            str_addc(out, '[');
            add_numbers(names, i, end, out);
            str_addc(out, ']');
        }
        i = end;
    }
}

void hostlist_add_run(struct str *out, uint32_t number, size_t count)
{
    str_addf(out, "%s%" PRIu32, out->len > 0 ? "," : "", number);
    if (count > 1)
        str_addf(out, "(x%zu)", count);
}
