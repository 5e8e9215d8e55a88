# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""QEMU's monitor of a lab (QMP), for questions and events only.

QEMU's emulation of SVM delivers an interrupt that a hypervisor injects a second
time when a processor is asked to leave its loop before the guest's next exit.
`stop` and `cont` ask all of them to; so no lab is ever stopped, and what is
sent here are questions that QEMU answers without its processors.
"""

import json
import os
import select
import socket
import time

QUESTIONS = ("info usernet", "info registers -a")
PATIENCE_S = 20
LINE_MOST = 4 << 20


class Monitor:
    """One connection to a socket in a lab's directory. OSError when there is none,
    or no answer in time."""

    def __init__(self, directory, name="monitor"):
        self.events = []
        self.received = b""
        self.sock = socket.socket(socket.AF_UNIX)
        try:
            self.sock.settimeout(PATIENCE_S)
            # a relative name by way of /proc: sockets' names are short, cache directories' not
            fd = os.open(directory, os.O_PATH)
            try:
                self.sock.connect("/proc/self/fd/%d/%s" % (fd, name))
            finally:
                os.close(fd)
            self._command("qmp_capabilities")
        except BaseException:
            self.sock.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sock.close()

    def ask(self, question):
        """The text that QEMU answers to one of QUESTIONS."""
        assert question in QUESTIONS, question
        return self._command("human-monitor-command", {"command-line": question})

    def runs(self):
        """Whether the machine does; it does not once it has shut down."""
        return self._command("query-status")["running"]

    def wait_event(self, seconds):
        """The name of the next event, None when there is none in time. OSError when
        QEMU has gone."""
        end = time.monotonic() + seconds
        while not self.events:
            left = end - time.monotonic()
            if left <= 0 or not select.select([self.sock], [], [], left)[0]:
                return None
            self._receive()
            self._take()
        return self.events.pop(0)

    def _receive(self):
        data = self.sock.recv(1 << 16)
        if not data or len(self.received) > LINE_MOST:
            raise ConnectionError("QEMU's monitor hung up")
        self.received += data

    def _take(self):
        """Answers among the lines that have come; events are noted."""
        *lines, self.received = self.received.split(b"\n")
        answers = []
        for line in filter(None, map(bytes.strip, lines)):
            message = json.loads(line)
            if "event" in message:
                self.events.append(message["event"])
            elif "QMP" not in message:
                answers.append(message)
        return answers

    def _command(self, name, arguments=None):
        request = {"execute": name, "arguments": arguments or {}}
        self.sock.sendall(json.dumps(request).encode() + b"\n")
        while True:
            self._receive()
            for answer in self._take():
                if "error" in answer:
                    raise OSError("QEMU's monitor says: %s" % answer["error"].get("desc"))
                return answer.get("return")
