# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""gdb's remote protocol from the debugger's side, and gdb itself with a time limit.

    gdb = GdbRemote(path)
    gdb.ask('?'); gdb.ask('g'); gdb.read(0x100000, 64)
"""

import contextlib
import select
import subprocess
import time

from harness.qmp import connect
from harness.waiting import seconds

TIMEOUT = 10.0


class GdbTimeout(Exception):
    """No packet before the deadline."""


class GdbError(Exception):
    """The stub answered with an error, or closed the connection."""


class GdbRemote:
    """One session with acknowledgements on."""

    def __init__(self, address, timeout=TIMEOUT):
        self.timeout = timeout
        self._buf = b''
        self.sock = connect(address, timeout)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def close(self):
        """Closes the connection without detaching."""
        self.sock.close()

    def _more(self, end):
        left = end - time.monotonic()
        if left <= 0 or not select.select([self.sock], [], [], left)[0]:
            raise GdbTimeout('no packet in time; so far %r' % self._buf[-200:])
        data = self.sock.recv(1 << 16)
        if not data:
            raise GdbError('the stub closed the connection')
        self._buf += data

    def send(self, payload, behind=b''):
        """Sends one packet, payload a text without characters that need an escape; behind: bytes for the same segment."""
        data = payload.encode('latin-1')
        self.sock.sendall(b'$' + data + b'#%02x' % (sum(data) & 255) + behind)

    def receive(self, timeout=None):
        """The next packet's payload, acknowledged."""
        end = time.monotonic() + seconds(self.timeout if timeout is None else timeout)
        while True:
            start = self._buf.find(b'$')
            stop = self._buf.find(b'#', start)
            if start >= 0 and stop >= 0 and len(self._buf) >= stop + 3:
                payload, check = self._buf[start + 1:stop], int(self._buf[stop + 1:stop + 3], 16)
                self._buf = self._buf[stop + 3:]
                if sum(payload) & 255 != check:
                    raise GdbError('wrong checksum of %r' % payload)
                with contextlib.suppress(ConnectionError):      # it need not wait for that, having been left
                    self.sock.sendall(b'+')
                return _expand(payload).decode('latin-1')
            self._more(end)

    def ask(self, payload, timeout=None):
        """Sends a packet and returns the reply."""
        self.send(payload)
        return self.receive(timeout)

    def timed(self, payload, timeout=None):
        """(milliseconds, reply)"""
        start = time.perf_counter()
        reply = self.ask(payload, timeout)
        return (time.perf_counter() - start) * 1e3, reply

    def read(self, address, length, timeout=None):
        """Memory as bytes; GdbError when the stub refuses."""
        reply = self.ask('m%x,%x' % (address, length), timeout)
        if reply.startswith('E') or not reply:
            raise GdbError('read of 0x%x: %r' % (address, reply))
        return bytes.fromhex(reply)

    def interrupt(self):
        """Ctrl-C."""
        self.sock.sendall(b'\x03')

    def monitor(self, command, timeout=None):
        """A 'monitor' command's whole output."""
        text = ''
        reply = self.ask('qRcmd,' + command.encode().hex(), timeout)
        while reply.startswith('O') and reply != 'OK':
            text += bytes.fromhex(reply[1:]).decode('utf-8', 'replace')
            reply = self.receive(timeout)
        if reply and reply != 'OK':
            if reply.startswith('E'):
                raise GdbError('monitor %s: %r' % (command, reply))
            text += bytes.fromhex(reply).decode('utf-8', 'replace')
        return text


def _expand(payload):
    """Escapes and run lengths undone."""
    out = bytearray()
    i = 0
    while i < len(payload):
        c = payload[i]
        if c == 0x7d and i + 1 < len(payload):
            out.append(payload[i + 1] ^ 0x20)
            i += 1
        elif c == 0x2a and out and i + 1 < len(payload):
            out += bytes([out[-1]]) * (payload[i + 1] - 29)
            i += 1
        else:
            out.append(c)
        i += 1
    return bytes(out)


def run_gdb(commands=(), arguments=(), timeout=30.0, prefix=()):
    """Runs gdb -nx -batch with these commands; returns (output, seconds). Raises GdbTimeout, and kills it, when it does
    not end in time."""
    words = list(prefix) + ['gdb', '-nx', '-batch', '-iex', 'set debuginfod enabled off', '-iex', 'set confirm off']
    words += list(arguments)
    for command in commands:
        words += ['-ex', command]
    start = time.monotonic()
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               text=True)
    try:
        output, _ = process.communicate(timeout=seconds(timeout))
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
        raise GdbTimeout('gdb did not end in %.0f s: %s' % (seconds(timeout), output[-500:])) from None
    return output, time.monotonic() - start
