/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One look at all GPUs: what they are, how they hang together, who computes on them, what is wrong
 * with them. Runs on the looking thread. Neighbours: device_nvml_watch.c calls it, gpu_users.c
 * names processes. It must not touch what the loop owns.
 */
#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "agentd/device_nvml_internal.h"
#include "agentd/gpu_users.h"
#include "common/path.h"
#include "common/str.h"

void nvml_snapshot_free(struct nvml_snapshot *s)
{
    for (size_t i = 0; s && i < s->count; i++)
        free(s->gpus[i].links);
    if (s)
        free(s->gpus);
    free(s);
}

static struct nvml_gpu *find_gpu(const struct nvml_snapshot *s, const char *uuid)
{
    for (size_t i = 0; s && i < s->count; i++) {
        if (strcmp(s->gpus[i].uuid, uuid) == 0)
            return &s->gpus[i];
    }
    return NULL;
}

PRINTF_LIKE(2, 3) static void set_fault(struct nvml_gpu *g, const char *fmt, ...)
{
    va_list args;
    if (g->fault[0])
        return; /* the first is the gravest */
    va_start(args, fmt);
    vsnprintf(g->fault, sizeof(g->fault), fmt, args);
    va_end(args);
}

static struct nvml_gpu *add_gpu(struct nvml_snapshot *s)
{
    if (s->count == NVML_GPUS_MAX)
        return NULL;
    struct nvml_gpu *g = &s->gpus[s->count++];
    *g = (struct nvml_gpu){.minor = -1,
                           .numa_node = -1,
                           .gpu_instance = NVML_NO_INSTANCE,
                           .compute_instance = NVML_NO_INSTANCE};
    return g;
}

/* ---- what a GPU is ---- */

/* NVML says "00000000:3B:00.0", sysfs and people "0000:3b:00.0". */
static void format_bus(const nvml_pci_info_t *pci, char *buf, size_t size)
{
    snprintf(buf, size, "%04x:%02x:%02x.0", pci->domain, pci->bus & 0xff, pci->device & 0x1f);
}

static int32_t read_number(const char *path, int32_t none)
{
    AUTO_FREE char *text = NULL;
    size_t len;
    char *end;
    if (path_read_all(AT_FDCWD, path, 4096, &text, &len, NULL) < 0)
        return none;
    long value = strtol(text, &end, 10);
    return end == text || value < -1 || value > INT32_MAX ? none : (int32_t)value;
}

/* False: it is not there (only if that matters). */
PRINTF_LIKE(3, 4)
static bool add_path(struct nvml_gpu *g, bool is_optional, const char *fmt, ...)
{
    char *path = g->paths[g->path_count];
    va_list args;
    CHECK(g->path_count < NVML_PATHS_MAX);
    va_start(args, fmt);
    vsnprintf(path, NVML_PATH_BYTES, fmt, args);
    va_end(args);
    if (is_optional && access(path, F_OK) < 0)
        return false;
    g->path_count++;
    return true;
}

/* An instance has two capabilities besides the nodes of its GPU; the driver tells their minor
 * numbers in /proc. The last, that of the compute instance, is its own alone. */
static void add_capabilities(const struct nvml_shared *sh, struct nvml_gpu *g)
{
    for (int level = 0; level < 2; level++) {
        char file[256], instance[32] = "";
        AUTO_FREE char *text = NULL;
        size_t len;
        int number;
        if (level == 1)
            snprintf(instance, sizeof(instance), "/ci%u", g->compute_instance);
        snprintf(file, sizeof(file), "%s/driver/nvidia/capabilities/gpu%d/mig/gi%u%s/access",
                 sh->proc_root, g->minor, g->gpu_instance, instance);
        if (path_read_all(AT_FDCWD, file, 4096, &text, &len, NULL) == 0 &&
            sscanf(text, "DeviceFileMinor: %d", &number) == 1 &&
            add_path(g, true, "%s/nvidia-caps/nvidia-cap%d", sh->dev_root, number))
            g->own_path = g->path_count - 1;
    }
}

