/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shim.h - accel-spawn and accel-shim: one static, single-threaded image without libuv and without
 * network.
 *
 * accel-spawn: acceld's child, started first. Reads SpawnRequest from its socketpair (descriptor
 * SPAWN_FD). START: makes attempts/JOB.N/ (0700; an existing directory refuses the start: it is the
 * tombstone), writes `spec`, takes the claims, binds the listening socket `sock`, forks the shim
 * without exec, answers FORKED. After FAILED the directory may stay; acceld writes its exit record.
 * SWEEP: kills every process of an attempt until none is left (the shim itself, cgroup.kill where
 * there is a cgroup, orphans that came to accel-spawn, then every process whose environment holds
 * the mark below), answers SWEPT. It is a subreaper, so orphans of a dead shim come to it, and it
 * kills any child that is not a shim. SHIM_DIED tells of a shim that ended otherwise than by
 * exit(0). Ends when acceld's end of the socketpair closes; shims live on.
 *
 * accel-shim: one per attempt per node, subreaper, own session, no controlling terminal. Parent of
 * the ranks; epoll over signalfd (SIGCHLD), output pipes, its listening socket, the connection to
 * acceld and timerfd. Everything of the attempt is in its directory:
 *     spec           AttemptSpec, packed
 *     pid            "PID STARTTIME\n" of the shim (starttime: field 22 of /proc/PID/stat); the
 *                    second line holds the path of the ranks' cgroup, empty where there is none;
 *                    then "RANK PID\n" per started rank
 *     sock           unix stream socket, 0600 (workers later, the next acceld now). It answers as
 *                    long as the shim lives and refuses afterwards: this, not the pid, is how
 *                    the next acceld tells a live shim from a dead one.
 *     R.out R.err    rank R's stdout and stderr, segment 0; R.out.1, R.out.2 ... are the following
 *                    segments, each of exactly LIMIT_OUTPUT_SEGMENT_BYTES (S) but the last. Segment
 *                    i covers stream bytes [i*S, (i+1)*S). When more than LIMIT_OUTPUT_SEGMENTS
 *                    would be kept, the oldest but segment 0 goes, and segment 0 gets one line
 *                    after its first S bytes, rewritten in place:
 *                    "\n[accel: output from byte A to byte B was cut]\n". What could not be
 *                    written (disk full) does not count as stream bytes; once writing works again
 *                    the stream itself says "\n[accel: N bytes of output were lost: why]\n".
 * Beside it: JOB.work/tree, the directory that the job has brought (AttemptSpec.archive), unpacked
 * by the first shim that needs it and kept for the job's later attempts.
 *     exit.tmp       room kept for the exit record, so that a full disk cannot prevent it
 *     exit           ExitRecord, packed, renamed in last; exit.acked after the coordinator's
 *                    commit. stop_cause CAUSE_SHIM_LOST: made up by acceld after a sweep.
 * Order of the end: all ranks exited -> kill the tree (cgroup.kill, children loop as subreaper)
 * until nothing is left -> drain pipes to their end -> release claims -> write exit -> send gone ->
 * exit.
 * Ranks: setpgid own group, PR_SET_PDEATHSIG SIGKILL (and the getppid check), signal mask and
 * handlers reset, descriptors above 2 closed, stdin /dev/null or the pipe, cwd, umask, rlimits,
 * then execve; failures come back over a CLOEXEC pipe as errno and step. In a cgroup:
 * clone3(CLONE_INTO_CGROUP) into JOB.N below accel-spawn's own delegated directory where the
 * unified tree is writable. The environment variable SHIM_MARK_NAME=attempts_dir/JOB.N is laid over
 * every rank's environment; it is unique on the host (job numbers are not: two users' daemons
 * both have a job 1), so a sweep kills by it and by nothing else.
 * Reaping order, which is the order of the deaths (pidfds become ready in that order), decides who
 * failed first: a rank that ends after a stop has begun is `stopped`.
 * A failed rank does not make the shim stop the others: acceld decides (ShimStop). Without acceld
 * they run on. A rank that cannot be started makes the shim kill the gang (start_failed).
 *
 * ShimWatch is answered by one ShimOutput: at once if any byte was written or any stream was closed
 * since the previous ShimOutput on this connection was sent (the first watch on a connection: since
 * the attempt began), else when that happens next. So who reads the files, finds nothing new
 * and then watches misses nothing; he may be woken once for bytes he has read already.
 */
#ifndef ACCEL_AGENTD_SHIM_H
#define ACCEL_AGENTD_SHIM_H

#include <sys/resource.h>
#include <sys/types.h>

#include "accel/v1/shim.pb-c.h"
#include "agentd/attempt.h"
#include "common/error.h"

#define SPAWN_FD              3 /* accel-spawn's descriptor of the socketpair to acceld */
#define SHIM_MARK_NAME        "ACCEL_ATTEMPT_DIR"  /* in every rank's environment; see above */
#define SPAWN_CGROUP_VARIABLE "ACCEL_SPAWN_CGROUP" /* "0": no cgroups; "/": below the root */

/* accel-spawn's main loop; returns the exit status. attempts_dir is absolute. */
struct identity_rules;
int spawn_run(int fd, const char *attempts_dir, const struct identity_rules *rules);

struct cgroup_root;
struct identity;
struct limits;
/* What a shim gets from accel-spawn. Descriptors not named here are closed. */
struct shim_start {
    Accel__V1__AttemptSpec *spec;
    const char *attempts_dir; /* absolute, canonical */
    int dir_fd;               /* the attempt's directory */
    int listen_fd;            /* its socket */
    int archive_fd, work_fd;  /* what the job brings, and where it goes; -1: nothing */
    int conn_fd;              /* the shim's end of the socketpair to acceld, or -1 */
    const int *claim_fds;     /* held for life */
    size_t claim_count;
    struct cgroup_root *cgroups; /* NULL: none */
    int cgroup_fd;               /* directory of the ranks' cgroup, or -1 */
    bool is_cgroup_split;        /* it is JOB.N/ranks, we are in JOB.N/shim: not ours to remove */
    const struct limits *limits; /* what is enforced; its oom_fd is kept */
    const char *oom_score_adj;   /* what ranks have, NULL: as we have */
    const struct identity *identity; /* what the shim is by now, if is_switched */
    uid_t agent_uid;                 /* acceld's: it may connect */
    mode_t file_mode;                /* of what the shim writes for acceld */
    pid_t spawn_pid;
    struct rlimit nofile; /* RLIMIT_NOFILE as it was before accel-spawn raised it */
};
/* The shim's life, called in the child of the fork; never returns to spawn_run's stack: _exit
 * inside. */
_Noreturn void shim_run(const struct shim_start *start);

#endif
