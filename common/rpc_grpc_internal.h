/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rpc_grpc_internal.h - what the files of the module accel-grpc.so share. Only common/rpc_grpc*.c
 * include this.
 */
#ifndef ACCEL_COMMON_RPC_GRPC_INTERNAL_H
#define ACCEL_COMMON_RPC_GRPC_INTERNAL_H

#include "common/remote.h"

extern const struct remote_host *grpc_host; /* set before anything else of the module is called */

/* The module's symbol; see remote_open_fn. */
const struct remote_ops *accel_remote_open(uint32_t abi, const struct remote_host *host);

#endif
