/* SPDX-License-Identifier: Apache-2.0 */
/*
 * options.h - the command line of accel-coordinator.
 */
#ifndef ACCEL_SCHEDULER_OPTIONS_H
#define ACCEL_SCHEDULER_OPTIONS_H

#include "common/error.h"
#include "common/log.h"

#define OPTIONS_LISTEN_MAX    4u /* --listen tcp: given this often; more is an error */
#define OPTIONS_ADVERTISE_MAX 8u

struct coordinator_options {
    const char *socket_path; /* from --listen unix:PATH */
    const char *listen[OPTIONS_LISTEN_MAX]; /* "tcp:HOST:PORT": for other machines */
    size_t listen_count;
    const char *advertise[OPTIONS_ADVERTISE_MAX]; /* where they find us, if not there */
    size_t advertise_count;
    unsigned socket_mode;   /* of socket_path; 0600 */
    int64_t certificate_ms; /* life of the certificates of nodes and users */
    const char *state_dir;
    int64_t idle_exit_ms;  /* 0: never */
    int ready_fd;          /* -1: none; "ready\n" is written there when calls are served */
    uint64_t history_jobs; /* LIMIT_HISTORY_JOBS */
    uint64_t history_ms;   /* LIMIT_HISTORY_MS */
    enum log_level log_level;
    bool show_help, show_version;
};

/* Strings point into argv. ACCEL_EINVAL with what and what to try. */
int options_parse(int argc, char **argv, struct coordinator_options *ret_options,
                  struct accel_error *err);
const char *options_help(void);

#endif
