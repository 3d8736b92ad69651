#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Current torch, torchrun and Accelerate from the Python registry."""
import os
import re
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from conformance import (CURRENT, SLOW_S, check_equal, current, main, script, test,  # noqa: E402
                         torchrun, train_accelerate, train_ddp)

PYTHON = os.path.join(CURRENT, "bin", "python3")


@test("current torch: DistributedSampler and DDP; a killed rank comes back", needs=current)
def ddp(c):
    train_ddp(c, PYTHON, ["--procs", "2"])


@test("current torchrun without an option", needs=current)
def bare_torchrun(c):
    ends, result = torchrun(c, os.path.join(CURRENT, "bin", "torchrun"))
    check_equal(ends, [("0", "2", "0"), ("1", "2", "1")], str(result))


@test("Accelerate: prepare, gather_for_metrics; a killed rank comes back", needs=current)
def accelerate(c):
    train_accelerate(c, PYTHON, ["--procs", "2"])


@test("what people type after `accelerate launch` does the same after `accelctl launch`",
      needs=current)
def accelerate_names(c):
    result = c.ok("launch", "--cpu", "--num_processes", "2", "--num_machines", "1",
                  "--mixed_precision", "bf16", "--gradient_accumulation_steps", "4", "--label",
                  "--python", PYTHON, script("train_accelerate.py"), "--snapshot",
                  c.path("snapshot"), "--epochs", "1", timeout=SLOW_S)
    ends = re.findall(r"rank (\d) of 2 .* done, accumulates 4, precision bf16", result.out)
    check_equal(sorted(ends), ["0", "1"], str(result))


if __name__ == "__main__":
    main()
