/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The completion queue of the module, its thread, and the way from there to the loop; timers; what
 * gRPC logs. Neighbours: rpc_grpc_server.c and rpc_grpc_client.c, which start operations. The
 * thread may touch nothing but the list of finished operations.
 */
#include <grpc/byte_buffer_reader.h>
#include <grpc/support/log.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/rpc_grpc_internal.h"
#include "common/str.h"

#define LOG_LINES      64u  /* of gRPC kept until the loop comes to them; more are counted */
#define LOG_LINE_BYTES 512u /* longer ones are cut */

struct runtime {
    struct wire_runtime base;
    pthread_t thread;
    pthread_mutex_t lock; /* of done_head, done_tail */
    struct wire_op *done_head, **done_tail;
    struct closer *closers; /* of users that have gone in this turn */
};
struct closer {
    struct closer *next;
    void (*on_closed)(void *ctx);
    void *ctx;
};

static struct {
    pthread_mutex_t lock;
    struct runtime *runtime; /* NULL: none that can be woken */
    char lines[LOG_LINES][LOG_LINE_BYTES];
    unsigned count, dropped;
} shared = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* --- operations --- */

void *wire_op_start(struct wire_op *op, void (*on_done)(struct wire_op *op, bool ok))
{
    CHECK(!op->is_busy);
    op->is_busy = true;
    op->on_done = on_done;
    return op;
}

static void op_finished(struct runtime *rt, struct wire_op *op, bool ok)
{
    op->ok = ok;
    op->next = NULL;
    pthread_mutex_lock(&rt->lock);
    bool was_empty = !rt->done_head;
    *rt->done_tail = op;
    rt->done_tail = &op->next;
    pthread_mutex_unlock(&rt->lock);
    if (was_empty)
        wire_host->waker_wake(rt->base.waker);
}

void wire_op_post(struct wire_runtime *rt, struct wire_op *op,
                  void (*on_done)(struct wire_op *op, bool ok))
{
    wire_op_start(op, on_done);
    op_finished((struct runtime *)rt, op, true);
}

static void *queue_thread(void *arg)
{
    struct runtime *rt = arg;
    gpr_timespec never = gpr_inf_future(GPR_CLOCK_MONOTONIC);
    for (;;) {
        grpc_event ev = grpc_completion_queue_next(rt->base.cq, never, NULL);
        if (ev.type == GRPC_QUEUE_SHUTDOWN)
            return NULL;
        if (ev.type == GRPC_OP_COMPLETE)
            op_finished(rt, ev.tag, ev.success != 0);
    }
}

/* --- what gRPC logs --- */

static void on_grpc_log(gpr_log_func_args *args)
{
    pthread_mutex_lock(&shared.lock);
    if (!shared.runtime || shared.count == LOG_LINES) {
        shared.dropped++;
    } else {
        char *line = shared.lines[shared.count++];
        line[0] = args->severity == GPR_LOG_SEVERITY_ERROR ? 'E' : 'I';
        memcpy(line + 1, args->message, MIN(strlen(args->message) + 1, LOG_LINE_BYTES - 1u));
        line[LOG_LINE_BYTES - 1] = 0;
        if (shared.count == 1)
            wire_host->waker_wake(shared.runtime->base.waker);
    }
    pthread_mutex_unlock(&shared.lock);
}

void wire_runtime_prepare(void)
{
    gpr_set_log_function(on_grpc_log);
}

/* A handshake that fails is the caller's mistake and told as such; there may be many. */
static void log_one(struct runtime *rt, const char *line)
{
    struct rpc_list *node = rt->base.refused.next, *next;
    bool is_handshake = strcasestr(line, "handshake") != NULL;
    /* By server_create, and by the ends of calls. */
    bool is_told = strstr(line, "No address added") || strstr(line, "No match found");
    /* gRPC 1.51 closes a listener whose accept fails (EMFILE), and says so nowhere else. */
    bool is_deaf = strncmp(line + 1, REMOTE_DEAF, strlen(REMOTE_DEAF)) == 0;
    bool is_quiet = is_handshake || is_told || line[0] != 'E';
    wire_host->log(is_quiet ? LOG_LEVEL_DEBUG : LOG_LEVEL_WARN, line + 1);
    for (; (is_handshake || is_deaf) && node != &rt->base.refused; node = next) {
        struct wire_refused *r = CONTAINER_OF(node, struct wire_refused, node);
        next = node->next;
        r->on_refused(r, line + 1);
    }
}

