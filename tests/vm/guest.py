#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Inside the virtual machine, as root: installs accel as docs/OPERATING.md says and lives with it.

Prints TAP points on stdout. Started by a unit at each boot; what is to be looked at after the
reboot is a step of AFTER_REBOOT. See run for what else is in the machine.
"""
import base64
import glob
import json
import os
import pwd
import re
import shutil
import subprocess
import sys
import time
import traceback

HERE = os.path.dirname(os.path.abspath(__file__))
OPT = "/opt/accel"
LEFT = "/var/lib/accel-vm.json"  # what the first boot leaves to the second
DEADLINE_S = 60  # of anything; the machine may be emulated
C_TESTS = ("launcher", "launcher_tree", "launcher_adopt", "launcher_limits")


def check(condition, fmt, *args):
    if not condition:
        raise AssertionError(fmt % args)


def sh(command, rc=0, **kw):
    """A command of root's; its stdout. A string is for the shell."""
    done = subprocess.run(command, shell=isinstance(command, str), stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd="/",
                          timeout=DEADLINE_S, **kw)
    check(rc is None or done.returncode == rc, "%s: wanted %s, found %s\n%s%s", command, rc,
          done.returncode, done.stdout, done.stderr)
    return done.stdout + (done.stderr if rc != 0 else "")


def user(name, *args, rc=0):
    """accelctl as this user."""
    who = pwd.getpwnam(name)
    return sh(["accelctl", *args], rc, user=who.pw_uid, group=who.pw_gid,
              extra_groups=[], env={"HOME": who.pw_dir, "USER": name, "PATH": os.environ["PATH"]})


def home(name):
    return pwd.getpwnam(name).pw_dir


def until(what, condition):
    """Asks again and again: systemd and the kernel's groups tell nobody here."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        check(time.monotonic() < deadline, "still not after %d s: %s", DEADLINE_S, what)
        time.sleep(0.1)


def show(unit, key):
    return sh(["systemctl", "show", "--value", "-p", key, unit]).strip()


def main_pid(unit):
    return int(show(unit, "MainPID"))


def restarted(unit, before):
    until("%s is back" % unit, lambda: main_pid(unit) not in (0, before)
          and show(unit, "ActiveState") == "active")


def ready():
    """acceld has told the coordinator what it found."""
    until("the node is ready", lambda: '"READY"' in sh(["accelctl", "nodes", "-o", "json"], None))


class Held:
    """A running job of ann's that ends when it is let go."""

    def __init__(self, *options, script="echo before; read x < %s; echo after"):
        self.gate = os.path.join(home("ann"), "gate.%d" % time.monotonic_ns())
        os.mkfifo(self.gate)
        shutil.chown(self.gate, "ann")
        self.id = user("ann", "submit", *options, "sh", "-c", script % self.gate).strip()
        user("ann", "wait", "--for=running", self.id)
        self.pid = self.worker()["pid"]

    def describe(self):
        return json.loads(user("ann", "describe", "-o", "json", self.id))

    def worker(self):
        return self.describe()["attempts"][-1]["ranks"][0]

    def group(self):
        with open("/proc/%d/cgroup" % self.pid, encoding="ascii") as f:
            return "/sys/fs/cgroup" + os.path.dirname(f.read().strip().partition("0::")[2])

    def limit(self, name):
        with open(os.path.join(self.group(), name), encoding="ascii") as f:
            return f.read().strip()

    def let_go(self):
        with open(self.gate, "w", encoding="ascii") as f:
            f.write("\n")

    def finish(self):
        """It was not touched: one attempt, the same process, all of its output."""
        check(self.worker()["pid"] == self.pid, "another process: %s", self.worker())
        self.let_go()
        user("ann", "wait", self.id)
        check(len(self.describe()["attempts"]) == 1, "attempts: %s", self.describe())
        check(user("ann", "logs", self.id) == "before\nafter\n", "output")

    def is_tidy(self):
        return not glob.glob("/sys/fs/cgroup/accel-*/%s.*" % self.id)


# ---- before the reboot ----

