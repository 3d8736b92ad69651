/* SPDX-License-Identifier: Apache-2.0 */
/*
 * options.h - the one table of verbs and options. Parsing, help, man pages and the "did you mean"
 * suggestions all come from it, so they cannot differ. No I/O; one thread.
 */
#ifndef ACCEL_CLIENT_OPTIONS_H
#define ACCEL_CLIENT_OPTIONS_H

#include "common/error.h"

enum verb_id {
    VERB_LAUNCH,
    VERB_SUBMIT,
    VERB_PS,
    VERB_DESCRIBE,
    VERB_LOGS,
    VERB_WAIT,
    VERB_CANCEL,
    VERB_NODES,
    VERB_EVENTS,
    VERB_VERSION,
    VERB_HELP,
    VERB_ADMIN,
    VERB_DOCTOR,
    VERB_NODE,
    VERB_USER,
    VERB_COMPLETION,
    VERB_COUNT
};

struct verb {
    enum verb_id id;
    const char *name;
    const char *aliases;  /* comma separated; "" for none */
    const char *usage;    /* after "accelctl NAME " */
    const char *summary;  /* a few words */
    const char *text;     /* a paragraph or more, separated by empty lines */
    const char *examples; /* lines "COMMAND\tWHAT IT DOES\n" */
    bool takes_program;   /* options end at the first argument, the rest belongs to the program */
};

enum opt_id {
    OPT_HELP,
    OPT_VERSION,
    OPT_COORDINATOR,
    OPT_COLOR,
    OPT_VERBOSE,
    OPT_PROCS,
    OPT_NUM_PROCESSES,
    OPT_NODES,
    OPT_NODES_BY_PROCS,
    OPT_NODELIST,
    OPT_EXCLUDE,
    OPT_DEVICES,
    OPT_GPUS,
    OPT_GRES,
    OPT_CPU,
    OPT_MULTI_GPU,
    OPT_TPUS,
    OPT_TPU,
    OPT_MIXED_PRECISION,
    OPT_ACCELERATE, /* no row: options of Accelerate; list has name and value in turn */
    OPT_LAUNCHER,
    OPT_SLURM_ENV,
    OPT_MAX_RESTARTS,
    OPT_TIME,
    OPT_MEM,
    OPT_CPUS,
    OPT_ENV,
    OPT_PASS_ENV,
    OPT_NAME,
    OPT_OUTPUT_PATTERN,
    OPT_PYTHON,
    OPT_MODULE,
    OPT_WRAP,
    OPT_SYNC,
    OPT_SYNC_EXCLUDE,
    OPT_LABEL,
    OPT_KILL_ON_DISCONNECT,
    OPT_GRACE,
    OPT_WAIT,
    OPT_FORMAT,
    OPT_JSON,
    OPT_UTC,
    OPT_ALL_STATES,
    OPT_ALL_USERS,
    OPT_USER,
    OPT_STATE,
    OPT_SINCE,
    OPT_FOLLOW,
    OPT_LINES,
    OPT_RANK,
    OPT_ATTEMPT,
    OPT_STDOUT,
    OPT_STDERR,
    OPT_FOR,
    OPT_TIMEOUT,
    OPT_ALL_MINE,
    OPT_PENDING,
    OPT_KILL,
    OPT_YES,
    OPT_WATCH,
    OPT_NODE,
    OPT_MAN,
    OPT_EXPIRES,
    OPT_TOKENS,
    OPT_ROLE,
    OPT_OUT,
    OPT_COUNT
};

enum opt_type {
    OPT_TYPE_FLAG,
    OPT_TYPE_TEXT,     /* any bytes, not empty */
    OPT_TYPE_NUMBER,   /* decimal within min..max */
    OPT_TYPE_DURATION, /* milliseconds in number */
    OPT_TYPE_BYTES,    /* bytes in number */
    OPT_TYPE_CHOICE,   /* one of the words of choices ("a|b|c"); its place in number */
    OPT_TYPE_LIST,     /* text, repeatable */
};

struct option_row {
    enum opt_id id;
    const char *name;    /* long name, words separated by '-'; '_' is accepted for '-' everywhere */
    char short_name;     /* 0: none */
    const char *aliases; /* comma separated; "" for none */
    enum opt_type type;
    const char *metavar;
    const char *choices;
    uint64_t min, max;
    uint32_t verbs; /* bits 1 << verb_id */
    const char *help;
    bool is_hidden;
};

struct opt_value {
    unsigned count;   /* how often it was given; 0: not */
    const char *text; /* the last one; borrowed from argv */
    uint64_t number;
    const char **list; /* OPT_TYPE_LIST: all of them, count long; owned */
};

struct options {
    const struct verb *verb;
    struct opt_value v[OPT_COUNT];
    char **args; /* what is no option; borrowed strings, owned array, NULL-terminated */
    size_t arg_count;
};

extern const struct verb verb_table[VERB_COUNT];
extern const struct option_row option_table[];
extern const size_t option_table_count;
#define VERB_BIT(id) (1u << (id))
#define VERB_ALL     ((1u << VERB_COUNT) - 1)

/* The verb of this name or alias; NULL if there is none. */
const struct verb *verb_find(const char *name);
/* The nearest name within edit distance 2 (1 for names of up to 3 letters); NULL if nothing is
 * near. Static. */
const char *verb_suggest(const char *name);
const char *option_suggest(enum verb_id verb, const char *name);

/* Parses argv[1..argc) of the command; finds the verb (global options may stand before it). ret
 * is filled as far as parsing went, also on failure, so that --help and --color are known; free
 * it with options_done. ret->verb is NULL when no verb was given. ACCEL_EINVAL with text in
 * three lines on any error. argv must outlive ret. */
int options_parse(int argc, char **argv, struct options *ret, struct accel_error *err) MUST_CHECK;
void options_done(struct options *o);

static inline bool option_given(const struct options *o, enum opt_id id)
{
    return o->v[id].count > 0;
}

/* "0", "0,3", "2-5,7", "all" (gives count 0): ranks, sorted, each once; caller frees.
 * ACCEL_EINVAL else. */
int parse_ranks(const char *text, uint32_t **ret_ranks, size_t *ret_count,
                struct accel_error *err) MUST_CHECK;
/* A point in time: "1d" or "-1d" (ago), "2026-11-20", "2026-11-20T08:00[:00][Z]" (UTC);
 * milliseconds since 1970. */
int parse_since(const char *text, int64_t now_ms, int64_t *ret_ms,
                struct accel_error *err) MUST_CHECK;

#endif
