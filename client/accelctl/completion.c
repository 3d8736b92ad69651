/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `accelctl completion`: scripts for the shells, written from the tables in option_table.c, so that
 * they know what this program knows and nothing else. What follows a verb is read from its usage:
 * "{a | b}" are words, ID is a job, NAME... are nodes. The ids of jobs and nodes are asked for when
 * they are wanted (`accelctl completion jobs`), of a coordinator that runs; none is started by a
 * press of a key.
 */
#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "accel/v1/job.pb-c.h"
#include "accel/v1/node.pb-c.h"
#include "client/accelctl/cli.h"
#include "client/accelctl/session.h"

/* --- what the tables say --- */

enum values { VALUES_NONE, VALUES_FILES, VALUES_NODES, VALUES_CHOICES };

static enum values values_of(const struct option_row *row)
{
    static const struct {
        const char *metavar;
        enum values values;
    } kinds[] = {{"FILE", VALUES_FILES},    {"DIR", VALUES_FILES}, {"P", VALUES_FILES},
                 {"PATTERN", VALUES_FILES}, {"A,B", VALUES_NODES}, {"NAME", VALUES_NODES}};

    if (row->type == OPT_TYPE_CHOICE)
        return VALUES_CHOICES;
    for (size_t i = 0; row->metavar && i < ARRAY_LEN(kinds); i++) {
        if (strcmp(kinds[i].metavar, row->metavar) == 0)
            return kinds[i].values;
    }
    return VALUES_NONE;
}

static bool is_shown(const struct option_row *row, const struct verb *verb)
{
    return !row->is_hidden && (row->verbs & VERB_BIT(verb->id));
}

/* Appends each word of a list, `between` them and before the first but at the begin of out. */
static void add_words(struct str *out, const char *list, char comma, const char *before,
                      const char *between)
{
    while (*list != '\0') {
        size_t len = strcspn(list, (char[]){comma, '\0'});

        if (len > 0)
            str_addf(out, "%s%s%.*s", out->len > 0 ? between : "", before, (int)len, list);
        list += len;
        list += *list == comma;
    }
}

/* Every spelling of an option, "-p --procs --nproc". */
static void add_spellings(struct str *out, const struct option_row *row, const char *between)
{
    if (row->short_name)
        str_addf(out, "%s-%c", out->len > 0 ? between : "", row->short_name);
    add_words(out, row->name, ',', "--", between);
    add_words(out, row->aliases, ',', "--", between);
}

/* The words that a verb's usage names in braces or brackets; VERB stands for all of them. */
static void add_usage_words(struct str *out, const struct verb *verb)
{
    const char *p = verb->usage;

    if (*p != '{' && strncmp(p, "[VERB", 5) != 0)
        return;
    for (p++; *p != '\0'; p += strcspn(p, "|"), p += *p == '|') {
        p += strspn(p, " ");
        size_t len = strcspn(p, " |}]");

        if (islower((unsigned char)*p))
            str_addf(out, "%s%.*s", out->len > 0 ? " " : "", (int)len, p);
        for (size_t i = 0; len == 4 && strncmp(p, "VERB", 4) == 0 && i < VERB_COUNT; i++)
            add_words(out, verb_table[i].name, ',', "", " ");
    }
}

/* Help in a few words, without what a quoted string of a shell would trip over. */
static void add_summary(struct str *out, const char *help)
{
    size_t len = strcspn(help, ";");

    for (size_t i = 0; i < len; i++) {
        if (strchr("'\"`$\\[]:", help[i]) == NULL)
            str_addc(out, help[i]);
    }
}

/* --- bash --- */

