/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A libnvidia-ml.so.1 for tests: the machine that a text file describes ($FAKE_NVML), which is read
 * again at each call, so that a test changes the machine by replacing the file. Built twice; with
 * FAKE_NVML_OLD it has only what a driver of long ago has.
 *
 *   driver VERSION                 what nvmlSystemGetDriverVersion says
 *   init CODE                      what nvmlInit and the count answer
 *   gpu UUID bus=XX minor=N [model=..] [memory=MIB] [used=MIB] [lost] [mig] [failed-rows]
 *       [pending-rows] [ecc=N]
 *   mig UUID parent=UUID gi=N ci=N [memory=MIB] [used=MIB]
 *   process UUID PID
 *   nvlink UUID UUID               one link, both ways;  nvswitch UUID N: N links to a switch
 *   same-board UUID UUID           one PCI switch above both
 *   event UUID XID SERIAL [gi ci]  each SERIAL comes once; XID ecc is a double bit error
 *   hang FUNCTION                  that function does not return while this line is there
 *
 * Knows nothing of the code under test but nvml_abi.h. It must not be linked by anything.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "agentd/nvml_abi.h"

#define EXPORT    __attribute__((visibility("default")))
#define LINES_MAX 256
#define WORDS_MAX 16

struct line {
    char text[256];
    char *words[WORDS_MAX];
    int count;
};
struct machine {
    struct line lines[LINES_MAX];
    int count;
};
struct nvmlDevice_st { /* a handle: one per UUID for the life of the process */
    char uuid[96];
};
struct nvmlEventSet_st {
    unsigned long last_serial;
    unsigned registered;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct nvmlDevice_st handles[LINES_MAX];

static void machine_read(struct machine *m)
{
    const char *path = getenv("FAKE_NVML");
    FILE *f = path ? fopen(path, "r") : NULL;
    m->count = 0;
    while (f && m->count < LINES_MAX && fgets(m->lines[m->count].text, 256, f)) {
        struct line *l = &m->lines[m->count];
        char *save = NULL;
        l->count = 0;
        for (char *w = strtok_r(l->text, " \n", &save); w && l->count < WORDS_MAX;
             w = strtok_r(NULL, " \n", &save))
            l->words[l->count++] = w;
        m->count += l->count > 0;
    }
    if (f)
        fclose(f);
}

static struct machine *machine_new(void)
{
    struct machine *m = malloc(sizeof(*m));
    if (!m)
        abort();
    machine_read(m);
    return m;
}

static const struct line *find(const struct machine *m, const char *verb, const char *first)
{
    for (int i = 0; i < m->count; i++) {
        const struct line *l = &m->lines[i];
        if (strcmp(l->words[0], verb) == 0 && l->count > 1 &&
            (!first || strcmp(l->words[1], first) == 0))
            return l;
    }
    return NULL;
}

static const char *option(const struct line *l, const char *name)
{
    size_t len = strlen(name);
    for (int i = 2; l && i < l->count; i++) {
        if (strncmp(l->words[i], name, len) == 0 && (!l->words[i][len] || l->words[i][len] == '='))
            return l->words[i] + len + (l->words[i][len] == '=');
    }
    return NULL;
}

static unsigned long number(const struct line *l, const char *name, unsigned long otherwise)
{
    const char *text = option(l, name);
    return text ? strtoul(text, NULL, 0) : otherwise;
}

/* Every call begins here: it hangs while the file says so. */
static struct machine *enter(const char *function)
{
    struct machine *m = machine_new();
    while (find(m, "hang", function)) {
        struct timespec pause = {.tv_nsec = 5000000};
        nanosleep(&pause, NULL);
        machine_read(m);
    }
    return m;
}

static const struct line *line_of(const struct machine *m, const struct nvmlDevice_st *d)
{
    const struct line *l = find(m, "gpu", d->uuid);
    return l ? l : find(m, "mig", d->uuid);
}

/* The code that a call about this device answers, before anything else. */
static nvml_return_t state_of(const struct machine *m, const struct nvmlDevice_st *d)
{
    const struct line *l = line_of(m, d);
    if (!l)
        return NVML_NOT_FOUND;
    return option(l, "lost") ? NVML_GPU_IS_LOST : NVML_OK;
}

static struct nvmlDevice_st *handle_of(const char *uuid)
{
    struct nvmlDevice_st *d = NULL;
    pthread_mutex_lock(&lock);
    for (int i = 0; i < LINES_MAX && !d; i++) {
        if (!handles[i].uuid[0])
            snprintf(handles[i].uuid, sizeof(handles[i].uuid), "%s", uuid);
        if (strcmp(handles[i].uuid, uuid) == 0)
            d = &handles[i];
    }
    pthread_mutex_unlock(&lock);
    return d;
}

static void fill_pci(const struct line *l, nvml_pci_info_t *pci)
{
    memset(pci, 0, sizeof(*pci));
    pci->bus = (unsigned)strtoul(option(l, "bus") ? option(l, "bus") : "0", NULL, 16);
    snprintf(pci->bus_id, sizeof(pci->bus_id), "%08X:%02X:%02X.0", 0, pci->bus & 0xff, 0);
}

#define LEAVE(m, code)                                                                             \
    do {                                                                                           \
        nvml_return_t code_ = (code);                                                              \
        free(m);                                                                                   \
        return code_;                                                                              \
    } while (0)

/* clang-format off */
#define DECLARE(need, field, symbol, older, result, args) EXPORT result symbol args;
NVML_FUNCTIONS(DECLARE)
/* clang-format on */

nvml_return_t nvmlInit_v2(void)
{
    struct machine *m = enter("nvmlInit");
    const struct line *l = find(m, "init", NULL);
    LEAVE(m, l ? (int)strtol(l->words[1], NULL, 10) : NVML_OK);
}

nvml_return_t nvmlShutdown(void)
{
    return NVML_OK;
}

nvml_return_t nvmlDeviceGetCount_v2(unsigned *count)
{
    struct machine *m = enter("nvmlDeviceGetCount");
    const struct line *l = find(m, "init", NULL);
    if (l)
        LEAVE(m, (int)strtol(l->words[1], NULL, 10));
    *count = 0;
    for (int i = 0; i < m->count; i++)
        *count += strcmp(m->lines[i].words[0], "gpu") == 0;
    LEAVE(m, NVML_OK);
}

nvml_return_t nvmlDeviceGetHandleByIndex_v2(unsigned index, struct nvmlDevice_st **device)
{
    struct machine *m = enter("nvmlDeviceGetHandleByIndex");
    for (int i = 0; i < m->count; i++) {
        if (strcmp(m->lines[i].words[0], "gpu") != 0 || index-- > 0)
            continue;
        *device = handle_of(m->lines[i].words[1]);
        LEAVE(m, state_of(m, *device));
    }
    LEAVE(m, NVML_INVALID_ARGUMENT);
}

nvml_return_t nvmlDeviceGetUUID(struct nvmlDevice_st *d, char *buf, unsigned size)
{
    struct machine *m = enter("nvmlDeviceGetUUID");
    snprintf(buf, size, "%s", d->uuid);
    LEAVE(m, state_of(m, d));
}

nvml_return_t nvmlDeviceGetMinorNumber(struct nvmlDevice_st *d, unsigned *minor)
{
    struct machine *m = enter("nvmlDeviceGetMinorNumber");
    *minor = (unsigned)number(line_of(m, d), "minor", 0);
    LEAVE(m, state_of(m, d));
}

nvml_return_t nvmlDeviceGetPciInfo_v3(struct nvmlDevice_st *d, nvml_pci_info_t *pci)
{
    struct machine *m = enter("nvmlDeviceGetPciInfo");
    nvml_return_t r = state_of(m, d);
    if (r == NVML_OK)
        fill_pci(line_of(m, d), pci);
    LEAVE(m, r);
}

nvml_return_t nvmlDeviceGetName(struct nvmlDevice_st *d, char *buf, unsigned size)
{
    struct machine *m = enter("nvmlDeviceGetName");
    const char *model = option(line_of(m, d), "model");
    snprintf(buf, size, "%s", model ? model : "Fake");
    LEAVE(m, state_of(m, d));
}

nvml_return_t nvmlDeviceGetMemoryInfo(struct nvmlDevice_st *d, nvml_memory_t *memory)
{
    struct machine *m = enter("nvmlDeviceGetMemoryInfo");
    const struct line *l = line_of(m, d);
    memory->total = (unsigned long long)number(l, "memory", 1024) << 20;
    memory->used = (unsigned long long)number(l, "used", 0) << 20;
    memory->free = memory->total - memory->used;
    LEAVE(m, state_of(m, d));
}

nvml_return_t nvmlSystemGetDriverVersion(char *buf, unsigned size)
{
    struct machine *m = enter("nvmlSystemGetDriverVersion");
    const struct line *l = find(m, "driver", NULL);
    snprintf(buf, size, "%s", l ? l->words[1] : "1.0");
    LEAVE(m, NVML_OK);
}

#ifndef FAKE_NVML_OLD

const char *nvmlErrorString(nvml_return_t code)
{
    return code == NVML_GPU_IS_LOST ? "GPU is lost" : "an error of the fake";
}

nvml_return_t nvmlDeviceGetComputeRunningProcesses_v3(struct nvmlDevice_st *d, unsigned *count,
                                                      nvml_process_t *found)
{
    struct machine *m = enter("nvmlDeviceGetComputeRunningProcesses");
    unsigned room = *count;
    *count = 0;
    for (int i = 0; i < m->count; i++) {
        const struct line *l = &m->lines[i];
        if (strcmp(l->words[0], "process") != 0 || strcmp(l->words[1], d->uuid) != 0)
            continue;
        if (*count < room)
            found[*count] = (nvml_process_t){.pid = (unsigned)strtoul(l->words[2], NULL, 10)};
        ++*count;
    }
    LEAVE(m, *count > room ? NVML_INSUFFICIENT_SIZE : state_of(m, d));
}

nvml_return_t nvmlDeviceGetMigMode(struct nvmlDevice_st *d, unsigned *now, unsigned *pending)
{
    struct machine *m = enter("nvmlDeviceGetMigMode");
    *now = *pending = option(line_of(m, d), "mig") != NULL;
    LEAVE(m, state_of(m, d));
}

nvml_return_t nvmlDeviceGetMaxMigDeviceCount(struct nvmlDevice_st *d, unsigned *count)
{
    *count = 7;
    return NVML_OK;
}

nvml_return_t nvmlDeviceGetMigDeviceHandleByIndex(struct nvmlDevice_st *d, unsigned index,
                                                  struct nvmlDevice_st **mig)
{
    struct machine *m = enter("nvmlDeviceGetMigDeviceHandleByIndex");
    for (int i = 0; i < m->count; i++) {
        const struct line *l = &m->lines[i];
        const char *parent = strcmp(l->words[0], "mig") == 0 ? option(l, "parent") : NULL;
        if (!parent || strcmp(parent, d->uuid) != 0 || index-- > 0)
            continue;
        *mig = handle_of(l->words[1]);
        LEAVE(m, NVML_OK);
    }
    LEAVE(m, NVML_NOT_FOUND);
}

nvml_return_t nvmlDeviceGetGpuInstanceId(struct nvmlDevice_st *d, unsigned *id)
{
    struct machine *m = enter("nvmlDeviceGetGpuInstanceId");
    *id = (unsigned)number(line_of(m, d), "gi", 0);
    LEAVE(m, NVML_OK);
}

nvml_return_t nvmlDeviceGetComputeInstanceId(struct nvmlDevice_st *d, unsigned *id)
{
    struct machine *m = enter("nvmlDeviceGetComputeInstanceId");
    *id = (unsigned)number(line_of(m, d), "ci", 0);
    LEAVE(m, NVML_OK);
}

nvml_return_t nvmlDeviceGetRemappedRows(struct nvmlDevice_st *d, unsigned *corrected,
                                        unsigned *uncorrected, unsigned *pending, unsigned *failed)
{
    struct machine *m = enter("nvmlDeviceGetRemappedRows");
    const struct line *l = line_of(m, d);
    *corrected = *uncorrected = 0;
    *pending = option(l, "pending-rows") != NULL;
    *failed = option(l, "failed-rows") != NULL;
    LEAVE(m, state_of(m, d));
}

nvml_return_t nvmlDeviceGetTotalEccErrors(struct nvmlDevice_st *d, nvml_ecc_type_t type,
                                          nvml_ecc_counter_t counter, unsigned long long *count)
{
    struct machine *m = enter("nvmlDeviceGetTotalEccErrors");
    if (type != NVML_ECC_UNCORRECTED || counter != NVML_ECC_VOLATILE)
        LEAVE(m, NVML_NOT_SUPPORTED);
    *count = number(line_of(m, d), "ecc", 0);
    LEAVE(m, state_of(m, d));
}

/* The peers of a GPU's links, in the order of the file; "" for a switch, NULL after the last. */
static const char *peer_of(const struct machine *m, const char *uuid, unsigned link)
{
    for (int i = 0; i < m->count; i++) {
        const struct line *l = &m->lines[i];
        unsigned lanes = 0;
        const char *peer = "";
        if (strcmp(l->words[0], "nvlink") == 0 && strcmp(l->words[1], uuid) == 0) {
            peer = l->words[2];
            lanes = 1;
        } else if (strcmp(l->words[0], "nvlink") == 0 && strcmp(l->words[2], uuid) == 0) {
            peer = l->words[1];
            lanes = 1;
        } else if (strcmp(l->words[0], "nvswitch") == 0 && strcmp(l->words[1], uuid) == 0) {
            lanes = (unsigned)strtoul(l->words[2], NULL, 10);
        }
        if (link < lanes)
            return peer;
        link -= lanes;
    }
    return NULL;
}

nvml_return_t nvmlDeviceGetNvLinkState(struct nvmlDevice_st *d, unsigned link, nvml_enable_t *on)
{
    struct machine *m = enter("nvmlDeviceGetNvLinkState");
    *on = peer_of(m, d->uuid, link) != NULL;
    LEAVE(m, link < 18 ? state_of(m, d) : NVML_INVALID_ARGUMENT);
}

nvml_return_t nvmlDeviceGetNvLinkRemotePciInfo_v2(struct nvmlDevice_st *d, unsigned link,
                                                  nvml_pci_info_t *pci)
{
    struct machine *m = enter("nvmlDeviceGetNvLinkRemotePciInfo");
    const char *peer = peer_of(m, d->uuid, link);
    if (peer)
        fill_pci(find(m, "gpu", peer), pci);
    LEAVE(m, peer ? state_of(m, d) : NVML_NOT_SUPPORTED);
}

nvml_return_t nvmlDeviceGetNvLinkRemoteDeviceType(struct nvmlDevice_st *d, unsigned link,
                                                  nvml_link_peer_t *type)
{
    struct machine *m = enter("nvmlDeviceGetNvLinkRemoteDeviceType");
    const char *peer = peer_of(m, d->uuid, link);
    *type = peer && !peer[0] ? NVML_LINK_PEER_SWITCH : 0;
    LEAVE(m, peer ? NVML_OK : NVML_NOT_SUPPORTED);
}

nvml_return_t nvmlDeviceGetTopologyCommonAncestor(struct nvmlDevice_st *a, struct nvmlDevice_st *b,
                                                  nvml_topology_t *level)
{
    struct machine *m = enter("nvmlDeviceGetTopologyCommonAncestor");
    *level = NVML_TOPO_SYSTEM;
    for (int i = 0; i < m->count; i++) {
        const struct line *l = &m->lines[i];
        if (strcmp(l->words[0], "same-board") == 0 &&
            ((!strcmp(l->words[1], a->uuid) && !strcmp(l->words[2], b->uuid)) ||
             (!strcmp(l->words[1], b->uuid) && !strcmp(l->words[2], a->uuid))))
            *level = NVML_TOPO_SINGLE;
    }
    LEAVE(m, NVML_OK);
}

nvml_return_t nvmlEventSetCreate(struct nvmlEventSet_st **set)
{
    static struct nvmlEventSet_st sets[64]; /* more than one process of a test asks for */
    static unsigned made;
    pthread_mutex_lock(&lock);
    *set = made < 64 ? &sets[made++] : NULL;
    pthread_mutex_unlock(&lock);
    return *set ? NVML_OK : NVML_INVALID_ARGUMENT;
}

nvml_return_t nvmlEventSetFree(struct nvmlEventSet_st *set)
{
    return NVML_OK;
}

nvml_return_t nvmlDeviceRegisterEvents(struct nvmlDevice_st *d, unsigned long long types,
                                       struct nvmlEventSet_st *set)
{
    __atomic_add_fetch(&set->registered, 1, __ATOMIC_SEQ_CST);
    return types & NVML_EVENT_XID ? NVML_OK : NVML_INVALID_ARGUMENT;
}

static int take_event(struct nvmlEventSet_st *set, const struct machine *m, nvml_event_t *ev)
{
    for (int i = 0; i < m->count; i++) {
        const struct line *l = &m->lines[i];
        if (strcmp(l->words[0], "event") != 0 || l->count < 4 ||
            strtoul(l->words[3], NULL, 10) <= set->last_serial)
            continue;
        set->last_serial = strtoul(l->words[3], NULL, 10);
        *ev = (nvml_event_t){.device = handle_of(l->words[1]),
                             .type = NVML_EVENT_XID,
                             .data = strtoull(l->words[2], NULL, 10),
                             .gpu_instance = NVML_NO_INSTANCE,
                             .compute_instance = NVML_NO_INSTANCE};
        if (strcmp(l->words[2], "ecc") == 0)
            ev->type = NVML_EVENT_DOUBLE_BIT_ECC;
        if (l->count >= 6) {
            ev->gpu_instance = (unsigned)strtoul(l->words[4], NULL, 10);
            ev->compute_instance = (unsigned)strtoul(l->words[5], NULL, 10);
        }
        return 1;
    }
    return 0;
}

nvml_return_t nvmlEventSetWait_v2(struct nvmlEventSet_st *set, nvml_event_t *ev,
                                  unsigned timeout_ms)
{
    struct timespec pause = {.tv_nsec = 5000000};
    if (!__atomic_load_n(&set->registered, __ATOMIC_SEQ_CST))
        return NVML_INVALID_ARGUMENT;
    for (unsigned waited_ms = 0; waited_ms < timeout_ms; waited_ms += 5) {
        struct machine *m = enter("nvmlEventSetWait");
        int has = take_event(set, m, ev);
        free(m);
        if (has)
            return NVML_OK;
        nanosleep(&pause, NULL);
    }
    return NVML_TIMEOUT;
}

#endif
