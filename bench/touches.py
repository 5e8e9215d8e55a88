# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""What the bare guest has noted about its touches, in microseconds of its own clock.

How faults are told from other touches, alike for all: when a run has had n distinct pages fetched because somebody waited
for them, its n slowest touches count as its faults.
"""

US_PER_KHZ = 1e3


class Clock:
    """The TSC, measured on this host and not assumed. khz: what `floors tsc` said."""

    def __init__(self, khz):
        self.khz = khz

    def us(self, cycles):
        """Cycles -> microseconds."""
        return cycles * US_PER_KHZ / self.khz


def slowest(hist, n):
    """[(least cycles of a bucket, touches)], ascending, of the n slowest touches of such a histogram."""
    out = []
    for low, count in reversed(hist):
        if n <= 0:
            break
        out.append((low, min(count, n)))
        n -= out[-1][1]
    return out[::-1]


def width(low):
    """Of the bucket that begins there: 32 of each power of two (tests/bare/bare.h)."""
    return 1 << max(low.bit_length() - 6, 0)


def quantile(hist, q):
    """What the share q of all touches does not exceed, as if those of a bucket, which is 3 % wide, lay evenly in it; None without any."""
    want = q * sum(n for _, n in hist)
    seen = 0
    for low, n in hist:
        if n and seen + n >= want:
            return low + width(low) * (want - seen) / n
        seen += n
    return None


def faults(hist, n, clock):
    """{'faults', 'p50', 'p90', 'p99', 'max'} of the n slowest touches, in us; None without any."""
    part = slowest(hist, n)
    if not part:
        return None
    out = {'p%d' % q: clock.us(quantile(part, q / 100)) for q in (50, 90, 99)}
    out['max'] = clock.us(part[-1][0])
    out['faults'] = sum(count for _, count in part)
    return out


def cost(guest, seconds, wait):
    """Cycles a touch, the guest's own loop included, over so many seconds of the walk that is going on."""
    first = guest.mark()
    wait(seconds)
    last = guest.mark()
    return (last['tsc'] - first['tsc']) / max(1, last['touches'] - first['touches'])
