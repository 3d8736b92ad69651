/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which nodes carry a gang: the core is told of nodes by their Hello and of jobs by Submit, and its
 * Starts say where it put them.
 */
#include "tests/unit/core_world.h"

#define NODES_MAX 8u

static struct {
    const char *names[NODES_MAX]; /* of the node whose session is i + 1 */
    char placed[256];             /* of the last submit: "a:0-1 b:2-3" in order of node rank */
    char devices[256];            /* same: of its last node, "gpu:0 gpu:1" */
    char error[ACCEL_ERROR_TEXT];
} seen;

static int setup_place(void **state)
{
    memset(&seen, 0, sizeof(seen));
    return setup(state);
}

static void add(const char *name, uint32_t cpus)
{
    seen.names[join(name, cpus) - 1] = name;
}

/* A host of a TPU slice; slice "": it is one of its own. */
static void add_host(const char *name, uint32_t chips, const char *slice, uint32_t slice_nodes,
                     uint32_t worker)
{
    Accel__V1__Slice s = ACCEL__V1__SLICE__INIT;
    Accel__V1__Device devices[8], *list[8];
    char ids[8][16];
    for (uint32_t i = 0; i < chips; i++) {
        accel__v1__device__init(&devices[i]);
        snprintf(ids[i], sizeof(ids[i]), "tpu:%u", i);
        devices[i].id = ids[i];
        devices[i].index = i;
        devices[i].kind = ACCEL__V1__DEVICE_KIND__DEVICE_TPU;
        list[i] = &devices[i];
    }
    s.name = (char *)slice;
    s.nodes = slice_nodes;
    s.worker = worker;
    w.slice = *slice ? &s : NULL;
    seen.names[hello(name, list, chips, NULL, 0) - 1] = name;
    w.slice = NULL;
}

struct link {
    uint32_t from, to;
    const char *kind; /* "part": parts of one GPU */
};

/* The next node, with GPUs. Of two that are linked the first tells of it. */
static void add_gpus(const char *name, uint32_t gpus, const struct link *links, size_t count)
{
    Accel__V1__Device devices[16], *list[16];
    Accel__V1__DeviceLink told[32], *of_device[16][32];
    char ids[16][16];
    for (uint32_t i = 0; i < gpus; i++) {
        accel__v1__device__init(&devices[i]);
        snprintf(ids[i], sizeof(ids[i]), "gpu:%u", i);
        devices[i].id = devices[i].visible = ids[i];
        devices[i].index = i;
        devices[i].kind = ACCEL__V1__DEVICE_KIND__DEVICE_GPU;
        devices[i].links = of_device[i];
        list[i] = &devices[i];
    }
    for (size_t i = 0; i < count; i++) {
        Accel__V1__Device *d = &devices[links[i].from];
        if (!strcmp(links[i].kind, "part")) {
            d->parent = devices[links[i].to].parent = (char *)"GPU-x";
            continue;
        }
        accel__v1__device_link__init(&told[i]);
        told[i].index = links[i].to;
        told[i].kind = (char *)links[i].kind;
        d->links[d->n_links++] = &told[i];
    }
    seen.names[hello(name, list, gpus, NULL, 0) - 1] = name;
}

static void note_starts(void)
{
    char of_rank[NODES_MAX][64] = {{0}};
    for (size_t i = 0; i < w.batch.output_count; i++) {
        const struct coord_output *o = &w.batch.outputs[i];
        if (o->call > NODES_MAX || !o->data)
            continue;
        Accel__V1__CoordDown *down = accel__v1__coord_down__unpack(NULL, o->len, o->data);
        assert_non_null(down);
        const Accel__V1__Start *st = down->start;
        if (down->body_case == ACCEL__V1__COORD_DOWN__BODY_START) {
            seen.devices[0] = 0;
            for (size_t k = 0, used = 0; k < st->n_devices && used < sizeof(seen.devices); k++)
                used += (size_t)snprintf(seen.devices + used, sizeof(seen.devices) - used, "%s%s",
                                         k ? " " : "", st->devices[k]);
            snprintf(of_rank[st->node_rank], sizeof(of_rank[0]), "%s%s:%u-%u",
                     st->node_rank ? " " : "", seen.names[o->call - 1], st->first_rank,
                     st->first_rank + st->local_size - 1);
        }
        accel__v1__coord_down__free_unpacked(down, NULL);
    }
    for (size_t i = 0, used = 0; i < NODES_MAX && used < sizeof(seen.placed); i++)
        used += (size_t)snprintf(seen.placed + used, sizeof(seen.placed) - used, "%s", of_rank[i]);
}

