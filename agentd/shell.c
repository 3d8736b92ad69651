/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shell.c - callbacks in, events to the core, actions out: in their order, each step's before the
 * next event. Neighbours: agent.h (decides), shell_launch.c, uplink.h, launcher.h, output.h, node.h
 * (do). It must not decide anything about attempts.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "agentd/shell_internal.h"

static void end(struct shell *s, int status)
{
    if (s->is_ending)
        return;
    s->is_ending = true;
    s->on_end(s->ctx, status);
}

static void close_session(struct shell *s, const char *why)
{
    log_warn("closing the session with the coordinator: %s", why);
    output_cancel_all(s->output);
    held_forget_inputs(s);
    uplink_reset(s->uplink);
}

static void persist_seen(struct shell *s, const struct agent_action *act)
{
    struct accel_error err;
    if (state_save_seen(s->config.state, act->era, act->epoch, act->data, &err) == 0)
        return;
    log_error("cannot keep which coordinator is obeyed: %s", err.text);
    end(s, 1);
}

static void carry_out(struct shell *s, struct agent_action *act)
{
    const struct launcher_ops *ops = s->launcher->ops;
    switch (act->type) {
    case AGENT_ACT_SEND: uplink_send(s->uplink, act->data, act->len); break;
    case AGENT_ACT_CLOSE_SESSION: close_session(s, act->text); break;
    case AGENT_ACT_LAUNCH: shell_launch(s, act); break;
    case AGENT_ACT_PREPARE: shell_prepare(s, act); break;
    case AGENT_ACT_UNPREPARE: shell_unprepare(s, act->id); break;
    case AGENT_ACT_STOP: shell_stop_attempt(s, act); break;
    case AGENT_ACT_SIGNAL: ops->signal(s->launcher, act->id, act->rank, act->signo); break;
    case AGENT_ACT_MARK_ACKED: ops->mark_acked(s->launcher, act->id); break;
    case AGENT_ACT_FORGET: ops->forget(s->launcher, act->id.job_id); break;
    case AGENT_ACT_PERSIST_SEEN: persist_seen(s, act); break;
    case AGENT_ACT_EXIT:
        log_info("nothing to do for %" PRId64 " s: ending", s->config.idle_exit_ms / 1000);
        end(s, 0);
        break;
    }
}

static void step_once(struct shell *s, struct agent_event *ev)
{
    struct clock_now now = clock_read();
    ev->now_ms = now.mono_ms;
    ev->wall_ms = now.wall_ms;
    ev->now_ns = clock_mono_ns();
    agent_step(s->core, ev, &s->actions);
    /* After an end nothing more is carried out: what was not durable is not acted upon. */
    for (size_t i = 0; i < s->actions.len && !s->is_ending; i++)
        carry_out(s, &s->actions.items[i]);
    agent_actions_reset(&s->actions);
}

void shell_step(struct shell *s, struct agent_event *ev)
{
    CHECK(!s->is_stepping); /* no callback comes from inside a call */
    if (s->is_ending)
        return;
    s->is_stepping = true;
    step_once(s, ev);
    while (s->refusals && !s->is_ending) {
        struct refusal *refusal = s->refusals;
        s->refusals = refusal->next;
        struct agent_event refused = {.type = refusal->is_prepared ? AGENT_EV_PREPARED
                                                                   : AGENT_EV_LAUNCH_REFUSED,
                                      .id = refusal->id,
                                      .cause = refusal->cause,
                                      .master_port = refusal->master_port,
                                      .pet_port = refusal->pet_port,
                                      .aux_port = refusal->aux_port,
                                      .text = refusal->text};
        struct agent_event node = {.type = AGENT_EV_NODE};
        /* What is wrong with a device is known before it is placed on again. */
        if (refusal->cause == ACCEL__V1__CAUSE__CAUSE_DEVICE_FAULT &&
            node_refresh(s->node, NULL) == 0) {
            node.node = node_description(s->node);
            step_once(s, &node);
        }
        step_once(s, &refused);
        free(refusal);
    }
    s->is_stepping = false;
    loop_timer_set(&s->timer, s->is_ending ? -1 : agent_deadline_ms(s->core));
}

static void on_timer(void *ctx, int64_t late_ms)
{
    (void)late_ms;
    shell_step(ctx, &(struct agent_event){.type = AGENT_EV_TICK});
}

