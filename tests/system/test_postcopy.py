# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""Migrations that nothing disturbs, and those that are refused."""

import socket

import pytest

from harness.gdbremote import GdbRemote
from harness.migration import Pair, free_port
from harness.qmp import QmpError
from harness.vm import Postern, sanitized
from harness.waiting import seconds, wait_for
from harness.watch import Watch, assert_ran_once, beats_of

MIB = 1 << 20


def assert_sound(guest):
    """Every word of the guest's memory, and all that its walks have seen."""
    guest.quiet(seconds(30))
    walks = guest.first_error(seconds(10))
    assert walks['errors'] == 0, walks
    found = guest.verify(seconds(120))
    assert found['errors'] == 0, found


@pytest.mark.parametrize('transport', ['tcp', 'unix', 'fd'])
def test_a_running_guest_arrives_whole(transport):
    with Pair(transport=transport, memory='256M') as pair:
        pair.guest.walk('c')
        with Watch(pair) as watch:
            pair.start()
            pair.wait_completed()
        assert watch.samples and not watch.twice
        guest = pair.arrived()
        before = guest.stats(seconds(20))
        guest.wait_stats(lambda s: s['cpu0'] > before['cpu0'] and s['cpu1'] > before['cpu1'], seconds(20))
        assert_sound(guest)
        info = pair.destination.migration()
        assert info['ram']['remaining'] == 0 and info['postern']['incoming']
        assert pair.destination.faults()['pages']['missing'] == 0
        assert pair.source.migration()['ram']['total'] == 256 * MIB
        print('total %d ms, downtime %d ms, urgent pages %d' % (
            pair.source.migration()['total-time'], pair.source.migration()['downtime'],
            pair.source.migration()['ram']['postcopy-requests']))


def test_memory_that_was_never_written_arrives_as_zeros_and_costs_little():
    with Pair(memory='512M', fill=False) as pair:
        pair.start()
        pair.wait_completed()
        info = pair.source.migration()
        assert info['ram']['transferred'] < 64 * MIB, info['ram']
        guest = pair.arrived()
        guest.fill(seconds(60))
        assert_sound(guest)


def test_memory_above_4_gib_arrives():
    """Almost all of it was never written, and takes no room on either side."""
    with Pair(memory='5G', fill=False, destination_options={'gdb': True}) as pair:
        info = pair.guest.info()
        pages = [info['lowpages'] - 1, info['lowpages'], info['total'] - 1]
        for page in pages:
            pair.guest.corrupt(page)            # the first bit of its second word
        pair.start()
        pair.wait_completed()
        assert pair.destination.rss() < 256 * MIB or sanitized()
        with GdbRemote('unix:' + pair.destination.path('gdb')) as gdb:
            gdb.ask('?')
            for page, gpa in zip(pages, ((3 << 30) - 4096, 4 << 30, (6 << 30) - 4096)):
                assert gdb.read(gpa, 24) == bytes(8) + b'\1' + bytes(15), page
        pair.arrived().limit(1000)
        pair.arrived().fill(seconds(20))
        assert_sound(pair.arrived())


def test_the_source_is_done_and_cannot_run_the_guest_again():
    with Pair(memory='64M') as pair:
        q = pair.source.qmp()
        pair.start()
        pair.wait_completed()
        assert pair.source.status() == 'postmigrate'
        with pytest.raises(QmpError):
            q.command('cont')
        assert not q.command('query-status')['running']
        with pytest.raises(QmpError):
            q.command('migrate', uri='tcp:127.0.0.1:1')
        with pytest.raises(QmpError):
            q.command('migrate', uri='tcp:127.0.0.1:1', resume=True)
        with pytest.raises(QmpError):
            q.command('postern-reclaim', destination_is_dead=True)
        q.command('stop')               # as in QEMU: it is stopped already
        assert pair.source.status() == 'postmigrate'
        q.command('quit')
        assert pair.source.wait_exit() == 0
        assert_sound(pair.arrived())


def test_a_paused_guest_arrives_paused():
    with Pair(memory='64M') as pair:
        pair.source.command('stop')
        pair.start()
        pair.wait_completed()
        assert pair.destination.status() == 'paused'
        pair.destination.command('cont')
        assert_sound(pair.arrived())


def test_stop_before_arrival_is_remembered():
    with Pair(memory='64M') as pair:
        pair.destination.command('stop')
        assert pair.destination.status() == 'inmigrate'
        pair.start()
        pair.wait_completed()
        assert pair.destination.status() == 'paused'
        pair.destination.command('cont')
        assert_sound(pair.arrived())


def test_events_tell_the_course_on_both_sides():
    with Pair(memory='64M') as pair:
        here, there = pair.source.qmp(), pair.destination.qmp()
        for q in (here, there):
            q.command('migrate-set-capabilities', capabilities=[{'capability': 'events', 'state': True}])
        pair.start()
        pair.wait_completed()

        def course(q):
            q.wait_event('MIGRATION', lambda d: d['status'] == 'completed')
            return [e['data']['status'] for e in q.events if e['event'] == 'MIGRATION'] + ['completed']
        assert course(here) == ['setup', 'device', 'postcopy-active', 'completed']
        assert course(there)[-2:] == ['postcopy-active', 'completed']
        names = [e['event'] for e in there.poll_events()]
        assert 'RESUME' in names
        assert 'STOP' in [e['event'] for e in here.poll_events()]


def test_bandwidth_limit_is_kept_and_can_be_lifted():
    with Pair(memory='256M') as pair:
        pair.start(bandwidth=4 * MIB)
        first = pair.destination.faults()['pages']['present']
        wait_for(lambda: pair.source.migration()['ram']['transferred'] > 6 * MIB, 20)
        info = pair.source.migration()
        rate = info['ram']['transferred'] / max(info['total-time'], 1) * 1e3
        assert rate < 12 * MIB, 'limit 4 MiB/s, got %.1f MiB/s' % (rate / MIB)
        assert pair.destination.faults()['pages']['present'] < first + 40 * MIB // 4096
        pair.finish()
        assert_sound(pair.arrived())


