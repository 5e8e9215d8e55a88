# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""The demonstration's story, wherever it is told: on this machine with the bare guest, in the lab with Debian.

A guest runs and verifies its memory. It is migrated by postcopy; while most of its memory is still at the source, the
wire is pulled. Its vCPUs touch missing pages and wait. Then everything that hangs elsewhere is asked for, with a clock
beside it: stop, cont, a second monitor, the gdb stub on a present and on a missing page, a debugger on the process,
SIGINT, SIGKILL. The wire comes back, the migration is recovered and ends, and the guest must find every page as it
left it. Each question is one row of the report; one that is not answered in time, or wrongly, is a row that is not ok.
"""

import contextlib
import re
import signal
import sys
import threading
import time

from harness import gdbremote, kvm, machine
from harness.debian import DebianPair
from harness.migration import Pair
from harness.report import percentile
from harness.vm import Postern
from harness.waiting import scale, seconds, wait_for

BANDWIDTH = 1 << 20             # of the bulk before the cut: most of the memory stays behind
ANSWER_SECONDS = 3.0            # how long an answer may take before it counts as none, unstretched
START = time.monotonic()


def say(text):
    """A line of progress."""
    print('[%6.1f s] %s' % (time.monotonic() - START, text), flush=True)


class Rows:
    """What was asked and how it was answered: rows of the report."""

    def __init__(self, where, kernel, way_out):
        self.common = {'where': where, 'kernel': kernel, 'way_out': way_out}
        self.rows = []

    def add(self, name, times_s=(), ok=True, why=None):
        """One row; times in seconds, why: the reason when it is not ok."""
        row = dict(self.common, name=name, n=len(times_s) or None, ok=ok,
                   p50_us=_us(percentile(times_s, 0.5)), p99_us=_us(percentile(times_s, 0.99)))
        if why:
            row['why'] = why
        self.rows.append(row)
        say('    %-44s %s' % (name, ('' if ok else 'NOT OK: %s' % why) or _shown(row)))
        return ok

    def ask(self, name, question, n=1, before=None):
        """Asks n times and clocks each answer. question(): raises when the answer is wrong or does not come; what it
        returns, if a number, is the time in seconds instead of our clock's. before(): not clocked."""
        times = []
        try:
            for _ in range(n):
                if before:
                    before()
                start = time.perf_counter()
                own = question()
                times.append(own if isinstance(own, float) else time.perf_counter() - start)
        except Exception as e:      # pylint: disable=broad-except
            return self.add(name, times, False, _reason(e))
        return self.add(name, times)


def _us(value):
    return None if value is None else round(value * 1e6)


def _reason(error):
    text = ' '.join(str(error).split())
    return '%s: %s' % (type(error).__name__, text[:300]) if text else type(error).__name__


def duration(us):
    """A time for people: 0.21 ms, 12.3 ms, 4.1 s."""
    if us is None:
        return '-'
    if us < 1e6:
        return '%.*f ms' % (2 if us < 10000 else 1, us / 1e3)
    return '%.1f s' % (us / 1e6)


def _shown(row):
    if row['n'] is None:
        return 'ok'
    if row['n'] == 1:
        return duration(row['p50_us'])
    return 'p50 %s, p99 %s, n = %d' % (duration(row['p50_us']), duration(row['p99_us']), row['n'])


# ---- the two guests

class BareStory:
    """The bare guest: verifies and rewrites pages at random on all vCPUs."""

    title = 'the bare guest'

    missing = 0     # the address that the debugger was refused

    def __init__(self, way_out, memory):
        self.pair = Pair(link=True, gdb=True, way_out=way_out, memory=memory, cpus=2)
        self.pair.guest.walk('c')

    @staticmethod
    def address_of(gpa):
        """Where a debugger finds that physical address: the bare guest's memory is mapped one to one."""
        return gpa

    def verify(self):
        """Every word of every page, at the destination."""
        guest = self.pair.arrived()
        guest.quiet(seconds(20))
        seen = guest.first_error(seconds(20))
        assert seen['errors'] == 0, 'the guest has met wrong memory: %s' % seen
        end = guest.verify(seconds(60))
        assert end['errors'] == 0, 'wrong memory: %s' % end
        return '%d pages verified, every word, 0 errors' % end['pages']


