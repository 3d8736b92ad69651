# SPDX-License-Identifier: Apache-2.0
"""TPU hosts and AMD GPUs as trees that look like /sys and /dev of such machines, and a fake
metadata server on loopback, under the real daemons: what is listed, what a job gets, who is in the
way."""
import http.server
import os
import shutil
import signal
import subprocess
import sys
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from accel_test import (Cluster, Gate, Mailbox, Skip, check, check_equal, main, test)  # noqa: E402

TPU_ENV = """ACCELERATOR_TYPE: 'v5litepod-16'
CHIPS_PER_HOST_BOUNDS: '2,2,1'
HOST_BOUNDS: '2,2,1'
NODE_ID: 'pod-7'
TOPOLOGY: '4x4'
WORKER_ID: '2'
ZONE: 'us-west4-a'
"""
SLICE = {"instance/attributes/tpu-env": TPU_ENV,
         "instance/attributes/agent-worker-number": "2",
         "instance/attributes/worker-network-endpoints":
             "u:a:10.0.0.1,u:b:10.0.0.2,u:c:10.0.0.3,u:d:10.0.0.4",
         "instance/attributes/accelerator-type": "v5litepod-16"}
ONE_HOST = {"instance/attributes/tpu-env": "ACCELERATOR_TYPE: 'v5litepod-4'\nNODE_ID: 'one'\n"
                                           "TOPOLOGY: '2x2'\n",
            "instance/attributes/agent-worker-number": "0",
            "instance/attributes/worker-network-endpoints": "u:a:10.0.0.1"}
PREFIX = "/computeMetadata/v1/"
SHOW = ("env | grep -E '^(TPU|CLOUD_TPU|MEGASCALE|PJRT|ALLOW_M|JAX_P|HIP|CUDA|ACCELERATE_USE)'"
        " | sort")


class Metadata(http.server.BaseHTTPRequestHandler):
    """Google's server: values of a table, after some 503; nothing without the header."""
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        server = self.server
        path = self.path.partition("?")[0]
        with server.lock:
            server.asked.append(path)
            busy = server.busy > 0
            server.busy -= busy
        if server.gate:
            server.gate.wait(60)
        if self.headers.get("Metadata-Flavor") != "Google":
            return self.reply(403, "no flavor")
        if busy:
            return self.reply(503, "later")
        value = server.values.get(path[len(PREFIX):]) if path.startswith(PREFIX) else None
        return self.reply(404, "no such key") if value is None else self.reply(200, value)

    def reply(self, status, text):
        data = text.encode()
        self.send_response(status)
        self.send_header("Metadata-Flavor", "Google")
        self.send_header("ETag", "e%x" % (hash(text) & 0xffff))
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass


