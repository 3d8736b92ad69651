/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Command lines: the input, cut at newlines, is argv. Whatever it is, parsing ends with options
 * that keep the table's promises or with an error of three lines; what was accepted can be used,
 * and every text of it can be shown.
 */
#include "fuzz.h"

#include <string.h>

#include "client/accelctl/cli.h"
#include "client/accelctl/spec.h"

#define ARGS_MAX 64

static void check_values(const struct options *o)
{
    for (size_t i = 0; i < option_table_count; i++) {
        const struct option_row *row = &option_table[i];
        const struct opt_value *v = &o->v[row->id];

        if (v->count == 0 || !o->verb || !(row->verbs & VERB_BIT(o->verb->id)))
            continue;
        CHECK(v->text != NULL);
        CHECK(row->type != OPT_TYPE_NUMBER || (v->number >= row->min && v->number <= row->max));
        CHECK(row->type != OPT_TYPE_DURATION || v->number >= row->min);
        CHECK(row->type != OPT_TYPE_LIST || v->list[v->count - 1] == v->text);
        CHECK(row->type == OPT_TYPE_FLAG || v->text[0] != '\0');
    }
}

static void check_uses(const struct options *o)
{
    char *environment[] = {"PATH=/bin", "RANK=1", NULL};
    struct spec_caller caller = {.environment = environment, .cwd = "/"};
    struct accel_error err;
    AUTO_FREE uint64_t *ids = NULL;
    AUTO_FREE uint32_t *ranks = NULL;
    size_t count;
    int64_t at;
    int r = parse_job_ids(o, 0, &ids, &err);

    CHECK(r <= 0);
    if (option_given(o, OPT_RANK))
        CHECK(parse_ranks(o->v[OPT_RANK].text, &ranks, &count, &err) <= 0);
    if (option_given(o, OPT_SINCE) && parse_since(o->v[OPT_SINCE].text, 1000, &at, &err) == 0)
        CHECK(o->v[OPT_SINCE].text[0] != '\0');
    if (o->verb->takes_program) {
        struct arena a;
        Accel__V1__JobSpec spec;
        int code = -1;

        arena_init(&a);
        r = spec_build(&a, o, &caller, &spec, &code, &err);
        CHECK(r == 0 ? spec.n_argv > 0 && is_valid_name(spec.name)
                     : code > 0 && err.text[0] != '\0');
        arena_done(&a);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *argv[ARGS_MAX + 1] = {"accelctl"};
    int argc = 1;
    AUTO_FREE char *text = xcalloc(1, size + 1);
    struct options o;
    struct accel_error err = {0};

    if (size > 0)
        memcpy(text, data, size);
    for (char *p = text; p < text + size && argc < ARGS_MAX;) {
        argv[argc++] = p;
        p += strcspn(p, "\n");
        *p++ = '\0';
    }
    if (options_parse(argc, argv, &o, &err) == 0) {
        check_values(&o);
        if (o.verb)
            check_uses(&o);
    } else {
        CHECK(err.code == ACCEL_EINVAL && strstr(err.text, "\nwhy: "));
    }
    AUTO_STR struct str shown = {0};

    str_init(&shown);
    str_add_visible(&shown, data, size);
    CHECK(is_utf8(shown.data, shown.len) && !memchr(shown.data, '\033', shown.len));
    options_done(&o);
    return 0;
}

bool fuzz_corpus(size_t i, struct str *out)
{
    static const char *const lines[] = {
        "launch\n--procs\n2\n--devices=cpu\n--env\nA=1\n--time\n1h30m\n/bin/true\n-x",
        "submit\n--num_processes=8\n--num_machines\n2\n--wrap\necho hi",
        "launch\n-m\npkg.mod\n--epochs\n3",
        "ps\n-aA\n-ojson\n--json\nid,state\n--since=-1d",
        "logs\n-fn20\n--rank\n0,3-5\njob/7",
        "--color\nnever\nevents\n-w\n--since\n2026-11-20T08:00\n12",
        "launch\n--output\n%x-%j.%r\n--mem\n1.5G\n--gpus\n4\n--\n/bin/sh",
        "lanch\n--porcs",
    };

    if (i >= ARRAY_LEN(lines))
        return false;
    str_adds(out, lines[i]);
    return true;
}
