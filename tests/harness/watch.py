# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""Watches both sides of a migration: at no moment may the guest run twice.

Two witnesses. The monitors: a thread asks the destination and then the source whether the guest runs; since a
destination never gives it back, both saying yes in that order means that it runs twice. The guest: it counts its
heartbeats in its own memory, so a number that both serial ports have shown was counted twice.
"""

import re
import threading

from harness.qmp import QmpClosed, QmpError, QmpTimeout

LEAST = 5       # samples that even the shortest watch takes


class Watch:
    """Samples query-status of both sides from its start to its end. twice: what must stay empty."""

    def __init__(self, pair, every=0.002):
        self.twice = []
        self.samples = 0
        self._every = every
        self._clients = [pair.destination.qmp(), pair.source.qmp()]
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name='watch', daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exc):
        self._end.set()
        self._thread.join()
        for client in self._clients:
            client.close()

    def _run(self):
        while not self._end.wait(self._every) or self.samples < LEAST:
            try:
                there, here = (c.command('query-status') for c in self._clients)
            except (QmpClosed, QmpTimeout, QmpError, OSError):
                return
            self.samples += 1
            if there['running'] and here['running']:
                self.twice.append((there, here))


def beats_of(bare):
    """The numbers of the heartbeats that this Bare has read so far, in order."""
    return [count for _, count in bare.beats]


def assert_ran_once(here, there):
    """Heartbeats of the source and of the destination: no number on both sides, none out of order."""
    for name, beats in (('source', here), ('destination', there)):
        assert beats == sorted(set(beats)), '%s: heartbeats out of order: %s' % (name, beats[-20:])
    both = set(here) & set(there)
    assert not both, 'the guest counted %d heartbeats on both sides: %s' % (len(both), sorted(both)[:10])
    assert not here or not there or max(here) < min(there), 'the source ran on after the destination had begun'


def beats_in(text):
    """The heartbeats in raw serial output."""
    return [int(x) for x in re.findall(r'^\.(\d+)\r?$', text, re.M)]
