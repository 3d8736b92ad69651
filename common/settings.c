/* SPDX-License-Identifier: Apache-2.0 */
/*
 * settings.c - the table of a daemon's settings at work: one value, the command line, the help, and
 * a second reading on SIGHUP. The file's form is settings_yaml.c's. It must not know any daemon.
 */
#include "common/settings.h"

#include <dirent.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/path.h"
#include "common/str.h"

enum { OPTION_CONFIG = 1000, OPTION_CHECK_CONFIG, OPTION_HELP, OPTION_VERSION };

/* "tls.ca" is --tls-ca */
static char *option_name(struct arena *a, const char *name)
{
    char *text = arena_strdup(a, name);

    for (char *c = text; *c; c++)
        *c = *c == '.' ? '-' : *c;
    return text;
}

/* --- one value --- */

static int set_number(const struct setting *s, const char *value, void *field,
                      struct accel_error *err)
{
    uint64_t max = s->max ? s->max : INT64_MAX;
    uint64_t number;
    int r = s->type == SETTING_DURATION ? parse_duration_ms(value, &number)
            : s->type == SETTING_BYTES  ? parse_bytes(value, &number)
                                        : parse_u64(value, 0, UINT64_MAX, &number);

    if (r < 0)
        return error_set(err, ACCEL_EINVAL, "%s cannot be '%s'\ntry: %s", s->name, value,
                         s->type == SETTING_DURATION ? "a time such as 90, 30s, 5m, 2d"
                         : s->type == SETTING_BYTES  ? "a size such as 512M, 4GiB"
                                                     : "a whole number");
    if (number < s->min || number > max)
        return error_set(err, ACCEL_EINVAL, "%s cannot be '%s': it goes from %llu to %llu%s",
                         s->name, value, (unsigned long long)s->min, (unsigned long long)max,
                         s->type == SETTING_DURATION ? " ms"
                         : s->type == SETTING_BYTES  ? " bytes"
                                                     : "");
    if (s->type == SETTING_DURATION)
        *(int64_t *)field = (int64_t)number;
    else
        *(uint64_t *)field = number;
    return 0;
}

static int set_bool(const struct setting *s, const char *value, bool *field,
                    struct accel_error *err)
{
    static const char *const words[2][4] = {{"false", "no", "off", "0"},
                                            {"true", "yes", "on", "1"}};

    for (size_t i = 0; i < 8; i++) {
        if (!strcmp(value, words[i % 2][i / 2])) {
            *field = i % 2;
            return 0;
        }
    }
    return error_set(err, ACCEL_EINVAL, "%s cannot be '%s'\ntry: true or false", s->name, value);
}

static int set_choice(const struct setting *s, const char *value, const char **field,
                      struct arena *a, struct accel_error *err)
{
    size_t len = strlen(value);

    for (const char *word = s->choices; word && *word; word += strcspn(word, "|") + 1) {
        if (strcspn(word, "|") == len && !memcmp(word, value, len)) {
            *field = arena_strdup(a, value);
            return 0;
        }
        if (!word[strcspn(word, "|")])
            break;
    }
    return error_set(err, ACCEL_EINVAL, "%s cannot be '%s'\ntry: one of %s", s->name, value,
                     s->choices);
}

/* A relative path would change its meaning when somebody changes directory. */
static int set_path(const struct setting *s, const char *value, const char **field, struct arena *a,
                    struct accel_error *err)
{
    char cwd[PATH_MAX];

    if (value[0] != '/' && !getcwd(cwd, sizeof(cwd)))
        return error_set(err, ACCEL_EINVAL, "%s: '%s' is relative to a directory that is gone",
                         s->name, value);
    const char *path =
        value[0] == '/' ? arena_strdup(a, value) : arena_printf(a, "%s/%s", cwd, value);
    if (strlen(path) >= PATH_MAX)
        return error_set(err, ACCEL_EINVAL, "%s: the path is too long", s->name);
    *field = path;
    return 0;
}

