# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""A QMP client, strict about time: every wait has a deadline.

    qmp = Qmp('/run/vm/qmp.sock')
    qmp.command('migrate-set-parameters', max_postcopy_bandwidth=1 << 20)
    ms, _ = qmp.timed('stop')
    qmp.wait_event('STOP')

Arguments' underscores become dashes. An error reply raises QmpError, silence QmpTimeout, a closed connection QmpClosed.
One thread at a time for each client.
"""

import json
import select
import socket
import time

from harness.waiting import seconds

TIMEOUT = 10.0


class QmpError(Exception):
    """The command's error reply: .kind is its class, .desc its text."""

    def __init__(self, command, error):
        self.kind, self.desc = error.get('class'), error.get('desc', '')
        super().__init__('%s: %s: %s' % (command, self.kind, self.desc))


class QmpTimeout(Exception):
    """No answer before the deadline."""


class QmpClosed(Exception):
    """The other side has closed the connection."""


def parse_address(address):
    """'unix:PATH', 'tcp:HOST:PORT', a path or (host, port) -> (family, address)."""
    if isinstance(address, tuple):
        return socket.AF_INET, address
    if address.startswith('tcp:'):
        host, port = address[4:].rsplit(':', 1)
        return socket.AF_INET, (host or '127.0.0.1', int(port))
    return socket.AF_UNIX, address[5:] if address.startswith('unix:') else address


def connect(address, timeout=TIMEOUT, alive=None):
    """Connects a stream socket, waiting until somebody listens there. alive(): raises when waiting is in vain."""
    family, where = parse_address(address)
    end = time.monotonic() + seconds(timeout)
    while True:
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.settimeout(max(0.01, end - time.monotonic()))
        try:
            sock.connect(where)
            sock.settimeout(None)
            return sock
        except OSError as e:
            sock.close()
            if alive:
                alive()
            if time.monotonic() >= end:
                raise QmpTimeout('%s: nobody answers: %s' % (address, e)) from e
            time.sleep(0.002)


class Qmp:
    """One connection. events: those that came and nobody has asked for yet, oldest first."""

    def __init__(self, address, timeout=TIMEOUT, oob=False, negotiate=True, alive=None):
        self.timeout = timeout
        self.address = address
        self.events = []
        self._replies = {}
        self._unnumbered = []
        self._buf = b''
        self._id = 0
        self.sock = connect(address, timeout, alive)
        try:
            self.greeting = self._message(self._end(timeout))
            if 'QMP' not in self.greeting:
                raise QmpError('greeting', {'class': 'NoGreeting', 'desc': repr(self.greeting)})
            if negotiate:
                self.execute('qmp_capabilities', {'enable': ['oob']} if oob else None)
        except BaseException:
            self.sock.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def close(self):
        """Closes the connection."""
        self.sock.close()

    @staticmethod
    def _end(timeout):
        return time.monotonic() + seconds(timeout)

    def _message(self, end):
        while b'\n' not in self._buf:
            left = end - time.monotonic()
            if left <= 0 or not select.select([self.sock], [], [], left)[0]:
                raise QmpTimeout('%s: nothing came in time' % (self.address,))
            try:
                data = self.sock.recv(1 << 16)
            except ConnectionError as e:
                raise QmpClosed('%s: %s' % (self.address, e)) from e
            if not data:
                raise QmpClosed('%s: closed' % (self.address,))
            self._buf += data
        line, self._buf = self._buf.split(b'\n', 1)
        return json.loads(line)

    def _take(self, end):
        """Reads one message and sorts it."""
        message = self._message(end)
        if 'event' in message:
            self.events.append(message)
        elif 'id' in message:
            self._replies[message['id']] = message
        else:
            self._unnumbered.append(message)

    # sending

    def send_raw(self, data):
        """Sends bytes as they are."""
        try:
            self.sock.sendall(data)
        except ConnectionError as e:
            raise QmpClosed('%s: %s' % (self.address, e)) from e

    def send(self, name, arguments=None, oob=False, fds=()):
        """Sends a command, with descriptors, and returns its id, for reply()."""
        self._id += 1
        message = {'exec-oob' if oob else 'execute': name, 'id': self._id}
        if arguments is not None:
            message['arguments'] = arguments
        data = json.dumps(message).encode() + b'\r\n'
        if fds:
            socket.send_fds(self.sock, [data], list(fds))
        else:
            self.send_raw(data)
        return self._id

    def getfd(self, name, *fds):
        """Passes a descriptor under that name."""
        return self.reply(self.send('getfd', {'fdname': name}, fds=fds), name='getfd')

    # receiving

    def reply(self, ident, timeout=None, name='?'):
        """The result of the command that send() gave this id."""
        end = self._end(self.timeout if timeout is None else timeout)
        while ident not in self._replies:
            try:
                self._take(end)
            except QmpTimeout:
                raise QmpTimeout('%s: no reply to %s in %.1f s' % (
                    self.address, name, seconds(self.timeout if timeout is None else timeout))) from None
        message = self._replies.pop(ident)
        if 'error' in message:
            raise QmpError(name, message['error'])
        return message['return']

    def raw_reply(self, timeout=None):
        """The next reply without an id, whole: what send_raw() is answered with."""
        end = self._end(self.timeout if timeout is None else timeout)
        while not self._unnumbered:
            self._take(end)
        return self._unnumbered.pop(0)

    # commands

    def execute(self, name, arguments=None, timeout=None, oob=False):
        """Carries out a command with its arguments as they are."""
        return self.reply(self.send(name, arguments, oob), timeout, name)

    def command(self, command_name, command_timeout=None, **arguments):
        """Carries out a command; underscores in arguments' names become dashes."""
        args = {k.replace('_', '-'): v for k, v in arguments.items()}
        return self.execute(command_name, args or None, command_timeout)

    def timed(self, command_name, command_timeout=None, **arguments):
        """(milliseconds, result), as this client saw it."""
        start = time.perf_counter()
        result = self.command(command_name, command_timeout, **arguments)
        return (time.perf_counter() - start) * 1e3, result

    # events

    def poll_events(self):
        """Takes in what has come, without waiting; returns all events that nobody has asked for."""
        while b'\n' in self._buf or select.select([self.sock], [], [], 0)[0]:
            try:
                self._take(self._end(self.timeout))
            except QmpClosed:
                break
        return self.events

    def wait_event(self, name, predicate=None, timeout=None):
        """The oldest event of that name (or of one of a tuple of names) whose data fits; removes it."""
        names = (name,) if isinstance(name, str) else name
        end = self._end(self.timeout if timeout is None else timeout)
        while True:
            for i, event in enumerate(self.events):
                if event['event'] in names and (predicate is None or predicate(event.get('data', {}))):
                    return self.events.pop(i)
            try:
                self._take(end)
            except QmpTimeout:
                raise QmpTimeout('%s: no event %s; came: %s' % (
                    self.address, name, [e['event'] for e in self.events])) from None

    def wait_closed(self, timeout=None):
        """Until the other side closes; events that still come are kept."""
        end = self._end(self.timeout if timeout is None else timeout)
        while True:
            try:
                self._take(end)
            except QmpClosed:
                return
