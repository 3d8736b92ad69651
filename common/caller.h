/* SPDX-License-Identifier: Apache-2.0 */
/*
 * caller.h - who calls, and what a transport says of a call: plain data of rpc.h that the pure
 * cores take as well.
 */
#ifndef ACCEL_COMMON_CALLER_H
#define ACCEL_COMMON_CALLER_H

#include "common/base.h"

/* NONE: a caller without a certificate, who may only enrol. */
enum rpc_role {
    RPC_ROLE_NONE = 0,
    RPC_ROLE_NODE = 1,
    RPC_ROLE_USER = 2,
    RPC_ROLE_OPERATOR = 3,
    RPC_ROLE_ADMIN = 4
};

struct rpc_identity {
    enum rpc_role role;
    uint32_t uid, gid, pid; /* rpc_local: SO_PEERCRED */
    char user[65];          /* name of uid, or the number as text; remote: of the certificate */
    char node[65];          /* remote node: the only one that it may speak for; else "" */
    char serial[41];        /* remote: of its certificate, hex; else "" */
    bool is_local;          /* same host as the server */
};

enum rpc_event_type {
    RPC_OPEN,    /* a new call; msg is its first message (NULL only for client-streaming methods) */
    RPC_MESSAGE, /* client-streaming methods: one more message */
    RPC_HALF_CLOSE, /* the client will send no more */
    RPC_CLOSED, /* cancelled, or its connection is gone: the number is dead, nothing can be sent */
};

#endif
