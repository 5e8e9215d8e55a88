# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""Commands and ends that come at any moment of a migration: the guest runs once, and its memory is sound."""

import random
import threading
import time

import pytest

from harness.migration import Pair, free_port
from harness.qmp import QmpClosed, QmpError
from harness.waiting import seconds, wait_for
from harness.watch import Watch

MIB = 1 << 20


def assert_sound(guest):
    guest.quiet(seconds(30))
    assert guest.first_error(seconds(10))['errors'] == 0
    found = guest.verify(seconds(120))
    assert found['errors'] == 0, found


def owner_after(pair):
    """Until the migration has ended one way or the other; returns the machine that has the guest."""
    pair.source.wait_migration('completed', 'failed', 'cancelled', timeout=60)
    if pair.source.migration_status() == 'completed':
        pair.destination.wait_migration('completed')
        return pair.destination
    return pair.source


def guest_of(pair, vm):
    """The guest, running, at the machine that has it."""
    vm.command('cont')
    assert vm.status() == 'running'
    return pair.arrived() if vm is pair.destination else pair.guest


class Hammer:
    """Another client of a machine that says stop and cont without end; refusals are fine, silence is not."""

    def __init__(self, vm, pause_s):
        self.client = vm.qmp()
        self.pause_s = pause_s
        self.rounds = self.refused = 0
        self.error = None
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exc):
        self._end.set()
        self._thread.join()
        if not exc[0] and self.error:
            raise self.error

    def _run(self):
        try:
            while not self._end.wait(self.pause_s):
                for command in ('stop', 'cont'):
                    try:
                        self.client.command(command)
                    except QmpError:
                        self.refused += 1
                self.rounds += 1
        except QmpClosed:
            pass
        except Exception as e:      # pylint: disable=broad-except
            self.error = e


@pytest.mark.parametrize('side', ['source', 'destination'])
def test_stop_and_cont_without_end_during_a_migration(side):
    with Pair(memory='128M') as pair:
        pair.guest.walk('c')
        with Watch(pair) as watch, Hammer(getattr(pair, side), 0.001) as hammer:
            wait_for(lambda: hammer.rounds > 5, 10)
            pair.begin(bandwidth=32 * MIB)
            owner = owner_after(pair)
            rounds = hammer.rounds
            wait_for(lambda: hammer.rounds > rounds + 5, 10)
        print('%d rounds, %d refused, the guest is at %s' % (hammer.rounds, hammer.refused, owner.name))
        assert watch.samples and not watch.twice
        assert_sound(guest_of(pair, owner))


@pytest.mark.parametrize('delay_ms', [0, 5, 10, 20, 30, 40, 60, 100])
def test_cancel_at_any_moment(delay_ms):
    with Pair(memory='64M') as pair:
        pair.guest.walk('c')
        with Watch(pair) as watch:
            pair.begin(bandwidth=32 * MIB)
            time.sleep(delay_ms / 1e3)      # the moment under test, not a wait
            try:
                pair.source.command('migrate_cancel')
            except QmpError as e:
                assert 'too late' in e.desc
            owner = owner_after(pair)
        print('the guest is at', owner.name)
        assert watch.samples and not watch.twice
        assert owner.status() == 'running'
        assert_sound(guest_of(pair, owner))


@pytest.mark.parametrize('side', ['source', 'destination'])
@pytest.mark.parametrize('seed', range(4))
def test_an_orderly_end_at_any_moment(side, seed):
    """SIGTERM while a migration goes on: this side ends in good order, the other knows where it stands."""
    rng = random.Random(seed)
    with Pair(memory='64M') as pair:
        pair.guest.walk('c')
        pair.begin(bandwidth=16 * MIB)
        time.sleep(rng.choice([0.002, 0.01, 0.05, 0.3]) * rng.random())     # the moment under test
        ending, other = ((pair.source, pair.destination) if side == 'source' else (pair.destination, pair.source))
        assert ending.end()[0] == 0
        with pair.hurry():
            last = ('failed', 'postcopy-paused', 'completed') + (() if other is pair.source else ('setup', 'none'))
            wait_for(lambda: other.migration_status() in last, 20)
        status, running = other.migration_status(), other.command('query-status')
        print('%s ended; the other is %s, %s' % (side, status, running['status']))
        if other is pair.source:
            if status == 'failed':
                wait_for(lambda: other.status() == 'running', 5)
                assert_sound(pair.guest)
            else:
                assert not running['running'] and running['status'] == 'postmigrate'
                if status == 'postcopy-paused':
                    other.command('postern-reclaim', destination_is_dead=True)
                    assert_sound(pair.guest)
        elif running['running']:
            assert status in ('postcopy-paused', 'completed')
            other.q.timed('stop', 5)
        else:
            assert running['status'] in ('inmigrate', 'paused')


def test_of_many_migrations_at_once_one_is_begun():
    with Pair(memory='64M') as pair:
        pair.guest.walk('c')
        uri = 'tcp:127.0.0.1:%d' % free_port()
        pair.destination.command('migrate-incoming', uri=uri)
        clients = [pair.source.qmp() for _ in range(5)]
        idents = [c.send('migrate', {'uri': uri}) for c in clients]
        won = 0
        for client, ident in zip(clients, idents):
            try:
                client.reply(ident)
                won += 1
            except QmpError as e:
                assert 'already' in e.desc or 'migrated away' in e.desc
        assert won == 1
        pair.wait_completed()
        assert_sound(pair.arrived())


def test_many_migrations_leak_nothing():
    """The same source, failing again and again, then migrating for good."""
    with Pair(memory='64M') as pair:
        here = pair.source

        def fail():
            here.command('migrate', uri='tcp:127.0.0.1:%d' % free_port())
            here.wait_migration('failed')
        for _ in range(5):
            fail()
        before = here.resources()
        for _ in range(40):
            fail()
        after = here.resources()
        assert (after['fds'], after['threads']) == (before['fds'], before['threads'])
        pair.start()
        pair.wait_completed()
        assert_sound(pair.arrived())


def test_many_recoveries_leak_nothing():
    with Pair(memory='128M') as pair:
        pair.guest.mask(2)
        pair.guest.walk('c')
        pair.start(bandwidth=MIB)

        def cut(n):
            for i in range(n):
                (pair.source, pair.destination)[i % 2].command('migrate-pause')
                pair.wait_paused()
                pair.recover()

        def held():
            return [(r['fds'], r['threads']) for r in (pair.source.resources(), pair.destination.resources())]
        cut(4)
        before = held()
        cut(20)
        # The last recovery's threads may just be beginning, or those of the last but one ending.
        wait_for(lambda: held() == before, 20, lambda: '%s at first, %s now' % (before, held()))
        assert pair.destination.migration()['postern']['recoveries'] == 24
        pair.finish()
        assert_sound(pair.arrived())
