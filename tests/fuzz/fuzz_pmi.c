/* SPDX-License-Identifier: Apache-2.0 */
/*
 * PMI-1 from ranks that say anything: two ranks of one node, then the same bytes as what other
 * nodes gave to an exchange. Output stays in proportion, a barrier opens only when all are in it,
 * what was put can be got.
 */
#include "fuzz.h"

#include <string.h>

#include "agentd/pmi.h"
#include "common/limits.h"

static const char probe[] =
    "cmd=put kvsname=kvs key=probe value=42\ncmd=get kvsname=kvs key=probe\n";

static void check_ranks(uint32_t nodes, const uint8_t *p, size_t len)
{
    struct pmi_config config = {
        .world_size = 2 * nodes, .local_size = 2, .node_count = nodes, .kvsname = "kvs"};
    struct pmi *pmi = pmi_create(&config);
    const void *given;
    size_t given_len, half = len / 2;
    bool is_open = true;
    for (size_t at = 0; at < half && is_open; at += 7) { /* in odd pieces */
        is_open = pmi_feed(pmi, 0, p + at, MIN((size_t)7, half - at)) == 0;
        CHECK(pmi_output(pmi, 0)->len <= (at + 8) * (PMI_VALUE_BYTES + 64));
    }
    if (!is_open) {
        pmi_closed(pmi, 0);
        CHECK(pmi_output(pmi, 0)->len == 0);
    }
    if (pmi_feed(pmi, 1, p + half, len - half) < 0)
        pmi_closed(pmi, 1);
    uint32_t number = pmi_fence(pmi);
    CHECK(nodes > 1 || number == 0);
    CHECK(!number || pmi_fence_given(pmi, number, &given, &given_len));
    CHECK(!number || given_len <= LIMIT_FENCE_BYTES);
    if (number)
        pmi_fence_done(pmi, number, p, len);
    CHECK(pmi_fence(pmi) == 0 || !number);
    pmi_destroy(pmi);
}

static void check_probe(const uint8_t *p, size_t len)
{
    struct pmi_config config = {
        .world_size = 1, .local_size = 1, .node_count = 1, .kvsname = "kvs"};
    struct pmi *pmi = pmi_create(&config);
    if (pmi_feed(pmi, 0, p, len) == 0 && pmi_feed(pmi, 0, "\nendcmd\n", 8) == 0) {
        str_clear(pmi_output(pmi, 0));
        CHECK(pmi_feed(pmi, 0, probe, sizeof(probe) - 1) == 0);
        CHECK(strstr(pmi_output(pmi, 0)->data, "value=42\n"));
    }
    pmi_destroy(pmi);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    check_ranks(1, data, size);
    check_ranks(2, data, size);
    check_probe(data, size);
    return 0;
}

bool fuzz_corpus(size_t i, struct str *out)
{
    static const char *const texts[] = {
        "cmd=init pmi_version=1 pmi_subversion=1\ncmd=get_maxes\ncmd=get_my_kvsname\n",
        "cmd=put kvsname=kvs key=a value=b\ncmd=barrier_in\ncmd=get kvsname=kvs key=a\n",
        "cmd=barrier_in\ncmd=barrier_in\n",
        "mcmd=spawn\nnprocs=1\nendcmd\ncmd=finalize\n",
        "a=b\nc=d\n",
        probe,
    };
    if (i >= ARRAY_LEN(texts))
        return false;
    str_adds(out, texts[i]);
    return true;
}
