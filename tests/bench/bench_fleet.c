/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A fleet in plain records: the core of the coordinator with many nodes of 8 linked GPUs each,
 * every message packed and unpacked, no transport. Memory of a node with its session, and the work
 * of a beat: what is left of an agent's cost when the wire is taken away (agents.py has it with the
 * wire). One JSON line per row. Usage: bench_fleet [NODES].
 */
#include <malloc.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "accel/v1/agent.pb-c.h"
#include "common/limits.h"
#include "common/str.h"
#include "scheduler/coord.h"
#include "tests/bench/bench.h"

#define NODES_MAX 100000u
#define GPUS      8u
#define ROUNDS    20u   /* beats of each node */
#define BEAT_MS   10000 /* a sixth of the lease of 60 s */

static struct {
    size_t nodes;
    struct coord *coord;
    struct coord_batch batch;
    uint64_t rows;
    int64_t now_ms;
} b = {.now_ms = 1000};

static void coord_take(enum rpc_event_type type, uint64_t call, const ProtobufCMessage *msg)
{
    static const struct rpc_identity root = {
        .role = RPC_ROLE_ADMIN, .uid = 0, .user = "root", .is_local = true};
    struct coord_event ev = {.type = COORD_EV_CALL,
                             .now_ms = b.now_ms,
                             .wall_ms = 1795000000000ll + b.now_ms,
                             .method = COORD_SESSION,
                             .rpc_type = type,
                             .call = call,
                             .who = &root,
                             .msg = msg};
    coord_batch_reset(&b.batch);
    coord_step(b.coord, &ev, &b.batch);
    coord_collect(b.coord, &b.batch);
    b.rows += b.batch.record_count;
}

static void coord_take_up(uint64_t call, const Accel__V1__AgentUp *up)
{
    static uint8_t buf[65536];
    size_t len = accel__v1__agent_up__get_packed_size(up);
    CHECK(len <= sizeof(buf));
    accel__v1__agent_up__pack(up, buf);
    Accel__V1__AgentUp *copy = accel__v1__agent_up__unpack(NULL, len, buf);
    coord_take(RPC_MESSAGE, call, &copy->base);
    accel__v1__agent_up__free_unpacked(copy, NULL);
}

/* --- a node as one of 8 GPUs says Hello --- */

static struct {
    Accel__V1__Device devices[GPUS], *list[GPUS];
    Accel__V1__DeviceLink links[GPUS][GPUS], *link_lists[GPUS][GPUS];
    char ids[GPUS][64], buses[GPUS][16], paths[GPUS][16], *path_lists[GPUS][1];
} gpus;

static void make_gpus(size_t node)
{
    for (uint32_t i = 0; i < GPUS; i++) {
        Accel__V1__Device *d = gpus.list[i] = &gpus.devices[i];
        accel__v1__device__init(d);
        snprintf(gpus.ids[i], sizeof(gpus.ids[i]), "gpu:GPU-%08zx-1c5d-4f6a-9b1e-%012x", node, i);
        snprintf(gpus.buses[i], sizeof(gpus.buses[i]), "0000:%02x:00.0", 0x10 + i * 8);
        snprintf(gpus.paths[i], sizeof(gpus.paths[i]), "/dev/nvidia%u", i);
        d->id = gpus.ids[i];
        d->visible = gpus.ids[i] + 4;
        d->kind = ACCEL__V1__DEVICE_KIND__DEVICE_GPU;
        d->model = (char *)"NVIDIA H100 80GB HBM3";
        d->vendor = (char *)"nvidia";
        d->memory_bytes = 80ull << 30;
        d->index = i;
        d->bus = gpus.buses[i];
        d->numa_node = (int)i / 4;
        gpus.path_lists[i][0] = gpus.paths[i];
        d->paths = gpus.path_lists[i];
        d->n_paths = 1;
        for (uint32_t k = 0; k < GPUS - 1; k++) {
            Accel__V1__DeviceLink *l = gpus.link_lists[i][k] = &gpus.links[i][k];
            accel__v1__device_link__init(l);
            l->index = k < i ? k : k + 1;
            l->kind = (char *)"nvlink";
            l->count = 18;
        }
        d->links = gpus.link_lists[i];
        d->n_links = GPUS - 1;
    }
}

