# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""A proxy between a migration's source and destination that knows frames (docs/wire.md), to cut at a chosen one.

    with Proxy(target='unix:/tmp/d') as proxy:              # proxy.uri is what the source connects to
        proxy.cut_at(Moment('Run', when='before'))          # black hole: sockets stay open, nothing passes
        ...
        assert proxy.wait_cut()
        proxy.restore()                                     # old connections go, new ones pass

A moment is a preface, a challenge, a proof, a frame of a type or a message of a kind, the n-th of them, in a direction, on a channel. With
'before' it does not pass, with 'after' it does and nothing that follows; in both directions, on all channels. One
thread; frames pass whole.
"""

import os
import select
import shutil
import socket
import struct
import tempfile
import threading
import time

from harness.qmp import parse_address
from harness.waiting import seconds

PREFACE_MAGIC = b'POSTERN\0'
PREFACE_BYTES = 64
HANDSHAKES = {b'PSTCHAL\0': 'challenge', b'PSTPROOF': 'proof'}     # as long as a frame's header
FRAME_MAGIC = 0x46545350
FRAME_BYTES = 40
CHANNELS = {0: 'control', 1: 'urgent', 2: 'bulk'}
TYPES = {1: 'MESSAGE', 2: 'PAGES', 3: 'ZERO', 4: 'REQUEST', 5: 'LOST'}
MESSAGES = ['?', 'Hello', 'HelloReply', 'State', 'StateReply', 'Run', 'RunReply', 'Resume', 'ResumeReply', 'Missing',
            'MissingEnd', 'ResumeAck', 'Complete', 'CompleteAck', 'Ping', 'Pong', 'Abort', 'Boot', 'BootData', 'BootEnd',
            'BootReply']
TO_DESTINATION, TO_SOURCE = 'to-destination', 'to-source'


def message_name(payload):
    """The kind of an encoded Envelope: its first field's number, by hand."""
    tag = shift = 0
    for byte in payload[:10]:
        tag |= (byte & 0x7f) << shift
        shift += 7
        if byte < 0x80:
            break
    number = tag >> 3
    return MESSAGES[number] if 0 < number < len(MESSAGES) else '?'


class Piece:
    """A part of the handshake or a frame on its way. what: 'preface', 'challenge', 'proof', a type's or a message's name."""

    def __init__(self, direction, channel, what, data, gfn=0, count=0):
        self.direction, self.channel, self.what = direction, channel, what
        self.data, self.gfn, self.count = data, gfn, count

    def __repr__(self):
        pages = ' %x+%d' % (self.gfn, self.count) if self.count else ''
        return '<%s %s %s%s, %d bytes>' % (self.direction, self.channel, self.what, pages, len(self.data))


class Moment:
    """The n-th piece that fits. direction and channel: None for any. how: 'hold' (black hole) or 'close'."""

    def __init__(self, what, n=1, when='before', direction=None, channel=None, how='hold'):
        self.what, self.n, self.when = what, n, when
        self.direction, self.channel, self.how = direction, channel, how
        self.seen = 0

    def __str__(self):
        return '-'.join(str(x) for x in (self.when, self.channel, self.what, self.n if self.n > 1 else None, self.how)
                        if x)

    def reached(self, piece):
        """Counts the piece; is it the one?"""
        if (piece.what != self.what or self.direction not in (None, piece.direction)
                or self.channel not in (None, piece.channel)):
            return False
        self.seen += 1
        return self.seen == self.n


class _Stream:
    """One direction of one connection."""

    def __init__(self, connection, source, target, direction):
        self.connection, self.source, self.target, self.direction = connection, source, target, direction
        self.buf = bytearray()
        self.first = True
        self.raw = False

    def next(self):
        """Takes a whole Piece out of the buffer, or None."""
        if self.raw:
            return self._take('raw', len(self.buf)) if self.buf else None
        if self.first:
            if len(self.buf) < len(PREFACE_MAGIC):
                return None
            if self.buf.startswith(PREFACE_MAGIC):
                if len(self.buf) < PREFACE_BYTES:
                    return None
                self.first = False
                self.connection.channel = CHANNELS.get(struct.unpack_from('<H', self.buf, 10)[0], '?')
                return self._take('preface', PREFACE_BYTES)
            self.first = False
        if len(self.buf) < FRAME_BYTES:
            return None
        step = HANDSHAKES.get(bytes(self.buf[:8]))
        if step:
            return self._take(step, FRAME_BYTES)
        magic, kind, _, size, count, gfn = struct.unpack_from('<IHHIIQ', self.buf)
        if magic != FRAME_MAGIC:
            self.raw = True
            return self.next()
        if len(self.buf) < FRAME_BYTES + size:
            return None
        what = TYPES.get(kind, '?')
        if what == 'MESSAGE':
            what = message_name(self.buf[FRAME_BYTES:FRAME_BYTES + 10])
        return self._take(what, FRAME_BYTES + size, gfn, count)

    def _take(self, what, size, gfn=0, count=0):
        data = bytes(self.buf[:size])
        del self.buf[:size]
        return Piece(self.direction, self.connection.channel, what, data, gfn, count)


