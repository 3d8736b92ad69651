/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shim.h - accel-spawn and accel-shim: one static, single-threaded image without libuv and without network.
 *
 * accel-spawn: acceld's child, started first. Reads SpawnRequest from its socketpair (descriptor SPAWN_FD). START: makes
 * attempts/JOB.N/ (0700; an existing directory refuses the start: it is the tombstone), writes `spec`, binds the listening socket
 * `sock`, forks the shim without exec, answers FORKED. SWEEP: kills every process of an attempt (cgroup.kill where there is a cgroup,
 * then every process whose environment holds ACCEL_JOB_ID=JOB and ACCEL_ATTEMPT=N, until none is left), answers SWEPT. It is a
 * subreaper, so orphans of a dead shim come to it. Ends when acceld's end of the socketpair closes; shims live on.
 *
 * accel-shim: one per attempt per node, subreaper, own session, no controlling terminal. Parent of the ranks; epoll over
 * signalfd (SIGCHLD), output pipes, its listening socket, the connection to acceld and timerfd. Everything of the attempt is in
 * its directory:
 *     spec           AttemptSpec, packed
 *     pid            "PID STARTTIME\n" of the shim (starttime: field 22 of /proc/PID/stat)
 *     sock           unix stream socket, 0600 (workers later, the next acceld now)
 *     ranks          "RANK PID STARTTIME\n" per started rank
 *     R.out R.err    rank R's stdout and stderr, segment 0; R.out.1, R.out.2 ... are the following segments, each of exactly
 *                    LIMIT_OUTPUT_SEGMENT_BYTES but the last. Segment i covers stream bytes [i*S, (i+1)*S). When more than
 *                    LIMIT_OUTPUT_SEGMENTS would be kept, the oldest but segment 0 goes, and segment 0 gets one line after its
 *                    first S bytes, rewritten in place: "\n[accel: output from byte A to byte B was cut]\n".
 *     exit           ExitRecord, packed, renamed in last; exit.acked after the coordinator's commit
 * Order of the end: all ranks exited -> kill the tree (cgroup.kill, else children loop as subreaper) until nothing is left ->
 * drain pipes to their end -> write exit -> send gone -> exit.
 * Ranks: setpgid own group, PR_SET_PDEATHSIG SIGKILL (and the getppid check), signal mask and handlers reset, descriptors above 2 closed,
 * stdin /dev/null or the pipe, cwd, umask, rlimits, then execve; failures come back over a CLOEXEC pipe as errno and step. In a
 * cgroup: clone3(CLONE_INTO_CGROUP) into JOB.N below accel-spawn's own delegated directory where the unified tree is writable.
 * Reaping order decides who failed first: a rank that exits non-zero after a stop has begun is `stopped`.
 * A failed rank does not make the shim stop the others: acceld decides (ShimStop). Without acceld they run on.
 */
#ifndef ACCEL_AGENTD_SHIM_H
#define ACCEL_AGENTD_SHIM_H

#include "accel/v1/shim.pb-c.h"
#include "common/error.h"

#define SPAWN_FD 3  /* accel-spawn's descriptor of the socketpair to acceld */

/* accel-spawn's main loop; returns the exit status. attempts_dir is absolute. */
int spawn_run(int fd, const char *attempts_dir);

/* The shim's life, called in the child of the fork; never returns to spawn_run's stack: _exit inside. dir_fd: the attempt's directory;
 * listen_fd: its socket; conn_fd: the shim's end of the socketpair to acceld, or -1; cgroup_fd: directory for the
 * ranks, or -1. */
_Noreturn void shim_run(Accel__V1__AttemptSpec *spec, int dir_fd, int listen_fd, int conn_fd, int cgroup_fd);

#endif
