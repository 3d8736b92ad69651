/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A C program that knows no library: rank 0 listens at MASTER_ADDR:MASTER_PORT, the others connect
 * and say their rank, rank 0 answers with the sum.
 */
#include <arpa/inet.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static int number(const char *name)
{
    const char *text = getenv(name);
    if (!text) {
        fprintf(stderr, "%s is not set\n", name);
        exit(2);
    }
    return (int)strtol(text, NULL, 10);
}

static int fail(const char *what)
{
    perror(what);
    return 1;
}

static int serve(int fd, const struct sockaddr_in *at, int world)
{
    int one = 1, sum = 0, rank, peers[64], count = 0;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (bind(fd, (const struct sockaddr *)at, sizeof(*at)) < 0 || listen(fd, 64) < 0)
        return fail("bind");
    while (count < world - 1 && count < 64) {
        peers[count] = accept(fd, NULL, NULL);
        if (peers[count] < 0 || read(peers[count], &rank, sizeof(rank)) != sizeof(rank))
            return fail("accept");
        sum += rank;
        count++;
    }
    while (count > 0) {
        if (write(peers[--count], &sum, sizeof(sum)) != sizeof(sum))
            return fail("write");
    }
    printf("rank 0 of %d sum %d\n", world, sum);
    return 0;
}

int main(void)
{
    int rank = number("RANK"), world = number("WORLD_SIZE"), sum, r;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in at = {.sin_family = AF_INET};
    at.sin_port = htons((unsigned short)number("MASTER_PORT"));
    if (!getenv("MASTER_ADDR") || inet_pton(AF_INET, getenv("MASTER_ADDR"), &at.sin_addr) != 1) {
        fprintf(stderr, "MASTER_ADDR is no address\n");
        return 2;
    }
    if (rank == 0)
        return serve(fd, &at, world);
    while ((r = connect(fd, (struct sockaddr *)&at, sizeof(at))) < 0) {
        close(fd); /* rank 0 is not there yet */
        poll(NULL, 0, 10);
        fd = socket(AF_INET, SOCK_STREAM, 0);
    }
    if (write(fd, &rank, sizeof(rank)) != sizeof(rank) ||
        read(fd, &sum, sizeof(sum)) != sizeof(sum))
        return fail("talk");
    printf("rank %d of %d sum %d\n", rank, world, sum);
    return 0;
}
