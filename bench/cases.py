# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""What is measured: each function is one run of one case and notes its values in a Figures. The same function serves
postern and QEMU; where the floors have the case, a second one beside it serves them."""

import contextlib
import itertools
import os
import select
import subprocess
import time

import neighbour as second_guest
import sides
import stop_latency
import touches
from harness.waiting import wait_for

WINDOWS, WINDOW_S = 6, 0.05     # of the walks' cost: the best of so many windows of so many seconds
CAP = 200_000_000               # bytes a second
HOLD = 1.5                      # seconds that the guest walks under the cap
RECOVERY_S = 10                 # a recovery that takes longer counts as this
TRICKLE = 1 << 20               # bytes a second: next to no bulk
FLOOR_FAULTS = 3000
MODES = {'g': 'random_read', 'w': 'random_write', 'q': 'sequential'}


def size_name(memory_mib):
    """1024 -> '1g', 256 -> '256m'"""
    return '%dg' % (memory_mib >> 10) if memory_mib >= 1024 else '%dm' % memory_mib


def _sound(guest, stats, verify=True):
    """Every word of the guest's memory, and all that its walks have seen."""
    errors = stats['errors'] + (guest.verify()['errors'] if verify else 0)
    if errors:
        raise AssertionError('the guest found %d wrong words: %s' % (errors, guest.first_error()))


def _walk_cost(guest):
    """Cycles a touch: the best of a few windows, which a busy host disturbs least."""
    return min(touches.cost(guest, WINDOW_S, time.sleep) for _ in range(WINDOWS))


def _start(bench, vmm, memory_mib, cpus=1, fill=0):
    """A source whose guest has filled its memory (or `fill` MiB of it)."""
    src = vmm.source(memory_mib, cpus)
    try:
        guest = src.bare(ready=True)
        guest.tsc_khz(bench.clock.khz)
        if fill and fill < memory_mib:
            guest.limit(fill << 8)
        guest.fill()
        guest.limit(0)
    except BaseException:
        src.close()
        raise
    return src, guest


def _wait_pass(guest):
    """Until the walk has been everywhere once more: as at the source, where the fill has been everywhere."""
    end = guest.mark()['touches'] + guest.info()['pages']
    wait_for(lambda: guest.mark()['touches'] >= end, 30, every=0.1)


def _note_faults(bench, who, name, found):
    for key in ('p50', 'p90', 'p99'):
        bench.figures.note('fault_%s_%s' % (key, name), who, found[key])
    bench.figures.note('faults_' + name, who, found['faults'])


# ---- postcopy of a walking guest ----

def postcopy(bench, vmm, memory_mib=1024, mode='g', cpus=1, verify=True):
    """A guest that walks all the time is migrated: faults, longest stall, total time, walk after, resident memory."""
    clock, note = bench.clock, bench.figures.note
    name = '%s_%s' % (MODES[mode], size_name(memory_mib)) + ('_%dcpus' % cpus if cpus > 1 else '')
    with contextlib.ExitStack() as stack:
        warm = stack.enter_context(contextlib.closing(bench.warm(memory_mib)))
        src, guest = _start(bench, vmm, memory_mib, cpus)
        stack.callback(src.close)
        dst = stack.enter_context(contextlib.closing(vmm.destination(memory_mib, cpus)))
        vmm.prepare(src, dst)
        guest.walk(mode)
        before = _walk_cost(guest)
        warm.release()
        guest.reset()
        start = vmm.migrate(src, dst)
        running = vmm.resumed(dst)
        end = vmm.finished(src, dst)
        arrived = vmm.arrived(dst)
        stats = arrived.quiet()
        hist = arrived.hist()
        found = touches.faults(hist, vmm.requests(src, dst), clock)
        if found:
            _note_faults(bench, vmm.name, name, found)
        if mode == 'g' and cpus == 1:
            size = size_name(memory_mib)
            note('longest_stall_' + size, vmm.name, clock.us(stats['gapmax']) / 1e3)
            note('total_' + size, vmm.name, (end - start) * 1e3)
            note('running_' + size, vmm.name, (running - start) * 1e3)
            note('walk_source', vmm.name, clock.us(before) * 1e3)
            arrived.walk(mode)
            note('walk_first', vmm.name, _walk_cost(arrived) / before)
            note('huge_back_' + size, vmm.name, vmm.huge_pages_back(dst, end))
            _wait_pass(arrived)
            note('walk_after', vmm.name, _walk_cost(arrived) / before)
            arrived.quiet()
            note('rss_kib', vmm.name, max_of(sides.rss_kib(m, memory_mib) for m in (src, dst)))
        _sound(arrived, stats, verify)


