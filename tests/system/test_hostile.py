# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""Peers that are broken, confused or malicious. Nobody crashes, nobody hangs, nothing wrong is shown to the guest."""

import os
import random
import socket
import struct

import pytest

from harness import wire
from harness.migration import Pair, free_port
from harness.proxy import FRAME_BYTES, TO_DESTINATION
from harness.vm import Postern, sanitized
from harness.waiting import scale, seconds, wait_for

MIB = 1 << 20


def assert_sound(guest):
    guest.quiet(seconds(30))
    assert guest.first_error(seconds(10))['errors'] == 0
    found = guest.verify(seconds(120))
    assert found['errors'] == 0, found


class Recorder:
    """Remembers what a source sends as a proxy's rewrite function."""

    def __init__(self):
        self.pieces = []

    def __call__(self, piece):
        if piece.direction == TO_DESTINATION:
            self.pieces.append((piece.channel, piece.what, piece.data))


@pytest.fixture(scope='module')
def recording():
    """The bytes of a real migration without a secret, piece by piece."""
    recorder = Recorder()
    with Pair(proxy=True, memory='64M', rewrite=recorder, fill=False, insecure=True) as pair:
        pair.start()
        pair.wait_completed()
    return recorder.pieces


def dial(port, data=b''):
    sock = socket.create_connection(('127.0.0.1', port), seconds(5))
    if data:
        sock.sendall(data)
    return sock


def closed(sock, timeout=5.0):
    """Reads until the other side closes or resets; what came."""
    sock.settimeout(seconds(timeout))
    data = b''
    try:
        while True:
            more = sock.recv(65536)
            if not more:
                return data
            data += more
    except ConnectionError:
        return data


@pytest.fixture
def waiting_machine():
    """(machine, port): an incoming machine that takes a guest from anybody."""
    port = free_port()
    with Postern.incoming(uri='tcp:127.0.0.1:%d' % port, memory='64M', insecure=True) as vm:
        vm.command('migrate-set-parameters', x_postern_link_timeout=int(500 * scale()))
        vm.port = port
        yield vm


def assert_takes_a_guest(vm):
    """It is unharmed: a real migration still works."""
    with Postern('good', memory='64M', insecure=True) as source:
        guest = source.bare(ready=True)
        guest.fill(seconds(60))
        source.command('migrate', uri='tcp:127.0.0.1:%d' % vm.port)
        source.wait_migration('completed')
        vm.wait_migration('completed')
        assert_sound(vm.bare())


def test_garbage_at_the_incoming_port_is_dropped(waiting_machine):
    rng = random.Random(119)
    before = waiting_machine.fds()
    for size in (1, 7, 8, 63, 64, 65, 500, 100000):
        sock = dial(waiting_machine.port)
        try:
            sock.sendall(rng.randbytes(size))
            sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass                            # it was quicker
        closed(sock)
        sock.close()
    for text in (b'GET / HTTP/1.0\r\n\r\n' + bytes(64), b'POSTERN\0' + bytes(56), b'POSTERN\0' + b'\xff' * 56,
                 b'QEVM\0\0\0\3' + bytes(64)):
        sock = dial(waiting_machine.port, text)
        closed(sock)
        sock.close()
    waiting_machine.assert_alive()
    wait_for(lambda: waiting_machine.fds() <= before, 5, 'descriptors of dropped connections')
    assert waiting_machine.status() == 'inmigrate'
    assert_takes_a_guest(waiting_machine)


def test_connections_that_say_nothing_hold_nothing_up(waiting_machine):
    silent = [dial(waiting_machine.port) for _ in range(60)]
    half = [dial(waiting_machine.port, b'POSTERN\0\2') for _ in range(20)]
    waiting_machine.command('query-status')
    for sock in silent + half:
        closed(sock, 10)
        sock.close()
    wait_for(lambda: waiting_machine.fds() < 40, 5)
    assert_takes_a_guest(waiting_machine)


def test_a_migration_is_taken_while_strangers_knock(waiting_machine):
    socks = [dial(waiting_machine.port, b'POSTERN\0') for _ in range(5)]
    assert_takes_a_guest(waiting_machine)
    for sock in socks:
        sock.close()


def replay(vm, pieces, change=None, upto=None):
    """Plays recorded pieces to a waiting machine, one connection a channel; change(i, channel, what, data) -> bytes."""
    socks = {}
    try:
        for i, (channel, what, data) in enumerate(pieces[:upto]):
            if channel not in socks:
                socks[channel] = dial(vm.port)
            if change:
                data = change(i, channel, what, data)
            socks[channel].sendall(data)
    except OSError:
        pass
    return socks


