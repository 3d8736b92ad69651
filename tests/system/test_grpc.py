#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Any gRPC client in any language: Debian's python3-grpcio against real daemons over mutual TLS.

One client is generated from proto/ and submits, watches and cancels with a user's certificate; one
has no stubs and learns all from reflection. A node joins over TCP and comes back after a restart of
the coordinator.
"""
import os
import pwd
import queue
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from accel_test import (DAMAGE, DEADLINE_S, PYTHON, ROOT, Failure, check,  # noqa: E402
                        check_equal, find_programs, main, test)

if os.path.realpath(sys.executable) != os.path.realpath(PYTHON):
    os.execv(PYTHON, [PYTHON] + sys.argv)  # Debian's grpcio lives there only
try:
    import grpc
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
except ImportError:
    grpc = None

SERVER_NAME = "accel-coordinator"


def no_grpcio():
    if grpc is None:
        return "python3-grpcio is not installed"
    if not shutil.which("grpc_python_plugin"):
        return "protobuf-compiler-grpc is not installed"
    return None


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Daemon:
    """A process whose log is read line by line."""

    def __init__(self, args, env):
        self.popen = subprocess.Popen(args, env=env, stdin=subprocess.DEVNULL,
                                      stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        self.log, self.lines = [], queue.Queue()
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self):
        for line in self.popen.stderr:
            self.log.append(line.decode("utf-8", "replace"))
            self.lines.put(self.log[-1])
        self.lines.put(None)

    def expect(self, pattern):
        while True:
            try:
                line = self.lines.get(timeout=DEADLINE_S)
            except queue.Empty:
                raise Failure("no line with %r:\n%s" % (pattern, "".join(self.log)[-3000:]))
            check(line is not None, "it ended without %r:\n%s", pattern, "".join(self.log)[-3000:])
            if re.search(pattern, line):
                return

    def end(self, signo=signal.SIGTERM):
        self.popen.send_signal(signo)
        self.popen.wait(DEADLINE_S)
        self.thread.join(DEADLINE_S)
        text = "".join(self.log)
        check(not DAMAGE.search(text), "a log tells of damage:\n%s", text[-5000:])
        return text


class World:
    """A coordinator that serves other machines, users of it, and a node that has joined by TCP."""

    def __init__(self):
        self.bin = find_programs()
        self.dir = tempfile.mkdtemp(prefix="ac.grpc.", dir="/tmp")
        self.port, self.daemons = free_port(), []
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(("ACCEL", "XDG_"))}
        self.env["ASAN_OPTIONS"] = "halt_on_error=1:abort_on_error=1:detect_leaks=1"
        self.env.update(HOME=self.dir, XDG_CONFIG_HOME=self.dir, XDG_RUNTIME_DIR=self.dir)
        self.coordinator = self.start_coordinator()

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        try:
            for daemon in reversed(self.daemons):
                if kind:
                    print("# " + "".join(daemon.log)[-3000:].replace("\n", "\n# "))
                if daemon.popen.poll() is None:
                    daemon.end()
        finally:
            for daemon in self.daemons:
                daemon.popen.kill()
            shutil.rmtree(self.dir, ignore_errors=True)

    def path(self, name):
        return os.path.join(self.dir, name)

    def start(self, name, *args):
        daemon = Daemon([os.path.join(self.bin, name), *args], self.env)
        self.daemons.append(daemon)
        return daemon

    def start_coordinator(self):
        daemon = self.start("accel-coordinator", "--listen", "unix:" + self.path("sock"),
                            "--listen", "tcp:127.0.0.1:%d" % self.port,
                            "--state-dir", self.path("state"))
        daemon.expect(" serves ")
        return daemon

    def ctl(self, *args):
        done = subprocess.run([os.path.join(self.bin, "accelctl"), "--coordinator",
                               "unix:" + self.path("sock"), *args], env=self.env, cwd=self.dir,
                              stdin=subprocess.DEVNULL, capture_output=True, timeout=DEADLINE_S)
        check(done.returncode == 0, "accelctl %s: %s", args, done.stderr.decode())
        return done.stdout.decode()

    def start_node(self):
        with open(self.path("token"), "w") as f:
            f.write(self.ctl("node", "token"))
        read, write = os.pipe()
        os.set_inheritable(write, True)
        args = [os.path.join(self.bin, "acceld"), "--join", "@" + self.path("token"),
                "--state-dir", self.path("node"), "--node-name", "n1", "--devices", "cpu:4",
                "--ready-fd", str(write)]
        daemon = Daemon.__new__(Daemon)
        daemon.popen = subprocess.Popen(args, env=self.env, stdin=subprocess.DEVNULL,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                                        pass_fds=[write])
        daemon.log, daemon.lines = [], queue.Queue()
        daemon.thread = threading.Thread(target=daemon._read, daemon=True)
        daemon.thread.start()
        self.daemons.append(daemon)
        os.close(write)
        with os.fdopen(read) as f:
            check(f.read() == "ready\n", "acceld is not ready:\n%s", "".join(daemon.log))
        return daemon

    def certificate(self, name):
        """(key, certificate, CA) of a user, as PEM."""
        self.ctl("user", "cert", name, "--out", self.path(name + ".pem"))
        with open(self.path(name + ".pem"), "rb") as f:
            blocks = re.findall(rb"-----BEGIN .*?-----END [^\n]*\n", f.read(), re.S)
        key = b"".join(b for b in blocks if b"CERTIFICATE" not in b)
        certificates = [b for b in blocks if b"CERTIFICATE" in b]
        return key, certificates[0], b"".join(certificates[1:])

    def channel(self, key=None, certificate=None, ca=None):
        return grpc.secure_channel(
            "127.0.0.1:%d" % self.port,
            grpc.ssl_channel_credentials(ca, key, certificate),
            (("grpc.ssl_target_name_override", SERVER_NAME), ("grpc.enable_http_proxy", 0),
             ("grpc.use_local_subchannel_pool", 1)))

    def stubs(self):
        """Modules generated from proto/, as any user would."""
        folder = self.path("stubs")
        os.mkdir(folder)
        proto = os.path.join(ROOT, "proto")
        names = ["accel/v1/" + n for n in os.listdir(proto + "/accel/v1") if n.endswith(".proto")]
        subprocess.run(["protoc", "-I" + proto, "--python_out=" + folder,
                        "--grpc_python_out=" + folder, "--plugin=protoc-gen-grpc_python="
                        + shutil.which("grpc_python_plugin")] + names, check=True)
        sys.path.insert(0, folder)
        from accel.v1 import job_pb2, job_pb2_grpc, node_pb2, node_pb2_grpc
        return job_pb2, job_pb2_grpc, node_pb2, node_pb2_grpc


def status_of(call, *args, **how):
    try:
        call(*args, timeout=DEADLINE_S, **how)
    except grpc.RpcError as e:
        return e.code()
    return grpc.StatusCode.OK


@test("a Python client submits, watches and cancels with a certificate", cluster=None,
      needs=no_grpcio)
def python_client():
    with World() as w:
        job_pb2, job_grpc, node_pb2, node_grpc = w.stubs()
        w.start_node()
        # The node runs jobs of its own user only, so this user's name is on the certificate.
        name = pwd.getpwuid(os.getuid()).pw_name
        mine, bob = w.certificate(name), w.certificate("bob")
        with w.channel(*mine) as channel, w.channel(*bob) as other:
            jobs, nodes = job_grpc.JobsStub(channel), node_grpc.NodesStub(channel)
            found = nodes.List(node_pb2.NodesRequest(), timeout=DEADLINE_S).nodes
            check_equal([n.name for n in found], ["n1"], "nodes")
            spec = job_pb2.JobSpec(name="long", argv=[b"/bin/sleep", b"1000"], cwd=b"/",
                                   env=[b"PATH=/usr/bin:/bin"], procs_per_node=2)
            request = job_pb2.SubmitRequest(request_id=os.urandom(16), spec=spec)
            job = jobs.Submit(request, timeout=DEADLINE_S).job_id
            check_equal(jobs.Submit(request, timeout=DEADLINE_S).job_id, job, "the same request")
            states, watch = [], jobs.Watch(job_pb2.WatchRequest(job_id=job), timeout=DEADLINE_S)
            for answer in watch:
                states.append(job_pb2.JobState.Name(answer.job.state))
                if answer.job.state == job_pb2.JOB_RUNNING:
                    check_equal(answer.job.user, name, "owner")
                    cancel = job_pb2.CancelRequest(request_id=os.urandom(16), job_ids=[job],
                                                   kill=True)
                    refused = job_grpc.JobsStub(other).Cancel(cancel, timeout=DEADLINE_S)
                    check(refused.jobs[0].error, "bob may not cancel another's job")
                    cancel.request_id = os.urandom(16)
                    done = jobs.Cancel(cancel, timeout=DEADLINE_S)
                    check_equal(done.jobs[0].error, "", "cancel")
            check_equal(watch.code(), grpc.StatusCode.OK, "end of the watch")
            check_equal(states[-1], "JOB_ENDED", "last state")
            check("JOB_RUNNING" in states, "states: %s, %s", states, answer.job.reason)
            huge = job_pb2.JobSpec(argv=[b"/bin/true"], env=[b"X=" + b"x" * (9 << 20)], cwd=b"/")
            check_equal(status_of(jobs.Submit, job_pb2.SubmitRequest(spec=huge)),
                        grpc.StatusCode.RESOURCE_EXHAUSTED, "a spec of 9 MiB")
            gzip = {"compression": grpc.Compression.Gzip}
            check_equal(status_of(jobs.List, job_pb2.ListRequest(), **gzip),
                        grpc.StatusCode.OK, "a client that may compress")


@test("without a certificate, or with that of another authority, nothing is answered",
      cluster=None, needs=no_grpcio)
def strangers():
    with World() as w:
        job_pb2, job_grpc, _, _ = w.stubs()
        key, certificate, ca = w.certificate("ada")

        def code(*how):
            with w.channel(*how) as channel:
                return status_of(job_grpc.JobsStub(channel).List, job_pb2.ListRequest())

        check_equal(code(key, certificate, ca), grpc.StatusCode.OK, "with all")
        check_equal(code(None, None, ca), grpc.StatusCode.PERMISSION_DENIED, "no certificate")
        with World() as other:
            theirs = other.certificate("ada")
        check_equal(code(theirs[0], theirs[1], ca), grpc.StatusCode.UNAVAILABLE, "another CA's")
        check_equal(code(key, certificate, theirs[2]), grpc.StatusCode.UNAVAILABLE, "another CA")
        with w.channel(key, certificate, ca) as channel:
            jobs = job_grpc.JobsStub(channel)
            check_equal(status_of(jobs.List, job_pb2.ListRequest()), grpc.StatusCode.OK, "before")
            w.ctl("user", "revoke", "ada")
            check_equal(status_of(jobs.List, job_pb2.ListRequest()),
                        grpc.StatusCode.PERMISSION_DENIED, "revoked, on an open connection")


# ---- reflection, without stubs ----


def fields(data):
    """(number, bytes) of each length-delimited field of a packed message."""
    def varint(at):
        value = shift = 0
        while True:
            value |= (data[at] & 127) << shift
            at, shift = at + 1, shift + 7
            if data[at - 1] < 128:
                return value, at

    at = 0
    while at < len(data):
        key, at = varint(at)
        value, at = varint(at)
        if key & 7 == 2:
            yield key >> 3, data[at:at + value]
            at += value


class Reflection:
    def __init__(self, channel, version):
        self.call = channel.stream_stream(
            "/grpc.reflection.%s.ServerReflection/ServerReflectionInfo" % version)
        self.pool = descriptor_pool.DescriptorPool()
        self.have = set()

    def ask(self, number, text):
        question = bytes([number << 3 | 2, len(text)]) + text.encode()
        answers = list(self.call(iter([question]), timeout=DEADLINE_S))
        check_equal(len(answers), 1, "answers")
        return dict(fields(answers[0]))

    def services(self):
        return {dict(fields(s))[1].decode() for _, s in fields(self.ask(7, "*")[6])}

    def add(self, number, text):
        """A file, and before it those that it imports."""
        for _, packed in fields(self.ask(number, text)[4]):
            proto = descriptor_pb2.FileDescriptorProto.FromString(packed)
            if proto.name in self.have:
                continue
            for name in proto.dependency:
                self.add(3, name)
            self.have.add(proto.name)
            self.pool.Add(proto)

    def method(self, channel, name):
        service, _, method = name.rpartition(".")
        self.add(4, service)
        m = self.pool.FindServiceByName(service).FindMethodByName(method)
        classes = message_factory.MessageFactory(self.pool)
        request, answer = (classes.GetPrototype(t) for t in (m.input_type, m.output_type))
        path = "/%s/%s" % (service, method)
        return request, channel.unary_unary(path, request.SerializeToString, answer.FromString)


@test("health and reflection serve a client that knows nothing of us", cluster=None,
      needs=no_grpcio)
def stubless():
    with World() as w:
        with w.channel(*w.certificate("ada")) as channel:
            for version in ("v1", "v1alpha"):
                r = Reflection(channel, version)
                found = r.services()
                for name in ("accel.v1.Jobs", "accel.v1.Trust", "grpc.health.v1.Health"):
                    check(name in found, "%s is not among %s", name, sorted(found))
                request, check_health = r.method(channel, "grpc.health.v1.Health.Check")
                check_equal(check_health(request(), timeout=DEADLINE_S).status, 1, "health")
                check_equal(status_of(check_health, request(service="who")),
                            grpc.StatusCode.NOT_FOUND, "health of nobody")
                request, list_jobs = r.method(channel, "accel.v1.Jobs.List")
                check_equal(len(list_jobs(request(), timeout=DEADLINE_S).jobs), 0, "jobs")
                check(7 in r.ask(4, "accel.v1.Nothing"), "a symbol that is not there is an error")
                check(7 in r.ask(3, "nothing.proto"), "a file that is not there is an error")
            watch = channel.unary_stream("/grpc.health.v1.Health/Watch")(b"", timeout=DEADLINE_S)
            check_equal(next(watch), b"\x08\x01", "the first word of Watch")
            watch.cancel()
        with w.channel(None, None, w.certificate("eve")[2]) as channel:
            health = channel.unary_unary("/grpc.health.v1.Health/Check")
            check_equal(status_of(health, b""), grpc.StatusCode.UNAUTHENTICATED,
                        "health without a certificate")


@test("a node that joined over TCP is back after each restart of the coordinator", cluster=None,
      needs=no_grpcio)
def node_returns():
    with World() as w:
        job_pb2, job_grpc, node_pb2, node_grpc = w.stubs()
        node = w.start_node()
        ada = w.certificate("ada")
        job = w.ctl("submit", "--procs", "1", "/bin/sleep", "1000").strip()
        w.ctl("wait", "--for=running", "--timeout=20s", job)
        for signo in (signal.SIGKILL, signal.SIGTERM):
            w.coordinator.end(signo)
            w.coordinator = w.start_coordinator()
            w.ctl("wait", "--for=running", job)  # its node has said so
        with w.channel(*ada) as channel:
            found = node_grpc.NodesStub(channel).List(node_pb2.NodesRequest(),
                                                      timeout=DEADLINE_S).nodes
            check_equal(found[0].state, "READY", "state")
        w.ctl("cancel", "--kill", job)
        node.end()


@test("fifty nodes are all back after restarts of the coordinator", cluster=None,
      needs=lambda: None if os.environ.get("ACCEL_TEST_BUILD")
      else "needs the build's bench_agents")
def fifty_nodes():
    program = os.path.join(os.environ["ACCEL_TEST_BUILD"], "tests", "bench", "bench_agents")
    with World() as w:
        agents = subprocess.Popen([program, "50", w.path("sock"), "tcp:127.0.0.1:%d" % w.port,
                                   w.dir, "1000"], env=w.env, stdin=subprocess.PIPE,
                                  stdout=subprocess.PIPE)
        with agents:
            try:
                check(b"all_welcomed" in agents.stdout.readline(), "the first sessions")
                for signo in (signal.SIGKILL, signal.SIGTERM):
                    w.coordinator.end(signo)
                    w.coordinator = w.start_coordinator()
                    check(b"all_welcomed" in agents.stdout.readline(), "sessions again")
                    ready = w.ctl("nodes", "-o", "json").count('"READY"')
                    check_equal(ready, 50, "nodes that are ready")
            finally:
                agents.kill()


main()