static void log_drain(struct runtime *rt)
{
    char line[LOG_LINE_BYTES], text[64];
    pthread_mutex_lock(&shared.lock);
    unsigned count = shared.count, dropped = shared.dropped;
    for (unsigned i = 0; i < count; i++) {
        memcpy(line, shared.lines[i], sizeof(line));
        pthread_mutex_unlock(&shared.lock);
        log_one(rt, line);
        pthread_mutex_lock(&shared.lock);
    }
    /* Lines that came meanwhile are behind those we have told. */
    memmove(shared.lines[0], shared.lines[count], (shared.count - count) * sizeof(*shared.lines));
    shared.count -= count;
    shared.dropped -= dropped;
    bool has_more = shared.count > 0;
    pthread_mutex_unlock(&shared.lock);
    if (has_more)
        wire_host->waker_wake(rt->base.waker);
    snprintf(text, sizeof(text), "gRPC said %u lines more", dropped);
    if (dropped > 0)
        wire_host->log(LOG_LEVEL_DEBUG, text);
}

/* --- one turn: what finished, or a timer --- */

static void call_closers(struct closer *c)
{
    while (c) {
        struct closer *next = c->next;
        if (c->on_closed)
            c->on_closed(c->ctx);
        free(c);
        c = next;
    }
}

static void on_waker_closed(void *ctx)
{
    struct runtime *rt = ctx;
    struct closer *closers = rt->closers;
    pthread_mutex_destroy(&rt->lock);
    free(rt);
    grpc_shutdown_blocking(); /* no thread of its own is left: leak checkers trip over dying ones */
    call_closers(closers);
}

static void turn_begin(struct wire_runtime *rt)
{
    rt->users++; /* it outlives the last user until the turn ends */
}

/* Users that have gone are told: if they were the last, when the loop's handles are closed too, so
 * that it can be closed then. */
static void turn_end(struct wire_runtime *base)
{
    struct runtime *rt = (struct runtime *)base;
    if (base->users > 1)
        call_closers(STEAL_PTR(rt->closers));
    if (--base->users > 0)
        return;
    pthread_mutex_lock(&shared.lock);
    shared.runtime = NULL;
    shared.count = 0;
    pthread_mutex_unlock(&shared.lock);
    grpc_completion_queue_shutdown(base->cq);
    pthread_join(rt->thread, NULL); /* nothing is in flight: at once */
    CHECK(!rt->done_head);
    grpc_completion_queue_destroy(base->cq);
    wire_host->waker_close(base->waker, on_waker_closed);
}

/* --- timers --- */

void wire_timer_init(struct wire_timer *t, void (*on_due)(struct wire_timer *t))
{
    rpc_list_init(&t->node);
    t->on_due = on_due;
}

static void timers_arm(struct wire_runtime *rt)
{
    int64_t delay_ms = -1;
    if (!rpc_list_is_empty(&rt->timers))
        delay_ms = MAX(
            CONTAINER_OF(rt->timers.next, struct wire_timer, node)->due_ms - clock_mono_ms(), 0);
    wire_host->waker_timer(rt->waker, delay_ms);
}

void wire_timer_stop(struct wire_timer *t)
{
    rpc_list_remove(&t->node); /* the loop's own timer may come in vain */
}

void wire_timer_set(struct wire_runtime *rt, struct wire_timer *t, int64_t delay_ms)
{
    struct rpc_list *at = rt->timers.prev;
    rpc_list_remove(&t->node);
    t->due_ms = clock_mono_ms() + delay_ms;
    while (at != &rt->timers && CONTAINER_OF(at, struct wire_timer, node)->due_ms > t->due_ms)
        at = at->prev;
    rpc_list_append(at->next, &t->node); /* before its next is after it */
    if (rt->timers.next == &t->node)
        timers_arm(rt);
}

static void on_waker_due(void *ctx)
{
    struct wire_runtime *rt = ctx;
    int64_t now_ms = clock_mono_ms();
    turn_begin(rt);
    while (!rpc_list_is_empty(&rt->timers)) {
        struct wire_timer *t = CONTAINER_OF(rt->timers.next, struct wire_timer, node);
        if (t->due_ms > now_ms)
            break;
        rpc_list_remove(&t->node);
        t->on_due(t);
    }
    timers_arm(rt);
    turn_end(rt);
}

/* --- life --- */

