/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Messages of the wire as JSON: one function a message, in the order in which people read them. The
 * names are documented in docs/CLI.md and tested; scripts depend on them. Tables are made by the
 * verbs themselves.
 */
#include "client/accelctl/view.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/clock.h"

enum view_form view_form_of(const struct options *o)
{
    if (option_given(o, OPT_JSON) && o->v[OPT_FORMAT].number != VIEW_YAML)
        return VIEW_JSON;
    return (enum view_form)o->v[OPT_FORMAT].number; /* the choices stand in this order */
}

const char *view_fields_of(const struct options *o)
{
    return option_given(o, OPT_JSON) ? o->v[OPT_JSON].text : NULL;
}

const char *view_job_state(Accel__V1__JobState state)
{
    switch (state) {
    case ACCEL__V1__JOB_STATE__JOB_PENDING: return "PENDING";
    case ACCEL__V1__JOB_STATE__JOB_STARTING: return "STARTING";
    case ACCEL__V1__JOB_STATE__JOB_RUNNING: return "RUNNING";
    case ACCEL__V1__JOB_STATE__JOB_STOPPING: return "STOPPING";
    case ACCEL__V1__JOB_STATE__JOB_HELD: return "HELD";
    case ACCEL__V1__JOB_STATE__JOB_ENDED: return "ENDED";
    default: return "UNKNOWN";
    }
}

const char *view_result(Accel__V1__JobResult result)
{
    switch (result) {
    case ACCEL__V1__JOB_RESULT__RESULT_SUCCEEDED: return "succeeded";
    case ACCEL__V1__JOB_RESULT__RESULT_FAILED: return "failed";
    case ACCEL__V1__JOB_RESULT__RESULT_CANCELLED: return "cancelled";
    case ACCEL__V1__JOB_RESULT__RESULT_TIMED_OUT: return "timed_out";
    case ACCEL__V1__JOB_RESULT__RESULT_LOST: return "lost";
    default: return NULL;
    }
}

const char *view_cause(Accel__V1__Cause cause)
{
    switch (cause) {
    case ACCEL__V1__CAUSE__CAUSE_SUCCEEDED: return "succeeded";
    case ACCEL__V1__CAUSE__CAUSE_WORKER_FAILED: return "worker_failed";
    case ACCEL__V1__CAUSE__CAUSE_START_FAILED: return "start_failed";
    case ACCEL__V1__CAUSE__CAUSE_CANCELLED: return "cancelled";
    case ACCEL__V1__CAUSE__CAUSE_TIME_LIMIT: return "time_limit";
    case ACCEL__V1__CAUSE__CAUSE_SHIM_LOST: return "shim_lost";
    case ACCEL__V1__CAUSE__CAUSE_NODE_LOST: return "node_lost";
    case ACCEL__V1__CAUSE__CAUSE_FENCED: return "fenced";
    case ACCEL__V1__CAUSE__CAUSE_DEVICE_FAULT: return "device_fault";
    default: return NULL;
    }
}

const char *view_state_name(const Accel__V1__Job *job)
{
    if (job->state != ACCEL__V1__JOB_STATE__JOB_ENDED)
        return view_job_state(job->state);
    switch (job->result) {
    case ACCEL__V1__JOB_RESULT__RESULT_SUCCEEDED: return "SUCCEEDED";
    case ACCEL__V1__JOB_RESULT__RESULT_FAILED: return "FAILED";
    case ACCEL__V1__JOB_RESULT__RESULT_CANCELLED: return "CANCELLED";
    case ACCEL__V1__JOB_RESULT__RESULT_TIMED_OUT: return "TIMED_OUT";
    case ACCEL__V1__JOB_RESULT__RESULT_LOST: return "LOST";
    default: return "ENDED";
    }
}

/* Bytes that may not be UTF-8 as text: what is none becomes \xNN. */
static void add_clean(struct str *out, const void *p, size_t len)
{
    const unsigned char *at = p;

    while (len > 0) {
        size_t n = *at < 0x80 ? 1 : *at < 0xe0 ? 2 : *at < 0xf0 ? 3 : 4;

        if (n <= len && *at != 0 && is_utf8(at, n)) {
            str_add(out, at, n);
        } else {
            str_addf(out, "\\x%02x", *at);
            n = 1;
        }
        at += n;
        len -= n;
    }
}

