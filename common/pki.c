/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Keys and certificates by OpenSSL 3. Neighbours: rpc_grpc.c, which carries this into
 * accel-grpc.so, and scheduler/enrol.c and agentd/join.c, which call it. It must not read files,
 * clocks or terminals, and must not decide who gets a certificate.
 */
#include "common/pki.h"

#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "common/clock.h"
#include "common/str.h"

#define SERIAL_OCTETS     16  /* 128 random bits */
#define SECURITY_BITS_MIN 112 /* NIST SP 800-57: P-256 has 128, RSA 2048 has 112 */
#define URI_SCHEME        "accel://"

#define AUTO_OF(type, fn)                                                                          \
    static void auto_##type(type **p)                                                              \
    {                                                                                              \
        fn(*p);                                                                                    \
    }
AUTO_OF(EVP_PKEY, EVP_PKEY_free)
AUTO_OF(X509, X509_free)
AUTO_OF(X509_REQ, X509_REQ_free)
AUTO_OF(BIO, BIO_free_all)
AUTO_OF(BIGNUM, BN_free)
AUTO_OF(X509_STORE, X509_STORE_free)
AUTO_OF(X509_STORE_CTX, X509_STORE_CTX_free)
AUTO_OF(GENERAL_NAMES, GENERAL_NAMES_free)
#define AUTO(type) __attribute__((cleanup(auto_##type))) type *

static const char *const kind_names[] = {
    [PKI_NODE] = "node", [PKI_USER] = "user", [PKI_COORDINATOR] = "coordinator"};

/* The newest reason of libcrypto behind the sentence; its queue is emptied. */
static int fail(struct accel_error *err, int code, const char *what)
{
    const char *reason = ERR_reason_error_string(ERR_peek_last_error());

    ERR_clear_error();
    return error_set(err, code, reason ? "%s (%s)" : "%s", what, reason);
}

/* --- PEM --- */

static int no_passphrase(char *buf, int size, int rwflag, void *ctx)
{
    return -1;
}

static BIO *pem_bio(const char *pem, struct accel_error *err)
{
    size_t len = pem ? strnlen(pem, PKI_PEM_BYTES + 1) : 0;

    if (len == 0 || len > PKI_PEM_BYTES) {
        error_set(err, ACCEL_EINVAL, "a PEM text of 1 to %u bytes is needed", PKI_PEM_BYTES);
        return NULL;
    }
    return BIO_new_mem_buf(pem, (int)len);
}

static int read_cert(const char *pem, X509 **ret, struct accel_error *err)
{
    AUTO(BIO) bio = pem_bio(pem, err);

    if (!bio)
        return ACCEL_EINVAL;
    *ret = PEM_read_bio_X509(bio, NULL, no_passphrase, NULL);
    return *ret ? 0 : fail(err, ACCEL_EINVAL, "this is no certificate in PEM form");
}

static int read_key(const char *pem, EVP_PKEY **ret, struct accel_error *err)
{
    AUTO(BIO) bio = pem_bio(pem, err);

    if (!bio)
        return ACCEL_EINVAL;
    *ret = PEM_read_bio_PrivateKey(bio, NULL, no_passphrase, NULL);
    return *ret ? 0 : fail(err, ACCEL_EINVAL, "this is no private key in PEM form");
}

static char *bio_text(BIO *bio)
{
    char *data;
    long len = BIO_get_mem_data(bio, &data);
    char *text = xcalloc(1, (size_t)len + 1);

    memcpy(text, data, (size_t)len);
    return text;
}

static int write_key(EVP_PKEY *key, char **ret_pem, struct accel_error *err)
{
    AUTO(BIO) bio = BIO_new(BIO_s_mem());

    if (!bio || !PEM_write_bio_PrivateKey(bio, key, NULL, NULL, 0, NULL, NULL))
        return fail(err, ACCEL_EIO, "cannot write a key");
    *ret_pem = bio_text(bio);
    return 0;
}

static int write_cert(X509 *cert, char **ret_pem, struct accel_error *err)
{
    AUTO(BIO) bio = BIO_new(BIO_s_mem());

    if (!bio || !PEM_write_bio_X509(bio, cert))
        return fail(err, ACCEL_EIO, "cannot write a certificate");
    *ret_pem = bio_text(bio);
    return 0;
}

