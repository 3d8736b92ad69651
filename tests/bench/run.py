#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The speed of the built programs, each figure beside the machine's own bound in the same run.

Prints a table, and with --json one JSON object a line.  Goals are told, never judged: the exit
status says only whether everything could be measured.  Every cluster has a runtime and a state
directory of its own on a real disk; whatever was started is ended.  What would be slow in Python
is in the C programs beside this file.  Standard library only; knows the programs from outside.
"""
import argparse
import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time

SLOTS = 16
TIMEOUT_S = 600
MARK = "ACCEL_BENCH_CLUSTER"
FS_IOC_GETFLAGS, FS_IOC_SETFLAGS, FS_TOPDIR_FL = 0x80086601, 0x40086602, 0x00020000  # linux/fs.h


# ---- rows ----


class Report:
    """The rows measured so far; each is printed as it comes and kept for the table."""

    def __init__(self, json_path):
        self.rows = []
        self.json = open(json_path, "w", encoding="utf-8") if json_path else None

    def meta(self, **what):
        self._write({"meta": what})

    def _write(self, record):
        if self.json:
            self.json.write(json.dumps(record) + "\n")
            self.json.flush()

    def row(self, bench, name, value, unit, bound=None, bound_name="", goal=None, **more):
        """goal: ("ratio" | "value" | "share", "<=" | ">=", number); share is value - bound."""
        record = {"bench": bench, "name": name, "value": round(value, 4), "unit": unit}
        if bound is not None:
            record.update(bound=round(bound, 4), bound_name=bound_name,
                          ratio=round(value / bound, 3) if bound else None)
        if goal:
            what, sign, number = goal
            measured = {"ratio": value / bound if bound else 0, "value": value,
                        "share": value - (bound or 0)}[what]
            record["goal"] = "%s %s %g" % (what, sign, number)
            record["pass"] = measured <= number if sign == "<=" else measured >= number
            if what == "share":
                record["share"] = round(measured, 4)
        record.update(more)
        self.rows.append(record)
        self._write(record)
        print("  " + self.line(record), file=sys.stderr, flush=True)

    @staticmethod
    def line(record):
        bound = ratio = ""
        if "bound" in record:
            bound = "%s %s" % (number_text(record["bound"]), record["bound_name"])
            ratio = "%.2f" % record["ratio"] if record["ratio"] is not None else ""
        goal = record.get("goal", "")
        if "share" in record:
            goal += " (is %.2f)" % record["share"]
        verdict = {True: "pass", False: "MISS"}.get(record.get("pass"), "")
        return "%-48s %11s %-8s %-36s %6s  %-26s %s" % (
            record["name"], number_text(record["value"]), record["unit"], bound, ratio, goal,
            verdict)

    def table(self):
        print("%-50s %11s %-8s %-36s %6s  %-26s" % (
            "", "measured", "", "bound of the machine, same run", "ratio", "goal"))
        bench = None
        for record in self.rows:
            if record["bench"] != bench:
                bench = record["bench"]
                print(bench)
            print("  " + self.line(record).rstrip())


def number_text(value):
    if value >= 1000:
        return "{:,.0f}".format(value)
    return "%.3g" % value if value < 1 else "%.4g" % value


# ---- processes ----


def read_proc(pid, name):
    try:
        with open("/proc/%s/%s" % (pid, name), "rb") as f:
            return f.read()
    except OSError:
        return b""


def all_pids():
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def wait_gone(pid, timeout):
    """Whether the process, which need not be a child, has ended in time."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([fd], [], [], timeout)[0])
    finally:
        os.close(fd)


def cpu_ns(pid):
    """CPU time of all threads that live; exact, where utime counts ticks."""
    total = 0
    for task in os.listdir("/proc/%d/task" % pid):
        total += int(read_proc(pid, "task/%s/schedstat" % task).split()[0])
    return total