def relay(title, command, **kw):
    """The points of a test program, with its name before theirs."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, errors="replace", timeout=600, **kw)
    plan = re.search(r"^1\.\.(\d+)$", done.stdout, re.M)
    points = re.findall(r"^((?:not )?ok) \d+ - (.*)$", done.stdout, re.M)
    for result, name in points:
        say("%s - %s: %s" % (result, title, name))
    whole = plan and int(plan[1]) == len(points)
    if not whole or any(result == "not ok" for result, _ in points):
        say("# " + done.stdout.replace("\n", "\n# "))
    check(whole, "%s ended with %d after %d points", title, done.returncode, len(points))


def limits_of_version_2():
    programs, daemons = os.path.join(HERE, "programs"), os.path.join(HERE, "accel/bin")
    for name in C_TESTS:
        relay(name, ["systemd-run", "--quiet", "--scope", "-p", "Delegate=yes",
                     os.path.join(programs, "test_" + name), os.path.join(daemons, "accel-spawn"),
                     os.path.join(programs, "naughty"), "cgroup2"],
              env=dict(os.environ, CMOCKA_MESSAGE_OUTPUT="TAP"))
    relay("users", [sys.executable, os.path.join(HERE, "tests/system/test_users.py")],
          env=dict(os.environ, ACCEL_TEST_BIN=daemons))


def install():
    """Word for word what docs/OPERATING.md says about the tarball."""
    with open(os.path.join(HERE, "accel/share/doc/accel/docs/OPERATING.md"), encoding="utf-8") as f:
        section = f.read().partition("## As a service\n")[2].partition("\n## ")[0]
    lines = [line.strip() for line in section.splitlines() if line.startswith("    ")]
    check(len(lines) > 5, "no commands in OPERATING.md")
    shutil.rmtree(OPT, ignore_errors=True)
    os.rename(os.path.join(HERE, "accel"), "/tmp/accel-0-linux-x86_64")  # as a tarball unpacks
    sh("set -e; cd /tmp; S=%s/share/accel/config\n%s" % (OPT, "\n".join(lines)))
    ready()


def enforced():
    text = sh(["accelctl", "doctor"])
    for kind in ("memory", "cpu", "processes", "devices"):
        check(kind + ": cgroup v2" in text, "%s is not enforced: %s", kind, text)


def plain_job():
    out = user("ann", "launch", "sh", "-c", "id -un; id -G; umask; cat /proc/self/oom_score_adj; "
               "grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status; "
               "touch /dev/shm/ann && rm /dev/shm/ann; sudo -n true 2>&1 | head -c 0; "
               "sed s/^0::// /proc/self/cgroup")
    head, _, group = out.strip().rpartition("\n")
    check(head == "ann\n1000\n0022\n0\nCapEff:\t0000000000000000\nCapBnd:\t000001ffffffffff\n"
          "NoNewPrivs:\t0\nSeccomp:\t0", "the job found: %s", out)
    check(re.fullmatch(r"/accel-0-[0-9a-f]+/\d+\.1/ranks", group), "its group: %s", group)


def limits_are_set():
    job = Held("--mem", "96M", "--cpus-per-task", "2")
    found = {name: job.limit(name) for name in ("memory.max", "cpu.max", "pids.max")}
    check(found == {"memory.max": str(96 << 20), "cpu.max": "200000 100000", "pids.max": "32768"},
          "found %s", found)
    job.finish()


def killed_for_memory():
    hog = "x = bytearray(400 << 20)"
    text = user("ann", "launch", "--mem", "96M", "/usr/bin/python3", "-c", hog, rc=137)
    check("was killed for memory (limit 96.0 MiB)" in text, "found %s", text)


def whose_jobs():
    job = Held()
    user("bob", "logs", job.id, rc=4)
    user("bob", "cancel", job.id, rc=4)
    text = sh(["accelctl", "launch", "true"], 125)
    check("runs no job as user id 0" in text, "root: %s", text)
    job.finish()


def survives(*events):
    """A job does not notice; and what comes after it has its limits."""
    job = Held("--mem", "96M")
    for event in events:
        event()
        ready()
    check(job.limit("memory.max") == str(96 << 20), "its limit is gone")
    after = Held("--mem", "64M")
    check(after.limit("memory.max") == str(64 << 20), "the next job has no limit")
    job.finish()
    after.finish()
    # accel-spawn tidies up behind shims that are not its own when it starts another.
    until("their groups are gone", lambda: user("ann", "launch", "true") == "" and job.is_tidy()
          and after.is_tidy())


def restart(unit):
    before = main_pid(unit)
    sh(["systemctl", "restart", unit])
    restarted(unit, before)


def kill(unit, signal="KILL"):
    before = main_pid(unit)
    sh(["systemctl", "kill", "--kill-whom=main", "-s", signal, unit])
    restarted(unit, before)


def hang_and_restart():
    before = main_pid("acceld")
    os.kill(before, 19)  # SIGSTOP: it hears no SIGTERM
    sh(["systemctl", "restart", "acceld"])
    restarted("acceld", before)


def upgrade():
    for program in ("acceld", "accel-coordinator", "accel-spawn", "accelctl"):
        sh("cp {0} {0}.new && mv {0}.new {0}".format(os.path.join(OPT, "bin", program)))
    restart("accel-coordinator")
    restart("acceld")


def stop_and_start():
    sh(["systemctl", "stop", "acceld"])
    check(show("acceld", "ActiveState") == "inactive", "it was stopped")
    sh(["systemctl", "start", "acceld"])


def watchdog():
    """One that hangs is ended by systemd and comes back, on a shorter leash than the unit's."""
    for unit in ("accel-coordinator", "acceld"):
        check(show(unit, "WatchdogUSec") not in ("", "0"), "%s has no watchdog", unit)
        drop = "/run/systemd/system/%s.service.d" % unit
        os.makedirs(drop)
        with open(drop + "/vm.conf", "w", encoding="ascii") as f:
            f.write("[Service]\nWatchdogSec=4\nTimeoutAbortSec=1\n")
    sh("systemctl daemon-reload && systemctl restart accel-coordinator acceld")
    for unit in ("accel-coordinator", "acceld"):
        job = Held()
        kill(unit, "STOP")
        check(int(show(unit, "NRestarts")) > 0, "systemd has not restarted it")
        ready()
        job.finish()
        shutil.rmtree("/run/systemd/system/%s.service.d" % unit)
    sh("systemctl daemon-reload && systemctl restart accel-coordinator acceld")
    ready()


