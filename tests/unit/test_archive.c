/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Archives that a node fetches: the coordinator is played by the test, which answers part by part,
 * breaks the session, and lies.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agentd/archive.h"
#include "common/arena.h"
#include "common/hash.h"

static struct {
    char dir[32], path[64];
    struct archives *archives;
    unsigned asked, done;
    uint64_t id, offset; /* of the last question */
    int r;
    char got[PATH_MAX], text[ACCEL_ERROR_TEXT];
} w;

static void on_send(void *ctx, const void *data, size_t len)
{
    Accel__V1__AgentUp *up = accel__v1__agent_up__unpack(NULL, len, data);

    (void)ctx;
    assert_non_null(up);
    assert_int_equal(up->body_case, ACCEL__V1__AGENT_UP__BODY_BLOB_READ);
    assert_int_equal(up->blob_read->ref->era, 5);
    w.asked++;
    w.id = up->blob_read->id;
    w.offset = up->blob_read->offset;
    accel__v1__agent_up__free_unpacked(up, NULL);
}

static void on_done(void *ctx, struct attempt_id id, int r, const char *path,
                    const struct accel_error *err)
{
    (void)ctx;
    assert_int_equal(id.job_id, 7);
    w.done++;
    w.r = r;
    snprintf(w.got, sizeof(w.got), "%s", path);
    snprintf(w.text, sizeof(w.text), "%s", err->text);
}

static const struct archive_callbacks callbacks = {on_send, on_done};

static void open_archives(void)
{
    struct accel_error err = {0};

    assert_int_equal(archives_create(w.path, &callbacks, NULL, &w.archives, &err), 0);
}

static int setup(void **state)
{
    (void)state;
    memset(&w, 0, sizeof(w));
    memcpy(w.dir, "/tmp/archive.XXXXXX", 20);
    assert_non_null(mkdtemp(w.dir));
    snprintf(w.path, sizeof(w.path), "%s/files", w.dir);
    open_archives();
    return 0;
}

static unsigned count_files(bool removes)
{
    DIR *d = opendir(w.path);
    unsigned count = 0;

    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d));) {
        if (e->d_name[0] == '.')
            continue;
        count += strcmp(e->d_name, "boot") != 0;
        if (removes)
            assert_int_equal(unlinkat(dirfd(d), e->d_name, 0), 0);
    }
    closedir(d);
    return count;
}

static int teardown(void **state)
{
    (void)state;
    archives_destroy(w.archives);
    count_files(true);
    assert_int_equal(rmdir(w.path), 0);
    assert_int_equal(rmdir(w.dir), 0);
    return 0;
}

static int fetch(const char *user, const char *content, char *path)
{
    Accel__V1__Start start = ACCEL__V1__START__INIT;
    Accel__V1__JobSpec spec = ACCEL__V1__JOB_SPEC__INIT;
    Accel__V1__SyncRef sync = ACCEL__V1__SYNC_REF__INIT;
    Accel__V1__AttemptRef ref = ACCEL__V1__ATTEMPT_REF__INIT;
    uint8_t sum[HASH_BYTES];
    struct accel_error err = {0};
    struct hash h;

    hash_init(&h);
    hash_add(&h, content, strlen(content));
    hash_end(&h, sum);
    sync.hash = (ProtobufCBinaryData){HASH_BYTES, sum};
    sync.size_bytes = strlen(content);
    spec.sync = &sync;
    ref.job_id = 7;
    ref.attempt = 1;
    ref.era = 5;
    start.ref = &ref;
    start.spec = &spec;
    start.user = (char *)user;
    return archives_fetch(w.archives, &start, path, &err);
}

static void give(const char *data, uint32_t code)
{
    Accel__V1__BlobData msg = ACCEL__V1__BLOB_DATA__INIT;

    msg.id = w.id;
    msg.data = (ProtobufCBinaryData){strlen(data), (uint8_t *)data};
    msg.code = code;
    msg.text = code ? (char *)"it has gone" : (char *)"";
    archives_on_data(w.archives, &msg);
}

static void check_content(const char *path, const char *wanted)
{
    char buf[64] = "";
    int fd = open(path, O_RDONLY);

    assert_true(fd >= 0);
    assert_int_equal(read(fd, buf, sizeof(buf)), strlen(wanted));
    assert_string_equal(buf, wanted);
    close(fd);
}