static void add_bash_verb(struct str *out, const struct verb *verb)
{
    AUTO_STR struct str options = {0}, valued = {0}, words = {0};

    str_init(&options);
    str_init(&valued);
    str_init(&words);
    for (size_t i = 0; i < option_table_count; i++) {
        const struct option_row *row = &option_table[i];

        if (!is_shown(row, verb))
            continue;
        add_words(&options, row->name, ',', "--", " ");
        if (row->type != OPT_TYPE_FLAG)
            add_spellings(&valued, row, " ");
    }
    add_usage_words(&words, verb);
    str_addf(out, "    %s", verb->name);
    for (const char *a = verb->aliases; *a != '\0'; a++) {
        if (a == verb->aliases)
            str_addc(out, '|');
        str_addc(out, *a == ',' ? '|' : *a);
    }
    str_addf(out, ") name=%s program=%s\n        options='%s'\n        valued=' %s '\n", verb->name,
             verb->takes_program ? "yes" : "", options.data, valued.data);
    if (words.len > 0)
        str_addf(out, "        words='%s'\n", words.data);
    else if (strstr(verb->usage, "ID"))
        str_adds(out, "        words=@jobs\n");
    else if (strstr(verb->usage, "NAME"))
        str_adds(out, "        words=@nodes\n");
    str_adds(out, "        ;;\n");
}

static void add_bash_values(struct str *out, const struct verb *verb)
{
    for (size_t i = 0; i < option_table_count; i++) {
        const struct option_row *row = &option_table[i];
        AUTO_STR struct str names = {0}, words = {0};
        enum values values = values_of(row);

        if (!is_shown(row, verb) || values == VALUES_NONE)
            continue;
        str_init(&names);
        str_init(&words);
        add_spellings(&names, row, " ");
        str_adds(out, "    ");
        for (const char *n = names.data; *n != '\0'; n += strspn(n, " ")) {
            size_t len = strcspn(n, " ");

            str_addf(out, "%s%s:%.*s", n == names.data ? "" : "|", verb->name, (int)len, n);
            n += len;
        }
        if (values == VALUES_CHOICES) {
            add_words(&words, row->choices, '|', "", " ");
            str_addf(out, ") words='%s' ;;\n", words.data);
        } else if (values == VALUES_FILES) {
            str_adds(out, ") words=/ ;;\n");
        } else {
            str_adds(out, ") words=@nodes ;;\n");
        }
    }
}

static const char bash_head[] =
    "# bash completion of accelctl, written by `accelctl completion bash`\n"
    "# To have it now: eval \"$(accelctl completion bash)\"\n\n"
    "# Sets what is known of a verb: name, program, options, valued, words.\n"
    "_accelctl_verb() {\n"
    "    case $1 in\n";

static const char bash_middle[] =
    "    *) return 1 ;;\n"
    "    esac\n"
    "}\n\n"
    "# Sets words to what option $2 of verb $1 may be; / is files, @nodes is asked for.\n"
    "_accelctl_values() {\n"
    "    words=\n"
    "    case $1:$2 in\n";

static const char bash_tail[] =
    "    esac\n"
    "}\n\n"
    "_accelctl() {\n"
    "    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}\n"
    "    local name= program= options='%s' valued=' %s ' words='%s'\n"
    "    local i word is_value= in_program=\n"
    "    COMPREPLY=()\n"
    "    if [[ $cur == = ]]; then cur=; elif [[ $prev == = ]]; then\n"
    "        prev=${COMP_WORDS[COMP_CWORD-2]}\n"
    "    fi\n"
    "    for ((i = 1; i < COMP_CWORD; i++)); do\n"
    "        word=${COMP_WORDS[i]}\n"
    "        if [[ $word == = ]]; then is_value=yes\n"
    "        elif [[ $is_value ]]; then is_value=\n"
    "        elif [[ $word == -- ]]; then in_program=$program\n"
    "        elif [[ $word == -* ]]; then\n"
    "            [[ $valued == *\" $word \"* ]] && is_value=yes\n"
    "        elif [[ ! $name ]]; then _accelctl_verb \"$word\" || return\n"
    "        else in_program=$program; fi\n"
    "        [[ $in_program ]] && break\n"
    "    done\n"
    "    if [[ $in_program ]]; then words=/\n"
    "    elif [[ $is_value ]]; then _accelctl_values \"${name:-help}\" \"$prev\"\n"
    "    elif [[ $cur == -* ]]; then words=$options\n"
    "    elif [[ $program ]]; then words=/; fi\n"
    "    [[ $words == @* ]] &&\n"
    "        words=$(\"${COMP_WORDS[0]}\" completion ${words#@} 2>/dev/null)\n"
    "    if [[ $words == / ]]; then compopt -o default 2>/dev/null\n"
    "    else COMPREPLY=($(compgen -W \"$words\" -- \"$cur\")); fi\n"
    "}\n"
    "complete -F _accelctl accelctl\n";

