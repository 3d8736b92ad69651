/* SPDX-License-Identifier: Apache-2.0 */
/*
 * options.c - the table of acceld's settings, and from its texts to what the daemon takes, with the
 * defaults. Neighbour: main.c. It must not make or open anything but the settings' file.
 */
#include "agentd/options.h"

#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agentd/identity.h"
#include "agentd/uplink.h"
#include "common/limits.h"
#include "common/path.h"
#include "common/remote.h"
#include "common/str.h"

struct raw { /* as the table fills it */
    const char *coordinator, *state_dir, *node_name, *address, *user, *spawn, *log_level;
    char *join;
    struct setting_list devices;
    int64_t idle_exit_ms, keepalive_ms;
    uint64_t ready_fd, min_uid;
    bool private_tmp, enrol_only;
};

#define NO_FD    UINT64_MAX
#define AT(name) .offset = offsetof(struct raw, name)

static int check_fd(const char *value, struct accel_error *err)
{
    uint64_t fd;

    if (parse_u64(value, 0, INT32_MAX, &fd) == 0 && fcntl((int)fd, F_GETFD) < 0)
        return error_set(err, ACCEL_EINVAL, "ready-fd %s: it is not open", value);
    return 0;
}

static const struct setting rows[] = {
    {.name = "coordinator",
     .type = SETTING_TEXT,
     AT(coordinator),
     .metavar = "ADDRESS",
     .help = "unix:PATH or HOST[:PORT]; default: the one that this node has joined, else your "
             "own"},
    {.name = "join",
     .type = SETTING_SECRET,
     AT(join),
     .metavar = "TOKEN",
     .is_command_line_only = true,
     .help = "enrol with what `accelctl node token` printed: the token, @FILE or - (stdin), or in "
             "$ACCEL_JOIN_TOKEN; needed once"},
    {.name = "enrol-only",
     .type = SETTING_BOOL,
     AT(enrol_only),
     .is_command_line_only = true,
     .help = "with join: print the node's name and end once the node is enrolled"},
    {.name = "state-dir",
     .type = SETTING_PATH,
     AT(state_dir),
     .metavar = "DIR",
     .help = "what this node remembers; one acceld each"},
    {.name = "devices",
     .type = SETTING_LIST,
     AT(devices),
     .metavar = "KIND",
     .help = "auto (default), cpu[:N], nvml, amd, tpu or fake:FILE"},
    {.name = "node-name",
     .type = SETTING_NAME,
     AT(node_name),
     .metavar = "NAME",
     .help = "default: the host's name"},
    {.name = "address",
     .type = SETTING_TEXT,
     AT(address),
     .metavar = "A",
     .help = "where other nodes dial this one (default: towards the coordinator)"},
    {.name = "keepalive",
     .type = SETTING_DURATION,
     AT(keepalive_ms),
     .metavar = "TIME",
     .min = 1000,
     .max = 3600000,
     .help = "ask a coordinator elsewhere that is silent for so long (default 20s); without an "
             "answer within half of it the session is lost"},
    {.name = "user",
     .type = SETTING_TEXT,
     AT(user),
     .metavar = "NAME",
     .help = "as root: become NAME, and run each job as its own user"},
    {.name = "min-uid",
     .type = SETTING_NUMBER,
     AT(min_uid),
     .metavar = "N",
     .max = INT32_MAX,
     .help = "with user: refuse users below N (default 1000); root always"},
    {.name = "private-tmp",
     .type = SETTING_BOOL,
     AT(private_tmp),
     .help = "as root: give each job its own /tmp and /dev/shm"},
    {.name = "log-level",
     .type = SETTING_CHOICE,
     AT(log_level),
     .choices = LOG_LEVELS,
     .is_reloadable = true,
     .help = "default info"},
    {.name = "spawn",
     .type = SETTING_PATH,
     AT(spawn),
     .metavar = "PATH",
     .help = "the accel-spawn to use (default: the one beside acceld)"},
    {.name = "idle-exit",
     .type = SETTING_DURATION,
     AT(idle_exit_ms),
     .metavar = "TIME",
     .max = INT32_MAX,
     .is_command_line_only = true,
     .help = "end after so long without session and workers (default: never)"},
    {.name = "ready-fd",
     .type = SETTING_NUMBER,
     AT(ready_fd),
     .metavar = "N",
     .max = INT32_MAX,
     .is_command_line_only = true,
     .check = check_fd,
     .help = "write \"ready\" there once the coordinator has welcomed us"},
};
static const struct settings_table table = {
    .program = "acceld",
    .about = "The node daemon: starts and watches the workers that the coordinator asks for.\n"
             "Ending it touches no worker; the next acceld takes them over.\n",
    .rows = rows,
    .count = ARRAY_LEN(rows),
};

static const struct raw defaults = {
    .log_level = "info",
    .ready_fd = NO_FD,
    .min_uid = IDENTITY_MIN_UID,
    .keepalive_ms = UPLINK_KEEPALIVE_MS,
};

static struct { /* what a reload needs; reachable until the end */
    int argc;
    char **argv;
    struct raw raw;
    struct arena arena;
} kept;

