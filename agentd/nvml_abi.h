/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nvml_abi.h - the part of NVIDIA's management library (NVML) that we call, in our own words: the
 * library is opened at run time and its header is not needed to build. Layouts, constants and
 * prototypes are those of nvml.h; tests/conformance/nvml_header.py compares them with the real one.
 *
 * Old drivers have fewer functions: those marked OPTIONAL may be NULL in struct nvml_lib.
 */
#ifndef ACCEL_AGENTD_NVML_ABI_H
#define ACCEL_AGENTD_NVML_ABI_H

#ifndef NVML_ABI_TYPES_GIVEN /* the conformance test names the real types instead */

struct nvmlDevice_st;
struct nvmlEventSet_st;
typedef int nvml_return_t; /* an enum there */
typedef unsigned nvml_enable_t, nvml_topology_t, nvml_link_peer_t, nvml_ecc_type_t,
    nvml_ecc_counter_t;

typedef struct {
    char bus_id_legacy[16];
    unsigned domain, bus, device;
    unsigned pci_device_id, pci_subsystem_id;
    char bus_id[32]; /* "00000000:3B:00.0" */
} nvml_pci_info_t;

typedef struct {
    unsigned long long total, free, used; /* bytes; used counts what the driver keeps, too */
} nvml_memory_t;

typedef struct { /* what _v2 and _v3 of the process functions fill in */
    unsigned pid;
    unsigned long long used_memory; /* bytes; all ones: not told */
    unsigned gpu_instance, compute_instance;
} nvml_process_t;

typedef struct {
    struct nvmlDevice_st *device;
    unsigned long long type;                 /* NVML_EVENT_* */
    unsigned long long data;                 /* the XID */
    unsigned gpu_instance, compute_instance; /* NVML_NO_INSTANCE: of the whole GPU */
} nvml_event_t;

#endif

enum {
    NVML_OK = 0,
    NVML_INVALID_ARGUMENT = 2,
    NVML_NOT_SUPPORTED = 3,
    NVML_NO_PERMISSION = 4,
    NVML_NOT_FOUND = 6,
    NVML_INSUFFICIENT_SIZE = 7,
    NVML_DRIVER_NOT_LOADED = 9,
    NVML_TIMEOUT = 10,
    NVML_FUNCTION_NOT_FOUND = 13,
    NVML_GPU_IS_LOST = 15,
    NVML_RESET_REQUIRED = 16,
    NVML_VERSION_MISMATCH = 18,
    NVML_GPU_NOT_FOUND = 28,
};

#define NVML_EVENT_DOUBLE_BIT_ECC 0x2ull
#define NVML_EVENT_XID            0x8ull
#define NVML_NO_INSTANCE          0xffffffffu
#define NVML_FEATURE_ON           1u /* also of MIG mode */
#define NVML_LINKS_MAX            36u
#define NVML_LINK_PEER_SWITCH     2u
#define NVML_ECC_UNCORRECTED      1u
#define NVML_ECC_VOLATILE         0u
#define NVML_UUID_BYTES           96u /* the larger of its two sizes */
#define NVML_NAME_BYTES           96u
#define NVML_VERSION_BYTES        80u

enum { /* nearest common ancestor of two GPUs */
       NVML_TOPO_INTERNAL = 0,
       NVML_TOPO_SINGLE = 10,
       NVML_TOPO_MULTIPLE = 20,
       NVML_TOPO_HOSTBRIDGE = 30,
       NVML_TOPO_NODE = 40,
       NVML_TOPO_SYSTEM = 50,
};

/* X(need, field, symbol, older, result, arguments): `older` is a symbol that does the same with the
 * same layout, tried where `symbol` is missing, or `symbol` again. */