class _Connection:
    def __init__(self, near, far):
        self.near, self.far = near, far
        self.channel = '?'
        self.streams = {near: _Stream(self, near, far, TO_DESTINATION), far: _Stream(self, far, near, TO_SOURCE)}
        self.open = {near, far}


class Proxy:
    """Listens at proxy.uri (proxy.address) for the source and connects to target for each connection.

    rewrite: a function that gets every Piece and returns bytes to pass instead (or None: as it is). seen: what has
    passed, in order, as (direction, channel, what).
    """

    def __init__(self, target, rewrite=None):
        self.target = parse_address(target)
        self.rewrite = rewrite
        self.seen = []
        self.cut = threading.Event()
        self.cut_ns = None
        self.error = None
        self._moment = None
        self._how = None
        self._lock = threading.Lock()
        self._connections = []
        self._dir = tempfile.mkdtemp(prefix='postern-proxy-')
        self.address = os.path.join(self._dir, 'socket')
        self.uri = 'unix:' + self.address
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(self.address)
        self._listener.listen(16)
        self._waker, self._wake = socket.socketpair()
        self._ending = False
        self._thread = threading.Thread(target=self._run, name='proxy', daemon=True)
        self._thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def close(self):
        """Closes everything."""
        self._ending = True
        self._poke()
        self._thread.join(seconds(10))
        self._drop()
        for sock in (self._listener, self._waker, self._wake):
            sock.close()
        shutil.rmtree(self._dir, ignore_errors=True)

    # what tests call

    def cut_at(self, moment):
        """Cuts when the moment comes."""
        with self._lock:
            self.cut.clear()
            self._how = None
            self._moment = moment

    def cut_now(self, how='hold'):
        """Cuts at once, between two frames."""
        with self._lock:
            self._cut(how)
        self._poke()

    def wait_cut(self, timeout=20.0):
        """Waits until the moment has come; false: it did not."""
        return self.cut.wait(seconds(timeout))

    def restore(self, target=None):
        """Drops what was cut; new connections pass (to another target, if given)."""
        with self._lock:
            if target:
                self.target = parse_address(target)
            self._moment = self._how = None
            self.cut.clear()
            self._drop()
        self._poke()

    def count(self, what, direction=None, channel=None):
        """How many such pieces have passed."""
        return sum(w == what and direction in (None, d) and channel in (None, c) for d, c, w in list(self.seen))

    # the thread

    def _poke(self):
        try:
            self._wake.send(b'x')
        except OSError:
            pass

    def _drop(self):
        for connection in self._connections:
            for sock in (connection.near, connection.far):
                sock.close()
        self._connections = []

    def _cut(self, how):
        self._how = how
        self._moment = None
        self.cut_ns = time.monotonic_ns()
        if how == 'close':
            self._drop()
        self.cut.set()

    def _run(self):
        try:
            while not self._ending:
                with self._lock:
                    socks = {self._listener, self._waker}
                    if not self._how:
                        for connection in self._connections:
                            socks |= connection.open
                try:
                    ready = select.select(list(socks), [], [], 1)[0]
                except (OSError, ValueError):
                    continue        # restore() has closed one
                with self._lock:
                    self._serve(ready)
        except Exception as e:      # pylint: disable=broad-except
            self.error = e
            raise

    def _serve(self, ready):
        if self._waker in ready:
            self._waker.recv(4096)
        if self._listener in ready:
            self._accept()
        for connection in list(self._connections):
            for sock in (connection.near, connection.far):
                if self._how:
                    return
                if sock in ready and sock in connection.open:
                    self._receive(connection, sock)

    def _accept(self):
        near, _ = self._listener.accept()
        if self._how == 'close':
            near.close()
            return
        far = socket.socket(self.target[0], socket.SOCK_STREAM)
        if self._how != 'hold':
            try:
                far.connect(self.target[1])
            except OSError:
                near.close()
                far.close()
                return
        self._connections.append(_Connection(near, far))

    def _receive(self, connection, sock):
        stream = connection.streams[sock]
        try:
            data = sock.recv(1 << 18)
        except OSError:
            data = b''
        if not data:
            self._end_of(connection, stream)
            return
        stream.buf += data
        while not self._how:
            piece = stream.next()
            if piece is None:
                return
            self._pass(stream, piece)

    def _end_of(self, connection, stream):
        """One side has closed: passes what is left, then the end."""
        connection.open.discard(stream.source)
        try:
            if stream.buf:
                stream.target.sendall(bytes(stream.buf))
            stream.target.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        if not connection.open:
            connection.near.close()
            connection.far.close()
            if connection in self._connections:
                self._connections.remove(connection)

    def _pass(self, stream, piece):
        moment = self._moment
        hit = moment is not None and moment.reached(piece)
        if hit and moment.when == 'before':
            self._cut(moment.how)
            return
        data = self.rewrite(piece) if self.rewrite else None
        try:
            stream.target.sendall(piece.data if data is None else data)
            self.seen.append((piece.direction, piece.channel, piece.what))
        except OSError:
            stream.connection.open.discard(stream.source)
        if hit:
            self._cut(moment.how)
