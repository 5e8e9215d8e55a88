# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""The host's side of the bare guest: commands over a connected serial socket, replies as dictionaries.

    guest = Bare(bare.connect(path))        # path of a unix socket
    guest.wait_ready(); guest.fill(); guest.walk('g')
    print(guest.stats()['touches'], guest.percentiles(thr=6900))

Every wait has a deadline and raises BareTimeout with what arrived instead; a line that answers nothing (heartbeats,
late replies) is kept in `beats` or dropped. The letters stand in bare.h. One thread at a time.
"""

import collections
import os
import re
import select
import socket
import struct
import time

TIMEOUT = 20.0
WALKS = {'g': 'G', 'w': 'W', 'q': 'Q', 'W': 'WS', 'a': 'A', 'c': 'C'}

Note = collections.namedtuple('Note', 'version max_cpus cr3 entry stack_top stack_stride cfg stats')


class BareError(Exception):
    """The guest said something else than the command's reply, or hung up."""


class BareTimeout(BareError):
    """No reply before the deadline. The guest may be waiting for a page."""


def connect(path, timeout=TIMEOUT):
    """Connects to a unix socket, waiting until somebody listens there."""
    end = time.monotonic() + timeout
    poll = select.poll()
    while True:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.connect(path)
            return sock
        except (FileNotFoundError, ConnectionRefusedError) as e:
            sock.close()
            if time.monotonic() > end:
                raise BareTimeout('%s: nobody listens: %s' % (path, e)) from e
            poll.poll(5)


def read_note(path):
    """The loader's note of a bare.elf, found the way a loader does."""
    with open(path, 'rb') as f:
        data = f.read()
    if data[:6] != b'\x7fELF\x02\x01':
        raise ValueError('%s: not a little-endian ELF64 file' % path)
    phoff, = struct.unpack_from('<Q', data, 32)
    phentsize, phnum = struct.unpack_from('<HH', data, 54)
    for i in range(phnum):
        kind, _, offset, _, _, size, _, _ = struct.unpack_from('<IIQQQQQQ', data, phoff + i * phentsize)
        end = offset + size
        while kind == 4 and offset + 12 <= end:
            namesz, descsz, ntype = struct.unpack_from('<III', data, offset)
            name = data[offset + 12:offset + 12 + namesz]
            desc = offset + 12 + (namesz + 3 & ~3)
            if name == b'postern\0' and ntype == 1:
                return Note(*struct.unpack_from('<II6Q', data, desc))
            offset = desc + (descsz + 3 & ~3)
    raise ValueError('%s: no postern note' % path)


def bucket_of(v):
    """As bare_bucket() of bare.h."""
    if v < 32:
        return v
    e = v.bit_length() - 1
    return min((e - 4) * 32 + (v >> (e - 5) & 31), 2047)


def percentile(hist, q, thr=0):
    """The q-th quantile (0 to 1), in cycles, of hist's touches of at least thr cycles; None without any."""
    least = bucket_of(thr)
    part = [(low, n) for low, n in hist if bucket_of(low) >= least]
    want = q * sum(n for _, n in part)
    seen = 0
    for low, n in part:
        seen += n
        if seen >= want:
            return low
    return None


def _value(text):
    try:
        return int(text, 0)
    except ValueError:
        return text


def parse(line):
    """'S a=1 mode=g' -> {'a': 1, 'mode': 'g'}"""
    return {k: _value(v) for k, v in (w.split('=', 1) for w in line.split() if '=' in w)}


