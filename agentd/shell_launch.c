/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shell_launch.c - from a Start to the launcher: what is held for an attempt, its ports, devices
 * and archive, and the AttemptSpec that environ.h makes of them. Neighbour: shell.c, which carries
 * the core's actions here. It must not decide whether an attempt may start.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "agentd/shell_internal.h"
#include "common/codec.h"

/* ---- what is held ---- */

struct held *held_find(const struct shell *s, struct attempt_id id)
{
    struct held_key key = {id.job_id, id.attempt};
    struct held *h = NULL;
    HASH_FIND(hh, s->held, &key, sizeof(key), h);
    return h;
}

struct held *held_add(struct shell *s, struct attempt_id id)
{
    struct held *h = xcalloc(1, sizeof(*h));
    h->key = (struct held_key){id.job_id, id.attempt};
    h->shell = s;
    HASH_ADD(hh, s->held, key, sizeof(h->key), h);
    output_on_live(s->output, id);
    return h;
}

void shell_send_input_done(struct shell *s, uint64_t id, bool closed, int code, const char *text)
{
    Accel__V1__AgentUp up = ACCEL__V1__AGENT_UP__INIT;
    Accel__V1__InputDone done = ACCEL__V1__INPUT_DONE__INIT;
    Accel__V1__InputReply reply = ACCEL__V1__INPUT_REPLY__INIT;
    uint8_t packed[512];
    reply.closed = closed;
    done.id = id;
    done.code = accel_error_to_grpc(code);
    done.text = (char *)text;
    done.reply = code == 0 ? &reply : NULL;
    up.body_case = ACCEL__V1__AGENT_UP__BODY_INPUT_DONE;
    up.input_done = &done;
    CHECK(accel__v1__agent_up__get_packed_size(&up) <= sizeof(packed));
    uplink_send(s->uplink, packed, accel__v1__agent_up__pack(&up, packed));
}

void held_free(struct held *h)
{
    for (size_t i = 0; i < h->device_count; i++)
        free(h->devices[i]);
    if (h->gone && h->gone->record)
        accel__v1__exit_record__free_unpacked(h->gone->record, NULL);
    free(h->gone);
    free(h->start);
    free(h->go);
    free(h->devices);
    free(h);
}

void held_add_device(struct held *h, const char *id)
{
    h->devices = xrealloc(h->devices, (h->device_count + 1) * sizeof(*h->devices));
    h->devices[h->device_count++] = xstrdup(id);
}

/* Everything of the attempt is over, and was so before anybody is told. */
void held_drop(struct shell *s, struct attempt_id id)
{
    struct held *h = held_find(s, id);
    if (!h)
        return;
    output_on_gone(s->output, id);
    exchange_forget(s->exchange, id);
    if (h->has_input)
        shell_send_input_done(s, h->input_id, true, 0, "");
    port_pool_release(s->ports, h->master_port, clock_mono_ms(), h->is_alone);
    port_pool_release(s->ports, h->pet_port, clock_mono_ms(), h->is_alone);
    port_pool_release(s->ports, h->aux_port, clock_mono_ms(), h->is_alone);
    HASH_DEL(s->held, h);
    held_free(h);
}

void held_forget_inputs(struct shell *s) /* the session that asked is gone */
{
    for (struct held *h = s->held; h; h = h->hh.next)
        h->has_input = false;
}

/* ---- starting ---- */

static int lease_ports(struct shell *s, const Accel__V1__JobSpec *job, struct held *h,
                       struct accel_error *err)
{
    int64_t now_ms = clock_mono_ms();
    int r = port_pool_lease(s->ports, now_ms, &h->master_port, err);
    if (r == 0)
        r = port_pool_lease(s->ports, now_ms, &h->pet_port, err);
    if (r == 0 && job && environ_wants_aux_port(job))
        r = port_pool_lease(s->ports, now_ms, &h->aux_port, err);
    return r;
}

/* The last look at its devices comes right before the start: whoever came since the coordinator
 * chose them is seen now. */
static int launch_on_devices(struct shell *s, const Accel__V1__Start *start,
                             const Accel__V1__AttemptSpec *spec, struct held *h,
                             struct accel_error *err)
{
    const char *const *ids = (const char *const *)start->devices;
    int r = h->has_taken ? 0 : node_take_devices(s->node, ids, start->n_devices, false, err);
    h->is_refused = r == ACCEL_EBUSY;
    if (r < 0)
        return r;
    r = s->launcher->ops->launch(s->launcher, spec, err);
    if (r < 0)
        node_release_devices(s->node, ids, start->n_devices, NULL, NULL);
    for (size_t i = 0; r == 0 && !h->has_taken && i < start->n_devices; i++)
        held_add_device(h, start->devices[i]);
    return r;
}

