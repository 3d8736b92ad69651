/* SPDX-License-Identifier: Apache-2.0 */
/*
 * options.h - the settings of acceld: its command line and its file (settings.h).
 */
#ifndef ACCEL_AGENTD_OPTIONS_H
#define ACCEL_AGENTD_OPTIONS_H

#include <limits.h>

#include "common/log.h"
#include "common/settings.h"

#define OPTIONS_DEVICES_MAX 16u /* --devices given this often; more is an error */

struct acceld_options {
    char coordinator[PATH_MAX + 8]; /* "unix:/PATH" or "HOST:PORT" */
    bool is_coordinator_given, is_name_given;
    char *join; /* --join: a token, @FILE or -; NULL: none. Of argv: wiped once it was read */
    bool is_enrol_only;       /* come into the cluster, and end */
    char state_dir[PATH_MAX]; /* absolute */
    char node_name[65];
    const char *address; /* that other nodes dial; NULL: towards the coordinator */
    const char *devices[OPTIONS_DEVICES_MAX]; /* as node.h says; of argv */
    size_t device_count;
    const char *user;       /* NULL: all jobs run as we do; else what acceld becomes, as root */
    uint32_t min_uid;       /* with user: lower ones run no jobs here */
    bool private_tmp;       /* each job has its own /tmp and /dev/shm */
    const char *spawn_path; /* NULL: beside acceld, else in PATH */
    int64_t idle_exit_ms;   /* 0: never */
    int64_t keepalive_ms;   /* see uplink.h */
    int ready_fd;           /* -1: none */
    enum log_level log_level;
};
/* SETTINGS_OK; SETTINGS_ANSWERED: end with 0; negative: err says what is wrong. Texts live as long
 * as the process, and argv must too. */
int acceld_options_parse(int argc, char **argv, struct acceld_options *ret_options,
                         struct accel_error *err);
/* SIGHUP: reads command line and file again and takes over what may change while we run: the log
 * level. told() once per setting that differs; is_taken false: it waits for a restart. On failure
 * nothing changes. */
int acceld_options_reload(struct acceld_options *options, settings_told *told, void *ctx,
                          struct accel_error *err);

#endif
