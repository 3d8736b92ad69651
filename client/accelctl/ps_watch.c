/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `accelctl ps -w`: the stream of events says that something happened, and the list is asked for
 * again; nothing is asked while nothing happens. Events that come while it is asked, or shortly
 * after, are answered together, so that a storm of jobs costs the coordinator a list now and then
 * and not one each. Jobs that end leave the list, or never were in one: they are asked for by id.
 * ps.c says which jobs are wanted and what a row is.
 */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "accel/v1/event.pb-c.h"
#include "client/accelctl/ps.h"
#include "common/clock.h"

#define uthash_fatal(msg) base_check_failed(msg, __FILE__, __LINE__)
#include <uthash.h>

#define PAUSE_MS  100u /* after a list: people read no faster, and the next one waits so long */
#define ENDED_MAX 500u /* jobs that ended meanwhile: the newest stay in view */

struct seen {
    uint64_t id;
    uint64_t hash; /* of what was told of it last */
    uint32_t round;
    bool is_ended; /* or out of the list for another reason */
    UT_hash_handle hh;
};

struct watch {
    struct listing *l;
    struct session *session;
    struct rpc_call *events, *list;
    uint64_t last_seq;
    struct seen *seen;
    uint32_t round;
    bool asks_ended; /* of two questions a round has, the second is on its way */
    uint64_t ended[ENDED_MAX];
    size_t ended_count, asked_count; /* the first of them were asked for in this round */
    bool is_dirty;                   /* something happened since the list was asked for */
    bool is_redrawing;
    bool is_over;
    uv_timer_t pause;
    uv_signal_t resized;
    struct accel_error *err;
};

static uint64_t hash_of(const Accel__V1__Job *job)
{
    size_t len = accel__v1__job__get_packed_size(job);
    AUTO_FREE uint8_t *packed = xrealloc(NULL, len + 1);
    uint64_t hash = 0xcbf29ce484222325u; /* FNV-1a */

    accel__v1__job__pack(job, packed);
    for (size_t i = 0; i < len; i++)
        hash = (hash ^ packed[i]) * 0x100000001b3u;
    return hash;
}

static void show_job(struct watch *w, const Accel__V1__Job *job)
{
    struct listing *l = w->l;
    json_t *items;

    l->shown++;
    if (l->table) {
        ps_add_row(l, job);
        return;
    }
    if (l->form == VIEW_NAME) {
        str_addf(&l->names, "%llu\n", (unsigned long long)job->id);
        return;
    }
    items = json_array();
    json_array_append_new(items, view_job(job, false));
    if (option_given(&l->cli->opt, OPT_JSON) && /* the names were checked */
        view_select(items, l->cli->opt.v[OPT_JSON].text, w->err) < 0)
        w->is_over = true;
    else
        view_print_line(json_incref(json_array_get(items, 0)));
    json_decref(items);
}

static void take_job(struct watch *w, const Accel__V1__Job *job)
{
    uint64_t hash = hash_of(job);
    struct seen *s;

    HASH_FIND(hh, w->seen, &job->id, sizeof job->id, s);
    if (!s) {
        s = xcalloc(1, sizeof *s);
        s->id = job->id;
        s->hash = ~hash;
        HASH_ADD(hh, w->seen, id, sizeof s->id, s);
    }
    if (s->round == w->round)
        return; /* it ended between the two questions */
    s->round = w->round;
    s->is_ended = job->state == ACCEL__V1__JOB_STATE__JOB_ENDED;
    if (ps_wants(w->l, job) && (w->is_redrawing || s->hash != hash))
        show_job(w, job);
    s->hash = hash;
}

static void on_jobs(void *ctx, const ProtobufCMessage *msg)
{
    const Accel__V1__ListReply *reply = (const Accel__V1__ListReply *)msg;
    struct watch *w = ctx;

    for (size_t i = 0; i < reply->n_jobs; i++) {
        w->l->last_id = reply->jobs[i]->id;
        take_job(w, reply->jobs[i]);
    }
    w->l->has_more = reply->more && reply->n_jobs > 0;
}

