/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Keys and certificates: what is made is what is read, and nothing else is believed: other CAs,
 * other uses, other times, changed bytes and garbage are refused with the code that pki.h names.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "common/pki.h"
#include "common/prng.h"

#define NOW  1795000000000ll
#define DAY  (24ll * 3600 * 1000)
#define LIFE (90 * DAY)

struct world {
    char *ca_key, *ca, *other_key, *other_ca; /* two clusters */
    char *key, *csr;
};

static int setup(void **state)
{
    struct world *w = xcalloc(1, sizeof(*w));

    *state = w;
    assert_int_equal(pki_ops.make_ca(NOW, &w->ca_key, &w->ca, NULL), 0);
    assert_int_equal(pki_ops.make_ca(NOW, &w->other_key, &w->other_ca, NULL), 0);
    assert_int_equal(pki_ops.make_key("n1", &w->key, &w->csr, NULL), 0);
    return 0;
}

static int teardown(void **state)
{
    struct world *w = *state;

    free(w->ca_key);
    free(w->ca);
    free(w->other_key);
    free(w->other_ca);
    free(w->key);
    free(w->csr);
    free(w);
    return 0;
}

static char *signed_by(const char *key, const char *ca, const struct world *w, enum pki_kind kind,
                       const char *name, struct pki_cert *ret)
{
    char *pem = NULL;

    assert_int_equal(pki_ops.sign(key, ca, w->csr, kind, name, NOW, LIFE, &pem, ret, NULL), 0);
    return pem;
}

static void what_is_signed_is_read(void **state)
{
    static const struct {
        enum pki_kind kind;
        const char *name;
    } rows[] = {{PKI_NODE, "n1"}, {PKI_USER, "a.b-c_9"}, {PKI_COORDINATOR, PKI_COORDINATOR_NAME}};
    struct world *w = *state;

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct pki_cert made, read, again;
        AUTO_FREE char *pem = signed_by(w->ca_key, w->ca, w, rows[i].kind, rows[i].name, &made);
        AUTO_FREE char *pem2 = signed_by(w->ca_key, w->ca, w, rows[i].kind, rows[i].name, &again);
        assert_int_equal(pki_ops.parse(pem, &read, NULL), 0);
        assert_int_equal(read.kind, rows[i].kind);
        assert_string_equal(read.name, rows[i].name);
        assert_int_equal(strlen(read.serial), 32);
        assert_string_equal(read.serial, made.serial);
        assert_string_not_equal(read.serial, again.serial);
        assert_int_equal(read.begin_ms, NOW - PKI_SKEW_MS);
        assert_int_equal(read.end_ms, NOW + LIFE);
        assert_int_equal(pki_ops.verify(w->ca, pem, NOW, NULL), 0);
        assert_int_equal(pki_ops.match(w->key, pem, NULL), 0);
    }
}

static void another_ca_is_refused(void **state)
{
    struct world *w = *state;
    struct pki_cert c;
    struct accel_error err;
    AUTO_FREE char *pem = signed_by(w->other_key, w->other_ca, w, PKI_NODE, "n1", &c);

    assert_int_equal(pki_ops.verify(w->ca, pem, NOW, &err), ACCEL_EPERM);
    assert_non_null(strstr(err.text, "n1"));
    /* The key of one CA with the certificate of the other: what it signs verifies nowhere. */
    AUTO_FREE char *mixed = signed_by(w->other_key, w->ca, w, PKI_NODE, "n1", &c);
    assert_int_equal(pki_ops.verify(w->ca, mixed, NOW, &err), ACCEL_EPERM);
    /* A certificate is no CA. */
    AUTO_FREE char *child = signed_by(w->key, pem, w, PKI_NODE, "n2", &c);
    assert_int_equal(pki_ops.verify(w->ca, child, NOW, &err), ACCEL_EPERM);
    assert_int_equal(pki_ops.verify(pem, child, NOW, &err), ACCEL_EPERM);
}

static void times_count(void **state)
{
    struct world *w = *state;
    struct pki_cert c;
    struct accel_error err;
    AUTO_FREE char *pem = signed_by(w->ca_key, w->ca, w, PKI_USER, "bob", &c);

    assert_int_equal(pki_ops.verify(w->ca, pem, NOW - PKI_SKEW_MS + 1000, NULL), 0);
    assert_int_equal(pki_ops.verify(w->ca, pem, NOW + LIFE - 1000, NULL), 0);
    assert_int_equal(pki_ops.verify(w->ca, pem, NOW + LIFE + 1000, &err), ACCEL_ESTALE);
    assert_non_null(strstr(err.text, "this machine's clock says 2027-02-16T"));
    assert_non_null(strstr(err.text, "the certificate ended 2027-02-16T"));
    AUTO_FREE char *late = NULL;
    assert_int_equal(
        pki_ops.sign(w->ca_key, w->ca, w->csr, PKI_NODE, "n1", NOW + DAY, LIFE, &late, &c, NULL),
        0);
    assert_int_equal(pki_ops.verify(w->ca, late, NOW, &err), ACCEL_ESTALE);
    assert_non_null(strstr(err.text, "the certificate begins"));
    /* None outlives the CA. */
    AUTO_FREE char *longer = NULL;
    assert_int_equal(pki_ops.sign(w->ca_key, w->ca, w->csr, PKI_NODE, "n1", NOW, 2 * PKI_CA_LIFE_MS,
                                  &longer, &c, NULL),
                     0);
    assert_int_equal(c.end_ms, NOW + PKI_CA_LIFE_MS);
}

