/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libcurl's multi interface on libuv: curl says which sockets it waits for and until when, the loop
 * tells it what happened. Neighbours: slice.c, which asks. It must not know what the values mean.
 * The bridge follows docs/examples/multi-uv.c of curl.
 */
#include "agentd/metadata.h"

#include <curl/curl.h>
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/queue.h>

#include "common/str.h"

#define DEFAULT_HOST   "169.254.169.254"
#define FLAVOR         "Metadata-Flavor: Google"
#define POLL_SECONDS   60    /* the server's time for a change that does not come */
#define POLL_ANSWER_MS 70000 /* ours for its answer */
#define BACKOFF_FACTOR 50    /* of the longest back-off to the first */
#define ETAG_BYTES     128

/* ---- libcurl, by name ---- */

#define CURL_FUNCTIONS(X)                                                                          \
    X(curl_global_init)                                                                            \
    X(curl_easy_init)                                                                              \
    X(curl_easy_setopt)                                                                            \
    X(curl_easy_getinfo)                                                                           \
    X(curl_easy_cleanup)                                                                           \
    X(curl_multi_init)                                                                             \
    X(curl_multi_setopt)                                                                           \
    X(curl_multi_add_handle)                                                                       \
    X(curl_multi_remove_handle)                                                                    \
    X(curl_multi_socket_action)                                                                    \
    X(curl_multi_assign)                                                                           \
    X(curl_multi_info_read)                                                                        \
    X(curl_multi_cleanup)                                                                          \
    X(curl_slist_append)                                                                           \
    X(curl_slist_free_all)

#undef curl_easy_setopt /* macros that check types, around the functions */
#undef curl_easy_getinfo
#undef curl_multi_setopt
static struct {
    void *handle;
#define X(name) __typeof__(&name) name;
    CURL_FUNCTIONS(X)
#undef X
} lib; /* loaded once and never unloaded: libcurl has threads and handlers of its own */

