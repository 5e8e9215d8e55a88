# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""Stops, continues and a debugger, all at once: nothing waits for a vCPU that runs, and who is told "stopped" is told the
truth. POSTERN_STOP_PAIRS says how many pairs of cont and stop (some hundred unless set), POSTERN_STOP_SEED which:

    POSTERN_STOP_PAIRS=20000 python3 -m pytest -s -k pairs tests/system/test_stops.py
    lab/run --kernel 6.12 --timeout 36000 --env POSTERN_STOP_PAIRS=20000 -- \\
        python3 -m pytest -s -k pairs tests/system/test_stops.py
"""

import os
import random
import time

import pytest

from harness import stops
from harness.gdbremote import GdbRemote
from harness.migration import Pair
from harness.stops import ALL, BOUND_S, Stress
from harness.vm import Postern
from harness.waiting import seconds

PAIRS = int(os.environ.get('POSTERN_STOP_PAIRS') or 300)
SEED = int(os.environ.get('POSTERN_STOP_SEED') or 1)


@pytest.fixture(scope='module')
def can():
    """What this host's KVM does right of guest debugging."""
    return stops.able()


def end(vm):
    """The process ends when it is asked to."""
    code, ms = vm.end(timeout=BOUND_S)
    print('SIGTERM: %.0f ms' % ms)
    assert code == 0


def assert_sound(guest):
    guest.quiet(seconds(30))
    assert guest.first_error(seconds(10))['errors'] == 0
    found = guest.verify(seconds(120))
    assert found['errors'] == 0, found


def resets(vm):
    """How often the guest was reset since somebody asked."""
    events, vm.q.events = vm.q.poll_events(), []
    return len([e for e in events if e['event'] == 'RESET'])


def test_pairs_of_cont_and_stop_beside_a_debugger(can):
    with Postern(memory='64M', gdb=True) as vm:
        guest = vm.bare(ready=True)
        guest.fill(seconds(60))
        guest.walk('c')
        stress = Stress(vm, random.Random(SEED), can)
        stress.run(PAIRS)
        print('seed %d, guest debugging %s: %s' % (SEED, sorted(can), stress.report()))
        assert stress.debugger.count['g'] and stress.debugger.count['gE'], 'nothing met'
        assert not resets(vm)
        vm.command('cont')
        assert_sound(guest)
        end(vm)


def test_pairs_of_cont_and_stop_beside_a_debugger_that_uses_everything():
    """Also what this host's KVM does wrong: then the guest is reset now and then, under the debugger's hands."""
    with Postern(memory='64M', gdb=True) as vm:
        vm.bare(ready=True).walk('c')
        stress = Stress(vm, random.Random(SEED), ALL)
        stress.run(PAIRS)
        print('seed %d, %d resets: %s' % (SEED, resets(vm), stress.report()))
        end(vm)


@pytest.mark.parametrize('way_out', ['auto', 'eject'])
def test_pairs_of_cont_and_stop_beside_a_debugger_while_pages_are_missing(can, way_out):
    rng = random.Random(SEED)
    left = PAIRS

    def late(piece):
        if piece.count:
            time.sleep(0.002)       # each page takes its time, so that there is always one that somebody waits for

    while left > 0:
        with Pair(proxy=True, rewrite=late, memory='256M', way_out=way_out,
                  destination_options={'gdb': True, 'page_timeout_ms': 100}) as pair:
            pair.guest.walk('c')
            pair.start(bandwidth=64 << 10)
            vm = pair.destination
            resets(vm)
            stress = Stress(vm, rng, can)
            stress.run(left, lambda: vm.migration_status() == 'postcopy-active')
            left -= stress.pairs
            faults = vm.faults()
            print('seed %d, guest debugging %s, %d faults, %d pages missing: %s' % (
                SEED, sorted(can), faults['counters']['faults'], faults['pages']['missing'], stress.report()))
            assert faults['counters']['faults'] > 0
            assert not resets(vm)
            end(vm)


@pytest.mark.parametrize('resume', ['vCont;c:1', 'vCont;c:2', 'c'])
def test_who_is_told_stopped_finds_all_vcpus_stopped(resume):
    """An interruption in the same segment as the continue: the vCPU has been told to run and has not woken up."""
    with Postern(memory='64M', gdb=True) as vm:
        vm.bare(ready=True).walk('c')
        with GdbRemote('unix:' + vm.path('gdb'), BOUND_S) as gdb:
            gdb.ask('?')
            for _ in range(50):
                gdb.send(resume, b'\x03')
                assert gdb.receive().startswith('T02')
                assert all(c['x-postern']['parked'] for c in vm.command('query-cpus-fast'))
                for thread in (1, 2):
                    gdb.ask('Hg%d' % thread)
                    assert len(gdb.ask('g')) > 1000
                gdb.ask('Hg1')
            # And it can still be continued, and interrupted, alone and as a whole.
            for text in ('vCont;c:1', 'vCont;c'):
                gdb.send(text)
                time.sleep(0.001)
                gdb.interrupt()
                assert gdb.receive().startswith('T02')
            assert gdb.ask('D') == 'OK'
        vm.wait_status('running')
        end(vm)


def test_registers_of_a_machine_that_was_let_run_are_an_error():
    with Postern(memory='64M', gdb=True) as vm:
        vm.bare(ready=True).walk('c')
        with GdbRemote('unix:' + vm.path('gdb'), BOUND_S) as gdb:
            gdb.ask('?')
            vm.command('cont')
            for packet in ('g', 'G', 'p0', 'P3a=%016x' % 0, 'm100000,8', 'M100000,1:00', 'Z0,100000,1', 'Z2,100000,8', 'z2,100000,8'):
                assert gdb.ask(packet) == 'E10', packet
            assert 'runs' in gdb.monitor('missing 0x100000')
            vm.command('stop')
            assert len(gdb.ask('g')) > 1000
        end(vm)
