/* SPDX-License-Identifier: Apache-2.0 */
/*
 * accelctl: finds the verb and runs it. Everything that a verb does is in its own file; what they
 * share is in cli.h, session.h and attach.h. Must start in about 2 ms: nothing is loaded here that
 * a verb may not need.
 */
#include <fcntl.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "client/accelctl/cli.h"
#include "client/accelctl/help.h"
#include "common/loop.h"

static verb_function *const verbs[VERB_COUNT] = {
    [VERB_LAUNCH] = verb_launch,   [VERB_SUBMIT] = verb_submit,
    [VERB_PS] = verb_ps,           [VERB_DESCRIBE] = verb_describe,
    [VERB_LOGS] = verb_logs,       [VERB_WAIT] = verb_wait,
    [VERB_CANCEL] = verb_cancel,   [VERB_NODES] = verb_nodes,
    [VERB_EVENTS] = verb_events,   [VERB_HELP] = verb_help,
    [VERB_VERSION] = verb_version, [VERB_ADMIN] = verb_admin,
    [VERB_DOCTOR] = verb_doctor,   [VERB_NODE] = verb_node,
    [VERB_USER] = verb_user,       [VERB_COMPLETION] = verb_completion,
};

/* A closed stdout must not become the descriptor of a socket; a closed stdin stays recognisable
 * (write-only). SIGPIPE becomes an error of write, which cli_write turns into an exit. */
static void prepare_process(void)
{
    struct sigaction ignore = {.sa_handler = SIG_IGN};

    for (int fd = 0; fd < 3; fd++) {
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", fd == 0 ? O_WRONLY : O_RDWR) < 0)
            _exit(EXIT_CODE_FAILED);
    }
    sigaction(SIGPIPE, &ignore, NULL);
}

static void *json_malloc(size_t size)
{
    return xrealloc(NULL, size);
}

/* Memory that ends must end the command: half a JSON object would look like an answer. */
static void prepare_memory(void)
{
    loop_memory_prepare();
    json_set_alloc_funcs(json_malloc, free);
}

static int show_help(const struct verb *verb)
{
    AUTO_STR struct str out = {0};

    str_init(&out);
    if (verb)
        help_add_verb(&out, verb);
    else
        help_add_overview(&out);
    cli_write_str(STDOUT_FILENO, &out);
    return EXIT_CODE_OK;
}

static int run(struct cli *cli, int argc, char **argv)
{
    struct accel_error err = {0};
    int r = options_parse(argc, argv, &cli->opt, &err);
    const struct options *o = &cli->opt;
    const char *color = option_given(o, OPT_COLOR) ? o->v[OPT_COLOR].text : NULL;

    cli->use_color = color_is_wanted(color, isatty(STDOUT_FILENO));
    cli->use_color_stderr = color_is_wanted(color, isatty(STDERR_FILENO));
    cli->is_verbose = option_given(o, OPT_VERBOSE);
    if (r < 0) {
        cli_error_text(err.text);
        return EXIT_CODE_USAGE;
    }
    if (option_given(o, OPT_HELP))
        return show_help(o->verb);
    if (option_given(o, OPT_VERSION)) {
        cli_write(STDOUT_FILENO, "accelctl " ACCEL_VERSION "\n",
                  strlen("accelctl " ACCEL_VERSION "\n"));
        return EXIT_CODE_OK;
    }
    if (!o->verb) {
        cli_error_text("no verb\nwhy: accelctl does nothing by itself\ntry: accelctl help");
        return EXIT_CODE_USAGE;
    }
    return verbs[o->verb->id](cli);
}

int main(int argc, char **argv)
{
    struct cli cli = {0};
    int code;

    cli_argv = argv;
    prepare_process();
    prepare_memory();
    code = run(&cli, argc, argv);
    options_done(&cli.opt);
    return code;
}
