# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""The emulator beneath the labs: QEMU of a newer Debian than this machine's, unpacked into the cache and run from there.

Debian 12's own, 7.2, may translate code while another of its processors writes it, and then goes on with what was there before for
ever: kernels patch themselves, and a guest's kernel is loaded over the one before. QEMU 8.1 and later hold a page while they
translate it. Nothing is installed: the packages lie under a hash of their recipe, and their own loader and libraries run them. Where they
cannot be had, the release's own serves, or this machine's.
"""

import os
import pathlib
import subprocess
import time

import image
from cache import LabError, cache_dir, cached, digest, say
from image import debian_sources
from needs import program

SUITE = "trixie"
NEWER = SUITE + "-backports"        # a year or more ahead
ASK_AGAIN_S = 3600                  # the mirrors for what they did not have
OVERRIDE = "POSTERN_LAB_EMULATOR"   # another program for all of it, such as this machine's qemu-system-x86_64


def _sources(suite):
    """sources.list: of the release, and of its backports if they are meant."""
    text = debian_sources(SUITE, image.NATIVE)
    if suite == NEWER:
        release = next(line for line in text.splitlines() if " %s main" % SUITE in line)
        text += release.replace(" %s main" % SUITE, " %s main" % NEWER) + "\n"
    return text


def _build(suite, package):
    def build(target, _work, log):
        preferred = ['--aptopt=APT::Default-Release "%s"' % NEWER] if suite == NEWER else []
        sources = target / "sources.list"
        sources.write_text(_sources(suite), "ascii")
        tar, root = target / "root.tar", target / "root"
        image.run(["mmdebstrap", "--variant=extract", "--architectures=" + image.NATIVE,
                   "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr", *preferred,
                   "--include=" + package, SUITE, tar, sources], log)
        root.mkdir()
        image.run(["tar", "-C", root, "--no-same-owner", "--exclude=./dev/*", "-xf", tar, "./usr"], log)
        tar.unlink()
        image.run(_argv(root, package, "--version"), log)
    return build


def _argv(root, package, *arguments):
    """The command that runs the package's program from a directory."""
    name = next((root / "usr/bin").glob(package + "*_64") if package == "qemu-system-x86"
                else (root / "usr/bin").glob("qemu-system-aarch64"))
    loader = next((root / "usr/lib").glob("*/ld-linux-*.so.*"))
    data = [word for where in ("qemu", "seabios") for word in ("-L", root / "usr/share" / where)]
    return [loader, "--library-path", loader.parent, name, *data, *arguments]


def emulator_get(arch):
    """What a command line begins with that emulates a machine of this architecture; made when needed."""
    package = arch.qemu_package
    if os.environ.get(OVERRIDE):
        return [program(os.environ[OVERRIDE])]
    for suite in (NEWER, SUITE):
        name = "emulator-" + digest(pathlib.Path(__file__), suite, package, image.NATIVE)
        missing = cache_dir() / (name + ".missing")
        if missing.exists() and time.time() - missing.stat().st_mtime < ASK_AGAIN_S:
            continue
        try:
            return _argv(cached(name, _build(suite, package)) / "root", package)
        except (LabError, StopIteration, subprocess.SubprocessError) as error:
            say("%s's %s cannot be had from this machine's mirrors: %s" % (suite, package, error))
            missing.touch()
    say("this machine's own emulator will do, which may run stale code")
    return [program(arch.qemu[0])]
