/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From a command line to a JobSpec. What can be wrong is found here, before anything is sent: a
 * program that is missing or not executable, a string that execve would refuse, processes that do
 * not divide among nodes. acceld checks again on the node; this is for the message at once.
 */
#include "client/accelctl/spec.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "client/accelctl/accelerate.h"
#include "client/accelctl/cli.h"
#include "common/limits.h"

struct builder {
    struct arena *a;
    const struct options *o;
    const struct spec_caller *caller;
    Accel__V1__JobSpec *spec;
    int *exit_code;
    struct accel_error *err;
    bool is_launch;
    size_t argv_cap, env_cap;
};

/* Names of variables that the launcher of another job left behind; '*' stands for any end. */
static const char *const inherited[] = {
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "GROUP_RANK",
    "GROUP_WORLD_SIZE",
    "NODE_RANK",
    "ROLE_NAME",
    "ROLE_RANK",
    "ROLE_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
    "CROSS_RANK",
    "CROSS_SIZE",
    "LOCAL_SIZE",
    "TORCHELASTIC_*",
    "TORCH_WORKER_SERVER_SOCKET",
    "PET_*",
    "PMI_*",
    "PMIX_*",
    "PMI2_*",
    "MPI_LOCALRANKID",
    "MPI_LOCALNRANKS",
    "OMPI_COMM_WORLD_*",
    "OMPI_UNIVERSE_SIZE",
    "OMPI_MCA_orte_*",
    "OMPI_MCA_ess_*",
    "MV2_COMM_WORLD_*",
    "SLURM_*",
    "SLURMD_*",
    "FLUX_JOB_*",
    "FLUX_TASK_*",
    "ACCEL_JOB_*",
    "ACCEL_ATTEMPT*",
    "ACCEL_RANK*",
    "ACCEL_SHIM_*",
};
static const char *const submit_passes[] = {
    "PATH", "HOME", "USER", "LANG", "VIRTUAL_ENV", "CONDA_*", "LD_LIBRARY_PATH", "PYTHONPATH",
};

static bool matches(const char *const *names, size_t count, const char *variable)
{
    size_t len = strcspn(variable, "=");

    for (size_t i = 0; i < count; i++) {
        if (names[i][0] != variable[0]) /* nearly always: 50 variables by 60 names are many */
            continue;

        size_t n = strlen(names[i]);

        if (names[i][n - 1] == '*' ? len >= n - 1 && memcmp(names[i], variable, n - 1) == 0
                                   : len == n && memcmp(names[i], variable, n) == 0)
            return true;
    }
    return false;
}

bool spec_is_inherited_rank(const char *variable)
{
    return matches(inherited, ARRAY_LEN(inherited), variable);
}

bool spec_is_passed_by_submit(const char *variable)
{
    return matches(submit_passes, ARRAY_LEN(submit_passes), variable);
}

const char *spec_getenv(char *const *environment, const char *name, size_t len)
{
    for (; *environment; environment++) {
        if (strncmp(*environment, name, len) == 0 && (*environment)[len] == '=')
            return *environment + len + 1;
    }
    return NULL;
}

static ProtobufCBinaryData bytes_of(const char *text)
{
    return (ProtobufCBinaryData){strlen(text), (uint8_t *)text};
}

static void add_to(struct arena *a, ProtobufCBinaryData **list, size_t *count, size_t *cap,
                   const char *text)
{
    if (*count == *cap) {
        ProtobufCBinaryData *more;

        *cap = *cap ? *cap * 2 : 32;
        more = ARENA_ARRAY(a, ProtobufCBinaryData, *cap);
        if (*count > 0)
            memcpy(more, *list, *count * sizeof more[0]);
        *list = more;
    }
    (*list)[(*count)++] = bytes_of(text);
}

static void add_arg(struct builder *b, const char *text)
{
    add_to(b->a, &b->spec->argv, &b->spec->n_argv, &b->argv_cap, text);
}

static void add_env(struct builder *b, const char *text)
{
    add_to(b->a, &b->spec->env, &b->spec->n_env, &b->env_cap, text);
}

