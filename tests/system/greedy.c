/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a job tries that limits are there for: `greedy hog MIB` touches so much memory, `greedy bomb
 * N` makes N processes that stay (exit code: the errno of the fork that failed), `greedy open PATH`
 * says what comes of opening a device.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static int hog(size_t mib)
{
    char *p = mmap(NULL, mib << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) {
        return 1;
    }
    for (size_t i = 0; i < mib << 20; i += 4096) {
        ((volatile char *)p)[i] = 1;
    }
    return 0;
}

static int bomb(long count)
{
    for (long i = 0; i < count; i++) {
        pid_t pid = fork();
        if (pid < 0) {
            return errno;
        }
        if (pid == 0) {
            for (;;) {
                pause();
            }
        }
    }
    return 0;
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        return 2;
    }
    if (strcmp(argv[1], "hog") == 0) {
        return hog((size_t)strtoul(argv[2], NULL, 10));
    }
    if (strcmp(argv[1], "bomb") == 0) {
        _exit(
            bomb(strtol(argv[2], NULL, 10))); /* a sanitizer would want a thread for its goodbye */
    }
    int fd = open(argv[2], O_RDWR);
    puts(fd < 0 ? strerror(errno) : "Success");
    return 0;
}
