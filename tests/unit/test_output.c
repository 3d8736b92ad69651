/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads of output over real files: segments, cuts, tails, caps, and who waits for what. The
 * launcher is a stub that counts watches.
 */
#include <ftw.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "agentd/output.h"
#include "common/limits.h"

#define SEGMENT ((uint64_t)LIMIT_OUTPUT_SEGMENT_BYTES)

static struct {
    char dir[64];
    struct launcher launcher;
    struct output *output;
    unsigned watches;
    Accel__V1__LogData *answer; /* the newest, NULL after taken */
    unsigned answers;
    uint64_t next_id;
} t;

static void on_watch(struct launcher *l, struct attempt_id id)
{
    (void)l;
    (void)id;
    t.watches++;
}
static const struct launcher_ops stub_ops = {.watch = on_watch};

static void on_reply(void *ctx, const Accel__V1__LogData *msg)
{
    uint8_t *packed = xcalloc(1, accel__v1__log_data__get_packed_size(msg) + 1);
    size_t len = accel__v1__log_data__pack(msg, packed);
    (void)ctx;
    accel__v1__log_data__free_unpacked(t.answer, NULL);
    t.answer = accel__v1__log_data__unpack(NULL, len, packed);
    t.answers++;
    free(packed);
}

static int setup(void **state)
{
    (void)state;
    memset(&t, 0, sizeof(t));
    snprintf(t.dir, sizeof(t.dir), "/tmp/accel-test-XXXXXX");
    assert_non_null(mkdtemp(t.dir));
    t.launcher.ops = &stub_ops;
    t.output = output_create(t.dir, "n1", &t.launcher, on_reply, NULL);
    return 0;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

static int teardown(void **state)
{
    (void)state;
    output_destroy(t.output);
    accel__v1__log_data__free_unpacked(t.answer, NULL);
    nftw(t.dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    return 0;
}

static void make_attempt(void)
{
    char path[128];
    snprintf(path, sizeof(path), "%s/1.1", t.dir);
    assert_int_equal(mkdir(path, 0700), 0);
}

/* Writes text at an offset; the file is sparse before it. */
static void put(const char *name, uint64_t at, const char *text)
{
    char path[128];
    snprintf(path, sizeof(path), "%s/1.1/%s", t.dir, name);
    FILE *f = fopen(path, "r+");
    if (!f)
        f = fopen(path, "w");
    assert_non_null(f);
    assert_int_equal(fseek(f, (long)at, SEEK_SET), 0);
    fputs(text, f);
    assert_int_equal(fclose(f), 0);
}

static void write_spec(uint32_t ranks)
{
    Accel__V1__AttemptSpec spec = ACCEL__V1__ATTEMPT_SPEC__INIT;
    Accel__V1__RankSpec r[4], *list[4];
    uint8_t packed[256];
    char path[128];
    for (uint32_t i = 0; i < ranks; i++) {
        accel__v1__rank_spec__init(&r[i]);
        r[i].rank = i;
        list[i] = &r[i];
    }
    spec.ranks = list;
    spec.n_ranks = ranks;
    size_t len = accel__v1__attempt_spec__pack(&spec, packed);
    snprintf(path, sizeof(path), "%s/1.1/spec", t.dir);
    FILE *f = fopen(path, "w");
    assert_int_equal(fwrite(packed, 1, len, f), len);
    assert_int_equal(fclose(f), 0);
}

static const struct attempt_id id11 = {1, 1};

struct ask {
    uint32_t rank;
    bool is_stderr, wait, all;
    uint64_t offset, tail_lines;
    uint32_t max_bytes;
};

/* Returns the answer, NULL if it waits. Valid until the next ask. */
static const Accel__V1__LogData *ask(struct ask a)
{
    Accel__V1__LogRead read = ACCEL__V1__LOG_READ__INIT;
    Accel__V1__LogReadRequest q = ACCEL__V1__LOG_READ_REQUEST__INIT;
    Accel__V1__LogCursor c = ACCEL__V1__LOG_CURSOR__INIT, *cursors[] = {&c};
    unsigned before = t.answers;
    c.rank = a.rank;
    c.stream =
        a.is_stderr ? ACCEL__V1__LOG_CURSOR__STREAM__STDERR : ACCEL__V1__LOG_CURSOR__STREAM__STDOUT;
    c.offset = a.offset;
    c.tail_lines = a.tail_lines;
    q.job_id = 1;
    q.cursors = cursors;
    q.n_cursors = a.all ? 0 : 1;
    q.wait = a.wait;
    q.max_bytes = a.max_bytes;
    read.id = ++t.next_id;
    read.attempt = 1;
    read.request = &q;
    output_read(t.output, &read);
    assert_true(t.answers <= before + 1);
    return t.answers > before ? t.answer : NULL;
}

static void assert_chunk(const Accel__V1__LogData *msg, size_t i, uint64_t offset, const char *text)
{
    assert_non_null(msg);
    assert_int_equal(msg->code, 0);
    assert_true(i < msg->reply->n_chunks);
    const Accel__V1__LogChunk *c = msg->reply->chunks[i];
    assert_int_equal(c->offset, offset);
    assert_int_equal(c->data.len, strlen(text));
    assert_memory_equal(c->data.data, text, c->data.len);
}

static void test_ended(void **state)
{
    (void)state;
    make_attempt();
    put("0.out", 0, "hello\n");
    const Accel__V1__LogData *msg = ask((struct ask){.wait = true});
    assert_chunk(msg, 0, 0, "hello\n");
    assert_true(msg->reply->chunks[0]->eof && msg->reply->ended);
    assert_int_equal(msg->reply->attempt, 1);
    msg = ask((struct ask){.offset = 6, .wait = true});
    assert_chunk(msg, 0, 6, "");
    assert_true(msg->reply->ended);
    msg = ask((struct ask){.max_bytes = 2});
    assert_chunk(msg, 0, 0, "he");
    assert_false(msg->reply->chunks[0]->eof);
    assert_false(msg->reply->ended);
    msg = ask((struct ask){.rank = 7}); /* never wrote anything */
    assert_chunk(msg, 0, 0, "");
    assert_true(msg->reply->ended);
}

static void test_missing(void **state)
{
    (void)state;
    const Accel__V1__LogData *msg = ask((struct ask){.wait = true});
    assert_int_equal(msg->code, 5);
    assert_non_null(strstr(msg->text, "the logs of job 1 attempt 1 are gone from node n1"));
}

static void test_waiting(void **state)
{
    (void)state;
    output_on_live(t.output, id11);
    assert_null(ask((struct ask){.wait = true})); /* not even a directory yet */
    assert_int_equal(t.watches, 1);
    assert_int_equal(output_parked(t.output), 1);
    const Accel__V1__LogData *msg = ask((struct ask){.wait = false});
    assert_non_null(msg);
    assert_int_equal(msg->reply->n_chunks, 0);
    assert_false(msg->reply->ended);
    make_attempt();
    output_on_grown(t.output, id11); /* of the other stream */
    assert_int_equal(t.watches, 2);
    put("0.out", 0, "a");
    output_on_grown(t.output, id11);
    assert_chunk(t.answer, 0, 0, "a");
    assert_false(t.answer->reply->chunks[0]->eof);
    assert_int_equal(t.watches, 2); /* nobody waits any more */
    assert_null(ask((struct ask){.offset = 1, .wait = true}));
    put("0.out", 1, "b");
    output_on_gone(t.output, id11);
    assert_chunk(t.answer, 0, 1, "b");
    assert_true(t.answer->reply->ended);
    assert_int_equal(output_parked(t.output), 0);
}

/* Somebody waited for a start that came to nothing: that is the end, not an error. */
static void test_start_came_to_nothing(void **state)
{
    (void)state;
    output_on_live(t.output, id11);
    assert_null(ask((struct ask){.wait = true, .all = true}));
    output_on_gone(t.output, id11);
    assert_int_equal(t.answer->code, 0);
    assert_true(t.answer->reply->ended);
}

static void test_cancel_and_cap(void **state)
{
    (void)state;
    output_on_live(t.output, id11);
    for (unsigned i = 0; i < LIMIT_LOG_READS; i++)
        assert_null(ask((struct ask){.wait = true}));
    const Accel__V1__LogData *msg = ask((struct ask){.wait = true});
    assert_int_equal(msg->code, 8 /* RESOURCE_EXHAUSTED */);
    assert_int_equal(t.watches, 1);
    output_cancel(t.output, 1);
    output_cancel(t.output, 1);
    assert_int_equal(output_parked(t.output), LIMIT_LOG_READS - 1);
    assert_null(ask((struct ask){.wait = true}));
    output_cancel_all(t.output);
    assert_int_equal(output_parked(t.output), 0);
    unsigned before = t.answers;
    output_on_gone(t.output, id11);
    assert_int_equal(t.answers, before);
}

static void test_all_ranks(void **state)
{
    (void)state;
    make_attempt();
    write_spec(2);
    put("0.out", 0, "o0");
    put("1.err", 0, "e1");
    const Accel__V1__LogData *msg = ask((struct ask){.all = true});
    assert_int_equal(msg->reply->n_chunks, 4);
    assert_chunk(msg, 0, 0, "o0");
    assert_chunk(msg, 1, 0, "");
    assert_chunk(msg, 3, 0, "e1");
    assert_int_equal(msg->reply->chunks[3]->rank, 1);
    assert_int_equal(msg->reply->chunks[3]->stream, ACCEL__V1__LOG_CURSOR__STREAM__STDERR);
    assert_true(msg->reply->ended);
    msg = ask((struct ask){.all = true, .max_bytes = 3}); /* the cap holds over all chunks */
    size_t sum = 0;
    for (size_t i = 0; i < msg->reply->n_chunks; i++)
        sum += msg->reply->chunks[i]->data.len;
    assert_true(sum > 0 && sum <= 3);
    assert_false(msg->reply->ended);
    put("spec", 0, "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff");
    msg = ask((struct ask){.all = true});
    assert_int_equal(msg->code, 15 /* DATA_LOSS */);
}

static void test_segments(void **state)
{
    (void)state;
    make_attempt();
    put("0.out", SEGMENT - 3, "abc\n[accel: output from byte 1 to byte 2 was cut]\n");
    put("0.out.1", 0, "def");
    const Accel__V1__LogData *msg = ask((struct ask){.offset = SEGMENT - 3});
    assert_chunk(msg, 0, SEGMENT - 3, "abcdef"); /* over the border, without the mark */
    assert_true(msg->reply->ended);
    msg = ask((struct ask){.offset = SEGMENT - 3, .max_bytes = 3});
    assert_chunk(msg, 0, SEGMENT - 3, "abc");
    assert_false(msg->reply->chunks[0]->eof);
}

/* Segments 1 and 2 are gone, 3 and 4 are there. */
static void test_cut(void **state)
{
    (void)state;
    make_attempt();
    put("0.out", SEGMENT - 2, "ab\n[accel: ...]\n");
    put("0.out.3", SEGMENT - 1, "y");
    put("0.out.4", 0, "z");
    put("0.out.x", 0, "no segment");
    const Accel__V1__LogData *msg = ask((struct ask){.offset = SEGMENT - 2});
    assert_chunk(msg, 0, SEGMENT - 2, "ab"); /* stops before the cut */
    assert_int_equal(msg->reply->chunks[0]->cut_bytes, 0);
    assert_false(msg->reply->chunks[0]->eof);
    msg = ask((struct ask){.offset = SEGMENT + 10, .max_bytes = 1});
    assert_int_equal(msg->reply->chunks[0]->offset, 3 * SEGMENT);
    assert_int_equal(msg->reply->chunks[0]->cut_bytes, 2 * SEGMENT - 10);
    assert_int_equal(msg->reply->chunks[0]->data.len, 1);
    msg = ask((struct ask){.offset = 4 * SEGMENT - 1});
    assert_chunk(msg, 0, 4 * SEGMENT - 1, "yz");
    assert_true(msg->reply->ended);
    msg = ask((struct ask){.offset = 9 * SEGMENT}); /* beyond the end: nothing, and the end */
    assert_chunk(msg, 0, 9 * SEGMENT, "");
    assert_true(msg->reply->ended);
}

static void test_tail(void **state)
{
    static const struct {
        const char *text;
        uint64_t lines, offset;
    } cases[] = {
        {"a\nb\nc\n", 1, 4},  {"a\nb\nc\n", 2, 2}, {"a\nb\nc\n", 3, 0},
        {"a\nb\nc\n", 99, 0}, {"a\nb\nc", 1, 4},   {"a\nb\nc", 2, 2},
        {"\n\n\n", 1, 2},     {"abc", 1, 0},       {"\n", 1, 0},
    };
    (void)state;
    make_attempt();
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char name[16];
        snprintf(name, sizeof(name), "%zu.out", i);
        put(name, 0, cases[i].text);
        const Accel__V1__LogData *msg =
            ask((struct ask){.rank = (uint32_t)i, .tail_lines = cases[i].lines});
        assert_chunk(msg, 0, cases[i].offset, cases[i].text + cases[i].offset);
    }
}

/* Lines that begin in another segment or in another block of the search. */
static void test_tail_far_back(void **state)
{
    (void)state;
    make_attempt();
    put("0.out", 0, "first\n");
    put("0.out", SEGMENT - 8, "one\nlong");
    put("0.out.1", 0, "er line\n");
    put("0.out.1", 200000, "\nlast");
    const Accel__V1__LogData *msg = ask((struct ask){.tail_lines = 1});
    assert_chunk(msg, 0, SEGMENT + 200001, "last");
    msg = ask((struct ask){.tail_lines = 3, .max_bytes = 8});
    assert_chunk(msg, 0, SEGMENT - 4, "longer l");
    msg = ask((struct ask){.tail_lines = 5, .max_bytes = 6});
    assert_chunk(msg, 0, 0, "first\n");
    put("1.out.3", 0, "x\ny\n"); /* everything before it was cut */
    msg = ask((struct ask){.rank = 1, .tail_lines = 9});
    assert_chunk(msg, 0, 3 * SEGMENT, "x\ny\n");
}

/* The tail of an empty stream is its beginning, however much comes while one waits. */
static void test_tail_that_waits(void **state)
{
    (void)state;
    make_attempt();
    output_on_live(t.output, id11);
    assert_null(ask((struct ask){.tail_lines = 1, .wait = true}));
    put("0.out", 0, "a\nb\nc\n");
    output_on_grown(t.output, id11);
    assert_chunk(t.answer, 0, 0, "a\nb\nc\n");
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_ended),
        TEST(test_missing),
        TEST(test_waiting),
        TEST(test_start_came_to_nothing),
        TEST(test_cancel_and_cap),
        TEST(test_all_ranks),
        TEST(test_segments),
        TEST(test_cut),
        TEST(test_tail),
        TEST(test_tail_far_back),
        TEST(test_tail_that_waits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
