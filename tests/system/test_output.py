#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What workers write: whole up to the cap, marked where cut, in files and through the CLI."""
import hashlib
import os
import random
import re
import signal
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from accel_test import (check, check_equal, is_sanitized, main, peak_memory_kb,  # noqa: E402
                        test, wait_pid_gone)

SEGMENT, SEGMENTS = 16 << 20, 4  # common/limits.h
MARK = re.compile(rb"\n\[accel: output from byte (\d+) to byte (\d+) was cut\]\n")


@test("output of all sizes comes whole, through launch and through logs")
def sizes(c):
    rng = random.Random(1)
    for size in (0, 1, 65535, 65536, 131072, 200000, 262144, 262145, 3000001):
        path = c.path("data")
        with open(path, "wb") as f:
            f.write(rng.randbytes(size))
        with open(path, "rb") as f:
            wanted = hashlib.sha256(f.read().decode("utf-8", "surrogateescape").encode(
                "utf-8", "surrogateescape")).hexdigest()
        result = c.ok("launch", "cat", path)
        check_equal(len(os.fsencode(result.out)), size, "bytes by launch")
        check_equal(hashlib.sha256(os.fsencode(result.out)).hexdigest(), wanted, "launch %d" % size)
        job = str(c.jobs("-a")[-1]["id"])
        result = c.ok("logs", job)
        check_equal(hashlib.sha256(os.fsencode(result.out)).hexdigest(), wanted, "logs %d" % size)


@test("output that the file of --output did not take: launch says so, and ends as the program did")
def copy_lost(c):
    for code in (0, 3):
        result = c.run("launch", "--output", "/dev/full", "sh", "-c", "echo out; exit %d" % code)
        check_equal((result.rc, result.out), (code, "out\n"), "%s" % result)
        told = [line for line in result.err.splitlines() if "lost" in line]
        check_equal(told, ["accelctl: 4 bytes of output were lost: No space left on device; "
                           "accelctl logs %s has what was kept" % c.jobs("-a")[-1]["id"]], "told")


@test("both streams of many ranks at once come whole")
def many_streams(c):
    script = ("i=0; while [ $i -lt 500 ]; do echo o $RANK $i; echo e $RANK $i >&2; i=$((i+1)); "
              "done")
    result = c.ok("launch", "--procs", "8", "--label", "sh", "-c", script)
    for text, letter in ((result.out, "o"), (result.err, "e")):
        for rank in range(8):
            mine = [line for line in text.splitlines() if line.startswith("[%d] " % rank)]
            check_equal(mine, ["[%d] %s %d %d" % (rank, letter, rank, i) for i in range(500)],
                        "stream %s of rank %d" % (letter, rank))


# Freed memory that the sanitizer keeps back for a while is not the daemons' own.
@test("1 GB in one line: kept to the cap, marked, and the daemons stay below 64 MB",
      env={"ASAN_OPTIONS": os.environ.get("ASAN_OPTIONS", "") + ":quarantine_size_mb=1"})
def one_gigabyte(c):
    gate = c.gate("gate")
    c.ok("launch", "true")
    pids = {"acceld": c.acceld(), "coordinator": c.coordinator()}
    before = {name: peak_memory_kb(pid) for name, pid in pids.items()}
    job = c.submit("sh", "-c", "head -c 1000000000 /dev/zero | tr '\\0' x; "
                   "echo written >&2; read x < %s; echo; echo the end" % gate.path)
    c.start("logs", "-f", "--stderr", job).expect("written")
    pids["shim"], before["shim"] = c.shim(job), 0
    after = {name: peak_memory_kb(pid) for name, pid in pids.items()}
    grown = {name: after[name] - before[name] for name in pids}
    if is_sanitized(os.path.join(c.bin, "acceld")):
        check(max(grown["acceld"], grown["coordinator"]) < 32 << 10, "grown by KiB: %s", grown)
    else:
        check(max(after.values()) < 64 << 10, "KiB at most: %s", after)
    rank = c.ranks(job)[0]
    gate.open()
    c.wait(job, 0)
    folder = os.path.dirname(rank["stdout"])
    files = {name: os.path.getsize(os.path.join(folder, name))
             for name in os.listdir(folder) if name.startswith("0.out")}
    check_equal(len(files), SEGMENTS, "segments: %s" % files)
    check(sum(files.values()) <= SEGMENT * SEGMENTS + 200, "kept: %s", files)
    with open(rank["stdout"], "rb") as f:
        f.seek(SEGMENT - 1)
        tail = f.read()
    mark = MARK.match(tail[1:])
    check(mark and tail[:1] == b"x", "segment 0 ends with a mark: %r", tail[:200])
    check_equal(int(mark.group(1)), SEGMENT, "cut from")
    check_equal(int(mark.group(2)) % SEGMENT, 0, "cut to a segment")
    result = c.ok("logs", "-n", "1", "--stdout", job)
    check_equal(result.out, "the end\n", "the last line")