static int load_curl(struct accel_error *err)
{
    static const char *const names[] = {"libcurl.so.4", "libcurl-gnutls.so.4", "libcurl-nss.so.4"};
    void *handle = NULL;
    if (lib.handle)
        return 0;
    for (size_t i = 0; !handle && i < ARRAY_LEN(names); i++)
        handle = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
    if (!handle)
        return error_set(err, ACCEL_EUNAVAIL, "libcurl cannot be loaded: %s", dlerror());
#define X(name)                                                                                    \
    lib.name = (__typeof__(lib.name))dlsym(handle, #name);                                         \
    if (!lib.name)                                                                                 \
        return error_set(err, ACCEL_EUNAVAIL, "libcurl has no " #name);
    CURL_FUNCTIONS(X)
#undef X
    if (lib.curl_global_init(CURL_GLOBAL_NOTHING) != CURLE_OK)
        return error_set(err, ACCEL_EUNAVAIL, "libcurl does not start");
    lib.handle = handle;
    return 0;
}

/* ---- state ---- */

struct request {
    LIST_ENTRY(request) link;
    struct metadata *m;
    char *key;
    bool is_watch, is_running, is_too_long, has_flavor, is_told;
    metadata_fn fn;
    void *ctx;
    CURL *easy;
    struct curl_slist *headers;
    struct str body, told; /* told: the last value that fn has heard */
    char etag[ETAG_BYTES], told_etag[ETAG_BYTES];
    unsigned tries, unanswered; /* since the last value; without any answer in a row */
    uv_timer_t timer;           /* of the next try */
};

struct watched_socket {
    uv_poll_t poll;
    struct metadata *m;
    curl_socket_t fd;
};

struct metadata {
    uv_loop_t *loop;
    CURLM *multi;
    char *host;
    int64_t retry_ms, connect_ms, answer_ms;
    uv_timer_t timer; /* curl's own */
    LIST_HEAD(, request) requests;
    size_t request_count;
    int in_flight;                /* tries that curl has */
    unsigned open_handles, depth; /* depth: calls of ours on the stack that use it */
    bool is_closing;
};

static void start_try(struct request *q);
static void shut_down(struct metadata *m);

static void enter(struct metadata *m)
{
    m->depth++;
}

static void leave(struct metadata *m)
{
    CHECK(m->depth > 0);
    if (--m->depth == 0 && m->is_closing)
        shut_down(m);
}

static void handle_closed(struct metadata *m)
{
    CHECK(m->open_handles > 0);
    if (--m->open_handles > 0)
        return;
    free(m->host);
    free(m);
}

/* ---- one request ---- */

static void on_request_closed(uv_handle_t *handle)
{
    struct request *q = CONTAINER_OF((uv_timer_t *)handle, struct request, timer);
    struct metadata *m = q->m;
    str_done(&q->body);
    str_done(&q->told);
    free(q->key);
    free(q);
    handle_closed(m);
}

static void stop_try(struct request *q)
{
    if (q->is_running)
        lib.curl_multi_remove_handle(q->m->multi, q->easy);
    q->is_running = false;
    if (q->easy)
        lib.curl_easy_cleanup(q->easy);
    lib.curl_slist_free_all(q->headers);
    q->easy = NULL;
    q->headers = NULL;
}

static void request_end(struct request *q)
{
    stop_try(q);
    LIST_REMOVE(q, link);
    q->m->request_count--;
    uv_close((uv_handle_t *)&q->timer, on_request_closed);
}

static size_t on_body(char *data, size_t size, size_t count, void *ctx)
{
    struct request *q = ctx;
    size_t len = size * count;
    if (q->body.len + len > METADATA_BODY_BYTES) {
        q->is_too_long = true;
        return 0; /* ends the transfer */
    }
    str_add(&q->body, data, len);
    return len;
}

static size_t on_header(char *data, size_t size, size_t count, void *ctx)
{
    struct request *q = ctx;
    size_t len = size * count, n = len;
    while (n > 0 && (unsigned char)data[n - 1] <= ' ')
        n--;
    if (n == strlen(FLAVOR) && strncasecmp(data, FLAVOR, n) == 0)
        q->has_flavor = true;
    if (n > 5 && strncasecmp(data, "ETag:", 5) == 0) {
        size_t at = 5;
        while (at < n && data[at] == ' ')
            at++;
        /* It goes into a URL: what is no plain word is as good as none. */
        bool is_plain = n - at < sizeof(q->etag);
        for (size_t i = at; i < n && is_plain; i++)
            is_plain = (data[i] >= '0' && data[i] <= '9') || (data[i] >= 'a' && data[i] <= 'z') ||
                       (data[i] >= 'A' && data[i] <= 'Z') || data[i] == '-' || data[i] == '_';
        snprintf(q->etag, sizeof(q->etag), "%.*s", is_plain ? (int)(n - at) : 0, data + at);
    }
    return len;
}

static void on_retry(uv_timer_t *timer)
{
    struct request *q = timer->data;
    struct metadata *m = q->m;
    enter(m);
    start_try(q);
    leave(m);
}

static void retry_later(struct request *q)
{
    uint64_t ms = (uint64_t)q->m->retry_ms, max = ms * BACKOFF_FACTOR;
    for (unsigned i = 1; i < q->tries && ms < max; i++)
        ms *= 2;
    CHECK(uv_timer_start(&q->timer, on_retry, MIN(ms, max), 0) == 0);
}

#define SET(q, option, value) CHECK(lib.curl_easy_setopt((q)->easy, option, value) == CURLE_OK)

static void set_options(struct request *q, const char *url)
{
    struct metadata *m = q->m;
    bool is_poll = q->is_watch && q->is_told;
    SET(q, CURLOPT_URL, url);
    SET(q, CURLOPT_PRIVATE, q);
    SET(q, CURLOPT_NOSIGNAL, 1L);
    SET(q, CURLOPT_NOPROXY, "*"); /* it is on this machine's own link */
    SET(q, CURLOPT_FOLLOWLOCATION, 0L);
    SET(q, CURLOPT_CONNECTTIMEOUT_MS, (long)m->connect_ms);
    SET(q, CURLOPT_TIMEOUT_MS, (long)(is_poll ? POLL_ANSWER_MS : m->answer_ms));
    SET(q, CURLOPT_HTTPHEADER, q->headers);
    SET(q, CURLOPT_WRITEFUNCTION, on_body);
    SET(q, CURLOPT_WRITEDATA, q);
    SET(q, CURLOPT_HEADERFUNCTION, on_header);
    SET(q, CURLOPT_HEADERDATA, q);
}

static void start_try(struct request *q)
{
    AUTO_STR struct str url;
    str_init(&url);
    str_addf(&url, "http://%s/computeMetadata/v1/%s", q->m->host, q->key);
    if (q->is_watch && q->is_told)
        str_addf(&url, "?wait_for_change=true&timeout_sec=%d&last_etag=%s", POLL_SECONDS,
                 q->told_etag[0] ? q->told_etag : "0");
    q->tries++;
    q->is_too_long = q->has_flavor = false;
    q->etag[0] = 0;
    str_clear(&q->body);
    q->easy = lib.curl_easy_init();
    q->headers = lib.curl_slist_append(NULL, FLAVOR);
    CHECK(q->easy && q->headers); /* memory has ended */
    set_options(q, url.data);
    CHECK(lib.curl_multi_add_handle(q->m->multi, q->easy) == CURLM_OK);
    q->is_running = true;
}

static void tell(struct request *q, int r)
{
    /* fn may destroy the client: then only the memory is still there, until leave() */
    q->fn(q->ctx, r, r == 0 ? q->body.data : "", r == 0 ? q->body.len : 0);
}

static void on_value(struct request *q)
{
    bool is_new = !q->is_told || q->body.len != q->told.len ||
                  memcmp(q->body.data, q->told.data, q->body.len) != 0;
    q->tries = 0;
    if (!q->is_watch) {
        tell(q, 0);
        if (!q->m->is_closing)
            request_end(q);
        return;
    }
    /* A poll that comes back at once with nothing new would be a busy loop. */
    bool is_idle = q->is_told && !is_new && strcmp(q->etag, q->told_etag) != 0;
    memcpy(q->told_etag, q->etag, sizeof(q->etag));
    q->is_told = true;
    if (is_new) {
        str_clear(&q->told);
        str_add(&q->told, q->body.data, q->body.len);
        tell(q, 0);
    }
    if (q->m->is_closing)
        return;
    if (is_idle || !q->etag[0])
        retry_later(q);
    else
        start_try(q);
}

/* What an answer means: 0 for a value, ACCEL_EUNAVAIL for what may pass. */
static int judge(const struct request *q, CURLcode code, long status)
{
    if (q->is_too_long)
        return ACCEL_EFULL;
    if (code != CURLE_OK || status == 429 || status == 408 || status >= 500)
        return ACCEL_EUNAVAIL;
    if (status == 403 || status == 401)
        return ACCEL_EPERM;
    if (!q->has_flavor)
        return ACCEL_EPROTO;
    return status == 200 ? 0 : status == 404 ? ACCEL_ENOENT : ACCEL_EPROTO;
}

static void on_done(struct request *q, CURLcode code)
{
    long status = 0;
    lib.curl_easy_getinfo(q->easy, CURLINFO_RESPONSE_CODE, &status);
    stop_try(q);
    int r = judge(q, code, status);
    if (r == 0) {
        on_value(q);
        return;
    }
    q->unanswered = status ? 0 : q->unanswered + 1;
    if (r == ACCEL_EUNAVAIL &&
        (q->is_watch || (q->tries < METADATA_TRIES && q->unanswered < METADATA_CONNECTS))) {
        retry_later(q);
        return;
    }
    tell(q, r);
    if (!q->m->is_closing)
        request_end(q);
}

static void take_results(struct metadata *m)
{
    CURLMsg *msg;
    int left;
    while (!m->is_closing && (msg = lib.curl_multi_info_read(m->multi, &left))) {
        struct request *q = NULL;
        CURLcode code = msg->data.result;
        if (msg->msg != CURLMSG_DONE)
            continue;
        CHECK(lib.curl_easy_getinfo(msg->easy_handle, CURLINFO_PRIVATE, &q) == CURLE_OK);
        on_done(q, code);
    }
}

/* ---- the bridge to the loop ---- */

static void act(struct metadata *m, curl_socket_t fd, int events)
{
    int running;
    enter(m);
    lib.curl_multi_socket_action(m->multi, fd, events, &running);
    take_results(m);
    leave(m);
}

static void on_due(uv_timer_t *timer)
{
    act(timer->data, CURL_SOCKET_TIMEOUT, 0);
}

static void on_ready(uv_poll_t *poll, int status, int events)
{
    struct watched_socket *s = poll->data;
    int flags = status < 0 ? CURL_CSELECT_ERR : 0;
    if (events & UV_READABLE)
        flags |= CURL_CSELECT_IN;
    if (events & UV_WRITABLE)
        flags |= CURL_CSELECT_OUT;
    act(s->m, s->fd, flags);
}

static void on_socket_closed(uv_handle_t *handle)
{
    struct watched_socket *s = handle->data;
    struct metadata *m = s->m;
    free(s);
    handle_closed(m);
}

static int on_socket(CURL *easy, curl_socket_t fd, int what, void *ctx, void *socket_ctx)
{
    struct metadata *m = ctx;
    struct watched_socket *s = socket_ctx;
    (void)easy;
    if (what == CURL_POLL_REMOVE) {
        if (s) {
            uv_poll_stop(&s->poll);
            uv_close((uv_handle_t *)&s->poll, on_socket_closed);
        }
        lib.curl_multi_assign(m->multi, fd, NULL);
        return 0;
    }
    if (!s) {
        s = xcalloc(1, sizeof(*s));
        s->m = m;
        s->fd = fd;
        s->poll.data = s;
        if (uv_poll_init_socket(m->loop, &s->poll, fd) < 0) {
            free(s);
            return -1; /* the transfer fails and is tried again */
        }
        m->open_handles++;
        lib.curl_multi_assign(m->multi, fd, s);
    }
    int events = (what & CURL_POLL_IN ? UV_READABLE : 0) | (what & CURL_POLL_OUT ? UV_WRITABLE : 0);
    CHECK(uv_poll_start(&s->poll, events, on_ready) == 0);
    return 0;
}

static int on_timeout(CURLM *multi, long timeout_ms, void *ctx)
{
    struct metadata *m = ctx;
    (void)multi;
    if (timeout_ms < 0 || m->is_closing)
        uv_timer_stop(&m->timer);
    else
        CHECK(uv_timer_start(&m->timer, on_due, (uint64_t)timeout_ms, 0) == 0);
    return 0;
}

static void on_timer_closed(uv_handle_t *handle)
{
    handle_closed(handle->data);
}

static void shut_down(struct metadata *m)
{
    for (struct request *q; (q = LIST_FIRST(&m->requests));)
        request_end(q);
    lib.curl_multi_cleanup(m->multi); /* tells which sockets to leave */
    uv_close((uv_handle_t *)&m->timer, on_timer_closed);
}

/* ---- the interface ---- */

static const char *host_of_environment(void)
{
    static const char *const names[] = {"GCE_METADATA_HOST", "GCE_METADATA_IP"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        const char *host = getenv(names[i]);
        if (host && host[0])
            return host;
    }
    return DEFAULT_HOST;
}

int metadata_create(const struct metadata_config *config, struct metadata **ret_metadata,
                    struct accel_error *err)
{
    int r = load_curl(err);
    if (r < 0)
        return r;
    CURLM *multi = lib.curl_multi_init();
    if (!multi)
        return error_set(err, ACCEL_EUNAVAIL, "libcurl does not start");
    struct metadata *m = xcalloc(1, sizeof(*m));
    m->loop = config->loop;
    m->multi = multi;
    m->host = xstrdup(config->host ? config->host : host_of_environment());
    m->retry_ms = config->retry_ms ? config->retry_ms : 100;
    m->connect_ms = config->connect_ms ? config->connect_ms : 1000;
    m->answer_ms = config->answer_ms ? config->answer_ms : 5000;
    CHECK(uv_timer_init(m->loop, &m->timer) == 0);
    m->timer.data = m;
    m->open_handles = 1;
    lib.curl_multi_setopt(multi, CURLMOPT_SOCKETFUNCTION, on_socket);
    lib.curl_multi_setopt(multi, CURLMOPT_SOCKETDATA, m);
    lib.curl_multi_setopt(multi, CURLMOPT_TIMERFUNCTION, on_timeout);
    lib.curl_multi_setopt(multi, CURLMOPT_TIMERDATA, m);
    *ret_metadata = m;
    return 0;
}

void metadata_destroy(struct metadata *m)
{
    if (!m || m->is_closing)
        return;
    m->is_closing = true;
    if (m->depth == 0)
        shut_down(m);
}

static int request_new(struct metadata *m, const char *key, bool is_watch, metadata_fn fn,
                       void *ctx, struct accel_error *err)
{
    CHECK(!m->is_closing);
    if (m->request_count == METADATA_REQUESTS)
        return error_set(err, ACCEL_EFULL, "more than %u requests to the metadata server at once",
                         METADATA_REQUESTS);
    struct request *q = xcalloc(1, sizeof(*q));
    q->m = m;
    q->key = xstrdup(key);
    q->is_watch = is_watch;
    q->fn = fn;
    q->ctx = ctx;
    str_init(&q->body);
    str_init(&q->told);
    CHECK(uv_timer_init(m->loop, &q->timer) == 0);
    q->timer.data = q;
    m->open_handles++;
    m->request_count++;
    LIST_INSERT_HEAD(&m->requests, q, link);
    enter(m);
    start_try(q);
    leave(m);
    return 0;
}

int metadata_get(struct metadata *m, const char *key, metadata_fn fn, void *ctx,
                 struct accel_error *err)
{
    return request_new(m, key, false, fn, ctx, err);
}

int metadata_watch(struct metadata *m, const char *key, metadata_fn fn, void *ctx,
                   struct accel_error *err)
{
    return request_new(m, key, true, fn, ctx, err);
}
