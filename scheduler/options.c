/* SPDX-License-Identifier: Apache-2.0 */
/*
 * options.c - the table of accel-coordinator's settings, and from its texts to what the daemon
 * takes. Knows nothing of the daemon; opens nothing but the settings' file.
 */
#include "scheduler/options.h"

#include <stddef.h>
#include <string.h>

#include "common/limits.h"
#include "common/pki.h"
#include "common/remote.h"
#include "scheduler/files.h"

struct raw { /* as the table fills it */
    struct setting_list listen, advertise;
    const char *state_dir, *socket_mode, *log_level;
    int64_t certificate_ms, keepalive_ms, idle_exit_ms, history_ms;
    uint64_t ready_fd, history_jobs, files_bytes;
    bool new_era;
};

#define DAY_MS   (24ll * 3600 * 1000)
#define NO_FD    UINT64_MAX
#define AT(name) .offset = offsetof(struct raw, name)

static int check_listen(const char *value, struct accel_error *err)
{
    struct remote_address address;

    if (!strncmp(value, "unix:/", 6))
        return 0;
    if (strncmp(value, "tcp:", 4))
        return error_set(err, ACCEL_EINVAL,
                         "listen cannot be '%s'\ntry: unix:/PATH or tcp:HOST:PORT", value);
    return remote_address_parse(value, &address, err);
}

static int check_address(const char *value, struct accel_error *err)
{
    struct remote_address address;

    return remote_address_parse(value, &address, err);
}

static const struct setting rows[] = {
    {.name = "listen",
     .type = SETTING_LIST,
     AT(listen),
     .metavar = "ADDRESS",
     .check = check_listen,
     .help = "unix:PATH serves this host, tcp:HOST:PORT other machines too, by mutual TLS "
             "(0.0.0.0: all interfaces; port 7443 if none is named)"},
    {.name = "advertise",
     .type = SETTING_LIST,
     AT(advertise),
     .metavar = "HOST:PORT",
     .check = check_address,
     .help = "where other machines find us, if not where we listen; goes into tokens"},
    {.name = "state-dir",
     .type = SETTING_PATH,
     AT(state_dir),
     .metavar = "DIR",
     .help = "the store is DIR/accel.db; one coordinator per directory"},
    {.name = "socket-mode",
     .type = SETTING_CHOICE,
     AT(socket_mode),
     .choices = "0600|0660|0666",
     .help = "who on this host may call (default 0600: our own user)"},
    {.name = "certificate-life",
     .type = SETTING_DURATION,
     AT(certificate_ms),
     .metavar = "TIME",
     .min = 1000,
     .max = PKI_CA_LIFE_MS,
     .help = "of nodes and users (default 90d); renewed at 2/3 of it"},
    {.name = "keepalive",
     .type = SETTING_DURATION,
     AT(keepalive_ms),
     .metavar = "TIME",
     .min = 1000,
     .max = 3600000,
     .help = "ask a machine that is silent for so long (default 20s); without an answer within "
             "half of it the connection is lost, and so is one that has not greeted by then"},
    {.name = "history-jobs",
     .type = SETTING_NUMBER,
     AT(history_jobs),
     .metavar = "N",
     .min = 1,
     .max = 1000000,
     .is_reloadable = true,
     .help = "ended jobs kept (default 20000)"},
    {.name = "history-age",
     .type = SETTING_DURATION,
     AT(history_ms),
     .metavar = "TIME",
     .min = 1000,
     .max = 3650 * DAY_MS,
     .is_reloadable = true,
     .help = "ended jobs older than this go (default 30d)"},
    {.name = "files-bytes",
     .type = SETTING_BYTES,
     AT(files_bytes),
     .metavar = "SIZE",
     .min = LIMIT_SYNC_BYTES,
     .help = "kept of the directories that jobs bring by --sync (default 20G)"},
    {.name = "log-level",
     .type = SETTING_CHOICE,
     AT(log_level),
     .choices = LOG_LEVELS,
     .is_reloadable = true,
     .help = "default info"},
    {.name = "new-era",
     .type = SETTING_BOOL,
     AT(new_era),
     .is_command_line_only = true,
     .help = "an older store was put back, and no node can prove that: begin anew; what runs is "
             "ended"},
    {.name = "idle-exit",
     .type = SETTING_DURATION,
     AT(idle_exit_ms),
     .metavar = "TIME",
     .is_command_line_only = true,
     .help = "end when there is nothing to do for so long; 0: never (default)"},
    {.name = "ready-fd",
     .type = SETTING_NUMBER,
     AT(ready_fd),
     .metavar = "N",
     .max = 1 << 20,
     .is_command_line_only = true,
     .help = "write \"ready\" there once calls are served"},
};
static const struct settings_table table = {
    .program = "accel-coordinator",
    .about = "Decides what runs where and keeps it durable. People use accelctl; this is\n"
             "started by it or by a unit.\n",
    .rows = rows,
    .count = ARRAY_LEN(rows),
};