struct wish {
    uint32_t nodes, procs, kind;
    const char *nodelist, *exclude; /* one name each; NULL: none */
    uint32_t cpus;                  /* for each process */
};

static const char *place(struct wish wish)
{
    Accel__V1__SubmitRequest rq = ACCEL__V1__SUBMIT_REQUEST__INIT;
    Accel__V1__JobSpec spec = ACCEL__V1__JOB_SPEC__INIT;
    ProtobufCBinaryData argv[] = {{9, (uint8_t *)"/bin/true"}};
    uint8_t id[LIMIT_REQUEST_ID_BYTES] = {++w.requests};
    spec.n_argv = 1;
    spec.argv = argv;
    spec.cwd = (ProtobufCBinaryData){1, (uint8_t *)"/"};
    spec.nodes = wish.nodes;
    spec.procs_per_node = wish.procs;
    spec.device_kind = (Accel__V1__DeviceKind)wish.kind;
    spec.cpus_per_proc = wish.cpus;
    spec.n_nodelist = wish.nodelist != NULL;
    spec.nodelist = (char **)&wish.nodelist;
    spec.n_exclude = wish.exclude != NULL;
    spec.exclude = (char **)&wish.exclude;
    rq.request_id = (ProtobufCBinaryData){sizeof(id), id};
    rq.spec = &spec;
    open_as(&root, COORD_SUBMIT, &rq);
    seen.placed[0] = seen.error[0] = 0;
    for (size_t i = 0; i < w.batch.output_count; i++)
        if (w.batch.outputs[i].code)
            snprintf(seen.error, sizeof(seen.error), "%s", w.batch.outputs[i].text);
    note_starts();
    return seen.placed;
}

#define CPU ACCEL__V1__DEVICE_KIND__DEVICE_CPU
#define GPU ACCEL__V1__DEVICE_KIND__DEVICE_GPU
#define TPU ACCEL__V1__DEVICE_KIND__DEVICE_TPU

static void assert_refused(const char *words)
{
    assert_string_equal(seen.placed, "");
    assert_non_null(strstr(seen.error, words));
    assert_non_null(strstr(seen.error, "\nwhy: "));
    assert_non_null(strstr(seen.error, "\ntry: "));
}

static void test_fullest_first(void **state)
{
    (void)state;
    add("a", 8);
    add("b", 4);
    add("c", 8);
    add("d", 4);
    assert_string_equal(place((struct wish){2, 2, CPU, NULL, NULL, 0}), "b:0-1 d:2-3");
    assert_string_equal(place((struct wish){3, 2, CPU, NULL, NULL, 0}), "a:0-1 b:2-3 d:4-5");
    assert_string_equal(place((struct wish){2, 6, CPU, NULL, NULL, 0}), "a:0-5 c:6-11");
    /* All could, and none has room now: it waits, and is not refused. */
    assert_string_equal(place((struct wish){4, 4, CPU, NULL, NULL, 0}), "");
    assert_string_equal(seen.error, "");
}

/* Small jobs fill up what is begun, so that whole nodes stay for gangs. */
static void test_one_node_is_the_fullest(void **state)
{
    (void)state;
    add("b", 8);
    add("a", 8);
    add("c", 4);
    assert_string_equal(place((struct wish){1, 2, CPU, NULL, NULL, 0}), "c:0-1");
    assert_string_equal(place((struct wish){1, 1, CPU, NULL, NULL, 0}), "c:0-0");
    assert_string_equal(place((struct wish){1, 2, CPU, NULL, NULL, 0}), "a:0-1"); /* by name */
    assert_string_equal(place((struct wish){1, 2, CPU, NULL, NULL, 0}), "a:0-1");
    assert_string_equal(place((struct wish){1, 8, CPU, NULL, NULL, 0}), "b:0-7");
}

/* Whoever does not care gets an accelerator while there is one. */
static void test_auto_takes_accelerators(void **state)
{
    (void)state;
    add("a", 2);
    add_gpus("g", 2, NULL, 0);
    for (int i = 0; i < 2; i++)
        assert_string_equal(place((struct wish){1, 1, 0, NULL, NULL, 0}), "g:0-0");
    assert_string_equal(place((struct wish){1, 1, 0, NULL, NULL, 0}), "a:0-0");
}

/* The GPUs that a job of so many gets. */
static const char *gpus_for(uint32_t count)
{
    seen.devices[0] = 0;
    place((struct wish){1, count, GPU, NULL, NULL, 0});
    assert_string_equal(seen.error, "");
    return seen.devices;
}

