#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Every verb but launch: what it prints, in which forms, and that the JSON keeps its fields."""
import datetime
import json
import os
import re
import signal
import sqlite3
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from accel_test import ROOT, Skip, check, check_equal, main, test  # noqa: E402

TEXT, NUMBER, FLAG, LIST, OBJECT, NONE = str, int, bool, list, dict, type(None)
TIME = "time"  # RFC 3339, UTC, milliseconds
JOB = {
    "id": NUMBER, "name": TEXT, "user": TEXT, "uid": NUMBER, "state": TEXT, "result": (TEXT, NONE),
    "reason": TEXT, "exit_code": (NUMBER, NONE), "attempt": NUMBER, "max_restarts": NUMBER,
    "restarts": NUMBER, "nodes": NUMBER, "procs": NUMBER, "device_kind": TEXT,
    "gpus_per_node": NUMBER, "cpus_per_proc": (NUMBER, NONE), "memory_bytes": (NUMBER, NONE),
    "time_limit_ms": (NUMBER, NONE),
    "submitted": TIME, "started": (TIME, NONE), "ended": (TIME, NONE), "where": LIST,
    "command": TEXT, "cwd": (TEXT, NONE), "output": (TEXT, NONE),
}
JOB_DETAIL = dict(JOB, apiVersion=TEXT, argv=LIST, attempts=LIST)
ATTEMPT = {
    "number": NUMBER, "cause": (TEXT, NONE), "text": TEXT, "started": TIME,
    "running": (TIME, NONE), "ended": (TIME, NONE), "isolation": LIST,
    "first_failed_rank": (NUMBER, NONE),
    "master_addr": (TEXT, NONE), "master_port": (NUMBER, NONE), "ranks": LIST,
}
RANK = {
    "rank": NUMBER, "local_rank": NUMBER, "pid": (NUMBER, NONE), "node": TEXT, "state": TEXT,
    "exit_code": (NUMBER, NONE), "signal": (NUMBER, NONE), "started": (TIME, NONE),
    "ended": (TIME, NONE), "devices": LIST, "stdout": TEXT, "stderr": TEXT, "stderr_tail": TEXT,
    "error": (TEXT, NONE),
}
NODE = {
    "name": TEXT, "state": TEXT, "reason": TEXT, "since": TIME, "address": TEXT, "version": TEXT,
    "incarnation": NUMBER, "isolation": TEXT, "cpus": NUMBER, "memory_bytes": NUMBER,
    "limits": LIST, "slice": (OBJECT, NONE), "devices": LIST,
}
DEVICE = {
    "id": TEXT, "kind": TEXT, "model": (TEXT, NONE), "index": NUMBER,
    "memory_bytes": (NUMBER, NONE), "vendor": (TEXT, NONE), "bus": (TEXT, NONE),
    "numa_node": (NUMBER, NONE), "parent": (TEXT, NONE), "links": LIST, "paths": LIST,
    "fault": (TEXT, NONE),
    "is_broken": FLAG, "job_id": (NUMBER, NONE), "attempt": (NUMBER, NONE),
}
EVENT = {
    "seq": NUMBER, "time": TIME, "kind": TEXT, "job_id": (NUMBER, NONE),
    "attempt": (NUMBER, NONE), "node": (TEXT, NONE), "text": TEXT,
}
STATUS = {
    "apiVersion": TEXT, "version": TEXT, "pid": NUMBER, "started": TIME, "era": NUMBER,
    "epoch": NUMBER, "nodes_ready": NUMBER, "nodes_known": NUMBER, "jobs_live": NUMBER,
    "row_writes": NUMBER, "commits": NUMBER, "store": TEXT, "store_error": (TEXT, NONE),
    "idle_exit": FLAG, "refused_handshakes": NUMBER, "refused_certificates": NUMBER,
    "refused_tokens": NUMBER, "refused_rights": NUMBER, "refused_sessions": NUMBER,
    "refused_reports": NUMBER,
}


