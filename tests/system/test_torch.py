#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Real PyTorch: unmodified scripts train under accelctl, and come back when a rank is killed."""
import os
import re
import signal
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from accel_test import (FIXTURES, PYTHON, ROOT, Gate, Mailbox, check, check_equal,  # noqa: E402
                        main, test)

# torch starts slowly, more so where it shares two cores with other tests.
SLOW_S = 150
# The sanitizers' settings are for the daemons; python is not built with them.


def missing(module):
    def look():
        done = subprocess.run([PYTHON, "-c", "import " + module], stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL)
        return None if done.returncode == 0 else "%s cannot import %s" % (PYTHON, module)
    return look


@test("DistributedDataParallel over gloo with two ranks; one is killed, the gang comes back",
      needs=missing("torch"))
def ddp(c):
    box, gate = Mailbox(c.path("box")), Gate(c.path("gate"))
    launch = c.start("launch", "--procs", "2", "--label", "--max-restarts", "1", "--python", PYTHON,
                     os.path.join(FIXTURES, "ddp.py"), box.path, gate.path)
    pids = {}
    while len(pids) < 2:
        word = re.fullmatch(r"rank (\d) of 2 pid (\d+)", box.line(SLOW_S))
        pids[int(word.group(1))] = int(word.group(2))
    check_equal({r["rank"]: r["pid"] for r in c.ranks(1)}, pids, "pids")
    os.kill(pids[1], signal.SIGKILL)
    result = launch.finish(SLOW_S)
    check_equal(result.rc, 0, str(result))
    lines = re.findall(r"^\[(\d)\] rank (\d) restarts (\d) loss ([\d.]+) weights (.*)$", result.out,
                       re.M)
    check_equal(sorted(line[:3] for line in lines), [("0", "0", "1"), ("1", "1", "1")], "ends")
    check_equal(lines[0][4], lines[1][4], "weights of both ranks")
    check(float(lines[0][3]) < 0.5, "it learned: %s", lines)
    attempts = c.describe(1)["attempts"]
    check_equal([a["cause"] for a in attempts], ["worker_failed", "succeeded"], "causes")
    check_equal(attempts[0]["first_failed_rank"], 1, "first failed rank")


@test("the charlm example: snapshot, a rank killed, resumed from the snapshot",
      needs=missing("torch"))
def charlm(c):
    text = c.write("text", b"".join(b"line %d of a small text to learn from\n" % (i * 7919 % 1000)
                                    for i in range(2000)))
    launch = c.start("launch", "--procs", "2", "--max-restarts", "1", "--python", PYTHON,
                     os.path.join(ROOT, "examples", "pytorch", "charlm.py"), "--data", text,
                     "--steps", "40", "--batch", "4", "--block", "16", "--width", "16", "--heads",
                     "2", "--layers", "1", "--snapshot-every", "5", "--eval-every", "10",
                     "--sample", "20")
    launch.expect(r"snapshot of step 10 in ", SLOW_S)
    os.kill(c.ranks(1)[1]["pid"], signal.SIGKILL)
    result = launch.finish(SLOW_S)
    check_equal(result.rc, 0, str(result))
    check(len(c.describe(1)["attempts"]) == 2, "attempts: %s", result)
    resumed = re.search(r"resumed from step (\d+)", result.out)
    check(resumed and int(resumed.group(1)) >= 10, "resumed: %s", result)
    losses = [float(loss) for loss in re.findall(r"val loss ([\d.]+)", result.out)]
    check(losses[-1] < losses[0], "the loss went down: %s", losses)


@test("two trainings at once do not meet", needs=missing("torch"))
def two_at_once(c):
    box, gate = Mailbox(c.path("box")), Gate(c.path("gate"))
    jobs = [c.submit("--procs", "2", "--python", PYTHON, os.path.join(FIXTURES, "ddp.py"), box.path,
                     gate.path) for _ in range(2)]
    for _ in range(4):
        box.line(SLOW_S)
    gate.open(4)
    for job in jobs:
        c.wait(job, 0, timeout=SLOW_S)
        check_equal(len(re.findall("restarts 0 loss", c.ok("logs", job).out)), 2, "ranks")


@test("plain Accelerate finds its ranks", needs=missing("accelerate"))
def accelerate(c):
    script = c.write("acc.py", "from accelerate import Accelerator\na = Accelerator(cpu=True)\n"
                     "print('acc', a.process_index, a.num_processes)\na.wait_for_everyone()\n")
    result = c.run("launch", "--procs", "2", "--label", "--cpu", "--python", PYTHON, script,
                   timeout=SLOW_S)
    check_equal(sorted(re.findall(r"acc \d \d", result.out)), ["acc 0 2", "acc 1 2"], str(result))


if __name__ == "__main__":
    main()
