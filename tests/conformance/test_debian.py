#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Debian's software, which is old: torch and torchrun 1.13, MPICH 4.0, and C without a library."""
import os
import re
import shutil
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from conformance import (PYTHON, SLOW_S, check, check_equal, compile_c,  # noqa: E402
                         debian_torch, main, mpi_lines, mpich, test, torchrun, train_ddp)

TORCHRUN = "/usr/bin/torchrun"


@test("Debian's torch: DistributedSampler and DDP; a killed rank comes back", needs=debian_torch)
def ddp(c):
    train_ddp(c, PYTHON, ["--procs", "2"])


@test("Debian's torchrun without an option", needs=debian_torch)
def bare_torchrun(c):
    ends, result = torchrun(c, TORCHRUN)
    check_equal(ends, [("0", "2", "0"), ("1", "2", "1")], str(result))


@test("an MPICH program without mpiexec", needs=mpich)
def mpi(c):
    program = compile_c(c, "mpi_sum.c", "mpicc.mpich")
    result = c.ok("launch", "--procs", "3", "--launcher", "mpi", "--label", program)
    check_equal(mpi_lines(result), [("0", "3", "3", "2", "0"), ("1", "3", "3", "0", "1"),
                                    ("2", "3", "3", "1", "2")], str(result))


@test("an MPICH program without --launcher mpi is alone, as it would be in a shell", needs=mpich)
def mpi_alone(c):
    program = compile_c(c, "mpi_sum.c", "mpicc.mpich")
    result = c.ok("launch", "--procs", "2", "--label", program)
    check_equal(mpi_lines(result), [("0", "1", "0", "0", "0")] * 2, str(result))


@test("a rank of an MPI program is killed: the gang ends and comes back", needs=mpich)
def mpi_restart(c):
    program = compile_c(c, "mpi_sum.c", "mpicc.mpich")
    line = ('[ "$ACCEL_ATTEMPT" != 1 ] || [ "$RANK" != 1 ] || kill -9 $$; exec %s' % program)
    result = c.ok("launch", "--procs", "2", "--launcher", "mpi", "--max-restarts", "1", "--label",
                  "--wrap", line)
    check_equal(mpi_lines(result), [("0", "2", "1", "1", "0"), ("1", "2", "1", "0", "1")],
                str(result))


@test("a rank that leaves before the others meet it ends the gang, not their patience", needs=mpich)
def mpi_leaves(c):
    program = compile_c(c, "mpi_sum.c", "mpicc.mpich")
    line = 'if [ "$RANK" = 1 ]; then exit 0; fi; exec %s' % program
    result = c.run("launch", "--procs", "3", "--launcher", "mpi", "--wrap", line, timeout=SLOW_S)
    check(result.rc not in (0, 124, 125), "%s", result)


@test("C without a library meets at MASTER_ADDR:MASTER_PORT",
      needs=lambda: None if shutil.which("cc") else "no C compiler")
def plain_c(c):
    result = c.ok("launch", "--procs", "3", "--label", compile_c(c, "rendezvous.c", "cc"))
    check_equal(sorted(re.findall(r"rank (\d) of 3 sum (\d)", result.out)),
                [("0", "3"), ("1", "3"), ("2", "3")], str(result))


if __name__ == "__main__":
    main()
