/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Trust in the core, step by step and over restarts: what was used or revoked stays so when the
 * coordinator comes back, caps push out the right ones, refusals are told a few at a time, and a
 * removed node leaves nothing behind. Cryptography is faked: the core sees names and serials only.
 */
#include "common/hash.h"
#include "tests/unit/core_world.h"

#define DAY (24ll * 3600 * 1000)

/* No timer fires before the next step. */
static void later(int64_t ms)
{
    w.now_ms += ms;
    w.wall_ms += ms;
}

static ProtobufCBinaryData request_id(uint8_t *id)
{
    memset(id, 0, LIMIT_REQUEST_ID_BYTES);
    id[0] = ++w.requests;
    return (ProtobufCBinaryData){LIMIT_REQUEST_ID_BYTES, id};
}

static struct coord_grant grant_of(const char *serial, int64_t not_after_ms, const uint8_t *hash)
{
    return (struct coord_grant){.hash = hash,
                                .certificate_pem = "cert",
                                .ca_pem = "ca",
                                .serial = serial,
                                .not_after_ms = not_after_ms,
                                .token = "token"};
}

static void make_token(uint8_t *hash, int64_t life_ms)
{
    Accel__V1__CreateNodeTokenRequest rq = ACCEL__V1__CREATE_NODE_TOKEN_REQUEST__INIT;
    const struct coord_grant g = grant_of(NULL, w.wall_ms + life_ms, hash);

    assert_int_equal(open_granted(&root, COORD_CREATE_TOKEN, &rq, &g)->code, 0);
}

static int enrol(const uint8_t *hash, const char *node, const char *serial)
{
    static const struct rpc_identity nobody = {.role = RPC_ROLE_NONE};
    Accel__V1__EnrollRequest rq = ACCEL__V1__ENROLL_REQUEST__INIT;
    struct coord_grant g = grant_of(serial, w.wall_ms + 90 * DAY, hash);
    uint8_t id[LIMIT_REQUEST_ID_BYTES];

    if (!coord_may_enroll(w.core, hash, w.wall_ms))
        g.certificate_pem = NULL; /* as the shell does */
    rq.request_id = request_id(id);
    rq.node = (char *)node;
    rq.machine_id = (char *)"m1";
    return open_granted(&nobody, COORD_ENROLL, &rq, &g)->code;
}

static int sign(const char *name, Accel__V1__UserRole role, const char *serial, int64_t life_ms)
{
    Accel__V1__SignUserRequest rq = ACCEL__V1__SIGN_USER_REQUEST__INIT;
    const struct coord_grant g = grant_of(serial, w.wall_ms + life_ms, NULL);
    uint8_t id[LIMIT_REQUEST_ID_BYTES];

    rq.request_id = request_id(id);
    rq.name = (char *)name;
    rq.role = role;
    return open_granted(&root, COORD_SIGN_USER, &rq, &g)->code;
}

static int identify(enum pki_kind kind, const char *name, const char *serial)
{
    struct rpc_identity who = {0};

    return coord_identify(w.core, kind, name, serial, w.wall_ms, &who, NULL);
}

/* --- tokens --- */

static void a_token_serves_once(void **state)
{
    (void)state;
    uint8_t hash[PKI_HASH_BYTES] = {1}, other[PKI_HASH_BYTES] = {2};

    make_token(hash, LIMIT_TOKEN_MS);
    assert_int_equal(enrol(other, "n1", "aa"), ACCEL_EPERM);
    assert_int_equal(enrol(hash, "-", "aa"), ACCEL_EINVAL); /* does not use it up */
    assert_int_equal(enrol(hash, "n1", "aa"), 0);
    assert_int_equal(enrol(hash, "n2", "ab"), ACCEL_EPERM);
    restart();
    assert_false(coord_may_enroll(w.core, hash, w.wall_ms));
    assert_int_equal(enrol(hash, "n2", "ab"), ACCEL_EPERM);
    assert_int_equal(identify(PKI_NODE, "n1", "aa"), 0);
    assert_int_equal(identify(PKI_NODE, "n2", "aa"), ACCEL_EPERM);   /* good for one name */
    assert_int_equal(identify(PKI_USER, "n1", "aa"), ACCEL_EPERM);   /* and one kind */
    assert_int_equal(coord_refused(w.core)[COORD_REFUSED_TOKEN], 1); /* since the restart */
}

static void a_token_expires(void **state)
{
    (void)state;
    uint8_t hash[PKI_HASH_BYTES] = {1};

    make_token(hash, 1000);
    later(999);
    assert_true(coord_may_enroll(w.core, hash, w.wall_ms));
    later(1);
    assert_int_equal(enrol(hash, "n1", "aa"), ACCEL_EPERM);
}

