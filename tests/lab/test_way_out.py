# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""Both ways out of a vCPU's wait on a stock kernel, also the one that it does not have. The bare guest is enough here."""

import contextlib
import signal
import time

import pytest

from harness.migration import Pair
from harness.qmp import QmpError
from harness.report import percentile
from harness.vm import run_postern
from harness.waiting import seconds


@contextlib.contextmanager
def waiting(way_out):
    """A Pair over a link that is cut, with both vCPUs of the destination waiting."""
    with Pair(link=True, memory='64M', way_out=way_out) as pair:
        pair.guest.walk('c')
        pair.start(bandwidth=1 << 18)
        pair.link.down()
        pair.wait_all_waiting()
        yield pair


def test_stop_by_the_eject_takes_less_than_100_ms():
    with waiting('eject') as pair:
        vm, times = pair.destination, []
        for _ in range(15):
            pair.wait_all_waiting()
            ms, _ = vm.q.timed('stop')
            times.append(ms)
            assert vm.status() == 'paused'
            vm.command('cont')
        print('stop: median %.1f ms, longest %.1f ms' % (percentile(times, 0.5), max(times)))
        assert percentile(times, 0.5) < 100, times
        assert vm.faults()['counters']['ejects'] > 0
        pair.wait_paused()
        pair.link.up()
        pair.recover(bandwidth=0)
        pair.wait_completed()
        guest = pair.arrived()
        guest.quiet(seconds(20))
        assert guest.first_error(seconds(20))['errors'] == 0
        assert guest.verify(seconds(60))['errors'] == 0


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda n: n.name)
def test_a_signal_ends_it_while_every_vcpu_waits(number):
    with waiting('auto') as pair:
        tids = [t.tid for t in pair.destination.threads()]
        code, ms = pair.destination.end(number)
        assert code == (-number if number == signal.SIGKILL else 0)
        print('%s: %.0f ms' % (number.name, ms))
        assert not [t for t in tids if _exists(t)]


def _exists(tid):
    try:
        with open('/proc/%d/stat' % tid, encoding='utf-8', errors='replace') as f:
            return f.read().rsplit(')', 1)[1].split()[0] not in 'ZX'
    except OSError:
        return False


def test_the_kernels_way_where_the_kernel_has_it(kernel):
    if kernel < (6, 2):
        pytest.skip('Linux %d.%d has no interruptible guest faults' % kernel)
    with waiting('kernel') as pair:
        times = []
        for _ in range(9):
            pair.wait_all_waiting()
            times.append(pair.destination.q.timed('stop')[0])
            pair.destination.command('cont')
        assert percentile(times, 0.5) < 100, times
        assert pair.destination.faults()['counters']['ejects'] == 0


def test_the_kernels_way_where_it_lacks_is_an_honest_error(kernel):
    """Forced against what the host can: stop may not be able to answer "stopped", but it answers, and says why."""
    if kernel >= (6, 2):
        pytest.skip('Linux %d.%d has interruptible guest faults' % kernel)
    with waiting('kernel') as pair:
        vm = pair.destination
        start = time.monotonic()
        with pytest.raises(QmpError) as error:
            vm.command('stop')
        assert 'vCPU' in error.value.desc, error.value.desc
        print('%.1f s: %s' % (time.monotonic() - start, error.value.desc))
        assert time.monotonic() - start < seconds(5)
        assert vm.status() == 'running', 'what has not stopped is not called stopped'
        with contextlib.closing(vm.qmp()) as second:
            assert second.command('query-status')['running']
        vm.kill()


def test_an_unknown_way_out_is_refused():
    code, text = run_postern('run', '--way-out', 'window', '--incoming', 'defer')
    assert code == 2 and 'eject' in text and 'kernel' in text, text