static int set_list(const struct setting *s, const char *value, struct setting_list *list,
                    struct arena *a, struct accel_error *err)
{
    if (list->count == SETTINGS_LIST_MAX)
        return error_set(err, ACCEL_EINVAL, "%s: more than %u", s->name, SETTINGS_LIST_MAX);
    list->items[list->count++] = arena_strdup(a, value);
    return 0;
}

int settings_set(const struct setting *s, const char *value, struct arena *a, void *values,
                 struct accel_error *err)
{
    void *field = (char *)values + s->offset;

    if (!value[0])
        return error_set(err, ACCEL_EINVAL, "%s is empty", s->name);
    if (s->type == SETTING_NAME && !is_valid_name(value))
        return error_set(err, ACCEL_EINVAL,
                         "%s cannot be '%s'\ntry: letters, digits, '.', '_', '-'", s->name, value);
    if (s->check) {
        int r = s->check(value, err);
        if (r < 0)
            return r;
    }
    switch (s->type) {
    case SETTING_SECRET: *(char **)field = (char *)value; return 0;
    case SETTING_NUMBER:
    case SETTING_DURATION:
    case SETTING_BYTES: return set_number(s, value, field, err);
    case SETTING_BOOL: return set_bool(s, value, field, err);
    case SETTING_CHOICE: return set_choice(s, value, field, a, err);
    case SETTING_PATH: return set_path(s, value, field, a, err);
    case SETTING_LIST: return set_list(s, value, field, a, err);
    case SETTING_TEXT:
    case SETTING_NAME: break;
    }
    *(const char **)field = arena_strdup(a, value);
    return 0;
}

const struct setting *settings_suggest(const struct settings_table *t, const char *name)
{
    const struct setting *found = NULL;
    unsigned best = strlen(name) > 4 ? 3 : 2;

    for (size_t i = 0; i < t->count; i++) {
        unsigned d = edit_distance(t->rows[i].name, name, best);
        if (d < best) {
            best = d;
            found = &t->rows[i];
        }
    }
    return found;
}

/* --- help --- */

#define HELP_COLUMN 30
#define HELP_WIDTH  79

/* Words from HELP_COLUMN on, broken between them; `used` columns of the line are taken. */
static void add_wrapped(struct str *out, size_t used, const char *text)
{
    for (size_t len; *text; text += len + strspn(text + len, " ")) {
        len = strcspn(text, " ");
        if (used < HELP_COLUMN || used + 1 + len > HELP_WIDTH) {
            size_t blanks = used < HELP_COLUMN ? HELP_COLUMN - used : HELP_COLUMN;
            str_addf(out, "%s%*s", used < HELP_COLUMN ? "" : "\n", (int)blanks, "");
            used = HELP_COLUMN;
        } else {
            str_addc(out, ' ');
            used++;
        }
        str_add(out, text, len);
        used += len;
    }
    str_addc(out, '\n');
}

static void add_option(struct str *out, const char *left, const char *help)
{
    str_addf(out, "  %s", left);
    size_t used = strlen(left) + 2;
    add_wrapped(out, used < HELP_COLUMN ? used : HELP_WIDTH, help);
}

void settings_help(const struct settings_table *t, struct arena *a, const char **ret_text)
{
    AUTO_STR struct str out = {0};

    str_init(&out);
    str_addf(&out, "Usage: %s [OPTION]...\n%s\n", t->program, t->about);
    for (size_t i = 0; i < t->count; i++) {
        const struct setting *s = &t->rows[i];
        const char *value = s->type == SETTING_CHOICE ? s->choices : s->metavar;
        add_option(&out, arena_printf(a, "--%s %s", option_name(a, s->name), value ? value : ""),
                   s->type == SETTING_LIST ? arena_printf(a, "%s; may be given again", s->help)
                                           : s->help);
    }
    add_option(&out, "--config FILE",
               "a YAML file of these settings ('-' is written '_'), and its FILE.d/*.yaml");
    add_option(&out, "--check-config", "say whether the settings are right, and end");
    str_adds(&out, "  --version, --help\n");
    *ret_text = arena_strdup(a, out.data);
}

/* --- files --- */

