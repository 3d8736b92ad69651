/* SPDX-License-Identifier: Apache-2.0 */
/*
 * accel-spawn: `accel-spawn ATTEMPTS_DIR` with a socketpair to acceld as descriptor 3. Started by
 * acceld only (launcher_exec_start_spawn). Here is only what has to be true before anything
 * else: signals that people send to groups of processes do not end it, because it ends with
 * acceld's end of the socketpair.
 */
#include <fcntl.h>
#include <linux/close_range.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agentd/shim.h"

static void ignore_signals(void)
{
    static const int ignored[] = {SIGHUP,  SIGINT,  SIGQUIT, SIGTERM, SIGPIPE, SIGUSR1,
                                  SIGUSR2, SIGXFSZ, SIGTSTP, SIGTTIN, SIGTTOU, SIGALRM};
    struct sigaction ign = {.sa_handler = SIG_IGN};
    struct sigaction deflt = {.sa_handler = SIG_DFL};
    for (size_t i = 0; i < ARRAY_LEN(ignored); i++) {
        sigaction(ignored[i], &ign, NULL);
    }
    sigaction(SIGCHLD, &deflt, NULL);
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "--version") == 0) {
        printf("accel-spawn %s\n", ACCEL_VERSION);
        return 0;
    }
    if (argc != 2 || argv[1][0] != '/' || fcntl(SPAWN_FD, F_GETFD) < 0) {
        fprintf(stderr,
                "accel-spawn: started by acceld only\n"
                "usage: accel-spawn ATTEMPTS_DIR (absolute), a socket to acceld as "
                "descriptor %d\n",
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
    return spawn_run(SPAWN_FD, argv[1]);
}
