# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""Bounded waits for conditions. POSTERN_TIME_SCALE (1 unless set) stretches every deadline, for slow hosts."""

import os
import time


def scale():
    """By how much all deadlines are stretched."""
    return float(os.environ.get('POSTERN_TIME_SCALE') or ('6' if os.environ.get('POSTERN_LAB') else '1'))


def seconds(n):
    """n seconds of a deadline, stretched."""
    return n * scale()


class WaitTimeout(AssertionError):
    """A condition did not come true in time."""


def wait_for(condition, timeout=10.0, what=None, every=0.005):
    """Asks condition() until it is true; returns what it returned. timeout in unstretched seconds; what: a text, or a
    function that says how things stand."""
    end = time.monotonic() + seconds(timeout)
    while True:
        got = condition()
        if got:
            return got
        if time.monotonic() >= end:
            text = what() if callable(what) else what or getattr(condition, '__name__', 'condition')
            raise WaitTimeout('not in %.1f s: %s' % (seconds(timeout), text))
        time.sleep(every)