class Host:
    """A machine with chips, and its metadata server."""

    def __init__(self, values=None, chips=4, busy=0, gate=None):
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Metadata)
        self.server.daemon_threads = True
        self.server.values, self.server.busy, self.server.asked = values or {}, busy, []
        self.server.gate, self.server.lock = gate, threading.Lock()
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.cluster = Cluster()
        c = self.cluster
        c.env.update({"ACCEL_SYSFS_ROOT": c.path("sys"), "ACCEL_DEV_ROOT": c.path("dev"),
                      "ACCEL_TPU_LOCK_FILE": c.path("libtpu_lockfile"),
                      "GCE_METADATA_HOST": "127.0.0.1:%d" % self.server.server_port})
        os.makedirs(c.path("dev"))
        self.put("sys/bus/pci/devices/0000:00:03.0/vendor", "0x1ae0\n")  # the network card
        self.put("sys/bus/pci/devices/0000:00:03.0/device", "0x0042\n")
        for i in range(chips):
            bus = "sys/bus/pci/devices/0000:00:%02x.0/" % (4 + i)
            for name, text in (("vendor", "0x1ae0"), ("device", "0x0063"), ("class", "0xff0000"),
                               ("numa_node", "0"), ("accel/accel%d/dev" % i, "")):
                self.put(bus + name, text + "\n")
            self.put("dev/accel%d" % i, "")

    def put(self, name, text):
        path = self.cluster.path(name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as f:
            f.write(text)

    def node(self):
        return self.cluster.ok("nodes", "-o", "json").json()["items"][0]

    def chips(self):
        return [d for d in self.node()["devices"] if d["kind"] == "tpu"]

    def until(self, condition, what):
        """Each answer is a round trip through both daemons; a change is told, never slept for."""
        for _ in range(600):
            found = self.chips()
            if condition(found):
                return found
        raise AssertionError("%s: %s" % (what, found))

    def ready(self):
        return self.until(lambda chips: chips and not any(d["fault"] for d in chips), "no chips")

    def variables(self, *args, **how):
        result = self.cluster.ok("launch", *args, "sh", "-c", SHOW, **how)
        return dict(line.split("=", 1) for line in result.out.splitlines())

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        try:
            self.cluster.close(failed=kind is not None)
        finally:
            self.server.shutdown()
            self.server.server_close()


def host_test(sentence, **how):
    def register(function):
        @test(sentence)
        def run(unused):
            unused.counts_starts = False
            with Host(**how) as host:
                function(host, host.cluster)
        return run
    return register


@host_test("a host of a slice: chips, slice and topology are listed", values=SLICE, busy=3)
def chips_and_slice(host, c):
    chips = host.ready()
    check_equal([(d["id"], d["model"], d["vendor"], d["memory_bytes"]) for d in chips],
                [("tpu:%d" % i, "TPU v5e", "google", 16 << 30) for i in range(4)], "chips")
    check_equal(chips[1]["bus"], "0000:00:05.0", "bus")
    check_equal(chips[1]["paths"], [c.path("dev/accel1")], "device nodes")
    check_equal(host.node()["slice"], {
        "name": "us-west4-a/pod-7", "nodes": 4, "worker": 2, "accelerator": "v5litepod-16",
        "topology": "4x4"}, "slice")
    c.fails(125, "launch", "--tpu", "true")  # a slice is used whole, and three hosts are not here
    check("us-west4-a/pod-7 2/4" in c.ok("nodes", "-o", "wide").out, "the slice for people")
    check("TPU FREE" in c.ok("nodes").out and "4/4" in c.ok("nodes").out, "free chips")
    check(all(p.startswith(PREFIX) for p in host.server.asked), "paths: %s", host.server.asked)


@host_test("a job on TPUs gets the whole host, or chips side by side, with their variables",
           values=ONE_HOST)
def variables(host, c):
    host.ready()
    stale = {"MEGASCALE_NUM_SLICES": "9", "TPU_WORKER_ID": "7", "TPU_VISIBLE_CHIPS": "6"}
    found = host.variables("--devices", "tpu", env=stale)
    check_equal(found, {
        "PJRT_DEVICE": "TPU", "TPU_SKIP_MDS_QUERY": "true", "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_WORKER_ID": "0", "TPU_ACCELERATOR_TYPE": "v5litepod-4",
        "TPU_TOPOLOGY": "2x2", "TPU_CHIPS_PER_HOST_BOUNDS": "2,2,1",
        "TPU_HOST_BOUNDS": "1,1,1"}, "a host of its own")
    check_equal(host.variables(env=stale), found, "auto")
    result = c.ok("launch", "--tpus", "4", "--procs", "2", "--label", "sh", "-c",
                  "echo $TPU_VISIBLE_CHIPS $TPU_PROCESS_BOUNDS $CLOUD_TPU_TASK_ID")
    check_equal(sorted(result.out.splitlines()), ["[0] 0,1 2,1,1 0", "[1] 2,3 2,1,1 1"], "split")
    gate, box = c.gate("gate"), Mailbox(c.path("box"))
    first = c.submit("--tpus", "1", "sh", "-c", "echo $TPU_VISIBLE_CHIPS > %s; read x < %s" % (
        box.path, gate.path))
    check_equal(box.line(), "0", "the first chip")
    found = host.variables("--tpus", "2")
    check_equal((found["TPU_VISIBLE_CHIPS"], found["TPU_CHIPS_PER_PROCESS_BOUNDS"]),
                ("2,3", "1,2,1"), "a block, not the next two")
    check_equal([d["job_id"] for d in host.chips()], [int(first), None, None, None], "uses")
    found = host.variables("--devices", "cpu")
    check_equal((found["JAX_PLATFORMS"], found["PJRT_DEVICE"]), ("cpu", "CPU"), "a job on CPUs")
    gate.open()
    c.wait(first, 0)


@host_test("what TPUs cannot do is refused with what they can", values=ONE_HOST)
def refused(host, c):
    host.ready()
    for args, words in ((("--tpus", "3"), "1, 2, 4 or 8"), (("--tpus", "8"), "4 TPU chips"),
                        (("--tpu", "--procs", "3"), "cannot be split evenly over 3"),
                        (("--tpus", "2", "--procs", "4"), "2 TPU chips for 4"),
                        (("--gpus", "1"), "4 TPU chips, 0 GPUs")):
        result = c.run("launch", *args, "true")
        check(result.rc in (2, 125) and words in result.err, "%s: %s", args, result)


@host_test("no chip is used before the metadata server has told its slice", values=SLICE,
           gate=threading.Event())
def waits_for_slice(host, c):
    faults = {d["fault"] for d in host.until(bool, "no chips")}
    check_equal(len(faults), 1, "faults")
    check("metadata" in faults.pop(), "they wait for the metadata server")
    host.server.gate.set()
    host.ready()
    check_equal(host.node()["slice"]["worker"], 2, "told after the Hello")


def pair(worker):
    """Metadata of one of two hosts."""
    return {"instance/attributes/tpu-env": "ACCELERATOR_TYPE: 'v5litepod-8'\nNODE_ID: 'two'\n"
                                           "TOPOLOGY: '2x4'\n",
            "instance/attributes/agent-worker-number": str(worker),
            "instance/attributes/worker-network-endpoints": "u:a:10.0.0.1,u:b:10.0.0.2"}


@host_test("a slice of two hosts is used whole: each process finds its worker and its peers",
           values=pair(1))
def two_hosts(host, c):
    host.until(bool, "no chips")
    c.fails(125, "launch", "--tpu", "-N", "2", "true")  # the other half is not here yet
    with Host(pair(0)) as other:
        o = other.cluster
        o.counts_starts = False  # it has no coordinator
        with subprocess.Popen(
                [os.path.join(c.bin, "acceld"), "--coordinator",
                 "unix:" + os.path.join(c.runtime, "accel", "coordinator.sock"),
                 "--state-dir", o.path("node"), "--node-name", "second", "--devices", "tpu"],
                env=o.env, stderr=subprocess.DEVNULL) as daemon:
            try:
                host.until(lambda _: all(
                    n["slice"] and not any(d["fault"] for d in n["devices"])
                    for n in c.ok("nodes", "-o", "json").json()["items"])
                    and len(c.ok("nodes", "-o", "name").out.split()) == 2, "two hosts")
                box = Mailbox(c.path("box"))
                c.ok("launch", "--tpu", "-N", "2", "sh", "-c",
                     "echo $TPU_WORKER_ID $TPU_WORKER_HOSTNAMES $TPU_HOST_BOUNDS "
                     "$TPU_ACCELERATOR_TYPE $ACCEL_NODE > " + box.path)
                lines = sorted((box.line(), box.line()))
                check_equal([line.rsplit(" ", 1)[0] for line in lines],
                            ["%d 127.0.0.1,127.0.0.1 1,2,1 v5litepod-8" % i for i in (0, 1)],
                            "variables")
                check(lines[0].endswith(" second"), "worker 0 is the second node: %s", lines)
            finally:
                daemon.terminate()
                daemon.wait()


@host_test("a machine that is in no cloud is a slice of one", values={})
def no_cloud(host, c):
    host.ready()
    check_equal(host.node()["slice"], None, "slice")
    found = host.variables("--tpu")
    check_equal((found["TPU_ACCELERATOR_TYPE"], found["TPU_WORKER_HOSTNAMES"]),
                ("v5litepod-4", "localhost"), "from the chips alone")


HOLD = """
import fcntl, os, sys
chip = os.open(sys.argv[1], os.O_RDWR)
lock = os.open(sys.argv[2], os.O_RDWR | os.O_CREAT, 0o644)
fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
print("held", flush=True)
sys.stdin.read()
"""


@host_test("a foreign process is named, its chip comes back with its end, its lock file goes",
           values=ONE_HOST)
def foreign_process(host, c):
    lock = c.path("libtpu_lockfile")
    with subprocess.Popen([sys.executable, "-c", HOLD, c.path("dev/accel1"), lock],
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        check_equal(holder.stdout.readline(), b"held\n", "the holder")
        chips = host.until(lambda chips: len(chips) == 4 and not chips[0]["fault"], "no chips")
        check("in use by pid %d" % holder.pid in (chips[1]["fault"] or ""), "fault: %s", chips[1])
        c.ok("launch", "--tpus", "1", "true")
        check(os.path.exists(lock), "a lock that is held stays")
        waiting = c.submit("--tpu", "true")
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
    host.ready()
    c.wait(waiting, 0)
    check(not os.path.exists(lock), "the lock file of the dead is gone")


@host_test("chips stay with a job over a new acceld", values=ONE_HOST)
def adopted(host, c):
    host.ready()
    gate = c.gate("gate")
    job = c.submit("--tpu", "sh", "-c", "exec 3< %s; read x < %s" % (c.path("dev/accel0"),
                                                                    gate.path))
    c.wait(job, running=True)
    c.kill_acceld()
    chips = host.until(lambda chips: chips and not any(d["fault"] for d in chips), "the worker's")
    check_equal({d["job_id"] for d in chips}, {int(job)}, "uses")
    gate.open()
    c.wait(job, 0)
    host.variables("--tpu")


@host_test("AMD GPUs of the compute driver: listed, and HIP sees those of the job", chips=0)
def amd(host, c):
    nodes = "sys/class/kfd/kfd/topology/nodes/"
    host.put(nodes + "0/properties", "simd_count 0\n")
    for i in (1, 2):
        host.put(nodes + "%d/properties" % i, "simd_count 1216\ngfx_target_version 90402\n"
                 "location_id %d\ndomain 0\ndrm_render_minor %d\nunique_id 7%d\n" % (
                     768 * i, 127 + i, i))
        host.put(nodes + "%d/mem_banks/0/properties" % i, "heap_type 1\nsize_in_bytes 1024\n")
        host.put("dev/dri/renderD%d" % (127 + i), "")
    host.put("dev/kfd", "")
    gpus = [d for d in host.node()["devices"] if d["kind"] == "gpu"]
    check_equal([(d["model"], d["vendor"], d["memory_bytes"], d["fault"]) for d in gpus],
                [("AMD gfx942", "amd", 1024, None)] * 2, "GPUs")
    found = host.variables("--gpus", "2", "--procs", "1")
    check_equal(found, {"HIP_VISIBLE_DEVICES": "0,1"}, "variables")
    check_equal(host.server.asked, [], "a machine without chips asks nobody")
    maps = open("/proc/%d/maps" % c.acceld()).read()
    check("libcurl" not in maps, "libcurl is loaded without need")


if __name__ == "__main__":
    main()