/* ---- from the coordinator ---- */

/* The way to the coordinator may lead over another interface than before. */
static void look_at_address(struct shell *s)
{
    struct accel_error err;
    struct node_address now;
    if (node_address_find(s->config.coordinator, s->config.address, &now, &err) < 0) {
        log_warn("the node's address stays %s: %s", s->address.text, err.text);
        return;
    }
    if (strcmp(now.text, s->address.text) == 0 && strcmp(now.ifname, s->address.ifname) == 0)
        return;
    s->address = now;
    log_info("this node is reached at %s (%s)", now.text, now.ifname);
    if (node_refresh(s->node, &err) == 0)
        shell_step(s,
                   &(struct agent_event){.type = AGENT_EV_NODE, .node = node_description(s->node)});
}

static void on_open(void *ctx)
{
    look_at_address(ctx);
    shell_step(ctx, &(struct agent_event){.type = AGENT_EV_SESSION_OPEN});
}

static void on_lost(void *ctx, const char *why)
{
    struct shell *s = ctx;
    if (agent_is_welcomed(s->core))
        log_info("the session with the coordinator ended%s: %s",
                 agent_is_bye(s->core) ? " as announced" : "", why);
    output_cancel_all(s->output);
    held_forget_inputs(s);
    shell_step(s, &(struct agent_event){.type = AGENT_EV_SESSION_LOST});
}

static void on_input(struct shell *s, const Accel__V1__Input *in)
{
    if (!in->ref || !in->data || in->data->data.len > LIMIT_INPUT_CHUNK_BYTES) {
        shell_send_input_done(s, in->id, false, ACCEL_EINVAL, "no input, or too much at once");
        return;
    }
    struct attempt_id id = {in->ref->job_id, in->ref->attempt};
    struct held *h = held_find(s, id);
    if (!h) {
        shell_send_input_done(s, in->id, true, 0, "");
        return;
    }
    if (h->has_input) {
        shell_send_input_done(s, in->id, false, ACCEL_EBUSY, "the input before is not taken yet");
        return;
    }
    Accel__V1__ShimInput msg = ACCEL__V1__SHIM_INPUT__INIT;
    msg.id = in->id;
    msg.offset = in->data->offset;
    msg.data = in->data->data;
    msg.eof = in->data->eof;
    h->has_input = true;
    h->input_id = in->id;
    s->launcher->ops->input(s->launcher, id, &msg);
}

static void on_fence(void *ctx, struct attempt_id id, const Accel__V1__ShimFence *fence)
{
    struct shell *s = ctx;
    exchange_give(s->exchange, id, fence, agent_is_welcomed(s->core));
}

static void on_fence_done(struct shell *s, const Accel__V1__FenceDone *done)
{
    Accel__V1__ShimFence fence = ACCEL__V1__SHIM_FENCE__INIT;
    if (!done->ref)
        return;
    fence.number = done->number;
    fence.data = done->data;
    fence.era = done->ref->era;
    s->launcher->ops->fence_done(
        s->launcher, (struct attempt_id){done->ref->job_id, done->ref->attempt}, &fence);
}

static void say_ready(struct shell *s)
{
    if (s->config.ready_fd < 0 || !agent_is_welcomed(s->core))
        return;
    /* Who started us may be gone: then nobody is waiting. */
    if (write(s->config.ready_fd, "ready\n", 6) < 0)
        log_debug("nobody waits for this daemon to be ready");
    base_close_fd(&s->config.ready_fd);
    s->config.ready_fd = -1;
}

