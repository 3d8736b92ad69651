/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What accelctl prints: the JSON field names that docs/CLI.md promises, YAML, exit codes, the
 * report of a failure. A name that changes here breaks somebody's script.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "client/accelctl/result.h"
#include "client/accelctl/table.h"
#include "client/accelctl/view.h"

#define BYTES(text) ((ProtobufCBinaryData){sizeof(text) - 1, (uint8_t *)(text)})

struct sample {
    Accel__V1__Job job;
    Accel__V1__Attempt attempt;
    Accel__V1__Rank ranks[2];
    Accel__V1__Rank *rank_list[2];
    Accel__V1__Attempt *attempts[1];
    char *devices[1];
    char *where[1];
};

static void sample_init(struct sample *s)
{
    s->job = (Accel__V1__Job)ACCEL__V1__JOB__INIT;
    s->attempt = (Accel__V1__Attempt)ACCEL__V1__ATTEMPT__INIT;
    s->devices[0] = "cpu:1";
    s->where[0] = "n1";
    for (uint32_t i = 0; i < 2; i++) {
        s->ranks[i] = (Accel__V1__Rank)ACCEL__V1__RANK__INIT;
        s->ranks[i].rank = s->ranks[i].local_rank = i;
        s->ranks[i].node = "n1";
        s->ranks[i].state = "EXITED";
        s->ranks[i].pid = 70 + i;
        s->ranks[i].exited = true;
        s->ranks[i].start_ms = 1000;
        s->ranks[i].end_ms = 3500;
        s->rank_list[i] = &s->ranks[i];
    }
    s->ranks[0].signal = 15;
    s->ranks[1].exit_code = 3;
    s->ranks[1].devices = s->devices;
    s->ranks[1].n_devices = 1;
    s->ranks[1].stderr_tail = BYTES("one\nNo module named 'torch'\n\xff\n");
    s->ranks[1].stdout_path = BYTES("/s/1.out");
    s->ranks[1].stderr_path = BYTES("/s/1.err");
    s->attempt.number = 1;
    s->attempt.cause = ACCEL__V1__CAUSE__CAUSE_WORKER_FAILED;
    s->attempt.text = "rank 1 failed";
    s->attempt.first_failed_rank = 1;
    s->attempt.ranks = s->rank_list;
    s->attempt.n_ranks = 2;
    s->attempts[0] = &s->attempt;
    s->job.id = 12;
    s->job.name = "train";
    s->job.user = "ann";
    s->job.state = ACCEL__V1__JOB_STATE__JOB_ENDED;
    s->job.result = ACCEL__V1__JOB_RESULT__RESULT_FAILED;
    s->job.reason = "rank 1 failed";
    s->job.exit_code = 3;
    s->job.attempt = 1;
    s->job.nodes = 1;
    s->job.procs = 2;
    s->job.submit_ms = 1795132800123;
    s->job.command = BYTES("train.py \xff");
    s->job.where = s->where;
    s->job.n_where = 1;
    s->job.attempts = s->attempts;
    s->job.n_attempts = 1;
}

static void assert_keys(const json_t *object, const char *want)
{
    AUTO_STR struct str keys = {0};
    const char *key;
    json_t *value;

    str_init(&keys);
    json_object_foreach((json_t *)object, key, value)
        str_addf(&keys, "%s%s", keys.len > 0 ? " " : "", key);
    assert_string_equal(keys.data, want);
}

