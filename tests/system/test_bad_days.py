#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The bad days of a cluster: wrong addresses, a name server that is silent, half-open connections,
clocks that differ, a frozen node, two daemons for one directory, files that cannot be used.

Real daemons over loopback; what has to be broken is broken in namespaces of the test's own. What a
node may claim that is not so is in test_bad_nodes.py.
"""
import contextlib
import os
import re
import resource
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from accel_test import (DEADLINE_S, Mailbox, check, check_equal, is_alive,  # noqa: E402
                        main, read_proc, test)
from accel_site import (Process, Site, dated, free_port, new_csr, site_test,  # noqa: E402
                        until, why_no_grpc)

NO_WAY = "no way to the coordinator yet: "


def cannot_mount():
    done = subprocess.run(["unshare", "-m", "true"], stderr=subprocess.DEVNULL)
    return why_no_grpc() or (
        None if done.returncode == 0 and shutil.which("nsenter") else "cannot mount")


@contextlib.contextmanager
def namespace(c, script):
    """A mount namespace in which `script` has run; gives what a command begins with to enter it."""
    keeper = subprocess.Popen(["unshare", "-m", "sh", "-ec", script + "\necho ready; read x"],
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=c.work)
    try:
        check_equal(keeper.stdout.readline(), b"ready\n", "the namespace")
        yield ["nsenter", "-m", "-t", str(keeper.pid), "--wd=" + c.work]
    finally:
        keeper.kill()
        keeper.wait()
        keeper.stdin.close()
        keeper.stdout.close()


def acceld(site, name, *args, **how):
    return Process(site, name, "acceld", "--state-dir", site.node_state(name), "--devices",
                   "cpu:4", *args, **how)


def has_form(text, *words):
    """An error with what, why and try."""
    for word in words + ("why: ", "try: "):
        check(word in text, "%r is not in: %s", word, text)


def credentials(site, name="root"):
    site.user(name, "--role", "admin")
    return {"ACCEL_CREDENTIALS": os.path.join(site.c.state_home, name + ".pem")}


class SiteWithin(Site):
    """A site whose coordinator is in a namespace."""

    def __init__(self, c, prefix, env=None):
        self.prefix, self.env = prefix, env
        super().__init__(c)

    def start_coordinator(self):
        p = Process(self, "coordinator", "accel-coordinator", "--listen", "unix:" + self.socket,
                    "--listen", "tcp:" + self.address, "--state-dir", self.state,
                    prefix=self.prefix, env=self.env)
        p.expect(" serves ")
        return p.popen


# ---- addresses ----


@site_test("accelctl with a wrong address: an error in time that says what, why and what to try")
def wrong_address(c, site):
    env = credentials(site)
    for address, word in (("127.0.0.1:%d" % free_port(), "refused"),
                          ("no-such-host.invalid:7443", "no-such-host.invalid")):
        result = c.fails(5, "--coordinator", address, "ps", env=env)
        has_form(result.err, address, word)
        items = c.fails(1, "doctor", "-o", "json", "--coordinator", address, env=env).json()
        check(any(i["level"] == "bad" and i["area"] == "coordinator" for i in items["items"]),
              "doctor: %s", items)
    stranger = Listener()
    result = c.fails(5, "--coordinator", stranger.address, "ps", env=env)
    has_form(result.err, stranger.address)
    stranger.close()


class Listener:
    """Somebody else on a port: hangs up on everybody, and counts them."""

    def __init__(self, port=0):
        self.sock = socket.socket()
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.sock.bind(("127.0.0.1", port))
        self.sock.listen(16)
        self.address = "127.0.0.1:%d" % self.sock.getsockname()[1]
        self.count = 0
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self):
        while True:
            try:
                peer, _ = self.sock.accept()
            except OSError:
                return
            with contextlib.suppress(OSError):
                peer.settimeout(DEADLINE_S)
                peer.recv(65536)  # closed with unread words it would be a reset, now and then
            peer.close()
            self.count += 1

    def close(self):
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()
        self.thread.join(DEADLINE_S)


@site_test("acceld without a coordinator: tries on, says so once per change, and picks up")
def tries_on(c, site):
    site.stop(site.acceld("n1", token=site.token()))
    site.coordinator.kill()
    site.coordinator.wait()
    stranger = Listener(site.port)
    p = acceld(site, "n1")
    until(lambda: stranger.count >= 6, "six tries")
    stranger.close()
    p.expect("refused")
    told = [line.split(NO_WAY)[1] for line in p.log().splitlines() if NO_WAY in line]
    check(2 <= len(told) <= 4, "lines for six tries and a change: %s", told)
    check(all(a != b for a, b in zip(told, told[1:])), "nothing is said again: %s", told)
    site.coordinator = site.start_coordinator()
    check_equal(c.ok("launch", "--devices", "cpu", "echo", "here").out, "here\n", "a job")
    check_equal(p.log().count(NO_WAY), len(told), "nothing more is said")


@site_test("a node that joins before its coordinator is there: it is let in when it comes")
def join_nowhere(c, site):
    token = site.token()
    site.coordinator.kill()
    site.coordinator.wait()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(c.path("notify"))
        manager.settimeout(DEADLINE_S)
        p = acceld(site, "n1", "--join", token, env={"NOTIFY_SOCKET": c.path("notify")})
        told = [manager.recv(4096).decode() for _ in range(2)]
    check(told[0].startswith("EXTEND_TIMEOUT_USEC="), "a manager waits for it: %s", told)
    check("STATUS=enrolling at tcp:" + site.address in told[1], "and sees for what: %s", told)
    p.expect("cannot enrol at")
    has_form(p.log(), site.address, "refused")
    site.coordinator = site.start_coordinator()  # before it gives up, which is after some 15 s
    p.expect("welcomed")
    site.stop(p.popen)
    p = acceld(site, "n2", "--join", token)
    check("was used" in p.ends(1), "it is told that a token serves once: %s", p.log())


# ---- names ----

HOSTS = "127.0.0.1 localhost coordinator.test\n::1 coordinator.test\n"


class SilentServer:
    """A name server that is there and never answers."""

    def __init__(self):
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        for last in range(2, 250):  # another test may have the same idea
            self.address = "127.0.53.%d" % last
            with contextlib.suppress(OSError):
                self.sock.bind((self.address, 53))
                break
        self.sock.settimeout(DEADLINE_S)

    def asked(self, name):
        """Until somebody asks for it."""
        wanted = b"".join(bytes([len(p)]) + p.encode() for p in name.split("."))
        while wanted not in self.sock.recv(4096):
            pass


@site_test("a name server that never answers: accelctl gives up, acceld serves meanwhile",
           needs=cannot_mount, needs_root=True)
def slow_names(c, site):
    server = SilentServer()
    c.write("hosts", HOSTS)
    c.write("resolv", "nameserver %s\noptions timeout:60 attempts:1\n" % server.address)
    c.write("node.yaml", "log_level: info\n")
    env = credentials(site)
    with namespace(c, "mount --bind hosts /etc/hosts; mount --bind resolv /etc/resolv.conf") as ns:
        there = "coordinator.test:%d" % site.port
        check_equal(c.ok("--coordinator", there, "nodes", "-o", "json", env=env, prefix=ns).json()[
            "items"], [], "by a name that is known")
        site.stop(site.acceld("n1", token=site.token()))
        p = acceld(site, "n1", "--coordinator", there, "--config", c.path("node.yaml"), prefix=ns)
        gate = c.gate("gate")
        job = c.submit("sh", "-c", "read x < %s; exit 3" % gate.path)
        c.wait(job, running=True)
        c.write("hosts", "127.0.0.1 localhost\n")
        site.coordinator.kill()
        site.coordinator.wait()
        server.asked("coordinator.test")
        c.write("node.yaml", "log_level: debug\n")
        os.kill(p.pid, signal.SIGHUP)
        p.expect("log-level has changed")
        log = p.log()
        check("does not answer" not in log, "acceld waited for the name before it heard:\n%s", log)
        result = c.fails(5, "--coordinator", there, "ps", env=env, prefix=ns)
        has_form(result.err, there)
        gate.open()  # the rank ends while there is no coordinator
        os.kill(p.pid, signal.SIGTERM)
        p.ends(0)
        p = acceld(site, "n1", "--coordinator", there, prefix=ns)
        server.asked("coordinator.test")
        c.write("hosts", HOSTS)
        site.coordinator = site.start_coordinator()
        c.wait(job, 3)
        p.popen.terminate()
        p.ends(0)


class OnceServer(SilentServer):
    """A name server that answers the first question of each kind for a name, and then no more."""

    def __init__(self, name, address):
        super().__init__()
        self.sock.settimeout(None)
        self.question = b"".join(bytes([len(p)]) + p.encode() for p in name.split(".")) + b"\0"
        self.packed = socket.inet_aton(address)
        self.kinds, self.unanswered = set(), 0
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            query, peer = self.sock.recvfrom(4096)
            kind = query[12 + len(self.question):][:2]
            if query[12:][:len(self.question)] != self.question or kind in self.kinds:
                self.unanswered += 1
                continue
            self.kinds.add(kind)
            body = query[12:12 + len(self.question) + 4]  # RFC 1035, 4.1; no answer to AAAA
            answer = b"\xc0\x0c\0\1\0\1\0\0\0\0\0\4" + self.packed if kind == b"\0\1" else b""
            self.sock.sendto(query[:2] + b"\x81\x80\0\1" + (b"\0\1" if answer else b"\0\0") +
                             b"\0\0\0\0" + body + answer, peer)


@site_test("a name server that answers once: acceld serves and hears signals when it is silent",
           needs=cannot_mount, needs_root=True)
def names_once(c, site):
    site.stop(site.acceld("n1", token=site.token()))
    server = OnceServer("coordinator.test", "127.0.0.1")
    c.write("hosts", "127.0.0.1 localhost\n")
    c.write("resolv", "nameserver %s\noptions timeout:60 attempts:1\n" % server.address)
    c.write("nsswitch", "passwd: files\ngroup: files\nhosts: files dns\n")
    told = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    told.bind(c.path("notify"))
    told.settimeout(DEADLINE_S)

    def expect(word):
        while word not in told.recv(4096).split(b"\n"):
            pass
    with namespace(c, "mount --bind hosts /etc/hosts; mount --bind resolv /etc/resolv.conf;"
                   " mount --bind nsswitch /etc/nsswitch.conf") as ns:
        there = "coordinator.test:%d" % site.port
        how = {"prefix": ns, "env": {"NOTIFY_SOCKET": c.path("notify"), "WATCHDOG_USEC": "500000"}}
        p = acceld(site, "n1", "--coordinator", there, **how)
        p.expect("welcomed")
        expect(b"READY=1")
        check("the node's address stays" not in p.log(), "its address: %s", p.log())
        check_equal([n["address"] for n in c.ok("nodes", "-o", "json").json()["items"]],
                    ["127.0.0.1"], "where others dial it")
        site.coordinator.kill()
        site.coordinator.wait()
        until(lambda: server.unanswered > 0, "it asks for the name again")
        for _ in range(3):
            expect(b"WATCHDOG=1")
        p.popen.terminate()
        p.ends(0)
        p = acceld(site, "n1", "--coordinator", there, **how)  # now from the start
        expect(b"READY=1")
        expect(b"WATCHDOG=1")
        p.popen.terminate()
        p.ends(0)
    told.close()


@test("the name service of the coordinator's host hangs: others are served, remote jobs are taken",
      needs=cannot_mount, needs_root=True)
def slow_accounts(c):
    fifo, folder = c.path("nss"), os.path.join(os.environ["ACCEL_TEST_BUILD"], "tests", "lib")
    os.mkfifo(fifo)
    c.write("nsswitch", "passwd: files acceltest\ngroup: files\nhosts: files dns\n")
    with namespace(c, "mount --bind nsswitch /etc/nsswitch.conf") as ns:
        site = SiteWithin(c, ns, {"LD_LIBRARY_PATH": folder, "ACCEL_TEST_NSS": fifo})
        try:
            site.user("slow")
            remote = {"ACCEL_COORDINATOR": site.address, "ACCEL_CREDENTIALS": os.path.join(
                c.state_home, "slow.pem")}
            submit = c.start("submit", "--name", "first", "true", env=remote)
            with open(fifo, "w") as asked:  # somebody asks, and waits from here on
                check_equal(c.jobs("-A"), [], "the coordinator answers meanwhile")
                c.ok("admin", "status")
                check_equal(submit.finish().rc, 0, "it is taken without an answer")
                check("name service" in site.log("coordinator"), "it is told")
                c.ok("submit", "--name", "second", "true", env=remote)
                check_equal([(j["user"], j["uid"]) for j in c.jobs("-A")],
                            [("slow", (1 << 32) - 1)] * 2, "by name, for nodes that know it")
                asked.write("\n")
            c.ok("ps", env=remote)
            until(lambda: c.ok("submit", "true", env=remote) and 4242 in [
                j["uid"] for j in c.jobs("-A")], "what it says in the end is used")
            submit = c.start("submit", "true", env=remote)
            check_equal(submit.finish().rc, 0, "from memory: nobody opens the FIFO")
        finally:
            site.close()
            site.stop(site.coordinator)


# ---- connections ----


def half_open(site, count):
    """Connections that say nothing, or the beginning of a greeting."""
    hello = ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    tls = context.wrap_bio(ssl.MemoryBIO(), hello)
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    greeting = hello.read()
    found = []
    for i in range(count):
        s = socket.create_connection(("127.0.0.1", site.port), DEADLINE_S)
        s.sendall((b"", greeting[:30], greeting, b"GET / HTTP/1.1\r\n")[i % 4])
        found.append(s)
    return found


def drained(s):
    """Until the other side has hung up."""
    with contextlib.suppress(ConnectionResetError):
        while s.recv(65536):
            pass
    s.close()


@site_test("200 half-open connections: others are served meanwhile, and they are closed in time",
           "--keepalive", "6s")
def half_handshakes(c, site):
    site.acceld("n1", token=site.token())
    env = {**credentials(site), "ACCEL_COORDINATOR": site.address}
    c.ok("ps", env=env)
    fds = "/proc/%d/fd" % site.coordinator.pid
    before = len(os.listdir(fds))
    held = half_open(site, 200)
    check_equal(c.ok("launch", "echo", "here", env=env).out, "here\n", "a job meanwhile")
    for s in held:
        drained(s)
    until(lambda: len(os.listdir(fds)) <= before + 8, "its descriptors are closed")
    c.ok("ps", env=env)


def state_of(c, name):
    return {n["name"]: n["state"] for n in c.ok("nodes", "-o", "json").json()["items"]}[name]


@site_test("a frozen acceld: noticed by its silence, its work goes on, and it comes back",
           "--keepalive", "2s")
def frozen(c, site):
    p = site.acceld("n1", token=site.token())
    gates, box = [c.gate("gate%d" % i) for i in range(2)], Mailbox(c.path("box"))
    job = c.submit("sh", "-c", "read x < %s; echo on; echo on > %s; read x < %s; exit 4" % (
        gates[0].path, box.path, gates[1].path))
    c.wait(job, running=True)
    pid = c.ranks(job)[0]["pid"]
    os.kill(p.pid, signal.SIGSTOP)
    try:
        until(lambda: state_of(c, "n1") == "SUSPECT", "the silence is noticed")
        check_equal(c.describe(job)["state"], "RUNNING", "the job of a silent node")
        gates[0].open()
        check_equal(box.line(), "on", "the rank goes on")
    finally:
        os.kill(p.pid, signal.SIGCONT)
    until(lambda: state_of(c, "n1") == "READY", "it is back")
    check_equal((c.ranks(job)[0]["pid"], c.describe(job)["attempt"]), (pid, 1), "the same rank")
    gates[1].open()
    c.wait(job, 4)
    check_equal(c.ok("logs", job).out, "on\n", "output")


@site_test("a frozen coordinator: noticed as soon as acceld's --keepalive says, and it comes back")
def frozen_coordinator(c, site):
    for name in ("quick", "slow"):
        site.stop(site.acceld(name, token=site.token()))
    quick = acceld(site, "quick", "--keepalive", "2s")
    slow = acceld(site, "slow", "--keepalive", "1h")
    for p in (quick, slow):
        p.expect("welcomed")
    site.coordinator.send_signal(signal.SIGSTOP)
    try:
        quick.expect("the session with the coordinator ended")
        check("session with the coordinator ended" not in slow.log(), "it waits: %s", slow.log())
    finally:
        site.coordinator.send_signal(signal.SIGCONT)
    until(lambda: quick.log().count("welcomed") > 1, "it is back")
    check("too_many_pings" not in quick.log(), "the coordinator bears it: %s", quick.log())
    for text, words in (("0s", "keepalive"), ("2h", "keepalive"), ("soon", "keepalive")):
        log = acceld(site, "quick2", "--keepalive", text).ends(2)
        check(words in log, "%s: %s", text, log)


# ---- clocks ----


DATES = (("20400101000000Z", "20410101000000Z", "not valid yet", "begins 2040-01-01"),
         ("20200101000000Z", "20200201000000Z", "not valid any more", "ended 2020-02-01"))


@site_test("a node whose certificate is of another time: both sides say which clock says what")
def node_of_another_time(c, site):
    site.stop(site.acceld("n1", token=site.token()))
    path = os.path.join(site.node_state("n1"), "tls", "node.pem")
    with open(path) as f:
        good = f.read()
    csr = new_csr(site.node_identity("n1").key, "n1", site.folder)
    for start, end, words, clock in DATES:
        with open(path, "w") as f:
            f.write(dated(c, site, csr, "subjectAltName=URI:accel://node/n1\n", start, end))
        before = len(site.log("coordinator"))
        p = acceld(site, "n1", "--log-level", "debug")
        p.expect(words)
        has_form(p.log(), "this machine's clock says", clock)
        until(lambda: "a handshake failed: the caller's certificate" in
              site.log("coordinator")[before:], "the coordinator says why")
        check("not valid yet; this machine's clock says 2" in site.log("coordinator")[before:],
              "which clock: %s", site.log("coordinator")[before:])
        if words == "not valid any more":  # people have to do something: it is asked less often
            p.expect("the coordinator refuses this node")
            until(lambda: re.search(r"refused; the next try is in [234]\d{3} ms", p.log()), "when")
            has_form(p.log(), "has expired")
        with open(path, "w") as f:
            f.write(good)  # as if the clock had been set: acceld reads it again for each try
        c.ok("launch", "true")
        p.popen.terminate()
        p.ends(0)


class OtherTime:
    """A coordinator whose certificate is of our CA, and not valid by our clock."""

    def __init__(self, site, cert):
        self.site, self.sock = site, socket.socket()
        self.sock.bind(("127.0.0.1", 0))
        self.sock.listen(16)
        self.address = "127.0.0.1:%d" % self.sock.getsockname()[1]
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        path = os.path.join(site.folder, "other.pem")
        with open(path, "w") as f:
            f.write(cert)
        context.load_cert_chain(path, os.path.join(site.state, "tls", "server.key"))
        context.set_alpn_protocols(["h2"])
        self.context = context
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            try:
                peer, _ = self.sock.accept()
            except OSError:
                return
            with contextlib.suppress(OSError), peer:
                self.context.wrap_socket(peer, server_side=True).recv(1)

    def close(self):
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()


@site_test("a coordinator of another time: accelctl and acceld name the dates and their own clock")
def coordinator_of_another_time(c, site):
    env = credentials(site)
    site.stop(site.acceld("n1", token=site.token()))
    with open(os.path.join(site.state, "tls", "server.key")) as f:
        csr = new_csr(f.read(), "accel-coordinator", site.folder)
    for start, end, _, _ in DATES:
        other = OtherTime(site, dated(c, site, csr, "subjectAltName=DNS:accel-coordinator,URI:"
                                      "accel://coordinator/accel-coordinator\n", start, end))
        result = c.fails(5, "--coordinator", other.address, "ps", env=env)
        has_form(result.err, other.address, "clock")
        p = acceld(site, "n1", "--coordinator", other.address)
        p.expect(NO_WAY)
        check("clock" in p.log(), "which clock: %s", p.log())
        p.popen.terminate()
        p.ends(0)
        other.close()


# ---- two of one ----


@site_test("a second acceld on a state directory: it says who holds it, and touches nothing")
def two_accelds(c, site):
    token = site.token()
    first = site.acceld("n1", token=site.token())
    state = site.node_state("n1")

    def look():
        found = {}
        for top, _, names in os.walk(state):
            for name in names:
                if name != "sock":
                    with open(os.path.join(top, name), "rb") as f:
                        found[os.path.join(top, name)] = f.read()
        return found
    gate = c.gate("gate")
    job = c.submit("sh", "-c", "read x < %s; exit 6" % gate.path)
    c.wait(job, running=True)
    before = look()
    text = acceld(site, "n1", "--join", token).ends(1)
    check("pid %d" % first.pid in text and state in text and "another acceld" in text, "%s", text)
    check_equal(look(), before, "the directory")
    check(is_alive(first.pid), "the first lives")
    site.acceld("n2", token=token)  # the token was not used up
    gate.open()
    c.wait(job, 6)


@site_test("a node that joins again while it is connected: refused, told how, the first serves on")
def joined_twice(c, site):
    first, token = site.acceld("n1", token=site.token()), site.token()
    log = acceld(site, "again", "--join", token, "--node-name", "n1").ends(1)
    check("a node n1 is connected" in log and "try: " in log and "node remove n1" in log, "%s", log)
    check_equal(c.ok("launch", "echo", "here").out, "here\n", "a job")
    check_equal([n["name"] for n in c.ok("nodes", "-o", "json").json()["items"]], ["n1"], "nodes")
    check(is_alive(first.pid), "the first lives")
    site.acceld("n2", token=token)  # the token was not used up


# ---- files ----


@site_test("a token that cannot be read: named, exit 1 or 2, nothing made", needs_root=True)
def unreadable_token(c, site):
    for name, make in (("missing", lambda p: None), ("folder", os.mkdir),
                       ("empty", lambda p: open(p, "w").close()),
                       ("huge", lambda p: open(p, "w").write("accel-" + "A" * 200000))):
        path = c.path(name)
        make(path)
        p = acceld(site, "n-" + name, "--join", "@" + path)
        rc = p.popen.wait(DEADLINE_S)
        check(rc in (1, 2), "exit code %d: %s", rc, p.log())
        check("token" in p.log(), "%s: %s", name, p.log())
        check("runtime error" not in p.log(), "%s", p.log())
    check_equal(c.ok("nodes", "-o", "json").json()["items"], [], "nodes")


@site_test("a key or a certificate that is no use: which, where and why")
def odd_tls_files(c, site):
    site.stop(site.acceld("n1", token=site.token()))
    folder = os.path.join(site.node_state("n1"), "tls")
    for name in ("node.key", "node.pem", "ca.pem"):
        path = os.path.join(folder, name)
        with open(path) as f:
            good = f.read()
        for text in ("", good[:len(good) // 2], None):
            os.unlink(path) if text is None else open(path, "w").write(text)
            p = acceld(site, "n1")
            until(lambda: path in p.log() or folder in p.log(), "it names the file: %s" % p.log())
            if p.popen.poll() is None:
                p.popen.terminate()
            p.popen.wait(DEADLINE_S)
            with open(path, "w") as f:
                f.write(good)
    path = os.path.join(folder, "node.key")
    os.chmod(path, 0o640)
    p = acceld(site, "n1")
    p.expect("can be read by others")
    has_form(p.log(), path, NO_WAY)
    os.chmod(path, 0o600)
    p.expect("welcomed")
    p.popen.terminate()
    p.ends(0)


def coordinator(site, **how):
    return Process(site, "coordinator", "accel-coordinator", "--listen", "unix:" + site.socket,
                   "--listen", "tcp:" + site.address, "--state-dir", site.state, **how)


@site_test("the coordinator's tls directory: open to others, or without the CA's key")
def odd_ca(c, site):
    site.stop(site.coordinator)
    tls = os.path.join(site.state, "tls")
    for path, mode, text in ((tls, 0o770, "can be written by others"),
                             (tls + "/ca.key", 0o644, "can be read by others")):
        before = os.stat(path).st_mode & 0o7777
        os.chmod(path, mode)
        log = coordinator(site).ends(1)
        check(path in log and text in log and "try: " in log, "%s", log)
        os.chmod(path, before)
    os.chmod(tls + "/server.key", 0o644)  # made anew: nobody else has it
    p = coordinator(site)
    p.expect(" serves ")
    check_equal(os.stat(tls + "/server.key").st_mode & 0o777, 0o600, "mode of a new key")
    p.popen.terminate()
    p.ends(0)
    os.unlink(tls + "/ca.key")
    has_form(coordinator(site).ends(1), "ca.key is missing")


@site_test("a renewed certificate that cannot be written: told, tried again, and work goes on",
           "--certificate-life", "18s", needs=cannot_mount, needs_root=True)
def unwritable_renewal(c, site):
    site.stop(site.acceld("n1", token=site.token()))
    tls = os.path.join(site.node_state("n1"), "tls")
    with namespace(c, "mount --bind %s %s; mount -o remount,bind,ro %s" % (tls, tls, tls)) as ns:
        p = acceld(site, "n1", prefix=ns)
        p.expect("certificate is not renewed")
        check(tls in p.log() and "ead-only" in p.log(), "what and why: %s", p.log())
        check_equal(c.ok("launch", "echo", "here").out, "here\n", "a job")
        subprocess.run(ns + ["mount", "-o", "remount,bind,rw", tls], check=True)
        p.expect("this node's certificate is renewed")
        p.popen.terminate()
        p.ends(0)


@test("the coordinator's disk is full while a node enrols: refused, and the token is good later",
      needs=cannot_mount, needs_root=True)
def full_disk(c):
    state = os.path.join(c.state_home, "coordinator")
    os.mkdir(state, 0o700)
    with namespace(c, "mount -t tmpfs -o size=3m,mode=700 none %s" % state) as ns:
        site = SiteWithin(c, ns)
        try:
            inside = "/proc/%s/root%s" % (ns[3], state)
            token = site.token()
            with open(inside + "/ballast", "wb", buffering=0) as f, contextlib.suppress(OSError):
                while True:
                    f.write(b"x" * 4096)
            while not c.status()["store_error"]:  # some fit into what the database has already
                late = c.start("submit", "true")
                until(lambda: late.popen.poll() is not None or c.status()["store_error"],
                      "it is done or waits")
            p = acceld(site, "n1", "--join", token)
            p.expect("cannot enrol at")
            check("disk is full" in p.log(), "why: %s", p.log())
            check(not os.path.exists(os.path.join(site.node_state("n1"), "tls", "coordinator")),
                  "it does not count as enrolled")
            os.unlink(inside + "/ballast")
            until(lambda: not c.status()["store_error"], "the coordinator can write again")
            p.expect("welcomed")
            check_equal(c.ok("launch", "echo", "here").out, "here\n", "a job")
            check_equal(late.finish().rc, 0, "what waited")
        finally:
            site.close()
            site.stop(site.coordinator)


# ---- descriptors ----


@site_test("files: daemons take what they may have, and jobs get what their user had")
def files(c, site):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 500), hard))
    try:
        site.stop(site.coordinator)
        site.coordinator = site.start_coordinator()
        p = site.acceld("n1", token=site.token())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    for pid in (site.coordinator.pid, p.pid):
        line = re.search(rb"Max open files +(\d+) +(\d+)", read_proc(pid, "limits"))
        check_equal(int(line[1]), int(line[2]), "soft limit of %s" % read_proc(pid, "comm"))
    out = c.ok("launch", "sh", "-c", "ulimit -Sn").out
    check(int(out) in (soft, 500), "of a job: %s", out)


@site_test("no descriptor is left to accept with: the coordinator ends and says why, work goes on")
def no_files_left(c, site):
    site.stop(site.coordinator)
    p = coordinator(site, prefix=["prlimit", "--nofile=60:60"])
    p.expect(" serves ")
    site.acceld("n1", token=site.token())
    gate = c.gate("gate")
    job = c.submit("sh", "-c", "read x < %s; exit 3" % gate.path)
    c.wait(job, running=True)
    held = [socket.create_connection(("127.0.0.1", site.port)) for _ in range(100)]
    log = p.ends(1)
    check("Too many open files" in log and "try: " in log, "why: %s", log)
    for s in held:
        s.close()
    site.coordinator = site.start_coordinator()
    gate.open()
    c.wait(job, 3)


if __name__ == "__main__":
    main()
