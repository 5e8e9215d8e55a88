# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""What the lab needs of the machine that it runs on."""

import os
import shutil

from cache import LabError

MKE2FS = ("/usr/sbin/mke2fs", "/sbin/mke2fs")
DEPMOD = ("/usr/sbin/depmod", "/sbin/depmod", "depmod")


def program(*candidates):
    for name in candidates:
        path = shutil.which(name)
        if path:
            return path
    raise LabError("%s is missing on this machine; the packages needed are in lab/packages" %
                   os.path.basename(candidates[0]))


def require(needs):
    """Says everything that is missing at once, and by its package's name. needs:
    {package: names of a program, one of which will do}."""
    missing = [package for package, names in needs.items()
               if not any(shutil.which(name) for name in names)]
    if missing:
        raise LabError("this machine lacks: %s (apt-get install %s)" %
                       (", ".join(missing), " ".join(missing)))


def require_packages(arch):
    """What an image takes to be built, and run."""
    users = {"uidmap": ("newuidmap",)} if os.geteuid() else {}     # mmdebstrap, in a user namespace
    require({arch.qemu_package: (arch.qemu[0],), "mmdebstrap": ("mmdebstrap",), **users,
             "e2fsprogs": MKE2FS, "apt": ("apt-get",), "dpkg": ("dpkg-deb",),
             "tar": ("tar",), "kmod": DEPMOD, arch.cc_package: (arch.cc,)})
