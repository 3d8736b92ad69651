/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A launcher that makes nothing: who drives it (the simulator, a test) is told what was asked and
 * answers by the callbacks when it likes. Neighbour: launcher.h. No clock, no process, no file.
 */
#include "agentd/launcher.h"
#include "common/base.h"

struct launcher_fake {
    struct launcher launcher;
    struct launcher_fake_ops ops;
    void *world;
};

static struct launcher_fake *fake_of(struct launcher *l)
{
    return CONTAINER_OF(l, struct launcher_fake, launcher);
}

static int fake_launch(struct launcher *l, const Accel__V1__AttemptSpec *spec,
                       struct accel_error *err)
{
    struct launcher_fake *f = fake_of(l);
    (void)err;
    f->ops.on_launch(f->world, l, spec);
    return 0;
}

static void fake_stop(struct launcher *l, struct attempt_id id, uint64_t grace_ms, uint32_t cause)
{
    struct launcher_fake *f = fake_of(l);
    if (f->ops.on_stop)
        f->ops.on_stop(f->world, l, id, grace_ms, cause);
}

static void fake_signal(struct launcher *l, struct attempt_id id, int32_t rank, int32_t signo)
{
    struct launcher_fake *f = fake_of(l);
    if (f->ops.on_signal)
        f->ops.on_signal(f->world, l, id, rank, signo);
}

static void fake_input(struct launcher *l, struct attempt_id id, const Accel__V1__ShimInput *in)
{
    (void)l;
    (void)id;
    (void)in; /* nobody reads it; the data plane is tested with real shims */
}

static void fake_watch(struct launcher *l, struct attempt_id id)
{
    (void)l;
    (void)id;
}

static void fake_fence_done(struct launcher *l, struct attempt_id id,
                            const Accel__V1__ShimFence *fence)
{
    (void)l;
    (void)id;
    (void)fence; /* as above */
}

static void fake_mark_acked(struct launcher *l, struct attempt_id id)
{
    struct launcher_fake *f = fake_of(l);
    if (f->ops.on_acked)
        f->ops.on_acked(f->world, l, id);
}

static void fake_forget(struct launcher *l, uint64_t job_id)
{
    struct launcher_fake *f = fake_of(l);
    if (f->ops.on_forget)
        f->ops.on_forget(f->world, l, job_id);
}

static void fake_destroy(struct launcher *l, void (*on_closed)(void *), void *ctx)
{
    free(fake_of(l));
    if (on_closed)
        on_closed(ctx);
}

static const struct launcher_ops fake_ops = {
    .launch = fake_launch,
    .stop = fake_stop,
    .signal = fake_signal,
    .input = fake_input,
    .watch = fake_watch,
    .fence_done = fake_fence_done,
    .mark_acked = fake_mark_acked,
    .forget = fake_forget,
    .destroy = fake_destroy,
};

struct launcher *launcher_fake_create(const struct launcher_fake_ops *ops, void *world)
{
    struct launcher_fake *f = xcalloc(1, sizeof(*f));
    CHECK(ops->on_launch);
    f->launcher.ops = &fake_ops;
    f->ops = *ops;
    f->world = world;
    return &f->launcher;
}