static void open_tokens_have_a_cap(void **state)
{
    (void)state;
    Accel__V1__CreateNodeTokenRequest rq = ACCEL__V1__CREATE_NODE_TOKEN_REQUEST__INIT;
    uint8_t hash[PKI_HASH_BYTES] = {0};

    for (uint32_t i = 0; i <= LIMIT_TOKENS; i++) {
        memcpy(hash, &i, sizeof(i));
        const struct coord_grant g = grant_of(NULL, w.wall_ms + 1000, hash);
        assert_int_equal(open_granted(&root, COORD_CREATE_TOKEN, &rq, &g)->code,
                         i < LIMIT_TOKENS ? 0 : ACCEL_EFULL);
    }
    later(1000); /* they expire, and there is room */
    make_token(hash, 1000);
}

/* --- certificates and roles --- */

static void roles_and_revocations_last(void **state)
{
    (void)state;
    Accel__V1__RevokeUserRequest revoke = ACCEL__V1__REVOKE_USER_REQUEST__INIT;
    Accel__V1__SetRoleRequest role = ACCEL__V1__SET_ROLE_REQUEST__INIT;
    uint8_t id[LIMIT_REQUEST_ID_BYTES];

    assert_int_equal(sign("ann", ACCEL__V1__USER_ROLE__USER_ROLE_OPERATOR, "a1", DAY), 0);
    assert_int_equal(sign("ann", ACCEL__V1__USER_ROLE__USER_ROLE_NONE, "a2", 2 * DAY), 0);
    assert_int_equal(sign(PKI_COORDINATOR_NAME, 0, "a3", DAY), ACCEL_EINVAL);
    restart();
    assert_int_equal(coord_role(w.core, "ann"), RPC_ROLE_OPERATOR);
    assert_int_equal(coord_role(w.core, "bob"), RPC_ROLE_USER);
    role.request_id = request_id(id);
    role.name = (char *)"ann";
    role.role = ACCEL__V1__USER_ROLE__USER_ROLE_ADMIN;
    assert_int_equal(open_granted(&root, COORD_SET_ROLE, &role, NULL)->code, 0);
    assert_int_equal(coord_role(w.core, "ann"), RPC_ROLE_ADMIN);
    later(DAY); /* the first ends by itself */
    assert_int_equal(identify(PKI_USER, "ann", "a1"), ACCEL_EUNAUTH);
    assert_int_equal(identify(PKI_USER, "ann", "a2"), 0);
    revoke.request_id = request_id(id);
    revoke.name = (char *)"ann";
    const struct coord_output *o = open_granted(&root, COORD_REVOKE_USER, &revoke, NULL);
    Accel__V1__RevokeUserReply *reply = accel__v1__revoke_user_reply__unpack(NULL, o->len, o->data);
    assert_int_equal(reply->certificates, 1);
    accel__v1__revoke_user_reply__free_unpacked(reply, NULL);
    assert_int_equal(w.batch.note_count, 1);
    assert_string_equal(w.batch.notes[0].drop_serial, "a2");
    restart();
    assert_int_equal(identify(PKI_USER, "ann", "a2"), ACCEL_EPERM);
    assert_int_equal(coord_role(w.core, "ann"), RPC_ROLE_USER);
    revoke.name = (char *)"bob";
    revoke.request_id = request_id(id);
    assert_int_equal(open_granted(&root, COORD_REVOKE_USER, &revoke, NULL)->code, ACCEL_ENOENT);
}

static void renewals_push_out_their_own(void **state)
{
    (void)state;
    Accel__V1__RenewRequest rq = ACCEL__V1__RENEW_REQUEST__INIT;
    struct rpc_identity ann = {.role = RPC_ROLE_USER, .user = "ann", .serial = "00"};
    uint8_t id[LIMIT_REQUEST_ID_BYTES];
    char serial[8];

    assert_int_equal(sign("ann", 0, "00", DAY), 0);
    assert_int_equal(sign("bob", 0, "b0", DAY), 0);
    for (unsigned i = 1; i <= LIMIT_CERTIFICATES_EACH; i++) {
        snprintf(serial, sizeof(serial), "%02x", i);
        const struct coord_grant g = grant_of(serial, w.wall_ms + DAY + i, NULL);
        rq.request_id = request_id(id);
        assert_int_equal(open_granted(&ann, COORD_RENEW, &rq, &g)->code, 0);
    }
    assert_int_equal(identify(PKI_USER, "ann", "00"), ACCEL_EPERM);
    assert_int_equal(identify(PKI_USER, "ann", "01"), 0);
    assert_int_equal(identify(PKI_USER, "bob", "b0"), 0);
    rq.request_id = request_id(id);
    assert_int_equal(open_granted(&ann, COORD_RENEW, &rq, NULL)->code, ACCEL_EPERM);
    assert_int_equal(coord_refused(w.core)[COORD_REFUSED_CERTIFICATE], 1);
}

