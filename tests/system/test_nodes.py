#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Jobs over several nodes: some acceld on one host, each with a name, a state directory and devices
of its own, under one coordinator."""
import os
import re
import signal
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from accel_test import (FIXTURES, PYTHON, Gate, Mailbox, check, check_equal, is_alive,  # noqa: E402
                        main, test, wait_pid_gone)

SLOW_S = 150  # torch


class Nodes:
    """node names and the devices of each"""

    def __init__(self, c, *names, devices="cpu:4"):
        self.c, self.daemons = c, {}
        c.counts_starts = False
        self.close_cluster, c.close = c.close, self.close
        self.socket = os.path.join(c.runtime, "several.sock")
        c.env["ACCEL_COORDINATOR"] = "unix:" + self.socket
        self.start_coordinator()
        for name in names:
            self.start(name, devices)

    def daemon(self, log, program, *args):
        """Starts it and waits until it serves."""
        got, said = os.pipe()
        with open(os.path.join(self.c.state_home, log + ".log"), "ab") as f:
            command = [os.path.join(self.c.bin, program), "--ready-fd", str(said), *args]
            p = subprocess.Popen(command,
                                 env=self.c.env, cwd=self.c.work, stdin=subprocess.DEVNULL,
                                 stdout=f, stderr=f, pass_fds=[said])
        os.close(said)
        with os.fdopen(got, "rb") as pipe:
            word = pipe.readline()
        check(word == b"ready\n", "%s has not come up:\n%s", log, self.log(log)[-2000:])
        self.daemons[log] = p
        return p

    def close(self, failed=False):
        """The nodes first: a Cluster knows of one at most."""
        for name, p in self.daemons.items():
            if name != "coordinator" and p.poll() is None and not failed:
                p.terminate()
                p.wait()
        self.close_cluster(failed)

    def log(self, name):
        with open(os.path.join(self.c.state_home, name + ".log"), errors="replace") as f:
            return f.read()

    def start_coordinator(self):
        self.daemon("coordinator", "accel-coordinator", "--listen", "unix:" + self.socket,
                    "--state-dir", os.path.join(self.c.state_home, "coordinator"))

    def start(self, name, devices="cpu:4"):
        self.daemon(name, "acceld", "--coordinator", "unix:" + self.socket, "--node-name", name,
                    "--state-dir", os.path.join(self.c.state_home, name), "--devices", devices)

    def kill(self, name):
        self.daemons[name].kill()
        self.daemons[name].wait()


SHOW = 'echo "$RANK of $WORLD_SIZE, $LOCAL_RANK of $LOCAL_WORLD_SIZE on $GROUP_RANK: ' \
       '$MASTER_ADDR:$MASTER_PORT $GLOO_SOCKET_IFNAME $ACCEL_NODE"'


@test("two nodes: ranks, sizes and the rendezvous are right, and every rank's output is read")
def environment(c):
    Nodes(c, "a", "b")
    result = c.ok("launch", "--nodes", "2", "--procs", "2", "--label", "--wrap", SHOW)
    lines = sorted(re.findall(r"^\[(\d)\] (\d) of 4, (\d) of 2 on (\d): (\S+):(\d+) (\S+)",
                              result.out, re.M))
    check_equal([line[:4] for line in lines],
                [(str(r), str(r), str(r % 2), str(r // 2)) for r in range(4)], str(result))
    check_equal(len({line[4:] for line in lines}), 1, "rendezvous")
    check_equal(lines[0][4], "127.0.0.1", "address")
    check_equal(lines[0][6], "lo", "interface")
    job = c.describe(1)
    check_equal([r["node"] for r in job["attempts"][0]["ranks"]], ["a", "a", "b", "b"], "nodes")
    check_equal(job["where"], ["a", "b"], "where")
    check_equal(job["reason"], "all 4 ranks exited with code 0", "reason")
    text = c.ok("logs", "1").out
    check_equal(len(re.findall(r"of 4", text)), 4, "ranks in %r" % text)
    text = c.ok("logs", "--rank", "3", "1").out
    check_equal(re.findall(r"^(\d) of 4", text, re.M), ["3"], "rank in %r" % text)
    check("2x2" in c.ok("ps", "-a").out, "ps shows nodes and processes")
    result = c.ok("launch", "--nodes", "2", "--procs", "2", "--label", "--slurm-env", "--wrap",
                  'echo "$SLURM_JOB_NODELIST $SLURM_TASKS_PER_NODE $SLURM_NODEID"')
    check_equal(sorted(result.out.splitlines()),
                ["[%d] a,b 2(x2) %d" % (r, r // 2) for r in range(4)], "Slurm")


@test("DistributedDataParallel over two nodes; one rank is killed, all nodes start again",
      needs=lambda: None if subprocess.run([PYTHON, "-c", "import torch"],
                                           stderr=subprocess.DEVNULL).returncode == 0
      else "%s cannot import torch" % PYTHON)
def ddp(c):
    Nodes(c, "a", "b")
    box, gate = Mailbox(c.path("box")), Gate(c.path("gate"))
    launch = c.start("launch", "--nodes", "2", "--procs", "1", "--label", "--max-restarts", "1",
                     "--python", PYTHON, os.path.join(FIXTURES, "ddp.py"), box.path, gate.path)
    pids = {}
    while len(pids) < 2:
        word = re.fullmatch(r"rank (\d) of 2 pid (\d+)", box.line(SLOW_S))
        pids[int(word.group(1))] = int(word.group(2))
    check_equal({r["rank"]: r["pid"] for r in c.ranks(1)}, pids, "pids")
    os.kill(pids[1], signal.SIGKILL)
    result = launch.finish(SLOW_S)
    check_equal(result.rc, 0, str(result))
    lines = re.findall(r"^\[(\d)\] rank (\d) restarts (\d) loss ([\d.]+) weights (.*)$", result.out,
                       re.M)
    check_equal(sorted(line[:3] for line in lines), [("0", "0", "1"), ("1", "1", "1")], "ends")
    check_equal(lines[0][4], lines[1][4], "weights of both ranks")
    attempts = c.describe(1)["attempts"]
    check_equal([a["cause"] for a in attempts], ["worker_failed", "succeeded"], "causes")
    check_equal(attempts[0]["first_failed_rank"], 1, "first failed rank")
    check(str(pids[1]) in attempts[0]["text"], "it is named: %s", attempts[0]["text"])


@test("cancel, signals and the first failure reach every node")
def stops(c):
    Nodes(c, "a", "b")
    job = c.submit("--nodes", "2", "--wrap", "sleep 1000")
    c.wait(job, running=True)
    pids = [r["pid"] for r in c.ranks(job)]
    c.ok("cancel", job)
    c.wait(job, 130)
    check(not any(is_alive(pid) for pid in pids), "processes are left")
    fail = 'echo up; [ "$RANK" = 1 ] && { read x < %s; exit 9; }; sleep 1000'
    gate = c.gate("gate")
    launch = c.start("launch", "--nodes", "2", "--label", "--wrap", fail % gate.path)
    for _ in range(2):
        launch.expect(r"up$")
    pids = [r["pid"] for r in c.ranks(2)]
    gate.open()
    result = launch.finish()
    check_equal(result.rc, 9, str(result))
    check("rank 1" in result.err and "exited with code 9" in result.err, "it is named: %s", result)
    for pid in pids:
        wait_pid_gone(pid)
    launch = c.start("launch", "--nodes", "2", "--label", "--wrap",
                     'trap "echo got it; exit 0" INT; echo up; while :; do sleep 0.1; done')
    for _ in range(2):
        launch.expect(r"up$")
    launch.signal(signal.SIGINT)
    check_equal(len(re.findall("got it", launch.finish().out)), 2, "ranks that got it")


@test("stdin goes to rank 0, whichever node has it")
def stdin(c):
    Nodes(c, "a", "b")
    result = c.ok("launch", "--nodes", "2", "--label", "--wrap", "wc -c", stdin=b"x" * 200000)
    check_equal(sorted(re.findall(r"^\[(\d)\] (\d+)$", result.out, re.M)),
                [("0", "200000"), ("1", "0")], str(result))


@test("output that one node lost is told of the whole gang, also when all went well")
def lost_output(c):
    Nodes(c, "a", "b")
    for code in (0, 3):
        line = "test $RANK = 1 || { echo out; exit %d; }" % code  # the file is rank 0's
        result = c.run("launch", "--nodes", "2", "--output", "/dev/full", "--wrap", line)
        check_equal(result.rc, code, str(result))
        check_equal(result.out, "out\n", "what launch itself shows")
        check("\naccelctl: 4 bytes of output were lost: No space left on device" in
              "\n" + result.err, "told: %s", result)


@test("--nodelist, --exclude and -j; what cannot be is refused and says what there is")
def places(c):
    Nodes(c, "a", "b", "c")
    c.ok("launch", "-j", "2x3", "--exclude", "b", "true")
    check_equal(c.describe(1)["where"], ["a", "c"], "without b")
    check_equal(len(c.ranks(1)), 6, "ranks")
    c.ok("launch", "-w", "c", "true")
    check_equal(c.describe(2)["where"], ["c"], "c only")
    c.ok("launch", "--nodes", "2", "-w", "c,b", "true")
    check_equal(c.describe(3)["where"], ["b", "c"], "b and c")
    # The nodes are known, so what they cannot carry is said at once.
    for words, text in ((("-w", "d"), r"no node d\b.*nodes are a, b, c"),
                        (("--nodes", "2", "-w", "a"), "names 1 node.*asks for 2"),
                        (("--nodes", "4"), "4 nodes with 1 CPU slot each; 3 nodes have that"),
                        (("--nodes", "3", "-x", "a"), "2 nodes have that"),
                        (("--nodes", "2", "--procs", "5"), "2 nodes with 5 CPU slots each"),
                        (("-j", "2x"), "NODESxPROCS")):
        result = c.run("submit", *words, "true")
        check(result.rc in (1, 2, 125) and re.search(text, result.err, re.S),
              "%s: wanted %r: %s", words, text, result)
        check("try:" in result.err, "it says what to try: %s", result)


@test("a gang waits for all its nodes, and nobody overtakes it")
def waits(c):
    Nodes(c, "a", "b")
    gate = c.gate("gate")
    first = c.submit("-w", "b", "--procs", "4", "--wrap", "read x < " + gate.path)
    c.wait(first, running=True)
    gang = c.submit("--nodes", "2", "--procs", "2", "true")
    behind = c.submit("-w", "a", "true")
    reasons = {j["id"]: j["reason"] for j in c.jobs()}
    check_equal(reasons[int(gang)], "waits for 2 nodes with 2 free CPU slots each", "gang")
    check_equal(reasons[int(behind)], "waits behind job " + gang, "the next")
    gate.open(4)
    for job in (first, gang, behind):
        c.wait(job, 0)


@test("acceld of one node is killed and comes back: the gang runs on, its output is complete")
def adoption(c):
    n, gate = Nodes(c, "a", "b"), c.gate("gate")
    launch = c.start("launch", "--nodes", "2", "--label", "--wrap",
                     "echo one; read x < %s; echo two" % gate.path)
    for _ in range(2):
        launch.expect("one$")
    n.kill("b")
    n.start("b")
    gate.open(2)
    result = launch.finish()
    check_equal(result.rc, 0, str(result))
    check_equal(sorted(re.findall(r"^\[(\d)\] two$", result.out, re.M)), ["0", "1"], str(result))
    check_equal(len(c.describe(1)["attempts"]), 1, "attempts")


@test("the coordinator is killed while a gang runs, and while one node's part has ended")
def coordinator(c):
    n, gate = Nodes(c, "a", "b"), c.gate("gate")
    job = c.submit("--nodes", "2", "--wrap", '[ "$RANK" = 1 ] || read x < ' + gate.path)
    c.wait(job, running=True)
    wait_pid_gone(c.ranks(job)[1]["pid"])
    n.kill("coordinator")
    n.start_coordinator()
    gate.open()
    c.wait(job, 0)
    found = c.describe(job)
    check_equal(found["reason"], "all 2 ranks exited with code 0", "reason")
    check_equal(len(found["attempts"]), 1, "attempts")


@test("a node that is removed ends the gang, which starts again on the others")
def removed(c):
    n = Nodes(c, "a", "b", "c")
    gate = c.gate("gate")
    job = c.submit("--nodes", "2", "--wrap", "read x < " + gate.path)
    c.wait(job, running=True)
    n.kill("b")
    c.ok("node", "remove", "b")
    gate.open(8)
    c.wait(job, 0)
    attempts = c.describe(job)["attempts"]
    check_equal([a["cause"] for a in attempts], ["node_lost", "succeeded"], "causes")
    check_equal(sorted({r["node"] for r in attempts[1]["ranks"]}), ["a", "c"], "nodes")


if __name__ == "__main__":
    main()
