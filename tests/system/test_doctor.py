#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""accelctl doctor: says what is well, finds what is not, starts nothing."""
import os
import pty
import re
import shutil
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from accel_test import check, check_equal, main, test  # noqa: E402

LEVELS = {"ok", "note", "warn", "bad"}


def findings(result):
    items = result.json()["items"]
    for item in items:
        check_equal(sorted(item), ["area", "finding", "level", "try"], "fields")
        check(item["level"] in LEVELS, "level: %s", item)
    return items


def of(items, area):
    return [i for i in items if i["area"] == area]


@test("doctor starts nothing; with daemons it tells of them, of nodes and of the clock")
def healthy(c):
    before = findings(c.ok("doctor", "-o", "json"))
    check_equal(of(before, "coordinator")[0]["level"], "note", "no coordinator is nothing bad")
    check_equal(c.processes(), {}, "processes after doctor")
    c.ok("launch", "true")
    items = findings(c.ok("doctor", "-o", "json"))
    check("version" in of(items, "coordinator")[0]["finding"], "coordinator: %s", items)
    check_equal(of(items, "clock")[0]["level"], "ok", "clock of the same machine")
    check_equal([i["level"] for i in of(items, "nodes")], ["ok"], "the node")
    check_equal(of(items, "store")[0]["level"], "ok", "store")
    table = c.ok("doctor").out
    check(table.startswith("AREA") and "coordinator" in table, "table: %s", table)


@test("doctor finds: a faulty device, a named coordinator that is not there, a directory of others",
      devices="gpu gpu:0 visible=GPU-a fault=XID 79\ncpu cpu:0\n")
def unhealthy(c):
    c.ok("nodes")
    items = findings(c.ok("doctor", "-o", "json"))
    faults = [i for i in of(items, "devices") if "gpu:0" in i["finding"]]
    check("XID 79" in faults[0]["finding"] and faults[0]["level"] == "warn", "fault: %s", faults)
    result = c.fails(1, "doctor", "-o", "json", "--coordinator", "unix:" + c.path("nobody.sock"))
    check_equal(of(findings(result), "coordinator")[0]["level"], "bad", "named and absent")


@test("accelctl without accelctl-remote beside it: what needs no other machine works, doctor tells")
def alone(c):
    whole, c.bin = c.bin, c.path("alone")
    os.mkdir(c.bin)
    shutil.copy(os.path.join(whole, "accelctl"), c.bin)
    c.ok("help")
    told = of(findings(c.ok("doctor", "-o", "json")), "certificates")[0]
    check("accelctl-remote: No such file" in told["finding"], "certificates: %s", told)
    c.bin = whole
    told = of(findings(c.ok("doctor", "-o", "json")), "certificates")[0]
    check("accelctl-remote" not in told["finding"], "certificates: %s", told)
    c.ok("launch", "true")


@test("doctor fits a terminal; what to try stands below, and a path stays whole")
def narrow(c):
    c.ok("launch", "true")
    pid, fd = pty.fork()
    if pid == 0:
        env = dict(c.env, TERM="dumb", ACCEL_COORDINATOR="unix:/nobody/listens/here.sock")
        os.execve("/bin/sh", ["sh", "-c", "stty cols 60; exec \"$0\" doctor",
                              os.path.join(c.bin, "accelctl")], env)
    seen = b""
    while True:
        try:
            part = os.read(fd, 65536)
        except OSError:
            part = b""
        if not part:
            break
        seen += part
    os.close(fd)
    check_equal(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), 1, "exit code")
    lines = seen.decode().splitlines()
    check_equal([line for line in lines if len(line) > 60 and " " in line[19:].strip()], [],
                "lines that are too long")
    bad = [i for i, line in enumerate(lines) if re.match(r"coordinator +BAD", line)]
    check(bad and any(line.startswith(" " * 14 + "try: ") for line in lines[bad[0]:bad[0] + 4]),
          "what to try: %s", lines)


@test("doctor finds a directory that may not be written", uid=65534)
def closed_directory(c):
    c.counts_starts = False  # nothing is started here
    for folder in (c.state_home, c.dir):  # what XDG_STATE_HOME says, and the home behind it
        os.chown(folder, 0, 0)
        os.chmod(folder, 0o555)
    items = findings(c.fails(1, "doctor", "-o", "json"))
    check(any(i["level"] == "bad" for i in of(items, "directories")), "directories: %s", items)


main()
