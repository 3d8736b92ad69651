/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bench.h - what the load generators share: samples in nanoseconds, their quantiles as one JSON
 * line, and /bin/true by the fastest way to start it. Aborts on any error: a benchmark that limps
 * measures nothing. One thread.
 */
#ifndef ACCEL_TESTS_BENCH_H
#define ACCEL_TESTS_BENCH_H

#include <spawn.h>
#include <stdio.h>
#include <sys/wait.h>
#include <time.h>

#include "common/base.h"

extern char **environ;

#define BENCH_SAMPLES_MAX 1000000u /* per row; refused above */

struct samples {
    uint64_t *ns;
    size_t count, cap;
};

static inline uint64_t bench_now_ns(void)
{
    struct timespec t;
    CHECK(clock_gettime(CLOCK_MONOTONIC, &t) == 0);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static inline void samples_init(struct samples *s, size_t cap)
{
    CHECK(cap <= BENCH_SAMPLES_MAX);
    *s = (struct samples){.ns = xcalloc(cap + 1, sizeof(uint64_t)), .cap = cap};
}

static inline void samples_add(struct samples *s, uint64_t ns)
{
    CHECK(s->count < s->cap);
    s->ns[s->count++] = ns;
}

static inline int bench_compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* Prints {"row": NAME, "count": N, "p50_us": ..., "p99_us": ..., "mean_us": ...} and empties s. */
static inline void samples_report(struct samples *s, const char *name)
{
    double sum = 0;
    CHECK(s->count > 0);
    qsort(s->ns, s->count, sizeof(*s->ns), bench_compare);
    for (size_t i = 0; i < s->count; i++)
        sum += (double)s->ns[i];
    printf("{\"row\": \"%s\", \"count\": %zu, \"p50_us\": %.1f, \"p99_us\": %.1f, "
           "\"mean_us\": %.1f}\n",
           name, s->count, (double)s->ns[(s->count - 1) / 2] / 1e3,
           (double)s->ns[(s->count - 1) * 99 / 100] / 1e3, sum / (double)s->count / 1e3);
    fflush(stdout);
    free(s->ns);
    *s = (struct samples){0};
}

/* argv[0] is a path; stdin, stdout and stderr are ours. */
static inline pid_t bench_spawn(char *const *argv)
{
    pid_t pid;
    CHECK(posix_spawn(&pid, argv[0], NULL, NULL, argv, environ) == 0);
    return pid;
}

/* Returns the wait status. */
static inline int bench_spawn_wait(char *const *argv)
{
    int status;
    pid_t pid = bench_spawn(argv);
    CHECK(waitpid(pid, &status, 0) == pid);
    return status;
}

#endif