static const struct raw defaults = {
    .log_level = "info",
    .socket_mode = "0600",
    .ready_fd = NO_FD,
    .history_jobs = LIMIT_HISTORY_JOBS,
    .history_ms = LIMIT_HISTORY_MS,
    .certificate_ms = LIMIT_CERTIFICATE_MS,
    .keepalive_ms = 20000,
    .files_bytes = FILES_TOTAL_BYTES,
};

static struct { /* what a reload needs; reachable until the end */
    int argc;
    char **argv;
    struct raw raw;
    struct arena arena;
} kept;

static int take_listen(struct coordinator_options *o, const struct setting_list *list,
                       struct accel_error *err)
{
    for (size_t i = 0; i < list->count; i++) {
        bool is_local = !strncmp(list->items[i], "unix:", 5);
        if ((is_local && o->socket_path) || (!is_local && o->listen_count == OPTIONS_LISTEN_MAX))
            return error_set(err, ACCEL_EINVAL, "listen: one unix: and at most %u tcp: addresses",
                             OPTIONS_LISTEN_MAX);
        if (is_local)
            o->socket_path = list->items[i] + 5;
        else
            o->listen[o->listen_count++] = list->items[i];
    }
    return 0;
}

static void take_reloadable(struct coordinator_options *o, const struct raw *raw)
{
    o->history_jobs = raw->history_jobs;
    o->history_ms = raw->history_ms;
    CHECK(log_level_parse(raw->log_level, &o->log_level) == 0); /* the table knows the same */
}

static int take(struct coordinator_options *o, const struct raw *raw, struct accel_error *err)
{
    int r = take_listen(o, &raw->listen, err);

    if (r < 0)
        return r;
    if (raw->advertise.count > OPTIONS_ADVERTISE_MAX)
        return error_set(err, ACCEL_EINVAL, "advertise: at most %u", OPTIONS_ADVERTISE_MAX);
    for (; o->advertise_count < raw->advertise.count; o->advertise_count++)
        o->advertise[o->advertise_count] = raw->advertise.items[o->advertise_count];
    o->socket_mode = !strcmp(raw->socket_mode, "0600")   ? 0600
                     : !strcmp(raw->socket_mode, "0660") ? 0660
                                                         : 0666;
    o->state_dir = raw->state_dir;
    o->certificate_ms = raw->certificate_ms;
    o->keepalive_ms = raw->keepalive_ms;
    o->idle_exit_ms = raw->idle_exit_ms;
    o->files_bytes = raw->files_bytes;
    o->is_new_era = raw->new_era;
    o->ready_fd = raw->ready_fd == NO_FD ? -1 : (int)raw->ready_fd;
    take_reloadable(o, raw);
    return 0;
}

static int check_needed(void *values, struct accel_error *err)
{
    const struct raw *raw = values;
    struct coordinator_options o = {0};

    int r = take(&o, raw, err);
    if (r < 0)
        return r;
    if (!o.socket_path || !o.state_dir)
        return error_set(
            err, ACCEL_EINVAL,
            "listen unix:PATH and state-dir are needed\ntry: accel-coordinator --help");
    return 0;
}

int options_parse(int argc, char **argv, struct coordinator_options *ret_options,
                  struct accel_error *err)
{
    struct coordinator_options o = {0};

    arena_init(&kept.arena);
    kept.argc = argc;
    kept.argv = argv;
    kept.raw = defaults;
    int r = settings_parse(&table, argc, argv, &kept.arena, &kept.raw, check_needed, err);
    if (r != SETTINGS_OK)
        return r;
    CHECK(take(&o, &kept.raw, err) == 0); /* check_needed() has */
    *ret_options = o;
    return SETTINGS_OK;
}

int options_reload(struct coordinator_options *options, settings_told *told, void *ctx,
                   struct accel_error *err)
{
    struct raw fresh = defaults;
    int r = settings_reload(&table, kept.argc, kept.argv, &kept.arena, &kept.raw, &fresh,
                            check_needed, told, ctx, err);

    if (r == 0)
        take_reloadable(options, &kept.raw);
    return r;
}
