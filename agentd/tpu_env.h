/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tpu_env.h - what the TPU runtime (libtpu, JAX, torch_xla) finds in its environment, computed from
 * the live membership of the attempt and never from what the machine's metadata said when it was
 * made. Pure: numbers and names in, names and values out. Any thread, never blocks, aborts when
 * memory ends.
 *
 * Three shapes of a job on a node:
 *   whole host, one process: the names that GKE gives (TPU_WORKER_ID, TPU_WORKER_HOSTNAMES,
 *     TPU_HOST_BOUNDS, TPU_CHIPS_PER_HOST_BOUNDS). Not the per-process ones: torch_xla's own spawn
 *     only fills in what is unset, and its children would inherit bounds of the whole host.
 *   chips split among processes: TPU_VISIBLE_CHIPS, TPU_CHIPS_PER_PROCESS_BOUNDS,
 *     TPU_PROCESS_BOUNDS, TPU_PROCESS_ADDRESSES, TPU_PROCESS_PORT, CLOUD_TPU_TASK_ID.
 *   a part of a host: the same, as a topology of its own.
 * Several slices add MEGASCALE_*. Sources: torch_xla/_internal/tpu.py, jax/_src/clusters.
 */
#ifndef ACCEL_AGENTD_TPU_ENV_H
#define ACCEL_AGENTD_TPU_ENV_H

#include "common/arena.h"
#include "common/error.h"

#define TPU_PORT_BASE      8476u /* of TPU_PROCESS_PORT, plus the index of the chip */
#define TPU_MEGASCALE_PORT 8081u /* where nobody leased another; slices are used whole */
#define TPU_VARS_MAX       24u   /* more than this file can make for one process */
#define TPU_CHIPS_MAX      64u   /* of one host, beyond any machine of today */

enum tpu_generation {
    TPU_GENERATION_UNKNOWN,
    TPU_V2, /* one PCI id with v3: only the metadata tells them apart */
    TPU_V3,
    TPU_V4,
    TPU_V5P,
    TPU_V5E,
    TPU_V6E,
    TPU_7X,
};
struct tpu_bounds {
    uint32_t x, y, z;
};

/* What a host knows of itself; texts are "" where the metadata does not say. */
struct tpu_host {
    enum tpu_generation generation;
    uint32_t chips;             /* on this host */
    uint32_t slice_nodes;       /* hosts of the slice; 0 and 1: this one only */
    uint32_t worker;            /* index in the slice */
    const char *slice;          /* its name */
    const char *accelerator;    /* "v5litepod-16" */
    const char *topology;       /* "4x4", "2x2x2" */
    const char *chips_per_host; /* "2,2,1" */
    const char *host_bounds;    /* "1,1,2" */
    const char *wrap, *alt;     /* "true,true,true"; v4 and v5p */
    bool has_megascale;         /* the metadata names other slices, perhaps dead ones */
};
struct tpu_peer {        /* a node of the attempt */
    const char *address; /* as its peers dial it */
    const char *slice;   /* "": a slice of one, named by nobody */
    uint32_t worker;     /* index in that slice */
};
struct tpu_env_input {
    const struct tpu_host *host;
    const uint32_t *chips; /* indexes on the host of those that the job has, ascending */
    size_t chip_count;     /* at least 1 */
    uint32_t local_size;   /* processes here; divides chip_count */
    uint32_t node_rank;
    const struct tpu_peer *peers; /* by node rank; NULL with peer_count 0 on one node */
    size_t peer_count;
    uint32_t megascale_port; /* 0: TPU_MEGASCALE_PORT */
};
struct tpu_var {
    const char *name, *value;
};
struct tpu_vars {
    struct tpu_var items[TPU_VARS_MAX];
    size_t count;
};

/* The variables of one process; values lie in the arena or are static. ACCEL_EINVAL with a
 * sentence for people: chips that are no block, that cannot be split over the processes, or a part
 * of a slice of several hosts. */
int tpu_env_rank(const struct tpu_env_input *in, uint32_t local_rank, struct arena *a,
                 struct tpu_vars *ret_vars, struct accel_error *err);
/* Those of an enclosing job or of the machine's own set-up, which would be stale or another's. */
bool tpu_env_is_dropped(const char *name, size_t len);

/* "v5litepod-16" and "TPU v5e" alike; TPU_GENERATION_UNKNOWN for what is not known. */
enum tpu_generation tpu_generation_of(const char *text);
/* "v5litepod-": what stands before the number in accelerator types; "" for unknown. */
const char *tpu_type_prefix(enum tpu_generation g);
const char *tpu_model(enum tpu_generation g); /* "TPU v5e" */
/* "4x4", "2x2x4" or "2,2,1"; missing dimensions are 1. ACCEL_EINVAL else. */
int tpu_bounds_parse(const char *text, struct tpu_bounds *ret_bounds) MUST_CHECK;
/* How chips of one host are laid out: 1, 2 (1x2), 4 (2x2), 8 (2x4), 16 (4x4). ACCEL_EINVAL else. */
int tpu_bounds_of_count(size_t chips, struct tpu_bounds *ret_bounds) MUST_CHECK;
/* The grid of the slice's hosts: as the metadata says, else topology / chips of a host. */
int tpu_host_grid(const struct tpu_host *h, struct tpu_bounds *ret_grid, struct accel_error *err);

#endif
