# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""The lab's cache: directories that are built once, each under a hash of all that it depends on.

A directory is built under a lock and under another name, then renamed: it is
there whole or not. What nobody has used for a week is removed when an image is
built. All of it lies in $XDG_CACHE_HOME/postern/lab. What is here is no part of
a recipe: a change of it rebuilds nothing.
"""

import contextlib
import fcntl
import hashlib
import os
import pathlib
import shutil
import sys
import tempfile
import time

UNUSED_DAYS = 7
# sysroot-* is not: builds elsewhere point into it
PRUNED = ("root-", "image-", "debian-", "build-", "emulator-", "headers-")


class LabError(Exception):
    """Something about the lab itself failed; the text says what."""


def say(text):
    print("lab: " + text, file=sys.stderr, flush=True)


def cache_dir():
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    path = pathlib.Path(base) / "postern" / "lab"
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    return path


def digest(*parts):
    """Of strings and of the recipe files' contents."""
    total = hashlib.sha256()
    for part in parts:
        data = part.read_bytes() if isinstance(part, pathlib.Path) else part.encode()
        total.update(b"%d:" % len(data) + data)
    return total.hexdigest()[:16]


@contextlib.contextmanager
def locked(path):
    with open(path, "a", encoding="ascii") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def cached(name, build):
    """The cache's directory of that name; `build(target, work, log)` fills it when
    it is not there."""
    place = cache_dir() / name
    # or it is removed just now, since nobody has used it for long
    with contextlib.suppress(FileNotFoundError):
        os.utime(place)
    if not place.is_dir():
        with locked(cache_dir() / (name + ".lock")):
            if not place.is_dir():
                _cached_build(place, build)
    return place


def _cached_build(place, build):
    start = time.monotonic()
    say("building %s, once ..." % place.name)
    work = pathlib.Path(tempfile.mkdtemp(prefix="build-", dir=cache_dir()))
    try:
        target = work / "target"
        target.mkdir()
        build(target, work, work / "log")
        # used just now, whatever time a package that was unpacked into it has given it
        os.utime(target)
        os.rename(target, place)
    finally:
        # a user's build leaves directories of other (mapped) users nowhere, so this removes all
        shutil.rmtree(work, ignore_errors=True)
    say("built %s in %.0f s" % (place.name, time.monotonic() - start))


def cache_prune():
    """Removes what no clone has used for long. A lab that runs keeps its image
    open; its emulator has all that it needs by then."""
    limit = time.time() - UNUSED_DAYS * 86400
    for path in cache_dir().iterdir():
        if path.is_dir() and path.name.startswith(PRUNED) and \
                path.stat().st_mtime < limit:
            say("removing %s, not used for %d days" % (path.name, UNUSED_DAYS))
            shutil.rmtree(path, ignore_errors=True)
