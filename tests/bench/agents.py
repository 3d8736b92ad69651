#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""agents.py BUILD [COUNT]: many simulated nodes on one coordinator over mutual TLS.

Prints, as JSON lines: the storm of first connections, memory of the coordinator for each node (of
8 linked GPUs, with its session), its CPU at one beat each 10 s; how long a job over all nodes, a
signal and a cancel take until the last node has them; and after a kill -9 and a restart of the
coordinator how long until all nodes are back.  Beside it the machine's bounds: handshakes a second
of openssl's ECDSA P-256 on one core (one signature and two verifications for each); 64 bytes
written to each of as many bare TCP connections.
"""
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

BUILD, COUNT = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 1000
IDLE_S = 20


def say(row, **values):
    print(json.dumps({"row": row, **values}), flush=True)


def cpu_s(pid):
    with open("/proc/%d/stat" % pid) as f:
        fields = f.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_kb(pid):
    with open("/proc/%d/status" % pid) as f:
        return int(re.search(r"VmRSS:\s+(\d+)", f.read()).group(1))


def bound():
    done = subprocess.run(["openssl", "speed", "-seconds", "1", "ecdsap256"], capture_output=True,
                          text=True)
    match = re.search(r"nistp256\)\s+\S+s\s+\S+s\s+([\d.]+)\s+([\d.]+)", done.stdout)
    return 1 / (1 / float(match.group(1)) + 2 / float(match.group(2))) if match else None


def start(folder, port):
    coordinator = subprocess.Popen(
        [BUILD + "/scheduler/accel-coordinator", "--listen", "unix:" + folder + "/sock", "--listen",
         "tcp:127.0.0.1:%d" % port, "--state-dir", folder + "/state"],
        stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    for line in coordinator.stderr:
        if b" serves " in line:
            return coordinator
    sys.exit("the coordinator ended")


def main():
    folder = tempfile.mkdtemp(prefix="ac.agents.", dir="/tmp")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    coordinator = start(folder, port)
    before_kb = rss_kb(coordinator.pid)
    agents = subprocess.Popen([BUILD + "/tests/bench/bench_agents", str(COUNT), folder + "/sock",
                               "tcp:127.0.0.1:%d" % port, folder], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE)
    try:
        storm = json.loads(agents.stdout.readline())
        limit = bound()
        say("storm", agents=COUNT, seconds=storm["seconds"],
            coordinator_cpu_s=cpu_s(coordinator.pid),
            handshakes_per_s=round(COUNT / storm["seconds"]),
            bound_per_s=limit and round(limit),
            ratio=limit and round(COUNT / storm["seconds"] / limit, 3))
        after_kb = rss_kb(coordinator.pid)
        say("memory", coordinator_kb=after_kb,
            kb_per_agent=round((after_kb - before_kb) / COUNT, 1))
        used, began = cpu_s(coordinator.pid), time.monotonic()
        time.sleep(IDLE_S)
        share = (cpu_s(coordinator.pid) - used) / (time.monotonic() - began)
        say("beats", beats_per_s=COUNT / 10, coordinator_cpu_percent=round(share * 100, 2))
        used = cpu_s(coordinator.pid)
        agents.stdin.write(b"\n")
        agents.stdin.flush()
        for _ in range(4):
            row = json.loads(agents.stdout.readline())
            say("gang: " + row.pop("row"), **row)
        say("gang: coordinator", cpu_s=round(cpu_s(coordinator.pid) - used, 2))
        for name, signo in (("kill", signal.SIGKILL), ("stop", signal.SIGTERM)):
            coordinator.send_signal(signo)
            coordinator.wait()
            coordinator = start(folder, port)
            serving = time.monotonic()
            back = json.loads(agents.stdout.readline())
            seconds = time.monotonic() - serving
            say("reconnect_after_" + name, agents=COUNT, seconds=round(seconds, 3),
                seconds_since_loss=back["seconds"], goal_s=10, ratio=round(seconds / 10, 3))
    finally:
        agents.kill()
        coordinator.kill()
        shutil.rmtree(folder, ignore_errors=True)


main()
