/* SPDX-License-Identifier: Apache-2.0 */
/*
 * device_nvml_internal.h - what the files of the NVML source share. device_nvml.c: the source, on
 * the loop's thread. device_nvml_watch.c: the two threads that make all calls of the library, and
 * what they share with the loop under one lock. device_nvml_scan.c: one look at all GPUs.
 * device_nvml_lib.c: the library and its words. Nobody else includes it.
 *
 * A driver can hang in any call, for minutes. So every call is announced (nvml_call_begin) with the
 * time at which it is overdue, the loop looks at that and never waits for it, and there are two
 * threads at most, whatever hangs.
 */
#ifndef ACCEL_AGENTD_DEVICE_NVML_INTERNAL_H
#define ACCEL_AGENTD_DEVICE_NVML_INTERNAL_H

#include <pthread.h>
#include <uv.h>

#include "agentd/nvml_abi.h"
#include "common/error.h"

#define NVML_GPUS_MAX      256u /* whole GPUs and MIG instances; those after are not listed */
#define NVML_PROCESSES_MAX 64u  /* of one GPU that are looked at; further ones change no verdict */
#define NVML_EVENTS_MAX    64u  /* waiting for the look; further ones are dropped */
#define NVML_PATHS_MAX     6u
#define NVML_FAULT_BYTES   160u
#define NVML_PATH_BYTES    96u
#define NVML_RETRY_MS      60000 /* no driver: each try may run nvidia-modprobe */

/* ---- the library ---- */

enum nvml_function {
#define X(need, field, symbol, older, result, args) NVML_FN_##field,
    NVML_FUNCTIONS(X)
#undef X
        NVML_FN_COUNT
};
struct nvml_lib {
#define X(need, field, symbol, older, result, args) result(*field) args;
    NVML_FUNCTIONS(X)
#undef X
};
/* 1: opened (for the rest of this process); 0: there is no such library; negative: it lacks what is
 * NEEDED. path NULL: libnvidia-ml.so.1 by the dynamic linker's rules. */
int nvml_lib_open(const char *path, struct nvml_lib *ret_lib, struct accel_error *err);
/* "nvmlDeviceGetCount": without its version. size > 0. */
void nvml_function_name(enum nvml_function fn, char *buf, size_t size);
const char *nvml_error_text(const struct nvml_lib *lib, nvml_return_t code);

/* What an XID says of the GPU. */
enum xid_class {
    XID_APP,   /* the program's doing, or harmless: no fault */
    XID_WORN,  /* not to be given out again before a reset; what runs may go on */
    XID_FATAL, /* what runs on it is lost */
};
enum xid_class xid_classify(uint64_t xid, const char **ret_text); /* text NULL: not known */

/* ---- one look ---- */

struct nvml_process {
    uint32_t pid;
    char text[64]; /* "pid 71 (python3) of bob" */
};
struct nvml_link {
    uint32_t peer; /* index in the snapshot */
    const char *kind;
    uint32_t count;
};
struct nvml_gpu {
    char uuid[NVML_UUID_BYTES], model[NVML_NAME_BYTES], parent[NVML_UUID_BYTES];
    char bus[32]; /* "0000:3b:00.0" */
    char paths[NVML_PATHS_MAX][NVML_PATH_BYTES];
    size_t path_count, own_path; /* own_path: index of the path that is this one's alone */
    uint64_t memory_bytes, used_bytes;
    int32_t minor, numa_node; /* -1: not known */
    uint32_t gpu_instance, compute_instance;
    struct nvmlDevice_st *handle;
    char fault[NVML_FAULT_BYTES];
    bool is_mig, is_broken, is_gone;
    bool is_hearsay; /* from the driver's files in /proc: NVML has not said anything of it yet */
    struct nvml_process processes[NVML_PROCESSES_MAX];
    size_t process_count;
    struct nvml_process
        openers[NVML_PROCESSES_MAX]; /* have it open to compute; if users were asked */
    size_t opener_count;
    struct nvml_link *links;
    size_t link_count;
};
struct nvml_snapshot {
    struct nvml_gpu *gpus;
    size_t count;
    char note[NVML_FAULT_BYTES]; /* why there are none, or not all; "" */
    char driver[NVML_VERSION_BYTES];
    bool has_users; /* openers were looked for */
};
void nvml_snapshot_free(struct nvml_snapshot *s); /* NULL is accepted */

