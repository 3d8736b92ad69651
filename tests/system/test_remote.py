#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The coordinator from another machine: accelctl with credentials, and another language's client.

Over loopback, where TCP and TLS are the same; what belongs to the way between two machines is in
other tests.
"""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from accel_test import check, check_equal, main, test  # noqa: E402
from accel_site import Site, stubs, why_no_grpc  # noqa: E402


def user_name():
    import pwd
    return pwd.getpwuid(os.getuid()).pw_name


def site_test(sentence):
    """A site with one node; remote: the environment of accelctl on another machine."""
    def add(function):
        def run(c):
            site = Site(c)
            try:
                site.acceld("n1", token=site.token())
                who = site.user(user_name())
                remote = {"ACCEL_COORDINATOR": site.address, "ACCEL_CREDENTIALS": os.path.join(
                    c.state_home, user_name() + ".pem")}
                function(c, site, who, remote)
            finally:
                site.close()
        run.__name__ = function.__name__
        test(sentence, needs=why_no_grpc)(run)
        return function
    return add


@site_test("attached over TCP: a coordinator that is killed and started again costs nothing")
def attached(c, site, who, remote):
    gate = c.gate("gate")
    job = c.start("launch", "--wrap", "echo one; read x < %s; echo two; exit 3" % gate.path,
                  env=remote)
    job.expect("one")
    follow = c.start("logs", "-f", "1", env=remote)
    follow.expect("one")
    site.coordinator.kill()
    site.coordinator.wait()
    site.coordinator = site.start_coordinator()
    gate.open()
    result = job.finish()
    check_equal((result.rc, result.out), (3, "one\ntwo\n"), "launch: %s" % result)
    check_equal(follow.finish().out, "one\ntwo\n", "logs -f")
    check_equal(c.run("wait", "1", env=remote).rc, 3, "wait")


@site_test("Debian's python3-grpcio with stubs from proto/ submits, watches, lists and cancels")
def other_language(c, site, who, remote):
    s, gate = stubs().job, c.gate("gate")
    spec = s.JobSpec(name="py", argv=[b"/bin/sh", b"-c", b"echo hi; read x < " +
                                      gate.path.encode()], cwd=b"/", procs_per_node=1)
    request = s.SubmitRequest(request_id=os.urandom(16), spec=spec)
    code, answer = site.call(who, "job", "Submit", request)
    check_equal(code, "OK", "submit: %s" % answer)
    check_equal(site.call(who, "job", "Submit", request)[1].job_id, answer.job_id, "a retry")
    channel = site.channel(who)
    watch = stubs().job_rpc.JobsStub(channel).Watch(s.WatchRequest(job_id=answer.job_id))
    for message in watch:
        if message.job.state == s.JOB_RUNNING:
            break
    found = site.call(who, "job", "List", s.ListRequest(), channel=channel)[1]
    check_equal([(j.id, j.user) for j in found.jobs], [(answer.job_id, user_name())], "list")
    code, read = site.call(who, "job", "Read", s.LogReadRequest(
        job_id=answer.job_id, wait=True, ranks=[0]), channel=channel)
    check_equal((code, read.chunks[0].data), ("OK", b"hi\n"), "output")
    code, ended = site.call(who, "job", "Cancel", s.CancelRequest(
        request_id=os.urandom(16), job_ids=[answer.job_id]), channel=channel)
    check_equal((code, ended.jobs[0].error), ("OK", ""), "cancel")
    last = None
    for message in watch:
        last = message.job
    check_equal((last.state, last.result), (s.JOB_ENDED, s.RESULT_CANCELLED), "the last word")
    gate.open()


@site_test("credentials: found by host, refused when others may read them, cut or missing")
def credentials(c, site, who, remote):
    folder = os.path.join(c.dir, ".config", "accel", "credentials")
    os.makedirs(folder)
    where = {"ACCEL_COORDINATOR": site.address, "XDG_CONFIG_HOME": None}
    result = c.fails(4, "ps", env=where)
    check("no credentials for 127.0.0.1" in result.err and "user cert" in result.err, "%s", result)
    with open(remote["ACCEL_CREDENTIALS"]) as f:
        good = f.read()
    for name in ("127.0.0.1.pem", site.address + ".pem", "default.pem"):
        path = os.path.join(folder, name)
        with open(path, "w", opener=lambda p, f: os.open(p, f, 0o600)) as f:
            f.write("# mine\n" + good)
        c.ok("ps", env=where)
        os.chmod(path, 0o640)
        result = c.fails(4, "ps", env=where)
        check("can be read by others" in result.err, "%s", result)
        os.unlink(path)
    path = os.path.join(folder, "default.pem")
    with open(path, "w", opener=lambda p, f: os.open(p, f, 0o600)) as f:
        f.write(good[:len(good) // 2])
    result = c.fails(2, "ps", env=where)
    check("does not hold credentials" in result.err, "%s", result)
    result = c.run("user", "cert", "x", "--out", path)
    check(result.rc != 0 and "exists" in result.err, "nothing is written over: %s", result)
    for address, words in (("unix:", "not an address"), ("/tmp/x", "not an address"),
                           ("host:99999", "not an address"), ("a:b:c", "not an address")):
        result = c.fails(2, "--coordinator", address, "ps", env=where)
        check(words in result.err, "%s", result)
    result = c.fails(5, "--coordinator", "127.0.0.1:1", "ps", env=remote)
    check("cannot connect" in result.err, "%s", result)


if __name__ == "__main__":
    main()
