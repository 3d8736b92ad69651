/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Events that wait for the store: all of them in their order, as they were said, and what happens
 * when too many wait.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "accel/v1/job.pb-c.h"
#include "common/limits.h"
#include "scheduler/deferred.h"

static const struct rpc_method method = {.name = "/x/Y",
                                         .request = &accel__v1__get_request__descriptor};

struct taken {
    struct deferred *queue; /* not NULL: each is kept again */
    char text[256];
    size_t used, count, closed;
};

static void take(void *ctx, const struct rpc_event *ev)
{
    struct taken *t = ctx;
    const Accel__V1__GetRequest *m = (const Accel__V1__GetRequest *)ev->msg;

    assert_ptr_equal(ev->method, &method);
    t->count++;
    t->closed += ev->type == RPC_CLOSED;
    if (t->used < sizeof(t->text))
        t->used += (size_t)snprintf(t->text + t->used, sizeof(t->text) - t->used,
                                    "%d.%llu.%s.%llu ", (int)ev->type, (unsigned long long)ev->call,
                                    ev->who->user, m ? (unsigned long long)m->job_id : 0);
    if (t->queue)
        assert_true(deferred_keep(t->queue, ev));
}

static bool say(struct deferred *d, enum rpc_event_type type, uint64_t call, uint64_t job)
{
    Accel__V1__GetRequest m = ACCEL__V1__GET_REQUEST__INIT;
    struct rpc_identity who = {.role = RPC_ROLE_NODE, .user = "n1"};

    m.job_id = job;
    bool is_kept = deferred_keep(d, &(struct rpc_event){.type = type,
                                                        .call = call,
                                                        .method = &method,
                                                        .who = &who,
                                                        .msg = job ? &m.base : NULL});
    m.job_id = 999; /* it has its own copy */
    who.user[0] = 'x';
    return is_kept;
}

static void test_in_order(void **state)
{
    struct deferred d;
    struct taken t = {0};

    (void)state;
    deferred_init(&d);
    assert_true(say(&d, RPC_OPEN, 1, 0));
    assert_true(say(&d, RPC_MESSAGE, 1, 7));
    assert_true(say(&d, RPC_MESSAGE, 2, 8));
    assert_true(say(&d, RPC_CLOSED, 1, 0));
    t.queue = &d; /* what is kept meanwhile waits for the next time */
    deferred_replay(&d, take, &t);
    assert_int_equal(t.count, 4);
    deferred_replay(&d, take, &(struct taken){0});
    char want[64];
    snprintf(want, sizeof(want), "%d.1.n1.0 %d.1.n1.7 %d.2.n1.8 %d.1.n1.0 ", RPC_OPEN, RPC_MESSAGE,
             RPC_MESSAGE, RPC_CLOSED);
    assert_string_equal(t.text, want);
    deferred_replay(&d, take, NULL); /* nothing is left */
    deferred_done(&d);
}

/* A message above the cap is its call's end; what else comes is not lost. */
static void test_cap(void **state)
{
    struct deferred d;
    struct taken t = {0};

    (void)state;
    deferred_init(&d);
    for (unsigned i = 0; i < LIMIT_DEFERRED_MESSAGES; i++)
        assert_true(say(&d, RPC_MESSAGE, 1, 7));
    assert_false(say(&d, RPC_MESSAGE, 2, 7));
    assert_true(say(&d, RPC_CLOSED, 1, 0));
    deferred_replay(&d, take, &t);
    assert_int_equal(t.count, LIMIT_DEFERRED_MESSAGES + 2);
    assert_int_equal(t.closed, 2);
    assert_true(say(&d, RPC_MESSAGE, 3, 7)); /* there is room again */
    deferred_done(&d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_in_order),
        cmocka_unit_test(test_cap),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