static void test_field_names(void **state)
{
    struct sample s;

    sample_init(&s);
    json_t *job = view_single(view_job(&s.job, true));
    const json_t *attempt = json_array_get(json_object_get(job, "attempts"), 0);
    const json_t *rank = json_array_get(json_object_get(attempt, "ranks"), 1);

    assert_keys(
        job,
        "apiVersion id name user uid state result reason exit_code attempt max_restarts restarts "
        "nodes procs "
        "device_kind gpus_per_node cpus_per_proc memory_bytes time_limit_ms submitted started "
        "ended where command cwd output "
        "argv attempts");
    assert_keys(attempt,
                "number cause text started running ended first_failed_rank master_addr master_port "
                "isolation ranks");
    assert_keys(
        rank, "rank local_rank pid node state exit_code signal started ended devices stdout stderr "
              "stderr_tail error");
    AUTO_FREE char *text = json_dumps(rank, JSON_COMPACT);

    assert_string_equal(
        text,
        "{\"rank\":1,\"local_rank\":1,\"pid\":71,\"node\":\"n1\",\"state\":\"EXITED\","
        "\"exit_code\":3,\"signal\":null,\"started\":\"1970-01-01T00:00:01.000Z\","
        "\"ended\":\"1970-01-01T00:00:03.500Z\",\"devices\":[\"cpu:1\"],\"stdout\":\"/s/1.out\","
        "\"stderr\":\"/s/1.err\",\"stderr_tail\":\"one\\nNo module named 'torch'\\n\\\\xff\\n\","
        "\"error\":null}");
    assert_string_equal(json_string_value(json_object_get(job, "command")), "train.py \\xff");
    assert_string_equal(json_string_value(json_object_get(job, "submitted")),
                        "2026-11-20T00:00:00.123Z");
    assert_string_equal(json_string_value(json_object_get(job, "state")), "ENDED");
    assert_string_equal(json_string_value(json_object_get(job, "result")), "failed");
    json_decref(job);
}

static void test_nodes_and_events(void **state)
{
    Accel__V1__Node node = ACCEL__V1__NODE__INIT;
    Accel__V1__Device device = ACCEL__V1__DEVICE__INIT, *devices[] = {&device};
    Accel__V1__DeviceUse use = ACCEL__V1__DEVICE_USE__INIT, *uses[] = {&use};
    Accel__V1__Event ev = ACCEL__V1__EVENT__INIT;

    device.id = use.device = "cpu:0";
    device.kind = ACCEL__V1__DEVICE_KIND__DEVICE_CPU;
    use.job_id = 7;
    use.attempt = 2;
    node.devices = devices;
    node.n_devices = 1;
    node.uses = uses;
    node.n_uses = 1;
    json_t *o = view_node(&node);
    const json_t *d = json_array_get(json_object_get(o, "devices"), 0);

    assert_keys(o, "name state reason since address version incarnation isolation cpus "
                   "memory_bytes limits slice devices");
    assert_keys(d, "id kind model index memory_bytes vendor bus numa_node parent links paths fault "
                   "is_broken job_id attempt");
    assert_int_equal(json_integer_value(json_object_get(d, "job_id")), 7);
    json_decref(o);
    o = view_event(&ev);
    assert_keys(o, "seq time kind job_id attempt node text");
    json_decref(o);
}

static void test_nodes_are_sorted(void **state)
{
    static const char *const names[] = {"n10", "n2", "head", "n1"};
    Accel__V1__Node nodes[ARRAY_LEN(names)], *list[ARRAY_LEN(names)];
    Accel__V1__NodesReply reply = ACCEL__V1__NODES_REPLY__INIT;

    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        nodes[i] = (Accel__V1__Node)ACCEL__V1__NODE__INIT;
        nodes[i].name = (char *)names[i];
        list[i] = &nodes[i];
    }
    reply.nodes = list;
    reply.n_nodes = ARRAY_LEN(names);
    AUTO_FREE const Accel__V1__Node **sorted = view_sorted_nodes(&reply);

    assert_string_equal(sorted[0]->name, "head");
    assert_string_equal(sorted[1]->name, "n1");
    assert_string_equal(sorted[2]->name, "n2");
    assert_string_equal(sorted[3]->name, "n10");
    reply.n_nodes = 0;
    free(view_sorted_nodes(&reply));
}

