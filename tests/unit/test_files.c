/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Archives of jobs: uploaded in parts, checked, kept per user, removed when others need the room.
 * On a real disk, with a real loop.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/clock.h"
#include "scheduler/files.h"

#define ROOM 1000u

static struct {
    uv_loop_t loop;
    char dir[32], path[64];
    struct files *files;
} w;

struct outcome {
    unsigned count;
    int r;
    struct files_progress p;
    char text[ACCEL_ERROR_TEXT];
};

static void on_done(void *ctx, int r, const struct files_progress *p, const struct accel_error *err)
{
    struct outcome *o = ctx;

    o->count++;
    o->r = r;
    o->p = *p;
    snprintf(o->text, sizeof(o->text), "%s", err->text);
}

static const uint8_t *hash_of(const void *p, size_t len)
{
    static uint8_t out[HASH_BYTES];
    struct hash h;

    hash_init(&h);
    hash_add(&h, p, len);
    hash_end(&h, out);
    return out;
}

static struct outcome put(const char *user, const uint8_t *hash, uint64_t size, uint64_t offset,
                          const void *data, size_t len)
{
    struct outcome o = {0};

    files_put(w.files, user, hash, size, offset, data, len, on_done, &o);
    uv_run(&w.loop, UV_RUN_DEFAULT);
    assert_int_equal(o.count, 1);
    return o;
}

static void open_files(void)
{
    struct accel_error err = {0};

    assert_int_equal(files_create(&w.loop, w.path, ROOM, &w.files, &err), 0);
}

static int setup(void **state)
{
    (void)state;
    memcpy(w.dir, "/tmp/files.XXXXXX", 18);
    assert_non_null(mkdtemp(w.dir));
    snprintf(w.path, sizeof(w.path), "%s/files", w.dir);
    assert_int_equal(uv_loop_init(&w.loop), 0);
    open_files();
    return 0;
}

static unsigned for_each(void (*f)(int dir_fd, const char *name))
{
    DIR *d = opendir(w.path);
    unsigned count = 0;

    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d));) {
        if (e->d_name[0] == '.')
            continue;
        count++;
        if (f)
            f(dirfd(d), e->d_name);
    }
    closedir(d);
    return count;
}

static void remove_one(int dir_fd, const char *name)
{
    assert_int_equal(unlinkat(dir_fd, name, 0), 0);
}

static void age_one(int dir_fd, const char *name)
{
    struct timespec old[2];

    for (int i = 0; i < 2; i++)
        old[i] = (struct timespec){.tv_sec = (clock_wall_ms() - 2 * FILES_FRESH_MS) / 1000};
    assert_int_equal(utimensat(dir_fd, name, old, 0), 0);
}

static int teardown(void **state)
{
    (void)state;
    files_destroy(w.files);
    uv_run(&w.loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&w.loop), 0);
    for_each(remove_one);
    assert_int_equal(rmdir(w.path), 0);
    assert_int_equal(rmdir(w.dir), 0);
    return 0;
}

