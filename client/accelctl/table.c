/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Aligned columns. A list may have ten thousand rows, so the text of all cells is one buffer, a
 * cell is where it ends there, and a column that is not shown costs nothing. Knows nothing of jobs.
 */
#include "client/accelctl/table.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define CELL_BYTES     1024      /* of a formatted cell; longer ones are cut, people see a table */
#define TEXT_BYTES     (1 << 20) /* of a cell; longer ones are cut */
#define CHUNK_BYTES    65536 /* written at once: what a pipe takes, and fresh memory costs more */
#define TERMINAL_WIDTH 80    /* of one that tells none */
#define WIDTH_KEPT     20    /* characters of a column that others are cut before */

static const char *const color_texts[] = {NULL, "\033[32m", "\033[31m", "\033[33m"};
#define HEADER_COLOR "\033[1m"
#define COLOR_END    "\033[0m"

struct cell {
    uint32_t len;        /* bytes of text; it begins where the one before ends */
    uint32_t width : 24; /* characters */
    uint32_t color : 8;  /* enum table_color */
};
_Static_assert(TEXT_BYTES * 4 < 1 << 24, "a width has 24 bits, a byte becomes at most \\xNN");

struct table {
    const struct table_column *columns;
    size_t count;
    size_t shown_count;
    size_t next; /* column of the next cell */
    bool is_wide;
    bool has_header; /* is above already */
    size_t *shown;   /* index into columns */
    size_t *widths;  /* of the shown columns, in characters */
    struct str text;
    struct cell *cells; /* of the shown columns, row after row */
    size_t used, cap;
};

struct table *table_create(const struct table_column *columns, size_t count, bool is_wide)
{
    struct table *t = xcalloc(1, sizeof *t);

    CHECK(count > 0);
    t->columns = columns;
    t->count = count;
    t->is_wide = is_wide;
    t->shown = xcalloc(count, sizeof t->shown[0]);
    t->widths = xcalloc(count, sizeof t->widths[0]);
    str_init(&t->text);
    for (size_t i = 0; i < count; i++) {
        if (columns[i].is_wide && !is_wide)
            continue;
        t->shown[t->shown_count] = i;
        t->widths[t->shown_count++] = strlen(columns[i].name);
    }
    CHECK(t->shown_count > 0);
    return t;
}

void table_destroy(struct table *t)
{
    if (!t)
        return;
    str_done(&t->text);
    free(t->cells);
    free(t->shown);
    free(t->widths);
    free(t);
}

/* Takes the next column's turn; false when it is not shown. */
static bool next_is_shown(struct table *t)
{
    const struct table_column *c = &t->columns[t->next];

    t->next = t->next + 1 < t->count ? t->next + 1 : 0;
    return t->is_wide || !c->is_wide;
}

/* The last len bytes of the text are one. */
static void end_cell(struct table *t, size_t len, size_t width, enum table_color color)
{
    size_t column = t->used % t->shown_count;

    if (t->used == t->cap) {
        t->cap = t->cap ? t->cap * 2 : 256;
        t->cells = xrealloc(t->cells, t->cap * sizeof t->cells[0]);
    }
    t->cells[t->used++] = (struct cell){(uint32_t)len, (uint32_t)width, color};
    t->widths[column] = MAX(t->widths[column], width);
}

/* Appends what is not all printable ASCII. */
static void add_visible(struct str *text, const char *p, size_t len)
{
    while (len > 0) { /* a tab is no width */
        const char *tab = memchr(p, '\t', len);
        size_t n = tab ? (size_t)(tab - p) : len;

        str_add_visible(text, p, n);
        if (tab) {
            str_adds(text, "\\x09");
            n++;
        }
        p += n;
        len -= n;
    }
}

static void add_cell_text(struct table *t, const char *p, size_t len, enum table_color color)
{
    size_t begin = t->text.len, plain = 0, width = 0;

    len = MIN(len, (size_t)TEXT_BYTES);
    while (plain < len && p[plain] >= 0x20 && p[plain] < 0x7f)
        plain++;
    if (plain == len) {
        str_add(&t->text, p, len);
        end_cell(t, len, len, color);
        return;
    }
    add_visible(&t->text, p, len);
    for (size_t i = begin; i < t->text.len; i++)
        width += (t->text.data[i] & 0xc0) != 0x80;
    end_cell(t, t->text.len - begin, width, color);
}

void table_cell(struct table *t, const char *text, enum table_color color)
{
    if (!next_is_shown(t))
        return;
    add_cell_text(t, text, strlen(text), color);
}

