/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Compiled, never run: our structures and constants of NVML against those of the real nvml.h.
 * nvml_prototypes.c does the same for the functions.
 */
#include <stddef.h>

#include <nvml.h>

#include "agentd/nvml_abi.h"

#define SAME_SIZE(ours, theirs) _Static_assert(sizeof(ours) == sizeof(theirs), #ours)
#define SAME_FIELD(ours, f, theirs, g)                                                             \
    _Static_assert(offsetof(ours, f) == offsetof(theirs, g) &&                                     \
                       sizeof(((ours *)0)->f) == sizeof(((theirs *)0)->g),                         \
                   #ours "." #f)
#define SAME(ours, theirs) _Static_assert((long long)(ours) == (long long)(theirs), #ours)

SAME_SIZE(nvml_return_t, nvmlReturn_t);
SAME_SIZE(nvml_enable_t, nvmlEnableState_t);
SAME_SIZE(nvml_topology_t, nvmlGpuTopologyLevel_t);
SAME_SIZE(nvml_link_peer_t, nvmlIntNvLinkDeviceType_t);
SAME_SIZE(nvml_ecc_type_t, nvmlMemoryErrorType_t);
SAME_SIZE(nvml_ecc_counter_t, nvmlEccCounterType_t);

SAME_SIZE(nvml_pci_info_t, nvmlPciInfo_t);
SAME_FIELD(nvml_pci_info_t, bus_id_legacy, nvmlPciInfo_t, busIdLegacy);
SAME_FIELD(nvml_pci_info_t, domain, nvmlPciInfo_t, domain);
SAME_FIELD(nvml_pci_info_t, bus, nvmlPciInfo_t, bus);
SAME_FIELD(nvml_pci_info_t, device, nvmlPciInfo_t, device);
SAME_FIELD(nvml_pci_info_t, pci_device_id, nvmlPciInfo_t, pciDeviceId);
SAME_FIELD(nvml_pci_info_t, pci_subsystem_id, nvmlPciInfo_t, pciSubSystemId);
SAME_FIELD(nvml_pci_info_t, bus_id, nvmlPciInfo_t, busId);

SAME_SIZE(nvml_memory_t, nvmlMemory_t);
SAME_FIELD(nvml_memory_t, total, nvmlMemory_t, total);
SAME_FIELD(nvml_memory_t, free, nvmlMemory_t, free);
SAME_FIELD(nvml_memory_t, used, nvmlMemory_t, used);

SAME_SIZE(nvml_process_t, nvmlProcessInfo_t);
SAME_SIZE(nvml_process_t, nvmlProcessInfo_v2_t);
SAME_FIELD(nvml_process_t, pid, nvmlProcessInfo_t, pid);
SAME_FIELD(nvml_process_t, used_memory, nvmlProcessInfo_t, usedGpuMemory);
SAME_FIELD(nvml_process_t, gpu_instance, nvmlProcessInfo_t, gpuInstanceId);
SAME_FIELD(nvml_process_t, compute_instance, nvmlProcessInfo_t, computeInstanceId);

SAME_SIZE(nvml_event_t, nvmlEventData_t);
SAME_FIELD(nvml_event_t, device, nvmlEventData_t, device);
SAME_FIELD(nvml_event_t, type, nvmlEventData_t, eventType);
SAME_FIELD(nvml_event_t, data, nvmlEventData_t, eventData);
SAME_FIELD(nvml_event_t, gpu_instance, nvmlEventData_t, gpuInstanceId);
SAME_FIELD(nvml_event_t, compute_instance, nvmlEventData_t, computeInstanceId);

SAME(NVML_OK, NVML_SUCCESS);
SAME(NVML_INVALID_ARGUMENT, NVML_ERROR_INVALID_ARGUMENT);
SAME(NVML_NOT_SUPPORTED, NVML_ERROR_NOT_SUPPORTED);
SAME(NVML_NO_PERMISSION, NVML_ERROR_NO_PERMISSION);
SAME(NVML_NOT_FOUND, NVML_ERROR_NOT_FOUND);
SAME(NVML_INSUFFICIENT_SIZE, NVML_ERROR_INSUFFICIENT_SIZE);
SAME(NVML_DRIVER_NOT_LOADED, NVML_ERROR_DRIVER_NOT_LOADED);
SAME(NVML_TIMEOUT, NVML_ERROR_TIMEOUT);
SAME(NVML_FUNCTION_NOT_FOUND, NVML_ERROR_FUNCTION_NOT_FOUND);
SAME(NVML_GPU_IS_LOST, NVML_ERROR_GPU_IS_LOST);
SAME(NVML_RESET_REQUIRED, NVML_ERROR_RESET_REQUIRED);
SAME(NVML_VERSION_MISMATCH, NVML_ERROR_LIB_RM_VERSION_MISMATCH);
SAME(NVML_GPU_NOT_FOUND, NVML_ERROR_GPU_NOT_FOUND);
SAME(NVML_EVENT_XID, nvmlEventTypeXidCriticalError);
SAME(NVML_EVENT_DOUBLE_BIT_ECC, nvmlEventTypeDoubleBitEccError);
SAME(NVML_FEATURE_ON, NVML_FEATURE_ENABLED);
SAME(NVML_FEATURE_ON, NVML_DEVICE_MIG_ENABLE);
SAME(NVML_LINK_PEER_SWITCH, NVML_NVLINK_DEVICE_TYPE_SWITCH);
SAME(NVML_ECC_UNCORRECTED, NVML_MEMORY_ERROR_TYPE_UNCORRECTED);
SAME(NVML_ECC_VOLATILE, NVML_VOLATILE_ECC);
SAME(NVML_TOPO_INTERNAL, NVML_TOPOLOGY_INTERNAL);
SAME(NVML_TOPO_SINGLE, NVML_TOPOLOGY_SINGLE);
SAME(NVML_TOPO_MULTIPLE, NVML_TOPOLOGY_MULTIPLE);
SAME(NVML_TOPO_HOSTBRIDGE, NVML_TOPOLOGY_HOSTBRIDGE);
SAME(NVML_TOPO_NODE, NVML_TOPOLOGY_NODE);
SAME(NVML_TOPO_SYSTEM, NVML_TOPOLOGY_SYSTEM);
_Static_assert(NVML_LINKS_MAX >= NVML_NVLINK_MAX_LINKS, "all NVLinks are looked at");
_Static_assert(NVML_UUID_BYTES >= NVML_DEVICE_UUID_V2_BUFFER_SIZE, "room for a UUID");
_Static_assert(NVML_NAME_BYTES >= NVML_DEVICE_NAME_V2_BUFFER_SIZE, "room for a name");
_Static_assert(NVML_VERSION_BYTES >= NVML_SYSTEM_DRIVER_VERSION_BUFFER_SIZE, "room for a version");
#ifdef BROKEN /* the test proves that a difference is seen */
SAME(NVML_GPU_IS_LOST, NVML_ERROR_RESET_REQUIRED);
#endif
