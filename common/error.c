/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The tables behind error.h: names, sentences, gRPC codes, errno values. Text is built in a buffer
 * of its own first, so that an argument may point into the error that is being written. No
 * allocation, no locale, no logging.
 */
#include "common/error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const struct {
    const char *name;
    const char *sentence;
    uint32_t grpc;
} errors[] = {[0] = {"OK", "ok", 0},
#define X(error_name, value, grpc_code, text) [value] = {#error_name, text, grpc_code},
              ACCEL_ERROR_LIST(X)
#undef X
};

/* By gRPC status code; several of our codes share one, so this is the nearest. */
static const int from_grpc[] = {
    [0] = ACCEL_OK,       [1] = ACCEL_ECANCELLED, [2] = ACCEL_EINTERNAL, [3] = ACCEL_EINVAL,
    [4] = ACCEL_ETIME,    [5] = ACCEL_ENOENT,     [6] = ACCEL_EEXIST,    [7] = ACCEL_EPERM,
    [8] = ACCEL_EFULL,    [9] = ACCEL_ESTATE,     [10] = ACCEL_EBUSY,    [11] = ACCEL_EINVAL,
    [12] = ACCEL_EUNIMPL, [13] = ACCEL_EINTERNAL, [14] = ACCEL_EUNAVAIL, [15] = ACCEL_ECORRUPT,
    [16] = ACCEL_EUNAUTH,
};

static const struct {
    int sys;
    int code;
} from_errno[] = {
    {ENOMEM, ACCEL_ENOMEM},        {EINVAL, ACCEL_EINVAL},         {ENAMETOOLONG, ACCEL_EINVAL},
    {E2BIG, ACCEL_EINVAL},         {ELOOP, ACCEL_EINVAL},          {ENOTDIR, ACCEL_EINVAL},
    {EISDIR, ACCEL_EINVAL},        {ENOTSOCK, ACCEL_EINVAL},       {ENOEXEC, ACCEL_EINVAL},
    {ENOENT, ACCEL_ENOENT},        {ESRCH, ACCEL_ENOENT},          {ENODEV, ACCEL_ENOENT},
    {ENXIO, ACCEL_ENOENT},         {EEXIST, ACCEL_EEXIST},         {ENOTEMPTY, ACCEL_EEXIST},
    {EACCES, ACCEL_EPERM},         {EPERM, ACCEL_EPERM},           {EROFS, ACCEL_EPERM},
    {EMFILE, ACCEL_EFULL},         {ENFILE, ACCEL_EFULL},          {EFBIG, ACCEL_EFULL},
    {ENOSPC, ACCEL_ENOSPC},        {EDQUOT, ACCEL_ENOSPC},         {EAGAIN, ACCEL_EUNAVAIL},
    {ENETUNREACH, ACCEL_EUNAVAIL}, {EHOSTUNREACH, ACCEL_EUNAVAIL}, {EPIPE, ACCEL_ECLOSED},
    {ECONNRESET, ACCEL_ECLOSED},   {ECONNREFUSED, ACCEL_ECLOSED},  {ECONNABORTED, ACCEL_ECLOSED},
    {ENOTCONN, ACCEL_ECLOSED},     {ETIMEDOUT, ACCEL_ETIME},       {ECANCELED, ACCEL_ECANCELLED},
    {EBUSY, ACCEL_EBUSY},          {EADDRINUSE, ACCEL_EBUSY},      {ETXTBSY, ACCEL_EBUSY},
    {EPROTO, ACCEL_EPROTO},        {EBADMSG, ACCEL_EPROTO},        {EMSGSIZE, ACCEL_EPROTO},
    {ENOSYS, ACCEL_EUNIMPL},       {EOPNOTSUPP, ACCEL_EUNIMPL},
};

static size_t index_of(int code)
{
    /* Unsigned negation: INT_MIN may come off the wire. */
    size_t i = code > 0 ? SIZE_MAX : (size_t)(0u - (unsigned)code);
    return i < ARRAY_LEN(errors) ? i : (size_t)-ACCEL_EINTERNAL;
}

const char *accel_error_name(int code)
{
    return errors[index_of(code)].name;
}

const char *accel_error_sentence(int code)
{
    return errors[index_of(code)].sentence;
}

uint32_t accel_error_to_grpc(int code)
{
    return errors[index_of(code)].grpc;
}

int accel_error_from_grpc(uint32_t status)
{
    return status < ARRAY_LEN(from_grpc) ? from_grpc[status] : ACCEL_EINTERNAL;
}

static int code_of_errno(int sys)
{
    for (size_t i = 0; i < ARRAY_LEN(from_errno); i++) {
        if (from_errno[i].sys == sys) {
            return from_errno[i].code;
        }
    }
    return ACCEL_EIO;
}

static void format(char *text, const char *fmt, va_list args)
{
    if (vsnprintf(text, ACCEL_ERROR_TEXT, fmt, args) < 0) {
        text[0] = '\0';
    }
}

/* Appends, cutting at the end of the buffer. */
static void append(char *text, const char *more)
{
    size_t len = strlen(text);
    size_t add = MIN(strlen(more), ACCEL_ERROR_TEXT - 1 - len);
    memcpy(text + len, more, add);
    text[len + add] = '\0';
}

int error_set(struct accel_error *err, int code, const char *fmt, ...)
{
    if (err != NULL) {
        char text[ACCEL_ERROR_TEXT];
        va_list args;
        va_start(args, fmt);
        format(text, fmt, args);
        va_end(args);
        err->code = code;
        err->sys = 0;
        memcpy(err->text, text, sizeof(text));
    }
    return code;
}

int error_sys(struct accel_error *err, int sys, const char *fmt, ...)
{
    int code = code_of_errno(sys);
    if (err != NULL) {
        char text[ACCEL_ERROR_TEXT];
        const char *sentence =
            strerrordesc_np(sys); /* unlike strerror: thread-safe, never translated */
        va_list args;
        va_start(args, fmt);
        format(text, fmt, args);
        va_end(args);
        append(text, ": ");
        append(text, sentence != NULL ? sentence : "unknown system error");
        err->code = code;
        err->sys = sys;
        memcpy(err->text, text, sizeof(text));
    }
    return code;
}

int error_wrap(struct accel_error *err, int code, const char *fmt, ...)
{
    if (err == NULL) {
        return code;
    }
    char text[ACCEL_ERROR_TEXT];
    va_list args;
    va_start(args, fmt);
    format(text, fmt, args);
    va_end(args);
    append(text, ": ");
    if (err->code == 0) { /* the layer below could not say more than its code */
        err->code = code;
        err->sys = 0;
        append(text, accel_error_sentence(code));
    } else {
        append(text, err->text);
    }
    memcpy(err->text, text, sizeof(text));
    return err->code;
}