static void add_bash(struct str *out)
{
    AUTO_STR struct str options = {0}, valued = {0}, verbs = {0};

    str_init(&options);
    str_init(&valued);
    str_init(&verbs);
    str_adds(out, bash_head);
    for (size_t i = 0; i < VERB_COUNT; i++) {
        add_bash_verb(out, &verb_table[i]);
        add_words(&verbs, verb_table[i].name, ',', "", " ");
    }
    str_adds(out, bash_middle);
    for (size_t i = 0; i < VERB_COUNT; i++)
        add_bash_values(out, &verb_table[i]);
    for (size_t i = 0; i < option_table_count; i++) {
        if (option_table[i].verbs != VERB_ALL)
            continue;
        add_words(&options, option_table[i].name, ',', "--", " ");
        if (option_table[i].type != OPT_TYPE_FLAG)
            add_spellings(&valued, &option_table[i], " ");
    }
    str_addf(out, bash_tail, options.data, valued.data, verbs.data);
}

/* --- zsh --- */

static void add_zsh_option(struct str *out, const struct option_row *row)
{
    AUTO_STR struct str names = {0}, words = {0};
    const char *star = row->type == OPT_TYPE_LIST ? "*" : "";

    str_init(&names);
    str_init(&words);
    add_spellings(&names, row, " ");
    for (const char *n = names.data; *n != '\0'; n += strspn(n, " ")) {
        size_t len = strcspn(n, " ");
        const char *equals = row->type != OPT_TYPE_FLAG && len > 2 ? "=" : "";

        str_addf(out, "            '%s%.*s%s[", star, (int)len, n, equals);
        add_summary(out, row->help);
        str_adds(out, "]");
        str_clear(&words);
        switch (row->type == OPT_TYPE_FLAG ? VALUES_NONE : values_of(row)) {
        case VALUES_CHOICES:
            add_words(&words, row->choices, '|', "", " ");
            str_addf(out, ":value:(%s)", words.data);
            break;
        case VALUES_FILES: str_adds(out, ":file:_files"); break;
        case VALUES_NODES: str_adds(out, ":node:_accelctl_nodes"); break;
        case VALUES_NONE: str_adds(out, row->type == OPT_TYPE_FLAG ? "" : ":value: "); break;
        }
        str_adds(out, "' \\\n");
        n += len;
    }
}

static void add_zsh_verb(struct str *out, const struct verb *verb)
{
    AUTO_STR struct str words = {0};

    str_init(&words);
    add_words(&words, verb->name, ',', "", "|");
    add_words(&words, verb->aliases, ',', "", "|");
    str_addf(out, "        %s) _arguments \\\n", words.data);
    for (size_t i = 0; i < option_table_count; i++) {
        if (is_shown(&option_table[i], verb))
            add_zsh_option(out, &option_table[i]);
    }
    str_clear(&words);
    add_usage_words(&words, verb);
    if (verb->takes_program)
        str_adds(out, "            '*:program:_files' ;;\n");
    else if (words.len > 0)
        str_addf(out, "            '*:word:(%s)' ;;\n", words.data);
    else if (strstr(verb->usage, "ID"))
        str_adds(out, "            '*:job:_accelctl_jobs' ;;\n");
    else if (strstr(verb->usage, "NAME"))
        str_adds(out, "            '*:node:_accelctl_nodes' ;;\n");
    else
        str_adds(out, "            ;;\n");
}

