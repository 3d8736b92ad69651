/* SPDX-License-Identifier: Apache-2.0 */
/*
 * settings_yaml.c - a settings file into the daemon's struct, with libyaml's events. What is bound
 * to what is the table's (settings.c). Lines and columns count from 1, as editors do.
 */
#include <string.h>
#include <yaml.h>

#include "common/settings.h"
#include "common/str.h"

struct reader {
    const struct settings_table *t;
    const char *name, *text;
    size_t len;
    struct arena *a;
    void *values;
    struct accel_error *err;
    yaml_parser_t parser;
    bool *seen; /* per row: of this file */
};

static int fail_at(struct reader *rd, yaml_mark_t mark, const char *fmt, ...) PRINTF_LIKE(3, 4);
static int fail_at(struct reader *rd, yaml_mark_t mark, const char *fmt, ...)
{
    char text[384];
    va_list args;

    va_start(args, fmt);
    vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    return error_set(rd->err, ACCEL_EINVAL, "%s:%zu:%zu: %s", rd->name, mark.line + 1,
                     mark.column + 1, text);
}

/* Bytes that are no text are met before they have a line. */
static yaml_mark_t mark_of_byte(const struct reader *rd, size_t offset)
{
    yaml_mark_t mark = {0};

    for (size_t i = 0; i < MIN(offset, rd->len); i++) {
        mark.column = rd->text[i] == '\n' ? 0 : mark.column + ((rd->text[i] & 0xc0) != 0x80);
        mark.line += rd->text[i] == '\n';
    }
    return mark;
}

static int next(struct reader *rd, yaml_event_t *ret_event)
{
    if (!yaml_parser_parse(&rd->parser, ret_event)) {
        ret_event->type = YAML_NO_EVENT;
        if (rd->parser.error == YAML_READER_ERROR)
            return fail_at(rd, mark_of_byte(rd, rd->parser.problem_offset),
                           "not YAML: %s (byte 0x%02x)", rd->parser.problem,
                           (unsigned)rd->parser.problem_value);
        return fail_at(rd, rd->parser.problem_mark, "not YAML: %s", rd->parser.problem);
    }
    bool is_plain = true;
    if (ret_event->type == YAML_SCALAR_EVENT)
        is_plain = !ret_event->data.scalar.anchor && !ret_event->data.scalar.tag;
    else if (ret_event->type == YAML_SEQUENCE_START_EVENT)
        is_plain = !ret_event->data.sequence_start.anchor && !ret_event->data.sequence_start.tag;
    else if (ret_event->type == YAML_MAPPING_START_EVENT)
        is_plain = !ret_event->data.mapping_start.anchor && !ret_event->data.mapping_start.tag;
    if (is_plain && ret_event->type != YAML_ALIAS_EVENT)
        return 0;
    int r = fail_at(rd, ret_event->start_mark, "anchors, aliases and tags mean nothing here");
    yaml_event_delete(ret_event);
    ret_event->type = YAML_NO_EVENT;
    return r;
}

/* The value of an event as text without NUL bytes in it. */
static int text_of(struct reader *rd, const yaml_event_t *ev, const char **ret_text)
{
    const char *text = (const char *)ev->data.scalar.value;

    if (strlen(text) != ev->data.scalar.length)
        return fail_at(rd, ev->start_mark, "a NUL byte in the text");
    *ret_text = arena_strdup(rd->a, text);
    return 0;
}

static int bind(struct reader *rd, const struct setting *s, const yaml_event_t *ev)
{
    struct accel_error why = {0};
    const char *text = NULL;
    int r = text_of(rd, ev, &text);

    if (r < 0)
        return r;
    r = settings_set(s, text, rd->a, rd->values, &why);
    return r < 0 ? fail_at(rd, ev->start_mark, "%s", why.text) : 0;
}

static int read_list(struct reader *rd, const struct setting *s)
{
    struct setting_list *list = (struct setting_list *)((char *)rd->values + s->offset);

    list->count = 0; /* instead of an earlier file's */
    for (;;) {
        yaml_event_t ev;
        int r = next(rd, &ev);
        if (r < 0)
            return r;
        bool is_end = ev.type == YAML_SEQUENCE_END_EVENT;
        if (ev.type == YAML_SCALAR_EVENT)
            r = bind(rd, s, &ev);
        else if (!is_end)
            r = fail_at(rd, ev.start_mark, "%s: a list of texts is expected", s->name);
        yaml_event_delete(&ev);
        if (r < 0 || is_end)
            return r;
    }
}

/* "history_jobs" below "" or "ca" below "tls." */
static char *full_name(struct reader *rd, const char *prefix, const char *key)
{
    char *name = arena_printf(rd->a, "%s%s", prefix, key);

    for (char *c = name; *c; c++)
        *c = *c == '_' ? '-' : *c;
    return name;
}

static bool is_prefix(const struct settings_table *t, const char *name)
{
    size_t len = strlen(name);

    for (size_t i = 0; i < t->count; i++)
        if (!strncmp(t->rows[i].name, name, len) && t->rows[i].name[len] == '.')
            return true;
    return false;
}

