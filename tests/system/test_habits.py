#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What people type who come from Slurm, kubectl, gh or docker: taken where it means the same, and
answered with what is meant where it does not."""
import os
import pty
import re
import select
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from accel_test import DEADLINE_S, ROOT, check, check_equal, main, test  # noqa: E402


def check_form(result, what):
    """What, why and try, each on a line of its own."""
    lines = result.err.splitlines()
    check(lines and lines[0].startswith("accelctl: error: "), "%s: %s", what, result)
    check(any(line.startswith("try: ") for line in lines[1:]), "%s says what to try: %s", what,
          result)


@test("ps: ids that are nobody's, states that are none, and states of other systems")
def ps(c):
    c.ok("launch", "true")
    c.fails(1, "launch", "false")
    one = c.fails(1, "ps", "-o", "name", "2", "77", "1", "78")
    check_equal(one.out, "2\n1\n", "those that are there")
    check("no job 77 of yours" in one.err, "the first that is not: %s", one)
    check_form(one, "ps 77")
    check_form(c.fails(1, "ps", "-A", "77"), "ps -A 77")
    check("no jobs" not in c.fails(1, "ps", "77").err, "one sentence is enough")
    check_equal(c.ok("ps", "-o", "name", "1", "1").out, "1\n1\n", "named twice")
    typo = c.fails(2, "ps", "-s", "pending,runing")
    check("runing" in typo.err and "try: --state RUNNING" in typo.err, "a suggestion: %s", typo)
    check_equal(c.ok("ps", "-o", "name", "-s", "completed,F").out, "1\n2\n", "Slurm's words")
    check_equal(c.ok("ps", "-o", "name", "--state", "timeout").out, "", "none of them")


@test("cancel: what cannot be ended is told with why and what to try")
def cancel(c):
    c.ok("launch", "true")
    ended = c.fails(1, "cancel", "1")
    check_form(ended, "cancel of an ended job")
    check("try: accelctl describe 1" in ended.err, "%s", ended)
    check_form(c.fails(1, "cancel", "99"), "cancel of no job")


@test("Slurm: what means the same is taken, what does not is answered, and a page tells both")
def slurm(c):
    out = c.ok("launch", "-n", "3", "-J", "three", "--label", "--wrap",
               "echo $WORLD_SIZE")
    check_equal(sorted(out.out.splitlines()), ["[%d] 3" % i for i in range(3)], "srun -n 3")
    check_equal(c.describe(1)["name"], "three", "-J")
    sleeping = c.submit("sh", "-c", "read x < %s" % c.gate("gate").path)
    c.wait(sleeping, running=True)
    c.ok("scancel", sleeping)
    c.wait(sleeping, 130)
    check_equal(c.ok("sinfo").out.splitlines()[0], c.ok("nodes").out.splitlines()[0], "sinfo")
    for line in (["sbatch", "x.sh"], ["launch", "-G", "2", "true"], ["ps", "-l"],
                 ["launch", "--gres", "gpu:a100:1", "true"], ["launch", "--mem", "4000", "true"]):
        check_form(c.fails(2, *line), line)
    page = c.ok("help", "slurm").out
    for word in ("sbatch", "--partition", "-n", "scancel"):
        check(word in page, "%s is on the page: %s", word, page)
    check(max(map(len, page.splitlines())) < 100, "width: %s", page)


def complete(c, *words):
    """What bash offers for the last word of a line, '=' being a word as readline has it."""
    script = ('eval "$("$0" completion bash)"; COMP_WORDS=("$0" "$@"); COMP_CWORD=$#; '
              '_accelctl && printf "%s\\n" "${COMPREPLY[@]}"')
    return c.run(*words, prefix=["bash", "-c", script]).out.split()


@test("completion bash: verbs, options, values, ids and nodes, and files after the program")
def completion(c):
    c.ok("launch", "true")
    node = c.ok("nodes", "-o", "name").out.strip()
    for words, offered in ((["des"], ["describe"]), (["--vers"], ["--version"]),
                           (["ps", "--js"], ["--json"]), (["ls", "--all-u"], ["--all-users"]),
                           (["ps", "-o", "j"], ["json"]), (["ps", "--output", "=", "ya"], ["yaml"]),
                           (["launch", "--launcher", "=", ""], ["auto", "jax", "mpi"]),
                           (["--color", "always", "ps", "--al"], ["--all", "--all-users"]),
                           (["launch", "--nodelist", ""], [node]), (["nodes", ""], [node]),
                           (["describe", ""], ["1"]), (["admin", "sn"], ["snapshot"]),
                           (["help", "sl"], ["slurm"]), (["logs", "--procs", ""], ["1"]),
                           (["completion", ""], ["bash", "zsh", "fish"])):
        check_equal(complete(c, *words), offered, "accelctl %s" % words)
    for words in (["launch", ""], ["launch", "--procs", "2", "train.py", "--vers"],
                  ["submit", "--output", ""], ["nosuch", "--vers"]):
        check_equal(complete(c, *words), [], "left to the shell: accelctl %s" % words)
    check_equal(c.ok("completion", "jobs").out, "1\n", "ids")
    check_form(c.fails(2, "completion", "tcsh"), "no such shell")


@test("completion starts nothing; each script is one of its shell")
def completion_scripts(c):
    c.counts_starts = False
    c.fails(5, "completion", "jobs")
    check_equal(c.processes(), {}, "processes after asking for ids")
    for shell, arguments in (("bash", ["-n"]), ("zsh", ["-n"]), ("fish", ["--no-execute"])):
        script = c.write("accelctl." + shell, c.ok("completion", shell).out)
        if shutil.which(shell):
            result = subprocess.run([shell, *arguments, script], capture_output=True, check=False)
            check_equal((result.returncode, result.stderr), (0, b""), shell)


@test("completion in a real bash: a key press ends the word")
def completion_live(c):
    c.counts_starts = False
    rc = c.write("rc", 'PS1="ready> "\neval "$(accelctl completion bash)"\n')
    c.write("train-me.py", "")
    pid, fd = pty.fork()
    if pid == 0:
        os.chdir(c.work)
        os.environ["PATH"] = c.bin + ":" + os.environ["PATH"]
        os.environ["TERM"] = "dumb"
        os.execvp("bash", ["bash", "--noprofile", "--rcfile", rc, "-i"])
    seen = b""
    try:
        for wanted, typed in ((b"ready> ", b"accelctl compl\t"), (b"completion ", b"ba\t"),
                              (b"completion bash ", b"\x15accelctl launch -p 2 trai\t"),
                              (b"train-me.py", b"\x15exit\n"), (b"exit", b"")):
            while wanted not in seen:
                check(select.select([fd], [], [], 60)[0], "nothing after %r", seen)
                seen += os.read(fd, 4096)
            os.write(fd, typed)
    finally:
        os.close(fd)
        os.waitpid(pid, 0)


@test("exit codes: help, the manual and README name the same, and they are what happens")
def exit_codes(c):
    told = set(re.findall(r"^  (\d+)(?:\+N)? ", c.ok("help", "exit-codes").out, re.M))
    check_equal(told, {"0", "1", "2", "4", "5", "124", "125", "126", "127", "128", "130"}, "help")
    with open(os.path.join(ROOT, "docs", "man", "accel-exit-codes.7"), encoding="utf-8") as f:
        check_equal(set(re.findall(r"^\.B (\d+)(?: \+ N)?$", f.read(), re.M)), told, "manual")
    with open(os.path.join(ROOT, "README.md"), encoding="utf-8") as f:
        rows = re.findall(r"^\| ([\d, -]+) \| ", f.read(), re.M)
    named = set(re.findall(r"\d+", " ".join(rows)))
    check(named >= told - {"1", "128"} | {"255"}, "README (1-255 are the rank's): %s", rows)
    script = c.write("not-executable", "#!/bin/sh\n")
    for code, words in ((0, ["launch", "true"]), (1, ["describe", "99"]), (2, ["launch", "-Z"]),
                        (5, ["ps", "--coordinator", "unix:" + c.path("nobody")]),
                        (124, ["launch", "--time", "200ms", "sleep", "1000"]),
                        (125, ["launch", "--gpus", "4000", "true"]), (126, ["launch", script]),
                        (127, ["launch", "no-such-program"]),
                        (137, ["launch", "--wrap", "kill -9 $$"]),
                        (3, ["launch", "--wrap", "exit 3"])):
        c.fails(code, *words)
    other = {"ACCEL_EXIT_ERROR": "99"}
    c.fails(99, "launch", "--gpus", "4000", "true", env=other)
    pending = c.submit("--procs", "16", "sleep", "1000")
    c.ok("cancel", "--kill", pending)
    c.fails(130, "wait", pending)


@test("what a shell would have taken is told how to be said; a broken first line and #SBATCH too")
def programs(c):
    c.write("job.sh", "#!/bin/sh\n#SBATCH -N 2\necho ran\n", mode=0o755)
    c.write("crlf.sh", "#!/bin/sh\r\necho ran\r\n", mode=0o755)
    c.write("gone.sh", "#!/no/such/shell -e\necho ran\n", mode=0o755)
    for code, word, wanted in (
            (127, "python train.py", "try: --wrap 'python train.py'"),
            (127, "A=1", "try: --env A=1"), (127, "cd", "try: --wrap 'cd ...'"),
            (127, "./no such", "try: --wrap './no such'"),
            (126, "./crlf.sh", "why: its lines end as those of Windows"),
            (126, "./gone.sh", "why: its first line names /no/such/shell, which is not there")):
        result = c.fails(code, "launch", word)
        check(wanted in result.err, "%s: %s", word, result)
        check_form(result, word)
    for words in (["./job.sh"], ["sh", "job.sh"]):
        result = c.ok("launch", *words)
        check("#SBATCH lines of" in result.err and result.out == "ran\n", "%s: %s", words, result)
    check_equal(c.ok("launch", "true").err, "", "nothing to say")


@test("every error says what to try, also those of the system and of limits")
def errors(c):
    c.counts_starts = False
    check_form(c.fails(2, "ps", "--coordinator", "unix:/" + "x" * 5000), "a long path")
    check_form(c.fails(2, "launch", "--sync", "nosuch", "true"), "a directory to send")
    result = c.fails(1, prefix=["bash", "-c", 'exec "$0" help > /dev/full'])
    check_form(result, "a full disk")
    check("why: No space left" in result.err and "make room" in result.err, "%s", result)
    c.counts_starts = True
    gate = c.gate("gate")
    lost = c.fails(1, "launch", "--wrap", "echo one; read x < %s" % gate.path,
                   prefix=["bash", "-c", 'exec "$0" "$@" > /dev/full'])
    check("job 1 goes on" in lost.err, "what became of the job: %s", lost)
    gate.open()
    c.wait("1", 0)


@test("too few files can be opened: each program says so at once")
def few_files(c):
    c.ok("ps")  # who looks at the end wants a coordinator
    where = ["--state-dir", os.path.join(c.dir, "few")]
    address = "unix:" + os.path.join(c.dir, "few.sock")
    for program, *words in (["accelctl", "ps", "--coordinator", address],
                            ["acceld", "--coordinator", address] + where,
                            ["accel-coordinator", "--listen", address] + where):
        for limit in range(4, 10):  # with 3 not even libc is found
            few = subprocess.run(
                ["prlimit", "--nofile=%d:%d" % (limit, limit), os.path.join(c.bin, program)] +
                words, cwd=c.work, env=c.env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE, timeout=DEADLINE_S, check=False)
            told = few.stderr.decode()
            check(few.returncode == 1 and "the limit of %d open files" % limit in told and
                  "try: ulimit -n" in told, "%s with %d: %s", program, limit, few)


@test("launch -v says once that a job waits, and for what")
def waits(c):
    gate = c.gate("gate")
    blocker = c.submit("--procs", "16", "sh", "-c", "read x < %s" % gate.path)
    c.wait(blocker, running=True)
    waiting = c.start("launch", "-v", "true")
    told = waiting.expect(r"job 2 waits.*").group(0)
    check_equal(told.count("waits"), 1, told)
    gate.open(16)
    check_equal(waiting.finish().rc, 0, "exit code")
    check("is starting 1 process on" in c.ok("events", "2").out, "one of them")
    c.wait(blocker, 0)
    check_equal(c.ok("-V").out, c.ok("--version").out, "-V")


if __name__ == "__main__":
    main()
