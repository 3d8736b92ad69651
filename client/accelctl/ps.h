/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ps.h - the list of jobs, once (ps.c) or as it changes (ps_watch.c): what is asked for, which of
 * the answers are wanted, and the rows of the table. One thread.
 */
#ifndef ACCEL_CLIENT_PS_H
#define ACCEL_CLIENT_PS_H

#include "client/accelctl/session.h"
#include "client/accelctl/table.h"
#include "client/accelctl/view.h"

struct listing {
    const struct cli *cli;
    enum view_form form;
    int64_t now_ms, since_ms;
    struct view_items *items; /* JSON and YAML */
    struct table *table;      /* else */
    struct str names;         /* VIEW_NAME */
    uint64_t last_id;
    uint32_t states;        /* bits: places in state_names; 0: all */
    const uint64_t *ids;    /* asked for by name */
    size_t id_count, id_at; /* answers come in the same order */
    uint64_t missing;       /* the first of ids that no answer came for; 0: none */
    size_t shown;
    bool has_more;
};

/* The first part of the list; a later one differs in after_id. Borrows the ids of l. */
void ps_request(const struct listing *l, Accel__V1__ListRequest *ret_req);
/* By user, state and time. */
bool ps_wants(const struct listing *l, const Accel__V1__Job *job);
/* For ps_add_row; the caller's. */
struct table *ps_table(const struct listing *l);
void ps_add_row(struct listing *l, const Accel__V1__Job *job); /* to l->table */

/* Shows the list, and again what changes of it as it changes, until interrupted: on a terminal the
 * whole is drawn anew, else changed rows (a JSON object a line) are appended. Returns on an error
 * only. Blocks. */
int ps_watch(struct listing *l, struct session *session, struct accel_error *err) MUST_CHECK;

#endif
