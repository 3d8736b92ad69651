/* SPDX-License-Identifier: Apache-2.0 */
/*
 * NVIDIA GPUs as a device source: what the looking thread saw last, as the node's list; faults; who
 * is given which; and the proof, after an attempt, that nobody holds its GPUs any more. All on the
 * loop's thread; of the library only the names of functions and codes are used here. Neighbours:
 * device_nvml_watch.c, node.c. It must not wait for the driver longer than a look before a start.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "agentd/device.h"
#include "agentd/device_nvml_internal.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/loop.h"
#include "common/str.h"

#define SAMPLE_MS    5000  /* nothing tells of processes that come and go */
#define ANSWER_MS    10000 /* a call that takes longer hangs; cold starts take 1 s a GPU */
#define LOOK_MS      1000  /* before a start; then what was seen last counts */
#define PROOF_MS     30000 /* from the end of an attempt until its GPUs are called held */
#define PROOF_MIN_MS 20    /* between two looks of a proof, doubling up to the next */
#define PROOF_MAX_MS 1000
#define MEMORY_SLACK (64ull << 20) /* the driver's own use moves by some MiB */

/* A GPU that was given out, from before its start until it is proven free. */
struct given {
    struct given *next;
    char uuid[NVML_UUID_BYTES];
    uint64_t used_bytes;              /* before */
    bool is_held;                     /* not proven in time: told as a fault until it is */
    char held[NVML_FAULT_BYTES - 16]; /* by whom or what, when it was looked at last */
};
struct proof {
    struct proof *next;
    void (*on_free)(void *ctx);
    void *ctx;
    char **uuids;
    size_t count;
    uint64_t asked; /* the look that is waited for */
    int64_t deadline_ms, next_ms, pause_ms;
    bool was_seen; /* a look has come since the release */
};

struct device_nvml {
    struct device_source source;
    struct nvml_shared *shared; /* NULL: there is no library, hence no GPU */
    uv_async_t async;
    struct loop_timer timer;
    unsigned open_handles;
    int64_t proof_ms;
    void (*on_change)(void *ctx);
    void *ctx;
    struct given *given;
    struct proof *proofs;
    uint8_t *told; /* the list as it was told last, packed */
    size_t told_len;
    char note[NVML_FAULT_BYTES * 2];
};

/* ---- what is wrong ---- */

/* Writes the fault that a hanging driver is. False: it answers. With the lock held. */
static bool is_hanging(const struct nvml_shared *sh, char *buf, size_t size)
{
    int64_t now_ms = clock_mono_ms();
    for (size_t i = 0; i < ARRAY_LEN(sh->calls); i++) {
        const struct nvml_call *call = &sh->calls[i];
        char name[64];
        if (!call->is_in || now_ms < call->overdue_ms)
            continue;
        nvml_function_name(call->fn, name, sizeof(name));
        snprintf(buf, size, "the driver does not answer for %" PRId64 " s (%s)",
                 MAX(sh->answer_ms / 1000, 1), name);
        return true;
    }
    return false;
}

static struct given *find_given(const struct device_nvml *n, const char *uuid)
{
    for (struct given *g = n->given; g; g = g->next) {
        if (strcmp(g->uuid, uuid) == 0)
            return g;
    }
    return NULL;
}

static struct nvml_gpu *find_gpu(const struct nvml_shared *sh, const char *uuid)
{
    for (size_t i = 0; sh->latest && i < sh->latest->count; i++) {
        if (strcmp(sh->latest->gpus[i].uuid, uuid) == 0)
            return &sh->latest->gpus[i];
    }
    return NULL;
}

static void say_processes(const struct nvml_process *p, size_t count, char *buf, size_t size)
{
    int len = snprintf(buf, size, "%s", p->text);
    if (count > 1 && len > 0 && (size_t)len < size)
        snprintf(buf + len, size - (size_t)len, " and %zu more", count - 1);
}

/* Who computes on a GPU, by the driver; a driver that cannot tell is replaced by who has it open.
 */
static void say_busy(const struct nvml_shared *sh, const struct nvml_gpu *gpu, char *buf,
                     size_t size)
{
    buf[0] = 0;
    if (gpu->process_count)
        say_processes(gpu->processes, gpu->process_count, buf, size);
    else if (!sh->lib.processes && gpu->opener_count)
        say_processes(gpu->openers, gpu->opener_count, buf, size);
}

