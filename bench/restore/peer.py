# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""QEMU beside bench/restore/restore: the newest that can be had (lab/emulator.py), with the bare guest's snapshot in a mapped-ram file that
lies in the page cache. It runs the guest at once and brings pages by postcopy, or else loads all of it before."""

import pathlib
import sys

from harness.vm import Qemu

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.append(str(ROOT / 'lab'))

import emulator  # noqa: E402
import image  # noqa: E402

MAPPED = 'migration.mapped-ram=on'
# Pages by postcopy, which 11.1.3 refuses for mapped-ram; all of it first.
WAYS = (('fast load', ('-global', MAPPED, '-global', 'migration.x-postcopy-ram=on')), ('mapped-ram', ('-global', MAPPED)))


def words():
    """What its command line begins with."""
    return [str(word) for word in emulator.emulator_get(image.ARCHES['amd64'])]


def save(path, mib, beat_us):
    """The snapshot of a guest whose memory is filled, and that says something all the time."""
    with Qemu(memory_mib=mib, binary=words(), options=WAYS[1][1]) as vm:
        guest = vm.bare(ready=True)
        guest.fill(600)
        guest.heartbeat(True, period_us=beat_us)
        guest.wait_beats(5)
        vm.command('migrate', uri='file:%s' % path)
        vm.wait_migration('completed', timeout=300)


def load_words(path, mib, way):
    """A machine that loads it and talks on standard output."""
    return [*words(), *Qemu.machine_words(mib), '-serial', 'stdio', *way, '-incoming', 'file:%s' % path]
