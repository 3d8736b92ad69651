# SPDX-License-Identifier: Apache-2.0
"""What the system tests share: a cluster of real daemons per test, and TAP.

A Cluster has a runtime and a state directory of its own, runs accelctl there, finds its processes
by what their environment says, and ends all of them whatever happened.  Nothing here waits for time
to pass: a process is waited for by its pidfd, a job by `accelctl wait` or a line it prints; every
wait has a deadline after which the test fails and says what it waited for.
Knows the programs from outside only.  Standard library only.
"""
import atexit
import contextlib
import errno
import glob
import json
import os
import queue
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
FIXTURES = tempfile.mkdtemp(prefix="ac.fixtures.", dir="/tmp")  # the tree may be closed to others
shutil.copytree(os.path.join(ROOT, "tests", "system", "fixtures"), FIXTURES, dirs_exist_ok=True)
os.chmod(FIXTURES, 0o755)
atexit.register(shutil.rmtree, FIXTURES, ignore_errors=True)
PYTHON = "/usr/bin/python3" if os.path.exists("/usr/bin/python3") else sys.executable
PROGRAMS = {"accelctl": "client/accelctl", "accelctl-remote": "client/accelctl",
            "acceld": "agentd", "accel-spawn": "agentd", "accel-coordinator": "scheduler",
            "accel-grpc.so": "common"}
DEADLINE_S = 60  # for one event; more means that it will never come
DAMAGE = re.compile(r"AddressSanitizer|LeakSanitizer|runtime error:|UndefinedBehavior|"
                    r"check failed|fatal:|Assertion .* failed|core dumped", re.I)


class Failure(Exception):
    """A test found what it must not find."""


class Skip(Exception):
    """This machine cannot run the test; the text says why."""


def check(condition, message, *values):
    if not condition:
        raise Failure(message % values if values else message)


def check_equal(found, wanted, what):
    if found != wanted and isinstance(found, str) and len(found) > 300:
        at = len(os.path.commonprefix([found, wanted]))
        found, wanted = found[max(0, at - 60):at + 100], wanted[max(0, at - 60):at + 100]
        what += " (%d bytes are the same before)" % at
    check(found == wanted, "%s: found %r, wanted %r", what, found, wanted)


def find_programs():
    """A folder with all the programs, as an installation has it: they look beside themselves."""
    given = os.environ.get("ACCEL_TEST_BIN")
    if given:
        return given
    build = os.environ.get("ACCEL_TEST_BUILD")
    check(build, "ACCEL_TEST_BIN or ACCEL_TEST_BUILD must be set")
    folder = os.path.join(build, "bin")
    os.makedirs(folder, exist_ok=True)
    for name, where in PROGRAMS.items():
        source, target = os.path.join(build, where, name), os.path.join(folder, name)
        if os.path.exists(target) and os.path.samefile(source, target):
            continue
        with tempfile.TemporaryDirectory(dir=build) as spare:  # other tests start at the same time
            os.link(source, os.path.join(spare, name))
            os.rename(os.path.join(spare, name), target)
    return folder


def open_programs(programs, folder):
    """The same folder, or a copy below `folder` where other users cannot enter it."""
    path = os.path.realpath(programs)
    while path != "/":
        if not os.stat(path).st_mode & 0o001:
            return shutil.copytree(programs, os.path.join(folder, "b"))
        path = os.path.dirname(path)
    return programs


class Result:
    def __init__(self, args, rc, out, err):
        self.args, self.rc, self.out, self.err = args, rc, out, err

    def json(self):
        try:
            return json.loads(self.out)
        except ValueError as e:
            raise Failure("%s: no JSON (%s): %r" % (" ".join(self.args), e, self.out[:500]))

    def __str__(self):
        return "`accelctl %s` ended with %s\nstdout: %s\nstderr: %s" % (
            " ".join(self.args)[:300], self.rc, self.out[-1500:], self.err[-1500:])


