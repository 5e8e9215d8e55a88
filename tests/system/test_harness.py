# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""The witnesses that other tests call: each must be able to say no."""

import socket
import struct
import threading

import pytest

from harness import report
from harness.proxy import Moment, Proxy, TO_DESTINATION, message_name
from harness.waiting import WaitTimeout, seconds, wait_for
from harness.watch import Watch, assert_ran_once


def test_heartbeats_on_both_sides_are_noticed():
    assert_ran_once([1, 2, 3], [4, 5])
    assert_ran_once([], [1])
    for here, there in (([1, 2, 3], [3, 4]), ([1, 2, 5], [3, 4]), ([2, 1], []), ([], [1, 1])):
        with pytest.raises(AssertionError):
            assert_ran_once(here, there)


class FakeMachine:
    """Says always the same."""

    def __init__(self, running):
        self.running = running

    def qmp(self):
        return self

    def command(self, _name):
        return {'running': self.running}

    def close(self):
        pass


@pytest.mark.parametrize('here, there', [(True, True), (True, False), (False, True)])
def test_a_guest_that_runs_twice_is_noticed(here, there):
    class FakePair:     # pylint: disable=too-few-public-methods
        source, destination = FakeMachine(here), FakeMachine(there)
    with Watch(FakePair) as watch:
        wait_for(lambda: watch.samples > 3, 5)
    assert bool(watch.twice) == (here and there)


def test_a_wait_that_is_in_vain_ends():
    with pytest.raises(WaitTimeout, match='never'):
        wait_for(lambda: False, 0.02, 'never')


def test_percentiles():
    assert report.percentile(list(range(1, 101)), 0.99) == 99
    assert report.percentile([7], 0.5) == 7 and report.percentile([], 0.5) is None
    assert report.table([{'a': 'x', 'n': 1.0}]).splitlines()[1] == 'x  1.000'


def _message(number, size=2):
    payload = bytes([number << 3 | 2, 0]) + bytes(size - 2)
    return struct.pack('<IHHIIQQQ', 0x46545350, 1, 0, len(payload), 0, 0, 0, 0) + payload


def _preface(channel):
    return b'POSTERN\0' + struct.pack('<HHI', 1, channel, 0) + bytes(48)


def test_message_names_are_the_wire_formats():
    assert [message_name(bytes([n << 3 | 2, 0])) for n in (1, 5, 13)] == ['Hello', 'Run', 'CompleteAck']
    assert message_name(b'\x82\x01\x00') == 'Abort' and message_name(b'') == '?'


@pytest.mark.parametrize('when, passed', [('before', 2), ('after', 3)])
@pytest.mark.parametrize('how', ['hold', 'close'])
def test_the_proxy_cuts_exactly_there(tmp_path, when, passed, how):
    got = bytearray()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / 's'))
        server.listen(1)

        def serve():
            peer, _ = server.accept()
            with peer:
                while data := peer.recv(65536):
                    got.extend(data)
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        pieces = [_preface(0), _message(1), _message(5, 100000), _message(13)]
        with Proxy('unix:' + str(tmp_path / 's')) as proxy, socket.socket(socket.AF_UNIX) as client:
            proxy.cut_at(Moment('Run', when=when, direction=TO_DESTINATION, how=how))
            client.connect(proxy.address)
            try:
                client.sendall(b''.join(pieces))
            except OSError:
                assert how == 'close'
            assert proxy.wait_cut(5)
            wait_for(lambda: len(got) == sum(len(p) for p in pieces[:passed]), 5)
            if how == 'hold':
                client.settimeout(0.1)
                with pytest.raises(TimeoutError):
                    client.recv(1)
            else:
                client.settimeout(seconds(5))
                try:
                    assert client.recv(1) == b''
                except ConnectionError:
                    pass
            assert bytes(got) == b''.join(pieces[:passed])
            proxy.restore()
        thread.join(seconds(5))
