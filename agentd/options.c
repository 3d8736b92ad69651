/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The command line of acceld into a struct, with the defaults. Neighbour: main.c. It must not make
 * or open anything.
 */
#include "agentd/options.h"

#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "agentd/identity.h"
#include "common/limits.h"
#include "common/path.h"
#include "common/str.h"

static const char usage[] =
    "Usage: acceld [OPTION]...\n"
    "The node daemon: starts and watches the workers that the coordinator asks for.\n"
    "Ending it touches no worker; the next acceld takes them over.\n"
    "\n"
    "  --coordinator ADDRESS    unix:PATH or HOST[:PORT]; default: the one that this node has\n"
    "                           joined, else your own\n"
    "  --join TOKEN             enrol with what `accelctl node token` printed: the token, @FILE\n"
    "                           or - (stdin), or in $ACCEL_JOIN_TOKEN; needed once\n"
    "  --state-dir DIR          what this node remembers; one acceld each\n"
    "  --devices KIND           auto (default), cpu[:N], nvml, amd, tpu or fake:FILE; may be\n"
    "                           given again\n"
    "  --node-name NAME         default: the host's name\n"
    "  --address A              where other nodes dial this one (default: towards the coordinator)\n"
    "  --idle-exit TIME         end after so long without session and workers (default: never)\n"
    "  --ready-fd N             write \"ready\" there once the coordinator has welcomed us\n"
    "  --user NAME              as root: become NAME, and run each job as its own user\n"
    "  --min-uid N              with --user: refuse users below N (default: 1000); root always\n"
    "  --private-tmp            as root: give each job its own /tmp and /dev/shm\n"
    "  --spawn PATH             the accel-spawn to use\n"
    "  --log-level LEVEL        error, warn, info (default) or debug\n"
    "  --version, --help\n";

enum option_id {
    OPT_COORDINATOR = 1,
    OPT_JOIN,
    OPT_STATE_DIR,
    OPT_DEVICES,
    OPT_NODE_NAME,
    OPT_ADDRESS,
    OPT_IDLE_EXIT,
    OPT_READY_FD,
    OPT_USER,
    OPT_MIN_UID,
    OPT_PRIVATE_TMP,
    OPT_SPAWN,
    OPT_LOG_LEVEL,
    OPT_VERSION,
    OPT_HELP,
};
static const struct option long_options[] = {
    {"coordinator", required_argument, NULL, OPT_COORDINATOR},
    {"join", required_argument, NULL, OPT_JOIN},
    {"state-dir", required_argument, NULL, OPT_STATE_DIR},
    {"devices", required_argument, NULL, OPT_DEVICES},
    {"node-name", required_argument, NULL, OPT_NODE_NAME},
    {"address", required_argument, NULL, OPT_ADDRESS},
    {"idle-exit", required_argument, NULL, OPT_IDLE_EXIT},
    {"ready-fd", required_argument, NULL, OPT_READY_FD},
    {"user", required_argument, NULL, OPT_USER},
    {"min-uid", required_argument, NULL, OPT_MIN_UID},
    {"private-tmp", no_argument, NULL, OPT_PRIVATE_TMP},
    {"spawn", required_argument, NULL, OPT_SPAWN},
    {"log-level", required_argument, NULL, OPT_LOG_LEVEL},
    {"version", no_argument, NULL, OPT_VERSION},
    {"help", no_argument, NULL, OPT_HELP},
    {NULL, 0, NULL, 0},
};

static int set_text(char *to, size_t size, const char *name, const char *value,
                    struct accel_error *err)
{
    if (!value[0] || !str_copy(to, size, value))
        return error_set(err, ACCEL_EINVAL, "--%s: empty, or too long", name);
    return 0;
}

static int set_log_level(struct acceld_options *o, const char *value, struct accel_error *err)
{
    static const struct {
        const char *name;
        enum log_level level;
    } levels[] = {{"error", LOG_LEVEL_ERROR},
                  {"warn", LOG_LEVEL_WARN},
                  {"info", LOG_LEVEL_INFO},
                  {"debug", LOG_LEVEL_DEBUG}};
    for (size_t i = 0; i < ARRAY_LEN(levels); i++) {
        if (strcmp(levels[i].name, value) == 0) {
            o->log_level = levels[i].level;
            return 0;
        }
    }
    return error_set(err, ACCEL_EINVAL, "--log-level %s: none of error, warn, info, debug", value);
}

