/* SPDX-License-Identifier: Apache-2.0 */
/*
 * spec.h - from a command line to a JobSpec: the program found and checked, the environment chosen,
 * patterns made absolute, strings too long for execve refused by name.
 */
#ifndef ACCEL_CLIENT_SPEC_H
#define ACCEL_CLIENT_SPEC_H

#include "accel/v1/job.pb-c.h"
#include "client/accelctl/options.h"
#include "common/arena.h"

/* What of the caller's process goes into a spec; tests make their own. */
struct spec_caller {
    char *const *environment; /* NULL-terminated */
    const char *cwd;
    uint32_t umask;
    bool has_stdin; /* stdin is open and not /dev/null */
};

/* Fills *ret_spec with pointers into the arena and into the caller's strings. For launch (the
 * verb of o) the whole environment, the limits and stdin go along; for submit the named
 * variables only. On failure *ret_exit_code says what to exit with: 2, 126 or 127. Reads the
 * file system (PATH, the program). */
int spec_build(struct arena *a, const struct options *o, const struct spec_caller *caller,
               Accel__V1__JobSpec *ret_spec, int *ret_exit_code,
               struct accel_error *err) MUST_CHECK;

/* Is NAME=VALUE one that another launcher left behind (rank, PMI, Slurm)? */
bool spec_is_inherited_rank(const char *variable);
/* Is it one that submit passes on by itself? */
bool spec_is_passed_by_submit(const char *variable);
/* The value of name (len bytes) in the environment; NULL if it is not there. */
const char *spec_getenv(char *const *environment, const char *name, size_t len);

#endif
