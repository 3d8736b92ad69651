/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `accelctl nodes`: nodes and their devices, who uses which. With the embedded default and no node
 * daemon, one is started first: the answer would be empty otherwise.
 */
#include <string.h>
#include <unistd.h>

#include "accel/v1/admin.pb-c.h"
#include "client/accelctl/session.h"
#include "client/accelctl/table.h"
#include "client/accelctl/view.h"
#include "common/clock.h"

struct listing {
    const struct cli *cli;
    enum view_form form;
    int64_t now_ms;
    struct view_items *items;
    struct table *table;
    struct str names;
    size_t shown;
};

static const struct table_column columns[] = {
    {.name = "NAME"},
    {.name = "STATE"},
    {.name = "CPU FREE", .is_right = true},
    {.name = "GPU FREE", .is_right = true},
    {.name = "TPU FREE", .is_right = true, .may_hide = true},
    {.name = "MEMORY", .is_right = true, .may_hide = true},
    {.name = "SINCE", .is_right = true, .may_hide = true},
    {.name = "ADDRESS", .is_wide = true},
    {.name = "VERSION", .is_wide = true},
    {.name = "ISOLATION", .is_wide = true},
    {.name = "SLICE", .is_wide = true},
    {.name = "MODELS", .is_wide = true, .may_cut = true},
    {.name = "DEVICES", .is_wide = true, .may_cut = true},
    {.name = "REASON", .may_cut = true},
};

static const Accel__V1__DeviceUse *find_use(const Accel__V1__Node *node, const char *device)
{
    for (size_t i = 0; i < node->n_uses; i++) {
        if (strcmp(node->uses[i]->device, device) == 0)
            return node->uses[i];
    }
    return NULL;
}

static void add_count_cell(struct table *t, const Accel__V1__Node *node, Accel__V1__DeviceKind kind)
{
    size_t total = 0, free_count = 0;

    for (size_t i = 0; i < node->n_devices; i++) {
        const Accel__V1__Device *d = node->devices[i];

        if (d->kind != kind)
            continue;
        total++;
        if (d->fault[0] == '\0' && !find_use(node, d->id))
            free_count++;
    }
    if (total == 0)
        table_cell(t, "-", TABLE_PLAIN);
    else
        table_cellf(t, "%zu/%zu", free_count, total);
}

/* The nearest that any two of this model are: "nvlink" before what PCI is. */
static const char *nearest_link(const Accel__V1__Node *node, const char *model)
{
    static const char *const kinds[] = {"nvlink", "pix", "pxb", "phb", "node", "sys"};
    size_t best = ARRAY_LEN(kinds);

    for (size_t i = 0; i < node->n_devices; i++) {
        const Accel__V1__Device *d = node->devices[i];

        for (size_t k = 0; strcmp(d->model, model) == 0 && k < d->n_links; k++) {
            for (size_t b = 0; b < best; b++) {
                if (strcmp(d->links[k]->kind, kinds[b]) == 0)
                    best = b;
            }
        }
    }
    return best < ARRAY_LEN(kinds) ? kinds[best] : NULL;
}

/* "8 x NVIDIA H200 140.4 GiB nvlink", each model once. */
static void add_models_cell(struct table *t, const Accel__V1__Node *node)
{
    AUTO_STR struct str text = {0};

    str_init(&text);
    for (size_t i = 0; i < node->n_devices; i++) {
        const Accel__V1__Device *d = node->devices[i];
        bool is_told = d->model[0] == '\0';
        size_t count = 0;

        for (size_t k = 0; k < node->n_devices; k++) {
            bool is_same = strcmp(node->devices[k]->model, d->model) == 0;
            count += is_same;
            is_told |= is_same && k < i;
        }
        if (is_told)
            continue;
        str_addf(&text, "%s%zu x %s", text.len > 0 ? ", " : "", count, d->model);
        if (d->memory_bytes > 0) {
            str_addc(&text, ' ');
            str_add_bytes(&text, d->memory_bytes);
        }
        if (nearest_link(node, d->model))
            str_addf(&text, " %s", nearest_link(node, d->model));
    }
    table_cell(t, text.len > 0 ? text.data : "-", TABLE_PLAIN);
}

#define UUID_ID_BYTES 32u /* ids above this hold a UUID, of which people need the first group */

static void add_short_id(struct str *text, const char *id)
{
    const char *dash = strlen(id) > UUID_ID_BYTES ? strchr(id, '-') : NULL;
    const char *end = dash ? strchr(dash + 1, '-') : NULL;

    str_add(text, id, end ? (size_t)(end - id) : strlen(id));
}

static void add_devices_cell(struct table *t, const Accel__V1__Node *node)
{
    AUTO_STR struct str text = {0};

    str_init(&text);
    for (size_t i = 0; i < node->n_devices; i++) {
        const Accel__V1__Device *d = node->devices[i];
        const Accel__V1__DeviceUse *use = find_use(node, d->id);

        if (!use && d->fault[0] == '\0')
            continue;
        str_adds(&text, text.len > 0 ? ", " : "");
        add_short_id(&text, d->id);
        if (use)
            str_addf(&text, "=job %llu", (unsigned long long)use->job_id);
        if (d->fault[0] != '\0')
            str_addf(&text, " (%s)", d->fault);
    }
    table_cell(t, text.len > 0 ? text.data : "all free", TABLE_PLAIN);
}

