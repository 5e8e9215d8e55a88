# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""The link is cut at every moment of a migration: by time, over a link whose wire is taken out, and by a proxy, before and after
each piece of the protocol. Whatever the moment: the guest never runs twice; before the source's decision it runs on at the
source; after it, the migration is recovered and completes; and no word of its memory is wrong.

The decision is the source's, on StateReply (migrate/switchover.c has the table).
"""

import contextlib

import pytest

from harness.migration import Pair
from harness.proxy import Moment, TO_DESTINATION, TO_SOURCE
from harness.vm import bare_guest
from harness.waiting import seconds, wait_for
from harness.watch import Watch, assert_ran_once, beats_of

KIB, MIB = 1 << 10, 1 << 20
MEMORY = '64M'
BANDWIDTH = 24 * MIB        # the calibrated migration takes some seconds

STAYS, MOVES, DONE = 'stays', 'moves', 'done'
CONNECT_MS = 1500           # a connection that is not answered fails after this
STILL = ('none', 'setup', 'failed', 'postcopy-paused', 'completed')     # a destination without a link


def prepare(pair):
    """A guest that verifies and rewrites its memory on vCPU 1 and beats on vCPU 0."""
    pair.guest.mask(2)
    pair.guest.heartbeat(True, period_us=5000)
    pair.guest.walk('c')


def outcome(pair):
    """Until the source knows what became of it; returns its status."""
    with pair.hurry():
        pair.source.wait_migration('failed', 'postcopy-paused', 'completed', timeout=30)
        pair.destination.wait_migration(*STILL, timeout=30)
    return pair.source.migration_status()


def assert_stays(pair):
    """The guest is the source's, and the destination does not run it, not later either."""
    assert pair.source.status() == 'running'
    assert not pair.destination.command('query-status')['running']
    pair.guest.wait_beats(20, seconds(10))
    assert not pair.destination.command('query-status')['running']
    guest = pair.guest
    guest.heartbeat(False, timeout=seconds(10))
    guest.quiet(seconds(20))
    assert guest.first_error(seconds(10))['errors'] == 0
    assert guest.verify(seconds(60))['errors'] == 0


def assert_moves(pair):
    """It is the destination's, the way back works, and all is well."""
    assert pair.source.status() == 'postmigrate'
    if pair.source.migration_status() != 'completed':
        there = pair.destination
        there.wait_migration('postcopy-paused', 'completed', timeout=20)
        assert not pair.source.command('query-status')['running']
        if pair.link:
            pair.link.up()
        pair.recover(bandwidth=0, wait=False)
    pair.bandwidth(0)
    pair.wait_completed()
    assert pair.destination.status() == 'running'
    assert pair.source.status() == 'postmigrate'
    guest = pair.arrived()
    guest.wait_beats(5, seconds(20))
    guest.heartbeat(False, timeout=seconds(10))
    with contextlib.suppress(bare_guest.BareError):     # what the source's serial port still holds
        while True:
            pair.guest.wait_beats(1, 0.05)
    assert_ran_once(beats_of(pair.guest), beats_of(guest))
    guest.quiet(seconds(20))
    assert guest.first_error(seconds(10))['errors'] == 0
    assert guest.verify(seconds(60))['errors'] == 0


# ---- by time ----

@pytest.fixture(scope='module')
def course():
    """How long an undisturbed migration takes here: (seconds to the switchover, seconds in all)."""
    import time     # pylint: disable=import-outside-toplevel
    with Pair(link=True, memory=MEMORY, link_timeout_ms=CONNECT_MS) as pair:
        prepare(pair)
        start = time.monotonic()
        pair.begin(bandwidth=BANDWIDTH)
        pair.destination.wait_migration('postcopy-active', 'completed')
        switched = time.monotonic() - start
        pair.wait_completed()
        total = time.monotonic() - start
        print('calibration: switched over after %.0f ms, completed after %.0f ms' % (switched * 1e3, total * 1e3))
        return switched, total


@pytest.mark.slow
@pytest.mark.usefixtures('needs_link')
@pytest.mark.parametrize('part', range(20))
def test_the_wire_is_taken_out_at_twenty_times(course, part):
    """The first half of the moments lies around the switchover, the second over the rest."""
    import threading    # pylint: disable=import-outside-toplevel
    switched, total = course
    moment = switched * 1.5 * part / 10 if part < 10 else switched * 1.5 + (total - switched * 1.5) * (part - 10) / 10
    with Pair(link=True, memory=MEMORY, link_timeout_ms=CONNECT_MS) as pair:
        prepare(pair)
        with Watch(pair) as watch:
            cut = threading.Timer(moment, pair.link.down)
            cut.start()
            pair.begin(bandwidth=BANDWIDTH)
            cut.join()
            status = outcome(pair)
            print('cut after %.1f ms: %s' % (moment * 1e3, status))
            if status == 'failed':
                assert_stays(pair)
            else:
                assert_moves(pair)
        assert watch.samples and not watch.twice, watch.twice


# ---- by the protocol ----

