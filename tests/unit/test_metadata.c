/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The metadata client against a scripted server on loopback, in the same loop: values, refusals,
 * servers that put off, hang, talk without end or are none; long polls; going away in the midst.
 * And what slice.c reads out of Google's attributes.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "agentd/metadata.h"
#include "agentd/slice.h"
#include "common/str.h"

/* ---- a server: each request takes the next line of its key's script ---- */

#define CONNECTIONS_MAX 64
#define OK              "HTTP/1.1 200 OK\r\nMetadata-Flavor: Google\r\n"

struct script {
    const char *key;     /* what the path begins with */
    const char *want;    /* what the request has to hold; NULL: anything */
    const char *headers; /* NULL: no answer; "": hangs up */
    const char *body;
};
struct connection {
    uv_tcp_t tcp;
    char text[4096];
    size_t len;
};

static uv_loop_t loop;
static uv_tcp_t server;
static const struct script *script;
static unsigned script_at, server_requests, server_open, hang_ups; /* at the first requests */
static char host[64];
static struct metadata *client;

static struct { /* what fn was told */
    unsigned count, stop_at;
    bool destroy;
    int r[16];
    char body[16][128];
    size_t len;
} heard;

static void on_conn_closed(uv_handle_t *handle)
{
    server_open--;
    free(handle->data);
}

static void on_written(uv_write_t *req, int status)
{
    (void)status;
    if (!uv_is_closing((uv_handle_t *)req->handle))
        uv_close((uv_handle_t *)req->handle, on_conn_closed);
    free(req->data);
    free(req);
}

static void answer(struct connection *c, const struct script *s)
{
    AUTO_STR struct str text = {0};
    if (!s->headers)
        return;
    if (!s->headers[0]) {
        uv_close((uv_handle_t *)&c->tcp, on_conn_closed);
        return;
    }
    str_init(&text);
    str_addf(&text, "%sContent-Length: %zu\r\nConnection: close\r\n\r\n%s", s->headers,
             strlen(s->body), s->body);
    uv_write_t *req = xcalloc(1, sizeof(*req));
    uv_buf_t buf = uv_buf_init(xmemdup(text.data, text.len), (unsigned)text.len);
    req->data = buf.base;
    assert_int_equal(uv_write(req, (uv_stream_t *)&c->tcp, &buf, 1, on_written), 0);
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
    struct connection *c = stream->data;
    (void)buf;
    if (n < 0) {
        if (!uv_is_closing((uv_handle_t *)stream))
            uv_close((uv_handle_t *)stream, on_conn_closed);
        return;
    }
    c->len += (size_t)n;
    c->text[c->len] = 0;
    if (!strstr(c->text, "\r\n\r\n"))
        return;
    if (server_requests++ < hang_ups) {
        uv_close((uv_handle_t *)stream, on_conn_closed);
        return;
    }
    assert_non_null(strstr(c->text, "\r\nMetadata-Flavor: Google\r\n"));
    for (const struct script *s = script; s->key; s++) { /* by key, or one after the other */
        char path[256];
        if (s->key[0] == '*' ? s != &script[script_at] : false)
            continue;
        snprintf(path, sizeof(path), "GET /computeMetadata/v1/%s", s->key + (s->key[0] == '*'));
        if (strncmp(c->text, path, strlen(path)) != 0)
            continue;
        if (s->want && !strstr(c->text, s->want))
            fail_msg("the request lacks %s:\n%s", s->want, c->text);
        script_at++;
        answer(c, s);
        return;
    }
    fail_msg("no line of the script for request %u:\n%s", script_at, c->text);
}

static void on_alloc(uv_handle_t *handle, size_t size, uv_buf_t *buf)
{
    struct connection *c = handle->data;
    (void)size;
    *buf = uv_buf_init(c->text + c->len, (unsigned)(sizeof(c->text) - 1 - c->len));
}

