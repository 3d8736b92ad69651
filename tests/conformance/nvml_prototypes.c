/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Compiled, never run: our prototypes of NVML's functions, with the real types put in, against
 * those of the real nvml.h. nvml_layout.c compares the types.
 */
#include <nvml.h>

#define NVML_ABI_TYPES_GIVEN
#define nvml_return_t      nvmlReturn_t
#define nvml_enable_t      nvmlEnableState_t
#define nvml_topology_t    nvmlGpuTopologyLevel_t
#define nvml_link_peer_t   nvmlIntNvLinkDeviceType_t
#define nvml_ecc_type_t    nvmlMemoryErrorType_t
#define nvml_ecc_counter_t nvmlEccCounterType_t
#define nvml_pci_info_t    nvmlPciInfo_t
#define nvml_memory_t      nvmlMemory_t
#define nvml_process_t     nvmlProcessInfo_t
#define nvml_event_t       nvmlEventData_t
#include "agentd/nvml_abi.h"

#define CHECK_FUNCTION(need, field, symbol, older, result, args)                                   \
    _Static_assert(__builtin_types_compatible_p(__typeof__(&symbol), result(*) args), #symbol);
NVML_FUNCTIONS(CHECK_FUNCTION)

#ifdef BROKEN
_Static_assert(__builtin_types_compatible_p(__typeof__(&nvmlDeviceGetName),
                                            nvmlReturn_t (*)(nvmlDevice_t, char *, long)),
               "nvmlDeviceGetName");
#endif
