#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A node of several users: acceld gives up root, jobs run as their own users within limits."""
import json
import os
import pwd
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from accel_test import (PYTHON, Skip, check, check_equal, main, read_proc,  # noqa: E402
                        test)

AGENT = "daemon"  # any user of the system but root; a package makes one of its own


class Shared:
    """A coordinator and an acceld started by hand, both as AGENT, for whoever is on this host."""

    def __init__(self, c, *options):
        if os.geteuid() != 0:
            raise Skip("not root")
        self.cluster, self.agent = c, pwd.getpwnam(AGENT)
        c.counts_starts = False  # its own daemons are not used
        self.bin = shutil.copytree(c.bin, tempfile.mkdtemp(prefix="ac.bin.", dir="/tmp"),
                                   dirs_exist_ok=True)
        self.dir = tempfile.mkdtemp(prefix="ac.node.", dir="/tmp")
        for folder in (self.bin, self.dir):
            os.chmod(folder, 0o755)
        self.state = os.path.join(self.dir, "node")
        run, store = os.path.join(self.dir, "run"), os.path.join(self.dir, "store")
        for folder in (run, store):
            os.mkdir(folder, 0o755)
            os.chown(folder, self.agent.pw_uid, self.agent.pw_gid)
        self.socket = "unix:" + os.path.join(run, "coordinator.sock")
        self.coordinator = self.start(
            "accel-coordinator", "--listen", self.socket, "--socket-mode", "0666", "--state-dir",
            store, user=self.agent.pw_uid)
        self.acceld = self.start("acceld", "--coordinator", self.socket, "--state-dir", self.state,
                                 "--user", AGENT, *options)

    def start(self, name, *args, user=None):
        read, write = os.pipe()
        popen = subprocess.Popen(
            [os.path.join(self.bin, name), *args, "--ready-fd", str(write)], pass_fds=[write],
            env=self.cluster.env, cwd="/", user=user, group=user and self.agent.pw_gid,
            extra_groups=None if user is None else [])
        os.close(write)
        with os.fdopen(read, "rb") as f:
            check(f.readline() == b"ready\n", "%s is not ready", name)
        return popen

    def run(self, user, *args, rc=0):
        who = pwd.getpwnam(user)
        env = dict(self.cluster.env, HOME="/", XDG_STATE_HOME="/nonexistent",
                   XDG_RUNTIME_DIR="/nonexistent")
        done = subprocess.run(
            [os.path.join(self.bin, "accelctl"), args[0], "--coordinator", self.socket, *args[1:]],
            env=env, cwd="/", user=who.pw_uid, group=who.pw_gid, extra_groups=[],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60,
            text=True)
        check(done.returncode == rc, "%s: wanted %s, found %s\nstdout: %s\nstderr: %s", args, rc,
              done.returncode, done.stdout, done.stderr)
        return done

    def close(self):
        for popen in (self.acceld, self.coordinator):
            popen.terminate()
            check_equal(popen.wait(60), 0, "end of %s" % popen.args[0])
        shutil.rmtree(self.dir)
        shutil.rmtree(self.bin)


@test("acceld gives up root, and a job is its user's")
def own_user(c):
    node = Shared(c)
    status = read_proc(node.acceld.pid, "status").decode()
    check("Uid:\t%d\t%d" % (node.agent.pw_uid, node.agent.pw_uid) in status, "uid: %s", status)
    check("CapEff:\t0000000000000000" in status, "capabilities: %s", status)
    out = node.run("nobody", "launch", "sh", "-c", "id -un; id -G").stdout
    check_equal(out, "nobody\n65534\n", "who it runs as")
    result = node.run("root", "launch", "true", rc=125)
    check("this node runs no job as user id 0" in result.stderr, "root: %s", result.stderr)
    node.close()


