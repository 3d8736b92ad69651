#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""At the end of a job nothing of it is left, however it hides; with cgroups and without."""
import os
import signal
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from accel_test import (FIXTURES, PYTHON, Mailbox, Skip, check, check_equal,  # noqa: E402
                        is_alive, main, read_proc, test, wait_pid_gone)

TREE = os.path.join(FIXTURES, "tree.py")


def meet(box):
    """The pids of the family once all are there: with an environment, and without."""
    pids = {"pid": [], "bare": []}
    while True:
        word = box.line().split()
        if word == ["ready"]:
            return pids["pid"], pids["bare"]
        pids[word[0]].append(int(word[1]))


def plant(c, end, *options, kind=()):
    box = Mailbox(c.path("box"))
    job = c.submit(*options, PYTHON, TREE, box.path, end, *kind)
    pids, bare = meet(box)
    return job, pids, bare


def check_gone(c, job, pids):
    """At once when the job has ended: it must not have ended before."""
    left = [pid for pid in pids if is_alive(pid)]
    check(not left, "processes are left after the end of job %s: %s", job, left)
    c.check_no_workers(timeout=1)


def after_cancel(c):
    job, pids, bare = plant(c, "wait", "--grace", "100ms")
    c.ok("cancel", job)
    c.wait(job, 130)
    check_gone(c, job, pids + bare)


def after_normal_end(c):
    job, pids, bare = plant(c, "0")
    c.wait(job, 0)
    check_gone(c, job, pids + bare)


def after_failure_of_peer(c):
    gate = c.gate("gate")
    box = Mailbox(c.path("box"))
    script = ("if [ $RANK = 1 ]; then read x < %s; exit 9; fi; exec %s %s %s wait" %
              (gate.path, PYTHON, TREE, box.path))
    job = c.submit("--procs", "2", "sh", "-c", script)
    pids, bare = meet(box)
    gate.open()
    c.wait(job, 9)
    check_gone(c, job, pids + bare)


def after_shim_kill(c):
    job, pids, bare = plant(c, "wait")
    os.kill(c.shim(job), signal.SIGKILL)
    c.wait(job, 125)
    check_equal(c.describe(job)["attempts"][0]["cause"], "shim_lost", "cause")
    check_gone(c, job, pids + bare)


def after_shim_kill_without_acceld(c):
    has_cgroups = c.ok("nodes", "-o", "json").json()["items"][0]["isolation"] == "cgroup2"
    # What forks faster than /proc can be read is then held by a cgroup only.
    job, pids, bare = plant(c, "wait", kind=() if has_cgroups else ("calm",))
    shim = c.shim(job)
    c.kill_acceld()
    os.kill(shim, signal.SIGKILL)
    wait_pid_gone(shim)
    c.wait(job, 125)
    check_equal(c.describe(job)["attempts"][0]["cause"], "shim_lost", "cause")
    if has_cgroups:
        check_gone(c, job, pids + bare)
        return
    # Their subreaper and its parent are dead and nothing marks them: only a cgroup holds these.
    for pid in bare:
        os.kill(pid, signal.SIGKILL)
    check_gone(c, job, pids)


STORIES = {
    "after cancel": after_cancel,
    "after rank 0 ended with 0": after_normal_end,
    "after a peer failed": after_failure_of_peer,
    "after kill -9 of the shim": after_shim_kill,
    "after kill -9 of acceld and then of the shim": after_shim_kill_without_acceld,
}
for what, story in STORIES.items():
    test("nothing is left %s" % what)(story)
    test("nothing is left %s, without cgroups" % what, env={"ACCEL_SPAWN_CGROUP": "0"})(story)
    test("nothing is left %s, without root" % what, uid=65534)(story)



def group_of(pid):
    lines = read_proc(pid, "cgroup").decode().splitlines()
    return [line[3:] for line in lines if line.startswith("0::")][0]


@test("ACCEL_SPAWN_CGROUP=/: groups of jobs lie below the root of the tree, and go with the jobs",
      env={"ACCEL_SPAWN_CGROUP": "/"})
def groups_at_the_top(c):
    if c.ok("nodes", "-o", "json").json()["items"][0]["isolation"] != "cgroup2":
        raise Skip("no cgroups of version 2")
    gate = c.gate("gate")
    job = c.submit("sh", "-c", "read x < %s" % gate.path)
    c.wait(job, running=True)
    group = group_of(c.describe(job)["attempts"][0]["ranks"][0]["pid"])
    check(group.count("/") == 2 and group.startswith("/accel-"), "where the rank is: %s", group)
    gate.open()
    c.wait(job, 0)


if __name__ == "__main__":
    main()
