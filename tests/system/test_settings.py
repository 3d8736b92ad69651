#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The daemons' settings files, SIGHUP, and what a service manager is told."""
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from accel_test import (DEADLINE_S, ROOT, check, check_equal, find_programs, main,  # noqa: E402
                        test)


class Daemon:
    """A daemon started as a unit would: a settings file, a socket to notify, a log that we read."""

    def __init__(self, program, settings, *args, watchdog_us=None):
        self.folder = tempfile.mkdtemp(prefix="ac.", dir="/tmp")
        self.config = os.path.join(self.folder, "settings.yaml")
        self.write(settings)
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notify.bind(os.path.join(self.folder, "notify"))
        self.notify.settimeout(DEADLINE_S)
        env = dict(os.environ, NOTIFY_SOCKET=os.path.join(self.folder, "notify"))
        if watchdog_us:
            env["WATCHDOG_USEC"] = str(watchdog_us)
        self.popen = subprocess.Popen(
            [os.path.join(find_programs(), program), "--config", self.config, *args],
            env=env, stderr=subprocess.PIPE, text=True)

    def write(self, settings):
        with open(self.config, "w") as f:
            f.write(settings.replace("@", self.folder))

    def told(self):
        return self.notify.recv(4096).decode()

    def log(self, pattern):
        for line in self.popen.stderr:
            if re.search(pattern, line):
                return line
        raise AssertionError("the log ended without %r" % pattern)

    def end(self):
        self.popen.terminate()
        rest = self.popen.stderr.read()
        check_equal(self.popen.wait(DEADLINE_S), 0, "exit code; log: %s" % rest)
        subprocess.run(["rm", "-rf", self.folder], check=True)


def run(program, *args):
    return subprocess.run([os.path.join(find_programs(), program), *args], capture_output=True,
                          text=True, timeout=DEADLINE_S)


COORDINATOR = "listen: unix:@/coordinator.sock\nstate_dir: @/state\n"


@test("coordinator: settings file, READY, watchdog, SIGHUP takes what may change, STOPPING",
      cluster=None)
def coordinator_as_a_unit():
    d = Daemon("accel-coordinator", COORDINATOR + "history_jobs: 5\n", watchdog_us=100000)
    check_equal(d.told(), "READY=1", "first word")
    check_equal(d.told(), "WATCHDOG=1", "then the watchdog is petted")
    check_equal(d.told(), "WATCHDOG=1", "and petted")
    d.write(COORDINATOR + "history_jobs: 6\nsocket_mode: 0666\n")
    d.popen.send_signal(signal.SIGHUP)
    d.log("socket-mode has changed, which is for the next start")
    d.log("history-jobs has changed$")
    missing = {"RELOADING=1", "READY=1"}
    while missing:  # the watchdog's words are between
        missing.discard(d.told())
    d.write(COORDINATOR + "history_jbos: 6\n")
    d.popen.send_signal(signal.SIGHUP)
    line = d.log("the settings stay as they are")
    check("settings.yaml:3:1: unknown key 'history_jbos'" in line, "why: %s", line)
    d.popen.terminate()
    word = "WATCHDOG=1"
    while word in ("WATCHDOG=1", "RELOADING=1", "READY=1"):
        word = d.told()
    check_equal(word, "STOPPING=1", "last word")
    d.end()


@test("settings that are wrong: a line with file, line and column, exit 2, nothing made",
      cluster=None)
def wrong_settings():
    with tempfile.TemporaryDirectory(prefix="ac.", dir="/tmp") as folder:
        path = os.path.join(folder, "c.yaml")

        def write(text):
            with open(path, "w") as f:
                f.write(text.replace("@", folder))

        write(COORDINATOR + "log_level: loud\n")
        bad = run("accel-coordinator", "--config", path)
        check_equal(bad.returncode, 2, "exit code")
        check("c.yaml:3:12: log-level cannot be 'loud'" in bad.stderr, "%s", bad.stderr)
        write("history_jobs: 5\n")
        bad = run("accel-coordinator", "--config", path, "--check-config")
        check_equal(bad.returncode, 2, "exit code")
        check("listen unix:PATH and state-dir are needed" in bad.stderr, "%s", bad.stderr)
        write(COORDINATOR)
        good = run("accel-coordinator", "--config", path, "--check-config")
        check_equal((good.returncode, good.stderr), (0, ""), "--check-config")
        check("the settings are right" in good.stdout, "%s", good.stdout)
        check_equal(os.listdir(folder), ["c.yaml"], "nothing was made")


@test("the settings that are installed are right, with and without what is commented out",
      cluster=None)
def installed_settings():
    folder = os.path.join(ROOT, "packaging", "config")
    for program, name in (("accel-coordinator", "coordinator.yaml"), ("acceld", "agent.yaml")):
        good = run(program, "--config", os.path.join(folder, name), "--check-config")
        check_equal((good.returncode, good.stderr), (0, ""), name)
        with open(os.path.join(folder, name)) as f:
            lines = f.read().splitlines()
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as f:
            for line in lines:  # every example is a setting
                f.write(re.sub(r"^# (- |[a-z_]+:)", lambda m: ("  " if m[1] == "- " else "") + m[1],
                               line) + "\n")
            f.flush()
            good = run(program, "--config", f.name, "--check-config")
            check_equal((good.returncode, good.stderr), (0, ""), name + " in full")


@test("every setting of a daemon is in its help, and the help fits 80 columns", cluster=None)
def help_texts():
    for program in ("accel-coordinator", "acceld"):
        text = run(program, "--help").stdout
        check("--config" in text and "--check-config" in text, "%s --help: %s", program, text)
        for line in text.splitlines():
            check(len(line) <= 80, "%s --help: %r", program, line)


main()