static bool is_clean(const void *p, size_t len)
{
    return is_utf8(p, len) && !memchr(len > 0 ? p : "x", 0, len);
}

json_t *view_bytes(const void *p, size_t len)
{
    AUTO_STR struct str text = {0};

    if (is_clean(p, len))
        return json_stringn_nocheck(len > 0 ? p : "", len);
    str_init(&text);
    add_clean(&text, p, len);
    return json_stringn_nocheck(text.data, text.len);
}

static json_t *text_of(const char *text)
{
    return view_bytes(text ? text : "", text ? strlen(text) : 0);
}

static json_t *data_of(ProtobufCBinaryData data)
{
    return view_bytes(data.data, data.len);
}

static json_t *text_or_null(const char *text)
{
    return text && text[0] != '\0' ? text_of(text) : json_null();
}

static json_t *number(uint64_t n)
{
    return json_integer((json_int_t)n);
}

static json_t *number_or_null(bool is_known, int64_t n)
{
    return is_known ? json_integer(n) : json_null();
}

json_t *view_time(int64_t wall_ms)
{
    char buf[40];

    return wall_ms > 0 ? json_string(clock_format_utc(wall_ms, buf, sizeof buf)) : json_null();
}

static void put(json_t *object, const char *name, json_t *value)
{
    json_object_set_new_nocheck(object, name, value);
}

static json_t *texts_of(char **texts, size_t count)
{
    json_t *array = json_array();

    for (size_t i = 0; i < count; i++)
        json_array_append_new(array, text_of(texts[i]));
    return array;
}

static json_t *view_rank(const Accel__V1__Rank *rank)
{
    json_t *o = json_object();
    bool has_code = rank->exited && rank->signal == 0;

    put(o, "rank", number(rank->rank));
    put(o, "local_rank", number(rank->local_rank));
    put(o, "pid", number_or_null(rank->pid > 0, rank->pid));
    put(o, "node", text_of(rank->node));
    put(o, "state", text_of(rank->state));
    put(o, "exit_code", number_or_null(has_code, rank->exit_code));
    put(o, "signal", number_or_null(rank->exited && rank->signal != 0, rank->signal));
    put(o, "started", view_time(rank->start_ms));
    put(o, "ended", view_time(rank->end_ms));
    put(o, "devices", texts_of(rank->devices, rank->n_devices));
    put(o, "stdout", data_of(rank->stdout_path));
    put(o, "stderr", data_of(rank->stderr_path));
    put(o, "stderr_tail", data_of(rank->stderr_tail));
    put(o, "error", text_or_null(rank->error));
    return o;
}

static json_t *view_attempt(const Accel__V1__Attempt *a)
{
    json_t *o = json_object(), *ranks = json_array(), *isolation = json_array();

    put(o, "number", number(a->number));
    put(o, "cause", text_or_null(view_cause(a->cause)));
    put(o, "text", text_of(a->text));
    put(o, "started", view_time(a->start_ms));
    put(o, "running", view_time(a->run_ms));
    put(o, "ended", view_time(a->end_ms));
    put(o, "first_failed_rank", number_or_null(a->first_failed_rank >= 0, a->first_failed_rank));
    put(o, "master_addr", text_or_null(a->master_addr));
    put(o, "master_port", number_or_null(a->master_port > 0, a->master_port));
    for (size_t i = 0; i < a->n_isolation; i++)
        json_array_append_new(isolation, text_of(a->isolation[i]));
    put(o, "isolation", isolation);
    for (size_t i = 0; i < a->n_ranks; i++)
        json_array_append_new(ranks, view_rank(a->ranks[i]));
    put(o, "ranks", ranks);
    return o;
}

static const char *device_kind(Accel__V1__DeviceKind kind)
{
    return kind == ACCEL__V1__DEVICE_KIND__DEVICE_GPU   ? "gpu"
           : kind == ACCEL__V1__DEVICE_KIND__DEVICE_TPU ? "tpu"
           : kind == ACCEL__V1__DEVICE_KIND__DEVICE_CPU ? "cpu"
                                                        : "auto";
}

/* --- the fields of a job, of which there may be thousands: as a value, or at once as text --- */

struct sink {
    json_t *object;   /* NULL: text */
    struct str *text; /* of the list's items, see view_items */
    bool has_any;
};

