/* SPDX-License-Identifier: Apache-2.0 */
/*
 * options.h - the command line of acceld.
 */
#ifndef ACCEL_AGENTD_OPTIONS_H
#define ACCEL_AGENTD_OPTIONS_H

#include <limits.h>

#include "common/error.h"
#include "common/log.h"

#define OPTIONS_DEVICES_MAX 16u /* --devices given this often; more is an error */

struct acceld_options {
    char coordinator[PATH_MAX + 8]; /* "unix:/PATH" or "HOST:PORT" */
    bool is_coordinator_given, is_name_given;
    char *join; /* --join: a token, @FILE or -; NULL: none. Of argv: wiped once it was read */
    char state_dir[PATH_MAX];       /* absolute */
    char node_name[65];
    const char *address; /* that other nodes dial; NULL: towards the coordinator */
    const char *devices[OPTIONS_DEVICES_MAX]; /* as node.h says; of argv */
    size_t device_count;
    const char *user;       /* NULL: all jobs run as we do; else what acceld becomes, as root */
    uint32_t min_uid;       /* with user: lower ones run no jobs here */
    bool private_tmp;       /* each job has its own /tmp and /dev/shm */
    const char *spawn_path; /* NULL: beside acceld, else in PATH */
    int64_t idle_exit_ms;   /* 0: never */
    int ready_fd;           /* -1: none */
    enum log_level log_level;
};
/* 0: go on; 1: --help or --version was answered on stdout; negative: err says what is wrong. */
int acceld_options_parse(int argc, char **argv, struct acceld_options *ret_options,
                         struct accel_error *err);

#endif