def reaped_ns(pid):
    """CPU time of the children that a process has waited for, and of theirs; in ticks."""
    words = read_proc(pid, "stat").rpartition(b")")[2].split()
    return (int(words[13]) + int(words[14])) * 1e9 / os.sysconf("SC_CLK_TCK")


def memory_kb(pid):
    found = {}
    for line in read_proc(pid, "smaps_rollup").decode().splitlines():
        word = line.split()
        if word[0] in ("Rss:", "Pss:", "Private_Dirty:"):
            found[word[0][:-1]] = int(word[1])
    return found


def spread_folders(path):
    """Asks ext4 (chattr +T) to put what is below path where little was deleted of late.

    Without a journal, ext4 does not use the inode of a deleted file again for minutes, and looks at
    all of them whenever it makes a file: after a large rm, each new file costs up to a millisecond,
    and a job is several files.  What others delete would be measured as ours.
    """
    fd = os.open(path, os.O_RDONLY)
    try:
        flags = bytearray(8)
        fcntl.ioctl(fd, FS_IOC_GETFLAGS, flags)
        flags[2] |= FS_TOPDIR_FL >> 16
        fcntl.ioctl(fd, FS_IOC_SETFLAGS, flags)
    except OSError:
        pass  # another file system
    finally:
        os.close(fd)


class Cluster:
    """The embedded daemons of one user, with everything of theirs under one folder."""

    def __init__(self, bench, devices="cpu:%d" % SLOTS, env=None):
        self.bench = bench
        self.dir = tempfile.mkdtemp(prefix="c.", dir=bench.dir)
        self.env = {k: v for k, v in os.environ.items()
                    if not k.startswith(("ACCEL", "XDG_", "SLURM_"))}
        self.env.update({"XDG_RUNTIME_DIR": self.dir + "/r", "XDG_STATE_HOME": self.dir + "/s",
                         "ACCEL_DEVICES": devices, "ACCEL_IDLE_EXIT": "600", MARK: self.dir})
        self.env.update(env or {})
        for name in ("/r", "/s"):
            os.mkdir(self.dir + name, 0o700)
        self.socket = self.dir + "/r/accel/coordinator.sock"

    def __enter__(self):
        try:
            begin = time.monotonic()
            self.ctl("nodes")
            self.cold_ms = (time.monotonic() - begin) * 1e3
            self.ctl("launch", "/bin/true")
            self.coordinator = self.status()["pid"]
            self.acceld = self.find("acceld")
            self.spawn = self.find("accel-spawn")
            return self
        except BaseException:
            self.close()
            raise

    def __exit__(self, *ignored):
        self.close()

    def ctl(self, *args, check=True):
        done = subprocess.run([self.bench.bin + "/accelctl", *args], env=self.env, cwd=self.dir,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, timeout=TIMEOUT_S, check=False)
        if check and done.returncode != 0:
            raise RuntimeError("accelctl %s: %d: %s" % (" ".join(args), done.returncode,
                                                        done.stderr.decode("utf-8", "replace")))
        return done.stdout.decode()

    def status(self):
        return json.loads(self.ctl("admin", "status", "-o", "json"))

    def processes(self):
        mark = ("%s=%s" % (MARK, self.dir)).encode()
        work = b"ACCEL_ATTEMPT_DIR=" + self.dir.encode()
        found = {}
        for pid in all_pids():
            environ = read_proc(pid, "environ").split(b"\0")
            if mark in environ or any(e.startswith(work) for e in environ):
                found[pid] = read_proc(pid, "cmdline").split(b"\0")[0].decode("utf-8", "replace")
        return found

    def find(self, name):
        pids = [p for p, line in self.processes().items()
                if os.path.basename(line.split(" ")[0]) == name]
        if not pids:
            raise RuntimeError("no %s runs" % name)
        return min(pids)

    def tool(self, name, *args, timeout=TIMEOUT_S):
        return self.bench.tool(name, *args, env=self.env, cwd=self.dir, timeout=timeout)

    def load(self, *args):
        return self.tool("bench_load", self.socket, *args)

    def timed(self, count, *args):
        """accelctl ARGS count times, in turn with the machine's bounds."""
        return self.tool("bench_bound", "launch", self.dir, count, self.bench.bin + "/accelctl",
                         *args)

    def fifo(self):
        path = self.dir + "/fifo"
        if not os.path.exists(path):
            os.mkfifo(path)
        return path

    def close(self):
        with contextlib.suppress(Exception):
            self.ctl("cancel", "--all", "--kill", "--yes", check=False)
            self.ctl("admin", "shutdown", check=False)
        for signo in (signal.SIGTERM, signal.SIGKILL):
            left = self.processes()
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signo)
            for pid in left:
                wait_gone(pid, 5)
        # The folder stays until the end: see spread_folders.