/* --- refusals --- */

static void refusals_are_told_a_few_at_a_time(void **state)
{
    (void)state;
    size_t told = 0;

    for (unsigned i = 0; i < 100; i++) {
        struct coord_event ev = {.type = COORD_EV_REFUSED,
                                 .refusal = COORD_REFUSED_HANDSHAKE,
                                 .text = "garbage on the port"};
        step(&ev);
        told += w.batch.note_count;
        assert_true(w.batch.note_count > 0 || w.batch.record_count == 0); /* costs no write */
    }
    assert_int_equal(told, LIMIT_REFUSALS_TOLD);
    assert_int_equal(coord_refused(w.core)[COORD_REFUSED_HANDSHAKE], 100);
    later(LIMIT_REFUSALS_WINDOW_MS);
    struct coord_event ev = {
        .type = COORD_EV_REFUSED, .refusal = COORD_REFUSED_TOKEN, .text = "a guess"};
    step(&ev);
    assert_int_equal(w.batch.note_count, 1);
    assert_int_equal(w.batch.record_count, 2); /* with how many were not told */
    assert_non_null(strstr(w.batch.records[0].u.event.text, "90 more"));
}

/* --- removal --- */

/* What the node says that it has obeyed. */
struct obeyed {
    uint64_t era, epoch;
    const uint8_t *seal; /* NULL: none */
};

/* The answer, of which there is one at least. */
static const struct coord_output *say_obeyed(const char *name, const char *machine_id,
                                             struct obeyed obeyed)
{
    struct rpc_identity who = {.role = RPC_ROLE_NODE};
    Accel__V1__AgentUp up = ACCEL__V1__AGENT_UP__INIT;
    Accel__V1__Hello m = ACCEL__V1__HELLO__INIT;
    Accel__V1__Node node = ACCEL__V1__NODE__INIT;
    Accel__V1__Device device = ACCEL__V1__DEVICE__INIT, *devices = &device;

    snprintf(who.node, sizeof(who.node), "%s", name);
    node.name = (char *)name;
    node.incarnation = 1;
    node.devices = &devices;
    node.n_devices = 1;
    device.id = (char *)"cpu:0";
    device.kind = ACCEL__V1__DEVICE_KIND__DEVICE_CPU;
    m.node = &node;
    m.machine_id = (char *)machine_id;
    m.era = obeyed.era;
    m.epoch = obeyed.epoch;
    m.seal = (ProtobufCBinaryData){obeyed.seal ? HASH_BYTES : 0, (uint8_t *)obeyed.seal};
    up.body_case = ACCEL__V1__AGENT_UP__BODY_HELLO;
    up.hello = &m;
    return open_granted(&who, COORD_SESSION, &up, NULL);
}

static uint64_t say_hello(const char *name, const char *machine_id)
{
    say_obeyed(name, machine_id, (struct obeyed){0});
    return w.calls;
}

/* --- newer coordinators: true ones, and lies --- */

/* The seal in this Welcome. */
static void take_seal(const struct coord_output *o, uint8_t *seal)
{
    Accel__V1__CoordDown *down = accel__v1__coord_down__unpack(NULL, o->len, o->data);

    assert_int_equal(down->body_case, ACCEL__V1__COORD_DOWN__BODY_WELCOME);
    assert_int_equal(down->welcome->seal.len, HASH_BYTES);
    memcpy(seal, down->welcome->seal.data, HASH_BYTES);
    accel__v1__coord_down__free_unpacked(down, NULL);
}

static void put_back_an_empty_store(void)
{
    w.store->ops->close(w.store);
    w.store = store_mem_create(7);
    later(60000);
    restart();
}

static void a_newer_era_wants_proof(void **state)
{
    (void)state;
    uint8_t key[HASH_BYTES] = {1}, other[HASH_BYTES] = {2}, seal[HASH_BYTES], bad[HASH_BYTES];
    uint64_t era = coord_era(w.core), epoch = coord_epoch(w.core);

    coord_set_seal_key(w.core, key);
    take_seal(say_obeyed("n1", "m1", (struct obeyed){0}), seal);
    memcpy(bad, seal, sizeof(bad));
    bad[HASH_BYTES - 1] ^= 1;
    put_back_an_empty_store(); /* of before that Welcome */
    coord_set_seal_key(w.core, key);
    const struct obeyed lies[] = {
        {era, epoch, NULL},     {era, epoch, bad},      {era, epoch - 1, seal},
        {era + 1, epoch, seal}, {era + 1, epoch, NULL}, {era, coord_epoch(w.core) + 1, seal},
        {UINT64_MAX, 0, seal},  {0, UINT64_MAX, NULL},  {era, epoch + 1, seal}};
    for (size_t i = 0; i < ARRAY_LEN(lies); i++) {
        const struct coord_output *o = say_obeyed("liar", "m2", lies[i]);
        bool is_newer = lies[i].era >= era;
        assert_true(is_newer == (o->is_end && o->code == ACCEL_EPERM));
        assert_int_equal(coord_era(w.core), era);
    }
    assert_int_equal(coord_refused(w.core)[COORD_REFUSED_SESSION], ARRAY_LEN(lies) - 1);
    coord_set_seal_key(w.core, other); /* of another CA */
    assert_true(say_obeyed("n1", "m1", (struct obeyed){era, epoch, seal})->is_end);
    coord_set_seal_key(w.core, key);
    assert_false(say_obeyed("n1", "m1", (struct obeyed){era, epoch, seal})->is_end);
    assert_true(coord_era(w.core) > era); /* it was told the truth */
    era = coord_era(w.core);
    assert_false(say_obeyed("n2", "m3", (struct obeyed){7, epoch, NULL})->is_end);
    assert_int_equal(coord_era(w.core), era); /* nothing that is newer any more */
}

