/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `accelctl submit`, and the preparing of a request that launch shares. The id of the request is
 * made once, so however often it is sent, one job comes of it.
 */
#include "client/accelctl/submit.h"

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "client/accelctl/input.h"
#include "client/accelctl/session.h"
#include "client/accelctl/waiting.h"
#include "common/clock.h"

extern char **environ;

void request_id_make(uint8_t *ret_id)
{
    size_t got = 0;

    while (got < LIMIT_REQUEST_ID_BYTES) {
        ssize_t n = getrandom(ret_id + got, LIMIT_REQUEST_ID_BYTES - got, 0);

        CHECK(n > 0); /* never fails for 16 bytes once the system has booted */
        got += (size_t)n;
    }
    /* The time first (as UUIDv7, RFC 9562): ids of one hour lie together in the store's index,
     * which then dirties one page per commit instead of one per submission. */
    uint64_t ms = (uint64_t)clock_wall_ms();
    for (int i = 5; i >= 0; i--, ms >>= 8)
        ret_id[i] = (uint8_t)ms;
}

static uint32_t current_umask(void)
{
    mode_t mask = umask(0);

    umask(mask);
    return mask;
}

static int pack(const struct options *o, struct submission *s, struct accel_error *err)
{
    const struct opt_value *excludes = &o->v[OPT_SYNC_EXCLUDE];
    int r = sync_pack(o->v[OPT_SYNC].text, excludes->list, excludes->count, &s->archive, err);

    if (r < 0)
        return r;
    s->sync = (Accel__V1__SyncRef)ACCEL__V1__SYNC_REF__INIT;
    s->sync.hash = (ProtobufCBinaryData){HASH_BYTES, s->archive.hash};
    s->sync.size_bytes = s->archive.size_bytes;
    s->sync.source = (ProtobufCBinaryData){strlen(s->archive.source), (uint8_t *)s->archive.source};
    s->spec.sync = &s->sync;
    return 0;
}

static bool is_below(const char *path, const char *dir)
{
    size_t len = strlen(dir);
    return !strncmp(path, dir, len) && (path[len] == '/' || path[len] == '\0');
}

/* The job begins at the top of what it brings, so a relative path that leads there from elsewhere
 * is made absolute: the node moves absolute ones. A word without '/' may be anything. */
static void make_absolute(struct submission *s, const char *cwd)
{
    char path[PATH_MAX];

    if (is_below(cwd, s->archive.source)) /* then the job begins in the same place of the copy */
        return;
    for (size_t i = 0; i < s->spec.n_argv; i++) {
        ProtobufCBinaryData *arg = &s->spec.argv[i];
        if (arg->len == 0 || arg->data[0] == '/' || !memchr(arg->data, '/', arg->len) ||
            !realpath((const char *)arg->data, path) || !is_below(path, s->archive.source))
            continue;
        arg->data = (uint8_t *)arena_strdup(&s->arena, path);
        arg->len = strlen(path);
    }
}

#define SCRIPT_HEAD_BYTES 4096 /* #SBATCH lines stand before the first command */

