/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pmi.h - the process manager's side of PMI-1, which MPICH, Intel MPI and MVAPICH speak at the
 * descriptor PMI_FD: lines of "cmd=put kvsname=... key=... value=...". One object serves the ranks
 * of an attempt on this node. Pure: bytes in, bytes out; the shim moves them. Aborts when memory
 * ends.
 *
 * Keys that a rank puts are visible to the others here at once and on other nodes after the next
 * barrier, which on several nodes is one exchange (a "fence") numbered from 1: every node gives
 * what was put since the last one and gets what all have given.
 *
 * Forms: the "simple PMI" client of MPICH (src/pmi/simple) and Hydra's server.
 */
#ifndef ACCEL_AGENTD_PMI_H
#define ACCEL_AGENTD_PMI_H

#include "common/base.h"
#include "common/str.h"

/* Hydra's own; the client's buffers are no larger. */
#define PMI_KEY_BYTES   64u
#define PMI_VALUE_BYTES 1024u
#define PMI_LINE_BYTES  2048u       /* one command; a rank that sends a longer line is cut off */
#define PMI_KVS_BYTES   (16u << 20) /* keys and values known here; above, puts fail (rc=-1) */
#define PMI_RANK_FD     3           /* the descriptor in a rank, and what PMI_FD says */

struct pmi; /* opaque */

struct pmi_config {
    uint32_t world_size, local_size, first_rank, node_count;
    const char *kvsname; /* copied; at most 63 letters without blanks */
};
struct pmi *pmi_create(const struct pmi_config *config);
void pmi_destroy(struct pmi *p);

/* Bytes that the i-th rank of this node has written. May fill the output of any rank. ACCEL_EPROTO:
 * this is no PMI-1; its connection is to be closed, and pmi_closed() called. */
int pmi_feed(struct pmi *p, uint32_t i, const void *data, size_t len);
/* The i-th rank's connection has ended: nothing more is kept for it. A barrier that it is not in
 * can never open: those who are in it are stuck, and who enters it later gets ACCEL_EPROTO. */
void pmi_closed(struct pmi *p, uint32_t i);
/* Its connection is to be closed, so that its MPI library says why it ends. */
bool pmi_is_stuck(const struct pmi *p, uint32_t i);
/* What is to be written to the i-th rank; the caller drops what it has written. */
struct str *pmi_output(struct pmi *p, uint32_t i);

/* The exchange that this node waits for: 0, or its number. */
uint32_t pmi_fence(const struct pmi *p);
/* What this node gave to an exchange: the one it waits for, or the one before, which others may
 * still wait for when what the coordinator knew was lost. Borrowed until the next call that changes
 * p; false for any other number. */
bool pmi_fence_given(const struct pmi *p, uint32_t number, const void **ret_data, size_t *ret_len);
/* What all nodes have given to that exchange: releases the barrier. Other numbers and bytes that
 * are none of ours are ignored. */
void pmi_fence_done(struct pmi *p, uint32_t number, const void *data, size_t len);

#endif