/* The whole screen, without a moment in which it is empty. */
static void redraw(struct watch *w)
{
    AUTO_STR struct str text = {0}, out = {0};
    char when[40], title[96];
    size_t rows, width = table_terminal_size(&rows), line = 2; /* the title and the header */

    str_init(&text);
    str_init(&out);
    table_format(w->l->table, w->l->cli->use_color, width, &text);
    snprintf(title, sizeof title, "%zu job%s at %s; Ctrl-C ends", w->l->shown,
             w->l->shown == 1 ? "" : "s", clock_format_utc(w->l->now_ms, when, sizeof when));
    str_addf(&out, "\033[H%.*s\033[K\n", (int)MIN(width, sizeof title), title);
    for (const char *p = text.data; *p != '\0'; line++) {
        size_t len = strcspn(p, "\n");

        if (line == rows && p[len + 1] != '\0') {
            str_adds(&out, "...\033[K");
            break;
        }
        str_add(&out, p, len);
        str_adds(&out, line < rows ? "\033[K\n" : "\033[K");
        p += len + (p[len] == '\n');
    }
    str_adds(&out, "\033[J");
    cli_write_str(STDOUT_FILENO, &out);
}

static void show_round(struct watch *w)
{
    struct listing *l = w->l;

    if (w->is_redrawing) {
        redraw(w);
        table_destroy(l->table);
        l->table = ps_table(l);
    } else if (l->table && l->shown > 0) {
        table_print(l->table, l->cli->use_color);
        table_clear(l->table);
    } else if (l->form == VIEW_NAME) {
        cli_write_str(STDOUT_FILENO, &l->names);
        str_clear(&l->names);
    }
}

static void add_ended(struct watch *w, uint64_t id)
{
    for (size_t i = 0; i < w->ended_count; i++) {
        if (w->ended[i] == id)
            return;
    }
    if (w->ended_count == ENDED_MAX) {
        memmove(w->ended, w->ended + 1, --w->ended_count * sizeof w->ended[0]);
        w->asked_count -= w->asked_count > 0;
    }
    w->ended[w->ended_count++] = id;
}

/* Those of the last round that are not in this one: of other people's jobs no event tells. */
static void find_ended(struct watch *w)
{
    struct seen *s, *next;

    HASH_ITER(hh, w->seen, s, next) {
        if (s->round == w->round)
            continue;
        if (!s->is_ended) {
            add_ended(w, s->id);
            s->is_ended = true;
        } else if (s->round + 1 < w->round) { /* out of view */
            HASH_DELETE(hh, w->seen, s);
            free(s);
        }
    }
}

/* They were told: on a terminal those stay that were answered, being ours. */
static void forget_asked(struct watch *w)
{
    size_t kept = 0;

    for (size_t i = 0; i < w->ended_count; i++) {
        struct seen *s;

        HASH_FIND(hh, w->seen, &w->ended[i], sizeof w->ended[i], s);
        if (i >= w->asked_count || (w->is_redrawing && s && s->round == w->round))
            w->ended[kept++] = w->ended[i];
    }
    w->ended_count = kept;
    w->asked_count = 0;
}

static void ask_list(struct watch *w);
static void begin_events(struct watch *w);

static bool lists_ended(const struct watch *w)
{
    Accel__V1__ListRequest req;

    ps_request(w->l, &req);
    return req.all_states || req.n_ids > 0;
}

static void begin_round(struct watch *w)
{
    if (!w->is_dirty || w->list || uv_is_active((uv_handle_t *)&w->pause) ||
        !session_channel(w->session))
        return;
    w->is_dirty = false;
    w->asks_ended = false;
    w->round++;
    w->l->now_ms = clock_wall_ms();
    w->l->last_id = 0;
    w->l->shown = 0;
    ask_list(w);
}

static void on_list_end(void *ctx, int code, const char *text)
{
    struct watch *w = ctx;

    w->list = NULL;
    if (code == ACCEL_ECLOSED)
        return; /* on_back */
    if (code < 0) {
        error_set(w->err, code, "%s", text[0] != '\0' ? text : accel_error_sentence(code));
        w->is_over = true;
        return;
    }
    if (w->l->has_more && !w->asks_ended) {
        ask_list(w);
        return;
    }
    if (!w->asks_ended && !lists_ended(w)) {
        find_ended(w);
        w->asks_ended = true;
        w->asked_count = w->ended_count;
        if (w->ended_count > 0) {
            ask_list(w);
            return;
        }
    }
    forget_asked(w);
    show_round(w);
    uv_timer_start(&w->pause, w->pause.timer_cb, PAUSE_MS, 0);
}

