# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""Which machine a guest sees that it is: the same after a migration and a reset, another after each restore."""

import re
import time

import pytest

from harness.migration import Pair
from harness.vm import Postern, run_postern
from harness.waiting import wait_for


def guid(vm):
    return vm.command('query-vm-generation-id')['guid']


def test_a_migration_and_a_reset_keep_the_generation_id():
    with Pair(memory='32M') as pair:
        was = guid(pair.source)
        assert re.fullmatch(r'[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}', was)
        assert guid(pair.destination) != was    # nobody's yet
        pair.start()
        pair.finish()
        assert guid(pair.destination) == was
        pair.destination.command('system_reset')
        assert guid(pair.destination) == was


def test_each_restore_is_another_machine(tmp_path):
    with Postern(memory='16M') as vm:
        vm.bare(ready=True)
        ids = [guid(vm)]
        vm.save(tmp_path / 'image')
        assert guid(vm) == ids[0]
    for name in ('a', 'b'):
        with Postern.restored(tmp_path / 'image', name) as vm:
            ids.append(guid(vm))
    assert len(set(ids)) == 3


AWAY_S = 4


@pytest.fixture(name='away', scope='module')
def away_fixture(tmp_path_factory):
    """An image of a guest that knows the time by its TSC: the image, when that was, what the TSC was, its kHz."""
    image = tmp_path_factory.mktemp('images') / 'image'
    with Postern(memory='16M', cpus=2) as vm:
        guest = vm.bare(ready=True)
        khz = guest.measure_tsc_khz()
        then, tsc = time.time(), guest.mark()['tsc']
        vm.command('stop')
        vm.save(image)
    time.sleep(AWAY_S)      # what is measured
    return image, then, tsc, khz


def behind(vm, away):
    """How many seconds the guest's clock is behind."""
    _, then, tsc, khz = away
    now = vm.bare().mark()['tsc']
    return time.time() - then - (now - tsc) / khz / 1000


def test_clocks_go_on_where_they_stood_or_show_the_time_since(away):
    with Postern.restored(away[0], 'a') as vm:
        if behind(vm, away) < 1:
            pytest.skip('guests read the TSC of the host: there is no hardware virtualisation beneath this KVM')
        assert AWAY_S - 1 < behind(vm, away) < 60
    with Postern.restored(away[0], 'b', options=['--clock-realtime']) as vm:
        assert -1 < behind(vm, away) < 1
        # And so it is saved: the next one knows of no time away but its own.
        vm.command('stop')
        vm.wait_status('paused')
        time.sleep(2)       # that the guest stands still
        wait_for(lambda: 'memory has come' in vm.log(), 20)
        vm.save(away[0].parent / 'again')
    with Postern.restored(away[0].parent / 'again', 'c', options=['--clock-realtime']) as vm:
        assert -1 < behind(vm, away) < 1


def test_clock_realtime_is_for_restored_machines():
    code, text = run_postern('run', '--kernel', '/dev/null', '--clock-realtime')
    assert code == 2 and '--clock-realtime: needs --restore' in text