static void add_row(struct listing *l, const Accel__V1__Node *node)
{
    struct table *t = l->table;
    AUTO_STR struct str text = {0};
    char buf[40];

    str_init(&text);
    table_cell(t, node->name, TABLE_PLAIN);
    table_cell(t, node->state, state_color(node->state));
    add_count_cell(t, node, ACCEL__V1__DEVICE_KIND__DEVICE_CPU);
    add_count_cell(t, node, ACCEL__V1__DEVICE_KIND__DEVICE_GPU);
    add_count_cell(t, node, ACCEL__V1__DEVICE_KIND__DEVICE_TPU);
    str_add_bytes(&text, node->memory_bytes);
    table_cell(t, text.data, TABLE_PLAIN);
    str_clear(&text);
    if (option_given(&l->cli->opt, OPT_UTC))
        str_adds(&text, clock_format_utc(node->since_ms, buf, sizeof buf));
    else if (node->since_ms > 0)
        str_add_age(&text, l->now_ms - node->since_ms);
    table_cell(t, text.data, TABLE_PLAIN);
    table_cell(t, node->address, TABLE_PLAIN);
    table_cell(t, node->version, TABLE_PLAIN);
    table_cell(t, node->isolation, TABLE_PLAIN);
    if (node->slice)
        table_cellf(t, "%s %u/%u", node->slice->name, node->slice->worker, node->slice->nodes);
    else
        table_cell(t, "-", TABLE_PLAIN);
    add_models_cell(t, node);
    add_devices_cell(t, node);
    table_cell(t, node->reason, TABLE_PLAIN);
}

static void on_nodes(void *ctx, const ProtobufCMessage *msg)
{
    struct listing *l = ctx;
    const Accel__V1__NodesReply *reply = (const Accel__V1__NodesReply *)msg;
    AUTO_FREE const Accel__V1__Node **nodes = view_sorted_nodes(reply);

    for (size_t i = 0; i < reply->n_nodes; i++) {
        l->shown++;
        if (l->items)
            view_items_add(l->items, view_node(nodes[i]));
        else if (l->table)
            add_row(l, nodes[i]);
        else
            str_addf(&l->names, "%s\n", nodes[i]->name);
    }
}

static void on_status(void *ctx, const ProtobufCMessage *msg)
{
    *(uint32_t *)ctx = ((const Accel__V1__StatusReply *)msg)->nodes_ready;
}

static int fetch(struct listing *l, struct session *session, struct accel_error *err)
{
    Accel__V1__StatusRequest status = ACCEL__V1__STATUS_REQUEST__INIT;
    Accel__V1__NodesRequest req = ACCEL__V1__NODES_REQUEST__INIT;
    uint32_t ready = 0;
    int r = session_call(session, "/accel.v1.Admin/Status", &status.base,
                         &accel__v1__status_reply__descriptor, on_status, &ready, err);

    if (r == 0 && ready == 0)
        r = session_ensure_agent_now(session, err);
    if (r < 0)
        return r;
    req.names = l->cli->opt.args;
    req.n_names = l->cli->opt.arg_count;
    for (size_t i = 0; i < req.n_names; i++) {
        if (strncmp(req.names[i], "node/", 5) == 0)
            req.names[i] += 5;
        if (!is_valid_name(req.names[i]))
            return error_set(err, ACCEL_ENOENT,
                             "no such node\nwhy: that is no name of a node\ntry: accelctl nodes");
    }
    return session_call(session, "/accel.v1.Nodes/List", &req.base,
                        &accel__v1__nodes_reply__descriptor, on_nodes, l, err);
}

static int show(struct listing *l, struct accel_error *err)
{
    const struct options *o = &l->cli->opt;
    int r = 0;

    if (l->shown < o->arg_count)
        return error_set(err, ACCEL_ENOENT,
                         "no such node\nwhy: %zu of %zu names are known\ntry: accelctl nodes",
                         l->shown, o->arg_count);
    if (l->table) {
        if (l->shown == 0)
            cli_say("no nodes");
        else
            table_print(l->table, l->cli->use_color);
    } else if (l->items) {
        r = view_items_print(l->items, err);
    } else {
        cli_write_str(STDOUT_FILENO, &l->names);
    }
    return r;
}

int verb_nodes(struct cli *cli)
{
    AUTO_SESSION struct session *session = NULL;
    struct listing l = {.cli = cli, .form = view_form_of(&cli->opt), .now_ms = clock_wall_ms()};
    const Accel__V1__Node example = ACCEL__V1__NODE__INIT;
    struct accel_error err = {0};
    int r = view_check_fields(view_node(&example), view_fields_of(&cli->opt), &err);

    str_init(&l.names);
    if (l.form == VIEW_JSON || l.form == VIEW_YAML)
        l.items = view_items_create(l.form, view_fields_of(&cli->opt));
    else if (l.form != VIEW_NAME)
        l.table = table_create(columns, ARRAY_LEN(columns), l.form == VIEW_WIDE);
    if (r == 0)
        r = session_open(cli, &session, &err);
    if (r == 0)
        r = fetch(&l, session, &err);
    if (r == 0)
        r = show(&l, &err);
    table_destroy(l.table);
    view_items_destroy(l.items);
    str_done(&l.names);
    return r < 0 ? cli_error(&err) : EXIT_CODE_OK;
}
