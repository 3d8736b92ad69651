/* SPDX-License-Identifier: Apache-2.0 */
/*
 * spec.c - job specs: what is refused and in which words, what of it the core keeps in fields, and
 * its way in and out of the form in which it is kept: without its environment, which is shared
 * between jobs, and without what the job's other texts say already. Pure.
 */
#include "scheduler/coord_internal.h"

static int check_string(const char *what, size_t index, const ProtobufCBinaryData *b,
                        struct accel_error *err)
{
    if (b->len >= LIMIT_ARG_BYTES)
        return error_set(err, ACCEL_EINVAL,
                         "%s %zu is %zu bytes long\nwhy: the kernel takes at most %d\n"
                         "try: pass it in a file",
                         what, index, b->len, LIMIT_ARG_BYTES - 1);
    if (b->len > 0 && memchr(b->data, 0, b->len))
        return error_set(err, ACCEL_EINVAL, "%s %zu holds a NUL byte", what, index);
    return 0;
}

static int check_env(const Accel__V1__JobSpec *spec, struct accel_error *err)
{
    for (size_t i = 0; i < spec->n_env; i++) {
        const ProtobufCBinaryData *b = &spec->env[i];
        const char *eq = b->len > 0 ? memchr(b->data, '=', b->len) : NULL;
        if (!eq || eq == (const char *)b->data)
            return error_set(err, ACCEL_EINVAL, "environment entry %zu is not NAME=VALUE", i);
        int name_len = (int)MIN(eq - (const char *)b->data, 64);
        if (b->len >= LIMIT_ARG_BYTES)
            return error_set(err, ACCEL_EINVAL,
                             "environment variable %.*s is %zu bytes long\nwhy: the kernel takes at"
                             " most %d\ntry: unset it, or pass it in a file",
                             name_len, (const char *)b->data, b->len, LIMIT_ARG_BYTES - 1);
        if (memchr(b->data, 0, b->len))
            return error_set(err, ACCEL_EINVAL, "environment variable %.*s holds a NUL byte",
                             name_len, (const char *)b->data);
    }
    return 0;
}

static int check_numbers(const Accel__V1__JobSpec *s, struct accel_error *err)
{
    uint32_t procs = s->procs_per_node, gpus = s->gpus_per_node;

    if (s->nodes > LIMIT_NODES_PER_JOB)
        return error_set(err, ACCEL_EINVAL, "a job over %u nodes\nwhy: the limit is %u", s->nodes,
                         LIMIT_NODES_PER_JOB);
    if (s->n_nodelist > LIMIT_NODES_PER_JOB || s->n_exclude > LIMIT_NODES_PER_JOB)
        return error_set(err, ACCEL_EINVAL, "%zu names of nodes\nwhy: the limit is %u",
                         MAX(s->n_nodelist, s->n_exclude), LIMIT_NODES_PER_JOB);
    if (procs > LIMIT_PROCS_PER_NODE)
        return error_set(err, ACCEL_EINVAL, "%u processes on one node\nwhy: the limit is %u", procs,
                         LIMIT_PROCS_PER_NODE);
    if (gpus > LIMIT_PROCS_PER_NODE)
        return error_set(err, ACCEL_EINVAL, "%u GPUs on one node\nwhy: the limit is %u", gpus,
                         LIMIT_PROCS_PER_NODE);
    if (s->cpus_per_proc > LIMIT_CPUS_PER_PROC)
        return error_set(err, ACCEL_EINVAL, "%u CPUs for one process\nwhy: the limit is %u",
                         s->cpus_per_proc, LIMIT_CPUS_PER_PROC);
    if (gpus && s->device_kind == ACCEL__V1__DEVICE_KIND__DEVICE_CPU)
        return error_set(err, ACCEL_EINVAL,
                         "GPUs asked for a job on CPUs\ntry: --devices gpu, or no --gpus");
    if (s->device_kind == ACCEL__V1__DEVICE_KIND__DEVICE_TPU && gpus &&
        ((gpus & (gpus - 1)) || gpus % MAX(procs, 1u)))
        return error_set(err, ACCEL_EINVAL,
                         "%u TPU chips for %u processes on one node\nwhy: chips are wired as a "
                         "grid of 1, 2, 4 or 8, split evenly\ntry: another --tpus or --procs",
                         gpus, MAX(procs, 1u));
    if (gpus && procs && gpus % procs && procs % gpus)
        return error_set(err, ACCEL_EINVAL, "%u GPUs cannot be split evenly over %u processes",
                         gpus, procs);
    if (s->max_restarts > LIMIT_RESTARTS)
        return error_set(err, ACCEL_EINVAL, "%u restarts\nwhy: the limit is %u", s->max_restarts,
                         LIMIT_RESTARTS);
    if ((uint32_t)s->device_kind > ACCEL__V1__DEVICE_KIND__DEVICE_TPU)
        return error_set(err, ACCEL_EINVAL, "unknown device kind %d", (int)s->device_kind);
    if (s->memory_bytes > INT64_MAX)
        return error_set(err, ACCEL_EINVAL, "%llu bytes of memory",
                         (unsigned long long)s->memory_bytes);
    if (s->time_limit_ms > INT64_MAX / 4 || s->stop_grace_ms > INT64_MAX / 4)
        return error_set(err, ACCEL_EINVAL, "a time of %llu ms",
                         (unsigned long long)s->time_limit_ms);
    return 0;
}

