/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Frames cut at every possible place, real protobuf messages, and blocking input and output on real
 * sockets and pipes. Caps are tried at the edge.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "accel/v1/shim.pb-c.h"
#include "common/codec.h"
#include "common/prng.h"

#define CAP 5000u

static void random_frame(struct prng *prng, struct str *frame)
{
    size_t len = prng_chance(prng, 20) ? 0 : prng_chance(prng, 20) ? CAP : prng_below(prng, 300);
    str_clear(frame);
    for (size_t i = 0; i < len; i++) {
        str_addc(frame, (char)prng_next(prng));
    }
}

/* Whatever the pieces of the stream, the frames come out as they went in. */
static void test_pieces(void **state)
{
    enum { FRAMES = 60 };
    for (uint64_t seed = 1; seed <= 60; seed++) {
        struct prng prng;
        struct str frames[FRAMES];
        AUTO_STR struct str stream = {0};
        struct codec_reader reader;
        size_t got = 0;
        prng_init(&prng, seed);
        for (int i = 0; i < FRAMES; i++) {
            str_init(&frames[i]);
            random_frame(&prng, &frames[i]);
            codec_add_bytes(&stream, frames[i].data, frames[i].len);
        }
        codec_reader_init(&reader, CAP);
        for (size_t at = 0; at < stream.len;) {
            size_t piece = 1 + prng_below(&prng, seed % 3 == 0 ? 3 : 20000);
            piece = MIN(piece, stream.len - at);
            const uint8_t *data;
            size_t len;
            codec_reader_feed(&reader, stream.data + at, piece);
            at += piece;
            while (codec_reader_next(&reader, &data, &len) == 1) {
                assert_true(got < FRAMES);
                assert_int_equal(len, frames[got].len);
                assert_memory_equal(data, frames[got].data, len);
                got++;
            }
        }
        assert_int_equal(got, FRAMES);
        for (int i = 0; i < FRAMES; i++) {
            str_done(&frames[i]);
        }
        codec_reader_done(&reader);
    }
}

static void test_header(void **state)
{
    AUTO_STR struct str s = {0};
    codec_add_bytes(&s, "ab", 2);
    assert_int_equal(s.len, 6);
    assert_memory_equal(s.data, "\2\0\0\0ab", 6);
}

static void test_cap(void **state)
{
    static const uint8_t at_cap[4] = {CAP & 0xff, CAP >> 8};
    static const uint8_t above[4] = {(CAP + 1) & 0xff, (CAP + 1) >> 8};
    static const uint8_t huge[4] = {0xff, 0xff, 0xff, 0xff};
    struct codec_reader reader;
    const uint8_t *data = NULL;
    size_t len = 99;
    codec_reader_init(&reader, CAP);
    codec_reader_feed(&reader, at_cap, 4);
    assert_int_equal(codec_reader_next(&reader, &data, &len), 0);
    codec_reader_done(&reader);
    codec_reader_init(&reader, CAP);
    codec_reader_feed(&reader, above, 3);
    assert_int_equal(codec_reader_next(&reader, &data, &len), 0);
    codec_reader_feed(&reader, above + 3, 1);
    assert_int_equal(codec_reader_next(&reader, &data, &len), ACCEL_EPROTO);
    codec_reader_feed(&reader, above, 4); /* nothing makes it good again */
    assert_int_equal(codec_reader_next(&reader, &data, &len), ACCEL_EPROTO);
    codec_reader_done(&reader);
    codec_reader_init(&reader, CAP);
    codec_reader_feed(&reader, huge, 4);
    assert_int_equal(codec_reader_next(&reader, &data, &len), ACCEL_EPROTO);
    assert_null(data);
    assert_int_equal(len, 99);
    codec_reader_done(&reader);
}

