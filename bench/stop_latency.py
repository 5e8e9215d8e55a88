#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""How long QMP's `stop` takes while every vCPU waits for a page that does not come.

A guest is migrated, the link is cut while most of its memory is missing, both vCPUs wait. Then, over one QMP connection:
stop, cont, wait until both have waited again for 1 ms (and, in a second row, for 20 ms: with the eject they then wait in user
space), and so on. Measured is the time from sending `stop` to its reply, as the client sees it;
and once more how long `cont` takes. Afterwards the link comes back, the migration is recovered and the guest verifies every
word of its memory.

    bench/stop_latency.py [--rounds N] [--way-out kernel|eject] [--json FILE]
"""

import argparse
import json
import os
import platform
import signal
import sys

sys.dont_write_bytecode = True
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, 'tests'))

from harness import kvm, net, report  # noqa: E402
from harness.migration import Pair, have_build  # noqa: E402
from harness.qmp import QmpTimeout  # noqa: E402
from harness.vm import build_dir  # noqa: E402
from harness.waiting import seconds  # noqa: E402


def _round(pair, q, since_ms, stops, conts):
    """One stop and cont. Returns false when an answer was wrong."""
    pair.wait_all_waiting(since_ms=since_ms)
    ms, _ = q.timed('stop', 10)
    stops.append(ms)
    good = q.command('query-status')['status'] == 'paused'
    ms, _ = q.timed('cont', 10)
    conts.append(ms)
    return good and q.command('query-status')['status'] == 'running'


def measure(way_out, rounds, since_ms=1, memory='256M'):
    """{'way-out', 'waited' (ms), 'n', 'lost', 'wrong', 'p50', 'p90', 'p99', 'max' (ms), 'cont', 'errors' (of the guest's memory)}"""
    with Pair(link=True, memory=memory, way_out=way_out) as pair:
        pair.guest.walk('c')
        pair.start(bandwidth=256 << 10)
        pair.link.down()
        pair.wait_paused()
        stops, conts = [], []
        lost = wrong = 0
        q = pair.destination.qmp()
        for _ in range(rounds):
            try:
                wrong += not _round(pair, q, since_ms, stops, conts)
            except QmpTimeout:
                lost += 1
                break               # a hung monitor answers nothing any more
        counters = pair.destination.faults()['counters']
        pair.link.up()
        pair.recover(bandwidth=0)
        pair.wait_completed()
        guest = pair.arrived()
        guest.quiet(seconds(30))
        errors = guest.first_error(seconds(10))['errors'] + guest.verify(seconds(120))['errors']
    out = {'way-out': way_out, 'waited': since_ms, 'lost': lost, 'wrong': wrong, 'errors': errors, 'ejects': counters['ejects']}
    out.update(report.summary(stops))
    out['values'] = stops
    out['cont'] = report.summary(conts)
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n', maxsplit=1)[0])
    parser.add_argument('--rounds', type=int, default=1000)
    parser.add_argument('--way-out', choices=['kernel', 'eject'], action='append')
    parser.add_argument('--json', default=os.path.join(build_dir(), 'bench', 'stop_latency.json'))
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)    # its machines end with it
    reason = have_build() or kvm.bare_reason() or kvm.kvm_reason() or kvm.uffd_reason() or net.reason()
    if reason:
        print('cannot be measured here: ' + reason)
        return 77
    rows = []
    for way_out in options.way_out or ['kernel', 'eject']:
        if way_out == 'kernel' and kvm.interruptible_reason():
            print('kernel: ' + kvm.interruptible_reason())
            continue
        rows += [measure(way_out, options.rounds, since_ms) for since_ms in (1, 20)]
    print('stop while every vCPU (2) waits for a missing page, ms from request to reply; Linux %s' % platform.release())
    print(report.table(rows, ['way-out', 'waited', 'n', 'p50', 'p90', 'p99', 'max', 'lost', 'wrong', 'ejects', 'errors']))
    os.makedirs(os.path.dirname(os.path.abspath(options.json)), exist_ok=True)
    with open(options.json, 'w', encoding='ascii') as f:
        json.dump({'kernel': platform.release(), 'unit': 'ms', 'results': rows}, f, indent=1)
        f.write('\n')
    return 1 if any(r['lost'] or r['wrong'] or r['errors'] for r in rows) else 0


if __name__ == '__main__':
    sys.exit(main())
