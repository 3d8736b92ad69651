#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""How a machine comes into a cluster again: one that was removed, whose certificate has ended, or
whose first enrolment was cut off; and what a token that is no good leaves as it was.

Real daemons over loopback with real certificates.
"""
import hashlib
import hmac
import os
import pwd
import re
import shutil
import struct
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from accel_test import check, check_equal, main  # noqa: E402
from accel_site import Process, dated, new_csr, site_test, until  # noqa: E402


def acceld(site, name, *args, **how):
    return Process(site, name, "acceld", "--state-dir", site.node_state(name), "--devices",
                   "cpu:4", *args, **how)


def files(site, name):
    """What the enrolment of this node has left."""
    folder, found = os.path.join(site.node_state(name), "tls"), {}
    for file in os.listdir(folder):
        with open(os.path.join(folder, file)) as f:
            found[file] = f.read()
    return found


def stop(p, site):
    p.popen.terminate()
    p.ends(0)


def nodes(c):
    return [n["name"] for n in c.ok("nodes", "-o", "json").json()["items"]
            if n["state"] == "READY"]


@site_test("a node that was removed: a token that is no good changes nothing, a new one lets it in")
def again(c, site):
    first = site.token()
    p = site.acceld("n1", token=first)
    c.ok("node", "remove", "n1")
    until(lambda: "was revoked" in site.log("n1"), "acceld says why it is not let in")
    site.stop(p)
    before = files(site, "n1")
    used = site.token()
    site.stop(site.acceld("n2", token=used))
    for bad, why in ((used, "was used"), (first[:-9], "cut or changed"), ("hello", "no enrolment")):
        p = acceld(site, "n1", "--join", bad)
        p.expect("not taken")
        check(why in p.log(), "why: %s", p.log())
        p.expect("was revoked")  # it goes on with what it has
        check_equal({k: v for k, v in files(site, "n1").items() if k != "token"},
                    {k: v for k, v in before.items() if k != "token"}, "what it has")
        stop(p, site)
    good = site.token()
    p = acceld(site, "n1", "--join", good)  # the name is that of its certificate
    p.expect("welcomed")
    check("enrolled as node n1" in p.log(), "its name: %s", p.log())
    check_equal(nodes(c), ["n1"], "nodes")
    check(files(site, "n1")["node.pem"] != before["node.pem"], "a certificate of its own")
    stop(p, site)


@site_test("the token of the enrolment stays on the command line: every restart works, asks nobody")
def same_token(c, site):
    token = site.token()
    site.stop(site.acceld("n1", token=token))
    before = files(site, "n1")
    for args in (("--join", token), ("--join", "@" + c.path("nowhere")), ("--join", token)):
        p = acceld(site, "n1", *args)
        p.expect("welcomed")
        stop(p, site)
        check_equal(files(site, "n1"), before, "what it has")
    check_equal(site.refused("tokens"), 0, "refused")
    other = site.token()  # one that it has not seen, and that nobody answers to
    site.coordinator.kill()
    site.coordinator.wait()
    p = acceld(site, "n1", "--join", other)
    p.expect("not taken")
    p.expect("no way to the coordinator")
    check_equal(files(site, "n1"), before, "what it has")
    site.coordinator = site.start_coordinator()
    p.expect("welcomed")
    stop(p, site)


@site_test("a node whose certificate has ended while it was off: a new token lets it in")
def ended(c, site):
    token = site.token()
    site.stop(site.acceld("n1", token=token))
    path = os.path.join(site.node_state("n1"), "tls", "node.pem")
    csr = new_csr(site.node_identity("n1").key, "n1", site.folder)
    with open(path, "w") as f:
        f.write(dated(c, site, csr, "subjectAltName=URI:accel://node/n1\n", "20200101000000Z",
                      "20200201000000Z"))
    p = acceld(site, "n1", "--join", token)
    p.expect("not valid any more")
    check("accelctl node token, then acceld --join TOKEN" in p.log(), "what to do: %s", p.log())
    stop(p, site)
    p = acceld(site, "n1", "--join", site.token())
    p.expect("welcomed")
    stop(p, site)
    acceld(site, "n1").expect("welcomed")


@site_test("an older store is put back: a node proves it; one that cannot is let in by --new-era")
def put_back(c, site):
    site.stop(site.acceld("n1", token=site.token()))
    c.ok("admin", "backup", "old.db")
    database = os.path.join(site.state, "accel.db")

    def restart(p, *args):
        site.stop(p)
        for name in (database, database + "-wal"):
            if os.path.exists(name):
                os.unlink(name)
        shutil.copy(c.path("old.db"), database)
        site.args = args
        site.coordinator = site.start_coordinator()
        return c.status()["era"]
    first = c.status()["era"]
    p = acceld(site, "n1")
    p.expect("welcomed")
    seal = os.path.join(site.node_state("n1"), "seal")
    with open(os.path.join(site.state, "tls", "ca.key"), "rb") as f:
        key = hashlib.sha256(b"accel seal of eras and epochs\n" + f.read()).digest()
    with open(seal) as f:
        era, epoch, proof = f.read().split()
    text = struct.pack(">QQ", int(era), int(epoch))
    check_equal(proof, hmac.new(key, text, "sha256").hexdigest(), "the seal, by another program")
    stop(p, site)
    site.stop(site.coordinator)
    site.coordinator = site.start_coordinator()  # an epoch that the backup does not know
    p = acceld(site, "n1")
    p.expect("welcomed")
    gate = c.gate("gate")
    job = c.submit("sh", "-c", "read x < %s" % gate.path)
    c.wait(job, running=True)
    check_equal(restart(site.coordinator), first, "the era of the backup")
    until(lambda: c.status()["era"] > first, "the node proves that the store is older")
    check("coordinator.rolled_back" in c.ok("events", "-o", "json").out, "it is told")
    until(lambda: nodes(c) == ["n1"], "the node is back")
    check_equal(c.ok("launch", "echo", "on").out, "on\n", "a job")
    stop(p, site)

    # The same, with a node that kept no proof: one of an older version, or of a lost CA.
    os.unlink(seal)
    check_equal(restart(site.coordinator), first, "the era of the backup")
    p = acceld(site, "n1")
    p.expect("cannot prove it")
    check("--new-era" in p.log() and c.status()["era"] == first, "what to do: %s", p.log())
    stop(p, site)
    site.stop(site.coordinator)
    site.args = ("--new-era",)
    site.coordinator = site.start_coordinator()
    check(c.status()["era"] > first, "a new era")
    p = acceld(site, "n1")
    p.expect("welcomed")
    check(os.path.exists(seal), "now it has a proof")
    check_equal(c.ok("launch", "echo", "on").out, "on\n", "a job")
    stop(p, site)


def enrol_only(c, site, name, *args):
    return subprocess.run([os.path.join(c.bin, "acceld"), "--enrol-only", "--state-dir",
                           site.node_state(name), *args], env=c.env, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True,
                          timeout=120)


@site_test("a node that was removed while it runs: told what to do, and it asks ever less often")
def less_often(c, site):
    site.stop(site.acceld("n1", token=site.token()))
    p = acceld(site, "n1", "--log-level", "debug")
    p.expect("welcomed")
    c.ok("node", "remove", "n1")
    p.expect("the coordinator refuses this node")
    check("try: accelctl node token, and start its acceld with --join" in p.log(), "%s", p.log())

    def delays():
        return [int(d) for d in re.findall(r"refused; the next try is in (\d+) ms", p.log())]
    until(lambda: len(delays()) >= 3, "three tries")
    for delay, most in zip(delays(), (4000, 8000, 16000)):
        check(most // 2 <= delay <= most, "the pauses grow: %s", delays())
    check(p.popen.poll() is None, "it does not end")
    check(p.log().count("refuses this node") <= 2, "told once for each reason: %s", p.log())
    stop(p, site)


@site_test("provisioning: tokens by the dozen, machines that enrol and start nothing")
def provisioning(c, site):
    tokens = c.ok("node", "token", "--count", "12").out.splitlines()
    check_equal(len(set(tokens)), 12, "tokens")
    check(all(t.startswith("accel-") for t in tokens), "one a line: %s", tokens)
    items = c.ok("node", "token", "--count", "2", "-o", "json").json()["items"]
    check_equal([sorted(i) for i in items], [["expires", "token"]] * 2, "as JSON")
    result = c.run("node", "token", "--count", "1001")
    check(result.rc == 2 and "1000" in result.err, "more than there may be: %s", result)
    result = c.run("node", "token", "--count", "1000")
    check(result.rc != 0 and "only 986 of 1000 tokens were made" in result.err, "%s", result)
    check_equal(len(result.out.splitlines()), 986, "those that were made")

    done = enrol_only(c, site, "n1", "--join", tokens[0], "--node-name", "n1")
    check_equal((done.returncode, done.stdout), (0, "n1\n"), done.stderr)
    check_equal(nodes(c), [], "nothing was started")
    first = files(site, "n1")
    for args in ((), ("--join", tokens[0])):  # again is no mistake, and costs no token
        done = enrol_only(c, site, "n1", *args)
        check_equal((done.returncode, done.stdout), (0, "n1\n"), done.stderr)
    check_equal(files(site, "n1"), first, "what it has")
    for args, rc, words in (((), 2, "nothing to enrol with"),
                            (("--join", tokens[0]), 1, "was used"),
                            (("--join", tokens[1], "--coordinator", "unix:/x"), 2, "nothing to")):
        done = enrol_only(c, site, "n2", *args)
        check_equal((done.returncode, done.stdout), (rc, ""), done.stderr)
        check(words in done.stderr, "why: %s", done.stderr)
    done = enrol_only(c, site, "n1", "--join", items[0]["token"][:-9])
    check_equal((done.returncode, done.stdout), (2, ""), "it was asked for no more than this")
    check_equal(files(site, "n1"), first, "what it has")
    acceld(site, "n1").expect("welcomed")
    check_equal(nodes(c), ["n1"], "nodes")


@site_test("provisioning as root: what was written belongs to the user that acceld becomes",
           needs_root=True)
def provisioning_as_root(c, site):
    site.node_state = lambda name: os.path.join(site.folder, name)  # the user nobody gets there
    args = ("--user", "nobody", "--min-uid", "1000")
    done = enrol_only(c, site, "n1", "--join", site.token(), "--node-name", "n1", *args)
    check_equal((done.returncode, done.stdout), (0, "n1\n"), done.stderr)
    nobody = pwd.getpwnam("nobody").pw_uid
    for name in files(site, "n1"):
        path = os.path.join(site.node_state("n1"), "tls", name)
        check_equal((os.stat(path).st_uid, os.stat(path).st_mode & 0o777), (nobody, 0o600), path)
    p = acceld(site, "n1", *args)
    p.expect("welcomed")
    stop(p, site)


@site_test("a replacement of the files that was cut off anywhere: finished, or as it was before")
def cut_off(c, site):
    site.stop(site.acceld("n1", token=site.token()))
    state = site.node_state("n1")
    tls, fresh, aside = (os.path.join(state, n) for n in ("tls", "tls.new", "tls.old"))
    old = files(site, "n1")
    c.ok("node", "remove", "n1")
    p = acceld(site, "n1", "--join", site.token())
    p.expect("welcomed")
    stop(p, site)
    new = files(site, "n1")

    def private(path, flags):
        return os.open(path, flags, 0o600)

    def put(path, what):
        os.mkdir(path, 0o700)
        for name, text in what.items():
            with open(os.path.join(path, name), "w", opener=private) as f:
                f.write(text)

    def clear():
        for path in (tls, fresh, aside):
            shutil.rmtree(path, ignore_errors=True)
    for have in ((tls, old), (fresh, new)), ((aside, old), (fresh, new)), ((fresh, new),), (
            (tls, new), (aside, old)), ((tls, new), (fresh, {"node.key": "x"})):
        clear()
        for path, what in have:
            put(path, what)
        p = acceld(site, "n1")
        p.expect("welcomed")
        stop(p, site)
        check_equal(files(site, "n1"), new, "files after %s" % [path for path, _ in have])
        check(not os.path.exists(fresh) and not os.path.exists(aside), "nothing is left beside")


if __name__ == "__main__":
    main()
