#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""kill -9 of every daemon: work goes on, nothing acknowledged is lost or doubled."""
import os
import re
import signal
import sys
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from accel_test import (FIXTURES, PYTHON, check, check_equal, is_alive, main,  # noqa: E402
                        read_proc, test, wait_pid_gone)

COUNT = os.path.join(FIXTURES, "count.py")
LINES, PAUSE_MS = 300, 5


def numbered(n):
    return "".join("line %d\n" % i for i in range(n))


@test("kill -9 of acceld under a launch: it goes on by itself, output whole, exit code right")
def acceld_under_launch(c):
    launch = c.start("launch", PYTHON, COUNT, str(LINES), str(PAUSE_MS), "7")
    launch.expect("line 50$")
    pid = c.ranks(1)[0]["pid"]
    c.kill_acceld()
    result = launch.finish()
    check_equal(result.rc, 7, str(result))
    check_equal(result.out, numbered(LINES), "output")
    ranks = c.ranks(1)
    check_equal((ranks[0]["pid"], ranks[0]["exit_code"]), (pid, 7), "the same process")
    check_equal(len(c.describe(1)["attempts"]), 1, "attempts")


@test("kill -9 of acceld, the worker ends while it is away: the next verb adopts what there is")
def worker_ends_without_acceld(c):
    gate = c.gate("gate")
    job = c.submit("sh", "-c", "echo before; read x < %s; echo after; exit 5" % gate.path)
    c.wait(job, running=True)
    pid = c.ranks(job)[0]["pid"]
    c.kill_acceld()
    check(is_alive(pid), "the worker runs on")
    gate.open()
    wait_pid_gone(pid)
    c.wait(job, 5)
    check_equal(c.ok("logs", job).out, "before\nafter\n", "output")


@test("kill -9 of acceld while a job waits for its output: logs -f goes on")
def acceld_under_logs(c):
    job = c.submit(PYTHON, COUNT, str(LINES), str(PAUSE_MS), "0")
    follow = c.start("logs", "-f", job)
    follow.expect("line 20$")
    c.kill_acceld()
    c.ok("ps")
    c.ok("nodes")
    result = follow.finish()
    check_equal(result.rc, 0, "exit code")
    check_equal(result.out, numbered(LINES), "output")


@test("kill -9 of acceld again and again under one job")
def acceld_thrice(c):
    launch = c.start("launch", PYTHON, COUNT, "600", str(PAUSE_MS), "0")
    for line in (50, 200, 350):
        launch.expect("line %d$" % line)
        c.kill_acceld()
    result = launch.finish()
    check_equal(result.rc, 0, "exit code")
    check_equal(result.out, numbered(600), "output")
    check_equal(len(c.describe(1)["attempts"]), 1, "attempts")
    c.counts_starts = False  # two commands at once may have started it once more


@test("kill -9 of the coordinator under a launch: it goes on by itself")
def coordinator_under_launch(c):
    launch = c.start("launch", "--procs", "2", PYTHON, COUNT, str(LINES), str(PAUSE_MS), "0")
    launch.expect("line 50$")
    pids = [rank["pid"] for rank in c.ranks(1)]
    c.kill_coordinator()
    result = launch.finish()
    check_equal(result.rc, 0, str(result))
    check_equal(result.out, numbered(LINES), "output of the main rank")
    check_equal([rank["pid"] for rank in c.ranks(1)], pids, "the same processes")


@test("kill -9 of both daemons under a launch that reads stdin: input whole, output whole")
def both_under_launch(c):
    read, write = os.pipe()
    launch = c.start("launch", "cat", stdin=read)
    os.close(read)
    with os.fdopen(write, "wb", buffering=0) as pipe:
        for number in range(40):
            pipe.write(b"line %d\n" % number)
            launch.expect("line %d$" % number)
            if number == 10:
                c.kill_acceld()
            if number == 20:
                c.kill_coordinator()
            if number == 30:
                c.kill_acceld()
                c.kill_coordinator()
    result = launch.finish()
    check_equal((result.rc, result.out), (0, numbered(40)), "output")
    c.counts_starts = False


@test("kill -9 of the coordinator under load: nothing acknowledged is lost or run twice")
def coordinator_under_load(c):
    gate = c.gate("gate")
    long = c.submit("sh", "-c", "read x < %s" % gate.path)
    c.wait(long, running=True)
    pid = c.ranks(long)[0]["pid"]
    ids, errors, lock, half = [], [], threading.Lock(), threading.Event()

    def client():
        for _ in range(10):
            result = c.run("submit", "sh", "-c", "echo $ACCEL_JOB_ID.$ACCEL_ATTEMPT >> ran")
            with lock:
                (ids if result.rc == 0 else errors).append(result)
                if len(ids) >= 15:
                    half.set()

    clients = [threading.Thread(target=client) for _ in range(5)]
    for thread in clients:
        thread.start()
    check(half.wait(60), "15 submissions are acknowledged: %s", errors)
    c.kill_coordinator()
    for thread in clients:
        thread.join(120)
    check(not errors, "every submission gets its id: %s", "\n".join(map(str, errors)))
    acknowledged = sorted(int(r.out) for r in ids)
    check_equal(len(set(acknowledged)), 50, "different ids in %s" % acknowledged)
    c.ok("wait", *map(str, acknowledged), timeout=120)
    known = [job["id"] for job in c.jobs("-a")]
    check_equal(known, sorted(acknowledged + [int(long)]), "jobs, none lost and none doubled")
    with open(c.path("ran")) as f:
        ran = sorted(int(line.split(".")[0]) for line in f)
    check_equal(ran, acknowledged, "jobs that ran, each once")
    check_equal(c.ranks(long)[0]["pid"], pid, "pid of the job that ran on")
    gate.open()
    c.wait(long, 0)
    check_equal(c.ok("admin", "check").rc, 0, "check of the store")


