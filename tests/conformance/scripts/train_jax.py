#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A regression in JAX over all devices of all processes: one shard_map step, gradients by pmean.

jax.distributed.initialize() without arguments, as on a cluster that JAX knows.
"""
import argparse
import functools
import os

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--snapshot", required=True)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--save-every", type=int, default=20)
    args = parser.parse_args()

    jax.distributed.initialize()
    rank, count = jax.process_index(), jax.process_count()
    mesh = Mesh(np.array(jax.devices()), ("data",))
    sharded, replicated = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())
    rng = np.random.default_rng(0)
    x = rng.random((64 * jax.device_count(), 4), dtype=np.float32)
    y = x @ np.array([1, -2, 3, 0.5], np.float32)
    x, y = (jax.make_array_from_callback(a.shape, sharded, lambda index, a=a: a[index])
            for a in (x, y))
    weights, first = np.zeros(4, np.float32), 0
    if os.path.exists(args.snapshot):
        state = np.load(args.snapshot)
        weights, first = state["weights"], int(state["step"]) + 1
        print("process %d resumes at step %d" % (rank, first), flush=True)
    weights = jax.device_put(weights, replicated)

    @jax.jit
    @functools.partial(jax.shard_map, mesh=mesh, in_specs=(P(), P("data"), P("data")),
                       out_specs=(P(), P()))
    def step(w, x, y):
        # The mean is inside: its gradient is that of all shards together.
        loss, grad = jax.value_and_grad(
            lambda w: jax.lax.pmean(((x @ w - y) ** 2).mean(), "data"))(w)
        return w - 0.2 * grad, loss

    for i in range(first, args.steps):
        weights, loss = step(weights, x, y)
        if i % args.save_every == 0:
            print("process %d step %d loss %.5f" % (rank, i, float(loss)), flush=True)
            if rank == 0:
                with open(args.snapshot + ".tmp", "wb") as f:
                    np.savez(f, weights=np.asarray(weights), step=i)
                os.replace(args.snapshot + ".tmp", args.snapshot)
    ranks = multihost_utils.process_allgather(jnp.array([rank]))
    print("process %d of %d devices %d done, loss %.6f, all %s" % (
        rank, count, jax.device_count(), float(loss), ranks.ravel().tolist()), flush=True)
    jax.distributed.shutdown()


if __name__ == "__main__":
    main()