class Bench:
    """Where the programs are, how often to measure, and where the rows go."""

    def __init__(self, args, report):
        self.bin = os.path.abspath(args.bin)
        self.tools = os.path.abspath(args.tools or os.path.join(self.bin, "../tests/bench"))
        self.quick = args.quick
        self.report = report
        self.dir = tempfile.mkdtemp(prefix="bench.", dir=args.dir or os.path.dirname(self.bin))
        spread_folders(self.dir)
        self.stamp = self.tools + "/bench_stamp"

    def count(self, full, quick):
        return quick if self.quick else full

    def tool(self, name, *args, env=None, cwd=None, timeout=TIMEOUT_S):
        """Runs one of the C programs; its rows by name."""
        done = subprocess.run([os.path.join(self.tools, name), *map(str, args)], env=env, cwd=cwd,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, timeout=timeout, check=False)
        if done.returncode != 0:
            raise RuntimeError("%s %s: %d: %s" % (name, " ".join(map(str, args[:6])),
                                                  done.returncode,
                                                  done.stderr.decode("utf-8", "replace")))
        rows = [json.loads(line) for line in done.stdout.decode().splitlines()]
        return {row.get("row", row.get("name")): row for row in rows}

    def close(self):
        shutil.rmtree(self.dir, ignore_errors=True)


def ms(row, quantile="p50"):
    return row[quantile + "_us"] / 1e3


# ---- the benchmarks ----


def bench_launch(b):
    """launch of /bin/true, beside 3 spawns + 2 round trips + 1 fdatasync"""
    for name, env in (("", {}), (", without cgroups", {"ACCEL_SPAWN_CGROUP": "0"})):
        with Cluster(b, env=env) as c:
            rows = c.timed(b.count(400, 20), "launch", "/bin/true")
            for quantile in ("p50", "p99"):
                b.report.row("launch of /bin/true, daemons up", quantile + name,
                             ms(rows["command"], quantile), "ms", ms(rows["bound"], quantile),
                             "ms 3 spawns+2 trips+1 sync",
                             goal=("ratio", "<=", 2) if quantile == "p50" else None)
            if not env:
                rows.update(b.tool("bench_bound", "create", c.dir, b.count(2000, 100)))
                for bound in ("create", "spawn", "round_trip", "fdatasync"):
                    b.report.row("launch of /bin/true, daemons up", "  bound: " + bound,
                                 ms(rows[bound]), "ms")


def bench_start(b):
    """from sending Submit to the worker's first instruction"""
    title = "submit to the worker's first instruction"
    for name, env in (("", {}), (", without cgroups", {"ACCEL_SPAWN_CGROUP": "0"})):
        with Cluster(b, env=env) as c:
            n = b.count(300, 20)
            bound = c.tool("bench_bound", "first", n, c.fifo(), b.stamp)
            writes = c.status()["row_writes"]
            row = c.load("start", n, c.fifo(), b.stamp)["submit_to_first_instruction"]
            writes = c.status()["row_writes"] - writes
            bound = ms(bound["spawn_to_first_instruction"])
            b.report.row(title, "p50" + name, ms(row), "ms", bound, "ms spawn alone",
                         goal=("value", "<=", 5))
            b.report.row(title, "p99" + name, ms(row, "p99"), "ms", bound, "ms spawn alone")
            if not env:
                b.report.row(title, "  row writes per job", round(writes / n, 1), "rows",
                             goal=("value", "<=", 5))