/* --- making --- */

static int set_name(X509_NAME *name, const char *text)
{
    return X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, (const unsigned char *)text, -1, -1,
                                      0);
}

static int add_extension(X509 *cert, X509 *issuer, int nid, const char *value)
{
    X509V3_CTX ctx;

    X509V3_set_ctx_nodb(&ctx);
    X509V3_set_ctx(&ctx, issuer, cert, NULL, NULL, 0);
    X509_EXTENSION *ext = X509V3_EXT_conf_nid(NULL, &ctx, nid, value);
    int ok = ext && X509_add_ext(cert, ext, -1);
    X509_EXTENSION_free(ext);
    return ok;
}

static int set_serial(X509 *cert)
{
    unsigned char octets[SERIAL_OCTETS];

    if (RAND_bytes(octets, sizeof(octets)) != 1)
        return 0;
    octets[0] |= 1; /* never 0, and always of the same length */
    AUTO(BIGNUM) n = BN_bin2bn(octets, sizeof(octets), NULL);
    return n && BN_to_ASN1_INTEGER(n, X509_get_serialNumber(cert)) != NULL;
}

static int set_times(X509 *cert, int64_t begin_ms, int64_t end_ms)
{
    return ASN1_TIME_set(X509_getm_notBefore(cert), begin_ms / 1000) &&
           ASN1_TIME_set(X509_getm_notAfter(cert), end_ms / 1000);
}

static int pki_make_ca(int64_t now_ms, char **ret_key_pem, char **ret_ca_pem,
                       struct accel_error *err)
{
    AUTO_FREE char *key_pem = NULL;
    AUTO(EVP_PKEY) key = EVP_EC_gen("P-256");
    AUTO(X509) cert = X509_new();
    int r;

    if (!key || !cert || !X509_set_version(cert, X509_VERSION_3) || !set_serial(cert) ||
        !set_times(cert, now_ms - PKI_SKEW_MS, now_ms + PKI_CA_LIFE_MS) ||
        !set_name(X509_get_subject_name(cert), "accel CA") ||
        !X509_set_issuer_name(cert, X509_get_subject_name(cert)) || !X509_set_pubkey(cert, key) ||
        !add_extension(cert, cert, NID_basic_constraints, "critical,CA:TRUE,pathlen:0") ||
        !add_extension(cert, cert, NID_key_usage, "critical,keyCertSign,cRLSign") ||
        !add_extension(cert, cert, NID_subject_key_identifier, "hash") ||
        !X509_sign(cert, key, EVP_sha256()))
        return fail(err, ACCEL_EIO, "cannot make a CA");
    r = write_key(key, &key_pem, err);
    if (r == 0)
        r = write_cert(cert, ret_ca_pem, err);
    if (r == 0)
        *ret_key_pem = STEAL_PTR(key_pem);
    return r;
}

static int make_request(EVP_PKEY *key, const char *name, char **ret_csr_pem,
                        struct accel_error *err)
{
    AUTO(X509_REQ) req = X509_REQ_new();
    AUTO(BIO) bio = BIO_new(BIO_s_mem());

    if (!is_valid_name(name))
        return error_set(err, ACCEL_EINVAL, "\"%.80s\" is no name of a node or user", name);
    if (!req || !bio || !X509_REQ_set_version(req, X509_REQ_VERSION_1) ||
        !set_name(X509_REQ_get_subject_name(req), name) || !X509_REQ_set_pubkey(req, key) ||
        !X509_REQ_sign(req, key, EVP_sha256()) || !PEM_write_bio_X509_REQ(bio, req))
        return fail(err, ACCEL_EIO, "cannot make a request for a certificate");
    *ret_csr_pem = bio_text(bio);
    return 0;
}

static int pki_make_key(const char *name, char **ret_key_pem, char **ret_csr_pem,
                        struct accel_error *err)
{
    AUTO(EVP_PKEY) key = EVP_EC_gen("P-256");
    AUTO_FREE char *csr = NULL;

