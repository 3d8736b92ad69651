/* SPDX-License-Identifier: Apache-2.0 */
/*
 * submit.h - what launch and submit have in common: the request made from this process and the
 * command line.
 */
#ifndef ACCEL_CLIENT_SUBMIT_H
#define ACCEL_CLIENT_SUBMIT_H

#include "client/accelctl/cli.h"
#include "client/accelctl/spec.h"
#include "client/accelctl/sync.h"
#include "common/limits.h"

struct submission {
    struct arena arena;
    Accel__V1__JobSpec spec;
    Accel__V1__SubmitRequest req; /* points to spec and id */
    uint8_t id[LIMIT_REQUEST_ID_BYTES];
    Accel__V1__SyncRef sync; /* spec points to it with --sync */
    struct sync_archive archive;
    const char *python; /* the interpreter in argv[0] of a script, else NULL */
};

/* Fills *s from the command line and this process. 0, or the exit code after the error was told;
 * in both cases free it with submission_done. */
int submission_prepare(const struct cli *cli, struct submission *s) MUST_CHECK;
void submission_done(struct submission *s);
/* Before Submit is sent: the files that the job brings. 0, or the exit code after the error was
 * told. */
int submission_upload(const struct submission *s, struct session *session) MUST_CHECK;
/* 16 random bytes for a request that may be repeated. */
void request_id_make(uint8_t *ret_id);
/* Tells why a job was refused; the exit code: 4, 5, or what stands for "not run". */
int submission_refused(int code, const char *text);

#endif