@test("rotation: the beginning and the end are kept, logs tells what is missing")
def rotation(c):
    job = c.submit("seq", "1", "12000000")  # 96,888,897 bytes
    c.wait(job, 0)
    path = c.path("out")
    with open(path, "wb") as f:
        result = c.run("logs", "--stdout", job, prefix=["sh", "-c", 'exec "$@" > %s' % path, "sh"])
        check_equal(result.rc, 0, str(result))
    cut = re.search(r"(\d+) bytes of stdout were not kept", result.err)
    check(cut, "it is told: %s", result)
    with open(path, "rb") as f:
        data = f.read()
    check(data.startswith(b"1\n2\n3\n") and data.endswith(b"\n11999999\n12000000\n"), "both ends")
    mark = MARK.search(data)
    length = len(data) - (len(mark.group(0)) if mark else 0)
    check_equal(length + int(cut.group(1)), 96888897, "bytes shown and cut")


@test("logs -f beside a writer that is faster: ends, with the end of the output")
def fast_writer(c):
    job = c.submit("seq", "1", "6000000")
    path = c.path("out")
    result = c.run("logs", "-f", "--stdout", job,
                   prefix=["sh", "-c", 'exec "$@" > %s' % path, "sh"])
    check_equal(result.rc, 0, str(result))
    with open(path, "rb") as f:
        f.seek(-100, os.SEEK_END)
        check(f.read().endswith(b"\n5999999\n6000000\n"), "the end of it")


@test("a worker that closes its stdout and stderr lives on")
def closes_stdout(c):
    gate = c.gate("gate")
    launch = c.start("launch", "sh", "-c",
                     "echo last; exec >&- 2>&-; read x < %s; exit 3" % gate.path)
    launch.expect("last")
    c.wait("1", running=True)
    gate.open()
    check_equal(launch.finish().rc, 3, "exit code")


@test("a grandchild that keeps stdout open does not hold the end up")
def keeps_stdout(c):
    result = c.ok("launch", "sh", "-c", "echo here; setsid sleep 1000 & exit 0", timeout=20)
    check_equal(result.out, "here\n", "stdout")


@test("--output: names of every kind, one file a rank or the main rank's, new with each attempt")
def output_pattern(c):
    os.mkfifo(c.path("said"))  # rank 0 fails when rank 1 has spoken: a failure stops the others
    c.fails(1, "launch", "--procs", "2", "--max-restarts", "1", "--name", "jo", "--output",
            "%x-%j.%r.%A.100%%", "sh", "-c",
            "echo $RANK; if [ $RANK = 0 ]; then read x < said; exit 1; fi; "
            "echo > said; exec sleep 1000")
    for rank in "01":
        for attempt in "12":
            with open(c.path("jo-1.%s.%s.100%%" % (rank, attempt))) as f:
                check_equal(f.read(), rank + "\n", "file of rank %s, attempt %s" % (rank, attempt))
    job = c.submit("--procs", "2", "--output", c.path("main.%u.%N"), "sh", "-c",
                   "echo out $RANK; echo err $RANK >&2")
    c.wait(job, 0)
    node = c.ok("nodes", "-o", "name").out.strip()
    user = c.describe(job)["user"]
    with open(c.path("main.%s.%s" % (user, node))) as f:
        check_equal(sorted(f), ["err 0\n", "out 0\n"], "the main rank's file")
    check_equal(sorted(c.ok("logs", "--stdout", job).out.splitlines()), ["[0] out 0", "[1] out 1"],
                "logs")
    check("%q" in c.fails(2, "launch", "--output", "x%q", "true").err, "an unknown letter")


