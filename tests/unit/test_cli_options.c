/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The command line of accelctl: what it accepts, what it refuses and what it then suggests, help
 * and man pages. Driven by the option table itself where that is possible, so that a new row is
 * tested without a new test.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "client/accelctl/help.h"
#include "client/accelctl/options.h"
#include "common/limits.h"

#define ARGS_MAX 16

struct parsed {
    int r;
    struct options o;
    struct accel_error err;
};

/* The line is split at single blanks. */
static void parse(struct parsed *p, char *line)
{
    char *argv[ARGS_MAX + 1] = {"accelctl"};
    int argc = 1;

    while (*line != '\0' && argc < ARGS_MAX) {
        argv[argc++] = line;
        line += strcspn(line, " ");
        if (*line != '\0')
            *line++ = '\0';
    }
    memset(p, 0, sizeof *p);
    p->r = options_parse(argc, argv, &p->o, &p->err);
}

/* A value that this row accepts. */
static const char *good_value(const struct option_row *row, char *buf, size_t size)
{
    switch (row->type) {
    case OPT_TYPE_NUMBER: snprintf(buf, size, "%llu", (unsigned long long)row->min); return buf;
    case OPT_TYPE_DURATION: return "90s";
    case OPT_TYPE_BYTES: return "2G";
    case OPT_TYPE_CHOICE:
        snprintf(buf, size, "%.*s", (int)strcspn(row->choices, "|"), row->choices);
        return buf;
    default: return "some=text";
    }
}

static const char *verb_of(const struct option_row *row)
{
    for (size_t i = 0; i < VERB_COUNT; i++) {
        if (row->verbs & VERB_BIT(verb_table[i].id))
            return verb_table[i].name;
    }
    fail_msg("--%s belongs to no verb", row->name);
    return NULL;
}

static void check_spelling(const struct option_row *row, const char *name, bool underscores)
{
    char value[64], line[256];
    struct parsed p;

    for (int form = 0; form < 2; form++) {
        const char *v = good_value(row, value, sizeof value);

        if (row->type == OPT_TYPE_FLAG)
            snprintf(line, sizeof line, "%s --%s", verb_of(row), name);
        else
            snprintf(line, sizeof line, "%s --%s%c%s", verb_of(row), name, form ? '=' : ' ', v);
        for (char *c = line; underscores && *c != '\0' && *c != '='; c++) {
            if (*c == '-' && c[1] != '-' && c[-1] != ' ' && c[-1] != '-')
                *c = '_';
        }
        parse(&p, line);
        if (p.r < 0)
            fail_msg("--%s: %s", name, p.err.text);
        assert_int_equal(p.o.v[row->id].count, 1);
        if (row->type != OPT_TYPE_FLAG)
            assert_string_equal(p.o.v[row->id].text, v);
        options_done(&p.o);
    }
}

static void test_every_option_in_every_form(void **state)
{
    for (size_t i = 0; i < option_table_count; i++) {
        const struct option_row *row = &option_table[i];
        char list[128];

        check_spelling(row, row->name, false);
        check_spelling(row, row->name, true);
        snprintf(list, sizeof list, "%s", row->aliases);
        for (char *a = list; *a != '\0';) {
            size_t n = strcspn(a, ",");
            bool is_last = a[n] == '\0';

            a[n] = '\0';
            check_spelling(row, a, false);
            check_spelling(row, a, true);
            a += n + !is_last;
        }
    }
}

static void test_misspelt_options_are_suggested(void **state)
{
    for (size_t i = 0; i < option_table_count; i++) {
        const struct option_row *row = &option_table[i];
        char line[128], try[96];
        struct parsed p;

        if (row->is_hidden || strlen(row->name) < 5)
            continue;
        snprintf(line, sizeof line, "%s --%sq", verb_of(row), row->name);
        snprintf(try, sizeof try, "try: --%s", row->name);
        parse(&p, line);
        assert_int_equal(p.r, ACCEL_EINVAL);
        if (!strstr(p.err.text, try))
            fail_msg("%sq: %s", row->name, p.err.text);
        options_done(&p.o);
    }
}

