#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Bad input: each is refused with what is wrong and what to do, or simply works."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from accel_test import check, check_equal, main, test  # noqa: E402


def refused(c, rc, words, *args, **how):
    """An error of the right form that has the words; no job comes of it."""
    result = c.fails(rc, *args, **how)
    lines = result.err.splitlines()
    check(lines and lines[0].startswith("accelctl: error: "), "form: %s", result)
    for word in words:
        check(word in result.err, "%r in %s", word, result)
    check_equal(result.out, "", "stdout")
    return result


@test("unknown or misspelt verbs and options come with a suggestion")
def misspelt(c):
    c.counts_starts = False
    refused(c, 2, ["lunch", "try: accelctl launch"], "lunch", "true")
    refused(c, 2, ["cancle", "cancel"], "cancle", "1")
    refused(c, 2, ["--proc", "--procs"], "launch", "--porcs", "2", "true")
    refused(c, 2, ["--max-restart", "--max-restarts"], "launch", "--max_restrats", "2", "true")
    refused(c, 2, ["--quite-unknown"], "ps", "--quite-unknown")
    refused(c, 2, ["accelctl launch train.py"], "train.py")
    refused(c, 2, ["no verb"])
    refused(c, 2, ["-Z"], "ps", "-Z")
    refused(c, 2, ["--devices", "cpu"], "launch", "--devices", "tpux", "true")
    check_equal(c.processes(), {}, "daemons started by mistakes")


@test("a program that is missing: 127; not executable: 126; a directory; an empty name")
def programs(c):
    c.counts_starts = False
    plain = c.write("plain", "#!/bin/sh\n", 0o644)
    for verb in ("launch", "submit"):
        refused(c, 127, ["no-such-program", "PATH"], verb, "no-such-program")
        refused(c, 127, ["./none", "No such file"], verb, "./none")
        refused(c, 127, ["none.py"], verb, "none.py")
        refused(c, 126, ["plain"], verb, plain)
        refused(c, 126, ["plain"], verb, "plain", env={"PATH": c.work})
        refused(c, 126, ["directory"], verb, "/tmp")
        refused(c, 127, [], verb, "")
        refused(c, 127, ["nopython"], verb, "--python", "nopython", c.write("x.py", ""))
        refused(c, 2, ["no program"], verb)


@test("a program that cannot be executed after all: the kernel's reason is told")
def not_a_program(c):
    c.write("broken", "#!/no/such/interpreter\n", 0o755)
    result = c.run("launch", "broken", env={"PATH": c.work})  # of a PATH no first line is read
    check(result.rc in (126, 127) and "No such file" in result.err, "why: %s", result)
    empty = c.write("garbage", b"\x7fELFnonsense", 0o755)
    result = c.fails(126, "launch", empty)
    check("xec format" in result.err, "why: %s", result)


@test("numbers: 0, 10^9, none, signs, more than exist")
def numbers(c):
    refused(c, 2, ["--procs", "1"], "launch", "--procs", "0", "true")
    refused(c, 2, ["--procs"], "launch", "--procs", "1000000000", "true")
    refused(c, 2, ["--procs"], "launch", "--procs", "two", "true")
    refused(c, 2, ["--procs"], "launch", "--procs", "-1", "true")
    refused(c, 2, ["--procs"], "launch", "--procs", "", "true")
    refused(c, 2, ["--procs"], "launch", "--procs")
    refused(c, 2, ["--procs"], "launch", "--procs", "99999999999999999999999", "true")
    refused(c, 2, ["--time"], "launch", "--time", "soon", "true")
    refused(c, 2, ["--mem"], "launch", "--mem", "much", "true")
    refused(c, 2, ["99999"], "launch", "--max-restarts", "99999", "true")
    refused(c, 125, ["16"], "launch", "--procs", "4000", "--devices", "cpu", "true")
    refused(c, 125, ["2"], "launch", "--nodes", "2", "true")
    result = refused(c, 125, ["GPU"], "launch", "--gpus", "1", "true")
    check("no GPU" in result.err or "0" in result.err, "what exists: %s", result)
    check_equal(c.jobs("-a"), [], "jobs")


@test("names and environments that cannot be")
def names(c):
    c.counts_starts = False
    refused(c, 2, ["--name"], "launch", "--name", "a b", "true")
    refused(c, 2, ["--name"], "launch", "--name", "x" * 65, "true")
    refused(c, 2, ["--env"], "launch", "--env", "=x", "true")
    refused(c, 2, ["NOT_SET_AT_ALL"], "launch", "--pass-env", "NOT_SET_AT_ALL", "true")
    refused(c, 2, ["wrap"], "launch", "--wrap", "true", "false")
    refused(c, 2, ["--cpu", "GPU"], "launch", "--cpu", "--gpus", "1", "true")
    refused(c, 2, ["id"], "describe", "seven")
    refused(c, 2, ["-1"], "logs", "-1")
    refused(c, 2, [], "logs", "1", "2")
    refused(c, 2, [], "logs", "1", "--rank", "x")
    refused(c, 2, ["--since"], "ps", "--since", "yesterdayish")


