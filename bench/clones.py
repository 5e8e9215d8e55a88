#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""How soon many clones of one image run, and what each takes: `bench/clones.py [--count N] [--memory SIZE] [--filled] [BUILD]`.

The image is of the bare guest with heartbeats on its serial port; it lies in a directory, in the host's cache.

  loaded       from the start of `postern clone --paused` until each machine could run, as it prints it
  running      the same of machines that do run; a bare guest is never idle, so each takes its share of the processors
               from those that still start
  first words  from the start until the guest of the last clone has written to its serial port
  processor    of all processes, loaded and ended
  PSS          of each clone's process, guest memory included, when all run

`--touched N` also makes N clones of a guest all of whose memory is filled. Each reads the same 2 % of it, and then writes there:

  faults of a later one  while it reads what the first one has read
  PSS, written           of all but the first, which has fetched the pages, without as much as each wrote; and the first one's

`--peer N` also starts N machines of QEMU, -incoming of the same guest's state in a file, one after the other, and N clones likewise:
how long each took until its guest said something, and its PSS when all run.
"""
import argparse
import contextlib
import os
import pathlib
import re
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time

TOP = pathlib.Path(__file__).resolve().parent.parent
PAGES_OF = {'M': 256, 'G': 262144}
sys.path.insert(0, str(TOP / 'tests'))


def make_image(where, memory, filled):
    """A paused guest, saved."""
    from harness.vm import Postern
    with Postern(memory=memory, cpus=1) as vm:
        guest = vm.bare(ready=True)
        if filled:
            guest.fill(600)
        guest.heartbeat(True, period_us=1000)
        vm.command('stop')
        vm.save(where / 'image', timeout=600)


def spoken(where, count, end):
    """Waits until each guest has said something."""
    left = [where / f'serial-{i}' for i in range(count)]
    while left:
        left = [path for path in left if not path.exists() or not path.stat().st_size]
        assert time.monotonic() < end, f'{len(left)} guests say nothing'
        time.sleep(0.001)


def pss_of(pid):
    """KiB."""
    return int(re.search(r'^Pss: +(\d+)', pathlib.Path(f'/proc/{pid}/smaps_rollup').read_text(), re.M)[1])


def pss(parent):
    """KiB of each child."""
    return [pss_of(child) for child in pathlib.Path(f'/proc/{parent}/task/{parent}/children').read_text().split()]


def run_clones(where, count, paused):
    """(running, first words or None: seconds, PSS: KiB each)."""
    from harness.vm import program
    for path in where.glob('serial-*'):
        path.unlink()
    env = dict(os.environ, POSTERN_RUNTIME_DIR=str(where))
    begun = time.monotonic()
    words = [program(), 'clone', str(where / 'image'), '--count', str(count), '--', '--serial', f'file:{where}/serial-%i']
    with subprocess.Popen(words + ['--paused'] * paused, stdout=subprocess.PIPE, text=True, env=env) as clones:
        try:
            running = float(re.search(r'after ([\d.]+) ms', clones.stdout.readline())[1]) / 1000
            if not paused:
                spoken(where, count, begun + 120)
            heard = time.monotonic() - begun
            taken = pss(clones.pid)
        finally:
            clones.terminate()
        assert clones.wait(60) == 0
    return running, heard, taken


def one_round(where, count):
    """One row of figures, in seconds, and the PSS of all that ran."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    loaded, _, _ = run_clones(where, count, True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    running, words, taken = run_clones(where, count, False)
    return loaded, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, running, words, taken


def share_one(stack, where, image, name, env):
    """A paused clone of that image, and when it was begun."""
    from harness.vm import Postern
    begun = time.monotonic()
    vm = stack.enter_context(Postern.restored(where / image, name, env=env, options=['--share', 'bench-' + image, '--paused']))
    return vm, begun


def read_then_write(vm, pages):
    """Faults while it reads its first pages, which it then writes; paused before and after, since a bare guest never rests."""
    guest = vm.bare()
    vm.command('cont')
    guest.limit(pages)
    guest.reset()
    before = vm.faults()['latency']['count']
    guest.walk('a')
    guest.wait_stats(lambda s: s['touches'] >= pages, 60)
    faults = vm.faults()['latency']['count'] - before
    guest.walk('w')
    guest.wait_stats(lambda s: s['touches'] >= 5 * pages, 60)
    guest.quiet(60)
    vm.command('stop')
    return faults