/* As json_dumps writes them. */
static void add_quoted(struct str *out, const char *p, size_t len)
{
    static const char letters[] = "btn\0fr"; /* of 8 to 13; 11 has none */
    size_t from = 0;

    str_addc(out, '"');
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)p[i];

        if (c >= 0x20 && c != '"' && c != '\\')
            continue;
        str_add(out, p + from, i - from);
        from = i + 1;
        if (c >= 0x20 || (c >= 8 && c <= 13 && c != 11))
            str_add(out, (char[]){'\\', c >= 0x20 ? (char)c : letters[c - 8]}, 2);
        else
            str_addf(out, "\\u%04X", c);
    }
    str_add(out, p + from, len - from);
    str_addc(out, '"');
}

static void put_name(struct sink *s, const char *name)
{
    if (s->has_any)
        str_add(s->text, ",\n      \"", 9);
    else
        str_add(s->text, "{\n      \"", 9);
    str_adds(s->text, name);
    str_add(s->text, "\": ", 3);
    s->has_any = true;
}

static void put_null(struct sink *s, const char *name)
{
    if (s->object) {
        put(s->object, name, json_null());
        return;
    }
    put_name(s, name);
    str_add(s->text, "null", 4);
}

static void put_number(struct sink *s, const char *name, int64_t n)
{
    char digits[24], *p = digits + sizeof digits;
    uint64_t left = n < 0 ? -(uint64_t)n : (uint64_t)n;

    if (s->object) {
        put(s->object, name, json_integer(n));
        return;
    }
    do
        *--p = (char)('0' + left % 10);
    while ((left /= 10) > 0);
    if (n < 0)
        *--p = '-';
    put_name(s, name);
    str_add(s->text, p, (size_t)(digits + sizeof digits - p));
}

static void put_number_or_null(struct sink *s, const char *name, bool is_known, int64_t n)
{
    if (is_known)
        put_number(s, name, n);
    else
        put_null(s, name);
}

static void add_bytes(struct str *out, const void *p, size_t len)
{
    AUTO_STR struct str clean = {0};

    if (is_clean(p, len)) {
        add_quoted(out, p, len);
        return;
    }
    str_init(&clean);
    add_clean(&clean, p, len);
    add_quoted(out, clean.data, clean.len);
}

static void put_bytes(struct sink *s, const char *name, const void *p, size_t len)
{
    if (s->object) {
        put(s->object, name, view_bytes(p, len));
        return;
    }
    put_name(s, name);
    add_bytes(s->text, len > 0 ? p : "", len);
}

static void put_text(struct sink *s, const char *name, const char *text)
{
    put_bytes(s, name, text, text ? strlen(text) : 0);
}

static void put_bytes_or_null(struct sink *s, const char *name, ProtobufCBinaryData data)
{
    if (data.len > 0)
        put_bytes(s, name, data.data, data.len);
    else
        put_null(s, name);
}

static void put_time(struct sink *s, const char *name, int64_t wall_ms)
{
    char buf[40];

    if (wall_ms > 0)
        put_text(s, name, clock_format_utc(wall_ms, buf, sizeof buf));
    else
        put_null(s, name);
}

static void put_texts(struct sink *s, const char *name, char **texts, size_t count)
{
    if (s->object) {
        put(s->object, name, texts_of(texts, count));
        return;
    }
    put_name(s, name);
    for (size_t i = 0; i < count; i++) {
        str_adds(s->text, i > 0 ? ",\n        " : "[\n        ");
        add_bytes(s->text, texts[i], strlen(texts[i]));
    }
    str_adds(s->text, count > 0 ? "\n      ]" : "[]");
}