static void test_select(void **state)
{
    struct sample s;
    struct accel_error err;
    json_t *items = json_array();

    sample_init(&s);
    json_array_append_new(items, view_job(&s.job, false));
    assert_true(view_select(items, "id,stat", &err) < 0);
    assert_non_null(strstr(err.text, "--json state"));
    assert_int_equal(view_check_fields(view_job(&s.job, false), NULL, &err), 0);
    assert_int_equal(view_check_fields(view_job(&s.job, false), "cwd,id", &err), 0);
    assert_int_equal(view_check_fields(view_job(&s.job, false), "id,argv", &err), ACCEL_EINVAL);
    assert_non_null(strstr(err.text, "why: the fields are id, name, "));
    assert_int_equal(view_check_fields(view_job(&s.job, false), ",", &err), ACCEL_EINVAL);
    assert_int_equal(view_select(items, "state,id", &err), 0);
    assert_keys(json_array_get(items, 0), "state id");
    json_t *list = view_list(items);

    assert_keys(list, "apiVersion items");
    json_decref(list);
}

static void test_yaml(void **state)
{
    AUTO_STR struct str out = {0};
    json_t *value =
        json_pack("{s:s, s:s, s:s, s:n, s:b, s:[], s:{}, s:[i,{s:s,s:[s]}], s:s}", "plain", "abc",
                  "quoted", "a: \"b\"\n\\", "word", "no", "nothing", "flag", 1, "empty", "none",
                  "list", 1, "k", "v-1", "in", "12", "number", "12");

    str_init(&out);
    view_yaml(&out, value);
    assert_string_equal(
        out.data,
        "plain: abc\nquoted: \"a: \\\"b\\\"\\n\\\\\"\nword: \"no\"\nnothing: null\nflag: true\n"
        "empty: []\nnone: {}\nlist:\n- 1\n- k: v-1\n  in:\n  - \"12\"\nnumber: \"12\"\n");
    json_decref(value);
}

/* Item by item must give what the whole list gives, byte for byte. */
static void check_items(size_t count, const char *fields, enum view_form form)
{
    struct view_items *v = view_items_create(form, fields);
    json_t *items = json_array();
    AUTO_STR struct str want = {0};
    const struct str *text;
    struct accel_error err = {0};
    struct sample s;

    sample_init(&s);
    for (size_t i = 0; i < count; i++) {
        s.job.id = i + 1;
        s.job.name = i == 1 ? "a\nb\t\"\xc3\xa9\"" : "train";
        if (i == 2)
            view_items_add_job(v, &s.job);
        else
            view_items_add(v, view_job(&s.job, i % 2 == 0));
        json_array_append_new(items, view_job(&s.job, i % 2 == 0 && i != 2));
    }
    if (fields)
        assert_int_equal(view_select(items, fields, &err), 0);
    json_t *list = view_list(items);

    str_init(&want);
    if (form == VIEW_YAML) {
        view_yaml(&want, list);
    } else {
        AUTO_FREE char *dumped = json_dumps(list, JSON_INDENT(2));

        str_addf(&want, "%s\n", dumped);
    }
    assert_int_equal(view_items_end(v, &text, &err), 0);
    assert_string_equal(text->data, want.data);
    json_decref(list);
    view_items_destroy(v);
}

static void test_items(void **state)
{
    static const char *const fields[] = {NULL, "id", "where,state,name"};
    struct view_items *v = view_items_create(VIEW_JSON, "id,stat");
    struct accel_error err = {0};
    const struct str *text = NULL;
    struct sample s;

    for (size_t count = 0; count < 4; count++) {
        for (size_t i = 0; i < ARRAY_LEN(fields); i++) {
            check_items(count, fields[i], VIEW_JSON);
            check_items(count, fields[i], VIEW_YAML);
        }
    }
    sample_init(&s);
    view_items_add(v, view_job(&s.job, false));
    view_items_add(v, view_job(&s.job, true));
    assert_int_equal(view_items_end(v, &text, &err), ACCEL_EINVAL);
    assert_non_null(strstr(err.text, "--json state"));
    assert_null(text);
    view_items_destroy(v);
}

