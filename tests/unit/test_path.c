/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Real directories, locks, files and sockets below one temporary directory, as root and as a plain
 * user: what belongs to others is refused, what a crash left behind is no obstacle, a full disk is
 * told by its own code.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/path.h"
#include "common/str.h"

static char top[64];   /* the temporary directory of one test */
static char deep[400]; /* below top, too long for a socket's address */

/* top/NAME, in a buffer that the fourth call after this one uses again. */
static const char *below(const char *name)
{
    static char buffers[4][PATH_MAX];
    static unsigned next;
    char *path = buffers[next++ % 4];
    snprintf(path, PATH_MAX, "%s/%s", top, name);
    return path;
}

static int setup(void **state)
{
    str_copy(top, sizeof(top), "/tmp/test-path-XXXXXX");
    return mkdtemp(top) == NULL ? -1 : 0;
}

static void remove_tree(const char *path)
{
    pid_t pid = fork();
    if (pid == 0) {
        execl("/bin/rm", "rm", "-rf", "--", path, (char *)NULL);
        _exit(127);
    }
    waitpid(pid, NULL, 0);
}

static int teardown(void **state)
{
    static const char *const names[] = {"XDG_RUNTIME_DIR", "XDG_STATE_HOME"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        unsetenv(names[i]);
    }
    remove_tree(top);
    return 0;
}

static void write_text(const char *path, const char *text, mode_t mode)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, mode);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    close(fd);
}

static mode_t mode_of(const char *path)
{
    struct stat st;
    assert_int_equal(lstat(path, &st), 0);
    return st.st_mode & 07777;
}

/* ---- where things are ---- */

static void test_runtime_dir(void **state)
{
    char want[PATH_MAX];
    char got[PATH_MAX];
    char small[20] = "as before";
    struct accel_error err = {0};
    setenv("XDG_RUNTIME_DIR", top, 1);
    assert_int_equal(path_runtime_dir(got, sizeof(got), &err), 0);
    assert_string_equal(got, below("accel"));
    assert_int_equal(path_runtime_dir(small, sizeof(small), &err), ACCEL_EINVAL);
    assert_non_null(strstr(err.text, top));
    setenv("XDG_RUNTIME_DIR", below("not/there/yet"), 1);
    assert_int_equal(path_runtime_dir(got, sizeof(got), &err), 0);
    assert_string_equal(got, below("not/there/yet/accel"));
    /* Relative, a file, unset: the directory of the system. */
    snprintf(want, sizeof(want), "%s/accel-%u", geteuid() == 0 ? "/run" : "/tmp",
             (unsigned)geteuid());
    setenv("XDG_RUNTIME_DIR", "relative", 1);
    assert_int_equal(path_runtime_dir(got, sizeof(got), &err), 0);
    assert_string_equal(got, want);
    write_text(below("file"), "", 0600);
    setenv("XDG_RUNTIME_DIR", below("file"), 1);
    assert_int_equal(path_runtime_dir(got, sizeof(got), &err), 0);
    assert_string_equal(got, want);
    unsetenv("XDG_RUNTIME_DIR");
    assert_int_equal(path_runtime_dir(got, sizeof(got), &err), 0);
    assert_string_equal(got, want);
}

/* After `su` the variable names the other user's directory. */
static void test_runtime_dir_foreign(void **state)
{
    char got[PATH_MAX];
    struct accel_error err = {0};
    const char *foreign = "/";
    if (geteuid() == 0) {
        foreign = below("foreign");
        assert_int_equal(mkdir(foreign, 0700), 0);
        assert_int_equal(chown(foreign, 65534, 65534), 0);
    }
    setenv("XDG_RUNTIME_DIR", foreign, 1);
    assert_int_equal(path_runtime_dir(got, sizeof(got), &err), 0);
    assert_null(strstr(got, "foreign"));
    assert_non_null(strstr(got, "/accel-"));
}

static void test_state_dir(void **state)
{
    char got[PATH_MAX];
    char again[PATH_MAX];
    struct accel_error err = {0};
    AUTO_FREE char *home = getenv("HOME") != NULL ? xstrdup(getenv("HOME")) : NULL;
    setenv("XDG_STATE_HOME", top, 1);
    assert_int_equal(path_state_dir(got, sizeof(got), &err), 0);
    assert_memory_equal(got, below("accel/"), strlen(below("accel/")));
    const char *id = strrchr(got, '/') + 1;
    assert_true(is_valid_name(id));
    unsetenv("XDG_STATE_HOME");
    setenv("HOME", top, 1);
    assert_int_equal(path_state_dir(again, sizeof(again), &err), 0);
    assert_memory_equal(again, below(".local/state/accel/"), strlen(below(".local/state/accel/")));
    assert_string_equal(strrchr(again, '/') + 1, id);
    assert_int_equal(path_state_dir(again, 20, &err), ACCEL_EINVAL);
    if (home != NULL) {
        setenv("HOME", home, 1);
    } else {
        unsetenv("HOME");
    }
}

