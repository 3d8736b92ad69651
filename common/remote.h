/* SPDX-License-Identifier: Apache-2.0 */
/*
 * remote.h - the wire between machines (rpc.h over gRPC with mutual TLS) and the cryptography of
 * certificates, both in a module, accel-grpc.so, that only a process that goes remote loads:
 * nobody else links gRPC or libcrypto. No type of either shows here, and the module knows no libuv:
 * it wakes our loop through struct remote_host.
 *
 * Everything is on the loop's thread unless said otherwise; nothing blocks but remote_load (tens of
 * ms, once) and the pki functions. One loop per process at a time may have servers and channels.
 * Addresses are written tcp:HOST:PORT, or HOST:PORT and HOST on command lines; an IPv6 address
 * stands in brackets.
 */
#ifndef ACCEL_COMMON_REMOTE_H
#define ACCEL_COMMON_REMOTE_H

#include <uv.h>

#include "common/rpc.h"

#define REMOTE_ABI          1u /* raised with any change below; module and program are one build */
#define REMOTE_DEFAULT_PORT 7443
/* DNS name in the coordinator's certificate, and what clients check: addresses may change. */
#define REMOTE_SERVER_NAME "accel-coordinator"
/* The URI in a certificate that names its holder: accel://KIND/NAME. */
#define REMOTE_URI_SCHEME "accel://"

/* What gRPC says when it gives up a socket that it listens on; see on_refused. */
#define REMOTE_DEAF "Failed accept"

struct pki_ops; /* common/pki.h */

/* PEM texts, borrowed during the call. A channel without certificate and key (both NULL) can only
 * call methods with RPC_ROLE_NONE. */
struct remote_tls {
    const char *ca_pem, *cert_pem, *key_pem;
};

/* Who calls, from the certificate that the handshake has verified. Without one only `address` is
 * set. */
struct remote_peer {
    bool has_certificate;
    char serial[41];      /* of the certificate: as in struct pki_cert */
    char kind[16];        /* "node", "user", ...; "" when the certificate names nobody as ours do */
    char name[65];        /* same */
    int64_t not_after_ms; /* wall clock */
    bool has_expired;     /* since the handshake */
    char address[64];     /* "ipv4:10.0.0.1:33210": for logs, proves nothing */
};

struct remote_server_config {
    const char *host; /* address to listen on: "0.0.0.0", "[::]", "127.0.0.1"; borrowed */
    uint16_t port;    /* 0: the kernel chooses; see server_port */
    struct remote_tls tls;
    const struct rpc_service *service; /* must outlive the server */
    /* 1..7, unique in the process: the top three bits of the numbers of its calls (rpc_local: 0),
     * so that a number tells its server: remote_call_tag(). */
    unsigned tag;
    /* For every call, also without a certificate: fills *ret_who (zeroed; is_local false) or
     * refuses with an ACCEL_E* and text for the caller. serial is filled in by the transport. A
     * certificate that has expired since the handshake is refused by the transport if not here;
     * who counts refusals refuses it. NULL: a user gets RPC_ROLE_USER, a node RPC_ROLE_NODE, all
     * else NONE. */
    int (*identify)(void *ctx, const struct remote_peer *peer, struct rpc_identity *ret_who,
                    struct accel_error *err);
    /* A handshake failed (another CA, expired, garbage on the port); may be NULL. `text` is what
     * the library says. Rate: at most 64 per turn of the loop. A text that begins with REMOTE_DEAF:
     * a server of this process has closed its socket and accepts nobody any more; make it anew. */
    void (*on_refused)(void *ctx, const char *text);
    void *ctx;
    /* 0: 20 s, 10 s; the latter is also what a handshake may take */
    unsigned keepalive_time_ms, keepalive_timeout_ms;
};