/* The device nodes that a process must open. nvidia-uvm comes with its module, which the first
 * program that computes may load. */
static void fill_paths(const struct nvml_shared *sh, struct nvml_gpu *g)
{
    if (g->minor < 0)
        return;
    add_path(g, false, "%s/nvidia%d", sh->dev_root, g->minor);
    add_path(g, false, "%s/nvidiactl", sh->dev_root);
    add_path(g, true, "%s/nvidia-uvm", sh->dev_root);
    add_path(g, true, "%s/nvidia-uvm-tools", sh->dev_root);
    if (g->is_mig)
        add_capabilities(sh, g);
}

static nvml_return_t note_code(struct nvml_gpu *g, nvml_return_t code)
{
    if (code == NVML_GPU_IS_LOST) {
        g->is_broken = true;
        set_fault(g, "it has fallen off the bus");
    } else if (code == NVML_RESET_REQUIRED) {
        set_fault(g, "it needs a reset");
    }
    return code;
}

static void fill_memory(struct nvml_shared *sh, struct nvml_gpu *g)
{
    nvml_memory_t memory = {0};
    if (note_code(g, NVML_CALL(sh, memory, g->handle, &memory)) != NVML_OK)
        return;
    g->memory_bytes = memory.total;
    g->used_bytes = memory.used;
}

static void fill_identity(struct nvml_shared *sh, struct nvml_gpu *g)
{
    nvml_pci_info_t pci = {0};
    unsigned minor;
    char path[160];
    if (note_code(g, NVML_CALL(sh, name, g->handle, g->model, sizeof(g->model))) != NVML_OK)
        str_copy(g->model, sizeof(g->model), "NVIDIA GPU");
    g->model[sizeof(g->model) - 1] = 0;
    if (NVML_CALL(sh, pci_info, g->handle, &pci) == NVML_OK) {
        format_bus(&pci, g->bus, sizeof(g->bus));
        snprintf(path, sizeof(path), "%s/bus/pci/devices/%s/numa_node", sh->sys_root, g->bus);
        g->numa_node = read_number(path, -1);
    }
    if (NVML_CALL(sh, minor, g->handle, &minor) == NVML_OK && minor <= INT32_MAX)
        g->minor = (int32_t)minor;
}

/* ---- what is wrong with it ---- */

static void fill_health(struct nvml_shared *sh, struct nvml_gpu *g)
{
    unsigned corrected = 0, uncorrected = 0, is_pending = 0, has_failed = 0;
    unsigned long long errors = 0;
    nvml_return_t rows = note_code(g, NVML_CALL(sh, remapped_rows, g->handle, &corrected,
                                                &uncorrected, &is_pending, &has_failed));
    if (rows == NVML_OK && has_failed)
        set_fault(g, "a failed row of its memory cannot be replaced (row remapping failed)");
    if (note_code(g, NVML_CALL(sh, ecc_errors, g->handle, NVML_ECC_UNCORRECTED, NVML_ECC_VOLATILE,
                               &errors)) != NVML_OK ||
        errors == 0)
        return;
    /* Where rows are replaced, errors of the past do no harm once none waits for it. */
    if (rows != NVML_OK || is_pending)
        set_fault(g, "%llu uncorrected ECC errors since the driver was loaded%s", errors,
                  rows == NVML_OK ? "; a row waits for a reset to be replaced" : "");
}

static void fill_processes(struct nvml_shared *sh, struct nvml_gpu *g)
{
    nvml_process_t found[NVML_PROCESSES_MAX];
    unsigned count = NVML_PROCESSES_MAX;
    nvml_return_t r = NVML_CALL(sh, processes, g->handle, &count, found);
    if (note_code(g, r) == NVML_INSUFFICIENT_SIZE)
        count = 1; /* more than anybody asks for; it is in use */
    else if (r != NVML_OK)
        return;
    g->process_count = MIN(count, NVML_PROCESSES_MAX);
    for (size_t i = 0; i < g->process_count; i++) {
        struct nvml_process *p = &g->processes[i];
        p->pid = r == NVML_OK ? found[i].pid : 0;
        if (p->pid)
            gpu_user_text(p->pid, p->text, sizeof(p->text));
        else
            str_copy(p->text, sizeof(p->text), "processes that cannot be seen from here");
    }
}

