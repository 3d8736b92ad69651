#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A small character-level transformer, trained on text files with plain PyTorch on CPUs.

    python3 charlm.py                        one process
    torchrun --nproc_per_node 2 charlm.py    two, or any launcher that sets the env:// variables

Every process reads the text; DistributedDataParallel averages the gradients over gloo. Rank 0
writes a snapshot every few steps; a run that finds one continues from it and sees the batches
it would have seen. The texts default to the licences that every Debian system carries; the last
tenth of each file is kept for validation.
"""
import argparse
import hashlib
import math
import os
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch loads; ranks share the cores

import torch
import torch.distributed as dist
import torch.nn as nn
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel

LICENCES = "/usr/share/common-licenses"


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(),
                                 nn.Linear(4 * width, width))

    def forward(self, x, mask):
        b, t, w = x.shape
        q, k, v = (y.view(b, t, self.heads, -1).transpose(1, 2)
                   for y in self.qkv(self.norm1(x)).split(w, dim=2))
        scores = q @ k.transpose(2, 3) / math.sqrt(w // self.heads) + mask[:t, :t]
        x = x + self.proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(b, t, w))
        return x + self.mlp(self.norm2(x))


class CharLM(nn.Module):
    def __init__(self, vocab, block, width, heads, layers):
        super().__init__()
        self.block = block
        self.chars = nn.Embedding(vocab, width)
        self.places = nn.Embedding(block, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocab)
        mask = torch.full((block, block), float("-inf")).triu(1)
        self.register_buffer("mask", mask, persistent=False)
        for name, p in self.named_parameters():
            if name.endswith(("proj.weight", "mlp.2.weight")):  # layers add little at first
                nn.init.normal_(p, std=0.02 / math.sqrt(2 * layers))
            elif p.dim() > 1 and "norm" not in name:
                nn.init.normal_(p, std=0.02)

    def forward(self, x, targets):
        logits = self.logits(x)
        return F.cross_entropy(logits.view(-1, logits.size(-1)), targets.reshape(-1))

    def logits(self, x):
        y = self.chars(x) + self.places(torch.arange(x.size(1), device=x.device))
        for block in self.blocks:
            y = block(y, self.mask)
        return self.head(self.norm(y))


def read_texts(paths):
    """The files below the paths, sorted, each content once; the last tenth of each validates."""
    files = []
    for path in paths:
        if os.path.isdir(path):
            files += [os.path.join(top, n) for top, _, names in os.walk(path) for n in names]
        else:
            files.append(path)
    seen, train, valid = set(), [], []
    for name in sorted(f for f in files if os.path.isfile(f) and not os.path.islink(f)):
        with open(name, "rb") as f:
            data = f.read()
        digest = hashlib.sha256(data).digest()
        if digest in seen:
            continue
        seen.add(digest)
        cut = len(data) * 9 // 10
        train.append(data[:cut])
        valid.append(data[cut:])
    return b"".join(train), b"".join(valid), len(seen)


def encode(data, alphabet):
    table = torch.zeros(256, dtype=torch.long)
    table[list(alphabet)] = torch.arange(len(alphabet))
    return table[torch.frombuffer(bytearray(data), dtype=torch.uint8).long()]


def windows(data, starts, block):
    rows = torch.stack([data[s:s + block + 1] for s in starts])
    return rows[:, :-1], rows[:, 1:]


def random_batch(data, args, step, rank):
    """Depends on seed, step and rank only: a resumed run sees the batches it would have seen."""
    g = torch.Generator().manual_seed(args.seed * 1000003 + step * 1009 + rank)
    starts = torch.randint(len(data) - args.block, (args.batch,), generator=g).tolist()
    return windows(data, starts, args.block)


@torch.no_grad()
def validation_loss(model, data, args, rank, world):
    """Mean loss over a fixed spread of windows, shared out among the ranks."""
    count = min(256, len(data) // (args.block + 1))
    stride = (len(data) - args.block - 1) / max(1, count - 1)
    starts = [int(i * stride) for i in range(rank, count, world)]
    total = torch.zeros(2)
    for i in range(0, len(starts), 32):
        x, y = windows(data, starts[i:i + 32], args.block)
        total += torch.tensor([model(x, y).item() * len(x), len(x)])
    if world > 1:
        dist.all_reduce(total)
    return (total[0] / total[1]).item()


def make_optimizer(model, args):
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() <= 1]
    return torch.optim.AdamW([{"params": matrices, "weight_decay": 0.1},
                              {"params": vectors, "weight_decay": 0.0}],
                             lr=args.lr, betas=(0.9, 0.98))


@torch.no_grad()
def generate(model, alphabet, prompt, length, seed, temperature=0.7):
    g = torch.Generator().manual_seed(seed)
    out = [alphabet.index(c) for c in prompt.encode() if c in alphabet] or [0]
    for _ in range(length):
        logits = model.logits(torch.tensor([out[-model.block:]]))[0, -1]
        out.append(torch.multinomial((logits / temperature).softmax(-1), 1, generator=g).item())
    return bytes(alphabet[i] for i in out).decode("utf-8", "replace")


def save_snapshot(path, state):
    """Whole or not at all: a reader finds the old file or the new one, whenever we die."""
    temporary = path + ".tmp"
    with open(temporary, "wb") as f:
        torch.save(state, f)
        f.flush()
        os.fsync(f.fileno())
    os.rename(temporary, path)
    directory = os.open(os.path.dirname(os.path.abspath(path)), os.O_RDONLY)
    os.fsync(directory)
    os.close(directory)


def load_snapshot(path, alphabet, model, optimizer):
    """The step to continue from; 0 without a snapshot."""
    if not os.path.exists(path):
        return 0
    state = torch.load(path, map_location="cpu")
    if state["alphabet"] != list(alphabet):
        raise SystemExit(f"charlm.py: {path} was trained on another text")
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return state["step"]


def learning_rate(args, step):
    warmup = max(1, args.steps // 20)
    if step < warmup:
        return args.lr * (step + 1) / warmup
    done = (step - warmup) / max(1, args.steps - warmup)
    return args.lr * (0.1 + 0.45 * (1 + math.cos(math.pi * done)))


def parse_args():
    p = argparse.ArgumentParser(description="train a small character-level transformer",
                                formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--data", nargs="+", default=[LICENCES], metavar="PATH",
                   help="text files or directories")
    p.add_argument("--steps", type=int, default=800)
    p.add_argument("--batch", type=int, default=16, help="windows per process and step")
    p.add_argument("--block", type=int, default=64, help="characters the model looks back")
    p.add_argument("--width", type=int, default=128)
    p.add_argument("--heads", type=int, default=4)
    p.add_argument("--layers", type=int, default=2)
    p.add_argument("--lr", type=float, default=3e-3)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--snapshot", default="charlm.pt", metavar="FILE",
                   help="written while training; a run that finds it continues from it")
    p.add_argument("--snapshot-every", type=int, default=100, metavar="N",
                   help="steps; 0: only at the end")
    p.add_argument("--eval-every", type=int, default=100, metavar="N",
                   help="steps; 0: only at the ends")
    p.add_argument("--sample", type=int, default=400, metavar="N",
                   help="characters to generate at the end")
    p.add_argument("--prompt", default="This License ", help="what the sample begins with")
    return p.parse_args()


def train(args, model, optimizer, text, valid, alphabet, first, rank, world, say):
    """Runs the steps after the first one given; returns the last validation loss."""
    ddp = DistributedDataParallel(model) if world > 1 else model
    val = validation_loss(model, valid, args, rank, world)
    say(f"step {first:4d}/{args.steps}  val loss {val:.3f}")
    started, loss_sum, loss_steps = time.perf_counter(), 0.0, 0
    for step in range(first + 1, args.steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(args, step - 1)
        x, y = random_batch(text, args, step, rank)
        loss = ddp(x, y)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        loss_sum, loss_steps = loss_sum + loss.item(), loss_steps + 1

        last = step == args.steps
        if last or (args.eval_every and step % args.eval_every == 0):
            tokens = loss_steps * args.batch * args.block * world
            speed = tokens / (time.perf_counter() - started)
            val = validation_loss(model, valid, args, rank, world)
            say(f"step {step:4d}/{args.steps}  train loss {loss_sum / loss_steps:.3f}  "
                f"val loss {val:.3f}  {speed:,.0f} tokens/s")
            started, loss_sum, loss_steps = time.perf_counter(), 0.0, 0
        if rank == 0 and (last or (args.snapshot_every and step % args.snapshot_every == 0)):
            save_snapshot(args.snapshot, {"step": step, "alphabet": list(alphabet),
                                          "model": model.state_dict(),
                                          "optimizer": optimizer.state_dict()})
            say(f"snapshot of step {step} in {args.snapshot}")
    return val


def main():
    args = parse_args()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    world = int(os.environ.get("WORLD_SIZE", 1))
    rank = int(os.environ.get("RANK", 0))
    if world > 1:
        dist.init_process_group("gloo", init_method="env://")

    def say(message):
        if rank == 0:
            print(message, flush=True)

    text, valid, files = read_texts(args.data)
    if min(len(text), len(valid)) <= args.block + 1:
        raise SystemExit("charlm.py: too little text in " + " ".join(args.data))
    alphabet = bytes(sorted(set(text + valid)))

    torch.manual_seed(args.seed)
    model = CharLM(len(alphabet), args.block, args.width, args.heads, args.layers)
    optimizer = make_optimizer(model, args)
    say(f"{files} files, {len(text):,} characters to train on, {len(valid):,} to validate; "
        f"{sum(p.numel() for p in model.parameters()):,} parameters; "
        f"{world} process{'es' if world > 1 else ''}")
    first = load_snapshot(args.snapshot, alphabet, model, optimizer)
    if first > 0:
        say(f"resumed from step {first}")

    val = train(args, model, optimizer, encode(text, alphabet), encode(valid, alphabet),
                alphabet, first, rank, world, say)
    say(f"final val loss {val:.3f}")
    if rank == 0 and args.sample > 0:
        sample = generate(model, alphabet, args.prompt, args.sample, args.seed)
        say("sample:\n" + "\n".join("  | " + line for line in sample.split("\n")))
    if world > 1:
        dist.barrier()
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
