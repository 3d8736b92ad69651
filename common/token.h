/* SPDX-License-Identifier: Apache-2.0 */
/*
 * token.h - the text of an enrolment token: "accel-" and base64url (RFC 4648, 5, no padding) of
 * bytes, which are a packed accel.v1.EnrolToken. Pure; no crypto.
 */
#ifndef ACCEL_COMMON_TOKEN_H
#define ACCEL_COMMON_TOKEN_H

#include "common/error.h"
#include "common/str.h"

#define TOKEN_SECRET_BYTES 32u
#define TOKEN_TEXT_BYTES   16384u /* longer is no token of ours; refused */

void token_encode(const void *p, size_t len, struct str *out); /* appends */
/* Blanks around the text are skipped; caller frees *ret_data. ACCEL_EINVAL with a text that never
 * repeats the token, which is a secret. */
int token_decode(const char *text, uint8_t **ret_data, size_t *ret_len, struct accel_error *err);

#endif