static void on_connection(uv_stream_t *listener, int status)
{
    struct connection *c = xcalloc(1, sizeof(*c));
    assert_int_equal(status, 0);
    assert_int_equal(uv_tcp_init(&loop, &c->tcp), 0);
    c->tcp.data = c;
    server_open++;
    assert_int_equal(uv_accept(listener, (uv_stream_t *)&c->tcp), 0);
    assert_int_equal(uv_read_start((uv_stream_t *)&c->tcp, on_alloc, on_read), 0);
}

static int setup(void **state)
{
    struct sockaddr_in addr;
    int len = sizeof(addr);
    (void)state;
    memset(&heard, 0, sizeof(heard));
    script_at = server_requests = hang_ups = 0;
    assert_int_equal(uv_loop_init(&loop), 0);
    assert_int_equal(uv_tcp_init(&loop, &server), 0);
    assert_int_equal(uv_ip4_addr("127.0.0.1", 0, &addr), 0);
    assert_int_equal(uv_tcp_bind(&server, (struct sockaddr *)&addr, 0), 0);
    assert_int_equal(uv_listen((uv_stream_t *)&server, 64, on_connection), 0);
    assert_int_equal(uv_tcp_getsockname(&server, (struct sockaddr *)&addr, &len), 0);
    snprintf(host, sizeof(host), "127.0.0.1:%u", ntohs(addr.sin_port));
    struct metadata_config config = {
        .loop = &loop, .host = host, .retry_ms = 1, .connect_ms = 500, .answer_ms = 300};
    assert_int_equal(metadata_create(&config, &client, NULL), 0);
    return 0;
}

static void close_connection(uv_handle_t *handle, void *ctx)
{
    (void)ctx;
    if (handle->type == UV_TCP && !uv_is_closing(handle))
        uv_close(handle, handle == (uv_handle_t *)&server ? NULL : on_conn_closed);
}

static int teardown(void **state)
{
    (void)state;
    metadata_destroy(client);
    uv_walk(&loop, close_connection, NULL);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&loop), 0); /* nothing is left open */
    assert_int_equal(server_open, 0);
    return 0;
}

static void on_value(void *ctx, int r, const char *body, size_t len)
{
    (void)ctx;
    assert_true(heard.count < ARRAY_LEN(heard.r));
    heard.r[heard.count] = r;
    heard.len = len;
    snprintf(heard.body[heard.count], sizeof(heard.body[0]), "%s", body);
    if (++heard.count < heard.stop_at)
        return;
    if (heard.destroy) {
        metadata_destroy(client);
        client = NULL;
    }
    uv_stop(&loop);
}

static void get(const struct script *lines, int want)
{
    script = lines;
    script_at = heard.count = 0;
    heard.stop_at = 1;
    assert_int_equal(metadata_get(client, "k/v", on_value, NULL, NULL), 0);
    assert_int_equal(heard.count, 0); /* never from inside the call */
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(heard.count, 1);
    assert_int_equal(heard.r[0], want);
}

/* ---- one value ---- */

static void test_get(void **state)
{
    static const struct script value[] = {{"k/v", NULL, OK, "one\ntwo"}, {NULL}};
    static const struct script absent[] = {
        {"k/v", NULL, "HTTP/1.1 404 Not Found\r\nMetadata-Flavor: Google\r\n", "no"}, {NULL}};
    static const struct script forbidden[] = {{"k/v", NULL, "HTTP/1.1 403 Forbidden\r\n", "no"},
                                              {NULL}};
    static const struct script stranger[] = {{"k/v", NULL, "HTTP/1.1 200 OK\r\n", "hi"}, {NULL}};
    static const struct script moved[] = {
        {"k/v", NULL,
         "HTTP/1.1 302 Found\r\nMetadata-Flavor: Google\r\nLocation: http://127.0.0.1:1/\r\n", ""},
        {NULL}};
    static const struct script odd_case[] = {
        {"k/v", NULL, "HTTP/1.1 200 OK\r\nmetadata-flavor: google\r\n", "x"}, {NULL}};
    (void)state;
    get(value, 0);
    assert_string_equal(heard.body[0], "one\ntwo");
    assert_int_equal(heard.len, 7);
    get(absent, ACCEL_ENOENT);
    assert_string_equal(heard.body[0], "");
    get(forbidden, ACCEL_EPERM);
    get(stranger, ACCEL_EPROTO);
    get(moved, ACCEL_EPROTO); /* not followed */
    get(odd_case, 0);
    assert_int_equal(server_requests, 6);
}

