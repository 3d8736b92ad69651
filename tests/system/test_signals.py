#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C, a terminal that goes away, a CLI that is killed, and time limits."""
import fcntl
import os
import pty
import select
import signal
import subprocess
import sys
import termios

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from accel_test import (DEADLINE_S, check, check_equal, is_alive, main, test,  # noqa: E402
                        wait_pid_gone)

# A worker that tells of each SIGINT and ends with 5 when the gate opens; one that ends by SIGTERM.
POLITE = ("trap 'echo interrupted' INT; echo up; x=; while [ -z \"$x\" ]; do read x < %s; done; "
          "exit 5")
DEAF = ("trap 'echo heard' INT; trap 'echo term; exit 0' TERM; echo up; "
        "while :; do read x < %s; done")


def attached(c, script, *options):
    """A launch whose worker is up, and known to be so."""
    gate = c.gate("gate")
    launch = c.start("launch", *options, "sh", "-c", script % gate.path)
    launch.expect("up")
    c.wait("1", running=True)
    return launch, gate


@test("Ctrl-C once: every rank gets SIGINT, the launch goes on to the end")
def ctrl_c_once(c):
    launch, gate = attached(c, POLITE, "--procs", "2", "--label")
    launch.expect("up")
    launch.signal(signal.SIGINT)
    told = {launch.expect(r"\[(\d)\] interrupted").group(1) for _ in range(2)}
    check_equal(told, {"0", "1"}, "ranks that were interrupted")
    gate.open(2)
    result = launch.finish()
    check_equal(result.rc, 5, str(result))
    check_equal(c.describe(1)["result"], "failed", "result")


@test("Ctrl-C twice within two seconds: the job is cancelled")
def ctrl_c_twice(c):
    launch, _ = attached(c, DEAF)
    launch.signal(signal.SIGINT)
    launch.expect("heard")
    launch.signal(signal.SIGINT)
    result = launch.finish()
    check_equal(result.rc, 130, str(result))
    check("term\n" in result.out, "it got SIGTERM: %s", result)
    check_equal(c.describe(1)["result"], "cancelled", "result")


@test("Ctrl-C while the job waits for room cancels it at once")
def ctrl_c_pending(c):
    gate = c.gate("other")
    blocker = c.submit("--procs", "16", "sh", "-c", "read x < %s" % gate.path)
    c.wait(blocker, running=True)
    launch = c.start("launch", "--verbose", "true")
    launch.expect("submitted")
    launch.signal(signal.SIGINT)
    check_equal(launch.finish().rc, 130, "exit code")
    gate.open(16)
    c.wait(blocker, 0)


@test("SIGTERM of accelctl cancels the job")
def sigterm(c):
    launch, _ = attached(c, DEAF)
    launch.signal(signal.SIGTERM)
    result = launch.finish()
    check_equal(result.rc, 130, str(result))


@test("SIGHUP of accelctl keeps the job and tells how to come back")
def sighup(c):
    gate = c.gate("go")
    launch = c.start("launch", "sh", "-c", "echo up; read x < %s; echo done" % gate.path)
    launch.expect("up")
    launch.signal(signal.SIGHUP)
    result = launch.finish()
    check_equal(result.rc, 129, str(result))
    check("accelctl logs -f 1" in result.err, "how to come back: %s", result)
    follow = c.start("logs", "-f", "1")
    follow.expect("up")
    gate.open()
    check_equal(follow.finish().out, "up\ndone\n", "output")
    c.wait("1", 0)


@test("kill -9 of accelctl keeps the job and its output")
def cli_killed(c):
    gate = c.gate("gate")
    launch = c.start("launch", "sh", "-c", "echo up; read x < %s; echo done; exit 3" % gate.path)
    launch.expect("up")
    launch.signal(signal.SIGKILL)
    launch.finish()
    gate.open()
    c.wait("1", 3)
    check_equal(c.ok("logs", "1").out, "up\ndone\n", "output")


@test("--kill-on-disconnect: kill -9 or SIGHUP of accelctl ends the job")
def kill_on_disconnect(c):
    for number, signo in enumerate((signal.SIGKILL, signal.SIGHUP), 1):
        gate = c.gate("gate%d" % number)
        launch = c.start("launch", "--kill-on-disconnect", "sh", "-c",
                         "echo up; read x < %s" % gate.path)
        launch.expect("up")
        pid = c.ranks(number)[0]["pid"]
        launch.signal(signo)
        wait_pid_gone(pid)
        c.wait(str(number), 130)
        launch.finish()
    c.ok("launch", "--kill-on-disconnect", "true")