def max_of(values):
    """The largest; None when one is None."""
    values = list(values)
    return None if None in values else max(values)


def placements(where):
    """(vCPU, thread that copies, process that serves): wherever the scheduler puts them, and each way to put them on two CPUs.
    Locally nobody serves."""
    one, *others = sorted(os.sched_getaffinity(0))[:2]
    if not others:
        return [(-1, -1, -1)]
    pairs = itertools.product((one, *others), (-1,) if where == 'local' else (one, *others))
    return [(-1, -1, -1)] + [(one, *pair) for pair in pairs]


def floor_faults(bench, floor, where, name=None, mode='g', note_walk=False):
    """So many touches of the floor's guest, each of which faults, in each placement: the best one is the floor."""
    with floor.awake():
        guest = floor.guest
        guest.stop()
        if note_walk:
            floor.whole()
            guest.walk('g')
            bench.figures.note('walk_source', 'floor', bench.clock.us(_walk_cost(guest)) * 1e3)
            guest.stop()
        for place in placements(where):
            floor.place(*place)
            found = _floor_touches(bench, floor, where, mode)
            _note_faults(bench, bench.figures.floor_at(place), name or 'local', found)
        floor.place(-1, -1, -1)


def _floor_touches(bench, floor, where, mode):
    """The faults of one placement."""
    guest = floor.guest
    floor.late(where)
    guest.reset()
    guest.walk(mode)
    wait_for(lambda: floor.count() >= FLOOR_FAULTS, 60, every=0.03)
    stats = guest.quiet()
    hist = guest.hist()
    found = touches.faults(hist, floor.count(), bench.clock)
    _sound(guest, stats, verify=False)
    return found


# ---- bulk capped ----

def capped(bench, vmm, memory_mib=1024, hold=HOLD):
    """The same with the bulk held to CAP: the guest walks for a while, is stopped, and what it saw is taken."""
    with contextlib.ExitStack() as stack:
        warm = stack.enter_context(contextlib.closing(bench.warm(memory_mib)))
        src, guest = _start(bench, vmm, memory_mib)
        stack.callback(src.close)
        dst = stack.enter_context(contextlib.closing(vmm.destination(memory_mib)))
        vmm.prepare(src, dst)
        guest.walk('g')
        warm.close()
        guest.reset()
        vmm.migrate(src, dst, CAP)
        vmm.resumed(dst)
        time.sleep(hold)
        arrived = vmm.arrived(dst)
        stats = arrived.quiet(60)
        hist = arrived.hist()
        requests = vmm.requests(src, dst)
        _note_faults(bench, vmm.name, 'capped_' + size_name(memory_mib), touches.faults(hist, requests, bench.clock))
        vmm.set_cap(src, 0)
        vmm.finished(src, dst)
        _sound(arrived, stats, verify=False)


# ---- blackout ----

def blackout(bench, vmm, memory_mib, fill=0, go_on=False):
    """A guest that touches nothing but its own code and data is migrated: the one gap in its clock is the switchover, from
    the source's pause to the end of the first round of its loop at the destination. go_on: then it walks until all has come.
    """
    note, size = bench.figures.note, size_name(memory_mib)
    with contextlib.ExitStack() as stack:
        warm = stack.enter_context(contextlib.closing(bench.warm(memory_mib))) if go_on else None
        src, guest = _start(bench, vmm, memory_mib, fill=fill)
        stack.callback(src.close)
        dst = stack.enter_context(contextlib.closing(vmm.destination(memory_mib)))
        vmm.prepare(src, dst)
        if warm:
            warm.release()
        guest.reset()
        vmm.migrate(src, dst, TRICKLE)
        vmm.resumed(dst)
        arrived = vmm.arrived(dst)
        arrived.mark(60)
        note('first_instruction_' + size, vmm.name, bench.clock.us(arrived.stats(60)['gapmax']) / 1e3)
        if not go_on:
            return
        base = vmm.requests(src, dst)
        arrived.reset()
        arrived.walk('g')
        start = time.time()
        vmm.set_cap(src, 0)
        end = vmm.finished(src, dst)
        stats = arrived.quiet(60)
        hist = arrived.hist()
        note('bulk_' + size, vmm.name, (end - start) * 1e3)
        _note_faults(bench, vmm.name, 'random_read_' + size,
                     touches.faults(hist, vmm.requests(src, dst) - base, bench.clock))
        note('rss_kib_' + size, vmm.name, max_of(sides.rss_kib(m, memory_mib) for m in (src, dst)))
        _sound(arrived, stats)


