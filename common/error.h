/* SPDX-License-Identifier: Apache-2.0 */
/*
 * error.h - result codes and text for people.
 *
 * A function returns 0 (or a count) on success and a negative ACCEL_E* code on failure. Those that
 * can say more take a `struct accel_error *err`, which may be NULL; on success it is untouched.
 * Text is wrapped once per layer with what was being attempted. A function logs or returns the
 * error, never both.
 */
#ifndef ACCEL_COMMON_ERROR_H
#define ACCEL_COMMON_ERROR_H

#include "common/base.h"

/* X(name, value, gRPC status code, sentence). Values are part of the files and the wire: never
 * renumber. */
#define ACCEL_ERROR_LIST(X)                                                                        \
    X(ENOMEM, 1, 8, "out of memory")                                                               \
    X(EINVAL, 2, 3, "invalid argument")                                                            \
    X(ENOENT, 3, 5, "not found")                                                                   \
    X(EEXIST, 4, 6, "exists already")                                                              \
    X(EPERM, 5, 7, "permission denied")                                                            \
    X(EFULL, 6, 8, "a limit is reached")                                                           \
    X(EUNAVAIL, 7, 14, "not available now")                                                        \
    X(ESTALE, 8, 9, "a newer generation exists")                                                   \
    X(EPROTO, 9, 13, "the other side broke the protocol")                                          \
    X(EIO, 10, 13, "input or output failed")                                                       \
    X(ECLOSED, 11, 14, "the connection is closed")                                                 \
    X(ETIME, 12, 4, "timed out")                                                                   \
    X(ECANCELLED, 13, 1, "cancelled")                                                              \
    X(ESTATE, 14, 9, "not possible in this state")                                                 \
    X(ENOSPC, 15, 8, "no space left")                                                              \
    X(EBUSY, 16, 9, "in use")                                                                      \
    X(ECORRUPT, 17, 15, "data is corrupt")                                                         \
    X(ENEWER, 18, 9, "made by a newer version")                                                    \
    X(EUNIMPL, 19, 12, "not supported")                                                            \
    X(EUNAUTH, 20, 16, "not authenticated")                                                        \
    X(EINTERNAL, 21, 13, "internal error")

enum accel_result {
    ACCEL_OK = 0,
#define X(name, value, grpc, text) ACCEL_##name = -(value),
    ACCEL_ERROR_LIST(X)
#undef X
};

#define ACCEL_ERROR_TEXT 512

struct accel_error {
    int code;                    /* ACCEL_E* */
    int sys;                     /* errno, 0 if none */
    char text[ACCEL_ERROR_TEXT]; /* what; may hold "\nwhy: ..." and "\ntry: ..." lines */
};

const char *accel_error_name(int code);     /* "ENOENT"; "OK" for 0; static */
const char *accel_error_sentence(int code); /* static */
uint32_t accel_error_to_grpc(int code);     /* gRPC status code; 0 for 0 */
int accel_error_from_grpc(uint32_t status); /* the nearest ACCEL_E*; 0 for 0 */

/* Fill err (if not NULL) and return code, so that `return error_set(err, ACCEL_EINVAL, "...")`
 * reads well. */
int error_set(struct accel_error *err, int code, const char *fmt, ...) PRINTF_LIKE(3, 4);
/* The same with errno `sys`: ": strerror" is appended, the code follows from sys (ENOENT, EACCES,
 * ENOSPC, ...). */
int error_sys(struct accel_error *err, int sys, const char *fmt, ...) PRINTF_LIKE(3, 4);
/* Puts "PREFIX: " before the text; returns err's code. err may be NULL only if code is passed on by
 * the caller. */
int error_wrap(struct accel_error *err, int code, const char *fmt, ...) PRINTF_LIKE(3, 4);

#endif
