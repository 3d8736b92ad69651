/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Starting accel-spawn, before this process has threads or a loop. Neighbours: main.c, spawn_main.c
 * at the other end. Blocks until READY, within bounds.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agentd/launcher_exec_internal.h"
#include "agentd/shim.h"
#include "common/clock.h"

extern char **environ;

/* Beside this executable, else left to PATH. */
static void default_path(char *path, size_t size)
{
    ssize_t n = readlink("/proc/self/exe", path, size - 1);
    path[n > 0 ? n : 0] = '\0';
    char *slash = strrchr(path, '/');
    if (slash != NULL && (size_t)(slash - path) + sizeof("/accel-spawn") <= size) {
        memcpy(slash + 1, "accel-spawn", sizeof("accel-spawn"));
        if (access(path, X_OK) == 0) {
            return;
        }
    }
    str_copy(path, size, "accel-spawn");
}

static int exec_spawn(const char *path, const struct launcher_spawn_config *c, int fd,
                      pid_t *ret_pid, struct accel_error *err)
{
    char numbers[3][16];
    char *argv[] = {(char *)"accel-spawn", (char *)c->attempts_dir, NULL, NULL, NULL, NULL};
    snprintf(numbers[0], sizeof(numbers[0]), "%u", (unsigned)c->min_uid);
    snprintf(numbers[1], sizeof(numbers[1]), "%u", (unsigned)c->agent_uid);
    snprintf(numbers[2], sizeof(numbers[2]), "%u", (unsigned)c->agent_gid);
    for (size_t i = 0; i < ARRAY_LEN(numbers) && c->is_switching; i++) {
        argv[2 + i] = numbers[i];
    }
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attr;
    sigset_t none;
    sigemptyset(&none);
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, fd, SPAWN_FD);
    posix_spawnattr_init(&attr);
    posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK);
    posix_spawnattr_setsigmask(&attr, &none);
    int sys = posix_spawnp(ret_pid, path, &actions, &attr, argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attr);
    return sys == 0 ? 0 : error_sys(err, sys, "cannot start %s", path);
}

static void take_ready(const Accel__V1__SpawnReply *reply, struct launcher_spawned *ret)
{
    str_copy(ret->isolation, sizeof(ret->isolation), reply->isolation);
    for (size_t i = 0; i < reply->n_limits && ret->limit_count < LAUNCHER_LIMITS_MAX; i++) {
        ret->limits[ret->limit_count++] = xstrdup(reply->limits[i]);
    }
}

/* Reads the READY, byte for byte no more than it. */
static int wait_ready(int fd, struct launcher_spawned *ret, struct accel_error *err)
{
    struct codec_reader in;
    int64_t deadline = clock_mono_ms() + LIMIT_DAEMON_START_MS;
    const uint8_t *data;
    size_t len;
    int r = 0;
    codec_reader_init(&in, LIMIT_SMALL_MESSAGE_BYTES);
    while (r == 0) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        char byte;
        int64_t left = deadline - clock_mono_ms();
        ssize_t n;
        if (left <= 0) {
            r = error_set(err, ACCEL_ETIME, "accel-spawn does not answer");
        } else if (poll(&p, 1, (int)left) > 0) {
            n = recv(fd, &byte, 1, MSG_DONTWAIT);
            if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
                r = error_set(err, ACCEL_ECLOSED, "accel-spawn ended at once");
            } else if (n > 0) {
                codec_reader_feed(&in, &byte, 1);
                r = codec_reader_next(&in, &data, &len);
            }
        }
    }
    if (r > 0) {
        Accel__V1__SpawnReply *reply = accel__v1__spawn_reply__unpack(&codec_memory, len, data);
        if (reply != NULL && reply->kind == ACCEL__V1__SPAWN_REPLY__KIND__READY) {
            take_ready(reply, ret);
            r = 0;
        } else {
            r = error_set(err, ACCEL_EPROTO, "accel-spawn says something else than READY");
        }
        if (reply != NULL) {
            accel__v1__spawn_reply__free_unpacked(reply, NULL);
        }
    }
    codec_reader_done(&in);
    return r;
}

int launcher_exec_start_spawn(const struct launcher_spawn_config *config,
                              struct launcher_spawned *ret_spawned, struct accel_error *err)
{
    char found[PATH_MAX];
    AUTO_CLOSE int ours = -1;
    AUTO_CLOSE int theirs = -1;
    int fds[2];
    pid_t pid = 0;
    const char *path = config->path;
    struct launcher_spawned spawned = {.fd = -1};
    if (path == NULL) {
        default_path(found, sizeof(found));
        path = found;
    }
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0) {
        return error_sys(err, errno, "cannot make a connection to accel-spawn");
    }
    ours = fds[0];
    theirs = fds[1];
    int r = exec_spawn(path, config, theirs, &pid, err);
    if (r < 0) {
        return r;
    }
    base_close_fd(&theirs);
    theirs = -1;
    r = wait_ready(ours, &spawned, err);
    if (r < 0) {
        kill(pid, SIGKILL);
        while (waitpid(pid, NULL, 0) < 0 && errno == EINTR) {}
        return r;
    }
    spawned.fd = STEAL_FD(ours);
    *ret_spawned = spawned;
    return 0;
}

void launcher_spawned_done(struct launcher_spawned *s)
{
    for (size_t i = 0; i < s->limit_count; i++) {
        free(s->limits[i]);
    }
    *s = (struct launcher_spawned){.fd = -1};
}
