#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Disks that are full, databases that are not ours, two daemons for one directory, no rights."""
import contextlib
import hashlib
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from accel_test import (Cluster, Mailbox, check, check_equal, main, test,  # noqa: E402
                        wait_pid_gone)


def cannot_mount():
    done = subprocess.run(["unshare", "-m", "true"], stderr=subprocess.DEVNULL)
    return None if done.returncode == 0 and shutil.which("nsenter") else "cannot mount"


class SmallDisk(Cluster):
    """A cluster whose state directory is a tmpfs of its own, in a mount namespace of its own."""

    def __init__(self, size, env=None):
        super().__init__(env=env)
        script = "mount -t tmpfs -o size=%s,mode=700 none %s && echo ready && read x" % (
            size, self.state_home)
        self.keeper = subprocess.Popen(["unshare", "-m", "sh", "-c", script],
                                       stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        check_equal(self.keeper.stdout.readline(), b"ready\n", "mount")
        self.enter = ["nsenter", "-m", "-t", str(self.keeper.pid)]
        self.outside = self.state_home

    def _command(self, args, env, prefix):
        return super()._command(args, env, self.enter + list(prefix))

    @property
    def disk(self):
        return "/proc/%d/root%s" % (self.keeper.pid, self.outside)

    def fill(self):
        """Takes all that is left, so that not one page can be written."""
        with open(os.path.join(self.disk, "ballast"), "wb", buffering=0) as f:
            with contextlib.suppress(OSError):
                while True:
                    f.write(b"x" * 4096)

    def drain(self):
        os.unlink(os.path.join(self.disk, "ballast"))

    def logs(self):
        self.state_home, kept = self.disk, self.state_home
        try:
            return super().logs()
        finally:
            self.state_home = kept

    def close(self, failed=False):
        try:
            super().close(failed)
        finally:
            self.keeper.kill()
            self.keeper.wait()
            self.keeper.stdin.close()
            self.keeper.stdout.close()


@contextlib.contextmanager
def small_disk(size, env=None):
    c = SmallDisk(size, env)
    try:
        yield c
        c.close()
    except BaseException:
        c.close(failed=True)
        raise
    finally:
        shutil.rmtree(c.dir, ignore_errors=True)


@test("disk full while committing: refused, running work goes on; free again: all is well",
      needs_root=True, needs=cannot_mount, cluster=None)
def disk_full_and_back():
    # One slot, which the first job has: else jobs that found room in the log would run, and it
    # could be their ends that find none.
    with small_disk("6m", {"ACCEL_DEVICES": "cpu:1"}) as c:
        gate = c.gate("gate")
        job = c.submit("sh", "-c", "read x < %s; exit 3" % gate.path)
        c.wait(job, running=True)
        pid = c.ranks(job)[0]["pid"]
        c.fill()
        # Some fit into room that the database has already. The first that does not waits, for what
        # it asks may be on the disk; while it waits all others are told.
        while True:
            first = c.start("submit", "true")
            while first.popen.poll() is None and c.status()["store_error"] is None:
                pass
            if first.popen.poll() is None:
                break
            check_equal(first.finish().rc, 0, str(first))
        refused = c.fails(5, "submit", "true")
        check("full" in refused.err, "why: %s", refused)
        check_equal(refused.err.count("try: "), 1, "what to do, once: %s" % refused)
        check(first.popen.poll() is None, "the first one waits: %s", first)
        gate.open()
        wait_pid_gone(pid)
        c.drain()
        late = first.finish()
        check_equal(late.rc, 0, str(late))
        c.wait(job, 3)
        c.wait(late.out.strip(), 0)
        c.wait(c.submit("true"), 0)
        check_equal(c.describe(job)["attempts"][0]["ranks"][0]["pid"], pid, "pid")
        c.ok("admin", "check")
        c.counts_starts = True


@test("disk full while a job writes: the job goes on, its end is recorded, the loss is told",
      needs_root=True, needs=cannot_mount, cluster=None)
def disk_full_under_output():
    with small_disk("8m") as c:
        gate, box = c.gate("gate"), Mailbox(c.path("box"))
        job = c.submit("sh", "-c", "read x < %s; head -c 9000000 /dev/zero; echo written > %s; "
                       "read x < %s; echo; echo the end; exit 4" % (gate.path, box.path, gate.path))
        c.wait(job, running=True)
        with open(os.path.join(c.disk, "ballast"), "wb") as f:
            f.write(b"x" * (4 << 20))
        gate.open()
        check_equal(box.line(), "written", "word of the worker, which nothing held up")
        c.drain()
        gate.open()
        c.wait(job, 4)
        output = c.ok("logs", job).out
        check(output.endswith("the end\n"), "the end: %r", output[-300:])
        lost = re.search(r"\[accel: (\d+) bytes of output were lost: ", output)
        check(lost, "the loss is told: %r", output[-300:])
        check_equal(output.count("\0") + int(lost.group(1)), 9000000, "bytes kept and lost")


@test("disk full to the end of a job's output: its end tells what was lost",
      needs_root=True, needs=cannot_mount, cluster=None)
def disk_full_to_the_end():
    with small_disk("8m") as c:
        copy = os.path.join(c.disk, "copy")
        job = c.submit("--output", copy, "sh", "-c", "head -c 9000000 /dev/zero")
        c.wait(job, 0)
        reason = c.describe(job)["reason"]
        lost = re.search(r"code 0; (\d+) bytes of output were lost: No space left", reason)
        check(lost, "its reason: %s", reason)
        check(int(lost.group(1)) > 1000000, "how much: %s", reason)


@test("no room for the first start: an error that says so, at once", needs_root=True,
      needs=cannot_mount, cluster=None)
def full_from_the_start():
    with small_disk("256k") as c:
        c.counts_starts = False
        c.fill()
        result = c.run("launch", "true", timeout=40)
        check(result.rc in (1, 5), "exit code: %s", result)
        check("No space left" in result.err or "disk is full" in result.err, "why: %s", result)
        c.drain()


def database(c):
    """The database at rest, after both daemons have gone."""
    c.ok("launch", "true")
    pids = c.coordinator(), c.acceld()
    c.ok("admin", "shutdown")
    wait_pid_gone(pids[0])
    os.kill(pids[1], signal.SIGTERM)
    wait_pid_gone(pids[1])
    c.counts_starts = False
    return c.state("coordinator", "accel.db")


def digest(path):
    with open(path, "rb") as f:
        return hashlib.sha256(f.read()).hexdigest()


def check_refused(c, path, *words):
    """Every verb ends with an error that names the file, and nothing is written over it."""
    before = digest(path)
    for verb in (["ps"], ["submit", "true"], ["launch", "true"]):
        result = c.run(*verb, timeout=40)
        check(result.rc in (1, 5), "exit code: %s", result)
        check(path in result.err, "the file is named: %s", result)
        check(any(word in result.err for word in words), "%s in %s", words, result)
    check_equal(digest(path), before, "the file")


@test("a database that is cut short is refused and left as it is")
def truncated(c):
    path = database(c)
    os.truncate(path, os.path.getsize(path) // 2)
    check_refused(c, path, "was cut")


@test("a file that is no database is refused and left as it is")
def garbage(c):
    path = database(c)
    with open(path, "wb") as f:
        f.write(b"Dear diary, " * 4000)
    check_refused(c, path, "not a database", "no database")


@test("a database of another program is refused and left as it is")
def other_program(c):
    path = database(c)
    os.unlink(path)
    db = sqlite3.connect(path)
    db.executescript("create table recipes(name); insert into recipes values ('soup');")
    db.close()
    check_refused(c, path, "another program", "other program", "not of accel", "not an accel")


@test("a database of a newer schema is refused with a hint, and left as it is")
def newer_schema(c):
    path = database(c)
    db = sqlite3.connect(path)
    version = db.execute("pragma user_version").fetchone()[0]
    check(version > 0, "the schema has a number")
    db.execute("pragma user_version = %d" % (version + 1))
    db.close()
    check_refused(c, path, "newer")


@test("a state directory that vanished under the daemons: told, not damaged")
def vanished(c):
    c.ok("launch", "true")
    pid = c.acceld()
    c.kill_acceld()
    shutil.rmtree(c.state("node"))
    c.counts_starts = False
    c.ok("launch", "echo", "again")
    check(c.acceld() != pid, "a new acceld")


def run_daemon(c, program, *options):
    done = subprocess.run([os.path.join(c.bin, program), *options], env=c.env, cwd=c.work,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, timeout=60)
    return done.returncode, (done.stdout + done.stderr).decode("utf-8", "replace")


@test("two coordinators on one state directory: the second is refused, the first goes on")
def two_coordinators(c):
    c.ok("launch", "true")
    rc, text = run_daemon(c, "accel-coordinator", "--state-dir", c.state("coordinator"),
                          "--listen", "unix:" + c.path("other.sock"))
    check(rc not in (0, 2) and "another coordinator" in text, "refused: %s %s", rc, text)
    check(str(c.coordinator()) in text, "it names the pid: %s", text)
    c.ok("launch", "true")


@test("two coordinators on one socket: the second is refused, the first goes on")
def two_on_one_socket(c):
    c.ok("launch", "true")
    other = tempfile.mkdtemp(dir=c.dir)
    rc, text = run_daemon(c, "accel-coordinator", "--state-dir", other, "--listen",
                          "unix:%s/accel/coordinator.sock" % c.runtime)
    check(rc not in (0, 2), "refused: %s %s", rc, text)
    c.ok("launch", "true")


@test("two accelds on one state directory: the second is refused, the first goes on")
def two_accelds(c):
    c.ok("launch", "true")
    rc, text = run_daemon(c, "acceld", "--state-dir", c.state("node"), "--coordinator",
                          "unix:%s/accel/coordinator.sock" % c.runtime)
    check(rc not in (0, 2) and "another acceld" in text, "refused: %s %s", rc, text)
    c.ok("launch", "true")


@test("a state directory that may not be written: exit code 4 and its name", uid=65534)
def read_only_state(c):
    c.counts_starts = False
    os.chmod(c.state_home, 0o500)
    result = c.run("launch", "true")
    check(result.rc in (1, 4, 5), "exit code: %s", result)
    check(c.state_home in result.err and "ermission" in result.err, "why: %s", result)
    check_equal(c.processes(), {}, "daemons")


@test("a working directory that may not be written is fine, until something is to be written there",
      uid=65534)
def read_only_work(c):
    gate = c.gate("unused")
    check(gate, "made before the directory is closed")
    os.chmod(c.work, 0o500)
    check_equal(c.ok("launch", "pwd").out, c.work + "\n", "directory")
    result = c.run("launch", "--output", "o.txt", "true")
    check(result.rc in (125, 126), "exit code: %s", result)
    check(c.path("o.txt") in result.err and "ermission" in result.err, "why: %s", result)


@test("a working directory that is gone: the start fails with its name; of the caller: told")
def no_work(c):
    folder = c.path("gone")
    os.mkdir(folder)
    gate = c.gate("gate")
    blocker = c.submit("--procs", "16", "sh", "-c", "read x < %s" % gate.path)
    c.wait(blocker, running=True)
    job = c.submit("true", cwd=folder)
    os.rmdir(folder)
    gate.open(16)
    result = c.run("wait", job)
    check(result.rc in (125, 126, 127) and folder in result.err, "why: %s", result)
    os.mkdir(folder)
    result = c.run("launch", "true", cwd=folder,
                   prefix=["sh", "-c", 'rmdir %s; exec "$@"' % folder, "sh"])
    check(result.rc == 1 and "directory" in result.err, "why: %s", result)


@test("jobs submitted while the coordinator shuts down: each gets an id and runs once")
def submit_during_shutdown(c):
    c.ok("ps")
    ids = []
    for _ in range(5):
        commands = [c.start("submit", "sh", "-c", "echo $ACCEL_JOB_ID >> ran") for _ in range(3)]
        stop = c.start("admin", "shutdown")
        commands += [c.start("submit", "sh", "-c", "echo $ACCEL_JOB_ID >> ran") for _ in range(3)]
        for command in commands:
            result = command.finish()
            check_equal(result.rc, 0, str(result))
            ids.append(int(result.out))
        stop.finish()
    c.counts_starts = False
    check_equal(len(set(ids)), 30, "different ids in %s" % ids)
    c.ok("wait", *map(str, ids), timeout=120)
    with open(c.path("ran")) as f:
        check_equal(sorted(map(int, f)), sorted(ids), "each ran once")
    check_equal([j["id"] for j in c.jobs("-a")], sorted(ids), "jobs that are known")


if __name__ == "__main__":
    main()
