# SPDX-License-Identifier: Apache-2.0
"""A cluster of several machines on one host, and a client of the wire that is not ours.

A Site is a coordinator that listens on loopback, with certificates; node daemons join it with
tokens, or a test plays a node.  The client is Debian's python3-grpcio with stubs that protoc
generates from proto/, so what it says is up to the test.  Needs python3-grpcio and
protobuf-compiler-grpc; why_no_grpc() says what is missing.
"""
import atexit
import base64
import os
import queue
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid

from accel_test import (DEADLINE_S, PYTHON, ROOT, Failure, check, check_equal, open_programs,
                        test, wait_pid_gone)

NAMES = ("job", "node", "event", "admin", "agent", "trust")
_stubs = None


def why_no_grpc():
    for program in ("protoc", "grpc_python_plugin", "openssl"):
        if not shutil.which(program):
            return "%s is missing" % program
    try:
        import grpc  # noqa: F401
    except ImportError:
        return "python3-grpcio is missing (with %s)" % PYTHON
    return None


class Stubs:
    """pb.trust.EnrollRequest(...), rpc.trust.TrustStub(channel)"""

    def __init__(self):
        folder = tempfile.mkdtemp(prefix="ac.stubs.", dir="/tmp")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        proto = os.path.join(ROOT, "proto")
        files = [os.path.join("accel", "v1", name) for name in
                 sorted(os.listdir(os.path.join(proto, "accel", "v1"))) if name.endswith(".proto")]
        subprocess.run(["protoc", "-I" + proto, "--python_out=" + folder,
                        "--grpc_python_out=" + folder, "--plugin=protoc-gen-grpc_python=" +
                        shutil.which("grpc_python_plugin")] + files, cwd=proto, check=True)
        sys.path.insert(0, folder)
        import importlib
        for name in NAMES:
            setattr(self, name, importlib.import_module("accel.v1.%s_pb2" % name))
            setattr(self, name + "_rpc", importlib.import_module("accel.v1.%s_pb2_grpc" % name))


def stubs():
    global _stubs
    _stubs = _stubs or Stubs()
    return _stubs


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def until(condition, what, timeout=DEADLINE_S):
    """Asks again until it is so: for what no event tells from outside."""
    deadline = time.monotonic() + timeout
    while True:
        found = condition()
        if found:
            return found
        check(time.monotonic() < deadline, "not within %s s: %s", timeout, what)
        time.sleep(0.05)


def blocks(text):
    """The PEM blocks of a file, in order."""
    found, at = [], text.find("-----BEGIN")
    while at >= 0:
        end = text.index("-----END", at)
        end = text.index("\n", end) + 1
        found.append(text[at:end])
        at = text.find("-----BEGIN", end)
    return found


class Identity:
    """A key and a certificate, or none (a caller without a certificate)."""

    def __init__(self, key=None, cert=None, ca=None):
        self.key, self.cert, self.ca = key, cert, ca

    @staticmethod
    def from_file(path):
        with open(path) as f:
            return Identity(*blocks(f.read()))


def openssl(*args, stdin=None):
    done = subprocess.run(("openssl",) + args, input=stdin, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE)
    check(done.returncode == 0, "openssl %s: %s", args[0], done.stderr.decode())
    return done.stdout.decode()


def new_key():
    return openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout")


def new_csr(key, name, folder):
    path = os.path.join(folder, uuid.uuid4().hex + ".key")
    with open(path, "w") as f:
        f.write(key)
    return openssl("req", "-new", "-key", path, "-subj", "/CN=" + name)