/* A length that is only announced costs no memory, and memory of a large frame is given back. */
static void test_memory(void **state)
{
    static const uint8_t header[4] = {0, 0, 0, 4}; /* 64 MiB */
    static char large[4u << 20];
    AUTO_STR struct str stream = {0};
    struct codec_reader reader;
    const uint8_t *data;
    size_t len;
    codec_reader_init(&reader, 64u << 20);
    codec_reader_feed(&reader, header, sizeof(header));
    assert_int_equal(codec_reader_next(&reader, &data, &len), 0);
    assert_true(reader.buf.cap < 4096);
    codec_reader_done(&reader);
    codec_reader_init(&reader, 64u << 20);
    codec_add_bytes(&stream, large, sizeof(large));
    codec_reader_feed(&reader, stream.data, stream.len);
    assert_int_equal(codec_reader_next(&reader, &data, &len), 1);
    assert_int_equal(len, sizeof(large));
    assert_int_equal(codec_reader_next(&reader, &data, &len), 0);
    assert_true(reader.buf.cap < 4096);
    codec_reader_done(&reader);
}

/* A stream that never comes to an end between two frames: what was consumed goes all the same. */
static void test_endless(void **state)
{
    static char frame[CAP];
    AUTO_STR struct str stream = {0};
    struct codec_reader reader;
    const uint8_t *data;
    size_t len;
    codec_add_bytes(&stream, frame, sizeof(frame));
    codec_reader_init(&reader, CAP);
    codec_reader_feed(&reader, stream.data, stream.len / 2);
    for (int i = 0; i < 1000; i++) {
        codec_reader_feed(&reader, stream.data + stream.len / 2, stream.len - stream.len / 2);
        codec_reader_feed(&reader, stream.data, stream.len / 2);
        assert_int_equal(codec_reader_next(&reader, &data, &len), 1);
        assert_int_equal(len, sizeof(frame));
        assert_int_equal(codec_reader_next(&reader, &data, &len), 0);
        assert_true(reader.buf.cap < 500000);
    }
    codec_reader_done(&reader);
}

static void test_message(void **state)
{
    Accel__V1__ShimHello hello = ACCEL__V1__SHIM_HELLO__INIT;
    Accel__V1__ShimUp up = ACCEL__V1__SHIM_UP__INIT;
    Accel__V1__ShimUp empty = ACCEL__V1__SHIM_UP__INIT;
    AUTO_STR struct str stream = {0};
    struct codec_reader reader;
    const uint8_t *data;
    size_t len;
    hello.job_id = UINT64_MAX;
    hello.attempt = 3;
    up.body_case = ACCEL__V1__SHIM_UP__BODY_HELLO;
    up.hello = &hello;
    codec_add(&stream, &up.base);
    codec_add(&stream, &empty.base); /* packs to nothing */
    codec_reader_init(&reader, CAP);
    codec_reader_feed(&reader, stream.data, stream.len);
    assert_int_equal(codec_reader_next(&reader, &data, &len), 1);
    Accel__V1__ShimUp *got = accel__v1__shim_up__unpack(NULL, len, data);
    assert_non_null(got);
    assert_int_equal(got->body_case, ACCEL__V1__SHIM_UP__BODY_HELLO);
    assert_true(got->hello->job_id == UINT64_MAX);
    assert_int_equal(got->hello->attempt, 3);
    accel__v1__shim_up__free_unpacked(got, NULL);
    assert_int_equal(codec_reader_next(&reader, &data, &len), 1);
    assert_int_equal(len, 0);
    assert_int_equal(codec_reader_next(&reader, &data, &len), 0);
    codec_reader_done(&reader);
}

static void fill_stream(int fd, const char *data, size_t len)
{
    AUTO_STR struct str stream = {0};
    codec_add_bytes(&stream, data, len);
    assert_int_equal(codec_write_all(fd, stream.data, stream.len, NULL), 0);
}