/* Puts NAME=VALUE in, in place of an earlier one of that name. */
static void set_env(struct builder *b, const char *text)
{
    size_t len = strcspn(text, "=") + 1;

    for (size_t i = 0; i < b->spec->n_env; i++) {
        if (b->spec->env[i].len >= len && memcmp(b->spec->env[i].data, text, len) == 0) {
            b->spec->env[i] = bytes_of(text);
            return;
        }
    }
    add_env(b, text);
}

static int fail_with(struct builder *b, int exit_code)
{
    *b->exit_code = exit_code;
    return b->err->code;
}

/* Text of a user in a message. */
static const char *quoted(struct builder *b, const char *text)
{
    AUTO_STR struct str s = {0};

    str_init(&s);
    str_add_shell_quoted(&s, text, MIN(strlen(text), 160u));
    return arena_strdup(b->a, s.data);
}

/* --- environment --- */

static int check_name(struct builder *b, const char *option, const char *text, size_t len)
{
    if (len > 0 && text[0] != '=')
        return 0;
    error_set(b->err, ACCEL_EINVAL,
              "--%s %s: not possible\nwhy: a name of a variable comes first\ntry: --%s NAME=VALUE",
              option, quoted(b, text), option);
    return fail_with(b, EXIT_CODE_USAGE);
}

static int pass_named(struct builder *b, const char *option, const char *name)
{
    int r = check_name(b, option, name, strlen(name));

    if (r < 0)
        return r;
    const char *value = spec_getenv(b->caller->environment, name, strlen(name));

    if (!value) {
        error_set(b->err, ACCEL_EINVAL,
                  "--%s %s: not possible\nwhy: the variable is not set here\ntry: --env %s=VALUE",
                  option, quoted(b, name), quoted(b, name));
        return fail_with(b, EXIT_CODE_USAGE);
    }
    set_env(b, arena_printf(b->a, "%s=%s", name, value));
    return 0;
}

static void set_variable(void *ctx, const char *text)
{
    set_env(ctx, text);
}

static int build_env(struct builder *b)
{
    const struct opt_value *theirs = &b->o->v[OPT_ACCELERATE];
    const struct opt_value *env = &b->o->v[OPT_ENV], *pass = &b->o->v[OPT_PASS_ENV];

    for (char *const *e = b->caller->environment; *e; e++) {
        if (spec_is_inherited_rank(*e) || !strchr(*e, '='))
            continue;
        if (b->is_launch || spec_is_passed_by_submit(*e))
            add_env(b, *e);
    }
    if (option_given(b->o, OPT_MIXED_PRECISION))
        set_env(b, arena_printf(b->a, "ACCELERATE_MIXED_PRECISION=%s",
                                b->o->v[OPT_MIXED_PRECISION].text));
    if (option_given(b->o, OPT_CPU))
        set_env(b, "ACCELERATE_USE_CPU=true");
    if (accelerate_variables(theirs->list, theirs->count, b->a, set_variable, b, b->err) < 0)
        return fail_with(b, EXIT_CODE_USAGE);
    for (unsigned i = 0; i < pass->count; i++) {
        int r = pass_named(b, "pass-env", pass->list[i]);

        if (r < 0)
            return r;
    }
    for (unsigned i = 0; i < env->count; i++) {
        size_t len = strcspn(env->list[i], "=");
        int r = check_name(b, "env", env->list[i], len);

        if (r < 0)
            return r;
        if (env->list[i][len] == '=') {
            set_env(b, env->list[i]);
            continue;
        }
        r = pass_named(b, "env", env->list[i]);
        if (r < 0)
            return r;
    }
    return 0;
}

/* --- the program --- */

/* The absolute path of name in the caller's PATH, or NULL. *ret_denied: the first file of that
 * name that is not executable. */
static char *find_in_path(struct builder *b, const char *name, char **ret_denied)
{
    const char *path = spec_getenv(b->caller->environment, "PATH", 4);

    if (!path)
        path = "/usr/local/bin:/usr/bin:/bin";
    for (;; path++) {
        size_t len = strcspn(path, ":");
        const char *base = len == 0 || path[0] != '/' ? b->caller->cwd : "";
        char *full = arena_printf(b->a, "%s%s%.*s/%s", base, base[0] != '\0' && len > 0 ? "/" : "",
                                  (int)len, path, name);
        struct stat st;

        if (stat(full, &st) == 0 && S_ISREG(st.st_mode)) {
            if (access(full, X_OK) == 0)
                return full;
            if (ret_denied && !*ret_denied)
                *ret_denied = full;
        }
        path += len;
        if (*path == '\0')
            return NULL;
    }
}

