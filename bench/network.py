# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""The network that is measured over: a loopback of its own, with the congestion control that Linux comes with. What an
administrator has chosen for this host's network (pacing, say, which halves what a loopback carries) would be measured instead, with
everybody; and nobody else's traffic is on it."""

import ctypes
import subprocess

CLONE_NEWNET = 0x40000000
CONGESTION = '/proc/sys/net/ipv4/tcp_congestion_control'
WANTED = 'cubic'


def congestion():
    """The congestion control that connections get here."""
    with open(CONGESTION, encoding='ascii') as f:
        return f.read().strip()


def enter():
    """From now on this process and its children have a network of their own; what that is, in words. Where it may not be made, the
    host's stays, and that is said."""
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET) < 0:
        return "the host's loopback, " + congestion()
    subprocess.run(['ip', 'link', 'set', 'lo', 'up'], check=True)
    try:
        with open(CONGESTION, 'w', encoding='ascii') as f:
            f.write(WANTED)
    except OSError:
        pass
    return 'a loopback of its own, ' + congestion()


__all__ = ['enter']
