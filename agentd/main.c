/* SPDX-License-Identifier: Apache-2.0 */
/*
 * acceld, a contents page: what is made in which order, and taken down in the reverse. Neighbours:
 * options.c, user.c, state.c, shell.c. Nothing is decided here.
 */
#include <stdio.h>

#include "agentd/join.h"
#include "agentd/launcher.h"
#include "agentd/options.h"
#include "agentd/shell.h"
#include "agentd/state.h"
#include "agentd/user.h"
#include "common/log.h"
#include "common/loop.h"
#include "common/notify.h"

#define FILES_FIRST 12u /* open files, up to the start of accel-spawn */
#define FILES_MIN   32u /* open files: it serves with that, and a few attempts */

struct daemon {
    struct acceld_options options;
    struct state state;
    uv_loop_t loop;
    struct loop_signals signals;
    struct shell *shell;
    struct join_renewal *renewal;
    int status;
};

static void stop(struct daemon *d, int status)
{
    if (!d->shell)
        return;
    d->status = status;
    notify_stopping();
    state_say_ending(&d->state);
    shell_destroy(d->shell); /* the loop ends with its last handle */
    d->shell = NULL;
    join_renewal_destroy(d->renewal);
    loop_signals_close(&d->signals);
}

static void on_shell_end(void *ctx, int status)
{
    stop(ctx, status);
}

static void on_stop_signal(void *ctx, int signo)
{
    log_info("signal %d: ending; workers run on", signo);
    stop(ctx, 0);
}

static void on_reload(void *ctx)
{
    struct daemon *d = ctx;
    struct accel_error err = {0};
    notify_reloading();
    if (acceld_options_reload(&d->options, log_setting, d, &err) < 0)
        log_error("the settings stay as they are: %s", err.text);
    log_set_level(d->options.log_level);
    notify_ready(&d->loop);
}

static int make_shell(struct daemon *d, const struct launcher_spawned *spawned,
                      struct accel_error *err)
{
    struct shell_config config = {
        .loop = &d->loop,
        .state = &d->state,
        .coordinator = d->options.coordinator,
        .node_name = d->options.node_name,
        .address = d->options.address,
        .isolation = spawned->isolation,
        .limits = spawned->limits,
        .limit_count = spawned->limit_count,
        .is_switching = d->options.user != NULL,
        .private_tmp = d->options.private_tmp,
        .devices = d->options.devices,
        .device_count = d->options.device_count,
        .idle_exit_ms = d->options.idle_exit_ms,
        .keepalive_ms = d->options.keepalive_ms,
        .ready_fd = d->options.ready_fd,
        .spawn_fd = spawned->fd,
    };
    int r = loop_signals_init(&d->loop, &d->signals, on_stop_signal, d);
    if (r < 0)
        return error_set(err, r, "signals cannot be watched");
    r = shell_create(&config, on_shell_end, d, &d->shell, err);
    if (r < 0) {
        loop_signals_close(&d->signals);
        return r;
    }
    d->signals.on_reload = on_reload;
    notify_ready(&d->loop); /* not when it is welcomed: a unit need not wait for the coordinator */
    return 0;
}

/* accel-spawn first: it is forked while this process has one thread and no loop, and it stays what
 * we are now. */
static int start_spawn(struct daemon *d, struct launcher_spawned *ret_spawned,
                       struct accel_error *err)
{
    struct acceld_user user = {0};
    int r = 0;
    if (d->options.user)
        r = acceld_user_find(&user, d->options.user, d->options.state_dir, err);
    if (r == 0)
        r = acceld_user_state(&user, &d->state, d->options.state_dir, err);
    if (r == 0 && !d->options.is_enrol_only) {
        const struct launcher_spawn_config config = {
            .path = d->options.spawn_path,
            .attempts_dir = d->state.attempts_dir,
            .is_switching = d->options.user != NULL,
            .min_uid = d->options.min_uid,
            .agent_uid = user.account.uid,
            .agent_gid = user.account.gid,
        };
        r = launcher_exec_start_spawn(&config, ret_spawned, err);
    }
    if (r == 0)
        r = acceld_user_become(&user, err);
    identity_account_done(&user.account);
    return r;
}

static int run(struct daemon *d, struct accel_error *err)
{
    struct launcher_spawned spawned = {.fd = -1};
    d->state.lock_fd = -1;
    int r = loop_files_check(FILES_FIRST, err);
    if (r == 0)
        r = start_spawn(d, &spawned, err);
    loop_files_prepare(); /* accel-spawn keeps what was, for the jobs */
    if (r == 0)
        r = loop_files_check(FILES_MIN, err);
    if (r == 0) {
        CHECK(uv_loop_init(&d->loop) == 0);
        r = join_start(&d->loop, &d->options, &d->state, err);
        if (r == 0 && !d->options.is_enrol_only)
            r = make_shell(d, &spawned, err);
        if (r == 0 && !d->options.is_enrol_only)
            d->renewal = join_renewal_create(&d->loop, d->options.coordinator, &d->state);
        uv_run(&d->loop, UV_RUN_DEFAULT);
        CHECK(uv_loop_close(&d->loop) == 0);
    }
    launcher_spawned_done(&spawned);
    state_close(&d->state);
    return r;
}

int main(int argc, char **argv)
{
    static struct daemon d; /* paths make it large */
    struct accel_error err = {0};
    loop_daemon_prepare();
    notify_init();
    int r = acceld_options_parse(argc, argv, &d.options, &err);
    if (r > 0)
        return fflush(stdout) == 0 ? 0 : 1;
    log_init("acceld", r < 0 ? LOG_LEVEL_INFO : d.options.log_level); /* those are not filled */
    if (r == 0)
        r = run(&d, &err);
    if (r < 0)
        log_error("%s", err.text);
    else if (d.options.is_enrol_only)
        d.status = printf("%s\n", d.options.node_name) < 0 || fflush(stdout) != 0;
    return r < 0 ? (r == ACCEL_EINVAL ? 2 : 1) : d.status;
}
