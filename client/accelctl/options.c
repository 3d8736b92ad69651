/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Parses a command line by the table in option_table.c: long and short options with values in
 * either form, '_' for '-' as Accelerate's users type, suggestions for what is misspelt, ranges and
 * units checked here so that verbs need not. Bytes that are no UTF-8 pass through untouched; only
 * messages show them as \xNN. No I/O, no exit.
 */
#include "client/accelctl/options.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "client/accelctl/accelerate.h"
#include "client/accelctl/habits.h"
#include "common/limits.h"
#include "common/str.h"

struct parser {
    int argc;
    char **argv;
    int next; /* index of the next argument */
    struct options *ret;
    struct accel_error *err;
};

/* The text for a message: quoted where needed, cut where long. */
static const char *shown(const char *text, char *buf, size_t size)
{
    AUTO_STR struct str s = {0};

    str_init(&s);
    str_add_shell_quoted(&s, text, MIN(strlen(text), 200u));
    if (strlen(text) > 200)
        str_adds(&s, "...");
    str_copy(buf, size, s.data);
    return buf;
}

/* Is name (len bytes, '_' taken for '-') in the comma-separated list? */
static bool list_has(const char *list, const char *name, size_t len)
{
    while (*list != '\0') {
        size_t n = strcspn(list, ",");

        if (n == len) {
            size_t i = 0;

            while (i < n && list[i] == (name[i] == '_' ? '-' : name[i]))
                i++;
            if (i == n)
                return true;
        }
        list += n;
        list += *list == ',';
    }
    return false;
}

const struct verb *verb_find(const char *name)
{
    for (size_t i = 0; i < VERB_COUNT; i++) {
        if (strcmp(verb_table[i].name, name) == 0 ||
            list_has(verb_table[i].aliases, name, strlen(name)))
            return &verb_table[i];
    }
    return NULL;
}

static unsigned suggest_distance(const char *name)
{
    return strlen(name) <= 3 ? 1 : 2;
}

/* Keeps in *best the nearer of itself and every name of the list. */
static void suggest_among(const char *list, const char *name, unsigned *best, const char **ret_name,
                          const char *stands_for)
{
    while (*list != '\0') {
        size_t n = strcspn(list, ",");
        char word[LIMIT_NAME_BYTES + 1];

        snprintf(word, sizeof word, "%.*s", (int)n, list);
        unsigned d = edit_distance(name, word, *best);

        if (d < *best) {
            *best = d;
            *ret_name = stands_for;
        }
        list += n;
        list += *list == ',';
    }
}

const char *verb_suggest(const char *name)
{
    unsigned best = suggest_distance(name) + 1;
    const char *found = NULL;

    if (habit_of_verb(name))
        return habit_of_verb(name);
    for (size_t i = 0; i < VERB_COUNT; i++) {
        suggest_among(verb_table[i].name, name, &best, &found, verb_table[i].name);
        suggest_among(verb_table[i].aliases, name, &best, &found, verb_table[i].name);
    }
    return found;
}

static bool row_is_for(const struct option_row *row, const struct verb *verb)
{
    return verb ? (row->verbs & VERB_BIT(verb->id)) != 0 : row->verbs == VERB_ALL;
}

const char *option_suggest(enum verb_id verb, const char *name)
{
    unsigned best = suggest_distance(name) + 1;
    const char *found = NULL;
    char plain[LIMIT_NAME_BYTES + 1];

    if (!str_copy(plain, sizeof plain, name))
        return NULL;
    for (char *p = plain; *p != '\0'; p++)
        *p = *p == '_' ? '-' : *p;
    for (size_t i = 0; i < option_table_count; i++) {
        const struct option_row *row = &option_table[i];

        if (!row_is_for(row, &verb_table[verb]) || row->is_hidden)
            continue;
        suggest_among(row->name, plain, &best, &found, row->name);
        suggest_among(row->aliases, plain, &best, &found, row->name);
    }
    const char *name_of_theirs;
    for (size_t i = 0; verb_table[verb].takes_program && (name_of_theirs = accelerate_name(i)); i++)
        suggest_among(name_of_theirs, plain, &best, &found, name_of_theirs);
    return found;
}

static const struct option_row *find_long(const struct verb *verb, const char *name, size_t len)
{
    for (size_t i = 0; i < option_table_count; i++) {
        const struct option_row *row = &option_table[i];

        if (row_is_for(row, verb) &&
            (list_has(row->name, name, len) || list_has(row->aliases, name, len)))
            return row;
    }
    return NULL;
}

static const struct option_row *find_short(const struct verb *verb, char c)
{
    for (size_t i = 0; i < option_table_count; i++) {
        if (row_is_for(&option_table[i], verb) && option_table[i].short_name == c)
            return &option_table[i];
    }
    return NULL;
}