@test("kill -9 of accel-spawn: acceld ends, workers live, the next verb starts both again")
def spawn_killed(c):
    gate = c.gate("gate")
    job = c.submit("sh", "-c", "read x < %s; exit 4" % gate.path)
    c.wait(job, running=True)
    pid, shim, spawn, acceld = c.ranks(job)[0]["pid"], c.shim(job), c.spawn(), c.acceld()
    os.kill(spawn, signal.SIGKILL)
    wait_pid_gone(acceld, what="acceld without its accel-spawn")
    c.agent_starts += 1
    check(is_alive(pid) and is_alive(shim), "worker %d and shim %d live", pid, shim)
    c.ok("launch", "true")
    gate.open()
    c.wait(job, 4)
    check_equal(c.ranks(job)[0]["pid"], pid, "pid")


@test("kill -9 of a shim: shim_lost with exit code 125, at once, and the other jobs do not notice")
def shim_killed(c):
    gate = c.gate("gate")
    other = c.submit("sh", "-c", "read x < %s" % gate.path)
    c.wait(other, running=True)
    launch = c.start("launch", "--procs", "2", "sh", "-c", "echo up; exec sleep 1000")
    launch.expect("up")
    c.wait("2", running=True)
    pids = [rank["pid"] for rank in c.ranks(2)]
    os.kill(c.shim(2), signal.SIGKILL)
    result = launch.finish()
    check_equal(result.rc, 125, str(result))
    check("shim" in result.err, "it says why: %s", result)
    job = c.describe(2)
    check_equal(job["attempts"][0]["cause"], "shim_lost", "cause")
    check(not any(is_alive(pid) for pid in pids), "workers are gone")
    check_equal(c.ok("logs", "2", "--stdout", "--rank", "0").out, "up\n", "output")
    c.ok("launch", "--procs", "15", "true")  # their slots are free again
    gate.open()
    c.wait(other, 0)


@test("kill -9 of a shim with restarts left: the next attempt runs and knows the cause")
def shim_killed_restart(c):
    launch = c.start("launch", "--max-restarts", "1", "sh", "-c", "echo up $ACCEL_ATTEMPT_CAUSE; "
                     "[ $ACCEL_ATTEMPT = 2 ] || exec sleep 1000")
    launch.expect("up none")
    c.wait("1", running=True)
    os.kill(c.shim(1), signal.SIGKILL)
    launch.expect("up shim_lost")
    check_equal(launch.finish().rc, 0, "exit code")


@test("all daemons killed at once: the job's end and output are found by the next verb")
def all_killed(c):
    gate = c.gate("gate")
    job = c.submit("sh", "-c", "echo one; read x < %s; echo two; exit 6" % gate.path)
    c.wait(job, running=True)
    pid, spawn = c.ranks(job)[0]["pid"], c.spawn()
    c.kill_coordinator()
    c.kill_acceld()
    wait_pid_gone(spawn, what="accel-spawn without its acceld")
    gate.open()
    wait_pid_gone(pid)
    c.wait(job, 6)
    check_equal(c.ok("logs", job).out, "one\ntwo\n", "output")


@test("a stopped acceld loses nothing: SIGSTOP, a longer pause, SIGCONT")
def stopped_acceld(c):
    launch = c.start("launch", PYTHON, COUNT, str(LINES), str(PAUSE_MS), "0")
    launch.expect("line 20$")
    acceld, pid = c.acceld(), c.ranks(1)[0]["pid"]
    os.kill(acceld, signal.SIGSTOP)
    try:
        wait_pid_gone(pid)  # the worker ends meanwhile
    finally:
        os.kill(acceld, signal.SIGCONT)
    result = launch.finish()
    check_equal(result.rc, 0, "exit code")
    check_equal(result.out, numbered(LINES), "output")


@test("the pid of a dead acceld's worker is never trusted: a wrong start time is not adopted")
def stale_attempt(c):
    c.ok("launch", "true")
    c.kill_acceld()
    folder = c.state("node", "attempts", "77.1")
    os.mkdir(folder, 0o700)
    with open(os.path.join(folder, "pid"), "w") as f:
        f.write("%d 1\n" % os.getpid())
    c.ok("launch", "true")
    c.ok("nodes")
    check(is_alive(os.getpid()), "the test lives")
    check(b"python3" in read_proc(os.getpid(), "cmdline"), "the test is itself")
    check(not re.search(r"\b77\b", c.ok("ps", "-A", "-a", "-o", "name").out), "no job 77")


if __name__ == "__main__":
    main()