D, S = TO_DESTINATION, TO_SOURCE
MOMENTS = [
    # piece, n-th, direction, channel, expected when cut before it, and after it
    ('preface', 1, D, None, STAYS, STAYS),
    ('preface', 2, D, None, STAYS, STAYS),
    ('preface', 3, D, None, STAYS, STAYS),
    ('challenge', 1, S, None, STAYS, STAYS),
    ('proof', 1, D, None, STAYS, STAYS),
    ('proof', 3, D, None, STAYS, STAYS),
    ('proof', 1, S, None, STAYS, STAYS),
    ('proof', 3, S, None, STAYS, STAYS),
    ('Hello', 1, D, 'control', STAYS, STAYS),
    ('HelloReply', 1, S, 'control', STAYS, STAYS),
    ('Boot', 1, D, 'control', STAYS, STAYS),
    ('BootData', 1, D, 'control', STAYS, STAYS),
    ('BootEnd', 1, D, 'control', STAYS, STAYS),
    ('BootReply', 1, S, 'control', STAYS, STAYS),
    ('PAGES', 1, D, 'control', STAYS, STAYS),
    ('State', 1, D, 'control', STAYS, STAYS),
    ('StateReply', 1, S, 'control', STAYS, MOVES),
    ('Run', 1, D, 'control', MOVES, MOVES),
    ('RunReply', 1, S, 'control', MOVES, MOVES),
    ('PAGES', 1, D, 'bulk', MOVES, MOVES),
    ('PAGES', 20, D, 'bulk', MOVES, MOVES),
    ('REQUEST', 1, S, 'urgent', MOVES, MOVES),
    ('REQUEST', 30, S, 'urgent', MOVES, MOVES),
    ('PAGES', 1, D, 'urgent', MOVES, MOVES),
    ('PAGES', 30, D, 'urgent', MOVES, MOVES),
    ('ZERO', 1, D, 'bulk', MOVES, MOVES),
    ('Complete', 1, S, 'control', MOVES, DONE),
    ('CompleteAck', 1, D, 'control', DONE, DONE),
]
CASES = [(m, when, expected, how)
         for i, m in enumerate(MOMENTS)
         for when, expected, how in (('before', m[4], ('hold', 'close')[i % 2]), ('after', m[5], ('close', 'hold')[i % 2]))]


@pytest.fixture(scope='module')
def pieces():
    """What passes in an undisturbed migration: {(what, direction, channel): how often}."""
    with Pair(proxy=True, memory=MEMORY, link_timeout_ms=CONNECT_MS) as pair:
        prepare(pair)
        pair.start(bandwidth=BANDWIDTH)
        pair.wait_completed()
        wait_for(lambda: pair.proxy.count('CompleteAck') == 1, 5)
        found = {}
        for direction, channel, what in pair.proxy.seen:
            found[what, direction, channel] = found.get((what, direction, channel), 0) + 1
            found[what, direction, None] = found.get((what, direction, None), 0) + 1
        print('pieces: %s' % {k: v for k, v in found.items() if k[2]})
        return found


@pytest.mark.slow
@pytest.mark.parametrize('moment, when, expected, how', CASES, ids=[
    '-'.join(str(x) for x in (w, m[3], m[0], m[1], h) if x) for m, w, _, h in CASES])
def test_cut_at_each_piece_of_the_protocol(pieces, moment, when, expected, how):
    what, n, direction, channel = moment[:4]
    if pieces.get((what, direction, channel), 0) < n:
        pytest.skip('this guest on this host has no %s %s number %d' % (channel, what, n))
    with Pair(proxy=True, memory=MEMORY, link_timeout_ms=CONNECT_MS) as pair:
        prepare(pair)
        with Watch(pair) as watch:
            pair.proxy.cut_at(Moment(what, n, when, direction, channel, how))
            pair.begin(bandwidth=BANDWIDTH)
            assert pair.proxy.wait_cut(), 'the moment did not come: %s' % pair.proxy.seen[-20:]
            status = outcome(pair)
            print('%s, %s: error at the source %r, at the destination %r' % (
                status, pair.running(), pair.source.migration().get('error-desc'),
                pair.destination.migration().get('error-desc')))
            if expected == STAYS:
                assert status == 'failed'
                assert_stays(pair)
            elif expected == MOVES:
                assert status == 'postcopy-paused'
                assert_moves(pair)
            else:
                assert_moves(pair)
                assert pair.destination.migration_status() == 'completed'
        assert watch.samples and not watch.twice, watch.twice


def test_pages_of_a_session_that_failed_are_not_kept():
    """They were placed before the State that never came, and the guest has rewritten them since: the same destination takes it all the same."""
    with Pair(proxy=True, memory=MEMORY, link_timeout_ms=CONNECT_MS) as pair:
        prepare(pair)
        pair.proxy.cut_at(Moment('State', when='before'))
        pair.begin()
        assert pair.proxy.wait_cut()
        assert outcome(pair) == 'failed'
        assert pair.proxy.count('PAGES', channel='control')
        # It was in setup before as well.
        wait_for(lambda: not pair.destination.faults()['pages']['present'], 10, 'pages of the session are kept')
        pair.destination.wait_migration('setup')
        pair.guest.wait_beats(20, seconds(10))
        pair.proxy.restore()
        pair.source.command('migrate', uri=pair.proxy.uri)
        pair.wait_completed()
        assert_moves(pair)


def test_a_source_that_gave_up_can_migrate_to_a_new_destination():
    """StateReply is lost: the old destination is prepared for a Run that never comes, and must not take the next attempt."""
    with Pair(proxy=True, memory=MEMORY, link_timeout_ms=CONNECT_MS) as pair:
        prepare(pair)
        pair.proxy.cut_at(Moment('StateReply', when='before'))
        pair.begin()
        assert pair.proxy.wait_cut()
        assert outcome(pair) == 'failed'
        old = pair.destination
        old.wait_migration('postcopy-paused', 'failed')
        pair.proxy.restore()
        pair.source.command('migrate', uri=pair.proxy.uri)
        error = pair.source.wait_migration('failed')['error-desc']
        assert 'new destination' in error, error
        assert pair.source.status() == 'running' and not old.command('query-status')['running']
        pair.new_destination(memory=MEMORY)
        pair.set_link_timeout()
        with Watch(pair) as watch:
            pair.begin()
            pair.wait_completed()
        assert not watch.twice and not old.command('query-status')['running']
        assert_moves(pair)