static void add_zsh(struct str *out)
{
    str_adds(out, "#compdef accelctl\n"
                  "# zsh completion of accelctl, written by `accelctl completion zsh`\n\n"
                  "_accelctl_jobs() { compadd -- $(accelctl completion jobs 2>/dev/null) }\n"
                  "_accelctl_nodes() { compadd -- $(accelctl completion nodes 2>/dev/null) }\n\n"
                  "_accelctl() {\n"
                  "    local curcontext=$curcontext state line\n"
                  "    local -a verbs\n"
                  "    verbs=(\n");
    for (size_t i = 0; i < VERB_COUNT; i++) {
        str_addf(out, "        '%s:", verb_table[i].name);
        add_summary(out, verb_table[i].summary);
        str_adds(out, "'\n");
    }
    str_adds(out, "    )\n    _arguments -C \\\n");
    for (size_t i = 0; i < option_table_count; i++) {
        if (option_table[i].verbs == VERB_ALL)
            add_zsh_option(out, &option_table[i]);
    }
    str_adds(out, "            '1:verb:->verb' '*::rest:->rest' && return\n"
                  "    case $state in\n"
                  "    verb) _describe verb verbs ;;\n"
                  "    rest)\n"
                  "        case $words[1] in\n");
    for (size_t i = 0; i < VERB_COUNT; i++)
        add_zsh_verb(out, &verb_table[i]);
    str_adds(out, "        esac ;;\n    esac\n}\n\n"
                  "if [ \"$funcstack[1]\" = _accelctl ]; then\n    _accelctl \"$@\"\nelse\n"
                  "    compdef _accelctl accelctl\nfi\n");
}

/* --- fish --- */

static void add_fish_option(struct str *out, const struct option_row *row, const char *condition)
{
    AUTO_STR struct str words = {0};

    str_init(&words);
    str_addf(out, "complete -c accelctl%s -l %s", condition, row->name);
    if (row->short_name)
        str_addf(out, " -s %c", row->short_name);
    switch (row->type == OPT_TYPE_FLAG ? VALUES_NONE : values_of(row)) {
    case VALUES_CHOICES:
        add_words(&words, row->choices, '|', "", " ");
        str_addf(out, " -x -a '%s'", words.data);
        break;
    case VALUES_FILES: str_adds(out, " -r -F"); break;
    case VALUES_NODES: str_adds(out, " -x -a '(accelctl completion nodes 2>/dev/null)'"); break;
    case VALUES_NONE: str_adds(out, row->type == OPT_TYPE_FLAG ? "" : " -x"); break;
    }
    str_adds(out, " -d '");
    add_summary(out, row->help);
    str_adds(out, "'\n");
}

static void add_fish_verb(struct str *out, const struct verb *verb)
{
    AUTO_STR struct str names = {0}, condition = {0}, words = {0};

    str_init(&names);
    str_init(&condition);
    str_init(&words);
    add_words(&names, verb->name, ',', "", " ");
    add_words(&names, verb->aliases, ',', "", " ");
    str_addf(&condition, " -n '__fish_seen_subcommand_from %s'", names.data);
    str_addf(out, "complete -c accelctl -n __fish_use_subcommand -f -a %s -d '", verb->name);
    add_summary(out, verb->summary);
    str_adds(out, "'\n");
    for (size_t i = 0; i < option_table_count; i++) {
        if (is_shown(&option_table[i], verb) && option_table[i].verbs != VERB_ALL)
            add_fish_option(out, &option_table[i], condition.data);
    }
    add_usage_words(&words, verb);
    if (words.len == 0 && strstr(verb->usage, "ID"))
        str_adds(&words, "(accelctl completion jobs 2>/dev/null)");
    else if (words.len == 0 && strstr(verb->usage, "NAME"))
        str_adds(&words, "(accelctl completion nodes 2>/dev/null)");
    if (words.len > 0)
        str_addf(out, "complete -c accelctl%s -f -a '%s'\n", condition.data, words.data);
}