static int read_file(const struct settings_table *t, const char *path, struct arena *a,
                     void *values, struct accel_error *err)
{
    AUTO_FREE char *text = NULL;
    size_t len = 0;
    int r = path_read_all(AT_FDCWD, path, SETTINGS_FILE_BYTES_MAX, &text, &len, err);

    if (r < 0)
        return error_wrap(err, r, "the settings cannot be read");
    return settings_read_yaml(t, path, text, len, a, values, err);
}

static int is_yaml(const struct dirent *e)
{
    size_t len = strlen(e->d_name);

    return e->d_name[0] != '.' && len > 5 && !strcmp(e->d_name + len - 5, ".yaml");
}

static int read_drop_ins(const struct settings_table *t, const char *path, struct arena *a,
                         void *values, struct accel_error *err)
{
    struct dirent **found = NULL;
    size_t stem = strlen(path);
    int r = 0;

    if (stem > 5 && !strcmp(path + stem - 5, ".yaml"))
        stem -= 5;
    char *dir = arena_printf(a, "%.*s.d", (int)stem, path);
    int count = scandir(dir, &found, is_yaml, alphasort); /* none, or not there: -1 */
    if (count > (int)SETTINGS_DROP_INS_MAX)
        r = error_set(err, ACCEL_EINVAL, "%s has more than %u files", dir, SETTINGS_DROP_INS_MAX);
    for (int i = 0; i < count; i++) {
        if (r == 0)
            r = read_file(t, arena_printf(a, "%s/%s", dir, found[i]->d_name), a, values, err);
        free(found[i]);
    }
    free(found);
    return r;
}

/* --- the command line --- */

static struct option *make_options(const struct settings_table *t, struct arena *a)
{
    struct option *longs = ARENA_ARRAY(a, struct option, t->count + 5);
    size_t n = 0;

    for (; n < t->count; n++)
        longs[n] =
            (struct option){option_name(a, t->rows[n].name),
                            t->rows[n].type == SETTING_BOOL ? optional_argument : required_argument,
                            NULL, (int)n + 1};
    longs[n++] = (struct option){"config", required_argument, NULL, OPTION_CONFIG};
    longs[n++] = (struct option){"check-config", no_argument, NULL, OPTION_CHECK_CONFIG};
    longs[n++] = (struct option){"help", no_argument, NULL, OPTION_HELP};
    longs[n++] = (struct option){"version", no_argument, NULL, OPTION_VERSION};
    return longs;
}

struct line { /* what the command line says besides settings */
    const char *config;
    bool wants_help, wants_version, wants_check;
};

static int take_option(const struct settings_table *t, int id, bool for_values, bool *seen,
                       struct line *line, struct arena *a, void *values, struct accel_error *err)
{
    switch (id) {
    case OPTION_CONFIG:
        return set_path(&(struct setting){.name = "config"}, optarg, &line->config, a, err);
    case OPTION_HELP: line->wants_help = true; return 0;
    case OPTION_VERSION: line->wants_version = true; return 0;
    case OPTION_CHECK_CONFIG: line->wants_check = true; return 0;
    default: break;
    }
    const struct setting *s = &t->rows[id - 1];
    if (!for_values)
        return 0;
    if (s->type == SETTING_LIST && !seen[id - 1]) /* instead of the file's */
        ((struct setting_list *)((char *)values + s->offset))->count = 0;
    seen[id - 1] = true;
    int r = settings_set(s, optarg ? optarg : "true", a, values, err);
    return r < 0 ? error_wrap(err, r, "--%s", option_name(a, s->name)) : 0;
}

/* Once for the name of the file, once more, after the file, for the values. */
static int read_line(const struct settings_table *t, int argc, char **argv, bool for_values,
                     struct line *line, struct arena *a, void *values, struct accel_error *err)
{
    struct option *longs = make_options(t, a);
    bool *seen = ARENA_ARRAY(a, bool, t->count + 1);
    int id;

