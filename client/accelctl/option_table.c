/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The table of verbs and options, and nothing else. options.c parses by it, help.c writes the help
 * and the man pages from it. A new option is a row here and its use in the verb; nothing else must
 * be touched.
 */
#include "client/accelctl/options.h"

#include "common/limits.h"

#define V(name) VERB_BIT(VERB_##name)
#define RUN     (V(LAUNCH) | V(SUBMIT))
/* Below, not even the process that starts the workers lives: who types less forgot the unit. */
#define MEM_MIN_BYTES (1u << 20)
#define LISTS         (V(PS) | V(DESCRIBE) | V(NODES) | V(EVENTS) | V(DOCTOR) | V(NODE) | V(USER))

/* The man pages and --help begin with the examples, then this text, then the options. */
const struct verb verb_table[VERB_COUNT] = {
    {VERB_LAUNCH, "launch", "run", "[options] [--] program [args]",
     "run a program here and now and stay attached to it",
     "Runs the program as a gang of --procs workers, all started together or not at all, and "
     "shows the output of the "
     "main rank. A .py file runs under the python3 of your PATH. The job gets this directory, "
     "environment, umask and "
     "limits. The exit code is that of the first rank that failed (128 + N for signal N).\n\n"
     "Ctrl-C is passed to every rank; a second one within 2 seconds cancels the job. When the "
     "terminal goes away, or "
     "accelctl is killed, the job goes on (see --kill-on-disconnect); `accelctl logs -f ID` "
     "attaches to its output "
     "again.\n\n"
     "Options of `accelerate launch` are taken too and set its variables for the job; "
     "`accelctl help accelerate` lists them.\n\n"
     "Options end at the program: what follows belongs to it.",
     "accelctl launch train.py --epochs 3\tone process here, or one per GPU with --devices gpu\n"
     "accelctl launch --procs 2 --devices cpu train.py\ttwo ranks on CPU slots\n"
     "accelctl launch --gpus 4 --max-restarts 3 train.py\tstart again, up to three times, if a "
     "rank fails\n"
     "accelctl launch --procs 4 --label -m my.pkg.train\ta module; the lines of all ranks, with "
     "their rank\n"
     "accelctl launch --wrap 'hostname; nvidia-smi -L'\ta line for the shell\n",
     true},
    {VERB_SUBMIT, "submit", "", "[options] [--] program [args]",
     "put a job into the queue and print its id",
     "Like launch, but comes back at once: the only output is the job's id. The environment of "
     "the job is PATH, HOME, "
     "USER, LANG, VIRTUAL_ENV, CONDA_*, LD_LIBRARY_PATH and PYTHONPATH of yours and what --env "
     "and --pass-env name.",
     "id=$(accelctl submit --procs 2 train.py)\tremember the id\n"
     "accelctl submit --time 4h --output 'out/%x-%j.out' train.py\twith a time limit and an "
     "output file\n"
     "accelctl submit --pass-env HF_TOKEN --wait train.py\twait for the end; the exit code is "
     "the job's\n",
     true},
    {VERB_PS, "ps", "list,ls,jobs,queue", "[options] [ID...]", "list jobs",
     "Lists your jobs that have not ended; -a lists the ended ones too, -A those of all users.\n\n"
     "With -w a terminal shows the list anew whenever something happens, also jobs that ended "
     "meanwhile. A file or a pipe gets the rows that changed; with -o json, an object a line.",
     "accelctl ps\tmy jobs\n"
     "accelctl ps -a --since -1d\teverything of the last day\n"
     "accelctl ps -w\tas it changes\n"
     "accelctl ps --json id,state\ttwo fields for a script\n",
     false},
    {VERB_DESCRIBE, "describe", "show", "[options] ID...", "show everything about a job",
     "Shows the job, its attempts and their ranks: pids, devices, exit codes, files of their "
     "output, why they ended.",
     "accelctl describe 12\tfor people\n"
     "accelctl describe 12 -o json\tfor programs; see docs/CLI.md for the fields\n",
     false},
    {VERB_LOGS, "logs", "log", "[options] ID", "show the output of a job",
     "Shows stdout and stderr of the ranks of the current or last attempt; with more than one "
     "rank each line begins "
     "with its rank.",
     "accelctl logs 12\twhat there is\n"
     "accelctl logs -f 12\tfollow until the job has ended\n"
     "accelctl logs -n 20 --rank 0,3 --stderr 12\tthe last 20 lines of stderr of two ranks\n"
     "accelctl logs --attempt 1 12\twhat the first attempt wrote\n",
     false},
    {VERB_WAIT, "wait", "", "[options] ID...", "wait for jobs",
     "Waits until every job has ended (or runs, with --for=running). The exit code is that of "
     "the first job given that "
     "did not end well; 124 if --timeout passed.",
     "accelctl wait 12\tuntil it has ended\n"
     "accelctl wait --for=running --timeout 10m 12\tuntil it runs, ten minutes at most\n",
     false},
    {VERB_CANCEL, "cancel", "stop,kill,scancel", "[options] ID...", "end jobs",
     "Ranks get SIGTERM, and SIGKILL after the job's grace. Asks first when more than one job "
     "would end and this is a "
     "terminal.",
     "accelctl cancel 12\tone job\n"
     "accelctl cancel --all --yes\tall of mine\n",
     false},
    {VERB_NODES, "nodes", "sinfo", "[options] [NAME...]", "list nodes and their devices", "",
     "accelctl nodes\tthe nodes\n"
     "accelctl nodes -o wide\twith every device and who uses it\n",
     false},
    {VERB_EVENTS, "events", "event", "[options] [ID]", "show what happened",
     "Shows the history of the cluster, or of one job, oldest first.",
     "accelctl events 12\tof one job\n"
     "accelctl events -w -o json\tfollow; one JSON object a line\n"
     "accelctl events --since -1h\tof the last hour\n",
     false},
    {VERB_VERSION, "version", "", "[options]",
     "show the version of accelctl and of the coordinator, if it runs", "",
     "accelctl version -o json\tfor programs\n", false},
    {VERB_HELP, "help", "", "[VERB | environment | accelerate | slurm | exit-codes]", "show help",
     "",
     "accelctl help launch\tabout a verb\n"
     "accelctl help exit-codes\twhat exit codes mean\n",
     false},
    {VERB_ADMIN, "admin", "", "{status | snapshot FILE | backup FILE | check | shutdown}",
     "look after the coordinator",
     "status: what it does and how well its store is.\n\n"
     "snapshot FILE: a consistent copy of the database, to look into with sqlite3. backup FILE: "
     "the same, made durable "
     "before the command returns. FILE must not exist.\n\n"
     "check: looks for damage in the store; exit code 1 if there is any.\n\n"
     "shutdown: a planned stop of the coordinator; running work goes on.",
     "accelctl admin status\thow it is\n"
     "accelctl admin snapshot /tmp/accel.db\tthen: sqlite3 /tmp/accel.db 'select * from jobs'\n",
     false},
    {VERB_DOCTOR, "doctor", "check", "[options]", "look for what is missing or wrong",
     "Looks at directories, sockets, the coordinator and its clock, nodes and their devices, "
     "certificates, cgroups and limits. Starts nothing and changes nothing. The exit code is 1 if "
     "a finding is BAD.",
     "accelctl doctor\tfor people\n"
     "accelctl doctor -o json\tfor programs, and for a bug report\n",
     false},
    {VERB_NODE, "node", "", "{token | remove NAME | ls}", "let nodes in, and take them out",
     "token: prints an enrolment token, which lets one machine join the cluster once. It is a "
     "secret: hand it over as one.\n\n"
     "remove NAME: revokes the node's certificates, ends its session, and forgets it. What runs "
     "there is lost, and started again elsewhere.\n\n"
     "ls: the same as `accelctl nodes`.",
     "accelctl node token > token\tthen, on the other machine: acceld --join - <token\n"
     "accelctl node token --expires 10m\tfor the next ten minutes\n"
     "accelctl node token --count 40 > tokens\tfor forty machines, a line each\n"
     "accelctl node remove n7\tit is broken, or not trusted any more\n",
     false},
    {VERB_USER, "user", "", "{cert NAME | revoke NAME | role NAME ROLE | ls}",
     "certificates and roles of people",
     "cert NAME: makes a key and a certificate, with which NAME may call the coordinator from "
     "other machines. A job belongs to the name.\n\n"
     "revoke NAME: what was made by cert is good for nothing from now on, and the role is user "
     "again.\n\n"
     "role NAME ROLE: an operator sees and ends everybody's jobs; an admin has those rights and "
     "those over nodes, users and the store. root and the coordinator's own user are admins.",
     "accelctl user cert ann --out ann.pem\ta file for ann\n"
     "accelctl user role ann operator\tshe looks after the others' jobs\n"
     "accelctl user revoke ann\tshe has left, or lost the file\n",
     false},
    {VERB_COMPLETION, "completion", "", "{bash | zsh | fish}",
     "write a script that lets a shell complete what you type",
     "Verbs, options and their values, ids of jobs and names of nodes. `meson install` puts these "
     "scripts where the shells look.",
     "eval \"$(accelctl completion bash)\"\tfor this shell\n"
     "accelctl completion zsh > ~/.zfunc/_accelctl\twhere ~/.zfunc is in fpath\n"
     "accelctl completion fish | source\tfor fish\n",
     false},
};

