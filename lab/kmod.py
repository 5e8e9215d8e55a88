# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""Builds kmod/ for the kernel of a lab: `lab/kmod --kernel 6.1` -> build/kmod/6.1/postern_intr.ko.

The kernel's headers come from Debian's packages of just that kernel, and lie in the cache beside the lab's images; this machine's gcc
compiles, or with `--arch arm64` its cross compiler. lab/run copies the build directory into the lab, and with it the module.
"""

import argparse
import os
import pathlib
import re
import shutil
import subprocess
import sys

import image
from cache import LabError, cached, say
from image import Apt, KernelMissing
from needs import require

TOP = pathlib.Path(__file__).resolve().parent.parent
EXIT_SKIP = 77
EXIT_LAB = 125


def packages_of(apt, release):
    """What Debian has split the headers of a kernel into, but for compilers."""
    first = "linux-headers-" + release
    wanted = [name for name in apt.depends(first) if re.match(r"linux-(headers|kbuild)-", name)]
    if not wanted:
        raise LabError("this machine's mirrors have no %s (any more): `lab/build --fresh` makes an image with the kernel of today" % first)
    return [first] + wanted


def tools_of(apt, kbuild):
    """The package of the build's programs that this release has for a kernel of a newer one: that of the same sources, or, since the
    releases do not move together, of the version next to it in the series."""
    def version(name):
        return tuple(map(int, (re.search(r"-(\d+(?:\.\d+)*)", name)[1] + ".0.0").split(".")[:3]))
    wanted = version(kbuild)
    own = [name for name in apt.names("linux-kbuild-") if re.search(r"\+deb\d+$", name) and version(name)[:2] == wanted[:2]]
    if not own:
        raise LabError("%s has no linux-kbuild of the series of %s" % (image.ROOT_SUITE, kbuild))
    return min(own, key=lambda name: (abs(version(name)[2] - wanted[2]), name))


def tools_unpack(kbuild, suite, target, work, log):
    """The build's own programs run on this machine, whose C library a newer release's may not find new enough: then those that
    were built for this release are taken."""
    if suite == image.ROOT_SUITE or not re.search(r"\+deb\d+$", kbuild):
        Apt(suite, work / "tools", log, image.NATIVE).unpack([kbuild], target)
        return
    apt = Apt(image.ROOT_SUITE, work / "tools", log, image.NATIVE)
    own = tools_of(apt, kbuild)
    apt.unpack([own], target)
    os.rename(target / "usr/lib" / own, target / "usr/lib" / kbuild)


def headers_build(target, release, suite, arch, work, log):
    """Unpacks the headers such that they work wherever they lie: the package's Makefile names /usr/src."""
    apt = Apt(suite, work, log, arch)
    packages = packages_of(apt, release)
    kbuild = next(name for name in packages if name.startswith("linux-kbuild-"))
    packages.remove(kbuild)
    apt.unpack(packages, target)
    tools_unpack(kbuild, suite, target, work, log)
    makefile = target / "usr/src" / ("linux-headers-" + release) / "Makefile"
    text = makefile.read_text("ascii")
    here = "$(dir $(lastword $(MAKEFILE_LIST)))../"
    makefile.write_text(re.sub(r"^include /usr/src/", lambda _: "include " + here, text, flags=re.M), "ascii")


def headers_get(series, arch):
    """The directory to give to make as KDIR, for the kernel of the lab's image of a series."""
    release = (image.image_get(series, arch=arch) / "release").read_text("ascii").strip()
    place = cached("headers-" + release,
                         lambda target, work, log: headers_build(target, release, image.SUITES[series], arch, work, log))
    return place / "usr/src" / ("linux-headers-" + release)


def compiler_options(arch):
    """What this machine's gcc has to be told to go with headers of kernels that a newer one compiled."""
    cc = image.ARCHES[arch].cc
    done = subprocess.run([cc, "-fmin-function-alignment=16", "-E", "-"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL, check=False)
    # no type information: it would need the kernel itself, and pahole
    cross = [] if arch == image.NATIVE else ["ARCH=" + arch, "CROSS_COMPILE=" + cc[:-len("gcc")]]
    return cross + ["CC=" + cc, "CONFIG_DEBUG_INFO_BTF_MODULES="] + ([] if done.returncode == 0 else ["CONFIG_CC_HAS_MIN_FUNCTION_ALIGNMENT="])


def warnings_of(text):
    """Lines of a build that warn of the module; with other programs than the kernel's own it is as good."""
    return [line for line in text.splitlines() if "warning:" in line and
            not re.search(r"the compiler differs|pahole version differs", line)]


def module_build(series, arch, build):
    """Compiles a copy of kmod/ in the build directory; the module's path."""
    target = image.ARCHES[arch]
    require({"make": ("make",), target.cc_package: (target.cc,)})      # before an image and headers are fetched for it
    headers = headers_get(series, arch)
    where = build / "kmod" / series
    where.mkdir(parents=True, exist_ok=True)
    for path in where.iterdir():        # what a former version of the sources left
        if path.suffix in (".c", ".h"):
            path.unlink()
    for path in [*(TOP / "kmod").glob("*.[ch]"), TOP / "kmod/Makefile"]:
        shutil.copy(path, where)
    log = where / "log"
    log.unlink(missing_ok=True)
    image.run(["make", "-C", headers, "M=%s" % where, "W=1", *compiler_options(arch), "modules"], log, env=dict(os.environ, LC_ALL="C"))
    warnings = warnings_of(log.read_text("utf-8", "replace"))
    if warnings:
        raise LabError("warnings:\n    " + "\n    ".join(warnings))
    return where / "postern_intr.ko"


def main():
    parser = argparse.ArgumentParser(prog="lab/kmod", description="Builds the kernel module for a lab's kernel.")
    parser.add_argument("--kernel", choices=list(image.SUITES), default="6.1", help="kernel series (default 6.1)")
    parser.add_argument("--arch", choices=list(image.ARCHES), default=image.DEFAULT_ARCH,
                        help="architecture (default %s)" % image.DEFAULT_ARCH)
    parser.add_argument("--build", type=pathlib.Path, default=TOP / "build", help="build directory (default: build in the tree)")
    options = parser.parse_args()
    try:
        print(module_build(options.kernel, options.arch, options.build.resolve()))
        return 0
    except KernelMissing as error:
        say(str(error))
        return EXIT_SKIP
    except (LabError, OSError, subprocess.SubprocessError) as error:
        say("error: %s" % error)
        return EXIT_LAB


if __name__ == "__main__":
    sys.exit(main())
