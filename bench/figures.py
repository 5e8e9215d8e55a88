# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""What was measured: a list of values for each figure and each who; medians, ratios, the table, heart.json."""

import json
import textwrap

from harness.report import percentile

POSTERN, FLOOR, PLAIN, PREEMPT = 'postern', 'floor', 'qemu plain', 'qemu preempt'
WHO = (POSTERN, FLOOR, PLAIN, PREEMPT)
WIDTH = 132

FAULT = ('%s of one round\'s faults: the guest\'s touch of a missing page, by the guest\'s TSC: exit, userfaultfd, request, '
         'page over loopback TCP (postern: verified), copy, re-entry. Bulk runs meanwhile, at the floor none does. '
         'The n slowest touches of a round, n: distinct pages fetched because somebody waited. QEMU: preempt.')


class Figure:
    """name: in heart.json; take: which percentile of the values stands for it (0.5: the median over rounds); goals: what it
    shall be, as (kind, most) with kind 'floor', 'qemu' (ratios) or 'value'."""

    def __init__(self, name, unit, includes, take=0.5, source=None, goals=()):
        self.name, self.unit, self.includes, self.take, self.goals = name, unit, includes, take, goals
        self.source = source or name


def _faults(case, text, goals50=(), goals99=()):
    return [Figure('fault_p50_' + case, 'us', text + FAULT % 'median', goals=goals50),
            Figure('fault_p90_' + case, 'us', '90th percentile, as above'),
            Figure('fault_p99_' + case, 'us', '99th percentile, as above', goals=goals99)]


SECTIONS = [
    ('faults of the guest, uncapped', _faults('random_read_1g', '1 GiB, random reads, 1 vCPU; ',
                                              [('floor', 1.4), ('qemu', 1 / 3)], [('qemu', 0.2)])
     + _faults('random_write_1g', '1 GiB, random writes; ') + _faults('sequential_1g', '1 GiB, reads in order; ')
     + _faults('random_read_1g_2cpus', '1 GiB, random reads, 2 vCPUs; ')
     + _faults('random_read_4g', '4 GiB, random reads; ') + _faults('random_read_8g', '8 GiB, random reads; ')
     + [Figure('fault_p50_local', 'us', 'floor: a vCPU\'s fault resolved by UFFDIO_COPY of 4 KiB in the same process'),
        Figure('fault_p99_local', 'us', 'as above')]),
    ('the whole migration', [
        Figure('longest_stall_1g', 'ms', 'longest round of the walking guest\'s main loop from before `migrate` to after the '
               'end, by its TSC: switchover included', goals=[('value', 5)]),
        Figure('total_1g', 'ms', 'from sending `migrate` until both sides say completed (their events\' time stamps); random '
               'reads go on; postern verifies checksums. QEMU: the better of plain and preempt', goals=[('qemu', 0.6)]),
        Figure('bulk_4g', 'ms', 'from lifting the cap of 1 MiB/s, just after switchover, until both say completed'),
        Figure('bulk_8g', 'ms', 'as above'),
        Figure('running_1g', 'ms', 'from sending `migrate` until the destination\'s RESUME event (time stamp)'),
        Figure('first_instruction_1g', 'ms', 'blackout by the guest\'s TSC: from the source\'s pause to the end of the first '
               'round of the guest\'s loop at the destination, its faults included; the guest idles'),
        Figure('first_instruction_4g', 'ms', 'as above'),
        Figure('first_instruction_8g', 'ms', 'as above')]),
    ('bulk capped at 200 MB/s', _faults('capped_1g', '1 GiB, random reads for %s s under the cap; ' % '1.5')),
    ('memory after the end', [
        Figure('walk_source', 'ns', 'a random read at the source before migration, loop included: best of 6 windows of 50 ms. '
               'Floor: huge-page-backed memory'),
        Figure('walk_first', 'ratio', 'the same walk half a second after completion, by the walk at the source (the floor, 1): '
               'every page is there, but KVM meets most for the first time'),
        Figure('huge_back_1g', 'ms', 'from the end of the migration until the huge pages that urgent pages had broken up are back'),
        Figure('walk_after', 'ratio', 'the same once the walk has been everywhere, as at the source (the floor, 1); postern: after '
               'the huge pages are back',
               goals=[('value', 1.1)]),
        Figure('rss_kib', 'KiB', 'resident memory of the VMM without guest RAM (smaps), after completion; the larger side',
               goals=[('value', 8192)]),
        Figure('bookkeeping', 'bytes/page', 'growth of that from 1 to 8 GiB, per page of RAM', goals=[('value', 1)])]),
    ('answers while every vCPU waits for a missing page', [
        Figure('stop_p50_kernel', 'ms', 'QMP `stop`, 2 vCPUs (QEMU: 1), link cut: request to reply, as the client sees it',
               source='stop_kernel'),
        Figure('stop_p99_kernel', 'ms', 'as above, by interruptible faults', 0.99, 'stop_kernel', [('value', 1)]),
        Figure('stop_p50_eject', 'ms', 'the same by the eject', source='stop_eject'),
        Figure('stop_p99_eject', 'ms', 'as above', 0.99, 'stop_eject', [('value', 1)]),
        Figure('kick_p50_kernel', 'us', 'vm_pause inside one process, 2 vCPUs', source='kick_kernel_2cpus'),
        Figure('kick_p99_kernel', 'us', 'as above', 0.99, 'kick_kernel_2cpus'),
        Figure('kick_p50_eject', 'us', 'the same by the eject', source='kick_eject_2cpus'),
        Figure('kick_p99_eject', 'us', 'as above', 0.99, 'kick_eject_2cpus'),
        Figure('kick_p50_kernel_1cpu', 'us', '1 vCPU', source='kick_kernel_1cpus'),
        Figure('kick_p50_eject_1cpu', 'us', '1 vCPU', source='kick_eject_1cpus'),
        Figure('recovery', 'ms', 'link cut by migrate-pause; from `migrate` with resume to the first word of the guest, which '
               'waited for a page')]),
    ('a second guest beside one that waits for a missing page', [
        Figure('neighbour_%s_%s' % (what, does), 'ratio', text + ('; the first is stopped and continued all the time'
                                                                  if does == 'stopped' else ''), goals=[('value', 1.1)])
        for what, text in (('walk', 'random reads a second of its memory, all there: without the first guest, by with it. Link cut, '
                            '2 vCPUs wait; each round without, with, without'),
                           ('io', 'the same, of commands a second over its serial port'),
                           ('faults', 'the same, of missing pages a second in its own migration'))
        for does in ('waits', 'stopped')]),
    ('rates of the floors', [
        Figure('rate_copy_4k', 'GB/s', 'UFFDIO_COPY, 4 KiB at a time, one thread'),
        Figure('rate_copy_64k', 'GB/s', '64 KiB at a time'),
        Figure('rate_copy_2m', 'GB/s', '2 MiB at a time'),
        Figure('rate_move_2m', 'GB/s', 'UFFDIO_MOVE of filled huge pages: page tables move, not data'),
        Figure('rate_tcp_stream', 'GB/s', 'one TCP stream over the loopback between two processes'),
        Figure('rate_memcpy', 'GB/s', 'memcpy into memory that is there')]),
]


