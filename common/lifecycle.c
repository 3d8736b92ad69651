/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads, verifies and draws the tables of lifecycle.h. It knows no life of ours and writes no
 * state: that is x_apply()'s alone. The drawing is compared with docs/LIFECYCLES.md, so it depends
 * on nothing but the table.
 */
#include "common/lifecycle.h"

#include <stdio.h>
#include <string.h>

#include "common/error.h"

#define EFFECTS_MAX 32u /* bits of lifecycle_row.effects */

const struct lifecycle_row *lifecycle_find(const struct lifecycle *lc, uint8_t state, uint8_t event,
                                           const void *object, const void *ev)
{
    for (size_t i = 0; i < lc->row_count; i++) {
        const struct lifecycle_row *row = &lc->rows[i];
        if (row->state == state && row->event == event &&
            (row->guard == NULL || row->guard->holds(object, ev))) {
            return row;
        }
    }
    return NULL;
}

/* ---- verification ---- */

struct verifier {
    const struct lifecycle *lc;
    char *text;
    size_t size;
};

/* Says what is wrong with the pair; returns ACCEL_EINVAL. */
static int broken(const struct verifier *v, unsigned state, unsigned event, const char *what)
{
    snprintf(v->text, v->size, "%s: (%s, %s): %s", v->lc->name, v->lc->state_names[state],
             v->lc->event_names[event], what);
    return ACCEL_EINVAL;
}

static bool has_text(const char *s)
{
    return s != NULL && s[0] != '\0';
}

static int test_names(const struct verifier *v, const char *what, const char *const *names,
                      size_t count, size_t max)
{
    if (count > max || (count > 0 && names == NULL)) {
        snprintf(v->text, v->size, "%s: %zu %ss, %s", v->lc->name, count, what,
                 count > max ? "too many" : "without names");
        return ACCEL_EINVAL;
    }
    for (size_t i = 0; i < count; i++) {
        if (!has_text(names[i])) {
            snprintf(v->text, v->size, "%s: %s %zu has no name", v->lc->name, what, i);
            return ACCEL_EINVAL;
        }
        for (size_t j = 0; j < i; j++) {
            if (strcmp(names[i], names[j]) == 0) {
                snprintf(v->text, v->size, "%s: %ss %zu and %zu are both called %s", v->lc->name,
                         what, j, i, names[i]);
                return ACCEL_EINVAL;
            }
        }
    }
    return 0;
}

static int test_frame(const struct verifier *v)
{
    const struct lifecycle *lc = v->lc;
    if (!has_text(lc->name)) {
        snprintf(v->text, v->size, "a lifecycle has no name");
        return ACCEL_EINVAL;
    }
    int r = test_names(v, "state", lc->state_names, lc->state_count, UINT8_MAX);
    if (r == 0) {
        r = test_names(v, "event", lc->event_names, lc->event_count, UINT8_MAX);
    }
    if (r == 0) {
        r = test_names(v, "effect", lc->effect_names, lc->effect_count, EFFECTS_MAX);
    }
    if (r < 0) {
        return r;
    }
    if (lc->state_count == 0 || lc->event_count == 0 || (lc->row_count > 0 && lc->rows == NULL)) {
        snprintf(v->text, v->size, "%s: no states, no events or no rows", lc->name);
        return ACCEL_EINVAL;
    }
    if (lc->initial_state >= lc->state_count ||
        (lc->end_state >= lc->state_count && lc->end_state != LIFECYCLE_NO_END)) {
        snprintf(v->text, v->size, "%s: the initial or the end state does not exist", lc->name);
        return ACCEL_EINVAL;
    }
    return 0;
}

static int test_row(const struct verifier *v, size_t i)
{
    const struct lifecycle *lc = v->lc;
    const struct lifecycle_row *row = &lc->rows[i];
    if (row->state >= lc->state_count || row->event >= lc->event_count ||
        row->kind > LIFECYCLE_REFUSE ||
        (row->kind == LIFECYCLE_MOVE && row->next >= lc->state_count)) {
        snprintf(v->text, v->size, "%s: row %zu: no such state, event, kind or next state",
                 lc->name, i);
        return ACCEL_EINVAL;
    }
    uint64_t named = ((uint64_t)1 << lc->effect_count) - 1;
    if ((row->effects & ~named) != 0) {
        return broken(v, row->state, row->event, "an effect has no name");
    }
    if (row->guard != NULL && (!has_text(row->guard->name) || row->guard->holds == NULL)) {
        return broken(v, row->state, row->event, "a guard has no name or no function");
    }
    if (row->kind == LIFECYCLE_MOVE) {
        if (row->state == lc->end_state && row->next != lc->end_state) {
            return broken(v, row->state, row->event, "the end state is left");
        }
        return 0;
    }
    if (!has_text(row->why)) {
        return broken(v, row->state, row->event, "ignored or refused without a reason");
    }
    if (row->effects != 0) {
        return broken(v, row->state, row->event, "ignored or refused, yet with effects");
    }
    return 0;
}