static void people_may_begin_an_era(void **state)
{
    (void)state;
    uint8_t key[HASH_BYTES] = {1};
    const struct obeyed older = {coord_era(w.core), coord_epoch(w.core), NULL};

    put_back_an_empty_store();
    coord_set_seal_key(w.core, key);
    assert_true(say_obeyed("n1", "m1", older)->is_end);
    coord_begin_era(w.core);
    assert_false(say_obeyed("n1", "m1", older)->is_end);
    restart(); /* it lasts */
    assert_true(coord_era(w.core) > older.era);
}

static void a_removed_node_leaves_nothing(void **state)
{
    (void)state;
    Accel__V1__RemoveNodeRequest rq = ACCEL__V1__REMOVE_NODE_REQUEST__INIT;
    uint8_t hash[PKI_HASH_BYTES] = {1}, again[PKI_HASH_BYTES] = {2}, id[LIMIT_REQUEST_ID_BYTES];
    uint64_t session;

    make_token(hash, LIMIT_TOKEN_MS);
    make_token(again, LIMIT_TOKEN_MS);
    assert_int_equal(enrol(hash, "n1", "aa"), 0);
    session = say_hello("n1", "m1");
    assert_int_equal(coord_nodes_ready(w.core), 1);
    submit(1);
    assert_int_equal(enrol(again, "n1", "ab"), ACCEL_EEXIST); /* it is connected */
    rq.request_id = request_id(id);
    rq.name = (char *)"n1";
    const struct coord_output *o = open_granted(&root, COORD_REMOVE_NODE, &rq, NULL);
    Accel__V1__RemoveNodeReply *reply = accel__v1__remove_node_reply__unpack(NULL, o->len, o->data);
    assert_int_equal(reply->certificates, 1);
    assert_int_equal(reply->attempts, 1);
    accel__v1__remove_node_reply__free_unpacked(reply, NULL);
    bool is_stopped = false, is_ended = false;
    for (size_t i = 0; i < w.batch.output_count; i++) {
        const struct coord_output *each = &w.batch.outputs[i];
        if (each->call != session)
            continue;
        assert_false(is_ended); /* nothing is said after the end */
        is_ended = each->is_end && each->code == ACCEL_EPERM;
        is_stopped |= !each->is_end;
    }
    assert_true(is_stopped && is_ended);
    assert_int_equal(coord_nodes_known(w.core), 0);
    assert_int_equal(coord_jobs_live(w.core), 1); /* it waits for another node */
    assert_int_equal(identify(PKI_NODE, "n1", "aa"), ACCEL_EPERM);
    restart();
    assert_int_equal(coord_nodes_known(w.core), 0);
    assert_int_equal(coord_jobs_live(w.core), 1);
    assert_int_equal(identify(PKI_NODE, "n1", "aa"), ACCEL_EPERM);
    assert_int_equal(enrol(again, "n1", "ab"), 0); /* the name is free */
    say_hello("n1", "m2");
    assert_int_equal(coord_nodes_ready(w.core), 1);
    rq.request_id = request_id(id);
    rq.name = (char *)"n2";
    assert_int_equal(open_granted(&root, COORD_REMOVE_NODE, &rq, NULL)->code, ACCEL_ENOENT);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(a_token_serves_once),           TEST(a_token_expires),
        TEST(open_tokens_have_a_cap),        TEST(roles_and_revocations_last),
        TEST(renewals_push_out_their_own),   TEST(refusals_are_told_a_few_at_a_time),
        TEST(a_removed_node_leaves_nothing), TEST(a_newer_era_wants_proof),
        TEST(people_may_begin_an_era),
    };
    return cmocka_run_group_tests_name("coord_trust", tests, NULL, NULL);
}