/* ---- the list ---- */

static void add_instance(struct nvml_looker *l, struct nvml_snapshot *s,
                         const struct nvml_gpu *whole, struct nvmlDevice_st *handle)
{
    struct nvml_shared *sh = l->shared;
    struct nvml_gpu *g = add_gpu(s);
    if (!g)
        return;
    g->handle = handle;
    g->is_mig = true;
    if (NVML_CALL(sh, uuid, handle, g->uuid, sizeof(g->uuid)) != NVML_OK || !g->uuid[0]) {
        s->count--;
        return;
    }
    str_copy(g->parent, sizeof(g->parent), whole->uuid);
    if (NVML_CALL(sh, name, handle, g->model, sizeof(g->model)) != NVML_OK)
        snprintf(g->model, sizeof(g->model), "%.80s MIG", whole->model);
    str_copy(g->bus, sizeof(g->bus), whole->bus);
    g->numa_node = whole->numa_node;
    g->minor = whole->minor;
    if (NVML_CALL(sh, gpu_instance, handle, &g->gpu_instance) != NVML_OK)
        g->gpu_instance = NVML_NO_INSTANCE;
    if (NVML_CALL(sh, compute_instance, handle, &g->compute_instance) != NVML_OK)
        g->compute_instance = NVML_NO_INSTANCE;
    g->is_broken = whole->is_broken;
    str_copy(g->fault, sizeof(g->fault), whole->fault);
    fill_paths(sh, g);
    fill_memory(sh, g);
    fill_processes(sh, g);
}

/* A GPU in MIG mode is its instances; itself it can carry nothing. */
static bool add_instances(struct nvml_looker *l, struct nvml_snapshot *s,
                          const struct nvml_gpu *whole)
{
    struct nvml_shared *sh = l->shared;
    unsigned now = 0, pending = 0, max = 0;
    if (NVML_CALL(sh, mig_mode, whole->handle, &now, &pending) != NVML_OK || now != NVML_FEATURE_ON)
        return false;
    if (NVML_CALL(sh, mig_max, whole->handle, &max) != NVML_OK)
        return false;
    for (unsigned i = 0; i < MIN(max, 64u); i++) {
        struct nvmlDevice_st *handle = NULL;
        if (NVML_CALL(sh, mig_by_index, whole->handle, i, &handle) == NVML_OK && handle)
            add_instance(l, s, whole, handle);
    }
    return true;
}

static void add_by_index(struct nvml_looker *l, struct nvml_snapshot *s, unsigned index)
{
    struct nvml_shared *sh = l->shared;
    struct nvmlDevice_st *handle = NULL;
    nvml_return_t r = NVML_CALL(sh, by_index, index, &handle);
    struct nvml_gpu *g = r == NVML_OK && handle ? add_gpu(s) : NULL;
    if (!g) { /* who it was is known from the look before: keep_gone() */
        snprintf(s->note, sizeof(s->note), "GPU %u of the driver's list: %s", index,
                 r == NVML_OK ? "more than can be listed" : nvml_error_text(&sh->lib, r));
        return;
    }
    g->handle = handle;
    r = NVML_CALL(sh, uuid, handle, g->uuid, sizeof(g->uuid));
    if (r != NVML_OK || !g->uuid[0]) {
        snprintf(s->note, sizeof(s->note), "GPU %u of the driver's list: %s", index,
                 nvml_error_text(&sh->lib, r));
        s->count--;
        return;
    }
    fill_identity(sh, g);
    fill_paths(sh, g);
    fill_memory(sh, g);
    fill_health(sh, g);
    struct nvml_gpu whole = *g;
    size_t at = s->count;
    if (!add_instances(l, s, &whole)) {
        fill_processes(sh, g);
        return;
    }
    if (s->count == at) {
        set_fault(g, "it is in MIG mode and has no instances");
        return;
    }
    memmove(&s->gpus[at - 1], &s->gpus[at], (s->count - at) * sizeof(*s->gpus));
    s->count--;
}

