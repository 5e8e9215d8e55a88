# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""A link between two network namespaces, to be cut the way an operator sees it: the wire is out, no socket is closed.

    with Link() as link:
        source = Postern(netns=link.a.name, ...)
        link.down(); link.up()

Needs root. Names carry the process's number, so that any number of tests run side by side.
"""

import collections
import itertools
import os
import subprocess

from harness.waiting import seconds, wait_for

Side = collections.namedtuple('Side', 'name interface address')

_numbers = itertools.count()


def ip(*words, check=True):
    """Runs ip(8); OSError with what it said, if it is to be checked."""
    return run(('ip',) + words, check)


def run(words, check=True):
    """Runs a program, as ip()."""
    done = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          timeout=seconds(20), text=True)
    if check and done.returncode:
        raise OSError('%s: %s' % (' '.join(words), done.stdout.strip()))
    return done


def reason():
    """Why there can be no Link here, or None. Tries it."""
    try:
        Link().close()
    except (OSError, subprocess.SubprocessError) as e:
        return 'no network namespaces or veth here: %s' % e
    return None


class Link:
    """Two namespaces, a and b (each a Side), joined by a veth pair: 10.119.N.1 and 10.119.N.2."""

    def __init__(self):
        if os.geteuid():
            raise OSError('network namespaces need root')
        n = next(_numbers)
        stem = '%x-%x' % (os.getpid(), n)
        net = '10.119.%d.' % ((os.getpid() + n) % 254 + 1)
        self.a = Side('postern-%s-a' % stem, 'va', net + '1')
        self.b = Side('postern-%s-b' % stem, 'vb', net + '2')
        self.is_up = True
        try:
            for side in (self.a, self.b):
                ip('netns', 'add', side.name)
                ip('-n', side.name, 'link', 'set', 'lo', 'up')
            ip('-n', self.a.name, 'link', 'add', self.a.interface, 'type', 'veth',
                'peer', 'name', self.b.interface, 'netns', self.b.name)
            for side in (self.a, self.b):
                ip('-n', side.name, 'address', 'add', side.address + '/24', 'dev', side.interface)
                ip('-n', side.name, 'link', 'set', side.interface, 'up')
            self._wait_carrier()
        except BaseException:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def close(self):
        """Removes namespaces and with them the link."""
        for side in (self.a, self.b):
            ip('netns', 'delete', side.name, check=False)

    def down(self):
        """The wire is out. Connections stay open and hear nothing."""
        ip('-n', self.a.name, 'link', 'set', self.a.interface, 'down')
        self.is_up = False

    def up(self):
        """The wire is back; returns when packets pass again."""
        ip('-n', self.a.name, 'link', 'set', self.a.interface, 'up')
        self._wait_carrier()
        self.is_up = True

    def _wait_carrier(self):
        for side in (self.a, self.b):
            wait_for(lambda: ' state UP ' in ip('-n', side.name, 'link', 'show', side.interface).stdout,  # pylint: disable=cell-var-from-loop
                     10, 'no carrier on %s' % side.interface)

    def shape(self, rate=None, delay_ms=None):
        """Limits each direction: rate in bytes a second, delay in ms; None: no limit. OSError where the kernel lacks
        the queueing discipline."""
        for side in (self.a, self.b):
            tc = ('ip', 'netns', 'exec', side.name, 'tc', 'qdisc')
            run(tc + ('delete', 'dev', side.interface, 'root'), check=False)
            what = ()
            if delay_ms:
                what = ('netem', 'delay', '%dms' % delay_ms)
                if rate:
                    what += ('rate', '%dbit' % (rate * 8))
            elif rate:
                what = ('tbf', 'rate', '%dbit' % (rate * 8), 'burst', '%d' % max(rate // 50, 65536), 'latency', '200ms')
            if what:
                run(tc + ('add', 'dev', side.interface, 'root') + what)
