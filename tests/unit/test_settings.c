/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One table, read from a command line, from YAML, and again after a change. Errors are compared as
 * people see them: file, line and column first.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/settings.h"

struct values {
    const char *socket, *name, *level, *ca;
    uint64_t jobs, memory;
    int64_t age_ms;
    bool strict;
    struct setting_list listen;
};

#define AT(field) offsetof(struct values, field)
static const struct setting rows[] = {
    {.name = "socket", .type = SETTING_PATH, .offset = AT(socket), .metavar = "PATH", .help = "s"},
    {.name = "node-name", .type = SETTING_NAME, .offset = AT(name), .metavar = "N", .help = "n"},
    {.name = "log-level",
     .type = SETTING_CHOICE,
     .offset = AT(level),
     .choices = "warn|info|debug",
     .help = "l",
     .is_reloadable = true},
    {.name = "tls.ca", .type = SETTING_PATH, .offset = AT(ca), .metavar = "FILE", .help = "c"},
    {.name = "history-jobs",
     .type = SETTING_NUMBER,
     .offset = AT(jobs),
     .metavar = "N",
     .help = "j",
     .min = 1,
     .max = 1000,
     .is_reloadable = true},
    {.name = "memory", .type = SETTING_BYTES, .offset = AT(memory), .metavar = "S", .help = "m"},
    {.name = "history-age",
     .type = SETTING_DURATION,
     .offset = AT(age_ms),
     .metavar = "T",
     .help = "a"},
    {.name = "strict", .type = SETTING_BOOL, .offset = AT(strict), .help = "b"},
    {.name = "listen", .type = SETTING_LIST, .offset = AT(listen), .metavar = "A", .help = "i"},
    {.name = "ready-fd",
     .type = SETTING_NUMBER,
     .offset = AT(memory),
     .metavar = "N",
     .help = "r",
     .is_command_line_only = true},
};
static const struct settings_table table = {"testd", "Tests.\n", rows, ARRAY_LEN(rows)};

static int read_text(const char *text, struct arena *a, struct values *v, struct accel_error *err)
{
    return settings_read_yaml(&table, "t.yaml", text, strlen(text), a, v, err);
}

static void test_file(void **state)
{
    (void)state;
    struct arena a;
    struct values v = {.jobs = 7};
    struct accel_error err = {0};
    arena_init(&a);
    assert_int_equal(read_text("# all of them\n"
                               "socket: /run/x.sock\n"
                               "node_name: no\n" /* text, not a truth value */
                               "log_level: debug\n"
                               "tls: {ca: /etc/ca.pem}\n"
                               "history_jobs: 12\n"
                               "memory: 4GiB\n"
                               "history-age: 2:00:00\n" /* not 7200 of YAML 1.1's base 60 */
                               "strict: on\n"
                               "listen:\n  - unix:/a\n  - tcp:b:1\n",
                               &a, &v, &err),
                     0);
    assert_string_equal(v.socket, "/run/x.sock");
    assert_string_equal(v.name, "no");
    assert_string_equal(v.level, "debug");
    assert_string_equal(v.ca, "/etc/ca.pem");
    assert_int_equal(v.jobs, 12);
    assert_int_equal(v.memory, 4ull << 30);
    assert_int_equal(v.age_ms, 7200000);
    assert_true(v.strict);
    assert_int_equal(v.listen.count, 2);
    assert_string_equal(v.listen.items[1], "tcp:b:1");
    assert_int_equal(read_text("listen: one\n", &a, &v, &err), 0);
    assert_int_equal(v.listen.count, 1); /* a later file's instead */
    assert_int_equal(read_text("", &a, &v, &err), 0);
    assert_int_equal(read_text("---\n...\n", &a, &v, &err), 0);
    arena_done(&a);
}

