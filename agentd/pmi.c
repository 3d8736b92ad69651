/* SPDX-License-Identifier: Apache-2.0 */
/*
 * PMI-1 for the ranks of one attempt on one node: lines, the key-value space and the barrier. Pure:
 * no descriptor is touched here. Neighbour: shim_pmi.c, which carries the bytes. Everything that
 * comes in is from a job's own processes, here or on other nodes, and may be anything.
 */
#include "agentd/pmi.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define uthash_fatal(msg) base_check_failed(msg, __FILE__, __LINE__)
#include <uthash.h>

#include "common/error.h"
#include "common/limits.h"

#define KVSNAME_BYTES 64

struct pair {
    char *value;
    UT_hash_handle hh;
    char key[PMI_KEY_BYTES];
};

struct pmi_rank {
    struct str in, out;
    bool is_in_barrier, is_closed;
    bool is_multiline; /* inside mcmd= ... endcmd */
};

struct pmi {
    uint32_t world_size, local_size, node_count;
    char kvsname[KVSNAME_BYTES];
    struct pmi_rank *ranks;
    uint32_t waiting; /* ranks in the barrier */
    uint32_t closed;  /* ranks that will never be in one again */
    struct pair *pairs;
    size_t bytes;        /* of keys and values in pairs */
    struct str fresh;    /* "key=value\n" put here since the last exchange began */
    struct str given[2]; /* the same of the exchange on its way and the one before, by number */
    uint32_t number;     /* of that exchange; 0: none */
    uint32_t done;       /* exchanges that are over */
};

/* ---- the key-value space ---- */

static bool is_word(const char *text, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if ((unsigned char)text[i] <= ' ' || text[i] == 127)
            return false;
    }
    return len > 0;
}

static bool kvs_set(struct pmi *p, const char *key, size_t key_len, const char *value,
                    size_t value_len)
{
    struct pair *pair = NULL;
    size_t old = 0;
    if (key_len >= PMI_KEY_BYTES || value_len > PMI_VALUE_BYTES || !is_word(key, key_len) ||
        memchr(key, '=', key_len) || memchr(value, '\n', value_len) || memchr(value, 0, value_len))
        return false;
    HASH_FIND(hh, p->pairs, key, key_len, pair);
    if (pair)
        old = key_len + strlen(pair->value);
    if (p->bytes - old + key_len + value_len > PMI_KVS_BYTES)
        return false;
    if (!pair) {
        pair = xcalloc(1, sizeof(*pair));
        memcpy(pair->key, key, key_len);
        HASH_ADD(hh, p->pairs, key, key_len, pair);
    }
    free(pair->value);
    pair->value = xcalloc(value_len + 1, 1);
    memcpy(pair->value, value, value_len);
    p->bytes += key_len + value_len - old;
    return true;
}

static const char *kvs_get(const struct pmi *p, const char *key, size_t key_len)
{
    struct pair *pair = NULL;
    HASH_FIND(hh, p->pairs, key, key_len, pair);
    return pair ? pair->value : NULL;
}

/* ---- life ---- */

struct pmi *pmi_create(const struct pmi_config *config)
{
    char mapping[64];
    struct pmi *p = xcalloc(1, sizeof(*p));
    CHECK(config->local_size > 0 && config->node_count > 0);
    p->world_size = config->world_size;
    p->local_size = config->local_size;
    p->node_count = config->node_count;
    CHECK(str_copy(p->kvsname, sizeof(p->kvsname), config->kvsname));
    p->ranks = xcalloc(p->local_size, sizeof(*p->ranks));
    for (uint32_t i = 0; i < p->local_size; i++) {
        str_init(&p->ranks[i].in);
        str_init(&p->ranks[i].out);
    }
    str_init(&p->fresh);
    str_init(&p->given[0]);
    str_init(&p->given[1]);
    /* Which ranks share memory: blocks of equal size, as ours always are. */
    snprintf(mapping, sizeof(mapping), "(vector,(0,%" PRIu32 ",%" PRIu32 "))", p->node_count,
             p->local_size);
    CHECK(
        kvs_set(p, "PMI_process_mapping", strlen("PMI_process_mapping"), mapping, strlen(mapping)));
    return p;
}

void pmi_destroy(struct pmi *p)
{
    struct pair *pair, *next;
    if (!p)
        return;
    HASH_ITER(hh, p->pairs, pair, next) {
        HASH_DEL(p->pairs, pair);
        free(pair->value);
        free(pair);
    }
    for (uint32_t i = 0; i < p->local_size; i++) {
        str_done(&p->ranks[i].in);
        str_done(&p->ranks[i].out);
    }
    str_done(&p->fresh);
    str_done(&p->given[0]);
    str_done(&p->given[1]);
    free(p->ranks);
    free(p);
}

struct str *pmi_output(struct pmi *p, uint32_t i)
{
    CHECK(i < p->local_size);
    return &p->ranks[i].out;
}

