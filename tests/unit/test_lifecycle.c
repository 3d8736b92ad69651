/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The verifier has to object to a table broken in each way that it promises to see, with the name
 * of the pair. The drawing is compared to the letter, because docs/LIFECYCLES.md is.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/error.h"
#include "common/lifecycle.h"

enum { IDLE, BUSY, GONE };
enum { ASK, STOP };
enum { TELL = 1, WRITE = 2 };

static bool flag_holds(const void *object, const void *event)
{
    return *(const bool *)object && event != NULL;
}

static const struct lifecycle_guard is_flagged = {"flag | set", flag_holds};
static const char *const states[] = {"IDLE", "BUSY", "GONE"};
static const char *const events[] = {"ASK", "STOP"};
static const char *const effects[] = {"TELL", "WRITE"};

enum { ROWS = 8 };
static const struct lifecycle_row good_rows[ROWS] = {
    {IDLE, STOP, NULL, LIFECYCLE_MOVE, GONE, TELL, "nobody asked"},
    {IDLE, ASK, &is_flagged, LIFECYCLE_MOVE, BUSY, TELL | WRITE, NULL},
    {IDLE, ASK, NULL, LIFECYCLE_MOVE, IDLE, 0, NULL},
    {BUSY, ASK, NULL, LIFECYCLE_REFUSE, 0, 0, "busy"},
    {BUSY, STOP, &is_flagged, LIFECYCLE_IGNORE, 0, 0, "told already"},
    {BUSY, STOP, NULL, LIFECYCLE_MOVE, GONE, WRITE, NULL},
    {GONE, ASK, NULL, LIFECYCLE_REFUSE, 0, 0, "gone"},
    {GONE, STOP, NULL, LIFECYCLE_IGNORE, 0, 0, "it is over"},
};

struct table {
    struct lifecycle_row rows[ROWS + 1];
    struct lifecycle lc;
};

static void table_init(struct table *t)
{
    memset(t, 0, sizeof(*t));
    memcpy(t->rows, good_rows, sizeof(good_rows));
    t->lc = (struct lifecycle){
        .name = "thing",
        .state_names = states,
        .state_count = 3,
        .event_names = events,
        .event_count = 2,
        .effect_names = effects,
        .effect_count = 2,
        .rows = t->rows,
        .row_count = ROWS,
        .initial_state = IDLE,
        .end_state = GONE,
    };
}

static void assert_broken(const struct table *t, const char *text)
{
    char got[256] = "";
    assert_int_equal(lifecycle_test(&t->lc, got, sizeof(got)), ACCEL_EINVAL);
    assert_string_equal(got, text);
}

static void test_good(void **state)
{
    struct table t;
    char text[256] = "";
    table_init(&t);
    if (lifecycle_test(&t.lc, text, sizeof(text)) != 0) {
        fail_msg("%s", text);
    }
    lifecycle_verify(&t.lc);
}

static void test_find(void **state)
{
    struct table t;
    bool flag = true;
    int event = 0;
    table_init(&t);
    assert_ptr_equal(lifecycle_find(&t.lc, IDLE, ASK, &flag, &event), &t.rows[1]);
    assert_ptr_equal(lifecycle_find(&t.lc, IDLE, ASK, &flag, NULL), &t.rows[2]);
    assert_ptr_equal(lifecycle_find(&t.lc, BUSY, STOP, &flag, &event), &t.rows[4]);
    flag = false;
    assert_ptr_equal(lifecycle_find(&t.lc, IDLE, ASK, &flag, &event), &t.rows[2]);
    assert_ptr_equal(lifecycle_find(&t.lc, BUSY, STOP, &flag, &event), &t.rows[5]);
    assert_ptr_equal(lifecycle_find(&t.lc, GONE, ASK, &flag, &event), &t.rows[6]);
    t.lc.row_count = 1;
    assert_null(lifecycle_find(&t.lc, GONE, ASK, &flag, &event));
}

