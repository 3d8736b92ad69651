/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A rank between its birth and execve. It is born like vfork's children: on the shim's memory, with
 * the shim waiting in the kernel until the exec is done or has failed. Copying the shim's pages and
 * faulting them in again cost a fifth of a short job; and what failed is known on return, with no
 * pipe to tell it. The price: an exec that hangs (a program on a file system whose server is gone)
 * keeps the shim from everything else for as long. Opening the program first would hang in the
 * same way, so it is bounded from outside: acceld sweeps an attempt that was stopped and has not
 * told that it started (attempt_bound_stop), and SIGKILL ends the shim in that wait too. Everything
 * is prepared before; the child allocates nothing and touches nothing but itself and its failure.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agentd/identity.h"
#include "agentd/pmi.h"
#include "agentd/shim_child.h"

#define EXIT_FAILED 126 /* what the record says comes from the failure that was told */

/* ---- what execve wants ---- */

/* accel-spawn unpacks a specification so that a NUL follows each field of bytes (spawn.c). */
static char *text_of(const ProtobufCBinaryData *b)
{
    return b->len > 0 ? (char *)b->data : (char *)"";
}

static size_t name_length(const ProtobufCBinaryData *b)
{
    const uint8_t *eq = b->len > 0 ? memchr(b->data, '=', b->len) : NULL;
    return eq != NULL ? (size_t)(eq - b->data) + 1 : b->len;
}

static bool is_overlaid(const ProtobufCBinaryData *common, const Accel__V1__RankSpec *rank)
{
    size_t len = name_length(common);
    if (len == sizeof(SHIM_MARK_NAME) && memcmp(common->data, SHIM_MARK_NAME "=", len) == 0) {
        return true;
    }
    for (size_t i = 0; i < rank->n_env; i++) {
        if (rank->env[i].len >= len && memcmp(rank->env[i].data, common->data, len) == 0) {
            return true;
        }
    }
    return false;
}

static char *find_env(const Accel__V1__AttemptSpec *spec, const char *name)
{
    size_t len = strlen(name);
    for (size_t i = 0; i < spec->n_env; i++) {
        char *text = text_of(&spec->env[i]);
        if (strncmp(text, name, len) == 0 && text[len] == '=') {
            return text + len + 1;
        }
    }
    return NULL;
}

/* HOME of the account here where the one that came along is missing on this node. */
static void add_account(struct child_plan *p)
{
    const struct shim *s = p->shim;
    const char *home = find_env(s->spec, "HOME");
    AUTO_STR struct str text = {0};
    if (!s->start->identity->is_switched || s->spec->home.len == 0 ||
        (home != NULL && access(home, F_OK) == 0)) {
        return;
    }
    str_init(&text);
    str_adds(&text, "HOME=");
    str_add(&text, s->spec->home.data, s->spec->home.len);
    p->home = str_steal(&text);
}

void child_plan_init(struct child_plan *p, const struct shim *s)
{
    const Accel__V1__AttemptSpec *spec = s->spec;
    size_t most = 0;
    AUTO_STR struct str mark = {0};
    *p = (struct child_plan){.shim = s};
    str_init(&mark);
    str_addf(&mark, "%s=%s/%s", SHIM_MARK_NAME, s->start->attempts_dir, s->name);
    p->mark = str_steal(&mark);
    p->argv = xcalloc(spec->n_argv + 1, sizeof(*p->argv));
    for (size_t i = 0; i < spec->n_argv; i++) {
        p->argv[i] = text_of(&spec->argv[i]);
    }
    for (size_t i = 0; i < spec->n_ranks; i++) {
        most = MAX(most, spec->ranks[i]->n_env);
    }
    add_account(p);
    p->env = xcalloc(spec->n_env + most + 3, sizeof(*p->env));
}

void child_plan_done(struct child_plan *p)
{
    free(p->argv);
    free(p->env);
    free(p->mark);
    free(p->home);
}