class Background:
    """A running accelctl whose lines are read as they come."""

    def __init__(self, popen, args):
        self.popen, self.args, self.pid = popen, args, popen.pid
        self.seen = {"out": [], "err": []}
        self.lines = queue.Queue()
        self.threads = [threading.Thread(target=self._read, args=(name, pipe), daemon=True)
                        for name, pipe in (("out", popen.stdout), ("err", popen.stderr))]
        for thread in self.threads:
            thread.start()

    def _read(self, name, pipe):
        for line in pipe:
            line = line.decode("utf-8", "surrogateescape")
            self.seen[name].append(line)
            self.lines.put(line)
        self.lines.put(None)

    def expect(self, pattern, timeout=DEADLINE_S):
        """The match of the next line that has the pattern; lines before it are passed over."""
        deadline, ends = time.monotonic() + timeout, 0
        while True:
            try:
                line = self.lines.get(timeout=max(0.01, deadline - time.monotonic()))
            except queue.Empty:
                raise Failure("no line with %r within %s s\n%s" % (pattern, timeout, self))
            if line is None:
                ends += 1
                check(ends < 2, "it ended without a line with %r\n%s", pattern, self)
                continue
            match = re.search(pattern, line)
            if match:
                return match

    def finish(self, timeout=DEADLINE_S):
        try:
            rc = self.popen.wait(timeout)
        except subprocess.TimeoutExpired:
            raise Failure("it has not ended within %s s\n%s" % (timeout, self))
        for thread in self.threads:
            thread.join(timeout)
        return Result(self.args, rc, "".join(self.seen["out"]), "".join(self.seen["err"]))

    def signal(self, signo):
        self.popen.send_signal(signo)

    def __str__(self):
        return "`accelctl %s`\nstdout: %s\nstderr: %s" % (
            " ".join(self.args)[:300], "".join(self.seen["out"])[-1500:],
            "".join(self.seen["err"])[-1500:])


# ---- processes ----


def read_proc(pid, name):
    try:
        with open("/proc/%d/%s" % (pid, name), "rb") as f:
            return f.read()
    except OSError:
        return b""


def all_pids():
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def is_alive(pid):
    fields = read_proc(pid, "stat").rpartition(b")")[2].split()
    return bool(fields) and fields[0] not in (b"Z", b"X")


def wait_pid_gone(pid, timeout=DEADLINE_S, what="process"):
    """Until the kernel says that it has ended, reaped or not."""
    try:
        fd = os.pidfd_open(pid)
    except OSError as e:
        check(e.errno in (errno.ESRCH, errno.EINVAL), "%s", e)  # EINVAL: being reaped right now
        return
    try:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        check(poll.poll(timeout * 1000), "%s %d has not ended within %s s: %r", what, pid, timeout,
              read_proc(pid, "cmdline"))
    finally:
        os.close(fd)


def peak_memory_kb(pid):
    match = re.search(rb"VmHWM:\s+(\d+)", read_proc(pid, "status"))
    check(match, "process %d has no VmHWM", pid)
    return int(match.group(1))


def is_sanitized(program):
    """Sanitizers multiply memory; a test of sizes asks this."""
    with open(program, "rb") as f:
        return b"__asan_init" in f.read()


class Gate:
    """Holds workers until the test opens it: they read a FIFO (`read x < path`)."""

    def __init__(self, path):
        self.path = path
        os.mkfifo(path)
        os.chmod(path, 0o666)
        self.fd = os.open(path, os.O_RDWR)  # so that neither side blocks in open

    def open(self, workers=1):
        os.write(self.fd, b"go\n" * workers)


class Mailbox:
    """What workers say without the product's help: lines written into a FIFO."""

    def __init__(self, path):
        self.path = path
        os.mkfifo(path)
        os.chmod(path, 0o666)
        self.fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        self.rest = b""

    def line(self, timeout=DEADLINE_S):
        poll, deadline = select.poll(), time.monotonic() + timeout
        poll.register(self.fd, select.POLLIN)
        while b"\n" not in self.rest:
            left = max(0, deadline - time.monotonic())
            check(poll.poll(left * 1000), "no word from the worker within %s s", timeout)
            self.rest += os.read(self.fd, 65536)
        line, _, self.rest = self.rest.partition(b"\n")
        return line.decode("utf-8", "surrogateescape")


# ---- the cluster ----