static void add_fish(struct str *out)
{
    str_adds(out, "# fish completion of accelctl, written by `accelctl completion fish`\n");
    for (size_t i = 0; i < option_table_count; i++) {
        if (option_table[i].verbs == VERB_ALL)
            add_fish_option(out, &option_table[i], "");
    }
    for (size_t i = 0; i < VERB_COUNT; i++)
        add_fish_verb(out, &verb_table[i]);
}

/* --- what is there now --- */

#define JOBS_OFFERED 100u  /* the newest; nobody looks through more */
#define PAGE_JOBS    1000u /* a part of the list at a time, as ps */

struct present {
    uint64_t ids[JOBS_OFFERED]; /* the job of number n at n % JOBS_OFFERED */
    size_t count;
    uint64_t last_id;
    bool has_more;
    struct str nodes;
};

static void on_jobs(void *ctx, const ProtobufCMessage *msg)
{
    const Accel__V1__ListReply *reply = (const Accel__V1__ListReply *)msg;
    struct present *p = ctx;

    for (size_t i = 0; i < reply->n_jobs; i++)
        p->ids[p->count++ % JOBS_OFFERED] = p->last_id = reply->jobs[i]->id;
    p->has_more = reply->more && reply->n_jobs > 0;
}

static void on_nodes(void *ctx, const ProtobufCMessage *msg)
{
    const Accel__V1__NodesReply *reply = (const Accel__V1__NodesReply *)msg;
    struct present *p = ctx;

    for (size_t i = 0; i < reply->n_nodes; i++)
        str_addf(&p->nodes, "%s\n", reply->nodes[i]->name);
}

static int ask_jobs(struct session *session, struct present *p, struct accel_error *err)
{
    Accel__V1__ListRequest req = ACCEL__V1__LIST_REQUEST__INIT;
    int r;

    req.all_states = true;
    req.limit = PAGE_JOBS;
    do {
        p->has_more = false;
        req.after_id = p->last_id;
        r = session_call(session, "/accel.v1.Jobs/List", &req.base,
                         &accel__v1__list_reply__descriptor, on_jobs, p, err);
    } while (r == 0 && p->has_more);
    return r;
}

static int add_present(const struct cli *cli, bool wants_jobs, struct str *out,
                       struct accel_error *err)
{
    AUTO_SESSION struct session *session = NULL;
    AUTO_FREE struct present *p = xcalloc(1, sizeof *p);
    Accel__V1__NodesRequest nodes = ACCEL__V1__NODES_REQUEST__INIT;
    int r = session_open_existing(cli, &session, err);

    if (r < 0)
        return r;
    str_init(&p->nodes);
    r = wants_jobs ? ask_jobs(session, p, err)
                   : session_call(session, "/accel.v1.Nodes/List", &nodes.base,
                                  &accel__v1__nodes_reply__descriptor, on_nodes, p, err);
    for (size_t n = p->count - MIN(p->count, (size_t)JOBS_OFFERED); n < p->count; n++)
        str_addf(out, "%llu\n", (unsigned long long)p->ids[n % JOBS_OFFERED]);
    str_add(out, p->nodes.data, p->nodes.len);
    str_done(&p->nodes);
    return r;
}

int verb_completion(struct cli *cli)
{
    const char *what = cli->opt.arg_count == 1 ? cli->opt.args[0] : "";
    struct accel_error err = {0};
    AUTO_STR struct str out = {0};
    int r = 0;

    str_init(&out);
    if (strcmp(what, "bash") == 0)
        add_bash(&out);
    else if (strcmp(what, "zsh") == 0)
        add_zsh(&out);
    else if (strcmp(what, "fish") == 0)
        add_fish(&out);
    else if (strcmp(what, "jobs") == 0 || strcmp(what, "nodes") == 0)
        r = add_present(cli, strcmp(what, "jobs") == 0, &out, &err);
    else
        r = error_set(&err, ACCEL_EINVAL,
                      "no shell named\nwhy: completion writes for bash, zsh or fish\n"
                      "try: eval \"$(accelctl completion bash)\"");
    if (r < 0)
        return cli_error(&err);
    cli_write_str(STDOUT_FILENO, &out);
    return EXIT_CODE_OK;
}
