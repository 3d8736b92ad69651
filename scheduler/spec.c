/* SPDX-License-Identifier: Apache-2.0 */
/*
 * spec.c - job specs: what is refused and in which words, what of it the core keeps in fields, and
 * its way in and out of its stored form (the spec without its environment, which is shared between
 * jobs). Pure.
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

    if (s->nodes > 1)
        return error_set(err, ACCEL_EUNIMPL,
                         "a job over %u nodes is not supported yet\ntry: --nodes 1", s->nodes);
    if (procs > LIMIT_PROCS_PER_NODE)
        return error_set(err, ACCEL_EINVAL, "%u processes on one node\nwhy: the limit is %u", procs,
                         LIMIT_PROCS_PER_NODE);
    if (gpus > LIMIT_PROCS_PER_NODE)
        return error_set(err, ACCEL_EINVAL, "%u GPUs on one node\nwhy: the limit is %u", gpus,
                         LIMIT_PROCS_PER_NODE);
    if (gpus && s->device_kind == ACCEL__V1__DEVICE_KIND__DEVICE_CPU)
        return error_set(err, ACCEL_EINVAL,
                         "GPUs asked for a job on CPUs\ntry: --devices gpu, or no --gpus");
    if (gpus && procs && gpus % procs && procs % gpus)
        return error_set(err, ACCEL_EINVAL, "%u GPUs cannot be split evenly over %u processes",
                         gpus, procs);
    if (s->max_restarts > LIMIT_RESTARTS)
        return error_set(err, ACCEL_EINVAL, "%u restarts\nwhy: the limit is %u", s->max_restarts,
                         LIMIT_RESTARTS);
    if ((uint32_t)s->device_kind > ACCEL__V1__DEVICE_KIND__DEVICE_GPU)
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

static void default_name(struct job *j, const Accel__V1__JobSpec *spec)
{
    /* The script if there is one (python3 train.py), else the program. */
    const ProtobufCBinaryData *b = &spec->argv[0];
    char name[LIMIT_NAME_BYTES + 1];
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
    j->name = xstrdup(len ? name : "job");
}

/* Packs the spec without its environment, and the environment alone. */
void spec_to_job(struct coord *c, struct job *j, const Accel__V1__JobSpec *spec)
{
    Accel__V1__JobSpec rest = *spec, env = ACCEL__V1__JOB_SPEC__INIT;

    if (spec->name[0])
        j->name = xstrdup(spec->name);
    else
        default_name(j, spec);
    j->command = spec_command_text(spec);
    j->device_kind = (uint8_t)spec->device_kind;
    if (spec->gpus_per_node)
        j->device_kind = ACCEL__V1__DEVICE_KIND__DEVICE_GPU;
    j->nodes = 1;
    j->procs_per_node = spec->procs_per_node;
    j->gpus_per_node = spec->gpus_per_node;
    j->max_restarts = spec->max_restarts;
    j->time_limit_ms = spec->time_limit_ms;
    j->memory_bytes = spec->memory_bytes;
    j->stop_grace_ms = spec->stop_grace_ms ? spec->stop_grace_ms : LIMIT_STOP_GRACE_MS;
    j->kill_on_disconnect = spec->kill_on_disconnect;

    rest.n_env = 0;
    rest.env = NULL;
    j->spec_len = accel__v1__job_spec__get_packed_size(&rest);
    j->spec = xcalloc(1, j->spec_len + 1);
    accel__v1__job_spec__pack(&rest, j->spec);

    env.n_env = spec->n_env;
    env.env = spec->env;
    size_t len = accel__v1__job_spec__get_packed_size(&env);
    uint8_t *packed = xcalloc(1, len + 1);
    accel__v1__job_spec__pack(&env, packed);
    j->env = environment_intern(c, packed, len);
    free(packed);
}

Accel__V1__JobSpec *spec_unpack(const struct job *j, struct arena *a)
{
    ProtobufCAllocator alloc;

    arena_allocator(a, &alloc);
    Accel__V1__JobSpec *spec = accel__v1__job_spec__unpack(&alloc, j->spec_len, j->spec);
    CHECK(spec);
    if (j->env) {
        CHECK(j->env->data);
        Accel__V1__JobSpec *env = accel__v1__job_spec__unpack(&alloc, j->env->len, j->env->data);
        CHECK(env);
        spec->n_env = env->n_env;
        spec->env = env->env;
    }
    return spec;
}
