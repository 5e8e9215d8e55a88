# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""Inside the lab: a guest that is lost is shown to the lab's outside, which keeps
the state of that moment (lab/watch.py).

    with kept_when_lost(lambda: console.text()):
        wait for what the guest is to do
"""

import contextlib
import itertools
import os
import pathlib
import re
import time

PLACE = pathlib.Path('/run/lab-keep')
CONSOLE = '/dev/console'    # of the lab
PATIENCE_S = 30             # for the outside; it may be busy
_numbers = itertools.count(1)


def keep(why, guest_text):
    """Asks for it and waits until it is kept, or for PATIENCE_S. Elsewhere than in
    the lab it does nothing."""
    if not os.environ.get('POSTERN_LAB'):
        return
    name = 'g%d_%d' % (os.getpid(), next(_numbers))
    PLACE.mkdir(exist_ok=True)
    (PLACE / name).write_text(guest_text, 'utf-8', 'replace')
    with open(CONSOLE, 'w', encoding='ascii', errors='replace') as file:
        file.write('\nLAB-KEEP %s %s\n' % (name, re.sub(r'\s+', ' ', why)[:200]))
    end = time.monotonic() + PATIENCE_S
    while not (PLACE / (name + '.done')).exists() and time.monotonic() < end:
        time.sleep(0.1)


@contextlib.contextmanager
def kept_when_lost(guest_text):
    """What is awaited of a guest and does not come; guest_text() is its console."""
    try:
        yield
    except AssertionError as error:
        with contextlib.suppress(OSError):
            keep(str(error).split('\n', maxsplit=1)[0], guest_text())
        raise
