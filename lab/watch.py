# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""Watches a lab while something runs in it, and keeps what can be kept when it
is lost (lost.py).

    stuck       its kernel says twice that a processor got stuck (soft lockup)
    shut down   it panicked, or a processor gave up; QEMU has stopped it, so that
                its registers can still be read (-no-shutdown)
    asked       what runs in it wants the state of this moment, since a guest is
                lost: a line `LAB-KEEP NAME why` on the console. The guest's own
                console is in /run/lab-keep/NAME; /run/lab-keep/NAME.done is made
                when it is kept, and says "emulation" when the registers show
                that the guest has its host's (tests/harness/lab.py)

The first two end the lab, which ends what runs in it.
"""

import contextlib
import os
import pathlib
import re
import signal
import tempfile
import threading

from cache import LabError
from lost import host_in_guest, keep
from monitor import Monitor

EVERY_S = 1
ENDED = "the lab's kernel ended"
STUCK = 2               # cries that a processor got stuck; the first may be a busy machine's
ASKED_MOST = 4          # in one run
ASKED = re.compile(r"LAB-KEEP (\w{1,40}) (.{0,200})")


class Watch:
    """A context: watches in a thread of its own. Attributes: stuck, lost."""

    def __init__(self, lab):
        self.lab = lab
        self.stuck = self.lost = False
        self.seen = len(lab.complaints())
        self.asked = len(ASKED.findall(lab.console()))
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._watch, name="watch", daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.done.set()
        self.thread.join()

    def _watch(self):
        with contextlib.ExitStack() as stack:
            monitor = None
            while not self.done.is_set() and not self.lost and self.lab.alive():
                try:
                    if not monitor:
                        monitor = stack.enter_context(Monitor(self.lab.path, "events"))
                        if not monitor.runs():      # it has shut down already
                            self._end(ENDED)
                    elif monitor.wait_event(EVERY_S) == "SHUTDOWN":
                        self._end(ENDED)
                except (OSError, ValueError):       # it is not there yet, or has gone
                    monitor = None
                    self.done.wait(EVERY_S)
                self._complaints()
                self._requests()

    def _complaints(self):
        cries = [line for line in self.lab.complaints()[self.seen:] if "soft lockup" in line]
        if not self.lost and len(cries) >= STUCK:
            self.stuck = True
            self._end("a processor of the lab got stuck")

    def _end(self, why):
        self.lost = True
        if not self.done.is_set():      # else it is to end
            keep(self.lab, why)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.lab.state["pid"], signal.SIGKILL)

    def _requests(self):
        asked = ASKED.findall(self.lab.console())
        for name, why in asked[self.asked:ASKED_MOST]:
            with contextlib.suppress(LabError, OSError):
                place = keep(self.lab, "what runs in the lab says: " + why, guest=self._guest_console(name))
                lost = place and host_in_guest((place / "registers").read_text("utf-8", "replace"))
                done = "/run/lab-keep/%s.done" % name
                self.lab.execute(["sh", "-c", "echo %s > %s.new; mv %s.new %s" % ("emulation" if lost else "", done, done, done)],
                                 timeout=20, cwd="/")
        self.asked = max(self.asked, len(asked))

    def _guest_console(self, name):
        with tempfile.TemporaryDirectory() as own, contextlib.suppress(LabError, OSError):
            path = pathlib.Path(own, "guest")
            self.lab.get("/run/lab-keep/" + name, path, 20)
            return path.read_bytes()
        return b""