/* Rows of one pair: guarded ones, all different, then exactly one that always applies. */
static int test_pair(const struct verifier *v, unsigned state, unsigned event)
{
    const struct lifecycle *lc = v->lc;
    bool is_covered = false;
    size_t count = 0;
    for (size_t i = 0; i < lc->row_count; i++) {
        const struct lifecycle_row *row = &lc->rows[i];
        if (row->state != state || row->event != event) {
            continue;
        }
        count++;
        if (is_covered) {
            return broken(v, state, event, "a row after one without a guard never applies");
        }
        is_covered = row->guard == NULL;
        for (size_t j = 0; j < i && row->guard != NULL; j++) {
            if (lc->rows[j].state == state && lc->rows[j].event == event &&
                lc->rows[j].guard == row->guard) {
                return broken(v, state, event, "the same guard twice");
            }
        }
    }
    if (count == 0) {
        return broken(v, state, event, "not covered: neither a move, nor ignored, nor refused");
    }
    return is_covered ? 0 : broken(v, state, event, "not covered when no guard holds");
}

static int test_reach(const struct verifier *v)
{
    const struct lifecycle *lc = v->lc;
    bool is_reached[UINT8_MAX + 1] = {false};
    bool is_growing = true;
    is_reached[lc->initial_state] = true;
    while (is_growing) {
        is_growing = false;
        for (size_t i = 0; i < lc->row_count; i++) {
            const struct lifecycle_row *row = &lc->rows[i];
            if (row->kind == LIFECYCLE_MOVE && is_reached[row->state] && !is_reached[row->next]) {
                is_reached[row->next] = true;
                is_growing = true;
            }
        }
    }
    for (unsigned s = 0; s < lc->state_count; s++) {
        if (!is_reached[s]) {
            snprintf(v->text, v->size, "%s: %s is never reached from %s", lc->name,
                     lc->state_names[s], lc->state_names[lc->initial_state]);
            return ACCEL_EINVAL;
        }
    }
    return 0;
}

int lifecycle_test(const struct lifecycle *lc, char *text, size_t size)
{
    struct verifier v = {.lc = lc, .text = text, .size = size};
    int r = test_frame(&v);
    for (size_t i = 0; r == 0 && i < lc->row_count; i++) {
        r = test_row(&v, i);
    }
    for (unsigned s = 0; r == 0 && s < lc->state_count; s++) {
        for (unsigned e = 0; r == 0 && e < lc->event_count; e++) {
            r = test_pair(&v, s, e);
        }
    }
    return r == 0 ? test_reach(&v) : r;
}

void lifecycle_verify(const struct lifecycle *lc)
{
    char text[256];
    int r = lifecycle_test(lc, text, sizeof(text));
    if (r < 0) {
        base_check_failed(text, __FILE__, __LINE__);
    }
}

/* ---- drawing ---- */

/* A cell of a Markdown table: a bar would end it. */
static void add_cell(struct str *out, const char *text)
{
    str_adds(out, " ");
    for (; *text != '\0'; text++) {
        if (*text == '|') {
            str_addc(out, '\\');
        }
        str_addc(out, *text == '\n' ? ' ' : *text);
    }
    str_adds(out, " |");
}

static void draw_move(const struct lifecycle *lc, const struct lifecycle_row *row, struct str *out)
{
    AUTO_STR struct str effects = {0};
    str_init(&effects);
    for (unsigned bit = 0; bit < lc->effect_count; bit++) {
        if ((row->effects >> bit & 1) != 0) {
            str_addf(&effects, "%s%s", effects.len > 0 ? ", " : "", lc->effect_names[bit]);
        }
    }
    add_cell(out, lc->state_names[row->next]);
    add_cell(out, effects.data);
    add_cell(out, row->why != NULL ? row->why : "");
}

/* Rows of one kind, by state, then event, then as the table has them; nothing at all if there
 * are none. */
static void draw_kind(const struct lifecycle *lc, enum lifecycle_kind kind, const char *head,
                      struct str *out)
{
    bool has_rows = false;
    for (unsigned pair = 0; pair < (unsigned)lc->state_count * lc->event_count; pair++) {
        for (size_t i = 0; i < lc->row_count; i++) {
            const struct lifecycle_row *row = &lc->rows[i];
            if (row->kind != kind || row->state != pair / lc->event_count ||
                row->event != pair % lc->event_count) {
                continue;
            }
            if (!has_rows) {
                str_adds(out, head);
                has_rows = true;
            }
            str_addc(out, '|');
            add_cell(out, lc->state_names[row->state]);
            add_cell(out, lc->event_names[row->event]);
            add_cell(out, row->guard != NULL ? row->guard->name : "");
            if (kind == LIFECYCLE_MOVE) {
                draw_move(lc, row, out);
            } else {
                add_cell(out, row->why);
            }
            str_addc(out, '\n');
        }
    }
}

void lifecycle_draw(const struct lifecycle *lc, struct str *out)
{
    str_addf(out, "## %s\n\nBegins in %s and ", lc->name, lc->state_names[lc->initial_state]);
    if (lc->end_state == LIFECYCLE_NO_END) {
        str_adds(out, "has no end.\n");
    } else {
        str_addf(out, "ends in %s, which nothing leaves.\n", lc->state_names[lc->end_state]);
    }
    draw_kind(lc, LIFECYCLE_MOVE,
              "\n| state | event | if | next | effects | why |\n|---|---|---|---|---|---|\n", out);
    draw_kind(lc, LIFECYCLE_IGNORE,
              "\nIgnored:\n\n| state | event | if | because |\n|---|---|---|---|\n", out);
    draw_kind(lc, LIFECYCLE_REFUSE,
              "\nRefused:\n\n| state | event | if | the caller is told |\n|---|---|---|---|\n",
              out);
}