/* ---- private directories ---- */

static void test_private(void **state)
{
    struct accel_error err = {0};
    mode_t mask = umask(0);
    assert_int_equal(path_make_private(below("a/b//c/"), &err), 0);
    umask(mask);
    assert_int_equal(mode_of(below("a")), 0700);
    assert_int_equal(mode_of(below("a/b")), 0700);
    assert_int_equal(mode_of(below("a/b/c")), 0700);
    assert_int_equal(path_make_private(below("a/b/c"), &err), 0);
    assert_int_equal(chmod(below("a"), 0755), 0); /* others may look, not write */
    assert_int_equal(path_make_private(below("a"), &err), 0);
    assert_int_equal(err.code, 0);
    assert_int_equal(path_make_private("", &err), ACCEL_EINVAL);
}

static void test_private_refused(void **state)
{
    struct accel_error err = {0};
    assert_int_equal(mkdir(below("loose"), 0700), 0);
    assert_int_equal(chmod(below("loose"), 0770), 0);
    assert_int_equal(path_make_private(below("loose"), &err), ACCEL_EPERM);
    assert_non_null(strstr(err.text, "0770"));
    assert_int_equal(chmod(below("loose"), 01702), 0);
    assert_int_equal(path_make_private(below("loose"), &err), ACCEL_EPERM);
    assert_int_equal(mkdir(below("real"), 0700), 0);
    assert_int_equal(symlink(below("real"), below("link")), 0);
    assert_int_equal(path_make_private(below("link"), &err), ACCEL_EPERM);
    assert_int_equal(path_make_private(below("link/"), &err), ACCEL_EPERM);
    assert_int_equal(symlink(below("nowhere"), below("dangling")), 0);
    assert_true(path_make_private(below("dangling"), &err) < 0);
    write_text(below("file"), "x", 0600);
    assert_true(path_make_private(below("file"), &err) < 0);
    assert_true(path_make_private(below("file/sub"), &err) < 0);
    assert_non_null(strstr(err.text, top));
}

static void test_private_foreign(void **state)
{
    struct accel_error err = {0};
    const char *foreign = "/usr";
    const char *owner = "root (uid 0)";
    if (geteuid() == 0) {
        foreign = below("foreign");
        owner = "nobody (uid 65534)";
        assert_int_equal(mkdir(foreign, 0700), 0);
        assert_int_equal(chown(foreign, 65534, 65534), 0);
    }
    assert_int_equal(path_make_private(foreign, &err), ACCEL_EPERM);
    assert_non_null(strstr(err.text, owner));
}

/* ---- locks ---- */

