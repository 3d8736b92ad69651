#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""NVIDIA GPUs through the real code over a fake driver library, whose machine is a file."""
import os
import sys
import time
import uuid

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from accel_test import DEADLINE_S, check, check_equal, main, test  # noqa: E402

SHOW = "echo $CUDA_VISIBLE_DEVICES"


class Machine:
    """The file that the fake library reads; GPUs are known by their number."""

    def __init__(self, c, count, *lines):
        # claims are host-wide, so that other tests at the same time must have other GPUs
        self.c, self.uuids = c, ["GPU-%s" % uuid.uuid4() for _ in range(count)]
        build = os.environ["ACCEL_TEST_BUILD"]
        c.env.update({"ACCEL_NVML_LIBRARY": os.path.join(build, "tests", "lib", "libfake-nvml.so"),
                      "FAKE_NVML": c.path("machine"), "ACCEL_DEV_ROOT": c.path("dev")})
        self.set(*lines)

    def set(self, *lines):
        text = ["driver 575.51"]
        for i, name in enumerate(self.uuids):
            text.append("gpu %s bus=%x minor=%d model=H200 memory=143771" % (name, i + 16, i))
        for line in lines:  # {0} is the UUID of the first
            text.append(line.format(*self.uuids))
        self.c.write("machine.new", "\n".join(text) + "\n")
        os.rename(self.c.path("machine.new"), self.c.path("machine"))

    def devices(self):
        node = self.c.ok("nodes", "-o", "json").json()["items"][0]
        return [d for d in node["devices"] if d["kind"] == "gpu"]

    def wait_fault(self, number, text):
        """Until the fault of a GPU has the text: nothing tells of it but the list."""
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            fault = self.devices()[number]["fault"] or ""
            if (text in fault) if text else not fault:
                return fault
        check(False, "the fault of GPU %d is %r, never %r", number, fault, text)


@test("GPUs are listed with what they are, and given out by UUID in the order of the bus")
def listed(c):
    m = Machine(c, 4, "nvlink {0} {1}", "nvlink {1} {0}", "same-board {2} {3}")
    devices = m.devices()
    check_equal([d["id"] for d in devices], ["gpu:" + name for name in m.uuids], "ids")
    first = devices[0]
    check_equal((first["model"], first["vendor"], first["bus"], first["fault"]),
                ("H200", "nvidia", "0000:10:00.0", None), "facts")
    check_equal(first["memory_bytes"], 143771 << 20, "memory")
    check_equal([(link["index"] - first["index"], link["kind"], link["count"])
                 for link in first["links"]],
                [(1, "nvlink", 2), (2, "sys", None), (3, "sys", None)], "links of the first")
    check_equal(devices[2]["links"][-1]["kind"], "pix", "link of the third")
    wide = c.ok("nodes", "-o", "wide").out
    check("4 x H200" in wide and "nvlink" in wide, "models: %s", wide)
    result = c.ok("launch", "--gpus", "2", "--procs", "1", "sh", "-c",
                  SHOW + " $CUDA_DEVICE_ORDER")
    check_equal(result.out, "%s,%s PCI_BUS_ID\n" % tuple(m.uuids[:2]), "two GPUs")
    result = c.ok("launch", "sh", "-c", SHOW)
    check_equal(result.out, m.uuids[0] + "\n", "auto takes a GPU where there is one")
    check_equal(c.ok("launch", "--cpu", "sh", "-c", SHOW).out, "\n", "none for others")


@test("a GPU that somebody computes on is named with him, and not given out")
def busy(c):
    m = Machine(c, 2, "process {0} %d" % os.getpid())
    fault = m.devices()[0]["fault"]
    check(fault and fault.startswith("busy: pid %d (" % os.getpid()) and " of " in fault,
          "fault: %s", fault)
    check_equal(c.ok("launch", "--gpus", "1", "sh", "-c", SHOW).out, m.uuids[1] + "\n", "the other")
    m.set("process {1} %d" % os.getpid())  # seen right before the start, though no look is due
    job = c.submit("--gpus", "1", "sh", "-c", SHOW)
    c.wait(job, 0)
    attempts = c.describe(job)["attempts"]
    check_equal(attempts[-1]["ranks"][0]["devices"], ["gpu:" + m.uuids[0]], "device")
    for attempt in attempts[:-1]:
        check_equal(attempt["cause"], "device_fault", "cause of the first")
        check("busy: pid" in attempt["text"], "text: %s", attempt["text"])
    check_equal(c.describe(job)["restarts"], 0, "restarts")


