# SPDX-License-Identifier: Apache-2.0
"""Real hosts in miniature: what a cluster has that one host does not show.

A Host has a network, a hostname, processes and a /tmp, /run, /dev/shm, state and work directory of
its own (namespaces); a Network joins hosts by cables to one bridge, which can be pulled.  What is
shared is said: /srv/shared.  A host ends with all its processes when its first process does, and
that ends when the test does, however.  Needs root, iproute2 and util-linux; why_no_hosts() says
what is missing.
"""
import glob
import os
import shutil
import signal
import subprocess

from accel_test import (DEADLINE_S, PROGRAMS, Failure, all_pids, check, check_equal, read_proc,
                        wait_pid_gone)

PORT = 7443
PROGRAM_NAMES = tuple(name for name in PROGRAMS if not name.endswith(".so"))
# Run by the first process of a host: what is bound must be found before /tmp is covered.
SETUP = r"""
mount -t tmpfs srv /srv
mkdir /srv/accel /srv/upgrade /srv/shared /srv/state /srv/home /srv/work
mount --bind "$NET/accel" /srv/accel
mount --bind "$NET/upgrade" /srv/upgrade
mount --bind "$NET/w" /srv/shared
mount --bind "$STATE" /srv/state
mount --bind "$FOLDER/hosts" /etc/hosts
mount --bind "$FOLDER/machine-id" /etc/machine-id
mount --bind "$FOLDER/passwd" /etc/passwd
mount --bind "$FOLDER/group" /etc/group
mount -t tmpfs tmp /tmp && chmod 1777 /tmp
mount -t tmpfs run /run && mkdir -m 700 /run/user
mount -t tmpfs shm /dev/shm && chmod 1777 /dev/shm
hostname "$NAME"
ip link set lo up
echo ready
trap '' CHLD  # the kernel reaps orphans
exec cat
"""


def why_no_hosts():
    if os.getuid() != 0:
        return "needs root"
    for program in ("ip", "unshare", "nsenter", "hostname"):
        if not shutil.which(program):
            return "%s is missing" % program
    done = subprocess.run(["unshare", "--net", "--uts", "--mount", "--pid", "--fork",
                           "--mount-proc", "sh", "-ec", "ip link add br0 type bridge; ip link add "
                           "type veth; mount -t tmpfs srv /srv"], stdout=subprocess.DEVNULL,
                          stderr=subprocess.PIPE)
    if done.returncode:
        return "no hosts in namespaces here: " + done.stderr.decode().strip().split("\n")[-1]
    return None


def child_of(parent):
    for pid in all_pids():
        stat = read_proc(pid, "stat").rpartition(b")")[2].split()
        if stat and int(stat[1]) == parent:
            return pid
    return None


def find_module(programs):
    """accel-grpc.so, where the programs of this folder find it."""
    for sub in ("", "../lib/accel", "../common"):
        path = os.path.join(programs, sub, "accel-grpc.so")
        if os.path.exists(path):
            return path
    raise Failure("accel-grpc.so belongs to no program in " + programs)


def install(programs, folder):
    """A copy of the programs, as an installation has them: bin/ and lib/accel/."""
    for name in PROGRAM_NAMES:
        os.makedirs(os.path.join(folder, "bin"), exist_ok=True)
        shutil.copy2(os.path.join(programs, name), os.path.join(folder, "bin", name))
    os.makedirs(os.path.join(folder, "lib", "accel"))
    shutil.copy2(find_module(programs), os.path.join(folder, "lib", "accel"))


class Holder:
    """The first process of some namespaces."""

    def __init__(self, kinds, script, env=None):
        self.popen = subprocess.Popen(
            ["unshare", "--fork", "--kill-child"] + kinds + ["sh", "-ec", script],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**os.environ, **(env or {})}, start_new_session=True)
        if self.popen.stdout.readline() != b"ready\n":
            raise Failure("no namespaces: %s" % self.popen.communicate()[1].decode())
        self.pid = child_of(self.popen.pid)

    def close(self):
        self.popen.stdin.close()
        try:
            self.popen.wait(DEADLINE_S)
        finally:
            self.popen.kill()
            self.popen.wait()
            self.popen.stdout.close()
            self.popen.stderr.close()