static void test_blocking(void **state)
{
    for (int is_pipe = 0; is_pipe < 2; is_pipe++) {
        int ends[2];
        AUTO_FREE uint8_t *data = NULL;
        size_t len = 0;
        struct accel_error err = {0};
        assert_int_equal(is_pipe ? pipe(ends) : socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
        fill_stream(ends[1], "hello", 5);
        fill_stream(ends[1], "", 0);
        assert_int_equal(codec_read_frame(ends[0], 5, &data, &len, &err), 0);
        assert_int_equal(len, 5);
        assert_memory_equal(data, "hello", 5);
        free(STEAL_PTR(data));
        assert_int_equal(codec_read_frame(ends[0], 5, &data, &len, &err), 0);
        assert_int_equal(len, 0);
        free(STEAL_PTR(data));
        fill_stream(ends[1], "hellos", 6);
        assert_int_equal(codec_read_frame(ends[0], 5, &data, &len, &err), ACCEL_EPROTO);
        close(ends[0]);
        close(ends[1]);
    }
}

static void test_ends(void **state)
{
    static const struct {
        size_t sent;
        int code;
    } cases[] = {{0, ACCEL_ECLOSED}, {1, ACCEL_EPROTO}, {3, ACCEL_EPROTO},
                 {4, ACCEL_EPROTO},  {8, ACCEL_EPROTO}, {9, 0}};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        int ends[2];
        AUTO_FREE uint8_t *data = NULL;
        size_t len = 0;
        struct accel_error err = {0};
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
        assert_int_equal(codec_write_all(ends[1], "\5\0\0\0hello", cases[i].sent, &err), 0);
        close(ends[1]);
        assert_int_equal(codec_read_frame(ends[0], 100, &data, &len, &err), cases[i].code);
        assert_int_equal(err.code, cases[i].code);
        assert_int_equal(data == NULL, cases[i].code != 0);
        close(ends[0]);
    }
}

/* A peer that has gone is an error, not a signal. */
static void test_gone(void **state)
{
    int ends[2];
    struct accel_error err = {0};
    sigaction(SIGPIPE, &(struct sigaction){.sa_handler = SIG_DFL}, NULL);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    close(ends[0]);
    assert_int_equal(codec_write_all(ends[1], "x", 1, &err), ACCEL_ECLOSED);
    assert_int_equal(err.code, ACCEL_ECLOSED);
    close(ends[1]);
    assert_int_equal(codec_write_all(-1, "x", 1, &err), ACCEL_EIO);
    assert_int_equal(codec_write_all(-1, "x", 1, NULL), ACCEL_EIO);
}

/* More than the socket holds: writes are short, reads are partial. */
static void test_large(void **state)
{
    enum { BYTES = 8 << 20 };
    int ends[2];
    struct accel_error err = {0};
    AUTO_FREE uint8_t *data = NULL;
    size_t len = 0;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        struct str stream = {0};
        AUTO_FREE char *bytes = xcalloc(1, BYTES);
        memset(bytes, 'z', BYTES);
        codec_add_bytes(&stream, bytes, BYTES);
        int r = codec_write_all(ends[1], stream.data, stream.len, NULL);
        _exit(r == 0 ? 0 : 1);
    }
    close(ends[1]);
    assert_int_equal(codec_read_frame(ends[0], BYTES, &data, &len, &err), 0);
    assert_int_equal(len, BYTES);
    for (size_t i = 0; i < BYTES; i += 4093) {
        assert_int_equal(data[i], 'z');
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    close(ends[0]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pieces),   cmocka_unit_test(test_header),
        cmocka_unit_test(test_cap),      cmocka_unit_test(test_memory),
        cmocka_unit_test(test_endless),  cmocka_unit_test(test_message),
        cmocka_unit_test(test_blocking), cmocka_unit_test(test_ends),
        cmocka_unit_test(test_gone),     cmocka_unit_test(test_large),
    };
    return cmocka_run_group_tests_name("codec", tests, NULL, NULL);
}
