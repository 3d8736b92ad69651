/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The driver of the fuzz targets without libFuzzer: a corpus and a seeded mutator, for a fixed
 * time. It knows nothing of coverage, so it finds the shallow half of what libFuzzer finds; but it
 * runs with every compiler, under the sanitizers, in every check. The input that is being tried is
 * in a file only when a target aborts: the seed and the number printed lead back to it.
 */
#include "fuzz.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/path.h"
#include "common/prng.h"

#define CORPUS_MAX 64u

static struct {
    struct str corpus[CORPUS_MAX];
    size_t count;
    struct prng prng;
    struct str input;
    uint64_t seed, runs;
} d;

/* Values at which lengths, tags and counters turn. */
static const uint8_t edges[] = {0x00, 0x01, 0x7f, 0x80, 0xff, 0x08, 0x12, 0x2a, 0x3f, 0x40};

static size_t any_pos(void)
{
    return (size_t)prng_below(&d.prng, d.input.len + 1);
}

static void splice(const struct str *from)
{
    size_t at = (size_t)prng_below(&d.prng, from->len + 1);
    size_t len = (size_t)prng_below(&d.prng, MIN(from->len - at, (size_t)512) + 1);
    size_t to = any_pos();
    AUTO_STR struct str tail;
    str_init(&tail);
    str_add(&tail, d.input.data + to, d.input.len - to);
    d.input.len = to;
    str_add(&d.input, from->data + at, len);
    str_add(&d.input, tail.data, tail.len);
}

static void erase(void)
{
    size_t at = any_pos();
    size_t len = (size_t)prng_below(&d.prng, MIN(d.input.len - at, (size_t)64) + 1);
    memmove(d.input.data + at, d.input.data + at + len, d.input.len - at - len);
    d.input.len -= len;
}

static void mutate(void)
{
    size_t at = any_pos();
    uint64_t dice = prng_below(&d.prng, 8);
    if (dice == 0) {
        splice(&d.corpus[prng_below(&d.prng, d.count)]);
    } else if (dice == 1) {
        erase();
    } else if (at == d.input.len) {
        str_addc(&d.input, (char)prng_next(&d.prng));
    } else if (dice == 2) {
        d.input.data[at] = (char)prng_next(&d.prng);
    } else if (dice == 3) {
        d.input.data[at] = (char)edges[prng_below(&d.prng, ARRAY_LEN(edges))];
    } else if (dice == 4) {
        d.input.data[at] = (char)(d.input.data[at] + (prng_chance(&d.prng, 50) ? 1 : -1));
    } else if (dice == 5) {
        d.input.len = at;
    } else {
        d.input.data[at] ^= (char)(1u << prng_below(&d.prng, 8));
    }
}

static void run_input(void)
{
    /* A block of exactly this size, so that a sanitizer sees a read one byte beyond. */
    uint8_t *exact = xmemdup(d.input.data, d.input.len);
    d.runs++;
    LLVMFuzzerTestOneInput(exact, d.input.len);
    free(exact);
}

static void on_abort(int signo)
{
    (void)signo;
    char line[128];
    int n = snprintf(line, sizeof(line), "# input %llu of seed %llu\n", (unsigned long long)d.runs,
                     (unsigned long long)d.seed);
    if (write(STDERR_FILENO, line, (size_t)n) < 0)
        _exit(99);
}

static void load_corpus(void)
{
    for (d.count = 0; d.count < CORPUS_MAX; d.count++) {
        struct str *s = &d.corpus[d.count];
        str_init(s);
        if (!fuzz_corpus(d.count, s)) {
            str_done(s);
            break;
        }
    }
    CHECK(d.count > 0);
}

uint64_t fuzz_run(unsigned seconds, uint64_t seed)
{
    int64_t end_ms = clock_mono_ms() + (int64_t)seconds * 1000;
    d.seed = seed;
    d.runs = 0;
    prng_init(&d.prng, seed);
    load_corpus();
    str_init(&d.input);
    for (size_t i = 0; i < d.count; i++) {
        str_clear(&d.input);
        str_add(&d.input, d.corpus[i].data, d.corpus[i].len);
        run_input();
    }
    while (d.runs % 256 != 0 || clock_mono_ms() < end_ms) {
        const struct str *from = &d.corpus[prng_below(&d.prng, d.count)];
        str_clear(&d.input);
        str_add(&d.input, from->data, MIN(from->len, (size_t)FUZZ_INPUT_BYTES));
        for (uint64_t i = prng_below(&d.prng, 16); i-- > 0;)
            mutate();
        run_input();
    }
    for (size_t i = 0; i < d.count; i++)
        str_done(&d.corpus[i]);
    str_done(&d.input);
    return d.runs;
}

static int run_file(const char *path)
{
    AUTO_FREE char *data = NULL;
    size_t len;
    struct accel_error err;
    int r = path_read_all(-1, path, 64u << 20, &data, &len, &err);
    if (r < 0) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    LLVMFuzzerTestOneInput((const uint8_t *)data, len);
    return 0;
}

int fuzz_main(int argc, char **argv)
{
    uint64_t seconds = 5, seed = 1;
    struct sigaction on_abrt = {.sa_handler = on_abort};
    sigaction(SIGABRT, &on_abrt, NULL);
    if (argc > 1 && parse_u64(argv[1], 0, 86400, &seconds) < 0)
        return run_file(argv[1]);
    if (argc > 2 && parse_u64(argv[2], 0, UINT64_MAX, &seed) < 0) {
        fprintf(stderr, "usage: %s [SECONDS [SEED]] | FILE\n", argv[0]);
        return 2;
    }
    uint64_t runs = fuzz_run((unsigned)seconds, seed);
    printf("1..1\nok 1 - %llu inputs in %llu s from seed %llu\n", (unsigned long long)runs,
           (unsigned long long)seconds, (unsigned long long)seed);
    return 0;
}

#ifndef ACCEL_LIBFUZZER
int main(int argc, char **argv)
{
    return fuzz_main(argc, argv);
}
#endif
