/* SPDX-License-Identifier: Apache-2.0 */
/*
 * NVML by dlopen, the names of its functions and codes, and what each XID means for the GPU.
 * Neighbours: device_nvml_watch.c and device_nvml_scan.c call it. It must not call the library.
 */
#include <dlfcn.h>
#include <string.h>

#include "agentd/device_nvml_internal.h"
#include "common/str.h"

static const char *const function_names[] = {
#define X(need, field, symbol, older, result, args) [NVML_FN_##field] = #symbol,
    NVML_FUNCTIONS(X)
#undef X
};

void nvml_function_name(enum nvml_function fn, char *buf, size_t size)
{
    CHECK((unsigned)fn < NVML_FN_COUNT);
    str_copy(buf, size, function_names[fn]);
    char *version = strstr(buf, "_v");
    if (version)
        *version = 0;
}

static void *symbol_of(void *handle, const char *name, const char *older)
{
    void *p = dlsym(handle, name);
    return p ? p : dlsym(handle, older);
}

enum need { OPTIONAL, NEEDED };

int nvml_lib_open(const char *path, struct nvml_lib *ret_lib, struct accel_error *err)
{
    struct nvml_lib lib;
    /* Not closed again: a thread of ours may be inside, and the driver has threads of its own. */
    void *handle = dlopen(path ? path : "libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!handle && !path)
        return 0;
    if (!handle)
        return error_set(err, ACCEL_ENOENT, "%s", dlerror());
#define X(need, field, symbol, older, result, args)                                                \
    lib.field = (result(*) args)symbol_of(handle, #symbol, #older);                                \
    if (need == NEEDED && !lib.field)                                                              \
        return error_set(err, ACCEL_EUNIMPL, "the NVIDIA driver's library has no %s", #symbol);
    NVML_FUNCTIONS(X)
#undef X
    *ret_lib = lib;
    return 1;
}

const char *nvml_error_text(const struct nvml_lib *lib, nvml_return_t code)
{
    switch (code) { /* where the library's own words do not say what to do */
    case NVML_VERSION_MISMATCH:
        return "the NVIDIA driver and its library are of different versions (an update without a "
               "reboot?)";
    case NVML_DRIVER_NOT_LOADED: return "the NVIDIA driver is not loaded";
    case NVML_NO_PERMISSION: return "no permission to use the NVIDIA driver";
    default: break;
    }
    const char *text = lib->error_string ? lib->error_string(code) : NULL;
    return text ? text : "an unknown error of the NVIDIA driver";
}

/* By NVIDIA's "Xid Errors" (docs.nvidia.com/deploy/xid-errors): what a program can cause, what asks
 * for a reset at the next occasion, and what ends the work on the GPU. */
static const struct xid {
    uint16_t number;
    uint8_t class;
    const char *text;
} xids[] = {
    {8, XID_APP, "GPU stopped processing"},
    {13, XID_APP, "graphics engine exception"},
    {31, XID_APP, "memory page fault"},
    {32, XID_APP, "invalid push buffer stream"},
    {43, XID_APP, "GPU stopped processing for the program"},
    {44, XID_FATAL, "graphics engine fault during context switch"},
    {45, XID_APP, "clean-up after an earlier error"},
    {46, XID_FATAL, "GPU stopped processing"},
    {48, XID_FATAL, "double bit ECC error"},
    {61, XID_FATAL, "internal micro-controller breakpoint"},
    {62, XID_FATAL, "internal micro-controller halt"},
    {63, XID_APP, "a row or page was marked for replacement"},
    {64, XID_WORN, "replacing a row or page failed"},
    {66, XID_APP, "illegal access by the driver"},
    {68, XID_APP, "video processor exception"},
    {69, XID_APP, "graphics engine class error"},
    {74, XID_FATAL, "NVLink error"},
    {79, XID_FATAL, "GPU has fallen off the bus"},
    {92, XID_APP, "many single bit ECC errors"},
    {94, XID_APP, "contained ECC error"},
    {95, XID_FATAL, "uncontained ECC error"},
    {109, XID_APP, "context switch timeout"},
    {119, XID_FATAL, "GSP firmware does not answer"},
    {120, XID_FATAL, "GSP firmware error"},
    {137, XID_APP, "NVLink fault of a program"},
    {140, XID_FATAL, "unrecovered ECC error"},
    {143, XID_FATAL, "GPU initialisation failed"},
};

enum xid_class xid_classify(uint64_t xid, const char **ret_text)
{
    for (size_t i = 0; i < ARRAY_LEN(xids); i++) {
        if (xids[i].number == xid) {
            *ret_text = xids[i].text;
            return xids[i].class;
        }
    }
    *ret_text = NULL;
    return XID_WORN; /* critical by the driver's own judgement: told, and given to nobody else */
}