static void test_lock(void **state)
{
    struct accel_error err = {0};
    int fd = -1;
    int other = -1;
    assert_int_equal(path_lock(below("lock"), false, &fd, &err), 0);
    assert_int_equal(mode_of(below("lock")), 0600);
    assert_int_equal(fcntl(fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
    assert_int_equal(path_lock(below("lock"), false, &other, &err), ACCEL_EBUSY);
    assert_int_equal(other, -1);
    close(fd);
    assert_int_equal(path_lock(below("lock"), false, &other, &err), 0);
    close(other);
    assert_int_equal(path_lock(below("no/lock"), false, &fd, &err), ACCEL_ENOENT);
    assert_int_equal(symlink(below("lock"), below("link")), 0);
    assert_true(path_lock(below("link"), false, &fd, &err) < 0);
}

/* In a child: waits for the lock; 0 if "done" was there by then and the lock is that of the
 * named file. */
static int wait_for_lock(void)
{
    int fd = -1;
    struct stat held;
    struct stat named;
    if (path_lock(below("lock"), true, &fd, NULL) != 0 || fstat(fd, &held) < 0 ||
        stat(below("lock"), &named) < 0) {
        return 1;
    }
    if (access(below("done"), F_OK) < 0) {
        return 2;
    }
    return held.st_ino == named.st_ino ? 0 : 3;
}

/* A waiter gets the lock when its holder goes, and not before. If the file was replaced
 * meanwhile, it gets the new one. */
static void test_lock_wait(void **state)
{
    for (int is_replaced = 0; is_replaced < 2; is_replaced++) {
        struct accel_error err = {0};
        struct inotify_event event;
        int fd = -1;
        int status;
        assert_int_equal(path_lock(below("lock"), false, &fd, &err), 0);
        AUTO_CLOSE int watch = inotify_init1(IN_CLOEXEC);
        assert_true(inotify_add_watch(watch, below("lock"), IN_OPEN) >= 0);
        pid_t pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
            close(fd);
            _exit(wait_for_lock());
        }
        /* The child has the old file open now, and cannot lock it before we let go. */
        assert_int_equal(read(watch, &event, sizeof(event)), sizeof(event));
        write_text(below("done"), "", 0600);
        if (is_replaced) {
            write_text(below("lock.new"), "", 0600);
            assert_int_equal(rename(below("lock.new"), below("lock")), 0);
        }
        close(fd);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_int_equal(status, 0);
        assert_int_equal(unlink(below("done")), 0);
    }
}

/* ---- files ---- */

static void assert_content(const char *path, const char *want)
{
    struct accel_error err = {0};
    AUTO_FREE char *data = NULL;
    size_t len = 0;
    assert_int_equal(path_read_all(AT_FDCWD, path, 100000, &data, &len, &err), 0);
    assert_int_equal(len, strlen(want));
    assert_string_equal(data, want);
}

static void test_write(void **state)
{
    struct accel_error err = {0};
    mode_t mask = umask(077);
    for (int durable = 0; durable < 2; durable++) {
        assert_int_equal(path_write_atomic(AT_FDCWD, below("f"), "one", 3, 0644, durable, &err), 0);
        assert_content(below("f"), "one");
        assert_int_equal(mode_of(below("f")), 0644);
        write_text(below("f.tmp"), "half of a longer text", 0400); /* a crash */
        assert_int_equal(path_write_atomic(AT_FDCWD, below("f"), "two", 3, 0600, durable, &err), 0);
        assert_content(below("f"), "two");
        assert_int_equal(mode_of(below("f")), 0600);
        assert_int_equal(access(below("f.tmp"), F_OK), -1);
    }
    AUTO_CLOSE int dir = open(top, O_RDONLY | O_DIRECTORY);
    assert_int_equal(path_write_atomic(dir, "g", "", 0, 0600, true, &err), 0);
    assert_content(below("g"), "");
    umask(mask);
    assert_int_equal(mkdir(below("d"), 0700), 0);
    assert_true(path_write_atomic(AT_FDCWD, below("d"), "x", 1, 0600, true, &err) < 0);
    assert_int_equal(access(below("d.tmp"), F_OK), -1); /* nothing is left behind */
    assert_int_equal(path_write_atomic(AT_FDCWD, below("no/f"), "x", 1, 0600, true, &err),
                     ACCEL_ENOENT);
    assert_non_null(strstr(err.text, "no/f"));
}

/* Whoever opens the file while it is replaced reads the old or the new text, whole. */
static void test_write_readers(void **state)
{
    static char old_text[20000], new_text[20000];
    memset(old_text, 'o', sizeof(old_text) - 1);
    memset(new_text, 'n', sizeof(new_text) - 1);
    assert_int_equal(
        path_write_atomic(AT_FDCWD, below("f"), old_text, sizeof(old_text) - 1, 0600, false, NULL),
        0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        int r = 0;
        for (int i = 0; i < 300 && r == 0; i++) {
            r = path_write_atomic(AT_FDCWD, below("f"), i % 2 ? old_text : new_text,
                                  sizeof(old_text) - 1, 0600, false, NULL);
        }
        _exit(r == 0 ? 0 : 1);
    }
    int status;
    while (waitpid(pid, &status, WNOHANG) == 0) {
        AUTO_FREE char *data = NULL;
        size_t len;
        assert_int_equal(path_read_all(AT_FDCWD, below("f"), 100000, &data, &len, NULL), 0);
        assert_true(strcmp(data, old_text) == 0 || strcmp(data, new_text) == 0);
    }
    assert_int_equal(status, 0);
}

/* In a child: fills a file system of 64 KiB. 0: as it should be; 1: not so; 77: this machine
 * does not let us try. */
static int fill_disk(void)
{
    static char large[200000];
    struct accel_error err = {0};
    AUTO_FREE char *data = NULL;
    size_t len;
    if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
        mount("tmpfs", top, "tmpfs", 0, "size=64k") < 0) {
        return 77;
    }
    int r = path_write_atomic(AT_FDCWD, below("f"), "kept", 4, 0600, true, &err);
    if (r < 0) {
        return 1;
    }
    r = path_write_atomic(AT_FDCWD, below("f"), large, sizeof(large), 0600, true, &err);
    if (r != ACCEL_ENOSPC || err.sys != ENOSPC || access(below("f.tmp"), F_OK) == 0) {
        return 2;
    }
    r = path_read_all(AT_FDCWD, below("f"), 100, &data, &len, &err);
    return r == 0 && strcmp(data, "kept") == 0 ? 0 : 3;
}

