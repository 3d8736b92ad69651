/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `accelctl help`, --help and the man pages, all from the tables in option_table.c: examples first,
 * then the text, then the options. A word about an option is written once, there.
 */
#include "client/accelctl/help.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "client/accelctl/accelerate.h"
#include "client/accelctl/cli.h"
#include "client/accelctl/habits.h"

#define WRAP_COLUMNS 79

static const char topic_environment[] =
    "Variables that accelctl reads:\n"
    "  ACCEL_COORDINATOR   the coordinator, as --coordinator; unix:PATH or HOST[:PORT]\n"
    "  ACCEL_CREDENTIALS   the file of your key and certificate for one on another machine;\n"
    "                      else ~/.config/accel/credentials/HOST.pem\n"
    "  ACCEL_EXIT_ERROR    exit code in place of 125\n"
    "  ACCEL_IDLE_EXIT     seconds after which your own idle daemons exit; default 60\n"
    "  ACCEL_DEVICES       devices that your own node daemon offers, as acceld --devices\n"
    "  XDG_RUNTIME_DIR     where the socket of your own coordinator is, in accel/;\n"
    "                      else /run/accel-UID for root, /tmp/accel-UID for others\n"
    "  XDG_STATE_HOME      where its database and logs are, in accel/MACHINE-ID/;\n"
    "                      else ~/.local/state\n"
    "  NO_COLOR, CLICOLOR, CLICOLOR_FORCE, TERM\n"
    "                      colours, unless --color says otherwise\n"
    "\n"
    "Variables of a job: launch passes your whole environment; submit passes PATH, HOME,\n"
    "USER, LANG, VIRTUAL_ENV, CONDA_*, LD_LIBRARY_PATH and PYTHONPATH, and what --env and\n"
    "--pass-env name. Ranks, PMI and Slurm variables of another launcher are dropped.\n"
    "Processes find RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT and the rest of\n"
    "torchrun's; --launcher and --slurm-env add those of JAX, MPI and Slurm. All of them:\n"
    "docs/ENVIRONMENT.md, or accelctl launch --wrap env\n";

static const char topic_exit_codes[] =
    "  0        done\n"
    "  1        failed\n"
    "  2        wrong usage\n"
    "  4        not allowed\n"
    "  5        the coordinator cannot be reached\n"
    "  124      --timeout passed, or the job ran out of its time\n"
    "  125      accel could not run the job, or lost it; $ACCEL_EXIT_ERROR in its place\n"
    "  126      the program cannot be executed\n"
    "  127      the program was not found\n"
    "  128+N    ended by signal N\n"
    "  130      interrupted, or the job was cancelled\n"
    "\n"
    "launch, wait and submit --wait exit with the code of the rank that failed first.\n";

static void drop_blanks(struct str *out)
{
    while (out->len > 0 && out->data[out->len - 1] == ' ')
        out->data[--out->len] = '\0';
}

/* Text in lines of at most WRAP_COLUMNS, each begun with `indent` blanks; the first line goes on
 * at column `at`. */
static void add_wrapped(struct str *out, const char *text, int indent, int at)
{
    while (*text != '\0') {
        size_t word = strcspn(text, " \n");

        if (at + (int)word > WRAP_COLUMNS && at > indent) {
            drop_blanks(out);
            str_addf(out, "\n%*s", indent, "");
            at = indent;
        }
        str_add(out, text, word);
        at += (int)word;
        text += word;
        if (text[0] == '\n' && text[1] == '\n') {
            str_addf(out, "\n\n%*s", indent, "");
            at = indent;
            text += 2;
        } else if (*text != '\0') {
            if (at < WRAP_COLUMNS) {
                str_addc(out, ' ');
                at++;
            }
            text++;
        }
    }
    drop_blanks(out);
    str_addc(out, '\n');
}

/* "-p, --procs=N" */
static void add_option_name(struct str *out, const struct option_row *row)
{
    if (row->short_name)
        str_addf(out, "-%c, ", row->short_name);
    str_addf(out, "--%s", row->name);
    if (row->metavar)
        str_addf(out, "=%s", row->metavar);
}

static void add_help_text(struct str *out, const struct option_row *row)
{
    str_adds(out, row->help);
    if (row->aliases[0] != '\0') {
        str_adds(out, "; also --");
        for (const char *c = row->aliases; *c != '\0'; c++) {
            if (*c == ',')
                str_adds(out, ", --");
            else
                str_addc(out, *c);
        }
    }
}

