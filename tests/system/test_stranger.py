# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""Who is let in at a migration's port: a stranger has the port, a recording, the right shape, a crowd, and not the secret. Nothing is placed,
nothing runs, and the real source still gets in."""

import contextlib
import os
import socket
import threading

import pytest

from harness import wire
from harness.migration import Pair, free_port
from harness.proxy import FRAME_BYTES, PREFACE_BYTES, TO_DESTINATION, Proxy
from harness.qmp import QmpError
from harness.vm import Postern
from harness.waiting import scale, seconds, wait_for

MIB = 1 << 20


def assert_sound(guest):
    found = guest.verify(seconds(120))
    assert found['errors'] == 0, found


@pytest.fixture
def victim():
    """A machine with a secret that waits at vm.port."""
    port = free_port()
    with Postern.incoming(uri='tcp:127.0.0.1:%d' % port, memory='64M') as vm:
        vm.command('migrate-set-parameters', x_postern_link_timeout=int(500 * scale()))
        vm.port, vm.uri = port, 'tcp:127.0.0.1:%d' % port
        yield vm


@pytest.fixture
def source():
    """The real source, of the same shape and with the same secret."""
    with Postern('src', memory='64M') as vm:
        vm.bare(ready=True).fill(seconds(60))
        yield vm


def assert_untouched(vm):
    """Nobody has come in."""
    assert vm.status() == 'inmigrate' and vm.migration_status() == 'setup'
    assert vm.faults()['pages']['present'] == 0


def assert_takes(vm, source):
    """The real source still gets in."""
    source.command('migrate', uri=vm.uri)
    source.wait_migration('completed')
    vm.wait_migration('completed')
    assert_sound(vm.bare())


def dial(port, host='127.0.0.1'):
    sock = socket.create_connection(('127.0.0.1', port), seconds(5), (host, 0))
    sock.settimeout(seconds(10))
    return sock


def rest(sock):
    """What comes until the other side closes or resets."""
    data = b''
    with contextlib.suppress(ConnectionError):
        while True:
            more = sock.recv(65536)
            if not more:
                break
            data += more
    return data


def record(**options):
    """What the source of a whole migration sends, as [(channel, what, data)]."""
    pieces = []

    def keep(piece):
        if piece.direction == TO_DESTINATION:
            pieces.append((piece.channel, piece.what, piece.data))
    with Pair(proxy=True, memory='64M', rewrite=keep, fill=False, **options) as pair:
        pair.start()
        pair.wait_completed()
    return pieces


def play(port, pieces):
    """Sends what was recorded, a connection a channel, as long as anybody listens; all that was answered, and that it was ended."""
    socks = {}
    with contextlib.ExitStack() as stack:
        for channel, what, data in pieces:
            if channel not in socks:
                socks[channel] = stack.enter_context(dial(port))
            with contextlib.suppress(OSError):
                socks[channel].sendall(data)
                # A recorded proof answers a challenge that has come.
                if what == 'preface':
                    socks[channel].recv(FRAME_BYTES)
        for sock in socks.values():
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_WR)
        return b''.join(rest(sock) for sock in socks.values())


# at the start

@pytest.mark.parametrize('command', ['migrate-incoming', 'migrate'])
def test_tcp_without_a_secret_is_refused_and_says_what_to_do(command):
    with Postern('src', memory='64M', secret=None) as src, Postern.incoming(memory='64M', secret=None) as dst:
        vm = src if command == 'migrate' else dst
        with pytest.raises(QmpError) as error:
            vm.command(command, uri='tcp:127.0.0.1:%d' % free_port())
        for word in ('--secret-file', 'x-postern-secret-file', 'unix:', '--insecure'):
            assert word in error.value.desc
        assert vm.status() == ('running' if vm is src else 'inmigrate')
        assert vm.migration_status() == 'none'


def test_a_command_brings_its_own_secret(tmp_path):
    """The machines were started without one."""
    secret = tmp_path / 'secret'
    secret.write_bytes(os.urandom(16))
    with Pair(memory='64M', secret=None) as pair:
        uri = 'tcp:127.0.0.1:%d' % free_port()
        secret.chmod(0o644)
        with pytest.raises(QmpError, match='chmod 600'):
            pair.destination.command('migrate-incoming', uri=uri, **{'x-postern-secret-file': str(secret)})
        secret.chmod(0o600)
        pair.destination.command('migrate-incoming', uri=uri, **{'x-postern-secret-file': str(secret)})
        with pytest.raises(QmpError, match='--secret-file'):
            pair.source.command('migrate', uri=uri)
        pair.bandwidth(MIB)
        pair.source.command('migrate', uri=uri, **{'x-postern-secret-file': str(secret)})
        pair.wait_switched()
        pair.source.command('migrate-pause')
        pair.wait_paused()
        # It is still this migration's.
        secret.unlink()
        pair.bandwidth(0)
        pair.source.command('migrate', uri=uri, resume=True)
        pair.wait_completed()
        assert_sound(pair.arrived())


@pytest.mark.parametrize('transport', ['unix', 'fd'])
def test_a_unix_socket_needs_no_secret(transport):
    with Pair(memory='64M', transport=transport, secret=None) as pair:
        pair.start()
        pair.wait_completed()
        assert_sound(pair.arrived())


# at the port

def test_the_port_alone_gets_nowhere(victim, source):
    """The right preface, without a proof: with none, an empty one, a random one, and its own words sent back."""
    preface = wire.preface(wire.CONTROL, os.urandom(16), kind=1)
    for proof in (b'', bytes(FRAME_BYTES), b'PSTPROOF' + os.urandom(32), None):
        with dial(victim.port) as sock:
            sock.sendall(preface)
            challenge = sock.recv(FRAME_BYTES)
            assert challenge.startswith(b'PSTCHAL')
            sock.sendall(challenge if proof is None else proof)
            if not proof:
                sock.shutdown(socket.SHUT_WR)
            assert b'PSTPROOF' not in rest(sock)
        assert_untouched(victim)
    assert_takes(victim, source)


def test_the_right_shape_without_the_secret_gets_nowhere(victim, source, tmp_path):
    """A real postern with a real guest, and another secret, or none."""
    other = tmp_path / 'other-secret'
    other.touch(0o600)
    other.write_bytes(os.urandom(32))
    for options in ({'secret': None, 'insecure': True}, {'secret': str(other)}):
        with Postern('stranger', memory='64M', **options) as stranger:
            stranger.command('migrate', uri=victim.uri)
            assert 'secret' in stranger.wait_migration('failed')['error-desc']
            assert stranger.status() == 'running'
        assert_untouched(victim)
    assert_takes(victim, source)


def test_a_recorded_session_opens_nothing(source):
    """Recorded between the real source and the real destination, and played to the latter, and to another one with the same secret."""
    pieces = record()
    assert [what for channel, what, _ in pieces if channel == 'control'][:3] == ['preface', 'proof', 'Hello']
    port = free_port()
    with Postern.incoming(uri='tcp:127.0.0.1:%d' % port, memory='64M') as vm:
        vm.port, vm.uri = port, 'tcp:127.0.0.1:%d' % port
        for _ in range(3):
            answer = play(port, pieces)
            assert b"does not have this destination's secret" in answer
            assert_untouched(vm)
        assert_takes(vm, source)


def test_a_recorded_resume_opens_nothing():
    """While the migration waits for its source, its own first link is played to the destination once more, and with the next epoch."""
    pieces, port = [], free_port()

    def keep(piece):
        if piece.direction == TO_DESTINATION:
            pieces.append((piece.channel, piece.what, piece.data))
    with Pair(memory='64M') as pair, Proxy('tcp:127.0.0.1:%d' % port, keep) as proxy:
        pair.destination.command('migrate-incoming', uri='tcp:127.0.0.1:%d' % port)
        pair.bandwidth(MIB)
        pair.source.command('migrate', uri=proxy.uri)
        pair.wait_switched()
        present = pair.destination.faults()['pages']['present']
        pair.source.command('migrate-pause')
        pair.wait_paused()
        for _ in range(2):
            assert b"does not have this destination's secret" in play(port, pieces)
            assert pair.destination.migration_status() == 'postcopy-paused'
        assert pair.destination.faults()['pages']['present'] >= present
        pair.bandwidth(0)
        pair.source.command('migrate', uri=proxy.uri, resume=True)
        pair.wait_completed()
        assert_sound(pair.arrived())


def test_the_guest_is_not_given_to_who_cannot_prove_the_secret(source):
    """Who listens in the destination's place sees prefaces and proofs, and no word of the guest."""
    with socket.create_server(('127.0.0.1', 0)) as server:
        server.settimeout(seconds(10))
        source.command('migrate', uri='tcp:127.0.0.1:%d' % server.getsockname()[1])
        with contextlib.ExitStack() as stack:
            socks = [stack.enter_context(server.accept()[0]) for _ in range(3)]
            for sock in socks:
                sock.settimeout(seconds(10))
                preface = sock.recv(PREFACE_BYTES, socket.MSG_WAITALL)
                sock.sendall(wire.challenge(preface[48]))
            # All of them first: a wrong answer to one ends the others.
            proofs = [sock.recv(FRAME_BYTES, socket.MSG_WAITALL) for sock in socks]
            assert all(proof.startswith(b'PSTPROOF') for proof in proofs)
            for sock, proof in zip(socks, proofs):
                with contextlib.suppress(ConnectionError):
                    sock.sendall(proof)
            assert not any(rest(sock) for sock in socks)
        assert "the destination does not have this source's secret" in source.wait_migration('failed')['error-desc']
        assert source.status() == 'running'


