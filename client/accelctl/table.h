/* SPDX-License-Identifier: Apache-2.0 */
/*
 * table.h - aligned columns for people. Cells are added row after row and laid out at the end, when
 * the width of every column is known. Widths count code points, so wide East Asian letters are not
 * aligned. Aborts when memory ends.
 */
#ifndef ACCEL_CLIENT_TABLE_H
#define ACCEL_CLIENT_TABLE_H

#include "client/accelctl/cli.h"

struct table_column {
    const char *name; /* ASCII */
    bool is_right;    /* numbers */
    bool may_cut;     /* on a terminal that is too narrow */
    bool may_hide;    /* on one that is narrower still; the last such column first */
    bool is_wide;     /* only with -o wide */
};

enum table_color { TABLE_PLAIN, TABLE_GREEN, TABLE_RED, TABLE_YELLOW };

struct table; /* opaque */
/* columns must outlive the table. */
struct table *table_create(const struct table_column *columns, size_t count, bool is_wide);
void table_destroy(struct table *t);
/* Each of these adds the next cell of the current row (every column, wide or not) and copies what
 * it is given; "" for nothing. What is no visible UTF-8 becomes \xNN. */
void table_cell(struct table *t, const char *text, enum table_color color);
void table_cell_bytes(struct table *t, const void *p, size_t len);
void table_cell_number(struct table *t, uint64_t n);
void table_cell_age(struct table *t, int64_t ms); /* str_add_age */
/* Cut at 1023 bytes. */
void table_cellf(struct table *t, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* The colour of a state of a job or a node. */
enum table_color state_color(const char *state);
/* Appends all complete rows below a header, no line with blanks at its end. width: cells of the
 * columns that may be cut are, from the last column on, until a line has so many characters, and
 * end with a mark; columns that may be hidden go; 0 cuts nothing. */
void table_format(const struct table *t, bool use_color, size_t width, struct str *out);
/* Forgets the rows. The columns stay as wide as they were, and no header stands above the rows that
 * come: they are printed below the ones before. */
void table_clear(struct table *t);
/* Width and height of the terminal on stdout; 0 when it is none. */
size_t table_terminal_size(size_t *ret_rows);
/* The same to stdout, in the width of the terminal when it is one. */
void table_print(const struct table *t, bool use_color);

#endif