/* Who brings a script of Slurm must not find out later that what it asks for was passed over. */
static void warn_of_sbatch(const Accel__V1__JobSpec *spec)
{
    for (size_t i = 0; i < spec->n_argv && i < 2; i++) { /* job.sh, or sh job.sh */
        char head[SCRIPT_HEAD_BYTES + 1];
        const char *name = (const char *)spec->argv[i].data;
        AUTO_CLOSE int fd = open(name, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
        ssize_t n = fd < 0 ? -1 : read(fd, head, SCRIPT_HEAD_BYTES);

        if (n <= 2 || memcmp(head, "#!", 2) != 0)
            continue;
        head[n] = '\0';
        if (strstr(head, "\n#SBATCH")) {
            cli_say("the #SBATCH lines of %s are not read; accelctl help slurm says how to say it",
                    name);
            return;
        }
    }
}

int submission_prepare(const struct cli *cli, struct submission *s)
{
    char cwd[PATH_MAX];
    struct spec_caller caller = {.environment = environ, .cwd = cwd, .umask = current_umask()};
    struct accel_error err = {0};
    int code = EXIT_CODE_USAGE;

    memset(s, 0, sizeof *s);
    s->archive.fd = -1;
    arena_init(&s->arena);
    if (!getcwd(cwd, sizeof cwd)) {
        cli_error_text(
            "cannot tell the current directory\nwhy: it was removed, or a parent cannot be "
            "read\ntry: cd");
        return EXIT_CODE_FAILED;
    }
    caller.cwd = arena_strdup(&s->arena, cwd);
    caller.has_stdin = cli->opt.verb->id == VERB_LAUNCH && input_is_wanted();
    if (spec_build(&s->arena, &cli->opt, &caller, &s->spec, &code, &err) < 0) {
        cli_error_text(err.text);
        return code;
    }
    warn_of_sbatch(&s->spec);
    if (option_given(&cli->opt, OPT_SYNC)) {
        if (pack(&cli->opt, s, &err) < 0)
            return cli_error(&err);
        make_absolute(s, cwd);
    }
    if (s->spec.n_argv > 1 && strstr((const char *)s->spec.argv[0].data, "python"))
        s->python = (const char *)s->spec.argv[0].data;
    request_id_make(s->id);
    s->req = (Accel__V1__SubmitRequest)ACCEL__V1__SUBMIT_REQUEST__INIT;
    s->req.request_id.data = s->id;
    s->req.request_id.len = sizeof s->id;
    s->req.spec = &s->spec;
    return 0;
}

void submission_done(struct submission *s)
{
    arena_done(&s->arena);
    sync_archive_done(&s->archive);
}

int submission_upload(const struct submission *s, struct session *session)
{
    struct accel_error err = {0};

    if (!s->spec.sync)
        return 0;
    return sync_upload(session, &s->archive, &err) < 0 ? cli_error(&err) : 0;
}

int submission_refused(int code, const char *text)
{
    struct accel_error err = {0};

    error_set(&err, code, "%s", text);
    cli_error(&err);
    switch (code) {
    case ACCEL_EPERM:
    case ACCEL_EUNAUTH: return EXIT_CODE_DENIED;
    case ACCEL_ECLOSED:
    case ACCEL_EUNAVAIL: return EXIT_CODE_UNREACHABLE;
    default: return exit_code_not_run();
    }
}

static void on_submitted(void *ctx, const ProtobufCMessage *msg)
{
    *(uint64_t *)ctx = ((const Accel__V1__SubmitReply *)msg)->job_id;
}

static int submit_with(struct cli *cli, struct session *session, const struct submission *s)
{
    struct accel_error err = {0};
    uint64_t id = 0;
    char text[32];
    int r;

    session_check_agent(session);
    r = session_call(session, "/accel.v1.Jobs/Submit", &s->req.base,
                     &accel__v1__submit_reply__descriptor, on_submitted, &id, &err);
    if (r < 0)
        return submission_refused(r, err.text);
    int len = snprintf(text, sizeof text, "%llu\n", (unsigned long long)id);

    cli_leaves_job(id); /* whose id nobody knows where stdout cannot be written */
    cli_write(STDOUT_FILENO, text, (size_t)len);
    session_settle(session);
    if (!option_given(&cli->opt, OPT_WAIT))
        return EXIT_CODE_OK;
    return wait_for_jobs(cli, session, &id, 1, s->python);
}

int verb_submit(struct cli *cli)
{
    AUTO_SESSION struct session *session = NULL;
    struct accel_error err = {0};
    struct submission s;
    int code = submission_prepare(cli, &s);

    if (code == 0) {
        int r = session_open(cli, &session, &err);

        code = r < 0 ? cli_error(&err) : submission_upload(&s, session);
        if (code == 0)
            code = submit_with(cli, session, &s);
    }
    submission_done(&s);
    return code;
}