static void on_down(void *ctx, const Accel__V1__CoordDown *msg)
{
    struct shell *s = ctx;
    bool was_welcomed = agent_is_welcomed(s->core);
    if (s->is_ending)
        return;
    switch (msg->body_case) { /* the data plane; before the Welcome the core refuses it */
    case ACCEL__V1__COORD_DOWN__BODY_LOG_READ:
        if (was_welcomed) {
            output_read(s->output, msg->log_read);
            return;
        }
        break;
    case ACCEL__V1__COORD_DOWN__BODY_LOG_CANCEL:
        output_cancel(s->output, msg->log_cancel->id);
        return;
    case ACCEL__V1__COORD_DOWN__BODY_BLOB: archives_on_data(s->archives, msg->blob); return;
    case ACCEL__V1__COORD_DOWN__BODY_FENCE_DONE:
        if (was_welcomed) {
            on_fence_done(s, msg->fence_done);
            return;
        }
        break;
    case ACCEL__V1__COORD_DOWN__BODY_INPUT:
        if (was_welcomed) {
            on_input(s, msg->input);
            return;
        }
        break;
    default: break;
    }
    shell_step(s, &(struct agent_event){.type = AGENT_EV_DOWN, .down = msg});
    if (!was_welcomed && agent_is_welcomed(s->core)) {
        log_info("welcomed by the coordinator at %s", s->config.coordinator);
        exchange_tell_again(s->exchange);
        archives_on_session(s->archives);
    }
    say_ready(s);
}

static const struct uplink_callbacks uplink_callbacks = {on_open, on_down, on_lost};

static void on_log_data(void *ctx, const Accel__V1__LogData *msg)
{
    struct shell *s = ctx;
    Accel__V1__AgentUp up = ACCEL__V1__AGENT_UP__INIT;
    up.body_case = ACCEL__V1__AGENT_UP__BODY_LOG_DATA;
    up.log_data = (Accel__V1__LogData *)msg;
    size_t len = accel__v1__agent_up__get_packed_size(&up);
    AUTO_FREE uint8_t *packed = xcalloc(1, len);
    uplink_send(s->uplink, packed, accel__v1__agent_up__pack(&up, packed));
}

/* ---- from the launcher ---- */

static void on_started(void *ctx, struct attempt_id id, const Accel__V1__ShimStarted *msg)
{
    struct shell *s = ctx;
    const struct held *h = held_find(s, id);
    shell_step(s, &(struct agent_event){.type = AGENT_EV_STARTED,
                                        .id = id,
                                        .started = msg,
                                        .master_port = h ? h->master_port : 0});
}

static void on_exited(void *ctx, struct attempt_id id, const Accel__V1__RankExit *exit)
{
    shell_step(ctx, &(struct agent_event){.type = AGENT_EV_EXITED, .id = id, .exit = exit});
}

static void tell_gone(struct shell *s, struct attempt_id id, const struct gone *gone)
{
    log_debug("job %" PRIu64 ".%" PRIu32 ": gone", id.job_id, id.attempt);
    shell_step(s, &(struct agent_event){.type = AGENT_EV_GONE,
                                        .id = id,
                                        .record = gone->record,
                                        .shim_lost = gone->shim_lost,
                                        .exists = gone->exists});
}

static void on_devices_free(void *ctx)
{
    struct held *h = ctx;
    struct shell *s = h->shell;
    struct attempt_id id = {h->key.job_id, (uint32_t)h->key.attempt};
    struct gone *gone = h->gone;
    h->gone = NULL;
    held_drop(s, id);
    tell_gone(s, id, gone);
    if (gone->record)
        accel__v1__exit_record__free_unpacked(gone->record, NULL);
    free(gone);
}

static Accel__V1__ExitRecord *copy_record(const Accel__V1__ExitRecord *record)
{
    if (!record)
        return NULL;
    size_t len = accel__v1__exit_record__get_packed_size(record);
    AUTO_FREE uint8_t *packed = xcalloc(1, len + 1);
    CHECK(accel__v1__exit_record__pack(record, packed) == len);
    Accel__V1__ExitRecord *copy = accel__v1__exit_record__unpack(NULL, len, packed);
    CHECK(copy);
    return copy;
}

/* The end is told when its devices may be given to the next one, which happens at once then. */
static void on_gone(void *ctx, struct attempt_id id, const Accel__V1__ExitRecord *record,
                    bool shim_lost, bool exists)
{
    struct shell *s = ctx;
    struct held *h = held_find(s, id);
    struct gone gone = {(Accel__V1__ExitRecord *)record, shim_lost, exists};
    if (h && node_release_devices(s->node, (const char *const *)h->devices, h->device_count,
                                  on_devices_free, h)) {
        h->gone = xcalloc(1, sizeof(*h->gone));
        *h->gone = (struct gone){copy_record(record), shim_lost, exists};
        return;
    }
    held_drop(s, id);
    tell_gone(s, id, &gone);
}

static void on_output(void *ctx, struct attempt_id id)
{
    output_on_grown(((struct shell *)ctx)->output, id);
}