def read_and_write(where, memory, count, pages):
    """(faults of each but the first while it reads, KiB of each beyond what it wrote, the first one first)."""
    from harness.vm import Postern
    with Postern(memory=memory, cpus=1) as vm:
        vm.bare(ready=True).fill(600)
        vm.command('stop')
        vm.save(where / 'filled', timeout=600)
    env = dict(os.environ, POSTERN_RUNTIME_DIR=str(where))
    with contextlib.ExitStack() as stack:
        machines = [share_one(stack, where, 'filled', f'c{i}', env)[0] for i in range(count)]
        faults = [read_then_write(vm, pages) for vm in machines]
        return faults[1:], [pss_of(vm.pid) - pages * 4 for vm in machines]


def first_word(vm, begun):
    """ms since then until its guest says something."""
    vm.bare().wait_beats(1)
    return (time.monotonic() - begun) * 1000


def beside_qemu(where, memory, count):
    """[(ms, KiB)] of QEMU's, and of clones."""
    from harness.vm import Qemu
    mib = int(memory.rstrip('GM')) * (1024 if memory.endswith('G') else 1)
    state, env = where / 'qemu.state', dict(os.environ, POSTERN_RUNTIME_DIR=str(where))
    with Qemu(memory_mib=mib) as vm:
        vm.bare(ready=True).heartbeat(True, period_us=1000)
        vm.command('migrate', uri=f'exec:cat > {state}')
        vm.wait_migration('completed', timeout=120)
    theirs, ours = [], []
    with contextlib.ExitStack() as stack:
        for i in range(count):
            begun = time.monotonic()
            vm = stack.enter_context(Qemu(f'q{i}', memory_mib=mib, incoming=f'exec:cat {state}'))
            theirs.append((first_word(vm, begun), vm))
        theirs = [(took, pss_of(vm.pid)) for took, vm in theirs]
    with contextlib.ExitStack() as stack:
        for i in range(count):
            vm, begun = share_one(stack, where, 'image', f'p{i}', env)
            vm.command('cont')
            ours.append((first_word(vm, begun), vm))
        ours = [(took, pss_of(vm.pid)) for took, vm in ours]
    return theirs, ours


def show_peer(name, found):
    took, kib = sorted(f[0] for f in found), sorted(f[1] for f in found)
    print(f'{name:22} first words median {statistics.median(took):.1f} ms, {took[0]:.1f} to {took[-1]:.1f}; '
          f'PSS median {statistics.median(kib):.0f} KiB; n = {len(found)}')


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--count', type=int, default=100)
    parser.add_argument('--memory', default='1G')
    parser.add_argument('--filled', action='store_true', help='all of the guest\'s memory has data')
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--touched', type=int, metavar='N', help='also N clones that read and write 2 %% of their memory')
    parser.add_argument('--peer', type=int, metavar='N', help='also N machines of QEMU')
    parser.add_argument('build', nargs='?', type=pathlib.Path, default=TOP / 'build')
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)    # its machines end with it
    os.environ['POSTERN_BUILD'] = str(options.build.resolve())
    with tempfile.TemporaryDirectory(prefix='postern-clones-') as name:
        where = pathlib.Path(name)
        make_image(where, options.memory, options.filled)
        rounds = [one_round(where, options.count) for _ in range(options.rounds)]
        pages = 2 * PAGES_OF[options.memory[-1]] * int(options.memory[:-1]) // 100
        touched = read_and_write(where, options.memory, options.touched, pages) if options.touched else None
        peers = beside_qemu(where, options.memory, options.peer) if options.peer else None
    for title, column in (('loaded', 0), ('processor, loaded', 1), ('running', 2), ('first words', 3)):
        values = sorted(r[column] for r in rounds)
        print(f'{title:22} median {statistics.median(values):.3f} s, {values[0]:.3f} to {values[-1]:.3f}')
    taken = sorted(kib for r in rounds for kib in r[4])
    print(f'{"PSS of a clone":22} median {statistics.median(taken):.0f} KiB, largest {taken[-1]} KiB')
    if touched:
        faults, first, beyond = sorted(touched[0]), touched[1][0], sorted(touched[1][1:])
        print(f'{"faults of a later one":22} median {statistics.median(faults):.0f}, most {faults[-1]}, of {pages} pages read')
        print(f'{"PSS, written":22} median {statistics.median(beyond):.0f} KiB, largest {beyond[-1]} KiB; the first one {first} KiB; '
              f'n = {len(beyond)}, beside {pages * 4} KiB written')
    if peers:
        show_peer('QEMU -incoming', peers[0])
        show_peer('a clone beside it', peers[1])
    print(f'{options.count} clones, {options.memory}, n = {options.rounds}, load {os.getloadavg()[0]:.1f}')


if __name__ == '__main__':
    main()
