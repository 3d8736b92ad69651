/* SPDX-License-Identifier: Apache-2.0 */
/*
 * main.c - accel-coordinator, a contents page: what is set up in which order, and taken down in
 * the reverse. Nothing is decided here.
 */
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/limits.h"
#include "common/notify.h"
#include "common/path.h"
#include "scheduler/lock.h"
#include "scheduler/shell.h"

#define FILES_MIN 32u /* open files: it serves on one host with that */

static int fail(const struct accel_error *err)
{
    log_error("%s", err->text);
    return 1;
}

static void say_ready(int fd)
{
    static const char text[] = "ready\n";

    if (fd < 0)
        return;
    ssize_t n = write(fd, text, sizeof(text) - 1);
    (void)n; /* who started us may be gone */
    close(fd);
}

static int run(struct coordinator_options *options)
{
    struct accel_error err = {0};
    /* static: a start that fails leaves them to the exit, and they stay reachable */
    static struct shell shell;
    static uv_loop_t loop;
    AUTO_CLOSE int lock_fd = -1;
    int listen_fd = -1, r;

    r = loop_files_check(FILES_MIN, &err);
    if (r == 0)
        r = path_make_private(options->state_dir, &err);
    if (r < 0)
        return fail(&err);
    r = state_lock(options->state_dir, options->socket_path, &lock_fd, &err);
    if (r < 0)
        return fail(&err);
    r = uv_loop_init(&loop);
    if (r < 0)
        return fail(&(struct accel_error){.text = "cannot make an event loop"});
    r = shell_init(&shell, &loop, options, &err);
    if (r < 0)
        return fail(&err);
    r = path_socket_listen(options->socket_path, LIMIT_RPC_BACKLOG, &listen_fd, &err);
    if (r < 0)
        return fail(&err);
    if (chmod(options->socket_path, options->socket_mode) < 0)
        return fail(&(struct accel_error){.text = "cannot set the mode of the socket"});
    r = shell_serve(&shell, listen_fd, &err);
    if (r < 0)
        return fail(&err);
    state_lock_serves(lock_fd, options->socket_path);
    log_info("accel-coordinator %s serves %s, epoch %llu", ACCEL_VERSION, options->socket_path,
             (unsigned long long)coord_epoch(shell.core));
    say_ready(options->ready_fd);
    notify_ready(&loop);

    uv_run(&loop, UV_RUN_DEFAULT);

    shell_done(&shell);
    CHECK(uv_loop_close(&loop) == 0);
    return shell.exit_status;
}

int main(int argc, char **argv)
{
    static struct coordinator_options options; /* a reload changes it */
    struct accel_error err = {0};
    int r = options_parse(argc, argv, &options, &err);

    if (r < 0) {
        fprintf(stderr, "accel-coordinator: error: %s\n", err.text);
        return 2;
    }
    if (r == SETTINGS_ANSWERED)
        return fflush(stdout) == 0 ? 0 : 1;
    loop_daemon_prepare();
    loop_files_prepare();
    notify_init();
    log_init("accel-coordinator", options.log_level);
    return run(&options);
}
