/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the history says of a node's accelerators: once each time one breaks, goes, or is fit for
 * use again; nothing of who uses one, and not without bound.
 */
#include "common/str.h"
#include "tests/unit/core_world.h"

#define DEVICES_MAX 4

struct gpu {
    const char *id, *fault; /* NULL: well */
    bool is_passing;
};

static uint64_t session;

static size_t describe(const struct gpu *gpus, size_t count, Accel__V1__Device *devices,
                       Accel__V1__Device **list)
{
    for (size_t i = 0; i < count; i++) {
        accel__v1__device__init(&devices[i]);
        devices[i].id = (char *)gpus[i].id;
        devices[i].index = (uint32_t)i;
        devices[i].kind = strncmp(gpus[i].id, "cpu", 3) == 0 ? ACCEL__V1__DEVICE_KIND__DEVICE_CPU
                                                             : ACCEL__V1__DEVICE_KIND__DEVICE_GPU;
        devices[i].fault = (char *)(gpus[i].fault ? gpus[i].fault : "");
        devices[i].is_passing = gpus[i].is_passing;
        list[i] = &devices[i];
    }
    return count;
}

static void greet(const struct gpu *gpus, size_t count)
{
    Accel__V1__Device devices[DEVICES_MAX], *list[DEVICES_MAX];
    size_t n = describe(gpus, count, devices, list);

    session = hello("a", list, n, NULL, 0);
}

static void beat(const struct gpu *gpus, size_t count)
{
    Accel__V1__AgentUp up = ACCEL__V1__AGENT_UP__INIT;
    Accel__V1__Beat m = ACCEL__V1__BEAT__INIT;
    Accel__V1__Device devices[DEVICES_MAX], *list[DEVICES_MAX];

    m.n_devices = describe(gpus, count, devices, list);
    m.devices = list;
    up.body_case = ACCEL__V1__AGENT_UP__BODY_BEAT;
    up.beat = &m;
    say(session, &up);
}

#define GREET(...) greet((struct gpu[]){__VA_ARGS__}, ARRAY_LEN(((struct gpu[]){__VA_ARGS__})))
#define BEAT(...)  beat((struct gpu[]){__VA_ARGS__}, ARRAY_LEN(((struct gpu[]){__VA_ARGS__})))

/* The lines about devices of node a, "KIND TEXT; ". */
static const char *news(void)
{
    static char text[4096];
    Accel__V1__EventsRequest rq = ACCEL__V1__EVENTS_REQUEST__INIT;
    size_t used = 0;

    rq.node = (char *)"a";
    Accel__V1__EventsReply *m = ask(COORD_EVENTS, &rq, &accel__v1__events_reply__descriptor);
    text[0] = 0;
    for (size_t i = 0; i < m->n_events; i++) {
        const Accel__V1__Event *e = m->events[i];
        assert_string_equal(e->node, "a");
        if (strncmp(e->kind, "device.", 7) == 0 && used < sizeof(text))
            used +=
                (size_t)snprintf(text + used, sizeof(text) - used, "%s %s; ", e->kind + 7, e->text);
    }
    free_message(m);
    return text;
}

static void test_a_fault_is_told_once(void **state)
{
    (void)state;
    GREET({"gpu:1"}, {"gpu:2"});
    assert_string_equal(news(), "");
    BEAT({"gpu:1"}, {"gpu:2", "XID 79"});
    assert_string_equal(news(), "fault gpu:2: XID 79; ");
    hang_up(session);
    GREET({"gpu:1"}, {"gpu:2", "XID 79"}); /* known */
    assert_string_equal(news(), "fault gpu:2: XID 79; ");
    restart();
    GREET({"gpu:1"}, {"gpu:2", "XID 79"}); /* and known from the store */
    assert_string_equal(news(), "fault gpu:2: XID 79; ");
    BEAT({"gpu:1"}, {"gpu:2"});
    assert_string_equal(news(), "fault gpu:2: XID 79; "
                                "changed gpu:2 is fit for use again (it was: XID 79); ");
}