static void join(size_t i)
{
    static char *limits[] = {(char *)"memory: cgroup v2", (char *)"cpus: cgroup v2",
                             (char *)"processes: cgroup v2", (char *)"devices: cgroup v2"};
    Accel__V1__AgentUp up = ACCEL__V1__AGENT_UP__INIT;
    Accel__V1__Hello hello = ACCEL__V1__HELLO__INIT;
    Accel__V1__Node node = ACCEL__V1__NODE__INIT;
    char name[32], address[32], machine[40];
    snprintf(name, sizeof(name), "gpu-%05zu", i);
    snprintf(address, sizeof(address), "10.%zu.%zu.%zu", i >> 16, i >> 8 & 255, i & 255);
    snprintf(machine, sizeof(machine), "%032zx", i);
    make_gpus(i);
    node.name = name;
    node.address = address;
    node.version = (char *)ACCEL_VERSION;
    node.ifname = (char *)"eth0";
    node.isolation = (char *)"cgroup2";
    node.cpus = 192;
    node.memory_bytes = 2ull << 40;
    node.incarnation = 1;
    node.devices = gpus.list;
    node.n_devices = GPUS;
    node.limits = limits;
    node.n_limits = ARRAY_LEN(limits);
    hello.node = &node;
    hello.machine_id = machine;
    up.body_case = ACCEL__V1__AGENT_UP__BODY_HELLO;
    up.hello = &hello;
    coord_take(RPC_OPEN, i + 1, NULL);
    coord_take_up(i + 1, &up);
}

/* --- the rows --- */

static size_t heap_bytes(void)
{
    struct mallinfo2 m = mallinfo2();
    return m.uordblks + m.hblkhd;
}

static double cpu_s(void)
{
    struct rusage u;
    CHECK(getrusage(RUSAGE_SELF, &u) == 0);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
           (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

static void bench_join(void)
{
    coord_batch_reset(&b.batch);
    size_t before = heap_bytes();
    uint64_t from_ns = bench_now_ns();
    for (size_t i = 0; i < b.nodes; i++)
        join(i);
    double ms = (double)(bench_now_ns() - from_ns) / 1e6;
    coord_batch_reset(&b.batch);
    CHECK(coord_nodes_ready(b.coord) == b.nodes);
    printf("{\"row\": \"fleet: memory\", \"nodes\": %zu, \"gpus\": %u, \"bytes_per_node\": %.0f, "
           "\"join_us_per_node\": %.1f, \"rows_per_node\": %.1f}\n",
           b.nodes, GPUS, (double)(heap_bytes() - before) / (double)b.nodes,
           ms * 1e3 / (double)b.nodes, (double)b.rows / (double)b.nodes);
}

/* Spread over the time, as beats are; the silence of each is looked for as it is due. */
static void bench_beats(void)
{
    Accel__V1__AgentUp up = ACCEL__V1__AGENT_UP__INIT;
    Accel__V1__Beat beat = ACCEL__V1__BEAT__INIT;
    int64_t began_ms = b.now_ms;
    up.body_case = ACCEL__V1__AGENT_UP__BODY_BEAT;
    up.beat = &beat;
    b.rows = 0;
    double from_s = cpu_s();
    for (uint64_t i = 0; i < (uint64_t)ROUNDS * b.nodes; i++) {
        b.now_ms = began_ms + (int64_t)(i * BEAT_MS / b.nodes);
        coord_take_up(i % b.nodes + 1, &up);
    }
    double us = (cpu_s() - from_s) * 1e6 / ((double)ROUNDS * (double)b.nodes);
    CHECK(coord_nodes_ready(b.coord) == b.nodes);
    printf("{\"row\": \"fleet: beats\", \"nodes\": %zu, \"us_per_beat\": %.3f, \"rows\": %llu, "
           "\"core_percent\": %.3f, \"nodes_a_core\": %.0f}\n",
           b.nodes, us, (unsigned long long)b.rows, us * (double)b.nodes / BEAT_MS / 10,
           BEAT_MS * 1e3 / us);
}

int main(int argc, char **argv)
{
    const struct coord_config config = {.session_grace_ms = LIMIT_SESSION_GRACE_MS,
                                        .history_jobs = LIMIT_HISTORY_JOBS,
                                        .history_ms = LIMIT_HISTORY_MS};
    uint64_t nodes = 10000;
    if (argc > 1 && parse_u64(argv[1], 1, NODES_MAX, &nodes) < 0) {
        fprintf(stderr, "usage: %s [NODES]: to %u\n", argv[0], NODES_MAX);
        return 2;
    }
    b.nodes = nodes;
    coord_batch_init(&b.batch);
    b.coord = coord_create(&config);
    coord_start(b.coord, b.now_ms, 1795000000000ll, 7);
    bench_join();
    bench_beats();
    fflush(stdout);
    _exit(0); /* the kernel takes it all back faster */
}
