#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""pmi_rounds.py ROUNDS [MAILBOX GATE]: speaks PMI-1 as an MPI library does. In each round every
rank puts a key, all meet, and each gets the keys of all. In round 2 rank 1 writes a line into the
mailbox and waits at the gate while the others are in the barrier."""
import os
import sys

rank, size = int(os.environ["PMI_RANK"]), int(os.environ["PMI_SIZE"])
wire = os.fdopen(int(os.environ["PMI_FD"]), "r+b", buffering=0)
rest = b""


def ask(line, wanted):
    global rest
    wire.write(line.encode() + b"\n")
    while b"\n" not in rest:
        more = wire.read(65536)
        if not more:
            sys.exit("the process manager is gone")
        rest += more
    answer, _, rest = rest.partition(b"\n")
    fields = dict(f.split("=", 1) for f in answer.decode().split(" "))
    if fields["cmd"] != wanted or fields.get("rc", "0") != "0":
        sys.exit("rank %d: %s: %s" % (rank, line, answer.decode()))
    return fields


ask("cmd=init pmi_version=1 pmi_subversion=1", "response_to_init")
kvs = ask("cmd=get_my_kvsname", "my_kvsname")["kvsname"]
for number in range(int(sys.argv[1])):
    ask("cmd=put kvsname=%s key=r%d-%d value=%d" % (kvs, number, rank, number * 1000 + rank),
        "put_result")
    if number == 2 and rank == 1 and len(sys.argv) > 2:
        with open(sys.argv[2], "a") as f:
            f.write("rank 1 waits\n")
        os.read(os.open(sys.argv[3], os.O_RDONLY), len("go\n"))
    ask("cmd=barrier_in", "barrier_out")
    for peer in range(size):
        got = ask("cmd=get kvsname=%s key=r%d-%d" % (kvs, number, peer), "get_result")["value"]
        if int(got) != number * 1000 + peer:
            sys.exit("rank %d: round %d: %s from %d" % (rank, number, got, peer))
ask("cmd=finalize", "finalize_ack")
print("rank %d of %d met %s times" % (rank, size, sys.argv[1]), flush=True)
