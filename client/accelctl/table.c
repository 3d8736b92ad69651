/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Aligned columns. Cells are kept here and given to libsmartcols at the end, so that the library is
 * needed by one function only; it is loaded with dlopen because most verbs print no table. Knows
 * nothing of jobs.
 */
#include "client/accelctl/table.h"

#include <dlfcn.h>
#include <libsmartcols/libsmartcols.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define CELL_BYTES 1024 /* of a formatted cell; longer ones are cut, people see a table */

struct cell {
    char *text;
    const char *color;
};

struct table {
    const struct table_column *columns;
    size_t count;
    bool is_wide;
    struct cell *cells;
    size_t used, cap;
};

/* The few functions of the library that are needed, found by name. */
struct smartcols {
    __typeof__(scols_new_table) *new_table;
    __typeof__(scols_unref_table) *unref_table;
    __typeof__(scols_table_new_column) *new_column;
    __typeof__(scols_table_new_line) *new_line;
    __typeof__(scols_line_set_data) *set_data;
    __typeof__(scols_line_get_cell) *get_cell;
    __typeof__(scols_cell_set_color) *set_color;
    __typeof__(scols_table_enable_colors) *enable_colors;
    __typeof__(scols_print_table_to_string) *print;
    __typeof__(scols_table_set_termforce) *set_termforce;
};

struct table *table_create(const struct table_column *columns, size_t count, bool is_wide)
{
    struct table *t = xcalloc(1, sizeof *t);

    t->columns = columns;
    t->count = count;
    t->is_wide = is_wide;
    return t;
}

void table_destroy(struct table *t)
{
    if (!t)
        return;
    for (size_t i = 0; i < t->used; i++)
        free(t->cells[i].text);
    free(t->cells);
    free(t);
}

void table_cell(struct table *t, const char *text, const char *color)
{
    AUTO_STR struct str visible = {0};

    if (t->used == t->cap) {
        t->cap = t->cap ? t->cap * 2 : 256;
        t->cells = xrealloc(t->cells, t->cap * sizeof t->cells[0]);
    }
    str_init(&visible);
    str_add_visible(&visible, text, strlen(text));
    t->cells[t->used].text = str_steal(&visible);
    t->cells[t->used].color = color;
    t->used++;
}

void table_cellf(struct table *t, const char *fmt, ...)
{
    char text[CELL_BYTES];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    table_cell(t, text, NULL);
}

const char *state_color(const char *state)
{
    static const struct {
        const char *state, *color;
    } colors[] = {{"RUNNING", "\033[32m"}, {"SUCCEEDED", "\033[32m"}, {"READY", "\033[32m"},
                  {"FAILED", "\033[31m"},  {"LOST", "\033[31m"},      {"TIMED_OUT", "\033[31m"},
                  {"PENDING", "\033[33m"}};

    for (size_t i = 0; i < ARRAY_LEN(colors); i++) {
        if (strcmp(colors[i].state, state) == 0)
            return colors[i].color;
    }
    return NULL;
}

static bool load(struct smartcols *lib)
{
    void *handle = dlopen("libsmartcols.so.1", RTLD_LAZY | RTLD_LOCAL);
    const struct {
        const char *name;
        void *slot;
    } wanted[] = {
        {"scols_new_table", &lib->new_table},
        {"scols_unref_table", &lib->unref_table},
        {"scols_table_new_column", &lib->new_column},
        {"scols_table_new_line", &lib->new_line},
        {"scols_line_set_data", &lib->set_data},
        {"scols_line_get_cell", &lib->get_cell},
        {"scols_cell_set_color", &lib->set_color},
        {"scols_table_enable_colors", &lib->enable_colors},
        {"scols_print_table_to_string", &lib->print},
        {"scols_table_set_termforce", &lib->set_termforce},
    };

    if (!handle)
        return false;
    for (size_t i = 0; i < ARRAY_LEN(wanted); i++) {
        void *symbol = dlsym(handle, wanted[i].name);

        if (!symbol)
            return false;
        memcpy(wanted[i].slot, &symbol, sizeof symbol);
    }
    return true;
}

static bool is_shown(const struct table *t, size_t column)
{
    return t->is_wide || !t->columns[column].is_wide;
}

static void print_plain(const struct table *t)
{
    AUTO_STR struct str out = {0};

    str_init(&out);
    for (size_t i = 0; i < t->count; i++)
        if (is_shown(t, i))
            str_addf(&out, "%s%s", i > 0 ? "\t" : "", t->columns[i].name);
    str_addc(&out, '\n');
    for (size_t i = 0; i < t->used; i++) {
        if (is_shown(t, i % t->count))
            str_addf(&out, "%s%s", i % t->count > 0 ? "\t" : "", t->cells[i].text);
        if (i % t->count == t->count - 1)
            str_addc(&out, '\n');
    }
    cli_write_str(STDOUT_FILENO, &out);
}

/* False: the library has no memory, and what it holds is not the table. */
static bool fill(const struct table *t, const struct smartcols *lib, struct libscols_table *tb,
                 bool use_color)
{
    struct libscols_line *line = NULL;
    size_t at = 0;

    for (size_t i = 0; i < t->count; i++) {
        const struct table_column *c = &t->columns[i];

        int flags = (c->is_right ? SCOLS_FL_RIGHT : 0) | (c->may_cut ? SCOLS_FL_TRUNC : 0);

        if (is_shown(t, i) && !lib->new_column(tb, c->name, 0, flags))
            return false;
    }
    for (size_t i = 0; i < t->used; i++) {
        if (i % t->count == 0) {
            line = lib->new_line(tb, NULL);
            at = 0;
        }
        if (!line)
            return false;
        if (!is_shown(t, i % t->count))
            continue;
        if (lib->set_data(line, at, t->cells[i].text) < 0)
            return false;
        if (use_color && t->cells[i].color)
            lib->set_color(lib->get_cell(line, at), t->cells[i].color);
        at++;
    }
    return true;
}

void table_print(const struct table *t, bool use_color)
{
    struct smartcols lib = {0};
    struct libscols_table *tb;
    AUTO_FREE char *text = NULL;

    if (!load(&lib) || !(tb = lib.new_table())) {
        print_plain(t);
        return;
    }
    if (use_color)
        lib.enable_colors(tb, 1);
    if (isatty(STDOUT_FILENO))
        lib.set_termforce(tb, SCOLS_TERMFORCE_ALWAYS);
    if (!fill(t, &lib, tb, use_color) || lib.print(tb, &text) < 0 || !text) {
        print_plain(t);
    } else {
        size_t len = strlen(text);

        cli_write(STDOUT_FILENO, text, len);
        if (len > 0 && text[len - 1] != '\n')
            cli_write(STDOUT_FILENO, "\n", 1);
    }
    lib.unref_table(tb);
}
