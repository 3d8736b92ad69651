#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Planned stops of the coordinator, and jobs that go: nobody attached or waiting is hurt."""

import os
import shutil
import signal
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))

from accel_test import Background, check, check_equal, main, test, wait_pid_gone  # noqa: E402


def stop_coordinator(c):
    """SIGTERM, as a unit does it; the next command starts another one."""
    pid = c.coordinator()
    os.kill(pid, signal.SIGTERM)
    wait_pid_gone(pid, what="the coordinator")
    with open(c.state("coordinator.log")) as f:
        log = f.read()
    check("Segmentation" not in log and "check failed" not in log, "a clean end: %s", log)


@test("SIGTERM to the coordinator with commands attached: they go on under the next one")
def attached(c):
    gate = c.gate("gate")
    launch = c.start("launch", "sh", "-c", "echo ready; read x < %s; echo done; exit 4" % gate.path)
    launch.expect("ready")
    events = c.start("events", "-w")
    events.expect("attempt.running")
    stop_coordinator(c)
    c.ok("ps")
    gate.open()
    result = launch.finish()
    check_equal((result.rc, result.out), (4, "ready\ndone\n"), str(result))
    events.signal(signal.SIGTERM)
    events.finish()
    check_equal(len(c.describe(1)["attempts"]), 1, "attempts")
    c.counts_starts = False


@test("a planned stop does not cancel what ends with its owner")
def owned(c):
    gate = c.gate("gate")
    launch = c.start("launch", "--kill-on-disconnect", "sh", "-c",
                     "echo ready; read x < %s" % gate.path)
    launch.expect("ready")
    stop_coordinator(c)
    c.ok("ps")
    c.wait("1", running=True)  # its node has to say so
    gate.open()
    check_equal(launch.finish().rc, 0, "exit code")
    c.counts_starts = False


@test("a job that is cancelled while it waits lets those behind it go")
def behind(c):
    gate = c.gate("gate")
    first = c.submit("sh", "-c", "read x < %s" % gate.path)
    c.wait(first, running=True)
    node = c.ok("nodes", "-o", "json").json()["items"][0]
    slots = sum(d["kind"] == "cpu" for d in node["devices"])
    large = c.submit("--procs", str(slots), "true")
    small = c.submit("true")
    check_equal(c.describe(small)["state"].lower(), "pending", "state behind the large one")
    c.ok("cancel", large)
    c.wait(small, 0)
    gate.open()
    c.wait(first, 0)


@test("a user's Ctrl-C is not a failure: the gang is not started again")
def interrupted(c):
    launch = c.start("launch", "--max-restarts", "3", "sh", "-c",
                     "trap 'exit 9' INT; echo ready; while :; do sleep 0.05; done")
    launch.expect("ready")
    launch.signal(signal.SIGINT)
    check_equal(launch.finish().rc, 9, "exit code")
    check_equal(len(c.describe(1)["attempts"]), 1, "attempts")


@test("a runtime directory that is removed under a job: the next command finds it")
def removed(c):
    gate = c.gate("gate")
    job = c.submit("sh", "-c", "echo before; read x < %s; echo after" % gate.path)
    c.wait(job, running=True)
    pid = c.coordinator()
    shutil.rmtree(os.path.join(c.runtime, "accel"))
    wait_pid_gone(pid, what="the coordinator")
    c.ok("ps")
    gate.open()
    c.wait(job, 0)
    check_equal(c.ok("logs", job).out, "before\nafter\n", "output")
    c.counts_starts = False


@test("another runtime directory with the same state: the same coordinator is found")
def elsewhere(c):
    job = c.submit("true")
    c.wait(job, 0)
    other = c.path("other")
    os.mkdir(other, 0o700)
    result = c.ok("ps", "-a", "-o", "name", env={"XDG_RUNTIME_DIR": other})
    check_equal(result.out, "1\n", "jobs")


@test("what leaves the history leaves the node's disk too, also when the node was away")
def pruned(c):
    for _ in range(4):  # one after the other: the first to end is the first to go
        c.wait(c.submit("true"), 0)
    attempts = c.state("node", "attempts")
    check_equal(sorted(os.listdir(attempts)), ["1.1", "2.1", "3.1", "4.1"], "directories")
    stop_coordinator(c)
    os.kill(c.acceld(), signal.SIGTERM)
    socket = os.path.join(c.runtime, "accel", "coordinator.sock")
    args = [os.path.join(c.bin, "accel-coordinator"), "--listen", "unix:" + socket, "--state-dir",
            c.state("coordinator"), "--history-jobs", "2"]
    own = Background(subprocess.Popen(args, env=c.env, stdin=subprocess.DEVNULL,
                                      stdout=subprocess.PIPE, stderr=subprocess.PIPE), args)
    own.expect("serves")
    check_equal([job["id"] for job in c.jobs("-a")], [3, 4], "jobs that are kept")
    c.ok("launch", "true")
    c.ok("logs", "5")  # answered by acceld after the Forgets
    check_equal(sorted(os.listdir(attempts)), ["4.1", "5.1"], "directories that are kept")
    own.signal(signal.SIGTERM)
    check_equal(own.finish().rc, 0, "exit code")
    c.counts_starts = False


if __name__ == "__main__":
    main()
