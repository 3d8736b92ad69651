/* SPDX-License-Identifier: Apache-2.0 */
/*
 * launcher_world.h - real accel-spawn, shims and ranks under the launcher, for the tests of
 * launcher_exec. A world has a directory of its own, a loop, and remembers what the callbacks said,
 * checking the launcher's contract on the way. Waiting is for events; a watchdog ends a test
 * that waits too long.
 */
#ifndef ACCEL_TESTS_SYSTEM_LAUNCHER_WORLD_H
#define ACCEL_TESTS_SYSTEM_LAUNCHER_WORLD_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <cmocka.h>
#include <uv.h>

#include "agentd/launcher.h"
#include "common/str.h"

#define WORLD_ATTEMPTS 64
#define WORLD_RANKS    16
#define WORLD_WAIT_MS  60000 /* far beyond anything a loaded machine needs */

/* What the callbacks said of one attempt. */
struct seen {
    struct attempt_id id;
    int started, gone, outputs, refused;
    char refusal[512];
    bool shim_lost, exists;
    Accel__V1__ShimStarted *start;
    Accel__V1__RankExit *exits[WORLD_RANKS]; /* in the order told */
    size_t exit_count;
    Accel__V1__ExitRecord *record;
    uint64_t input_id; /* last answered */
    bool input_closed;
    bool found, found_live;
    bool found_started;
    Accel__V1__ShimHello *hello;
};

struct world {
    char dir[256];      /* all of it */
    char attempts[256]; /* attempts directory */
    char isolation[16];
    pid_t spawn_pid;
    uv_loop_t loop;
    uv_timer_t watchdog;
    bool is_late;
    struct launcher *l;
    bool is_closed;
    bool is_spawn_lost;
    uint64_t incarnation;
    struct seen seen[WORLD_ATTEMPTS];
    size_t seen_count;
};

extern const char *world_spawn_path;   /* accel-spawn */
extern const char *world_naughty_path; /* naughty */
extern const char *world_mode;         /* "none" or "cgroup2": what accel-spawn has to say */
/* Each job as its own user (needs root): acceld is the test, and would be `daemon`. */
extern bool world_is_switching;
#define WORLD_AGENT_UID 1

/* argv: PROGRAM SPAWN NAUGHTY MODE; MODE none or cgroup2. Returns false (after saying so in TAP) if
 * the mode is not to be had here. */
bool world_main(int argc, char **argv);

void world_open(struct world *w);
/* Leaves the directory and the attempts alone: as acceld's death does. */
void world_abandon(struct world *w);
/* A new launcher and accel-spawn on the directory of the old one; not yet adopted. */
void world_reopen(struct world *w);
void world_adopt(struct world *w);
/* Ends everything, checks that no process and no cgroup is left, removes the directory. */
void world_close(struct world *w);

struct seen *world_seen(struct world *w, struct attempt_id id);
/* Runs the loop until *value >= at_least. */
void world_wait(struct world *w, const int *value, int at_least);
void world_wait_size(struct world *w, const size_t *value, size_t at_least);
void world_run_once(struct world *w);

/* A specification in one piece, for launch(). */
struct start {
    Accel__V1__AttemptSpec spec;
    Accel__V1__RankSpec ranks[WORLD_RANKS];
    Accel__V1__RankSpec *rank_list[WORLD_RANKS];
    ProtobufCBinaryData argv[16];
    ProtobufCBinaryData env[8];
    char *claims[4];
    Accel__V1__Rlimit limits[2];
    Accel__V1__Rlimit *limit_list[2];
};
/* argv ends with NULL. The environment has PATH only. */
void start_init(struct start *s, uint64_t job_id, uint32_t attempt, size_t ranks, ...);
void start_env(struct start *s, const char *text);
ProtobufCBinaryData bytes_of(const char *text);
/* launch() and an assertion that it was taken. */
struct seen *world_launch(struct world *w, struct start *s);
/* The same for `sh -c SCRIPT`. */
struct seen *world_launch_shell(struct world *w, uint64_t job_id, size_t ranks, const char *script);

/* Waits until the file of the attempt holds the text. */
void world_wait_text(struct world *w, struct seen *a, const char *file, const char *text);
/* The file's content; empty if there is none. The caller frees. */
char *world_read(struct world *w, struct attempt_id id, const char *file, size_t *ret_len);
int64_t world_size(struct world *w, struct attempt_id id, const char *file); /* -1: no file */
/* Processes whose environment names the attempt; 0 job: any attempt of this world. */
size_t world_count_marked(struct world *w, struct attempt_id id);
pid_t world_shim_pid(struct world *w, struct attempt_id id);
/* The parent of the attempts' cgroups as the attempts' files name it; empty without one. */
void world_cgroup_parent(struct world *w, char *parent, size_t size);

#endif