/* The short way must give what the long one gives. */
static void test_items_of_jobs(void **state)
{
    static const char *const texts[] = {
        "",         "a",         "\"\\/", "\b\t\n\v\f\r\x01\x1f\x7f", "caf\xc3\xa9 \xe2\x80\xa8",
        "\xff\xc3", "\"\n\xfe\""};
    char *where[] = {(char *)"n1", (char *)"n\n\xff"};
    struct sample s;
    struct accel_error err = {0};

    sample_init(&s);
    for (size_t i = 0; i < ARRAY_LEN(texts) * 3; i++) {
        struct view_items *quick = view_items_create(VIEW_JSON, NULL),
                          *slow = view_items_create(VIEW_JSON, NULL);
        const struct str *got = NULL, *want = NULL;
        char *text = (char *)texts[i % ARRAY_LEN(texts)];

        s.job.name = s.job.reason = text;
        s.job.command = s.job.cwd = (ProtobufCBinaryData){strlen(text), (uint8_t *)text};
        s.job.where = where;
        s.job.n_where = i % 3;
        s.job.exit_code = i % 2 ? -9 : 0;
        s.job.memory_bytes = i % 2 ? INT64_MAX : 0;
        s.job.uid = i % 2 ? UINT32_MAX : 0;
        s.job.submit_ms = i % 2 ? 1795132800123 : 0;
        s.job.state = i % 2 ? ACCEL__V1__JOB_STATE__JOB_ENDED : ACCEL__V1__JOB_STATE__JOB_HELD;
        for (size_t n = 0; n < 2; n++) {
            view_items_add_job(quick, &s.job);
            view_items_add(slow, view_job(&s.job, false));
        }
        assert_int_equal(view_items_end(quick, &got, &err), 0);
        assert_int_equal(view_items_end(slow, &want, &err), 0);
        assert_string_equal(got->data, want->data);
        view_items_destroy(quick);
        view_items_destroy(slow);
    }
}

static const struct table_column table_columns[] = {
    {.name = "ID", .is_right = true},
    {.name = "NAME", .may_cut = true},
    {.name = "USER", .is_wide = true},
    {.name = "AGE", .is_right = true, .may_hide = true},
    {.name = "STATE"},
    {.name = "REASON", .may_cut = true},
};

static struct table *sample_table(bool is_wide)
{
    struct table *t = table_create(table_columns, ARRAY_LEN(table_columns), is_wide);

    table_cell_number(t, UINT64_MAX);
    table_cell(t, "r\xc3\xa9sum\xc3\xa9", TABLE_PLAIN);
    table_cellf(t, "%s-%d", "ann", 1);
    table_cell_age(t, 7800000);
    table_cell(t, "RUNNING", state_color("RUNNING"));
    table_cell(t, "", TABLE_PLAIN);
    table_cell_number(t, 0);
    table_cell_bytes(t, "a\tb\x1b\xff?", 5);
    table_cell(t, "bob", TABLE_PLAIN);
    table_cell(t, "", TABLE_PLAIN);
    table_cell(t, "HELD", state_color("HELD"));
    table_cell(t,
               "none of the nodes that are r\xc3\xa9"
               "ady has two",
               TABLE_PLAIN);
    table_cell_number(t, 7); /* no complete row */
    return t;
}

static void check_table(bool is_wide, bool use_color, size_t width, const char *want)
{
    struct table *t = sample_table(is_wide);
    AUTO_STR struct str out = {0};

    str_init(&out);
    table_format(t, use_color, width, &out);
    assert_string_equal(out.data, want);
    table_destroy(t);
}