    if (!key)
        return fail(err, ACCEL_EIO, "cannot make a key");
    int r = make_request(key, name, &csr, err);
    if (r == 0)
        r = write_key(key, ret_key_pem, err);
    if (r == 0)
        *ret_csr_pem = STEAL_PTR(csr);
    return r;
}

static int pki_make_csr(const char *key_pem, const char *name, char **ret_csr_pem,
                        struct accel_error *err)
{
    AUTO(EVP_PKEY) key = NULL;
    int r = read_key(key_pem, &key, err);

    return r < 0 ? r : make_request(key, name, ret_csr_pem, err);
}

/* --- signing --- */

static int read_request(const char *pem, X509_REQ **ret, EVP_PKEY **ret_key,
                        struct accel_error *err)
{
    AUTO(BIO) bio = pem_bio(pem, err);

    if (!bio)
        return ACCEL_EINVAL;
    *ret = PEM_read_bio_X509_REQ(bio, NULL, no_passphrase, NULL);
    if (!*ret)
        return fail(err, ACCEL_EINVAL, "this is no certificate request in PEM form");
    *ret_key = X509_REQ_get0_pubkey(*ret);
    if (!*ret_key || X509_REQ_verify(*ret, *ret_key) != 1)
        return fail(err, ACCEL_EINVAL, "the request is not signed by the key that is in it");
    if (EVP_PKEY_get_security_bits(*ret_key) < SECURITY_BITS_MIN)
        return error_set(err, ACCEL_EINVAL, "the key in the request is too weak: %d bits of %d",
                         EVP_PKEY_get_security_bits(*ret_key), SECURITY_BITS_MIN);
    return 0;
}

static int add_leaf_extensions(X509 *cert, X509 *ca, enum pki_kind kind, const char *name)
{
    char san[LIMIT_NAME_BYTES + 96];
    bool is_server = kind == PKI_COORDINATOR;

    snprintf(san, sizeof(san), "URI:" URI_SCHEME "%s/%s%s", kind_names[kind], name,
             is_server ? ",DNS:" PKI_COORDINATOR_NAME : "");
    return add_extension(cert, ca, NID_basic_constraints, "critical,CA:FALSE") &&
           add_extension(cert, ca, NID_key_usage, "critical,digitalSignature") &&
           add_extension(cert, ca, NID_ext_key_usage, is_server ? "serverAuth" : "clientAuth") &&
           add_extension(cert, ca, NID_subject_alt_name, san) &&
           add_extension(cert, ca, NID_subject_key_identifier, "hash") &&
           add_extension(cert, ca, NID_authority_key_identifier, "keyid:always");
}

static int64_t time_ms(const ASN1_TIME *t)
{
    struct tm tm = {0};

    return ASN1_TIME_to_tm(t, &tm) ? (int64_t)timegm(&tm) * 1000 : 0;
}

static int parse_cert(X509 *cert, struct pki_cert *ret_cert, struct accel_error *err);

static int pki_sign(const char *ca_key_pem, const char *ca_pem, const char *csr_pem,
                    enum pki_kind kind, const char *name, int64_t now_ms, int64_t life_ms,
                    char **ret_pem, struct pki_cert *ret_cert, struct accel_error *err)
{
    AUTO(EVP_PKEY) ca_key = NULL;
    AUTO(X509) ca = NULL;
    AUTO(X509_REQ) req = NULL;
    AUTO(X509) cert = X509_new();
    EVP_PKEY *key = NULL; /* req's */
    struct pki_cert parsed;
    int r;

    CHECK(kind >= PKI_NODE && kind <= PKI_COORDINATOR);
    if (!is_valid_name(name) ||
        (strcmp(name, PKI_COORDINATOR_NAME) == 0) != (kind == PKI_COORDINATOR))
        return error_set(err, ACCEL_EINVAL, "\"%.80s\" is no name of a %s", name, kind_names[kind]);
    r = read_key(ca_key_pem, &ca_key, err);
    if (r == 0)
        r = read_cert(ca_pem, &ca, err);
    if (r == 0)
        r = read_request(csr_pem, &req, &key, err);
    if (r < 0)
        return r;
    int64_t end_ms = MIN(now_ms + life_ms, time_ms(X509_get0_notAfter(ca)));
    if (!cert || !X509_set_version(cert, X509_VERSION_3) || !set_serial(cert) ||
        !set_times(cert, now_ms - PKI_SKEW_MS, end_ms) ||
        !set_name(X509_get_subject_name(cert), name) ||
        !X509_set_issuer_name(cert, X509_get_subject_name(ca)) || !X509_set_pubkey(cert, key) ||
        !add_leaf_extensions(cert, ca, kind, name) || !X509_sign(cert, ca_key, EVP_sha256()))
        return fail(err, ACCEL_EIO, "cannot make a certificate");
    r = parse_cert(cert, &parsed, err);
    if (r == 0)
        r = write_cert(cert, ret_pem, err);
    if (r == 0)
        *ret_cert = parsed;
    return r;
}