static bool has_suffix(const char *text, const char *suffix)
{
    size_t n = strlen(text), m = strlen(suffix);

    return n > m && strcmp(text + n - m, suffix) == 0;
}

static int not_found(struct builder *b, const char *name, const char *why, const char *try)
{
    error_set(b->err, ACCEL_ENOENT, "%s: program not found\nwhy: %s\ntry: %s", quoted(b, name), why,
              try);
    return fail_with(b, EXIT_CODE_NOT_FOUND);
}

static int not_executable(struct builder *b, const char *name, const char *why, const char *try)
{
    error_set(b->err, ACCEL_EPERM, "%s: cannot be executed\nwhy: %s\ntry: %s", quoted(b, name), why,
              try);
    return fail_with(b, EXIT_CODE_NOT_EXECUTABLE);
}

/* Names are the caller's, also those of a directory that travels along. */
static const char *where_else(struct builder *b, const char *name)
{
    const char *path = option_given(b->o, OPT_SYNC)
                           ? arena_printf(b->a, "%s/%s", b->o->v[OPT_SYNC].text, name)
                           : NULL;

    return path && access(path, F_OK) == 0 ? quoted(b, path) : "ls, from this directory";
}

/* Is the coordinator, and so its nodes, on another machine, which has other directories? */
static bool is_remote(const struct builder *b)
{
    const char *address = option_given(b->o, OPT_COORDINATOR)
                              ? b->o->v[OPT_COORDINATOR].text
                              : spec_getenv(b->caller->environment, "ACCEL_COORDINATOR", 17);

    return address && address[0] != '\0' && strncmp(address, "unix:", 5) != 0;
}

/* Where the shell would have known better: a line, a variable, a word of its own; or NULL. */
static const char *meant_for_shell(struct builder *b, const char *name)
{
    static const char *const words[] = {"cd", "exec", "export", "eval", "set", "source", "ulimit"};
    size_t len = strcspn(name, "=");

    if (name[len] == '=' && len > 0 && strcspn(name, "/ ") > len)
        return arena_printf(b->a, "--env %s", quoted(b, name));
    if (strchr(name, ' '))
        return arena_printf(b->a, "--wrap %s", quoted(b, name));
    for (size_t i = 0; i < ARRAY_LEN(words); i++) {
        if (strcmp(words[i], name) == 0)
            return arena_printf(b->a, "--wrap '%s ...'", name);
    }
    return NULL;
}

#define FIRST_LINE_BYTES 256 /* what Linux reads of it (BINPRM_BUF_SIZE) */

/* A script whose first line names what is not there fails with a word about the script itself. */
static int check_first_line(struct builder *b, const char *name)
{
    char line[FIRST_LINE_BYTES + 1] = "";
    AUTO_CLOSE int fd = open(name, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);

    if (fd < 0 || read(fd, line, FIRST_LINE_BYTES) < 3 || line[0] != '#' || line[1] != '!')
        return 0;
    char *program = line + 2 + strspn(line + 2, " \t");

    line[strcspn(line, "\n")] = '\0';
    if (line[strlen(line) - 1] == '\r')
        return not_executable(b, name, "its lines end as those of Windows",
                              arena_printf(b->a, "sed -i 's/\\r$//' %s", quoted(b, name)));
    program[strcspn(program, " \t")] = '\0';
    if (program[0] != '/' || access(program, F_OK) == 0 || is_remote(b))
        return 0;
    return not_executable(
        b, name,
        arena_printf(b->a, "its first line names %s, which is not there", quoted(b, program)),
        "another first line, such as #!/usr/bin/env bash");
}