@test("arguments that are no UTF-8 reach the program as they are, and listings stay text")
def not_utf8(c):
    argument = b"caf\xe9 \xff\x01"
    result = c.ok("launch", "printf", "%s", argument)
    check_equal(os.fsencode(result.out), argument, "what the program got")
    text = c.ok("ps", "-a", "-o", "wide").out
    check("xe9" in text and "xff" in text, "listing: %r", text)
    check("\\xe9" in c.jobs("-a")[0]["command"], "JSON")
    folder = os.path.join(os.fsencode(c.work), b"d\xefr")
    os.mkdir(folder)
    result = c.ok("launch", "pwd", cwd=folder)
    check_equal(os.fsencode(result.out), folder + b"\n", "directory")
    result = c.ok("launch", "sh", "-c", 'printf %s "$BYTES"', env={"BYTES": os.fsdecode(argument)})
    check_equal(os.fsencode(result.out), argument, "environment")
    refused(c, 2, ["\\xff"], b"la\xffunch", "true")
    refused(c, 2, ["--pr"], "launch", b"--pr\xffcs", "true")


@test("arguments may be empty, hold newlines, or look like options")
def odd_arguments(c):
    odd = ["", "a\nb", "--procs", "-", "*", "'", '"', "\\", "$HOME", " "]
    result = c.ok("launch", "printf", "[%s]", *odd)
    check_equal(result.out, "".join("[%s]" % a for a in odd), "what the program got")
    job = c.submit("printf", "[%s]", *odd)
    c.wait(job, 0)
    check_equal(c.ok("logs", job).out, result.out, "by submit")
    for form in ("json", "yaml", "table", "wide"):
        c.ok("ps", "-a", "-o", form)


@test("the longest argument and variable of the kernel work, what becomes longer is refused")
def long_argument(c):
    limit = 131072  # of the kernel, with the NUL: accelctl itself gets no longer ones
    result = c.ok("launch", "sh", "-c", "echo ${#1}", "sh", "x" * (limit - 1))
    check_equal(result.out, "%d\n" % (limit - 1), "length")
    result = c.ok("launch", "sh", "-c", "echo ${#BIG}", env={"BIG": "x" * (limit - 5)})
    check_equal(result.out, "%d\n" % (limit - 5), "length of a variable")
    # the directory is put before it
    refused(c, 125, ["output"], "launch", "--output", "o" * (limit - 10), "true")


@test("an environment of 1 MB reaches the program whole")
def long_environment(c):
    env = {"BIG_%d" % i: "y" * 100000 for i in range(10)}
    result = c.ok("launch", "sh", "-c", "env | grep ^BIG_ | wc -c", env=env)
    check_equal(int(result.out), 10 * (100000 + 7), "bytes")
    names = [a for i in range(10) for a in ("--pass-env", "BIG_%d" % i)]
    job = c.submit(*names, "sh", "-c", "env | grep ^BIG_ | wc -c", env=env)
    c.wait(job, 0)
    check_equal(int(c.ok("logs", job).out), 10 * (100000 + 7), "bytes by submit")


@test("many arguments: thousands of them reach the program")
def many_arguments(c):
    result = c.ok("launch", "sh", "-c", 'echo $# "$1" "${20000}"', "sh", *["a%d" % i for i in
                                                                        range(1, 20001)])
    check_equal(result.out, "20000 a1 a20000\n", "arguments")


@test("someone else's job cannot be ended, read or signalled", needs_root=True)
def other_users(c):
    gate = c.gate("gate")
    job = c.submit("sh", "-c", "echo secret; read x < %s" % gate.path)
    c.wait(job, running=True)
    for name in (c.dir, c.runtime, os.path.join(c.runtime, "accel")):
        os.chmod(name, 0o755)
    path = os.path.join(c.runtime, "accel", "coordinator.sock")
    os.chmod(path, 0o666)
    stranger = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
    address = {"ACCEL_COORDINATOR": "unix:" + path}
    how = {"prefix": stranger, "env": address, "cwd": "/"}
    probe = c.run("version", prefix=stranger + ["test", "-x", os.path.join(c.bin, "accelctl")],
                  cwd="/")
    if probe.rc == 0:
        for verb in (["cancel", job], ["logs", job], ["cancel", "--kill", job]):
            result = c.run(*verb, **how)
            check(result.rc in (1, 4), "refused: %s", result)
            check("secret" not in result.out, "nothing is shown: %s", result)
        check(c.run("admin", "shutdown", **how).rc in (1, 4), "shutdown is refused")
    check_equal(c.describe(job)["state"], "RUNNING", "state")
    gate.open()
    c.wait(job, 0)


@test("ACCEL_EXIT_ERROR replaces 125")
def exit_error(c):
    c.fails(77, "launch", "--nodes", "2", "true", env={"ACCEL_EXIT_ERROR": "77"})


if __name__ == "__main__":
    main()