void table_cell_bytes(struct table *t, const void *p, size_t len)
{
    if (!next_is_shown(t))
        return;
    add_cell_text(t, p, len, TABLE_PLAIN);
}

void table_cell_number(struct table *t, uint64_t n)
{
    size_t begin = t->text.len;

    if (!next_is_shown(t))
        return;
    str_add_number(&t->text, n);
    end_cell(t, t->text.len - begin, t->text.len - begin, TABLE_PLAIN);
}

void table_cell_age(struct table *t, int64_t ms)
{
    size_t begin = t->text.len;

    if (!next_is_shown(t))
        return;
    str_add_age(&t->text, ms);
    end_cell(t, t->text.len - begin, t->text.len - begin, TABLE_PLAIN);
}

void table_cellf(struct table *t, const char *fmt, ...)
{
    char text[CELL_BYTES];
    va_list ap;

    if (!next_is_shown(t))
        return;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    add_cell_text(t, text, strlen(text), TABLE_PLAIN);
}

enum table_color state_color(const char *state)
{
    static const struct {
        const char *state;
        enum table_color color;
    } colors[] = {{"RUNNING", TABLE_GREEN}, {"SUCCEEDED", TABLE_GREEN}, {"READY", TABLE_GREEN},
                  {"FAILED", TABLE_RED},    {"LOST", TABLE_RED},        {"TIMED_OUT", TABLE_RED},
                  {"PENDING", TABLE_YELLOW}};

    for (size_t i = 0; i < ARRAY_LEN(colors); i++) {
        if (strcmp(colors[i].state, state) == 0)
            return colors[i].color;
    }
    return TABLE_PLAIN;
}

#define HIDDEN SIZE_MAX /* width of a column that is not shown */

/* Makes the columns that may be cut narrower, the last first, until a line has `width` characters.
 * Returns how many it has now. */
static size_t cut_columns(const struct table *t, size_t width, size_t total, size_t least,
                          size_t *widths)
{
    for (size_t i = t->shown_count; i-- > 0 && total > width;) {
        const struct table_column *c = &t->columns[t->shown[i]];
        size_t kept = MAX(strlen(c->name), least);

        if (!c->may_cut || widths[i] == HIDDEN || widths[i] <= kept)
            continue;
        size_t less = MIN(widths[i] - kept, total - width);

        widths[i] -= less;
        total -= less;
    }
    return total;
}

/* Columns are cut down to WIDTH_KEPT each, then hidden, then cut down to their names. */
static void fit(const struct table *t, size_t width, size_t *widths)
{
    size_t total = t->shown_count - 1;

    for (size_t i = 0; i < t->shown_count; i++)
        total += widths[i];
    total = cut_columns(t, width, total, WIDTH_KEPT, widths);
    for (size_t i = t->shown_count; i-- > 0 && total > width;) {
        if (!t->columns[t->shown[i]].may_hide)
            continue;
        total -= widths[i] + 1;
        widths[i] = HIDDEN;
    }
    cut_columns(t, width, total, 0, widths);
}

/* What a cut text ends with. */
static const char *cut_mark(void)
{
    static const char *const names[] = {"LC_ALL", "LC_CTYPE", "LANG"};

    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        const char *locale = getenv(names[i]);

        if (locale && locale[0] != '\0') /* the first one that is set counts */
            return strcasestr(locale, "utf-8") || strcasestr(locale, "utf8") ? "\xe2\x80\xa6" : "+";
    }
    return "+";
}

/* Bytes of the first `width` characters. */
static size_t cut_length(const char *p, size_t len, size_t width)
{
    size_t i = 0;

    for (; i < len; i++) {
        if ((p[i] & 0xc0) != 0x80 && width-- == 0)
            break;
    }
    return i;
}

/* One line in a buffer that is large enough. Blanks are owed, and only paid when something
 * follows. */
struct line {
    char *at;
    size_t owed;
};

static void add_bytes(struct line *line, const char *p, size_t len)
{
    memcpy(line->at, p, len);
    line->at += len;
}

static void add_cell(struct line *line, const char *p, size_t len, size_t blanks, bool is_right,
                     const char *color)
{
    if (len == 0) {
        line->owed += blanks;
        return;
    }
    size_t before = line->owed + (is_right ? blanks : 0);

    memset(line->at, ' ', before);
    line->at += before;
    line->owed = is_right ? 0 : blanks;
    if (color)
        add_bytes(line, color, strlen(color));
    add_bytes(line, p, len);
    if (color)
        add_bytes(line, COLOR_END, sizeof COLOR_END - 1);
}