# ---- recovery ----

def _wait_silent(guest, seconds):
    """Until the guest has said nothing for so long: it waits for a page."""
    while select.select([guest.sock], [], [], seconds)[0]:
        guest.sock.recv(65536)


def recovery(bench, vmm, memory_mib=256):
    """The link is cut by migrate-pause, the guest waits; from `migrate` with resume to the guest's first word."""
    src, guest = _start(bench, vmm, memory_mib)
    with contextlib.closing(src), contextlib.closing(vmm.destination(memory_mib)) as dst:
        vmm.prepare(src, dst)
        guest.heartbeat(True)
        guest.walk('g')
        vmm.migrate(src, dst, TRICKLE)
        vmm.resumed(dst)
        sides.status_event(src, 'postcopy-active')
        src.q.command('migrate-pause')
        for machine in (src, dst):
            sides.status_event(machine, 'postcopy-paused')
        arrived = vmm.arrived(dst)
        _wait_silent(arrived, 0.1)
        uri = 'tcp:127.0.0.1:%d' % sides.free_port()
        dst.q.command('migrate-recover', uri=uri)
        start = time.perf_counter()
        src.q.send('migrate', {'uri': uri, 'resume': True})
        # QEMU does not always ask again for the page that the guest waits for; then it comes with the bulk, some time
        came = select.select([arrived.sock], [], [], RECOVERY_S)[0]
        if not came and vmm is sides.POSTERN:
            raise AssertionError('no page came in %d s after the recovery' % RECOVERY_S)
        bench.figures.note('recovery', vmm.name, (time.perf_counter() - start) * 1e3)
        if not came:
            return      # it may never come
        sides.status_event(src, 'postcopy-active', 'completed')
        vmm.set_cap(src, 0)
        vmm.finished(src, dst)
        arrived.heartbeat(False)
        _sound(arrived, arrived.quiet(30))


# ---- stop and kick ----

def kick(bench, way, rounds, cpus):
    """vm_pause while every vCPU waits, inside one process."""
    done = subprocess.run([bench.floors, 'kick', way, str(rounds), str(cpus)], stdout=subprocess.PIPE, check=True,
                          timeout=120)
    for value in done.stdout.split():
        bench.figures.note('kick_%s_%dcpus' % (way, cpus), 'postern', float(value))


def stop(bench, way, rounds):
    """QMP stop while every vCPU waits and the link is cut."""
    found = stop_latency.measure(way, rounds)
    if found['lost'] or found['wrong'] or found['errors']:
        raise AssertionError('stop by %s: %s' % (way, {k: found[k] for k in ('lost', 'wrong', 'errors')}))
    for value in found['values']:
        bench.figures.note('stop_' + way, 'postern', value)


def _qemu_waits(machine):
    """Does QEMU's vCPU thread wait for a page?"""
    return any('userfault' in t.wchan for t in machine.threads())


def stop_qemu(bench, vmm, rounds, memory_mib=256):
    """The same in QEMU, whose link is cut by migrate-pause."""
    src, guest = _start(bench, vmm, memory_mib)
    with contextlib.closing(src), contextlib.closing(vmm.destination(memory_mib)) as dst:
        vmm.prepare(src, dst)
        guest.walk('g')
        vmm.migrate(src, dst, TRICKLE)
        vmm.resumed(dst)
        sides.status_event(src, 'postcopy-active')
        src.q.command('migrate-pause')
        sides.status_event(dst, 'postcopy-paused')
        for _ in range(rounds):
            wait_for(lambda: _qemu_waits(dst), 10, every=0.001)
            ms, _ = dst.q.timed('stop', 20)
            bench.figures.note('stop_kernel', vmm.name, ms)
            dst.q.command('cont')


def neighbour(bench, way):
    """One round of a second guest's rates beside one that waits; how many times slower than without it."""
    second_guest.measure(way, 1, lambda what, does, ratio: bench.figures.note('neighbour_%s_%s' % (what, does), 'postern',
                                                                                1 / ratio))


def rates(bench):
    """Bulk, from the floors."""
    done = subprocess.run([bench.floors, 'rates'], stdout=subprocess.PIPE, check=True, timeout=120)
    for line in done.stdout.decode().splitlines():
        name, value = line.split()
        bench.figures.note('rate_' + name, 'floor', float(value))


__all__ = ['blackout', 'capped', 'floor_faults', 'kick', 'neighbour', 'postcopy', 'rates', 'recovery', 'stop', 'stop_qemu']
