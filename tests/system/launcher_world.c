/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The world of the launcher's tests: see launcher_world.h. Every callback checks the contract of
 * launcher.h before it is noted, so that each test is also a test of the order.
 */
#include "launcher_world.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agentd/shim.h"
#include "common/path.h"

const char *world_spawn_path;
const char *world_naughty_path;

const char *world_mode;

/* ---- callbacks ---- */

struct seen *world_seen(struct world *w, struct attempt_id id)
{
    for (size_t i = 0; i < w->seen_count; i++) {
        if (w->seen[i].id.job_id == id.job_id && w->seen[i].id.attempt == id.attempt) {
            return &w->seen[i];
        }
    }
    assert_true(w->seen_count < WORLD_ATTEMPTS);
    w->seen[w->seen_count].id = id;
    return &w->seen[w->seen_count++];
}

static void *copy_message(const ProtobufCMessage *m)
{
    size_t len = protobuf_c_message_get_packed_size(m);
    uint8_t *data = malloc(len + 1);
    assert_non_null(data);
    protobuf_c_message_pack(m, data);
    void *copy = protobuf_c_message_unpack(m->descriptor, NULL, len, data);
    free(data);
    assert_non_null(copy);
    return copy;
}

static void on_started(void *ctx, struct attempt_id id, const Accel__V1__ShimStarted *msg)
{
    struct seen *a = world_seen(ctx, id);
    assert_int_equal(a->started, 0);
    assert_int_equal(a->gone, 0);
    assert_int_equal(a->exit_count, 0);
    a->started++;
    a->start = copy_message(&msg->base);
}

static void on_exited(void *ctx, struct attempt_id id, const Accel__V1__RankExit *x)
{
    struct seen *a = world_seen(ctx, id);
    assert_true(a->started == 1 || a->found_started);
    assert_int_equal(a->gone, 0);
    assert_true(x->exited);
    assert_true(a->exit_count < WORLD_RANKS);
    for (size_t i = 0; i < a->exit_count; i++) {
        assert_int_not_equal(a->exits[i]->rank, x->rank);
    }
    a->exits[a->exit_count++] = copy_message(&x->base);
}

static void on_gone(void *ctx, struct attempt_id id, const Accel__V1__ExitRecord *record,
                    bool shim_lost, bool exists)
{
    struct world *w = ctx;
    struct seen *a = world_seen(w, id);
    assert_int_equal(a->gone, 0);
    assert_non_null(record);
    assert_int_equal(record->job_id, id.job_id);
    assert_int_equal(record->attempt, id.attempt);
    a->gone++;
    a->shim_lost = shim_lost;
    a->exists = exists;
    a->record = copy_message(&record->base);
    if (!exists) {
        /* No process of the attempt exists any more, and the record is on disk. */
        assert_int_equal(world_count_marked(w, id), 0);
        assert_true(world_size(w, id, "exit") >= 0 || record->start_failed);
    }
}

static void on_output(void *ctx, struct attempt_id id)
{
    struct seen *a = world_seen(ctx, id);
    assert_int_equal(a->gone, 0);
    a->outputs++;
}

static void on_input_done(void *ctx, struct attempt_id id, uint64_t input_id, bool closed)
{
    struct seen *a = world_seen(ctx, id);
    a->input_id = input_id;
    a->input_closed = closed;
}

static void on_spawn_lost(void *ctx)
{
    struct world *w = ctx;
    assert_false(w->is_spawn_lost);
    w->is_spawn_lost = true;
}

static void on_refused(void *ctx, struct attempt_id id, const char *text)
{
    struct seen *a = world_seen(ctx, id);
    assert_int_equal(a->started + a->gone + a->refused, 0);
    a->refused++;
    snprintf(a->refusal, sizeof(a->refusal), "%s", text);
}

static const struct launcher_callbacks callbacks = {
    on_started, on_exited, on_gone, on_output, on_input_done, on_spawn_lost, NULL, on_refused,
};

