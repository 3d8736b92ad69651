#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A classifier trained with Hugging Face Accelerate: prepare(), accumulate(), gather_for_metrics().

Written as for `accelerate launch`; its snapshot is its own.
"""
import argparse
import os
import sys

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader, TensorDataset


def make_data(count, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(count, 4, generator=generator) - 0.5
    return TensorDataset(x, (x[:, 0] + x[:, 1] > 0).long())


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--snapshot", required=True)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--save-every", type=int, default=3)
    args = parser.parse_args()

    torch.set_num_threads(1)
    accelerator = Accelerator()
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    first = 0
    if os.path.exists(args.snapshot):
        state = torch.load(args.snapshot, map_location="cpu")
        model.load_state_dict(state["model"])
        first = state["epoch"] + 1
        print("rank %d resumes at epoch %d" % (accelerator.process_index, first), flush=True)
    # 101 does not divide: what is added to make the last batch even must not be counted.
    train = DataLoader(make_data(256, 1), batch_size=16, shuffle=True)
    test = DataLoader(make_data(101, 2), batch_size=16)
    model, optimizer, train, test = accelerator.prepare(model, optimizer, train, test)

    for epoch in range(first, args.epochs):
        model.train()
        for x, y in train:
            with accelerator.accumulate(model):
                loss = torch.nn.functional.cross_entropy(model(x), y)
                accelerator.backward(loss)
                optimizer.step()
                optimizer.zero_grad()
        model.eval()
        right = counted = 0
        for x, y in test:
            with torch.no_grad():
                guess = model(x).argmax(1)
            guess, y = accelerator.gather_for_metrics((guess, y))
            right += int((guess == y).sum())
            counted += len(y)
        accelerator.print("epoch %d accuracy %.3f of %d" % (epoch, right / counted, counted),
                          flush=True)
        if accelerator.is_main_process and epoch % args.save_every == 0:
            torch.save({"model": accelerator.unwrap_model(model).state_dict(), "epoch": epoch},
                       args.snapshot + ".tmp")
            os.replace(args.snapshot + ".tmp", args.snapshot)
    accelerator.wait_for_everyone()
    print("rank %d of %d local %d on %s done, accumulates %d, precision %s" % (
        accelerator.process_index, accelerator.num_processes, accelerator.local_process_index,
        accelerator.device, accelerator.gradient_accumulation_steps, accelerator.mixed_precision),
        flush=True)
    accelerator.end_training()


if __name__ == "__main__":
    main()
    # Gloo's threads outlive the process group; one that wants the interpreter while it is being
    # taken down aborts the process ("terminate called without an active exception", torch 2.15).
    sys.stdout.flush()
    os._exit(0)
