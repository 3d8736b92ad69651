/* SPDX-License-Identifier: Apache-2.0 */
/*
 * limits.h - every cap of the system, with unit and reason, and what happens at the cap (STYLE 14).
 */
#ifndef ACCEL_COMMON_LIMITS_H
#define ACCEL_COMMON_LIMITS_H

/* clang-format off */
/* --- text --- */
/* job, node and user names: they become file names; longer is refused */
#define LIMIT_NAME_BYTES 64
#define LIMIT_REASON_BYTES 256 /* one sentence for people kept per job or attempt; cut */
#define LIMIT_COMMAND_TEXT_BYTES 256 /* argv kept in memory for listings; cut with "..." */

/* --- job specs --- */
/* MAX_ARG_STRLEN of Linux, with its NUL: execve fails above; refused by name */
#define LIMIT_ARG_BYTES 131072
/* a packed JobSpec; the kernel's own total is a quarter of the stack; refused */
#define LIMIT_SPEC_BYTES (8u << 20)
#define LIMIT_PROCS_PER_NODE 4096u /* beyond any machine of today; refused */
#define LIMIT_CPUS_PER_PROC 16384u /* same; refused */
#define LIMIT_NODES_PER_JOB 16384u /* same */
/* processes and threads of an attempt on a node where users share it and the job asks for none; the
 * kernel then says EAGAIN to fork. 128 ranks with 200 threads each fit */
#define LIMIT_ATTEMPT_PIDS 32768u
#define LIMIT_ISOLATION_TEXTS 16u /* sentences of one node on what it enforces; further ones go */
#define LIMIT_RESTARTS 10000u /* --max-restarts; refused above */
/* not ended, in one coordinator; submit is refused with RESOURCE_EXHAUSTED */
#define LIMIT_LIVE_JOBS 100000u
/* their specs and environments together, kept in memory; same */
#define LIMIT_LIVE_BYTES (1ull << 30)
/* ended jobs kept; the oldest go first (setting history_jobs) */
#define LIMIT_HISTORY_JOBS 20000u
/* ended jobs older than this go (setting history_ms) */
#define LIMIT_HISTORY_MS (30ll * 24 * 3600 * 1000)
/* a wall clock that has jumped ahead by more than the first makes nothing old, until it has stood
 * for the second: else a wrong clock would delete the history */
#define LIMIT_CLOCK_JUMP_MS (24ll * 3600 * 1000)
#define LIMIT_CLOCK_SETTLE_MS (6ll * 3600 * 1000)
/* attempts of one job kept in memory and store; the oldest but the first go */
#define LIMIT_ATTEMPTS_KEPT 20u
#define LIMIT_EVENTS 10000u /* events kept; the oldest go */
/* job ids in one Hello that wait for Forget; the others come when these are forgotten */
#define LIMIT_KEPT_JOBS 100000u
#define LIMIT_REQUEST_ID_BYTES 16u /* exactly; else refused */
/* a retry within this gets the first answer */
#define LIMIT_REQUEST_KEEP_MS (7ll * 24 * 3600 * 1000)
#define LIMIT_REQUESTS 100000u /* first answers kept; the oldest go */
#define LIMIT_LIST_JOBS 20000u /* per List answer; then `more` */

/* --- wire --- */
#define LIMIT_FRAME_BYTES (64u << 20) /* one frame of rpc_local; larger closes the connection */
#define LIMIT_SMALL_MESSAGE_BYTES 65536u /* a request that carries no job spec and no data */
/* unsent bytes of one connection; above, the connection is closed */
#define LIMIT_SEND_QUEUE_BYTES (128u << 20)
#define LIMIT_CONNECTIONS 4096u /* of one listener; further ones are closed at accept */
/* of those, one user's that is neither root nor ours; nobody keeps the others and nodes out */
#define LIMIT_CONNECTIONS_PER_USER 512u
#define LIMIT_CALLS_PER_CONNECTION 1024u /* open at once; RESOURCE_EXHAUSTED */
#define LIMIT_REMOTE_CALLS 65536u /* open at once at one server of rpc_grpc; RESOURCE_EXHAUSTED */
#define LIMIT_RPC_BACKLOG 511 /* listen(2) */
/* acceld <-> spawn and shim; an AttemptSpec of the largest JobSpec fits */
#define LIMIT_SHIM_FRAME_BYTES (16u << 20)

/* --- output and input --- */
/* a stream's file is cut into segments of exactly this size */
#define LIMIT_OUTPUT_SEGMENT_BYTES (16u << 20)
/* kept per stream: the first and the newest; those between go, and a mark is left */
#define LIMIT_OUTPUT_SEGMENTS 4u
#define LIMIT_OUTPUT_STREAM_BYTES (LIMIT_OUTPUT_SEGMENTS * LIMIT_OUTPUT_SEGMENT_BYTES)
#define LIMIT_STDERR_TAIL_BYTES 4096u /* last bytes of stderr kept with an exit */
#define LIMIT_LOG_CHUNK_BYTES 262144u /* one Logs.Read answer */
/* parked Logs.Read calls on one agent; further ones get RESOURCE_EXHAUSTED */
#define LIMIT_LOG_READS 4096u
/* open Logs.Read calls of one user at the coordinator; further ones get RESOURCE_EXHAUSTED */
#define LIMIT_LOG_READS_USER 1024u
/* what the open reads of one agent may answer together, in its session; more of them get less each.
 * Its send queue holds twice as much */