@test("kill -9 of a launch that waits for room: it still runs when there is room")
def killed_pending(c):
    gate = c.gate("gate")
    blocker = c.submit("--procs", "16", "sh", "-c", "read x < %s" % gate.path)
    c.wait(blocker, running=True)
    launch = c.start("launch", "--verbose", "echo", "ran")
    launch.expect("submitted")
    launch.signal(signal.SIGKILL)
    launch.finish()
    gate.open(16)
    c.wait("2", 0)
    check_equal(c.ok("logs", "2").out, "ran\n", "output")


@test("--time: SIGTERM, then SIGKILL after the grace; exit code 124, no restart")
def time_limit(c):
    result = c.fails(124, "launch", "--time", "700ms", "--max-restarts", "3", "sh", "-c",
                     "trap 'echo term; exit 0' TERM; while :; do sleep 1000 & wait; done")
    check_equal(result.out, "term\n", "stdout")
    job = c.describe(1)
    check_equal((job["result"], job["attempts"][-1]["cause"], len(job["attempts"])),
                ("timed_out", "time_limit", 1), "end")
    c.fails(124, "launch", "--time", "300ms", "--grace", "200ms", "sh", "-c",
            "trap '' TERM; while :; do sleep 1000; done")
    check_equal(c.ranks(2)[0]["signal"], 9, "signal of a deaf one")
    c.ok("launch", "--time", "1h", "true")


@test("--time holds also when the coordinator was killed and the agent too")
def time_limit_restart(c):
    job = c.submit("--time", "2500ms", "sleep", "1000")
    c.wait(job, running=True)
    c.kill_coordinator()
    c.kill_acceld()
    c.wait(job, 124)


class Terminal:
    """accelctl in the foreground of a terminal of its own, as in a window."""

    def __init__(self, c, *args):
        command, env = c._command(args, {"TERM": "xterm"}, ())
        self.master, slave = pty.openpty()
        self.popen = subprocess.Popen(command, env=env, cwd=c.work, stdin=slave, stdout=slave,
                                      stderr=slave, start_new_session=True,
                                      preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
        c.background.append(self.popen)
        os.close(slave)
        self.seen = b""

    def expect(self, text):
        poll = select.poll()
        poll.register(self.master, select.POLLIN)
        while text not in self.seen:
            check(poll.poll(DEADLINE_S * 1000), "%r does not come: %r", text, self.seen)
            try:
                self.seen += os.read(self.master, 65536)
            except OSError:
                check(text in self.seen, "%r does not come: %r", text, self.seen)

    def type(self, text):
        os.write(self.master, text)


@test("on a terminal: what is typed reaches rank 0, Ctrl-C is passed on, Ctrl-D ends the input")
def terminal(c):
    window = Terminal(c, "launch", "sh", "-c",
                      "trap 'echo interrupted; again=1' INT; echo up; "
                      "while again=; read x || [ $again ]; do echo got $x; done; exit 3")
    window.expect(b"up")
    window.type(b"hello\n")
    window.expect(b"got hello")
    c.wait("1", running=True)
    window.type(b"\x03")
    window.expect(b"interrupted")
    window.type(b"again\n")
    window.expect(b"got again")
    window.type(b"\x04")
    window.expect(b"failed first")
    check_equal(window.popen.wait(DEADLINE_S), 3, "exit code")
    check(b"\x1b[1;31m" in window.seen, "colour on a terminal: %r", window.seen)


@test("a terminal that is closed: the job goes on")
def terminal_closed(c):
    gate = c.gate("gate")
    window = Terminal(c, "launch", "sh", "-c", "echo up; read x < %s; exit 0" % gate.path)
    window.expect(b"up")
    pid = c.ranks(1)[0]["pid"]
    os.close(window.master)
    window.popen.wait(DEADLINE_S)
    check(is_alive(pid), "the worker lives")
    gate.open()
    c.wait("1", 0)


if __name__ == "__main__":
    main()