static void on_input_done(void *ctx, struct attempt_id id, uint64_t input_id, bool closed)
{
    struct shell *s = ctx;
    struct held *h = held_find(s, id);
    if (!h || !h->has_input || h->input_id != input_id)
        return; /* of a session that is gone */
    h->has_input = false;
    shell_send_input_done(s, input_id, closed, 0, "");
}

static void on_refused(void *ctx, struct attempt_id id, const char *text)
{
    struct shell *s = ctx;
    held_drop(s, id);
    shell_step(s, &(struct agent_event){.type = AGENT_EV_LAUNCH_REFUSED, .id = id, .text = text});
}

static void on_spawn_lost(void *ctx)
{
    log_error("accel-spawn is gone: ending, so that both are started again; workers run on");
    end(ctx, 1);
}

static const struct launcher_callbacks launcher_callbacks = {
    on_started, on_exited, on_gone, on_output, on_input_done, on_spawn_lost, on_fence, on_refused,
};

static uint32_t pet_port_of(const Accel__V1__AttemptSpec *spec)
{
    static const char name[] = "PET_MASTER_PORT=";
    uint64_t port;
    for (size_t i = 0; i < spec->n_env; i++) {
        char text[16] = "";
        if (spec->env[i].len < sizeof(name) || memcmp(spec->env[i].data, name, sizeof(name) - 1))
            continue;
        memcpy(text, spec->env[i].data + sizeof(name) - 1,
               MIN(spec->env[i].len - sizeof(name) + 1, sizeof(text) - 1));
        return parse_u64(text, 1, UINT16_MAX, &port) == 0 ? (uint32_t)port : 0;
    }
    return 0;
}

static void hold_devices(struct shell *s, struct held *h, const Accel__V1__AttemptSpec *spec)
{
    for (size_t i = 0; i < spec->n_ranks; i++) {
        for (size_t d = 0; d < spec->ranks[i]->n_devices; d++)
            held_add_device(h, spec->ranks[i]->devices[d]);
    }
    (void)node_take_devices(s->node, (const char *const *)h->devices, h->device_count, true, NULL);
}

static void on_found(void *ctx, const struct launcher_found *f)
{
    struct shell *s = ctx;
    if (f->is_live && f->spec) {
        struct held *h = held_add(s, f->id);
        h->master_port = f->spec->master_port;
        h->pet_port = pet_port_of(f->spec);
        port_pool_hold(s->ports, h->master_port);
        port_pool_hold(s->ports, h->pet_port);
        hold_devices(s, h, f->spec);
        h->aux_port = f->spec->aux_port;
        port_pool_hold(s->ports, h->aux_port);
    }
    log_info("job %" PRIu64 ".%" PRIu32 ": found %s", f->id.job_id, f->id.attempt,
             f->is_live ? "alive" : "ended");
    shell_step(s, &(struct agent_event){.type = AGENT_EV_FOUND, .id = f->id, .found = f});
}

static void on_kept(void *ctx, struct attempt_id id, uint64_t era)
{
    shell_step(ctx, &(struct agent_event){.type = AGENT_EV_KEPT, .id = id, .era = era});
}

/* ---- devices ---- */

static void tell_node(struct shell *s)
{
    shell_step(s, &(struct agent_event){.type = AGENT_EV_NODE, .node = node_description(s->node)});
}

static void on_devices(void *ctx)
{
    struct shell *s = ctx;
    struct accel_error err;
    if (node_refresh(s->node, &err) < 0)
        log_warn("the devices stay as they were: %s", err.text);
    else
        tell_node(s);
}

/* ---- life ---- */

static void part_closed(struct shell *s)
{
    CHECK(s->open_parts > 0);
    if (--s->open_parts > 0)
        return;
    output_destroy(s->output);
    port_pool_destroy(s->ports);
    exchange_destroy(s->exchange);
    agent_destroy(s->core);
    agent_actions_done(&s->actions);
    free(s);
}

static void on_part_closed(void *ctx)
{
    part_closed(ctx);
}

static void on_timer_closed(uv_handle_t *handle)
{
    part_closed(CONTAINER_OF((uv_timer_t *)handle, struct shell, timer.uv));
}

