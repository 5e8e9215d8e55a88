# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""One side dies for good in the middle of a migration."""

import pytest

from harness.migration import Pair
from harness.qmp import QmpError
from harness.waiting import seconds, wait_for

MIB = 1 << 20


def test_the_destination_lives_on_what_it_has_when_the_source_dies():
    with Pair(memory='256M') as pair:
        pair.guest.mask(2)              # vCPU 0 answers, vCPU 1 walks into the missing pages
        pair.guest.heartbeat(True, period_us=5000)
        pair.guest.walk('c')
        pair.start(bandwidth=MIB)
        guest = pair.arrived()
        guest.wait_beats(3, seconds(20))
        pair.source.kill()
        there = pair.destination
        there.wait_migration('postcopy-paused')
        wait_for(lambda: 1 in there.waiting_cpus(), 20)
        assert there.status() == 'running'
        guest.wait_beats(20, seconds(20))       # vCPU 0 has all it needs and goes on
        for _ in range(10):
            there.q.timed('stop', 5)
            there.q.timed('cont', 5)
        wait_for(lambda: 1 in there.waiting_cpus(), 20)
        pages = there.faults()['pages']
        assert pages['missing'] + pages['requested'] > 1000
        assert not there.stuck_threads()
        there.command('quit')
        assert there.wait_exit(5) == 0


def test_the_source_takes_the_guest_back_when_the_destination_is_dead():
    with Pair(memory='128M') as pair:
        pair.guest.walk('c')
        pair.start(bandwidth=MIB)
        here = pair.source
        with pytest.raises(QmpError):
            here.command('postern-reclaim', destination_is_dead=True)       # it is active: nobody is dead
        pair.destination.kill()
        here.wait_migration('postcopy-paused')
        assert here.status() == 'postmigrate'
        with pytest.raises(QmpError):
            here.command('cont')
        with pytest.raises(QmpError, match='destination-is-dead'):
            here.command('postern-reclaim', destination_is_dead=False)
        assert here.status() == 'postmigrate'
        here.command('postern-reclaim', destination_is_dead=True)
        assert here.status() == 'running'
        with pytest.raises(QmpError, match='reclaim'):
            here.command('migrate', uri='tcp:127.0.0.1:1', resume=True)
        guest = pair.guest
        guest.mark(seconds(10))
        guest.quiet(seconds(30))
        assert guest.first_error(seconds(10))['errors'] == 0
        assert guest.verify(seconds(60))['errors'] == 0
        here.command('stop')
        here.command('cont')
        here.command('quit')
        assert here.wait_exit(5) == 0


def test_a_source_that_ends_in_good_order_says_so():
    with Pair(memory='128M') as pair:
        pair.guest.walk('c')
        pair.start(bandwidth=MIB)
        pair.source.command('quit')
        assert pair.source.wait_exit(5) == 0
        info = pair.destination.wait_migration('postcopy-paused')
        assert info['error-desc']
        print(info['error-desc'])
        pair.destination.command('stop')


def test_a_destination_that_dies_before_the_switchover_costs_nothing():
    with Pair(memory='64M') as pair:
        listen, connect = pair.uris()
        pair.destination.command('migrate-incoming', uri=listen)
        pair.destination.kill()
        pair.source.command('migrate', uri=connect)
        pair.source.wait_migration('failed')
        assert pair.source.status() == 'running'
        pair.guest.mark(seconds(10))
        pair.new_destination(memory='64M')
        pair.set_link_timeout()
        pair.start()
        pair.wait_completed()
        guest = pair.arrived()
        guest.quiet(seconds(20))
        assert guest.verify(seconds(60))['errors'] == 0
