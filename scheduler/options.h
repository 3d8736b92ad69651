/* SPDX-License-Identifier: Apache-2.0 */
/*
 * options.h - the settings of accel-coordinator: its command line and its file (settings.h).
 */
#ifndef ACCEL_SCHEDULER_OPTIONS_H
#define ACCEL_SCHEDULER_OPTIONS_H

#include "common/log.h"
#include "common/settings.h"

#define OPTIONS_LISTEN_MAX    4u /* --listen tcp: given this often; more is an error */
#define OPTIONS_ADVERTISE_MAX 8u

struct coordinator_options {
    const char *socket_path;                /* from --listen unix:PATH */
    const char *listen[OPTIONS_LISTEN_MAX]; /* "tcp:HOST:PORT": for other machines */
    size_t listen_count;
    const char *advertise[OPTIONS_ADVERTISE_MAX]; /* where they find us, if not there */
    size_t advertise_count;
    unsigned socket_mode;   /* of socket_path; 0600 */
    int64_t certificate_ms; /* life of the certificates of nodes and users */
    int64_t keepalive_ms;   /* of connections from other machines; half of it to answer */
    const char *state_dir;
    uint64_t files_bytes;  /* of archives that jobs bring; FILES_TOTAL_BYTES */
    int64_t idle_exit_ms;  /* 0: never */
    bool is_new_era;       /* see coord_begin_era() */
    int ready_fd;          /* -1: none; "ready\n" is written there when calls are served */
    uint64_t history_jobs; /* LIMIT_HISTORY_JOBS */
    int64_t history_ms;    /* LIMIT_HISTORY_MS */
    enum log_level log_level;
};

/* SETTINGS_OK; SETTINGS_ANSWERED: end with 0; ACCEL_EINVAL and the codes of settings_parse() with
 * what and what to try. Strings live as long as the process. argv must outlive it too. */
int options_parse(int argc, char **argv, struct coordinator_options *ret_options,
                  struct accel_error *err);
/* SIGHUP: reads command line and file again and takes over what may change while we run: log level,
 * history. told() once per setting that differs; is_taken false: it waits for a restart. On failure
 * nothing changes. */
int options_reload(struct coordinator_options *options, settings_told *told, void *ctx,
                   struct accel_error *err);

#endif