static void build_env(struct child_plan *p, const Accel__V1__RankSpec *rank)
{
    const Accel__V1__AttemptSpec *spec = p->shim->spec;
    size_t n = 0;
    p->env[n++] = p->mark;
    for (size_t i = 0; i < spec->n_env; i++) {
        bool is_home = p->home != NULL && strncmp(text_of(&spec->env[i]), "HOME=", 5) == 0;
        if (!is_home && !is_overlaid(&spec->env[i], rank)) {
            p->env[n++] = text_of(&spec->env[i]);
        }
    }
    for (size_t i = 0; i < rank->n_env; i++) {
        p->env[n++] = text_of(&rank->env[i]);
    }
    if (p->home != NULL) {
        p->env[n++] = p->home;
    }
    p->env[n] = NULL;
}

/* ---- the child ---- */

struct child {
    const struct child_plan *plan;
    const struct child_pipes *pipes;
    struct child_failure failure;
};

_Noreturn static void child_fail(struct child *c, enum child_step step)
{
    c->failure = (struct child_failure){.step = step, .sys = errno};
    _exit(EXIT_FAILED);
}

/* A limit above what this process may set is cut to what it may: a caller with more rights than the
 * daemon must not make the job fail. */
static void set_limits(const struct shim *s)
{
    const struct rlimit nofile = s->start->nofile;
    setrlimit(RLIMIT_NOFILE, &nofile);
    for (size_t i = 0; i < s->spec->n_rlimits; i++) {
        const Accel__V1__Rlimit *want = s->spec->rlimits[i];
        struct rlimit now;
        struct rlimit l = {.rlim_cur = want->soft, .rlim_max = want->hard};
        if (setrlimit((__rlimit_resource_t)want->resource, &l) == 0 ||
            getrlimit((__rlimit_resource_t)want->resource, &now) < 0) {
            continue;
        }
        l.rlim_max = MIN(l.rlim_max, now.rlim_max);
        l.rlim_cur = MIN(l.rlim_cur, l.rlim_max);
        setrlimit((__rlimit_resource_t)want->resource, &l);
    }
}

static void child_run(void *arg)
{
    struct child *c = arg;
    const struct shim *s = c->plan->shim;
    const struct child_pipes *p = c->pipes;
    sigset_t none;
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != s->pid) {
        _exit(EXIT_FAILED); /* the shim died before the line above */
    }
    if ((p->in >= 0 && dup2(p->in, 0) < 0) || dup2(p->out, 1) < 0 || dup2(p->err, 2) < 0) {
        child_fail(c, CHILD_STDIO);
    }
    close_range(3, ~0U, CLOSE_RANGE_CLOEXEC);
    if (p->pmi >= 0 &&
        (p->pmi == PMI_RANK_FD ? fcntl(p->pmi, F_SETFD, 0) : dup2(p->pmi, PMI_RANK_FD)) < 0) {
        child_fail(c, CHILD_STDIO);
    }
    umask((mode_t)s->spec->umask & 0777);
    if (s->spec->cwd.len > 0 && chdir(text_of(&s->spec->cwd)) < 0) {
        child_fail(c, CHILD_CWD);
    }
    set_limits(s);
    if (s->start->oom_score_adj != NULL) {
        int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
        (void)!write(fd, s->start->oom_score_adj, strlen(s->start->oom_score_adj));
    }
    /* Every handler is the default (signals_reset). All was blocked since before the birth, so a
     * signal meant for the rank waits until here and then does what it does by default. */
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    execve(c->plan->argv[0], c->plan->argv, c->plan->env);
    child_fail(c, CHILD_EXEC);
}

int child_start(struct child_plan *p, const Accel__V1__RankSpec *rank,
                const struct child_pipes *pipes, int *ret_pidfd, bool *ret_in_cgroup,
                struct child_failure *ret_failure)
{
    struct child c = {.plan = p, .pipes = pipes, .failure = {.step = CHILD_DONE}};
    build_env(p, rank);
    int r = cgroup_vfork(p->shim->cgroup_fd, child_run, &c, ret_pidfd, ret_in_cgroup);
    if (r > 0) {
        *ret_failure = c.failure;
    }
    return r;
}