class Bare:
    """One bare guest behind a connected stream socket."""

    def __init__(self, sock):
        self.sock = sock
        self.beats = []         # (time.monotonic(), count) of each heartbeat read so far
        self._buf = b''
        self._marks = int.from_bytes(os.urandom(3), 'little')

    def close(self):
        self.sock.close()

    # lines

    def send(self, text):
        """Sends raw characters."""
        self.sock.sendall(text.encode('ascii'))

    def _line(self, end):
        while b'\n' not in self._buf:
            left = end - time.monotonic()
            if left <= 0 or not select.select([self.sock], [], [], left)[0]:
                raise BareTimeout('no line in time; so far %r' % self._buf[-200:])
            data = self.sock.recv(65536)
            if not data:
                raise BareError('serial line closed after %r' % self._buf[-200:])
            self._buf += data
        line, self._buf = self._buf.split(b'\n', 1)
        return line.decode('ascii', 'replace').strip('\r')

    def expect(self, pattern, timeout=TIMEOUT):
        """Reads lines until one matches the whole pattern; returns it. '? code' lines raise."""
        end = time.monotonic() + timeout
        rx = re.compile(pattern)
        dropped = []
        while True:
            try:
                line = self._line(end)
            except BareTimeout as e:
                raise BareTimeout('waiting %.1f s for %r: %s; lines passed over: %r'
                                  % (timeout, pattern, e, dropped[-5:])) from None
            if rx.fullmatch(line):
                return line
            if re.fullmatch(r'\.\d+', line):
                self.beats.append((time.monotonic(), int(line[1:])))
            elif line.startswith('? '):
                raise BareError('the guest does not take %r' % chr(_value(line[2:])))
            elif line.startswith('J '):
                raise BareError('the guest abandoned %r' % line)
            else:
                dropped.append(line)

    def command(self, text, pattern, timeout=TIMEOUT):
        """Sends text, returns the fields of the reply that matches."""
        self.send(text)
        return parse(self.expect(pattern, timeout))

    # start

    def wait_ready(self, timeout=TIMEOUT):
        """Waits until a guest that may still be starting answers; returns info()."""
        end = time.monotonic() + timeout
        while True:
            self.send('i')
            try:
                self.expect(r'I version=.*', min(1.0, max(0.0, end - time.monotonic())))
                break
            except BareTimeout:
                if time.monotonic() >= end:
                    raise
        self.mark(max(0.1, end - time.monotonic()))     # what was sent in vain is answered by now
        return self.info(max(0.1, end - time.monotonic()))

    # commands

    def info(self, timeout=TIMEOUT):
        """Sizes and settings."""
        return self.command('i', r'I version=.*', timeout)

    def mark(self, timeout=TIMEOUT):
        """A round trip that cannot be confused with an earlier one: mark, tsc, touches."""
        self._marks += 1
        return self.command('b%d\n' % self._marks, r'B mark=%d .*' % self._marks, timeout)

    def fill(self, timeout=120.0):
        """Fills all pages; returns how many."""
        return self.command('f', r'F pages=\d+', timeout)['pages']

    def walk(self, mode, timeout=TIMEOUT):
        """Starts mode g, w, q, W, a or c on all cpus of the mask."""
        self.command(mode, WALKS[mode], timeout)

    def stop(self, timeout=TIMEOUT):
        """Stops what goes on. The other cpus follow within one touch; see quiet()."""
        self.command('s', 'T', timeout)

    def quiet(self, timeout=TIMEOUT):
        """Stops and waits until every cpu has: none waits for a page any more. Returns stats()."""
        end = time.monotonic() + timeout
        self.stop(timeout)
        while True:
            s = self.stats(max(0.0, end - time.monotonic()))
            if s['taken'] == s['cpus']:
                return s

    def reset(self, timeout=TIMEOUT):
        """Resets statistics."""
        self.command('r', 'R', timeout)

    def reboot(self, timeout=TIMEOUT):
        """Asks the machine for a reset; what follows is a guest that knows nothing of before."""
        self.command('y', r'Y', timeout)

    def rewind(self, timeout=TIMEOUT):
        """Lets walk('a') begin anew."""
        self.command('o', 'O', timeout)

    def stats(self, timeout=TIMEOUT):
        """Counters; per cpu as cpu0, gap0, ...; times in cycles. minpasses is what every cpu has done, taken how many
        cpus follow the present mode: the others wait, for a page as a rule."""
        return self.command('p', r'S mode=.* tsc=\d+', timeout)

    def status(self, timeout=TIMEOUT):
        """The mode, and how far each cpu is: (mode letter, [touches of each cpu])."""
        s = self.stats(timeout)
        return s['mode'], [s['cpu%d' % i] for i in range(s['cpus'])]

    def hist(self, timeout=TIMEOUT):
        """[(least cycles of the bucket, touches)], ascending."""
        self.send('d')
        line = self.expect(r'H( \d+:\d+)*', timeout)
        return [tuple(int(x) for x in w.split(':')) for w in line.split()[1:]]

    def percentiles(self, thr=0, qs=(0.5, 0.9, 0.99, 0.999), timeout=TIMEOUT):
        """{q: cycles} of touches of at least thr cycles; None where there was no such touch."""
        h = self.hist(timeout)
        return {q: percentile(h, q, thr) for q in qs}

    def verify(self, timeout=300.0):
        """Checks every word: pages, errors (wrong words), bad (pages), first (page or -1) and where."""
        return self.command('v', r'V pages=\d+ .*', timeout)

    def first_error(self, timeout=TIMEOUT):
        """Errors that walks saw, and where the first was."""
        return self.command('e', r'E errors=\d+ .*', timeout)

    def touch(self, page, timeout=TIMEOUT):
        """Reads one page: val, ok, cycles."""
        return self.command('t%d\n' % page, r'T page=%d .*' % page, timeout)

    def corrupt(self, page, timeout=TIMEOUT):
        """Flips one bit of a page, for the test of the test. Again: undoes it."""
        self.command('x%d\n' % page, r'X page=%d' % page, timeout)

    def limit(self, pages, timeout=TIMEOUT):
        """Uses the first pages only (0: all); returns how many. Stops what goes on."""
        return self.command('m%d\n' % pages, r'M pages=\d+', timeout)['pages']

    def threshold(self, cycles, timeout=TIMEOUT):
        """From how many cycles on a touch is slow."""
        self.command('l%d\n' % cycles, r'L thr=%d' % cycles, timeout)

    def mask(self, cpus, timeout=TIMEOUT):
        """Which cpus walk, as a bit mask; without bit 0 commands are answered whatever page is missing."""
        self.command('u%d\n' % cpus, r'U mask=%d' % cpus, timeout)

    def tsc_khz(self, khz, timeout=TIMEOUT):
        """Tells the guest its clock, by which it looks for commands once a millisecond."""
        self.command('z%d\n' % khz, r'Z khz=%d' % khz, timeout)

    def measure_tsc_khz(self, seconds=0.5, timeout=TIMEOUT):
        """Measures the guest's TSC against the host's clock: a line fitted through marks over so many seconds."""
        points = []
        start = time.monotonic()
        while len(points) < 3 or points[-1][0] < seconds:
            sent = time.monotonic()
            tsc = self.mark(timeout)['tsc']
            points.append(((sent + time.monotonic()) / 2 - start, tsc - (points[0][2] if points else tsc), tsc))
        mean_t = sum(p[0] for p in points) / len(points)
        mean_c = sum(p[1] for p in points) / len(points)
        slope = (sum((p[0] - mean_t) * (p[1] - mean_c) for p in points)
                 / sum((p[0] - mean_t) ** 2 for p in points))
        return round(slope / 1000)

    def calibrate(self, seconds=0.5, timeout=TIMEOUT):
        """Measures the TSC and tells the guest; for loaders that do not. Returns kHz."""
        khz = self.measure_tsc_khz(seconds, timeout)
        self.tsc_khz(khz, timeout)
        return khz

    def heartbeat(self, on=True, period_us=None, timeout=TIMEOUT):
        """Switches the heartbeat; its lines gather in beats whenever something is read."""
        if period_us is not None:
            self.command('k%d\n' % period_us, r'K us=%d' % period_us, timeout)
        for _ in range(2):
            if self.command('h', r'B on=[01]', timeout)['on'] == int(on):
                return
        raise BareError('the heartbeat does not switch')

    def wait_beats(self, n, timeout=TIMEOUT):
        """Reads until n more heartbeats are in."""
        end = time.monotonic() + timeout
        have = len(self.beats)
        while len(self.beats) < have + n:
            line = self._line(end)
            if re.fullmatch(r'\.\d+', line):
                self.beats.append((time.monotonic(), int(line[1:])))

    def wait_stats(self, good, timeout=TIMEOUT, every=0.02):
        """Asks for stats(), every so many seconds, until good(stats) is true; returns them. A reply costs cpu 0 some
        tens of milliseconds where leaving the guest is slow: ask seldom while it is measured."""
        end = time.monotonic() + timeout
        while True:
            s = self.stats(max(0.0, end - time.monotonic()))
            if good(s):
                return s
            if time.monotonic() >= end:
                raise BareTimeout('not reached in %.1f s; the last: %r' % (timeout, s))
            select.select([self.sock], [], [], every)
