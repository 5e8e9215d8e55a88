# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""A whole Debian, for guests that start from a disk: what `postern image debian` makes, by the same recipe."""

import os
import pathlib

from cache import cached, digest
from image import run

SIZE = "1000M"
PACKAGES = "fio sqlite3"
RECIPE = pathlib.Path(__file__).resolve().parent.parent / "cli/recipe/debian.sh"
SUITE = "bookworm"


def debian_get(suite=SUITE):
    """The image's path; built when needed."""
    def build(target, work, log):
        place = work / "debian"
        place.mkdir()
        run(["sh", RECIPE], log, env=dict(
            os.environ, IMAGE_OUT=str(target / "debian.raw"), IMAGE_WORK=str(place), IMAGE_SIZE=SIZE,
            IMAGE_SUITE=suite, IMAGE_PACKAGES=PACKAGES, IMAGE_HOSTNAME="debian", IMAGE_PASSWORD="",
            IMAGE_KEY="", IMAGE_MIRROR=""))

    more = () if suite == SUITE else (suite,)
    return cached("debian-" + digest(RECIPE, SIZE, PACKAGES, *more), build) / "debian.raw"