/* ---- the world ---- */

bool world_is_switching;

/* The accel-spawn that was started last: our youngest child of that name. */
static pid_t find_spawn(void)
{
    char path[64];
    char text[4096];
    snprintf(path, sizeof(path), "/proc/self/task/%d/children", (int)getpid());
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    ssize_t n = read(fd, text, sizeof(text) - 1);
    close(fd);
    assert_true(n > 0);
    text[n] = '\0';
    pid_t last = 0;
    char *save = NULL;
    for (char *p = strtok_r(text, " ", &save); p != NULL; p = strtok_r(NULL, " ", &save)) {
        uint64_t pid;
        if (parse_u64(p, 1, INT32_MAX, &pid) == 0) {
            last = (pid_t)pid;
        }
    }
    return last;
}

static void on_watchdog(uv_timer_t *timer)
{
    struct world *w = timer->data;
    w->is_late = true;
}

static void open_launcher(struct world *w)
{
    struct accel_error err = {0};
    struct launcher_exec_config config = {.loop = &w->loop,
                                          .attempts_dir = w->attempts,
                                          .incarnation = ++w->incarnation,
                                          .is_switching = world_is_switching};
    const struct launcher_spawn_config spawn = {.path = world_spawn_path,
                                                .attempts_dir = w->attempts,
                                                .is_switching = world_is_switching,
                                                .min_uid = 1000,
                                                .agent_uid = WORLD_AGENT_UID,
                                                .agent_gid = WORLD_AGENT_UID};
    struct launcher_spawned spawned = {.fd = -1};
    int r = launcher_exec_start_spawn(&spawn, &spawned, &err);
    config.spawn_fd = spawned.fd;
    snprintf(w->isolation, sizeof(w->isolation), "%s", spawned.isolation);
    launcher_spawned_done(&spawned);
    if (r < 0) {
        print_error("%s\n", err.text);
    }
    assert_int_equal(r, 0);
    w->spawn_pid = find_spawn();
    assert_int_equal(uv_loop_init(&w->loop), 0);
    uv_timer_init(&w->loop, &w->watchdog);
    w->watchdog.data = w;
    uv_timer_start(&w->watchdog, on_watchdog, WORLD_WAIT_MS, 0);
    w->is_closed = w->is_spawn_lost = false;
    r = launcher_exec_create(&config, &callbacks, w, &w->l, &err);
    assert_int_equal(r, 0);
}

void world_open(struct world *w)
{
    *w = (struct world){0};
    const char *tmp = getenv("TMPDIR");
    snprintf(w->dir, sizeof(w->dir),
             "%s/accel-launcher-"
             "XX"
             "XXXX",
             tmp != NULL ? tmp : "/tmp");
    assert_non_null(mkdtemp(w->dir));
    assert_true(snprintf(w->attempts, sizeof(w->attempts), "%s/attempts", w->dir) <
                (int)sizeof(w->attempts));
    assert_int_equal(mkdir(w->attempts, 0700), 0);
    open_launcher(w);
    assert_string_equal(w->isolation, world_mode);
}

static void on_destroyed(void *ctx)
{
    struct world *w = ctx;
    w->is_closed = true;
}

static void forget_seen(struct world *w)
{
    for (size_t i = 0; i < w->seen_count; i++) {
        struct seen *a = &w->seen[i];
        if (a->start != NULL) {
            accel__v1__shim_started__free_unpacked(a->start, NULL);
        }
        for (size_t j = 0; j < a->exit_count; j++) {
            accel__v1__rank_exit__free_unpacked(a->exits[j], NULL);
        }
        if (a->record != NULL) {
            accel__v1__exit_record__free_unpacked(a->record, NULL);
        }
        if (a->hello != NULL) {
            accel__v1__shim_hello__free_unpacked(a->hello, NULL);
        }
        *a = (struct seen){0};
    }
    w->seen_count = 0;
}