int spec_validate(const Accel__V1__JobSpec *s, struct accel_error *err)
{
    int r;

    if (s->name[0] && !is_valid_name(s->name))
        return error_set(
            err, ACCEL_EINVAL,
            "'%.80s' cannot be a job's name\ntry: letters, digits, '.', '_' and '-', at"
            " most %d",
            s->name, LIMIT_NAME_BYTES);
    if (s->n_argv == 0 || s->argv[0].len == 0)
        return error_set(err, ACCEL_EINVAL, "the job has no program");
    if (!memchr(s->argv[0].data, '/', s->argv[0].len))
        return error_set(err, ACCEL_EINVAL, "the program is not a path");
    if (s->cwd.len == 0 || s->cwd.data[0] != '/')
        return error_set(err, ACCEL_EINVAL, "the working directory is not an absolute path");
    for (size_t i = 0; i < s->n_argv; i++) {
        r = check_string("argument", i, &s->argv[i], err);
        if (r < 0)
            return r;
    }
    r = check_string("working directory", 0, &s->cwd, err);
    if (r < 0)
        return r;
    r = check_string("output pattern", 0, &s->output_pattern, err);
    if (r < 0)
        return r;
    if (s->output_pattern.len && s->output_pattern.data[0] != '/')
        return error_set(err, ACCEL_EINVAL, "the output pattern is not an absolute path");
    r = check_env(s, err);
    if (r < 0)
        return r;
    return check_numbers(s, err);
}

char *spec_command_text(const Accel__V1__JobSpec *spec)
{
    struct str s;

    str_init(&s);
    for (size_t i = 0; i < spec->n_argv && s.len <= LIMIT_COMMAND_TEXT_BYTES; i++) {
        if (i)
            str_addc(&s, ' ');
        str_add_shell_quoted(&s, spec->argv[i].data,
                             MIN(spec->argv[i].len, (size_t)LIMIT_COMMAND_TEXT_BYTES));
    }
    if (s.len > LIMIT_COMMAND_TEXT_BYTES) {
        size_t cut = LIMIT_COMMAND_TEXT_BYTES - 3;
        while (cut > 0 && ((unsigned char)s.data[cut] & 0xc0) == 0x80)
            cut--; /* not inside a UTF-8 character */
        s.len = cut;
        s.data[cut] = 0;
        str_adds(&s, "...");
    }
    char *text = xstrdup(s.data);
    str_done(&s);
    return text;
}

