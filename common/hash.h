/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hash.h - SHA-256 (FIPS 180-4) of content as it comes, by libcrypto's own code, linked statically:
 * these few kilobytes come without loading the library. Pure.
 */
#ifndef ACCEL_COMMON_HASH_H
#define ACCEL_COMMON_HASH_H

#include "common/base.h"

#define HASH_BYTES    32u
#define HASH_HEX_SIZE 65u /* with NUL */

struct hash {
    uint64_t state[16]; /* room for SHA256_CTX, aligned */
};
void hash_init(struct hash *h);
void hash_add(struct hash *h, const void *p, size_t len);
void hash_end(struct hash *h, uint8_t ret_hash[HASH_BYTES]);
/* Lower case; ret_text has HASH_HEX_SIZE bytes and is returned. */
/* "HASH.USER", the user's name as hex too, for it may be any text: the name of a file that only
 * this user's jobs are given. Caller frees; aborts when memory ends. */
char *hash_file_name(const uint8_t hash[HASH_BYTES], const char *user);
const char *hash_hex(const uint8_t hash[HASH_BYTES], char *ret_text);

#endif