class DebianStory:
    """A stock Debian kernel with memcheck on all vCPUs."""

    title = 'Debian with memcheck'

    missing = 0

    def __init__(self, way_out, memory, mb):
        self.pair = DebianPair(link=True, gdb=True, way_out=way_out, memory=memory, cpus=2, mb=mb)
        ready = self.pair.ready
        say('  Debian is up: %s vCPUs, clock source %s' % (ready['cpus'], ready['clock']))

    @staticmethod
    def address_of(gpa):
        """In the kernel's direct map of all memory."""
        return machine.DIRECT_MAP + gpa

    def verify(self):
        """memcheck goes on, without an error, over all its memory twice; the console answers."""
        last = self.pair.assert_sound(passes=2)
        return '%d passes, %d pages verified by memcheck, 0 errors' % (last[1], last[2])


# ---- the course

def cut(story):
    """Migrates, and pulls the wire as soon as the guest runs at the destination. Returns the pair."""
    pair = story.pair
    pair.start(bandwidth=BANDWIDTH)
    pair.link.down()
    return pair


def wait_waiting(pair):
    """Until every vCPU of the destination waits for a missing page, and has for 30 ms."""
    vcpus = len(pair.destination.command('query-cpus-fast'))

    def waits():
        now = pair.destination.waiting_cpus()
        return len(now) == vcpus and all(w['since-us'] > 30000 for w in now.values()) and now
    return wait_for(waits, 20, lambda: 'vCPUs waiting: %s' % pair.destination.waiting_cpus())


def ask_stop_and_cont(rows, pair, n):
    """stop and cont, n times, each stop with every vCPU waiting for a page."""
    vm = pair.destination
    stops, conts = [], []
    try:
        for i in range(n):
            wait_waiting(pair)
            ms, _ = vm.q.timed('stop', ANSWER_SECONDS)
            stops.append(ms / 1e3)
            assert not vm.command('query-status')['running'], 'stop was answered, but the guest runs'
            ms, _ = vm.q.timed('cont', ANSWER_SECONDS)
            conts.append(ms / 1e3)
            assert vm.command('query-status')['running'], 'cont was answered, but the guest does not run'
            if i % 10 == 9:
                say('  %d of %d' % (i + 1, n))
        why = None
    except Exception as e:          # pylint: disable=broad-except
        why = _reason(e)
    rows.add('stop', stops, why is None, why)
    rows.add('cont', conts, why is None, why)
    ask_stop_at_once(rows, vm, n)


def ask_stop_at_once(rows, vm, n):
    """stop on the heels of cont: the vCPUs are just about to wait, or have just begun."""
    def stop():
        ms, _ = vm.q.timed('stop', ANSWER_SECONDS)
        assert not vm.command('query-status')['running']
        return ms / 1e3
    rows.ask('stop, right after cont', stop, n, before=lambda: vm.command('cont'))
    vm.command('cont')


def second_client(vm):
    """Connects, negotiates, asks, hangs up."""
    with contextlib.closing(vm.qmp(ANSWER_SECONDS)) as client:
        client.command('query-status')


def present_address(gdb, vcpus):
    """An address in use that can be read: instruction or stack pointers of the vCPUs."""
    found = []
    for i in range(vcpus):
        gdb.ask('Hg%x' % (i + 1))
        registers = bytes.fromhex(gdb.ask('g').replace('x', '0'))
        for at in (machine.GDB_PC, machine.GDB_SP):
            found.append(int.from_bytes(registers[at:at + 8], 'little') & ~7)
    for address in found:
        if not gdb.ask('m%x,8' % address).startswith('E'):
            return address
    raise gdbremote.GdbError('none of %s can be read' % [hex(a) for a in found])