class Cluster:
    """One user's embedded daemons.

    uid: run everything as this user (needs root).  devices: content of a fake device file.
    runtime, state: other directories than the usual ones under self.dir.
    """

    def __init__(self, uid=None, devices=None, env=None, runtime=None, state=None):
        self.bin = find_programs()
        self.uid = uid
        self.dir = tempfile.mkdtemp(prefix="ac.", dir="/tmp")
        if uid is not None:  # the tree may be in a home that others cannot enter
            self.bin = shutil.copytree(self.bin, os.path.join(self.dir, "b"))
        self.runtime = runtime or os.path.join(self.dir, "r")
        self.state_home = state or os.path.join(self.dir, "s")
        for folder in (self.runtime, self.state_home):
            os.makedirs(folder, mode=0o700, exist_ok=True)
        self.work = os.path.join(self.dir, "w")
        os.mkdir(self.work, 0o700)
        if uid is not None:
            for folder in (self.dir, self.runtime, self.state_home, self.work):
                os.chown(folder, uid, uid)
        self.env = self.clean_environment()
        if devices is not None:
            self.devices_file = self.write("devices", devices)
            self.env["ACCEL_DEVICES"] = "fake:" + self.devices_file
        self.env.update(env or {})
        self.background = []
        self.prefix = ()  # commands go through this, to another host
        self.coordinator_starts = self.agent_starts = 1  # what the tests themselves make necessary
        self.counts_starts = True
        self.expected_damage = None
        self.closed = False

    def clean_environment(self):
        env = {k: v for k, v in os.environ.items()
               if not k.startswith(("ACCEL", "XDG_", "SLURM_", "MESON_", "CMOCKA_"))}
        env.update({"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": self.dir, "LC_ALL": "C.UTF-8",
                    "XDG_RUNTIME_DIR": self.runtime, "XDG_STATE_HOME": self.state_home,
                    "ACCEL_IDLE_EXIT": "300", "PYTHONDONTWRITEBYTECODE": "1",
                    "ACCEL_TEST_CLUSTER": self.dir})
        env.setdefault("ASAN_OPTIONS", "halt_on_error=1:abort_on_error=1:detect_leaks=1")
        env.setdefault("UBSAN_OPTIONS", "halt_on_error=1:abort_on_error=1:print_stacktrace=1")
        return env

    def path(self, *names):
        return os.path.join(self.work, *names)

    def write(self, name, text, mode=0o644):
        path = self.path(name)
        with open(path, "wb") as f:
            f.write(text if isinstance(text, bytes) else text.encode())
        os.chmod(path, mode)
        if self.uid is not None:
            os.chown(path, self.uid, self.uid)
        return path

    def gate(self, name):
        return Gate(self.path(name))

    # -- accelctl --

    def _command(self, args, env, prefix):
        command = list(prefix or self.prefix)
        if self.uid is not None:
            command += ["setpriv", "--reuid", str(self.uid), "--regid", str(self.uid),
                        "--clear-groups"]
        merged = {k: v for k, v in {**self.env, **(env or {})}.items() if v is not None}
        return command + [os.path.join(self.bin, "accelctl")] + list(args), merged

    def run(self, *args, stdin=None, timeout=DEADLINE_S, env=None, cwd=None, prefix=()):
        """Runs accelctl to its end.  stdin: bytes, an open file, or None for /dev/null."""
        command, merged = self._command(args, env, prefix)
        shown = [os.fsdecode(a) for a in args]
        how = {"input": stdin} if isinstance(stdin, bytes) else {
            "stdin": stdin or subprocess.DEVNULL}
        try:
            done = subprocess.run(command, env=merged, cwd=cwd or self.work, timeout=timeout,
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE, **how)
        except subprocess.TimeoutExpired as e:
            raise Failure("`accelctl %s` has not ended within %s s\nstdout: %r\nstderr: %r" % (
                " ".join(shown), timeout, (e.stdout or b"")[-800:], (e.stderr or b"")[-800:]))
        result = Result(shown, done.returncode, done.stdout.decode("utf-8", "surrogateescape"),
                        done.stderr.decode("utf-8", "surrogateescape"))
        check(not DAMAGE.search(result.err), "accelctl is damaged: %s", result)
        return result

    def ok(self, *args, **how):
        result = self.run(*args, **how)
        check(result.rc == 0, "%s", result)
        return result

    def fails(self, rc, *args, **how):
        result = self.run(*args, **how)
        check(result.rc == rc, "wanted exit code %s: %s", rc, result)
        return result

    def start(self, *args, stdin=None, env=None, cwd=None, prefix=(), new_session=True):
        """Runs accelctl in the background."""
        command, merged = self._command(args, env, prefix)
        popen = subprocess.Popen(command, env=merged, cwd=cwd or self.work,
                                 stdin=stdin or subprocess.DEVNULL, stdout=subprocess.PIPE,
                                 stderr=subprocess.PIPE, start_new_session=new_session)
        self.background.append(popen)
        return Background(popen, [os.fsdecode(a) for a in args])

    def submit(self, *args, **how):
        result = self.ok("submit", *args, **how)
        check(re.fullmatch(r"\d+\n", result.out), "submit prints the id only: %s", result)
        return result.out.strip()

    def wait(self, job, wanted=None, running=False, timeout=DEADLINE_S):
        """Until the job has ended, or runs; the exit code if none is wanted."""
        result = self.run("wait", *(["--for=running"] if running else []), job, timeout=timeout)
        if running:
            wanted = 0
        check(wanted is None or result.rc == wanted, "wanted exit code %s: %s", wanted, result)
        return result

    def describe(self, job):
        return self.ok("describe", str(job), "-o", "json").json()

    def jobs(self, *args):
        return self.ok("ps", "-o", "json", *args).json()["items"]

    def ranks(self, job, attempt=-1):
        return self.describe(job)["attempts"][attempt]["ranks"]

    def status(self):
        return self.ok("admin", "status", "-o", "json").json()

    # -- state and processes --

    def state(self, *names):
        """A path below the state directory, which is named after the machine."""
        accel = os.path.join(self.state_home, "accel")
        folders = os.listdir(accel) if os.path.isdir(accel) else []
        check(len(folders) == 1, "one folder is wanted in %s, there are %s", accel, folders)
        return os.path.join(accel, folders[0], *names)

    def processes(self):
        """pid -> command line of everything of this cluster that lives, the test itself aside."""
        # a shim is forked without exec: it has acceld's environment as everybody else
        mark = b"ACCEL_TEST_CLUSTER=" + self.dir.encode() + b"\0"
        found = {}
        for pid in all_pids():
            environ = read_proc(pid, "environ")
            attempt = b"ACCEL_ATTEMPT_DIR=" + self.state_home.encode()
            if pid != os.getpid() and (mark in environ + b"\0" or attempt in environ):
                found[pid] = read_proc(pid, "cmdline").replace(b"\0", b" ").decode(
                    "utf-8", "replace").strip()
        return found

    def daemons(self):
        """Their names; a shim is the image of accel-spawn, so it is one too while its job runs."""
        names = [os.path.basename(line.split(" ")[0]) for line in self.processes().values()]
        return sorted(name for name in names
                      if name in PROGRAMS and not name.startswith("accelctl"))

    def workers(self):
        """pids of workers and of all that they started, by the mark that their environment has."""
        mark = b"ACCEL_ATTEMPT_DIR=" + self.state_home.encode()
        return [pid for pid in all_pids() if mark in read_proc(pid, "environ")]

    def coordinator(self):
        return self._one_daemon("accel-coordinator ")

    def acceld(self):
        return self._one_daemon("acceld ")

    def spawn(self):
        parent = self.acceld()
        for pid in self.processes():
            stat = read_proc(pid, "stat").rpartition(b")")[2].split()
            if stat and int(stat[1]) == parent:
                return pid
        raise Failure("acceld %d has no accel-spawn" % parent)

    def shim(self, job, attempt=1):
        with open(self.state("node", "attempts", "%s.%s" % (job, attempt), "pid")) as f:
            return int(f.readline().split()[0])

    def _one_daemon(self, name):
        """The one that stays: a second one, started by two commands at once, ends by itself."""
        found = self._daemon_pids(name)
        deadline = time.monotonic() + DEADLINE_S
        while len(found) > 1 and time.monotonic() < deadline:
            poll, fds = select.poll(), []
            for pid in found:
                with contextlib.suppress(ProcessLookupError):
                    fds.append(os.pidfd_open(pid))
                    poll.register(fds[-1], select.POLLIN)
            poll.poll(DEADLINE_S * 1000 if len(fds) == len(found) else 0)
            for fd in fds:
                os.close(fd)
            found = self._daemon_pids(name)
        check(len(found) == 1, "one %s is wanted, there are %s", name, found)
        return found[0]

    def _daemon_pids(self, name):
        return [pid for pid, line in self.processes().items() if is_alive(pid)
                and os.path.basename(line.split(" ")[0]) + " " == name]

    def kill_coordinator(self):
        pid = self.coordinator()
        os.kill(pid, signal.SIGKILL)
        wait_pid_gone(pid)
        self.coordinator_starts += 1
        return pid

    def kill_acceld(self):
        pid = self.acceld()
        os.kill(pid, signal.SIGKILL)
        wait_pid_gone(pid)
        self.agent_starts += 1
        return pid

    def check_no_workers(self, timeout=10):
        """Nothing of any job is left, or goes now without anybody's doing."""
        for pid in self.workers():
            wait_pid_gone(pid, timeout, "left-over worker")
        left = self.workers()
        check(not left, "workers are left: %s",
              {pid: read_proc(pid, "cmdline") for pid in left})

    # -- the end --

    def close(self, failed=False):
        """Ends everything.  With failed=True only that; else a fault found here is a failure."""
        if self.closed:
            return
        self.closed = True
        try:
            if not failed:
                self._end_politely()
        finally:
            self._end_all()
            damage = self._damage()
            if not failed:
                shutil.rmtree(self.dir, ignore_errors=True)
        check(failed or not damage, "a log tells of damage:\n%s", damage)

    def _end_politely(self):
        status = self.run("admin", "status", "-o", "json")
        if status.rc == 0:
            if status.json()["jobs_live"]:
                self.ok("cancel", "--all", "--kill", "--yes")
                self.ok("ps", "-o", "json")
                for job in self.jobs("-A"):
                    self.wait(str(job["id"]))
            self.check_no_workers()
            self._check_starts()
            coordinator = self.coordinator()
            acceld = self.acceld() if self.counts_starts or "acceld" in self.daemons() else None
            self.ok("admin", "shutdown")
            wait_pid_gone(coordinator, what="coordinator")
            if acceld:
                os.kill(acceld, signal.SIGTERM)
                wait_pid_gone(acceld, what="acceld")
        elif self.counts_starts:
            raise Failure("the coordinator is gone at the end: %s" % status)
        for popen in self.background:
            check(popen.poll() is not None, "accelctl %s is still there", popen.args)

    def _check_starts(self):
        """A daemon that crashed would have been started again by the next command."""
        if not self.counts_starts:
            return
        log = "".join(text for name, text in self.logs().items() if "coordinator" in name)
        check_equal(log.count(" serves "), self.coordinator_starts, "starts of the coordinator")
        node = self.ok("nodes", "-o", "json").json()["items"][0]
        check_equal(node["incarnation"], self.agent_starts, "starts of acceld")

    def _end_all(self):
        for popen in self.background:
            if popen.poll() is None:
                popen.kill()
            popen.wait()
        cgroups = self._cgroups()
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            left = self.processes()
            if not left:
                remove_cgroups(cgroups)
                return
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            for pid in left:
                with contextlib.suppress(Failure):
                    wait_pid_gone(pid, 2)

    def _cgroups(self):
        """Names of what an acceld leaves that is killed with its accel-spawn: cgroup.c."""
        names = []
        for top, folders, _ in os.walk(self.state_home):
            if "attempts" in folders:
                path = os.path.join(top, "attempts")
                st, number = os.stat(path), 0xcbf29ce484222325
                for byte in ("%x:%x:%s" % (st.st_dev, st.st_ino, path)).encode():
                    number = (number ^ byte) * 0x100000001b3 % 2 ** 64
                names.append("accel-%d-%016x" % (st.st_uid, number))
                folders.remove("attempts")
        return names

    def logs(self):
        found = {}
        for top, _, names in os.walk(self.state_home):
            for name in names:
                if re.search(r"\.log(\.1)?$", name):
                    with contextlib.suppress(OSError), open(os.path.join(top, name), "rb") as f:
                        found[name] = f.read().decode("utf-8", "replace")
        return found

    def _damage(self):
        return "\n".join("%s: %s" % (name, text[max(0, DAMAGE.search(text).start() - 300):][:3000])
                         for name, text in self.logs().items() if DAMAGE.search(text))