static void test_disk_full(void **state)
{
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        _exit(fill_disk());
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    if (WEXITSTATUS(status) == 77) {
        skip(); /* no mounts without privilege */
    }
    assert_int_equal(WEXITSTATUS(status), 0);
}

static void test_read(void **state)
{
    struct accel_error err = {0};
    AUTO_FREE char *data = NULL;
    size_t len = 0;
    static char text[10001];
    memset(text, 'r', sizeof(text) - 1);
    write_text(below("f"), text, 0600);
    assert_int_equal(path_read_all(AT_FDCWD, below("f"), 10000, &data, &len, &err), 0);
    assert_int_equal(len, 10000);
    assert_string_equal(data, text);
    free(STEAL_PTR(data));
    assert_int_equal(path_read_all(AT_FDCWD, below("f"), 9999, &data, &len, &err), ACCEL_EFULL);
    assert_null(data);
    assert_int_equal(path_read_all(AT_FDCWD, below("f"), 0, &data, &len, &err), ACCEL_EFULL);
    assert_int_equal(path_read_all(AT_FDCWD, below("none"), 10, &data, &len, &err), ACCEL_ENOENT);
    assert_int_equal(path_read_all(AT_FDCWD, top, 10, &data, &len, &err), ACCEL_EINVAL);
    assert_int_equal(path_read_all(AT_FDCWD, "/proc/self/status", 100000, &data, &len, &err), 0);
    assert_true(len > 100); /* stat says 0 */
    free(STEAL_PTR(data));
    assert_int_equal(mkfifo(below("fifo"), 0600), 0);
    assert_int_equal(path_read_all(AT_FDCWD, below("fifo"), 10, &data, &len, &err),
                     0); /* does not hang */
    assert_int_equal(len, 0);
    free(STEAL_PTR(data));
    AUTO_CLOSE int dir = open(top, O_RDONLY | O_DIRECTORY);
    assert_int_equal(path_read_all(dir, "f", 10000, &data, &len, &err), 0);
    assert_int_equal(len, 10000);
}

/* ---- sockets ---- */

static void make_deep(void)
{
    size_t len = (size_t)snprintf(deep, sizeof(deep), "%s", top);
    while (len < 250) {
        len +=
            (size_t)snprintf(deep + len, sizeof(deep) - len, "/%s", "a-directory-of-some-length");
    }
    assert_int_equal(path_make_private(deep, NULL), 0);
}