static int add_program(struct builder *b, const char *name)
{
    char *denied = NULL;
    struct stat st;

    if (!strchr(name, '/')) {
        char *full = find_in_path(b, name, &denied);

        if (full) {
            add_arg(b, full);
            return 0;
        }
        if (denied)
            return not_executable(b, denied, "it is not marked executable",
                                  "chmod +x, or another program");
        const char *for_shell = meant_for_shell(b, name);

        return not_found(b, name, "it is in no directory of PATH",
                         access(name, F_OK) == 0 ? quoted(b, arena_printf(b->a, "./%s", name))
                         : for_shell             ? for_shell
                                                 : "the full path of the program");
    }
    if (stat(name, &st) < 0) {
        int sys = errno;
        const char *for_shell = meant_for_shell(b, name);

        return sys == EACCES
                   ? not_executable(b, name, strerror(sys), "another program")
                   : not_found(b, name, strerror(sys), for_shell ? for_shell : where_else(b, name));
    }
    if (S_ISDIR(st.st_mode))
        return not_executable(b, name, "it is a directory", "the program in it");
    if (access(name, X_OK) < 0)
        return not_executable(b, name, strerror(errno),
                              has_suffix(name, ".sh")
                                  ? arena_printf(b->a, "sh %s", quoted(b, name))
                                  : arena_printf(b->a, "chmod +x %s", quoted(b, name)));
    add_arg(b, name);
    return check_first_line(b, name);
}

static int add_python(struct builder *b)
{
    const char *python = option_given(b->o, OPT_PYTHON) ? b->o->v[OPT_PYTHON].text : "python3";

    return add_program(b, python);
}

static int add_script(struct builder *b, const char *script)
{
    struct stat st;
    int r;

    if (stat(script, &st) < 0) {
        int sys = errno;
        const char *for_shell = meant_for_shell(b, script);

        return not_found(b, script, strerror(sys), for_shell ? for_shell : where_else(b, script));
    }
    if (S_ISDIR(st.st_mode))
        return not_executable(b, script, "it is a directory", "the script in it");
    if (access(script, R_OK) < 0)
        return not_executable(b, script, strerror(errno),
                              arena_printf(b->a, "chmod +r %s", quoted(b, script)));
    r = add_python(b);
    if (r < 0)
        return r;
    add_arg(b, script);
    return 0;
}

static int build_argv(struct builder *b)
{
    const struct options *o = b->o;
    char **args = o->args;
    int r = 0;

    if (option_given(o, OPT_WRAP)) {
        if (o->arg_count > 0 || option_given(o, OPT_MODULE)) {
            error_set(b->err, ACCEL_EINVAL,
                      "--wrap and a program do not go together\nwhy: %s would never run\n"
                      "try: --wrap '%s; ...'",
                      o->arg_count > 0 ? quoted(b, args[0]) : "the module",
                      o->arg_count > 0 ? args[0] : "python3 -m ...");
            return fail_with(b, EXIT_CODE_USAGE);
        }
        add_arg(b, "/bin/sh");
        add_arg(b, "-c");
        add_arg(b, o->v[OPT_WRAP].text);
        return 0;
    }
    if (option_given(o, OPT_MODULE)) {
        r = add_python(b);
        if (r < 0)
            return r;
        add_arg(b, "-m");
        add_arg(b, o->v[OPT_MODULE].text);
    } else if (o->arg_count == 0) {
        error_set(b->err, ACCEL_EINVAL,
                  "no program named\nwhy: %s runs one\ntry: accelctl %s train.py", o->verb->name,
                  o->verb->name);
        return fail_with(b, EXIT_CODE_USAGE);
    } else {
        /* --python P makes any file a script of it. */
        if (has_suffix(args[0], ".py") || option_given(o, OPT_PYTHON))
            r = add_script(b, args[0]);
        else
            r = add_program(b, args[0]);
        if (r < 0)
            return r;
        args++;
    }
    while (*args)
        add_arg(b, *args++);
    return 0;
}

/* --- the rest --- */

/* From the program, the module or the line: what the job is called when nobody says. */
static char *default_name(struct builder *b)
{
    const struct options *o = b->o;
    const char *from = option_given(o, OPT_WRAP)     ? "wrap"
                       : option_given(o, OPT_MODULE) ? o->v[OPT_MODULE].text
                                                     : o->args[0];
    const char *slash = strrchr(from, '/');
    char *name = arena_strdup(b->a, slash && slash[1] != '\0' ? slash + 1 : from);

    if (has_suffix(name, ".py"))
        name[strlen(name) - 3] = '\0';
    if (strlen(name) > LIMIT_NAME_BYTES)
        name[LIMIT_NAME_BYTES] = '\0';
    for (char *c = name; *c != '\0'; c++) {
        char one[3] = {'a', *c, '\0'};

        if (!is_valid_name(one))
            *c = '_';
    }
    while (*name != '\0' && !is_valid_name(name))
        name++;
    return *name != '\0' ? name : "job";
}