static int fail_unknown(struct reader *rd, yaml_mark_t mark, const char *key, const char *name)
{
    const struct setting *near = settings_suggest(rd->t, name);
    char *text = arena_strdup(rd->a, near ? near->name : "");

    for (char *c = text; *c; c++)
        *c = *c == '-' ? '_' : *c;
    return fail_at(rd, mark, "unknown key '%s'%s%s%s", key, near ? " (did you mean '" : "", text,
                   near ? "'?)" : "");
}

static int read_mapping(struct reader *rd, const char *prefix);

static int read_value(struct reader *rd, const char *name, size_t row)
{
    const struct setting *s = row < rd->t->count ? &rd->t->rows[row] : NULL;
    yaml_event_t ev;
    int r = next(rd, &ev);

    if (r < 0)
        return r;
    if (!s && ev.type == YAML_MAPPING_START_EVENT)
        r = read_mapping(rd, arena_printf(rd->a, "%s.", name));
    else if (!s)
        r = fail_at(rd, ev.start_mark, "%s: a mapping is expected", name);
    else if (ev.type == YAML_SEQUENCE_START_EVENT && s->type == SETTING_LIST)
        r = read_list(rd, s);
    else if (ev.type != YAML_SCALAR_EVENT)
        r = fail_at(rd, ev.start_mark, "%s: %s is expected", name,
                    s->type == SETTING_LIST ? "a list of texts" : "one value");
    else {
        if (s->type == SETTING_LIST) /* one text is a list of one */
            ((struct setting_list *)((char *)rd->values + s->offset))->count = 0;
        r = bind(rd, s, &ev);
    }
    yaml_event_delete(&ev);
    return r;
}

static int read_pair(struct reader *rd, const char *prefix, const yaml_event_t *ev)
{
    const char *key = NULL;
    size_t row = 0;
    int r = text_of(rd, ev, &key);

    if (r < 0)
        return r;
    char *name = full_name(rd, prefix, key);
    while (row < rd->t->count && strcmp(rd->t->rows[row].name, name))
        row++;
    bool is_known = row < rd->t->count && !rd->t->rows[row].is_command_line_only;
    if (row < rd->t->count && !is_known)
        return fail_at(rd, ev->start_mark, "'%s' is an option of the command line only", key);
    if (!is_known && (prefix[0] || !is_prefix(rd->t, name)))
        return fail_unknown(rd, ev->start_mark, key, name);
    if (is_known && rd->seen[row])
        return fail_at(rd, ev->start_mark, "'%s' stands here twice", key);
    if (is_known)
        rd->seen[row] = true;
    return read_value(rd, name, row);
}

/* After the start of a mapping, up to and with its end. */
static int read_mapping(struct reader *rd, const char *prefix)
{
    for (;;) {
        yaml_event_t ev;
        int r = next(rd, &ev);
        if (r < 0)
            return r;
        bool is_end = ev.type == YAML_MAPPING_END_EVENT;
        if (ev.type == YAML_SCALAR_EVENT)
            r = read_pair(rd, prefix, &ev);
        else if (!is_end)
            r = fail_at(rd, ev.start_mark, "a key is expected");
        yaml_event_delete(&ev);
        if (r < 0 || is_end)
            return r;
    }
}

static int read_stream(struct reader *rd)
{
    bool has_content = false;

    for (;;) {
        yaml_event_t ev;
        int r = next(rd, &ev);
        if (r < 0)
            return r;
        bool is_end = ev.type == YAML_STREAM_END_EVENT;
        if (ev.type == YAML_DOCUMENT_START_EVENT && has_content)
            r = fail_at(rd, ev.start_mark, "a second document: one is expected");
        else if (ev.type == YAML_DOCUMENT_START_EVENT)
            has_content = true;
        else if (ev.type == YAML_MAPPING_START_EVENT)
            r = read_mapping(rd, "");
        else if (ev.type == YAML_SEQUENCE_START_EVENT ||
                 (ev.type == YAML_SCALAR_EVENT && ev.data.scalar.length))
            r = fail_at(rd, ev.start_mark, "settings are expected, as `name: value`");
        yaml_event_delete(&ev);
        if (r < 0 || is_end)
            return r;
    }
}

int settings_read_yaml(const struct settings_table *t, const char *name, const char *text,
                       size_t len, struct arena *a, void *values, struct accel_error *err)
{
    struct reader rd = {
        .t = t, .name = name, .text = text, .len = len, .a = a, .values = values, .err = err};

    rd.seen = ARENA_ARRAY(a, bool, t->count + 1);
    if (!yaml_parser_initialize(&rd.parser))
        return error_set(err, ACCEL_ENOMEM, "%s: no memory to read it", name);
    yaml_parser_set_input_string(&rd.parser, (const unsigned char *)text, len);
    int r = read_stream(&rd);
    yaml_parser_delete(&rd.parser);
    return r;
}