class Figures:
    """note() as values come; the rest when all have come."""

    def __init__(self):
        self.values = {}

    def note(self, name, who, value):
        """One value of one round; None is left out."""
        if value is not None:
            self.values.setdefault(name, {}).setdefault(who, []).append(value)

    def of(self, figure, who):
        """The figure's value for one who, or None."""
        if who == FLOOR:
            return self._least(figure.source, figure.take)
        return percentile(self.values.get(figure.source, {}).get(who, []), figure.take)

    def n(self, figure, who=POSTERN):
        """How many values there are."""
        return max((len(values) for name, values in self.values.get(figure.source, {}).items()
                    if name == who or who == FLOOR and name.startswith(FLOOR)), default=0)

    @staticmethod
    def floor_at(place):
        """The floor in one placement: CPUs of vCPU, of the thread that copies, of the process that serves; -1: any."""
        return FLOOR + ' %d %d %d' % place

    def _floors(self, source, take=0.5):
        """{placement: the floor there}"""
        return {who: percentile(values, take) for who, values in self.values.get(source, {}).items()
                if who.startswith(FLOOR) and values}

    def _least(self, source, take=0.5):
        """The floor is that of the best placement."""
        return min(self._floors(source, take).values(), default=None)

    def placements(self):
        """A line: what the placements came to, best first; '' where there was one only."""
        found = sorted(self._floors('fault_p50_random_read_1g').items(), key=lambda item: item[1])
        return ', '.join('%s: %s' % (who, _number(value)) for who, value in found) if len(found) > 1 else ''

    def qemu(self, figure):
        """What stands for QEMU: preempt for faults, else the better of the two."""
        preempt, plain = self.of(figure, PREEMPT), self.of(figure, PLAIN)
        if figure.name.startswith('fault_'):
            return preempt
        both = [v for v in (preempt, plain) if v is not None]
        return min(both) if both else None

    def floor(self, figure):
        """The floor; for walks after the end 1 by definition; for capped faults that of uncapped ones."""
        if figure.name in ('walk_first', 'walk_after') and self.of(figure, POSTERN) is not None:
            return 1.0
        if '_capped_' in figure.name:
            return self._least(figure.name.replace('capped', 'random_read'))
        if figure.name.endswith('_2cpus') or figure.name.endswith(('_4g', '_8g')) and figure.name.startswith('fault_'):
            name = figure.name.replace('_2cpus', '').replace('_4g', '_1g').replace('_8g', '_1g')
            return self._least(name)
        return self.of(figure, FLOOR)

    def finish(self):
        """Figures that follow from others."""
        small, large = (self.values.get(k, {}) for k in ('rss_kib', 'rss_kib_8g'))
        for who in (POSTERN, PLAIN, PREEMPT):
            a, b = percentile(small.get(who, []), 0.5), percentile(large.get(who, []), 0.5)
            if a is not None and b is not None:
                self.note('bookkeeping', who, (b - a) * 1024 / (7 << 18))

    # output

    def heart(self):
        """The list of heart.json."""
        out = []
        for _, figures in SECTIONS:
            for f in figures:
                values = {'postern': self.of(f, POSTERN), 'floor': self.floor(f), 'qemu': self.qemu(f)}
                out.append({'name': f.name, 'unit': f.unit, 'n': self.n(f) or self.n(f, FLOOR), **values})
        return out

    def goals(self):
        """[(text, met?)] of those that could be judged."""
        out = []
        for _, figures in SECTIONS:
            for f in figures:
                mine = self.of(f, POSTERN)
                for kind, most in f.goals:
                    base = {'floor': self.floor(f), 'qemu': self.qemu(f), 'value': 1.0}[kind]
                    if mine is None or not base:
                        continue
                    unit = {'floor': 'x the floor', 'qemu': 'x QEMU', 'value': f.unit}[kind]
                    out.append(('%s: %s %s, at most %s wanted' % (f.name, _number(mine / base), unit, _number(most)),
                                mine / base <= most))
        return out + self._more_goals()

    def _more_goals(self):
        """Those that compare two figures."""
        def value(name):
            return percentile(self.values.get(name, {}).get(POSTERN, []), 0.5)
        out = []
        capped, free = value('fault_p50_capped_1g'), value('fault_p50_random_read_1g')
        if capped and free:
            out.append(('fault_p50_capped_1g: %s x uncapped, at most 1.5 wanted' % _number(capped / free),
                        capped / free <= 1.5))
        first = [v for v in (value('first_instruction_%dg' % g) for g in (1, 4, 8)) if v]
        if len(first) > 1:
            out.append(('first_instruction: %s ms for growing memory; within 20 %% of each other or under 5 ms wanted'
                        % ', '.join(_number(v) for v in first), max(first) < 5 or max(first) <= 1.2 * min(first)))
        return out

    def table(self):
        """All of it, for a person."""
        lines = []
        head = '%-30s %-6s %5s  %-24s %9s %9s %9s  %7s %7s' % (
            'figure', 'unit', 'n', 'postern [min .. max]', 'floor', 'plain', 'preempt', '/floor', '/qemu')
        for title, figures in SECTIONS:
            rows = [f for f in figures if any(self.of(f, who) is not None for who in WHO)]
            if not rows:
                continue
            lines += ['', title, head, '-' * len(head)]
            for f in rows:
                lines += self._row(f)
        return '\n'.join(lines[1:])

    def _row(self, f):
        mine = self.values.get(f.source, {}).get(POSTERN, [])
        text = '%s [%s .. %s]' % (_number(self.of(f, POSTERN)), _number(min(mine)), _number(max(mine))) if mine else '-'
        floor, qemu = self.floor(f), self.qemu(f)
        line = '%-30s %-6s %5d  %-24s %9s %9s %9s  %7s %7s' % (
            f.name, f.unit, self.n(f) or self.n(f, FLOOR), text, _number(floor), _number(self.of(f, PLAIN)),
            _number(self.of(f, PREEMPT)), _ratio(self.of(f, POSTERN), floor), _ratio(self.of(f, POSTERN), qemu))
        return [line] + textwrap.wrap(f.includes, WIDTH, initial_indent='    ', subsequent_indent='    ')

    def save(self, path, about):
        """Every single value, beside heart.json."""
        with open(path, 'w', encoding='ascii') as out:
            json.dump({'about': about, 'values': self.values}, out, indent=1)
            out.write('\n')


def _number(value):
    if value is None:
        return '-'
    if value and abs(value) < 0.1:
        return '%.3f' % value
    return '%.2f' % value if abs(value) < 10 else '%.1f' % value if abs(value) < 1000 else '%.0f' % value


def _ratio(a, b):
    return '-' if a is None or not b else _number(a / b)