static void test_parts_and_sessions(void **state)
{
    (void)state;
    char path[PATH_MAX];

    assert_int_equal(fetch("ann", "hello world", path), 0);
    assert_true(w.asked == 1 && w.offset == 0);
    give("hello", 0);
    assert_true(w.asked == 2 && w.offset == 5 && w.done == 0);
    archives_on_session(w.archives); /* the answer was lost with the session before */
    assert_true(w.asked == 3 && w.offset == 5);
    give(" world", 0);
    assert_true(w.done == 1 && w.r == 0);
    check_content(w.got, "hello world");
    assert_int_equal(fetch("ann", "hello world", path), 1); /* another attempt */
    check_content(path, "hello world");
    assert_int_equal(fetch("bob", "hello world", path), 0); /* never what another has sent */
    assert_true(archives_cancel(w.archives, (struct attempt_id){7, 1}));
    assert_false(archives_cancel(w.archives, (struct attempt_id){7, 1}));
    give("hello", 0); /* too late: nobody wants it */
    assert_int_equal(w.done, 1);
    assert_int_equal(count_files(false), 1);
}

static void test_lies(void **state)
{
    (void)state;
    char path[PATH_MAX];

    assert_int_equal(fetch("ann", "hello", path), 0);
    give("hallo", 0);
    assert_int_equal(w.r, ACCEL_ECORRUPT);
    assert_non_null(strstr(w.text, "damaged"));
    assert_int_equal(fetch("ann", "hello", path), 0);
    give("hello and more", 0);
    assert_int_equal(w.r, ACCEL_ECORRUPT);
    assert_int_equal(fetch("ann", "hello", path), 0);
    give("hel", 0);
    give("", 0); /* it ends early */
    assert_int_equal(w.r, ACCEL_ECORRUPT);
    assert_int_equal(fetch("ann", "hello", path), 0);
    give("", 5);
    assert_int_equal(w.r, ACCEL_ENOENT);
    assert_string_equal(w.text, "it has gone");
    assert_int_equal(w.done, 4);
    assert_int_equal(count_files(false), 0);
}

static void test_boots(void **state)
{
    (void)state;
    char path[PATH_MAX], boot[80];

    assert_int_equal(fetch("ann", "hello", path), 0);
    give("hello", 0);
    assert_int_equal(fetch("ann", "half", path), 0);
    give("ha", 0);
    archives_destroy(w.archives); /* this acceld ends, the next one comes */
    open_archives();
    assert_int_equal(count_files(false), 1);
    assert_int_equal(fetch("ann", "hello", path), 1);
    archives_destroy(w.archives);
    snprintf(boot, sizeof(boot), "%s/boot", w.path);
    int fd = open(boot, O_WRONLY | O_TRUNC);
    assert_int_equal(write(fd, "another", 7), 7);
    close(fd);
    open_archives(); /* nothing was synced: what a crash has left is not believed */
    assert_int_equal(count_files(false), 0);
}

static void test_moved(void **state)
{
    (void)state;
    static const struct {
        const char *from, *to;
    } cases[] = {
        {"/data/ann/p", "/w/7"},
        {"/data/ann/p/sub/x.py", "/w/7/sub/x.py"},
        {"/data/ann/project/x.py", "/data/ann/project/x.py"},
        {"relative.py", "relative.py"},
    };
    Accel__V1__AttemptSpec spec = ACCEL__V1__ATTEMPT_SPEC__INIT;
    Accel__V1__SyncRef sync = ACCEL__V1__SYNC_REF__INIT;
    ProtobufCBinaryData argv[ARRAY_LEN(cases)];
    struct arena a;

    arena_init(&a);
    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        argv[i] = (ProtobufCBinaryData){strlen(cases[i].from), (uint8_t *)cases[i].from};
    sync.source = argv[0];
    spec.argv = argv;
    spec.n_argv = ARRAY_LEN(cases);
    spec.cwd = argv[2];
    archive_move(&spec, &sync, "/w/7", &a);
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        assert_int_equal(spec.argv[i].len, strlen(cases[i].to));
        assert_memory_equal(spec.argv[i].data, cases[i].to, spec.argv[i].len);
    }
    assert_int_equal(spec.cwd.len, 4); /* was elsewhere: the archive's own top */
    assert_memory_equal(spec.cwd.data, "/w/7", 4);
    assert_memory_equal(argv[1].data, cases[1].from, argv[1].len); /* the list is the caller's */
    arena_done(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_parts_and_sessions, setup, teardown),
        cmocka_unit_test_setup_teardown(test_lies, setup, teardown),
        cmocka_unit_test_setup_teardown(test_boots, setup, teardown),
        cmocka_unit_test(test_moved),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
