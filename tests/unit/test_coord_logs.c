/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads of output in the coordinator's core: over several nodes, some of which are away, come back
 * or are removed meanwhile. Node rank N is session N + 1.
 */
#include "tests/unit/core_world.h"

static uint64_t job;

static void gang(uint32_t nodes)
{
    static const char *const names[] = {"n0", "n1", "n2"};

    for (uint32_t i = 0; i < nodes; i++)
        join(names[i], 1);
    job = submit(nodes);
    for (uint32_t i = 0; nodes > 1 && i < nodes; i++)
        say_prepared(i + 1, job, 1);
    for (uint32_t i = 0; i < nodes; i++)
        say_started(i + 1, job, 1, i);
}

static uint64_t come_back(const char *name)
{
    Accel__V1__AttemptRef ref = ref_of(job, 1);
    Accel__V1__AttemptStatus has = ACCEL__V1__ATTEMPT_STATUS__INIT, *list = &has;

    has.ref = &ref;
    has.state = (char *)"RUNNING";
    return join_with(name, 1, &list, 1);
}

/* A session breaks, and the grace passes. */
static void go_away(uint64_t session)
{
    hang_up(session);
    pass(LIMIT_SESSION_GRACE_MS);
}

static uint64_t read_logs(bool is_waiting, bool tell_missing)
{
    Accel__V1__LogReadRequest rq = ACCEL__V1__LOG_READ_REQUEST__INIT;

    rq.job_id = job;
    rq.attempt = 1;
    rq.wait = is_waiting;
    rq.tell_missing = tell_missing;
    return open_as(&root, COORD_LOG_READ, &rq);
}

/* The number under which the last step asked a node; 0: it did not. */
static uint64_t asked(uint64_t session)
{
    uint64_t id = 0;

    for (size_t i = 0; i < w.batch.output_count; i++) {
        const struct coord_output *o = &w.batch.outputs[i];
        if (o->call != session || !o->data)
            continue;
        Accel__V1__CoordDown *down = accel__v1__coord_down__unpack(NULL, o->len, o->data);
        if (down->body_case == ACCEL__V1__COORD_DOWN__BODY_LOG_READ)
            id = down->log_read->id;
        free_message(down);
    }
    return id;
}

/* text "": the rank has written nothing, and that is its end. */
static void answer(uint64_t session, uint64_t id, uint32_t rank, const char *text)
{
    Accel__V1__AgentUp up = ACCEL__V1__AGENT_UP__INIT;
    Accel__V1__LogData m = ACCEL__V1__LOG_DATA__INIT;
    Accel__V1__LogReadReply reply = ACCEL__V1__LOG_READ_REPLY__INIT;
    Accel__V1__LogChunk chunk = ACCEL__V1__LOG_CHUNK__INIT, *chunks = &chunk;

    chunk.rank = rank;
    chunk.data = (ProtobufCBinaryData){strlen(text), (uint8_t *)text};
    reply.attempt = 1;
    reply.n_chunks = *text != 0;
    reply.chunks = &chunks;
    reply.ended = *text == 0;
    m.id = id;
    m.reply = &reply;
    up.body_case = ACCEL__V1__AGENT_UP__BODY_LOG_DATA;
    up.log_data = &m;
    say(session, &up);
}

/* What the last step answered: "a0 b1 missing n1 ended", each chunk with its rank. */
static const char *read_answer(uint64_t call)
{
    static char text[512];
    const struct coord_output *o = said_to(call);
    size_t used = 0;

    text[0] = 0;
    if (!o)
        return "nothing yet";
    assert_true(o->is_end);
    if (o->code) {
        snprintf(text, sizeof(text), "%s: %s", accel_error_name(o->code), o->text);
        return text;
    }
    Accel__V1__LogReadReply *m = accel__v1__log_read_reply__unpack(NULL, o->len, o->data);
    assert_non_null(m);
    assert_int_equal(m->attempt, 1);
    for (size_t i = 0; i < m->n_chunks; i++)
        used += (size_t)snprintf(text + used, sizeof(text) - used, "%.*s%u ",
                                 (int)m->chunks[i]->data.len, (const char *)m->chunks[i]->data.data,
                                 m->chunks[i]->rank);
    for (size_t i = 0; i < m->n_missing_nodes; i++)
        used +=
            (size_t)snprintf(text + used, sizeof(text) - used, "missing %s ", m->missing_nodes[i]);
    snprintf(text + used, sizeof(text) - used, "%s", m->ended ? "ended" : "");
    free_message(m);
    return text;
}

