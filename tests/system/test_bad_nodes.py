#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Nodes as they should not be: one that lies about what it has and runs, one full of processes, one
whose cgroups are read-only, one that does not know a user.
"""
import os
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from accel_test import (Mailbox, check, check_equal, is_sanitized, main,  # noqa: E402
                        peak_memory_kb, test)
from accel_site import Session, site_test, stubs, until  # noqa: E402

MAX = (1 << 64) - 1


# ---- lies ----


class Liar:
    """A node of a real certificate that says what it is told to."""

    def __init__(self, site, name="liar"):
        self.site, self.name, self.incarnation = site, name, 0
        self.who = site.fake_node(name)

    def device(self, **what):
        return stubs().node.Device(**{"kind": 1, **what})

    def hello(self, devices, attempts=(), **node):
        """A new session that says so; with what it is answered."""
        s = stubs()
        self.incarnation += 1
        session = Session(self.site, self.who, self.name, hello=False)
        session.say(hello=s.agent.Hello(machine_id="machine", attempts=attempts, node=s.node.Node(
            **{"name": self.name, "incarnation": self.incarnation, "cpus": 4,
               "memory_bytes": 1 << 30, "devices": devices, **node})))
        return session, session.next()

    def refused(self, found, words=""):
        session, answer = found
        while not isinstance(answer, tuple):
            answer = session.next()
        check(answer[0] != "OK" and words in answer[1], "it is taken, or not told: %s", answer)
        session.close()


def cpus(count):
    return [stubs().node.Device(id="cpu:%d" % i, kind=1, index=i) for i in range(count)]


def well(c, site, job):
    """The coordinator is sound, and the other node does not notice."""
    c.ok("admin", "check")
    check_equal(site.coordinator.poll(), None, "the coordinator")
    check_equal(c.describe(job)["state"], "RUNNING", "the job of the honest node")
    for form in ("table", "wide", "json", "yaml"):
        c.ok("nodes", "-o", form)
    c.ok("doctor", "-o", "json")


@site_test("devices that cannot be: refused or harmless, and the other nodes do not notice")
def false_devices(c, site):
    site.acceld("honest", token=site.token())
    gate = c.gate("gate")
    job = c.submit("sh", "-c", "read x < %s; exit 3" % gate.path)
    c.wait(job, running=True)
    liar = Liar(site)
    device = liar.device
    liar.refused(liar.hello([device(id="cpu:0"), device(id="cpu:0")]), "same name")
    for name in ("", "a,b", "a b", "a\nb", "x" * 129):
        liar.refused(liar.hello([device(id=name)]), "not valid")
    liar.refused(liar.hello(cpus(10000)), "too many devices")
    liar.refused(liar.hello([device(id="x", kind=99)]), "of a kind")
    liar.refused(liar.hello(cpus(300000)))
    for odd in (dict(memory_bytes=MAX), dict(index=(1 << 32) - 1),
                dict(model="a\nb\x1b[2J", visible="x\ny", vendor="\n", bus="\n", parent="\n"),
                dict(model="m" * 100000), dict(fault="busy\n\x1b[31m" + "f" * 100000),
                dict(links=[stubs().node.DeviceLink(index=i * 977, kind="\n", count=MAX >> 32)
                            for i in range(3000)]), dict(paths=["/dev/../etc/shadow\n"] * 3000)):
        session, answer = liar.hello([device(id="gpu:0", kind=2, **odd)], memory_bytes=MAX,
                                     cpus=MAX >> 32, address="1.2.3.4\n" * 100,
                                     isolation="\n" * 1000, limits=["\x1b[2J\n" * 100] * 100)
        well(c, site, job)
        shown = c.ok("nodes", "-o", "wide").out
        check("\x1b" not in shown, "controls reach the terminal: %r", shown)
        session.close()
    site.coordinator.kill()  # what was written of it is read again
    site.coordinator.wait()
    site.coordinator = site.start_coordinator()
    until(lambda: "honest" in [n["name"] for n in c.ok("nodes", "-o", "json").json()["items"]
                               if n["state"] == "READY"], "the honest node is back")
    well(c, site, job)
    check(peak_memory_kb(site.coordinator.pid) < (1 << 20), "memory of the coordinator")
    gate.open()
    c.wait(job, 3)


@site_test("devices that go under a running attempt, and reports of attempts and ranks never had")
def false_reports(c, site):
    site.acceld("honest", token=site.token())
    gate, s = c.gate("gate"), stubs()
    job = c.submit("--procs", "4", "sh", "-c", "read x < %s; exit 3" % gate.path)
    c.wait(job, running=True)
    liar = Liar(site)
    session, answer = liar.hello(cpus(4))
    era = answer.welcome.era
    other = c.submit("--procs", "4", "true")
    start = session.next("start").start
    check_equal((start.ref.job_id, start.local_size), (int(other), 4), "what it is to run")
    session.say(beat=s.agent.Beat(devices=cpus(1)))  # three of them are gone, and one is new
    session.say(beat=s.agent.Beat(devices=[liar.device(id="gpu:new", kind=2, memory_bytes=MAX)]))
    seq = 0
    ranks = [s.job.Rank(rank=n, local_rank=n, pid=MAX >> 32, exit_code=-5, signal=99, exited=True,
                        devices=["gpu:mine\n"], error="e" * 90000, stderr_tail=b"\x1b[2J" * 9000,
                        start_ms=-1, end_ms=(1 << 63) - 1)
             for n in (0, 4, 1000, (1 << 32) - 1, 0)]
    for ref in ((int(job), 1, era), (int(other), 2, era), (int(other), 1, era + 1), (MAX, 9, MAX),
                (int(other), 1, era)):
        ref = s.agent.AttemptRef(job_id=ref[0], attempt=ref[1], era=ref[2])
        for body in (dict(started=s.agent.AttemptStarted(
                ref=ref, ranks=ranks, master_addr="\n" * 9000, master_port=MAX >> 32,
                isolation=["x\n" * 9000] * 200)),
                dict(ended=s.agent.AttemptEnded(ref=ref, cause=99, text="\x1b[2J\n" * 9000,
                                                first_failed_rank=77, ranks=ranks,
                                                first_failed_age_ns=MAX))):
            seq += 1
            session.say(report=s.agent.Report(seq=seq, age_ns=MAX, **body))
            check_equal(session.next("report_ack").report_ack.seq, seq, "acknowledged")
    well(c, site, job)
    check("\x1b" not in c.ok("describe", other).out, "controls reach the terminal")
    check_equal(c.describe(other)["state"], "ENDED", "it believed the node about its own attempt")
    check_equal([r["rank"] for r in c.ranks(other)], [0, 1, 2, 3], "ranks")
    session.close()
    # Attempts that it never had: each is told to end, and nothing else comes of it.
    refs = [s.agent.AttemptStatus(state="RUNNING", ref=s.agent.AttemptRef(
        job_id=n, attempt=n % 3, era=era)) for n in range(3000)]
    session, answer = liar.hello(cpus(4), attempts=refs)
    for _ in refs:
        session.next("stop")
    well(c, site, job)
    session.close()
    gate.open(4)
    c.wait(job, 3)


# ---- 10^5 processes ----


def process_count():
    """As many as this machine bears beside other tests, and why no more."""
    by = {"ACCEL_TEST_PROCESSES": int(os.environ.get("ACCEL_TEST_PROCESSES", 4000))}
    with open("/proc/sys/kernel/pid_max") as f:
        by["a tenth of pid_max"] = int(f.read()) // 10
    with open("/proc/meminfo") as f:
        free_kb = next(int(line.split()[1]) for line in f if line.startswith("MemAvailable"))
    by["256 KiB of a quarter of the free memory each"] = free_kb // 4 // 256
    return min((count, why) for why, count in by.items())


FORKS = """
i=0
while [ $i -lt %d ]; do (read x < %s) & i=$((i+1)); done
echo all > %s
wait
"""


@test("a job of thousands of processes: looked at, adopted, ended whole")
def many_processes(c):
    count, why = process_count()
    print("# %d processes: %s" % (count, why), flush=True)
    gate, box = c.gate("never"), Mailbox(c.path("box"))
    job = c.submit("sh", "-c", FORKS % (count, gate.path, box.path))
    check_equal(box.line(), "all", "word of the job")
    check(len(c.workers()) >= count, "processes of the job")
    c.describe(job)
    c.jobs()
    c.kill_acceld()  # the next one adopts it, and sweeps
    c.ok("nodes")
    c.ok("launch", "true")
    if not is_sanitized(os.path.join(c.bin, "acceld")):
        check(peak_memory_kb(c.acceld()) < 65536, "memory of acceld")
    c.ok("cancel", "--kill", job)
    c.wait(job)
    c.check_no_workers()
    job = c.submit("sh", "-c", FORKS % (count, gate.path, box.path))
    check_equal(box.line(), "all", "word of the second job")
    os.kill(c.shim(job), 9)  # nobody is their parent any more: found by mark or by group
    c.wait(job, 125)
    c.check_no_workers()


# ---- cgroups ----


def cannot_mount():
    done = subprocess.run(["unshare", "-m", "true"], stderr=subprocess.DEVNULL)
    return None if done.returncode == 0 and shutil.which("nsenter") else "cannot mount"


READ_ONLY = """
for m in $(awk '$3 ~ /^cgroup2?$/ || $2 == "/sys/fs/cgroup" {print $2}' /proc/mounts | sort -r); do
    mount -o remount,bind,ro $m
