/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Enrolment tokens as text. Neighbours: scheduler/enrol.c makes them, agentd/join.c reads them. It
 * must not put a token or a part of one into an error.
 */
#include "common/token.h"

#include <string.h>

static const char prefix[] = "accel-";
static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

void token_encode(const void *p, size_t len, struct str *out)
{
    const uint8_t *bytes = p;
    uint32_t bits = 0;
    unsigned count = 0;

    str_adds(out, prefix);
    for (size_t i = 0; i < len; i++) {
        bits = bits << 8 | bytes[i];
        for (count += 8; count >= 6; count -= 6)
            str_addc(out, digits[bits >> (count - 6) & 63]);
    }
    if (count > 0)
        str_addc(out, digits[bits << (6 - count) & 63]);
}

/* False: a character that is none of ours. */
static bool decode_digits(const char *text, size_t len, uint8_t *ret, size_t *ret_len)
{
    uint32_t bits = 0;
    unsigned count = 0;
    size_t used = 0;

    for (size_t i = 0; i < len; i++) {
        const char *p = strchr(digits, text[i]);
        if (!p || !*p)
            return false;
        bits = bits << 6 | (uint32_t)(p - digits);
        count += 6;
        if (count >= 8) {
            count -= 8;
            ret[used++] = (uint8_t)(bits >> count);
        }
    }
    *ret_len = used;
    return true;
}

int token_decode(const char *text, uint8_t **ret_data, size_t *ret_len, struct accel_error *err)
{
    static const char blanks[] = " \t\r\n";
    const size_t skip = sizeof(prefix) - 1;

    text += strspn(text, blanks);
    size_t len = strcspn(text, blanks);
    bool is_alone = text[len + strspn(text + len, blanks)] == 0;
    if (is_alone && len > skip && len <= TOKEN_TEXT_BYTES && memcmp(text, prefix, skip) == 0) {
        AUTO_FREE uint8_t *data = xcalloc(1, len);
        if (decode_digits(text + skip, len - skip, data, ret_len)) {
            *ret_data = STEAL_PTR(data);
            return 0;
        }
    }
    return error_set(err, ACCEL_EINVAL,
                     "this is no enrolment token\nwhy: it must be the whole line that \"accelctl"
                     " node token\" prints\ntry: make a new one");
}