struct nvml_mark { /* a fault that an event told: it stays until the GPU is gone and back */
    char uuid[NVML_UUID_BYTES];
    char text[NVML_FAULT_BYTES];
    bool is_broken;
};

struct nvml_call { /* what one of the threads is in; under the lock */
    bool is_in;
    enum nvml_function fn;
    int64_t since_ms, overdue_ms; /* clock_mono_ms */
};

/* ---- what threads and loop share ---- */

struct nvml_shared {
    pthread_mutex_t lock; /* held for moments, never over a call of the library */
    pthread_cond_t wake, answered, events_wake;
    unsigned refs;             /* loop and threads; the last frees */
    bool is_ending;            /* the loop's end is gone: threads leave when their call returns */
    uv_async_t *async;         /* NULL once the source is destroyed */
    struct nvml_call calls[2]; /* of the looking thread, of the waiting one */
    uint64_t asked, looked;    /* looks asked for, and answered by `latest` */
    bool asked_users;
    struct nvml_snapshot *latest;
    nvml_event_t events[NVML_EVENTS_MAX];
    size_t event_count;
    NVML_SET set;        /* to be waited on; NULL: none */
    bool set_in_use;     /* the waiting thread is in a call with it */
    struct nvml_lib lib; /* constant once the threads run */
    int64_t answer_ms, sample_ms;
    char dev_root[64], sys_root[64], proc_root[64];
};
/* Starts the looking thread, which starts the other one. async is the loop's, signalled after each
 * look. */
int nvml_watch_start(struct nvml_shared *sh, struct accel_error *err);
void nvml_shared_put(struct nvml_shared *sh); /* with the lock held; unlocks */

enum { NVML_LOOKER, NVML_WAITER };
void nvml_call_begin(struct nvml_shared *sh, int who, enum nvml_function fn, int64_t more_ms);
void nvml_call_end(struct nvml_shared *sh, int who);
/* A call of the library by the looking thread; NVML_FUNCTION_NOT_FOUND where the driver lacks it.
 */
#define NVML_CALL(sh, field, ...)                                                                  \
    (__extension__({                                                                               \
        nvml_return_t rc_ = NVML_FUNCTION_NOT_FOUND;                                               \
        if ((sh)->lib.field) {                                                                     \
            nvml_call_begin((sh), NVML_LOOKER, NVML_FN_##field, 0);                                \
            rc_ = (sh)->lib.field(__VA_ARGS__);                                                    \
            nvml_call_end((sh), NVML_LOOKER);                                                      \
        }                                                                                          \
        rc_;                                                                                       \
    }))

/* What the looking thread keeps from look to look; nobody else touches it. */
struct nvml_looker {
    struct nvml_shared *shared;
    bool is_up;       /* nvmlInit succeeded */
    int64_t retry_ms; /* no nvmlInit before */
    NVML_SET set;
    struct nvml_mark marks[NVML_GPUS_MAX];
    size_t mark_count;
    struct nvml_snapshot *last; /* the one published; only read */
};
/* One look at everything; never fails: what is wrong is in the faults and the note. *ret_is_down:
 * the driver is not there any more, nvmlInit is to be called again. */
struct nvml_snapshot *nvml_scan(struct nvml_looker *l, const nvml_event_t *events,
                                size_t event_count, bool with_users, bool *ret_is_down);
/* What the driver's files in /proc tell, before NVML is asked: a machine whose NVML does not work
 * has its GPUs nevertheless, and what belongs on them must not run on CPUs. */
struct nvml_snapshot *nvml_scan_proc(struct nvml_looker *l);
/* Without a driver: what the last look had, each with this fault. */
struct nvml_snapshot *nvml_scan_down(struct nvml_looker *l, const char *why);

#endif
