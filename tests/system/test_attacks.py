#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Who may do what in a cluster of several machines: everything else is refused, told and counted.

Real daemons on loopback with real certificates; the attacker is python3-grpcio, which says what the
test wants, or accelctl as another user.
"""
import os
import subprocess
import sys
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from accel_test import check, check_equal, main  # noqa: E402
from accel_site import (Identity, Session, new_csr, new_key, openssl,  # noqa: E402
                        secret_of, site_test, stubs, until)


def denied(found, *words):
    """The refusal of a call, with these words in its text."""
    code, text = found
    check(code in ("PERMISSION_DENIED", "UNAUTHENTICATED"), "wanted a refusal: %s %s", code, text)
    for word in words:
        check(word in text, "%r is not in %r", word, text)


def end_of(stream):
    """How it ends: code and text."""
    import grpc
    try:
        for _ in stream:
            pass
    except grpc.RpcError as e:
        return e.code().name, e.details()
    return "OK", "as if all were well"


def counted(site, kind, before, at_least=1):
    until(lambda: site.refused(kind) >= before + at_least,
          "refused_%s counts %d more than %d" % (kind, at_least, before))
    events = site.c.ok("events", "-o", "json").out
    check('"refused"' in events, "an event of the refusal: %s", events[-500:])
    check("refused: " in site.log("coordinator"), "the log of the coordinator tells it")


def jobs(**how):
    return stubs().job.ListRequest(**how)


def start_job(c, *options):
    """A job that runs until its gate opens."""
    gate = c.gate("gate")
    job = c.submit(*options, "--wrap", "echo started; read x < %s" % gate.path)
    c.wait(job, running=True)
    return job, gate


@site_test("no certificate: nothing but enrolment is served, and that wants a token")
def no_certificate(c, site):
    before = site.refused("rights")
    denied(site.call(Identity(), "job", "List", jobs()), "the role")
    denied(site.call(Identity(), "admin", "Status", stubs().admin.StatusRequest()))
    denied(site.call(Identity(), "trust", "CreateNodeToken",
                     stubs().trust.CreateNodeTokenRequest()))
    counted(site, "rights", before, 3)
    denied(site.call(Identity(), "trust", "Renew", stubs().trust.RenewRequest(
        request_id=os.urandom(16), csr_pem=new_csr(new_key(), "root", site.folder))))
    denied(site.enroll(b"x" * 32, "n1"), "not known")
    check_equal(site.refused("tokens"), 1, "guessed tokens")
    before = site.refused("rights")
    for method in ("health.v1.Health/Check", "reflection.v1.ServerReflection/ServerReflectionInfo"):
        denied(site.raw_call(Identity(), "/grpc." + method), "a certificate is needed")
    counted(site, "rights", before, 2)
    check("was called without a certificate, from ipv4:127.0.0.1:" in site.log("coordinator"),
          "who")


@site_test("a certificate of another CA, and one that has expired: no handshake")
def another_ca(c, site):
    folder, key = site.folder, new_key()
    ca_key, real_key = os.path.join(folder, "ca.key"), os.path.join(site.state, "tls", "ca.key")
    with open(ca_key, "w") as f:
        f.write(new_key())
    ca = os.path.join(folder, "ca.pem")
    with open(ca, "w") as f:
        f.write(openssl("req", "-x509", "-key", ca_key, "-subj", "/CN=accel CA", "-days", "9"))
    csr = os.path.join(folder, "csr")
    with open(csr, "w") as f:
        f.write(new_csr(key, "root", folder))
    extensions = os.path.join(folder, "ext")
    with open(extensions, "w") as f:
        f.write("subjectAltName=URI:accel://user/root\nextendedKeyUsage=clientAuth\n")
    forged = openssl("x509", "-req", "-in", csr, "-CA", ca, "-CAkey", ca_key, "-extfile",
                     extensions, "-days", "9")
    before = site.refused("handshakes")
    code, text = site.call(Identity(key, forged), "job", "List", jobs())
    check(code == "UNAVAILABLE", "another CA: %s %s", code, text)
    counted(site, "handshakes", before)

    with open(os.path.join(folder, "index"), "w"):
        pass
    config = os.path.join(folder, "cnf")
    with open(config, "w") as f:
        f.write("[ca]\ndefault_ca=d\n[d]\ndatabase=%s/index\nnew_certs_dir=%s\nrand_serial=yes\n"
                "default_md=sha256\npolicy=p\n[p]\ncommonName=supplied\n" % (folder, folder))
    expired = openssl("ca", "-batch", "-notext", "-config", config, "-in", csr, "-cert",
                      os.path.join(site.state, "tls", "ca.pem"), "-keyfile", real_key, "-extfile",
                      extensions, "-startdate", "20200101000000Z", "-enddate", "20200201000000Z")
    before = site.refused("handshakes")
    code, text = site.call(Identity(key, expired), "job", "List", jobs())
    check(code == "UNAVAILABLE", "expired: %s %s", code, text)
    counted(site, "handshakes", before)

    # Signed with our CA's key, but not by us: no row, no rights.
    unknown = openssl("x509", "-req", "-in", csr, "-CA", os.path.join(site.state, "tls", "ca.pem"),
                      "-CAkey", real_key, "-extfile", extensions, "-days", "9")
    before = site.refused("certificates")
    denied(site.call(Identity(key, unknown), "job", "List", jobs()), "not known")
    counted(site, "certificates", before)
    with open(extensions, "w") as f:  # nor anybody's
        f.write("subjectAltName=URI:accel://user/root,URI:accel://user/ann\n")
    nobody = openssl("x509", "-req", "-in", csr, "-CA", os.path.join(site.state, "tls", "ca.pem"),
                     "-CAkey", real_key, "-extfile", extensions, "-days", "9")
    denied(site.call(Identity(key, nobody), "job", "List", jobs()), "names neither a node nor")
    counted(site, "certificates", before, 2)


@site_test("a revoked user: refused from then on, and what he has open ends")
def revoked(c, site):
    ann = site.user("ann", "--role", "operator")
    check_equal(site.call(ann, "job", "List", jobs())[0], "OK", "before")
    channel = site.channel(ann)
    stream = stubs().event_rpc.EventsStub(channel).Watch(
        stubs().event.EventsRequest(follow=True))
    next(stream)
    c.ok("user", "revoke", "ann")
    denied(end_of(stream))
    before = site.refused("certificates")
    denied(site.call(ann, "job", "List", jobs(), channel=channel), "revoked")
    denied(site.call(ann, "job", "List", jobs()), "revoked")
    counted(site, "certificates", before, 2)
    listed = c.ok("user", "ls", "-o", "json").json()["items"]
    check_equal(c.ok("user", "list", "-o", "json").json()["items"], listed, "as node list")
    check_equal([(u["name"], u["role"], u["certificates"]) for u in listed], [("ann", "user", 0)],
                "users")


@site_test("one token, eight that redeem it at once: one wins; a retry gets the first answer")
def token_twice(c, site):
    secret, found = secret_of(site.token()), []
    ids = [os.urandom(16) for _ in range(8)]

    def redeem(i):
        found.append((i,) + tuple(site.enroll(secret, "n%d" % i, request_id=ids[i])))
    threads = [threading.Thread(target=redeem, args=(i,)) for i in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    won = [f for f in found if f[1] == "OK"]
    check_equal(len(won), 1, "winners")
    for i, code, text in found:
        if code != "OK":
            denied((code, text), "was used")
    counted(site, "tokens", 0, 7)
    code, again = site.enroll(secret, "n%d" % won[0][0], request_id=ids[won[0][0]])
    check_equal((code, again.cert), ("OK", won[0][2].cert), "the first answer, again")


@site_test("a token that has expired, was cut, or is somebody else's text")
def bad_tokens(c, site):
    admin = site.user("root", "--role", "admin")
    code, made = site.call(admin, "trust", "CreateNodeToken",
                           stubs().trust.CreateNodeTokenRequest(life_ms=1))
    check_equal(code, "OK", "a token")
    until(lambda: "expire" in site.enroll(secret_of(made.token), "n1")[1], "it expires")
    counted(site, "tokens", 0)
    token = site.token()
    for text, words in ((token[:-9], "cut or changed"), ("accel-%%%", "no enrolment token"),
                        ("hello", "no enrolment token")):
        p = site.acceld("bad", token=text, wanted=False)
        check(p.wait(60) == 2, "exit code of acceld")
        check(words in site.log("bad"), "why: %s", site.log("bad"))
        check(token[20:60] not in site.log("bad"), "the token is not told")


@site_test("a user's certificate is no node's, and a node's no user's")
def wrong_kind(c, site):
    ann, n1 = site.user("ann"), site.fake_node("n1")
    before = site.refused("rights")
    session = Session(site, ann, "n1")
    denied(session.next(), "role node")
    session.close()
    denied(site.call(n1, "job", "List", jobs()), "role user")
    denied(site.call(n1, "trust", "SignUser", stubs().trust.SignUserRequest(
        request_id=os.urandom(16), name="n1", role=3,
        csr_pem=new_csr(new_key(), "n1", site.folder))))
    counted(site, "rights", before, 3)


@site_test("a node is who its certificate says, and of an era that was")
def lying_hello(c, site):
    n1, before = site.fake_node("n1"), site.refused("sessions")
    session = Session(site, n1, "n2")
    denied(session.next(), "the certificate is of node n1")
    session.close()
    site.acceld("n2", token=site.token())
    job, gate = start_job(c)
    now = c.status()
    for era, epoch in ((1 << 61, 0), (now["era"], 1 << 61), (now["era"] + 1, 0),
                       (now["era"], now["epoch"] + 1)):  # the last two may have been
        session = Session(site, n1, "n1", era=era, epoch=epoch)
        denied(session.next(), "era", "cannot prove")
        session.close()
    counted(site, "sessions", before, 5)
    check_equal(c.status()["era"], now["era"], "era")
    gate.open()
    c.wait(job, 0)
    check_equal(len(c.describe(job)["attempts"]), 1, "attempts of the job of others")
    session = Session(site, n1, "n1")
    check(session.next("welcome").welcome.era > 0, "the truth is welcome")
    copy = Session(site, n1, "n1", machine_id="another")
    denied(copy.next(), "another machine")
    copy.close()
    session.close()
    counted(site, "sessions", before, 6)


@site_test("reports about another's attempt, or an attempt or era that never was: ignored, counted")
def forged_reports(c, site):
    site.acceld("n1", token=site.token())
    job, gate = start_job(c)
    n2, s = site.fake_node("n2"), stubs()
    session = Session(site, n2, "n2")
    era = session.next("welcome").welcome.era
    before = site.refused("reports")
    forged = [(int(job), 1, era), (int(job), 99, era), (int(job), 0, era), (int(job) + 1, 1, era),
              (int(job), 1, era + 1)]
    for seq, (job_id, attempt, of_era) in enumerate(forged, 1):
        ref = s.agent.AttemptRef(job_id=job_id, attempt=attempt, era=of_era)
        session.say(report=s.agent.Report(seq=seq, ended=s.agent.AttemptEnded(
            ref=ref, cause=1, text="forged", first_failed_rank=-1)))
        check_equal(session.next("report_ack").report_ack.seq, seq, "it may forget what it said")
    session.say(blob_read=s.agent.BlobRead(id=1, hash=b"h" * 32, ref=s.agent.AttemptRef(
        job_id=int(job), attempt=1, era=era)))
    check_equal(session.next("blob").blob.code, 7, "an archive of another's attempt: denied")
    counted(site, "reports", before, len(forged) + 1)
    check_equal(c.describe(job)["state"], "RUNNING", "the job")
    # An answer to what was asked of another: n1 is asked for the log, n2 answers all numbers near.
    reader = c.start("logs", "-f", job)
    reader.expect("started")
    for number in range(1, 2000):
        session.say(log_data=s.agent.LogData(id=number, reply=s.job.LogReadReply(
            attempt=1, ended=True, chunks=[s.job.LogChunk(rank=0, data=b"forged\n", eof=True)])))
    session.say(report=s.agent.Report(seq=9))
    session.next("report_ack")
    gate.open()
    c.wait(job, 0)
    check("forged" not in reader.finish().out, "the log is that of n1")
    session.close()


@site_test("a name belongs to one machine until `node remove`, which takes everything from it")
def one_name(c, site):
    acceld = site.acceld("n1", token=site.token())
    job, gate = start_job(c)
    before, other = site.refused("sessions"), site.token()
    code, text = site.enroll(secret_of(other), "n1", machine_id="another")
    check(code == "ALREADY_EXISTS" and "node remove n1" in text, "refused: %s %s", code, text)
    counted(site, "sessions", before)
    who = site.node_identity("n1")
    result = c.ok("node", "remove", "n1")
    check("1 running attempt lost" in result.err, "what it did: %s", result)
    check_equal(c.ok("nodes", "-o", "json").json()["items"], [], "nodes")
    attempt = c.describe(job)["attempts"][0]
    check_equal(attempt["cause"], "node_lost", "the end of the attempt")
    session = Session(site, who, "n1")
    denied(session.next(), "revoked")
    session.close()
    until(lambda: "revoked" in site.log("n1"), "acceld says why it is not let in")
    site.stop(acceld)
    code, identity = site.enroll(secret_of(other), "n1", machine_id="another")
    check_equal(code, "OK", "the name is free again, and the token was not used up: %s" % identity)
    session = Session(site, identity, "n1", machine_id="another")
    session.next("welcome")
    started = session.next("start").start
    check_equal((started.ref.job_id, started.ref.attempt), (int(job), 2), "the job goes on there")
    check_equal(started.user, "root" if os.getuid() == 0 else started.user, "whose it is")
    session.say(report=stubs().agent.Report(seq=1, ended=stubs().agent.AttemptEnded(
        ref=started.ref, cause=1, first_failed_rank=-1)))
    session.next("report_ack")
    c.wait(job, 0)
    session.close()
    gate.open()


OTHERS = [("job", "Get", lambda s, j: s.job.GetRequest(job_id=j)),
          ("job", "Watch", lambda s, j: s.job.WatchRequest(job_id=j)),
          ("job", "Signal", lambda s, j: s.job.SignalRequest(job_id=j, signo=15)),
          ("job", "Input", lambda s, j: s.job.InputRequest(job_id=j, data=b"x")),
          ("job", "Read", lambda s, j: s.job.LogReadRequest(job_id=j)),
          ("event", "Watch", lambda s, j: s.event.EventsRequest(job_id=j))]


@site_test("a job is its owner's and the operators': others see that it is there, and no more")
def owners(c, site):
    site.acceld("n1", token=site.token())
    job, gate = start_job(c, "--name", "secret")
    ann, bob, s = site.user("ann"), site.user("bob", "--role", "operator"), stubs()
    before = site.refused("rights")
    for service, method, request in OTHERS:
        denied(site.call(ann, service, method, request(s, int(job))), "belongs to")
    cancel = s.job.CancelRequest(request_id=os.urandom(16), job_ids=[int(job)])
    code, answer = site.call(ann, "job", "Cancel", cancel)
    check(code == "OK" and "belongs to" in answer.jobs[0].error, "cancel: %s %s", code, answer)
    counted(site, "rights", before, len(OTHERS) + 1)
    code, answer = site.call(ann, "job", "List", jobs(all_users=True))
    check_equal([(j.id, j.command) for j in answer.jobs], [(int(job), b"")], "what ann is shown")
    check_equal(len(site.call(ann, "job", "List", jobs())[1].jobs), 0, "ann's own")
    check_equal(site.call(bob, "job", "Get", s.job.GetRequest(job_id=int(job)))[0], "OK", "bob")
    watch = stubs().job_rpc.JobsStub(site.channel(bob)).Watch(s.job.WatchRequest(job_id=int(job)))
    next(watch)
    c.ok("user", "role", "bob", "user")
    denied(end_of(watch), "no operator any more")
    denied(site.call(bob, "job", "Get", s.job.GetRequest(job_id=int(job))), "belongs to")
    c.ok("user", "role", "bob", "operator")
    cancel = s.job.CancelRequest(request_id=os.urandom(16), job_ids=[int(job)], kill=True)
    check_equal(site.call(bob, "job", "Cancel", cancel)[1].jobs[0].error, "", "bob ends it")
    c.wait(job, 130)
    gate.open()


def as_nobody(site, *args):
    """accelctl of another user of this host."""
    return subprocess.run(["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups",
                           os.path.join(site.c.bin, "accelctl")] + list(args),
                          env={**site.c.env, "HOME": "/tmp", "XDG_RUNTIME_DIR": ""}, cwd="/",
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, timeout=60)


@site_test("another uid on the local socket: the kernel keeps it out", needs_root=True)
def another_uid(c, site):
    done = as_nobody(site, "ps")
    check(done.returncode == 4 and b"ermission" in done.stderr, "refused: %s", done)


@site_test("another uid where the socket is for all: a user like any other", "--socket-mode",
           "0666", needs_root=True)
def open_socket(c, site):
    site.acceld("n1", token=site.token())
    job, gate = start_job(c)
    before = site.refused("rights")
    for args in (("describe", job), ("logs", job), ("cancel", "-y", job), ("events", job),
                 ("admin", "shutdown"), ("node", "token"), ("node", "remove", "n1"),
                 ("user", "cert", "x", "--out", "/tmp/never.pem"), ("user", "ls")):
        done = as_nobody(site, *args)
        check(done.returncode in (1, 4), "%s: %s", args, done)
        check(b"belongs to root" in done.stderr or b"for the role" in done.stderr, "%s", done)
        check(b"why: " in done.stderr and (args[0] == "cancel" or b"try: ask " in done.stderr),
              "what to do: %s", done)
        if args[0] in ("admin", "node", "user"):
            words = "accelctl %s %s is not for nobody" % args[:2]
            check(words.encode() in done.stderr, "%r is not told: %s", words, done)
    counted(site, "rights", before, 9)
    listed = as_nobody(site, "ps", "-A", "-o", "json")
    check(listed.returncode == 0 and b"echo started" not in listed.stdout, "%s", listed)
    c.ok("user", "role", "nobody", "operator")
    done = as_nobody(site, "describe", job)
    check(done.returncode == 0, "the role comes from the table: %s", done)
    gate.open()
    c.wait(job, 0)


@site_test("join: from a file, the environment, once; later starts need nothing")
def join(c, site):
    token = site.token()
    p = site.acceld("n1", token=token)
    check_equal([n["name"] for n in c.ok("nodes", "-o", "json").json()["items"]], ["n1"], "nodes")
    site.stop(p)
    for name in ("node.key", "node.pem", "ca.pem", "coordinator"):
        path = os.path.join(site.node_state("n1"), "tls", name)
        check_equal(os.stat(path).st_mode & 0o777, 0o600, "mode of " + name)
    p = site.acceld("n1")  # name and address are those that it has joined with
    check_equal(c.ok("launch", "echo", "here").out, "here\n", "a job")
    site.stop(p)
    p = site.acceld("n1", "--node-name", "n9", wanted=False)
    check(p.wait(60) == 1 and "enrolled as n1, not as n9" in site.log("n1"), "another name")
    p = site.acceld("n2", "--node-name", "n2", env={"ACCEL_JOIN_TOKEN": site.token()})
    with open("/proc/%d/environ" % p.pid, "rb") as f:
        check(b"accel-" not in f.read().partition(b"ACCEL_JOIN_TOKEN=")[2].partition(b"\0")[0],
              "the token is not left in the environment")
    site.acceld("n3", "--node-name", "n3", "--join", site.token())
    with open("/proc/%d/cmdline" % site.daemons[-1].pid, "rb") as f:
        check(b"accel-C" not in f.read(), "nor among the arguments")
    c.ok("launch", "--devices", "cpu", "true")


@site_test("certificates are renewed in time, and an expired one is refused",
           "--certificate-life", "12s")
def renewal(c, site):
    site.acceld("n1", token=site.token())
    ann = site.user("ann")
    kept = site.channel(ann)
    check_equal(site.call(ann, "job", "List", jobs(), kept)[0], "OK", "ann, in time")
    path = os.path.join(site.node_state("n1"), "tls", "node.pem")

    def serial():
        return openssl("x509", "-in", path, "-noout", "-serial")
    first = serial()
    until(lambda: serial() != first, "the node has a new certificate")
    check_equal(c.ok("launch", "echo", "here").out, "here\n", "a job")

    def refusal():
        code, text = site.call(ann, "job", "List", jobs(), kept)
        return code != "OK" and (code, text.split("\n")[0])
    check_equal(until(refusal, "ann's has expired"),
                ("UNAUTHENTICATED", "the certificate of ann has expired"), "while connected")
    check_equal(site.refused("certificates"), 1, "counted")
    # OpenSSL counts whole seconds and takes the last one for good.
    until(lambda: site.call(ann, "job", "List", jobs())[0] == "UNAVAILABLE", "no handshake")
    until(lambda: site.refused("handshakes") > 0, "counted")


if __name__ == "__main__":
    main()