def test_a_replayed_session_runs_no_guest_twice(waiting_machine, recording):
    """A whole recorded migration is a migration like any other; the same bytes once more are refused."""
    socks = replay(waiting_machine, recording)
    wait_for(lambda: waiting_machine.status() != 'inmigrate', 10)
    again = replay(waiting_machine, recording)
    for sock in again.values():
        closed(sock)
        sock.close()
    waiting_machine.assert_alive()
    waiting_machine.command('query-status')
    for sock in socks.values():
        sock.close()


def test_pages_of_a_stranger_are_dropped(waiting_machine, recording):
    """The right shape, pages, no State: the machine is as before, and takes a guest."""
    upto = max(i for i, p in enumerate(recording[:40]) if p[:2] == ('control', 'PAGES')) + 1
    assert 'State' not in [p[1] for p in recording[:upto]]
    for sock in replay(waiting_machine, recording, upto=upto).values():
        sock.shutdown(socket.SHUT_WR)
        closed(sock)
        sock.close()
    wait_for(lambda: waiting_machine.migration_status() == 'setup', 10)
    assert waiting_machine.status() == 'inmigrate' and waiting_machine.faults()['pages']['present'] == 0
    assert_takes_a_guest(waiting_machine)


@pytest.mark.parametrize('seed', range(6))
def test_a_session_with_flipped_bits_never_crashes_the_destination(recording, seed):
    """One bit in a hundred pieces' worth of protocol: headers, messages, prefaces."""
    rng = random.Random(seed)
    port = free_port()
    with Postern.incoming(uri='tcp:127.0.0.1:%d' % port, memory='64M', insecure=True) as vm:
        vm.port = port
        vm.command('migrate-set-parameters', x_postern_link_timeout=int(500 * scale()))
        small = [i for i, p in enumerate(recording) if len(p[2]) < 20000][:12]
        victim = rng.choice(small)

        def change(i, channel, what, data):
            if i != victim:
                return data
            at = rng.randrange(len(data) * 8)
            out = bytearray(data)
            out[at // 8] ^= 1 << at % 8
            return bytes(out)
        socks = replay(vm, recording, change, 40)
        wait_for(lambda: vm.migration()['postern']['incoming'] is not None, 5)
        for sock in socks.values():
            sock.close()
        wait_for(lambda: vm.migration_status() not in ('device', 'postcopy-active'), 10)
        vm.assert_alive()
        vm.command('stop')
        vm.command('quit')
        assert vm.wait_exit(5) == 0


def _frame(kind, flags=0, size=0, count=0, gfn=0):
    return struct.pack('<IHHIIQQQ', 0x46545350, kind, flags, size, count, gfn, 0, 0)


@pytest.mark.parametrize('frame', [
    _frame(1, size=0xffffffff), _frame(1, size=(64 << 20) + 1), _frame(1, size=0), _frame(2, count=129, size=129 * 4104),
    _frame(2, count=1, size=4), _frame(3, count=0xffffffff), _frame(3, count=1, gfn=1 << 60), _frame(4, count=1),
    _frame(99), _frame(1, flags=1, size=8), bytes(FRAME_BYTES), b'\xff' * FRAME_BYTES,
], ids=['4G', '64M+1', 'empty', 'pages', 'short', 'zeros', 'far', 'request', 'type', 'flags', 'null', 'ones'])
def test_a_frame_that_cannot_be_is_refused(waiting_machine, recording, frame):
    """After three good prefaces. (Their header checksum is wrong, too; unit tests cover each check by itself.)"""
    prefaces = [p for p in recording if p[1] == 'preface'][:3]
    before = waiting_machine.rss()
    socks = replay(waiting_machine, prefaces)
    try:
        socks['control'].sendall(frame + bytes(5000))
    except OSError:
        pass
    closed(socks['control'])
    for sock in socks.values():
        sock.close()
    waiting_machine.assert_alive()
    assert waiting_machine.rss() - before < 8 * MIB or sanitized()
    assert waiting_machine.status() == 'inmigrate'
    assert_takes_a_guest(waiting_machine)


def connect_by_hand(vm):
    """[control, urgent, bulk] of a link that a machine without a secret has let in."""
    session = os.urandom(16)
    socks = [dial(vm.port, wire.preface(channel, session)) for channel in (wire.CONTROL, wire.URGENT, wire.BULK)]
    for sock in socks:
        sock.settimeout(seconds(10))
        assert sock.recv(wire.HANDSHAKE_BYTES, socket.MSG_WAITALL).startswith(b'PSTCHAL')
    return session, socks


def peak(vm):
    """Resident bytes at the most, ever."""
    with open('/proc/%d/status' % vm.pid, encoding='ascii') as f:
        return next(int(line.split()[1]) << 10 for line in f if line.startswith('VmHWM'))


def many_ranges():
    """A Hello's shape with two million of them."""
    return wire.field(5, b'\x22\x00' * 2000000)


def twice():
    """A Hello with two shapes, which protobuf-c takes for none."""
    return wire.field(5, b'') * 2


@pytest.mark.parametrize('hello, says', [(many_ranges, b'more than 128 fields'), (twice, b'comes twice')],
                         ids=['two-million-ranges', 'shape-twice'])
def test_a_message_that_costs_more_than_it_weighs_is_refused_unread(waiting_machine, hello, says):
    before = peak(waiting_machine)
    _, socks = connect_by_hand(waiting_machine)
    socks[0].sendall(wire.message(1, hello()))
    assert says in closed(socks[0])
    for sock in socks:
        sock.close()
    # The message itself is 4 MB of it.
    assert peak(waiting_machine) - before < 12 * MIB or sanitized()
    assert waiting_machine.status() == 'inmigrate'
    assert_takes_a_guest(waiting_machine)


class Corrupter:
    """Flips one bit in the n-th PAGES frame of a channel, once."""

    def __init__(self, channel, n, offset):
        self.channel, self.n, self.offset = channel, n, offset
        self.piece = None

    def __call__(self, piece):
        if piece.what != 'PAGES' or piece.channel != self.channel or piece.direction != TO_DESTINATION:
            return None
        self.n -= 1
        if self.n:
            return None
        self.piece = piece
        data = bytearray(piece.data)
        data[self.offset % len(data)] ^= 0x10
        return bytes(data)


@pytest.mark.parametrize('channel, n', [('bulk', 3), ('urgent', 5)])
@pytest.mark.parametrize('offset', [-100, FRAME_BYTES + 3, 20], ids=['data', 'sum', 'header'])
def test_a_damaged_page_is_never_shown_and_comes_again(channel, n, offset):
    corrupter = Corrupter(channel, n, offset)
    with Pair(proxy=True, memory='64M', rewrite=corrupter) as pair:
        pair.guest.mask(2)
        pair.guest.walk('c')
        pair.start(bandwidth=16 * MIB)
        pair.wait_paused()
        assert corrupter.piece
        error = pair.destination.migration()['error-desc']
        print(error)
        assert 'checksum' in error
        if offset == -100:
            assert '0x%x' % (corrupter.piece.gfn + corrupter.piece.count - 1) in error
        pair.recover(bandwidth=0)
        pair.wait_completed()
        assert_sound(pair.arrived())


def test_a_damaged_state_is_refused_and_the_guest_stays():
    def damage(piece):
        if piece.what != 'State':
            return None
        data = bytearray(piece.data)
        data[len(data) // 2] ^= 1
        return bytes(data)
    with Pair(proxy=True, memory='64M', rewrite=damage) as pair:
        pair.begin()
        pair.source.wait_migration('failed')
        assert pair.source.status() == 'running'
        assert not pair.destination.command('query-status')['running']
        pair.guest.mark(seconds(10))
        assert_sound(pair.guest)


def test_a_stranger_cannot_resume_somebody_elses_session(recording):
    """While a migration is paused, whoever connects with another session, or an old epoch, is turned away."""
    port = free_port()
    with Pair(memory='64M') as pair:
        pair.destination.command('migrate-incoming', uri='tcp:127.0.0.1:%d' % port)
        pair.bandwidth(MIB)
        pair.source.command('migrate', uri='tcp:127.0.0.1:%d' % port)
        pair.wait_switched()
        pair.source.command('migrate-pause')
        pair.wait_paused()
        pair.destination.port = port
        socks = replay(pair.destination, [p for p in recording if p[1] in ('preface', 'Hello')][:4])
        for sock in socks.values():
            closed(sock)
            sock.close()
        assert pair.destination.migration_status() == 'postcopy-paused'
        pair.bandwidth(0)
        pair.source.command('migrate', uri='tcp:127.0.0.1:%d' % port, resume=True)
        pair.wait_completed()
        assert_sound(pair.arrived())


def test_a_destination_that_answers_garbage_does_not_harm_the_source():
    with Postern(memory='64M') as source, socket.create_server(('127.0.0.1', 0)) as server:
        guest = source.bare(ready=True)
        guest.fill(seconds(60))
        server.settimeout(seconds(10))
        for answer in (os.urandom(200), b'HTTP/1.1 400 Bad Request\r\n\r\n' + bytes(40), b''):
            source.command('migrate', uri='tcp:127.0.0.1:%d' % server.getsockname()[1])
            socks = [server.accept()[0] for _ in range(3)]
            for sock in socks:
                try:
                    sock.sendall(answer)
                    sock.shutdown(socket.SHUT_WR)
                except OSError:
                    pass
            info = source.wait_migration('failed')
            assert info['error-desc']
            for sock in socks:
                sock.close()
            assert source.status() == 'running'
            guest.mark(seconds(10))
        assert_sound(guest)


class Loser:
    """In place of the bulk: LOST frames for every page, once."""

    def __init__(self, pages):
        self.frames = b''.join(wire.frame(wire.LOST, count=1, gfn=gfn) for gfn in range(pages))

    def __call__(self, piece):
        if piece.channel != 'bulk' or piece.direction != TO_DESTINATION or piece.what not in ('PAGES', 'ZERO'):
            return None
        frames, self.frames = self.frames, b''
        return frames


def lost_by_events(events):
    """How many pages these events tell of."""
    return sum(event['data'].get('pages', 1) for event in events if event['event'] == 'POSTERN_PAGE_LOST')


def test_pages_lost_by_the_hundred_thousand_are_told_of_together():
    """5 MiB of LOST frames: the log, the events and the memory do not grow with them, and each page is accounted for."""
    pages = (512 << 20) // 4096
    with Pair(proxy=True, memory='512M', rewrite=Loser(pages), fill=False) as pair:
        before = pair.destination.rss()
        pair.begin(bandwidth=MIB)
        pair.destination.wait_status('io-error', timeout=30)

        def reported():
            found = pair.destination.command('query-postern-faults')['pages']
            # An urgent page may have come after all.
            return (not found['missing'] and not found['requested'] and
                    lost_by_events(pair.destination.q.poll_events()) >= found['lost'])
        wait_for(reported, 60)
        lost = pair.destination.command('query-postern-faults')['pages']['lost']
        events = pair.destination.q.poll_events()
        assert lost > pages // 2
        assert sum(event['event'] == 'POSTERN_PAGE_LOST' for event in events) * 200 < lost
        assert sum(' lost' in line for line in pair.destination.log().splitlines()) * 200 < lost
        assert pair.destination.rss() - before < 24 * MIB or sanitized()
        with pytest.raises(Exception, match='lost'):
            pair.destination.command('cont')


def expect_closed(port, *pieces):
    """Sends, and reads to the end: what came."""
    sock = dial(port)
    try:
        for piece in pieces:
            sock.sendall(piece)
        return closed(sock, 10)
    except OSError:
        return b''
    finally:
        sock.close()


def test_a_web_page_reaches_neither_qmp_nor_the_debugger():
    """Requests that a browser of this host sends wherever a page says, with commands in their bodies."""
    qmp, gdb = free_port(), free_port()
    body = b'{"execute":"qmp_capabilities"}\r\n{"execute":"stop"}\r\n'
    kill = b'+$qSupported#37$k#6b'
    with Postern(memory='64M', gdb='tcp:127.0.0.1:%d' % gdb, options=['--qmp', 'tcp:127.0.0.1:%d' % qmp]) as vm:
        vm.bare(ready=True)
        for method in (b'POST', b'GET', b'HEAD', b'OPTIONS', b'PUT'):
            for port, content in (qmp, body), (gdb, kill):
                head = b'%s / HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n' % (
                    method, port, len(content))
                answer = expect_closed(port, head + content)
                assert b'return' not in answer and b'$' not in answer, answer
                assert expect_closed(port, head, content).count(b'return') == 0
                assert vm.status() == 'running'
        # A connection alone stops nothing either.
        silent = dial(gdb)
        vm.command('query-status')
        assert vm.status() == 'running'
        silent.close()
        assert not [event for event in vm.q.poll_events() if event['event'] == 'STOP']
