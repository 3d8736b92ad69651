/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The entry of accel-grpc.so: its one symbol, and the table that is behind it. Neighbours:
 * rpc_grpc*.c (transport), pki*.c (certificates). It must not be linked by any program; remote.c
 * loads it.
 */
#include <openssl/crypto.h>

#include "common/pki.h"
#include "common/rpc_grpc_internal.h"

const struct remote_host *wire_host;

static const struct remote_ops ops = {
    .abi = REMOTE_ABI,
    .pki = &pki_ops,
    .server_create = wire_server_create,
    .server_port = wire_server_port,
    .server_calls = wire_server_calls,
    .server_drop = wire_server_drop,
    .server_drain = wire_server_drain,
    .server_set_tls = wire_server_set_tls,
    .channel_create = wire_channel_create,
};

__attribute__((visibility("default"))) const struct remote_ops *accel_remote_open(
    uint32_t abi, const struct remote_host *host)
{
    if (abi != REMOTE_ABI)
        return NULL;
    if (!wire_host) {
        /* At exit gRPC's threads may still run: libcrypto must not take its tables from them. */
        OPENSSL_init_crypto(OPENSSL_INIT_NO_ATEXIT, NULL);
        wire_runtime_prepare();
        wire_tls_prepare();
    }
    wire_host = host;
    return &ops;
}
