#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A gang that lost a rank comes back as the next attempt, as often as --max-restarts allows."""
import os
import signal
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from accel_test import check, check_equal, is_alive, main, test  # noqa: E402


@test("a rank killed by SIGKILL: the gang is restarted and knows which attempt it is, and why")
def killed_rank(c):
    gate = c.gate("gate")
    script = ("echo up $ACCEL_ATTEMPT $ACCEL_ATTEMPT_CAUSE $TORCHELASTIC_RESTART_COUNT "
              "$TORCHELASTIC_MAX_RESTARTS $MASTER_PORT; read x < %s" % gate.path)
    launch = c.start("launch", "--procs", "2", "--label", "--max-restarts", "1", "sh", "-c", script)
    ports = []
    for rank in "01":
        ports.append(launch.expect(r"\] up 1 none 0 1 (\d+)$").group(1))
    first = c.ranks(1)
    os.kill(first[1]["pid"], signal.SIGKILL)
    for rank in "01":
        ports.append(launch.expect(r"\] up 2 worker_failed 1 1 (\d+)$").group(1))
    check(not any(is_alive(rank["pid"]) for rank in first), "the first gang is gone: %s", first)
    check_equal(len(set(ports)), 2, "one port for each attempt: %s" % ports)
    gate.open(2)
    result = launch.finish()
    check_equal(result.rc, 0, str(result))
    check("attempt 1 ended: rank 1 (pid %d) was killed by signal 9" % first[1]["pid"] in result.err,
          "the restart is told: %s", result)
    job = c.describe(1)
    check_equal((job["attempt"], job["restarts"], job["result"]), (2, 1, "succeeded"), "job")
    check_equal([a["cause"] for a in job["attempts"]], ["worker_failed", "succeeded"], "causes")
    check_equal(job["attempts"][0]["first_failed_rank"], 1, "first failed rank")
    check_equal(job["attempts"][0]["ranks"][1]["signal"], 9, "signal")


@test("restarts run out: the last attempt's code, every attempt with its cause and its output")
def exhausted(c):
    result = c.fails(12, "launch", "--max-restarts", "2", "sh", "-c",
                     "echo this is $ACCEL_ATTEMPT; exit $((ACCEL_ATTEMPT + 9))")
    check_equal(result.out, "this is 1\nthis is 2\nthis is 3\n", "stdout")
    check("(attempt 3)" in result.err, "the report names the attempt: %s", result)
    job = c.describe(1)
    check_equal([a["ranks"][0]["exit_code"] for a in job["attempts"]], [10, 11, 12], "codes")
    check_equal((job["restarts"], job["max_restarts"]), (2, 2), "restarts")
    for number in (1, 2, 3):
        check_equal(c.ok("logs", "1", "--attempt", str(number)).out, "this is %d\n" % number,
                    "output of attempt %d" % number)


@test("without --max-restarts a failed gang stays down; one that succeeds is never restarted")
def no_restart(c):
    c.fails(1, "launch", "false")
    check_equal(len(c.describe(1)["attempts"]), 1, "attempts")
    c.ok("launch", "--max-restarts", "5", "true")
    check_equal(len(c.describe(2)["attempts"]), 1, "attempts")


@test("the peers of a failed rank get SIGTERM and time to speak, then SIGKILL")
def peers(c):
    gate = c.gate("gate")
    script = ("case $RANK in 0) trap 'echo bye; exit 0' TERM;; 1) trap '' TERM;; "
              "2) read x < %s; exit 5;; esac; echo up; while :; do read x < %s.never; done" %
              (gate.path, gate.path))
    c.gate("gate.never")
    launch = c.start("launch", "--procs", "3", "--label", "sh", "-c", script)
    for _ in range(2):
        launch.expect("up")
    gate.open()
    result = launch.finish()
    check_equal(result.rc, 5, str(result))
    check("[0] bye\n" in result.out, "rank 0 could speak: %s", result)
    ranks = c.ranks(1)
    check_equal((ranks[0]["exit_code"], ranks[1]["signal"]), (0, 9), "ends of the peers")
    check_equal(c.describe(1)["attempts"][0]["first_failed_rank"], 2, "first failed rank")


@test("a job that is cancelled is not restarted, also between two attempts")
def cancelled(c):
    job = c.submit("--max-restarts", "10000", "false")
    watch = c.start("logs", "-f", job)
    watch.expect("starting attempt 3")
    c.ok("cancel", job)
    c.wait(job)
    ended = c.describe(job)
    # An attempt that had failed before it heard of the cancel ends the job as what it was.
    check((ended["result"], ended["exit_code"]) in (("cancelled", 130), ("failed", 1)),
          "end: %s %s", ended["result"], ended["exit_code"])
    check(ended["attempt"] < 10000, "attempts: %s", ended["attempt"])
    watch.finish()
    check_equal(c.describe(job)["attempt"], ended["attempt"], "attempts later")


@test("attempts beyond those kept: the first and the newest are there")
def many_attempts(c):
    c.fails(1, "launch", "--max-restarts", "30", "false", timeout=120)
    job = c.describe(1)
    check_equal((job["attempt"], job["restarts"]), (31, 30), "attempts")
    numbers = [a["number"] for a in job["attempts"]]
    check_equal((numbers[0], numbers[-1], len(numbers)), (1, 31, 20), "kept: %s" % numbers)


@test("a program that goes away between two attempts: the start fails and says so")
def program_gone(c):
    program = c.write("prog", "#!/bin/sh\nrm $0\nexit 3\n", 0o755)
    result = c.run("launch", "--max-restarts", "2", program)
    check(result.rc in (125, 127), "exit code: %s", result)
    check("No such file" in result.err, "why: %s", result)
    job = c.describe(1)
    check_equal([a["cause"] for a in job["attempts"]][:2], ["worker_failed", "start_failed"],
                "causes")


if __name__ == "__main__":
    main()