static void test_islands_stay_whole(void **state)
{
    static const struct link pairs[] = {{0, 1, "nvlink"}, {2, 3, "nvlink"}, {0, 2, "sys"}};
    (void)state;
    add_gpus("a", 4, pairs, ARRAY_LEN(pairs));
    assert_string_equal(gpus_for(1), "gpu:0");
    assert_string_equal(gpus_for(2), "gpu:2 gpu:3");
    assert_string_equal(gpus_for(1), "gpu:1");
}

static void test_islands_are_nested(void **state)
{
    /* 0 and 5, 1 and 4, 2 and 3 by NVLink; the first four of these on one switch. */
    static const struct link links[] = {
        {0, 5, "nvlink"}, {4, 1, "nvlink"}, {2, 3, "nvlink"}, {0, 1, "pxb"}};
    (void)state;
    add_gpus("a", 6, links, ARRAY_LEN(links));
    assert_string_equal(gpus_for(1), "gpu:2"); /* the switch stays whole */
    assert_string_equal(gpus_for(2), "gpu:0 gpu:5");
    assert_string_equal(gpus_for(3), "gpu:1 gpu:3 gpu:4"); /* over two of them, if it must be */
}

static void test_a_gpu_in_parts_is_filled_up(void **state)
{
    static const struct link links[] = {{1, 2, "part"}, {2, 3, "part"}};
    (void)state;
    add_gpus("a", 4, links, ARRAY_LEN(links));
    assert_string_equal(gpus_for(1), "gpu:0");
    assert_string_equal(gpus_for(1), "gpu:1");
    assert_string_equal(gpus_for(2), "gpu:2 gpu:3");
}

static void test_without_links_the_first(void **state)
{
    (void)state;
    add_gpus("a", 4, NULL, 0);
    assert_string_equal(gpus_for(3), "gpu:0 gpu:1 gpu:2");
    assert_string_equal(gpus_for(1), "gpu:3");
}

static void test_names(void **state)
{
    (void)state;
    add("node-a", 4);
    add("node-b", 4);
    add("node-c", 4);
    assert_string_equal(place((struct wish){1, 1, CPU, "node-c", NULL, 0}), "node-c:0-0");
    assert_string_equal(place((struct wish){2, 1, CPU, NULL, "node-a", 0}),
                        "node-b:0-0 node-c:1-1");
    place((struct wish){1, 1, CPU, "node-d", NULL, 0});
    assert_refused("no node node-d");
    assert_non_null(strstr(seen.error, "try: node-"));
    place((struct wish){1, 1, CPU, NULL, "elsewhere", 0});
    assert_refused("--exclude: no node elsewhere");
    place((struct wish){2, 1, CPU, "node-a", NULL, 0});
    assert_refused("--nodelist names 1 node");
    place((struct wish){3, 1, CPU, NULL, "node-a", 0});
    assert_refused("2 nodes have that");
    place((struct wish){4, 2, CPU, NULL, NULL, 0});
    assert_refused("it asks for 4 nodes with 2 CPU slots each; 3 nodes have that");
}

/* Two slices of two hosts, told out of order, and a TPU VM of its own. */
static void test_slices_are_whole(void **state)
{
    (void)state;
    add_host("y1", 4, "y", 2, 1);
    add_host("alone", 4, "", 0, 0);
    add_host("x1", 4, "x", 2, 1);
    add_host("x0", 4, "x", 2, 0);
    assert_string_equal(place((struct wish){4, 1, TPU, NULL, NULL, 0}), "");
    assert_refused("4 nodes");
    add_host("y0", 4, "y", 2, 0);
    assert_string_equal(place((struct wish){1, 1, TPU, NULL, NULL, 0}), "alone:0-0");
    assert_string_equal(place((struct wish){2, 1, TPU, NULL, NULL, 0}), "x0:0-0 x1:1-1");
    assert_string_equal(place((struct wish){3, 1, TPU, NULL, NULL, 0}), "");
    assert_refused("no slices have 3 nodes");
    assert_string_equal(place((struct wish){2, 1, TPU, NULL, NULL, 0}), "y0:0-0 y1:1-1");
    assert_string_equal(place((struct wish){4, 1, TPU, NULL, NULL, 0}), "");
    assert_string_equal(seen.error, ""); /* both slices together: possible, and it waits */
}

/* --- nodes that are known and not here --- */

/* What a Get of the job says that it waits for. */
static const char *reason_of(uint64_t job)
{
    Accel__V1__GetReply *m = get_job(job);
    assert_int_equal(m->job->state, ACCEL__V1__JOB_STATE__JOB_PENDING);
    snprintf(seen.error, sizeof(seen.error), "%s", m->job->reason);
    free_message(m);
    return seen.error;
}