def ask_missing_page(rows, gdb, pair, address, n):
    """Reads of a missing page are refused, and meanwhile the monitor answers others."""
    vm = pair.destination
    asked = []
    end = threading.Event()

    def others():
        with contextlib.closing(vm.qmp(ANSWER_SECONDS)) as client:
            while not end.is_set():
                asked.append(client.timed('query-status')[0] / 1e3)
                end.wait(0.01)

    def refused():
        reply = gdb.ask('m%x,8' % address)
        assert reply.startswith('E'), 'a missing page was read: %r' % reply
    thread = threading.Thread(target=others, name='others', daemon=True)
    thread.start()
    rows.ask('gdb stub: missing page, refused', refused, n)
    end.set()
    thread.join(seconds(ANSWER_SECONDS))
    rows.add('  QMP query-status meanwhile', asked, bool(asked) and not thread.is_alive(),
             None if asked else 'no answer')


def ask_gdb_stub(rows, story, n):
    """A debugger on the guest: attach, registers, a page that is there, one that is not, detach."""
    vm = story.pair.destination
    waits = wait_waiting(story.pair)
    missing = story.missing = story.address_of(next(iter(waits.values()))['gpa'])
    session = []

    def attach():
        session.append(gdbremote.GdbRemote('unix:' + vm.path('gdb'), ANSWER_SECONDS))
        reply = session[0].ask('?')
        assert reply[:1] == 'T', 'stop reply %r' % reply
    try:
        if not rows.ask('gdb stub: attach', attach):
            return
        gdb = session[0]
        assert not vm.command('query-status')['running']

        def registers():
            reply = gdb.ask('g')
            assert len(reply) >= 24 * 16, 'registers: %r' % reply
        rows.ask('gdb stub: registers', registers, n)
        present = present_address(gdb, 2)

        def read():
            assert len(gdb.read(present, 8)) == 8
        rows.ask('gdb stub: present page', read, n)
        ask_missing_page(rows, gdb, story.pair, missing, max(2, n // 5))

        def detach():
            assert gdb.ask('D') == 'OK'
            vm.wait_status('running')
        rows.ask('gdb stub: detach, the guest goes on', detach)
    except Exception as e:          # pylint: disable=broad-except
        rows.add('gdb stub', (), False, _reason(e))
    finally:
        for gdb in session:
            gdb.close()


def ptrace(vm):
    """gdb on the process itself: it stops every thread, also those of the vCPUs."""
    try:
        output, took = gdbremote.run_gdb(['info threads'], ['-p', str(vm.pid)], timeout=20 / scale())
    except gdbremote.GdbTimeout:
        vm.send_signal(signal.SIGCONT)      # what gdb has stopped and, killed, left so
        raise
    threads = set(re.findall(r'"(vcpu\d+)"', output))
    assert threads == {'vcpu0', 'vcpu1'}, 'threads shown: %s in %r' % (sorted(threads), output[-400:])
    vm.command('query-status')
    return took


def ask_controls(rows, story, n):
    """Everything that can be asked without ending the machine."""
    pair = story.pair
    ask_stop_and_cont(rows, pair, n)
    rows.ask('second QMP client: connect, query-status', lambda: second_client(pair.destination), max(3, n // 5),
             lambda: wait_waiting(pair))
    ask_gdb_stub(rows, story, max(5, n // 5))
    rows.ask('gdb -p: attach to the process, detach', lambda: ptrace(pair.destination),
             before=lambda: wait_waiting(pair))


def ask_page_that_was_missing(rows, story):
    """The debugger now reads what it was refused before."""
    def read():
        with gdbremote.GdbRemote('unix:' + story.pair.destination.path('gdb'), ANSWER_SECONDS) as gdb:
            gdb.ask('?')
            start = time.perf_counter()
            gdb.read(story.missing, 8)
            took = time.perf_counter() - start
            assert gdb.ask('D') == 'OK'
        story.pair.destination.wait_status('running')
        return took
    rows.ask('gdb stub: the page that was missing', read)


def present_share(vm):
    """Which part of the memory has come."""
    pages = vm.faults()['pages']
    return pages['present'] / pages['total']


def report(rows, story, n):
    """The whole story of one guest."""
    pair = cut(story)
    vm = pair.destination
    share = present_share(vm)
    rows.add('wire pulled, most of the memory missing', (), share < 0.5, 'only %.0f %% is missing' % (100 - 100 * share)
             if share >= 0.5 else None)
    say('  the wire is out: %.1f %% of the memory has come' % (100 * share))
    waits = wait_waiting(pair)
    say('  vCPUs wait: ' + ', '.join('%d for page 0x%x' % (cpu, w['gpa'] >> 12) for cpu, w in sorted(waits.items())))
    ask_controls(rows, story, n)
    pair.wait_paused()
    assert not pair.source.command('query-status')['running'], 'the guest runs at the source again'
    pair.link.up()
    say('  the wire is back')
    rows.ask('recovery: migrate-recover, migrate resume', lambda: pair.recover(bandwidth=0))
    say('  fetching the rest')
    rows.ask('the rest of the memory has come', pair.wait_completed)
    ask_page_that_was_missing(rows, story)
    counters = vm.faults()['counters']
    say('  %d guest faults, %d kicks, %d ejects so far' % (counters['faults'], counters['kicks'], counters['ejects']))
    say('  the guest verifies its memory')
    verdict = []
    rows.ask('guest verified: every page as it was left', lambda: verdict.append(story.verify()) or 'text')
    if verdict:
        say('      ' + verdict[0])
    status, running = pair.source.status(), pair.running()
    rows.add('source: postmigrate, not running', (), status == 'postmigrate' and running == ['destination'],
             'source %s, running %s' % (status, running) if status != 'postmigrate' or running != ['destination']
             else None)


def sacrifice(rows, way_out, memory, number):
    """A copy of the scene, with the bare guest where there is one, whose destination is ended by a signal while its vCPUs wait."""
    name = {signal.SIGINT: 'SIGINT: ends in order', signal.SIGKILL: 'SIGKILL: gone, nothing stuck'}[number]
    story = DebianStory(way_out, '128M', 16) if kvm.bare_reason() else BareStory(way_out, memory)
    with story.pair:
        pair = cut(story)

        def end():
            tids = [t.tid for t in pair.destination.threads()]
            code, ms = pair.destination.end(number, ANSWER_SECONDS)
            wanted = -signal.SIGKILL if number == signal.SIGKILL else 0
            assert code == wanted, 'exit code %s' % code
            left = [t for t in tids if _thread_state(t) not in (None, 'Z', 'X')]
            assert not left, 'threads left: %s' % left
            return ms / 1e3
        rows.ask(name, end, before=lambda: wait_waiting(pair))


def _thread_state(tid):
    try:
        with open('/proc/%d/stat' % tid, encoding='utf-8', errors='replace') as f:
            return f.read().rsplit(')', 1)[1].split()[0]
    except OSError:
        return None


def way_out_of(choice):
    """What `auto` finds on this host, as a machine says it."""
    if choice != 'auto':
        return choice
    with Postern.incoming('probe', memory='64M') as vm:
        return vm.faults()['way-out']


def run(where, kernel, way_out, story_of, n, small='64M'):
    """Tells the story with one way out; returns the report's rows. story_of(way_out): a guest that runs."""
    way = way_out_of(way_out)
    rows = Rows(where, kernel, way)
    say('%s, Linux %s, way out: %s%s' % (where, kernel, way, ' (found by trying)' if way_out == 'auto' else ''))
    try:
        for number in (signal.SIGINT, signal.SIGKILL):
            say('  a copy to be ended by %s' % signal.Signals(number).name)
            sacrifice(rows, way_out, small, number)
        say('  starting the guest that is to live')
        story = story_of(way_out)
        with story.pair:
            say('  %s runs and verifies its memory; migrating' % story.title)
            report(rows, story, n)
    except Exception as e:          # pylint: disable=broad-except
        rows.add('the story told to its end', (), False, _reason(e))
        print(_reason(e), file=sys.stderr)
    return rows.rows