/* The job runs in a copy of its own directory (shim_archive.c makes it). */
static void lay_archive(struct shell *s, const Accel__V1__Start *start, const char *archive,
                        Accel__V1__AttemptSpec *spec)
{
    struct arena *a = &s->actions.arena;
    const char *tree = arena_printf(a, "%s/%" PRIu64 "." ARCHIVE_WORK_SUFFIX "/" ARCHIVE_TREE,
                                    s->config.state->attempts_dir, start->ref->job_id);
    archive_move(spec, start->spec->sync, tree, a);
    spec->archive = arena_strdup(a, strrchr(archive, '/') + 1);
}

/* archive: path of what the job brings; "" if it brings nothing. */
static int launch(struct shell *s, const Accel__V1__Start *start, const Accel__V1__Go *go,
                  const char *archive, struct held *h, struct accel_error *err)
{
    const Accel__V1__Node *node = node_description(s->node);
    Accel__V1__AttemptSpec *spec;
    int r = go ? 0 : lease_ports(s, start->spec, h, err); /* of several nodes: taken before */
    if (r < 0)
        return r;
    struct environ_input in = {
        .start = start,
        .devices = (const Accel__V1__Device *const *)node->devices,
        .device_count = node->n_devices,
        .master_addr = go                      ? go->master_addr
                       : start->master_addr[0] ? start->master_addr
                                               : LOCAL_ADDRESS,
        .ifname = go ? s->address.ifname : LOCAL_IFNAME,
        .node_name = s->config.node_name,
        .master_port = go ? go->master_port : h->master_port,
        .pet_port = go ? go->pet_port : h->pet_port,
        .aux_port = go ? go->aux_port : h->aux_port,
        .peers = go ? (const Accel__V1__Peer *const *)go->peers : NULL,
        .peer_count = go ? go->n_peers : 0,
        .node_list = go ? go->node_list : NULL,
        .tasks_per_node = go ? go->tasks_per_node : NULL,
        .incarnation = s->config.state->incarnation,
        .attempts_dir = s->config.state->attempts_dir,
        .private_tmp = s->config.private_tmp,
        .wall_ms = clock_wall_ms(),
        .tpu_host = node_tpu_host(s->node),
    };
    r = environ_build(&in, &s->actions.arena, &spec, err);
    if (r < 0) {
        if (h->has_taken)
            node_release_devices(s->node, (const char *const *)h->devices, h->device_count, NULL,
                                 NULL);
        return r;
    }
    if (start->spec->sync)
        lay_archive(s, start, archive, spec);
    return launch_on_devices(s, start, spec, h, err);
}

static void add_outcome(struct shell *s, struct attempt_id id, const struct held *h,
                        const struct accel_error *err)
{
    struct refusal *refusal = xcalloc(1, sizeof(*refusal));
    refusal->id = id;
    if (!err) {
        refusal->is_prepared = true;
        refusal->master_port = h->master_port;
        refusal->pet_port = h->pet_port;
        refusal->aux_port = h->aux_port;
    } else {
        refusal->cause = h->is_refused ? ACCEL__V1__CAUSE__CAUSE_DEVICE_FAULT
                                       : ACCEL__V1__CAUSE__CAUSE_START_FAILED;
        snprintf(refusal->text, sizeof(refusal->text), "%.*s", LIMIT_REASON_BYTES - 1, err->text);
    }
    refusal->next = s->refusals;
    s->refusals = refusal;
}

/* Devices and ports, as the start of one node takes them, but no process. */
static int prepare(struct shell *s, const Accel__V1__Start *start, struct held *h,
                   struct accel_error *err)
{
    const char *const *ids = (const char *const *)start->devices;
    int r = start->node_rank == 0 ? lease_ports(s, start->spec, h, err) : 0;
    if (r == 0)
        r = node_take_devices(s->node, ids, start->n_devices, false, err);
    h->is_refused = r == ACCEL_EBUSY;
    if (r < 0)
        return r;
    h->has_taken = true;
    for (size_t i = 0; i < start->n_devices; i++)
        held_add_device(h, start->devices[i]);
    return 0;
}