/* Who or what keeps a GPU from being as it was before it was given out; "" if nothing does. */
static void say_held(const struct nvml_shared *sh, const struct nvml_gpu *gpu,
                     const struct given *g, char *buf, size_t size)
{
    say_busy(sh, gpu, buf, size);
    if (!buf[0] && gpu->opener_count)
        say_processes(gpu->openers, gpu->opener_count, buf, size);
    else if (!buf[0] && gpu->used_bytes > g->used_bytes + MEMORY_SLACK)
        snprintf(buf, size, "%" PRIu64 " MiB of its memory that nobody owns",
                 (gpu->used_bytes - g->used_bytes) >> 20);
}

static void say_fault(const struct device_nvml *n, const struct nvml_gpu *gpu, const char *hanging,
                      char *buf, size_t size)
{
    const struct given *g = find_given(n, gpu->uuid);
    char busy[NVML_FAULT_BYTES - 16];
    buf[0] = 0;
    if (hanging[0] && (gpu->is_hearsay || !gpu->fault[0])) {
        str_copy(buf, size, hanging);
    } else if (gpu->fault[0]) {
        str_copy(buf, size, gpu->fault);
    } else if (g) { /* who works on one that was given out is looked at when it is back */
        if (g->is_held)
            snprintf(buf, size, "held by %s", g->held);
    } else {
        say_busy(n->shared, gpu, busy, sizeof(busy));
        if (busy[0])
            snprintf(buf, size, "busy: %s", busy);
    }
}

/* ---- the list ---- */

static Accel__V1__Device *make_device(const struct device_nvml *n, const struct nvml_gpu *gpu,
                                      const char *hanging, struct arena *a)
{
    Accel__V1__Device *d = ARENA_NEW(a, Accel__V1__Device);
    char fault[NVML_FAULT_BYTES];
    accel__v1__device__init(d);
    d->id = arena_printf(a, "gpu:%s", gpu->uuid);
    d->kind = ACCEL__V1__DEVICE_KIND__DEVICE_GPU;
    d->model = arena_strdup(a, gpu->model);
    d->memory_bytes = gpu->memory_bytes;
    d->visible = arena_strdup(a, gpu->uuid);
    d->bus = arena_strdup(a, gpu->bus);
    d->numa_node = gpu->numa_node;
    d->vendor = "nvidia";
    d->parent = arena_strdup(a, gpu->parent);
    d->is_broken = gpu->is_broken;
    say_fault(n, gpu, hanging, fault, sizeof(fault));
    d->fault = arena_strdup(a, fault);
    d->is_passing = fault[0] && !hanging[0] && (!gpu->fault[0] || gpu->is_hearsay);
    d->paths = ARENA_ARRAY(a, char *, gpu->path_count + 1);
    for (size_t i = 0; i < gpu->path_count; i++)
        d->paths[d->n_paths++] = arena_strdup(a, gpu->paths[i]);
    d->links = ARENA_ARRAY(a, Accel__V1__DeviceLink *, gpu->link_count + 1);
    for (size_t i = 0; i < gpu->link_count; i++) {
        Accel__V1__DeviceLink *link = ARENA_NEW(a, Accel__V1__DeviceLink);
        accel__v1__device_link__init(link);
        link->index = gpu->links[i].peer;
        link->kind = (char *)gpu->links[i].kind;
        link->count = gpu->links[i].count;
        d->links[d->n_links++] = link;
    }
    return d;
}

static int nvml_list(struct device_source *s, struct arena *a, Accel__V1__Device ***ret_devices,
                     size_t *ret_count, struct accel_error *err)
{
    const struct device_nvml *n = CONTAINER_OF(s, struct device_nvml, source);
    struct nvml_shared *sh = n->shared;
    char hanging[NVML_FAULT_BYTES] = "";
    (void)err;
    *ret_devices = ARENA_ARRAY(a, Accel__V1__Device *, NVML_GPUS_MAX);
    *ret_count = 0;
    if (!sh)
        return 0;
    pthread_mutex_lock(&sh->lock);
    is_hanging(sh, hanging, sizeof(hanging));
    for (size_t i = 0; sh->latest && i < sh->latest->count; i++)
        (*ret_devices)[(*ret_count)++] = make_device(n, &sh->latest->gpus[i], hanging, a);
    pthread_mutex_unlock(&sh->lock);
    return 0;
}