static void put_job(struct sink *s, const Accel__V1__Job *job)
{
    bool is_ended = job->state == ACCEL__V1__JOB_STATE__JOB_ENDED;
    const char *result = view_result(job->result);

    put_number(s, "id", (int64_t)job->id);
    put_text(s, "name", job->name);
    put_text(s, "user", job->user);
    put_number(s, "uid", job->uid);
    put_text(s, "state", view_job_state(job->state));
    put_bytes_or_null(s, "result",
                      (ProtobufCBinaryData){result ? strlen(result) : 0, (uint8_t *)result});
    put_text(s, "reason", job->reason);
    put_number_or_null(s, "exit_code", is_ended, job->exit_code);
    put_number(s, "attempt", job->attempt);
    put_number(s, "max_restarts", job->max_restarts);
    put_number(s, "restarts", job->restarts);
    put_number(s, "nodes", job->nodes);
    put_number(s, "procs", job->procs);
    put_text(s, "device_kind", device_kind(job->device_kind));
    put_number(s, "gpus_per_node", job->gpus_per_node);
    put_number_or_null(s, "cpus_per_proc", job->cpus_per_proc > 0, job->cpus_per_proc);
    put_number_or_null(s, "memory_bytes", job->memory_bytes > 0, (int64_t)job->memory_bytes);
    put_number_or_null(s, "time_limit_ms", job->time_limit_ms > 0, (int64_t)job->time_limit_ms);
    put_time(s, "submitted", job->submit_ms);
    put_time(s, "started", job->start_ms);
    put_time(s, "ended", job->end_ms);
    put_texts(s, "where", job->where, job->n_where);
    put_bytes(s, "command", job->command.data, job->command.len);
    put_bytes_or_null(s, "cwd", job->cwd);
    put_bytes_or_null(s, "output", job->output_pattern);
}

json_t *view_job(const Accel__V1__Job *job, bool has_attempts)
{
    json_t *o = json_object(), *list;

    put_job(&(struct sink){.object = o}, job);
    if (!has_attempts)
        return o;
    list = json_array();
    for (size_t i = 0; i < job->n_argv; i++)
        json_array_append_new(list, data_of(job->argv[i]));
    put(o, "argv", list);
    list = json_array();
    for (size_t i = 0; i < job->n_attempts; i++)
        json_array_append_new(list, view_attempt(job->attempts[i]));
    put(o, "attempts", list);
    return o;
}

static int compare_names(const void *a, const void *b)
{
    return strverscmp((*(const Accel__V1__Node *const *)a)->name,
                      (*(const Accel__V1__Node *const *)b)->name);
}

const Accel__V1__Node **view_sorted_nodes(const Accel__V1__NodesReply *reply)
{
    const Accel__V1__Node **nodes = xcalloc(reply->n_nodes + 1, sizeof nodes[0]);

    for (size_t i = 0; i < reply->n_nodes; i++)
        nodes[i] = reply->nodes[i];
    qsort(nodes, reply->n_nodes, sizeof nodes[0], compare_names);
    return nodes;
}

static json_t *view_links(const Accel__V1__Device *d)
{
    json_t *list = json_array();

    for (size_t i = 0; i < d->n_links; i++) {
        json_t *o = json_object();

        put(o, "index", number(d->links[i]->index));
        put(o, "kind", text_of(d->links[i]->kind));
        put(o, "count", number_or_null(d->links[i]->count > 0, d->links[i]->count));
        json_array_append_new(list, o);
    }
    return list;
}

static json_t *view_device(const Accel__V1__Device *d, const Accel__V1__Node *node)
{
    json_t *o = json_object();
    bool has_numa = d->bus[0] != '\0' && d->numa_node >= 0;
    const Accel__V1__DeviceUse *use = NULL;
    json_t *paths = json_array();

    for (size_t i = 0; i < d->n_paths; i++)
        json_array_append_new(paths, text_of(d->paths[i]));
    for (size_t i = 0; i < node->n_uses; i++) {
        if (strcmp(node->uses[i]->device, d->id) == 0)
            use = node->uses[i];
    }
    put(o, "id", text_of(d->id));
    put(o, "kind", json_string(device_kind(d->kind)));
    put(o, "model", text_or_null(d->model));
    put(o, "index", number(d->index));
    put(o, "memory_bytes", number_or_null(d->memory_bytes > 0, (int64_t)d->memory_bytes));
    put(o, "vendor", text_or_null(d->vendor));
    put(o, "bus", text_or_null(d->bus));
    put(o, "numa_node", number_or_null(has_numa, d->numa_node));
    put(o, "parent", text_or_null(d->parent));
    put(o, "links", view_links(d));
    put(o, "paths", paths);
    put(o, "fault", text_or_null(d->fault));
    put(o, "is_broken", json_boolean(d->is_broken));
    put(o, "job_id", number_or_null(use != NULL, use ? (int64_t)use->job_id : 0));
    put(o, "attempt", number_or_null(use != NULL, use ? use->attempt : 0));
    return o;
}

static json_t *view_slice(const Accel__V1__Slice *s)
{
    json_t *o = json_object();

    put(o, "name", text_of(s->name));
    put(o, "nodes", number(s->nodes));
    put(o, "worker", number(s->worker));
    put(o, "accelerator", text_or_null(s->accelerator));
    put(o, "topology", text_or_null(s->topology));
    return o;
}

