#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The same software on two nodes: two acceld on one host, each with a state of its own."""
import os
import re
import signal
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from conformance import (CURRENT, PYTHON, SLOW_S, Gate, Mailbox, check_equal,  # noqa: E402
                         compile_c, current, current_with_mpich, debian_torch, main,
                         mpi_lines, mpich, script, start_second, sum_mpi4py, torchrun,
                         train_accelerate, train_ddp, train_jax, two_nodes)

TWO = ["--nodes", "2", "--procs", "1"]
NEW_PYTHON = os.path.join(CURRENT, "bin", "python3")


@two_nodes("Debian's torch; a killed rank comes back", needs=debian_torch)
def ddp(c, second):
    train_ddp(c, PYTHON, TWO, local="0")


@two_nodes("Debian's torchrun without an option", needs=debian_torch)
def old_torchrun(c, second):
    ends, result = torchrun(c, "/usr/bin/torchrun", ["--nodes", "2", "--label"])
    check_equal(ends, [("0", "4", "0"), ("1", "4", "1"), ("2", "4", "0"), ("3", "4", "1")],
                str(result))


@two_nodes("current torch; a killed rank comes back", needs=current)
def new_ddp(c, second):
    train_ddp(c, NEW_PYTHON, TWO, local="0")


@two_nodes("current torchrun without an option", needs=current)
def new_torchrun(c, second):
    program = os.path.join(CURRENT, "bin", "torchrun")
    ends, result = torchrun(c, program, ["--nodes", "2", "--label"])
    check_equal(ends, [("0", "4", "0"), ("1", "4", "1"), ("2", "4", "0"), ("3", "4", "1")],
                str(result))


@two_nodes("Accelerate; a killed rank comes back", needs=current)
def accelerate(c, second):
    train_accelerate(c, NEW_PYTHON, TWO)


@two_nodes("JAX; a killed rank comes back", needs=current)
def jax(c, second):
    train_jax(c, NEW_PYTHON, TWO)


@two_nodes("an MPICH program; its barriers go through the coordinator", needs=mpich)
def mpi(c, second):
    program = compile_c(c, "mpi_sum.c", "mpicc.mpich")
    result = c.ok("launch", "--nodes", "2", "--procs", "2", "--launcher", "mpi", "--label", program)
    check_equal(mpi_lines(result), [("0", "4", "6", "3", "0"), ("1", "4", "6", "0", "1"),
                                    ("2", "4", "6", "1", "0"), ("3", "4", "6", "2", "1")],
                str(result))


@two_nodes("mpi4py", needs=current_with_mpich)
def mpi4py(c, second):
    sum_mpi4py(c, NEW_PYTHON, TWO)


def rounds(c, kill):
    """A barrier that rank 0 is in and rank 1 is not survives what `kill` does."""
    box, gate = Mailbox(c.path("box")), Gate(c.path("gate"))
    launch = c.start("launch", *TWO, "--launcher", "mpi", "--label", "--python", PYTHON,
                     script("pmi_rounds.py"), "4", box.path, gate.path)
    check_equal(box.line(), "rank 1 waits", "the mailbox")
    kill()
    gate.open()
    result = launch.finish(SLOW_S)
    check_equal(result.rc, 0, str(result))
    check_equal(sorted(re.findall(r"rank (\d) of 2 met 4 times", result.out)), ["0", "1"],
                str(result))


@two_nodes("a barrier outlives the coordinator")
def coordinator_killed(c, second):
    rounds(c, c.kill_coordinator)


@two_nodes("a barrier outlives both acceld")
def acceld_killed(c, second):
    def kill():
        pids = c._daemon_pids("acceld ")
        check_equal(len(pids), 2, "acceld")
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        second[0].wait()
        second[0] = start_second(c)
        c.ok("nodes")
    rounds(c, kill)


if __name__ == "__main__":
    main()
