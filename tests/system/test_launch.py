#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""accelctl launch as a user meets it: output, exit codes, stdin, labels, what a rank finds."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from accel_test import FIXTURES, Gate, check, check_equal, main, test  # noqa: E402


@test("a first launch with nothing running shows the output and ends with 0")
def first_launch(c):
    result = c.ok("launch", "echo", "hello", "world")
    check_equal(result.out, "hello world\n", "stdout")
    check_equal(result.err, "", "stderr")


@test("the exit code is the rank's, and 128 + N for a signal, with a table that names it")
def exit_codes(c):
    result = c.fails(3, "launch", "sh", "-c", "echo why it fails >&2; exit 3")
    check("why it fails\n" in result.err, "stderr is passed on: %s", result)
    check("exited with code 3" in result.err, "the report names the code: %s", result)
    check("<- failed first" in result.err, "the report has a table: %s", result)
    check("    why it fails" in result.err, "the report has the last lines: %s", result)
    result = c.fails(128 + 9, "launch", "sh", "-c", "kill -9 $$")
    check("signal 9" in result.err, "the report names the signal: %s", result)
    c.fails(255, "launch", "sh", "-c", "exit 255")


@test("the first failing rank decides, not the highest code nor the lowest rank")
def first_failing_rank(c):
    gate = c.gate("gate")
    script = ("if [ $RANK = 2 ]; then exit 7; fi; trap 'exit 143' TERM; read x < %s & wait" %
              gate.path)
    result = c.fails(7, "launch", "--procs", "4", "sh", "-c", script)
    check("rank 2 (pid " in result.err, "rank 2 is named: %s", result)
    job = c.describe(1)
    check_equal(job["attempts"][0]["first_failed_rank"], 2, "first_failed_rank")
    check_equal(job["exit_code"], 7, "exit_code")


@test("stdin goes to rank 0, however long it is, and its end comes through")
def stdin_to_rank_0(c):
    data = b"".join(b"line %06d\n" % i for i in range(40000))
    result = c.ok("launch", "cat", stdin=data)
    check(result.out.encode() == data, "cat gives back %d of %d bytes", len(result.out), len(data))
    result = c.ok("launch", "--procs", "2", "--label", "sh", "-c", "wc -l", stdin=b"a\nb\n")
    check_equal(sorted(result.out.split("\n")), ["", "[0] 2", "[1] 0"], "lines")


@test("a rank that does not read its stdin does not hold the launch up")
def stdin_unread(c):
    result = c.ok("launch", "true", stdin=b"x" * 3000000)
    check_equal(result.out, "", "stdout")


@test("stdin closed, or a file, or write-only")
def stdin_kinds(c):
    result = c.ok("launch", "cat", prefix=["sh", "-c", 'exec "$@" <&-', "sh"])
    check_equal(result.out, "", "stdout with a closed stdin")
    path = c.write("in.txt", "from a file\n")
    with open(path, "rb") as f:
        result = c.ok("launch", "cat", stdin=f)
    check_equal(result.out, "from a file\n", "stdout")
    result = c.ok("launch", "echo", "fine", prefix=["sh", "-c", 'exec "$@" <&- 2>&-', "sh"])
    check_equal(result.out, "fine\n", "stdout without stdin and stderr")


@test("--label shows every rank's lines whole, the default only the main rank's")
def labels(c):
    script = "for i in 1 2 3; do echo out $RANK $i; done; echo err $RANK >&2; printf tail$RANK"
    result = c.ok("launch", "--procs", "3", "--label", "sh", "-c", script)
    wanted = ["[%d] out %d %d" % (r, r, i) for r in range(3) for i in (1, 2, 3)]
    wanted += ["[%d] tail%d" % (r, r) for r in range(3)]
    check_equal(sorted(result.out.splitlines()), sorted(wanted), "labelled lines")
    for rank in range(3):
        mine = [line for line in result.out.splitlines() if line.startswith("[%d]" % rank)]
        check_equal(mine, [w for w in wanted if w.startswith("[%d]" % rank)], "order of a rank")
    check_equal(sorted(result.err.splitlines()), ["[%d] err %d" % (r, r) for r in range(3)],
                "stderr")
    result = c.ok("launch", "--procs", "3", "sh", "-c", script)
    check_equal(result.out, "out 0 1\nout 0 2\nout 0 3\ntail0", "stdout without --label")


