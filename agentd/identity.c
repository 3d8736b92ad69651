/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The rules by which accel-spawn takes the identity of a job from acceld. Neighbour: spawn.c. The
 * files are read as text: a static program has no name service, and this is to be independent of
 * it. Must not decide who a user is, only whom this node never becomes.
 */
#include "agentd/identity.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <string.h>
#include <unistd.h>

#include "common/path.h"
#include "common/str.h"

#define ACCOUNT_FILE_BYTES (8u << 20) /* /etc/group of a large site; larger proves nothing */

static char *read_accounts(const char *path)
{
    char *text = NULL;
    size_t len;
    int r = path_read_all(AT_FDCWD, path, ACCOUNT_FILE_BYTES, &text, &len, NULL);
    return r == 0 ? text : NULL;
}

/* Splits a line at its colons; the number of fields. */
static size_t split(char *line, char **fields, size_t max)
{
    size_t n = 0;
    while (n < max && line != NULL) {
        fields[n++] = strsep(&line, ":");
    }
    return n;
}

/* The line of /etc/passwd with this uid: its name ("" if there is none) and its group. */
static void find_account(uid_t uid, char *name, size_t size, uint64_t *gid)
{
    AUTO_FREE char *text = read_accounts("/etc/passwd");
    char *rest = text;
    char *line;
    name[0] = '\0';
    *gid = UINT64_MAX;
    while (rest != NULL && (line = strsep(&rest, "\n")) != NULL) {
        char *f[4];
        uint64_t found;
        if (split(line, f, 4) == 4 && parse_u64(f[2], 0, UINT32_MAX, &found) == 0 && found == uid &&
            parse_u64(f[3], 0, UINT32_MAX, gid) == 0) {
            str_copy(name, size, f[0]);
            return;
        }
    }
}

/* Whether the text of /etc/group (changed here) has the user in this group. */
static bool is_member(const char *groups, gid_t gid, const char *name)
{
    AUTO_FREE char *text = groups != NULL ? xstrdup(groups) : NULL;
    char *rest = text;
    char *line;
    while (rest != NULL && name[0] != '\0' && (line = strsep(&rest, "\n")) != NULL) {
        char *f[4];
        uint64_t found;
        if (split(line, f, 4) != 4 || parse_u64(f[2], 0, UINT32_MAX, &found) < 0 || found != gid) {
            continue;
        }
        char *members = f[3];
        char *member;
        while ((member = strsep(&members, ",")) != NULL) {
            if (strcmp(member, name) == 0) {
                return true;
            }
        }
    }
    return false;
}

static int refuse(struct accel_error *err, const char *what, unsigned number, const char *why)
{
    error_set(err, ACCEL_EPERM, "this node runs no job as %s %u: %s", what, number, why);
    err->sys = EPERM;
    return ACCEL_EPERM;
}

static int check_own(const struct identity_rules *rules, const Accel__V1__AttemptSpec *spec,
                     struct accel_error *err)
{
    if (rules->is_switching || spec->uid == geteuid()) {
        return 0;
    }
    if (spec->uid == UINT32_MAX) /* acceld was not asked who that is */
        error_set(err, ACCEL_EPERM, "this node runs jobs of user id %u only, not of user %s",
                  (unsigned)geteuid(), spec->user[0] ? spec->user : "unknown");
    else
        error_set(err, ACCEL_EPERM, "this node runs jobs of user id %u only, not of user id %u",
                  (unsigned)geteuid(), spec->uid);
    err->sys = EPERM;
    return ACCEL_EPERM;
}

static int check_numbers(const struct identity_rules *rules, const Accel__V1__AttemptSpec *spec,
                         struct accel_error *err)
{
    if (spec->uid == 0 || spec->uid == UINT32_MAX) {
        return refuse(err, "user id", spec->uid, "never");
    }
    if (spec->uid == rules->agent_uid) {
        return refuse(err, "user id", spec->uid, "it is acceld's own");
    }
    if (spec->uid < rules->min_uid) {
        return refuse(err, "user id", spec->uid, "it is below --min-uid");
    }
    if (spec->gid == 0 || spec->gid == UINT32_MAX || spec->gid == rules->agent_gid) {
        return refuse(err, "group id", spec->gid, "never");
    }
    if (spec->n_groups > IDENTITY_GROUPS_MAX) {
        return refuse(err, "user id", spec->uid, "it has too many groups");
    }
    return 0;
}

int identity_check(const struct identity_rules *rules, const Accel__V1__AttemptSpec *spec,
                   struct identity *ret_identity, struct accel_error *err)
{
    char name[256];
    uint64_t own_gid;
    struct identity id = {.is_switched = true, .uid = spec->uid, .gid = spec->gid};
    int r = check_own(rules, spec, err);
    if (r < 0 || !rules->is_switching) {
        *ret_identity = (struct identity){0};
        return r;
    }
    r = check_numbers(rules, spec, err);
    if (r < 0) {
        return r;
    }
    find_account(spec->uid, name, sizeof(name), &own_gid);
    if (name[0] == '\0') { /* of LDAP or the like: the name that acceld has looked up */
        str_copy(name, sizeof(name), spec->user);
    }
    AUTO_FREE char *groups = read_accounts("/etc/group");
    if (spec->gid < rules->min_uid && spec->gid != own_gid && !is_member(groups, spec->gid, name)) {
        return refuse(err, "group id", spec->gid, "it is the system's and not this user's");
    }
    id.groups = xcalloc(spec->n_groups + 1, sizeof(*id.groups));
    for (size_t i = 0; i < spec->n_groups; i++) {
        gid_t g = spec->groups[i];
        bool is_given = g != 0 && g != UINT32_MAX && g != rules->agent_gid &&
                        (g >= rules->min_uid || g == own_gid || is_member(groups, g, name));
        if (is_given) {
            id.groups[id.group_count++] = g;
        } else {
            id.dropped++;
        }
    }
    *ret_identity = id;
    return 0;
}

void identity_done(struct identity *id)
{
    free(id->groups);
    *id = (struct identity){0};
}

int identity_switch(const struct identity *id)
{
    if (setgroups(id->group_count, id->groups) < 0 || setresgid(id->gid, id->gid, id->gid) < 0 ||
        setresuid(id->uid, id->uid, id->uid) < 0) {
        return -errno;
    }
    /* The kernel has no half ways here, but to go on as root would be the worst of all ends. */
    if (getuid() != id->uid || geteuid() != id->uid || setuid(0) == 0) {
        return -EPERM;
    }
    return 0;
}
