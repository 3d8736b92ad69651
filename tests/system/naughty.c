/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A program that behaves as badly as users' programs do: `naughty KIND...` makes each kind of
 * descendant, waits until all are there, prints "ready" and then exits (kind `leave`), or stays.
 * Used by the tests of the launcher; every process it makes is theirs to kill.
 */
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define STORM_WIDTH       10
#define STORM_GENERATIONS 50000 /* each; if a test fails to kill it, the storm blows over */

static int ready_fd;

static void say_ready(void)
{
    if (write(ready_fd, "x", 1) != 1) {
        _exit(1);
    }
}

static void ignore_term(void)
{
    struct sigaction ign = {.sa_handler = SIG_IGN};
    sigaction(SIGTERM, &ign, NULL);
    sigaction(SIGHUP, &ign, NULL);
    sigaction(SIGINT, &ign, NULL);
}

_Noreturn static void stay(void)
{
    for (;;) {
        pause();
    }
}

/* Lives as a chain of short-lived processes, so that its pid is never the one just read. */
_Noreturn static void run_away(void)
{
    for (int i = 0; i < STORM_GENERATIONS; i++) {
        pid_t pid = fork();
        if (pid > 0 || (pid < 0 && errno != EAGAIN)) {
            _exit(0);
        }
        if (pid < 0) {
            continue;
        }
        setsid();
    }
    _exit(0);
}

static void make_storm(void)
{
    for (int i = 0; i < STORM_WIDTH; i++) {
        if (fork() == 0) {
            ignore_term();
            setsid();
            say_ready();
            run_away();
        }
    }
}

static int make(const char *kind)
{
    if (strcmp(kind, "storm") == 0) {
        make_storm();
        return STORM_WIDTH;
    }
    if (fork() != 0) {
        return 1;
    }
    if (strcmp(kind, "setsid") == 0) {
        setsid();
    } else if (strcmp(kind, "double") == 0) {
        if (fork() != 0) {
            _exit(0);
        }
        setsid();
        if (fork() != 0) {
            _exit(0);
        }
    } else if (strcmp(kind, "ignore") == 0) {
        ignore_term();
    } else if (strcmp(kind, "stopped") == 0) {
        say_ready();
        raise(SIGSTOP);
        stay();
    } else if (strcmp(kind, "reaper") == 0) {
        /* A subreaper of its own, with an orphan in it. */
        prctl(PR_SET_CHILD_SUBREAPER, 1);
        if (fork() == 0) {
            if (fork() == 0) {
                setsid();
                stay();
            }
            _exit(0);
        }
        wait(NULL);
    }
    say_ready();
    stay();
}

int main(int argc, char **argv)
{
    int fds[2];
    int expected = 0;
    bool leaves = false;
    if (pipe(fds) < 0) {
        return 1;
    }
    ready_fd = fds[1];
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "leave") == 0) {
            leaves = true;
        } else if (strcmp(argv[i], "deaf") == 0) {
            ignore_term();
        } else {
            expected += make(argv[i]);
        }
    }
    for (int got = 0; got < expected;) {
        char byte;
        ssize_t n = read(fds[0], &byte, 1);
        if (n == 0 || (n < 0 && errno != EINTR)) {
            return 1;
        }
        got += n > 0;
    }
    puts("ready");
    fflush(stdout);
    if (leaves) {
        return 0;
    }
    stay();
}