struct remote_channel_config {
    const char *host; /* name or address; borrowed */
    uint16_t port;
    struct remote_tls tls;
    const char *server_name; /* in the server's certificate; NULL: REMOTE_SERVER_NAME */
    /* Once, from the loop: the connection stands, and the server accepts our certificate as one of
     * its authority. May be NULL. */
    void (*on_ready)(void *ctx);
    /* Once, from the loop: the connection could not be made or has ended by itself. All calls have
     * got on_end before: ACCEL_EUNAVAIL with the reason when there never was a connection,
     * ACCEL_ECLOSED when it broke. The channel does not come back: close it, make another. May be
     * NULL. */
    void (*on_lost)(void *ctx);
    void *ctx;
    unsigned keepalive_time_ms, keepalive_timeout_ms; /* 0: 20 s, 10 s */
    unsigned connect_timeout_ms;                      /* 0: 10 s; name, TCP and TLS */
};

struct remote_ops {
    uint32_t abi; /* REMOTE_ABI */
    const struct pki_ops *pki;
    /* Serves; the server is used, paused and stopped by rpc.h. grpc.health.v1 and reflection are
     * served beside config->service, to holders of a certificate that identify accepts.
     * ACCEL_EBUSY: the port is in use; ACCEL_EINVAL: certificate or key are no good. */
    int (*server_create)(uv_loop_t *loop, const struct remote_server_config *config,
                         struct rpc_server **ret_server, struct accel_error *err);
    uint16_t (*server_port)(const struct rpc_server *s);
    size_t (*server_calls)(const struct rpc_server *s); /* open ones */
    /* Ends the open calls of this certificate's holder (from the loop, soon): the handlers get
     * RPC_CLOSED, the caller ACCEL_EPERM. Returns how many. serial as in remote_peer. */
    size_t (*server_drop)(struct rpc_server *s, const char *serial);
    /* New calls get ACCEL_EUNAVAIL, health says NOT_SERVING; open calls go on. */
    void (*server_drain)(struct rpc_server *s);
    /* For handshakes from now on; connections that exist stay as they are. */
    int (*server_set_tls)(struct rpc_server *s, const struct remote_tls *tls,
                          struct accel_error *err);
    /* Starts to connect; calls may be made at once. ACCEL_EINVAL: certificate or key are no good.
     */
    int (*channel_create)(uv_loop_t *loop, const struct remote_channel_config *config,
                          struct rpc_channel **ret_channel, struct accel_error *err);
};

/* What the module needs of the program. The waker's create, close and timer functions are called on
 * the loop's thread, wake on any. on_wake may be called once for several wakes. */
struct remote_host {
    void *(*waker_create)(void *loop, void (*on_wake)(void *ctx), void (*on_due)(void *ctx),
                          void *ctx);
    void (*waker_wake)(void *waker);
    void (*waker_timer)(void *waker, int64_t timeout_ms); /* on_due once; < 0 disarms */
    /* No callback but on_closed after this. */
    void (*waker_close)(void *waker, void (*on_closed)(void *ctx));
    void (*log)(int level, const char *text); /* enum log_level; on the loop's thread */
};
/* The module's one symbol. NULL: another ABI. */
typedef const struct remote_ops *(*remote_open_fn)(uint32_t abi, const struct remote_host *host);
#define REMOTE_OPEN_SYMBOL "accel_remote_open"

/* Loads accel-grpc.so: from beside the executable, EXE_DIR/../lib/accel/, the build tree, or the
 * library directory. Once per process; later calls give the same. Static; never unloaded.
 * ACCEL_ENOENT: it is not installed. */
int remote_load(const struct remote_ops **ret_ops, struct accel_error *err);

/* The tag of the server that a call number is of; 0: rpc_local's. */
static inline unsigned remote_call_tag(uint64_t call)
{
    return (unsigned)(call >> 61);
}

struct remote_address {
    char host[256]; /* without brackets */
    uint16_t port;  /* REMOTE_DEFAULT_PORT when the text names none */
};
/* "tcp:HOST:PORT", "HOST:PORT", "HOST", "[V6]:PORT". ACCEL_EINVAL. Port 0 is accepted. */
int remote_address_parse(const char *text, struct remote_address *ret_address,
                         struct accel_error *err);

#endif
