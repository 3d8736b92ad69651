/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shell_internal.h - what the files of acceld's shell share: shell.c (callbacks in, actions out,
 * life) and shell_launch.c (from a Start to the launcher: ports, devices, archives). One thread.
 */
#ifndef ACCEL_AGENTD_SHELL_INTERNAL_H
#define ACCEL_AGENTD_SHELL_INTERNAL_H

#include "agentd/shell.h"

#define uthash_fatal(msg) base_check_failed(msg, __FILE__, __LINE__)
#include <uthash.h>

#include "agentd/address.h"
#include "agentd/agent.h"
#include "agentd/archive.h"
#include "agentd/exchange.h"
#include "agentd/launcher.h"
#include "agentd/node.h"
#include "agentd/output.h"
#include "agentd/port.h"
#include "agentd/uplink.h"
#include "common/clock.h"
#include "common/limits.h"
#include "common/log.h"
#include "common/loop.h"

#define LOCAL_ADDRESS "127.0.0.1" /* a gang on one node dials nothing else */
#define LOCAL_IFNAME  "lo"

struct held_key { /* without padding: hashed as bytes */
    uint64_t job_id, attempt;
};
/* What the shell holds for a live attempt. */
struct held {
    struct held_key key;
    struct shell *shell;
    char **devices; /* ids, given to it */
    size_t device_count;
    struct gone *gone; /* all its processes are, and its devices are not proven free yet */
    uint32_t master_port, pet_port, aux_port; /* 0: none */
    bool is_alone;       /* on this node only: when it is gone, nobody knows its ports */
    bool is_refused;     /* a device was not free after all */
    bool has_taken;      /* its devices, while it was prepared */
    uint8_t *start, *go; /* packed: what waits for the archive that the job brings; or NULL */
    size_t start_len, go_len;
    bool has_input; /* an Input waits for its answer */
    uint64_t input_id;
    UT_hash_handle hh;
};

struct gone { /* the end of an attempt, kept until it may be told */
    Accel__V1__ExitRecord *record;
    bool shim_lost, exists;
};

struct refusal { /* a launch that failed at once, or what PREPARE came to: for the next step */
    struct attempt_id id;
    bool is_prepared;
    uint32_t master_port, pet_port, aux_port;
    uint32_t cause;
    char text[LIMIT_REASON_BYTES];
    struct refusal *next;
};

struct shell {
    struct shell_config config;
    void (*on_end)(void *ctx, int status);
    void *ctx;
    struct agent *core;
    struct agent_actions actions;
    bool is_stepping, is_ending;
    struct node_address address;
    struct refusal *refusals;
    struct held *held;
    struct node *node;
    struct launcher *launcher;
    struct output *output;
    struct archives *archives;
    struct port_pool *ports;
    struct uplink *uplink;
    struct exchange *exchange;
    struct loop_timer timer;
    unsigned open_parts; /* uplink, launcher, timer: freed when none is left */
};

/* shell.c: one event into the core, its actions carried out, and what they came to. Never from
 * inside an action. */
void shell_step(struct shell *s, struct agent_event *ev);

/* shell_launch.c */
struct held *held_find(const struct shell *s, struct attempt_id id); /* NULL: nothing is held */
struct held *held_add(struct shell *s, struct attempt_id id);
void held_add_device(struct held *h, const char *id);
void held_free(struct held *h); /* it is in no table any more */
/* Everything of the attempt is over, and was so before anybody is told. */
void held_drop(struct shell *s, struct attempt_id id);
void held_forget_inputs(struct shell *s); /* the session that asked is gone */
/* The core's actions. What cannot be done becomes an event of the same shell_step(). */
void shell_prepare(struct shell *s, const struct agent_action *act);
void shell_unprepare(struct shell *s, struct attempt_id id);
void shell_launch(struct shell *s, struct agent_action *act);
void shell_stop_attempt(struct shell *s, const struct agent_action *act);
void shell_send_input_done(struct shell *s, uint64_t id, bool closed, int code, const char *text);
void shell_send_up(void *ctx, const void *data, size_t len); /* ctx: the shell */
extern const struct archive_callbacks shell_archive_callbacks;

#endif
