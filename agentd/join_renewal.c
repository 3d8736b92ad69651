/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Keeps a node's certificate alive: at 2/3 of its life one call of Trust.Renew over a connection of
 * its own, with the certificate that is still good, for the same key. The session is not touched:
 * uplink.c reads the files again when it connects the next time. It must not end the daemon.
 */
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "accel/v1/trust.pb-c.h"
#include "agentd/join.h"
#include "agentd/join_internal.h"
#include "agentd/tls_files.h"
#include "common/clock.h"
#include "common/limits.h"
#include "common/log.h"
#include "common/loop.h"
#include "common/rpc.h"

#define RETRY_MIN_MS 1000    /* nothing is tried more often */
#define RETRY_MAX_MS 3600000 /* after a failure: a tenth of what is left, at most an hour */
#define EXPIRED_MS   300000  /* too late, but for a clock that is set back */

struct join_renewal {
    uv_loop_t *loop;
    const struct remote_ops *remote;
    struct remote_address address;
    char dir[PATH_MAX];
    struct loop_timer timer;
    struct rpc_channel *channel; /* NULL: no call runs */
    struct tls_files files;      /* of the call */
    unsigned open_handles;       /* timer, channels that are closing */
    bool is_closing;
};

static void handle_closed(struct join_renewal *n)
{
    if (--n->open_handles == 0 && n->is_closing)
        free(n);
}

static void on_channel_closed(void *ctx)
{
    handle_closed(ctx);
}

static void drop_channel(struct join_renewal *n)
{
    if (n->channel)
        rpc_channel_close(n->channel, on_channel_closed, n);
    n->channel = NULL;
    tls_files_done(&n->files);
}

static void arm(struct join_renewal *n, int64_t delay_ms)
{
    loop_timer_set(&n->timer, clock_mono_ms() + MAX(delay_ms, RETRY_MIN_MS));
}

static void arm_retry(struct join_renewal *n)
{
    struct tls_files files = {0};
    struct pki_cert cert;
    int64_t delay_ms = RETRY_MAX_MS;

    if (tls_files_load(n->dir, &files, NULL) == 0 &&
        n->remote->pki->parse(files.cert_pem, &cert, NULL) == 0) {
        int64_t left_ms = cert.end_ms - clock_wall_ms();
        delay_ms = left_ms < 0 ? EXPIRED_MS : MIN(left_ms / 10, delay_ms);
    }
    tls_files_done(&files);
    arm(n, delay_ms);
}

static void failed(struct join_renewal *n, const char *text)
{
    log_error("this node's certificate is not renewed: %s", text);
    drop_channel(n);
    arm_retry(n);
}

static void on_message(void *ctx, const ProtobufCMessage *msg)
{
    struct join_renewal *n = ctx;
    const char *pem = ((const Accel__V1__RenewReply *)msg)->certificate_pem;
    const struct pki_ops *pki = n->remote->pki;
    struct accel_error err = {0};
    struct pki_cert cert;

    if (!n->channel) /* it was given up */
        return;
    int r = pki->match(n->files.key_pem, pem, &err);

    if (r == 0)
        r = pki->verify(n->files.ca_pem, pem, clock_wall_ms(), &err);
    if (r == 0)
        r = pki->parse(pem, &cert, &err);
    if (r == 0)
        r = join_write(n->dir, "node.pem", pem, &err);
    if (r < 0) {
        failed(n, err.text);
        return;
    }
    log_info("this node's certificate is renewed");
    arm(n, pki_renew_ms(&cert) - clock_wall_ms());
}

static void on_end(void *ctx, int code, const char *text)
{
    struct join_renewal *n = ctx;

    if (!n->channel || n->is_closing)
        return;
    if (code < 0)
        failed(n, text);
    else
        drop_channel(n);
}

static int call(struct join_renewal *n, const struct pki_cert *cert, struct accel_error *err)
{
    static const struct rpc_call_handlers handlers = {on_message, on_end};
    Accel__V1__RenewRequest req = ACCEL__V1__RENEW_REQUEST__INIT;
    AUTO_FREE char *csr = NULL;
    uint8_t id[LIMIT_REQUEST_ID_BYTES];
    const struct remote_channel_config config = {
        .host = n->address.host,
        .port = n->address.port,
        .tls = {n->files.ca_pem, n->files.cert_pem, n->files.key_pem}};
    int r = n->remote->pki->make_csr(n->files.key_pem, cert->name, &csr, err);

    if (r == 0)
        r = n->remote->pki->random(id, sizeof(id), err);
    if (r == 0)
        r = n->remote->channel_create(n->loop, &config, &n->channel, err);
    if (r < 0)
        return r;
    n->open_handles++;
    req.request_id = (ProtobufCBinaryData){sizeof(id), id};
    req.csr_pem = csr;
    rpc_channel_call(n->channel, "/accel.v1.Trust/Renew", &req.base,
                     &accel__v1__renew_reply__descriptor, &handlers, n);
    return 0;
}

/* Also the first look at the file: then only the timer is set. */
static void on_due(void *ctx, int64_t late_ms)
{
    struct join_renewal *n = ctx;
    struct accel_error err = {0};
    struct pki_cert cert;
    int r = tls_files_load(n->dir, &n->files, &err);

    (void)late_ms;
    if (r == 0)
        r = n->remote->pki->parse(n->files.cert_pem, &cert, &err);
    if (r == 0 && pki_renew_ms(&cert) > clock_wall_ms()) {
        tls_files_done(&n->files);
        arm(n, pki_renew_ms(&cert) - clock_wall_ms());
        return;
    }
    if (r == 0)
        r = call(n, &cert, &err);
    if (r < 0)
        failed(n, err.text);
}

struct join_renewal *join_renewal_create(uv_loop_t *loop, const char *coordinator,
                                         const struct state *state)
{
    struct remote_address address;
    const struct remote_ops *remote;

    if (strncmp(coordinator, "unix:", 5) == 0 ||
        remote_address_parse(coordinator, &address, NULL) < 0 || remote_load(&remote, NULL) < 0)
        return NULL;
    struct join_renewal *n = xcalloc(1, sizeof(*n));
    n->loop = loop;
    n->remote = remote;
    n->address = address;
    n->open_handles = 1;
    if (join_path(state->dir, "tls", n->dir, NULL) < 0 ||
        loop_timer_init(loop, &n->timer, on_due, n) < 0) {
        free(n);
        return NULL;
    }
    loop_timer_set(&n->timer, clock_mono_ms());
    return n;
}

static void on_timer_closed(uv_handle_t *handle)
{
    handle_closed(CONTAINER_OF((uv_timer_t *)handle, struct join_renewal, timer.uv));
}

void join_renewal_destroy(struct join_renewal *n)
{
    if (!n)
        return;
    n->is_closing = true;
    drop_channel(n);
    loop_timer_close(&n->timer, on_timer_closed);
}