def test_the_guest_goes_from_host_to_host():
    """A to B, B to C, C to D; each a postern of its own."""
    with Postern('a', memory='128M') as first:
        guest = first.bare(ready=True)
        guest.fill(seconds(60))
        guest.walk('c')
        vms = [first]
        try:
            for name in 'bcd':
                vms.append(Postern.incoming(name, memory='128M'))
                uri = 'tcp:127.0.0.1:%d' % free_port()
                vms[-1].command('migrate-incoming', uri=uri)
                vms[-2].command('migrate', uri=uri)
                for vm in vms[-2:]:
                    vm.wait_migration('completed')
                assert [vm.command('query-status')['running'] for vm in vms] == [False] * (len(vms) - 1) + [True]
            assert_sound(vms[-1].bare())
        finally:
            for vm in vms[1:]:
                vm.close()


def test_heartbeats_are_counted_once():
    with Pair(memory='128M') as pair:
        pair.guest.heartbeat(True, period_us=2000)
        pair.guest.wait_beats(5, seconds(10))
        pair.start()
        pair.wait_completed()
        guest = pair.arrived()
        guest.wait_beats(20, seconds(20))
        guest.heartbeat(False, timeout=seconds(10))
        assert_ran_once(beats_of(pair.guest), beats_of(guest))


# ---- refused, or failed before the guest was given away ----

def assert_runs_on(pair):
    """The guest is the source's and is well."""
    assert pair.source.command('query-status') == {'running': True, 'singlestep': False, 'status': 'running'}
    assert not pair.destination.is_alive() or not pair.destination.command('query-status')['running']
    pair.guest.mark(seconds(10))
    assert_sound(pair.guest)


def test_a_port_where_nobody_listens_fails_and_the_guest_goes_on():
    with Pair(memory='64M') as pair:
        port = free_port()
        pair.source.command('migrate', uri='tcp:127.0.0.1:%d' % port)
        info = pair.source.wait_migration('failed')
        assert str(port) in info['error-desc'] or 'refused' in info['error-desc'].lower(), info
        assert_runs_on(pair)
        pair.start()                    # and the next attempt works
        pair.wait_completed()
        assert_sound(pair.arrived())


@pytest.mark.parametrize('uri', ['', 'tcp', 'tcp:', 'tcp:127.0.0.1', 'tcp:127.0.0.1:99999', 'udp:127.0.0.1:1', 'fd:1,2',
                                 'fd:900,901,902', 'unix:', 'unix:' + 'x' * 200, 'tcp:no.such.host.invalid:1'])
def test_a_bad_uri_is_refused_or_fails_and_the_guest_goes_on(uri):
    with Pair(memory='64M', fill=False) as pair:
        try:
            pair.source.command('migrate', uri=uri)
            assert pair.source.wait_migration('failed')['error-desc']
        except QmpError as e:
            assert e.desc
        with pytest.raises(QmpError):
            pair.destination.command('migrate-incoming', uri=uri)
        assert pair.source.status() == 'running'
        pair.guest.mark(seconds(10))
        pair.start()
        pair.wait_completed()
        assert pair.destination.status() == 'running'


@pytest.mark.parametrize('other, says', [({'memory': '128M'}, 'memory'), ({'cpus': 1}, 'CPU')], ids=['memory', 'cpus'])
def test_a_destination_of_another_shape_refuses(other, says):
    with Pair(memory='64M', destination_options=other) as pair:
        pair.begin()
        info = pair.source.wait_migration('failed')
        assert says in info['error-desc'], info
        assert_runs_on(pair)


def test_cancel_before_the_switchover_and_too_late():
    with Pair(memory='64M') as pair, socket.create_server(('127.0.0.1', 0)) as silent:
        q = pair.source
        q.command('migrate', uri='tcp:127.0.0.1:%d' % silent.getsockname()[1])
        assert q.migration_status() == 'setup'
        q.command('migrate_cancel')
        q.wait_migration('cancelled')
        assert_runs_on(pair)
        pair.start(bandwidth=MIB)
        with pytest.raises(QmpError, match='late'):
            q.command('migrate_cancel')
        assert pair.source.status() == 'postmigrate'
        pair.finish()
        assert_sound(pair.arrived())


def test_only_an_incoming_machine_takes_a_guest():
    with Pair(memory='64M', fill=False) as pair:
        with pytest.raises(QmpError):
            pair.source.command('migrate-incoming', uri='tcp:127.0.0.1:0')
        with pytest.raises(QmpError):
            pair.source.command('migrate-recover', uri='tcp:127.0.0.1:0')
        with pytest.raises(QmpError):
            pair.source.command('migrate-pause')
        with pytest.raises(QmpError):
            pair.destination.command('migrate-pause')
        with pytest.raises(QmpError):
            pair.destination.command('migrate', uri='tcp:127.0.0.1:1')


def test_a_late_guest_is_not_passed_on_before_it_is_whole():
    with Pair(memory='128M') as pair:
        pair.start(bandwidth=MIB)
        with pytest.raises(QmpError, match='already'):
            pair.destination.command('migrate', uri='tcp:127.0.0.1:1')
        pair.source.command('migrate-pause')
        pair.wait_paused()
        with pytest.raises(QmpError, match='pages'):
            pair.destination.command('migrate', uri='tcp:127.0.0.1:1')
        pair.recover(bandwidth=0)
        pair.wait_completed()
        assert_sound(pair.arrived())
