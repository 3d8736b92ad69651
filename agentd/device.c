/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The node's devices as one list out of several sources. Neighbours: device_cpu.c, device_fake.c,
 * shell.c. It must not decide who gets which.
 */
#include "agentd/device.h"

#include <string.h>

static int compare_ids(const void *a, const void *b)
{
    const Accel__V1__Device *const *x = a, *const *y = b;
    return strcmp((*x)->id, (*y)->id);
}

static int check_unique(Accel__V1__Device *const *devices, size_t count, struct arena *a,
                        struct accel_error *err)
{
    if (count < 2)
        return 0;
    Accel__V1__Device **sorted = ARENA_ARRAY(a, Accel__V1__Device *, count);
    memcpy(sorted, devices, count * sizeof(*sorted));
    qsort(sorted, count, sizeof(*sorted), compare_ids);
    for (size_t i = 1; i < count; i++) {
        if (strcmp(sorted[i - 1]->id, sorted[i]->id) == 0)
            return error_set(err, ACCEL_EINVAL, "two devices are called %s", sorted[i]->id);
    }
    return 0;
}

int device_list_all(struct device_source *const *sources, size_t count, struct arena *a,
                    Accel__V1__Device ***ret_devices, size_t *ret_count, struct accel_error *err)
{
    Accel__V1__Device **all = NULL;
    size_t len = 0;
    for (size_t i = 0; i < count; i++) {
        Accel__V1__Device **some;
        size_t some_len;
        int r = sources[i]->ops->list(sources[i], a, &some, &some_len, err);
        if (r < 0)
            return r;
        Accel__V1__Device **joined = ARENA_ARRAY(a, Accel__V1__Device *, len + some_len + 1);
        if (len)
            memcpy(joined, all, len * sizeof(*all));
        if (some_len)
            memcpy(joined + len, some, some_len * sizeof(*some));
        for (size_t k = 0; k < some_len; k++) { /* links name peers by their place in the list */
            for (size_t j = 0; j < some[k]->n_links; j++)
                some[k]->links[j]->index += (uint32_t)len;
        }
        all = joined;
        len += some_len;
    }
    int r = check_unique(all, len, a, err);
    if (r < 0)
        return r;
    for (size_t i = 0; i < len; i++)
        all[i]->index = (uint32_t)i;
    *ret_devices = all;
    *ret_count = len;
    return 0;
}