void world_abandon(struct world *w)
{
    int status;
    w->l->ops->destroy(w->l, on_destroyed, w);
    while (!w->is_closed) {
        uv_run(&w->loop, UV_RUN_ONCE);
    }
    uv_close((uv_handle_t *)&w->watchdog, NULL);
    uv_run(&w->loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&w->loop), 0);
    /* accel-spawn ends because our end of the socketpair has closed, and cleanly. */
    if (w->spawn_pid > 0) {
        assert_int_equal(waitpid(w->spawn_pid, &status, 0), w->spawn_pid);
        assert_true(w->is_spawn_lost || (WIFEXITED(status) && WEXITSTATUS(status) == 0));
    }
    w->l = NULL;
}

void world_reopen(struct world *w)
{
    forget_seen(w);
    open_launcher(w);
}

static void on_found(void *ctx, const struct launcher_found *f)
{
    struct seen *a = world_seen(ctx, f->id);
    assert_false(a->found);
    a->found = true;
    a->found_live = f->is_live;
    assert_true(f->is_live == (f->hello != NULL) && f->is_live == (f->record == NULL));
    if (f->hello != NULL) {
        a->hello = copy_message(&f->hello->base);
        a->found_started = f->hello->started;
    } else {
        a->record = copy_message(&f->record->base);
        a->shim_lost = f->shim_lost;
        assert_int_equal(world_count_marked(ctx, f->id), 0);
    }
}

void world_adopt(struct world *w)
{
    struct accel_error err = {0};
    int r = launcher_exec_adopt(w->l, on_found, w, &err);
    assert_int_equal(r, 0);
}

static void remove_tree(const char *path)
{
    DIR *dir = opendir(path);
    struct dirent *e;
    while (dir != NULL && (e = readdir(dir)) != NULL) {
        char child[1024];
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0) {
            continue;
        }
        snprintf(child, sizeof(child), "%s/%s", path, e->d_name);
        if (unlink(child) < 0) {
            remove_tree(child);
        }
    }
    if (dir != NULL) {
        closedir(dir);
    }
    rmdir(path);
}

/* Whether a cgroup of ours is left for our directory: its parent goes with accel-spawn. */
static void check_no_cgroup(struct world *w, const char *parent)
{
    if (parent[0] != '\0') {
        assert_int_equal(access(parent, F_OK), -1);
    }
    (void)w;
}

void world_cgroup_parent(struct world *w, char *parent, size_t size)
{
    parent[0] = '\0';
    for (size_t i = 0; i < w->seen_count; i++) {
        size_t len;
        char *text = world_read(w, w->seen[i].id, "pid", &len);
        char *line = strchr(text, '\n');
        if (line != NULL && line[1] == '/') {
            line[1 + strcspn(line + 1, "\n")] = '\0';
            char *slash = strrchr(line + 1, '/');
            *slash = '\0';
            snprintf(parent, size, "%s", line + 1);
        }
        free(text);
    }
}

void world_close(struct world *w)
{
    char parent[1024];
    for (size_t i = 0; i < w->seen_count; i++) {
        struct seen *a = &w->seen[i];
        if (a->gone == 0 && a->refused == 0 && a->record == NULL) {
            w->l->ops->stop(w->l, a->id, 0, ACCEL__V1__CAUSE__CAUSE_CANCELLED);
            world_wait(w, &a->gone, 1);
        }
    }
    world_cgroup_parent(w, parent, sizeof(parent));
    assert_int_equal(world_count_marked(w, (struct attempt_id){0, 0}), 0);
    world_abandon(w);
    check_no_cgroup(w, parent);
    forget_seen(w);
    remove_tree(w->dir);
}

void world_run_once(struct world *w)
{
    uv_run(&w->loop, UV_RUN_ONCE);
    if (w->is_late) {
        fail_msg("waited for %d ms", WORLD_WAIT_MS);
    }
}

void world_wait(struct world *w, const int *value, int at_least)
{
    while (*value < at_least) {
        world_run_once(w);
    }
}

