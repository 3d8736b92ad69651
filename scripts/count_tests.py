#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Sums the results of every test suite and ends with one line `N passed, N failed[, N skipped]`.

Reads meson's testlog.json (one object a line) and, with --tap NAME RC FILE, the output of tests
that meson does not run. A test that prints TAP counts once per point, any other counts as one.
A test that crashed, ran past its time, left planned points out or ended non-zero without a point
that says why counts as one failure more. Exit status: 0 when nothing failed and something passed.
"""
import argparse
import itertools
import json
import re
import sys

PLAN = re.compile(r"^1\.\.(\d+)\b(.*)$")
POINT = re.compile(r"^(not )?ok\b(?:\s+\d+)?(?:\s+-)?\s*(.*)$")
DIRECTIVE = re.compile(r"#\s*(SKIP|TO" r"DO)\b", re.I)
BAIL = re.compile(r"^Bail out!(.*)$")
GOOD = ("OK", "EXPECTEDFAIL")
WHY_LINES = 40  # of what a test says about its failure


class Count:
    def __init__(self):
        self.passed = self.skipped = 0
        self.failures = []  # sentences; what the test said of it, a line each

    def add_tap(self, name, text):
        """Counts the points of a TAP text; None when it is no TAP, else whether a failure shows."""
        lines = text.splitlines()
        plans = [m for m in map(PLAN.match, lines) if m]  # a cmocka program prints one per group
        if not plans:
            return None
        seen, before = 0, len(self.failures)
        for at, line in enumerate(lines):
            point, bail = POINT.match(line), BAIL.match(line)
            if point:
                seen += 1
                if DIRECTIVE.search(point.group(2)):
                    self.skipped += 1
                elif point.group(1):
                    why = list(itertools.takewhile(lambda s: s.startswith("#"), lines[at + 1:]))
                    sentence = "%s: %s" % (name, point.group(2) or "point %d" % seen)
                    self.failures.append("\n".join([sentence] + why[:WHY_LINES]))
                else:
                    self.passed += 1
            elif bail:
                self.failures.append("%s: bailed out:%s" % (name, bail.group(1)))
        planned = sum(int(m.group(1)) for m in plans)
        if seen < planned:
            self.failures.append("%s: %d of %d planned tests did not run"
                                 % (name, planned - seen, planned))
        elif not seen:
            self.skipped += 1
        return len(self.failures) > before

    def add(self, name, text, result, detail):
        """result: meson's word for how the program ended."""
        shown = self.add_tap(name, text)
        if result == "SKIP":
            self.skipped += 1 if shown is None else 0
        elif result in GOOD:
            self.passed += 1 if shown is None else 0
        elif result == "FAIL" and shown:
            pass  # its own points have told
        elif result == "FAIL" and shown is False and detail in ("", "0"):
            pass  # meson takes the "not ok N # SKIP" of cmocka for a failure
        elif result == "ERROR" and shown and detail in ("", "0", "1"):
            pass  # meson's word for a plan that does not add up
        else:
            self.failures.append("%s: %s%s" % (name, result.lower(),
                                               ", exit status %s" % detail if detail else ""))


def read_meson_log(count, path):
    tests = 0
    with open(path, encoding="utf-8", errors="replace") as f:
        for line in filter(str.strip, f):
            test = json.loads(line)
            tests += 1
            code = test.get("returncode")
            if isinstance(code, int) and code < 0:
                code = "%d (signal %d)" % (code, -code)
            count.add(test["name"], test.get("stdout") or "", test.get("result", "ERROR"),
                      "" if code is None else str(code))
    return tests


def main():
    p = argparse.ArgumentParser(description="sum the results of all test suites")
    p.add_argument("log", nargs="*", help="meson's testlog.json")
    p.add_argument("--tap", nargs=3, action="append", default=[], metavar=("NAME", "RC", "FILE"),
                   help="output of one more test, and how it ended")
    p.add_argument("--failed", action="append", default=[], metavar="SENTENCE",
                   help="counts as one failure")
    args = p.parse_args()

    count = Count()
    count.failures += args.failed
    for log in args.log:
        try:
            if not read_meson_log(count, log):
                count.failures.append("%s: no test ran" % log)
        except (OSError, ValueError, KeyError) as e:
            count.failures.append("%s: cannot be read: %s" % (log, e))
    for name, rc, path in args.tap:
        with open(path, encoding="utf-8", errors="replace") as f:
            count.add(name, f.read(), "OK" if rc == "0" else "FAIL", rc)

    for failure in count.failures:
        print("failed: " + failure)
    print("%d passed, %d failed%s" % (count.passed, len(count.failures),
                                      ", %d skipped" % count.skipped if count.skipped else ""))
    return 0 if count.passed and not count.failures else 1


if __name__ == "__main__":
    sys.exit(main())