class Site:
    def __init__(self, c, *args, env=None, **how):
        self.c, self.daemons, self.channels = c, [], []
        c.counts_starts = False
        self.port = free_port()
        self.folder = tempfile.mkdtemp(prefix="ac.site.", dir="/tmp")
        os.chmod(self.folder, 0o755)
        atexit.register(shutil.rmtree, self.folder, ignore_errors=True)
        c.bin = open_programs(c.bin, self.folder)
        self.socket = os.path.join(self.folder, "socket")
        self.state = os.path.join(c.state_home, "coordinator")
        self.address = "127.0.0.1:%d" % self.port
        c.env["ACCEL_COORDINATOR"] = "unix:" + self.socket
        self.args = args
        self.coordinator = self.start_coordinator()

    def daemon(self, log, program, *args, env=None, wanted=True):
        """Starts it and waits until it serves; wanted=False: until it says so or ends."""
        got, said = os.pipe()
        with open(os.path.join(self.c.state_home, log + ".log"), "ab") as f:
            p = subprocess.Popen([os.path.join(self.c.bin, program), "--ready-fd", str(said)] +
                                 list(args), env={**self.c.env, **(env or {})}, cwd=self.c.work,
                                 stdin=subprocess.DEVNULL, stdout=f, stderr=f, pass_fds=[said])
        os.close(said)
        self.daemons.append(p)
        with os.fdopen(got, "rb") as pipe:
            word = pipe.readline()
        if wanted:
            check(word == b"ready\n", "%s has not come up:\n%s", log, self.log(log)[-2000:])
        return p

    def log(self, name):
        with open(os.path.join(self.c.state_home, name + ".log"), errors="replace") as f:
            return f.read()

    def start_coordinator(self):
        return self.daemon("coordinator", "accel-coordinator", "--listen", "unix:" + self.socket,
                           "--listen", "tcp:" + self.address, "--state-dir", self.state,
                           *self.args)

    def stop(self, p):
        p.terminate()
        p.wait(DEADLINE_S)

    def token(self, *args):
        return self.c.ok("node", "token", *args).out.strip()

    def acceld(self, name, *args, token=None, env=None, wanted=True):
        """A node; with a token it joins first."""
        more = []
        if token:
            path = os.path.join(self.c.state_home, name + ".token")
            with open(path, "w") as f:
                f.write(token + "\n")
            more = ["--join", "@" + path]
        return self.daemon(name, "acceld", "--state-dir", self.node_state(name), "--devices",
                           "cpu:4", *more, *(["--node-name", name] if token else []), *args,
                           env=env, wanted=wanted)

    def node_state(self, name):
        return os.path.join(self.c.state_home, "node-" + name)

    def user(self, name, *args):
        path = os.path.join(self.c.state_home, name + ".pem")
        self.c.ok("user", "cert", name, "--out", path, *args)
        return Identity.from_file(path)

    def node_identity(self, name):
        read = lambda f: open(os.path.join(self.node_state(name), "tls", f)).read()  # noqa: E731
        return Identity(read("node.key"), read("node.pem"), read("ca.pem"))

    def ca(self):
        with open(os.path.join(self.state, "tls", "ca.pem")) as f:
            return f.read()

    def refused(self, kind):
        return self.c.status()["refused_" + kind]

    # -- the client that is not ours --

    def channel(self, who):
        import grpc
        credentials = grpc.ssl_channel_credentials(
            self.ca().encode(), who.key and who.key.encode(), who.cert and who.cert.encode())
        channel = grpc.secure_channel(self.address, credentials, [
            ("grpc.ssl_target_name_override", "accel-coordinator"),
            ("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)])
        self.channels.append(channel)
        return channel

    def call(self, who, service, method, request, channel=None):
        """(code name, answer or text)"""
        import grpc
        stub = getattr(getattr(stubs(), service + "_rpc"), {
            "job": "JobsStub", "node": "NodesStub", "trust": "TrustStub", "event": "EventsStub",
            "admin": "AdminStub"}[service])
        if method == "Read":
            stub = stubs().job_rpc.LogsStub
        try:
            answer = getattr(stub(channel or self.channel(who)), method)(request,
                                                                         timeout=DEADLINE_S)
            if hasattr(answer, "__next__"):
                answer = next(answer)
            return "OK", answer
        except grpc.RpcError as e:
            return e.code().name, e.details()

    def raw_call(self, who, path):
        """(code name, text) of a call of which we know no more than its path."""
        import grpc
        try:
            return "OK", self.channel(who).unary_unary(path)(b"", timeout=DEADLINE_S)
        except grpc.RpcError as e:
            return e.code().name, e.details()

    def enroll(self, secret, node, machine_id="machine", request_id=None, key=None):
        key = key or new_key()
        request = stubs().trust.EnrollRequest(
            request_id=request_id or os.urandom(16), secret=secret, node=node,
            machine_id=machine_id, csr_pem=new_csr(key, node, self.folder))
        code, answer = self.call(Identity(), "trust", "Enroll", request)
        if code != "OK":
            return code, answer
        return code, Identity(key, answer.certificate_pem, answer.ca_pem)

    def fake_node(self, name, machine_id="machine"):
        code, who = self.enroll(secret_of(self.token()), name, machine_id)
        check(code == "OK", "enrolment of %s: %s %s", name, code, who)
        return who

    def close(self):
        for channel in self.channels:
            channel.close()
        for p in self.daemons:
            if p is not self.coordinator and p.poll() is None:
                self.stop(p)


class Process:
    """A daemon that may not come up; its log is read from the file."""

    def __init__(self, site, name, program, *args, prefix=(), env=None):
        self.path = os.path.join(site.c.state_home, name + ".log")
        with open(self.path, "ab") as f:
            self.begin = f.tell()  # others have written before
            self.popen = subprocess.Popen(
                list(prefix) + [os.path.join(site.c.bin, program)] + list(args), cwd=site.c.work,
                env={**site.c.env, **(env or {})}, stdin=subprocess.DEVNULL, stdout=f, stderr=f)
        site.daemons.append(self.popen)
        self.pid = self.popen.pid

    def log(self):
        with open(self.path, errors="replace") as f:
            f.seek(self.begin)
            return f.read()

    def expect(self, words):
        until(lambda: words in self.log() or self.popen.poll() is not None,
              "the log tells %r:\n%s" % (words, self.log()[-2000:]))
        check(words in self.log(), "it ended without %r:\n%s", words, self.log()[-2000:])

    def ends(self, rc):
        check_equal(self.popen.wait(DEADLINE_S), rc, "exit code; log:\n" + self.log()[-2000:])
        return self.log()


def dated(c, site, csr, extensions, start, end):
    """A certificate of the cluster's CA for these dates."""
    folder = os.path.join(site.folder, "ca")
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "index"), "w"):
        pass
    for name, text in (("csr", csr), ("ext", extensions), ("cnf", (
            "[ca]\ndefault_ca=d\n[d]\ndatabase=%s/index\nnew_certs_dir=%s\nrand_serial=yes\n"
            "default_md=sha256\npolicy=p\n[p]\ncommonName=supplied\n" % (folder, folder)))):
        with open(os.path.join(folder, name), "w") as f:
            f.write(text)
    tls = os.path.join(site.state, "tls")
    return openssl("ca", "-batch", "-notext", "-config", folder + "/cnf", "-in", folder + "/csr",
                   "-cert", tls + "/ca.pem", "-keyfile", tls + "/ca.key", "-extfile",
                   folder + "/ext", "-startdate", start, "-enddate", end)


def secret_of(token):
    text = token[len("accel-"):]
    packed = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    return stubs().trust.EnrolToken.FromString(packed).secret


class Session:
    """A node that a test plays: says what it is told to say."""

    def __init__(self, site, who, name, machine_id="machine", era=0, epoch=0, hello=True):
        s = stubs()
        self.up, self.down = queue.Queue(), queue.Queue()
        self.call = s.agent_rpc.AgentStub(site.channel(who)).Session(iter(self.up.get, None))
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()
        if hello:
            node = s.node.Node(name=name, incarnation=1, cpus=4, memory_bytes=1 << 30, devices=[
                s.node.Device(id="cpu:%d" % i, kind=1, index=i) for i in range(4)])
            self.say(hello=s.agent.Hello(node=node, machine_id=machine_id, era=era, epoch=epoch))

    def _read(self):
        import grpc
        try:
            for message in self.call:
                self.down.put(message)
            self.down.put(("OK", ""))
        except grpc.RpcError as e:
            self.down.put((e.code().name, e.details()))

    def say(self, **body):
        self.up.put(stubs().agent.AgentUp(**body))

    def next(self, kind=None):
        """The next message, of that kind; or (code, text) when the session has ended."""
        while True:
            try:
                found = self.down.get(timeout=DEADLINE_S)
            except queue.Empty:
                raise Failure("the coordinator says nothing to the node")
            if isinstance(found, tuple) or kind in (None, found.WhichOneof("body")):
                return found

    def close(self):
        self.up.put(None)
        self.call.cancel()
        self.thread.join(DEADLINE_S)


def site_test(sentence, *args, **how):
    """A test that gets a Site too, made with args; what it leaves is ended."""
    def add(function):
        def run(c):
            site = Site(c, *args)
            try:
                function(c, site)
            finally:
                site.close()
        run.__name__ = function.__name__
        test(sentence, **{"needs": why_no_grpc, **how})(run)
        return function
    return add


__all__ = ["Identity", "Process", "Session", "Site", "blocks", "dated", "new_csr", "new_key",
           "openssl", "secret_of", "site_test", "stubs", "until", "wait_pid_gone", "why_no_grpc"]