static void test_hash(void **state)
{
    (void)state;
    char hex[HASH_HEX_SIZE];

    assert_string_equal(hash_hex(hash_of("abc", 3), hex), /* FIPS 180-4, example B.1 */
                        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

static void test_parts(void **state)
{
    (void)state;
    const uint8_t *hash = hash_of("hello world", 11);
    struct files_progress p;
    struct accel_error err = {0};
    char buf[32];
    size_t len;

    struct outcome o = put("ann", hash, 11, 0, "hello", 5);
    assert_true(o.r == 0 && o.p.have_bytes == 5 && !o.p.is_complete);
    o = put("ann", hash, 11, 0, "hello", 5); /* a retry: it is told where to go on */
    assert_true(o.r == 0 && o.p.have_bytes == 5 && !o.p.is_complete);
    o = put("ann", hash, 11, 9, "ld", 2);
    assert_true(o.r == 0 && o.p.have_bytes == 5);
    o = put("ann", hash, 11, 5, " world and more", 15); /* more than was said */
    assert_true(o.r == 0 && o.p.have_bytes == 5);
    assert_int_equal(files_read(w.files, "ann", hash, 0, buf, sizeof(buf), &len, &err),
                     ACCEL_ENOENT);
    o = put("ann", hash, 11, 5, " world", 6);
    assert_true(o.r == 0 && o.p.have_bytes == 11 && o.p.is_complete);
    o = put("ann", hash, 11, 0, "hello", 5); /* again, another day */
    assert_true(o.r == 0 && o.p.is_complete);
    assert_int_equal(files_read(w.files, "ann", hash, 6, buf, sizeof(buf), &len, &err), 0);
    assert_int_equal(len, 5);
    assert_memory_equal(buf, "world", 5);
    assert_int_equal(files_read(w.files, "ann", hash, 11, buf, sizeof(buf), &len, &err), 0);
    assert_int_equal(len, 0);

    files_stat(w.files, "bob", hash, &p); /* knowing the hash gives nobody the content */
    assert_false(p.is_complete);
    assert_int_equal(files_read(w.files, "bob", hash, 0, buf, sizeof(buf), &len, &err),
                     ACCEL_ENOENT);
    assert_int_equal(for_each(NULL), 1);
}

static void test_damaged(void **state)
{
    (void)state;
    struct outcome o = put("ann", hash_of("hello", 5), 5, 0, "hallo", 5);

    assert_int_equal(o.r, ACCEL_ECORRUPT);
    assert_non_null(strstr(o.text, "not what its hash says"));
    assert_int_equal(for_each(NULL), 0);
    o = put("ann", hash_of("hello", 5), 5, 0, "hello", 5);
    assert_true(o.r == 0 && o.p.is_complete);
}

static void test_room(void **state)
{
    (void)state;
    static const char zeros[ROOM];
    struct files_progress p;

    assert_int_equal(put("ann", hash_of(zeros, 600), 600, 0, zeros, 600).r, 0);
    struct outcome o = put("bob", hash_of(zeros, 500), 500, 0, zeros, 500);
    assert_int_equal(o.r, ACCEL_EFULL); /* ann's is needed */
    assert_non_null(strstr(o.text, "600 of 1000 bytes"));
    for_each(age_one);
    assert_int_equal(put("bob", hash_of(zeros, 500), 500, 0, zeros, 500).r, 0);
    files_stat(w.files, "ann", hash_of(zeros, 600), &p);
    assert_false(p.is_complete);
    files_stat(w.files, "bob", hash_of(zeros, 500), &p);
    assert_true(p.is_complete);
}

static void test_restart(void **state)
{
    (void)state;
    struct files_progress p;
    uint8_t done[HASH_BYTES];

    memcpy(done, hash_of("done", 4), sizeof(done));
    put("ann", done, 4, 0, "done", 4);
    put("ann", hash_of("half", 4), 4, 0, "ha", 2);
    assert_int_equal(for_each(NULL), 2);
    files_destroy(w.files);
    uv_run(&w.loop, UV_RUN_DEFAULT);
    open_files();
    assert_int_equal(for_each(NULL), 1);
    files_stat(w.files, "ann", done, &p);
    assert_true(p.is_complete);
    files_stat(w.files, "ann", hash_of("half", 4), &p);
    assert_true(!p.is_complete && p.have_bytes == 0);
}

static void test_uploads_capped(void **state)
{
    (void)state;
    char text[16];
    struct files_progress p;

    for (unsigned i = 0; i <= FILES_UPLOADS_MAX; i++) {
        snprintf(text, sizeof(text), "content %03u", i);
        assert_int_equal(put("ann", hash_of(text, 11), 11, 0, text, 1).r, 0);
    }
    assert_int_equal(for_each(NULL), FILES_UPLOADS_MAX);
    files_stat(w.files, "ann", hash_of("content 000", 11), &p);
    assert_int_equal(p.have_bytes, 0); /* the oldest was forgotten: it starts again */
    files_stat(w.files, "ann", hash_of("content 001", 11), &p);
    assert_int_equal(p.have_bytes, 1);
}

static void test_destroyed_while_syncing(void **state)
{
    (void)state;
    struct outcome o = {0};

    files_put(w.files, "ann", hash_of("x", 1), 1, 0, "x", 1, on_done, &o);
    assert_int_equal(o.count, 0);
    files_destroy(w.files);
    uv_run(&w.loop, UV_RUN_DEFAULT);
    assert_true(o.count == 1 && o.r == 0);
    open_files();
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hash),
        T(test_parts),
        T(test_damaged),
        T(test_room),
        T(test_restart),
        T(test_uploads_capped),
        T(test_destroyed_while_syncing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