void world_wait_size(struct world *w, const size_t *value, size_t at_least)
{
    while (*value < at_least) {
        world_run_once(w);
    }
}

/* ---- starts ---- */

ProtobufCBinaryData bytes_of(const char *text)
{
    return (ProtobufCBinaryData){.len = strlen(text), .data = (uint8_t *)text};
}

void start_env(struct start *s, const char *text)
{
    assert_true(s->spec.n_env < ARRAY_LEN(s->env));
    s->env[s->spec.n_env++] = bytes_of(text);
}

void start_init(struct start *s, uint64_t job_id, uint32_t attempt, size_t ranks, ...)
{
    const char *arg;
    va_list ap;
    memset(s, 0, sizeof(*s));
    accel__v1__attempt_spec__init(&s->spec);
    assert_true(ranks <= WORLD_RANKS);
    s->spec.job_id = job_id;
    s->spec.attempt = attempt;
    s->spec.era = 1;
    s->spec.incarnation = 1;
    s->spec.uid = geteuid();
    s->spec.gid = getegid();
    s->spec.umask = 022;
    s->spec.cwd = bytes_of("/");
    s->spec.argv = s->argv;
    s->spec.env = s->env;
    va_start(ap, ranks);
    while ((arg = va_arg(ap, const char *)) != NULL) {
        assert_true(s->spec.n_argv < ARRAY_LEN(s->argv));
        s->argv[s->spec.n_argv++] = bytes_of(arg);
    }
    va_end(ap);
    start_env(s, "PATH=/usr/bin:/bin");
    s->spec.ranks = s->rank_list;
    s->spec.n_ranks = ranks;
    s->spec.rlimits = s->limit_list;
    s->spec.claims = s->claims;
    for (size_t i = 0; i < ranks; i++) {
        accel__v1__rank_spec__init(&s->ranks[i]);
        s->ranks[i].rank = s->ranks[i].local_rank = (uint32_t)i;
        s->rank_list[i] = &s->ranks[i];
    }
}

struct seen *world_launch(struct world *w, struct start *s)
{
    struct accel_error err = {0};
    int r = w->l->ops->launch(w->l, &s->spec, &err);
    if (r < 0) {
        print_error("%s\n", err.text);
    }
    assert_int_equal(r, 0);
    return world_seen(w, (struct attempt_id){s->spec.job_id, s->spec.attempt});
}

struct seen *world_launch_shell(struct world *w, uint64_t job_id, size_t ranks, const char *script)
{
    static const char *const names[WORLD_RANKS] = {
        "RANK=0", "RANK=1", "RANK=2",  "RANK=3",  "RANK=4",  "RANK=5",  "RANK=6",  "RANK=7",
        "RANK=8", "RANK=9", "RANK=10", "RANK=11", "RANK=12", "RANK=13", "RANK=14", "RANK=15"};
    struct start s;
    ProtobufCBinaryData env[WORLD_RANKS];
    start_init(&s, job_id, 1, ranks, "/bin/sh", "-c", script, NULL);
    for (size_t i = 0; i < ranks; i++) {
        env[i] = bytes_of(names[i]);
        s.ranks[i].env = &env[i];
        s.ranks[i].n_env = 1;
    }
    return world_launch(w, &s);
}

/* ---- looking ---- */

static void file_path(struct world *w, struct attempt_id id, const char *file, char *path,
                      size_t size)
{
    snprintf(path, size, "%s/%" PRIu64 ".%u/%s", w->attempts, id.job_id, id.attempt, file);
}

char *world_read(struct world *w, struct attempt_id id, const char *file, size_t *ret_len)
{
    char path[1024];
    char *data = NULL;
    file_path(w, id, file, path, sizeof(path));
    *ret_len = 0;
    int r = path_read_all(AT_FDCWD, path, 64u << 20, &data, ret_len, NULL);
    return r == 0 ? data : strdup("");
}