@test("killed for memory, and told so with the limit", env={"ACCEL_SPAWN_CGROUP": "/"})
def memory(c):
    node = Shared(c)
    hog = "x = bytearray(400 << 20)\nfor i in range(0, len(x), 4096): x[i] = 1"
    if "memory: not enforced" in node.run("root", "nodes", "-o", "json").stdout:
        node.close()
        raise Skip("memory is not limited here")
    result = node.run("nobody", "launch", "--mem", "96M", PYTHON, "-c", hog, rc=137)
    text = node.run("nobody", "describe", "1").stdout
    check("was killed for memory (limit 96.0 MiB)" in result.stderr, "stderr: %s", result.stderr)
    check("limits: memory: 96.0 MiB (cgroup v" in text, "describe: %s", text)
    node.close()


@test("who is no operator follows the events of his own jobs, and of no others")
def follow_own(c):
    node = Shared(c, "--min-uid", "1")
    os.chmod(c.dir, 0o711)
    node.run("nobody", "launch", "--name", "before", "true")
    watch = subprocess.Popen(
        ["setpriv", "--reuid", "nobody", "--regid", "nogroup", "--clear-groups",
         os.path.join(node.bin, "accelctl"), "events", "-w", "-o", "json"],
        env={"ACCEL_COORDINATOR": node.socket, "PATH": os.environ["PATH"]}, text=True,
        stdout=subprocess.PIPE)
    first = json.loads(watch.stdout.readline())
    node.run("games", "launch", "--name", "secret", "true")
    for verb in ("describe", "logs", "cancel", "events"):
        told = node.run("nobody", verb, "2", rc=4).stderr
        check("belongs to games" in told and "\ntry: " in told, "%s: %s", verb, told)
    node.run("nobody", "launch", "--name", "mine", "true")
    seen = [first]
    while not (seen[-1]["job_id"] == 3 and seen[-1]["kind"] == "job.ended"):
        seen.append(json.loads(watch.stdout.readline()))
    watch.terminate()
    watch.wait(60)
    check("secret" not in str(seen), "what games runs: %s", seen)
    check_equal({e["job_id"] for e in seen} - {None}, {1, 3}, "whose jobs")
    node.close()


HOLD = """import socket, sys
held = []
for i in range(5000):
    s = socket.socket(socket.AF_UNIX)
    s.connect(sys.argv[1])
    held.append(s)
print("held", flush=True)
sys.stdin.read()
"""


@test("one user's connections keep nobody else out")
def many_connections(c):
    node = Shared(c)
    os.chmod(c.dir, 0o711)
    hold = subprocess.Popen(
        ["sh", "-c", "ulimit -n 6000; exec setpriv --reuid games --clear-groups %s -c \"$0\" \"$1\""
         % PYTHON, HOLD, node.socket[len("unix:"):]], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, text=True)
    check_equal(hold.stdout.readline(), "held\n", "connections")
    fds = len(os.listdir("/proc/%d/fd" % node.coordinator.pid))
    check(400 < fds < 800, "descriptors of the coordinator: %d", fds)
    check_equal(node.run("nobody", "launch", "echo", "served").stdout, "served\n", "another user")
    hold.stdin.close()
    hold.wait(60)
    node.close()


@test("acceld is killed: the next one takes a user's job over, with its output")
def adopted(c):
    node = Shared(c)
    gate = c.gate("gate")
    os.chmod(c.dir, 0o711)
    os.chmod(c.work, 0o711)
    job = node.run("nobody", "submit", "sh", "-c", "read x < %s; echo after" % gate.path).stdout
    job = job.strip()
    node.run("nobody", "wait", "--for=running", job)
    node.acceld.kill()
    node.acceld.wait()
    node.acceld = node.start("acceld", "--coordinator", node.socket, "--state-dir", node.state,
                             "--user", AGENT)
    gate.open()
    node.run("nobody", "wait", job)
    check_equal(node.run("nobody", "logs", job).stdout, "after\n", "output")
    node.close()


main()