#define NVML_DEVICE struct nvmlDevice_st *
#define NVML_SET    struct nvmlEventSet_st *
/* clang-format off */
#define NVML_FUNCTIONS(X) \
    X(NEEDED, init, nvmlInit_v2, nvmlInit_v2, nvml_return_t, (void)) \
    X(NEEDED, shutdown, nvmlShutdown, nvmlShutdown, nvml_return_t, (void)) \
    X(NEEDED, count, nvmlDeviceGetCount_v2, nvmlDeviceGetCount_v2, nvml_return_t, (unsigned *)) \
    X(NEEDED, by_index, nvmlDeviceGetHandleByIndex_v2, nvmlDeviceGetHandleByIndex_v2, \
      nvml_return_t, (unsigned, NVML_DEVICE *)) \
    X(NEEDED, uuid, nvmlDeviceGetUUID, nvmlDeviceGetUUID, \
      nvml_return_t, (NVML_DEVICE, char *, unsigned)) \
    X(OPTIONAL, error_string, nvmlErrorString, nvmlErrorString, const char *, (nvml_return_t)) \
    X(OPTIONAL, driver_version, nvmlSystemGetDriverVersion, nvmlSystemGetDriverVersion, \
      nvml_return_t, (char *, unsigned)) \
    X(OPTIONAL, name, nvmlDeviceGetName, nvmlDeviceGetName, \
      nvml_return_t, (NVML_DEVICE, char *, unsigned)) \
    X(OPTIONAL, pci_info, nvmlDeviceGetPciInfo_v3, nvmlDeviceGetPciInfo_v3, \
      nvml_return_t, (NVML_DEVICE, nvml_pci_info_t *)) \
    X(OPTIONAL, minor, nvmlDeviceGetMinorNumber, nvmlDeviceGetMinorNumber, \
      nvml_return_t, (NVML_DEVICE, unsigned *)) \
    X(OPTIONAL, memory, nvmlDeviceGetMemoryInfo, nvmlDeviceGetMemoryInfo, \
      nvml_return_t, (NVML_DEVICE, nvml_memory_t *)) \
    X(OPTIONAL, processes, nvmlDeviceGetComputeRunningProcesses_v3, \
      nvmlDeviceGetComputeRunningProcesses_v2, \
      nvml_return_t, (NVML_DEVICE, unsigned *, nvml_process_t *)) \
    X(OPTIONAL, mig_mode, nvmlDeviceGetMigMode, nvmlDeviceGetMigMode, \
      nvml_return_t, (NVML_DEVICE, unsigned *, unsigned *)) \
    X(OPTIONAL, mig_max, nvmlDeviceGetMaxMigDeviceCount, nvmlDeviceGetMaxMigDeviceCount, \
      nvml_return_t, (NVML_DEVICE, unsigned *)) \
    X(OPTIONAL, mig_by_index, nvmlDeviceGetMigDeviceHandleByIndex, \
      nvmlDeviceGetMigDeviceHandleByIndex, \
      nvml_return_t, (NVML_DEVICE, unsigned, NVML_DEVICE *)) \
    X(OPTIONAL, gpu_instance, nvmlDeviceGetGpuInstanceId, nvmlDeviceGetGpuInstanceId, \
      nvml_return_t, (NVML_DEVICE, unsigned *)) \
    X(OPTIONAL, compute_instance, nvmlDeviceGetComputeInstanceId, nvmlDeviceGetComputeInstanceId, \
      nvml_return_t, (NVML_DEVICE, unsigned *)) \
    X(OPTIONAL, remapped_rows, nvmlDeviceGetRemappedRows, nvmlDeviceGetRemappedRows, \
      nvml_return_t, (NVML_DEVICE, unsigned *, unsigned *, unsigned *, unsigned *)) \
    X(OPTIONAL, ecc_errors, nvmlDeviceGetTotalEccErrors, nvmlDeviceGetTotalEccErrors, \
      nvml_return_t, (NVML_DEVICE, nvml_ecc_type_t, nvml_ecc_counter_t, unsigned long long *)) \
    X(OPTIONAL, link_state, nvmlDeviceGetNvLinkState, nvmlDeviceGetNvLinkState, \
      nvml_return_t, (NVML_DEVICE, unsigned, nvml_enable_t *)) \
    X(OPTIONAL, link_pci, nvmlDeviceGetNvLinkRemotePciInfo_v2, \
      nvmlDeviceGetNvLinkRemotePciInfo_v2, \
      nvml_return_t, (NVML_DEVICE, unsigned, nvml_pci_info_t *)) \
    X(OPTIONAL, link_peer, nvmlDeviceGetNvLinkRemoteDeviceType, \
      nvmlDeviceGetNvLinkRemoteDeviceType, \
      nvml_return_t, (NVML_DEVICE, unsigned, nvml_link_peer_t *)) \
    X(OPTIONAL, ancestor, nvmlDeviceGetTopologyCommonAncestor, \
      nvmlDeviceGetTopologyCommonAncestor, \
      nvml_return_t, (NVML_DEVICE, NVML_DEVICE, nvml_topology_t *)) \
    X(OPTIONAL, event_set_create, nvmlEventSetCreate, nvmlEventSetCreate, \
      nvml_return_t, (NVML_SET *)) \
    X(OPTIONAL, event_set_free, nvmlEventSetFree, nvmlEventSetFree, nvml_return_t, (NVML_SET)) \
    X(OPTIONAL, register_events, nvmlDeviceRegisterEvents, nvmlDeviceRegisterEvents, \
      nvml_return_t, (NVML_DEVICE, unsigned long long, NVML_SET)) \
    X(OPTIONAL, event_wait, nvmlEventSetWait_v2, nvmlEventSetWait_v2, \
      nvml_return_t, (NVML_SET, nvml_event_t *, unsigned))
/* clang-format on */

#endif
