/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the parsers accept is listed here and documented for users; everything near it is refused.
 * Quoting is tried on a real shell, distance against a slow but plain definition.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/error.h"
#include "common/limits.h"
#include "common/prng.h"
#include "common/str.h"

#define MINUTE 60000ull
#define HOUR   (60 * MINUTE)
#define DAY    (24 * HOUR)

static void test_buffer(void **state)
{
    struct str s;
    str_init(&s);
    assert_string_equal(s.data, "");
    str_clear(&s);
    str_add(&s, NULL, 0);
    for (int i = 0; i < 1000; i++) {
        str_addf(&s, "%d,", i);
        assert_int_equal(s.data[s.len], 0);
        assert_int_equal(strlen(s.data), s.len);
    }
    assert_memory_equal(s.data + s.len - 4, "999,", 5);
    str_drop_front(&s, 2);
    assert_memory_equal(s.data, "1,2,3", 5);
    str_drop_front(&s, s.len);
    assert_string_equal(s.data, "");
    str_addc(&s, 'x');
    str_adds(&s, "yz");
    str_addf(&s, "%0500d", 1);
    assert_int_equal(s.len, 503);
    str_clear(&s);
    assert_string_equal(s.data, "");
    str_done(&s);
    str_done(&s);
}

static void test_steal(void **state)
{
    struct str s;
    str_init(&s);
    AUTO_FREE char *nothing = str_steal(&s);
    assert_string_equal(nothing, "");
    str_adds(&s, "abc");
    AUTO_FREE char *text = str_steal(&s);
    assert_string_equal(text, "abc");
    assert_string_equal(s.data, "");
    struct str zero = {0};
    str_adds(&zero, "from zero");
    assert_string_equal(zero.data, "from zero");
    str_done(&zero);
}

static void test_copy(void **state)
{
    char text[8];
    assert_true(str_copy(text, sizeof(text), "1234567"));
    assert_false(str_copy(text, sizeof(text), "12345678"));
    assert_string_equal(text, "1234567");
    assert_true(str_copy(text, sizeof(text), NULL));
    assert_string_equal(text, "");
    assert_false(str_copy(text, 1, "a"));
    assert_string_equal(text, "");
    /* Never half a character of UTF-8: the euro sign has three bytes. */
    assert_false(str_copy(text, sizeof(text), "12345\xe2\x82\xac"));
    assert_string_equal(text, "12345");
    assert_true(str_copy(text, sizeof(text), "1234\xe2\x82\xac"));
    assert_string_equal(text, "1234\xe2\x82\xac");
}

static void test_name(void **state)
{
    char name[LIMIT_NAME_BYTES + 2];
    static const char *const good[] = {"a", "0", "A.b-c_d", "train-7b", "x..y", "a-"};
    static const char *const bad[] = {"",    ".",   "..",  "-a",       "_a",       ".a",
                                      "a/b", "a b", "a\n", "\xc3\xa4", "a\xc3\xa4"};
    for (size_t i = 0; i < ARRAY_LEN(good); i++) {
        assert_true(is_valid_name(good[i]));
    }
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        assert_false(is_valid_name(bad[i]));
    }
    assert_false(is_valid_name(NULL));
    memset(name, 'a', sizeof(name));
    name[LIMIT_NAME_BYTES] = '\0';
    assert_true(is_valid_name(name));
    name[LIMIT_NAME_BYTES] = 'a';
    name[LIMIT_NAME_BYTES + 1] = '\0';
    assert_false(is_valid_name(name));
}

static void test_u64(void **state)
{
    uint64_t v = 77;
    static const char *const bad[] = {"",
                                      "-1",
                                      "+1",
                                      " 1",
                                      "1 ",
                                      "0x1",
                                      "1e3",
                                      "a",
                                      "1.0",
                                      "1_0",
                                      "18446744073709551616",
                                      "99999999999999999999999999"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        assert_int_equal(parse_u64(bad[i], 0, UINT64_MAX, &v), ACCEL_EINVAL);
    }
    assert_int_equal(parse_u64(NULL, 0, 1, &v), ACCEL_EINVAL);
    assert_int_equal(parse_u64("4", 5, 9, &v), ACCEL_EINVAL);
    assert_int_equal(parse_u64("10", 5, 9, &v), ACCEL_EINVAL);
    assert_int_equal(v, 77); /* untouched on failure */
    assert_int_equal(parse_u64("5", 5, 9, &v), 0);
    assert_int_equal(v, 5);
    assert_int_equal(parse_u64("009", 5, 9, &v), 0);
    assert_int_equal(v, 9);
    assert_int_equal(parse_u64("18446744073709551615", 0, UINT64_MAX, &v), 0);
    assert_true(v == UINT64_MAX);
}