static void test_another_fault_is_news(void **state)
{
    (void)state;
    GREET({"gpu:1", "it needs a reset"});
    BEAT({"gpu:1", "it has fallen off the bus"});
    assert_string_equal(news(),
                        "fault gpu:1: it needs a reset; fault gpu:1: it has fallen off the bus; ");
}

static void test_devices_that_come_and_go(void **state)
{
    (void)state;
    GREET({"cpu:0"}, {"gpu:1"}, {"gpu:2"});
    BEAT({"cpu:0"}, {"cpu:1"}, {"gpu:1"}); /* slots are no news */
    BEAT({"gpu:1"}, {"gpu:3"});
    assert_string_equal(news(), "changed gpu:2 is not there any more; changed gpu:3 is new; ");
}

static void test_who_uses_it_is_no_news(void **state)
{
    (void)state;
    GREET({"gpu:1", "busy: pid 71 of bob", true});
    BEAT({"gpu:1"});
    BEAT({"gpu:1", "busy: pid 72 of bob", true});
    assert_string_equal(news(), "");
    BEAT({"gpu:1", "XID 79"});
    BEAT({"gpu:1", "busy: pid 72 of bob", true});
    assert_string_equal(news(), "fault gpu:1: XID 79; "
                                "changed gpu:1 is fit for use again (it was: XID 79); ");
}

static size_t count_lines(const char *text)
{
    size_t count = 0;

    for (; *text; text++)
        count += *text == ';';
    return count;
}

static void test_not_without_bound(void **state)
{
    (void)state;
    GREET({"gpu:1"});
    for (unsigned i = 0; i < LIMIT_DEVICE_EVENTS; i++) {
        BEAT({"gpu:1", "it smells"});
        BEAT({"gpu:1"});
    }
    assert_int_equal(count_lines(news()), LIMIT_DEVICE_EVENTS);
    pass(LIMIT_DEVICE_EVENTS_WINDOW_MS);
    BEAT({"gpu:1", "it smells"});
    assert_non_null(strstr(news(), "changed 30 more changes of its devices before were not told"));
    assert_int_equal(count_lines(news()), LIMIT_DEVICE_EVENTS + 2);
}

/* Texts that are cut are not cut within a character: other parsers would refuse the message. */
static void test_cut_texts_are_utf8(void **state)
{
    Accel__V1__SubmitRequest rq = ACCEL__V1__SUBMIT_REQUEST__INIT;
    Accel__V1__JobSpec spec = ACCEL__V1__JOB_SPEC__INIT;
    uint8_t id[LIMIT_REQUEST_ID_BYTES] = {1};
    char text[LIMIT_REASON_BYTES * 2] = "", odd[LIMIT_REASON_BYTES * 2 + 1];

    (void)state;
    while (strlen(text) + 3 < sizeof(text))
        strncat(text, "\xc3\xa9", 3);
    for (int shift = 0; shift < 2; shift++) {
        snprintf(odd, sizeof(odd), "%s%s", shift ? "a" : "", text);
        GREET({"gpu:1"});
        BEAT({"gpu:1", odd});
        assert_true(is_utf8(news(), strlen(news())));
        rq.request_id = (ProtobufCBinaryData){sizeof(id), id};
        rq.spec = &spec;
        spec.name = odd;
        const struct coord_output *o = said_to(open_as(&root, COORD_SUBMIT, &rq));
        assert_int_equal(o->code, ACCEL_EINVAL);
        assert_true(is_utf8(o->text, strlen(o->text)));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_fault_is_told_once, setup, teardown),
        cmocka_unit_test_setup_teardown(test_another_fault_is_news, setup, teardown),
        cmocka_unit_test_setup_teardown(test_devices_that_come_and_go, setup, teardown),
        cmocka_unit_test_setup_teardown(test_who_uses_it_is_no_news, setup, teardown),
        cmocka_unit_test_setup_teardown(test_not_without_bound, setup, teardown),
        cmocka_unit_test_setup_teardown(test_cut_texts_are_utf8, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
