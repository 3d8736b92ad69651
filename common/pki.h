/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pki.h - keys and certificates of the cluster: a CA, requests, certificates for nodes, users and
 * the coordinator. PEM in and out. The code lives in accel-grpc.so, which alone links libcrypto;
 * others reach it through struct remote_ops (remote.h).
 *
 * Keys are EC P-256. A certificate names its holder twice: as CN and as the URI
 * accel://node/NAME, accel://user/NAME or accel://coordinator/NAME of its subject alternative
 * names (RFC 5280, 4.2.1.6). Nodes' and users' are for clients only, the coordinator's for servers
 * only and with the DNS name that every client asks for, PKI_COORDINATOR_NAME.
 *
 * No function keeps state or blocks; all may be called from any thread; texts they return are freed
 * by the caller with free(). PEM texts are untrusted: longer than PKI_PEM_BYTES, or garbage, is
 * ACCEL_EINVAL. No function ever asks a terminal for a passphrase: a key that has one is garbage.
 */
#ifndef ACCEL_COMMON_PKI_H
#define ACCEL_COMMON_PKI_H

#include "common/error.h"
#include "common/limits.h"

#define PKI_COORDINATOR_NAME "accel-coordinator" /* never the name of a node or user */
#define PKI_PEM_BYTES        16384u              /* one key, request or certificate; refused */
#define PKI_SERIAL_BYTES     41u                 /* hex of at most 20 octets (RFC 5280), and NUL */
#define PKI_HASH_BYTES       32u
/* A certificate begins so long before it is made: clocks differ. */
#define PKI_SKEW_MS    (5ll * 60 * 1000)
#define PKI_CA_LIFE_MS (10ll * 365 * 24 * 3600 * 1000)

enum pki_kind { PKI_NODE = 1, PKI_USER, PKI_COORDINATOR };

struct pki_cert { /* what a certificate says; times are wall clock ms */
    enum pki_kind kind;
    char name[LIMIT_NAME_BYTES + 1];
    char serial[PKI_SERIAL_BYTES]; /* lower-case hex, as many digits as it has octets times two */
    int64_t begin_ms, end_ms;
};

/* When two thirds of its life are over; it began PKI_SKEW_MS after begin_ms. */
static inline int64_t pki_renew_ms(const struct pki_cert *cert)
{
    return cert->end_ms - (cert->end_ms - cert->begin_ms - PKI_SKEW_MS) / 3;
}

struct pki_ops {
    /* A new CA that begins PKI_SKEW_MS before now. */
    int (*make_ca)(int64_t now_ms, char **ret_key_pem, char **ret_ca_pem, struct accel_error *err);
    /* A new key and a request for a certificate of that name. */
    int (*make_key)(const char *name, char **ret_key_pem, char **ret_csr_pem,
                    struct accel_error *err);
    /* A request for a key that exists: a renewal. */
    int (*make_csr)(const char *key_pem, const char *name, char **ret_csr_pem,
                    struct accel_error *err);
    /* A certificate for the request's key. Of the request only the key counts, and its signature,
     * which proves that the asker has the key. ACCEL_EINVAL: garbage, a bad signature, a weak key,
     * a name that is not valid; ACCEL_EIO: libcrypto failed. It never outlives the CA. */
    int (*sign)(const char *ca_key_pem, const char *ca_pem, const char *csr_pem, enum pki_kind kind,
                const char *name, int64_t now_ms, int64_t life_ms, char **ret_pem,
                struct pki_cert *ret_cert, struct accel_error *err);
    /* The first certificate in the text. ACCEL_EINVAL: garbage, or not one of ours in form. Says
     * nothing about who signed it. */
    int (*parse)(const char *pem, struct pki_cert *ret_cert, struct accel_error *err);
    /* Signed by this CA, for the use that its kind has, and valid now. ACCEL_ESTALE: not valid yet
     * or not any more, with both times in the text; ACCEL_EPERM: of another CA, or changed. */
    int (*verify)(const char *ca_pem, const char *pem, int64_t now_ms, struct accel_error *err);
    /* The private key belongs to the certificate; ACCEL_EINVAL else. */
    int (*match)(const char *key_pem, const char *pem, struct accel_error *err);
    void (*sha256)(const void *p, size_t len, uint8_t ret_hash[PKI_HASH_BYTES]);
    /* Random bytes of libcrypto's generator; ACCEL_EIO. */
    int (*random)(void *p, size_t len, struct accel_error *err);
};
extern const struct pki_ops pki_ops;

#endif