static int build_name(struct builder *b)
{
    if (!option_given(b->o, OPT_NAME)) {
        b->spec->name = default_name(b);
        return 0;
    }
    b->spec->name = (char *)b->o->v[OPT_NAME].text;
    if (is_valid_name(b->spec->name))
        return 0;
    error_set(
        b->err, ACCEL_EINVAL,
        "--name %s: not possible\nwhy: a name has letters, digits, '.', '_' and '-', at most %d\n"
        "try: --name %s",
        quoted(b, b->spec->name), LIMIT_NAME_BYTES, default_name(b));
    return fail_with(b, EXIT_CODE_USAGE);
}

/* Of /a/b.%j/c that is /a: what must be there before a rank can be started. */
static int check_output_dir(struct builder *b, const char *pattern)
{
    char *path = arena_printf(b->a, "%.*s", (int)strcspn(pattern, "%"), pattern);
    char *slash = strrchr(path, '/');
    struct stat st;

    if (is_remote(b))
        return 0;
    if (pattern[strlen(pattern) - 1] == '/' ||
        (strlen(path) == strlen(pattern) && stat(pattern, &st) == 0 && S_ISDIR(st.st_mode))) {
        size_t len = strlen(pattern);

        while (len > 0 && pattern[len - 1] == '/')
            len--;
        error_set(b->err, ACCEL_EINVAL,
                  "--output %s: not possible\nwhy: it is a directory\ntry: --output %s",
                  quoted(b, pattern),
                  quoted(b, arena_printf(b->a, "%.*s/%%x-%%j.out", (int)len, pattern)));
        return fail_with(b, EXIT_CODE_USAGE);
    }
    *slash = '\0';
    if (path[0] == '\0' || stat(path, &st) == 0 || errno != ENOENT)
        return 0;
    error_set(b->err, ACCEL_ENOENT,
              "--output %s: not possible\nwhy: there is no directory %s\ntry: mkdir -p %s",
              quoted(b, pattern), quoted(b, path), quoted(b, path));
    return fail_with(b, EXIT_CODE_USAGE);
}

static int build_output(struct builder *b)
{
    const char *pattern = b->o->v[OPT_OUTPUT_PATTERN].text;

    if (!option_given(b->o, OPT_OUTPUT_PATTERN))
        return 0;
    for (const char *p = pattern; *p != '\0'; p++) {
        if (*p == '%' && (p[1] == '\0' || !strchr("jxrANu%", *++p))) {
            error_set(b->err, ACCEL_EINVAL,
                      "--output %s: not possible\nwhy: %%%c is not known\n"
                      "try: %%j job id, %%x name, %%r rank, %%A attempt, %%N node, %%u user, %%%% "
                      "percent",
                      quoted(b, pattern), *p != '\0' ? *p : ' ');
            return fail_with(b, EXIT_CODE_USAGE);
        }
    }
    if (pattern[0] != '/')
        pattern = arena_printf(b->a, "%s/%s", b->caller->cwd, pattern);
    b->spec->output_pattern = bytes_of(pattern);
    return check_output_dir(b, pattern);
}

/* "2x4"; or "4", processes on one node, as TorchX has it. */
static int parse_nodes_by_procs(struct builder *b, uint64_t *ret_nodes, uint64_t *ret_procs)
{
    const char *text = b->o->v[OPT_NODES_BY_PROCS].text;
    AUTO_FREE char *nodes = xstrdup(text);
    char *x = strpbrk(nodes, "xX");

    *ret_nodes = 1;
    if (x)
        *x = 0;
    if ((x && parse_u64(nodes, 1, LIMIT_NODES_PER_JOB, ret_nodes) < 0) ||
        parse_u64(x ? x + 1 : nodes, 1, LIMIT_PROCS_PER_NODE, ret_procs) < 0) {
        error_set(b->err, ACCEL_EINVAL,
                  "-j %s: not possible\nwhy: it is NODESxPROCS, such as 2x8\n"
                  "try: --nodes N --procs P",
                  quoted(b, text));
        return fail_with(b, EXIT_CODE_USAGE);
    }
    return 0;
}