static void test_file_errors(void **state)
{
    (void)state;
    static const struct {
        const char *text, *said;
    } cases[] = {
        {"history_job: 1\n",
         "t.yaml:1:1: unknown key 'history_job' (did you mean 'history_jobs'?)"},
        {"strict: no\nlisten: {a: b}\n", "t.yaml:2:9: listen: a list of texts is expected"},
        {"history_jobs: many\n", "t.yaml:1:15: history-jobs cannot be 'many'"},
        {"history_jobs: 1001\n",
         "t.yaml:1:15: history-jobs cannot be '1001': it goes from 1 to 1000"},
        {"\n  strict: maybe\n", "t.yaml:2:11: strict cannot be 'maybe'"},
        {"log_level: loud\n", "t.yaml:1:12: log-level cannot be 'loud'"},
        {"node_name: 'a b'\n", "t.yaml:1:12: node-name cannot be 'a b'"},
        {"strict: yes\nstrict: no\n", "t.yaml:2:1: 'strict' stands here twice"},
        {"tls: {cb: x}\n", "t.yaml:1:7: unknown key 'cb' (did you mean 'tls.ca'?)"},
        {"tls: x\n", "t.yaml:1:6: tls: a mapping is expected"},
        {"socket: [a]\n", "t.yaml:1:9: socket: one value is expected"},
        {"ready_fd: 3\n", "t.yaml:1:1: 'ready_fd' is an option of the command line only"},
        {"- a\n", "t.yaml:1:1: settings are expected"},
        {"strict: &x yes\n", "t.yaml:1:9: anchors, aliases and tags mean nothing here"},
        {"strict: !!bool yes\n", "t.yaml:1:9: anchors, aliases and tags mean nothing here"},
        {"strict: yes\n---\nstrict: no\n", "t.yaml:2:1: a second document"},
        {"socket: ''\n", "t.yaml:1:9: socket is empty"},
        {"socket: \"a\\0b\"\n", "t.yaml:1:9: a NUL byte in the text"},
        {"strict: [yes\n", "t.yaml:"},
        {"socket: b: c\n", "t.yaml:1:10: not YAML: mapping values are not allowed"},
        {"# one\n# caf\xe9 two\n", "t.yaml:2:7: not YAML: invalid trailing"}, /* Latin 1 */
        {"# one\nsocket: \x01\n", "t.yaml:2:9: not YAML: control characters"},
        {"? [a]\n: b\n", "t.yaml:1:3: a key is expected"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct arena a;
        struct values v = {0};
        struct accel_error err = {0};
        arena_init(&a);
        assert_int_equal(read_text(cases[i].text, &a, &v, &err), ACCEL_EINVAL);
        if (strncmp(err.text, cases[i].said, strlen(cases[i].said)))
            fail_msg("case %zu: %s", i, err.text);
        arena_done(&a);
    }
}

static void write_file(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    assert_int_equal(fclose(f), 0);
}

#define PARSE(...)                                                                                 \
    settings_parse(&table, ARRAY_LEN(((const char *[]){"testd", __VA_ARGS__})),                    \
                   (char **)(const char *[]){"testd", __VA_ARGS__, NULL}, &a, &v, NULL, &err)

static void test_line_over_file(void **state)
{
    (void)state;
    struct arena a;
    struct values v = {.jobs = 7, .level = "info"};
    struct accel_error err = {0};
    char dir[] = "/tmp/settings.XXXXXX", path[64], drop[64], file[128];
    assert_non_null(mkdtemp(dir));
    arena_init(&a);
    snprintf(path, sizeof(path), "%s/d.yaml", dir);
    snprintf(drop, sizeof(drop), "%s/d.d", dir);
    assert_int_equal(mkdir(drop, 0700), 0);
    write_file(path, "history_jobs: 1\nlisten: [a, b]\nlog_level: warn\nmemory: 1M\n");
    snprintf(file, sizeof(file), "%s/20.yaml", drop);
    write_file(file, "history_jobs: 3\n");
    snprintf(file, sizeof(file), "%s/10.yaml", drop);
    write_file(file, "history_jobs: 2\nlog_level: info\n");
    snprintf(file, sizeof(file), "%s/not-this", drop);
    write_file(file, "nonsense");
    assert_int_equal(PARSE("--memory=2M", "--config", path, "--listen", "c", "--listen=d",
                           "--tls-ca", "/x", "--strict"),
                     0);
    assert_int_equal(v.jobs, 3);
    assert_string_equal(v.level, "info");
    assert_int_equal(v.memory, 2 << 20);
    assert_int_equal(v.listen.count, 2);
    assert_string_equal(v.listen.items[0], "c");
    assert_string_equal(v.ca, "/x");
    assert_true(v.strict);

    v = (struct values){0};
    assert_int_equal(PARSE("--histroy-jobs", "1"), ACCEL_EINVAL);
    assert_non_null(strstr(err.text, "did you mean --history-jobs"));
    assert_int_equal(PARSE("extra"), ACCEL_EINVAL);
    assert_int_equal(PARSE("--history-jobs", "0"), ACCEL_EINVAL);
    assert_non_null(strstr(err.text, "--history-jobs: "));
    assert_int_equal(PARSE("--config", "/nowhere/at/all"), ACCEL_ENOENT);
    assert_non_null(strstr(err.text, "/nowhere/at/all"));
    int out = dup(1), null = open("/dev/null", O_WRONLY); /* stdout is the tests' */
    assert_int_equal(dup2(null, 1), 1);
    int r = PARSE("--config", path, "--check-config");
    fflush(stdout);
    assert_int_equal(dup2(out, 1), 1);
    close(out);
    close(null);
    assert_int_equal(r, SETTINGS_ANSWERED);
    write_file(file, "");
    snprintf(file, sizeof(file), "%s/30.yaml", drop);
    write_file(file, "\nnonsense: 1\n");
    assert_int_equal(PARSE("--config", path), ACCEL_EINVAL);
    assert_non_null(strstr(err.text, "d.d/30.yaml:2:1: unknown key 'nonsense'"));
    arena_done(&a);
    for (int i = 10; i <= 30; i += 10) {
        snprintf(file, sizeof(file), "%s/%d.yaml", drop, i);
        unlink(file);
    }
    snprintf(file, sizeof(file), "%s/not-this", drop);
    unlink(file);
    rmdir(drop);
    unlink(path);
    assert_int_equal(rmdir(dir), 0);
}

static void on_changed(void *ctx, const char *name, bool is_taken)
{
    char *said = ctx;
    size_t len = strlen(said);
    snprintf(said + len, 128 - len, "%s%c ", name, is_taken ? '+' : '-');
}

static void test_reload(void **state)
{
    (void)state;
    struct arena a;
    struct values v = {.jobs = 7, .level = "info"}, fresh = v;
    struct accel_error err = {0};
    char path[] = "/tmp/settings.XXXXXX", said[128] = "";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    arena_init(&a);
    write_file(path, "history_jobs: 1\nnode_name: a\nlisten: [x]\n");
    char *argv[] = {"testd", "--config", path, "--log-level=info", NULL};
    assert_int_equal(settings_parse(&table, 4, argv, &a, &v, NULL, &err), 0);
    write_file(path, "history_jobs: 2\nnode_name: b\nlisten: [x]\nlog_level: debug\n");
    assert_int_equal(settings_reload(&table, 4, argv, &a, &v, &fresh, NULL, on_changed, said, &err),
                     0);
    assert_string_equal(said, "node-name- history-jobs+ "); /* the line's log level holds */
    assert_int_equal(v.jobs, 2);
    assert_string_equal(v.name, "a");
    write_file(path, "history_jobs: x\n");
    fresh = (struct values){0};
    assert_int_equal(settings_reload(&table, 4, argv, &a, &v, &fresh, NULL, on_changed, said, &err),
                     ACCEL_EINVAL);
    assert_int_equal(v.jobs, 2);
    arena_done(&a);
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_file),
        cmocka_unit_test(test_file_errors),
        cmocka_unit_test(test_line_over_file),
        cmocka_unit_test(test_reload),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