/* In the order of the PCI bus, as CUDA_DEVICE_ORDER=PCI_BUS_ID counts; instances as NVML counts. */
static int compare_bus(const void *a, const void *b)
{
    const struct nvml_gpu *x = a, *y = b;
    int order = strcmp(x->bus, y->bus);
    if (order == 0 && x->gpu_instance != y->gpu_instance)
        order = x->gpu_instance < y->gpu_instance ? -1 : 1;
    if (order == 0 && x->compute_instance != y->compute_instance)
        order = x->compute_instance < y->compute_instance ? -1 : 1;
    return order ? order : strcmp(x->uuid, y->uuid);
}

/* Whole GPUs that were here and are not any more stay listed, with why: they are missed, not
 * forgotten, and a job may still hold them. */
static void keep_gone(struct nvml_snapshot *s, const struct nvml_snapshot *last, const char *why)
{
    for (size_t i = 0; last && i < last->count; i++) {
        const struct nvml_gpu *old = &last->gpus[i];
        struct nvml_gpu *g;
        bool has_parent = false;
        for (size_t k = 0; old->is_mig && k < s->count; k++)
            has_parent |= strcmp(s->gpus[k].bus, old->bus) == 0;
        if (has_parent || (old->is_hearsay && !why) || find_gpu(s, old->uuid) || !(g = add_gpu(s)))
            continue; /* an instance that was taken away is no fault */
        *g = *old;
        g->links = NULL;
        g->link_count = g->process_count = g->opener_count = 0;
        g->handle = NULL;
        if (why) {
            snprintf(g->fault, sizeof(g->fault), "%s", why);
            continue;
        }
        if (!old->is_gone || !old->fault[0])
            snprintf(g->fault, sizeof(g->fault),
                     "it is gone from the driver's list (fallen off the bus, or removed)");
        g->is_broken = g->is_gone = true;
    }
}

/* ---- how they hang together ---- */

static const char *ancestor_kind(unsigned level)
{
    switch (level) {
    case NVML_TOPO_INTERNAL:
    case NVML_TOPO_SINGLE: return "pix";
    case NVML_TOPO_MULTIPLE: return "pxb";
    case NVML_TOPO_HOSTBRIDGE: return "phb";
    case NVML_TOPO_NODE: return "node";
    default: return "sys";
    }
}

/* lanes[j]: NVLinks of g that end at GPU j; the return: those that end at a switch. */
static uint32_t count_nvlinks(struct nvml_shared *sh, const struct nvml_snapshot *s,
                              const struct nvml_gpu *g, uint32_t *lanes)
{
    uint32_t to_switch = 0;
    for (unsigned link = 0; link < NVML_LINKS_MAX; link++) {
        nvml_enable_t is_on = 0;
        nvml_link_peer_t peer = 0;
        nvml_pci_info_t pci = {0};
        char bus[32];
        nvml_return_t r = NVML_CALL(sh, link_state, g->handle, link, &is_on);
        if (r == NVML_INVALID_ARGUMENT || r == NVML_FUNCTION_NOT_FOUND)
            break;
        if (r != NVML_OK || is_on != NVML_FEATURE_ON)
            continue;
        if (NVML_CALL(sh, link_peer, g->handle, link, &peer) == NVML_OK &&
            peer == NVML_LINK_PEER_SWITCH) {
            to_switch++;
            continue;
        }
        if (NVML_CALL(sh, link_pci, g->handle, link, &pci) != NVML_OK)
            continue;
        format_bus(&pci, bus, sizeof(bus));
        for (size_t j = 0; j < s->count; j++) {
            if (!s->gpus[j].is_mig && strcmp(s->gpus[j].bus, bus) == 0)
                lanes[j]++;
        }
    }
    return to_switch;
}