#define FLAG                      OPT_TYPE_FLAG, NULL, NULL, 0, 0
#define TEXT(metavar)             OPT_TYPE_TEXT, metavar, NULL, 0, 0
#define LIST(metavar)             OPT_TYPE_LIST, metavar, NULL, 0, 0
#define NUMBER(metavar, min, max) OPT_TYPE_NUMBER, metavar, NULL, min, max
#define CHOICE(choices)           OPT_TYPE_CHOICE, choices, choices, 0, 0

const struct option_row option_table[] = {
    {OPT_PROCS, "procs", 'p', "nproc-per-node,nproc,ntasks-per-node",
     NUMBER("N", 1, LIMIT_PROCS_PER_NODE), RUN,
     "processes on each node; default: one per GPU of the job, else 1"},
    {OPT_NUM_PROCESSES, "num-processes", 'n', "ntasks",
     NUMBER("N", 1, LIMIT_PROCS_PER_NODE *LIMIT_NODES_PER_JOB), RUN,
     "processes on all nodes together (as Accelerate and Slurm count)"},
    {OPT_NODES, "nodes", 'N', "num-machines,nnodes", NUMBER("N", 1, LIMIT_NODES_PER_JOB), RUN,
     "nodes; default 1"},
    {OPT_NODES_BY_PROCS, "nodes-by-procs", 'j', "", TEXT("NxP"), RUN,
     "N nodes with P processes each (TorchX's spelling of --nodes N --procs P)"},
    {OPT_NODELIST, "nodelist", 'w', "", LIST("A,B"), RUN, "use these nodes only; repeatable"},
    {OPT_EXCLUDE, "exclude", 'x', "", LIST("A,B"), RUN, "use none of these nodes; repeatable"},
    {OPT_DEVICES, "devices", 0, "", CHOICE("auto|cpu|gpu|tpu"), RUN,
     "what a process gets: a CPU slot, a GPU, TPU chips, or a GPU or TPU chips where there are any "
     "(auto, the default)"},
    {OPT_GPUS, "gpus", 'g', "gpus-per-node", NUMBER("N", 1, LIMIT_PROCS_PER_NODE), RUN,
     "GPUs on each node; default: one per process"},
    {OPT_GRES, "gres", 0, "", TEXT("gpu:N"), RUN, "the same as --gpus N (Slurm's spelling)"},
    {OPT_CPU, "cpu", 0, "use-cpu", FLAG, RUN, "the same as --devices cpu (Accelerate's spelling)"},
    {OPT_MULTI_GPU, "multi-gpu", 0, "", FLAG, RUN,
     "the same as --devices gpu (Accelerate's spelling)"},
    {OPT_TPUS, "tpus", 0, "tpus-per-node", NUMBER("N", 1, LIMIT_PROCS_PER_NODE), RUN,
     "TPU chips on each node; default: all that it has. They go to one process unless --procs "
     "splits them"},
    {OPT_TPU, "tpu", 0, "", FLAG, RUN, "the same as --devices tpu (Accelerate's spelling)"},
    {OPT_MIXED_PRECISION, "mixed-precision", 0, "", CHOICE("no|fp16|bf16|fp8"), RUN,
     "sets ACCELERATE_MIXED_PRECISION for the job"},
    {OPT_LAUNCHER, "launcher", 0, "", CHOICE("auto|jax|mpi"), RUN,
     "what the processes find besides torch's variables: nothing more (auto), what JAX, or what an "
     "MPI program without mpiexec needs"},
    {OPT_SLURM_ENV, "slurm-env", 0, "", FLAG, RUN,
     "set SLURM_* too, as srun does, for scripts that look for nothing else"},
    {OPT_MAX_RESTARTS, "max-restarts", 'r', "", NUMBER("N", 0, LIMIT_RESTARTS), RUN,
     "start the gang again up to N times when a rank fails; default 0"},
    {OPT_TIME, "time", 't', "", OPT_TYPE_DURATION, "T", NULL, 1, UINT64_MAX, RUN,
     "end the job after T (90 or 90s, 30m, 1h30m, 4:00:00, 2-00:00:00), counted from its first "
     "start"},
    {OPT_MEM, "mem", 0, "memory", OPT_TYPE_BYTES, "S", NULL, MEM_MIN_BYTES, UINT64_MAX, RUN,
     "memory on each node (512M, 1.5G; powers of 1024); the job is killed beyond it"},
    {OPT_CPUS, "cpus-per-task", 'c', "cpus-per-proc", OPT_TYPE_NUMBER, "N", NULL, 1, 65536, RUN,
     "CPU time of N CPUs for each process, and no more; default: no limit"},
    {OPT_ENV, "env", 'e', "", LIST("K=V"), RUN,
     "set a variable for the job; K alone passes your value on; repeatable"},
    {OPT_PASS_ENV, "pass-env", 0, "", LIST("K"), RUN,
     "pass your value of this variable on; repeatable"},
    {OPT_NAME, "name", 'J', "job-name", TEXT("S"), RUN,
     "name of the job; default: that of the program"},
    {OPT_OUTPUT_PATTERN, "output", 'o', "", TEXT("PATTERN"), RUN,
     "copy output to a file too, that of rank 0 unless PATTERN has %r: %j job id, %x name, %r "
     "rank, %A attempt, %N node, %u user, %% percent"},
    {OPT_PYTHON, "python", 0, "", TEXT("P"), RUN, "run scripts and modules under this interpreter"},
    {OPT_MODULE, "module", 'm', "", TEXT("MODULE"), RUN,
     "run a Python module; what follows are its arguments"},
    {OPT_WRAP, "wrap", 0, "", TEXT("LINE"), RUN, "run a line of shell instead of a program"},
    {OPT_SYNC, "sync", 0, "workdir-sync", TEXT("DIR"), RUN,
     "send this directory along: the job runs in a copy of it on every node, and paths into it are "
     "moved there; without it, paths must be shared between the nodes"},
    {OPT_SYNC_EXCLUDE, "sync-exclude", 0, "", LIST("PATTERN"), RUN,
     "leave these files out (tar's patterns; DIR/.accelignore has more, one a line); repeatable"},
    {OPT_LABEL, "label", 'l', "label-io", FLAG, V(LAUNCH) | V(LOGS),
     "show the lines of all ranks, each with its rank in front"},
    {OPT_KILL_ON_DISCONNECT, "kill-on-disconnect", 0, "", FLAG, V(LAUNCH),
     "cancel the job when the terminal or accelctl goes away"},
    {OPT_GRACE, "grace", 0, "", OPT_TYPE_DURATION, "T", NULL, 1, UINT64_MAX, RUN,
     "time between SIGTERM and SIGKILL when the job is stopped on request; default 30s"},
    {OPT_WAIT, "wait", 'W', "", FLAG, V(SUBMIT), "wait for the end; the exit code is the job's"},

    {OPT_FORMAT, "output", 'o', "format", CHOICE("table|wide|json|yaml|name"),
     LISTS | V(VERSION) | V(ADMIN), "form of the output"},
    {OPT_JSON, "json", 0, "", TEXT("F1,F2"), LISTS, "JSON with these fields only"},
    {OPT_UTC, "utc", 0, "absolute", FLAG, LISTS, "show times as UTC timestamps, not as ages"},
    {OPT_ALL_STATES, "all", 'a', "", FLAG, V(PS), "ended jobs too"},
    {OPT_ALL_USERS, "all-users", 'A', "", FLAG, V(PS), "jobs of all users"},
    {OPT_USER, "user", 'u', "", TEXT("USER"), V(PS), "jobs of this user"},
    {OPT_STATE, "state", 's', "", TEXT("STATE"), V(PS),
     "jobs in these states or with these results, comma separated"},
    {OPT_SINCE, "since", 0, "", TEXT("WHEN"), V(PS) | V(EVENTS),
     "not older than this: 1h or -1h (ago), 2026-11-20, 2026-11-20T08:00 (UTC)"},
    {OPT_FOLLOW, "follow", 'f', "", FLAG, V(LOGS), "wait for more until the job has ended"},
    {OPT_LINES, "lines", 'n', "tail", NUMBER("N", 0, 1000000), V(LOGS) | V(EVENTS),
     "only the last N (lines of each stream, or events)"},
    {OPT_RANK, "rank", 0, "ranks", TEXT("0,3|all"), V(LOGS), "only these ranks"},
    {OPT_ATTEMPT, "attempt", 0, "", NUMBER("N", 1, UINT32_MAX), V(LOGS),
     "of this attempt; default: the last"},
    {OPT_STDOUT, "stdout", 0, "", FLAG, V(LOGS), "only stdout"},
    {OPT_STDERR, "stderr", 0, "", FLAG, V(LOGS), "only stderr"},
    {OPT_FOR, "for", 0, "", CHOICE("done|running"), V(WAIT), "what to wait for"},
    {OPT_TIMEOUT, "timeout", 0, "", OPT_TYPE_DURATION, "T", NULL, 0, UINT64_MAX, V(WAIT),
     "give up after T with exit code 124"},
    {OPT_ALL_MINE, "all", 'a', "", FLAG, V(CANCEL), "every job of mine that has not ended"},
    {OPT_PENDING, "pending", 0, "", FLAG, V(CANCEL), "only those that have not started"},
    {OPT_KILL, "kill", '9', "", FLAG, V(CANCEL), "SIGKILL at once, no grace"},
    {OPT_YES, "yes", 'y', "", FLAG, V(CANCEL), "do not ask"},
    {OPT_WATCH, "watch", 'w', "follow", FLAG, V(EVENTS) | V(PS),
     "go on, with what comes, until interrupted"},
    {OPT_NODE, "node", 0, "", TEXT("NAME"), V(EVENTS), "only of this node"},
    {OPT_EXPIRES, "expires", 0, "", OPT_TYPE_DURATION, "T", NULL, 1, LIMIT_TOKEN_MAX_MS, V(NODE),
     "the token is good for so long; default 1h"},
    {OPT_TOKENS, "count", 0, "", OPT_TYPE_NUMBER, "N", NULL, 1, LIMIT_TOKENS, V(NODE),
     "so many tokens, one a line, for a machine each; default 1"},
    {OPT_ROLE, "role", 0, "", CHOICE("user|operator|admin"), V(USER),
     "of a new user; default: as it is, else user"},
    {OPT_OUT, "out", 0, "", TEXT("FILE"), V(USER), "where to write it; default NAME.pem"},
    {OPT_MAN, "man", 0, "", FLAG, V(HELP), "print the man page (troff) instead", true},

    {OPT_COORDINATOR, "coordinator", 0, "", TEXT("ADDRESS"), VERB_ALL,
     "the coordinator to talk to, unix:PATH or HOST[:PORT]; default: $ACCEL_COORDINATOR, else the "
     "system's, else your own, started when needed"},
    {OPT_COLOR, "color", 0, "colour", CHOICE("auto|always|never"), VERB_ALL,
     "colours on a terminal"},
    {OPT_VERBOSE, "verbose", 'v', "", FLAG, VERB_ALL, "tell more on stderr"},
    {OPT_HELP, "help", 'h', "", FLAG, VERB_ALL, "show help"},
    {OPT_VERSION, "version", 'V', "", FLAG, VERB_ALL, "show the version"},
};
const size_t option_table_count = ARRAY_LEN(option_table);