static void assert_answer(uint64_t call, const char *words)
{
    const char *text = read_answer(call);

    if (strncmp(text, words, strlen(words)) != 0)
        fail_msg("%s", text);
}

static void test_what_the_others_have(void **state)
{
    (void)state;
    gang(3);
    go_away(2);
    uint64_t call = read_logs(false, true);
    uint64_t first = asked(1), third = asked(3);
    assert_true(first && third && !asked(2));
    answer(1, first, 0, "a");
    answer(3, third, 2, "c");
    assert_answer(call, "a0 c2 missing n1 ");
    call = read_logs(true, true); /* who waits gets the first that brings something */
    answer(3, asked(3), 2, "d");
    assert_answer(call, "d2 missing n1 ");
    call = read_logs(true, true); /* or hears that only the missing one can bring more */
    first = asked(1);
    third = asked(3);
    answer(1, first, 0, "");
    answer(3, third, 2, "");
    assert_string_equal(read_answer(call), "missing n1 "); /* not ended */
}

/* Readers that cannot be told that something is missing get all or nothing. */
static void test_old_readers(void **state)
{
    (void)state;
    gang(2);
    go_away(2);
    assert_answer(read_logs(true, false), "EUNAVAIL: the logs of job 1 attempt 1 are on node n1");
    go_away(1);
    assert_answer(read_logs(true, false), "EUNAVAIL: the logs of job 1 attempt 1 are on node n");
}

static void test_all_are_away(void **state)
{
    (void)state;
    gang(2);
    go_away(1);
    go_away(2);
    assert_string_equal(read_answer(read_logs(true, true)), "missing n0 missing n1 ");
    assert_string_equal(read_answer(read_logs(false, true)), "missing n0 missing n1 ");
}

static void test_the_only_node_is_away(void **state)
{
    (void)state;
    gang(1);
    hang_up(1);
    uint64_t call = read_logs(true, true); /* within the grace it is waited for */
    assert_string_equal(read_answer(call), "nothing yet");
    pass(LIMIT_SESSION_GRACE_MS);
    call = read_logs(true, true);
    assert_string_equal(read_answer(call), "missing n0 ");
    uint64_t back = come_back("n0");
    call = read_logs(true, true);
    answer(back, asked(back), 0, "a");
    assert_string_equal(read_answer(call), "a0 ");
}

/* Else nobody would ask it before the others have something to say. */
static void test_who_comes_back_is_read(void **state)
{
    (void)state;
    gang(2);
    go_away(2);
    uint64_t call = read_logs(true, true);
    assert_string_equal(read_answer(call), "nothing yet");
    uint64_t back = come_back("n1");
    assert_string_equal(read_answer(call), ""); /* ask again */
    call = read_logs(true, true);
    answer(back, asked(back), 1, "b");
    assert_string_equal(read_answer(call), "b1 ");
}

static void test_who_is_removed_meanwhile(void **state)
{
    Accel__V1__RemoveNodeRequest rq = ACCEL__V1__REMOVE_NODE_REQUEST__INIT;
    uint8_t id[LIMIT_REQUEST_ID_BYTES] = {200};

    (void)state;
    gang(2);
    go_away(2);
    uint64_t call = read_logs(true, true);
    rq.request_id = (ProtobufCBinaryData){sizeof(id), id};
    rq.name = (char *)"n1";
    open_as(&root, COORD_REMOVE_NODE, &rq);
    assert_answer(call, "EUNAVAIL: node n1 does not answer"); /* a reader tries again */
    call = read_logs(true, true);
    answer(1, asked(1), 0, "");
    assert_string_equal(read_answer(call), "missing n1 ended"); /* nothing will ever come of it */
}

/* What a node was asked for, in bytes. */
static uint32_t bytes_asked(uint64_t session)
{
    const struct coord_output *o = said_to(session);

    assert_non_null(o);
    Accel__V1__CoordDown *down = accel__v1__coord_down__unpack(NULL, o->len, o->data);
    assert_int_equal(down->body_case, ACCEL__V1__COORD_DOWN__BODY_LOG_READ);
    uint32_t bytes = down->log_read->request->max_bytes;
    free_message(down);
    return bytes;
}