class Flood:
    """Connects from another address, from several threads, as fast as it goes: says nothing, half a preface, or a whole one, and stays."""

    def __init__(self, port, preface, threads=3, host='127.0.0.1'):
        self.port, self.preface, self.host = port, preface, host
        self.ending = threading.Event()
        self.connections = [0] * threads
        self.threads = [threading.Thread(target=self._run, args=(i,), daemon=True) for i in range(threads)]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *exc):
        self.ending.set()
        for thread in self.threads:
            thread.join(seconds(20))

    def _run(self, number):
        kept = []
        while not self.ending.is_set():
            with contextlib.suppress(OSError):
                sock = socket.create_connection(('127.0.0.1', self.port), 1, (self.host, 0))
                kept.append(sock)
                sock.sendall((b'', self.preface[:20], self.preface)[number % 3])
                self.connections[number] += 1
            while len(kept) > 100:
                kept.pop(0).close()
        for sock in kept:
            sock.close()


@pytest.mark.parametrize('host', ['127.0.0.1', '127.0.0.2'], ids=['same-address', 'elsewhere'])
def test_the_real_source_gets_in_through_a_flood(victim, source, host):
    with Flood(victim.port, wire.preface(wire.BULK, os.urandom(16), kind=1), host=host) as flood:
        wait_for(lambda: min(flood.connections) > 50, 20, 'the flood')
        assert_untouched(victim)
        assert_takes(victim, source)
    assert sum(flood.connections) > 150
