#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Current JAX and mpi4py from the Python registry."""
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from conformance import (CURRENT, current, current_with_mpich, main, sum_mpi4py,  # noqa: E402
                         test, train_jax)

PYTHON = os.path.join(CURRENT, "bin", "python3")


@test("JAX: initialize() without arguments, a shard_map step; a killed rank comes back",
      needs=current)
def jax(c):
    train_jax(c, PYTHON, ["--procs", "2"])


@test("mpi4py with MPICH", needs=current_with_mpich)
def mpi4py(c):
    sum_mpi4py(c, PYTHON, ["--procs", "2"])


if __name__ == "__main__":
    main()