static void add_options(struct str *out, uint32_t want_all, uint32_t bit)
{
    for (size_t i = 0; i < option_table_count; i++) {
        const struct option_row *row = &option_table[i];
        AUTO_STR struct str name = {0}, text = {0};

        if (row->is_hidden || !(row->verbs & bit) || (row->verbs == VERB_ALL) != want_all)
            continue;
        str_init(&name);
        str_init(&text);
        add_option_name(&name, row);
        add_help_text(&text, row);
        if (name.len > 26)
            str_addf(out, "  %s\n%*s", name.data, 30, "");
        else
            str_addf(out, "  %s%*s", name.data, 28 - (int)name.len, "");
        add_wrapped(out, text.data, 30, 30);
    }
}

/* Calls back with each "COMMAND\tWHAT" line. */
static void add_examples(struct str *out, const struct verb *verb)
{
    const char *p = verb->examples;

    while (*p != '\0') {
        size_t command = strcspn(p, "\t");
        size_t what = strcspn(p + command + 1, "\n");

        str_addf(out, "  %.*s\n", (int)command, p);
        str_addf(out, "      %.*s\n", (int)what, p + command + 1);
        p += command + 1 + what;
        p += *p == '\n';
    }
}

void help_add_verb(struct str *out, const struct verb *verb)
{
    str_addf(out, "accelctl %s - %s\n\nExamples:\n", verb->name, verb->summary);
    add_examples(out, verb);
    str_addf(out, "\nUsage: accelctl %s %s\n", verb->name, verb->usage);
    if (verb->aliases[0] != '\0')
        str_addf(out, "Also called: %s\n", verb->aliases);
    if (verb->text[0] != '\0') {
        str_addc(out, '\n');
        add_wrapped(out, verb->text, 0, 0);
    }
    str_adds(out, "\nOptions:\n");
    add_options(out, false, VERB_BIT(verb->id));
    add_options(out, true, VERB_BIT(verb->id));
}

void help_add_overview(struct str *out)
{
    str_adds(out,
             "accelctl - run training scripts here or on many machines, without a line changed\n\n"
             "Examples:\n");
    add_examples(out, &verb_table[VERB_LAUNCH]);
    str_adds(out, "\nUsage: accelctl VERB [options] ...\n\nVerbs:\n");
    for (size_t i = 0; i < VERB_COUNT; i++)
        str_addf(out, "  %-10s %s\n", verb_table[i].name, verb_table[i].summary);
    str_adds(out, "\nOptions of every verb:\n");
    add_options(out, true, VERB_BIT(VERB_HELP));
    str_adds(out,
             "\nMore: accelctl help VERB, accelctl help environment|accelerate|slurm|exit-codes\n");
}

bool help_add_topic(struct str *out, const char *topic)
{
    if (strcmp(topic, "environment") == 0)
        str_adds(out, topic_environment);
    else if (strcmp(topic, "accelerate") == 0)
        accelerate_add_help(out);
    else if (strcmp(topic, "slurm") == 0)
        habits_add_help(out);
    else if (strcmp(topic, "exit-codes") == 0)
        str_adds(out, topic_exit_codes);
    else
        return false;
    return true;
}

/* --- man pages --- */

/* Text for troff: backslashes, dashes and lines that begin with a control character. */
static void add_troff(struct str *out, const char *text, size_t len)
{
    bool at_start = out->len == 0 || out->data[out->len - 1] == '\n';

    for (size_t i = 0; i < len; i++) {
        if (at_start && (text[i] == '.' || text[i] == '\''))
            str_adds(out, "\\&");
        if (text[i] == '\\')
            str_adds(out, "\\e");
        else if (text[i] == '-')
            str_adds(out, "\\-");
        else
            str_addc(out, text[i]);
        at_start = text[i] == '\n';
    }
}

static void add_troff_text(struct str *out, const char *text)
{
    while (*text != '\0') {
        const char *end = strstr(text, "\n\n");
        size_t len = end ? (size_t)(end - text) : strlen(text);

        add_troff(out, text, len);
        str_addc(out, '\n');
        text += len;
        if (end) {
            str_adds(out, ".PP\n");
            text += 2;
        }
    }
}

static void add_troff_options(struct str *out, bool want_all, uint32_t bit)
{
    for (size_t i = 0; i < option_table_count; i++) {
        const struct option_row *row = &option_table[i];
        AUTO_STR struct str text = {0};

        if (row->is_hidden || !(row->verbs & bit) || (row->verbs == VERB_ALL) != want_all)
            continue;
        str_init(&text);
        str_adds(out, ".TP\n.B ");
        add_option_name(&text, row);
        add_troff(out, text.data, text.len);
        str_addc(out, '\n');
        str_clear(&text);
        add_help_text(&text, row);
        add_troff_text(out, text.data);
    }
}

