/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How many transactions a second the SQLite store makes durable, in groups of 1, 16 and 128 plain
 * job submissions, beside what the disk allows: fdatasync of a 4 KiB append, measured in the same
 * run and the same folder, before and after. One JSON line per row on stdout. Arguments: a folder
 * (default $TMPDIR, /tmp) and milliseconds per row (default 1000). It only measures.
 */
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "accel/v1/job.pb-c.h"
#include "common/clock.h"
#include "common/str.h"
#include "scheduler/store.h"

#define SAMPLES_MAX 200000u /* commits of one row; it ends there */
#define GROUP_MAX   128u
#define SPEC_BYTES  600u /* a usual packed JobSpec */

struct row {
    uint64_t ns[SAMPLES_MAX];
    size_t count;
    uint64_t total_ns;
};

static int compare_u64(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a;
    uint64_t y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static double quantile_us(struct row *row, unsigned percent)
{
    return (double)row->ns[(row->count - 1) * percent / 100] / 1e3;
}

static void report(const char *name, unsigned group, struct row *row, double bound_us)
{
    double seconds = (double)row->total_ns / 1e9;
    qsort(row->ns, row->count, sizeof(row->ns[0]), compare_u64);
    printf("{\"bench\": \"store\", \"name\": \"%s\", \"group\": %u, \"commits_per_s\": %.0f, "
           "\"rows_per_s\": %.0f, \"p50_us\": %.1f, \"p99_us\": %.1f, \"max_us\": %.1f, "
           "\"bound_p50_us\": %.1f, \"ratio\": %.2f}\n",
           name, group, (double)row->count / seconds, (double)(row->count * group) / seconds,
           quantile_us(row, 50), quantile_us(row, 99), quantile_us(row, 100), bound_us,
           bound_us > 0 ? quantile_us(row, 50) / bound_us : 1.0);
    fflush(stdout);
}

/* The bound: p50 in microseconds; -1: failed. */
static double measure_disk(const char *dir, uint64_t for_ns, struct row *row)
{
    char path[4200];
    char block[4096];
    memset(block, 'x', sizeof(block));
    snprintf(path, sizeof(path), "%s/append", dir);
    AUTO_CLOSE int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0) {
        return -1;
    }
    row->count = 0;
    uint64_t begin = clock_mono_ns();
    uint64_t now = begin;
    while (now - begin < for_ns && row->count < SAMPLES_MAX) {
        if (write(fd, block, sizeof(block)) != (ssize_t)sizeof(block) || fdatasync(fd) != 0) {
            return -1;
        }
        uint64_t then = clock_mono_ns();
        row->ns[row->count++] = then - now;
        now = then;
    }
    row->total_ns = now - begin;
    qsort(row->ns, row->count, sizeof(row->ns[0]), compare_u64);
    return quantile_us(row, 50);
}

static void fill(struct record *records, unsigned group, uint64_t first_id,
                 unsigned char (*requests)[16], const char *spec)
{
    for (unsigned i = 0; i < group; i++) {
        uint64_t id = first_id + i;
        memset(requests[i], 0, 16);
        uint64_t spread = id * 0x9e3779b97f4a7c15u; /* as random ids are */
        memcpy(requests[i], &spread, sizeof(spread));
        memcpy(requests[i] + 8, &id, 8);
        records[i] = (struct record){
            .table = RECORD_JOB,
            .u.job = {.id = id, .name = "true", .user = "bench", .reason = "waits for a device",
                      .state = ACCEL__V1__JOB_STATE__JOB_PENDING, .command = "/bin/true",
                      .submit_ms = 1, .submit_seq = id, .request_id = {requests[i], 16},
                      .spec = {spec, SPEC_BYTES}}};
    }
}

static int measure_store(const char *dir, unsigned group, uint64_t for_ns, struct row *row)
{
    static struct record records[GROUP_MAX];
    static unsigned char requests[GROUP_MAX][16];
    static char spec[SPEC_BYTES];
    static uint64_t next_id = 1;
    struct accel_error err;
    struct store *s = NULL;
    int r = store_sqlite_open(dir, &s, &err);
    if (r != 0) {
        fprintf(stderr, "bench_store: %s\n", err.text);
        return r;
    }
    row->count = 0;
    uint64_t begin = clock_mono_ns();
    uint64_t now = begin;
    while (r == 0 && now - begin < for_ns && row->count < SAMPLES_MAX) {
        fill(records, group, next_id, requests, spec);
        next_id += group;
        uint64_t then = clock_mono_ns();
        r = s->ops->commit(s, &(struct store_txn){records, group, 1}, &err);
        now = clock_mono_ns();
        row->ns[row->count++] = now - then;
    }
    row->total_ns = now - begin;
    s->ops->close(s);
    if (r != 0) {
        fprintf(stderr, "bench_store: %s\n", err.text);
    }
    return r;
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
    return remove(path);
}

static int run(const char *dir, uint64_t for_ns)
{
    static const unsigned groups[] = {1, 16, GROUP_MAX};
    static struct row row;
    double bound_us = measure_disk(dir, for_ns, &row);
    if (bound_us < 0) {
        fprintf(stderr, "bench_store: cannot append in %s: %m\n", dir);
        return -1;
    }
    report("fdatasync_append_4k", 1, &row, bound_us);
    for (size_t i = 0; i < ARRAY_LEN(groups); i++) {
        int r = measure_store(dir, groups[i], for_ns, &row);
        if (r != 0) {
            return r;
        }
        report("commit", groups[i], &row, bound_us);
    }
    if (measure_disk(dir, for_ns, &row) < 0) {
        return -1;
    }
    report("fdatasync_append_4k_again", 1, &row, bound_us);
    return 0;
}

int main(int argc, char **argv)
{
    const char *base = argc > 1 ? argv[1] : getenv("TMPDIR");
    uint64_t ms = 1000;
    char dir[4096];
    if (argc > 2 && parse_u64(argv[2], 1, 600000, &ms) != 0) {
        fprintf(stderr, "usage: bench_store [FOLDER [MILLISECONDS]]\n");
        return 2;
    }
    snprintf(dir, sizeof(dir), "%s/accel-bench-XXXXXX", base != NULL ? base : "/tmp");
    if (mkdtemp(dir) == NULL) {
        fprintf(stderr, "bench_store: cannot make a folder %s: %m\n", dir);
        return 1;
    }
    int r = run(dir, ms * 1000000u);
    nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    return r == 0 ? 0 : 1;
}
