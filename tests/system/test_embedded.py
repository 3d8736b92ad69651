#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The daemons that accelctl starts by itself: one pair, whatever lies in the way, until idle."""
import os
import random
import shutil
import signal
import socket
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from accel_test import (Cluster, check, check_equal, main, test, wait_pid_gone)  # noqa: E402


@test("ten commands at once start one pair of daemons")
def racing(c):
    verbs = [("launch", "echo", "hi"), ("ps",), ("nodes",), ("submit", "true"), ("events",)] * 2
    commands = [c.start(*verb) for verb in verbs]
    for command in commands:
        result = command.finish()
        check_equal(result.rc, 0, str(result))
    check_equal(c.daemons(), ["accel-coordinator", "accel-spawn", "acceld"], "daemons")


@test("any verb starts them, version and help do not")
def any_verb(c):
    for verb in (["version"], ["help"], ["help", "launch"], ["version", "-o", "json"]):
        c.ok(*verb)
    check_equal(c.processes(), {}, "daemons after version and help")
    c.fails(5, "admin", "status")
    for verb in (["ps"], ["nodes"], ["events"], ["describe", "7"], ["logs", "7"], ["wait", "7"],
                 ["cancel", "7"], ["admin", "check"]):
        other = Cluster()
        try:
            result = other.run(*verb)
            wanted = 0 if verb[0] in ("ps", "nodes", "events", "admin") else 1
            check_equal(result.rc, wanted, str(result))
            if wanted:
                check("7" in result.err, "the error names the job: %s", result)
            other.status()
        finally:
            other.close(failed=True)
            shutil.rmtree(other.dir, ignore_errors=True)
    c.counts_starts = False


@test("a stale socket and locks with the pids of others are no obstacle")
def stale_files(c):
    folder = os.path.join(c.runtime, "accel")
    os.mkdir(folder, 0o700)
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(os.path.join(folder, "coordinator.sock"))
    stale.close()
    c.ok("launch", "true")
    pids = c.coordinator(), c.acceld()
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        wait_pid_gone(pid)
    for name in ("coordinator/lock", "coordinator/accel.db.lock", "node/lock"):
        with open(c.state(name), "w") as f:
            f.write("1 %s/coordinator.sock\n" % folder)
    c.coordinator_starts += 1
    c.agent_starts += 1
    result = c.ok("launch", "echo", "again")
    check_equal(result.out, "again\n", "stdout")
    check_equal(len(c.jobs("-a")), 2, "jobs that are known")


@test("a node daemon that cannot start: launch says why, takes its job back and ends")
def no_node(c):
    c.ok("launch", "true")
    acceld, seen = c.acceld(), c.state("node", "seen")
    os.kill(acceld, signal.SIGTERM)
    wait_pid_gone(acceld)
    with open(seen) as f:
        good = f.read()
    with open(seen, "w") as f:
        f.write("nonsense\n")
    result = c.fails(5, "launch", "true")
    check("acceld) did not start" in result.err and seen in result.err, "why: %s", result)
    check_equal([(job["state"], job["result"]) for job in c.jobs("-a")],
                [("ENDED", "succeeded"), ("ENDED", "cancelled")], "jobs")
    with open(seen, "w") as f:
        f.write(good)
    check_equal(c.ok("launch", "echo", "here").out, "here\n", "the next")
    c.counts_starts = False


@test("a coordinator that dies while commands come in: each of them gets its answer")
def dies_under_commands(c):
    for _ in range(3):
        c.ok("ps")  # it serves: one killed while it starts has not started, and that is told
        commands = [c.start("submit", "true") for _ in range(4)]
        c.kill_coordinator()
        for command in commands:
            result = command.finish()
            check_equal(result.rc, 0, str(result))
    c.ok("ps")
    check_equal(len(c.jobs("-a")), 12, "jobs")
    c.counts_starts = False  # racing with the kill they may be one more


def run_as_stranger(uid, body):
    """A user that has no directory of its own: the daemons' files are in /tmp/accel-UID."""
    place = "/tmp/accel-%d" % uid
    c = Cluster(uid=uid)
    try:
        body(c, place)
    finally:
        c.close(failed=True)
        shutil.rmtree(place, ignore_errors=True)
        shutil.rmtree(c.dir, ignore_errors=True)


def some_uid():
    uid = random.randrange(70000, 1000000)
    return uid if not os.path.exists("/tmp/accel-%d" % uid) else some_uid()


@test("XDG_RUNTIME_DIR unset, or of another user: /tmp/accel-UID serves", needs_root=True,
      cluster=None)
def without_runtime_dir():
    def unset(c, place):
        del c.env["XDG_RUNTIME_DIR"]
        check_equal(c.ok("launch", "echo", "x").out, "x\n", "stdout")
        info = os.stat(place)
        check_equal((info.st_uid, info.st_mode & 0o777), (c.uid, 0o700), "owner and mode")
        check(os.path.exists(place + "/coordinator.sock"), "the socket is in %s", place)
        c.ok("admin", "shutdown")

    def others(c, place):
        os.chown(c.runtime, 0, 0)
        os.chown(c.state_home, 0, 0)
        check_equal(c.ok("launch", "echo", "y").out, "y\n", "stdout")
        check(os.path.exists(place + "/coordinator.sock"), "the socket is in %s", place)
        c.ok("admin", "shutdown")

    run_as_stranger(some_uid(), unset)
    run_as_stranger(some_uid(), others)