static void test_table(void **state)
{
    check_table(false, false, 0,
                "                  ID NAME             AGE STATE   REASON\n"
                "18446744073709551615 r\xc3\xa9sum\xc3\xa9         2h10m RUNNING\n"
                "                   0 a\\x09b\\x1b\\xff       HELD    "
                "none of the nodes that are r\xc3\xa9"
                "ady has two\n");
    check_table(true, false, 0,
                "                  ID NAME           USER    AGE STATE   REASON\n"
                "18446744073709551615 r\xc3\xa9sum\xc3\xa9         ann-1 2h10m RUNNING\n"
                "                   0 a\\x09b\\x1b\\xff bob         HELD    "
                "none of the nodes that are r\xc3\xa9"
                "ady has two\n");
    check_table(false, true, 0,
                "\033[1m                  ID NAME             AGE STATE   REASON\033[0m\n"
                "18446744073709551615 r\xc3\xa9sum\xc3\xa9         2h10m "
                "\033[32mRUNNING\033[0m\n"
                "                   0 a\\x09b\\x1b\\xff       HELD    "
                "none of the nodes that are r\xc3\xa9"
                "ady has two\n");
}

static void test_table_on_a_narrow_terminal(void **state)
{
    /* the last column first, in the middle of no character; then the others; never a name */
    setenv("LC_ALL", "C", 1);
    check_table(
        false, false, 78,
        "                  ID NAME             AGE STATE   REASON\n"
        "18446744073709551615 r\xc3\xa9sum\xc3\xa9         2h10m RUNNING\n"
        "                   0 a\\x09b\\x1b\\xff       HELD    none of the nodes that are +\n");
    setenv("LC_ALL", "en_US.utf8", 1);
    check_table(false, false, 79,
                "                  ID NAME             AGE STATE   REASON\n"
                "18446744073709551615 r\xc3\xa9sum\xc3\xa9         2h10m RUNNING\n"
                "                   0 a\\x09b\\x1b\\xff       HELD    "
                "none of the nodes that are r\xe2\x80\xa6\n");
    check_table(false, false, 64, /* AGE is hidden before texts are cut to nothing */
                "                  ID NAME           STATE   REASON\n"
                "18446744073709551615 r\xc3\xa9sum\xc3\xa9         RUNNING\n"
                "                   0 a\\x09b\\x1b\\xff HELD    none of the nodes t\xe2\x80\xa6\n");
    check_table(false, false, 1,
                "                  ID NAME STATE   REASON\n"
                "18446744073709551615 r\xc3\xa9s\xe2\x80\xa6 RUNNING\n"
                "                   0 a\\x\xe2\x80\xa6 HELD    none \xe2\x80\xa6\n");
}

static void test_a_hidden_column_is_not_cut(void **state)
{
    static const struct table_column columns[] = {
        {.name = "ID", .is_right = true},
        {.name = "WHERE", .may_cut = true, .may_hide = true}, /* both, as in ps */
        {.name = "REASON", .may_cut = true},
    };
    struct table *t = table_create(columns, ARRAY_LEN(columns), false);
    AUTO_STR struct str out = {0};

    setenv("LC_ALL", "C", 1);
    table_cell_number(t, 12);
    table_cell(t, "n[1-16]", TABLE_PLAIN);
    table_cell(t, "stopped on request", TABLE_PLAIN);
    str_init(&out);
    table_format(t, false, 1, &out);
    assert_string_equal(out.data, "ID REASON\n"
                                  "12 stopp+\n");
    table_destroy(t);
}

static void test_bytes_become_utf8(void **state)
{
    static const struct {
        const char *in;
        size_t len;
        const char *out;
    } rows[] = {{"abc", 3, "abc"},           {"", 0, ""},
                {"\xc3\xa9", 2, "\xc3\xa9"}, {"a\xc3", 2, "a\\xc3"},
                {"a\0b", 3, "a\\x00b"},      {"\xff\xc3\xa9", 3, "\\xff\xc3\xa9"}};

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        json_t *o = view_bytes(rows[i].in, rows[i].len);
        AUTO_STR struct str visible = {0};

        assert_string_equal(json_string_value(o), rows[i].out);
        json_decref(o);
        str_init(&visible);
        str_add_visible(&visible, rows[i].in, rows[i].len);
        assert_string_equal(visible.data, rows[i].out);
    }
    AUTO_STR struct str visible = {0};

    str_init(&visible);
    str_add_visible(&visible, "\033[31mred\tx\xc2\x9b", 12);
    assert_string_equal(visible.data, "\\x1b[31mred\tx\\xc2\\x9b");
}

