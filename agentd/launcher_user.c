/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Launches where each job runs as its own user: the name service of this node says who that is,
 * then accel-spawn is asked. Neighbours: identity_lookup.h, launcher_exec.c. Nothing here waits; a
 * job whose user is not known here has never started.
 */
#include <string.h>
#include <unistd.h>

#include "agentd/identity_lookup.h"
#include "agentd/launcher_exec_internal.h"

static void pending_free(struct pending_launch *p)
{
    base_close_fd(&p->fd);
    free(p->spec);
    free(p);
}

static void pending_unlink(struct pending_launch *p)
{
    struct pending_launch **link = &p->l->pending;
    while (*link != p) {
        link = &(*link)->next;
    }
    *link = p->next;
}

static void send_start(struct pending_launch *p, const struct identity_account *account)
{
    Accel__V1__SpawnRequest request = ACCEL__V1__SPAWN_REQUEST__INIT;
    Accel__V1__AttemptSpec *spec = accel__v1__attempt_spec__unpack(&codec_memory, p->len, p->spec);
    CHECK(spec != NULL); /* packed here */
    AUTO_FREE uint32_t *groups = xcalloc(account->group_count + 1, sizeof(*groups));
    for (size_t i = 0; i < account->group_count; i++) {
        groups[i] = account->groups[i];
    }
    spec->uid = account->uid;
    spec->gid = account->gid;
    spec->home = (ProtobufCBinaryData){strlen(account->home), (uint8_t *)account->home};
    spec->groups = groups;
    spec->n_groups = account->group_count;
    request.body_case = ACCEL__V1__SPAWN_REQUEST__BODY_START;
    request.start = spec;
    request_add(p->l, &request, STEAL_FD(p->fd));
    spec->home = (ProtobufCBinaryData){0};
    spec->groups = NULL;
    spec->n_groups = 0;
    accel__v1__attempt_spec__free_unpacked(spec, NULL);
}

static void on_account(void *ctx, const struct identity_account *account,
                       const struct accel_error *err)
{
    struct pending_launch *p = ctx;
    struct launcher_exec *l = p->l;
    struct attempt *a = attempt_find(l, p->id);
    bool is_wanted = a != NULL && a->state == ATTEMPT_LAUNCHING;
    pending_unlink(p);
    if (is_wanted && account != NULL) {
        send_start(p, account);
    } else if (is_wanted) {
        attempt_close(l, a);
        l->cb.on_refused(l->ctx, p->id, err->text);
    }
    pending_free(p);
}

void attempt_launch_as_user(struct launcher_exec *l, const Accel__V1__AttemptSpec *spec, int fd)
{
    struct pending_launch *p = xcalloc(1, sizeof(*p));
    p->l = l;
    p->id = (struct attempt_id){spec->job_id, spec->attempt};
    p->fd = fd;
    p->len = accel__v1__attempt_spec__get_packed_size(spec);
    p->spec = xcalloc(1, p->len + 1);
    accel__v1__attempt_spec__pack(spec, p->spec);
    p->next = l->pending;
    l->pending = p;
    identity_lookup(l->lookups, spec->user, on_account, p);
}

void attempt_forget_pending(struct launcher_exec *l)
{
    while (l->pending != NULL) {
        struct pending_launch *p = l->pending;
        l->pending = p->next;
        pending_free(p);
    }
}