def read_environments(c, procs, *options):
    c.ok("launch", "--procs", str(procs), *options, "sh", "-c", "env -0 > env.$RANK")
    ranks = []
    for rank in range(procs):
        with open(c.path("env.%d" % rank), "rb") as f:
            pairs = (item.partition(b"=") for item in f.read().split(b"\0") if item)
            ranks.append({os.fsdecode(k): os.fsdecode(v) for k, _, v in pairs})
    return ranks


@test("every rank finds what torch, torchelastic, Accelerate and MPI scripts look for")
def environment(c):
    ranks = read_environments(c, 2, "--max-restarts", "4", "--name", "env-job")
    port = ranks[0]["MASTER_PORT"]
    check(20000 <= int(port) <= 29999, "MASTER_PORT is %s", port)
    for rank, env in enumerate(ranks):
        wanted = {
            "RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2,
            "GROUP_RANK": 0, "GROUP_WORLD_SIZE": 1, "ROLE_RANK": rank, "ROLE_NAME": "default",
            "ROLE_WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
            "TORCHELASTIC_RUN_ID": 1, "TORCHELASTIC_RESTART_COUNT": 0,
            "TORCHELASTIC_MAX_RESTARTS": 4, "OMP_NUM_THREADS": 1, "ACCELERATE_USE_CPU": "true",
            "MPI_LOCALNRANKS": 2, "MPI_LOCALRANKID": rank, "MV2_COMM_WORLD_RANK": rank,
            "MV2_COMM_WORLD_SIZE": 2, "GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo",
            "TP_SOCKET_IFNAME": "lo", "PYTHONUNBUFFERED": 1, "ACCEL_JOB_ID": 1,
            "ACCEL_JOB_NAME": "env-job", "ACCEL_ATTEMPT": 1, "ACCEL_ATTEMPT_CAUSE": "none",
            "ACCEL_RANK": rank, "ACCEL_WORLD_SIZE": 2,
        }
        for name, value in wanted.items():
            check_equal(env.get(name), str(value), "%s of rank %d" % (name, rank))
        for name in ("PMI_RANK", "OMPI_COMM_WORLD_RANK", "SLURM_PROCID", "CUDA_VISIBLE_DEVICES"):
            check(name not in env, "rank %d has %s=%s", rank, name, env.get(name))


@test("launch passes environment, directory, umask and limits on, without an outer job's ranks")
def inheritance(c):
    outer = {"RANK": "5", "WORLD_SIZE": "9", "SLURM_PROCID": "3", "PMI_RANK": "1", "MINE": "a b=c",
             "OMP_NUM_THREADS": "3", "GLOO_SOCKET_IFNAME": "eth7", "EMPTY": ""}
    os.mkdir(c.path("deep"))
    script = ("umask; ulimit -n; pwd; echo $RANK $WORLD_SIZE \"$SLURM_PROCID$PMI_RANK\" $MINE "
              "$OMP_NUM_THREADS $GLOO_SOCKET_IFNAME ${EMPTY-unset}. $EXTRA "
              "$ACCELERATE_MIXED_PRECISION")
    result = c.ok("launch", "--procs", "1", "--env", "EXTRA=x=y", "--mixed_precision", "bf16",
                  "sh", "-c", script, env=outer, cwd=c.path("deep"),
                  prefix=["sh", "-c", 'umask 027; ulimit -n 333; exec "$@"', "sh"])
    check_equal(result.out.split("\n"), ["0027", "333", c.path("deep"),
                                         "0 1  a b=c 3 eth7 . x=y bf16", ""], "what sh sees")


@test("submit passes only the known variables and those named")
def submit_environment(c):
    outer = {"SECRET": "s", "NAMED": "n", "PYTHONPATH": "/py", "CONDA_PREFIX": "/conda"}
    job = c.submit("--pass-env", "NAMED", "--env", "SET=1", "sh", "-c",
                   "echo ${SECRET-none} $NAMED $PYTHONPATH $CONDA_PREFIX $SET", env=outer)
    c.wait(job, 0)
    check_equal(c.ok("logs", job).out, "none n /py /conda 1\n", "output")