static void test_put_off(void **state)
{
    static const char busy[] = "HTTP/1.1 503 Service Unavailable\r\nMetadata-Flavor: Google\r\n";
    static const char many[] = "HTTP/1.1 429 Too Many Requests\r\nMetadata-Flavor: Google\r\n";
    static const struct script lines[] = {{"*k/v", NULL, busy, ""},
                                          {"*k/v", NULL, many, ""},
                                          {"*k/v", NULL, "", ""},
                                          {"*k/v", NULL, NULL, ""},
                                          {"*k/v", NULL, busy, ""},
                                          {"*k/v", NULL, OK, "done"},
                                          {NULL}};
    static const struct script always[] = {{"k/v", NULL, busy, ""}, {NULL}};
    (void)state;
    heard.stop_at = 1;
    get(lines + 0, 0);
    assert_string_equal(heard.body[0], "done");
    assert_int_equal(server_requests, 6);
    server_requests = 0;
    get(always, ACCEL_EUNAVAIL);
    assert_int_equal(server_requests, METADATA_TRIES);
}

static void test_too_long(void **state)
{
    static char body[METADATA_BODY_BYTES + 2];
    const struct script fits[] = {{"k/v", NULL, OK, body + 1}, {NULL}};
    const struct script lines[] = {{"k/v", NULL, OK, body}, {NULL}};
    (void)state;
    memset(body, 'x', sizeof(body) - 1);
    get(lines, ACCEL_EFULL);
    assert_int_equal(server_requests, 1);
    get(fits, 0);
    assert_int_equal(heard.len, METADATA_BODY_BYTES);
}

static void test_nobody(void **state)
{
    (void)state;
    uv_close((uv_handle_t *)&server, NULL);
    uv_run(&loop, UV_RUN_NOWAIT);
    get(NULL, ACCEL_EUNAVAIL);
}

static void test_destroyed(void **state)
{
    static const struct script value[] = {{"k/v", NULL, OK, "x"}, {NULL}};
    static const struct script silent[] = {{"k/v", NULL, NULL, ""}, {NULL}};
    (void)state;
    script = silent;
    for (unsigned i = 0; i < METADATA_REQUESTS - 1; i++)
        assert_int_equal(metadata_get(client, "k/v", on_value, NULL, NULL), 0);
    uv_run(&loop, UV_RUN_NOWAIT);
    script = value;
    heard.stop_at = 1;
    heard.destroy = true; /* from the callback, with others under way */
    assert_int_equal(metadata_get(client, "k/v", on_value, NULL, NULL), 0);
    assert_int_equal(metadata_get(client, "k/v", on_value, NULL, NULL), ACCEL_EFULL);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_true(heard.count >= 1);
}

/* ---- long polls ---- */

#define POLL(e) "?wait_for_change=true&timeout_sec=60&last_etag=" e " "

static void test_watch(void **state)
{
    static const struct script lines[] = {
        {"*k/v", "/k/v HTTP", OK "ETag: a1\r\n", "FALSE"},
        {"*k/v", POLL("a1"), OK "ETag: a1\r\n", "FALSE"}, /* the poll timed out */
        {"*k/v", POLL("a1"), "", ""},                     /* reset in the midst */
        {"*k/v", POLL("a1"), "HTTP/1.1 503 Oh\r\n", ""},
        {"*k/v", POLL("a1"), OK "ETag: b2\r\n", "TRUE"},
        {"*k/v", POLL("b2"), OK "ETag: c3\r\n", "FALSE"}, /* withdrawn */
        {"*k/v", POLL("c3"), NULL, ""},
        {NULL}};
    (void)state;
    script = lines;
    heard.stop_at = 3;
    assert_int_equal(metadata_watch(client, "k/v", on_value, NULL, NULL), 0);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_string_equal(heard.body[0], "FALSE");
    assert_string_equal(heard.body[1], "TRUE");
    assert_string_equal(heard.body[2], "FALSE");
    uv_run(&loop, UV_RUN_NOWAIT);
    assert_int_equal(heard.count, 3);
}

