#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""--sync: a directory that travels with the job, by content, unpacked once, kept for its life."""
import glob
import os
import re
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from accel_test import check, check_equal, main, test  # noqa: E402


def make_project(c):
    """A project with a module, a script, a link, an executable, and what must stay at home."""
    files = {"train.py": "import os, sys\nfrom pkg import model\n"
                         "print(model.NAME, os.getcwd() == os.path.dirname(__file__),"
                         " sys.argv[1:])\n",
             "pkg/__init__.py": "", "pkg/model.py": "NAME = 'small'\n",
             "run.sh": "#!/bin/sh\necho \"I am $0 in $(pwd)\"\n",
             "data/huge.bin": "x" * 1000, "notes.tmp": "not needed", ".git/HEAD": "ref: x\n",
             "pkg/__pycache__/model.pyc": "stale"}
    for name, text in files.items():
        path = c.path("project/" + name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as f:
            f.write(text)
    os.chmod(c.path("project/run.sh"), 0o755)
    os.symlink("train.py", c.path("project/link.py"))
    return c.path("project")


def trees(c):
    return glob.glob(c.state_home + "/**/attempts/*.work/tree", recursive=True)


def archives(c, daemon):
    return [p for p in glob.glob(c.state_home + "/**/files/*", recursive=True)
            if re.search(r"/%s/files/[0-9a-f]{64}\." % daemon, p)]


@test("launch --sync: script, modules and arguments are found in the copy; excludes stay away")
def launch_in_copy(c):
    project = make_project(c)
    out = c.ok("launch", "--sync", project, "--sync-exclude", "*.tmp", "--sync-exclude", "data",
               os.path.join(project, "train.py"), "--epochs", "3", project + "/data").out
    tree, = trees(c)
    check_equal(out.strip(), "small True ['--epochs', '3', '%s/data']" % tree, "what it saw")
    found = sorted(os.path.relpath(os.path.join(d, n), tree)
                   for d, _, names in os.walk(tree) for n in names if "__pycache__" not in d)
    check_equal(found, ["link.py", "pkg/__init__.py", "pkg/model.py", "run.sh", "train.py"],
                "what travelled")
    check_equal(os.readlink(os.path.join(tree, "link.py")), "train.py", "the link")
    with open(os.path.join(project, ".accelignore"), "w") as f:
        f.write("pkg\n")
    out = c.ok("launch", "--sync", project, "--", os.path.join(project, "run.sh")).out
    second = [t for t in trees(c) if t != tree][0]
    check_equal(out.strip(), "I am %s/run.sh in %s" % (second, second), "a program of the copy")
    check(not os.path.exists(second + "/pkg"), ".accelignore is obeyed")


@test("--sync DIR DIR/script from elsewhere: paths as the caller's shell completes them")
def relative(c):
    project = make_project(c)
    above = os.path.dirname(project)
    out = c.ok("launch", "--sync", "project", "project/train.py", "project/pkg", "pkg",
               cwd=above).out
    tree, = trees(c)
    check_equal(out.strip(), "small True ['%s/pkg', 'pkg']" % tree, "moved, and left alone")
    result = c.fails(127, "launch", "--sync", "project", "train.py", cwd=above)
    check("try: project/train.py" in result.err, "%s", result)


@test("the same content is sent and fetched once; a changed file makes another archive")
def by_content(c):
    project = make_project(c)
    for _ in range(2):
        c.ok("launch", "--sync", project, os.path.join(project, "train.py"))
        os.utime(os.path.join(project, "train.py"))  # another time, the same content
    check_equal((len(archives(c, "coordinator")), len(archives(c, "node"))), (1, 1), "archives")
    with open(os.path.join(project, "pkg/model.py"), "w") as f:
        f.write("NAME = 'large'\n")
    out = c.ok("launch", "--sync", project, os.path.join(project, "train.py")).out
    check("large" in out, "the new content: %s", out)
    check_equal((len(archives(c, "coordinator")), len(archives(c, "node"))), (2, 2), "archives")


@test("a later attempt finds what the one before has written, and home is left alone")
def kept_for_the_job(c):
    project = make_project(c)
    line = "echo attempt >>state; test $(wc -l <state) -ge 3"
    result = c.ok("launch", "--sync", project, "--max-restarts", "2", "--wrap", line)
    tree, = trees(c)
    with open(os.path.join(tree, "state")) as f:
        check_equal(f.read(), "attempt\n" * 3, "three attempts in one directory")
    check(not os.path.exists(os.path.join(project, "state")), "and not at home: %s", result)


@test("submit --sync from elsewhere: the directory may change or go before the job starts")
def submitted(c):
    project = make_project(c)
    gate = c.gate("gate")
    blocker = c.submit("--procs", "16", "sh", "-c", "read x <%s" % gate.path)
    c.wait(blocker, running=True)
    job = c.submit("--sync", project, os.path.join(project, "train.py"))
    with open(os.path.join(project, "pkg/model.py"), "w") as f:
        f.write("NAME = 'later'\n")
    gate.open(16)
    c.wait(job, 0)
    check("small" in c.ok("logs", job).out, "what it was at submit: %s", c.ok("logs", job).out)


@test("--sync of what is no directory, or too large: told, nothing is submitted")
def refused(c):
    result = c.fails(2, "launch", "--sync", c.path("nowhere"), "true")
    check("why: No such file" in result.err and "try: ls" in result.err, "%s", result)
    result = c.fails(2, "launch", "--sync", __file__, "true")
    check("not a directory" in result.err, "%s", result)
    os.mkdir(c.path("big"))
    with open(c.path("big/hole"), "wb") as f:
        f.truncate(3 << 30)
    result = c.fails(1, "launch", "--sync", c.path("big"), "true")
    check("more than 1024 MiB" in result.err and "--sync-exclude" in result.err, "%s", result)
    check_equal(c.ok("ps", "-a", "-o", "name").out, "", "jobs")


@test("an archive that is gone from the coordinator: the job ends with the reason and what to try")
def archive_gone(c):
    project = make_project(c)
    gate = c.gate("gate")
    blocker = c.submit("--procs", "16", "sh", "-c", "read x <%s" % gate.path)
    c.wait(blocker, running=True)
    job = c.submit("--sync", project, os.path.join(project, "train.py"))
    for path in archives(c, "coordinator"):
        os.unlink(path)
    gate.open(16)
    c.wait(job, 125)
    reason = c.describe(job)["reason"] + c.describe(job)["attempts"][0]["text"]
    check("not kept any more" in reason, "%s", reason)


main()