@test("two jobs at once share neither a port nor a CPU slot")
def two_jobs(c):
    gates = [Gate(c.path("gate%d" % i)) for i in range(4)]
    jobs = [c.start("launch", "--procs", "4", "--devices", "cpu", "sh", "-c",
                    "[ $RANK != 0 ] || echo port $MASTER_PORT; read x < %s" % gate.path)
            for gate in gates]
    ports = [job.expect(r"port (\d+)").group(1) for job in jobs]
    check_equal(len(set(ports)), 4, "different ports in %s" % ports)
    used = [device for job in c.jobs() for rank in c.ranks(job["id"]) for device in rank["devices"]]
    check_equal(len(used), 16, "slots in use")
    check_equal(len(set(used)), 16, "different slots in %s" % used)
    for gate in gates:
        gate.open(4)
    for job in jobs:
        check_equal(job.finish().rc, 0, "exit code")


@test("a gang that does not fit waits, says why, and starts when there is room")
def waits_for_room(c):
    gate = c.gate("gate")
    first = c.submit("--procs", "12", "sh", "-c", "read x < %s" % gate.path)
    c.wait(first, running=True)
    second = c.submit("--procs", "5", "true")
    job = c.describe(second)
    check_equal(job["state"], "PENDING", "state of the second")
    check("4" in job["reason"] or "5" in job["reason"], "the reason has numbers: %r",
          job["reason"])
    third = c.submit("true")  # would fit, but first come first served
    check_equal(c.describe(third)["state"], "PENDING", "state of the third")
    gate.open(12)
    for job in (first, second, third):
        c.wait(job, 0)
    started = [c.describe(j)["started"] for j in (second, third)]
    check(started[0] <= started[1], "first come first served: %s", started)


@test(".py runs under the caller's python3, -m a module, --wrap a line, -- ends the options")
def program_kinds(c):
    fake = c.path("python3")
    c.write("python3", "#!/bin/sh\necho fake \"$@\"\n", 0o755)
    script = c.write("train.py", "import sys\nprint('real', sys.argv[1:])\n")
    result = c.ok("launch", script, "--procs", "9",
                  env={"PATH": c.work + ":/usr/bin:/bin"})
    check_equal(result.out, "fake %s --procs 9\n" % script, "the python3 of PATH")
    result = c.ok("launch", "--python", "/usr/bin/python3", script, "-x")
    check_equal(result.out, "real ['-x']\n", "--python")
    os.unlink(fake)
    result = c.ok("launch", "-m", "train", "--name", "y")
    check_equal(result.out, "real ['--name', 'y']\n", "-m")
    result = c.ok("launch", "--wrap", "echo one; echo two")
    check_equal(result.out, "one\ntwo\n", "--wrap")
    result = c.ok("launch", "--", "echo", "--procs")
    check_equal(result.out, "--procs\n", "--")


@test("what Accelerate users type is accepted")
def accelerate_spelling(c):
    result = c.ok("launch", "--num_processes", "2", "--num_machines", "1", "--cpu",
                  "--mixed_precision", "fp16", "--label", "sh", "-c",
                  "echo $WORLD_SIZE $ACCELERATE_USE_CPU $ACCELERATE_MIXED_PRECISION")
    check_equal(sorted(result.out.splitlines()), ["[0] 2 true fp16", "[1] 2 true fp16"], "output")


@test("as another user than root", uid=65534)
def as_nobody(c):
    result = c.ok("launch", "--procs", "2", "--label", "id", "-u")
    check_equal(sorted(result.out.splitlines()), ["[0] 65534", "[1] 65534"], "uids")
    job = c.describe(1)
    check_equal((job["uid"], job["user"]), (65534, "nobody"), "owner")
    for name in ("coordinator.sock", "start.lock"):
        info = os.stat(os.path.join(c.runtime, "accel", name))
        check_equal((info.st_uid, info.st_mode & 0o077), (65534, 0), "owner and mode of " + name)
    c.fails(9 + 128, "launch", "sh", "-c", "setsid sleep 1000 & kill -9 $$")


if __name__ == "__main__":
    main()