@test("an XID fences the GPU, and its job goes on elsewhere at no cost; a program's XID does not")
def xid(c):
    m = Machine(c, 2)
    gate = c.gate("gate")
    job = c.submit("--gpus", "1", "sh", "-c", "read x < %s" % gate.path)
    c.wait(job, running=True)
    check_equal(c.ranks(job)[0]["devices"], ["gpu:" + m.uuids[0]], "first device")
    app, lost = "event {0} 31 1", "event {0} 79 2"
    m.set(app, lost)
    while c.describe(job)["attempt"] < 2:
        pass
    c.wait(job, running=True)
    check_equal(c.ranks(job)[0]["devices"], ["gpu:" + m.uuids[1]], "second device")
    first = c.describe(job)["attempts"][0]
    check_equal(first["cause"], "device_fault", "cause")
    check("XID 79 (GPU has fallen off the bus)" in first["text"], "text: %s", first["text"])
    check_equal(c.describe(job)["restarts"], 0, "restarts")
    check("XID 79" in m.devices()[0]["fault"] and m.devices()[0]["is_broken"], "fault")
    m.set(app, lost, "event {1} 43 3", "event {1} 64 4")  # 64: what runs goes on
    m.wait_fault(1, "XID 64")
    check_equal(c.describe(job)["attempt"], 2, "attempt")
    gate.open()
    c.wait(job, 0)
    other = c.submit("--gpus", "1", "true")
    check_equal(c.describe(other)["state"], "PENDING", "no GPU is fit")
    c.ok("cancel", other)


@test("a GPU is given to the next job when nobody has it any more, and not before")
def given_back(c):
    m = Machine(c, 1)
    gates = [c.gate("gate%d" % i) for i in range(2)]
    first = c.submit("--gpus", "1", "sh", "-c", "read x < %s" % gates[0].path)
    c.wait(first, running=True)
    m.set("process {0} %d" % os.getpid())  # what the job left
    gates[0].open()
    log = c.start("wait", first)
    c.ok("launch", "--cpu", "true")  # acceld goes on with other things meanwhile
    second = c.submit("--gpus", "1", "sh", "-c", "read x < %s" % gates[1].path)
    check_equal((c.describe(first)["state"], c.describe(second)["state"]), ("RUNNING", "PENDING"),
                "states while the GPU is not free")
    m.set()
    check_equal(log.finish().rc, 0, "exit code of the first")
    c.wait(second, running=True)
    check_equal(c.describe(second)["attempt"], 1, "attempts of the second")
    c.kill_acceld()  # the next one adopts the job and does not take its GPU for a stranger's
    m.set("process {0} %d" % c.ranks(second)[0]["pid"])
    check_equal(m.devices()[0]["fault"], None, "fault")
    m.set()
    gates[1].open()
    c.wait(second, 0)
    c.counts_starts = False


@test("a driver that hangs holds nothing up but its GPUs")
def hangs(c):
    m = Machine(c, 1)
    check_equal(m.devices()[0]["fault"], None, "fault")
    m.set("hang nvmlDeviceGetCount")
    c.ok("launch", "--cpu", "true")
    m.wait_fault(0, "the driver does not answer for 10 s (nvmlDeviceGetCount)")
    c.ok("launch", "--cpu", "true")
    job = c.submit("--gpus", "1", "sh", "-c", SHOW)
    check_equal(c.describe(job)["state"], "PENDING", "state")
    m.set()
    c.wait(job, 0)


@test("a driver that does not fit its library is told, and jobs run without GPUs")
def mismatch(c):
    m = Machine(c, 0, "init 18")
    node = c.ok("nodes", "-o", "json").json()["items"][0]
    check(any("different versions" in text for text in node["limits"]), "limits: %s", node)
    check_equal(m.devices(), [], "GPUs")
    c.ok("launch", "true")


if __name__ == "__main__":
    main()
