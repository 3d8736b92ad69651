/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hash.c - the low-level SHA-256 of libcrypto behind our names. OpenSSL 3 would have EVP used
 * instead, which brings providers, configuration files and a megabyte for the same digest.
 */
#include "common/hash.h"

#include <pthread.h>
#include <stdio.h>

#define OPENSSL_SUPPRESS_DEPRECATED
#include <openssl/sha.h>

#include "common/str.h"

_Static_assert(sizeof(SHA256_CTX) <= sizeof(struct hash), "room for its state");
_Static_assert(SHA256_DIGEST_LENGTH == HASH_BYTES, "SHA-256");

/* OpenSSL asks the processor what it can do before main(), whether or not anything will be hashed.
 * In a virtual machine that costs each command 45 us. The linker's --wrap gives it the empty
 * function instead, and the first hash asks. */
void __real_OPENSSL_cpuid_setup(void);
void __wrap_OPENSSL_cpuid_setup(void);

static pthread_once_t processor_asked = PTHREAD_ONCE_INIT;

void __wrap_OPENSSL_cpuid_setup(void) {}

void hash_init(struct hash *h)
{
    pthread_once(&processor_asked, __real_OPENSSL_cpuid_setup);
    CHECK(SHA256_Init((SHA256_CTX *)(void *)h) == 1);
}

void hash_add(struct hash *h, const void *p, size_t len)
{
    CHECK(SHA256_Update((SHA256_CTX *)(void *)h, p, len) == 1);
}

void hash_end(struct hash *h, uint8_t ret_hash[HASH_BYTES])
{
    CHECK(SHA256_Final(ret_hash, (SHA256_CTX *)(void *)h) == 1);
}

const char *hash_hex(const uint8_t hash[HASH_BYTES], char *ret_text)
{
    for (size_t i = 0; i < HASH_BYTES; i++)
        snprintf(ret_text + 2 * i, 3, "%02x", hash[i]);
    return ret_text;
}

char *hash_file_name(const uint8_t hash[HASH_BYTES], const char *user)
{
    AUTO_STR struct str name = {0};
    char hex[HASH_HEX_SIZE];

    str_init(&name);
    str_addf(&name, "%s.", hash_hex(hash, hex));
    for (const char *c = user; *c; c++)
        str_addf(&name, "%02x", (unsigned char)*c);
    return str_steal(&name);
}
