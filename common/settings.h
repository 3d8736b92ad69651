/* SPDX-License-Identifier: Apache-2.0 */
/*
 * settings.h - the settings of a daemon: one table drives its command line (--history-jobs N), its
 * YAML file (history_jobs: N), the help, and what SIGHUP may change. The command line overrules the
 * file, the file the defaults that stand in the struct before.
 *
 * In a file '-' of a name is written '_', and a name before a '.' may be a mapping: `tls.ca` is
 * {tls: {ca: ...}} and --tls-ca. YAML's implicit types do not exist here: text is bound by the
 * table, so `no` and 2:00:00 mean what is written. Anchors, aliases, tags and several documents are
 * refused, an unknown or repeated key is an error with line and column. Blocks on one small file.
 */
#ifndef ACCEL_COMMON_SETTINGS_H
#define ACCEL_COMMON_SETTINGS_H

#include "common/arena.h"
#include "common/error.h"

#define SETTINGS_FILE_BYTES_MAX (1u << 20) /* of a settings file; larger is refused */
#define SETTINGS_LIST_MAX       64u        /* items of one list setting; more is an error */
#define SETTINGS_DROP_INS_MAX   64u        /* files of one NAME.d; more is an error */

enum setting_type {
    SETTING_TEXT,     /* const char *; not empty */
    SETTING_PATH,     /* const char *; made absolute */
    SETTING_NAME,     /* const char *; is_valid_name() */
    SETTING_NUMBER,   /* uint64_t within min..max */
    SETTING_DURATION, /* int64_t in ms, within min..max */
    SETTING_BYTES,    /* uint64_t within min..max */
    SETTING_BOOL,     /* bool; on the command line a flag, in a file true/false, yes/no, on/off */
    SETTING_CHOICE,   /* const char *, one of `choices` ("a|b|c") */
    SETTING_SECRET,   /* char *, into argv itself, so that it can be wiped; never in a file */
    SETTING_LIST,     /* struct setting_list of texts; given again on the command line it grows */
};
struct setting_list {
    const char *items[SETTINGS_LIST_MAX];
    size_t count;
};
struct setting {
    const char *name; /* "history-jobs", "tls.ca" */
    enum setting_type type;
    size_t offset; /* of the field in the daemon's struct */
    const char *metavar, *help;
    uint64_t min, max;   /* NUMBER, DURATION (ms), BYTES; max 0: none */
    const char *choices; /* CHOICE */
    bool is_command_line_only, is_reloadable;
    /* May say more than the type can: 0, or ACCEL_EINVAL with text. NULL: nothing to say. */
    int (*check)(const char *value, struct accel_error *err);
};
struct settings_table {
    const char *program; /* "acceld" */
    const char *about;   /* first lines of the help */
    const struct setting *rows;
    size_t count;
};
enum settings_result { SETTINGS_OK = 0, SETTINGS_ANSWERED = 1 };

/* Fills `values` (the daemon's struct, defaults in it; strings go to the arena). --config FILE and
 * then FILE without ".yaml" plus ".d/" with its *.yaml in order of their names are read before the
 * command line is laid over them. SETTINGS_ANSWERED: --help, --version or --check-config was
 * answered on stdout. check (NULL: none) may find fault with the whole, before --check-config says
 * that it is right. ACCEL_EINVAL, ACCEL_ENOENT, ACCEL_EIO: err says what, where, and what to try.
 * On failure `values` may be half filled. */
typedef int settings_check(void *values, struct accel_error *err);
/* is_taken false: the change waits for the next start. */
typedef void settings_told(void *ctx, const char *name, bool is_taken);
int settings_parse(const struct settings_table *t, int argc, char **argv, struct arena *a,
                   void *values, settings_check *check, struct accel_error *err);
/* What SIGHUP does: parses again into `fresh` (defaults in it), then calls told() for each row (but
 * secrets) that differs from `values`; rows that are reloadable are copied over, the others keep
 * what they have. On failure nothing is changed. Texts stay in the arena. */
int settings_reload(const struct settings_table *t, int argc, char **argv, struct arena *a,
                    void *values, void *fresh, settings_check *check, settings_told *told,
                    void *ctx, struct accel_error *err);
/* One file's text, for the above and for tests; `name` stands in errors ("NAME:3:7: ..."). */
int settings_read_yaml(const struct settings_table *t, const char *name, const char *text,
                       size_t len, struct arena *a, void *values, struct accel_error *err);
/* Sets one row from text, as any source would; for the above. */
int settings_set(const struct setting *s, const char *value, struct arena *a, void *values,
                 struct accel_error *err);
/* The row that is nearest to a misspelt name; NULL if none is near. */
const struct setting *settings_suggest(const struct settings_table *t, const char *name);
void settings_help(const struct settings_table *t, struct arena *a, const char **ret_text);

#endif
