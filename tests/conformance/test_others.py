#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Current JAX and mpi4py from the Python registry."""
import os
import re
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from conformance import (CURRENT, SLOW_S, check, check_equal, current,  # noqa: E402
                         current_with_mpich, killed, losses, main, script, test)

PYTHON = os.path.join(CURRENT, "bin", "python3")


def train_jax(c, options):
    ends, result = killed(
        c, list(options) + ["--launcher", "jax", "--python", PYTHON],
        [script("train_jax.py"), "--snapshot", c.path("snapshot")], r"process 1 step 40 loss",
        r"resumes at step (\d+)", r"process (\d) of 2 devices 2 done, loss [\d.]+, all \[0, 1\]")
    check_equal(ends, ["0", "1"], "ends")
    seen = losses(result.out)
    check(seen[-1] < seen[0] / 2, "the loss went down: %s", seen)


def sum_mpi4py(c, options):
    result = c.ok("launch", *options, "--launcher", "mpi", "--label", "--env",
                  "LD_LIBRARY_PATH=" + os.path.join(CURRENT, "mpich"), "--python", PYTHON,
                  script("sum_mpi4py.py"), timeout=SLOW_S)
    check_equal(sorted(re.findall(r"rank (\d) of 2 sum 1 names r0,r1", result.out)), ["0", "1"],
                str(result))


@test("JAX: initialize() without arguments, a shard_map step; a killed rank comes back",
      needs=current)
def jax(c):
    train_jax(c, ["--procs", "2"])


@test("mpi4py with MPICH", needs=current_with_mpich)
def mpi4py(c):
    sum_mpi4py(c, ["--procs", "2"])


if __name__ == "__main__":
    main()