void pmi_closed(struct pmi *p, uint32_t i)
{
    CHECK(i < p->local_size);
    p->closed += !p->ranks[i].is_closed;
    p->ranks[i].is_closed = true;
    str_clear(&p->ranks[i].in);
    str_clear(&p->ranks[i].out);
}

bool pmi_is_stuck(const struct pmi *p, uint32_t i)
{
    CHECK(i < p->local_size);
    return p->closed > 0 && p->waiting < p->local_size && p->ranks[i].is_in_barrier &&
           !p->ranks[i].is_closed;
}

/* ---- the barrier ---- */

static void say(struct pmi_rank *k, const char *fmt, ...) PRINTF_LIKE(2, 3);

static void say(struct pmi_rank *k, const char *fmt, ...)
{
    va_list args;
    if (k->is_closed)
        return;
    va_start(args, fmt);
    str_addv(&k->out, fmt, args);
    va_end(args);
    str_addc(&k->out, '\n');
}

static void release(struct pmi *p)
{
    for (uint32_t i = 0; i < p->local_size; i++) {
        p->ranks[i].is_in_barrier = false;
        say(&p->ranks[i], "cmd=barrier_out rc=0");
    }
    p->waiting = 0;
}

static void on_barrier(struct pmi *p, struct pmi_rank *k)
{
    if (k->is_in_barrier)
        return; /* it is answered once */
    k->is_in_barrier = true;
    if (++p->waiting < p->local_size)
        return;
    if (p->node_count == 1) {
        str_clear(&p->fresh);
        release(p);
        return;
    }
    p->number = p->done + 1;
    struct str *given = &p->given[p->number % 2];
    str_clear(given);
    str_add(given, p->fresh.data, p->fresh.len);
    str_clear(&p->fresh);
}

uint32_t pmi_fence(const struct pmi *p)
{
    return p->number;
}

bool pmi_fence_given(const struct pmi *p, uint32_t number, const void **ret_data, size_t *ret_len)
{
    if (number == 0 || (number != p->number && number != p->done))
        return false;
    *ret_data = p->given[number % 2].data;
    *ret_len = p->given[number % 2].len;
    return true;
}

void pmi_fence_done(struct pmi *p, uint32_t number, const void *data, size_t len)
{
    const char *at = data, *end = at + len;
    if (number == 0 || number != p->number)
        return;
    while (at < end) {
        const char *line_end = memchr(at, '\n', (size_t)(end - at));
        if (!line_end)
            line_end = end;
        const char *eq = memchr(at, '=', (size_t)(line_end - at));
        if (eq)
            (void)kvs_set(p, at, (size_t)(eq - at), eq + 1, (size_t)(line_end - eq - 1));
        at = line_end + (line_end < end);
    }
    p->done = number;
    p->number = 0;
    release(p);
}

/* ---- commands ---- */

/* A field of a command line: NAME=VALUE, between blanks. */
struct field {
    const char *text;
    size_t len;
};

static struct field find_field(const char *line, const char *name)
{
    size_t name_len = strlen(name);
    for (const char *at = line; *at;) {
        at += strspn(at, " ");
        size_t len = strcspn(at, " ");
        if (len > name_len && memcmp(at, name, name_len) == 0 && at[name_len] == '=')
            return (struct field){at + name_len + 1, len - name_len - 1};
        at += len;
    }
    return (struct field){NULL, 0};
}

static bool is_ours(const struct pmi *p, struct field kvsname)
{
    return kvsname.text && kvsname.len == strlen(p->kvsname) &&
           memcmp(kvsname.text, p->kvsname, kvsname.len) == 0;
}

static void on_put(struct pmi *p, struct pmi_rank *k, const char *line)
{
    struct field key = find_field(line, "key"), value = find_field(line, "value");
    size_t size = key.len + value.len + 2;
    if (!is_ours(p, find_field(line, "kvsname")) || !key.text || !value.text) {
        say(k, "cmd=put_result rc=-1 msg=not_understood");
    } else if (p->node_count > 1 && p->fresh.len + size > LIMIT_FENCE_BYTES) {
        say(k, "cmd=put_result rc=-1 msg=more_than_%u_bytes_put_before_one_barrier",
            LIMIT_FENCE_BYTES);
    } else if (!kvs_set(p, key.text, key.len, value.text, value.len)) {
        say(k, "cmd=put_result rc=-1 msg=too_long_or_no_room");
    } else {
        if (p->node_count > 1)
            str_addf(&p->fresh, "%.*s=%.*s\n", (int)key.len, key.text, (int)value.len, value.text);
        say(k, "cmd=put_result rc=0 msg=success");
    }
}

static void on_get(struct pmi *p, struct pmi_rank *k, const char *line)
{
    struct field key = find_field(line, "key");
    const char *value = NULL;
    if (is_ours(p, find_field(line, "kvsname")) && key.text && key.len < PMI_KEY_BYTES)
        value = kvs_get(p, key.text, key.len);
    if (value)
        say(k, "cmd=get_result rc=0 msg=success value=%s", value);
    else
        say(k, "cmd=get_result rc=-1 msg=key_not_found value=unknown");
}

