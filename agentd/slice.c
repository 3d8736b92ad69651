/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The slice out of four attributes of the metadata server. Neighbours: metadata.c, node.c,
 * tpu_env.c. It must not decide what a slice means for placing.
 * Forms of the attributes: jax/_src/clusters/cloud_tpu_cluster.py, torch_xla/_internal/tpu.py.
 */
#include "agentd/slice.h"

#include <stdio.h>
#include <string.h>

#include "agentd/device_sysfs.h"
#include "agentd/metadata.h"
#include "common/log.h"
#include "common/str.h"

#define FIELD_BYTES 128 /* of one value; names of Google are at most 63 */
#define NODES_MAX   16384u

enum question { ASK_ENV, ASK_WORKER, ASK_ENDPOINTS, ASK_TYPE, ASK_COUNT };
static const char *const keys[ASK_COUNT] = {
    [ASK_ENV] = "instance/attributes/tpu-env",
    [ASK_WORKER] = "instance/attributes/agent-worker-number",
    [ASK_ENDPOINTS] = "instance/attributes/worker-network-endpoints",
    [ASK_TYPE] = "instance/attributes/accelerator-type",
};

struct answer {
    struct slice *slice;
    bool is_given;
    char *text; /* NULL: none */
};

struct slice {
    struct metadata *metadata;
    void (*on_change)(void *ctx);
    void *ctx;
    struct answer answers[ASK_COUNT];
    unsigned waiting;
    bool is_known, has_megascale;
    uint32_t nodes, worker;
    char name[FIELD_BYTES * 2], accelerator[FIELD_BYTES], topology[FIELD_BYTES];
    char chips_per_host[FIELD_BYTES], host_bounds[FIELD_BYTES], wrap[FIELD_BYTES], alt[FIELD_BYTES];
    char note[160];
};

/* ---- what the answers say ---- */

void slice_env_value(const char *text, const char *key, char *buf, size_t size)
{
    size_t key_len = strlen(key);
    buf[0] = 0;
    for (const char *line = text; *line;) {
        size_t len = strcspn(line, "\n");
        const char *at = line, *end = line + len;
        line = end + (*end == '\n');
        while (at < end && (*at == ' ' || *at == '\t'))
            at++;
        if ((size_t)(end - at) <= key_len || memcmp(at, key, key_len) != 0 || at[key_len] != ':')
            continue;
        for (at += key_len + 1; at < end && (*at == ' ' || *at == '\t'); at++)
            ;
        while (end > at && (unsigned char)end[-1] <= ' ')
            end--;
        if (end - at >= 2 && (*at == '\'' || *at == '"') && end[-1] == *at) {
            at++;
            end--;
        }
        if ((size_t)(end - at) < size)
            snprintf(buf, size, "%.*s", (int)(end - at), at);
        return;
    }
}

static const char *text_of(const struct slice *s, enum question q)
{
    return s->answers[q].text ? s->answers[q].text : "";
}

/* Some images write the keys with TPU_ in front. */
static void env_value(const struct slice *s, const char *key, char *buf, size_t size)
{
    char other[64];
    slice_env_value(text_of(s, ASK_ENV), key, buf, size);
    snprintf(other, sizeof(other), "TPU_%s", key);
    if (!buf[0])
        slice_env_value(text_of(s, ASK_ENV), other, buf, size);
}

static void read_name(struct slice *s)
{
    char id[FIELD_BYTES], zone[FIELD_BYTES];
    env_value(s, "NODE_ID", id, sizeof(id));
    env_value(s, "ZONE", zone, sizeof(zone));
    if (id[0]) { /* unique within a zone only */
        snprintf(s->name, sizeof(s->name), "%s%s%s", zone, zone[0] ? "/" : "", id);
        return;
    }
    /* Nobody named it: the first worker is the same for all. "NAME:ID:ADDRESS" or a host alone. */
    const char *first = text_of(s, ASK_ENDPOINTS);
    size_t len = strcspn(first, ",");
    const char *colon = memrchr(first, ':', len);
    if (s->nodes > 1)
        snprintf(s->name, sizeof(s->name), "slice-of-%.*s",
                 (int)MIN(colon ? len - (size_t)(colon + 1 - first) : len, FIELD_BYTES - 1),
                 colon ? colon + 1 : first);
}

static void read_membership(struct slice *s)
{
    uint64_t number;
    char worker[FIELD_BYTES];
    struct tpu_bounds b;
    const char *endpoints = text_of(s, ASK_ENDPOINTS);
    snprintf(worker, sizeof(worker), "%.*s", FIELD_BYTES - 1, text_of(s, ASK_WORKER));
    if (!worker[0])
        env_value(s, "WORKER_ID", worker, sizeof(worker));
    worker[strcspn(worker, " \r\n")] = 0;
    s->worker = parse_u64(worker, 0, NODES_MAX - 1, &number) == 0 ? (uint32_t)number : 0;
    for (const char *p = endpoints; *p; p = strchr(p, ',') ? strchr(p, ',') + 1 : "")
        s->nodes++;
    if (s->nodes == 0 && tpu_bounds_parse(s->host_bounds, &b) == 0)
        s->nodes = b.x * b.y * b.z;
    if (s->nodes > NODES_MAX || s->worker >= MAX(s->nodes, 1u)) {
        snprintf(s->note, sizeof(s->note),
                 "the metadata server calls this worker %u of %u: not taken for a part of a slice",
                 s->worker, s->nodes);
        s->nodes = 1;
        s->worker = 0;
    }
}

