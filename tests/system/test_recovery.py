# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""A lost link and the way back."""

import signal

import pytest

from harness.migration import Pair, free_port
from harness.proxy import Moment
from harness.qmp import QmpError
from harness.vm import Postern
from harness.waiting import seconds, wait_for
from harness.watch import Watch, assert_ran_once, beats_of

KIB, MIB = 1 << 10, 1 << 20


def assert_sound(guest):
    guest.quiet(seconds(30))
    assert guest.first_error(seconds(10))['errors'] == 0
    found = guest.verify(seconds(120))
    assert found['errors'] == 0, found


@pytest.mark.usefixtures('needs_link')
def test_a_cut_link_is_noticed_and_recovered():
    with Pair(link=True, memory='256M', link_timeout_ms=1000) as pair:
        here, there = pair.source.qmp(), pair.destination.qmp()
        for q in (here, there):
            q.command('migrate-set-capabilities', capabilities=[{'capability': 'events', 'state': True}])
        pair.guest.walk('c')
        with Watch(pair) as watch:
            pair.start(bandwidth=MIB)
            pair.link.down()
            for q in (here, there):
                q.wait_event('MIGRATION', lambda d: d['status'] == 'postcopy-paused', 20)
            for vm in (pair.source, pair.destination):
                assert vm.migration()['error-desc']
            missing = pair.destination.faults()['pages']
            assert missing['requested'] == 0, 'nobody is asked any more: %s' % missing
            pair.link.up()
            pair.recover(bandwidth=0)
            pair.wait_completed()
        assert watch.samples and not watch.twice
        assert pair.destination.migration()['postern']['recoveries'] == 1
        assert pair.source.migration()['postern']['recoveries'] == 1
        assert_sound(pair.arrived())


@pytest.mark.usefixtures('needs_link')
def test_three_cuts_in_one_migration():
    with Pair(link=True, memory='256M') as pair:
        pair.guest.mask(2)              # vCPU 0 answers, vCPU 1 walks
        pair.guest.walk('c')
        pair.start(bandwidth=2 * MIB)
        left = []
        for _ in range(3):
            pair.link.down()
            pair.wait_paused()
            left.append(pair.destination.faults()['pages']['missing'])
            pair.link.up()
            pair.recover(bandwidth=8 * MIB)
            have = left[-1]
            wait_for(lambda: sum(pair.destination.faults()['pages'][k] for k in ('missing', 'requested'))  # pylint: disable=cell-var-from-loop
                     < have - 256, 20)
        assert left == sorted(left, reverse=True) and len(set(left)) == 3, left
        pair.finish()
        assert pair.destination.migration()['postern']['recoveries'] == 3
        assert_sound(pair.arrived())


@pytest.mark.usefixtures('needs_link')
def test_the_link_is_cut_again_during_the_way_back():
    with Pair(link=True, memory='128M', link_timeout_ms=1500) as pair:
        pair.guest.walk('c')
        pair.start(bandwidth=MIB)
        pair.link.down()
        pair.wait_paused()
        pair.recover(wait=False)        # nothing answers
        pair.source.wait_migration('postcopy-paused', timeout=30)
        pair.link.up()
        listen, connect = pair.uris()
        pair.destination.command('migrate-recover', uri=listen)
        pair.source.command('migrate', uri=connect, resume=True)
        pair.link.down()                # somewhere in the handshake
        pair.source.wait_migration('postcopy-paused', timeout=30)
        wait_for(lambda: pair.destination.migration_status() == 'postcopy-paused', 30)
        pair.link.up()
        pair.recover(bandwidth=0)
        pair.wait_completed()
        assert_sound(pair.arrived())


@pytest.mark.parametrize('side', ['source', 'destination'])
def test_migrate_pause_cuts_and_both_sides_notice(side):
    with Pair(memory='128M') as pair:
        pair.guest.walk('c')
        pair.start(bandwidth=MIB)
        client = getattr(pair, side).qmp(oob=True)
        client.execute('migrate-pause', oob=True)
        pair.wait_paused()
        assert 'migrate-pause' in pair.source.migration()['error-desc']
        assert 'migrate-pause' in pair.destination.migration()['error-desc']
        with pytest.raises(QmpError):
            client.command('migrate-pause')
        pair.recover(bandwidth=0)
        pair.wait_completed()
        assert_sound(pair.arrived())


def test_resume_without_a_command_at_the_destination():
    """The destination goes on listening where it did: migrate with resume is all it takes."""
    with Pair(memory='128M') as pair:
        listen, connect = pair.uris()
        pair.bandwidth(MIB)
        pair.destination.command('migrate-incoming', uri=listen)
        pair.source.command('migrate', uri=connect)
        pair.wait_switched()
        pair.source.command('migrate-pause')
        pair.wait_paused()
        pair.bandwidth(0)
        pair.source.command('migrate', uri=connect, resume=True)
        pair.wait_completed()
        assert_sound(pair.arrived())


