#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""mpi4py: an allreduce and an allgather of Python objects."""
from mpi4py import MPI

world = MPI.COMM_WORLD
rank, size = world.Get_rank(), world.Get_size()
total = world.allreduce(rank)
names = world.allgather("r%d" % rank)
print("rank %d of %d sum %d names %s" % (rank, size, total, ",".join(names)), flush=True)