static void test_duration(void **state)
{
    static const struct {
        const char *text;
        uint64_t ms;
    } good[] = {
        {"0", 0},
        {"90", 90000},
        {"90s", 90000},
        {"1.5", 1500},
        {"250ms", 250},
        {"1h30m", HOUR + 30 * MINUTE},
        {"5m", 5 * MINUTE},
        {"1.5h", HOUR + 30 * MINUTE},
        {"2d", 2 * DAY},
        {"1d2h3m4s5ms", DAY + 2 * HOUR + 3 * MINUTE + 4005},
        {"1m1.5s", MINUTE + 1500},
        {"4:00:00", 4 * HOUR},
        {"2-00:00:00", 2 * DAY},
        {"90:00", 90 * MINUTE},
        {"0:01", 1000},
        {"1-12", DAY + 12 * HOUR},
        {"1-12:30", DAY + 12 * HOUR + 30 * MINUTE},
        {"0.001s", 1},
        {"0.0001s", 0},
        {"9223372036854775807ms", INT64_MAX},
        {"106751991167d", 106751991167ull * DAY},
    };
    for (size_t i = 0; i < ARRAY_LEN(good); i++) {
        uint64_t ms = 1;
        if (parse_duration_ms(good[i].text, &ms) != 0 || ms != good[i].ms) {
            fail_msg("%s", good[i].text);
        }
    }
}

static void test_duration_bad(void **state)
{
    static const char *const bad[] = {
        "",
        "s",
        "-1",
        "1x",
        "1 h",
        " 1h",
        "1h ",
        "30m1h",
        "1h1h",
        "1.5h30m",
        "1.h",
        ".5h",
        "1..5h",
        "1.5.5h",
        "h1",
        "1h30",
        "1H",
        "1:",
        ":1",
        "1:2:3:4",
        "1-",
        "-",
        "1-2-3",
        "1:2-3",
        "1-1:1:1:1",
        "1.5:00",
        "1:00s",
        "1m:00",
        "0.0000000001s",
        "9223372036854775808ms",
        "106751991168d",
        "18446744073709551616",
        "99999999999999999999d",
        "106751991168-00",
        "9223372036854775807:00",
        "1h\n",
        "\xc2\xb5s",
    };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        uint64_t ms = 77;
        if (parse_duration_ms(bad[i], &ms) != ACCEL_EINVAL || ms != 77) {
            fail_msg("%s", bad[i]);
        }
    }
    uint64_t ms;
    assert_int_equal(parse_duration_ms(NULL, &ms), ACCEL_EINVAL);
}

/* What is printed in either spelling is read back. */
static void test_duration_again(void **state)
{
    struct prng prng;
    prng_init(&prng, 2);
    for (int i = 0; i < 2000; i++) {
        char text[64];
        uint64_t got = 0;
        uint64_t ms = prng_below(&prng, 1000 * DAY) / 1000 * 1000;
        unsigned d = (unsigned)(ms / DAY), h = (unsigned)(ms / HOUR % 24),
                 m = (unsigned)(ms / MINUTE % 60);
        unsigned s = (unsigned)(ms / 1000 % 60);
        snprintf(text, sizeof(text), "%ud%uh%um%us", d, h, m, s);
        assert_int_equal(parse_duration_ms(text, &got), 0);
        assert_int_equal(got, ms);
        snprintf(text, sizeof(text), "%u-%02u:%02u:%02u", d, h, m, s);
        assert_int_equal(parse_duration_ms(text, &got), 0);
        assert_int_equal(got, ms);
        snprintf(text, sizeof(text), "%u:%02u:%02u", d * 24 + h, m, s);
        assert_int_equal(parse_duration_ms(text, &got), 0);
        assert_int_equal(got, ms);
    }
}

