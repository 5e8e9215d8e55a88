# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""Each of two machines has a link timeout of its own (docs/wire.md, Life): who
asks often is answered often, who asks seldom is not held for dead, and a cut is
noticed by each in its own time."""

import contextlib
import socket
import time

import pytest

from harness.migration import Pair
from harness.vm import Postern
from harness.waiting import scale, seconds, wait_for

SHORT_MS, LONG_MS = 1000, 600000
MEMORY = '64M'


def timeout(vm, milliseconds):
    vm.command('migrate-set-parameters', x_postern_link_timeout=milliseconds)


def short():
    """As that of a side which is to notice soon; stretched."""
    return int(SHORT_MS * scale())


def silence(times):
    """Lets so many short timeouts pass. No wait for anything: the length of the silence is what is tried."""
    time.sleep(times * short() / 1000)


def status(pair):
    return [vm.migration_status() for vm in (pair.source, pair.destination)]


ACTIVE = ['postcopy-active'] * 2


@pytest.mark.parametrize('side', ['source', 'destination'])
def test_who_is_impatient_is_answered_at_its_own_pace(side):
    with Pair(memory=MEMORY, link_timeout_ms=LONG_MS / scale()) as pair:
        timeout(getattr(pair, side), short())
        pair.start(bandwidth=1)
        silence(3)
        assert status(pair) == ACTIVE
        pair.bandwidth(0)
        pair.wait_completed()


@pytest.mark.parametrize('side', ['source', 'destination'])
def test_a_shorter_timeout_counts_from_when_it_is_set(side):
    """Until then the other side was asked at the old pace, and had no reason to speak."""
    with Pair(memory=MEMORY, link_timeout_ms=LONG_MS / scale()) as pair:
        pair.start(bandwidth=1)
        silence(2)
        timeout(getattr(pair, side), short())
        silence(2)
        assert status(pair) == ACTIVE, pair.source.migration().get('error-desc')
        pair.bandwidth(0)
        pair.wait_completed()


@pytest.mark.usefixtures('needs_link')
@pytest.mark.parametrize('side, other', [('source', 'destination'), ('destination', 'source')])
def test_a_cut_is_noticed_by_each_in_its_own_time(side, other):
    """And the patient side is told to give the link up, or hears of the new one."""
    with Pair(link=True, memory=MEMORY, link_timeout_ms=LONG_MS / scale()) as pair:
        timeout(getattr(pair, side), short())
        pair.start(bandwidth=1)
        pair.link.down()
        wait_for(lambda: getattr(pair, side).migration_status() == 'postcopy-paused', 20)
        assert getattr(pair, other).migration_status() == 'postcopy-active'
        getattr(pair, other).command('migrate-pause')
        pair.wait_paused()
        pair.link.up()
        pair.recover(bandwidth=0)
        pair.wait_completed()
        assert pair.arrived().verify(seconds(60))['errors'] == 0


def test_a_shorter_timeout_is_also_that_of_the_handshake():
    """A stranger that says nothing has the new time, at least 5 s, and not the 30 s of before."""
    with Postern.incoming(memory=MEMORY, options=['--link-timeout', str(LONG_MS)]) as vm:
        vm.command('migrate-incoming', uri='unix:' + vm.path('here'))
        timeout(vm, SHORT_MS)
        with socket.socket(socket.AF_UNIX) as stranger:
            stranger.connect(vm.path('here'))
            stranger.settimeout(15)
            with contextlib.suppress(ConnectionError):
                while stranger.recv(4096):
                    pass        # what it says of itself
