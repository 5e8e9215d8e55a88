# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""Free memory that costs no more than free memory should.

Where this machine is a guest itself, memory that it frees goes back to its host within seconds (free page reporting), and to get it
again takes milliseconds a huge page: that would be measured instead of a migration. So as much as a destination will need is
taken and touched beforehand, held until the host has taken what was freed before, and let go right before it is needed. The
same for everybody who is measured.
"""

import os
import subprocess
import time

REPORTING = '/sys/module/page_reporting'
DELAY_S = 2.4           # Linux' mm/page_reporting.c waits two seconds before it looks for what is free
QUIET_S = 0.3
SPARE_MIB = 128         # beyond the guest's memory: what the machine around it takes


def _reported():
    """A number that changes while memory goes back to the host; None where this kernel does not tell."""
    try:
        with open(REPORTING + '/parameters/reported_kib', encoding='ascii') as f:
            return int(f.read())
    except OSError:
        return None


class Warm:
    """Holds memory_mib and a little more from now on; release() gives it back."""

    def __init__(self, floors, memory_mib):
        self.process = subprocess.Popen([floors, 'hold', str(memory_mib + SPARE_MIB)], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE)
        self.begun = time.monotonic()

    def _wait_idle(self):
        """Until the host has taken what was freed before."""
        if not os.path.exists(REPORTING):
            return
        time.sleep(max(self.begun + DELAY_S - time.monotonic(), 0))
        quiet, last = time.monotonic(), _reported()
        while time.monotonic() - quiet < QUIET_S:
            time.sleep(0.02)
            now = _reported()
            if now != last:
                quiet, last = time.monotonic(), now

    def release(self):
        """From now on it is free, and warm."""
        self.process.stdout.readline()
        self._wait_idle()
        self.close()

    def close(self):
        """As release, at once; more than once does no harm."""
        if self.process.stdin.closed:
            return
        self.process.stdin.close()
        self.process.wait(60)
        self.process.stdout.close()


__all__ = ['Warm']