static void ask_list(struct watch *w)
{
    static const struct rpc_call_handlers handlers = {on_jobs, on_list_end};
    Accel__V1__ListRequest req;

    ps_request(w->l, &req);
    w->l->has_more = false;
    if (w->asks_ended) {
        req.ids = w->ended;
        req.n_ids = w->asked_count;
    } else {
        req.after_id = w->l->last_id;
    }
    w->list = rpc_channel_call(session_channel(w->session), "/accel.v1.Jobs/List", &req.base,
                               &accel__v1__list_reply__descriptor, &handlers, w);
}

static void on_events(void *ctx, const ProtobufCMessage *msg)
{
    const Accel__V1__EventsReply *reply = (const Accel__V1__EventsReply *)msg;
    struct watch *w = ctx;

    for (size_t i = 0; i < reply->n_events; i++) {
        const Accel__V1__Event *ev = reply->events[i];

        if (strcmp(ev->kind, "job.ended") == 0 && w->last_seq > 0 && !lists_ended(w))
            add_ended(w, ev->job_id);
        w->last_seq = ev->seq;
    }
    w->is_dirty = true;
    begin_round(w);
}

static void on_events_end(void *ctx, int code, const char *text)
{
    struct watch *w = ctx;

    w->events = NULL;
    if (code == ACCEL_ECLOSED)
        return; /* on_back */
    w->is_over = true;
    error_set(w->err, code < 0 ? code : ACCEL_EUNAVAIL, "%s",
              text[0] != '\0' ? text : "the stream of events has ended");
}

/* The first answer comes at once, with the last event or with none: it begins the first round. */
static void begin_events(struct watch *w)
{
    static const struct rpc_call_handlers handlers = {on_events, on_events_end};
    Accel__V1__EventsRequest req = ACCEL__V1__EVENTS_REQUEST__INIT;
    struct rpc_channel *ch = session_channel(w->session);

    if (!ch)
        return;
    req.follow = true;
    req.after_seq = w->last_seq;
    req.limit = w->last_seq == 0 ? 1 : 0;
    w->events = rpc_channel_call(ch, "/accel.v1.Events/Watch", &req.base,
                                 &accel__v1__events_reply__descriptor, &handlers, w);
}

static void on_back(void *ctx)
{
    begin_events(ctx);
}

static void on_gone(void *ctx, const struct accel_error *err)
{
    struct watch *w = ctx;

    *w->err = *err;
    w->is_over = true;
}

static void on_pause_over(uv_timer_t *timer)
{
    begin_round(timer->data);
}

static void on_resized(uv_signal_t *handle, int signo)
{
    struct watch *w = handle->data;

    w->is_dirty = true;
    begin_round(w);
}

static void watch_done(struct watch *w)
{
    struct seen *s, *next;

    session_attach(w->session, NULL, NULL);
    if (w->events)
        rpc_call_cancel(STEAL_PTR(w->events));
    if (w->list)
        rpc_call_cancel(STEAL_PTR(w->list));
    uv_close((uv_handle_t *)&w->pause, NULL);
    uv_close((uv_handle_t *)&w->resized, NULL);
    uv_run(session_loop(w->session), UV_RUN_NOWAIT); /* the handles live here */
    HASH_ITER(hh, w->seen, s, next) {
        HASH_DELETE(hh, w->seen, s);
        free(s);
    }
    table_destroy(STEAL_PTR(w->l->table));
}

int ps_watch(struct listing *l, struct session *session, struct accel_error *err)
{
    static const struct session_hooks hooks = {.on_back = on_back, .on_gone = on_gone};
    const char *term = getenv("TERM");
    struct watch w = {.l = l, .session = session, .err = err};

    if (l->form == VIEW_TABLE || l->form == VIEW_WIDE)
        l->table = ps_table(l);
    w.is_redrawing = l->table && isatty(STDOUT_FILENO) && term && strcmp(term, "dumb") != 0;
    session_attach(session, &hooks, &w);
    session_end_with_reader(session);
    uv_timer_init(session_loop(session), &w.pause);
    w.pause.data = &w;
    w.pause.timer_cb = on_pause_over;
    uv_signal_init(session_loop(session), &w.resized);
    w.resized.data = &w;
    if (w.is_redrawing) {
        uv_signal_start(&w.resized, on_resized, SIGWINCH);
        cli_write(STDOUT_FILENO, "\033[2J", 4);
    }
    begin_events(&w);
    while (!w.is_over)
        uv_run(session_loop(session), UV_RUN_ONCE);
    watch_done(&w);
    return err->code;
}