static const char *nvml_note(struct device_source *s)
{
    return CONTAINER_OF(s, struct device_nvml, source)->note;
}

/* ---- changes ---- */

static void pack_devices(Accel__V1__Device *const *devices, size_t count, struct str *out)
{
    for (size_t i = 0; i < count; i++) {
        size_t len = accel__v1__device__get_packed_size(devices[i]);
        AUTO_FREE uint8_t *packed = xcalloc(1, len + 1);
        str_add(out, packed, accel__v1__device__pack(devices[i], packed));
        str_add(out, &len, sizeof(len));
    }
}

static bool refresh_note(struct device_nvml *n)
{
    struct nvml_shared *sh = n->shared;
    char note[sizeof(n->note)] = "";
    pthread_mutex_lock(&sh->lock);
    if (!is_hanging(sh, note, sizeof(note)) && sh->latest && sh->latest->note[0])
        snprintf(note, sizeof(note), "%s%s%s%s", sh->latest->note,
                 sh->latest->driver[0] ? " (driver " : "", sh->latest->driver,
                 sh->latest->driver[0] ? ")" : "");
    pthread_mutex_unlock(&sh->lock);
    if (strcmp(note, n->note) == 0)
        return false;
    str_copy(n->note, sizeof(n->note), note);
    if (note[0])
        log_warn("NVIDIA GPUs: %s", note);
    else
        log_info("NVIDIA GPUs: as they should be again");
    return true;
}

static bool has_changed(struct device_nvml *n)
{
    struct arena arena;
    AUTO_STR struct str packed = {0};
    Accel__V1__Device **devices;
    size_t count;
    arena_init(&arena);
    str_init(&packed);
    CHECK(nvml_list(&n->source, &arena, &devices, &count, NULL) == 0);
    pack_devices(devices, count, &packed);
    arena_done(&arena);
    bool has_new_note = refresh_note(n);
    if (packed.len == n->told_len && (!packed.len || memcmp(packed.data, n->told, packed.len) == 0))
        return has_new_note;
    free(n->told);
    n->told_len = packed.len;
    n->told = (uint8_t *)str_steal(&packed);
    return true;
}

/* ---- proofs ---- */

static uint64_t ask(struct nvml_shared *sh, bool with_users)
{
    pthread_mutex_lock(&sh->lock);
    uint64_t asked = ++sh->asked;
    sh->asked_users |= with_users;
    pthread_cond_signal(&sh->wake);
    pthread_mutex_unlock(&sh->lock);
    return asked;
}

/* By the last look, which has to be new enough: is nobody and nothing left on it? A GPU that is
 * broken proves nothing and is given to nobody. */
static bool is_free(const struct nvml_shared *sh, struct given *g)
{
    const struct nvml_gpu *gpu = find_gpu(sh, g->uuid);
    if (!gpu || gpu->is_broken)
        return true;
    say_held(sh, gpu, g, g->held, sizeof(g->held));
    return !g->held[0];
}

static void forget_given(struct device_nvml *n, const char *uuid)
{
    for (struct given **at = &n->given; *at; at = &(*at)->next) {
        struct given *g = *at;
        if (strcmp(g->uuid, uuid) != 0)
            continue;
        *at = g->next;
        free(g);
        return;
    }
}

static void proof_free(struct proof *p)
{
    for (size_t i = 0; i < p->count; i++)
        free(p->uuids[i]);
    free(p->uuids);
    free(p);
}

/* Those that are not proven free stay here as held: faulty for everybody until a look finds them
 * free. */
static void proof_end(struct device_nvml *n, struct proof *p)
{
    for (size_t i = 0; i < p->count; i++) {
        struct given *g = find_given(n, p->uuids[i]);
        if (!g)
            continue;
        if (!p->was_seen)
            str_copy(g->held, sizeof(g->held), "nobody knows whom: the driver did not answer");
        g->is_held = g->held[0];
        if (g->is_held)
            log_warn("GPU %s is not free %" PRId64 " s after its job ended: held by %s", g->uuid,
                     n->proof_ms / 1000, g->held);
        else
            forget_given(n, p->uuids[i]);
    }
}