json_t *view_node(const Accel__V1__Node *node)
{
    json_t *o = json_object(), *list = json_array(), *limits = json_array();

    put(o, "name", text_of(node->name));
    put(o, "state", text_of(node->state));
    put(o, "reason", text_of(node->reason));
    put(o, "since", view_time(node->since_ms));
    put(o, "address", text_of(node->address));
    put(o, "version", text_of(node->version));
    put(o, "incarnation", number(node->incarnation));
    put(o, "isolation", text_of(node->isolation));
    put(o, "cpus", number(node->cpus));
    put(o, "memory_bytes", number(node->memory_bytes));
    for (size_t i = 0; i < node->n_limits; i++)
        json_array_append_new(limits, text_of(node->limits[i]));
    put(o, "limits", limits);
    put(o, "slice", node->slice ? view_slice(node->slice) : json_null());
    for (size_t i = 0; i < node->n_devices; i++)
        json_array_append_new(list, view_device(node->devices[i], node));
    put(o, "devices", list);
    return o;
}

json_t *view_event(const Accel__V1__Event *ev)
{
    json_t *o = json_object();

    put(o, "seq", number(ev->seq));
    put(o, "time", view_time(ev->time_ms));
    put(o, "kind", text_of(ev->kind));
    put(o, "job_id", number_or_null(ev->job_id > 0, (int64_t)ev->job_id));
    put(o, "attempt", number_or_null(ev->attempt > 0, ev->attempt));
    put(o, "node", text_or_null(ev->node));
    put(o, "text", text_of(ev->text));
    return o;
}

static int no_such_field(const json_t *item, const char *name, struct accel_error *err)
{
    const char *key, *near = NULL;
    unsigned best = 3;
    json_t *value;
    AUTO_STR struct str names = {0};

    str_init(&names);
    json_object_foreach((json_t *)item, key, value)
    {
        unsigned d = edit_distance(name, key, 2);

        if (d < best) {
            best = d;
            near = key;
        }
        str_addf(&names, "%s%s", names.len > 0 ? ", " : "", key);
    }
    return error_set(
        err, ACCEL_EINVAL, "--json %s: no such field\nwhy: the fields are %s\ntry: %s%s", name,
        names.data, near ? "--json " : "-o json, which shows them all", near ? near : "");
}

/* A new reference to item with only these fields. */
static int select_fields(const json_t *item, const char *fields, json_t **ret_kept,
                         struct accel_error *err)
{
    json_t *kept = json_object();

    for (const char *p = fields; *p != '\0'; p += strspn(p, ",")) {
        size_t len = strcspn(p, ",");
        char name[64];

        snprintf(name, sizeof name, "%.*s", (int)len, p);
        json_t *value = json_object_get(item, name);

        if (!value) {
            json_decref(kept);
            return no_such_field(item, name, err);
        }
        json_object_set_nocheck(kept, name, value);
        p += len;
    }
    *ret_kept = kept;
    return 0;
}

int view_check_fields(json_t *example, const char *fields, struct accel_error *err)
{
    json_t *kept = NULL;
    int r = fields ? select_fields(example, fields, &kept, err) : 0;

    if (r == 0 && kept && json_object_size(kept) == 0)
        r = no_such_field(example, fields, err); /* nothing but commas */

    json_decref(kept);
    json_decref(example);
    return r;
}

int view_select(json_t *items, const char *fields, struct accel_error *err)
{
    size_t index;
    json_t *item;

    json_array_foreach(items, index, item)
    {
        json_t *kept;
        int r = select_fields(item, fields, &kept, err);

        if (r < 0)
            return r;
        json_array_set_new(items, index, kept);
    }
    return 0;
}

json_t *view_list(json_t *items)
{
    json_t *o = json_object();

    put(o, "apiVersion", json_string("accel/v1"));
    put(o, "items", items);
    return o;
}

json_t *view_single(json_t *object)
{
    json_t *o = json_object();

    put(o, "apiVersion", json_string("accel/v1"));
    json_object_update(o, object);
    json_decref(object);
    return o;
}

