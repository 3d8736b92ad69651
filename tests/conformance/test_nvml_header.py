#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""agentd/nvml_abi.h against the real nvml.h.

The header is in the package nvidia-nvml-dev of the Python registry (2.5 MB), which is fetched once
into the user's cache directory.  Where it cannot be had, the test says so in one line and is
skipped.  ACCEL_NVML_HEADER may name a folder with an nvml.h instead.  Standard library only.
"""
import glob
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
PACKAGE = "nvidia-nvml-dev"
FETCH_S = 120
SOURCES = ("nvml_layout.c", "nvml_prototypes.c")


def cache_dir():
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(base, "accel-tests", "nvml")


def pips():
    own = [sys.executable, "-m", "pip"]
    if subprocess.run(own + ["--version"], capture_output=True).returncode == 0:
        yield own
    for name in ("pip3", "pip"):
        if shutil.which(name):
            yield [name]


def fetch(folder):
    """Puts nvml.h into the folder; else returns why not."""
    why = "no pip is installed"
    for pip in pips():
        with tempfile.TemporaryDirectory() as spare:
            try:
                done = subprocess.run(
                    pip + ["download", "--quiet", "--no-deps", "--only-binary", ":all:",
                           "--retries", "1", "--timeout", "10", "--disable-pip-version-check",
                           "--dest", spare, PACKAGE],
                    capture_output=True, text=True, timeout=FETCH_S)
            except subprocess.TimeoutExpired:
                return "the package %s did not come within %d s" % (PACKAGE, FETCH_S)
            wheels = glob.glob(os.path.join(spare, "*.whl"))
            if done.returncode != 0 or not wheels:
                lines = done.stderr.strip().splitlines()
                why = "%s cannot be fetched: %s" % (PACKAGE, (lines or ["?"])[-1])
                continue
            with zipfile.ZipFile(wheels[0]) as wheel:
                names = [n for n in wheel.namelist() if n.endswith("/nvml.h")]
                if not names:
                    return "the package %s has no nvml.h" % PACKAGE
                os.makedirs(folder, exist_ok=True)
                part = os.path.join(folder, "nvml.h.%d" % os.getpid())
                with open(part, "wb") as f:
                    f.write(wheel.read(names[0]))
                os.replace(part, os.path.join(folder, "nvml.h"))
                return None
    return why


def header():
    given = os.environ.get("ACCEL_NVML_HEADER")
    folder = given or cache_dir()
    if os.path.exists(os.path.join(folder, "nvml.h")):
        return folder, None
    return folder, "%s has no nvml.h" % given if given else fetch(folder)


def compile_one(folder, name, *more):
    return subprocess.run(
        [os.environ.get("CC", "cc"), "-std=gnu11", "-fsyntax-only", "-Wall", "-Werror", "-I" + ROOT,
         "-isystem", folder, *more, os.path.join(HERE, name)], capture_output=True, text=True)


def main():
    folder, why = header()
    print("1..%d" % (2 * len(SOURCES)))
    number = 0
    for name in SOURCES:
        for broken in (False, True):
            number += 1
            what = "%s %s" % (name, "sees a difference" if broken else "agrees with nvml.h")
            if why:
                print("ok %d - %s # SKIP skipped: %s" % (number, what, why.replace("#", "no. ")))
                continue
            done = compile_one(folder, name, *(["-DBROKEN"] if broken else []))
            good = (done.returncode != 0 and "static assertion" in done.stderr) if broken else \
                done.returncode == 0
            print("%s %d - %s" % ("ok" if good else "not ok", number, what))
            if not good:
                for line in done.stderr.splitlines()[:40]:
                    print("# " + line)


if __name__ == "__main__":
    main()
