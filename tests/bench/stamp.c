/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A worker whose first instruction is to say what time it is: "NS RANK ATTEMPT PID" as one line
 * into the file or FIFO given. With a second argument it stays until a signal ends it. Static, so
 * that nothing but the kernel's exec comes before main().
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    const char *rank = getenv("RANK"), *attempt = getenv("ACCEL_ATTEMPT");
    char line[128];
    int fd = argc > 1 ? open(argv[1], O_WRONLY | O_APPEND | O_CLOEXEC) : 1;
    int n = snprintf(line, sizeof(line), "%llu %.16s %.16s %d\n",
                     (unsigned long long)t.tv_sec * 1000000000u + (unsigned long long)t.tv_nsec,
                     rank ? rank : "0", attempt ? attempt : "0", (int)getpid());
    if (fd < 0 || write(fd, line, (size_t)n) != n)
        return 1;
    while (argc > 2)
        pause();
    return 0;
}