/* Readers that wait are answered all at once, and must not break the session of the node. */
static void test_many_readers_share_the_room(void **state)
{
    uint64_t total = 0;
    uint32_t bytes = 0;

    (void)state;
    gang(1);
    uint64_t first = read_logs(true, true);
    assert_int_equal(bytes_asked(1), LIMIT_LOG_CHUNK_BYTES);
    uint64_t first_id = first;
    for (uint32_t i = 1; i < LIMIT_LOG_READS_USER - 1; i++) {
        read_logs(true, true);
        total += bytes = bytes_asked(1);
        assert_true(bytes >= 4096);
    }
    assert_true(bytes < LIMIT_LOG_CHUNK_BYTES);
    assert_true(total <= LIMIT_LOG_NODE_BYTES + LIMIT_LOG_READS_USER * 4096);
    step_call(COORD_LOG_READ, RPC_CLOSED, first_id, &root, NULL); /* its room is free again */
    hang_up(1);
    uint64_t back = come_back("n0");
    read_logs(true, true);
    assert_int_equal(bytes_asked(back), LIMIT_LOG_CHUNK_BYTES);
}

static const struct rpc_identity bob = {
    .role = RPC_ROLE_USER, .uid = 71, .user = "bob", .is_local = true};

/* Parked or asked for, each counts as his until it is over, whoever brings it on its way. */
static void test_one_user_has_so_many(void **state)
{
    Accel__V1__LogReadRequest rq = ACCEL__V1__LOG_READ_REQUEST__INIT;
    uint64_t last = 0;

    (void)state;
    join("n0", 1);
    job = submit_as(&bob, 1, NULL);
    rq.job_id = job;
    rq.attempt = 1;
    rq.wait = true;
    for (uint32_t i = 0; i < LIMIT_LOG_READS_USER; i++)
        last = open_as(&bob, COORD_LOG_READ, &rq);
    assert_string_equal(read_answer(last), "nothing yet");
    uint64_t call = open_as(&bob, COORD_LOG_READ, &rq);
    assert_answer(call, "EFULL: bob has 1024 reads of output open\nwhy: ");
    say_started(1, job, 1, 0); /* all go to the node, in a step of its own */
    call = open_as(&bob, COORD_LOG_READ, &rq);
    assert_answer(call, "EFULL: bob has 1024 reads");
    step_call(COORD_LOG_READ, RPC_CLOSED, last, &bob, NULL);
    call = open_as(&bob, COORD_LOG_READ, &rq);
    assert_string_equal(read_answer(call), "nothing yet");
    read_logs(true, true); /* somebody else's */
    assert_true(asked(1) != 0);
}

/* Numbers of calls carry the number of their server in the highest bits. */
static void test_readers_of_every_server(void **state)
{
    (void)state;
    gang(1);
    for (uint64_t server = 0; server <= 4; server++) {
        w.calls = server << 61 | CALLS_FROM;
        uint64_t call = read_logs(true, true);
        answer(1, asked(1), 0, "a");
        assert_string_equal(read_answer(call), "a0 ");
    }
}

static void test_a_reader_that_goes(void **state)
{
    (void)state;
    gang(2);
    go_away(2);
    uint64_t call = read_logs(true, true);
    step_call(COORD_LOG_READ, RPC_CLOSED, call, &root, NULL);
    come_back("n1");
    assert_null(said_to(call));
    assert_false(coord_is_idle(w.core)); /* a job runs; no call is left, see teardown */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_what_the_others_have, setup, teardown),
        cmocka_unit_test_setup_teardown(test_old_readers, setup, teardown),
        cmocka_unit_test_setup_teardown(test_all_are_away, setup, teardown),
        cmocka_unit_test_setup_teardown(test_the_only_node_is_away, setup, teardown),
        cmocka_unit_test_setup_teardown(test_who_comes_back_is_read, setup, teardown),
        cmocka_unit_test_setup_teardown(test_who_is_removed_meanwhile, setup, teardown),
        cmocka_unit_test_setup_teardown(test_many_readers_share_the_room, setup, teardown),
        cmocka_unit_test_setup_teardown(test_one_user_has_so_many, setup, teardown),
        cmocka_unit_test_setup_teardown(test_readers_of_every_server, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_reader_that_goes, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