/* Accepted, and placed nowhere yet. */
static void assert_waits(struct wish wish, uint64_t job, const char *words)
{
    assert_string_equal(place(wish), "");
    assert_string_equal(seen.error, "");
    assert_string_equal(reason_of(job), words);
}

static void test_nodes_of_the_store_count(void **state)
{
    (void)state;
    add("a", 4);
    add("b", 4);
    add("c", 4);
    restart();
    add("a", 4);
    assert_waits((struct wish){3, 1, CPU, NULL, NULL, 0}, 1, "waits for nodes b, c to come back");
    add("c", 4);
    assert_string_equal(reason_of(1), "waits for node b to come back");
    place((struct wish){4, 1, CPU, NULL, NULL, 0});
    assert_refused("3 nodes have that");
    add("b", 4);
    note_starts();
    assert_string_equal(seen.placed, "a:0-0 b:1-1 c:2-2");
}

/* A lost node may never come back: who waits for it holds nobody up meanwhile. */
static void test_who_waits_for_a_lost_node_is_passed(void **state)
{
    (void)state;
    add("a", 4);
    add("b", 4);
    restart();
    add("a", 4);
    assert_waits((struct wish){2, 1, CPU, NULL, NULL, 0}, 1, "waits for node b to come back");
    assert_waits((struct wish){1, 1, CPU, NULL, NULL, 0}, 2, "waits behind job 1");
    pass(LIMIT_SESSION_GRACE_MS);
    note_starts();
    assert_string_equal(seen.placed, "a:0-0");
    assert_string_equal(reason_of(1), "waits for node b to come back");
    assert_string_equal(place((struct wish){1, 1, CPU, NULL, NULL, 0}), "a:0-0");
    add("b", 4);
    note_starts();
    assert_string_equal(seen.placed, "a:0-0 b:1-1");
}

/* A slice is told with the Hello only: until then its nodes might be any. */
static void test_slices_of_the_store_count(void **state)
{
    (void)state;
    add_host("x0", 4, "x", 2, 0);
    add_host("x1", 4, "x", 2, 1);
    add_host("y0", 4, "y", 2, 0);
    add_host("y1", 4, "y", 2, 1);
    add("c", 4);
    restart();
    add("c", 4);
    add_host("x0", 4, "x", 2, 0);
    add_host("x1", 4, "x", 2, 1);
    place((struct wish){5, 1, TPU, NULL, NULL, 0});
    assert_refused("4 nodes have that");
    assert_waits((struct wish){4, 1, TPU, NULL, NULL, 0}, 1,
                 "waits for nodes y0, y1 to tell what they are");
    assert_string_equal(place((struct wish){1, 1, CPU, NULL, NULL, 0}), "c:0-0"); /* not behind */
    add_host("y0", 4, "y", 2, 0);
    assert_string_equal(reason_of(1), "waits for node y1 to tell what it is");
    add_host("y1", 4, "y", 2, 1);
    note_starts();
    assert_string_equal(seen.placed, "x0:0-0 x1:1-1 y0:2-2 y1:3-3");
}

static void enrol(const char *name)
{
    static const uint8_t hash[PKI_HASH_BYTES] = {9};
    Accel__V1__CreateNodeTokenRequest token = ACCEL__V1__CREATE_NODE_TOKEN_REQUEST__INIT;
    Accel__V1__EnrollRequest rq = ACCEL__V1__ENROLL_REQUEST__INIT;
    uint8_t id[LIMIT_REQUEST_ID_BYTES] = {++w.requests};
    const struct coord_grant grant = {.hash = hash,
                                      .certificate_pem = "cert",
                                      .ca_pem = "ca",
                                      .serial = name,
                                      .not_after_ms = w.wall_ms + LIMIT_CERTIFICATE_MS,
                                      .token = "token"};
    rq.request_id = (ProtobufCBinaryData){sizeof(id), id};
    rq.node = (char *)name;
    rq.machine_id = (char *)name;
    const struct coord_output *o = open_granted(&root, COORD_CREATE_TOKEN, &token, &grant);
    assert_int_equal(o->code, 0);
    o = open_granted(&root, COORD_ENROLL, &rq, &grant);
    assert_int_equal(o->code, 0);
}