def shell_rate(cluster, count, *command):
    """A second, by a shell that starts one after another."""
    script = 'i=0; while [ $i -lt %d ]; do "$@" >/dev/null || exit 1; i=$((i+1)); done' % count
    begin = time.monotonic()
    shell = subprocess.Popen(["/bin/sh", "-c", script, "sh", *command], env=cluster.env,
                             cwd=cluster.dir, stdin=subprocess.DEVNULL)
    timer = threading.Timer(TIMEOUT_S, shell.kill)
    timer.start()
    code = shell.wait()  # with a timeout it would look every 50 ms only
    took = time.monotonic() - begin
    timer.cancel()
    if code != 0:
        raise RuntimeError("%s, in a loop: %d" % (" ".join(command), code))
    return count / took


def occupy(cluster):
    """Gives the only slot to a worker that stays, so that what follows waits in the queue."""
    cluster.ctl("submit", cluster.bench.stamp, "/dev/null", "hold")
    job = cluster.ctl("ps", "-o", "name").split()[0]
    cluster.ctl("wait", "--for=running", job)
    return job


def bench_submit(b):
    """durable submissions a second: one pipelined client; one command line each"""
    title = "durable submissions, nothing of them starts"
    with Cluster(b, devices="cpu:1") as c:
        occupy(c)
        rates, bounds = [], []
        for _ in range(b.count(5, 1)):
            n = b.count(200, 20)
            bounds.append(shell_rate(c, n, "/bin/true"))
            rates.append(shell_rate(c, n, b.bin + "/accelctl", "submit", "/bin/true"))
        b.report.row(title, "one accelctl each, serial", statistics.median(rates), "/s",
                     statistics.median(bounds), "/s /bin/true from sh", goal=("ratio", ">=", 0.6))
        for window in (1, 16, 128):
            n = b.count({1: 1000, 16: 4000, 128: 10000}[window], 200)
            rows = c.load("submit", n, window, "nowait", "/bin/true")
            b.report.row(title, "one client, %d unanswered" % window, rows["accepted"]["per_s"],
                         "/s", p50_ms=ms(rows["answer"]))
        b.report.row(title, "rows a commit, over all",
                     (lambda s: s["row_writes"] / s["commits"])(c.status()), "rows")


def completion_run(b, c, count):
    """Rate, bound, cpu and writes of `count` jobs to recorded completion."""
    pids = {"coordinator": c.coordinator, "acceld": c.acceld, "accel-spawn": c.spawn}
    bound = b.tool("bench_bound", "pipelined", min(count, 2000), SLOTS)
    cpu = {name: cpu_ns(pid) for name, pid in pids.items()}
    reaped = reaped_ns(c.spawn)
    before = c.status()
    rows = c.load("submit", count, 128, "wait", "/bin/true")
    after = c.status()
    cpu = {name: (cpu_ns(pid) - cpu[name]) / count / 1e6 for name, pid in pids.items()}
    cpu["shim and worker"] = (reaped_ns(c.spawn) - reaped) / count / 1e6
    again = b.tool("bench_bound", "pipelined", min(count, 2000), SLOTS)
    rate = (bound["fork_spawn_pipelined"]["per_s"] + again["fork_spawn_pipelined"]["per_s"]) / 2
    return {"rate": rows["completed"]["per_s"], "bound": rate, "cpu": cpu,
            "writes": (after["row_writes"] - before["row_writes"]) / count,
            "commits": (after["commits"] - before["commits"]) / count}


