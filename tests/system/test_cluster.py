#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A cluster of several machines: hosts in namespaces with networks, names, processes and files of
their own, joined by cables that can be pulled.  The user calls from a third machine, over TCP."""
import os
import re
import shutil
import signal
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from accel_test import (PYTHON, ROOT, check, check_equal, main, test,  # noqa: E402
                        wait_pid_gone)
from accel_site import until  # noqa: E402
from cluster import Network, why_no_hosts  # noqa: E402

SLOW_S = 150  # torch

CHARLM = ["--batch", "4", "--block", "16", "--width", "16", "--heads", "2", "--layers", "1",
          "--snapshot-every", "5", "--eval-every", "10", "--sample", "20"]
SHOW = 'echo "rank $RANK of $WORLD_SIZE, $LOCAL_RANK of $LOCAL_WORLD_SIZE on $(hostname): ' \
       '$MASTER_ADDR:$MASTER_PORT $GLOO_SOCKET_IFNAME $NCCL_SOCKET_IFNAME"'
TALK = "echo one $RANK $(hostname); read x < /srv/shared/gate; echo two $RANK $(hostname)"


def why_no_training():
    found = subprocess.run([PYTHON, "-c", "import torch"], stderr=subprocess.DEVNULL)
    return why_no_hosts() or (found.returncode and PYTHON + " cannot import torch") or None


def cluster_test(sentence, *nodes, needs=why_no_hosts, **how):
    """A test that gets a Network with these nodes too."""
    def add(function):
        def run(c):
            net = Network(c, *nodes, **how)
            try:
                function(c, net)
                net.end()
            finally:
                net.close()
        run.__name__ = function.__name__
        test(sentence, needs=needs)(run)
        return function
    return add


def make_text(c, name):
    return c.write(name, b"".join(b"line %d of a small text to learn from\n" % (i * 7919 % 1000)
                                  for i in range(2000)))


def talk(c, *options):
    """A job of two nodes that has said `one` everywhere and waits at the gate."""
    gate = c.gate("gate")
    launch = c.start("launch", "--nodes", "2", "--label", *options, "--wrap", TALK)
    for _ in range(2):
        launch.expect("one")
    return launch, gate


def said(result, word):
    return sorted(re.findall(r"^\[(\d)\] %s \d (\w+)$" % word, result.out, re.M))


BOTH = [("0", "n1"), ("1", "n2")]


@cluster_test("charlm trains on two nodes from a shared directory; nobody gives an address; one "
              "worker is killed and all come back", "n1", "n2", needs=why_no_training)
def shared(c, net):
    shutil.copy(os.path.join(ROOT, "examples", "pytorch", "charlm.py"), c.path("charlm.py"))
    make_text(c, "text")
    result = c.ok("--coordinator", "head:7443", "launch", "--nodes", "2", "--procs", "2",
                  "--label", "--wrap", SHOW, env={"ACCEL_COORDINATOR": None})
    lines = sorted(re.findall(r"^\[(\d)\] rank (\d) of 4, (\d) of 2 on (\w+): ([\d.]+):(\d+) "
                              r"(\w+) (\w+)$", result.out, re.M))
    n1, n2 = net.hosts["n1"], net.hosts["n2"]
    check_equal([line[:4] for line in lines], [(str(r), str(r), str(r % 2), "n%d" % (r // 2 + 1))
                                               for r in range(4)], str(result))
    check_equal({line[4] for line in lines}, {n1.address}, "MASTER_ADDR")
    check_equal(len({line[5] for line in lines}), 1, "MASTER_PORT")
    check_equal([line[6:] for line in lines], [(n1.ifname, n1.ifname)] * 2 +
                [(n2.ifname, n2.ifname)] * 2, "interfaces")

    launch = c.start("launch", "--nodes", "2", "--procs", "2", "--devices", "cpu", "--max-restarts",
                     "1", "--python", PYTHON, "/srv/shared/charlm.py", "--data", "/srv/shared/text",
                     "--snapshot", "/srv/shared/charlm.pt", "--steps", "30", *CHARLM)
    launch.expect(r"snapshot of step 10 in ", SLOW_S)
    ranks = c.ranks(2)
    check_equal([(r["rank"], r["node"]) for r in ranks],
                [(0, "n1"), (1, "n1"), (2, "n2"), (3, "n2")], "ranks")
    os.kill(n2.worker(ranks[3]["pid"]), signal.SIGKILL)
    result = launch.finish(SLOW_S)
    check_equal(result.rc, 0, str(result))
    attempts = c.describe(2)["attempts"]
    check_equal([a["cause"] for a in attempts], ["worker_failed", "succeeded"], "causes")
    check_equal(attempts[0]["first_failed_rank"], 3, "first failed rank")
    resumed = re.search(r"resumed from step (\d+)", result.out)
    check(resumed and int(resumed.group(1)) >= 10, "resumed: %s", result)
    losses = [float(loss) for loss in re.findall(r"val loss ([\d.]+)", result.out)]
    check(losses[-1] < losses[0], "the loss went down: %s", losses)


@cluster_test("charlm trains on two nodes from a copy of the directory; nothing is shared", "n1",
              "n2", needs=why_no_training)
def synced(c, net):
    project = os.path.join(c.dir, "project")  # on the desk only
    os.mkdir(project)
    shutil.copy(os.path.join(ROOT, "examples", "pytorch", "charlm.py"), project)
    shutil.move(make_text(c, "text"), project)
    net.desk.give(project, "/srv/home/project")
    result = c.ok("launch", "--nodes", "2", "--procs", "1", "--devices", "cpu", "--sync",
                  "/srv/home/project", "--python", PYTHON, "/srv/home/project/charlm.py", "--data",
                  "text", "--steps", "10", *CHARLM, timeout=SLOW_S)
    check("2 processes" in result.out and "final val loss" in result.out, "%s", result)
    trees = {name: net.hosts[name].files("/srv/state/node/attempts/*.work/tree")
             for name in ("n1", "n2")}
    check_equal({name: len(found) for name, found in trees.items()}, {"n1": 1, "n2": 1}, "copies")
    has = {name: "charlm.pt" in os.listdir(found[0]) for name, found in trees.items()}
    check_equal(has, {"n1": True, "n2": False}, "the snapshot is on the node of rank 0")


@cluster_test("pulled cables, of a node and then of the coordinator, kill nothing: what ended "
              "meanwhile is told when they are back", "n1", "n2")
def cables(c, net):
    launch, gate = talk(c)
    n2 = net.hosts["n2"]
    pid = n2.worker(c.ranks(1)[1]["pid"])
    net.unplug("n2")
    gate.open(2)  # both ends of the gang end now; one cannot tell
    wait_pid_gone(pid)
    until(lambda: c.ranks(1)[0]["state"] == "EXITED", "the end on n1 is known")
    check_equal((c.ranks(1)[1]["state"], c.jobs()[0]["state"]), ("RUNNING", "RUNNING"), "states")
    net.unplug("head")
    # The end is told into the void until the kernel gives up waiting for an acknowledgement.
    until(lambda: "the session with the coordinator ended" in n2.log("acceld"), "n2 notices")
    check_equal(launch.popen.poll(), None, "launch waits")
    net.plug("n2")
    net.plug("head")
    result = launch.finish()
    check_equal(result.rc, 0, str(result))
    check("two 0 n1" in result.out, "%s", result)
    # Should n2's session not last at once, launch gives its last words up and says so.
    check("two 1 n2" in result.out or "could not be read to its end" in result.err, "%s", result)
    until(lambda: "two 1 n2" in c.run("logs", "1").out, "the output on n2")
    check_equal(len(c.describe(1)["attempts"]), 1, "attempts")


@cluster_test("kill -9 of acceld on one node, then of the coordinator: adopted, nothing is lost",
              "n1", "n2")
def kills(c, net):
    launch, gate = talk(c)
    net.hosts["n2"].end("acceld")
    net.start_acceld("n2")
    net.head.end("accel-coordinator")
    net.start_coordinator()
    gate.open(2)
    result = launch.finish()
    check_equal((result.rc, said(result, "one"), said(result, "two")), (0, BOTH, BOTH), str(result))
    check_equal(len(c.describe(1)["attempts"]), 1, "attempts")
    for rank, name in BOTH:
        check_equal(c.ok("logs", "--rank", rank, "1").out, "one %s %s\ntwo %s %s\n" % (
            rank, name, rank, name), "logs")


@cluster_test("power is cut on a node: when it is back the gang starts again", "n1", "n2")
def power(c, net):
    launch, gate = talk(c, "--max-restarts", "1")
    net.power_cut("n2")
    net.boot("n2")
    net.start_acceld("n2")
    for _ in range(2):
        launch.expect("one")
    gate.open(2)
    result = launch.finish()
    check_equal((result.rc, said(result, "two")), (0, BOTH), str(result))
    check("attempt 1 ended: n2: the shim was killed" in result.err, "why is told: %s", result)
    check_equal(len(c.describe(1)["attempts"]), 2, "attempts")


@cluster_test("node remove of a node that runs a part of a job: the job starts again on the others",
              "n1", "n2", "n3")
def removed(c, net):
    launch, gate = talk(c)
    n2 = net.hosts["n2"]
    pid = n2.worker(c.ranks(1)[1]["pid"])
    net.on_head("node", "remove", "n2")
    wait_pid_gone(pid)
    for _ in range(2):
        launch.expect("one")
    gate.open(2)
    result = launch.finish()
    check_equal((result.rc, said(result, "two")), (0, [("0", "n1"), ("1", "n3")]), str(result))
    check("attempt 1 ended: node n2 was removed; starting attempt 2" in result.err, "%s", result)
    left = c.ok("logs", "--attempt", "1", "1").out
    check_equal(left, "[0] one 0 n1\n", "what is left of attempt 1")
    gone = c.run("logs", "--attempt", "1", "--rank", "1", "1")
    check(gone.rc == 1 and "are gone with node n2" in gone.err, "the rest: %s", gone)
    attempts = c.describe(1)["attempts"]
    check_equal([a["cause"] for a in attempts], ["node_lost", "succeeded"], "causes")
    check_equal(sorted(n["name"] for n in c.ok("nodes", "-o", "json").json()["items"]),
                ["n1", "n3"], "nodes")


@cluster_test("a user has another uid on each node: her job and her files are hers on both", "n1",
              "n2", acceld=("--user", "daemon"))
def users(c, net):
    for name in ("ann", "bob"):
        net.certify(name, "/srv/home/%s.pem" % name)
    ann, bob = ({"ACCEL_CREDENTIALS": "/srv/home/%s.pem" % name} for name in ("ann", "bob"))
    net.desk.command("mkdir", "/srv/home/project")
    result = c.ok("launch", "--nodes", "2", "--label", "--sync", "/srv/home/project", "--wrap",
                  "echo $(hostname) $(id -un) $(id -u); touch mine", env=ann)
    uids = {name: net.hosts[name].users["ann"] for name in ("n1", "n2")}
    check_equal(sorted(re.findall(r"^\[\d\] (.*)$", result.out, re.M)),
                ["%s ann %d" % pair for pair in sorted(uids.items())], "who ran it")
    for name, uid in uids.items():
        path, = net.hosts[name].files("/srv/state/node/attempts/*.work/tree/mine")
        check_equal(os.stat(path).st_uid, uid, "owner of a file on " + name)
    result = c.fails(125, "launch", "--nodes", "2", "true", env=bob)  # n2 does not know him
    check("bob" in result.err and "n2" in result.err, "who is not known where: %s", result)
    c.ok("launch", "-w", "n1", "true", env=bob)
    check("of root" not in c.ok("describe", "1", env=ann).out, "hers")
    c.fails(4, "logs", "1", env=bob)


@cluster_test("both daemons are replaced under a running job: adopted by the new ones", "n1", "n2")
def upgrade(c, net):
    launch, gate = talk(c)
    net.install_upgrade()
    for name, program, start in (("n2", "acceld", net.start_acceld),
                                 ("head", "accel-coordinator", net.start_coordinator)):
        host = net.hosts[name]
        host.end(program, signal.SIGTERM)
        start(*([name] if program == "acceld" else []), folder="/srv/upgrade")
        check_equal(os.readlink("/proc/%d/exe" % host.daemon_pid(program)),
                    "/srv/upgrade/bin/" + program, "what runs")
    gate.open(2)
    result = launch.finish()
    check_equal((result.rc, said(result, "one"), said(result, "two")), (0, BOTH, BOTH), str(result))
    check_equal(len(c.describe(1)["attempts"]), 1, "attempts")
    check_equal(c.ok("launch", "--nodes", "2", "hostname").rc, 0, "another job")


if __name__ == "__main__":
    main()
