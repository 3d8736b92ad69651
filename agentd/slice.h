/* SPDX-License-Identifier: Apache-2.0 */
/*
 * slice.h - what the metadata server says of the TPU slice that this host is a part of: name, how
 * many hosts, which of them this is, type, topology. Asked once, when chips are found; never
 * blocks. A machine without metadata server, or whose server knows no TPU, is a slice of one; one
 * of Google's (by DMI) waits for the answer as long as it takes. Loop's thread only.
 */
#ifndef ACCEL_AGENTD_SLICE_H
#define ACCEL_AGENTD_SLICE_H

#include <uv.h>

#include "accel/v1/node.pb-c.h"
#include "agentd/tpu_env.h"

struct slice;

/* on_change, from the loop: slice_is_known() has become true. */
struct slice *slice_create(uv_loop_t *loop, void (*on_change)(void *ctx), void *ctx);
void slice_destroy(struct slice *s); /* accepts NULL; handles close on the loop's next turns */
/* The server has answered, or it is sure that nobody does. Until then the chips are not to be used:
 * a host of a slice would be taken for a machine of its own. */
bool slice_is_known(const struct slice *s);
/* NULL if the host is a slice of one that nobody named; in the arena. */
Accel__V1__Slice *slice_describe(const struct slice *s, struct arena *a);
/* The same for tpu_env.h; chips and model are those of the devices. Strings live as long as s. */
struct tpu_host slice_host(const struct slice *s, uint32_t chips, const char *model);
/* "" or why there is no answer, for people. */
const char *slice_note(const struct slice *s);

/* The value of KEY in lines "KEY: 'value'" as the attribute tpu-env has them; "" if there is none.
 * One that does not fit in size is as good as none. */
void slice_env_value(const char *text, const char *key, char *buf, size_t size);

#endif