static void link_pair(struct nvml_shared *sh, struct nvml_snapshot *s, size_t i, size_t j,
                      uint32_t lanes)
{
    struct nvml_gpu *g = &s->gpus[i];
    nvml_topology_t level = NVML_TOPO_SYSTEM;
    struct nvml_link link = {.peer = (uint32_t)j, .kind = "nvlink", .count = lanes};
    if (lanes == 0) {
        if (NVML_CALL(sh, ancestor, g->handle, s->gpus[j].handle, &level) != NVML_OK)
            return;
        link.kind = ancestor_kind(level);
    }
    g->links[g->link_count++] = link;
}

static bool has_links(const struct nvml_gpu *g)
{
    return !g->is_mig && g->handle && !g->is_broken;
}

static void fill_links(struct nvml_shared *sh, struct nvml_snapshot *s)
{
    AUTO_FREE uint32_t *lanes = xcalloc(s->count * s->count + 1, sizeof(*lanes));
    AUTO_FREE uint32_t *to_switch = xcalloc(s->count + 1, sizeof(*to_switch));
    for (size_t i = 0; i < s->count; i++) {
        if (has_links(&s->gpus[i]))
            to_switch[i] = count_nvlinks(sh, s, &s->gpus[i], &lanes[i * s->count]);
    }
    for (size_t i = 0; i < s->count; i++) {
        s->gpus[i].links =
            has_links(&s->gpus[i]) ? xcalloc(s->count, sizeof(struct nvml_link)) : NULL;
        for (size_t j = 0; s->gpus[i].links && j < s->count; j++) {
            /* through a switch every GPU reaches every other with all of its links */
            if (i != j && has_links(&s->gpus[j]))
                link_pair(sh, s, i, j, lanes[i * s->count + j] + MIN(to_switch[i], to_switch[j]));
        }
    }
}

static bool is_same_set(const struct nvml_snapshot *a, const struct nvml_snapshot *b)
{
    if (!b || a->count != b->count)
        return false;
    for (size_t i = 0; i < a->count; i++) {
        if (strcmp(a->gpus[i].uuid, b->gpus[i].uuid) != 0 ||
            has_links(&a->gpus[i]) != has_links(&b->gpus[i]))
            return false;
    }
    return true;
}

/* They change only with the set of GPUs; asking for them is most of a look at eight. */
static void copy_links(struct nvml_snapshot *s, const struct nvml_snapshot *last)
{
    for (size_t i = 0; i < s->count; i++) {
        s->gpus[i].link_count = last->gpus[i].link_count;
        s->gpus[i].links = last->gpus[i].links ? xmemdup(last->gpus[i].links,
                                                         s->count * sizeof(*last->gpus[i].links))
                                               : NULL;
    }
}

/* ---- events ---- */

static void mark(struct nvml_looker *l, const struct nvml_gpu *g, const char *text, bool is_broken)
{
    struct nvml_mark *m = NULL;
    for (size_t i = 0; i < l->mark_count && !m; i++) {
        if (strcmp(l->marks[i].uuid, g->uuid) == 0)
            m = &l->marks[i];
    }
    if (m && (m->is_broken || !is_broken))
        return; /* the first tells more than those that follow from it */
    if (!m && l->mark_count == NVML_GPUS_MAX)
        return;
    if (!m)
        m = &l->marks[l->mark_count++];
    str_copy(m->uuid, sizeof(m->uuid), g->uuid);
    str_copy(m->text, sizeof(m->text), text);
    m->is_broken = is_broken;
}

/* Which of ours an event is about: one instance where it says so, else all of that GPU. */
static bool is_about(const nvml_event_t *ev, const struct nvml_gpu *g, const char *bus)
{
    if (!bus[0] || strcmp(g->bus, bus) != 0)
        return false;
    if (!g->is_mig || ev->gpu_instance == NVML_NO_INSTANCE)
        return true;
    return g->gpu_instance == ev->gpu_instance && (ev->compute_instance == NVML_NO_INSTANCE ||
                                                   g->compute_instance == ev->compute_instance);
}