class Host:
    def __init__(self, net, name, number):
        self.net, self.name, self.number = net, name, number
        self.address, self.ifname = "10.77.0.%d" % number, "lan%d" % number
        self.port = "port%d" % number  # of the bridge
        self.state = os.path.join(net.c.state_home, name)  # /srv/state there
        folder = os.path.join(net.c.dir, "hosts", name)
        os.makedirs(folder, exist_ok=True)
        os.makedirs(self.state, mode=0o755, exist_ok=True)
        with open(os.path.join(folder, "machine-id"), "w") as f:
            f.write("%032x\n" % (0xabc0 + number))
        with open(os.path.join(folder, "hosts"), "w") as f:  # as Debian's installer writes it
            f.write("127.0.0.1 localhost\n127.0.1.1 %s\n" % name + net.names)
        self.users = {"ann": 2000 + number}
        if number == 2:
            self.users["bob"] = 4000  # known there only
        for kind, line in (("passwd", "%s:x:%d:%d::/:/bin/sh\n"), ("group", "%s:x:%d:\n")):
            shutil.copy("/etc/" + kind, folder)
            with open(os.path.join(folder, kind), "a") as f:
                for user, uid in self.users.items():
                    f.write(line % ((user,) + (uid,) * (line.count("%") - 1)))
        self.daemons = {}
        self.holder = Holder(["--net", "--uts", "--ipc", "--mount", "--pid", "--mount-proc"], SETUP,
                             {"NAME": name, "FOLDER": folder, "NET": net.c.dir,
                              "STATE": self.state})
        self.pid = self.holder.pid
        self.enter = ("nsenter", "--target", str(self.pid), "--net", "--uts", "--ipc", "--mount",
                      "--pid", "--", "env", "-C", "/srv/work")
        self.env = {"HOME": "/srv/home", "XDG_RUNTIME_DIR": "/run/user",
                    "XDG_STATE_HOME": "/srv/state", "ACCEL_COORDINATOR": None}

    def command(self, *args):
        done = subprocess.run(self.enter + args, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        check(done.returncode == 0, "%s on %s: %s", args, self.name, done.stderr.decode())
        return done.stdout.decode()

    def daemon(self, program, *args, folder="/srv/accel"):
        """Starts it and waits until it serves."""
        got, said = os.pipe()
        env = {k: v for k, v in {**self.net.c.env, **self.env}.items() if v is not None}
        with open(os.path.join(self.state, program + ".log"), "ab") as f:
            p = subprocess.Popen(self.enter + (folder + "/bin/" + program, "--ready-fd", str(said))
                                 + args, env=env, stdin=subprocess.DEVNULL, stdout=f, stderr=f,
                                 pass_fds=[said])
        os.close(said)
        self.daemons[program] = p
        with os.fdopen(got, "rb") as pipe:
            word = pipe.readline()
        check(word == b"ready\n", "%s on %s has not come up:\n%s", program, self.name,
              self.log(program)[-2000:])

    def log(self, program):
        with open(os.path.join(self.state, program + ".log"), errors="replace") as f:
            return f.read()

    def files(self, pattern):
        """Those there, as paths of this process."""
        root = "/proc/%d/root" % self.pid
        return glob.glob(root + pattern)

    def give(self, folder, path):
        """Copies a folder of the test to this host alone."""
        shutil.copytree(folder, "/proc/%d/root%s" % (self.pid, path))

    def daemon_pid(self, program):
        """nsenter's child: the daemon, seen from outside."""
        pid = child_of(self.daemons[program].pid)
        check(pid, "%s on %s has ended:\n%s", program, self.name, self.log(program)[-2000:])
        return pid

    def end(self, program, signo=signal.SIGKILL):
        p = self.daemons[program]
        os.kill(self.daemon_pid(program), signo)
        rc = p.wait(DEADLINE_S)
        del self.daemons[program]
        if signo == signal.SIGTERM:
            check_equal(rc, 0, "exit code of %s on %s" % (program, self.name))

    def pids(self):
        """What runs there, seen from outside, its first process aside."""
        def space(pid):
            try:
                return os.readlink("/proc/%d/ns/pid" % pid)
            except OSError:
                return None
        mine = space(self.pid)
        return [pid for pid in all_pids() if pid != self.pid and space(pid) == mine]

    def worker(self, inner):
        """The pid outside of a process that has this one there."""
        for pid in self.pids():
            for line in read_proc(pid, "status").split(b"\n"):
                if line.startswith(b"NSpid:") and int(line.split()[-1]) == inner:
                    return pid
        raise Failure("%s has no process %d" % (self.name, inner))

    def close(self):
        self.holder.close()
        for p in self.daemons.values():
            p.wait(DEADLINE_S)


class Network:
    """`head` with the coordinator, nodes that have joined it, and `desk`, from where c calls."""

    def __init__(self, c, *nodes, acceld=()):
        self.c, self.hosts, self.switch, self.acceld = c, {}, None, acceld
        c.counts_starts = False
        os.chmod(c.work, 0o755)
        self.installed, self.upgrade = (os.path.join(c.dir, d) for d in ("accel", "upgrade"))
        install(c.bin, self.installed)
        os.mkdir(self.upgrade)
        names = ("head",) + nodes + ("desk",)
        self.names = "".join("10.77.0.%d %s\n" % (i, n) for i, n in enumerate(names, 1))
        self.nodes = nodes
        try:
            self.switch = Holder(["--net"], "ip link add br0 type bridge; ip link set br0 up; "
                                 "echo ready; exec cat")
            for i, name in enumerate(names, 1):
                self.hosts[name] = Host(self, name, i)
                self.connect(self.hosts[name])
            c.bin = "/srv/accel/bin"
            self.head, self.desk = self.hosts["head"], self.hosts["desk"]
            self.start_coordinator()
            for name in nodes:
                self.join(name)
            self.give_credentials()
        except BaseException:
            self.close()
            raise

    def install_upgrade(self):
        install(os.path.join(self.installed, "bin"), self.upgrade)

    def connect(self, host):
        self.on_switch("ip link add %s type veth peer name %s netns %d; ip link set %s master br0 "
                       "up; nsenter --target %d --net sh -ec 'ip addr add %s/24 dev %s; ip link "
                       "set %s up'" % (host.port, host.ifname, host.pid, host.port, host.pid,
                                       host.address, host.ifname, host.ifname))

    def on_switch(self, script):
        done = subprocess.run(["nsenter", "--target", str(self.switch.pid), "--net", "sh", "-ec",
                               script], stderr=subprocess.PIPE)
        check(done.returncode == 0, "%s: %s", script, done.stderr.decode())

    def unplug(self, name):
        self.on_switch("ip link set %s down" % self.hosts[name].port)

    def plug(self, name):
        self.on_switch("ip link set %s up" % self.hosts[name].port)

    def power_cut(self, name):
        """All that runs there is gone, and nobody is told; its files stay."""
        self.hosts[name].close()

    def boot(self, name):
        self.hosts[name] = Host(self, name, self.hosts[name].number)
        self.connect(self.hosts[name])

    def start_coordinator(self, **how):
        self.head.daemon("accel-coordinator", "--listen", "unix:/run/coordinator.sock", "--listen",
                         "tcp:0.0.0.0:%d" % PORT, "--state-dir", "/srv/state/coordinator", **how)

    def start_acceld(self, name, *args, **how):
        self.hosts[name].daemon("acceld", "--state-dir", "/srv/state/node", "--devices", "cpu:4",
                                *self.acceld, *args, **how)

    def join(self, name):
        token = self.on_head("node", "token").out
        with open(os.path.join(self.hosts[name].state, "token"), "w") as f:
            f.write(token)
        self.start_acceld(name, "--join", "@/srv/state/token")

    def on_head(self, *args):
        """accelctl of an admin on the coordinator's host."""
        return self.c.ok(*args, prefix=self.head.enter, cwd="/", env={
            **self.head.env, "ACCEL_COORDINATOR": "unix:/run/coordinator.sock"})

    def certify(self, user, path):
        """Credentials of this user, in a file on the desk."""
        self.on_head("user", "cert", user, "--out", "/srv/shared/user.pem")
        self.desk.command("mv", "/srv/shared/user.pem", path)

    def give_credentials(self):
        """From now on c calls from the desk, as root with a certificate."""
        folder = "/srv/home/.config/accel/credentials"
        self.desk.command("mkdir", "-p", folder)
        self.certify("root", folder + "/head.pem")
        self.c.prefix = self.desk.enter
        self.c.env.update({k: v for k, v in self.desk.env.items() if v})
        self.c.env["ACCEL_COORDINATOR"] = "head:%d" % PORT

    def end(self):
        """All daemons, as an operator does; then nothing is left on any host."""
        for host in self.hosts.values():
            for program in sorted(host.daemons):
                host.end(program, signal.SIGTERM)
        for host in self.hosts.values():
            for pid in host.pids():
                wait_pid_gone(pid, 10, "left on %s: process" % host.name)

    def close(self):
        self.c.prefix, self.c.bin = (), os.path.join(self.installed, "bin")
        self.c.env["ACCEL_COORDINATOR"] = "unix:/nowhere"  # nothing starts there
        for host in self.hosts.values():
            host.close()
        if self.switch:
            self.switch.close()