static void test_refused(void **state)
{
    static const struct {
        const char *line, *text;
    } rows[] = {
        {"launch --procs 0 x", "a number from 1 to 4096"},
        {"launch --procs 1000000000 x", "a number from 1 to 4096"},
        {"launch --procs -1 x", "a number from 1"},
        {"launch --procs 2x x", "a number from 1"},
        {"launch --procs", "needs a value"},
        {"launch --procs= x", "it is empty"},
        {"launch --nproc_per_node=gpu x", "try: --devices gpu, and no --procs"},
        {"launch --standalone x", "try: nothing: each gang"},
        {"submit --begin now x", "try: at TIME"},
        {"launch --nice x", "first come, first served"},
        {"launch --label=yes x", "takes no value"},
        {"launch --use_fsdp=yes x", "takes no value"},
        {"launch --zero_stage", "needs a value"},
        {"launch --fsdp_sharding_strategi X x", "try: --fsdp-sharding-strategy"},
        {"launch --main_process_ip 10.0.0.1 x", "finds its rank, address and port"},
        {"launch --machine_rank=1 x", "--machine-rank: not possible"},
        {"launch --deepspeed_hostfile h x", "--nodelist"},
        {"launch --config_file default.yaml x", "accelctl help accelerate"},
        {"launch --gpu_ids 0,1 x", "--gpus N"},
        {"launch --tee 3 x", "it is torchrun's"},
        {"ps --use_fsdp", "unknown option --use_fsdp"},
        {"launch --devices npu x", "one of auto|cpu|gpu|tpu"},
        {"launch --mixed_precision fp64 x", "one of no|fp16|bf16|fp8"},
        {"launch --time soon x", "it is a time"},
        {"launch --time 0 x", "it is a time"},
        {"launch --mem lots x", "it is a size"},
        {"launch --mem 4000 x", "1048576 bytes or more"},
        {"sbatch x.sh", "try: accelctl submit"},
        {"squeue", "try: accelctl ps -A"},
        {"launch --partition gpu x", "try: --nodelist A,B"},
        {"submit --mail_type=END x", "try: accelctl wait ID"},
        {"submit -a 0-9 x", "why: accelctl submit has none of that name"},
        {"ps --me", "try: nothing: your jobs are listed"},
        {"cancel -f 1", "try: --kill"},
        {"launch -Z x", "unknown option -Z"},
        {"ps --procs 2", "unknown option --procs"},
        {"launhc x", "try: accelctl launch"},
        {"describ 1", "try: accelctl describe"},
        {"cancle 1", "try: accelctl cancel"},
        {"train.py", "try: accelctl launch train.py"},
        {"frobnicate", "try: accelctl help"},
        {"-- x", "no verb"},
        {"launch --n\xff\xfe 2", "\\xff\\xfe"},
        {"\xff\xfe", "\\xff\\xfe"},
    };

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        char line[128];
        struct parsed p;

        snprintf(line, sizeof line, "%s", rows[i].line);
        parse(&p, line);
        assert_int_equal(p.r, ACCEL_EINVAL);
        if (!strstr(p.err.text, rows[i].text))
            fail_msg("%s: %s", rows[i].line, p.err.text);
        assert_non_null(strstr(p.err.text, "\ntry: "));
        options_done(&p.o);
    }
}

/* What `accelctl help slurm` says is taken. */
static void test_words_of_slurm_are_taken(void **state)
{
    static const struct {
        const char *line;
        enum verb_id verb;
        enum opt_id option;
    } rows[] = {
        {"scancel 1", VERB_CANCEL, OPT_COUNT},
        {"sinfo", VERB_NODES, OPT_COUNT},
        {"submit -J name x", VERB_SUBMIT, OPT_NAME},
        {"submit -N 2 x", VERB_SUBMIT, OPT_NODES},
        {"launch -n 4 x", VERB_LAUNCH, OPT_NUM_PROCESSES},
        {"launch --ntasks=4 x", VERB_LAUNCH, OPT_NUM_PROCESSES},
        {"launch --ntasks-per-node=4 x", VERB_LAUNCH, OPT_PROCS},
        {"launch -c 2 x", VERB_LAUNCH, OPT_CPUS},
        {"launch -t 1-00:00:00 x", VERB_LAUNCH, OPT_TIME},
        {"launch -o out.%j x", VERB_LAUNCH, OPT_OUTPUT_PATTERN},
        {"launch -w a,b x", VERB_LAUNCH, OPT_NODELIST},
        {"launch -x a x", VERB_LAUNCH, OPT_EXCLUDE},
        {"launch --gres=gpu:2 x", VERB_LAUNCH, OPT_GRES},
        {"launch --gpus-per-node 2 x", VERB_LAUNCH, OPT_GPUS},
        {"launch --mem=4G x", VERB_LAUNCH, OPT_MEM},
    };

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        char line[128];
        struct parsed p;

        snprintf(line, sizeof line, "%s", rows[i].line);
        parse(&p, line);
        if (p.r < 0)
            fail_msg("%s: %s", rows[i].line, p.err.text);
        assert_int_equal(p.o.verb->id, rows[i].verb);
        if (rows[i].option != OPT_COUNT)
            assert_int_equal(p.o.v[rows[i].option].count, 1);
        options_done(&p.o);
    }
}