/* "a,b" given any number of times, as one list without repetitions. */
static int build_names(struct builder *b, const struct opt_value *v, const char *option,
                       char ***ret_list, size_t *ret_count)
{
    size_t cap = 0;

    for (size_t i = 0; i < v->count; i++)
        for (const char *p = v->list[i]; p; p = strchr(p + 1, ','))
            cap++;
    char **list = ARENA_ARRAY(b->a, char *, cap + 1);
    *ret_list = list;
    for (size_t i = 0; i < v->count; i++) {
        char *rest = arena_strdup(b->a, v->list[i]), *one;
        while ((one = strsep(&rest, ","))) {
            bool is_there = false;
            if (!is_valid_name(one)) {
                error_set(b->err, ACCEL_EINVAL,
                          "--%s %s: not possible\nwhy: it is names of nodes with commas between\n"
                          "try: accelctl nodes",
                          option, quoted(b, v->list[i]));
                return fail_with(b, EXIT_CODE_USAGE);
            }
            for (size_t k = 0; k < *ret_count; k++)
                is_there |= strcmp(list[k], one) == 0;
            if (!is_there)
                list[(*ret_count)++] = one;
        }
    }
    return 0;
}

static int build_places(struct builder *b)
{
    Accel__V1__JobSpec *s = b->spec;
    int r = build_names(b, &b->o->v[OPT_NODELIST], "nodelist", &s->nodelist, &s->n_nodelist);

    return r == 0 ? build_names(b, &b->o->v[OPT_EXCLUDE], "exclude", &s->exclude, &s->n_exclude)
                  : r;
}

static int build_size(struct builder *b)
{
    const struct options *o = b->o;
    uint64_t total = o->v[OPT_NUM_PROCESSES].number;
    uint64_t nodes = option_given(o, OPT_NODES) ? o->v[OPT_NODES].number : 1;
    uint64_t procs = o->v[OPT_PROCS].number;

    if (option_given(o, OPT_NODES_BY_PROCS)) {
        int r = parse_nodes_by_procs(b, &nodes, &procs);
        if (r != 0)
            return r;
    }
    b->spec->nodes = (uint32_t)nodes;
    b->spec->procs_per_node = (uint32_t)procs;
    if (!option_given(o, OPT_NUM_PROCESSES) || procs > 0)
        return 0;
    if (total % nodes != 0 || total / nodes > LIMIT_PROCS_PER_NODE) {
        error_set(b->err, ACCEL_EINVAL,
                  "--num_processes %llu: not possible\nwhy: %llu nodes get the same number each, "
                  "at most %u\ntry: --procs N, which counts per node",
                  (unsigned long long)total, (unsigned long long)nodes, LIMIT_PROCS_PER_NODE);
        return fail_with(b, EXIT_CODE_USAGE);
    }
    b->spec->procs_per_node = (uint32_t)(total / nodes);
    return 0;
}

/* torchrun is itself one per node: what was meant for it becomes its own option. */
static bool is_torchrun(const struct options *o)
{
    static const char *const modules[] = {"torch.distributed.run", "torch.distributed.launch"};
    const char *name = o->arg_count ? o->args[0] : "";
    const char *slash = strrchr(name, '/');

    for (size_t i = 0; option_given(o, OPT_MODULE) && i < ARRAY_LEN(modules); i++) {
        if (strcmp(o->v[OPT_MODULE].text, modules[i]) == 0)
            return true;
    }
    return !option_given(o, OPT_MODULE) && strcmp(slash ? slash + 1 : name, "torchrun") == 0;
}

static void insert_arg(struct builder *b, size_t at, const char *text)
{
    Accel__V1__JobSpec *s = b->spec;

    add_arg(b, text);
    memmove(&s->argv[at + 1], &s->argv[at], (s->n_argv - 1 - at) * sizeof s->argv[0]);
    s->argv[at] = bytes_of(text);
}

/* `--procs 4 torchrun train.py`: one torchrun per node that starts four, with a GPU for each where
 * GPUs are asked for by the number of processes. */