static void test_exit_codes(void **state)
{
    static const struct {
        Accel__V1__JobResult result;
        Accel__V1__Cause cause;
        int told, want;
    } rows[] = {
        {ACCEL__V1__JOB_RESULT__RESULT_SUCCEEDED, ACCEL__V1__CAUSE__CAUSE_SUCCEEDED, 0, 0},
        {ACCEL__V1__JOB_RESULT__RESULT_FAILED, ACCEL__V1__CAUSE__CAUSE_WORKER_FAILED, 3, 3},
        {ACCEL__V1__JOB_RESULT__RESULT_FAILED, ACCEL__V1__CAUSE__CAUSE_WORKER_FAILED, 137, 137},
        {ACCEL__V1__JOB_RESULT__RESULT_FAILED, ACCEL__V1__CAUSE__CAUSE_WORKER_FAILED, 125, 125},
        {ACCEL__V1__JOB_RESULT__RESULT_FAILED, ACCEL__V1__CAUSE__CAUSE_WORKER_FAILED, 0, 1},
        {ACCEL__V1__JOB_RESULT__RESULT_FAILED, ACCEL__V1__CAUSE__CAUSE_START_FAILED, 127, 127},
        {ACCEL__V1__JOB_RESULT__RESULT_FAILED, ACCEL__V1__CAUSE__CAUSE_START_FAILED, 126, 126},
        {ACCEL__V1__JOB_RESULT__RESULT_FAILED, ACCEL__V1__CAUSE__CAUSE_START_FAILED, 125, 77},
        {ACCEL__V1__JOB_RESULT__RESULT_FAILED, ACCEL__V1__CAUSE__CAUSE_SHIM_LOST, 125, 77},
        {ACCEL__V1__JOB_RESULT__RESULT_CANCELLED, ACCEL__V1__CAUSE__CAUSE_CANCELLED, 130, 130},
        {ACCEL__V1__JOB_RESULT__RESULT_TIMED_OUT, ACCEL__V1__CAUSE__CAUSE_TIME_LIMIT, 124, 124},
        {ACCEL__V1__JOB_RESULT__RESULT_LOST, ACCEL__V1__CAUSE__CAUSE_NODE_LOST, 125, 77},
    };
    struct sample s;

    sample_init(&s);
    setenv("ACCEL_EXIT_ERROR", "77", 1);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        s.job.result = rows[i].result;
        s.attempt.cause = rows[i].cause;
        s.job.exit_code = rows[i].told;
        assert_int_equal(result_exit_code(&s.job), rows[i].want);
    }
    setenv("ACCEL_EXIT_ERROR", "256", 1); /* no exit code: not used */
    assert_int_equal(exit_code_not_run(), 125);
    unsetenv("ACCEL_EXIT_ERROR");
    assert_int_equal(result_exit_code(&s.job), 125);
}

static void test_report(void **state)
{
    AUTO_STR struct str out = {0};
    struct sample s;

    sample_init(&s);
    str_init(&out);
    result_add_report(&out, &s.job, "/usr/bin/python3", false);
    assert_string_equal(
        out.data,
        "accelctl: job 12 (train) failed: rank 1 (pid 71) exited with code 3\n"
        "   RANK  NODE                  PID       RAN  END\n"
        "      1* n1                     71      2.5s  exit code 3  <- failed first\n"
        "      0  n1                     70      2.5s  signal 15 (Terminated)\n"
        "last lines of stderr of rank 1:\n"
        "    one\n"
        "    No module named 'torch'\n"
        "    \\xff\n"
        "it ran under /usr/bin/python3, the python3 of your PATH unless you named one; another: "
        "--python /path/of/python3\n"
        "logs: accelctl logs 12   (/s/1.err)\n");
}