def fits(value, kind):
    if isinstance(kind, tuple):
        return any(fits(value, k) for k in kind)
    if kind == TIME:
        return isinstance(value, str) and bool(
            re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", value))
    return type(value) is kind


def check_schema(found, schema, what):
    """Every field of the schema and no other: a new one is documented here and in docs/CLI.md."""
    check_equal(sorted(found), sorted(schema), "fields of " + what)
    for name, kind in schema.items():
        check(fits(found[name], kind), "%s.%s is %r", what, name, found[name])


def check_items(found, schema, what, count=None):
    check_equal(sorted(found), ["apiVersion", "items"], "fields of the list of " + what)
    check_equal(found["apiVersion"], "accel/v1", "apiVersion")
    check(count is None or len(found["items"]) == count, "%d items: %s", len(found["items"]), found)
    for item in found["items"]:
        check_schema(item, schema, what)
    return found["items"]


@test("ps -o json and --json: fields and values of jobs that run, wait and ended")
def ps_json(c):
    gate = c.gate("gate")
    c.fails(3, "launch", "--name", "bad", "sh", "-c", "exit 3")
    running = c.submit("--procs", "16", "--time", "1h", "--mem", "64M", "--max-restarts", "2",
                       "--output", "o.%j", "sh", "-c", "read x < %s" % gate.path)
    c.wait(running, running=True)
    pending = c.submit("--cpus-per-task", "1", "true")
    items = check_items(c.ok("ps", "-a", "-o", "json").json(), JOB, "job", 3)
    bad, run, wait = items
    check_equal((bad["state"], bad["result"], bad["exit_code"]), ("ENDED", "failed", 3), "ended")
    check_equal((run["state"], run["result"], run["exit_code"]), ("RUNNING", None, None), "running")
    check_equal((run["procs"], run["time_limit_ms"], run["memory_bytes"], run["max_restarts"]),
                (16, 3600000, 64 << 20, 2), "what was asked")
    check_equal((run["cpus_per_proc"], wait["cpus_per_proc"]), (None, 1), "CPUs")
    check_equal(c.describe(running)["output"], c.path("o.%j"), "output")
    check_equal([(j["cwd"], j["output"]) for j in items],
                [(None, None), (c.work, c.path("o.%j")), (c.work, None)], "directories, outputs")
    check_equal((wait["state"], wait["started"], wait["where"]), ("PENDING", None, []), "pending")
    check_equal([j["id"] for j in c.jobs()], [int(running), int(pending)], "without -a")
    few = c.ok("ps", "-a", "--json", "id,state").json()["items"]
    check_equal(few[0], {"id": 1, "state": "ENDED"}, "--json id,state")
    result = c.fails(2, "ps", "-a", "--json", "id,stat")
    check("try: --json state" in result.err, "a suggestion: %s", result)
    for verb in ("ps", "nodes", "events"):  # with nothing to show too
        none = c.run(verb, "--json", "nosuch", "--coordinator", "unix:" + c.path("nobody.sock"))
        check(none.rc == 2 and "why: the fields are " in none.err, "%s: %s", verb, none)
    gate.open(16)
    c.wait(running, 0)
    c.wait(pending, 0)


@test("ps: tables, names, YAML, filters by id, state, user and time")
def ps_forms(c):
    c.ok("launch", "--name", "fine", "true")
    c.fails(1, "launch", "--name", "bad", "false")
    table = c.ok("ps", "-a").out.splitlines()
    check(re.match(r"ID +NAME +STATE", table[0]), "head of the table: %r", table)
    check_equal([line.split()[:3] for line in table[1:]],
                [["1", "fine", "SUCCEEDED"], ["2", "bad", "FAILED"]], "rows")
    check("\033" not in "".join(table), "no colour without a terminal: %r", table)
    check("\033[" in c.ok("ps", "-a", "--color", "always").out, "colour when asked for")
    check("COMMAND" in c.ok("list", "-a", "-o", "wide").out, "wide")
    check_equal(c.ok("ls", "-a", "-o", "name").out, "1\n2\n", "names")
    yaml = c.ok("ps", "-a", "-o", "yaml").out
    check(yaml.startswith("apiVersion: accel/v1\n") and "name: fine" in yaml, "YAML: %s", yaml)
    for arguments, wanted in ((["2"], "2\n"), (["-s", "succeeded"], "1\n"),
                              (["-s", "ENDED"], "1\n2\n"), (["-s", "pending"], ""),
                              (["--since", "-1h"], "1\n2\n"), (["--since=2001-02-03"], "1\n2\n"),
                              (["--since", "2100-01-01"], ""), (["-a", "-u", "nobody-else"], ""),
                              ([], "")):
        check_equal(c.ok("ps", "-o", "name", *arguments).out, wanted, "ps %s" % arguments)
    check("no jobs" in c.ok("ps").err, "it says that there is none")


@test("describe -o json: fields of the job, its attempts and its ranks, while it runs and after")
def describe_json(c):
    gate = c.gate("gate")
    job = c.submit("--procs", "2", "--max-restarts", "1", "sh", "-c",
                   "echo last words >&2; read x < %s; exit $ACCEL_ATTEMPT" % gate.path)
    c.wait(job, running=True)
    running = c.describe(job)
    check_schema(running, JOB_DETAIL, "job")
    check_equal(running["argv"][:2], ["/usr/bin/sh", "-c"], "argv")
    check_equal(running["cwd"], c.work, "cwd")
    check_schema(running["attempts"][0], ATTEMPT, "attempt")
    for number, rank in enumerate(running["attempts"][0]["ranks"]):
        check_schema(rank, RANK, "rank")
        check_equal((rank["rank"], rank["state"], rank["ended"]), (number, "RUNNING", None), "rank")
        os.kill(rank["pid"], 0)
        check(os.path.isdir(os.path.dirname(rank["stdout"])), "stdout: %r", rank["stdout"])
    gate.open(4)
    c.wait(job, 2)
    ended = c.describe(job)
    check_schema(ended, JOB_DETAIL, "job")
    check_equal([a["number"] for a in ended["attempts"]], [1, 2], "attempts")
    for attempt in ended["attempts"]:
        check_schema(attempt, ATTEMPT, "attempt")
        check_equal(attempt["cause"], "worker_failed", "cause")
        rank = attempt["ranks"][attempt["first_failed_rank"]]
        check_schema(rank, RANK, "rank")
        check_equal(rank["exit_code"], attempt["number"], "exit code")
        check_equal(rank["stderr_tail"], "last words\n", "last lines")
    page = c.ok("describe", job).out
    for word in (job, "attempt 1", "attempt 2", "worker_failed", "exit code 2", "cpu:0"):
        check(word in page, "%r is on the page: %s", word, page)
    result = c.fails(1, "describe", "99")
    check("99" in result.err, "the error names the job: %s", result)


@test("nodes -o json: fields of nodes and devices, and who uses them")
def nodes_json(c):
    gate = c.gate("gate")
    job = c.submit("--procs", "3", "sh", "-c", "read x < %s" % gate.path)
    c.wait(job, running=True)
    node, = check_items(c.ok("nodes", "-o", "json").json(), NODE, "node", 1)
    check_equal(node["state"], "READY", "state")
    check(len(node["devices"]) >= 16, "CPU slots: %d", len(node["devices"]))
    for device in node["devices"]:
        check_schema(device, DEVICE, "device")
    check_equal(sum(d["job_id"] == int(job) for d in node["devices"]), 3, "slots in use")
    table = c.ok("nodes").out
    check("%d/%d" % (len(node["devices"]) - 3, len(node["devices"])) in table, "table: %s", table)
    check_equal(c.ok("nodes", "-o", "name").out, node["name"] + "\n", "name")
    c.ok("nodes", node["name"])
    check(c.run("nodes", "nowhere").rc == 1, "an unknown node is an error")
    gate.open(3)
    c.wait(job, 0)


@test("events: fields, order, of one job, last N, -w follows")
def events(c):
    watch = c.start("events", "-w", "-o", "json")
    c.ok("launch", "true")
    c.fails(1, "launch", "false")
    seen = []
    while not any(e["job_id"] == 2 and "end" in e["kind"] for e in seen):
        seen.append(json.loads(watch.expect(r"^\{.*").group(0)))
        check_schema(seen[-1], EVENT, "event")
    watch.signal(signal.SIGINT)
    watch.finish()
    items = check_items(c.ok("events", "-o", "json").json(), EVENT, "event")
    check_equal([e["seq"] for e in items], sorted(e["seq"] for e in items), "order")
    check_equal([e for e in items if e["seq"] <= seen[-1]["seq"]], seen, "-w shows all of them")
    of_two = c.ok("events", "2", "-o", "json").json()["items"]
    check_equal(of_two, [e for e in items if e["job_id"] == 2], "events of job 2")
    last = c.ok("events", "-n", "2", "-o", "json").json()["items"]
    check_equal(last, items[-2:], "the last two")
    check_equal(c.ok("events", "--since", "2100-01-01", "-o", "json").json()["items"], [], "later")
    check("KIND" in c.ok("events").out, "table")
    check_equal(c.ok("events", "-o", "name").out.split(), [str(e["seq"]) for e in items], "numbers")


@test("logs: both streams, ranks, attempts, the last lines, and -f to the end")
def logs(c):
    gate = c.gate("gate")
    script = ("echo one $RANK; echo err $RANK >&2; read x < %s; echo two $RANK; "
              "exit $((RANK == 0 ? 2 - ACCEL_ATTEMPT : 0))" % gate.path)
    job = c.submit("--procs", "2", "--max-restarts", "1", "sh", "-c", script)
    follow = c.start("logs", "-f", job)
    follow.expect(r"one 0")
    gate.open(4)
    result = follow.finish()
    check_equal(result.rc, 0, str(result))
    check_equal(sorted(l for l in result.out.splitlines() if l.startswith("[0]")),
                sorted(["[0] one 0", "[0] two 0"] * 2), "rank 0 in both attempts")
    c.wait(job, 0)
    last = c.ok("logs", job)
    check_equal(sorted(last.out.splitlines()),
                ["[0] one 0", "[0] two 0", "[1] one 1", "[1] two 1"], "stdout of the last attempt")
    check_equal(sorted(last.err.splitlines()), ["[0] err 0", "[1] err 1"], "stderr")
    check_equal(c.ok("logs", job, "--rank", "1", "--stdout").out, "one 1\ntwo 1\n", "rank 1")
    check_equal(c.ok("logs", job, "--rank", "1", "-n", "1", "--stdout").out, "two 1\n", "-n 1")
    only = c.ok("logs", job, "--stderr", "--rank", "0")
    check_equal((only.out, only.err), ("", "err 0\n"), "--stderr")
    first = c.ok("logs", job, "--attempt", "1", "--rank", "0", "--stdout").out
    check(first.startswith("one 0\n"), "attempt 1: %r", first)
    check("attempt" in c.fails(1, "logs", job, "--attempt", "3").err, "no third attempt")
    check("has no rank 2" in c.fails(1, "logs", job, "--rank", "0,2").err, "no third rank")
    check("99" in c.fails(1, "logs", "99").err, "no such job")


@test("logs -f of a job that waits begins with its output")
def logs_of_pending(c):
    gate = c.gate("gate")
    blocker = c.submit("--procs", "16", "sh", "-c", "read x < %s" % gate.path)
    c.wait(blocker, running=True)
    job = c.submit("echo", "late")
    follow = c.start("logs", "-f", job)
    check_equal(c.ok("logs", job).out, "", "nothing yet")
    gate.open(16)
    check_equal(follow.finish().out, "late\n", "output")
    c.wait(blocker, 0)


@test("wait: several jobs, the first bad one's code, --for=running, --timeout")
def wait(c):
    gate = c.gate("gate")
    good, bad, worse = c.submit("true"), c.submit("sh", "-c", "exit 4"), c.submit(
        "sh", "-c", "exit 5")
    result = c.fails(4, "wait", good, bad, worse)
    check("exit code 4" in result.err or "code 4" in result.err, "told: %s", result)
    c.fails(5, "wait", worse, bad)
    c.ok("wait", good)
    held = c.submit("sh", "-c", "read x < %s" % gate.path)
    c.ok("wait", "--for=running", held)
    c.fails(124, "wait", "--timeout", "200ms", held)
    waiting = c.start("wait", held)
    gate.open()
    check_equal(waiting.finish().rc, 0, "exit code")
    check_equal(c.run("submit", "--wait", "sh", "-c", "exit 6").rc, 6, "submit --wait")
    c.fails(1, "wait", "99")


@test("cancel: one, many, pending only, --kill, of jobs that ended or never were")
def cancel(c):
    gate = c.gate("gate")
    polite = c.submit("sh", "-c", "trap 'echo bye; exit 0' TERM; echo up; while :; do "
                      "read x < %s; done" % gate.path)
    stubborn = c.submit("--procs", "15", "sh", "-c",
                        "trap '' TERM; echo up; while :; do read x < %s; done" % gate.path)
    pending = c.submit("true")
    for job in (polite, stubborn):
        c.start("logs", "-f", job).expect("up")
    c.ok("cancel", "--all", "--pending")
    c.wait(pending, 130)
    check_equal(c.describe(pending)["attempts"], [], "attempts of a job that never ran")
    c.ok("cancel", polite)
    c.wait(polite, 130)
    check_equal(c.ok("logs", polite).out, "up\nbye\n", "it had its time to say goodbye")
    c.ok("cancel", "--kill", stubborn)
    c.wait(stubborn, 130)
    check_equal([(j["result"], j["exit_code"]) for j in c.jobs("-a")], [("cancelled", 130)] * 3,
                "results")
    check("has ended" in c.fails(1, "cancel", polite).err, "it has ended")
    check("99" in c.fails(1, "cancel", "99").err, "the unknown one is named")


@test("--grace: SIGKILL after it for those that ignore SIGTERM")
def grace(c):
    job = c.submit("--grace", "300ms", "sh", "-c",
                   "trap '' TERM; echo up; while :; do sleep 1000; done")
    c.start("logs", "-f", job).expect("up")
    c.ok("cancel", job)
    c.wait(job, 130, timeout=20)
    check_equal(c.ranks(job)[0]["signal"], signal.SIGKILL, "signal")


@test("version and help: forms, every verb has a page, man pages come from the same table")
def version_and_help(c):
    version = c.ok("version", "-o", "json").json()
    check_equal(sorted(version), ["accelctl", "apiVersion", "coordinator"], "fields of version")
    check_equal(version["coordinator"], None, "coordinator")
    check_equal(c.ok("--version").out, "accelctl %s\n" % version["accelctl"], "--version")
    overview = c.ok("help").out
    for verb in ("launch", "submit", "ps", "describe", "logs", "wait", "cancel", "nodes", "events",
                 "version", "help", "admin"):
        check(verb in overview, "%s in the overview", verb)
        page = c.ok("help", verb).out
        check_equal(page, c.ok(verb, "--help").out, "help of " + verb)
        check(page.index("accelctl " + verb) < page.index("-"), "examples lead: %s", page[:300])
        man = c.ok("help", "--man", verb).out
        for option in re.findall(r"--[a-z][a-z-]+", page):
            check(option in man.replace("\\-", "-"), "%s is in the man page of %s", option, verb)
    check("130" in c.ok("help", "exit-codes").out, "exit codes")
    check("ACCEL_" in c.ok("help", "environment").out, "environment")
    c.fails(2, "help", "lunch")
    c.ok("ps")
    check_equal(c.ok("version", "-o", "json").json()["coordinator"], version["accelctl"], "version")


@test("admin status, snapshot, backup and check")
def admin(c):
    c.ok("launch", "--name", "kept", "true")
    check_schema(c.status(), STATUS, "status")
    check("epoch" in c.ok("admin", "status").out, "table")
    for verb in ("snapshot", "backup"):
        c.ok("admin", verb, verb + ".db")
        db = sqlite3.connect(c.path(verb + ".db"))
        check_equal(db.execute("pragma integrity_check").fetchone()[0], "ok", "integrity")
        check_equal(db.execute("select count(*) from jobs").fetchone()[0], 1, "rows of jobs")
        tables = {row[0] for row in db.execute("select name from sqlite_master where type='table'")}
        db.close()
        check(tables >= {"jobs", "attempts", "workers", "nodes", "requests", "events"},
              "tables: %s", tables)
        result = c.run("admin", verb, verb + ".db")
        check(result.rc != 0 and verb + ".db" in result.err, "never over a file: %s", result)
        check_equal(os.stat(c.path(verb + ".db")).st_mode & 0o077, 0, "mode of the copy")
    check("sound" in c.ok("admin", "check").out, "check")
    c.fails(2, "admin", "chekc")
    c.fails(2, "admin")


@test("a planned shutdown: work goes on, and all is there when the coordinator is back")
def shutdown(c):
    gate = c.gate("gate")
    job = c.submit("sh", "-c", "echo before; read x < %s; echo after" % gate.path)
    c.wait(job, running=True)
    pid = c.ranks(job)[0]["pid"]
    c.ok("admin", "shutdown")
    gate.open()
    c.coordinator_starts += 1
    c.wait(job, 0)
    check_equal(c.ok("logs", job).out, "before\nafter\n", "output")
    check_equal([r["pid"] for r in c.ranks(job)], [pid], "pid")


@test("a reader that goes away ends the command quietly, as SIGPIPE would")
def broken_pipe(c):
    c.ok("launch", "true")
    long = c.submit("sh", "-c", "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done")
    c.wait(long, 0)
    script = '"$0" logs %s | head -n 1; echo ${PIPESTATUS[0]}' % long
    result = c.run("version", prefix=["bash", "-c", script, os.path.join(c.bin, "accelctl")])
    check_equal((result.out, result.err), ("line 0\n141\n", ""), "head")


@test("submit tells the id also where it cannot be written to stdout")
def submit_to_full_disk(c):
    script = '"$0" submit true > /dev/full'
    result = c.run("version", prefix=["bash", "-c", script, os.path.join(c.bin, "accelctl")])
    check_equal(result.rc, 1, str(result))
    check("job 1 goes on" in result.err, "the id: %s", result)
    c.wait("1", 0)


@test("docs/CLI.md names every field of the JSON")
def documented(c):
    path = os.path.join(ROOT, "docs", "CLI.md")
    c.counts_starts = False
    if not os.path.exists(path):
        raise Skip("docs/CLI.md is not there")
    with open(path, encoding="utf-8") as f:
        text = f.read()
    for schema in (JOB_DETAIL, ATTEMPT, RANK, NODE, DEVICE, EVENT, STATUS):
        missing = [name for name in schema if not re.search(r"\b%s\b" % name, text)]
        check(not missing, "not in docs/CLI.md: %s", missing)


@test("times are UTC and of now")
def times(c):
    before = datetime.datetime.now(datetime.timezone.utc)
    c.ok("launch", "true")
    after = datetime.datetime.now(datetime.timezone.utc)
    job = c.describe(1)
    times_of = [job["submitted"], job["started"], job["attempts"][0]["running"],
                job["attempts"][0]["ended"], job["ended"]]
    parsed = [datetime.datetime.fromisoformat(t.replace("Z", "+00:00")) for t in times_of]
    check_equal(parsed, sorted(parsed), "order of times")
    margin = datetime.timedelta(milliseconds=1)
    check(before - margin <= parsed[0] and parsed[-1] <= after + margin, "%s", times_of)
    check(job["submitted"] in c.ok("describe", "--utc", "1").out, "--utc")


if __name__ == "__main__":
    main()