/* --- reading --- */

/* accel://KIND/NAME */
static bool parse_uri(const char *uri, size_t len, struct pki_cert *cert)
{
    const size_t scheme = strlen(URI_SCHEME);

    if (len <= scheme || memcmp(uri, URI_SCHEME, scheme) != 0)
        return false;
    for (int kind = PKI_NODE; kind <= PKI_COORDINATOR; kind++) {
        size_t at = scheme + strlen(kind_names[kind]);
        if (len <= at + 1 || memcmp(uri + scheme, kind_names[kind], at - scheme) != 0 ||
            uri[at] != '/')
            continue;
        size_t name_len = len - at - 1;
        if (name_len >= sizeof(cert->name) || memchr(uri, 0, len))
            return false;
        memcpy(cert->name, uri + at + 1, name_len);
        cert->name[name_len] = 0;
        cert->kind = (enum pki_kind)kind;
        return is_valid_name(cert->name);
    }
    return false;
}

/* Exactly one URI names the holder. */
static bool parse_holder(X509 *cert, struct pki_cert *c)
{
    AUTO(GENERAL_NAMES) names = X509_get_ext_d2i(cert, NID_subject_alt_name, NULL, NULL);
    int found = 0;

    for (int i = 0; i < sk_GENERAL_NAME_num(names); i++) {
        const GENERAL_NAME *n = sk_GENERAL_NAME_value(names, i);
        if (n->type != GEN_URI)
            continue;
        const ASN1_STRING *s = n->d.uniformResourceIdentifier;
        if (!parse_uri((const char *)ASN1_STRING_get0_data(s), (size_t)ASN1_STRING_length(s), c))
            return false;
        found++;
    }
    char cn[LIMIT_NAME_BYTES + 2] = "";
    int len =
        X509_NAME_get_text_by_NID(X509_get_subject_name(cert), NID_commonName, cn, sizeof(cn));
    return found == 1 && len == (int)strlen(c->name) && strcmp(cn, c->name) == 0;
}

static bool parse_serial(X509 *cert, struct pki_cert *c)
{
    AUTO(BIGNUM) n = ASN1_INTEGER_to_BN(X509_get0_serialNumber(cert), NULL);
    unsigned char octets[(PKI_SERIAL_BYTES - 1) / 2];
    int len = n ? BN_num_bytes(n) : 0;

    if (len < 1 || len > (int)sizeof(octets) || BN_is_negative(n))
        return false;
    BN_bn2bin(n, octets);
    for (int i = 0; i < len; i++)
        snprintf(c->serial + (size_t)i * 2, 3, "%02x", octets[i]);
    return true;
}

static int parse_cert(X509 *cert, struct pki_cert *ret_cert, struct accel_error *err)
{
    struct pki_cert c = {0};

    if (!parse_holder(cert, &c) || !parse_serial(cert, &c))
        return fail(err, ACCEL_EINVAL, "the certificate does not name a holder as ours do");
    c.begin_ms = time_ms(X509_get0_notBefore(cert));
    c.end_ms = time_ms(X509_get0_notAfter(cert));
    *ret_cert = c;
    return 0;
}