static int build_torchrun(struct builder *b)
{
    Accel__V1__JobSpec *s = b->spec;
    uint32_t procs = s->procs_per_node;

    if (option_given(b->o, OPT_WRAP) || !is_torchrun(b->o))
        return 0;
    s->procs_per_node = 1;
    if (procs <= 1)
        return 0; /* one per GPU of the job: said by PET_NPROC_PER_NODE */
    insert_arg(b, option_given(b->o, OPT_MODULE) ? 3 : 1,
               arena_printf(b->a, "--nproc_per_node=%u", procs));
    if (s->device_kind == ACCEL__V1__DEVICE_KIND__DEVICE_GPU && s->gpus_per_node == 0)
        s->gpus_per_node = procs;
    return 0;
}

/* "gpu:2" of Slurm's --gres: no other resource is known here, and no model can be asked for. */
static int parse_gres(struct builder *b, uint64_t *ret_gpus)
{
    const char *text = b->o->v[OPT_GRES].text;
    bool is_gpu = strncmp(text, "gpu", 3) == 0 && (text[3] == ':' || text[3] == '\0');
    const char *count = text[3] == ':' ? text + 4 : "1";

    if (is_gpu && parse_u64(count, 1, LIMIT_PROCS_PER_NODE, ret_gpus) == 0)
        return 0;
    error_set(b->err, ACCEL_EINVAL, "--gres %s: not possible\nwhy: %s\ntry: --gpus N%s",
              quoted(b, text),
              is_gpu && strchr(count, ':') ? "it names a model, and nodes are not chosen by that"
                                           : "it is gpu:N, GPUs on each node",
              is_gpu && strchr(count, ':') ? " --nodelist A,B" : "");
    return fail_with(b, EXIT_CODE_USAGE);
}

/* Every option that names a kind has to name the same one. */
static int build_devices(struct builder *b)
{
    static const struct {
        enum opt_id id;
        Accel__V1__DeviceKind kind;
        const char *name;
    } words[] = {
        {OPT_GPUS, ACCEL__V1__DEVICE_KIND__DEVICE_GPU, "gpus"},
        {OPT_GRES, ACCEL__V1__DEVICE_KIND__DEVICE_GPU, "gres"},
        {OPT_MULTI_GPU, ACCEL__V1__DEVICE_KIND__DEVICE_GPU, "multi_gpu"},
        {OPT_TPUS, ACCEL__V1__DEVICE_KIND__DEVICE_TPU, "tpus"},
        {OPT_TPU, ACCEL__V1__DEVICE_KIND__DEVICE_TPU, "tpu"},
        {OPT_CPU, ACCEL__V1__DEVICE_KIND__DEVICE_CPU, "cpu"},
    };
    static const char *const names[] = {"auto", "CPU", "GPU",
                                        "TPU"}; /* as --devices and the enum */
    const struct options *o = b->o;
    uint32_t kind = (uint32_t)o->v[OPT_DEVICES].number;

    for (size_t i = 0; i < ARRAY_LEN(words); i++) {
        if (!option_given(o, words[i].id))
            continue;
        if (kind != ACCEL__V1__DEVICE_KIND__DEVICE_AUTO && kind != words[i].kind) {
            error_set(b->err, ACCEL_EINVAL,
                      "--%s and %s devices do not go together\nwhy: a job has one kind of device\n"
                      "try: leave one of them out",
                      words[i].name, names[kind]);
            return fail_with(b, EXIT_CODE_USAGE);
        }
        kind = words[i].kind;
    }
    b->spec->device_kind = (Accel__V1__DeviceKind)kind;
    uint64_t count = o->v[OPT_GPUS].number ? o->v[OPT_GPUS].number : o->v[OPT_TPUS].number;
    int r = option_given(o, OPT_GRES) && count == 0 ? parse_gres(b, &count) : 0;

    b->spec->gpus_per_node = (uint32_t)count;
    return r;
}