static void test_bytes(void **state)
{
    static const struct {
        const char *text;
        uint64_t bytes;
    } good[] = {
        {"0", 0},
        {"512", 512},
        {"512B", 512},
        {"4K", 4096},
        {"4k", 4096},
        {"16M", 16u << 20},
        {"2G", 2ull << 30},
        {"1.5G", 3ull << 29},
        {"200GB", 200ull << 30},
        {"4GiB", 4ull << 30},
        {"4gib", 4ull << 30},
        {"1T", 1ull << 40},
        {"3P", 3ull << 50},
        {"7E", 7ull << 60},
        {"0.5K", 512},
        {"9223372036854775807", INT64_MAX},
    };
    static const char *const bad[] = {
        "",
        "K",
        "-1",
        "1.5",
        "1.5B",
        "1 G",
        "1GG",
        "1iB",
        "1Gi B",
        "1X",
        "1.G",
        ".5G",
        "8E",
        "18446744073709551615",
        "18446744073709551616",
        "9007199254740992K",
        "99999999999999999999E",
        "1G\n",
        "1e3",
        "1Bi",
    };
    for (size_t i = 0; i < ARRAY_LEN(good); i++) {
        uint64_t bytes = 1;
        if (parse_bytes(good[i].text, &bytes) != 0 || bytes != good[i].bytes) {
            fail_msg("%s", good[i].text);
        }
    }
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        uint64_t bytes = 77;
        if (parse_bytes(bad[i], &bytes) != ACCEL_EINVAL || bytes != 77) {
            fail_msg("%s", bad[i]);
        }
    }
    uint64_t bytes;
    assert_int_equal(parse_bytes(NULL, &bytes), ACCEL_EINVAL);
}

/* Text made of the parsers' own alphabet: no crash, no overflow (the sanitizers watch), no value
 * beyond the bound. */
static void test_parse_noise(void **state)
{
    static const char alphabet[] = "0123456789999.:-smhdKMGTPEiB ";
    struct prng prng;
    prng_init(&prng, 3);
    for (int i = 0; i < 200000; i++) {
        char text[24];
        size_t len = prng_below(&prng, sizeof(text));
        uint64_t v = 0;
        for (size_t j = 0; j < len; j++) {
            text[j] = alphabet[prng_below(&prng, sizeof(alphabet) - 1)];
        }
        text[len] = '\0';
        if (parse_duration_ms(text, &v) == 0) {
            assert_true(v <= INT64_MAX);
        }
        if (parse_bytes(text, &v) == 0) {
            assert_true(v <= INT64_MAX);
        }
        if (parse_u64(text, 10, 1000, &v) == 0) {
            assert_true(v >= 10 && v <= 1000);
        }
    }
}

/* The definition, word for word. */
static unsigned slow_distance(const char *a, const char *b)
{
    if (*a == '\0' || *b == '\0') {
        return (unsigned)(strlen(a) + strlen(b));
    }
    if (*a == *b) {
        return slow_distance(a + 1, b + 1);
    }
    unsigned best = slow_distance(a + 1, b + 1);
    best = MIN(best, slow_distance(a + 1, b));
    best = MIN(best, slow_distance(a, b + 1));
    return best + 1;
}

static void test_distance(void **state)
{
    struct prng prng;
    prng_init(&prng, 4);
    for (int i = 0; i < 3000; i++) {
        char a[7] = "", b[7] = "";
        for (size_t j = prng_below(&prng, sizeof(a)); j-- > 0;) {
            a[j] = (char)('a' + prng_below(&prng, 3));
        }
        for (size_t j = prng_below(&prng, sizeof(b)); j-- > 0;) {
            b[j] = (char)('a' + prng_below(&prng, 3));
        }
        unsigned max = (unsigned)prng_below(&prng, 8);
        assert_int_equal(edit_distance(a, b, max), MIN(slow_distance(a, b), max + 1));
    }
    assert_int_equal(edit_distance("lanch", "launch", 2), 1);
    assert_int_equal(edit_distance("submit", "launch", 2), 3);
    assert_int_equal(edit_distance("", "", 0), 0);
}