static void read_answers(struct slice *s)
{
    char address[FIELD_BYTES];
    env_value(s, "ACCELERATOR_TYPE", s->accelerator, sizeof(s->accelerator));
    if (!s->accelerator[0])
        snprintf(s->accelerator, sizeof(s->accelerator), "%.*s",
                 (int)MIN(strcspn(text_of(s, ASK_TYPE), " \r\n"), FIELD_BYTES - 1),
                 text_of(s, ASK_TYPE));
    env_value(s, "TOPOLOGY", s->topology, sizeof(s->topology));
    env_value(s, "CHIPS_PER_HOST_BOUNDS", s->chips_per_host, sizeof(s->chips_per_host));
    env_value(s, "HOST_BOUNDS", s->host_bounds, sizeof(s->host_bounds));
    env_value(s, "WRAP", s->wrap, sizeof(s->wrap));
    env_value(s, "ALT", s->alt, sizeof(s->alt));
    env_value(s, "MEGASCALE_COORDINATOR_ADDRESS", address, sizeof(address));
    s->has_megascale = address[0] != 0;
    read_membership(s);
    read_name(s);
    if (s->name[0])
        log_info("TPU slice %s: type %s, topology %s, worker %u of %u", s->name,
                 s->accelerator[0] ? s->accelerator : "not told",
                 s->topology[0] ? s->topology : "not told", s->worker, MAX(s->nodes, 1u));
}

/* ---- asking ---- */

static void finish(struct slice *s)
{
    metadata_destroy(s->metadata);
    s->metadata = NULL;
    read_answers(s);
    s->is_known = true;
    s->on_change(s->ctx);
}

static void on_answer(void *ctx, int r, const char *body, size_t len)
{
    struct answer *answer = ctx;
    struct slice *s = answer->slice;
    if (answer->is_given) /* a watched value changed while others are awaited: too late */
        return;
    answer->is_given = true;
    if (r == 0 && strlen(body) == len)
        answer->text = xstrdup(body);
    else if (r != ACCEL_ENOENT && r != ACCEL_EUNAVAIL)
        snprintf(s->note, sizeof(s->note), "metadata %s: %s", keys[answer - s->answers],
                 accel_error_sentence(r < 0 ? r : ACCEL_EPROTO));
    if (--s->waiting == 0)
        finish(s);
}

/* On Google's machines the server exists, however long it is silent or puts us off (a network that
 * is not up yet): then the question stands until it is answered. */
static bool is_google(void)
{
    struct arena a;
    arena_init(&a);
    const char *name = sysfs_text(&a, "%s/class/dmi/id/product_name", sysfs_root());
    bool is_one = name && strncmp(name, "Google", 6) == 0;
    arena_done(&a);
    return is_one;
}

struct slice *slice_create(uv_loop_t *loop, void (*on_change)(void *ctx), void *ctx)
{
    struct slice *s = xcalloc(1, sizeof(*s));
    struct metadata_config config = {.loop = loop};
    struct accel_error err;
    s->on_change = on_change;
    s->ctx = ctx;
    if (metadata_create(&config, &s->metadata, &err) < 0) {
        snprintf(s->note, sizeof(s->note), "%.*s", (int)sizeof(s->note) - 1, err.text);
        s->is_known = true;
        return s;
    }
    bool is_stubborn = is_google();
    for (size_t i = 0; i < ASK_COUNT; i++) {
        struct answer *a = &s->answers[i];
        a->slice = s;
        s->waiting++;
        int r = is_stubborn ? metadata_watch(s->metadata, keys[i], on_answer, a, &err)
                            : metadata_get(s->metadata, keys[i], on_answer, a, &err);
        CHECK(r == 0); /* fewer than METADATA_REQUESTS */
    }
    return s;
}

void slice_destroy(struct slice *s)
{
    if (!s)
        return;
    metadata_destroy(s->metadata);
    for (size_t i = 0; i < ASK_COUNT; i++)
        free(s->answers[i].text);
    free(s);
}

/* ---- telling ---- */

bool slice_is_known(const struct slice *s)
{
    return s->is_known;
}

const char *slice_note(const struct slice *s)
{
    return s->note;
}

Accel__V1__Slice *slice_describe(const struct slice *s, struct arena *a)
{
    if (!s->is_known || !s->name[0])
        return NULL;
    Accel__V1__Slice *d = ARENA_NEW(a, Accel__V1__Slice);
    accel__v1__slice__init(d);
    d->name = arena_strdup(a, s->name);
    d->nodes = MAX(s->nodes, 1u);
    d->worker = s->worker;
    d->accelerator = arena_strdup(a, s->accelerator);
    d->topology = arena_strdup(a, s->topology);
    return d;
}

struct tpu_host slice_host(const struct slice *s, uint32_t chips, const char *model)
{
    enum tpu_generation told = tpu_generation_of(s->accelerator);
    return (struct tpu_host){
        .generation = told != TPU_GENERATION_UNKNOWN ? told : tpu_generation_of(model),
        .chips = chips,
        .slice_nodes = s->nodes,
        .worker = s->worker,
        .slice = s->name,
        .accelerator = s->accelerator,
        .topology = s->topology,
        .chips_per_host = s->chips_per_host,
        .host_bounds = s->host_bounds,
        .wrap = s->wrap,
        .alt = s->alt,
        .has_megascale = s->has_megascale,
    };
}