# ---- TAP ----

TESTS = []


def test(sentence, **how):
    """Registers a function as a test; it gets a Cluster made with the keywords given.

    cluster=None: no cluster.  needs_root, needs: a function that returns why not, or None.
    """
    def add(function):
        TESTS.append((sentence, function, how))
        return function
    return add


def remove_cgroups(names):
    """Those that are empty, in every hierarchy, below our own cgroup and at the top."""
    with open("/proc/self/cgroup") as f:
        below = {"", *(line.rstrip("\n").split(":", 2)[2].lstrip("/") for line in f)}
    for name in names:
        for path in glob.glob("/sys/fs/cgroup/*") + ["/sys/fs/cgroup"]:
            for top in {os.path.join(path, b, name) for b in below}:
                for folder, _, _ in os.walk(top, topdown=False):
                    with contextlib.suppress(OSError):
                        os.rmdir(folder)


def why_not(how):
    if (how.get("needs_root") or how.get("uid") is not None) and os.getuid() != 0:
        return "needs root"
    return how["needs"]() if how.get("needs") else None


def run_one(function, how):
    options = {k: v for k, v in how.items() if k in ("uid", "devices", "env")}
    for name, value in options.items():
        options[name] = value() if callable(value) else value
    if "cluster" in how:
        function()
        return
    cluster = Cluster(**options)
    try:
        function(cluster)
        cluster.close()
    except BaseException:
        cluster.close(failed=True)
        for name, text in cluster.logs().items():
            diagnostics("end of %s:\n%s" % (name, text[-2500:]))
        if not os.environ.get("ACCEL_TEST_KEEP"):
            shutil.rmtree(cluster.dir, ignore_errors=True)
        raise