static int make_parts(struct shell *s, struct accel_error *err)
{
    const struct shell_config *c = &s->config;
    struct node_config node = {
        .loop = c->loop,
        .name = c->node_name,
        .address = s->address.text,
        .ifname = s->address.ifname,
        .isolation = c->isolation,
        .limits = c->limits,
        .limit_count = c->limit_count,
        .devices = c->devices,
        .device_count = c->device_count,
        .incarnation = c->state->incarnation,
    };
    struct launcher_exec_config exec = {
        .loop = c->loop,
        .spawn_fd = c->spawn_fd,
        .attempts_dir = c->state->attempts_dir,
        .incarnation = c->state->incarnation,
        .is_switching = c->is_switching,
    };
    int r = launcher_exec_create(&exec, &launcher_callbacks, s, &s->launcher, err);
    if (r < 0)
        return r;
    s->open_parts++;
    s->output = output_create(exec.attempts_dir, c->node_name, s->launcher, on_log_data, s);
    s->exchange = exchange_create(shell_send_up, s);
    char files_dir[PATH_MAX + 8];
    snprintf(files_dir, sizeof(files_dir), "%s/" ARCHIVE_DIR, c->state->dir);
    r = archives_create(files_dir, &shell_archive_callbacks, s, &s->archives, err);
    if (r < 0)
        return r;
    s->ports = port_pool_create(clock_mono_ns() ^ (uint64_t)getpid() << 32);
    r = node_create(&node, on_devices, s, &s->node, err);
    if (r < 0)
        return r;
    char tls_dir[PATH_MAX + 8];
    snprintf(tls_dir, sizeof(tls_dir), "%s/tls", c->state->dir);
    r = uplink_create(c->loop, c->coordinator, tls_dir, &uplink_callbacks, s, &s->uplink, err);
    if (r < 0)
        return r;
    uplink_set_keepalive(s->uplink, c->keepalive_ms);
    s->open_parts++;
    return 0;
}

int shell_create(const struct shell_config *config, void (*on_end)(void *ctx, int status),
                 void *ctx, struct shell **ret_shell, struct accel_error *err)
{
    struct shell *s = xcalloc(1, sizeof(*s));
    char machine_id[64];
    s->config = *config;
    s->on_end = on_end;
    s->ctx = ctx;
    s->address = (struct node_address){LOCAL_ADDRESS, LOCAL_IFNAME};
    node_machine_id(machine_id, sizeof(machine_id));
    struct agent_config core = {
        .idle_exit_ms = config->idle_exit_ms,
        .incarnation = config->state->incarnation,
        .local_address = LOCAL_ADDRESS,
        .ifname = LOCAL_IFNAME,
        .node_name = config->node_name,
        .machine_id = machine_id,
        .seal = config->state->has_seal ? config->state->seal : NULL,
        .attempts_dir = config->state->attempts_dir,
    };
    s->core = agent_create(&core, config->state->seen_era, config->state->seen_epoch);
    agent_actions_init(&s->actions);
    CHECK(loop_timer_init(config->loop, &s->timer, on_timer, s) == 0);
    s->open_parts = 1;
    int r = make_parts(s, err);
    if (r == 0) {
        tell_node(s);
        r = launcher_exec_adopt(s->launcher, on_found, s, err);
        if (r == 0) {
            launcher_exec_kept(s->launcher, on_kept, s);
            on_devices(s); /* those of adopted attempts are not busy, they are in use */
        }
    }
    if (r < 0) {
        shell_destroy(s);
        return r;
    }
    *ret_shell = s;
    return 0;
}

void shell_destroy(struct shell *s)
{
    if (!s)
        return;
    s->is_ending = true;
    struct held *h, *next;
    HASH_ITER(hh, s->held, h, next) {
        HASH_DEL(s->held, h);
        held_free(h);
    }
    for (struct refusal *refusal; (refusal = s->refusals);) {
        s->refusals = refusal->next;
        free(refusal);
    }
    archives_destroy(s->archives);
    s->archives = NULL;
    /* ready_fd stays open: its end tells accelctl that the log has our last words */
    node_destroy(s->node);
    if (s->uplink)
        uplink_destroy(s->uplink, on_part_closed, s);
    if (s->launcher)
        s->launcher->ops->destroy(s->launcher, on_part_closed, s);
    loop_timer_close(&s->timer, on_timer_closed);
}