static void build_limits(struct builder *b)
{
    Accel__V1__Rlimit *all = ARENA_ARRAY(b->a, Accel__V1__Rlimit, RLIM_NLIMITS);
    Accel__V1__Rlimit **list = ARENA_ARRAY(b->a, Accel__V1__Rlimit *, RLIM_NLIMITS);
    size_t n = 0;

    for (int i = 0; i < RLIM_NLIMITS; i++) {
        struct rlimit lim;

        if (getrlimit(i, &lim) < 0)
            continue;
        all[n] = (Accel__V1__Rlimit)ACCEL__V1__RLIMIT__INIT;
        all[n].resource = (uint32_t)i;
        all[n].soft = lim.rlim_cur; /* RLIM_INFINITY is 2^64-1 here */
        all[n].hard = lim.rlim_max;
        list[n] = &all[n];
        n++;
    }
    b->spec->rlimits = list;
    b->spec->n_rlimits = n;
}

/* execve takes no string of LIMIT_ARG_BYTES with its NUL. */
static int check_lengths(struct builder *b)
{
    for (size_t i = 0; i < b->spec->n_argv; i++) {
        if (b->spec->argv[i].len + 1 > LIMIT_ARG_BYTES) {
            error_set(
                b->err, ACCEL_EINVAL,
                "argument %zu is too long: %zu bytes\n"
                "why: Linux passes a program no single argument of %d bytes or more\ntry: a file",
                i, b->spec->argv[i].len, LIMIT_ARG_BYTES);
            return fail_with(b, EXIT_CODE_USAGE);
        }
    }
    for (size_t i = 0; i < b->spec->n_env; i++) {
        const char *text = (const char *)b->spec->env[i].data;
        int len = (int)MIN(strcspn(text, "="), 100u);

        if (b->spec->env[i].len + 1 > LIMIT_ARG_BYTES) {
            error_set(
                b->err, ACCEL_EINVAL,
                "the environment variable %.*s is too long: %zu bytes\n"
                "why: Linux passes a program no single variable of %d bytes or more\ntry: unset "
                "%.*s",
                len, text, b->spec->env[i].len, LIMIT_ARG_BYTES, len, text);
            return fail_with(b, EXIT_CODE_USAGE);
        }
    }
    if (accel__v1__job_spec__get_packed_size(b->spec) > LIMIT_SPEC_BYTES) {
        error_set(b->err, ACCEL_EINVAL,
                  "arguments and environment are too long together\nwhy: they are above %u MiB\n"
                  "try: env -i, or a file",
                  LIMIT_SPEC_BYTES >> 20);
        return fail_with(b, EXIT_CODE_USAGE);
    }
    return 0;
}

static void build_rest(struct builder *b)
{
    const struct options *o = b->o;
    Accel__V1__JobSpec *s = b->spec;

    s->cwd = bytes_of(b->caller->cwd);
    s->umask = b->caller->umask;
    s->max_restarts = (uint32_t)o->v[OPT_MAX_RESTARTS].number;
    s->time_limit_ms = o->v[OPT_TIME].number;
    s->memory_bytes = o->v[OPT_MEM].number;
    s->cpus_per_proc = (uint32_t)o->v[OPT_CPUS].number;
    s->stop_grace_ms = o->v[OPT_GRACE].number;
    s->kill_on_disconnect = option_given(o, OPT_KILL_ON_DISCONNECT);
    s->launcher = (Accel__V1__Launcher)o->v[OPT_LAUNCHER].number; /* the same order */
    s->slurm_env = option_given(o, OPT_SLURM_ENV);
    if (b->is_launch) {
        s->want_stdin = b->caller->has_stdin;
        s->interactive = b->caller->has_stdin;
        build_limits(b);
    }
}

int spec_build(struct arena *a, const struct options *o, const struct spec_caller *caller,
               Accel__V1__JobSpec *ret_spec, int *ret_exit_code, struct accel_error *err)
{
    static int (*const steps[])(struct builder *) = {build_argv,    build_env,      build_name,
                                                     build_output,  build_size,     build_places,
                                                     build_devices, build_torchrun, check_lengths};
    struct builder b = {.a = a,
                        .o = o,
                        .caller = caller,
                        .spec = ret_spec,
                        .exit_code = ret_exit_code,
                        .err = err,
                        .is_launch = o->verb->id == VERB_LAUNCH};

    *ret_spec = (Accel__V1__JobSpec)ACCEL__V1__JOB_SPEC__INIT;
    for (size_t i = 0; i < ARRAY_LEN(steps); i++) {
        int r = steps[i](&b);

        if (r < 0)
            return r;
    }
    build_rest(&b);
    return 0;
}