def reload():
    for unit, path in (("acceld", "/etc/accel/agent.yaml"),
                       ("accel-coordinator", "/etc/accel/coordinator.yaml")):
        before = main_pid(unit)
        with open(path, encoding="utf-8") as f:
            text = f.read()
        for addition, said in (("log_level: debug\n", "log-level"),
                               ("no_such_setting: 1\n", "no_such_setting")):
            mark = sh(["journalctl", "-n0", "--show-cursor"]).strip().rpartition(" ")[2]
            with open(path, "w", encoding="utf-8") as f:
                f.write(text + addition)
            sh(["systemctl", "reload", unit])
            until("%s says %s" % (unit, said), lambda: said in sh(
                ["journalctl", "-u", unit, "--after-cursor", mark, "-o", "cat"]))
        with open(path, "w", encoding="utf-8") as f:
            f.write(text)
        sh(["systemctl", "reload", unit])
        check(main_pid(unit) == before, "it was restarted")
        until("%s is active" % unit, lambda: show(unit, "ActiveState") == "active")


def beside_systemd():
    """systemd realizes groups again and again; ours are not its own."""
    job = Held("--mem", "96M", "--cpus-per-task", "1")
    sh("systemctl daemon-reload; systemd-run --wait --quiet -p CPUWeight=50 -p MemoryMax=1G true; "
       "systemctl daemon-reload")
    check(job.limit("cpu.max") == "100000 100000", "cpu.max")
    check(job.limit("memory.max") == str(96 << 20), "memory.max")
    job.finish()


def closed_coordinator():
    """Its sandbox is on, and what it does over TLS works inside."""
    with open("/proc/%d/status" % main_pid("accel-coordinator"), encoding="ascii") as f:
        status = f.read()
    for line in ("NoNewPrivs:\t1", "Seccomp:\t2", "CapBnd:\t0000000000000000"):
        check(line in status, "%s: %s", line, status)
    sh("ip link add dummy0 type dummy && ip addr add 192.0.2.7/24 dev dummy0 && "
       "ip link set dummy0 up")
    sh("sed -i 's/^  # - tcp:/  - tcp:/' /etc/accel/coordinator.yaml")
    restart("accel-coordinator")
    ready()
    token = sh(["accelctl", "node", "token"]).strip().partition("accel-")[2]
    check(b"192.0.2.7:7443" in base64.urlsafe_b64decode(token + "=="), "the token has no address")
    sh("cd %s && umask 077 && accelctl user cert ann && chown ann ann.pem" % home("ann"))
    text = sh(["runuser", "-u", "ann", "--", "env", "ACCEL_COORDINATOR=127.0.0.1:7443",
               "ACCEL_CREDENTIALS=%s/ann.pem" % home("ann"), "accelctl", "launch", "echo",
               "over TLS"])
    check(text == "over TLS\n", "found %s", text)


