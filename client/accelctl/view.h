/* SPDX-License-Identifier: Apache-2.0 */
/*
 * view.h - messages of the wire as JSON and YAML. The field names here are a contract
 * (docs/CLI.md): they may be added to, never renamed. No I/O but view_print.
 */
#ifndef ACCEL_CLIENT_VIEW_H
#define ACCEL_CLIENT_VIEW_H

#include <jansson.h>

#include "accel/v1/event.pb-c.h"
#include "accel/v1/job.pb-c.h"
#include "accel/v1/node.pb-c.h"
#include "client/accelctl/cli.h"

enum view_form { VIEW_TABLE, VIEW_WIDE, VIEW_JSON, VIEW_YAML, VIEW_NAME };
/* From -o and --json. */
enum view_form view_form_of(const struct options *o);
/* Of --json, for view_select; NULL for all. Borrowed from o. */
const char *view_fields_of(const struct options *o);

/* New references. */
json_t *view_job(const Accel__V1__Job *job, bool has_attempts);
json_t *view_node(const Accel__V1__Node *node);
json_t *view_event(const Accel__V1__Event *ev);

/* Those of a reply by name, n2 before n10: the coordinator tells them as they came. The caller
 * frees the list, not the nodes. */
const Accel__V1__Node **view_sorted_nodes(const Accel__V1__NodesReply *reply);
/* "PENDING"; the result in capitals once ended ("FAILED"). Static. */
const char *view_state_name(const Accel__V1__Job *job);
const char *view_job_state(Accel__V1__JobState state); /* "PENDING" */
const char *view_result(Accel__V1__JobResult result);  /* "failed"; NULL for none */
const char *view_cause(Accel__V1__Cause cause);        /* "worker_failed"; NULL for none */
/* Text of any bytes as a JSON string: what is no UTF-8 becomes \xNN. New reference. */
json_t *view_bytes(const void *p, size_t len);
/* RFC 3339 UTC, or null for 0. New reference. */
json_t *view_time(int64_t wall_ms);

/* Are these fields (NULL: all) of the example, an item of any content? Says so before anything is
 * asked of anybody, and where a list is empty. Steals example; ACCEL_EINVAL as view_select. */
int view_check_fields(json_t *example, const char *fields, struct accel_error *err) MUST_CHECK;
/* Keeps only the comma-separated fields of each item; ACCEL_EINVAL with a suggestion if one does
 * not exist. An empty list has nothing to compare with: any name is right. */
int view_select(json_t *items, const char *fields, struct accel_error *err) MUST_CHECK;
/* {"apiVersion": "accel/v1", "items": items}; steals items. */
json_t *view_list(json_t *items);
/* Puts "apiVersion" first; steals object. */
json_t *view_single(json_t *object);
void view_yaml(struct str *out, const json_t *value);

/* What view_list gives of many items, written item by item: ten thousand jobs as JSON values are
 * some 50 MB and half a million heap blocks. */
struct view_items; /* opaque */
/* form: VIEW_JSON or VIEW_YAML. fields: as for view_select, or NULL for all; must outlive this. */
struct view_items *view_items_create(enum view_form form, const char *fields);
void view_items_destroy(struct view_items *v);
/* Steals item. Nothing more is taken once fields did not fit one. */
void view_items_add(struct view_items *v, json_t *item);
/* The same as adding view_job(job, false); JSON with all fields becomes text without a value in
 * between, several times as fast. */
void view_items_add_job(struct view_items *v, const Accel__V1__Job *job);
/* Ends the list and tells its text, which v owns; add nothing after. ACCEL_EINVAL as view_select.
 */
int view_items_end(struct view_items *v, const struct str **ret_text,
                   struct accel_error *err) MUST_CHECK;
/* view_items_end to stdout; prints nothing on an error. */
int view_items_print(struct view_items *v, struct accel_error *err) MUST_CHECK;
/* Prints and releases value in the form (JSON or YAML). */
void view_print(json_t *value, enum view_form form);
/* One line of JSON; releases value. */
void view_print_line(json_t *value);

#endif
