/* SPDX-License-Identifier: Apache-2.0 */
/*
 * accel-spawn: `accel-spawn ATTEMPTS_DIR [RULES]` with a socketpair to acceld as descriptor 3.
 * Started by acceld only (launcher_exec_start_spawn). Here is only what has to be true before
 * anything else: signals that people send to groups of processes do not end it, because it ends
 * with acceld's end of the socketpair.
 */
#include <fcntl.h>
#include <linux/close_range.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "agentd/shim.h"
#include "agentd/spawn_internal.h"
#include "common/str.h"

/* First all to the default, also what an ancestor has ignored. The kernel's own call, because glibc
 * keeps 32 and 33 to itself; all zeros is SIG_DFL without flags. */
static void ignore_signals(void)
{
    static const char deflt[64];
    struct sigaction ign = {.sa_handler = SIG_IGN};
    for (int i = 1; i < NSIG; i++) {
        syscall(SYS_rt_sigaction, i, deflt, NULL, 8);
    }
    for (size_t i = 0; i < ARRAY_LEN(spawn_ignored); i++) {
        sigaction(spawn_ignored[i], &ign, NULL);
    }
}

/* ATTEMPTS_DIR alone: all jobs are ours. With three numbers: each runs as its own user. */
static bool parse_rules(int argc, char **argv, struct identity_rules *rules)
{
    uint64_t n[3];
    if (argc == 2) {
        return true;
    }
    for (int i = 0; i < 3 && argc == 5; i++) {
        if (parse_u64(argv[2 + i], 0, INT32_MAX, &n[i]) < 0) {
            return false;
        }
    }
    if (argc != 5 || geteuid() != 0 || n[1] == 0 || n[2] == 0) {
        return false;
    }
    *rules = (struct identity_rules){true, (uid_t)n[0], (uid_t)n[1], (gid_t)n[2]};
    return true;
}

int main(int argc, char **argv)
{
    struct identity_rules rules = {0};
    if (argc == 2 && strcmp(argv[1], "--version") == 0) {
        printf("accel-spawn %s\n", ACCEL_VERSION);
        return 0;
    }
    if (argc < 2 || argv[1][0] != '/' || !parse_rules(argc, argv, &rules) ||
        fcntl(SPAWN_FD, F_GETFD) < 0) {
        fprintf(
            stderr,
            "accel-spawn: started by acceld only\n"
            "usage: accel-spawn ATTEMPTS_DIR [MIN_UID AGENT_UID AGENT_GID] (absolute), a socket "
            "to acceld as descriptor %d\n",
            SPAWN_FD);
        return 2;
    }
    ignore_signals();
    umask(077);
    close_range(SPAWN_FD + 1, ~0U, 0);
    fcntl(SPAWN_FD, F_SETFD, FD_CLOEXEC);
    if (chdir("/") < 0) {
        perror("accel-spawn: /");
        return 1;
    }
    return spawn_run(SPAWN_FD, argv[1], &rules);
}
