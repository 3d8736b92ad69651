# SPDX-License-Identifier: Apache-2.0
"""What the conformance tests share: where the software is, and the story that every training script
goes through: it trains, one of its processes is killed, it comes back from its own snapshot."""
import os
import re
import shutil
import signal
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "lib"))
from accel_test import PYTHON, Gate, Mailbox, check, check_equal, main, test  # noqa: E402,F401

SLOW_S = 240  # torch starts slowly, more so where it shares two cores with other tests
CURRENT = os.path.join(os.environ.get("XDG_CACHE_HOME") or
                       os.path.join(os.path.expanduser("~"), ".cache"), "accel", "conformance-v1")


def script(name):
    return os.path.join(HERE, "scripts", name)


def read(path):
    try:
        with open(path, encoding="utf-8") as f:
            return f.read().strip()
    except OSError:
        return ""


# ---- what is here; each returns why not, or None ----


def debian_torch():
    done = subprocess.run([PYTHON, "-c", "import torch"], stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL)
    return None if done.returncode == 0 else "%s cannot import torch" % PYTHON


def current():
    if os.path.exists(os.path.join(CURRENT, ".complete")):
        return None
    return read(os.path.join(CURRENT, ".skipped")) or "scripts/conformance-env was not run"


def mpich():
    return None if shutil.which("mpicc.mpich") else "no mpicc.mpich"


def current_with_mpich():
    return current() or mpich()


# ---- a second node ----


def start_second(c):
    """Starts another acceld on this host, with a state of its own, and waits until it is ready."""
    state = os.path.join(c.dir, "s2")
    os.makedirs(state, 0o700, exist_ok=True)
    listen = os.path.join(c.runtime, "accel", "coordinator.sock")
    ready, write = os.pipe()
    with open(os.path.join(c.dir, "acceld2.log"), "ab") as log:
        popen = subprocess.Popen(
            [os.path.join(c.bin, "acceld"), "--coordinator", "unix:" + listen, "--state-dir", state,
             "--node-name", "n2", "--ready-fd", str(write)], env=c.env, pass_fds=(write,),
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    os.close(write)
    check_equal(os.read(ready, 16), b"ready\n", "the second acceld says")
    os.close(ready)
    return popen


def two_nodes(sentence, **how):
    """A test whose cluster has a second node: the function gets it too, as a list of one process
    that it may replace."""
    def add(function):
        def run(c):
            c.counts_starts = False  # there are two of them
            c.ok("nodes")  # the coordinator and the first
            second = [start_second(c)]
            try:
                function(c, second)
            finally:
                second[0].terminate()
                second[0].wait()
        return test("two nodes: " + sentence, **how)(run)
    return add


# ---- the story ----


def killed(c, options, command, begins, resumes, ends, kill=1):
    """Runs `accelctl launch OPTIONS -- COMMAND` with one restart; when a line `begins`, SIGKILL to
    a rank; then a line must say that it `resumes`; the matches of `ends` come back."""
    launch = c.start("launch", "--label", "--max-restarts", "1", *options, "--", *command)
    launch.expect(begins, SLOW_S)
    os.kill([r["pid"] for r in c.ranks(1) if r["rank"] == kill][0], signal.SIGKILL)
    result = launch.finish(SLOW_S)
    check_equal(result.rc, 0, str(result))
    attempts = c.describe(1)["attempts"]
    check_equal([a["cause"] for a in attempts], ["worker_failed", "succeeded"], "causes")
    check_equal(attempts[0]["first_failed_rank"], kill, "first failed rank")
    resumed = re.search(resumes, result.out)
    check(resumed and int(resumed.group(1)) > 0, "resumed: %s", result)
    return sorted(re.findall(ends, result.out, re.M)), result


def losses(text):
    return [float(loss) for loss in re.findall(r"loss ([\d.]+)", text)]


def train_ddp(c, python, options, local=r"\d"):
    """DistributedSampler's promise is checked too: every sample once per epoch."""
    ends, result = killed(
        c, list(options) + ["--python", python],
        [script("train_ddp.py"), "--snapshot", c.path("snapshot")], r"epoch 7 loss",
        r"resumes at epoch (\d+)", r"rank (\d) of 2 local %s done, weights ([\d.]+)$" % local)
    check_equal([rank for rank, _ in ends], ["0", "1"], "ends")
    check_equal(ends[0][1], ends[1][1], "weights of both ranks")
    counts = set(re.findall(r"samples (\d+) once (\d+)", result.out))
    check_equal(counts, {("256", "256")}, "samples in an epoch")
    seen = losses(result.out)
    check(seen[-1] < seen[0] / 2, "the loss went down: %s", seen)


def train_accelerate(c, python, options):
    ends, result = killed(
        c, list(options) + ["--python", python],
        [script("train_accelerate.py"), "--snapshot", c.path("snapshot")], r"epoch 7 accuracy",
        r"resumes at epoch (\d+)", r"rank (\d) of 2 local \d on cpu(?::0)? done")
    check_equal(ends, ["0", "1"], "ends")
    counted = set(re.findall(r"of (\d+)$", "\n".join(re.findall(r"accuracy.*", result.out)), re.M))
    check_equal(counted, {"101"}, "samples counted, without those that were added")
    accuracy = [float(x) for x in re.findall(r"accuracy ([\d.]+)", result.out)]
    check(accuracy[-1] > 0.9, "it learned: %s", accuracy)


def train_jax(c, python, options):
    ends, result = killed(
        c, list(options) + ["--launcher", "jax", "--python", python],
        [script("train_jax.py"), "--snapshot", c.path("snapshot")], r"process 1 step 40 loss",
        r"resumes at step (\d+)", r"process (\d) of 2 devices 2 done, loss [\d.]+, all \[0, 1\]")
    check_equal(ends, ["0", "1"], "ends")
    seen = losses(result.out)
    check(seen[-1] < seen[0] / 2, "the loss went down: %s", seen)


def sum_mpi4py(c, python, options):
    result = c.ok("launch", *options, "--launcher", "mpi", "--label", "--env",
                  "LD_LIBRARY_PATH=" + os.path.join(CURRENT, "mpich"), "--python", python,
                  script("sum_mpi4py.py"), timeout=SLOW_S)
    check_equal(sorted(re.findall(r"rank (\d) of 2 sum 1 names r0,r1", result.out)), ["0", "1"],
                str(result))


def torchrun(c, program, options=()):
    """A bare torchrun finds everything in its environment; --procs is meant for it."""
    result = c.ok("launch", "--procs", "2", *options, program, script("train_ddp.py"),
                  "--snapshot", c.path("snapshot"), "--epochs", "3", timeout=SLOW_S)
    ends = re.findall(r"rank (\d) of (\d) local (\d) done", result.out)
    return sorted(ends), result


def compile_c(c, name, compiler, *flags):
    target = c.path(name.rpartition(".")[0])
    subprocess.run([compiler, "-O1", "-o", target, script(name), *flags], check=True,
                   stdin=subprocess.DEVNULL)
    return target


def mpi_lines(result):
    return sorted(re.findall(r"rank (\d) of (\d) sum (\d) from (\d) local (\d)", result.out))