static void test_watch_odd(void **state)
{
    static const struct script lines[] = {
        {"*k/v", NULL, OK "ETag: a b&c\r\n", "1"}, /* no etag that can be sent */
        {"*k/v", POLL("0"), OK "ETag: x/../y\r\n", "2"},
        {"*k/v", POLL("0"), "HTTP/1.1 404 Gone\r\nMetadata-Flavor: Google\r\n", ""},
        {NULL}};
    (void)state;
    script = lines;
    heard.stop_at = 3;
    assert_int_equal(metadata_watch(client, "k/v", on_value, NULL, NULL), 0);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_string_equal(heard.body[1], "2");
    assert_int_equal(heard.r[2], ACCEL_ENOENT);
}

/* ---- the slice ---- */

static struct arena arena;
static unsigned slice_changes;

static void on_slice(void *ctx)
{
    (void)ctx;
    slice_changes++;
    uv_stop(&loop);
}

#define ATTRIBUTE(name) "instance/attributes/" name
#define ABSENT          "HTTP/1.1 404 Not Found\r\nMetadata-Flavor: Google\r\n"

static struct slice *ask(const struct script *lines)
{
    script = lines;
    slice_changes = 0;
    setenv("GCE_METADATA_HOST", host, 1);
    struct slice *s = slice_create(&loop, on_slice, NULL);
    assert_false(slice_is_known(s));
    assert_null(slice_describe(s, &arena));
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(slice_changes, 1);
    assert_true(slice_is_known(s));
    return s;
}

static void test_slice(void **state)
{
    static const struct script lines[] = {
        {ATTRIBUTE("tpu-env"), NULL, OK,
         "ACCELERATOR_TYPE: 'v4-16'\r\nALT: 'false'\nCHIPS_PER_HOST_BOUNDS: '2,2,1'\n"
         "HOST_BOUNDS: '1,1,2'\nNODE_ID: 'my-tpu'\n TOPOLOGY: \"2x2x2\"\nWORKER_ID: '0'\n"
         "WRAP: 'false,false,false'\nZONE: us-central2-b"},
        {ATTRIBUTE("agent-worker-number"), NULL, OK, "1\n"},
        {ATTRIBUTE("worker-network-endpoints"), NULL, OK, "unknown:u:10.0.0.1,unknown:v:10.0.0.2"},
        {ATTRIBUTE("accelerator-type"), NULL, OK, "v4-16"},
        {NULL}};
    (void)state;
    arena_init(&arena);
    struct slice *s = ask(lines);
    Accel__V1__Slice *d = slice_describe(s, &arena);
    assert_string_equal(d->name, "us-central2-b/my-tpu");
    assert_int_equal(d->nodes, 2);
    assert_int_equal(d->worker, 1);
    assert_string_equal(d->accelerator, "v4-16");
    assert_string_equal(d->topology, "2x2x2");
    struct tpu_host h = slice_host(s, 4, "TPU v4");
    assert_string_equal(h.host_bounds, "1,1,2");
    assert_string_equal(h.wrap, "false,false,false");
    assert_false(h.has_megascale);
    assert_string_equal(slice_note(s), "");
    slice_destroy(s);
    arena_done(&arena);
}