/* '_' taken for '-' here too. */
static const char *habit_for(const struct verb *verb, const char *name)
{
    char plain[LIMIT_NAME_BYTES + 1];

    if (!verb || !str_copy(plain, sizeof plain, name))
        return NULL;
    for (char *p = plain; *p != '\0'; p++)
        *p = *p == '_' ? '-' : *p;
    return habit_of_option(verb->id, plain);
}

static int unknown_option(struct parser *p, const char *name)
{
    const struct verb *verb = p->ret->verb;
    char buf[256];
    char where[48];
    const char *near = verb ? option_suggest(verb->id, name) : NULL;
    const char *habit = habit_for(verb, name);

    snprintf(where, sizeof where, "accelctl%s%s", verb ? " " : "", verb ? verb->name : "");
    if (habit)
        return error_set(
            p->err, ACCEL_EINVAL, "unknown option %s%s\nwhy: %s has none of that name\ntry: %s",
            strlen(name) == 1 ? "-" : "--", shown(name, buf, sizeof buf), where, habit);
    if (near)
        return error_set(p->err, ACCEL_EINVAL,
                         "unknown option --%s\nwhy: %s has none of that name\n"
                         "try: --%s",
                         shown(name, buf, sizeof buf), where, near);
    return error_set(p->err, ACCEL_EINVAL,
                     "unknown option %s%s\nwhy: %s has none of that name\n"
                     "try: %s --help",
                     strlen(name) == 1 ? "-" : "--", shown(name, buf, sizeof buf), where, where);
}

static int bad_value(struct parser *p, const struct option_row *row, const char *text,
                     const char *why)
{
    char buf[256];

    if (row->id == OPT_PROCS &&
        (strcmp(text, "gpu") == 0 || strcmp(text, "cpu") == 0)) /* torchrun */
        return error_set(p->err, ACCEL_EINVAL,
                         "--%s %s: not possible\nwhy: %s\ntry: --devices %s, and no --%s",
                         row->name, text, why, text, row->name);
    return error_set(p->err, ACCEL_EINVAL,
                     "--%s %s: not possible\nwhy: %s\ntry: accelctl %s --help", row->name,
                     shown(text, buf, sizeof buf), why, p->ret->verb ? p->ret->verb->name : "");
}

static int take_choice(struct parser *p, const struct option_row *row, const char *text,
                       uint64_t *ret_number)
{
    const char *c = row->choices;
    char why[128];
    uint64_t n = 0;

    while (*c != '\0') {
        size_t len = strcspn(c, "|");

        if (strlen(text) == len && memcmp(c, text, len) == 0) {
            *ret_number = n;
            return 0;
        }
        c += len;
        c += *c == '|';
        n++;
    }
    snprintf(why, sizeof why, "it is one of %s", row->choices);
    return bad_value(p, row, text, why);
}

static int take_value(struct parser *p, const struct option_row *row, const char *text)
{
    struct opt_value *v = &p->ret->v[row->id];
    char why[160];

    if (text[0] == '\0' && row->type != OPT_TYPE_FLAG)
        return bad_value(p, row, text, "it is empty");
    switch (row->type) {
    case OPT_TYPE_FLAG:
    case OPT_TYPE_TEXT: break;
    case OPT_TYPE_NUMBER:
        if (parse_u64(text, row->min, row->max, &v->number) < 0) {
            snprintf(why, sizeof why, "it is a number from %llu to %llu",
                     (unsigned long long)row->min, (unsigned long long)row->max);
            return bad_value(p, row, text, why);
        }
        break;
    case OPT_TYPE_DURATION:
        if (parse_duration_ms(text, &v->number) < 0 || v->number < row->min)
            return bad_value(p, row, text,
                             "it is a time like 90, 90s, 5m, 1h30m, 4:00:00 or 2-00:00:00");
        break;
    case OPT_TYPE_BYTES:
        if (parse_bytes(text, &v->number) < 0)
            return bad_value(p, row, text, "it is a size like 512M, 2G or 1.5GiB");
        if (v->number < row->min) {
            snprintf(why, sizeof why, "it is a size like 512M or 2G, %llu bytes or more",
                     (unsigned long long)row->min);
            return bad_value(p, row, text, why);
        }
        break;
    case OPT_TYPE_CHOICE: {
        int r = take_choice(p, row, text, &v->number);

        if (r < 0)
            return r;
        break;
    }
    case OPT_TYPE_LIST:
        v->list = xrealloc(v->list, sizeof v->list[0] * (v->count + 1));
        v->list[v->count] = text;
        break;
    }
    v->text = text;
    v->count++;
    return 0;
}