/* Looks at all of them, so that each one's `held` is what the last look saw. */
static bool is_proven(const struct device_nvml *n, const struct proof *p)
{
    const struct nvml_shared *sh = n->shared;
    bool is_all = true;
    for (size_t i = 0; i < p->count; i++) {
        struct given *g = find_given(n, p->uuids[i]);
        if (g && !is_free(sh, g))
            is_all = false;
    }
    return is_all;
}

/* Takes the proofs that are done out of the list; what is not proven is looked at again, until it
 * is too late. */
static struct proof *take_done(struct device_nvml *n, int64_t now_ms)
{
    struct nvml_shared *sh = n->shared;
    struct proof *done = NULL;
    for (struct proof **at = &n->proofs, *p; (p = *at);) {
        pthread_mutex_lock(&sh->lock);
        bool has_looked = p->asked && sh->looked >= p->asked;
        bool is_whole = has_looked && sh->latest->has_users;
        bool is_done = (is_whole && is_proven(n, p)) || now_ms >= p->deadline_ms;
        p->was_seen |= is_whole;
        pthread_mutex_unlock(&sh->lock);
        if (is_done) {
            *at = p->next;
            p->next = done;
            done = p;
            continue;
        }
        if (has_looked) {
            p->asked = 0;
            p->next_ms = now_ms + p->pause_ms;
            p->pause_ms = MIN(p->pause_ms * 2, PROOF_MAX_MS);
        } else if (!p->asked && now_ms >= p->next_ms) {
            p->asked = ask(sh, true);
        }
        at = &p->next;
    }
    return done;
}

/* Held ones that are free at last. While there are others, every look finds out who has them open.
 */
static void drop_released(struct device_nvml *n)
{
    struct nvml_shared *sh = n->shared;
    for (struct given *g = n->given, *next; g; g = next) {
        next = g->next;
        if (!g->is_held)
            continue;
        pthread_mutex_lock(&sh->lock);
        bool is_over = sh->latest->has_users && is_free(sh, g);
        sh->asked_users = true;
        pthread_mutex_unlock(&sh->lock);
        if (is_over)
            forget_given(n, g->uuid);
    }
}

static void set_timer(struct device_nvml *n)
{
    struct nvml_shared *sh = n->shared;
    int64_t now_ms = clock_mono_ms();
    int64_t due_ms = now_ms + sh->answer_ms; /* a call that begins later is overdue later */
    pthread_mutex_lock(&sh->lock);
    for (size_t i = 0; i < ARRAY_LEN(sh->calls); i++) {
        if (sh->calls[i].is_in && now_ms < sh->calls[i].overdue_ms)
            due_ms = MIN(due_ms, sh->calls[i].overdue_ms);
    }
    pthread_mutex_unlock(&sh->lock);
    for (const struct proof *p = n->proofs; p; p = p->next) {
        due_ms = MIN(due_ms, p->deadline_ms);
        if (!p->asked)
            due_ms = MIN(due_ms, p->next_ms);
    }
    loop_timer_set(&n->timer, due_ms);
}

/* After a look, and when something is due. */
static void on_news(struct device_nvml *n)
{
    struct proof *done = take_done(n, clock_mono_ms());
    for (struct proof *p = done; p; p = p->next)
        proof_end(n, p);
    drop_released(n);
    set_timer(n);
    if (has_changed(n) && n->on_change)
        n->on_change(n->ctx); /* the fault first, then the end of who left it so */
    for (struct proof *p; (p = done);) {
        done = p->next;
        p->on_free(p->ctx);
        proof_free(p);
    }
}

static void on_async(uv_async_t *async)
{
    on_news(async->data);
}

static void on_timer(void *ctx, int64_t late_ms)
{
    (void)late_ms;
    on_news(ctx);
}

/* ---- given out and taken back ---- */

static const char *uuid_of(const char *id)
{
    return strncmp(id, "gpu:", 4) == 0 ? id + 4 : id;
}

/* Waits for a look that began after now. With the lock held; false: none came in time. */
static bool wait_look(struct nvml_shared *sh, uint64_t asked, int64_t wait_ms)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    at.tv_sec += wait_ms / 1000;
    at.tv_nsec += wait_ms % 1000 * 1000000;
    at.tv_sec += at.tv_nsec / 1000000000;
    at.tv_nsec %= 1000000000;
    while (sh->looked < asked) {
        if (pthread_cond_timedwait(&sh->answered, &sh->lock, &at) != 0)
            return sh->looked >= asked;
    }
    return true;
}