static void test_program_arguments_are_left_alone(void **state)
{
    static const struct {
        const char *line;
        size_t count;
        const char *first, *last;
    } rows[] = {
        {"launch --procs 2 train.py --procs 9 -h", 4, "train.py", "-h"},
        {"launch --procs 2 -- --odd --procs", 2, "--odd", "--procs"},
        {"launch -m pkg.mod --epochs 3", 2, "--epochs", "3"},
        {"launch a\xff -- b", 3, "a\xff", "b"},
        {"--color never ps 1 2", 2, "1", "2"},
        {"ps 1 -a 2", 2, "1", "2"},
    };

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        char line[128];
        struct parsed p;

        snprintf(line, sizeof line, "%s", rows[i].line);
        parse(&p, line);
        assert_int_equal(p.r, 0);
        assert_int_equal(p.o.arg_count, rows[i].count);
        assert_string_equal(p.o.args[0], rows[i].first);
        assert_string_equal(p.o.args[rows[i].count - 1], rows[i].last);
        options_done(&p.o);
    }
}

static void test_short_options(void **state)
{
    char line[] = "ps -aA -ojson -s=RUNNING", lines[] = "logs -fn20 7";
    struct parsed p;

    parse(&p, line);
    assert_int_equal(p.r, 0);
    assert_true(option_given(&p.o, OPT_ALL_STATES) && option_given(&p.o, OPT_ALL_USERS));
    assert_string_equal(p.o.v[OPT_FORMAT].text, "json");
    assert_int_equal(p.o.v[OPT_FORMAT].number, 2);
    assert_string_equal(p.o.v[OPT_STATE].text, "RUNNING");
    options_done(&p.o);
    parse(&p, lines);
    assert_int_equal(p.r, 0);
    assert_true(option_given(&p.o, OPT_FOLLOW));
    assert_int_equal(p.o.v[OPT_LINES].number, 20);
    options_done(&p.o);
}

static void test_repeated_and_negative_values(void **state)
{
    char line[] = "launch --env A=1 -e B=2 --env=C=3 x", since[] = "events --since -1d",
         same[] = "events --since=-1d";
    struct parsed p;

    parse(&p, line);
    assert_int_equal(p.r, 0);
    assert_int_equal(p.o.v[OPT_ENV].count, 3);
    assert_string_equal(p.o.v[OPT_ENV].list[0], "A=1");
    assert_string_equal(p.o.v[OPT_ENV].list[2], "C=3");
    options_done(&p.o);
    parse(&p, since);
    assert_int_equal(p.r, 0);
    assert_string_equal(p.o.v[OPT_SINCE].text, "-1d");
    options_done(&p.o);
    parse(&p, same);
    assert_int_equal(p.r, 0);
    assert_string_equal(p.o.v[OPT_SINCE].text, "-1d");
    options_done(&p.o);
}

static void test_aliases_of_verbs(void **state)
{
    assert_ptr_equal(verb_find("list"), &verb_table[VERB_PS]);
    assert_ptr_equal(verb_find("ls"), &verb_table[VERB_PS]);
    assert_ptr_equal(verb_find("stop"), &verb_table[VERB_CANCEL]);
    assert_ptr_equal(verb_find("kill"), &verb_table[VERB_CANCEL]);
    assert_null(verb_find(""));
    assert_string_equal(verb_suggest("squeue"), "ps -A");
    assert_string_equal(verb_suggest("top"), "ps -w"); /* not stop, which is nearer */
    assert_null(verb_suggest("xyzzy"));
    for (size_t i = 0; i < VERB_COUNT; i++)
        assert_int_equal(verb_table[i].id, i);
}

