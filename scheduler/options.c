/* SPDX-License-Identifier: Apache-2.0 */
/*
 * options.c - parses accel-coordinator's command line with getopt_long. Knows nothing of the
 * daemon; opens nothing.
 */
#include "scheduler/options.h"

#include <getopt.h>
#include <string.h>

#include "common/limits.h"
#include "common/pki.h"
#include "common/remote.h"
#include "common/str.h"

enum {
    OPT_LISTEN = 256,
    OPT_STATE_DIR,
    OPT_IDLE_EXIT,
    OPT_READY_FD,
    OPT_JOBS,
    OPT_AGE,
    OPT_ADVERTISE,
    OPT_SOCKET_MODE,
    OPT_CERTIFICATE_LIFE,
    OPT_LOG_LEVEL,
    OPT_HELP,
    OPT_VERSION
};

static const struct option longs[] = {
    {"listen", required_argument, NULL, OPT_LISTEN},
    {"state-dir", required_argument, NULL, OPT_STATE_DIR},
    {"idle-exit", required_argument, NULL, OPT_IDLE_EXIT},
    {"ready-fd", required_argument, NULL, OPT_READY_FD},
    {"history-jobs", required_argument, NULL, OPT_JOBS},
    {"history-age", required_argument, NULL, OPT_AGE},
    {"advertise", required_argument, NULL, OPT_ADVERTISE},
    {"socket-mode", required_argument, NULL, OPT_SOCKET_MODE},
    {"certificate-life", required_argument, NULL, OPT_CERTIFICATE_LIFE},
    {"log-level", required_argument, NULL, OPT_LOG_LEVEL},
    {"help", no_argument, NULL, OPT_HELP},
    {"version", no_argument, NULL, OPT_VERSION},
    {NULL, 0, NULL, 0},
};

const char *options_help(void)
{
    return "accel-coordinator --listen unix:PATH --state-dir DIR [options]\n"
           "Decides what runs where and keeps it durable. People use accelctl; this is started "
           "by it or by a unit.\n"
           "\n"
           "  --listen unix:PATH    serve calls of this host on this socket\n"
           "  --listen tcp:HOST:PORT  serve other machines too, by mutual TLS (0.0.0.0: all\n"
           "                        interfaces; port 7443 if not given); may be given again\n"
           "  --advertise HOST:PORT where other machines find us, if not there; goes into tokens\n"
           "  --socket-mode MODE    0600 (default), 0660 or 0666: who on this host may call\n"
           "  --certificate-life TIME  of nodes and users (default 90d); renewed at 2/3 of it\n"
           "  --state-dir DIR       the store is DIR/accel.db; one coordinator per directory\n"
           "  --idle-exit TIME      end when there is nothing to do for so long (30s, 5m); 0: "
           "never (default)\n"
           "  --history-jobs N      ended jobs kept (default 20000)\n"
           "  --history-age TIME    ended jobs older than this go (default 30d)\n"
           "  --ready-fd N          write \"ready\" there once calls are served\n"
           "  --log-level L         error, warn, info or debug\n";
}

static int parse_level(const char *text, enum log_level *ret)
{
    static const struct {
        const char *name;
        enum log_level level;
    } names[] = {{"error", LOG_LEVEL_ERROR},
                 {"warn", LOG_LEVEL_WARN},
                 {"info", LOG_LEVEL_INFO},
                 {"debug", LOG_LEVEL_DEBUG}};

    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        if (strcmp(text, names[i].name))
            continue;
        *ret = names[i].level;
        return 0;
    }
    return ACCEL_EINVAL;
}

static int apply_listen(struct coordinator_options *o, const char *arg)
{
    struct remote_address address;

    if (!strncmp(arg, "unix:/", 6)) {
        o->socket_path = arg + 5;
        return 0;
    }
    if (strncmp(arg, "tcp:", 4) || o->listen_count == OPTIONS_LISTEN_MAX)
        return ACCEL_EINVAL;
    o->listen[o->listen_count++] = arg;
    return remote_address_parse(arg, &address, NULL);
}

static int option_apply(struct coordinator_options *o, int opt, const char *arg)
{
    struct remote_address address;
    uint64_t value = 0;
    int r = 0;

    switch (opt) {
    case OPT_LISTEN: r = apply_listen(o, arg); break;
    case OPT_ADVERTISE:
        if (o->advertise_count == OPTIONS_ADVERTISE_MAX)
            return ACCEL_EINVAL;
        r = remote_address_parse(arg, &address, NULL);
        o->advertise[o->advertise_count++] = arg;
        break;
    case OPT_SOCKET_MODE:
        o->socket_mode = !strcmp(arg, "0600") ? 0600 : !strcmp(arg, "0660") ? 0660 : 0666;
        r = o->socket_mode == 0666 && strcmp(arg, "0666") ? ACCEL_EINVAL : 0;
        break;
    case OPT_CERTIFICATE_LIFE:
        r = parse_duration_ms(arg, &value);
        o->certificate_ms = (int64_t)value;
        if (r == 0 && (value < 1000 || value > (uint64_t)PKI_CA_LIFE_MS))
            r = ACCEL_EINVAL;
        break;
    case OPT_STATE_DIR: o->state_dir = arg; break;
    case OPT_IDLE_EXIT:
        r = parse_duration_ms(arg, &value);
        if (r == 0)
            o->idle_exit_ms = (int64_t)value;
        break;
    case OPT_READY_FD:
        r = parse_u64(arg, 0, 1 << 20, &value);
        if (r == 0)
            o->ready_fd = (int)value;
        break;
    case OPT_JOBS: r = parse_u64(arg, 1, 1000000, &o->history_jobs); break;
    case OPT_AGE: r = parse_duration_ms(arg, &o->history_ms); break;
    case OPT_LOG_LEVEL: r = parse_level(arg, &o->log_level); break;
    case OPT_HELP: o->show_help = true; break;
    case OPT_VERSION: o->show_version = true; break;
    default: r = ACCEL_EINVAL; break;
    }
    return r;
}

int options_parse(int argc, char **argv, struct coordinator_options *ret_options,
                  struct accel_error *err)
{
    struct coordinator_options o = {.ready_fd = -1,
                                    .history_jobs = LIMIT_HISTORY_JOBS,
                                    .history_ms = LIMIT_HISTORY_MS,
                                    .socket_mode = 0600,
                                    .certificate_ms = LIMIT_CERTIFICATE_MS,
                                    .log_level = LOG_LEVEL_INFO};
    int opt;

    opterr = 0;
    while ((opt = getopt_long(argc, argv, "", longs, NULL)) != -1) {
        if (opt == '?' || opt == ':')
            return error_set(err, ACCEL_EINVAL,
                             "unknown option or missing value: %s\ntry: accel-coordinator --help",
                             argv[optind - 1]);
        int r = option_apply(&o, opt, optarg);
        if (r < 0)
            return error_set(err, r, "--%s cannot be '%s'\ntry: accel-coordinator --help",
                             longs[opt - OPT_LISTEN].name, optarg);
    }
    if (optind < argc)
        return error_set(err, ACCEL_EINVAL, "unexpected argument '%s'", argv[optind]);
    if (!o.show_help && !o.show_version && (!o.socket_path || !o.state_dir))
        return error_set(
            err, ACCEL_EINVAL,
            "--listen unix:PATH and --state-dir are needed\ntry: accel-coordinator --help");
    *ret_options = o;
    return 0;
}