static int set_number(const char *name, const char *value, uint64_t max, uint64_t *ret_value,
                      struct accel_error *err)
{
    if (parse_u64(value, 0, max, ret_value) < 0)
        return error_set(err, ACCEL_EINVAL, "--%s %s: a number up to %llu is needed", name, value,
                         (unsigned long long)max);
    return 0;
}

static int set_option(struct acceld_options *o, int id, const char *value, struct accel_error *err)
{
    uint64_t number = 0;
    int r;
    switch ((enum option_id)id) {
    case OPT_COORDINATOR:
        o->is_coordinator_given = true;
        return set_text(o->coordinator, sizeof(o->coordinator), "coordinator", value, err);
    case OPT_JOIN: o->join = (char *)value; return 0;
    case OPT_STATE_DIR:
        return set_text(o->state_dir, sizeof(o->state_dir), "state-dir", value, err);
    case OPT_NODE_NAME:
        if (!is_valid_name(value))
            return error_set(err, ACCEL_EINVAL, "--node-name %s: letters, digits, '.', '_', '-'",
                             value);
        o->is_name_given = true;
        return set_text(o->node_name, sizeof(o->node_name), "node-name", value, err);
    case OPT_ADDRESS: o->address = value; return 0;
    case OPT_DEVICES:
        if (o->device_count == OPTIONS_DEVICES_MAX)
            return error_set(err, ACCEL_EINVAL, "--devices: given more than %u times",
                             OPTIONS_DEVICES_MAX);
        o->devices[o->device_count++] = value;
        return 0;
    case OPT_IDLE_EXIT:
        if (parse_duration_ms(value, &number) < 0 || number > INT32_MAX)
            return error_set(err, ACCEL_EINVAL, "--idle-exit %s: not a time such as 60, 30s, 5m",
                             value);
        o->idle_exit_ms = (int64_t)number;
        return 0;
    case OPT_READY_FD:
        r = set_number("ready-fd", value, INT32_MAX, &number, err);
        o->ready_fd = (int)number;
        if (r == 0 && fcntl(o->ready_fd, F_GETFD) < 0)
            return error_set(err, ACCEL_EINVAL, "--ready-fd %s: it is not open", value);
        return r;
    case OPT_USER: o->user = value; return 0;
    case OPT_MIN_UID:
        r = set_number("min-uid", value, INT32_MAX, &number, err);
        o->min_uid = (uint32_t)number;
        return r;
    case OPT_PRIVATE_TMP: o->private_tmp = true; return 0;
    case OPT_SPAWN: o->spawn_path = value; return 0;
    case OPT_LOG_LEVEL: return set_log_level(o, value, err);
    case OPT_VERSION: printf("acceld %s\n", ACCEL_VERSION); return 1;
    case OPT_HELP: fputs(usage, stdout); return 1;
    }
    return error_set(err, ACCEL_EINTERNAL, "an option that nobody handles");
}

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

/* A relative path would change its meaning when somebody changes directory. */
static int make_absolute(char *path, size_t size, struct accel_error *err)
{
    char cwd[PATH_MAX];
    AUTO_FREE char *relative = xstrdup(path);
    if (path[0] == '/')
        return 0;
    if (!getcwd(cwd, sizeof(cwd)) || (size_t)snprintf(path, size, "%s/%s", cwd, relative) >= size)
        return error_set(err, ACCEL_EINVAL, "%s: too long", relative);
    return 0;
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
    return make_absolute(o->state_dir, sizeof(o->state_dir), err);
}

int acceld_options_parse(int argc, char **argv, struct acceld_options *ret_options,
                         struct accel_error *err)
{
    struct acceld_options o = {
        .ready_fd = -1, .log_level = LOG_LEVEL_INFO, .min_uid = IDENTITY_MIN_UID};
    opterr = 0;
    for (int id; (id = getopt_long(argc, argv, "", long_options, NULL)) != -1;) {
        if (id == '?')
            return error_set(err, ACCEL_EINVAL,
                             "%s: unknown, or its value is missing\n"
                             "try: acceld --help",
                             argv[optind - 1]);
        int r = set_option(&o, id, optarg, err);
        if (r != 0)
            return r;
    }
    if (optind < argc)
        return error_set(err, ACCEL_EINVAL, "%s: acceld takes options only\ntry: acceld --help",
                         argv[optind]);
    int r = set_defaults(&o, err);
    if (r < 0)
        return r;
    *ret_options = o;
    return 0;
}
