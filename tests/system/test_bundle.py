#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The tarball of scripts/bundle: runs from any folder, without root, beside only a C library."""
import glob
import json
import os
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from accel_test import ROOT, Skip, check, check_equal, main, test  # noqa: E402

BUILD_S = 600  # the machine may be busy with the other suites
NOBODY = 65534
LIBC = ["libc.so.6", "libm.so.6", "libresolv.so.2", "libpthread.so.0", "libdl.so.2", "librt.so.1",
        "libanl.so.1", "libutil.so.1"]


def sh(*args, **how):
    done = subprocess.run(args, capture_output=True, text=True, timeout=BUILD_S, **how)
    check(done.returncode == 0, "%s ended with %d\n%s%s", " ".join(args)[:200], done.returncode,
          done.stdout[-3000:], done.stderr[-3000:])
    return done.stdout


def make_bundle(folder):
    build = os.environ.get("ACCEL_TEST_BUNDLE_BUILD")
    check(build, "ACCEL_TEST_BUNDLE_BUILD must name a folder to build in")
    if not shutil.which("patchelf"):
        raise Skip("patchelf is not installed")
    sh(os.path.join(ROOT, "scripts", "build"), "--no-deps", "--release", "--dir", build)
    tarball = os.path.join(folder, "accel.tar.gz")
    sh(os.path.join(ROOT, "scripts", "bundle"), "--dir", build, "--out", tarball)
    return tarball


def make_root(folder, tarball):
    """A root directory that holds a C library, the bundle and nothing else."""
    for name in ("lib64", "lib/x86_64-linux-gnu", "proc", "dev", "tmp", "opt"):
        os.makedirs(os.path.join(folder, name))
    os.chmod(os.path.join(folder, "tmp"), 0o1777)
    os.chmod(folder, 0o755)
    shutil.copy("/lib64/ld-linux-x86-64.so.2", os.path.join(folder, "lib64"))
    for name in LIBC:
        for path in glob.glob("/lib/x86_64-linux-gnu/" + name):
            shutil.copy(path, os.path.join(folder, "lib/x86_64-linux-gnu"))
    sh("tar", "-xzf", tarball, "-C", os.path.join(folder, "opt"))
    top, = os.listdir(os.path.join(folder, "opt"))
    os.rename(os.path.join(folder, "opt", top), os.path.join(folder, "opt", "a folder"))
    return "/opt/a folder"


def inside(root, *args):
    """As nobody, in mount and pid namespaces of its own: its daemons end with it."""
    script = ("set -e; mount -t proc proc \"$0/proc\"; mount --bind /dev \"$0/dev\"; "
              "exec chroot --userspec=%d:%d \"$0\" \"$@\"" % (NOBODY, NOBODY))
    return sh("unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", script, root,
              *args,
              env={"PATH": os.environ["PATH"], "HOME": "/tmp"})


def can_part_mounts():
    """Not in a chroot: its root is no mount point."""
    return subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode == 0


@test("the bundle runs as nobody in a root that has only a C library, gRPC and all", cluster=None)
def bare_root():
    if os.geteuid() != 0:
        raise Skip("needs root for chroot")
    if not can_part_mounts():
        raise Skip("no mount namespace is to be had here")
    if os.uname().machine != "x86_64":
        raise Skip("knows where x86-64 keeps its C library")
    with tempfile.TemporaryDirectory(prefix="ac.", dir="/tmp") as folder:
        root = os.path.join(folder, "root")
        os.mkdir(root)
        os.chmod(folder, 0o755)
        top = make_root(root, make_bundle(folder))
        ctl = top + "/bin/accelctl"
        out = inside(root, ctl, "launch", "--procs", "2", ctl, "version", "--version")
        check(out.startswith("accelctl "), "a job ran: %r", out)
        items = json.loads(inside(root, ctl, "doctor", "-o", "json"))["items"]
        found = [i for i in items if i["area"] == "certificates"]
        check("cannot" not in str(found), "gRPC is found and loads: %s", found)
        check_equal([i for i in items if i["level"] == "bad"], [], "nothing is bad")
        for name in ("README", "share/man/man1/accelctl.1", "share/accel/systemd/acceld.service",
                     "share/accel/config/agent.yaml", "share/accel/examples/pytorch/charlm.py",
                     "share/doc/accel/third-party/libgrpc29"):
            check(os.path.exists(root + top + "/" + name), "%s is not in the bundle", name)


main()
