#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Fits a small network with DistributedDataParallel and a DistributedSampler, on CPUs.

Written as for torchrun: it reads its ranks from the environment (env://), keeps a snapshot of its
own and goes on from it when it is started again.
"""
import argparse
import os
import sys

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler


def make_data(count=256):
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(count, 8, generator=generator)
    return TensorDataset(torch.arange(count), x, (x.sum(1, keepdim=True) - 4).tanh())


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--snapshot", required=True)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--save-every", type=int, default=3)
    args = parser.parse_args()

    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
    first = 0
    if os.path.exists(args.snapshot):
        state = torch.load(args.snapshot)
        net.load_state_dict(state["net"])
        first = state["epoch"] + 1
        print("rank %d of %d resumes at epoch %d" % (rank, world, first), flush=True)
    model = DistributedDataParallel(net)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    data = make_data()
    sampler = DistributedSampler(data, shuffle=True)
    loader = DataLoader(data, batch_size=16, sampler=sampler)

    for epoch in range(first, args.epochs):
        sampler.set_epoch(epoch)
        seen = torch.zeros(len(data))
        for index, x, y in loader:
            optimizer.zero_grad()
            loss = torch.nn.functional.mse_loss(model(x), y)
            loss.backward()
            optimizer.step()
            seen[index] += 1
        total = loss.detach().clone()
        dist.all_reduce(total)
        dist.all_reduce(seen)
        if rank == 0:
            print("epoch %d loss %.5f samples %d once %d" % (
                epoch, total.item() / world, int(seen.sum()), int((seen == 1).sum())), flush=True)
            if epoch % args.save_every == 0:
                torch.save({"net": net.state_dict(), "epoch": epoch}, args.snapshot + ".tmp")
                os.replace(args.snapshot + ".tmp", args.snapshot)
    weights = torch.cat([p.detach().flatten() for p in net.parameters()]).double()
    print("rank %d of %d local %s done, weights %.9f" % (
        rank, world, os.environ["LOCAL_RANK"], weights.abs().sum().item()), flush=True)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
    # Gloo's threads outlive the process group; one that wants the interpreter while it is being
    # taken down aborts the process ("terminate called without an active exception", torch 2.15).
    sys.stdout.flush()
    os._exit(0)