@test("--output that cannot be opened: the start fails with its name")
def output_impossible(c):
    result = c.run("launch", "--output", "no-such-dir.%j/out", "true")
    check_equal(result.rc, 125, "exit code: %s" % result)
    check(c.path("no-such-dir.1/out") in result.err, "the file is named: %s", result)
    check_equal(c.describe(1)["attempts"][0]["cause"], "start_failed", "cause")
    early = c.fails(2, "submit", "--output", "no/such/%x/%j", "true")
    check("try: mkdir -p %s\n" % c.path("no/such") in early.err, "said at once: %s", early)
    os.mkdir(c.path("folder"))
    for folder in ("folder", "folder/", "no-folder/"):
        check("a directory" in c.fails(2, "submit", "--output", folder, "true").err, folder)
    check_equal(len(c.jobs("-a")), 1, "jobs")


@test("a job that puts pipes and links in the place of its files holds up nobody but itself")
def spiteful_files(c):
    c.ok("launch", "true")  # which makes the folders
    attempts = c.state("node", "attempts")
    other = c.write("other", "not for the log\n")
    for job, line in enumerate((
            "rm -f 0.out; mkfifo 0.out; echo hello", "ln -sf %s 0.out" % other,
            "echo x; rm -f *; mkfifo pid exit exit.acked exit.tmp 0.err; echo y >&2",
            "ln -sf %s exit.tmp; ln -sf %s pid; ln -sf %s exit.acked" % ((other,) * 3),
            "rm -rf ../$ACCEL_JOB_ID.1; echo gone"), 2):
        c.run("launch", "--wrap", "cd %s/%d.1 && %s" % (attempts, job, line), timeout=20)
        c.run("logs", str(job), timeout=20)
    check_equal(c.ok("launch", "echo", "next", timeout=20).out, "next\n", "the next job")
    with open(other) as f:
        check_equal(f.read(), "not for the log\n", "what the links named")


@test("the last lines of stderr are in the report, however much went before")
def stderr_tail(c):
    result = c.fails(2, "launch", "sh", "-c", "seq 1 100000 >&2; echo the reason >&2; exit 2")
    check("    the reason\n" in result.err, "the report: %s", result.err[-500:])
    tail = c.ranks(1)[0]["stderr_tail"]
    check(tail.endswith("100000\nthe reason\n") and len(tail) <= 4096, "tail: %r", tail[-50:])


@test("bytes that are no text come through as they are, and cannot harm a terminal's report")
def binary_output(c):
    result = c.fails(1, "launch", "sh", "-c", r"printf '\000\377\033[31m\n' >&2; exit 1")
    raw, _, report = os.fsencode(result.err).partition(b"accelctl: job 1")
    check_equal(raw, b"\0\xff\x1b[31m\n", "stderr")
    check(b"\x1b" not in report and b"\\x1b" in report, "the report: %r", report)


@test("output of a worker killed in the middle of a line is kept to the last byte")
def killed_in_line(c):
    job = c.submit("sh", "-c", "printf 'half a li'; kill -9 $$")
    c.wait(job, 128 + signal.SIGKILL)
    check_equal(c.ok("logs", job).out, "half a li", "output")


@test("a removed output file does not hurt the job")
def removed_file(c):
    gate = c.gate("gate")
    job = c.submit("sh", "-c", "echo one; read x < %s; echo two; exit 4" % gate.path)
    c.start("logs", "-f", job).expect("one")
    rank = c.ranks(job)[0]
    os.unlink(rank["stdout"])
    gate.open()
    wait_pid_gone(rank["pid"])
    c.wait(job, 4)
    c.run("logs", job)


if __name__ == "__main__":
    main()
