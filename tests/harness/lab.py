# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""Inside the lab: a guest that is lost is shown to the lab's outside, which keeps
the state of that moment (lab/watch.py), and says when its registers show that
the emulation has lost it. Then, and when the guest's kernel itself says that a
processor is stuck, the test has not failed but is an "xfail", and runs again in
another lab (tools/labs.py).

    with kept_when_lost(lambda: console.text()):
        wait for what the guest is to do
"""

import contextlib
import itertools
import os
import pathlib
import re
import time

import pytest

PLACE = pathlib.Path('/run/lab-keep')
CONSOLE = '/dev/console'    # of the lab
PATIENCE_S = 30             # for the outside; it may be busy
_numbers = itertools.count(1)


class GuestStuck(AssertionError):
    """Its kernel says that a processor goes on no more."""


def keep(why, guest_text):
    """Asks for it and waits until it is kept, or for PATIENCE_S. Whether the
    emulation is to blame. Elsewhere than in the lab it does nothing."""
    if not os.environ.get('POSTERN_LAB'):
        return False
    name = 'g%d_%d' % (os.getpid(), next(_numbers))
    PLACE.mkdir(exist_ok=True)
    (PLACE / name).write_text(guest_text, 'utf-8', 'replace')
    with open(CONSOLE, 'w', encoding='ascii', errors='replace') as file:
        file.write('\nLAB-KEEP %s %s\n' % (name, re.sub(r'\s+', ' ', why)[:200]))
    end = time.monotonic() + PATIENCE_S
    done = PLACE / (name + '.done')
    while not done.exists() and time.monotonic() < end:
        time.sleep(0.1)
    return done.exists() and done.read_text('ascii').strip() == 'emulation'


@contextlib.contextmanager
def kept_when_lost(guest_text):
    """What is awaited of a guest and does not come; guest_text() is its console."""
    try:
        yield
    except AssertionError as error:
        emulation = False
        with contextlib.suppress(OSError):
            emulation = keep(str(error).split('\n', maxsplit=1)[0], guest_text())
        if emulation or os.environ.get('POSTERN_LAB') and isinstance(error, GuestStuck):
            pytest.xfail('the guest is lost: %s' % error)
        raise