static void add_troff_examples(struct str *out, const struct verb *verb)
{
    const char *p = verb->examples;

    while (*p != '\0') {
        size_t command = strcspn(p, "\t");
        size_t what = strcspn(p + command + 1, "\n");

        str_adds(out, ".TP\n.B ");
        add_troff(out, p, command);
        str_addc(out, '\n');
        add_troff(out, p + command + 1, what);
        str_addc(out, '\n');
        p += command + 1 + what;
        p += *p == '\n';
    }
}

static void add_man_head(struct str *out, const char *page, const char *summary)
{
    str_addf(out, ".TH %s 1 \"\" \"accel %s\" \"accel manual\"\n.SH NAME\n", page, ACCEL_VERSION);
    add_troff(out, page, strlen(page));
    str_adds(out, " \\- ");
    add_troff(out, summary, strlen(summary));
    str_addc(out, '\n');
}

static void add_man_overview(struct str *out)
{
    add_man_head(out, "accelctl",
                 "run training scripts here or on many machines, without a line changed");
    str_adds(out, ".SH SYNOPSIS\n.B accelctl\n.I VERB\n[options] ...\n.SH EXAMPLES\n");
    add_troff_examples(out, &verb_table[VERB_LAUNCH]);
    str_adds(out, ".SH VERBS\n");
    for (size_t i = 0; i < VERB_COUNT; i++) {
        str_addf(out, ".TP\n.BR accelctl\\-%s (1)\n", verb_table[i].name);
        add_troff_text(out, verb_table[i].summary);
    }
    str_adds(out, ".SH OPTIONS OF EVERY VERB\n");
    add_troff_options(out, true, VERB_BIT(VERB_HELP));
    str_adds(out, ".SH ENVIRONMENT\n.nf\n");
    add_troff(out, topic_environment, strlen(topic_environment));
    str_adds(out, ".fi\n.SH EXIT STATUS\n.nf\n");
    add_troff(out, topic_exit_codes, strlen(topic_exit_codes));
    str_adds(out, ".fi\n.SH SEE ALSO\n.BR accel\\-exit\\-codes (7)\n");
}

void help_add_man(struct str *out, const struct verb *verb)
{
    char page[64];

    if (!verb) {
        add_man_overview(out);
        return;
    }
    snprintf(page, sizeof page, "accelctl-%s", verb->name);
    add_man_head(out, page, verb->summary);
    str_addf(out, ".SH SYNOPSIS\n.B accelctl %s\n", verb->name);
    add_troff(out, verb->usage, strlen(verb->usage));
    str_adds(out, "\n.SH EXAMPLES\n");
    add_troff_examples(out, verb);
    if (verb->text[0] != '\0') {
        str_adds(out, ".SH DESCRIPTION\n");
        add_troff_text(out, verb->text);
    }
    str_adds(out, ".SH OPTIONS\n");
    add_troff_options(out, false, VERB_BIT(verb->id));
    add_troff_options(out, true, VERB_BIT(verb->id));
    str_adds(out, ".SH SEE ALSO\n.BR accelctl (1),\n.BR accel\\-exit\\-codes (7)\n");
}

int verb_help(struct cli *cli)
{
    AUTO_STR struct str out = {0};
    const struct options *o = &cli->opt;
    bool is_man = option_given(o, OPT_MAN);
    const struct verb *verb = o->arg_count > 0 ? verb_find(o->args[0]) : NULL;

    str_init(&out);
    if (o->arg_count > 0 && !verb && (is_man || !help_add_topic(&out, o->args[0]))) {
        AUTO_STR struct str text = {0};
        const char *near = verb_suggest(o->args[0]);

        str_init(&text);
        str_adds(&text, "no help about ");
        str_add_shell_quoted(&text, o->args[0], MIN(strlen(o->args[0]), 100u));
        str_addf(&text, "\nwhy: it is no verb and no topic\ntry: accelctl help%s%s",
                 near ? " " : "", near ? near : "");
        cli_error_text(text.data);
        return EXIT_CODE_USAGE;
    }
    if (is_man)
        help_add_man(&out, verb);
    else if (verb)
        help_add_verb(&out, verb);
    else if (out.len == 0)
        help_add_overview(&out);
    cli_write_str(STDOUT_FILENO, &out);
    return EXIT_CODE_OK;
}
