# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""A guest whose memory comes from a store: what its faults cost, beside what a bare client waits for the same store, and what a working
set is good for. Cases of bench/restore/restore."""

import contextlib
import os
import pathlib
import subprocess
import time

from harness.report import percentile
from harness.vm import Postern, build_dir
from harness.waiting import seconds, wait_for
import touches

MIB = 1 << 20
# Of 1 GiB, what the guest of the working set's case touches.
SHARE = 0.2
STALL_ONE_IN, STALL_MS = 100, 1000
DEADLINE_MS = 200
QUANTILES = (('p50', 0.5), ('p99', 0.99), ('p999', 0.999))


def web(*words):
    """What the bare clients of web.c print."""
    path = os.path.join(build_dir(), 'bench', 'restore', 'web')
    return subprocess.run([path, *(str(word) for word in words)], stdout=subprocess.PIPE, text=True, check=True).stdout


@contextlib.contextmanager
def serve(root, delay_us, *stall):
    """A server of these files, so far away. Yields its port."""
    path = os.path.join(build_dir(), 'bench', 'restore', 'web')
    with subprocess.Popen([path, 'serve', str(root), str(delay_us), *(str(word) for word in stall)], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, text=True) as process:
        try:
            yield int(process.stdout.readline())
        finally:
            process.stdin.close()
            process.wait()


def packs(image):
    """Paths of an image's packs, below its store."""
    return sorted('%s/%s' % (image.name, name) for name in os.listdir(image) if name.startswith('pack-'))


def is_cold(image):
    """Nothing of it is in the page cache any more, as far as the kernel does as it is told."""
    os.sync()
    for name in os.listdir(image):
        fd = os.open(image / name, os.O_RDONLY)
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)


def faults(place, wanted, options=()):
    """{'p50', 'p99', 'p999'} in us of a restored guest's touches that faulted, their number, and bytes read for each."""
    with Postern.restored(place, options=['--fill', 'off', '--working-set', 'off', *options]) as vm:
        guest = vm.bare()
        clock = touches.Clock(guest.calibrate())
        guest.touch(0)
        guest.reset()
        before = vm.faults()
        guest.walk('g')
        wait_for(lambda: vm.faults()['latency']['count'] - before['latency']['count'] >= wanted, 300, every=0.03)
        guest.quiet(seconds(60))
        after = vm.faults()
        n = after['latency']['count'] - before['latency']['count']
        part = touches.slowest(guest.hist(), n)
        reads = after['source']['urgent-reads'] - before['source']['urgent-reads']
        each = (after['source']['read-bytes'] - before['source']['read-bytes']) // max(reads, 1)
        return {name: clock.us(touches.quantile(part, q)) for name, q in QUANTILES}, n, each


def note_faults(results, name, ours, n, least):
    """Its percentiles, beside those of the bare client's."""
    for key, q in QUANTILES:
        results.note('fault_%s_%s' % (key, name), 'us', n, ours[key], percentile(least, q))


def directory(results, image, args, cold):
    """From a folder: what is in the page cache, or not."""
    if cold:
        is_cold(image)
    ours, n, each = faults(image, args.touches)
    least = web('read', image / os.path.basename(packs(image)[0]), each, args.touches, *(['cold'] if cold else []))
    note_faults(results, 'directory_%s' % ('cold' if cold else 'warm'), ours, n, sorted(map(float, least.split())))


def http(results, image, args, delay_ms):
    """From a web server on the loopback, so many ms away."""
    wanted = max(args.touches // (1 + delay_ms // 5), 50)
    with serve(image.parent, delay_ms * 1000) as port:
        ours, n, each = faults('http://127.0.0.1:%d/%s' % (port, image.name), wanted)
        least = web('time', port, packs(image)[0], each, wanted)
    note_faults(results, 'http' + ('_%dms' % delay_ms if delay_ms else ''), ours, n, sorted(map(float, least.split())))


def stalling(results, image, args):
    """One request in a hundred takes a second; there is another store, and a deadline: p999, beside the deadline."""
    with serve(image.parent, 0, STALL_ONE_IN, STALL_MS) as port, serve(image.parent, 0) as second:
        ours, n, _ = faults('http://127.0.0.1:%d/%s' % (port, image.name), args.touches,
                            ['--store-deadline', str(DEADLINE_MS), '--second-store', 'http://127.0.0.1:%d' % second])
    results.note('fault_p999_stalling', 'us', n, ours['p999'], DEADLINE_MS * 1e3)


def touch_share(place, pages, mode):
    """ms from the start of the process until the guest has touched its share, in a random order."""
    start = time.monotonic_ns()
    with Postern.restored(place, options=['--fill', 'off', '--working-set', mode]) as vm:
        guest = vm.bare()
        guest.limit(pages)
        guest.walk('g')
        # Not stats, whose long reply would cost the guest more than its touches.
        wait_for(lambda: guest.mark()['touches'] >= pages, 300, every=0.02)
        took = (time.monotonic_ns() - start) / 1e6
        if mode == 'on':
            wait_for(lambda: vm.faults()['source']['working-set']['record'] == 'ended', 60, every=0.05)
        return took, vm.faults()['source']


def working_set(results, image, args):
    """With and without replay, and the same bytes in one stream."""
    with_set, without, stream = [], [], []
    pages = int(1024 * MIB * SHARE) // 4096
    # Ten seconds may not be enough for the first run to touch all of it.
    while touch_share(image, pages, 'on')[1]['working-set']['written'] < pages // 16:
        pass
    with serve(image.parent, 5000) as port:
        place = 'http://127.0.0.1:%d/%s' % (port, image.name)
        for i in range(args.rounds):
            took, source = touch_share(place, pages, 'replay')
            with_set.append(took)
            stream.append(stream_ms(port, image, source['read-bytes']))
            if i < args.slow_rounds:
                without.append(touch_share(place, pages, 'off')[0])
    results.note('working_set', 'ms', len(with_set), percentile(sorted(with_set), 0.5), percentile(sorted(stream), 0.5))
    results.note('working_set_without', 'ms', len(without), percentile(sorted(without), 0.5), percentile(sorted(stream), 0.5))


def stream_ms(port, image, wanted):
    """So many bytes of its packs, one after the other over one connection."""
    took = got = 0
    for name in packs(image):
        us, n = web('stream', port, name).split()
        took, got = took + float(us) / 1e3, got + int(n)
        if got >= wanted:
            break
    return took * wanted / got


def prepare(path, save):
    """The image of all of them, unless it is there."""
    image = pathlib.Path(path)
    if not image.exists():
        save(image, 1024)
    return image