void view_print(json_t *value, enum view_form form)
{
    AUTO_STR struct str out = {0};

    str_init(&out);
    if (form == VIEW_YAML) {
        view_yaml(&out, value);
    } else {
        AUTO_FREE char *text = json_dumps(value, JSON_INDENT(2));

        str_adds(&out, text ? text : "null");
        str_addc(&out, '\n');
    }
    cli_write_str(STDOUT_FILENO, &out);
    json_decref(value);
}

#define ITEM_BYTES 4096 /* of JSON to begin with: a job without its attempts is 600 */

struct view_items {
    enum view_form form;
    const char *fields;
    size_t count;
    struct str text;
    char *dump; /* one item */
    size_t dump_cap;
    struct accel_error err; /* of the first item that fields did not fit */
};

struct view_items *view_items_create(enum view_form form, const char *fields)
{
    struct view_items *v = xcalloc(1, sizeof *v);

    v->form = form;
    v->fields = fields;
    v->dump_cap = ITEM_BYTES;
    v->dump = xrealloc(NULL, v->dump_cap);
    str_init(&v->text);
    str_adds(&v->text, form == VIEW_YAML ? "apiVersion: accel/v1\nitems:"
                                         : "{\n  \"apiVersion\": \"accel/v1\",\n  \"items\": [");
    return v;
}

void view_items_destroy(struct view_items *v)
{
    if (!v)
        return;
    str_done(&v->text);
    free(v->dump);
    free(v);
}

/* As json_dumps would within the list: a raw line feed stands between tokens only, and there the
 * depth of an item is added. Not by json_dump_callback, which calls for every token. */
static void add_json(struct view_items *v, const json_t *item)
{
    const char *p, *feed;
    size_t len = json_dumpb(item, v->dump, v->dump_cap, JSON_INDENT(2));

    if (len > v->dump_cap) {
        v->dump_cap = len * 2;
        v->dump = xrealloc(v->dump, v->dump_cap);
        len = json_dumpb(item, v->dump, v->dump_cap, JSON_INDENT(2));
    }
    for (p = v->dump; (feed = memchr(p, '\n', len)); p = feed + 1) {
        size_t n = (size_t)(feed + 1 - p);

        str_add(&v->text, p, n);
        str_add(&v->text, "    ", 4);
        len -= n;
    }
    str_add(&v->text, p, len);
}

static void add_item(struct view_items *v, json_t *item)
{
    if (v->form == VIEW_YAML) {
        json_t *list = json_array();

        if (v->count == 0)
            str_addc(&v->text, '\n');
        json_array_append(list, item);
        view_yaml(&v->text, list);
        json_decref(list);
    } else {
        str_adds(&v->text, v->count == 0 ? "\n    " : ",\n    ");
        add_json(v, item);
    }
    v->count++;
}

void view_items_add(struct view_items *v, json_t *item)
{
    json_t *kept = item;

    if (v->err.code == 0 && (!v->fields || select_fields(item, v->fields, &kept, &v->err) == 0)) {
        add_item(v, kept);
        if (kept != item)
            json_decref(kept);
    }
    json_decref(item);
}

void view_items_add_job(struct view_items *v, const Accel__V1__Job *job)
{
    struct sink s = {.text = &v->text};

    if (v->fields || v->form == VIEW_YAML) {
        view_items_add(v, view_job(job, false));
        return;
    }
    str_adds(&v->text, v->count == 0 ? "\n    " : ",\n    ");
    put_job(&s, job);
    str_adds(&v->text, "\n    }");
    v->count++;
}

int view_items_end(struct view_items *v, const struct str **ret_text, struct accel_error *err)
{
    if (v->err.code < 0) {
        *err = v->err;
        return err->code;
    }
    if (v->form == VIEW_YAML)
        str_adds(&v->text, v->count == 0 ? " []\n" : "");
    else
        str_adds(&v->text, v->count == 0 ? "]\n}\n" : "\n  ]\n}\n");
    *ret_text = &v->text;
    return 0;
}

int view_items_print(struct view_items *v, struct accel_error *err)
{
    const struct str *text;
    int r = view_items_end(v, &text, err);

    if (r == 0)
        cli_write_str(STDOUT_FILENO, text);
    return r;
}

void view_print_line(json_t *value)
{
    AUTO_FREE char *text = json_dumps(value, JSON_COMPACT);

    if (text) {
        cli_write(STDOUT_FILENO, text, strlen(text));
        cli_write(STDOUT_FILENO, "\n", 1);
    }
    json_decref(value);
}