static int check_usable(const struct device_nvml *n, const char *id, struct accel_error *err)
{
    struct nvml_shared *sh = n->shared;
    const struct nvml_gpu *gpu = find_gpu(sh, uuid_of(id));
    char fault[NVML_FAULT_BYTES], hanging[NVML_FAULT_BYTES] = "";
    if (!gpu)
        return 0; /* another source's */
    if (find_given(n, gpu->uuid) && !find_given(n, gpu->uuid)->is_held)
        return error_set(err, ACCEL_EBUSY, "%s: another attempt of this node has it", id);
    is_hanging(sh, hanging, sizeof(hanging));
    say_fault(n, gpu, hanging, fault, sizeof(fault));
    return fault[0] ? error_set(err, ACCEL_EBUSY, "%s: %s", id, fault) : 0;
}

static bool has_any(const struct device_nvml *n, const char *const *ids, size_t count)
{
    bool has = false;
    pthread_mutex_lock(&n->shared->lock);
    for (size_t i = 0; i < count && !has; i++)
        has = find_gpu(n->shared, uuid_of(ids[i])) != NULL;
    pthread_mutex_unlock(&n->shared->lock);
    return has;
}

static int nvml_take(struct device_source *s, const char *const *ids, size_t count, bool is_adopted,
                     struct accel_error *err)
{
    struct device_nvml *n = CONTAINER_OF(s, struct device_nvml, source);
    struct nvml_shared *sh = n->shared;
    int r = 0;
    if (!sh || !has_any(n, ids, count))
        return 0;
    uint64_t asked = is_adopted ? 0 : ask(sh, true);
    pthread_mutex_lock(&sh->lock);
    if (!is_adopted)
        (void)wait_look(sh, asked, LOOK_MS); /* else what was seen last counts */
    for (size_t i = 0; r == 0 && !is_adopted && i < count; i++)
        r = check_usable(n, ids[i], err);
    for (size_t i = 0; r == 0 && i < count; i++) {
        const struct nvml_gpu *gpu = find_gpu(sh, uuid_of(ids[i]));
        if (!gpu || find_given(n, gpu->uuid))
            continue;
        struct given *g = xcalloc(1, sizeof(*g));
        str_copy(g->uuid, sizeof(g->uuid), gpu->uuid);
        /* of an adopted attempt nobody knows what was used before it */
        g->used_bytes = is_adopted ? UINT64_MAX - MEMORY_SLACK : gpu->used_bytes;
        g->next = n->given;
        n->given = g;
    }
    pthread_mutex_unlock(&sh->lock);
    return r;
}

static bool nvml_release(struct device_source *s, const char *const *ids, size_t count,
                         void (*on_free)(void *ctx), void *ctx)
{
    struct device_nvml *n = CONTAINER_OF(s, struct device_nvml, source);
    struct proof *p = xcalloc(1, sizeof(*p));
    p->uuids = xcalloc(count + 1, sizeof(*p->uuids));
    for (size_t i = 0; n->shared && i < count; i++) {
        if (!find_given(n, uuid_of(ids[i])))
            continue;
        if (on_free)
            p->uuids[p->count++] = xstrdup(uuid_of(ids[i]));
        else
            forget_given(n, uuid_of(ids[i]));
    }
    if (p->count == 0) {
        proof_free(p);
        return false;
    }
    p->on_free = on_free;
    p->ctx = ctx;
    p->deadline_ms = clock_mono_ms() + n->proof_ms;
    p->pause_ms = PROOF_MIN_MS;
    p->asked = ask(n->shared, true);
    p->next = n->proofs;
    n->proofs = p;
    set_timer(n);
    return true;
}

/* ---- life ---- */

static void on_closed(uv_handle_t *handle)
{
    struct device_nvml *n = handle->data;
    if (--n->open_handles == 0)
        free(n);
}

static void on_timer_closed(uv_handle_t *handle)
{
    struct device_nvml *n = CONTAINER_OF(CONTAINER_OF((uv_timer_t *)handle, struct loop_timer, uv),
                                         struct device_nvml, timer);
    if (--n->open_handles == 0)
        free(n);
}

