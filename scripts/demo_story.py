#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What scripts/demo reads from the JSON of accelctl, and the story that it tells at the end.

    demo_story.py job NAME < `accelctl ps -a -o json`          the id of the job of that name
    demo_story.py pid RANK < `accelctl describe JOB -o json`   the pid of that rank, now
    demo_story.py tell LOG PID STATUS < `accelctl describe JOB -o json`

tell exits with 1, and says why, when the run did not go as the demo promises.
"""
import json
import os
import re
import sys


def job_of(listing, name):
    items = listing["items"] if isinstance(listing, dict) else listing
    return max(job["id"] for job in items if job["name"] == name)


def pid_of(job, rank):
    ranks = {r["rank"]: r for r in job["attempts"][-1]["ranks"]}
    return ranks[rank]["pid"]


def read_losses(log):
    """(step, validation loss) in the order in which they were printed, and where it resumed."""
    losses, resumed, sample = [], None, False
    with open(log, encoding="utf-8", errors="replace") as f:
        for line in f:
            m = re.search(r"step +(\d+)/\d+ .*val loss ([\d.]+)", line)
            if m:
                losses.append((int(m.group(1)), float(m.group(2))))
            m = re.search(r"resumed from step (\d+)", line)
            if m:
                resumed = (int(m.group(1)), len(losses))
            sample = sample or line.rstrip().endswith("sample:")
    return losses, resumed, sample


def ending(attempt):
    cause = str(attempt.get("cause", "?")).lower()
    text = attempt.get("text") or ""
    return cause + (": " + text if text else "")


def log_folder(job):
    paths = [r[k] for a in job["attempts"] for r in a["ranks"]
             for k in ("stdout", "stderr") if r.get(k)]
    return os.path.commonpath([os.path.dirname(p) for p in paths]) if paths else None


def tell(job, log, pid, status):
    losses, resumed, sample = read_losses(log)
    attempts = job["attempts"]
    print("job %s (%s): %s after %d attempts"
          % (job["id"], job["name"], str(job.get("result", "?")).lower(), len(attempts)))
    for i, attempt in enumerate(attempts, 1):
        print("  attempt %d  %s" % (attempt.get("number", i), ending(attempt)))
    if losses and resumed:
        step, loss = losses[max(0, resumed[1] - 1)]
        print("validation loss  %.3f at the start, %.3f at step %d before the kill,"
              % (losses[0][1], loss, step))
        print("                 resumed from step %d, %.3f at the end"
              % (resumed[0], losses[-1][1]))
    print("logs of all ranks  %s" % (log_folder(job) or "accelctl logs %s" % job["id"]))
    print("this output        %s" % os.path.abspath(log))

    first = {r["pid"]: r for r in attempts[0]["ranks"]}
    checks = [
        ("the launch exits with 0", status == 0),
        ("the job succeeded", str(job.get("result", "")).lower() == "succeeded"),
        ("there were two attempts", len(attempts) == 2),
        ("the killed pid was a rank of the first attempt", pid in first),
        ("that rank ended by signal 9", first.get(pid, {}).get("signal") == 9),
        ("training resumed from a snapshot", resumed is not None and resumed[0] > 0),
        ("the validation loss went down before and after the kill",
         bool(resumed) and 0 < resumed[1] < len(losses)
         and losses[-1][1] < losses[resumed[1] - 1][1] < losses[0][1]),
        ("a sample was printed", sample),
    ]
    for sentence, holds in checks:
        if not holds:
            print("does not hold: " + sentence)
    return all(holds for _, holds in checks)


def main():
    verb, *args = sys.argv[1:]
    try:
        given = json.load(sys.stdin)
        if verb == "job":
            print(job_of(given, args[0]))
        elif verb == "pid":
            pid = pid_of(given, int(args[0]))
            if pid <= 1:
                raise ValueError("rank %s has no process" % args[0])
            print(pid)
        else:
            return 0 if tell(given, args[0], int(args[1]), int(args[2])) else 1
    except (ValueError, KeyError, IndexError, TypeError) as e:
        print("demo_story.py %s: %s: %s" % (verb, type(e).__name__, e), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
