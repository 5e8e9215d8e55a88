# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""A whole Debian that starts from a disk: systemd, a login on the serial console, ssh. The lab hands it in as a disk of its
own (lab/run --debian), which is written to and gone with the lab.

    with debian_machine() as vm:
        with Shell(vm) as shell:
            shell.login()
            shell.run('uname -r')
"""

import glob
import os
import re

from harness.debian import Console
from harness.lab import kept_when_lost
from harness.vm import Postern
from harness.waiting import wait_for

SERIAL = 'debian'       # of the lab's disk: lab/host.py
LOGIN_SECONDS = 60      # unstretched; it takes 12 in a lab that has nothing else to do
# A vCPU that waits for a page looks stuck to the guest: DebianPair in harness/debian.py.
PARAMETERS = 'quiet net.ifnames=0 nokaslr no5lvl panic=-1 no-kvmapf watchdog_thresh=60'


def device():
    """The block device with the system, or None."""
    for name in glob.glob('/sys/block/vd*/serial'):
        with open(name, encoding='ascii') as f:
            if f.read().strip() == SERIAL:
                return '/dev/' + name.split('/')[3]
    return None


def options(*more, append=''):
    """Words of `postern run` for it: no --kernel."""
    return ['--disk', device(), *more, '--rng', '--append', ' '.join((PARAMETERS, append)).strip()]


def debian_machine(name='debian', memory='512M', cpus=2, more=(), append='', **others):
    """A machine that starts from the disk."""
    return Postern(name, kernel=None, memory=memory, cpus=cpus, options=options(*more, append=append), **others)


class Shell(Console):
    """root's shell on the serial console."""

    _from = 0
    _number = 0

    def until(self, pattern, timeout=20.0):
        """Waits for text past what was found last, ends of lines or not; returns the match."""
        rx = re.compile(pattern, re.M)

        def found():
            ended = self.closed
            match = rx.search(self.text(), self._from)
            if match:
                self._from = match.end()
                return match
            self.assert_goes_on(ended, pattern)
            return None
        with kept_when_lost(self.text):
            return wait_for(found, timeout, lambda: 'console: no %r; the end is %r' % (pattern, self.text()[-1500:]), every=0.02)

    def wait_login(self, timeout=LOGIN_SECONDS):
        """Until getty asks for a name."""
        self.until(r'^\S+ login: $', timeout)

    def login(self, timeout=LOGIN_SECONDS):
        """Logs in, and makes the shell one for programs."""
        self.wait_login(timeout)
        self.write('root\n')
        self.until(r'# ', timeout)
        self.write("exec env PS1= PS2= TERM=dumb sh\n")        # no line editor, so that it stays without an echo
        self.write("stty -echo; set +m; echo QUI''ET\n")
        self.until(r'QUIET$', timeout)

    def begin(self, command):
        """Types a command; returns what to hand to finish()."""
        self._number += 1
        self.write('{ %s\n} 2>&1; echo "<$?>"END%d\n' % (command, self._number))
        return self._number, self._from

    def finish(self, begun, timeout=30.0):
        """(exit code, output) of a command."""
        number, start = begun
        match = self.until(r'<(\d+)>END%d$' % number, timeout)
        return int(match[1]), self.text()[start:match.start()].strip()

    def run(self, command, timeout=30.0):
        """A command's output; it has to succeed."""
        code, output = self.finish(self.begin(command), timeout)
        assert code == 0, '%s: %d: %s' % (command, code, output)
        return output


def reason():
    """Why there is none, or None."""
    return None if device() and os.path.exists(device()) else 'this lab has no disk with Debian (lab/run --debian)'