@test("a runtime directory that somebody else made there is refused, with his name",
      needs_root=True, cluster=None)
def squatted():
    def body(c, place):
        os.mkdir(place, 0o777)
        os.chown(place, 1, 1)
        del c.env["XDG_RUNTIME_DIR"]
        result = c.run("launch", "true")
        check("why: " in result.err and "try: export XDG_RUNTIME_DIR=" in result.err, "%s", result)
        check_equal(result.rc, 4, str(result))
        check(place in result.err, "the error names the directory: %s", result)
        check_equal(c.processes(), {}, "daemons")

    run_as_stranger(some_uid(), body)


@test("a runtime directory that others may write is refused")
def writable_by_all(c):
    c.counts_starts = False
    os.mkdir(os.path.join(c.runtime, "accel"))
    os.chmod(os.path.join(c.runtime, "accel"), 0o777)
    result = c.fails(4, "launch", "true")
    check(os.path.join(c.runtime, "accel") in result.err, "the error names it: %s", result)


def cannot_unshare():
    done = subprocess.run(["unshare", "-m", "true"], stderr=subprocess.DEVNULL)
    return None if done.returncode == 0 else "cannot make a mount namespace"


@test("as root without XDG_RUNTIME_DIR: /run/accel-0", needs_root=True, needs=cannot_unshare)
def root_without_runtime_dir(c):
    script = ("mount -t tmpfs none /run || exit 77; unset XDG_RUNTIME_DIR; $0 launch echo one && "
              "ls /run/accel-0/coordinator.sock && $0 ps -a -o name && $0 admin shutdown")
    done = c.run("version", prefix=["unshare", "-m", "sh", "-c", script,
                                    os.path.join(c.bin, "accelctl")])
    check_equal(done.out, "one\n/run/accel-0/coordinator.sock\n1\n", str(done))
    c.counts_starts = False


@test("daemons exit when idle, not before the work is done, and the next command finds all again",
      env={"ACCEL_IDLE_EXIT": "1"})
def idle_exit(c):
    gate = c.gate("gate")
    job = c.submit("sh", "-c", "read x < %s" % gate.path)
    c.wait(job, running=True)
    pids = [c.coordinator(), c.acceld()]
    # longer than the idle time: what would end them has had its chance
    result = c.start("wait", "--timeout", "2500ms", job).finish()
    check_equal(result.rc, 124, str(result))
    check_equal([c.coordinator(), c.acceld()], pids, "the daemons under a job")
    gate.open()
    for pid in pids:
        wait_pid_gone(pid, 30, "idle daemon")
    for pid in c.processes():  # accel-spawn goes when acceld has gone
        wait_pid_gone(pid, 10, "what is left of idle daemons")
    check_equal(c.processes(), {}, "what is left of idle daemons")
    check_equal([j["id"] for j in c.jobs("-a")], [1], "jobs after a new start")
    c.coordinator_starts += 1
    c.ok("launch", "true")
    c.counts_starts = False  # they may be gone again by now
    for pid in [p for p, line in c.processes().items() if "acceld" in line or "coord" in line]:
        wait_pid_gone(pid, 30, "idle daemon")


@test("paths longer than a socket address takes")
def long_paths(c):
    deep = os.path.join(c.dir, "x" * 60, "y" * 60)
    os.makedirs(deep, 0o700)
    os.chmod(os.path.dirname(deep), 0o700)
    c.env["XDG_RUNTIME_DIR"] = c.env["XDG_STATE_HOME"] = deep
    c.runtime = c.state_home = deep
    check_equal(c.ok("launch", "echo", "deep").out, "deep\n", "stdout")
    c.wait(c.submit("true"), 0)


@test("a coordinator that was named is not started: exit code 5 and why")
def named_coordinator(c):
    c.counts_starts = False
    result = c.fails(5, "launch", "true", env={"ACCEL_COORDINATOR": "unix:" + c.path("none.sock")})
    check(c.path("none.sock") in result.err and "why:" in result.err, "the error: %s", result)
    c.fails(5, "ps", "--coordinator", "unix:" + c.path("none.sock"))
    c.fails(4, "ps", "--coordinator", "tcp:1.2.3.4")  # no credentials for it
    c.fails(2, "ps", "--coordinator", "ftp:1.2.3.4:x")
    check_equal(c.processes(), {}, "daemons")


@test("a program that is missing beside accelctl is named")
def missing_programs(c):
    c.counts_starts = False
    lonely = os.path.join(c.dir, "bin")
    os.mkdir(lonely)
    shutil.copy(os.path.join(c.bin, "accelctl"), lonely)
    c.bin = lonely
    result = c.run("launch", "true")
    check(result.rc not in (0, 1, 2), "exit code: %s", result)
    check("program accel-coordinator" in result.err or "program acceld" in result.err,
          "it is named: %s", result)


@test("the system's state of another machine in the same home is left alone")
def shared_home(c):
    other = os.path.join(c.state_home, "accel", "0123456789abcdef0123456789abcdef", "coordinator")
    os.makedirs(other, 0o700)
    with open(os.path.join(other, "accel.db"), "w") as f:
        f.write("of another machine")
    c.ok("launch", "true")
    check_equal(os.listdir(other), ["accel.db"], "the other machine's files")
    shutil.rmtree(os.path.dirname(other))


if __name__ == "__main__":
    main()