static int missing_value(struct parser *p, const struct option_row *row)
{
    return error_set(p->err, ACCEL_EINVAL,
                     "--%s needs a value\nwhy: nothing follows it\ntry: --%s=%s", row->name,
                     row->name, row->metavar);
}

/* An option of Accelerate's launcher: its name in our spelling, and its value. */
static int take_accelerate(struct parser *p, const struct accelerate_row *row, const char *value)
{
    struct opt_value *v = &p->ret->v[OPT_ACCELERATE];
    struct arena a;
    const char *own = accelerate_own_name(row);
    int r = 0;

    arena_init(&a);
    const char *refusal = accelerate_refusal(row, &a);
    if (refusal)
        r = error_set(p->err, ACCEL_EINVAL, "%s", refusal);
    arena_done(&a);
    if (r < 0)
        return r;
    if (!accelerate_takes_value(row) && value)
        return error_set(p->err, ACCEL_EINVAL,
                         "--%s: not possible\nwhy: this option takes no value\ntry: --%s", own,
                         own);
    if (accelerate_takes_value(row) && !value) {
        if (p->next >= p->argc)
            return error_set(p->err, ACCEL_EINVAL,
                             "--%s needs a value\nwhy: nothing follows it\ntry: --%s=VALUE", own,
                             own);
        value = p->argv[p->next++];
    }
    v->list = xrealloc(v->list, sizeof v->list[0] * (v->count + 2));
    v->list[v->count++] = own;
    v->list[v->count++] = value ? value : "";
    return 0;
}

/* "--name", "--name=value", "--name value". */
static int parse_long(struct parser *p, const char *arg)
{
    const char *name = arg + 2;
    size_t len = strcspn(name, "=");
    const char *value = name[len] == '=' ? name + len + 1 : NULL;
    const struct option_row *row = find_long(p->ret->verb, name, len);

    if (!row && p->ret->verb && p->ret->verb->takes_program && accelerate_find(name, len))
        return take_accelerate(p, accelerate_find(name, len), value);
    if (!row) {
        char plain[256];

        snprintf(plain, sizeof plain, "%.*s", (int)MIN(len, sizeof plain - 1), name);
        return unknown_option(p, plain);
    }
    if (row->type == OPT_TYPE_FLAG) {
        if (value)
            return bad_value(p, row, value, "this option takes no value");
        return take_value(p, row, "");
    }
    if (!value) {
        if (p->next >= p->argc)
            return missing_value(p, row);
        value = p->argv[p->next++];
    }
    return take_value(p, row, value);
}

/* "-aA", "-n20", "-n 20", "-n=20". */
static int parse_short(struct parser *p, const char *arg)
{
    for (const char *c = arg + 1; *c != '\0'; c++) {
        const struct option_row *row = find_short(p->ret->verb, *c);
        int r;

        if (!row) {
            char name[2] = {*c, '\0'};

            return unknown_option(p, name);
        }
        if (row->type == OPT_TYPE_FLAG) {
            r = take_value(p, row, "");
            if (r < 0)
                return r;
            continue;
        }
        const char *value = c[1] == '=' ? c + 2 : c + 1;

        if (c[1] == '\0') {
            if (p->next >= p->argc)
                return missing_value(p, row);
            value = p->argv[p->next++];
        }
        return take_value(p, row, value);
    }
    return 0;
}

static int unknown_verb(struct parser *p, const char *name)
{
    char buf[256];
    const char *near = verb_suggest(name);
    size_t len = strlen(name);

    if (near)
        return error_set(p->err, ACCEL_EINVAL,
                         "unknown verb %s\nwhy: accelctl has none of that name\n"
                         "try: accelctl %s",
                         shown(name, buf, sizeof buf), near);
    if (len > 3 && strcmp(name + len - 3, ".py") == 0)
        return error_set(p->err, ACCEL_EINVAL,
                         "unknown verb %s\nwhy: a verb comes first\n"
                         "try: accelctl launch %s",
                         shown(name, buf, sizeof buf), buf);
    return error_set(p->err, ACCEL_EINVAL,
                     "unknown verb %s\nwhy: accelctl has none of that name\n"
                     "try: accelctl help",
                     shown(name, buf, sizeof buf));
}

static void add_rest(struct parser *p)
{
    while (p->next < p->argc)
        p->ret->args[p->ret->arg_count++] = p->argv[p->next++];
}