void shell_prepare(struct shell *s, const struct agent_action *act)
{
    struct accel_error err = {0};
    struct held *h = held_add(s, act->id);
    char archive[PATH_MAX];
    int r = prepare(s, act->start, h, &err);
    if (r == 0 && act->start->spec->sync) /* while the others prepare */
        r = MIN(archives_fetch(s->archives, act->start, archive, &err), 0);
    log_debug("job %" PRIu64 ".%" PRIu32 ": prepare", act->id.job_id, act->id.attempt);
    add_outcome(s, act->id, h, r < 0 ? &err : NULL);
    if (r < 0)
        held_drop(s, act->id);
}

void shell_unprepare(struct shell *s, struct attempt_id id)
{
    struct held *h = held_find(s, id);
    if (!h)
        return;
    archives_cancel(s->archives, id);
    node_release_devices(s->node, (const char *const *)h->devices, h->device_count, NULL, NULL);
    held_drop(s, id);
}

static uint8_t *pack(const ProtobufCMessage *msg, size_t *ret_len)
{
    *ret_len = protobuf_c_message_get_packed_size(msg);
    uint8_t *packed = xcalloc(1, *ret_len + 1);
    protobuf_c_message_pack(msg, packed);
    return packed;
}

/* 1: go on, with `archive`; 0: it is being fetched and on_archive() goes on. */
static int need_archive(struct shell *s, const struct agent_action *act, struct held *h,
                        char *archive, struct accel_error *err)
{
    archive[0] = 0;
    int r = act->start->spec->sync ? archives_fetch(s->archives, act->start, archive, err) : 1;
    if (r != 0)
        return r;
    h->start = pack(&act->start->base, &h->start_len);
    if (act->go)
        h->go = pack(&act->go->base, &h->go_len);
    return 0;
}

void shell_launch(struct shell *s, struct agent_action *act)
{
    struct accel_error err = {0};
    struct held *h = act->go ? held_find(s, act->id) : held_add(s, act->id);
    char archive[PATH_MAX];
    CHECK(h);
    h->is_alone = act->start->node_count <= 1;
    log_debug("job %" PRIu64 ".%" PRIu32 ": launch", act->id.job_id, act->id.attempt);
    int r = need_archive(s, act, h, archive, &err);
    if (r > 0)
        r = launch(s, act->start, act->go, archive, h, &err);
    if (r == 0)
        return;
    add_outcome(s, act->id, h, &err);
    held_drop(s, act->id);
}

static void on_archive(void *ctx, struct attempt_id id, int r, const char *path,
                       const struct accel_error *why)
{
    struct shell *s = ctx;
    struct held *h = held_find(s, id);
    struct accel_error err = *why;
    if (!h || !h->start)
        return; /* fetched ahead, while the attempt is prepared; or it is over */
    Accel__V1__Start *start = accel__v1__start__unpack(&codec_memory, h->start_len, h->start);
    Accel__V1__Go *go = h->go ? accel__v1__go__unpack(&codec_memory, h->go_len, h->go) : NULL;
    CHECK(start);
    if (r == 0)
        r = launch(s, start, go, path, h, &err);
    accel__v1__start__free_unpacked(start, NULL);
    if (go)
        accel__v1__go__free_unpacked(go, NULL);
    free(STEAL_PTR(h->start));
    agent_actions_reset(&s->actions);
    if (r == 0)
        return;
    add_outcome(s, id, h, &err);
    held_drop(s, id);
    shell_step(s, &(struct agent_event){.type = AGENT_EV_TICK}); /* tells the outcome */
}

void shell_send_up(void *ctx, const void *data, size_t len)
{
    uplink_send(((struct shell *)ctx)->uplink, data, len);
}

const struct archive_callbacks shell_archive_callbacks = {shell_send_up, on_archive};

/* One that still waits for its archive has no process to stop. */
void shell_stop_attempt(struct shell *s, const struct agent_action *act)
{
    struct held *h = held_find(s, act->id);
    struct accel_error err = {0};
    if (!h || !h->start) {
        s->launcher->ops->stop(s->launcher, act->id, act->grace_ms, act->cause);
        return;
    }
    archives_cancel(s->archives, act->id);
    error_set(&err, ACCEL_ECANCELLED, "stopped before it was started");
    add_outcome(s, act->id, h, &err);
    held_drop(s, act->id);
}