/* size: LIMIT_NAME_BYTES + 1 */
static void default_name(const Accel__V1__JobSpec *spec, char *name)
{
    /* The script if there is one (python3 train.py), else the program. */
    const ProtobufCBinaryData *b = &spec->argv[0];
    size_t len = 0;

    for (size_t i = 1; i < spec->n_argv && i < 4; i++) {
        const ProtobufCBinaryData *arg = &spec->argv[i];
        if (arg->len > 3 && !memcmp(arg->data + arg->len - 3, ".py", 3)) {
            b = arg;
            break;
        }
    }
    const uint8_t *base = b->len ? memrchr(b->data, '/', b->len) : NULL;
    const uint8_t *p = base ? base + 1 : b->data;
    for (const uint8_t *end = b->data + b->len; p < end && len < LIMIT_NAME_BYTES; p++) {
        bool ok = (*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') ||
                  (*p >= '0' && *p <= '9') || (len && (*p == '.' || *p == '_' || *p == '-'));
        if (ok)
            name[len++] = (char)*p;
    }
    name[len] = 0;
    if (len > 3 && !strcmp(name + len - 3, ".py"))
        name[len - 3] = 0;
    if (!*name)
        str_copy(name, LIMIT_NAME_BYTES + 1, "job");
}

/* --- how a spec is kept --- */

/* True if the arguments can be read back from the command's text: it is them, with blanks. */
static bool is_text_of_argv(const char *command, const Accel__V1__JobSpec *spec)
{
    const char *p = command;

    for (size_t i = 0; i < spec->n_argv; i++) {
        const ProtobufCBinaryData *arg = &spec->argv[i];
        if (arg->len == 0 || memchr(arg->data, ' ', arg->len) || strnlen(p, arg->len) < arg->len ||
            memcmp(p, arg->data, arg->len))
            return false;
        p += arg->len;
        if (*p != (i + 1 < spec->n_argv ? ' ' : 0))
            return false;
        p++;
    }
    return spec->n_argv > 0;
}

static void argv_from_text(Accel__V1__JobSpec *spec, const char *command, struct arena *a)
{
    size_t count = 1;

    for (const char *p = command; *p; p++)
        count += *p == ' ';
    spec->argv = ARENA_ARRAY(a, ProtobufCBinaryData, count);
    for (const char *p = command; spec->n_argv < count; p++) {
        size_t len = strcspn(p, " ");
        spec->argv[spec->n_argv++] = (ProtobufCBinaryData){.len = len, .data = (uint8_t *)p};
        p += len;
    }
}

/* The spec without its environment, and without what the other texts say already. */
static void keep_texts(struct job *j, const char *name, const char *command,
                       const Accel__V1__JobSpec *spec)
{
    Accel__V1__JobSpec rest = *spec;

    rest.n_env = 0;
    rest.env = NULL;
    j->spec_has_name = strcmp(spec->name, name) != 0;
    if (!j->spec_has_name)
        rest.name = (char *)"";
    j->spec_has_argv = !is_text_of_argv(command, spec);
    if (!j->spec_has_argv)
        rest.n_argv = 0;
    size_t len = accel__v1__job_spec__get_packed_size(&rest);
    AUTO_FREE uint8_t *packed = xcalloc(1, len + 1);
    accel__v1__job_spec__pack(&rest, packed);
    job_set_texts(j, name, command, packed, len);
}

void spec_load(struct job *j, const char *name, const char *command, const Accel__V1__JobSpec *spec)
{
    j->device_kind = MIN((uint32_t)spec->device_kind, ACCEL__V1__DEVICE_KIND__DEVICE_TPU) & 3;
    if (spec->gpus_per_node && j->device_kind == ACCEL__V1__DEVICE_KIND__DEVICE_AUTO)
        j->device_kind = ACCEL__V1__DEVICE_KIND__DEVICE_GPU;
    j->nodes = (uint16_t)MIN(MAX(spec->nodes, 1u), LIMIT_NODES_PER_JOB);
    j->has_names = spec->n_nodelist || spec->n_exclude;
    j->procs_per_node = (uint16_t)MIN(spec->procs_per_node, LIMIT_PROCS_PER_NODE);
    j->gpus_per_node = (uint16_t)MIN(spec->gpus_per_node, LIMIT_PROCS_PER_NODE);
    j->cpus_per_proc = (uint16_t)MIN(spec->cpus_per_proc, LIMIT_CPUS_PER_PROC);
    j->max_restarts = (uint16_t)MIN(spec->max_restarts, LIMIT_RESTARTS);
    j->time_limit_ms = spec->time_limit_ms;
    j->memory_bytes = spec->memory_bytes;
    j->kill_on_disconnect = spec->kill_on_disconnect;
    j->wants_stdin = spec->want_stdin;
    keep_texts(j, name, command, spec);
}

void spec_to_job(struct coord *c, struct job *j, const Accel__V1__JobSpec *spec)
{
    Accel__V1__JobSpec env = ACCEL__V1__JOB_SPEC__INIT;
    AUTO_FREE char *command = spec_command_text(spec);
    char name[LIMIT_NAME_BYTES + 1];

    if (spec->name[0])
        str_copy(name, sizeof(name), spec->name);
    else
        default_name(spec, name);
    spec_load(j, name, command, spec);
    env.n_env = spec->n_env;
    env.env = spec->env;
    size_t len = accel__v1__job_spec__get_packed_size(&env);
    AUTO_FREE uint8_t *packed = xcalloc(1, len + 1);
    accel__v1__job_spec__pack(&env, packed);
    j->env = environment_intern(c, packed, len);
}

Accel__V1__JobSpec *spec_unpack_bare(const struct job *j, struct arena *a)
{
    ProtobufCAllocator alloc;

    CHECK(j->spec_len);
    arena_allocator(a, &alloc);
    Accel__V1__JobSpec *spec = accel__v1__job_spec__unpack(&alloc, j->spec_len, job_spec(j));
    CHECK(spec);
    if (!j->spec_has_name)
        spec->name = arena_strdup(a, job_name(j));
    if (!j->spec_has_argv)
        argv_from_text(spec, arena_strdup(a, job_command(j)), a);
    return spec;
}

Accel__V1__JobSpec *spec_unpack(const struct job *j, struct arena *a)
{
    Accel__V1__JobSpec *spec = spec_unpack_bare(j, a);
    ProtobufCAllocator alloc;

    if (!j->env)
        return spec;
    CHECK(j->env->data);
    arena_allocator(a, &alloc);
    Accel__V1__JobSpec *env = accel__v1__job_spec__unpack(&alloc, j->env->len, j->env->data);
    CHECK(env);
    spec->n_env = env->n_env;
    spec->env = env->env;
    return spec;
}
