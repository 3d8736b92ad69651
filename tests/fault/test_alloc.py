#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The n-th allocation of a program fails while it works (fail_alloc.c).

It may go on or end with a line that says why; it may not crash, hang, or lose or double what it
has acknowledged.  The test process is the reaper of the daemons, so that it sees how they end.
ACCEL_FAULT_EVERY=1 tries every n, without a limit of time.
"""
import ctypes
import os
import re
import shutil
import signal
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from accel_test import (Cluster, Failure, all_pids, check, check_equal, diagnostics, main,  # noqa
                        read_proc, test, wait_pid_gone)

LIBRARY = os.environ.get("FAIL_ALLOC_LIBRARY")
EVERY = os.environ.get("ACCEL_FAULT_EVERY")
SECONDS = 12  # for one program; the numbers that did not fit are told
CRASHES = {signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGTRAP}
PR_SET_CHILD_SUBREAPER = 36
COMMAND_S = 40  # the longest that any command may take: a daemon is given 15 s to start


def numbers():
    """Every n to 40, then growing steps; the caller ends when nothing fails any more."""
    n = 1
    while True:
        yield n
        n += 1 if EVERY or n < 40 else n // 9


def coarse_first():
    """For what costs more: growing steps to the end, which the caller sends, then the rest."""
    tried, n = set(), 1
    while not EVERY and not (yield n):
        tried.add(n)
        n += max(1, n // 6)
    for n in numbers():
        if n not in tried and (yield n):
            return


def become_reaper():
    libc = ctypes.CDLL(None, use_errno=True)
    check_equal(libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), 0, "prctl")


def orphans():
    """Children of ours that the kernel gave us: daemons and shims."""
    me = str(os.getpid()).encode()
    return [pid for pid in all_pids()
            if read_proc(pid, "stat").rpartition(b")")[2].split()[1:2] == [me]]


class World:
    """A cluster of which one program fails once."""

    def __init__(self, program, n, run=1, again=False):
        self.c = Cluster()
        self.program, self.n = program, n
        self.mark = os.path.join(self.c.dir, "mark")
        self.c.env.update({"LD_PRELOAD": LIBRARY, "FAIL_ALLOC_PROGRAM": program,
                           "FAIL_ALLOC_AT": str(n), "FAIL_ALLOC_RUN": str(run),
                           "FAIL_ALLOC_MARK": self.mark})

    def fired(self):
        return os.path.exists(self.mark)

    def where(self):
        with open(self.mark) as f:
            return "allocation " + f.read().strip()

    def heal(self):
        for name in ("LD_PRELOAD", "FAIL_ALLOC_PROGRAM", "FAIL_ALLOC_AT", "FAIL_ALLOC_RUN",
                     "FAIL_ALLOC_MARK"):
            self.c.env.pop(name, None)

    def run(self, *args):
        """A command that may fail, with words, and in time."""
        result = self.c.start(*args).finish(COMMAND_S)
        check(result.rc >= 0, "%s", result)
        if result.rc != 0:
            check(result.err.strip(), "it fails and says nothing: %s", result)
        return result

    def stop_daemons(self):
        for name in ("accel-coordinator", "acceld"):
            for pid, line in self.c.processes().items():
                if os.path.basename(line.split(" ")[0]) == name:
                    os.kill(pid, signal.SIGTERM)
                    wait_pid_gone(pid, 20, name)

    def reap(self):
        """How every daemon ended that is gone by now."""
        log = "\n".join(self.c.logs().values())
        for pid in orphans():
            got, status = os.waitpid(pid, os.WNOHANG)
            if got and os.WIFSIGNALED(status):
                signo = os.WTERMSIG(status)
                check(signo not in CRASHES, "pid %d ended by %s", pid, signal.Signals(signo).name)
                if signo == signal.SIGABRT:
                    check("out of memory" in log, "an abort without a word why: %s", log[-1500:])

    def close(self):
        self.heal()
        self.c.close(failed=True)
        for pid in orphans():
            os.waitpid(pid, 0)
        shutil.rmtree(self.c.dir, ignore_errors=True)


def work(w):
    """What a user does; returns the ids that he was given."""
    given = []
    for word in ("one", "two"):
        result = w.run("submit", "echo", word)
        if result.rc == 0:
            given.append((result.out.strip(), word))
    for job, _ in given:
        w.run("wait", "--timeout", "20s", job)
    w.run("ps", "-a")
    for job, _ in given:
        w.run("logs", job)
    w.run("events")
    return given


def check_books(w, given):
    """After a restart without faults: all that was acknowledged, once, and whole."""
    w.stop_daemons()
    w.reap()
    w.heal()
    check_equal(w.c.ok("admin", "check").rc, 0, "admin check")
    jobs = {str(job["id"]): job for job in w.c.jobs("-a", "-A")}
    check(len(jobs) <= 2, "more jobs than were asked for: %s", jobs)
    for job, word in given:
        check(job in jobs, "job %s was acknowledged and is gone: %s", job, jobs)
        check(word in jobs[job]["command"], "job %s is another one: %s", job, jobs[job])
        w.c.wait(job, 0)
        check_equal(w.c.ok("logs", job).out, word + "\n", "output of job %s" % job)
    check_equal(w.c.ok("launch", "echo", "well").out, "well\n", "a launch after it")
    w.stop_daemons()
    w.reap()


def one_number(program, n, run=1):
    """True if that allocation exists."""
    w = World(program, n, run)
    try:
        given = work(w)
        fired = w.fired()
        check_books(w, given)
        check(fired or len(given) == 2, "nothing failed, yet jobs were refused")
        return fired
    except Failure as e:
        if not w.fired():
            raise
        logs = "\n".join("%s: %s" % (name, text[-1200:]) for name, text in w.c.logs().items())
        raise Failure("%s of %s\n%s\n%s" % (w.where(), program, e, logs)) from None
    finally:
        w.close()


def spread(program, run=1):
    """The numbers that fit into the time; all failures are told, not the first only."""
    become_reaper()
    began, tried, found, is_end = time.monotonic(), [], [], None
    series = coarse_first()
    while EVERY or time.monotonic() - began < SECONDS:
        try:
            n = series.send(is_end)
        except StopIteration:
            break
        tried.append(n)
        is_end = False
        try:
            is_end = not one_number(program, n, run)
        except Failure as e:
            found.append(str(e))
            diagnostics(e)
            check(len(found) < 20, "20 numbers up to %d end badly", n)
    diagnostics("%d allocations up to the %d. failed" % (len(tried), max(tried)))
    check(len(tried) > 10, "only %s allocations failed: is the library loaded?", tried)
    check(not found, "%d of %d numbers end badly", len(found), len(tried))


@test("accel-coordinator with any one allocation failing: nothing acknowledged is lost",
      cluster=None)
def coordinator():
    spread("accel-coordinator")


@test("acceld with any one allocation failing: every job runs in the end", cluster=None)
def acceld():
    spread("acceld")


VERBS = (("submit", "true"), ("ps", "-a"), ("ps", "-a", "-o", "json"), ("describe", "1"),
         ("describe", "1", "-o", "json"), ("wait", "1"), ("logs", "1"), ("events",), ("nodes",),
         ("launch", "echo", "x"))


def core_of(text):
    """Without ages, and without the alignment of tables, which a library does if it can."""
    return re.sub(r"\b\d+s\b", "-", text).split()


def check_client(w, verb, n, right):
    """One command with its n-th allocation failing; False when there is none."""
    mark = "%s.%d" % (w.mark, n)
    result = w.c.start(*verb, env={
        "LD_PRELOAD": LIBRARY, "FAIL_ALLOC_PROGRAM": "accelctl", "FAIL_ALLOC_AT": str(n),
        "FAIL_ALLOC_MARK": mark}).finish(COMMAND_S)
    if not os.path.exists(mark):
        check_equal((result.rc, result.err), (0, ""), "%s without a fault" % (verb,))
        return False
    with open(mark) as f:
        where = f.read().strip()
    os.unlink(mark)
    check(result.rc >= 0 or result.rc == -signal.SIGABRT, "%s: %s", where, result)
    check(result.rc != -signal.SIGABRT or "out of memory" in result.err, "%s: %s", where, result)
    check(result.rc == 0 or result.err.strip(), "it fails and says nothing: %s: %s", where, result)
    if result.rc == 0 and right is not None:
        check_equal(core_of(result.out), core_of(right),
                    "%s: a wrong answer and no error: %s" % (where, result))
    return True


@test("accelctl with any one allocation failing: the right answer, or an error", cluster=None)
def accelctl():
    w = World("none", 0)
    w.heal()
    began, count, found = time.monotonic(), 0, []
    try:
        w.c.wait(w.c.submit("echo", "x"), 0)
        for verb in VERBS:
            right = None if verb[0] in ("submit", "events", "ps") else w.c.ok(*verb).out
            for n in numbers():
                try:
                    if not check_client(w, verb, n, right):
                        break
                except Failure as e:
                    found.append(str(e))
                    diagnostics("%s: %s" % (" ".join(verb), e))
                count += 1
                check(EVERY or time.monotonic() - began < 5 * SECONDS, "no time left")
        check_equal(w.c.ok("admin", "check").rc, 0, "admin check")
    finally:
        w.close()
    diagnostics("%d commands" % count)
    check(not found, "%d of %d end badly", len(found), count)


if __name__ == "__main__":
    main()