static void test_ranks(void **state)
{
    struct accel_error err;
    uint32_t *ranks = NULL;
    size_t count = 9;

    assert_int_equal(parse_ranks("3,0-2,1", &ranks, &count, &err), 0);
    assert_int_equal(count, 4);
    for (uint32_t i = 0; i < 4; i++)
        assert_int_equal(ranks[i], i);
    free(ranks);
    assert_int_equal(parse_ranks("all", &ranks, &count, &err), 0);
    assert_int_equal(count, 0);
    assert_null(ranks);
    static const char *const bad[] = {"",   "x",  "1,",         ",1",      "2-1",
                                      "1-", "-1", "0-99999999", "0-30000", "1 2"};

    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        assert_true(parse_ranks(bad[i], &ranks, &count, &err) < 0);
}

static void test_since(void **state)
{
    const int64_t now = 1763900000000;
    struct accel_error err;
    int64_t at;

    assert_int_equal(parse_since("-1d", now, &at, &err), 0);
    assert_int_equal(at, now - 86400000);
    assert_int_equal(parse_since("90", now, &at, &err), 0);
    assert_int_equal(at, now - 90000);
    assert_int_equal(parse_since("2026-11-20", now, &at, &err), 0);
    assert_int_equal(at, 1795132800000);
    assert_int_equal(parse_since("2026-11-20T08:00", now, &at, &err), 0);
    assert_int_equal(at, 1795132800000 + 8 * 3600000);
    assert_int_equal(parse_since("2026-11-20T08:00:01Z", now, &at, &err), 0);
    assert_int_equal(at, 1795132800000 + 8 * 3600000 + 1000);
    assert_true(parse_since("yesterday", now, &at, &err) < 0);
    assert_true(parse_since("", now, &at, &err) < 0);
}

/* Every option stands in the help and in the man page of each of its verbs; no line is too long;
 * troff has no stray control. */
static void test_help_and_man_have_every_option(void **state)
{
    for (size_t v = 0; v < VERB_COUNT; v++) {
        AUTO_STR struct str help = {0}, man = {0};

        str_init(&help);
        str_init(&man);
        help_add_verb(&help, &verb_table[v]);
        help_add_man(&man, &verb_table[v]);
        assert_non_null(strstr(help.data, "\nExamples:\n"));
        assert_true(strstr(help.data, "\nExamples:\n") < strstr(help.data, "\nOptions:\n"));
        for (size_t i = 0; i < option_table_count; i++) {
            const struct option_row *row = &option_table[i];
            char want[64];

            if (!(row->verbs & VERB_BIT(v)) || row->is_hidden)
                continue;
            snprintf(want, sizeof want, "--%s", row->name);
            assert_non_null(strstr(help.data, want));
        }
        for (const char *p = help.data; *p != '\0'; p += strcspn(p, "\n") + 1)
            assert_true(strcspn(p, "\n") < 100);
        static const char *const macros[] = {".TH ", ".SH ",  ".TP\n", ".B ", ".PP\n",
                                             ".BR ", ".nf\n", ".fi\n", ".I "};

        for (const char *p = man.data; *p != '\0'; p += strcspn(p, "\n") + 1) {
            bool is_known = p[0] != '.' && p[0] != '\'';

            for (size_t m = 0; m < ARRAY_LEN(macros) && !is_known; m++)
                is_known = strncmp(p, macros[m], strlen(macros[m])) == 0;
            if (!is_known)
                fail_msg("%s: %.60s", verb_table[v].name, p);
        }
    }
}

static void test_topics(void **state)
{
    AUTO_STR struct str out = {0};

    str_init(&out);
    assert_true(help_add_topic(&out, "exit-codes"));
    assert_true(help_add_topic(&out, "environment"));
    assert_false(help_add_topic(&out, "weather"));
    assert_non_null(strstr(out.data, "ACCEL_EXIT_ERROR"));
    help_add_overview(&out);
    help_add_man(&out, NULL);
    for (size_t i = 0; i < VERB_COUNT; i++)
        assert_non_null(strstr(out.data, verb_table[i].summary));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_option_in_every_form),
        cmocka_unit_test(test_misspelt_options_are_suggested),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_words_of_slurm_are_taken),
        cmocka_unit_test(test_program_arguments_are_left_alone),
        cmocka_unit_test(test_short_options),
        cmocka_unit_test(test_repeated_and_negative_values),
        cmocka_unit_test(test_aliases_of_verbs),
        cmocka_unit_test(test_ranks),
        cmocka_unit_test(test_since),
        cmocka_unit_test(test_help_and_man_have_every_option),
        cmocka_unit_test(test_topics),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