static void test_utf8(void **state)
{
    static const struct {
        const char *text;
        bool is_good;
    } cases[] = {
        {"", true},
        {"abc", true},
        {"\xc3\xa4", true},
        {"\xe2\x82\xac", true},
        {"\xf0\x9f\x98\x80", true},
        {"\xf4\x8f\xbf\xbf", true},
        {"\x80", false},
        {"\xc3", false},
        {"\xc0\xaf", false},
        {"\xc1\xbf", false},
        {"\xe0\x80\xaf", false},
        {"\xe0\x9f\xbf", false},
        {"\xed\xa0\x80", false},
        {"\xed\x9f\xbf", true},
        {"\xf0\x80\x80\xaf", false},
        {"\xf4\x90\x80\x80", false},
        {"\xf5\x80\x80\x80", false},
        {"\xff", false},
        {"a\xe2\x82", false},
        {"\xe2\x82"
         "a",
         false},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        assert_int_equal(is_utf8(cases[i].text, strlen(cases[i].text)), cases[i].is_good);
    }
    assert_true(is_utf8("a\0b", 3));
}

static void test_quoting(void **state)
{
    static const struct {
        const char *text;
        const char *quoted;
    } cases[] = {
        {"", "''"},
        {"train.py", "train.py"},
        {"--lr=1e-3", "--lr=1e-3"},
        {"a b", "'a b'"},
        {"it's", "'it'\\''s'"},
        {"$HOME", "'$HOME'"},
        {"a\nb", "$'a\\x0ab'"},
        {"\x1b[2J", "$'\\x1b[2J'"},
        {"\xff'\\", "$'\\xff\\'\\\\'"},
        {"\xc3\xa4", "'\xc3\xa4'"},
        {"\xc2\x9b", "$'\\xc2\\x9b'"},
        {"\xe2\x80\xae", "$'\\xe2\\x80\\xae'"},
        {"a\\b", "'a\\b'"},
        {"~", "'~'"},
        {"#", "'#'"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        AUTO_STR struct str s = {0};
        str_init(&s);
        str_add_shell_quoted(&s, cases[i].text, strlen(cases[i].text));
        assert_string_equal(s.data, cases[i].quoted);
    }
}

/* Runs bash -c script; its output is appended to out. */
static void run_shell(const char *script, struct str *out)
{
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        dup2(ends[1], STDOUT_FILENO);
        execl("/bin/bash", "bash", "-c", script, (char *)NULL);
        _exit(127);
    }
    close(ends[1]);
    char data[4096];
    ssize_t n;
    while ((n = read(ends[0], data, sizeof(data))) > 0) {
        str_add(out, data, (size_t)n);
    }
    close(ends[0]);
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

/* A shell reads every quoted byte as it was, and nothing that could move a terminal's cursor is
 * shown. */
static void test_quoting_shell(void **state)
{
    AUTO_STR struct str want = {0};
    AUTO_STR struct str script = {0};
    AUTO_STR struct str got = {0};
    struct prng prng;
    prng_init(&prng, 5);
    str_adds(&script, "printf '%s\\0'");
    for (int i = 0; i < 500; i++) {
        char text[40];
        size_t len = prng_below(&prng, sizeof(text));
        for (size_t j = 0; j < len; j++) {
            text[j] = (char)(prng_chance(&prng, 50) ? 1 + prng_below(&prng, 255)
                                                    : 0x20 + prng_below(&prng, 0x5f));
        }
        str_add(&want, text, len);
        str_addc(&want, '\0');
        str_addc(&script, ' ');
        str_add_shell_quoted(&script, text, len);
    }
    assert_true(is_utf8(script.data, script.len));
    for (size_t i = 0; i < script.len; i++) {
        assert_true((unsigned char)script.data[i] >= 0x20 && script.data[i] != 0x7f);
    }
    run_shell(script.data, &got);
    assert_int_equal(got.len, want.len);
    assert_memory_equal(got.data, want.data, want.len);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_buffer),       cmocka_unit_test(test_steal),
        cmocka_unit_test(test_copy),         cmocka_unit_test(test_name),
        cmocka_unit_test(test_u64),          cmocka_unit_test(test_duration),
        cmocka_unit_test(test_duration_bad), cmocka_unit_test(test_duration_again),
        cmocka_unit_test(test_bytes),        cmocka_unit_test(test_parse_noise),
        cmocka_unit_test(test_distance),     cmocka_unit_test(test_utf8),
        cmocka_unit_test(test_quoting),      cmocka_unit_test(test_quoting_shell),
    };
    return cmocka_run_group_tests_name("str", tests, NULL, NULL);
}