static void nvml_destroy(struct device_source *s)
{
    struct device_nvml *n = CONTAINER_OF(s, struct device_nvml, source);
    struct nvml_shared *sh = n->shared;
    while (n->given)
        forget_given(n, n->given->uuid);
    for (struct proof *p; (p = n->proofs);) {
        n->proofs = p->next;
        proof_free(p);
    }
    free(n->told);
    if (!sh) {
        free(n);
        return;
    }
    pthread_mutex_lock(&sh->lock);
    sh->is_ending = true;
    sh->async = NULL;
    pthread_cond_broadcast(&sh->wake);
    pthread_cond_broadcast(&sh->events_wake);
    nvml_shared_put(sh);
    n->open_handles = 2;
    uv_close((uv_handle_t *)&n->async, on_closed);
    loop_timer_close(&n->timer, on_timer_closed);
}

static const struct device_source_ops nvml_ops = {
    .list = nvml_list,
    .destroy = nvml_destroy,
    .note = nvml_note,
    .take = nvml_take,
    .release = nvml_release,
};

static void copy_root(char *buf, size_t size, const char *variable, const char *usual)
{
    const char *value = getenv(variable);
    if (!value || !value[0] || !str_copy(buf, size, value))
        str_copy(buf, size, usual);
}

static struct nvml_shared *shared_new(const struct device_nvml_config *c,
                                      const struct nvml_lib *lib)
{
    struct nvml_shared *sh = xcalloc(1, sizeof(*sh));
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    CHECK(pthread_mutex_init(&sh->lock, NULL) == 0);
    CHECK(pthread_cond_init(&sh->wake, &attr) == 0);
    CHECK(pthread_cond_init(&sh->answered, &attr) == 0);
    CHECK(pthread_cond_init(&sh->events_wake, &attr) == 0);
    pthread_condattr_destroy(&attr);
    sh->refs = 1;
    sh->lib = *lib;
    sh->answer_ms = c->answer_ms ? c->answer_ms : ANSWER_MS;
    sh->sample_ms = c->sample_ms ? c->sample_ms : SAMPLE_MS;
    sh->asked = 1; /* the first look */
    copy_root(sh->dev_root, sizeof(sh->dev_root), "ACCEL_DEV_ROOT", "/dev");
    copy_root(sh->sys_root, sizeof(sh->sys_root), "ACCEL_SYSFS_ROOT", "/sys");
    copy_root(sh->proc_root, sizeof(sh->proc_root), "ACCEL_PROC_ROOT", "/proc");
    return sh;
}

int device_nvml_create(const struct device_nvml_config *config, void (*on_change)(void *),
                       void *ctx, struct device_source **ret_source, struct accel_error *err)
{
    struct nvml_lib lib;
    const char *path = config->driver ? config->driver : getenv("ACCEL_NVML_LIBRARY");
    struct accel_error unusable = {0};
    int has_lib = nvml_lib_open(path && path[0] ? path : NULL, &lib, &unusable);
    if (has_lib < 0 && has_lib != ACCEL_EUNIMPL)
        return error_set(err, has_lib, "%s", unusable.text);
    struct device_nvml *n = xcalloc(1, sizeof(*n));
    n->source.ops = &nvml_ops;
    n->on_change = on_change;
    n->ctx = ctx;
    n->proof_ms = config->proof_ms ? config->proof_ms : PROOF_MS;
    *ret_source = &n->source;
    if (has_lib < 0) { /* of before what we need: its GPUs stay unused, and that is told */
        snprintf(n->note, sizeof(n->note), "%.*s", (int)sizeof(n->note) - 1, unusable.text);
        log_warn("NVIDIA GPUs: %s", n->note);
    }
    if (has_lib <= 0)
        return 0;
    struct nvml_shared *sh = n->shared = shared_new(config, &lib);
    n->async.data = n;
    CHECK(uv_async_init(config->loop, &n->async, on_async) == 0);
    CHECK(loop_timer_init(config->loop, &n->timer, on_timer, n) == 0);
    sh->async = &n->async;
    int r = nvml_watch_start(sh, err);
    if (r < 0) {
        nvml_destroy(&n->source);
        return r;
    }
    /* A node that greets before its GPUs are known would run on CPUs what belongs on them. */
    pthread_mutex_lock(&sh->lock);
    (void)wait_look(sh, 1, sh->answer_ms);
    pthread_mutex_unlock(&sh->lock);
    (void)has_changed(n);
    set_timer(n);
    return 0;
}