static void on_maxes(struct pmi *p, struct pmi_rank *k, const char *line)
{
    say(k, "cmd=maxes rc=0 kvsname_max=%d keylen_max=%u vallen_max=%u", KVSNAME_BYTES,
        PMI_KEY_BYTES, PMI_VALUE_BYTES);
}

static void on_init(struct pmi *p, struct pmi_rank *k, const char *line)
{
    struct field version = find_field(line, "pmi_version");
    bool is_known = version.len == 1 && version.text[0] == '1';
    say(k, "cmd=response_to_init pmi_version=1 pmi_subversion=1 rc=%d", is_known ? 0 : -1);
}

static void on_barrier_in(struct pmi *p, struct pmi_rank *k, const char *line)
{
    on_barrier(p, k);
}

static void on_finalize(struct pmi *p, struct pmi_rank *k, const char *line)
{
    say(k, "cmd=finalize_ack rc=0");
}

static void on_kvsname(struct pmi *p, struct pmi_rank *k, const char *line)
{
    say(k, "cmd=my_kvsname rc=0 kvsname=%s", p->kvsname);
}

static void on_universe(struct pmi *p, struct pmi_rank *k, const char *line)
{
    say(k, "cmd=universe_size rc=0 size=%" PRIu32, p->world_size);
}

static void on_appnum(struct pmi *p, struct pmi_rank *k, const char *line)
{
    say(k, "cmd=appnum rc=0 appnum=0");
}

static void on_spawn(struct pmi *p, struct pmi_rank *k, const char *line)
{
    say(k, "cmd=spawn_result rc=-1 msg=a_gang_has_the_size_it_was_launched_with");
}

static void on_publish(struct pmi *p, struct pmi_rank *k, const char *line)
{
    say(k, "cmd=publish_result rc=-1 info=no_name_service msg=no_name_service");
}

static void on_unpublish(struct pmi *p, struct pmi_rank *k, const char *line)
{
    say(k, "cmd=unpublish_result rc=-1 info=no_name_service msg=no_name_service");
}

static void on_lookup(struct pmi *p, struct pmi_rank *k, const char *line)
{
    say(k, "cmd=lookup_result rc=-1 info=no_name_service msg=no_name_service");
}

static void on_abort(struct pmi *p, struct pmi_rank *k, const char *line)
{
    /* It exits with that code next, and the end of a rank is told by the kernel. */
}

static const struct command {
    const char *name;
    void (*run)(struct pmi *p, struct pmi_rank *k, const char *line);
} commands[] = {
    {"init", on_init},
    {"get_maxes", on_maxes},
    {"get_appnum", on_appnum},
    {"get_my_kvsname", on_kvsname},
    {"get_universe_size", on_universe},
    {"put", on_put},
    {"get", on_get},
    {"barrier_in", on_barrier_in},
    {"finalize", on_finalize},
    {"abort", on_abort},
    {"publish_name", on_publish},
    {"unpublish_name", on_unpublish},
    {"lookup_name", on_lookup},
};

static int obey(struct pmi *p, struct pmi_rank *k, const char *line)
{
    struct field cmd = find_field(line, "cmd");
    if (k->is_multiline) {
        if (strcmp(line, "endcmd") == 0) {
            k->is_multiline = false;
            on_spawn(p, k, line);
        }
        return 0;
    }
    if (strncmp(line, "mcmd=", 5) == 0) {
        k->is_multiline = true;
        return 0;
    }
    if (line[0] == '\0' || strcmp(line, "endcmd") == 0)
        return 0;
    if (!cmd.text)
        return ACCEL_EPROTO;
    for (size_t i = 0; i < ARRAY_LEN(commands); i++) {
        if (strlen(commands[i].name) == cmd.len &&
            memcmp(commands[i].name, cmd.text, cmd.len) == 0) {
            commands[i].run(p, k, line);
            return 0;
        }
    }
    say(k, "cmd=%.*s_result rc=-1 msg=not_supported", (int)MIN(cmd.len, (size_t)64), cmd.text);
    return 0;
}

int pmi_feed(struct pmi *p, uint32_t i, const void *data, size_t len)
{
    CHECK(i < p->local_size);
    struct pmi_rank *k = &p->ranks[i];
    size_t at = 0;
    int r = 0;
    if (k->is_closed)
        return ACCEL_EPROTO;
    str_add(&k->in, data, len);
    for (const char *end; r == 0 && (end = memchr(k->in.data + at, '\n', k->in.len - at));) {
        size_t line_len = (size_t)(end - k->in.data) - at;
        if (line_len > PMI_LINE_BYTES || memchr(k->in.data + at, 0, line_len))
            return ACCEL_EPROTO;
        k->in.data[at + line_len] = '\0';
        r = obey(p, k, k->in.data + at);
        at += line_len + 1;
    }
    str_drop_front(&k->in, at);
    return k->in.len > PMI_LINE_BYTES || pmi_is_stuck(p, i) ? ACCEL_EPROTO : r;
}