static int pki_parse(const char *pem, struct pki_cert *ret_cert, struct accel_error *err)
{
    AUTO(X509) cert = NULL;
    int r = read_cert(pem, &cert, err);

    return r < 0 ? r : parse_cert(cert, ret_cert, err);
}

static int fail_time(X509 *cert, int64_t now_ms, bool is_early, struct accel_error *err)
{
    char now[40], at[40];
    const ASN1_TIME *t = is_early ? X509_get0_notBefore(cert) : X509_get0_notAfter(cert);

    return error_set(err, ACCEL_ESTALE,
                     "the certificate is not valid %s\nwhy: this machine's clock says %s, the"
                     " certificate %s %s\ntry: %s",
                     is_early ? "yet" : "any more", clock_format_utc(now_ms, now, sizeof(now)),
                     is_early ? "begins" : "ended", clock_format_utc(time_ms(t), at, sizeof(at)),
                     is_early ? "set the clocks of both machines"
                              : "a new one: for a node accelctl node token, then acceld --join"
                                " TOKEN; for a person accelctl user cert");
}

static int pki_verify(const char *ca_pem, const char *pem, int64_t now_ms, struct accel_error *err)
{
    AUTO(X509) ca = NULL;
    AUTO(X509) cert = NULL;
    AUTO(X509_STORE) store = X509_STORE_new();
    AUTO(X509_STORE_CTX) ctx = X509_STORE_CTX_new();
    struct pki_cert parsed;
    int r = read_cert(ca_pem, &ca, err);

    if (r == 0)
        r = read_cert(pem, &cert, err);
    if (r == 0)
        r = parse_cert(cert, &parsed, err);
    if (r < 0)
        return r;
    if (!store || !ctx || !X509_STORE_add_cert(store, ca) ||
        !X509_STORE_CTX_init(ctx, store, cert, NULL))
        return fail(err, ACCEL_EIO, "cannot verify a certificate");
    X509_STORE_CTX_set_time(ctx, 0, (time_t)(now_ms / 1000));
    X509_STORE_CTX_set_purpose(ctx, parsed.kind == PKI_COORDINATOR ? X509_PURPOSE_SSL_SERVER
                                                                   : X509_PURPOSE_SSL_CLIENT);
    if (X509_verify_cert(ctx) == 1)
        return 0;
    int why = X509_STORE_CTX_get_error(ctx);
    ERR_clear_error();
    if (X509_STORE_CTX_get_current_cert(ctx) == cert &&
        (why == X509_V_ERR_CERT_NOT_YET_VALID || why == X509_V_ERR_CERT_HAS_EXPIRED))
        return fail_time(cert, now_ms, why == X509_V_ERR_CERT_NOT_YET_VALID, err);
    return error_set(err, ACCEL_EPERM, "the certificate of %s is not of this cluster's CA: %s",
                     parsed.name, X509_verify_cert_error_string(why));
}

static int pki_match(const char *key_pem, const char *pem, struct accel_error *err)
{
    AUTO(EVP_PKEY) key = NULL;
    AUTO(X509) cert = NULL;
    int r = read_key(key_pem, &key, err);

    if (r == 0)
        r = read_cert(pem, &cert, err);
    if (r == 0 && X509_check_private_key(cert, key) != 1)
        return fail(err, ACCEL_EINVAL, "the key does not belong to the certificate");
    return r;
}

static void pki_sha256(const void *p, size_t len, uint8_t ret_hash[PKI_HASH_BYTES])
{
    unsigned got = 0;

    CHECK(EVP_Digest(p, len, ret_hash, &got, EVP_sha256(), NULL) == 1 && got == PKI_HASH_BYTES);
}

static int pki_random(void *p, size_t len, struct accel_error *err)
{
    return RAND_bytes(p, (int)len) == 1 ? 0 : fail(err, ACCEL_EIO, "no random bytes");
}

const struct pki_ops pki_ops = {
    .make_ca = pki_make_ca,
    .make_key = pki_make_key,
    .make_csr = pki_make_csr,
    .sign = pki_sign,
    .parse = pki_parse,
    .verify = pki_verify,
    .match = pki_match,
    .sha256 = pki_sha256,
    .random = pki_random,
};