def diagnostics(text):
    lines = str(text).split("\n")
    if len(lines) > 40:
        lines = lines[:20] + ["... %d lines ..." % (len(lines) - 40)] + lines[-20:]
    for line in lines:
        print("#   " + line.encode("utf-8", "backslashreplace").decode(), flush=True)


def main():
    """Runs the registered tests, or those whose sentence holds an argument; prints TAP."""
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_IGN:  # a background job's; children inherit it
            signal.signal(number, signal.SIG_DFL)
    wanted = sys.argv[1:]
    tests = [t for t in TESTS if not wanted or any(w in t[0] for w in wanted)]
    failed = 0
    print("1..%d" % len(tests), flush=True)
    try:
        find_programs()
    except (Failure, OSError) as e:
        print("Bail out! the programs cannot be found: %s" % e, flush=True)
        sys.exit(1)
    for number, (sentence, function, how) in enumerate(tests, 1):
        began = time.monotonic()
        try:
            reason = why_not(how)
            if reason:
                raise Skip(reason)
            run_one(function, how)
            took = time.monotonic() - began
            print("ok %d - %s (%.1f s)" % (number, sentence, took), flush=True)
        except Skip as e:
            print("ok %d - %s # SKIP %s" % (number, sentence, e), flush=True)
        except Exception as e:  # whatever it is, the other tests run
            failed += 1
            print("not ok %d - %s" % (number, sentence), flush=True)
            diagnostics(e if isinstance(e, Failure) else traceback.format_exc())
            if isinstance(e, Failure):
                frames = traceback.extract_tb(e.__traceback__)
                diagnostics("at " + ", ".join("%s:%d" % (os.path.basename(f.filename), f.lineno)
                                              for f in frames if f.filename.endswith(".py")))
    sys.exit(1 if failed else 0)