static void add_header(const struct table *t, const size_t *widths, bool use_color, char *buf,
                       struct str *out)
{
    struct line line = {buf, 0};

    if (use_color)
        str_adds(out, HEADER_COLOR);
    for (size_t i = 0; i < t->shown_count; i++) {
        const struct table_column *c = &t->columns[t->shown[i]];
        size_t len = strlen(c->name);

        if (widths[i] == HIDDEN)
            continue;
        line.owed += i > 0;
        add_cell(&line, c->name, len, widths[i] - len, c->is_right, NULL);
    }
    str_add(out, buf, (size_t)(line.at - buf));
    str_adds(out, use_color ? COLOR_END "\n" : "\n");
}

/* Appends a row whose text begins at p; returns where that of the next one does. */
static const char *add_row(const struct table *t, const size_t *widths, const char *mark,
                           const struct cell *cells, const char *p, bool use_color, char *buf,
                           struct str *out)
{
    struct line line = {buf, 0};

    for (size_t i = 0; i < t->shown_count; i++) {
        const struct cell *cell = &cells[i];
        bool is_cut = cell->width > widths[i], is_marked = is_cut && widths[i] > 1;
        size_t len = is_cut ? cut_length(p, cell->len, widths[i] - is_marked) : cell->len;

        if (widths[i] == HIDDEN) {
            p += cell->len;
            continue;
        }
        line.owed += i > 0;
        add_cell(&line, p, len, is_cut ? 0 : widths[i] - cell->width,
                 t->columns[t->shown[i]].is_right, use_color ? color_texts[cell->color] : NULL);
        if (is_marked)
            add_bytes(&line, mark, strlen(mark));
        p += cell->len;
    }
    add_bytes(&line, "\n", 1);
    str_add(out, buf, (size_t)(line.at - buf));
    return p;
}

/* What add_row may need: four bytes a character, colours, blanks between. */
static size_t line_bound(const struct table *t, const size_t *widths)
{
    size_t bound = 1;

    for (size_t i = 0; i < t->shown_count; i++)
        bound +=
            4 * (widths[i] == HIDDEN ? 0 : widths[i]) + sizeof "\033[32m" + sizeof COLOR_END + 1;
    return bound;
}

/* To out, or chunk by chunk to stdout. */
static void format(const struct table *t, bool use_color, size_t width, bool is_printing,
                   struct str *out)
{
    AUTO_FREE size_t *widths = xcalloc(t->shown_count, sizeof widths[0]);
    AUTO_FREE char *buf = NULL;
    const char *p = t->text.data, *mark = width > 0 ? cut_mark() : "";

    memcpy(widths, t->widths, t->shown_count * sizeof widths[0]);
    if (width > 0)
        fit(t, width, widths);
    buf = xrealloc(NULL, line_bound(t, widths));
    if (!t->has_header)
        add_header(t, widths, use_color, buf, out);
    for (size_t row = 0; row + t->shown_count <= t->used; row += t->shown_count) {
        p = add_row(t, widths, mark, t->cells + row, p, use_color, buf, out);
        if (is_printing && out->len >= CHUNK_BYTES) {
            cli_write_str(STDOUT_FILENO, out);
            str_clear(out);
        }
    }
}

void table_format(const struct table *t, bool use_color, size_t width, struct str *out)
{
    format(t, use_color, width, false, out);
}

void table_clear(struct table *t)
{
    str_clear(&t->text);
    t->used = 0;
    t->has_header = true;
}

#define TERMINAL_HEIGHT 24 /* of one that tells none */

size_t table_terminal_size(size_t *ret_rows)
{
    const char *columns = getenv("COLUMNS");
    struct winsize size = {0};
    uint64_t width;

    *ret_rows = 0;
    if (!isatty(STDOUT_FILENO))
        return 0;
    ioctl(STDOUT_FILENO, TIOCGWINSZ, &size);
    *ret_rows = size.ws_row > 0 ? size.ws_row : TERMINAL_HEIGHT;
    if (size.ws_col > 0)
        return size.ws_col;
    if (columns && parse_u64(columns, 1, UINT16_MAX, &width) == 0)
        return width;
    return TERMINAL_WIDTH;
}

void table_print(const struct table *t, bool use_color)
{
    AUTO_STR struct str out = {0};
    size_t rows;

    str_init(&out);
    format(t, use_color, table_terminal_size(&rows), true, &out);
    cli_write_str(STDOUT_FILENO, &out);
}