static void take_event(struct nvml_looker *l, const struct nvml_snapshot *s, const nvml_event_t *ev)
{
    const char *what = "double bit ECC error";
    char text[NVML_FAULT_BYTES], bus[32] = "";
    enum xid_class class = XID_FATAL;
    nvml_pci_info_t pci = {0};
    if (ev->type == NVML_EVENT_XID)
        class = xid_classify(ev->data, &what);
    if (class == XID_APP || !(ev->type & (NVML_EVENT_XID | NVML_EVENT_DOUBLE_BIT_ECC)))
        return;
    if (ev->type == NVML_EVENT_XID)
        snprintf(text, sizeof(text), "XID %llu%s%s%s", ev->data, what ? " (" : "", what ? what : "",
                 what ? ")" : "");
    else
        snprintf(text, sizeof(text), "%s", what);
    /* Of a GPU that is lost not even the bus can be asked: then by its handle. */
    if (NVML_CALL(l->shared, pci_info, ev->device, &pci) == NVML_OK)
        format_bus(&pci, bus, sizeof(bus));
    for (size_t i = 0; l->last && i < l->last->count && !bus[0]; i++) {
        if (l->last->gpus[i].handle == ev->device)
            str_copy(bus, sizeof(bus), l->last->gpus[i].bus);
    }
    for (size_t i = 0; i < s->count; i++) {
        if (is_about(ev, &s->gpus[i], bus))
            mark(l, &s->gpus[i], text, class == XID_FATAL);
    }
}

/* A GPU that was gone and is back has been reset: what was said of it is over. */
static void apply_marks(struct nvml_looker *l, struct nvml_snapshot *s)
{
    for (size_t i = 0; i < l->mark_count;) {
        struct nvml_mark *m = &l->marks[i];
        struct nvml_gpu *g = find_gpu(s, m->uuid);
        const struct nvml_gpu *old = find_gpu(l->last, m->uuid);
        if (!g || (old && old->is_gone && !g->is_gone)) {
            *m = l->marks[--l->mark_count];
            continue;
        }
        str_copy(g->fault, sizeof(g->fault), m->text);
        g->is_broken |= m->is_broken;
        i++;
    }
}

/* ---- who has them open ---- */

static void on_user(void *ctx, size_t i, uint32_t pid)
{
    struct nvml_gpu *g = &((struct nvml_snapshot *)ctx)->gpus[i];
    if (g->opener_count == NVML_PROCESSES_MAX)
        return;
    struct nvml_process *p = &g->openers[g->opener_count++];
    p->pid = pid;
    gpu_user_text(pid, p->text, sizeof(p->text));
}

static void fill_openers(const struct nvml_shared *sh, struct nvml_snapshot *s)
{
    const char *paths[NVML_GPUS_MAX];
    char uvm[NVML_PATH_BYTES];
    for (size_t i = 0; i < s->count; i++) {
        const struct nvml_gpu *g = &s->gpus[i];
        /* an instance without capabilities to tell it by shares its path with its neighbours */
        paths[i] = g->path_count > g->own_path && (!g->is_mig || g->own_path > 0)
                       ? g->paths[g->own_path]
                       : "";
    }
    snprintf(uvm, sizeof(uvm), "%s/nvidia-uvm", sh->dev_root);
    gpu_users_scan(paths, s->count, uvm, on_user, s);
    s->has_users = true;
}

/* ---- the look ---- */

static struct nvml_snapshot *snapshot_new(const struct nvml_looker *l)
{
    struct nvml_snapshot *s = xcalloc(1, sizeof(*s));
    s->gpus = xcalloc(NVML_GPUS_MAX + 1, sizeof(*s->gpus));
    if (l->last)
        str_copy(s->driver, sizeof(s->driver), l->last->driver);
    return s;
}

/* The room for the largest machine is not kept for the smallest. */
static struct nvml_snapshot *snapshot_fit(struct nvml_snapshot *s)
{
    s->gpus = xrealloc(s->gpus, (s->count + 1) * sizeof(*s->gpus));
    return s;
}

