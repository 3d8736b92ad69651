/* SPDX-License-Identifier: Apache-2.0 */
/*
 * table.h - aligned columns through libsmartcols, which is loaded when a table is printed and not
 * before: verbs without one start sooner. Without the library the cells are separated by tabs.
 */
#ifndef ACCEL_CLIENT_TABLE_H
#define ACCEL_CLIENT_TABLE_H

#include "client/accelctl/cli.h"

struct table_column {
    const char *name;
    bool is_right; /* numbers */
    bool may_cut;  /* on a terminal that is too narrow */
    bool is_wide;  /* only with -o wide */
};

struct table; /* opaque */
struct table *table_create(const struct table_column *columns, size_t count, bool is_wide);
void table_destroy(struct table *t);
/* Adds the next cell of the current row (every column, wide or not); text is copied; row after
 * row. color: an SGR sequence ("\033[31m") or NULL. */
void table_cell(struct table *t, const char *text, const char *color);
/* The same, formatted; "" for nothing. */
void table_cellf(struct table *t, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* The colour of a state of a job or a node; NULL for none. Static. */
const char *state_color(const char *state);
/* To stdout. */
void table_print(const struct table *t, bool use_color);

#endif