done
exec "$@"
"""


@test("cgroups that are read-only: jobs run, and what is not enforced is told",
      needs=cannot_mount, needs_root=True)
def read_only_cgroups(c):
    inside = ["unshare", "-m", "sh", "-ec", READ_ONLY, "sh"]
    result = c.ok("launch", "--mem", "1G", "--cpus-per-task", "1", "echo", "here", prefix=inside)
    check_equal(result.out, "here\n", "output")  # its daemons live in there too
    told = c.describe(1)["attempts"][0]["isolation"]
    for kind in ("memory", "cpu"):
        check(any(t.startswith(kind + ": not enforced (cgroups are read-only)") for t in told),
              "%s: %s", kind, told)
    items = c.ok("doctor", "-o", "json").json()["items"]
    found = [i["finding"] for i in items if i["area"] == "isolation"]
    check(any("read-only" in f for f in found), "doctor: %s", found)
    c.ok("launch", "--procs", "2", "sh", "-c", "sleep 1000 & exit 0")  # the rest of a tree goes
    c.check_no_workers()


# ---- users ----


@site_test("a user whom the node does not know: the job ends and says whom and where",
           needs_root=True)
def unknown_user(c, site):
    os.chmod(c.dir, 0o755)
    os.chmod(c.state_home, 0o755)
    site.acceld("n1", "--user", "daemon", token=site.token())
    stranger, s = site.user("no-such-user-here"), stubs().job
    spec = s.JobSpec(name="x", argv=[b"/bin/true"], cwd=b"/", procs_per_node=1)
    code, answer = site.call(stranger, "job", "Submit",
                             s.SubmitRequest(request_id=os.urandom(16), spec=spec))
    check_equal(code, "OK", "submit: %s" % answer)
    c.wait(str(answer.job_id))
    text = c.describe(answer.job_id)["attempts"][-1]["text"]
    check("no-such-user-here is not known on this node" in text, "why: %s", text)


if __name__ == "__main__":
    main()
