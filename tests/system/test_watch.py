#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""accelctl ps -w: shows what changes when it changes, asks nothing while nothing does."""
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import sys
import termios

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from accel_test import DEADLINE_S, Failure, check, check_equal, main, test  # noqa: E402


class Screen:
    """accelctl on a terminal of 24 lines; what was drawn last is what a person sees."""

    def __init__(self, c, *args, columns=60, **env):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
            os.execve(os.path.join(c.bin, "accelctl"), ["accelctl", *args],
                      {**c.env, "TERM": "xterm", **env})
        self.bytes = b""

    @property
    def seen(self):
        return self.bytes.decode("utf-8", "replace")

    def frames(self):
        return [re.sub(r"\033\[[0-9;]*[A-Za-z]", "", f).splitlines()
                for f in self.seen.split("\033[H")[1:] if f.endswith("\033[J")]

    def until(self, condition, what):
        while not (self.frames() and condition(self.frames()[-1])):
            if not select.select([self.fd], [], [], DEADLINE_S)[0]:
                raise Failure("%s has not come: %r" % (what, self.seen[-2000:]))
            self.bytes += os.read(self.fd, 65536)
        return self.frames()[-1]

    def interrupt(self):
        os.write(self.fd, b"\x03")
        while True:
            try:
                if not os.read(self.fd, 65536):
                    break
            except OSError:
                break
        os.close(self.fd)
        return os.waitpid(self.pid, 0)[1]


@test("a pipe gets each row that changed, with the end of a job, and one header")
def appended(c):
    gate = c.gate("gate")
    watch = c.start("ps", "-w")
    first = c.submit("--name", "one", "sh", "-c", "read x < %s" % gate.path)
    watch.expect(r"1 +one +RUNNING")
    c.submit("--name", "two", "sh", "-c", "exit 3")
    watch.expect(r"2 +two +FAILED .*code 3")
    gate.open()
    watch.expect(r"1 +one +SUCCEEDED")
    watch.signal(signal.SIGINT)
    out = watch.finish().out
    check_equal(out.count("STATE"), 1, "headers: %s" % out)
    check_equal(len(re.findall(r"SUCCEEDED", out)), 1, "told once: %s" % out)
    c.wait(first, 0)


@test("-o json: an object a line, chosen fields, over a coordinator that is killed")
def objects(c):
    gate = c.gate("gate")
    watch = c.start("ps", "-w", "--json", "id,state,result")
    c.submit("sh", "-c", "read x < %s" % gate.path)
    watch.expect(r"\"RUNNING\"")
    c.kill_coordinator()
    gate.open()
    watch.expect(r"\"succeeded\"")
    watch.signal(signal.SIGINT)
    lines = [json.loads(line) for line in watch.finish().out.splitlines()]
    check_equal(lines[-1], {"id": 1, "state": "ENDED", "result": "succeeded"}, "the last line")
    check(all(a != b for a, b in zip(lines, lines[1:])), "only changes: %s", lines)
    c.wait("1", 0)


@test("a terminal is drawn anew within its size; jobs that end stay in view")
def redrawn(c):
    gate = c.gate("gate")
    job = c.submit("--name", "a-name-that-is-much-too-long-for-a-terminal-of-sixty-columns", "sh",
                   "-c", "read x < %s" % gate.path)
    screen = Screen(c, "ps", "-w")
    frame = screen.until(lambda f: "RUNNING" in "".join(f), "the running job")
    check(max(map(len, frame)) <= 60, "width: %s", frame)
    check(re.match(r"1 job at 20", frame[0]) and frame[1].startswith("ID"), "head: %s", frame)
    gate.open()
    screen.until(lambda f: "SUCCEEDED" in "".join(f), "its end")
    drawn = len(screen.frames())
    for _ in range(30):
        c.submit("true")
    frame = screen.until(lambda f: f[0].startswith("31 jobs"), "all of them")
    check(len(frame) <= 24 and frame[-1] == "...", "height: %s", frame)
    fcntl.ioctl(screen.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    os.kill(screen.pid, signal.SIGWINCH)
    screen.until(lambda f: len(f) == 33, "the larger terminal")
    check(len(screen.frames()) > drawn, "frames")
    check_equal(os.WTERMSIG(screen.interrupt()), signal.SIGINT, "Ctrl-C")
    c.wait(job, 0)


@test("a reader that goes away ends what goes on, without another line")
def reader_gone(c):
    gate = c.gate("gate")
    job = c.submit("sh", "-c", "echo one; read x < %s" % gate.path)
    c.wait(job, running=True)
    for verb in (["ps", "-w"], ["events", "-w"], ["logs", "-f", job]):
        script = '"$0" "$@" | head -n 1 >/dev/null; echo ${PIPESTATUS[0]}'
        result = c.run(*verb, prefix=["bash", "-c", script])
        check_equal((result.out, result.err), ("141\n", ""), str(verb))
    gate.open()
    c.wait(job, 0)


@test("a terminal without a cursor gets rows, one below the other")
def dumb(c):
    screen = Screen(c, "ps", "-w", "-a", TERM="dumb")
    c.ok("launch", "true")
    while "SUCCEEDED" not in screen.seen:
        check(select.select([screen.fd], [], [], DEADLINE_S)[0], "nothing: %r", screen.seen)
        screen.bytes += os.read(screen.fd, 65536)
    check("\033" not in screen.seen, "escapes: %r", screen.seen)
    screen.interrupt()


if __name__ == "__main__":
    main()
