#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Gangs get all their devices or none, none twice, in order; GPUs are those of a scripted file."""
import os
import shutil
import sys
import uuid

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from accel_test import Cluster, check, check_equal, main, test  # noqa: E402

# Claims are host-wide, so that other tests at the same time must have other GPUs.
HOST = uuid.uuid4().hex[:8]


def gpu(number):
    return "GPU-%s-%d" % (HOST, number)


def gpus(count, more=""):
    lines = ["gpu %s model=Fake-1000 memory=17179869184" % gpu(i) for i in range(count)]
    return "# a machine of tests\n" + "\n".join(lines + ["cpu cpu:%d" % i for i in range(8)]) + \
        "\n" + more


SHOW = "echo $CUDA_VISIBLE_DEVICES $CUDA_DEVICE_ORDER $LOCAL_RANK"


@test("GPUs of a scripted file: listed, given out, one process for each, UUIDs in the environment",
      devices=lambda: gpus(4))
def give_out(c):
    node = c.ok("nodes", "-o", "json").json()["items"][0]
    found = [d for d in node["devices"] if d["kind"] == "gpu"]
    check_equal([d["id"] for d in found], [gpu(i) for i in range(4)], "ids")
    check_equal((found[0]["model"], found[0]["memory_bytes"]), ("Fake-1000", 17179869184), "facts")
    result = c.ok("launch", "--gpus", "2", "--label", "sh", "-c", SHOW)
    first = c.describe(1)["attempts"][0]["ranks"]
    check_equal(len(first), 2, "one process for each GPU")
    visible = ",".join(d for rank in first for d in rank["devices"])
    check_equal(sorted(result.out.splitlines()),
                ["[0] %s PCI_BUS_ID 0" % visible, "[1] %s PCI_BUS_ID 1" % visible], "environment")
    result = c.ok("launch", "--gpus", "4", "--procs", "1", "sh", "-c", SHOW)
    check_equal(result.out, "%s PCI_BUS_ID 0\n" % ",".join(gpu(i) for i in range(4)), "all four")


@test("a job without GPUs on a machine with GPUs sees none of them", devices=lambda: gpus(2))
def hidden(c):
    result = c.ok("launch", "--cpu", "sh", "-c", "echo [$CUDA_VISIBLE_DEVICES]",
                  env={"CUDA_VISIBLE_DEVICES": "0,1"})
    check_equal(result.out, "[]\n", "CUDA_VISIBLE_DEVICES")
    result = c.ok("launch", "sh", "-c", "echo $CUDA_VISIBLE_DEVICES")
    check(result.out.strip() in (gpu(0), gpu(1)), "auto takes a GPU where there is one: %s", result)


@test("no GPU is given out twice; gangs wait for all of theirs, in order", devices=lambda: gpus(4))
def gangs(c):
    gates = [c.gate("gate%d" % i) for i in range(4)]
    jobs = [c.submit("--gpus", str(n), "--procs", "1", "sh", "-c",
                     "echo $CUDA_VISIBLE_DEVICES; read x < %s" % gate.path)
            for n, gate in zip((2, 1, 3, 1), gates)]
    for job in jobs[:2]:
        c.wait(job, running=True)
    states = [c.describe(job)["state"] for job in jobs]
    check_equal(states, ["RUNNING", "RUNNING", "PENDING", "PENDING"], "first come first served")
    reason = c.describe(jobs[2])["reason"]
    check("GPU" in reason or "gpu" in reason, "the reason: %r", reason)
    used = [d for job in jobs[:2] for d in c.ranks(job)[0]["devices"]]
    check_equal(len(set(used)), 3, "three different GPUs: %s" % used)
    gates[0].open()
    c.wait(jobs[0], 0)
    c.wait(jobs[2], running=True)
    used = [d for job in jobs[1:3] for d in c.ranks(job)[0]["devices"]]
    check_equal(sorted(used), [gpu(i) for i in range(4)], "all four are in use")
    check_equal(c.describe(jobs[3])["state"], "PENDING", "the last one waits")
    for number in (1, 2, 3):
        gates[number].open()
        c.wait(jobs[number], 0)


@test("more GPUs than exist are refused with what exists; a queue full of GPUs is none of it",
      devices=lambda: gpus(2))
def too_many(c):
    result = c.fails(125, "launch", "--gpus", "3", "true")
    check("2" in result.err and "GPU" in result.err.upper(), "what exists: %s", result)
    check_equal(c.jobs("-a"), [], "jobs")


@test("devices are held over a restart of the gang and of both daemons", devices=lambda: gpus(2))
def held(c):
    gate = c.gate("gate")
    job = c.submit("--gpus", "2", "--max-restarts", "1", "--procs", "1", "sh", "-c",
                   "[ $ACCEL_ATTEMPT = 2 ] || exit 1; read x < %s" % gate.path)
    other = c.submit("--gpus", "1", "true")
    follow = c.start("wait", job)
    while c.describe(job)["attempt"] < 2:
        pass
    c.wait(job, running=True)
    c.kill_coordinator()
    c.kill_acceld()
    check_equal(c.describe(other)["state"], "PENDING", "the other job")
    check_equal(sorted(c.ranks(job)[0]["devices"]), [gpu(0), gpu(1)], "devices")
    gate.open()
    check_equal(follow.finish().rc, 0, "exit code")
    c.wait(other, 0)
    c.counts_starts = False


@test("the file changes while the daemon runs: new GPUs are used, faulty ones are not",
      devices=lambda: gpus(1))
def changes(c):
    c.ok("launch", "--gpus", "1", "true")
    c.write("devices.new", gpus(3).replace("gpu %s" % gpu(0), "gpu %s" % gpu(9)).replace(
        gpu(1) + " ", gpu(1) + " fault=Xid-79 "))
    os.rename(c.path("devices.new"), c.path("devices"))

    def devices():
        node = c.ok("nodes", "-o", "json").json()["items"][0]
        return {d["id"]: d["fault"] for d in node["devices"] if d["kind"] == "gpu"}

    for _ in range(200):  # inotify, acceld, coordinator: asked until it has come through
        if gpu(9) in devices():
            break
    found = devices()
    check_equal(sorted(found), sorted([gpu(1), gpu(2), gpu(9)]), "GPUs")
    check(found[gpu(1)] and "Xid" in found[gpu(1)], "fault: %s", found)
    result = c.ok("launch", "--gpus", "2", "--procs", "1", "sh", "-c", "echo $CUDA_VISIBLE_DEVICES")
    check(gpu(1) not in result.out, "a faulty GPU is not given out: %s", result)
    c.fails(125, "launch", "--gpus", "4", "true")


@test("two daemons on one host cannot give out the same GPU", devices=lambda: gpus(1))
def two_clusters(c):
    gate = c.gate("gate")
    job = c.submit("--gpus", "1", "sh", "-c", "read x < %s" % gate.path)
    c.wait(job, running=True)
    other = Cluster(devices=gpus(1))
    try:
        result = other.fails(125, "launch", "--gpus", "1", "echo", "mine")
        check(gpu(0) in result.err, "the GPU is named: %s", result)
        check_equal(result.out, "", "output of the second")
    finally:
        other.close(failed=True)
        shutil.rmtree(other.dir, ignore_errors=True)
    gate.open()
    c.wait(job, 0)


@test("a file with a mistake: acceld does not start and names line and column",
      devices="cpu a\ngpu\n")
def mistake(c):
    c.counts_starts = False
    result = c.run("launch", "true", timeout=40)
    log = "".join(c.logs().values())
    check("devices:2:" in result.err + log, "line and column: %s %s", result, log)


if __name__ == "__main__":
    main()