int64_t world_size(struct world *w, struct attempt_id id, const char *file)
{
    char path[1024];
    struct stat st;
    file_path(w, id, file, path, sizeof(path));
    return stat(path, &st) < 0 ? -1 : (int64_t)st.st_size;
}

void world_wait_text(struct world *w, struct seen *a, const char *file, const char *text)
{
    for (;;) {
        size_t len;
        int outputs = a->outputs;
        char *data = world_read(w, a->id, file, &len);
        bool is_there = strstr(data, text) != NULL;
        free(data);
        if (is_there) {
            return;
        }
        if (a->gone > 0) {
            fail_msg("the attempt ended without \"%s\" in %s", text, file);
        }
        w->l->ops->watch(w->l, a->id);
        while (a->outputs == outputs && a->gone == 0) {
            world_run_once(w);
        }
    }
}

static bool is_marked(const char *pid, const char *mark, bool whole)
{
    char path[512];
    char *data = NULL;
    size_t len;
    bool is_there = false;
    snprintf(path, sizeof(path), "/proc/%s/environ", pid);
    int r = path_read_all(AT_FDCWD, path, 8u << 20, &data, &len, NULL);
    if (r < 0) {
        return false;
    }
    for (const char *p = data; p < data + len && !is_there; p += strlen(p) + 1) {
        is_there = whole ? strcmp(p, mark) == 0 : strncmp(p, mark, strlen(mark)) == 0;
    }
    free(data);
    return is_there;
}

size_t world_count_marked(struct world *w, struct attempt_id id)
{
    char mark[1024];
    size_t count = 0;
    DIR *dir = opendir("/proc");
    struct dirent *e;
    assert_non_null(dir);
    if (id.job_id != 0) {
        snprintf(mark, sizeof(mark), "%s=%s/%" PRIu64 ".%u", SHIM_MARK_NAME, w->attempts, id.job_id,
                 id.attempt);
    } else {
        snprintf(mark, sizeof(mark), "%s=%s/", SHIM_MARK_NAME, w->attempts);
    }
    while ((e = readdir(dir)) != NULL) {
        if (e->d_name[0] >= '1' && e->d_name[0] <= '9') {
            count += is_marked(e->d_name, mark, id.job_id != 0);
        }
    }
    closedir(dir);
    return count;
}

pid_t world_shim_pid(struct world *w, struct attempt_id id)
{
    size_t len;
    char *text = world_read(w, id, "pid", &len);
    int pid = 0;
    assert_int_equal(sscanf(text, "%d", &pid), 1);
    free(text);
    assert_true(pid > 1);
    return pid;
}

bool world_main(int argc, char **argv)
{
    if (argc != 4) {
        fprintf(stderr, "usage: %s ACCEL-SPAWN NAUGHTY none|cgroup2\n", argv[0]);
        exit(2);
    }
    world_spawn_path = realpath(argv[1], NULL);
    world_naughty_path = realpath(argv[2], NULL);
    world_mode = argv[3];
    if (strcmp(world_mode, "none") == 0) {
        setenv(SPAWN_CGROUP_VARIABLE, "0", 1);
        return true;
    }
    /* Ask accel-spawn itself what is to be had. */
    const char *wanted = world_mode;
    unsetenv(SPAWN_CGROUP_VARIABLE);
    struct accel_error err = {0};
    const struct launcher_spawn_config spawn = {.path = world_spawn_path, .attempts_dir = "/tmp"};
    struct launcher_spawned spawned = {.fd = -1};
    int r = launcher_exec_start_spawn(&spawn, &spawned, &err);
    if (r < 0) {
        fprintf(stderr, "%s\n", err.text);
        exit(1);
    }
    close(spawned.fd);
    wait(NULL);
    bool is_wanted = strcmp(spawned.isolation, wanted) == 0;
    launcher_spawned_done(&spawned);
    if (!is_wanted) {
        printf("1..0 # SKIP the unified cgroup hierarchy cannot be written here\n");
        return false;
    }
    return true;
}