#define LIMIT_LOG_NODE_BYTES (64u << 20)
#define LIMIT_INPUT_CHUNK_BYTES 65536u /* one Jobs.Input */

/* --- several nodes --- */
/* what one node gives to one exchange (Fence); larger ends the attempt with a clear text */
#define LIMIT_FENCE_BYTES (1u << 20)
/* what all nodes give to one exchange, which each gets; larger: they get nothing, and MPI tells */
#define LIMIT_FENCE_JOINED_BYTES (12u << 20)
#define LIMIT_BLOB_CHUNK_BYTES 1048576u /* one part of an archive that a job brings */
#define LIMIT_SYNC_BYTES (1ull << 30) /* such an archive; larger is refused (setting sync_bytes) */

/* --- time --- */
/* SIGTERM to SIGKILL on cancel and time limit unless the job says otherwise */
#define LIMIT_STOP_GRACE_MS 30000
#define LIMIT_FAILURE_GRACE_MS 2000 /* the same after a peer has failed */
/* a node of a gang that has not said Prepared: the attempt is given up and made anew */
#define LIMIT_PREPARE_MS 30000
/* a deadline found so much later shows that the process stood still; then silence is not counted */
#define LIMIT_STANDSTILL_MS 1000
#define LIMIT_SESSION_GRACE_MS 1000 /* a session that reset waits this long for the next acceld */
/* an accelctl that holds a job may be away for so long (it comes back by itself in seconds); then
 * its --kill-on-disconnect job, or the input of rank 0, is ended */
#define LIMIT_OWNER_GRACE_MS 30000
#define LIMIT_IDLE_EXIT_MS 60000 /* an embedded daemon with nothing to do exits after this */
/* a failed commit is retried after this, doubling up to the next */
#define LIMIT_STORE_RETRY_MIN_MS 100
#define LIMIT_STORE_RETRY_MAX_MS 5000
#define LIMIT_PORT_REUSE_MS 120000 /* a port is not given out again for two leases of 60 s */
#define LIMIT_PORT_MIN 20000 /* outside Linux' ephemeral range 32768-60999 */
#define LIMIT_PORT_MAX 29999
#define LIMIT_PORT_TRIES 64 /* bind probes per port; then the start fails with a clear error */
/* accelctl waits this long for an embedded daemon to answer */
#define LIMIT_DAEMON_START_MS 15000

/* --- trust --- */
#define LIMIT_USERS 10000u /* with a role or a certificate; further ones are refused */
#define LIMIT_CERTIFICATES 100000u /* kept, revoked ones too, until they end; then refused */
/* of one node or user; the one that ends first goes and is good for nothing any more */
#define LIMIT_CERTIFICATES_EACH 16u
#define LIMIT_TOKENS 1000u /* of enrolment, neither used nor expired; further ones are refused */
#define LIMIT_TOKEN_MS (3600ll * 1000) /* life of a token unless --expires says otherwise */
#define LIMIT_TOKEN_MAX_MS (30ll * 24 * 3600 * 1000) /* longer is refused */
#define LIMIT_CERTIFICATE_MS (90ll * 24 * 3600 * 1000) /* of nodes and users; renewed at 2/3 */
/* refusals that are told one by one in a minute; the others are only counted: each costs a write */
#define LIMIT_REFUSALS_TOLD 10u
#define LIMIT_REFUSALS_WINDOW_MS 60000

/* lines about the devices of one node in a minute; the others are only counted */
#define LIMIT_DEVICE_EVENTS 30u
#define LIMIT_DEVICE_EVENTS_WINDOW_MS 60000

/* --- store --- */
/* environments kept in memory without a live job; the oldest go */
#define LIMIT_IDLE_ENVIRONMENTS 64u
/* restarts of one job that nobody is to blame for (node lost); then LOST */
#define LIMIT_FREE_RESTARTS 100u
/* agent messages held while the store cannot write; then the session is closed */
#define LIMIT_DEFERRED_MESSAGES 65536u
#define LIMIT_DEFERRED_BYTES (64u << 20) /* the same, by size */
#define LIMIT_SEQ_RESERVE 100000u /* event numbers reserved per meta row write */
#define LIMIT_STORE_WAL_IDLE_PAGES 1000u /* of 4 KiB: written back when no commit waits */
/* never idle: a commit itself writes back above this (32 MiB) */
#define LIMIT_STORE_WAL_PAGES 8192u
#define LIMIT_STORE_IDLE_MS 20 /* no commit for this long after one: the store is idle */
/* snapshots and checks waiting; further ones get ACCEL_EFULL */
#define LIMIT_STORE_OPERATIONS 16u
#define LIMIT_STORE_PROBLEMS 100u /* findings of one check; then "and more" */

#endif
