#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Peers that send garbage, lie or do not read: only they are the worse for it.

Speaks rpc_local and the shim's protocol by itself (proto/accel/v1): a Frame or message behind its
length.  After each test the same daemons run a job, and their logs tell of no damage.
"""
import contextlib
import os
import random
import resource
import socket
import stat
import struct
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from accel_test import (DEADLINE_S, check, check_equal, diagnostics, is_alive,  # noqa: E402
                        is_sanitized, main, peak_memory_kb, read_proc, test)

OPEN, MESSAGE, HALF_CLOSE, END, CANCEL = 1, 2, 3, 4, 5
FULL, INVALID, DENIED, UNKNOWN_METHOD = 8, 3, 7, 12  # codes of gRPC
FRAME_CAP = 64 << 20
NOBODY = 65534
SEED = int(os.environ.get("ACCEL_TEST_SEED", "1"))

# ---- protobuf, as much as is needed ----


def varint(n):
    n &= (1 << 64) - 1
    out = bytearray()
    while n > 0x7f:
        out.append(n & 0x7f | 0x80)
        n >>= 7
    return bytes(out) + bytes([n])


def message(*fields):
    """Of (number, value): an int is a varint, text and bytes are bytes."""
    out = []
    for number, value in fields:
        if isinstance(value, int):
            out += [varint(number << 3), varint(value)]
        else:
            data = value.encode() if isinstance(value, str) else value
            out += [varint(number << 3 | 2), varint(len(data)), data]
    return b"".join(out)


def get_varint(data, at):
    value = shift = 0
    while True:
        value |= (data[at] & 0x7f) << shift
        shift, at = shift + 7, at + 1
        if data[at - 1] < 0x80:
            return value, at


def decode(data):
    """number -> list of values, of a message with varints and bytes only."""
    at, found = 0, {}
    while at < len(data):
        tag, at = get_varint(data, at)
        value, at = get_varint(data, at)
        if tag & 7 == 2:
            value, at = data[at:at + value], at + value
        found.setdefault(tag >> 3, []).append(value)
    return found


def framed(data):
    return struct.pack("<I", len(data)) + data


def frame(kind, call, method=None, body=None):
    fields = [(1, kind), (2, call)] + ([(3, "/accel.v1." + method)] if method else [])
    return framed(message(*fields, *([(4, 1), (5, body)] if body is not None else [])))


class Gone(Exception):
    """The other side has closed the connection."""


class Peer:
    def __init__(self, path, fd=None):
        self.sock = socket.socket(socket.AF_UNIX) if fd is None else socket.socket(fileno=fd)
        self.rest = b""
        self.calls = 0
        if fd is None:
            self.sock.connect(path)  # without a timeout it waits while the backlog is full
        self.sock.settimeout(DEADLINE_S)

    def send(self, data):
        try:
            self.sock.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            raise Gone from None

    def next_message(self):
        while len(self.rest) < 4 or len(self.rest) < 4 + struct.unpack("<I", self.rest[:4])[0]:
            try:
                data = self.sock.recv(1 << 20)
            except ConnectionResetError:
                data = b""
            if not data:
                raise Gone
            self.rest += data
        size = struct.unpack("<I", self.rest[:4])[0]
        got, self.rest = self.rest[4:4 + size], self.rest[4 + size:]
        return decode(got)

    def open(self, method, body=b""):
        self.calls += 1
        self.send(frame(OPEN, self.calls, method, body))
        return self.calls

    def until_end(self, call):
        """(code, text, last body, bodies before it)"""
        bodies = []
        while True:
            got = self.next_message()
            if got[2] != [call]:
                continue
            if got[1] == [END]:
                return (got.get(6, [0])[0], got.get(7, [b""])[0].decode("utf-8", "replace"),
                        got.get(5, [b""])[0], bodies)
            bodies.append(got.get(5, [b""])[0])

    def call(self, method, body=b""):
        return self.until_end(self.open(method, body))

    def must_be_closed(self, what):
        """The other side ends the connection without being asked to."""
        try:
            while True:
                self.next_message()
        except Gone:
            pass
        except TimeoutError:
            check(False, "%s: the connection is still open", what)
        self.sock.close()

    def drop(self):
        self.sock.close()


def coordinator_peer(c):
    return Peer(os.path.join(c.runtime, "accel", "coordinator.sock"))


def peer_as(c, uid):
    """A connection that another user made: the child makes it, we use it."""
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
            sock = socket.socket(socket.AF_UNIX)
            error = sock.connect_ex(os.path.join(c.runtime, "accel", "coordinator.sock"))
            socket.send_fds(theirs, [b"%d" % error], [sock.fileno()])
        os._exit(0)
    theirs.close()
    text, fds, _, _ = socket.recv_fds(ours, 16, 1)
    os.waitpid(pid, 0)
    ours.close()
    check(text, "the child could not become uid %d", uid)
    if int(text):
        os.close(fds[0])
        return None, int(text)
    return Peer(None, fds[0]), 0


class Watched:
    """The daemons before and after; a job in the end."""

    def __init__(self, c):
        self.c = c
        c.ok("launch", "true")
        self.pids = [c.coordinator(), c.acceld(), c.spawn()]

    def check(self):
        peer = coordinator_peer(self.c)
        code, text, _, _ = peer.call("Admin.Status".replace(".", "/"))
        check_equal(code, 0, "status: %s" % text)
        peer.drop()
        check_equal(self.c.ok("launch", "echo", "well").out, "well\n", "a launch after it")
        check_equal([self.c.coordinator(), self.c.acceld(), self.c.spawn()], self.pids,
                    "the daemons")


def submit_body(*argv, extra=()):
    spec = message((1, "g"), *((2, a) for a in argv), (3, "PATH=/usr/bin:/bin"), (4, "/"), *extra)
    return message((1, os.urandom(16)), (2, spec))


# ---- bytes ----


@test("random bytes, with and without a sound length before them")
def random_bytes(c):
    watched, rnd = Watched(c), random.Random(SEED)
    for i in range(300):
        data = rnd.randbytes(rnd.choice((0, 1, 3, 4, 5, 17, 300, 70000)))
        peer = coordinator_peer(c)
        with contextlib.suppress(Gone):
            peer.send(framed(data) if i % 2 else data)
        peer.sock.shutdown(socket.SHUT_WR)
        peer.must_be_closed("random bytes %d" % i)
    watched.check()


REQUESTS = [
    ("Jobs/Submit", lambda: submit_body("/bin/true")), ("Jobs/List", lambda: message((1, 1))),
    ("Jobs/Get", lambda: message((1, 1))), ("Jobs/Watch", lambda: message((1, 1), (2, 1))),
    ("Jobs/Cancel", lambda: message((1, os.urandom(16)), (2, 1))),
    ("Jobs/Signal", lambda: message((1, 1), (2, 15))),
    ("Jobs/Input", lambda: message((1, 1), (2, 0), (3, b"data"))),
    ("Logs/Read", lambda: message((1, 1), (3, message((1, 0), (2, 1), (3, 5), (4, 6))))),
    ("Nodes/List", lambda: message((1, "no such"))),
    ("Events/Watch", lambda: message((1, 0), (4, 1), (5, 7))), ("Admin/Status", lambda: b""),
    ("Agent/Session", lambda: message((5, message()))),
]


@test("sound requests in which bytes are changed, left out or put in")
def mutated(c):
    watched, rnd = Watched(c), random.Random(SEED)
    for i in range(600):
        method, body = rnd.choice(REQUESTS)
        data = bytearray(frame(OPEN, 1, method, body())[4:])
        for _ in range(rnd.randrange(1, 4)):
            at = rnd.randrange(len(data))
            what = rnd.randrange(3)
            data[at:at + (what != 1)] = rnd.randbytes(what > 0)
        peer = coordinator_peer(c)
        with contextlib.suppress(Gone):
            peer.send(framed(bytes(data)))
        peer.sock.shutdown(socket.SHUT_WR)
        peer.must_be_closed("request %d, %r" % (i, bytes(data)))
    watched.check()


@test("values that no client sends: empty, huge, not UTF-8, numbers at their ends")
def odd_values(c):
    watched, top = Watched(c), (1 << 64) - 1
    peer = coordinator_peer(c)
    bad = b"\xff\xfe\x00\x80"
    for method, body in (
            ("Jobs/Submit", b""), ("Jobs/Submit", message((1, b"short"))),
            ("Jobs/Submit", submit_body()), ("Jobs/Submit", submit_body("")),
            ("Jobs/Submit", submit_body("relative")), ("Jobs/Submit", submit_body(b"/bin/\0x")),
            ("Jobs/Submit", submit_body("/bin/true", extra=[(1, bad)])),
            ("Jobs/Submit", submit_body("/bin/true", extra=[(1, "../../x")])),
            ("Jobs/Submit", submit_body("/bin/true", extra=[(4, "relative")])),
            ("Jobs/Submit", submit_body("/bin/true", extra=[(3, "no equals sign")])),
            ("Jobs/Submit", submit_body("/bin/true", extra=[(7, (1 << 32) - 1)])),
            ("Jobs/Submit", submit_body("/bin/true", extra=[(8, (1 << 32) - 1)])),
            ("Jobs/Submit", submit_body("/bin/true", extra=[(9, 77)])),
            ("Jobs/Submit", submit_body("/bin/true", extra=[(10, (1 << 32) - 1), (9, 2)])),
            ("Jobs/Submit", submit_body("/bin/true", extra=[(11, (1 << 32) - 1)])),
            ("Jobs/Submit", submit_body("/bin/true", "x" * 131072)),
            ("Jobs/Submit", submit_body("/bin/true", extra=[(14, "relative %j")])),
            ("Jobs/Get", message((1, top))), ("Jobs/Get", b""),
            ("Jobs/Signal", message((1, 1), (2, 9999))),
            ("Jobs/Signal", message((1, top), (2, -1))),
            ("Jobs/Input", message((1, 1), (2, top), (3, b"x" * 70000))),
            ("Jobs/Input", message((1, top))),
            ("Logs/Read", message((1, top)))):
        code, text, _, _ = peer.call(method, body)
        check(code != 0 and text, "%s with %r is taken", method, body[:80])
    for method, body in (  # answered, in whatever way
            ("Jobs/Submit", submit_body("/bin/true", extra=[(12, top), (13, top), (17, top)])),
            ("Jobs/Submit", submit_body("/bin/true", extra=[(5, 0xffffffff)])),
            ("Jobs/Submit", submit_body("/bin/true", extra=[(14, "/nowhere/%Z%")])),
            ("Jobs/Submit", submit_body(
                "/bin/true", extra=[(6, message((1, 99), (2, top), (3, 0)))] * 100)),
            ("Jobs/List", message((5, top), (6, (1 << 32) - 1))),
            ("Jobs/List", message(*((4, i) for i in range(200000)))),
            ("Jobs/Cancel", message((1, os.urandom(16)), *((2, i) for i in range(9, 100000)))),
            ("Nodes/List", message(*((1, bad) for _ in range(1000)))),
            ("Events/Watch", message((1, top), (2, top), (3, bad), (5, (1 << 32) - 1))),
            ("Logs/Read", message((1, 1), (2, 77))),
            ("Logs/Read", message((1, 1), (4, (1 << 32) - 1), (6, (1 << 32) - 1))),
            ("Logs/Read", message((1, 1), *(((3, message((1, i), (2, 9), (3, top), (4, top))))
                                            for i in range(5000))))):
        peer.call(method, body)
    peer.drop()
    for job in c.jobs("-a"):
        c.run("wait", str(job["id"]))
    watched.check()


@test("half frames, lengths that are too large, and calls that break the rules")
def broken_frames(c):
    watched = Watched(c)
    pid = c.coordinator()
    before = peak_memory_kb(pid)
    whole = frame(OPEN, 1, "Admin/Status", b"")
    for size in range(len(whole)):
        peer = coordinator_peer(c)
        peer.send(whole[:size])
        peer.sock.shutdown(socket.SHUT_WR)
        peer.must_be_closed("%d bytes of a frame" % size)
    for size in (FRAME_CAP + 1, 0x7fffffff, 0xffffffff):
        peer = coordinator_peer(c)
        peer.send(struct.pack("<I", size) + b"some")
        peer.must_be_closed("a length of %d" % size)
    for sent in (
            framed(b""),  # no kind
            frame(99, 1, "Admin/Status", b""), frame(END, 1), frame(MESSAGE, 1, None, b"\xff"),
            frame(OPEN, 1, "Events/Watch", message((4, 1))) * 2,  # one number twice
            frame(OPEN, 1, "Events/Watch", message((4, 1))) + frame(MESSAGE, 1, None, b"")):
        peer = coordinator_peer(c)
        peer.send(sent)
        if sent[4:6] == message((1, MESSAGE))[:2]:  # of a call that is over: passed over
            check_equal(peer.call("Admin/Status")[0], 0, "a call after it")
            peer.drop()
        else:
            peer.must_be_closed("%r" % sent[:60])
    waiting = [coordinator_peer(c) for _ in range(200)]
    for peer in waiting:  # what is announced costs nothing
        peer.send(struct.pack("<I", FRAME_CAP) + b"x" * 100)
    peer = coordinator_peer(c)
    check_equal(peer.call("Admin/Status")[0], 0, "a call beside them")
    grown = peak_memory_kb(pid) - before
    check(grown < 65536 or is_sanitized(c.bin + "/accel-coordinator"), "it took %d KiB", grown)
    check_equal(peer.call("Nothing/AtAll")[0], UNKNOWN_METHOD, "an unknown method")
    code, text, _, _ = peer.call("x" * 1000000)
    check(code == UNKNOWN_METHOD and len(text) < 1000, "a long name: %d bytes back", len(text))
    check_equal(peer.call("Admin/Status", b"x" * 100000)[0], FULL, "a request above its limit")
    check_equal(peer.call("Admin/Status", b"\xff\xff")[0], INVALID, "a request that is none")
    for call in (7777, 0):
        peer.send(frame(CANCEL, call))
    for _ in range(1024):
        last = peer.open("Events/Watch", message((4, 1)))
    check_equal(peer.until_end(peer.open("Admin/Status"))[0], FULL, "one call too many")
    peer.send(frame(CANCEL, last))
    check_equal(peer.call("Admin/Status")[0], 0, "when one has ended")
    for other in waiting + [peer]:
        other.drop()
    watched.check()


# ---- sessions ----


def node(name, devices=(), incarnation=1):
    return message((1, name), (5, "9"), (10, incarnation),
                   *((8, message((1, d), (2, 1))) for d in devices))


def hello(name, devices=(), era=0, epoch=0, attempts=(), incarnation=1):
    refs = [(5, message((1, message((1, job), (2, number), (3, job_era))), (2, "RUNNING")))
            for job, number, job_era in attempts]
    return message((1, message((1, node(name, devices, incarnation)), (2, name), (3, era),
                               (4, epoch), *refs)))


def session(c, first=None):
    peer = coordinator_peer(c)
    peer.session = 1
    peer.calls = 1
    peer.send(frame(OPEN, 1, "Agent/Session", first))
    return peer


def up(peer, body):
    peer.send(frame(MESSAGE, peer.session, None, body))


def welcomed(peer):
    got = decode(peer.next_message()[5][0])
    check(1 in got, "no welcome but %r", got)
    return decode(got[1][0])


def refused(peer, what):
    code, text, _, _ = peer.until_end(peer.session)
    check(code != 0 and text, "%s is taken", what)
    peer.drop()


REPORT = message((2, message((1, 1), (4, message((1, message((1, 1), (2, 1), (3, 1))))))))


@test("sessions without a Hello, with two, with names and devices that cannot be")
def odd_sessions(c):
    watched = Watched(c)
    for first in (REPORT, message((5, message())), message((3, message((1, 1)))), message()):
        refused(session(c, first), "a session that begins with %r" % first)
    for name in ("", "../x", "a b", "x" * 65, "x" * 1000000, b"\xff\xff", "a\nb"):
        refused(session(c, hello(name)), "the node name %r" % name[:40])
    for devices in (["cpu:0", "cpu:0"], [""], ["a,b"], ["a\nb"], ["x" * 129],
                    ["cpu:%d" % i for i in range(100000)]):
        refused(session(c, hello("liar", devices)), "%d devices" % len(devices))
        peer = session(c, hello("liar", ["cpu:0"]))
        welcomed(peer)
        up(peer, message((5, message(*((1, message((1, d), (2, 1))) for d in devices)))))
        refused(peer, "a beat with %d devices" % len(devices))
    peer = session(c, hello("liar"))
    welcomed(peer)
    up(peer, hello("liar"))
    refused(peer, "a second Hello")
    first = session(c, hello("liar"))
    welcomed(first)
    second = session(c, hello("liar", incarnation=2))
    welcomed(second)
    refused(first, "a session that was replaced")
    refused(session(c, hello("liar", incarnation=1)), "a lower incarnation beside a higher one")
    second.drop()
    c.counts_starts = False  # the liars are nodes too
    watched.check()


@test("reports, answers and attempts of jobs that do not exist")
def odd_reports(c):
    watched, top = Watched(c), (1 << 64) - 1
    status = c.status()
    gate = c.gate("gate")
    job = c.submit("sh", "-c", "read x < %s" % gate.path)
    c.wait(job, running=True)
    peer = session(c, hello("liar", attempts=[(n, n % 7, n % 3) for n in range(2000)]))
    era = welcomed(peer)[1][0]
    check_equal(era, status["era"], "era")
    stops = 0
    while stops < 2000:  # each is fenced: there is no such attempt on that node
        stops += 3 in decode(peer.next_message()[5][0])
    seq = 0
    for ref in ((0, 0, 0), (int(job), 1, era), (int(job), 2, era), (top, (1 << 32) - 1, top)):
        ref = message((1, ref[0]), (2, ref[1]), (3, ref[2]))
        ranks = [(6, message((1, r), (4, 1), (6, 1), (7, -5), (12, b"x" * 9000)))
                 for r in (0, 1, 5000, (1 << 32) - 1)]
        for field, body in ((3, message((1, ref), *((2, r[1]) for r in ranks))),
                            (4, message((1, ref), (2, 99), (3, b"\xff" * 5000), (4, 77), (5, top),
                                        *ranks)), (4, b""), (3, b""), (9, b"new")):
            seq += 1
            up(peer, message((2, message((1, seq), (2, top), (field, body)))))
            ack = decode(peer.next_message()[5][0])
            check_equal(decode(ack[8][0])[1][0], seq, "acknowledged")
    for body in (message((3, message((1, top), (2, message((1, 1))), (3, 77)))), message((3, b"")),
                 message((4, message((1, 1)))), message((4, b"")), message((99, b"new"))):
        up(peer, body)
    check_equal(peer.call("Admin/Status")[0], 0, "a call beside the session")
    peer.drop()
    check_equal(c.describe(job)["state"], "RUNNING", "the job that was spoken of")
    gate.open()
    c.wait(job, 0)
    c.counts_starts = False
    watched.check()


@test("a session that takes the node's name: the node comes back when the liar is gone")
def stolen_name(c):
    watched = Watched(c)
    name = c.ok("nodes", "-o", "json").json()["items"][0]["name"]
    machine = ""
    for incarnation in (1, (1 << 63) - 1):
        peer = coordinator_peer(c)
        peer.session = peer.calls = 1
        body = message((1, message((1, node(name, ["cpu:0"], incarnation)), (2, machine))))
        peer.send(frame(OPEN, 1, "Agent/Session", body))
        with contextlib.suppress(Gone):
            peer.next_message()  # welcomed or refused
        peer.drop()
        watched.check()
    c.counts_starts = False


@test("a session that has obeyed an era to come: a new era begins, and work goes on")
def wrong_era(c):
    watched = Watched(c)
    for era, epoch in ((1, 1 << 63), ((1 << 63) - 1, 1), (1 << 63, 0), ((1 << 64) - 1, 5),
                       ((1 << 64) - 1, (1 << 64) - 1)):
        before = c.status()["era"]
        peer = session(c, hello("liar", era=era, epoch=epoch))
        try:
            got = peer.next_message()
        except Gone:
            got = {}
        peer.drop()
        watched.check()
        after = c.status()["era"]
        check(after >= before, "the era went back from %d to %d (%s)", before, after, got)
    check_equal(c.ok("admin", "check").rc, 0, "admin check")
    c.counts_starts = False
    c.kill_coordinator()
    check_equal(c.ok("launch", "echo", "again").out, "again\n", "after a new start")


# ---- many ----


def allow_files(wanted):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))
    return max(soft, most) - 100


@test("5,000 connections, dropped one by one and all at once")
def many_connections(c):
    watched = Watched(c)
    pid = c.coordinator()
    gate = c.gate("gate")
    launch = c.start("launch", "sh", "-c", "echo up; read x < %s; echo down" % gate.path)
    launch.expect("up")
    for i in range(5000):
        peer = coordinator_peer(c)
        if i % 3 == 0:
            peer.send(frame(OPEN, 1, "Events/Watch", message((4, 1))))
        peer.drop()
    files = len(os.listdir("/proc/%d/fd" % pid))
    held = []
    for _ in range(min(5000, allow_files(6000))):
        try:
            held.append(coordinator_peer(c))
        except (BlockingIOError, ConnectionRefusedError):
            break
    diagnostics("%d connections at once" % len(held))
    check(is_alive(pid), "the coordinator is gone")
    for peer in held:
        peer.drop()
    gate.open()
    check_equal(launch.finish().rc, 0, "a launch that was there before")
    watched.check()
    check(len(os.listdir("/proc/%d/fd" % pid)) <= files, "descriptors are left open")


@test("calls that are cancelled, or whose connection goes, at any time")
def cancelled_calls(c):
    watched, rnd = Watched(c), random.Random(SEED)
    gate = c.gate("gate")
    job = int(c.submit("sh", "-c", "echo x; read x < %s" % gate.path))
    c.wait(str(job), running=True)
    kinds = [("Jobs/Watch", message((1, job))), ("Events/Watch", message((4, 1))),
             ("Logs/Read", message((1, job), (5, 1), (3, message((3, 2))))),
             ("Logs/Read", message((1, job), (2, 2), (5, 1))), ("Jobs/List", message((1, 1))),
             ("Jobs/Get", message((1, job))), ("Nodes/List", b""), ("Admin/Check", b"")]
    peers = [coordinator_peer(c) for _ in range(20)]
    for peer in peers:
        peer.open_calls = []
    submitted = 0
    for _ in range(3000):
        at = rnd.randrange(len(peers))
        peer, dice = peers[at], rnd.random()
        if dice < 0.5:
            peer.open_calls.append(peer.open(*rnd.choice(kinds)))
        elif dice < 0.55 and submitted < 60:
            submitted += 1
            peer.open_calls.append(peer.open("Jobs/Submit", submit_body("/bin/true")))
        elif dice < 0.95 and peer.open_calls:
            peer.send(frame(CANCEL, peer.open_calls.pop(rnd.randrange(len(peer.open_calls)))))
        elif dice > 0.99:
            peer.drop()
            peers[at] = coordinator_peer(c)
            peers[at].open_calls = []
        if dice > 0.8:
            peers[at].sock.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                peers[at].sock.recv(1 << 20)
            peers[at].sock.settimeout(DEADLINE_S)
    for peer in peers:
        peer.drop()
    gate.open()
    c.wait(str(job), 0)
    for done in c.jobs("-a"):
        c.wait(str(done["id"]), 0)
    check(len(c.jobs("-a")) <= submitted + 2, "jobs come from nowhere")
    watched.check()


@test("clients that never read: they cost a bounded amount of memory, and hold up nobody")
def deaf_clients(c):
    watched = Watched(c)
    pid, sanitized = c.coordinator(), is_sanitized(c.bin + "/accel-coordinator")
    deaf = [coordinator_peer(c) for _ in range(8)]
    for i, peer in enumerate(deaf):
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peer.open("Events/Watch", message((4, 1)))
        for _ in range(50 if i == 0 else 0):
            peer.open("Jobs/List", message((1, 1)))
    before = peak_memory_kb(pid)
    count = 200 if sanitized else 2000
    worker = coordinator_peer(c)
    for _ in range(count // 100):
        calls = [worker.open("Jobs/Submit", submit_body("/bin/true")) for _ in range(100)]
        for call in calls:
            code, text, body, _ = worker.until_end(call)
            check_equal(code, 0, "submit: %s" % text)
        last = decode(body)[1][0]
    code, text, _, _ = worker.call("Jobs/Watch", message((1, last)))
    check_equal(code, 0, "the last job: %s" % text)
    grown = peak_memory_kb(pid) - before
    diagnostics("%d jobs, %d KiB more" % (count, grown))
    check(sanitized or grown < 100000, "it took %d KiB", grown)
    for job in c.jobs():
        c.wait(str(job["id"]), 0)
    for peer in deaf:
        peer.drop()
    watched.check()


# ---- the shim ----


@test("the shim's socket: garbage, silence, orders without a claim, claims that are too low")
def shim_garbage(c):
    watched, rnd = Watched(c), random.Random(SEED)
    gate = c.gate("gate")
    job = c.submit("sh", "-c", "read x < %s; echo end" % gate.path)
    c.wait(job, running=True)
    path = c.state("node", "attempts", job + ".1", "sock")
    shim = c.shim(job)
    check_equal(stat.S_IMODE(os.stat(path).st_mode) & 0o077, 0, "mode of the shim's socket")
    own, stop = message((1, message((1, 0)))), message((2, message((1, 0), (2, 1))))
    for data in [framed(own), framed(stop), framed(message((3, message((1, 9), (2, -1))))),
                 framed(message((4, message((1, 1), (3, b"x"))))), struct.pack("<I", 1 << 31),
                 framed(b"\xff" * 9)] + [rnd.randbytes(200) for _ in range(50)]:
        peer = Peer(path)
        with contextlib.suppress(Gone):
            peer.send(data)
        with contextlib.suppress(OSError):
            peer.sock.shutdown(socket.SHUT_WR)
        peer.must_be_closed("%r to the shim" % data[:40])
    silent = [Peer(path) for _ in range(20)]
    check_equal(c.describe(job)["state"], "RUNNING", "the job")
    check_equal(c.shim(job), shim, "the shim")
    gate.open()
    c.wait(job, 0)
    check_equal(c.ok("logs", job).out, "end\n", "its output")
    for peer in silent:
        peer.drop()
    watched.check()


@test("somebody who owns the shim with the highest claim of all cannot keep a job from its end")
def shim_stolen(c):
    watched = Watched(c)
    gate = c.gate("gate")
    jobs = [c.submit("sh", "-c", "read x < %s" % gate.path) for _ in range(2)]
    for job in jobs:
        c.wait(job, running=True)
    thieves = []
    for job in jobs:
        thief = Peer(c.state("node", "attempts", job + ".1", "sock"))
        thief.send(framed(message((1, message((1, (1 << 64) - 1))))))
        check(1 in thief.next_message(), "the shim says hello to the thief")
        thieves.append(thief)
    c.ok("cancel", "--kill", jobs[0])
    c.wait(jobs[0], 130)
    c.ok("cancel", "--kill", jobs[1])
    c.wait(jobs[1], 130)
    for thief in thieves:
        thief.drop()
    c.check_no_workers()
    watched.check()


# ---- who may ----


def socket_inodes(pid):
    found = {}
    for name in os.listdir("/proc/%d/fd" % pid):
        with contextlib.suppress(OSError):
            target = os.readlink("/proc/%d/fd/%s" % (pid, name))
            if target.startswith("socket:["):
                found[name] = target[8:-1]
    return found


@test("accel-spawn's socket has no name, and no worker inherits one of the daemons'")
def spawn_socket(c):
    watched = Watched(c)
    inodes = socket_inodes(c.spawn())
    check(inodes, "accel-spawn has no socket")
    with open("/proc/net/unix") as f:
        lines = {line.split()[6]: line.split() for line in f.readlines()[1:]}
    for fd, inode in inodes.items():
        check(inode in lines, "descriptor %s of accel-spawn is no unix socket", fd)
        check(len(lines[inode]) == 7, "accel-spawn's socket has a name: %s", lines[inode])
        check(lines[inode][3] != "00010000", "accel-spawn listens: %s", lines[inode])
    out = c.ok("launch", "sh", "-c", "exec ls -l /proc/self/fd").out
    names = [line.split(" -> ") for line in out.splitlines() if " -> " in line]
    kinds = {left.split()[-1]: right for left, right in names}
    check("socket:" not in out, "a worker has a socket: %s", out)
    check_equal([n for n in kinds if int(n) > 2 and "/proc/" not in kinds[n]], [], "descriptors")
    for top, folders, files in os.walk(c.runtime):
        for name in folders + files:
            mode = os.lstat(os.path.join(top, name)).st_mode
            check_equal(mode & 0o077, 0, "mode of %s" % os.path.join(top, name))
    watched.check()


@test("another user connects to nothing, even where the way there is open", needs_root=True)
def other_user(c):
    watched = Watched(c)
    job = c.submit("sh", "-c", "read x < %s" % c.gate("gate").path)
    c.wait(job, running=True)
    os.chmod(c.dir, 0o755)
    for path in (os.path.join(c.runtime, "accel", "coordinator.sock"),
                 c.state("node", "attempts", job + ".1", "sock")):
        for folder in (None, os.path.dirname(path)):
            while folder and folder.startswith(c.dir):
                os.chmod(folder, 0o755)
                folder = os.path.dirname(folder)
            code = ("import socket, sys; s = socket.socket(socket.AF_UNIX); "
                    "sys.exit(s.connect_ex(sys.argv[1]))")
            done = c.run("version", prefix=["setpriv", "--reuid", str(NOBODY), "--regid",
                                            str(NOBODY), "--clear-groups", sys.executable, "-c",
                                            code, path])
            check_equal(done.rc, 13, "connect to %s as nobody (EACCES is wanted)" % path)
    c.ok("cancel", "--kill", job)
    watched.check()


@test("a user whom the socket's mode lets in is a user only", needs_root=True)
def mere_user(c):
    watched = Watched(c)
    gate = c.gate("gate")
    job = int(c.submit("sh", "-c", "echo secret; read x < %s" % gate.path))
    c.wait(str(job), running=True)
    for path in (c.dir, c.runtime, os.path.join(c.runtime, "accel")):
        os.chmod(path, 0o755)
    os.chmod(os.path.join(c.runtime, "accel", "coordinator.sock"), 0o666)
    peer, error = peer_as(c, NOBODY)
    check(peer, "nobody cannot connect: %s", error)
    for method, body in (("Admin/Shutdown", b""), ("Admin/Check", b""),
                         ("Admin/Snapshot", message((1, c.path("snapshot")))),
                         ("Agent/Session", hello("liar"))):
        check_equal(peer.call(method, body)[0], DENIED, method)
    for method, body in (("Jobs/Signal", message((1, job), (2, 9))),
                         ("Jobs/Input", message((1, job), (3, b"x"))),
                         ("Logs/Read", message((1, job))),
                         ("Events/Watch", message((2, job), (4, 1)))):
        code, text, _, _ = peer.call(method, body)
        check(code != 0, "%s of another's job: %s", method, text)
    peer.call("Jobs/Cancel", message((1, os.urandom(16)), (2, job), (5, 1)))
    peer.call("Jobs/Cancel", message((1, os.urandom(16)), (3, 1), (5, 1)))
    check_equal(c.describe(job)["state"], "RUNNING", "root's job")
    code, text, body, _ = peer.call("Jobs/Submit", submit_body("/bin/sh", "-c", "id -u"))
    if code == 0:
        own = decode(body)[1][0]
        c.run("wait", str(own))
        out = c.run("logs", str(own)).out
        check(out in ("", "%d\n" % NOBODY), "a job of nobody ran as %r", out)
        diagnostics("a job of nobody: %r, %s" % (out, c.describe(own)["reason"]))
    else:
        diagnostics("a job of nobody: %s" % text)
    rnd = random.Random(SEED)
    with contextlib.suppress(Gone):
        for _ in range(20):
            peer.send(framed(rnd.randbytes(100)))
    peer.must_be_closed("garbage of nobody")
    gate.open()
    c.wait(str(job), 0)
    watched.check()


@test("the daemons of a user who is not root take the same", needs_root=True, uid=NOBODY - 1)
def unprivileged(c):
    random_bytes_of = Watched(c)
    rnd = random.Random(SEED)
    for i in range(100):
        peer = coordinator_peer(c)
        with contextlib.suppress(Gone):
            peer.send((framed if i % 2 else bytes)(rnd.randbytes(rnd.randrange(400))))
        peer.sock.shutdown(socket.SHUT_WR)
        peer.must_be_closed("random bytes")
    check_equal(read_proc(c.spawn(), "status").split(b"Uid:\t")[1].split()[0],
                b"%d" % c.uid, "accel-spawn's user")
    random_bytes_of.check()


if __name__ == "__main__":
    main()
