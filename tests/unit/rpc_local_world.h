/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rpc_local_world.h - a server on a real unix socket, and clients of both kinds: a channel, or a
 * socket played by hand.
 */
#ifndef ACCEL_TESTS_UNIT_RPC_LOCAL_WORLD_H
#define ACCEL_TESTS_UNIT_RPC_LOCAL_WORLD_H

#include "common/path.h"
#include "common/rpc_local.h"
#include "rpc_world.h"

static inline int setup(void **state)
{
    (void)state;
    int fd = -1;
    struct accel_error err;
    world_init();
    snprintf(w.dir, sizeof(w.dir), "/tmp/test_rpc_local.XXXXXX");
    assert_non_null(mkdtemp(w.dir));
    snprintf(w.path, sizeof(w.path), "%s/socket", w.dir);
    assert_int_equal(path_socket_listen(w.path, LIMIT_RPC_BACKLOG, &fd, &err), 0);
    assert_int_equal(rpc_local_server_create(&w.loop, fd, &service, &w.server, &err), 0);
    return 0;
}

static inline int teardown(void **state)
{
    (void)state;
    world_done();
    unlink(w.path);
    rmdir(w.dir);
    return 0;
}

static inline int raw_connect(void)
{
    int fd = -1;
    struct accel_error err;
    assert_int_equal(path_socket_connect(w.path, &fd, &err), 0);
    return fd;
}

static inline void client_open(struct client *c, int fd)
{
    struct accel_error err;
    memset(c, 0, sizeof(*c));
    assert_int_equal(rpc_local_channel_create(&w.loop, fd, on_lost, c, &c->ch, &err), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

#endif