    opterr = 0;
    optind = 0;
    while ((id = getopt_long(argc, argv, "", longs, NULL)) != -1) {
        if (id == '?' || id == ':') {
            const char *word = argv[optind - 1];
            const struct setting *near = settings_suggest(t, word + strspn(word, "-"));
            return error_set(err, ACCEL_EINVAL,
                             "%s: unknown, or its value is missing%s%s\ntry: %s --help", word,
                             near ? "; did you mean --" : "",
                             near ? option_name(a, near->name) : "", t->program);
        }
        int r = take_option(t, id, for_values, seen, line, a, values, err);
        if (r < 0)
            return r;
    }
    if (optind < argc)
        return error_set(err, ACCEL_EINVAL, "%s: %s takes options only\ntry: %s --help",
                         argv[optind], t->program, t->program);
    return 0;
}

static int parse_all(const struct settings_table *t, int argc, char **argv, struct line *line,
                     struct arena *a, void *values, struct accel_error *err)
{
    int r = read_line(t, argc, argv, false, line, a, values, err);

    if (r < 0 || line->wants_help || line->wants_version)
        return r;
    if (line->config) {
        r = read_file(t, line->config, a, values, err);
        if (r == 0)
            r = read_drop_ins(t, line->config, a, values, err);
        if (r < 0)
            return r;
    }
    return read_line(t, argc, argv, true, line, a, values, err);
}

int settings_parse(const struct settings_table *t, int argc, char **argv, struct arena *a,
                   void *values, settings_check *check, struct accel_error *err)
{
    struct line line = {0};
    const char *help;
    int r = parse_all(t, argc, argv, &line, a, values, err);

    if (r == 0 && check && !line.wants_help && !line.wants_version)
        r = check(values, err);
    if (r < 0)
        return r;
    if (line.wants_help) {
        settings_help(t, a, &help);
        fputs(help, stdout);
    } else if (line.wants_version) {
        printf("%s %s\n", t->program, ACCEL_VERSION);
    } else if (line.wants_check) {
        printf("%s: the settings are right\n", line.config ? line.config : t->program);
    } else {
        return SETTINGS_OK;
    }
    return SETTINGS_ANSWERED;
}

/* --- a second reading --- */

static size_t field_size(const struct setting *s)
{
    switch (s->type) {
    case SETTING_BOOL: return sizeof(bool);
    case SETTING_NUMBER:
    case SETTING_DURATION:
    case SETTING_BYTES: return sizeof(uint64_t);
    case SETTING_LIST: return sizeof(struct setting_list);
    default: return sizeof(char *);
    }
}

static bool is_same_text(const char *x, const char *y)
{
    return x == y || (x && y && !strcmp(x, y));
}

static bool is_same(const struct setting *s, const void *x, const void *y)
{
    const struct setting_list *l = x, *m = y;

    switch (s->type) {
    case SETTING_TEXT:
    case SETTING_PATH:
    case SETTING_NAME:
    case SETTING_SECRET:
    case SETTING_CHOICE: return is_same_text(*(char *const *)x, *(char *const *)y);
    case SETTING_LIST:
        for (size_t i = 0; l->count == m->count && i < l->count; i++)
            if (strcmp(l->items[i], m->items[i]))
                return false;
        return l->count == m->count;
    default: return !memcmp(x, y, field_size(s));
    }
}

int settings_reload(const struct settings_table *t, int argc, char **argv, struct arena *a,
                    void *values, void *fresh, settings_check *check, settings_told *told,
                    void *ctx, struct accel_error *err)
{
    struct line line = {0};
    int r = parse_all(t, argc, argv, &line, a, fresh, err);

    if (r == 0 && check)
        r = check(fresh, err);
    if (r < 0)
        return r;
    for (size_t i = 0; i < t->count; i++) {
        const struct setting *s = &t->rows[i];
        void *old = (char *)values + s->offset, *new = (char *)fresh + s->offset;
        if (s->type == SETTING_SECRET || is_same(s, old, new)) /* one was wiped since */
            continue;
        if (s->is_reloadable)
            memcpy(old, new, field_size(s));
        told(ctx, s->name, s->is_reloadable);
    }
    return 0;
}