def test_resume_to_a_wrong_destination_is_refused():
    with Pair(memory='128M') as pair, Postern.incoming('stranger', memory='128M') as stranger:
        pair.start(bandwidth=MIB)
        pair.source.command('migrate-pause')
        pair.wait_paused()
        uri = 'tcp:127.0.0.1:%d' % free_port()
        stranger.command('migrate-incoming', uri=uri)
        pair.source.command('migrate', uri=uri, resume=True)
        wait_for(lambda: pair.source.migration_status() == 'postcopy-paused', 20)
        error = pair.source.migration()['error-desc']
        assert 'resume' in error, error
        assert stranger.status() == 'inmigrate' and stranger.faults()['pages']['present'] == 0
        pair.recover(bandwidth=0)       # the right one is taken
        pair.wait_completed()
        assert_sound(pair.arrived())


def test_resume_to_nobody_leaves_it_paused():
    with Pair(memory='64M') as pair:
        pair.start(bandwidth=MIB)
        pair.destination.command('migrate-pause')
        pair.wait_paused()
        pair.source.command('migrate', uri='tcp:127.0.0.1:%d' % free_port(), resume=True)
        wait_for(lambda: pair.source.migration_status() == 'postcopy-paused', 20)
        assert pair.source.status() == 'postmigrate'
        pair.recover(bandwidth=0)
        pair.wait_completed()
        assert_sound(pair.arrived())


@pytest.mark.parametrize('side', ['source', 'destination'])
def test_a_frozen_side_is_noticed_and_can_go_on(side):
    """SIGSTOP, as a host that swaps or a hypervisor that is paused: it hears of its own absence when it is back."""
    with Pair(memory='128M', link_timeout_ms=1000) as pair:
        pair.guest.walk('c')
        pair.start(bandwidth=MIB)
        frozen, other = ((pair.source, pair.destination) if side == 'source' else (pair.destination, pair.source))
        frozen.send_signal(signal.SIGSTOP)
        try:
            other.wait_migration('postcopy-paused')
            if other is pair.destination:
                for _ in range(5):
                    other.q.timed('stop', 5)
                    other.q.timed('cont', 5)
        finally:
            frozen.send_signal(signal.SIGCONT)
        frozen.wait_migration('postcopy-paused')
        assert pair.running() == ['destination']
        pair.recover(bandwidth=0)
        pair.wait_completed()
        assert_sound(pair.arrived())


@pytest.mark.usefixtures('needs_link')
def test_a_narrow_link_is_slow_but_never_lost():
    """Bulk fills the link; urgent pages and signs of life still get through."""
    with Pair(link=True, memory='64M', link_timeout_ms=2000) as pair:
        try:
            pair.link.shape(rate=12 * MIB)
        except OSError as e:
            pytest.skip(str(e))
        pair.guest.walk('c')
        pair.start(bandwidth=0)
        pair.wait_completed()
        for vm in (pair.source, pair.destination):
            assert vm.migration()['postern']['recoveries'] == 0
        assert pair.source.migration()['total-time'] > 3000, 'the link was not narrow'
        assert_sound(pair.arrived())


def test_recover_and_resume_are_refused_where_nothing_is_paused():
    with Pair(memory='64M') as pair:
        pair.start(bandwidth=MIB)
        with pytest.raises(QmpError):
            pair.destination.command('migrate-recover', uri='tcp:127.0.0.1:0')
        with pytest.raises(QmpError):
            pair.source.command('migrate', uri='tcp:127.0.0.1:1', resume=True)
        with pytest.raises(QmpError):
            pair.source.command('migrate', uri='tcp:127.0.0.1:1')
        pair.finish()
        assert_sound(pair.arrived())


def test_a_stopped_guest_stays_stopped_over_a_recovery():
    with Pair(memory='128M') as pair:
        pair.guest.walk('c')
        pair.start(bandwidth=MIB)
        pair.destination.command('stop')
        pair.source.command('migrate-pause')
        pair.wait_paused()
        pair.recover(bandwidth=0)
        pair.wait_completed()
        assert pair.destination.status() == 'paused'
        pair.destination.command('cont')
        assert_sound(pair.arrived())


@pytest.mark.parametrize('what', ['Resume', 'ResumeReply', 'Missing', 'MissingEnd', 'ResumeAck'])
@pytest.mark.parametrize('when', ['before', 'after'])
def test_a_cut_in_the_handshake_of_a_recovery(what, when):
    how = 'close' if when == 'before' else 'hold'
    with Pair(proxy=True, memory='64M') as pair:
        pair.guest.mask(2)
        pair.guest.heartbeat(True, period_us=5000)
        pair.guest.walk('c')
        with Watch(pair) as watch:
            pair.start(bandwidth=MIB)
            pair.source.command('migrate-pause')
            pair.wait_paused()
            listen, connect = pair.uris()
            pair.proxy.restore()
            pair.proxy.cut_at(Moment(what, when=when, how=how))
            pair.destination.command('migrate-recover', uri=listen)
            pair.source.command('migrate', uri=connect, resume=True)
            assert pair.proxy.wait_cut(), pair.proxy.seen
            pair.wait_paused()
            assert pair.running() == ['destination']
            pair.recover(bandwidth=0)
            pair.wait_completed()
        assert not watch.twice
        guest = pair.arrived()
        guest.wait_beats(3, seconds(10))
        assert_ran_once(beats_of(pair.guest), beats_of(guest))
        assert_sound(guest)