struct nvml_snapshot *nvml_scan_down(struct nvml_looker *l, const char *why)
{
    struct nvml_snapshot *s = snapshot_new(l);
    str_copy(s->note, sizeof(s->note), why);
    keep_gone(s, l->last, why);
    return snapshot_fit(s);
}

/* The value of "Name: \t value" in such a file; "" if there is none. */
static void proc_field(const char *text, const char *name, char *buf, size_t size)
{
    const char *line = strstr(text, name);
    buf[0] = 0;
    if (!line)
        return;
    line += strlen(name);
    line += strspn(line, ": \t");
    snprintf(buf, size, "%.*s", (int)strcspn(line, "\n"), line);
}

static void add_from_proc(const struct nvml_shared *sh, struct nvml_snapshot *s, const char *bus)
{
    char path[320], number[16];
    uint64_t minor;
    AUTO_FREE char *text = NULL;
    size_t len;
    snprintf(path, sizeof(path), "%s/driver/nvidia/gpus/%.32s/information", sh->proc_root, bus);
    struct nvml_gpu *g =
        path_read_all(AT_FDCWD, path, 65536, &text, &len, NULL) < 0 ? NULL : add_gpu(s);
    if (!g)
        return;
    g->is_hearsay = true;
    str_copy(g->bus, sizeof(g->bus), bus);
    proc_field(text, "Model", g->model, sizeof(g->model));
    proc_field(text, "GPU UUID", g->uuid, sizeof(g->uuid));
    if (!g->uuid[0] || strchr(g->uuid, '?')) /* a GPU that nobody has opened yet hides it */
        str_copy(g->uuid, sizeof(g->uuid), g->bus);
    proc_field(text, "Device Minor", number, sizeof(number));
    if (parse_u64(number, 0, INT32_MAX, &minor) == 0)
        g->minor = (int32_t)minor;
    fill_paths(sh, g);
    set_fault(g, "the driver has not told of it yet");
}

struct nvml_snapshot *nvml_scan_proc(struct nvml_looker *l)
{
    struct nvml_snapshot *s = snapshot_new(l);
    char path[128];
    snprintf(path, sizeof(path), "%s/driver/nvidia/gpus", l->shared->proc_root);
    DIR *d = opendir(path);
    for (const struct dirent *e; d && (e = readdir(d));) {
        if (e->d_name[0] != '.' && strlen(e->d_name) < sizeof(s->gpus[0].bus))
            add_from_proc(l->shared, s, e->d_name);
    }
    if (d)
        closedir(d);
    qsort(s->gpus, s->count, sizeof(*s->gpus), compare_bus);
    return snapshot_fit(s);
}

struct nvml_snapshot *nvml_scan(struct nvml_looker *l, const nvml_event_t *events,
                                size_t event_count, bool with_users, bool *ret_is_down)
{
    struct nvml_shared *sh = l->shared;
    unsigned count = 0;
    nvml_return_t r = NVML_CALL(sh, count, &count);
    if (r != NVML_OK && r != NVML_GPU_NOT_FOUND) {
        *ret_is_down = true;
        return nvml_scan_down(l, nvml_error_text(&sh->lib, r));
    }
    struct nvml_snapshot *s = snapshot_new(l);
    *ret_is_down = false;
    (void)NVML_CALL(sh, driver_version, s->driver, sizeof(s->driver));
    for (unsigned i = 0; i < MIN(count, NVML_GPUS_MAX); i++)
        add_by_index(l, s, i);
    keep_gone(s, l->last, NULL);
    for (size_t i = 0; i < event_count; i++)
        take_event(l, s, &events[i]);
    qsort(s->gpus, s->count, sizeof(*s->gpus), compare_bus);
    apply_marks(l, s);
    if (is_same_set(s, l->last))
        copy_links(s, l->last);
    else
        fill_links(sh, s);
    if (with_users)
        fill_openers(sh, s);
    return snapshot_fit(s);
}