/* A client and a server find each other at path and exchange a byte. */
static void assert_talk(const char *path, int listener)
{
    struct accel_error err = {0};
    AUTO_CLOSE int client = -1;
    char c = 0;
    assert_int_equal(path_socket_connect(path, &client, &err), 0);
    assert_int_equal(fcntl(client, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
    AUTO_CLOSE int server = accept(listener, NULL, NULL);
    assert_true(server >= 0);
    assert_int_equal(write(client, "c", 1), 1);
    assert_int_equal(read(server, &c, 1), 1);
    assert_int_equal(c, 'c');
}

static void test_socket(void **state)
{
    char paths[3][PATH_MAX];
    make_deep();
    snprintf(paths[0], PATH_MAX, "%s/s", top);
    snprintf(paths[1], PATH_MAX, "%s/coordinator.sock", deep);
    snprintf(paths[2], PATH_MAX, "relative.sock");
    assert_true(strlen(paths[1]) > 107);
    AUTO_FREE char *before = getcwd(NULL, 0);
    assert_int_equal(chdir(top), 0);
    mode_t mask = umask(0);
    for (size_t i = 0; i < ARRAY_LEN(paths); i++) {
        struct accel_error err = {0};
        AUTO_CLOSE int listener = -1;
        assert_int_equal(path_socket_listen(paths[i], 5, &listener, &err), 0);
        assert_int_equal(mode_of(paths[i]), 0600);
        assert_int_equal(fcntl(listener, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
        assert_talk(paths[i], listener);
    }
    umask(mask);
    assert_int_equal(chdir(before), 0);
}

static int count_descriptors(void)
{
    int count = 0;
    for (int fd = 0; fd < 200; fd++) {
        count += fcntl(fd, F_GETFD) >= 0;
    }
    return count;
}

static void test_socket_in_use(void **state)
{
    char paths[2][PATH_MAX];
    make_deep();
    snprintf(paths[0], PATH_MAX, "%s/s", top);
    snprintf(paths[1], PATH_MAX, "%s/s", deep);
    for (size_t i = 0; i < ARRAY_LEN(paths); i++) {
        struct accel_error err = {0};
        int listener = -1;
        int second = -1;
        int count = count_descriptors();
        assert_int_equal(path_socket_listen(paths[i], 5, &listener, &err), 0);
        assert_int_equal(path_socket_listen(paths[i], 5, &second, &err), ACCEL_EBUSY);
        assert_int_equal(second, -1);
        AUTO_CLOSE int probe = accept(listener, NULL, NULL); /* of the second */
        assert_true(probe >= 0);
        assert_talk(paths[i], listener);
        close(listener);
        /* Stale now. */
        assert_int_equal(path_socket_connect(paths[i], &second, &err), ACCEL_ECLOSED);
        assert_int_equal(path_socket_listen(paths[i], 5, &listener, &err), 0);
        assert_talk(paths[i], listener);
        close(listener);
        assert_int_equal(unlink(paths[i]), 0);
        assert_int_equal(path_socket_connect(paths[i], &second, &err), ACCEL_ENOENT);
        assert_int_equal(second, -1);
        assert_int_equal(count_descriptors(), count + 1); /* the probe */
    }
}

/* A server that is alive but does not get to accept: its queue is full, it is not stale. */
static void test_socket_full(void **state)
{
    struct accel_error err = {0};
    AUTO_CLOSE int listener = -1;
    int clients[8];
    size_t count = 0;
    assert_int_equal(path_socket_listen(below("s"), 0, &listener, &err), 0);
    for (; count < ARRAY_LEN(clients); count++) {
        int second = -1;
        if (path_socket_listen(below("s"), 0, &second, &err) != ACCEL_EBUSY) {
            fail_msg("%s", err.text);
        }
        clients[count] = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
        struct sockaddr_storage addr;
        socklen_t len = sizeof(addr);
        assert_int_equal(getsockname(listener, (struct sockaddr *)&addr, &len), 0);
        int r = connect(clients[count], (struct sockaddr *)&addr, len);
        assert_true(r == 0 || errno == EAGAIN);
    }
    while (count > 0) {
        close(clients[--count]);
    }
}

static void test_socket_refused(void **state)
{
    char long_name[PATH_MAX];
    struct accel_error err = {0};
    int fd = -1;
    write_text(below("file"), "precious", 0600);
    assert_int_equal(path_socket_listen(below("file"), 5, &fd, &err), ACCEL_EEXIST);
    assert_content(below("file"), "precious");
    assert_int_equal(path_socket_listen(below("no/s"), 5, &fd, &err), ACCEL_ENOENT);
    assert_int_equal(path_socket_connect(below("no/s"), &fd, &err), ACCEL_ENOENT);
    assert_int_equal(path_socket_listen("", 5, &fd, &err), ACCEL_EINVAL);
    int len = snprintf(long_name, sizeof(long_name), "%s/", top);
    memset(long_name + len, 'n', 120);
    long_name[len + 120] = '\0';
    assert_int_equal(path_socket_listen(long_name, 5, &fd, &err), ACCEL_EINVAL);
    assert_non_null(strstr(err.text, "too long"));
    assert_int_equal(symlink(below("elsewhere"), below("link")), 0);
    assert_int_equal(path_socket_listen(below("link"), 5, &fd, &err), ACCEL_EEXIST);
    assert_int_equal(fd, -1);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_runtime_dir),    TEST(test_runtime_dir_foreign), TEST(test_state_dir),
        TEST(test_private),        TEST(test_private_refused),     TEST(test_private_foreign),
        TEST(test_lock),           TEST(test_lock_wait),           TEST(test_write),
        TEST(test_write_readers),  TEST(test_disk_full),           TEST(test_read),
        TEST(test_socket),         TEST(test_socket_in_use),       TEST(test_socket_full),
        TEST(test_socket_refused),
    };
    return cmocka_run_group_tests_name("path", tests, NULL, NULL);
}