static void test_enrolled_nodes_count(void **state)
{
    (void)state;
    add("a", 4);
    place((struct wish){2, 1, CPU, NULL, NULL, 0});
    assert_refused("1 node has that");
    enrol("b");
    restart();
    add("a", 4);
    assert_waits((struct wish){2, 1, CPU, NULL, NULL, 0}, 1, "waits for node b to tell what it is");
    assert_string_equal(place((struct wish){1, 1, CPU, NULL, NULL, 0}), "a:0-0");
    place((struct wish){3, 1, CPU, NULL, NULL, 0});
    assert_refused("1 node has that");
    place((struct wish){2, 1, CPU, NULL, "b", 0}); /* it does not wait for whom it leaves out */
    assert_refused("1 node has that");
    assert_waits((struct wish){1, 1, CPU, "b", NULL, 0}, 3, "waits for node b to tell what it is");
    add("b", 4);
    note_starts();
    assert_string_equal(seen.placed, "b:0-0 b:1-1"); /* of two jobs */
}

/* Nodes here have 8 CPUs, and may have more slots. */
static void test_cpus_must_exist(void **state)
{
    (void)state;
    add("a", 16);
    add("b", 4);
    place((struct wish){1, 1, CPU, NULL, NULL, LIMIT_CPUS_PER_PROC + 1});
    assert_non_null(strstr(seen.error, "why: the limit is"));
    place((struct wish){1, 3, CPU, NULL, NULL, 4});
    assert_refused("too few CPUs: 3 processes with 4 CPUs each on one node");
    assert_non_null(strstr(seen.error, "try: fewer --procs, or --cpus-per-task 2"));
    place((struct wish){2, 1, CPU, NULL, NULL, 9});
    assert_refused("1 process with 9 CPUs each on every node");
    place((struct wish){1, 20, CPU, NULL, NULL, 9}); /* and too few slots: that is said first */
    assert_refused("20 CPU slots");
    assert_string_equal(place((struct wish){1, 2, CPU, NULL, NULL, 4}), "b:0-1");
    Accel__V1__GetReply *m = get_job(1);
    assert_int_equal(m->job->cpus_per_proc, 4);
    free_message(m);
}

static void test_left_out_nodes_are_named(void **state)
{
    (void)state;
    add("a", 4);
    add("b", 4);
    place((struct wish){2, 1, CPU, NULL, "b", 0});
    assert_refused("why: left out by --exclude: b; node a has 4 CPU slots,");
    place((struct wish){1, 8, CPU, "a", NULL, 0});
    assert_refused("why: left out by --nodelist: b; node a has 4 CPU slots,");
    place((struct wish){1, 8, CPU, NULL, NULL, 0});
    assert_refused("why: node a has 4 CPU slots,");
}

/* Each rank of a gang is on the node of its share, also after a restart of the coordinator. */
static void test_ranks_are_on_their_nodes(void **state)
{
    static const char *const names[] = {"a", "a", "a", "b", "b", "b", "c", "c", "c", "d", "d", "d"};
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(names); i += 3)
        add(names[i], 3);
    place((struct wish){4, 3, CPU, NULL, NULL, 0});
    for (int round = 0; round < 2; round++) {
        Accel__V1__GetReply *m = get_job(1);
        const Accel__V1__Attempt *a = m->job->attempts[0];
        assert_int_equal(a->n_ranks, ARRAY_LEN(names));
        for (size_t i = 0; i < a->n_ranks; i++)
            assert_string_equal(a->ranks[i]->node, names[i]);
        free_message(m);
        restart();
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_fullest_first, setup_place, teardown),
        cmocka_unit_test_setup_teardown(test_one_node_is_the_fullest, setup_place, teardown),
        cmocka_unit_test_setup_teardown(test_auto_takes_accelerators, setup_place, teardown),
        cmocka_unit_test_setup_teardown(test_islands_stay_whole, setup_place, teardown),
        cmocka_unit_test_setup_teardown(test_islands_are_nested, setup_place, teardown),
        cmocka_unit_test_setup_teardown(test_a_gpu_in_parts_is_filled_up, setup_place, teardown),
        cmocka_unit_test_setup_teardown(test_without_links_the_first, setup_place, teardown),
        cmocka_unit_test_setup_teardown(test_names, setup_place, teardown),
        cmocka_unit_test_setup_teardown(test_slices_are_whole, setup_place, teardown),
        cmocka_unit_test_setup_teardown(test_nodes_of_the_store_count, setup_place, teardown),
        cmocka_unit_test_setup_teardown(test_who_waits_for_a_lost_node_is_passed, setup_place,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_slices_of_the_store_count, setup_place, teardown),
        cmocka_unit_test_setup_teardown(test_enrolled_nodes_count, setup_place, teardown),
        cmocka_unit_test_setup_teardown(test_cpus_must_exist, setup_place, teardown),
        cmocka_unit_test_setup_teardown(test_left_out_nodes_are_named, setup_place, teardown),
        cmocka_unit_test_setup_teardown(test_ranks_are_on_their_nodes, setup_place, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
