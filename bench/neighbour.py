#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""Is a second guest on the same host slowed while the first waits for missing pages?

Guest A has been migrated here, the link was cut while most of its memory is missing, all its vCPUs wait for a page. Guest B's rates are
measured without A, while A waits, while A waits and is stopped and continued all the time, and again without A:

  walk     B reads its memory at random, all of which is there: touches a second
  io       commands over B's serial port, each a round trip through port I/O, device and socket: commands a second
  faults   B itself has been migrated here and walks, its bulk is next to nothing: missing pages fetched a second, over the loopback

A round measures all of it once. Its ratio is the rate with A by the mean of the two without; given are percentiles of the rounds' ratios.
Wanted: medians of 0.9 at least. `CPU of A` is the share of one CPU that A's source and destination take meanwhile (median).

    bench/neighbour.py [--rounds N] [--way-out kernel|eject] [--json FILE]
"""

import argparse
import contextlib
import json
import os
import platform
import signal
import sys
import threading
import time

sys.dont_write_bytecode = True
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, 'tests'))

from harness import kvm, net, report  # noqa: E402
from harness.migration import Pair, have_build  # noqa: E402
from harness.vm import Postern, build_dir  # noqa: E402

WINDOW_S = 0.5          # of one rate
CHURN_S = 0.02          # between a stop and the next command to A
TRICKLE = 256 << 10     # bytes a second of bulk pages
WANTED = 0.9
WHAT = ('walk', 'io', 'faults')
A_DOES = ('waits', 'stopped')


def waiting_guest(way_out, memory='256M', cpus=2):
    """A pair whose guest has arrived, whose link is cut, and all of whose vCPUs wait."""
    pair = Pair(link=True, memory=memory, cpus=cpus, way_out=way_out)
    try:
        pair.guest.walk('c')
        pair.start(bandwidth=TRICKLE)
        pair.link.down()
        pair.wait_paused()
        pair.wait_all_waiting()
    except BaseException:
        pair.__exit__(*sys.exc_info())
        raise
    return pair


class Churn:
    """Stops and continues a machine until it is closed. times: how often."""

    def __init__(self, machine):
        self.q = machine.qmp()
        self.times, self.error = 0, None
        self.end = threading.Event()
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self):
        try:
            while not self.end.is_set():
                self.q.command('stop')
                self.end.wait(CHURN_S)
                self.q.command('cont')
                self.end.wait(CHURN_S)
                self.times += 1
        except Exception as e:      # pylint: disable=broad-except
            self.error = e

    def close(self):
        """Ends it; what went wrong comes out here."""
        self.end.set()
        self.thread.join(30)
        if self.error:
            raise self.error


class Neighbour:
    """Guest B: one machine that stays, for walk and io, and a pair in the middle of a migration, for faults. Each is stopped while the
    other is measured."""

    def __init__(self, way_out, memory='512M'):
        self.stack = contextlib.ExitStack()
        try:
            self.moving = self.stack.enter_context(Pair(memory=memory, cpus=1, way_out=way_out))
            self.still = self.stack.enter_context(Postern('still', memory=memory, cpus=1, way_out=way_out))
            self._begin()
        except BaseException:
            self.stack.close()
            raise

    def _begin(self):
        self.guest = self.still.bare(ready=True)
        self.guest.fill()
        self.still.command('stop')
        self.moving.guest.walk('g')
        self.moving.start(bandwidth=TRICKLE)
        self.moving.destination.command('stop')

    def close(self):
        """Ends all of it, after a look at what the guest that moved has seen."""
        with self.stack:
            self.moving.destination.command('cont')
            self.moving.finish()
            errors = self.moving.arrived().quiet(30)['errors']
            if errors:
                raise AssertionError('the guest found %d wrong words' % errors)

    def rates(self):
        """{'walk', 'io', 'faults'}, now."""
        out = {}
        self.still.command('cont')
        self.guest.walk('g')
        out['walk'] = _rate(lambda: self.guest.mark()['touches'])
        self.guest.stop()
        out['io'] = self._io_rate()
        self.still.command('stop')
        machine = self.moving.destination
        machine.command('cont')
        out['faults'] = _rate(lambda: machine.faults()['counters']['requests'])
        machine.command('stop')
        return out

    def _io_rate(self):
        begin, n = time.perf_counter(), 0
        while time.perf_counter() - begin < WINDOW_S:
            self.guest.mark()
            n += 1
        return n / (time.perf_counter() - begin)


def _rate(counter):
    """Of a counter, over a window. What begins is left out: the first look is what brings it up to speed."""
    counter()
    time.sleep(WINDOW_S / 5)
    before, begin = counter(), time.perf_counter()
    time.sleep(WINDOW_S)
    return (counter() - before) / (time.perf_counter() - begin)


def _cpu(pair):
    return sum(vm.cpu_seconds() for vm in (pair.source, pair.destination))


def _rates_beside(b, a):
    """b's rates, and which share of a CPU a's two processes took meanwhile: a figure that a busy host does not touch."""
    cpu, begin = _cpu(a), time.perf_counter()
    rates = b.rates()
    rates['cpu'] = (_cpu(a) - cpu) / (time.perf_counter() - begin)
    return rates


def one_round(way_out):
    """{(what, 'alone' | A_DOES): rate} and how often A was stopped."""
    out = {}
    with contextlib.closing(Neighbour(way_out)) as b:
        before = b.rates()
        with waiting_guest(way_out) as a:
            found = {'waits': _rates_beside(b, a)}
            a.wait_all_waiting()        # and has waited all the time
            with contextlib.closing(Churn(a.destination)) as churn:
                found['stopped'] = _rates_beside(b, a)
            a.wait_all_waiting()
        after = b.rates()
    for does in A_DOES:
        out['cpu', does] = found[does]['cpu']
    for what in WHAT:
        out[what, 'alone'] = (before[what] + after[what]) / 2
        out[what, 'again'] = after[what] / before[what]
        for does in A_DOES:
            out[what, does] = found[does][what]
    return out, churn.times


def measure(way_out, rounds, note=None):
    """Rows for the table, one for each of WHAT and A_DOES. note(what, does, ratio) is told of each value."""
    found, stops = [], 0
    for _ in range(rounds):
        one, times = one_round(way_out)
        found.append(one)
        stops += times
        for what in WHAT if note else ():
            for does in A_DOES:
                note(what, does, one[what, does] / one[what, 'alone'])
    rows = []
    for what in WHAT:
        again = [f[what, 'again'] for f in found]
        for does in A_DOES:
            ratios = [f[what, does] / f[what, 'alone'] for f in found]
            rows.append({'way-out': way_out, 'rate of B': what, 'A': does, 'n': len(ratios),
                         'alone/s': round(report.percentile([f[what, 'alone'] for f in found], 0.5)),
                         'with A/s': round(report.percentile([f[what, does] for f in found], 0.5)),
                         'p50': report.percentile(ratios, 0.5), 'p10': report.percentile(ratios, 0.1),
                         'min': min(ratios), 'max': max(ratios), 'alone again': report.percentile(again, 0.5),
                         'stops': stops if does == 'stopped' else 0,
                         'CPU of A': report.percentile([f['cpu', does] for f in found], 0.5)})
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n', maxsplit=1)[0])
    parser.add_argument('--rounds', type=int, default=10)
    parser.add_argument('--way-out', choices=['kernel', 'eject'], action='append')
    parser.add_argument('--json', default=os.path.join(build_dir(), 'bench', 'neighbour.json'))
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)    # its machines end with it
    reason = have_build() or kvm.kvm_reason() or kvm.uffd_reason() or net.reason()
    if reason:
        print('cannot be measured here: ' + reason)
        return 77
    rows = []
    for way_out in options.way_out or ['kernel', 'eject']:
        if way_out == 'kernel' and kvm.interruptible_reason():
            print('kernel: ' + kvm.interruptible_reason())
            continue
        rows += measure(way_out, options.rounds)
    print("guest B's rates while guest A waits for missing pages, by its rates without A; Linux %s, %d CPUs, load before %.1f"
          % (platform.release(), os.cpu_count(), os.getloadavg()[2]))
    print(report.table(rows, ['way-out', 'rate of B', 'A', 'n', 'alone/s', 'with A/s', 'p50', 'p10', 'min', 'max', 'alone again',
                              'stops', 'CPU of A']))
    os.makedirs(os.path.dirname(os.path.abspath(options.json)), exist_ok=True)
    with open(options.json, 'w', encoding='ascii') as f:
        json.dump({'kernel': platform.release(), 'unit': 'ratio', 'results': rows}, f, indent=1)
        f.write('\n')
    bad = [r for r in rows if r['p50'] < WANTED]
    for r in bad:
        print('NOT MET: %s, A %s, %s: %.2f of the rate alone, at least %.2f wanted'
              % (r['rate of B'], r['A'], r['way-out'], r['p50'], WANTED))
    return 1 if bad else 0


if __name__ == '__main__':
    sys.exit(main())