int options_parse(int argc, char **argv, struct options *ret, struct accel_error *err)
{
    struct parser p = {argc, argv, 1, ret, err};

    memset(ret, 0, sizeof *ret);
    ret->args = xcalloc((size_t)argc + 1, sizeof ret->args[0]);
    while (p.next < argc) {
        char *arg = argv[p.next++];
        int r = 0;

        if (strcmp(arg, "--") == 0) {
            if (!ret->verb && p.next < argc)
                return error_set(err, ACCEL_EINVAL,
                                 "no verb\nwhy: -- stands where one should\n"
                                 "try: accelctl launch -- program");
            add_rest(&p);
        } else if (arg[0] == '-' && arg[1] == '-') {
            r = parse_long(&p, arg);
        } else if (arg[0] == '-' && arg[1] != '\0') {
            r = parse_short(&p, arg);
        } else if (!ret->verb) {
            ret->verb = verb_find(arg);
            r = ret->verb ? 0 : unknown_verb(&p, arg);
        } else {
            ret->args[ret->arg_count++] = arg;
            if (ret->verb->takes_program)
                add_rest(&p);
        }
        if (r < 0)
            return r;
        /* What follows a module are its arguments, options or not. */
        if (option_given(ret, OPT_MODULE))
            add_rest(&p);
    }
    return 0;
}

void options_done(struct options *o)
{
    for (size_t i = 0; i < OPT_COUNT; i++)
        free(o->v[i].list);
    free(o->args);
    memset(o, 0, sizeof *o);
}

static int compare_u32(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

    return (x > y) - (x < y);
}

int parse_ranks(const char *text, uint32_t **ret_ranks, size_t *ret_count, struct accel_error *err)
{
    const uint64_t max = (uint64_t)LIMIT_PROCS_PER_NODE * LIMIT_NODES_PER_JOB - 1;
    AUTO_FREE uint32_t *ranks = NULL;
    size_t count = 0, cap = 0;
    char buf[256];

    if (strcmp(text, "all") == 0) {
        *ret_ranks = NULL;
        *ret_count = 0;
        return 0;
    }
    for (const char *p = text;; p++) {
        size_t len = strcspn(p, ",");
        size_t dash = strcspn(p, ",-");
        char from[16], to[16];
        uint64_t a, b;

        snprintf(from, sizeof from, "%.*s", (int)MIN(dash, sizeof from), p);
        snprintf(to, sizeof to, "%.*s", dash < len ? (int)MIN(len - dash - 1, sizeof to) : 0,
                 p + (dash < len ? dash + 1 : 0));
        if (parse_u64(from, 0, max, &a) < 0 || (dash < len && parse_u64(to, a, max, &b) < 0))
            return error_set(
                err, ACCEL_EINVAL,
                "--rank %s: not possible\n"
                "why: it is a list of ranks\ntry: --rank 0,3 or --rank 0-7 or --rank all",
                shown(text, buf, sizeof buf));
        if (dash >= len)
            b = a;
        for (; a <= b; a++) {
            if (count == cap) {
                cap = cap ? cap * 2 : 16;
                ranks = xrealloc(ranks, cap * sizeof ranks[0]);
            }
            ranks[count++] = (uint32_t)a;
            if (count > LIMIT_PROCS_PER_NODE * 4)
                return error_set(err, ACCEL_EFULL, "--rank: too many ranks named\ntry: --rank all");
        }
        p += len;
        if (*p == '\0')
            break;
    }
    qsort(ranks, count, sizeof ranks[0], compare_u32);
    size_t kept = 0;

    for (size_t i = 0; i < count; i++) {
        if (kept == 0 || ranks[kept - 1] != ranks[i])
            ranks[kept++] = ranks[i];
    }
    *ret_ranks = STEAL_PTR(ranks);
    *ret_count = kept;
    return 0;
}

int parse_since(const char *text, int64_t now_ms, int64_t *ret_ms, struct accel_error *err)
{
    static const char *const forms[] = {"%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M",
                                        "%Y-%m-%d %H:%M", "%Y-%m-%d"};
    char buf[256];
    uint64_t ago;

    if (parse_duration_ms(text[0] == '-' ? text + 1 : text, &ago) == 0) {
        *ret_ms = (int64_t)ago > now_ms ? 0 : now_ms - (int64_t)ago;
        return 0;
    }
    for (size_t i = 0; i < ARRAY_LEN(forms); i++) {
        struct tm tm = {0};
        const char *end = strptime(text, forms[i], &tm);

        if (end && *end == 'Z')
            end++;
        if (end && *end == '\0') {
            *ret_ms = (int64_t)timegm(&tm) * 1000;
            return 0;
        }
    }
    return error_set(err, ACCEL_EINVAL,
                     "--since %s: not possible\nwhy: it is a time\n"
                     "try: --since=-1d or --since 2026-11-20T08:00",
                     shown(text, buf, sizeof buf));
}