static void names_are_checked(void **state)
{
    static const char *const bad[] = {
        "", "-x", "a/b", "a b", "a,DNS:x", "a\nb", PKI_COORDINATOR_NAME};
    struct world *w = *state;
    struct pki_cert c;
    char *pem = NULL, *key = NULL, *csr = NULL;
    char longest[LIMIT_NAME_BYTES + 2];

    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        assert_int_equal(
            pki_ops.sign(w->ca_key, w->ca, w->csr, PKI_NODE, bad[i], NOW, LIFE, &pem, &c, NULL),
            ACCEL_EINVAL);
    assert_int_equal(
        pki_ops.sign(w->ca_key, w->ca, w->csr, PKI_COORDINATOR, "other", NOW, LIFE, &pem, &c, NULL),
        ACCEL_EINVAL);
    assert_int_equal(pki_ops.make_key("a/b", &key, &csr, NULL), ACCEL_EINVAL);
    assert_null(pem);
    assert_null(key);
    memset(longest, 'x', sizeof(longest));
    longest[LIMIT_NAME_BYTES] = 0;
    AUTO_FREE char *fits = signed_by(w->ca_key, w->ca, w, PKI_USER, longest, &c);
    assert_string_equal(c.name, longest);
}

static void keys_must_match(void **state)
{
    struct world *w = *state;
    struct pki_cert c;
    AUTO_FREE char *pem = signed_by(w->ca_key, w->ca, w, PKI_NODE, "n1", &c);

    AUTO_FREE char *csr = NULL, *again = NULL;
    assert_int_equal(pki_ops.make_csr(w->key, "n1", &csr, NULL), 0);
    assert_int_equal(
        pki_ops.sign(w->ca_key, w->ca, csr, PKI_NODE, "n1", NOW, LIFE, &again, &c, NULL), 0);
    assert_int_equal(pki_ops.match(w->key, again, NULL), 0);
    csr[0] = 'x';
    assert_int_equal(pki_ops.make_csr(csr, "n1", &csr, NULL), ACCEL_EINVAL);
    assert_int_equal(pki_ops.match(w->ca_key, pem, NULL), ACCEL_EINVAL);
    assert_int_equal(pki_ops.match(pem, pem, NULL), ACCEL_EINVAL);
    assert_int_equal(pki_ops.parse(w->ca, &c, NULL), ACCEL_EINVAL); /* it names no holder */
}

/* Every changed byte of a certificate or request is refused, or was not part of what it says. */
static void changed_bytes(void **state)
{
    struct world *w = *state;
    struct pki_cert c, good;
    struct prng prng;
    AUTO_FREE char *pem = signed_by(w->ca_key, w->ca, w, PKI_NODE, "n1", &good);
    AUTO_FREE char *csr = xstrdup(w->csr);
    char *out = NULL;
    unsigned refused = 0;

    prng_init(&prng, 7);
    for (unsigned i = 0; i < 400; i++) {
        size_t at = prng_below(&prng, strlen(pem));
        char kept = pem[at];
        pem[at] = (char)(1 + prng_below(&prng, 255));
        if (pki_ops.verify(w->ca, pem, NOW, NULL) == 0) {
            assert_int_equal(pki_ops.parse(pem, &c, NULL), 0);
            assert_memory_equal(&c, &good, sizeof(c));
        } else {
            refused++;
        }
        pem[at] = kept;
        at = prng_below(&prng, strlen(csr));
        kept = csr[at];
        csr[at] = (char)(1 + prng_below(&prng, 255));
        if (pki_ops.sign(w->ca_key, w->ca, csr, PKI_NODE, "n1", NOW, LIFE, &out, &c, NULL) == 0) {
            assert_int_equal(pki_ops.match(w->key, out, NULL), 0);
            free(out);
        }
        csr[at] = kept;
    }
    assert_true(refused > 300);
}

static void garbage_is_refused(void **state)
{
    static const char cut[] =
        "-----BEGIN CERTIFICATE REQUEST-----\nMIIB\n-----END CERTIFICATE REQUEST-----\n";
    struct world *w = *state;
    struct pki_cert c;
    char *out = NULL;
    AUTO_FREE char *huge = xcalloc(1, PKI_PEM_BYTES + 2);
    memset(huge, '-', PKI_PEM_BYTES + 1);
    const char *bad[] = {NULL,
                         "",
                         "x",
                         cut,
                         huge,
                         w->key,
                         "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"};

    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        assert_int_equal(pki_ops.parse(bad[i], &c, NULL), ACCEL_EINVAL);
        assert_int_equal(pki_ops.verify(w->ca, bad[i], NOW, NULL), ACCEL_EINVAL);
        assert_int_equal(
            pki_ops.sign(w->ca_key, w->ca, bad[i], PKI_NODE, "n1", NOW, LIFE, &out, &c, NULL),
            ACCEL_EINVAL);
        assert_null(out);
    }
}

static void known_hash(void **state)
{
    static const uint8_t abc[] = {0xba, 0x78, 0x16, 0xbf, 0x8f, 0x01, 0xcf, 0xea};
    uint8_t hash[PKI_HASH_BYTES], a[16] = {0}, b[16] = {0};

    pki_ops.sha256("abc", 3, hash); /* FIPS 180-2, B.1 */
    assert_memory_equal(hash, abc, sizeof(abc));
    assert_int_equal(pki_ops.random(a, sizeof(a), NULL), 0);
    assert_int_equal(pki_ops.random(b, sizeof(b), NULL), 0);
    assert_memory_not_equal(a, b, sizeof(a));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_signed_is_read),
        cmocka_unit_test(another_ca_is_refused),
        cmocka_unit_test(times_count),
        cmocka_unit_test(names_are_checked),
        cmocka_unit_test(keys_must_match),
        cmocka_unit_test(changed_bytes),
        cmocka_unit_test(garbage_is_refused),
        cmocka_unit_test(known_hash),
    };
    return cmocka_run_group_tests_name("pki", tests, setup, teardown);
}
