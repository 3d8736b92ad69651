/* SPDX-License-Identifier: Apache-2.0 */
/*
 * coord_trust.h - who belongs to the cluster, inside the core: certificates, tokens of enrolment,
 * roles of users, and what was refused. Shared by coord_trust.c (the tables) and
 * coord_trust_calls.c (the service Trust) and those who refuse. See coord.h for what the shell
 * sees.
 */
#ifndef ACCEL_SCHEDULER_COORD_TRUST_H
#define ACCEL_SCHEDULER_COORD_TRUST_H

#include "accel/v1/trust.pb-c.h"
#include "common/hash.h"
#include "common/pki.h"
#include "scheduler/coord_internal.h"

struct certificate {
    char serial[PKI_SERIAL_BYTES];
    uint8_t kind; /* enum pki_kind */
    char name[LIMIT_NAME_BYTES + 1];
    int64_t not_after_ms, revoked_ms; /* 0: not revoked */
    UT_hash_handle hh;
};

struct token {
    uint8_t hash[PKI_HASH_BYTES];
    int64_t expires_ms, used_ms; /* 0: not used */
    char by[LIMIT_NAME_BYTES + 1];
    UT_hash_handle hh;
};

struct trust {
    uint8_t seal_key[HASH_BYTES];
    bool has_seal_key;
    struct certificate *certificates;
    struct token *tokens;
    uint64_t refused[COORD_REFUSAL_COUNT];
    int64_t window_ms; /* of the events of refusals; core's clock */
    uint32_t window_count, untold;
};

struct trust *trust_create(void);
void trust_destroy(struct trust *t);
void trust_load(struct coord *c, const struct record *rec);

/* Counts; and keeps an event and a line of the log, unless there were many in this minute. The text
 * is one sentence that says who and what. */
void trust_refuse(struct coord *c, enum coord_refusal kind, const char *fmt, ...) PRINTF_LIKE(3, 4);
/* What an honest agent never says: an attempt that is not its node's, or never was. */
bool trust_is_forged(const struct coord *c, const struct node *n, const Accel__V1__AttemptRef *ref);
/* Counts it. Nothing else comes of it: what is said of an attempt counts only from the nodes that
 * carry it. */
void trust_watch(struct coord *c, const struct node *n, const Accel__V1__AgentUp *up);
/* What Welcome says with era and epoch, so that the node can prove it: HMAC (RFC 2104) with SHA-256
 * under the key of coord_set_seal_key(). False: there is none. */
bool trust_seal(const struct coord *c, uint64_t era, uint64_t epoch, uint8_t ret_seal[HASH_BYTES]);
/* "user bob", "node n1", "uid 71 (bob)": in the arena of the step. */
const char *trust_who(struct coord *c, const struct rpc_identity *who);

struct certificate *certificate_find(const struct coord *c, const char *serial);
bool certificate_is_live(const struct certificate *cert, int64_t wall_ms);
/* Keeps it; of one holder's beyond LIMIT_CERTIFICATES_EACH the one that ends first goes. */
void certificate_add(struct coord *c, const char *serial, enum pki_kind kind, const char *name,
                     int64_t not_after_ms);
/* All live ones of the holder; their open calls end. Returns how many. */
uint32_t certificates_revoke(struct coord *c, enum pki_kind kind, const char *name);
uint32_t certificates_count(const struct coord *c, enum pki_kind kind, const char *name,
                            int64_t *ret_not_after_ms);
/* The next node, after that of `before` (NULL: the first), that has enrolled and has never said
 * Hello: nobody knows yet what it has. */
const struct certificate *trust_next_unheard(const struct coord *c,
                                             const struct certificate *before);
struct token *token_find(const struct coord *c, const uint8_t *hash);
void token_mark(struct coord *c, const struct token *t, bool is_delete);
/* What has expired goes, with its rows. */
void trust_sweep(struct coord *c);
/* The row of a user, made if there is none; role NONE leaves an existing one. NULL: LIMIT_USERS. */
struct user *user_enter(struct coord *c, const char *name, Accel__V1__UserRole role);

/* His role was lowered: what he has open of other people's ends. */
void user_calls_recheck(struct coord *c, const struct user *u);

/* coord_trust_calls.c */
void call_trust(struct coord *c, const struct coord_event *ev);

#endif