def before_reboot():
    again = Held("--max-restarts", "1",
                 script="echo before; test $ACCEL_ATTEMPT = 2 || read x < %s; echo after")
    once = Held()
    with open(LEFT, "w", encoding="ascii") as f:
        json.dump({"again": again.id, "once": once.id}, f)


# ---- after it ----

def after_reboot():
    with open(LEFT, encoding="ascii") as f:
        left = json.load(f)
    ready()
    user("ann", "wait", left["again"])
    check(user("ann", "logs", left["again"]).endswith("before\nafter\n"), "output")
    # The shutdown ends ranks by SIGTERM; its SIGKILL comes a moment later and may find the shim.
    until("the other has ended", lambda: json.loads(
        user("ann", "describe", "-o", "json", left["once"]))["ended"] is not None)
    attempts = [json.loads(user("ann", "describe", "-o", "json", left[name]))["attempts"]
                for name in ("again", "once")]
    say("# told after the reboot: %s; %s" % tuple(a[0]["text"] for a in attempts))
    check([len(a) for a in attempts] == [2, 1], "attempts: %s", attempts)
    check(user("ann", "logs", left["once"]) == "before\n", "output of the job that was lost")
    check(not sh(["systemctl", "--failed", "--no-legend"]).strip(), "units failed")


STEPS = [
    ("a job is its user's, with no rights and none of the units' favours", plain_job),
    ("the limits of a job are in its group", limits_are_set),
    ("killed for memory, and told so", killed_for_memory),
    ("jobs of others are not for bob, and root has none", whose_jobs),
    ("systemctl restart of both", lambda: survives(lambda: restart("accel-coordinator"),
                                                   lambda: restart("acceld"))),
    ("kill -9 of both", lambda: survives(lambda: kill("accel-coordinator"),
                                         lambda: kill("acceld"))),
    ("systemctl stop, then start, of acceld", lambda: survives(stop_and_start)),
    ("systemctl restart of an acceld that hangs", lambda: survives(hang_and_restart)),
    ("upgrade: new programs, both restarted", lambda: survives(upgrade)),
    ("watchdog of both", watchdog),
    ("systemctl reload: settings are taken over, wrong ones told", reload),
    ("systemd changes groups beside a job's", beside_systemd),
    ("the coordinator is closed, and works over TLS", closed_coordinator),
    ("jobs run when the machine is rebooted", before_reboot),
]
AFTER_REBOOT = [("after the reboot: one job began again, the other has failed", after_reboot)]


def say(line):
    print(line, flush=True)


def run(name, function):
    try:
        function()
    except Exception:
        say("not ok - %s" % name)
        journal = sh("journalctl -n 15 -o cat -u acceld -u accel-coordinator", None)
        say("# " + (traceback.format_exc() + journal).replace("\n", "\n# "))
        return False
    say("ok - %s" % name)
    return True


def first_boot(only):
    say("# Linux %s, %s" % (os.uname().release, sh(["systemctl", "--version"]).split("\n")[0]))
    run("the machine has cgroup version 2 alone", lambda: check(
        sh("stat -fc %T /sys/fs/cgroup").strip() == "cgroup2fs", "it has not"))
    if not only:
        run("programs of the test suite", limits_of_version_2)
    if not run("installed as docs/OPERATING.md says", install):
        return False
    run("all four kinds of limits are enforced", enforced)
    for name, function in STEPS:
        if only in name:
            run(name, function)
    return os.path.exists(LEFT)


def main():
    with open(os.path.join(HERE, "only"), encoding="utf-8") as f:
        only = f.read()
    if os.path.exists(LEFT):
        for name, function in AFTER_REBOOT:
            run(name, function)
    elif first_boot(only):
        sh(["systemctl", "reboot"])
        return
    say("# end")
    sh(["systemctl", "poweroff"])


main()