/* The host's name without its domain, made into a name of ours. */
static void default_node_name(char *name, size_t size)
{
    char host[256] = "";
    if (gethostname(host, sizeof(host) - 1) < 0)
        host[0] = 0;
    host[strcspn(host, ".")] = 0;
    for (char *c = host; *c; c++) {
        bool is_plain = (*c >= 'a' && *c <= 'z') || (*c >= 'A' && *c <= 'Z') ||
                        (*c >= '0' && *c <= '9') || *c == '-' || *c == '_';
        if (!is_plain)
            *c = '-';
    }
    if (!str_copy(name, size, host) || !is_valid_name(name))
        str_copy(name, size, "localhost");
}

static int copy(char *to, size_t size, const char *name, const char *value, struct accel_error *err)
{
    if (value && !str_copy(to, size, value))
        return error_set(err, ACCEL_EINVAL, "%s: too long", name);
    return 0;
}

/* HOST:PORT and HOST are tcp:HOST:PORT from here on. */
static int take_coordinator(struct acceld_options *o, const char *value, struct accel_error *err)
{
    struct remote_address address;
    bool is_plain = value && strncmp(value, "unix:", 5) != 0 && strncmp(value, "tcp:", 4) != 0;
    int r = is_plain ? remote_address_parse(value, &address, err) : 0;
    if (r == 0)
        r = copy(o->coordinator, sizeof(o->coordinator) - 4, "coordinator", value, err);
    if (r == 0 && is_plain)
        snprintf(o->coordinator, sizeof(o->coordinator), "tcp:%s", value);
    return r;
}

static int take(struct acceld_options *o, const struct raw *raw, struct accel_error *err)
{
    int r = take_coordinator(o, raw->coordinator, err);
    if (r == 0)
        r = copy(o->state_dir, sizeof(o->state_dir), "state-dir", raw->state_dir, err);
    if (r == 0)
        r = copy(o->node_name, sizeof(o->node_name), "node-name", raw->node_name, err);
    if (r < 0)
        return r;
    if (raw->devices.count > OPTIONS_DEVICES_MAX)
        return error_set(err, ACCEL_EINVAL, "devices: more than %u", OPTIONS_DEVICES_MAX);
    for (size_t i = 0; i < raw->devices.count; i++)
        o->devices[o->device_count++] = raw->devices.items[i];
    o->is_coordinator_given = raw->coordinator != NULL;
    o->is_name_given = raw->node_name != NULL;
    o->join = raw->join;
    o->is_enrol_only = raw->enrol_only;
    o->address = raw->address;
    o->keepalive_ms = raw->keepalive_ms;
    o->user = raw->user;
    o->min_uid = (uint32_t)raw->min_uid;
    o->private_tmp = raw->private_tmp;
    o->spawn_path = raw->spawn;
    o->idle_exit_ms = raw->idle_exit_ms;
    o->ready_fd = raw->ready_fd == NO_FD ? -1 : (int)raw->ready_fd;
    CHECK(log_level_parse(raw->log_level, &o->log_level) == 0); /* the table knows the same */
    return 0;
}

static int check_whole(void *values, struct accel_error *err)
{
    struct acceld_options *o = xcalloc(1, sizeof(*o)); /* paths make it large */
    int r = take(o, values, err);

    free(o);
    return r;
}

static int set_defaults(struct acceld_options *o, struct accel_error *err)
{
    char dir[PATH_MAX];
    int r;

    if (!o->coordinator[0]) {
        r = path_runtime_dir(dir, sizeof(dir), err);
        if (r < 0)
            return r;
        snprintf(o->coordinator, sizeof(o->coordinator), "unix:%.*s/coordinator.sock",
                 PATH_MAX - 32, dir);
    }
    if (!o->state_dir[0]) {
        r = path_state_dir(dir, sizeof(dir), err);
        if (r < 0)
            return r;
        snprintf(o->state_dir, sizeof(o->state_dir), "%.*s/node", PATH_MAX - 16, dir);
    }
    if (!o->node_name[0])
        default_node_name(o->node_name, sizeof(o->node_name));
    if (o->device_count == 0)
        o->devices[o->device_count++] = "auto";
    return 0;
}

int acceld_options_parse(int argc, char **argv, struct acceld_options *ret_options,
                         struct accel_error *err)
{
    arena_init(&kept.arena);
    kept.argc = argc;
    kept.argv = argv;
    kept.raw = defaults;
    int r = settings_parse(&table, argc, argv, &kept.arena, &kept.raw, check_whole, err);
    if (r != SETTINGS_OK)
        return r;
    memset(ret_options, 0, sizeof(*ret_options));
    CHECK(take(ret_options, &kept.raw, err) == 0); /* check_whole() has */
    return set_defaults(ret_options, err);
}

int acceld_options_reload(struct acceld_options *options, settings_told *told, void *ctx,
                          struct accel_error *err)
{
    struct raw fresh = defaults;
    int r = settings_reload(&table, kept.argc, kept.argv, &kept.arena, &kept.raw, &fresh,
                            check_whole, told, ctx, err);

    if (r == 0)
        CHECK(log_level_parse(kept.raw.log_level, &options->log_level) == 0);
    return r;
}