static void test_slice_sparse(void **state)
{
    static const struct script lines[] = {
        {ATTRIBUTE("tpu-env"), NULL, OK,
         "MEGASCALE_COORDINATOR_ADDRESS: '10.9.9.9'\nMEGASCALE_NUM_SLICES: '2'\n"},
        {ATTRIBUTE("agent-worker-number"), NULL, OK, "2"},
        {ATTRIBUTE("worker-network-endpoints"), NULL, OK, "10.0.0.7,10.0.0.8,10.0.0.9"},
        {ATTRIBUTE("accelerator-type"), NULL, OK, "v2-32"},
        {NULL}};
    (void)state;
    arena_init(&arena);
    struct slice *s = ask(lines);
    Accel__V1__Slice *d = slice_describe(s, &arena);
    assert_string_equal(d->name, "slice-of-10.0.0.7");
    assert_int_equal(d->nodes, 3);
    assert_int_equal(d->worker, 2);
    struct tpu_host h = slice_host(s, 4, "TPU v3"); /* they share a PCI id */
    assert_int_equal(h.generation, TPU_V2);
    assert_true(h.has_megascale);
    slice_destroy(s);
    arena_done(&arena);
}

/* A silent server is none, but on a machine of Google it is waited for. */
static void test_slice_waits(void **state)
{
    static const struct script lines[] = {
        {ATTRIBUTE("tpu-env"), NULL, OK, "NODE_ID: 'n'\n"}, {"instance", NULL, ABSENT, ""}, {NULL}};
    char root[] = "/tmp/accel-dmi-XXXXXX", dir[64] = "", path[96];
    (void)state;
    arena_init(&arena);
    assert_non_null(mkdtemp(root));
    setenv("ACCEL_SYSFS_ROOT", root, 1);
    hang_ups = METADATA_CONNECTS * 4; /* four questions */
    struct slice *s = ask(lines);
    assert_null(slice_describe(s, &arena));
    slice_destroy(s);
    for (const char *const *part = (const char *const[]){"/class", "/dmi", "/id", NULL}; *part;
         part++) {
        snprintf(dir + strlen(dir), sizeof(dir) - strlen(dir), "%s%s", dir[0] ? "" : root, *part);
        assert_int_equal(mkdir(dir, 0755), 0);
    }
    snprintf(path, sizeof(path), "%s/product_name", dir);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs("Google Compute Engine\n", f);
    assert_int_equal(fclose(f), 0);
    server_requests = 0;
    s = ask(lines);
    assert_string_equal(slice_describe(s, &arena)->name, "n");
    slice_destroy(s);
    assert_int_equal(unlink(path), 0);
    for (char *slash; (slash = strrchr(dir, '/')) != dir + 4; *slash = 0)
        assert_int_equal(rmdir(dir), 0);
    assert_int_equal(rmdir(root), 0);
    unsetenv("ACCEL_SYSFS_ROOT");
    arena_done(&arena);
}

static void test_slice_odd(void **state)
{
    static const struct script no_tpu[] = {{"instance", NULL, ABSENT, ""}, {NULL}};
    static const struct script odd[] = {
        {ATTRIBUTE("tpu-env"), NULL, OK, "NODE_ID: 'n'\nWORKER_ID: '9'\nnonsense\n:\n"},
        {ATTRIBUTE("agent-worker-number"), NULL, ABSENT, ""},
        {ATTRIBUTE("worker-network-endpoints"), NULL, OK, "a:b:10.0.0.1"},
        {ATTRIBUTE("accelerator-type"), NULL, "HTTP/1.1 403 No\r\n", ""},
        {NULL}};
    (void)state;
    arena_init(&arena);
    struct slice *s = ask(no_tpu);
    assert_null(slice_describe(s, &arena));
    assert_int_equal(slice_host(s, 4, "TPU v5e").generation, TPU_V5E);
    slice_destroy(s);
    s = ask(odd);
    assert_int_equal(slice_describe(s, &arena)->nodes, 1);
    assert_int_equal(slice_describe(s, &arena)->worker, 0);
    assert_non_null(strstr(slice_note(s), "worker 9 of 1"));
    slice_destroy(s);
    arena_done(&arena);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_get),          TEST(test_put_off),   TEST(test_too_long),    TEST(test_nobody),
        TEST(test_destroyed),    TEST(test_watch),     TEST(test_watch_odd),   TEST(test_slice),
        TEST(test_slice_sparse), TEST(test_slice_odd), TEST(test_slice_waits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
