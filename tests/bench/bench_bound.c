/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What this machine can do at best: spawns, round trips, syncs, and a command measured in turn with
 * them so that both see the same weather. One JSON line per row on stdout. Knows nothing of the
 * program that is measured. Static, so that its forks cost what those of a small static
 * process cost.
 *
 *   bench_bound launch DIR N [COMMAND [ARG...]]   3 spawns + 2 round trips + 1 sync, then COMMAND
 *   bench_bound pipelined N WIDTH                 fork + spawn of /bin/true, WIDTH in flight
 *   bench_bound first N FIFO STAMP                spawn of STAMP until its first instruction
 *   bench_bound kill N                            SIGKILL until the pidfd is readable
 *   bench_bound create DIR N                      a new file of one page, closed
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/str.h"
#include "tests/bench/bench.h"

#define MESSAGE_BYTES 64
#define APPEND_BYTES  4096

static char *const true_argv[] = {(char *)"/bin/true", NULL};

/* A child that answers each message with one of the same size. */
static int echo_start(pid_t *ret_pid)
{
    char buf[MESSAGE_BYTES];
    int pair[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
    *ret_pid = fork();
    CHECK(*ret_pid >= 0);
    if (*ret_pid == 0) {
        close(pair[0]);
        while (read(pair[1], buf, sizeof(buf)) == sizeof(buf) &&
               write(pair[1], buf, sizeof(buf)) == sizeof(buf))
            ;
        _exit(0);
    }
    close(pair[1]);
    return pair[0];
}

static void round_trip(int fd)
{
    char buf[MESSAGE_BYTES] = {0};
    CHECK(write(fd, buf, sizeof(buf)) == sizeof(buf) && read(fd, buf, sizeof(buf)) == sizeof(buf));
}

static void sync_append(int fd)
{
    static const char block[APPEND_BYTES];
    CHECK(write(fd, block, sizeof(block)) == sizeof(block) && fdatasync(fd) == 0);
}

static void run_launch(const char *dir, size_t n, char *const *command)
{
    struct samples spawn, trip, sync, bound, subject;
    AUTO_STR struct str path = {0};
    pid_t echo_pid;
    int echo = echo_start(&echo_pid), failures = 0;
    str_init(&path);
    str_addf(&path, "%s/bench_sync.%d", dir, (int)getpid());
    int file = open(path.data, O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0600);
    CHECK(file >= 0);
    unlink(path.data);
    samples_init(&spawn, n);
    samples_init(&trip, n);
    samples_init(&sync, n);
    samples_init(&bound, n);
    samples_init(&subject, n);
    for (size_t i = 0; i < n; i++) {
        uint64_t t0 = bench_now_ns();
        CHECK(bench_spawn_wait(true_argv) == 0);
        uint64_t t1 = bench_now_ns();
        CHECK(bench_spawn_wait(true_argv) == 0 && bench_spawn_wait(true_argv) == 0);
        uint64_t t2 = bench_now_ns();
        round_trip(echo);
        uint64_t t3 = bench_now_ns();
        round_trip(echo);
        uint64_t t4 = bench_now_ns();
        sync_append(file);
        uint64_t t5 = bench_now_ns();
        samples_add(&spawn, t1 - t0);
        samples_add(&trip, t3 - t2);
        samples_add(&sync, t5 - t4);
        samples_add(&bound, t5 - t0);
        if (command[0]) {
            failures += bench_spawn_wait(command) != 0;
            samples_add(&subject, bench_now_ns() - t5);
        }
    }
    CHECK(failures == 0);
    close(echo);
    waitpid(echo_pid, NULL, 0);
    close(file);
    samples_report(&spawn, "spawn");
    samples_report(&trip, "round_trip");
    samples_report(&sync, "fdatasync");
    samples_report(&bound, "bound");
    if (command[0])
        samples_report(&subject, "command");
}

/* What a job costs the kernel at least: a child forked without exec, which spawns and reaps. */
static void run_pipelined(size_t n, size_t width)
{
    size_t begun = 0, done = 0;
    uint64_t t0 = bench_now_ns();
    while (done < n) {
        while (begun < n && begun - done < width) {
            pid_t pid = fork();
            CHECK(pid >= 0);
            if (pid == 0)
                _exit(bench_spawn_wait(true_argv) != 0);
            begun++;
        }
        int status;
        CHECK(waitpid(-1, &status, 0) > 0 && status == 0);
        done++;
    }
    double seconds = (double)(bench_now_ns() - t0) / 1e9;
    printf("{\"row\": \"fork_spawn_pipelined\", \"count\": %zu, \"per_s\": %.1f}\n", n,
           (double)n / seconds);
    begun = done = 0;
    t0 = bench_now_ns();
    while (done < n) {
        while (begun < n && begun - done < width) {
            bench_spawn(true_argv);
            begun++;
        }
        CHECK(waitpid(-1, NULL, 0) > 0);
        done++;
    }
    seconds = (double)(bench_now_ns() - t0) / 1e9;
    printf("{\"row\": \"spawn_pipelined\", \"count\": %zu, \"per_s\": %.1f}\n", n,
           (double)n / seconds);
}

static void run_first(size_t n, const char *fifo, const char *stamp)
{
    char *const argv[] = {(char *)stamp, (char *)fifo, NULL};
    struct samples first;
    char line[129];
    int fd = open(fifo, O_RDWR | O_CLOEXEC);
    CHECK(fd >= 0);
    samples_init(&first, n);
    for (size_t i = 0; i < n; i++) {
        uint64_t t0 = bench_now_ns();
        CHECK(bench_spawn_wait(argv) == 0);
        ssize_t got = read(fd, line, sizeof(line) - 1);
        CHECK(got > 0);
        line[got] = 0;
        samples_add(&first, strtoull(line, NULL, 10) - t0);
    }
    close(fd);
    samples_report(&first, "spawn_to_first_instruction");
}

static void run_kill(size_t n)
{
    struct samples kills;
    samples_init(&kills, n);
    for (size_t i = 0; i < n; i++) {
        pid_t pid = fork();
        CHECK(pid >= 0);
        if (pid == 0) {
            while (true)
                pause();
        }
        int fd = (int)syscall(SYS_pidfd_open, pid, 0);
        struct pollfd p = {.fd = fd, .events = POLLIN};
        CHECK(fd >= 0);
        uint64_t t0 = bench_now_ns();
        CHECK(kill(pid, SIGKILL) == 0 && poll(&p, 1, -1) == 1);
        samples_add(&kills, bench_now_ns() - t0);
        waitpid(pid, NULL, 0);
        close(fd);
    }
    samples_report(&kills, "kill_to_pidfd");
}

/* N files in a folder of their own, which is left to the caller: see spread_folders in run.py. */
static void run_create(const char *dir, size_t n)
{
    struct samples creates;
    char path[4200], block[APPEND_BYTES] = {0};
    CHECK((size_t)snprintf(path, sizeof(path), "%s/create.XXXXXX", dir) < sizeof(path) - 32);
    CHECK(mkdtemp(path));
    size_t len = strlen(path);
    samples_init(&creates, n);
    for (size_t i = 0; i < n; i++) {
        snprintf(path + len, sizeof(path) - len, "/%zu", i);
        uint64_t t0 = bench_now_ns();
        int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        CHECK(fd >= 0 && write(fd, block, sizeof(block)) == sizeof(block) && close(fd) == 0);
        samples_add(&creates, bench_now_ns() - t0);
    }
    samples_report(&creates, "create");
}

/* Our rows go where stdout went; what the commands say goes nowhere. */
static void keep_stdout(void)
{
    int fd = fcntl(1, F_DUPFD_CLOEXEC, 3), null_fd = open("/dev/null", O_RDWR);
    CHECK(fd >= 0 && null_fd >= 0 && dup2(null_fd, 0) == 0 && dup2(null_fd, 1) == 1);
    if (null_fd > 2)
        close(null_fd);
    stdout = fdopen(fd, "w");
    CHECK(stdout);
}

int main(int argc, char **argv)
{
    uint64_t n = 0, width = 0;
    const char *mode = argc > 1 ? argv[1] : "";
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    keep_stdout();
    if (strcmp(mode, "launch") == 0 && argc >= 4 &&
        parse_u64(argv[3], 1, BENCH_SAMPLES_MAX, &n) == 0) {
        run_launch(argv[2], n, argv + 4);
    } else if (strcmp(mode, "pipelined") == 0 && argc == 4 &&
               parse_u64(argv[2], 1, BENCH_SAMPLES_MAX, &n) == 0 &&
               parse_u64(argv[3], 1, 1024, &width) == 0) {
        run_pipelined(n, width);
    } else if (strcmp(mode, "first") == 0 && argc == 5 &&
               parse_u64(argv[2], 1, BENCH_SAMPLES_MAX, &n) == 0) {
        run_first(n, argv[3], argv[4]);
    } else if (strcmp(mode, "kill") == 0 && argc == 3 &&
               parse_u64(argv[2], 1, BENCH_SAMPLES_MAX, &n) == 0) {
        run_kill(n);
    } else if (strcmp(mode, "create") == 0 && argc == 4 &&
               parse_u64(argv[3], 1, BENCH_SAMPLES_MAX, &n) == 0) {
        run_create(argv[2], n);
    } else {
        fprintf(stderr, "usage: bench_bound launch DIR N [COMMAND...] | pipelined N WIDTH | "
                        "first N FIFO STAMP | kill N | create DIR N\n");
        return 2;
    }
    return 0;
}