static void test_coverage(void **state)
{
    struct table t;
    for (size_t i = 0; i < ROWS; i++) { /* each row is needed, but the guarded ones */
        table_init(&t);
        memmove(&t.rows[i], &t.rows[i + 1], (ROWS - i) * sizeof(t.rows[0]));
        t.lc.row_count = ROWS - 1;
        char text[256] = "";
        bool is_spare = i == 4;
        assert_int_equal(lifecycle_test(&t.lc, text, sizeof(text)), is_spare ? 0 : ACCEL_EINVAL);
    }
    table_init(&t);
    t.rows[7] = t.rows[6];
    t.lc.row_count = 7;
    assert_broken(&t, "thing: (GONE, STOP): not covered: neither a move, nor ignored, nor refused");
    table_init(&t);
    t.rows[2].guard = &is_flagged;
    assert_broken(&t, "thing: (IDLE, ASK): the same guard twice");
    table_init(&t);
    t.rows[0].guard = &is_flagged;
    assert_broken(&t, "thing: (IDLE, STOP): not covered when no guard holds");
    table_init(&t);
    t.rows[1].guard = NULL;
    assert_broken(&t, "thing: (IDLE, ASK): a row after one without a guard never applies");
    table_init(&t);
    t.rows[ROWS] = t.rows[ROWS - 1];
    t.lc.row_count = ROWS + 1;
    assert_broken(&t, "thing: (GONE, STOP): a row after one without a guard never applies");
}

static void test_rows(void **state)
{
    struct table t;
    table_init(&t);
    t.rows[3].why = NULL;
    assert_broken(&t, "thing: (BUSY, ASK): ignored or refused without a reason");
    table_init(&t);
    t.rows[7].why = "";
    assert_broken(&t, "thing: (GONE, STOP): ignored or refused without a reason");
    table_init(&t);
    t.rows[3].effects = TELL;
    assert_broken(&t, "thing: (BUSY, ASK): ignored or refused, yet with effects");
    table_init(&t);
    t.rows[0].effects = 4;
    assert_broken(&t, "thing: (IDLE, STOP): an effect has no name");
    table_init(&t);
    t.rows[7] = (struct lifecycle_row){GONE, STOP, NULL, LIFECYCLE_MOVE, IDLE, 0, NULL};
    assert_broken(&t, "thing: (GONE, STOP): the end state is left");
    table_init(&t);
    static const struct lifecycle_guard nameless = {"", flag_holds};
    t.rows[1].guard = &nameless;
    assert_broken(&t, "thing: (IDLE, ASK): a guard has no name or no function");
    table_init(&t);
    static const struct lifecycle_guard empty = {"empty", NULL};
    t.rows[1].guard = &empty;
    assert_broken(&t, "thing: (IDLE, ASK): a guard has no name or no function");
}

static void test_ranges(void **state)
{
    static const char *const text = "thing: row 0: no such state, event, kind or next state";
    struct table t;
    table_init(&t);
    t.rows[0].state = 3;
    assert_broken(&t, text);
    table_init(&t);
    t.rows[0].event = 2;
    assert_broken(&t, text);
    table_init(&t);
    t.rows[0].kind = 3;
    assert_broken(&t, text);
    table_init(&t);
    t.rows[0].next = 3;
    assert_broken(&t, text);
    table_init(&t);
    t.lc.end_state = 3;
    assert_broken(&t, "thing: the initial or the end state does not exist");
    table_init(&t);
    t.lc.initial_state = 3;
    assert_broken(&t, "thing: the initial or the end state does not exist");
    table_init(&t);
    t.lc.effect_count = 33;
    assert_broken(&t, "thing: 33 effects, too many");
    table_init(&t);
    t.lc.event_count = 0;
    assert_broken(&t, "thing: no states, no events or no rows");
}

static void test_names(void **state)
{
    static const char *const holes[] = {"IDLE", NULL, "GONE"};
    static const char *const twins[] = {"IDLE", "BUSY", "IDLE"};
    static const char *const blank[] = {"ASK", ""};
    struct table t;
    table_init(&t);
    t.lc.state_names = holes;
    assert_broken(&t, "thing: state 1 has no name");
    table_init(&t);
    t.lc.state_names = twins;
    assert_broken(&t, "thing: states 0 and 2 are both called IDLE");
    table_init(&t);
    t.lc.event_names = blank;
    assert_broken(&t, "thing: event 1 has no name");
    table_init(&t);
    t.lc.effect_names = NULL;
    assert_broken(&t, "thing: 2 effects, without names");
    table_init(&t);
    t.lc.name = NULL;
    assert_broken(&t, "a lifecycle has no name");
}