def bench_complete(b):
    """/bin/true jobs to recorded completion, beside fork + spawn pipelined"""
    title = "/bin/true to recorded completion, %d slots" % SLOTS
    for name, env in (("", {}), (", without cgroups", {"ACCEL_SPAWN_CGROUP": "0"})):
        for count in ([b.count(1000, 100)] if env else [b.count(1000, 100), b.count(10000, 300)]):
            with Cluster(b, env=env) as c:
                runs = [completion_run(b, c, count)
                        for _ in range(1 if count > 1000 else b.count(3, 1))]
                run = sorted(runs, key=lambda r: r["rate"] / r["bound"])[len(runs) // 2]
            b.report.row(title, "%s jobs%s" % (number_text(count), name), run["rate"], "/s",
                         run["bound"], "/s fork + spawn, 16 in flight", goal=("ratio", ">=", 0.5))
            if env:
                continue
            for who in ("coordinator", "acceld", "accel-spawn", "shim and worker"):
                b.report.row(title, "  CPU per job: " + who, run["cpu"][who], "ms",
                             goal=("value", "<=", 0.15) if who == "coordinator" else None)
            b.report.row(title, "  row writes per job", round(run["writes"], 1), "rows",
                         goal=("value", "<=", 5))
            b.report.row(title, "  commits per job", run["commits"], "commits")


def bench_restart(b):
    """SIGKILL of a worker to the restarted gang's last first instruction"""
    title = "worker killed to gang of 2 restarted"
    for name, env in (("", {}), (", without cgroups", {"ACCEL_SPAWN_CGROUP": "0"})):
        with Cluster(b, env=env) as c:
            n = b.count(200, 10)
            bound = ms(c.tool("bench_bound", "first", n, c.fifo(), b.stamp)[
                "spawn_to_first_instruction"])
            rows = c.load("restart", n, c.fifo(), b.stamp)
            if not env:
                kill = ms(b.tool("bench_bound", "kill", n)["kill_to_pidfd"])
                b.report.row(title, "  bound: kill to pidfd readable", kill, "ms")
            for quantile in ("p50", "p99"):
                b.report.row(title, "last new worker, %s%s" % (quantile, name),
                             ms(rows["kill_to_last_worker"], quantile), "ms", bound,
                             "ms spawn alone",
                             goal=("share", "<=", 10) if quantile == "p50" else None)


def bench_queue(b):
    """ps, cancel and memory with 10,000 jobs in the queue"""
    count = b.count(10000, 500)
    title = "with %s jobs queued" % number_text(count)
    n = b.count(30, 3)
    with Cluster(b, devices="cpu:1") as c:
        holder = occupy(c)
        c.load("submit", count // 2, 128, "nowait", "/bin/true")
        middle = memory_kb(c.coordinator)  # what the caches of the store take is there by now
        c.load("submit", count - count // 2, 128, "nowait", "/bin/true")
        after = memory_kb(c.coordinator)
        rows = c.load("list", n)
        if rows["listed"]["count"] != count + 1:
            raise RuntimeError("%d jobs are listed" % rows["listed"]["count"])
        b.report.row(title, "list all: the call alone", ms(rows["list"]), "ms")
        for name, goal, args in (
                ("list all: accelctl ps", 15, ["ps"]),
                ("list all: accelctl ps -o json", None, ["ps", "-o", "json"]),
                ("list all: accelctl ps -o name", None, ["ps", "-o", "name"]),
                ("list one: accelctl ps ID", 2, ["ps", str(int(holder) + count // 2)]),
                ("describe one", None, ["describe", str(int(holder) + count // 2)])):
            rows = c.timed(n, *args)
            b.report.row(title, name, ms(rows["command"]), "ms", ms(rows["spawn"]),
                         "ms spawn of /bin/true", goal=("value", "<=", goal) if goal else None)
        rows = c.timed(1, "cancel", "--all", "--yes")
        b.report.row(title, "cancel all: accelctl cancel --all", ms(rows["command"]), "ms",
                     goal=("value", "<=", 100))
        each = (after["Private_Dirty"] - middle["Private_Dirty"]) * 1024 / (count - count // 2)
        b.report.row("memory", "coordinator with %s queued: Rss" % number_text(count),
                     after["Rss"] / 1024, "MiB")
        b.report.row("memory", "  bytes for one more queued job", each, "B",
                     goal=("value", "<=", 300))
    with Cluster(b) as c:
        idle = {name: memory_kb(pid) for name, pid in
                (("coordinator", c.coordinator), ("acceld", c.acceld), ("accel-spawn", c.spawn))}
        for name, kb in idle.items():
            b.report.row("memory", "idle %s: Rss" % name, kb["Rss"] / 1024, "MiB",
                         pss_mib=kb["Pss"] / 1024, private_dirty_mib=kb["Private_Dirty"] / 1024)
            b.report.row("memory", "  of that its own (Private_Dirty)",
                         kb["Private_Dirty"] / 1024, "MiB")


def bench_verbs(b):
    """start of any verb, beside /bin/true"""
    title = "start of a verb"
    n = b.count(300, 20)
    with Cluster(b) as c:
        for args in (["version"], ["help"], ["ps"], ["nodes"]):
            rows = c.timed(n, *args)
            b.report.row(title, "accelctl " + " ".join(args), ms(rows["command"]), "ms",
                         ms(rows["spawn"]), "ms spawn of /bin/true")
    cold = []
    for _ in range(b.count(7, 1)):
        with Cluster(b) as c:
            cold.append(c.cold_ms)
    b.report.row(title, "accelctl nodes that starts both daemons", statistics.median(cold), "ms")


def bench_micro(b):
    """rpc and store alone"""
    for name, row in b.tool("bench_rpc", b.count(50000, 1000)).items():
        b.report.row("rpc_local alone", name + ", p50", row["p50_us"], "us",
                     per_second=row["per_second"], p99_us=row["p99_us"])
        if name != "bare socketpair":
            b.report.row("rpc_local alone", "  calls", row["per_second"], "/s")
    done = subprocess.run([b.tools + "/bench_store", b.dir, str(b.count(1000, 100))], check=True,
                          stdout=subprocess.PIPE, timeout=TIMEOUT_S)
    for line in done.stdout.decode().splitlines():
        row = json.loads(line)
        b.report.row("store alone", "%s, %d a commit: rows" % (row["name"], row["group"]),
                     row["rows_per_s"], "/s", p50_us=row["p50_us"], p99_us=row["p99_us"],
                     bound_p50_us=row["bound_p50_us"])


def bench_gang(b):
    """10,240 ranks on 1,280 nodes: both cores, all messages, no network"""
    rows = b.tool("bench_gang", b.count(1280, 40), 8)
    for kind in ("gang", "gang of JAX"):
        start = rows[kind + ": submit to every rank's environment and RUNNING"]
        title = "%s: %d ranks on %d nodes" % (kind, start["ranks"], start["nodes"])
        b.report.row(title, "submit to every rank's environment", start["ms"], "ms",
                     start["bound_ms"], "ms nodes alone", coordinator_ms=start["coordinator_ms"],
                     rows=start["rows"])
        b.report.row(title, "  messages a node", start["messages_per_node"], "")
        b.report.row(title, "  bytes to a node", start["bytes_per_node"], "B")
        for verb in ("signal", "cancel"):
            out = rows.get("%s: fan-out of a %s" % (kind, verb))
            if out:
                b.report.row(title, "a %s to all nodes" % verb, out["us"], "us", out["bound_us"],
                             "us to read them")
        end = rows[kind + ": cancel to the end on every node"]
        b.report.row(title, "  until the end on every node", end["ms"], "ms",
                     coordinator_ms=end["coordinator_ms"], rows=end["rows"])


def bench_fleet(b):
    """10,000 nodes of 8 GPUs in plain records: the core alone"""
    rows = b.tool("bench_fleet", b.count(10000, 500))
    title = "fleet of %s nodes of 8 GPUs" % number_text(rows["fleet: memory"]["nodes"])
    b.report.row(title, "memory of a node and its session",
                 rows["fleet: memory"]["bytes_per_node"] / 1000, "kB", goal=("value", "<=", 30))
    b.report.row(title, "work of a beat", rows["fleet: beats"]["us_per_beat"], "us")
    b.report.row(title, "a core with all beats", rows["fleet: beats"]["core_percent"], "%",
                 goal=("value", "<=", 100))


BENCHMARKS = {"launch": bench_launch, "start": bench_start, "submit": bench_submit,
              "complete": bench_complete, "restart": bench_restart, "queue": bench_queue,
              "verbs": bench_verbs, "micro": bench_micro, "gang": bench_gang,
              "fleet": bench_fleet}


# ---- main ----


def filesystem_of(path):
    best = ("", "?")
    with open("/proc/self/mounts", encoding="utf-8", errors="replace") as f:
        for line in f:
            words = line.split()
            inside = os.path.realpath(path) + "/"
            if inside.startswith(words[1].rstrip("/") + "/") and len(words[1]) >= len(best[0]):
                best = (words[1], words[2])
    return best[1]


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0],
        epilog="benchmarks: " + "; ".join("%s (%s)" % (k, v.__doc__)
                                          for k, v in BENCHMARKS.items()))
    parser.add_argument("benchmark", nargs="*", metavar="BENCHMARK", help="only these")
    parser.add_argument("--bin", required=True, help="folder of accelctl and the daemons")
    parser.add_argument("--tools", help="folder of bench_load and the others "
                        "(default: ../tests/bench from --bin)")
    parser.add_argument("--dir", help="a folder on a real disk (default: that of the build)")
    parser.add_argument("--json", metavar="FILE", help="one JSON object a line")
    parser.add_argument("--quick", action="store_true", help="small counts: does it work at all")
    args = parser.parse_args()
    for name in args.benchmark:
        if name not in BENCHMARKS:
            parser.error("there is no benchmark %r" % name)
    return args


def describe_machine(b):
    meta = {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "cpus": os.cpu_count(),
            "kernel": os.uname().release, "filesystem": filesystem_of(b.dir),
            "load": os.getloadavg()[0], "uid": os.getuid(), "quick": b.quick}
    b.report.meta(**meta)
    print("== bench: %(cpus)d CPUs, Linux %(kernel)s, %(filesystem)s, load %(load).1f" % meta,
          file=sys.stderr)
    if meta["filesystem"] in ("tmpfs", "ramfs"):
        print("== bench: %s is no disk: syncs cost nothing there (--dir)" % b.dir, file=sys.stderr)
    if meta["load"] > 0.5:
        print("== bench: this machine is busy; figures will be worse than they are, and ratios "
              "rough", file=sys.stderr)


def main():
    args = parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # ends the clusters on its way
    report = Report(args.json)
    b = Bench(args, report)
    failed = 0
    try:
        describe_machine(b)
        for name, function in BENCHMARKS.items():
            if args.benchmark and name not in args.benchmark:
                continue
            print("== bench: " + name + ": " + function.__doc__, file=sys.stderr)
            try:
                function(b)
            except (RuntimeError, subprocess.SubprocessError, OSError, KeyError) as e:
                failed += 1
                print("== bench: %s could not be measured: %s" % (name, e), file=sys.stderr)
        report.meta(load_at_the_end=os.getloadavg()[0])
    finally:
        b.close()
    report.table()
    passed = sum(r.get("pass") is True for r in report.rows)
    missed = sum(r.get("pass") is False for r in report.rows)
    print("%d goals reached, %d missed, %d benchmarks failed" % (passed, missed, failed))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
