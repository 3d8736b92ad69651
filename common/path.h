/* SPDX-License-Identifier: Apache-2.0 */
/*
 * path.h - directories and files of the daemons and the CLI: made with the right mode, checked for
 * the right owner, replaced atomically. Blocking. Paths are bytes; errors carry the path.
 */
#ifndef ACCEL_COMMON_PATH_H
#define ACCEL_COMMON_PATH_H

#include <limits.h>
#include <sys/types.h>

#include "common/error.h"

/* The runtime directory of this user: $XDG_RUNTIME_DIR/accel, else /run/accel-UID as root, else
 * /tmp/accel-UID. */
int path_runtime_dir(char *ret_path, size_t size, struct accel_error *err);
/* $XDG_STATE_HOME/accel/MACHINE-ID, else ~/.local/state/accel/MACHINE-ID (homes may be NFS, hence
 * the machine). */
int path_state_dir(char *ret_path, size_t size, struct accel_error *err);
/* Makes the directory and its parents (0700); an existing one must be a real directory of this uid
 * that nobody else may write (else ACCEL_EPERM with who owns it). */
int path_make_private(const char *path, struct accel_error *err);
/* A file that holds a private key must not be open to others: ACCEL_EPERM with what to do. */
int path_check_secret(const char *path, struct accel_error *err);
/* Opens path (O_CREAT, 0600, CLOEXEC) and takes an exclusive flock. ACCEL_EBUSY if another process
 * has it and !wait. */
int path_lock(const char *path, bool wait, int *ret_fd, struct accel_error *err);
/* Writes path.tmp, (fsync if durable,) renames it to path. dirfd may be AT_FDCWD. */
int path_write_atomic(int dirfd, const char *path, const void *p, size_t len, mode_t mode,
                      bool durable, struct accel_error *err);
/* Reads a whole file of at most cap bytes; caller frees *ret_data (NUL-terminated). ACCEL_EFULL
 * above the cap. */
int path_read_all(int dirfd, const char *path, size_t cap, char **ret_data, size_t *ret_len,
                  struct accel_error *err);

/* Unix sockets by path: works for paths beyond sun_path's 107 bytes through /proc/self/fd. CLOEXEC,
 * non-blocking on demand. listen: removes a stale socket first (one that refuses), mode 0600;
 * ACCEL_EBUSY if somebody answers there. connect: ACCEL_ENOENT (no such file), ACCEL_ECLOSED
 * (refused) told apart. */
int path_socket_listen(const char *path, int backlog, int *ret_fd, struct accel_error *err);
int path_socket_connect(const char *path, int *ret_fd, struct accel_error *err);

#endif