static void test_reach(void **state)
{
    struct table t;
    table_init(&t);
    t.rows[1].next = IDLE; /* the only way to BUSY */
    assert_broken(&t, "thing: BUSY is never reached from IDLE");
    table_init(&t);
    t.lc.initial_state = BUSY;
    assert_broken(&t, "thing: IDLE is never reached from BUSY");
}

static void test_abort(void **state)
{
    struct table t;
    int ends[2];
    char text[256] = "";
    int status = 0;
    table_init(&t);
    t.rows[3].why = NULL;
    assert_int_equal(pipe(ends), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        setrlimit(RLIMIT_CORE, &(struct rlimit){0});
        dup2(ends[1], STDERR_FILENO);
        sigaction(SIGABRT, &(struct sigaction){.sa_handler = SIG_DFL}, NULL);
        lifecycle_verify(&t.lc);
        _exit(0);
    }
    close(ends[1]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGABRT);
    assert_true(read(ends[0], text, sizeof(text) - 1) > 0);
    assert_non_null(strstr(text, "(BUSY, ASK)"));
    close(ends[0]);
}

static void test_drawing(void **state)
{
    static const char want[] = "## thing\n"
                               "\n"
                               "Begins in IDLE and ends in GONE, which nothing leaves.\n"
                               "\n"
                               "| state | event | if | next | effects | why |\n"
                               "|---|---|---|---|---|---|\n"
                               "| IDLE | ASK | flag \\| set | BUSY | TELL, WRITE |  |\n"
                               "| IDLE | ASK |  | IDLE |  |  |\n"
                               "| IDLE | STOP |  | GONE | TELL | nobody asked |\n"
                               "| BUSY | STOP |  | GONE | WRITE |  |\n"
                               "\n"
                               "Ignored:\n"
                               "\n"
                               "| state | event | if | because |\n"
                               "|---|---|---|---|\n"
                               "| BUSY | STOP | flag \\| set | told already |\n"
                               "| GONE | STOP |  | it is over |\n"
                               "\n"
                               "Refused:\n"
                               "\n"
                               "| state | event | if | the caller is told |\n"
                               "|---|---|---|---|\n"
                               "| BUSY | ASK |  | busy |\n"
                               "| GONE | ASK |  | gone |\n";
    struct table t;
    AUTO_STR struct str out = {0};
    table_init(&t);
    lifecycle_draw(&t.lc, &out);
    assert_string_equal(out.data, want);
    lifecycle_draw(&t.lc, &out); /* it appends, and the same */
    assert_int_equal(out.len, 2 * (sizeof(want) - 1));
    assert_string_equal(out.data + sizeof(want) - 1, want);
}

static void test_no_end(void **state)
{
    struct table t;
    char text[256] = "";
    AUTO_STR struct str out = {0};
    table_init(&t);
    t.rows[7] = (struct lifecycle_row){GONE, STOP, NULL, LIFECYCLE_MOVE, IDLE, 0, NULL};
    t.lc.end_state = LIFECYCLE_NO_END;
    if (lifecycle_test(&t.lc, text, sizeof(text)) != 0) {
        fail_msg("%s", text);
    }
    lifecycle_draw(&t.lc, &out);
    assert_non_null(strstr(out.data, "Begins in IDLE and has no end.\n"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good),     cmocka_unit_test(test_find),
        cmocka_unit_test(test_coverage), cmocka_unit_test(test_rows),
        cmocka_unit_test(test_ranges),   cmocka_unit_test(test_names),
        cmocka_unit_test(test_reach),    cmocka_unit_test(test_abort),
        cmocka_unit_test(test_drawing),  cmocka_unit_test(test_no_end),
    };
    return cmocka_run_group_tests_name("lifecycle", tests, NULL, NULL);
}
