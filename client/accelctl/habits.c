/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The table of words from elsewhere and nothing else. options.c asks it for what to try in place of
 * a word that is not known, help.c prints the rows of Slurm. A word whose meaning is the same here
 * belongs into option_table.c, where it is taken.
 */
#include "client/accelctl/habits.h"

#include <string.h>

#define V(name) VERB_BIT(VERB_##name)
#define RUN     (V(LAUNCH) | V(SUBMIT))

struct habit {
    const char *theirs, *ours;
    uint32_t verbs; /* whose option it would be; 0: it is a verb */
    bool is_slurm;
};

static const struct habit habits[] = {
    {"sbatch", "submit", 0, true},
    {"srun", "launch --label", 0, true},
    {"salloc", "launch", 0, true},
    {"squeue", "ps -A", 0, true},
    {"sacct", "ps -aA", 0, true},
    {"scontrol", "describe", 0, true},
    {"attach", "logs -f", 0, false},
    {"apply", "submit", 0, false},
    {"delete", "cancel", 0, false},
    {"diagnose", "doctor", 0, false},
    {"enroll", "node token", 0, false},
    {"exec", "launch", 0, false},
    {"get", "ps", 0, false},
    {"history", "ps -a", 0, false},
    {"info", "describe", 0, false},
    {"inspect", "describe", 0, false},
    {"join", "node token", 0, false},
    {"login", "user cert", 0, false},
    {"rm", "cancel", 0, false},
    {"start", "submit", 0, false},
    {"status", "ps", 0, false},
    {"tail", "logs -f", 0, false},
    {"token", "node token", 0, false},
    {"top", "ps -w", 0, false},

    {"account", "nothing: nobody is billed", RUN, true},
    {"array", "a loop of accelctl submit", RUN, true},
    {"begin", "at TIME, a command of its own", RUN, true},
    {"chdir", "cd DIR before, or --sync DIR", RUN, true},
    {"constraint", "--nodelist A,B", RUN, true},
    {"dependency", "accelctl wait ID && accelctl submit", RUN, true},
    {"error", "--output, which takes stdout and stderr", RUN, true},
    {"exclusive", "--procs N, for all slots of a node", RUN, true},
    {"export", "--env K=V, or --pass-env K", RUN, true},
    {"gpus-per-task", "--gpus N, which counts on each node", RUN, true},
    {"mail-type", "accelctl wait ID && mail", RUN, true},
    {"mem-per-cpu", "--mem S, which counts on each node", RUN, true},
    {"mem-per-gpu", "--mem S, which counts on each node", RUN, true},
    {"nice", "nothing: first come, first served", RUN, true},
    {"no-requeue", "nothing: a job starts once unless --max-restarts N", RUN, true},
    {"open-mode", "nothing: the output of each attempt is kept", RUN, true},
    {"parsable", "nothing: submit prints the id only", RUN, true},
    {"partition", "--nodelist A,B", RUN, true},
    {"qos", "nothing: first come, first served", RUN, true},
    {"requeue", "--max-restarts N", RUN, true},
    {"signal", "--grace T: SIGTERM comes first, SIGKILL after T", RUN, true},
    {"G", "--gpus N, which counts on each node", RUN, true},
    {"D", "cd DIR before, or --sync DIR", RUN, true},
    {"a", "a loop of accelctl submit", RUN, true},
    {"d", "accelctl submit, which comes back at once", RUN, false},
    {"detach", "accelctl submit", RUN, false},
    {"cpus", "--cpus-per-task N", RUN, false},
    {"gpu", "--gpus N", RUN, false},
    {"num-nodes", "--nodes N", RUN, false},
    {"standalone", "nothing: each gang has a port of its own", RUN, false},
    {"workdir", "cd DIR before, or --sync DIR", RUN, false},

    {"me", "nothing: your jobs are listed", V(PS), true},
    {"long", "-o wide", V(PS), true},
    {"l", "-o wide", V(PS), true},
    {"jobs", "accelctl ps ID", V(PS), true},
    {"j", "accelctl ps ID", V(PS), true},
    {"start", "the column REASON says what a job waits for", V(PS), true},
    {"user", "--all, for all of yours", V(CANCEL), true},
    {"u", "--all, for all of yours", V(CANCEL), true},
    {"state", "--pending", V(CANCEL), true},
    {"signal", "--kill, for SIGKILL", V(CANCEL), true},
    {"s", "--kill, for SIGKILL", V(CANCEL), true},
    {"force", "--kill", V(CANCEL), false},
    {"f", "--kill", V(CANCEL), false},
    {"previous", "--attempt N", V(LOGS), false},
    {"p", "--attempt N", V(LOGS), false},
    {"container", "--rank N", V(LOGS), false},
};

static const struct habit *find(const char *name, uint32_t verb_bit)
{
    for (size_t i = 0; i < ARRAY_LEN(habits); i++) {
        const struct habit *h = &habits[i];

        if (strcmp(h->theirs, name) == 0 && (verb_bit ? (h->verbs & verb_bit) != 0 : h->verbs == 0))
            return h;
    }
    return NULL;
}

const char *habit_of_verb(const char *name)
{
    const struct habit *h = find(name, 0);

    return h ? h->ours : NULL;
}

const char *habit_of_option(enum verb_id verb, const char *name)
{
    const struct habit *h = find(name, VERB_BIT(verb));

    return h ? h->ours : NULL;
}

static void add_rows(struct str *out, uint32_t verbs, const char *ours_prefix)
{
    for (size_t i = 0; i < ARRAY_LEN(habits); i++) {
        const struct habit *h = &habits[i];
        const char *dashes = verbs == 0 ? "" : h->theirs[1] == '\0' ? "-" : "--";

        if (h->is_slurm && h->verbs == verbs)
            str_addf(out, "  %s%s%*s %s%s\n", dashes, h->theirs,
                     18 - (int)(strlen(dashes) + strlen(h->theirs)), "", ours_prefix, h->ours);
    }
}

void habits_add_help(struct str *out)
{
    str_adds(out,
             "For people who come from Slurm.\n\n"
             "Taken as they are: scancel and sinfo; of launch and submit -J, -N, -n, -c, -t, -o, "
             "-w,\n-x, --ntasks, --ntasks-per-node, --gres=gpu:N, --gpus-per-node, --mem, --time "
             "and the\npatterns %j, %x, %N, %u of --output; the states of squeue -t, as "
             "ps -s PD,R.\n\n"
             "What means something else:\n"
             "  --time 90          90 seconds; 90 minutes are 90m or 1:30:00\n"
             "  --mem 4000         too little: bytes; 4000M or 4G\n"
             "  --gpus N           on each node, not of the job\n"
             "  -p N               processes on each node; there are no partitions\n"
             "  #SBATCH lines      are not read\n\n"
             "Verbs:\n");
    add_rows(out, 0, "accelctl ");
    str_adds(out, "\nOptions of launch and submit:\n");
    add_rows(out, RUN, "");
    str_adds(out, "\nOptions of ps:\n");
    add_rows(out, V(PS), "");
    str_adds(out, "\nOptions of cancel:\n");
    add_rows(out, V(CANCEL), "");
    str_adds(out, "\nSLURM_* variables are set with --slurm-env.\n");
}