static void check_rank_end(const Accel__V1__Rank *rank, const char *want)
{
    AUTO_STR struct str out = {0};

    str_init(&out);
    result_add_rank_end(&out, rank);
    assert_string_equal(out.data, want);
}

static void test_end_of_a_rank(void **state)
{
    Accel__V1__Rank rank = ACCEL__V1__RANK__INIT;

    check_rank_end(&rank, "not known");
    rank.state = (char *)"EXITED"; /* with its attempt: what began nothing has no exit */
    check_rank_end(&rank, "not started");
    rank.pid = 7;
    check_rank_end(&rank, "not known"); /* its shim was killed */
    rank.exited = true;
    check_rank_end(&rank, "exit code 0");
    rank.exited = false;
    rank.state = (char *)"RUNNING";
    check_rank_end(&rank, "RUNNING");
    rank.error = (char *)"no such program";
    check_rank_end(&rank, "not started: no such program");
}

static void test_loss(void **state)
{
    AUTO_STR struct str out = {0};
    struct sample s;

    sample_init(&s);
    str_init(&out);
    s.job.reason = (char *)"the rank exited with code 0; 6" STR_OUTPUT_LOST "No space\033";
    result_add_loss(&out, &s.job);
    assert_string_equal(out.data, "accelctl: 6 bytes of output were lost: No space\\x1b; accelctl "
                                  "logs 12 has what was kept\n");
    str_clear(&out);
    s.job.reason = (char *)STR_OUTPUT_LOST; /* a text of somebody else */
    result_add_loss(&out, &s.job);
    s.job.reason = (char *)"the rank exited with code 0";
    result_add_loss(&out, &s.job);
    s.job.reason = NULL;
    result_add_loss(&out, &s.job);
    assert_string_equal(out.data, "");
}

static void test_ages(void **state)
{
    static const struct {
        int64_t ms;
        const char *text;
    } rows[] = {{-5, "0s"},          {59000, "59s"},
                {300000, "5m"},      {7800000, "2h10m"},
                {360000000, "4d4h"}, {119999, "119s"},
                {120000, "2m"},      {7200000, "2h0m"},
                {172800000, "2d0h"}, {INT64_MAX, "106751991167d7h"}};

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        AUTO_STR struct str out = {0};

        str_init(&out);
        str_add_age(&out, rows[i].ms);
        assert_string_equal(out.data, rows[i].text);
    }
}

static void test_colours(void **state)
{
    unsetenv("NO_COLOR");
    unsetenv("CLICOLOR");
    unsetenv("CLICOLOR_FORCE");
    setenv("TERM", "xterm", 1);
    assert_true(color_is_wanted(NULL, true));
    assert_false(color_is_wanted(NULL, false));
    setenv("CLICOLOR", "0", 1);
    assert_false(color_is_wanted("auto", true));
    setenv("CLICOLOR_FORCE", "1", 1);
    assert_true(color_is_wanted(NULL, false));
    setenv("NO_COLOR", "1", 1);
    assert_false(color_is_wanted(NULL, true));
    assert_true(color_is_wanted("always", false));
    assert_false(color_is_wanted("never", true));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_field_names),
        cmocka_unit_test(test_nodes_and_events),
        cmocka_unit_test(test_nodes_are_sorted),
        cmocka_unit_test(test_select),
        cmocka_unit_test(test_yaml),
        cmocka_unit_test(test_items),
        cmocka_unit_test(test_items_of_jobs),
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_table_on_a_narrow_terminal),
        cmocka_unit_test(test_a_hidden_column_is_not_cut),
        cmocka_unit_test(test_bytes_become_utf8),
        cmocka_unit_test(test_exit_codes),
        cmocka_unit_test(test_report),
        cmocka_unit_test(test_end_of_a_rank),
        cmocka_unit_test(test_loss),
        cmocka_unit_test(test_ages),
        cmocka_unit_test(test_colours),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