/* All that has finished, and what finishes meanwhile in the next turn: others get theirs. */
static void on_waker_wake(void *ctx)
{
    struct runtime *rt = ctx;
    turn_begin(&rt->base);
    pthread_mutex_lock(&rt->lock);
    struct wire_op *op = rt->done_head;
    rt->done_head = NULL;
    rt->done_tail = &rt->done_head;
    pthread_mutex_unlock(&rt->lock);
    while (op) {
        struct wire_op *next = op->next;
        op->is_busy = false;
        op->on_done(op, op->ok);
        op = next;
    }
    log_drain(rt);
    turn_end(&rt->base);
}

struct wire_runtime *wire_runtime_get(void *loop)
{
    struct runtime *rt = shared.runtime; /* only this thread changes it */
    if (rt) {
        CHECK(rt->base.loop == loop);
        rt->base.users++;
        return &rt->base;
    }
    rt = xcalloc(1, sizeof(*rt));
    grpc_init();
    rt->base.loop = loop;
    rt->base.users = 1;
    rt->done_tail = &rt->done_head;
    rpc_list_init(&rt->base.timers);
    rpc_list_init(&rt->base.refused);
    CHECK(pthread_mutex_init(&rt->lock, NULL) == 0);
    rt->base.waker = wire_host->waker_create(loop, on_waker_wake, on_waker_due, rt);
    rt->base.cq = grpc_completion_queue_create_for_next(NULL);
    sigset_t all, before; /* signals are the loop's */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    CHECK(pthread_create(&rt->thread, NULL, queue_thread, rt) == 0);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_mutex_lock(&shared.lock);
    shared.runtime = rt;
    pthread_mutex_unlock(&shared.lock);
    return &rt->base;
}

void wire_runtime_put(struct wire_runtime *base, void (*on_closed)(void *), void *ctx)
{
    struct runtime *rt = (struct runtime *)base;
    struct closer *c = xcalloc(1, sizeof(*c));
    *c = (struct closer){rt->closers, on_closed, ctx};
    rt->closers = c;
    CHECK(base->users > 1); /* the turn is one */
    base->users--;
}

/* --- bytes --- */

static grpc_byte_buffer *bytes_of(grpc_slice slice)
{
    grpc_byte_buffer *buf = grpc_raw_byte_buffer_create(&slice, 1);
    grpc_slice_unref(slice);
    return buf;
}

grpc_byte_buffer *wire_bytes_copy(const void *p, size_t len)
{
    return bytes_of(len > 0 ? grpc_slice_from_copied_buffer(p, len) : grpc_empty_slice());
}

grpc_byte_buffer *wire_bytes_pack(const ProtobufCMessage *msg)
{
    grpc_slice slice = grpc_slice_malloc(protobuf_c_message_get_packed_size(msg));
    protobuf_c_message_pack(msg, GRPC_SLICE_START_PTR(slice));
    return bytes_of(slice);
}

bool wire_bytes_read(grpc_byte_buffer *buf, grpc_slice *ret_slice)
{
    grpc_byte_buffer_reader reader;
    if (buf->type != GRPC_BB_RAW || buf->data.raw.compression != GRPC_COMPRESS_NONE ||
        !grpc_byte_buffer_reader_init(&reader, buf))
        return false;
    *ret_slice = grpc_byte_buffer_reader_readall(&reader);
    grpc_byte_buffer_reader_destroy(&reader);
    return true;
}

void wire_outbox_init(struct wire_outbox *o)
{
    *o = (struct wire_outbox){.tail = NULL};
    o->tail = &o->head;
}

void wire_outbox_add(struct wire_outbox *o, grpc_byte_buffer *buf, size_t len)
{
    struct wire_out *out = xcalloc(1, sizeof(*out));
    out->buf = buf;
    out->len = len;
    *o->tail = out;
    o->tail = &out->next;
    o->bytes += len;
}

grpc_byte_buffer *wire_outbox_take(struct wire_outbox *o)
{
    struct wire_out *out = o->head;
    if (!out)
        return NULL;
    grpc_byte_buffer *buf = out->buf;
    o->head = out->next;
    if (!o->head)
        o->tail = &o->head;
    o->bytes -= out->len;
    free(out);
    return buf;
}

void wire_outbox_clear(struct wire_outbox *o)
{
    grpc_byte_buffer *buf;
    while ((buf = wire_outbox_take(o)))
        grpc_byte_buffer_destroy(buf);
}
