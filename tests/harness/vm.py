# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""postern processes, as tests, demo and benchmarks run them, and (for comparison) QEMU.

    with Postern(memory='256M', cpus=2) as vm:
        guest = vm.bare(); guest.wait_ready()
        vm.qmp().command('stop')

Everything a process opens lies in a temporary directory of its own, vm.dir. A context manager's end kills what is left,
whatever happened, and removes it.
"""

import atexit
import collections
import contextlib
import functools
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from harness.qmp import Qmp, QmpClosed, QmpError, QmpTimeout, connect
from harness.waiting import WaitTimeout, seconds, wait_for

TESTS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
ROOT = os.path.dirname(TESTS)
sys.path.insert(0, os.path.join(TESTS, 'bare'))

import bare as bare_guest  # noqa: E402

Thread = collections.namedtuple('Thread', 'tid name state wchan')

_numbers = itertools.count()


def build_dir():
    """$POSTERN_BUILD, or build/ of the tree."""
    return os.path.abspath(os.environ.get('POSTERN_BUILD') or os.path.join(ROOT, 'build'))


def program():
    """The postern executable."""
    return os.path.join(build_dir(), 'cli', 'postern')


def bare_elf():
    """The bare guest's image."""
    return os.environ.get('BARE_ELF') or os.path.join(build_dir(), 'tests', 'bare', 'bare.elf')


def sanitized():
    """Was it built with AddressSanitizer? Then its memory's size says nothing."""
    with open(program(), 'rb') as f:
        return b'__asan_init' in f.read()


class Died(AssertionError):
    """The process ended when it should not have; the text holds what it said."""


def _read(path):
    with open(path, encoding='utf-8', errors='replace') as f:
        return f.read()


class Process:
    """A child with its own directory, its standard error in a file, and a look at it through /proc."""

    def __init__(self, name, netns=None):
        self.name = '%s%d' % (name, next(_numbers))
        self.netns = netns
        self.dir = tempfile.mkdtemp(prefix='postern-%s-' % self.name)
        self.process = None
        self._clients = []

    def path(self, name):
        """A path in this process's directory."""
        return os.path.join(self.dir, name)

    def spawn(self, words, pass_fds=(), env=None):
        """Starts the program; output goes to vm.log()."""
        prefix = ['ip', 'netns', 'exec', self.netns] if self.netns else []
        self.words = words
        with open(self.path('log'), 'wb') as log:
            self.process = subprocess.Popen(prefix + words, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            pass_fds=pass_fds, env=env, process_group=0)

    def __enter__(self):
        return self

    def __exit__(self, kind, *rest):
        """Ends it in good order, whatever state it is in: that has to work always. After a failure: shows its log."""
        try:
            if kind:
                print('---- log of %s (%s)\n%s----' % (self.name, ' '.join(self.words), self.log()[-4000:]),
                      file=sys.stderr)
            elif self.is_alive():
                code, _ = self.end(signal.SIGTERM)
                if code:
                    raise Died('%s ended with %s; it said: %s' % (self.name, code, self.log()[-4000:]))
            said = self.log()
            if 'Sanitizer' in said or 'runtime error:' in said or 'direct access:' in said:
                raise Died('%s: %s' % (self.name, said[-8000:]))
        finally:
            self.close()

    @property
    def pid(self):
        """Its process number."""
        return self.process.pid

    def log(self):
        """What it has said on standard output and standard error so far."""
        return _read(self.path('log'))

    # ending

    def close(self):
        """Ends clients, process and directory. May be called again."""
        for client in self._clients:
            client.close()
        self._clients = []
        if self.process and self.process.poll() is None:
            self.process.kill()
            try:
                self.process.wait(seconds(20))
            except subprocess.TimeoutExpired:
                print('%s does not die: %s' % (self.name, self.threads()), file=sys.stderr)
                raise
        shutil.rmtree(self.dir, ignore_errors=True)

    def send_signal(self, number):
        """Sends it a signal."""
        self.process.send_signal(number)

    def wait_exit(self, timeout=10.0):
        """Waits for the end; returns the exit code (negative: the signal)."""
        try:
            return self.process.wait(seconds(timeout))
        except subprocess.TimeoutExpired:
            raise WaitTimeout('%s has not ended in %.1f s: %s' % (self.name, seconds(timeout), self.threads())) from None

    def end(self, number=signal.SIGTERM, timeout=10.0):
        """Sends a signal and waits; returns (exit code, milliseconds)."""
        start = time.perf_counter()
        self.send_signal(number)
        code = self.wait_exit(timeout)
        return code, (time.perf_counter() - start) * 1e3

    def kill(self, timeout=10.0):
        """SIGKILL; returns milliseconds until it is gone."""
        return self.end(signal.SIGKILL, timeout)[1]

    # looking

    def is_alive(self):
        """Is it still there?"""
        return self.process.poll() is None

    def assert_alive(self):
        """Died with its last words if it is not."""
        if not self.is_alive():
            raise Died('%s ended with %s; it said: %s' % (self.name, self.process.returncode, self.log()[-2000:]))

    def threads(self):
        """[Thread]; state is the letter of /proc ('D': uninterruptible)."""
        out = []
        base = '/proc/%d/task' % self.pid
        try:
            tids = sorted(os.listdir(base), key=int)
        except OSError:
            return out
        for tid in tids:
            try:
                fields = _read('%s/%s/stat' % (base, tid))
                name = fields[fields.index('(') + 1:fields.rindex(')')]
                state = fields[fields.rindex(')') + 2]
                wchan = _read('%s/%s/wchan' % (base, tid))
            except OSError:
                continue
            out.append(Thread(int(tid), name, state, wchan))
        return out

    def stuck_threads(self, timeout=2.0):
        """Threads in uninterruptible sleep during all of that time: a healthy process has none. Returns at once when
        none is."""
        stuck = {t.tid: t for t in self.threads() if t.state == 'D'}
        end = time.monotonic() + seconds(timeout)
        while stuck and time.monotonic() < end:
            time.sleep(0.02)
            now = {t.tid: t for t in self.threads() if t.state == 'D'}
            stuck = {tid: t for tid, t in stuck.items() if tid in now}
        return list(stuck.values())

    def fds(self):
        """How many descriptors are open."""
        return len(os.listdir('/proc/%d/fd' % self.pid))

    def rss(self):
        """Resident bytes."""
        return int(_read('/proc/%d/statm' % self.pid).split()[1]) * os.sysconf('SC_PAGE_SIZE')

    def resources(self):
        """{'fds', 'threads', 'rss'}"""
        return {'fds': self.fds(), 'threads': len(self.threads()), 'rss': self.rss()}

    def stacks(self):
        """Each thread's name, state and place in the kernel, as text for what has failed."""
        lines = []
        for t in self.threads():
            with contextlib.suppress(OSError):      # it may have ended; the stack is root's to read
                stack = re.findall(r'\] (\S+)\+0x', _read('/proc/%d/task/%d/stack' % (self.pid, t.tid)))
                lines.append('%d %s %s: %s' % (t.tid, t.name, t.state, ' < '.join(stack)))
        return '\n'.join(lines)

    def cpu_seconds(self):
        """User and system time so far."""
        fields = _read('/proc/%d/stat' % self.pid).rsplit(')', 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')


class Machine(Process):
    """A VMM with a QMP socket and a serial socket in vm.dir."""

    def qmp(self, timeout=10.0, **more):
        """A new QMP client; closed with the machine."""
        try:
            client = Qmp('unix:' + self.path('qmp'), timeout, alive=self.assert_alive, **more)
        except QmpClosed:
            with contextlib.suppress(WaitTimeout):      # on its way out: say why
                self.wait_exit(2)
            self.assert_alive()
            raise
        self._clients.append(client)
        return client

    @property
    def q(self):
        """The QMP client that tests share; keeps all events from its first use on."""
        if self._q is None:
            self._q = self.qmp()
        return self._q

    _q = None
    _bare = None

    def command(self, command_name, command_timeout=None, **arguments):
        """A command of the shared client."""
        return self.q.command(command_name, command_timeout, **arguments)

    def status(self):
        """query-status's status."""
        return self.command('query-status')['status']

    def wait_status(self, *wanted, timeout=10.0):
        """Until query-status says one of these."""
        return wait_for(lambda: self.status() in wanted, timeout,
                        lambda: '%s is %s, not %s' % (self.name, self.status(), wanted))

    def migration(self):
        """query-migrate"""
        return self.command('query-migrate')

    def migration_status(self):
        """query-migrate's status; 'none' when there is none."""
        return self.migration().get('status', 'none')

    def wait_migration(self, *wanted, timeout=30.0, but=('failed', 'cancelled')):
        """Until the migration's status is one of these; fails at once when it is one of `but` that is not wanted.
        Returns query-migrate."""
        def reached():
            now = self.migration()
            status = now.get('status', 'none')
            if status in but and status not in wanted:
                raise AssertionError('%s: migration is %s: %s' % (self.name, status, now.get('error-desc')))
            return now if status in wanted else None
        return wait_for(reached, timeout,
                        lambda: '%s: migration is %s, not %s' % (self.name, self.migration(), wanted))

    def serial(self, timeout=10.0):
        """The serial port's socket, newly connected: one client at a time."""
        return connect('unix:' + self.path('serial'), timeout, self.assert_alive)

    def bare(self, ready=False):
        """The bare guest's other side (tests/bare/bare.py), connected once; ready: wait until it answers."""
        if self._bare is None:
            self._bare = bare_guest.Bare(self.serial())
            self._clients.append(self._bare)
        if ready:
            self._bare.wait_ready(seconds(20))
        return self._bare


@functools.cache
def secret_file():
    """A file with a secret that nobody else has; gone when this process ends."""
    fd, path = tempfile.mkstemp(prefix='postern-secret-')
    os.write(fd, os.urandom(32))
    os.close(fd)
    atexit.register(os.unlink, path)
    return path


@functools.cache
def knows_secrets(executable):
    """Does this build take --secret-file? Measurements run older ones beside it."""
    return b'--secret-file' in subprocess.run([executable, 'run', '--help'], stdout=subprocess.PIPE, check=True).stdout


class Postern(Machine):
    """`postern run`.

    memory: as --memory takes it; kernel: None for none (an incoming machine needs none); incoming: a URI or 'defer';
    restore: an image, which says what memory, cpus and kernel are unless they are given;
    secret: migrations' secret, True for one that all machines of this process have, a path, or None; insecure: migrations over TCP need none;
    way_out: 'auto', 'kernel', 'eject'; gdb: True for a unix socket at vm.path('gdb'), or a specification; netns: the
    network namespace to run in; options: more words; wait: until QMP answers. Where named machines are is a directory of
    its own, unless env says POSTERN_RUNTIME_DIR.
    """

    def __init__(self, name='vm', memory='256M', cpus=2, kernel='bare', incoming=None, restore=None, secret=True, insecure=False,
                 way_out=None, gdb=None, page_timeout_ms=None, netns=None, serial=True, log_level='info', options=(), pass_fds=(), env=None,
                 wait=True):
        super().__init__(name, netns)
        words = [program(), 'run', '--name', self.name, '--qmp', 'unix:' + self.path('qmp')]
        words += ['--restore', restore] if restore else []
        words += ['--memory', str(memory)] if memory else []
        words += ['--cpus', str(cpus)] if cpus else []
        words += ['--serial', 'unix:' + self.path('serial') if serial is True else serial or 'null']
        words += ['--log-level', log_level]
        if kernel:
            words += ['--kernel', bare_elf() if kernel == 'bare' else kernel]
        if incoming:
            words += ['--incoming', incoming]
        if insecure and knows_secrets(program()):
            words += ['--insecure']
        elif secret and not insecure and knows_secrets(program()):
            words += ['--secret-file', secret_file() if secret is True else secret]
        if way_out:
            words += ['--way-out', way_out]
        if gdb:
            words += ['--gdb', 'unix:' + self.path('gdb') if gdb is True else gdb]
        if page_timeout_ms is not None:
            words += ['--gdb-page-timeout', str(page_timeout_ms)]
        env = dict(os.environ if env is None else env)
        self.runtime_dir = env.setdefault('POSTERN_RUNTIME_DIR', self.path('run'))
        try:
            self.spawn(words + list(options), pass_fds, env)
            if wait:
                self.q.command('query-status')
        except BaseException:
            print(self.log()[-2000:] if os.path.exists(self.path('log')) else 'not started', file=sys.stderr)
            self.close()
            raise

    @staticmethod
    def incoming(name='dst', uri='defer', **more):
        """A machine that waits for a migration."""
        return Postern(name, kernel=more.pop('kernel', None), incoming=uri, **more)

    @staticmethod
    def restored(image, name='restored', **more):
        """A machine out of an image, all of whose shape the image says."""
        given = dict(memory=None, cpus=None, kernel=None)
        given.update(more)
        return Postern(name, restore=str(image), **given)

    def save(self, image, wait=True, timeout=60.0, **arguments):
        """Saves it; returns the job's last answer, or its id where it is not waited for."""
        job = wait_for(lambda: self._save_begin(str(image), arguments), timeout)
        return self.wait_saved(job, timeout) if wait else job

    def _save_begin(self, image, arguments):
        """The job's id; None if what a restored guest reboots with has not come yet, as in its first moments."""
        try:
            return self.command('postern-snapshot-save', to=image, **arguments)['id']
        except QmpError as error:
            if 'try again once it has come' in str(error) and 'until now' not in str(error):
                return None
            raise

    def saves(self):
        """query-postern-snapshots' last job, or None."""
        jobs = self.command('query-postern-snapshots')
        return jobs[0] if jobs else None

    def wait_saved(self, job, timeout=60.0, status='completed'):
        """Until the job is over; fails unless it ended so."""
        def over():
            now = self.saves()
            assert now['id'] == job
            return now if now['status'] != 'running' else None
        last = wait_for(over, timeout, lambda: '%s: %s' % (self.name, self.saves()), every=0.02)
        assert last['status'] == status, last
        return last

    def faults(self):
        """query-postern-faults"""
        return self.command('query-postern-faults')

    def waiting_cpus(self):
        """{vCPU: its entry of query-postern-faults} of those that wait for a page now."""
        return {w['cpu-index']: w for w in self.faults()['vcpus']}


class Qemu(Machine):
    """QEMU with the bare guest (one vCPU, multiboot) or options of the caller's: for comparisons. binary: a program, or the words that
    begin its command line."""

    @staticmethod
    def machine_words(memory_mib, board='microvm,acpi=off', cpu='Nehalem'):
        """What is the same in all of them that may take over from one another."""
        return ['-M', board, '-accel', 'kvm', '-cpu', cpu, '-m', str(memory_mib), '-nodefaults', '-display', 'none']

    def __init__(self, name='qemu', memory_mib=256, incoming=None, gdb=None, netns=None, options=(),
                 kernel='bare', binary='qemu-system-x86_64', board='microvm,acpi=off', cpu='Nehalem'):
        super().__init__(name, netns)
        words = [*([binary] if isinstance(binary, str) else binary), *self.machine_words(memory_mib, board, cpu), '-name', self.name,
                 '-chardev', 'socket,id=serial,path=%s,server=on,wait=off' % self.path('serial'),
                 '-serial', 'chardev:serial', '-qmp', 'unix:%s,server=on,wait=off' % self.path('qmp')]
        if kernel:
            words += ['-kernel', bare_elf() if kernel == 'bare' else kernel]
        if incoming:
            words += ['-incoming', incoming]
        if gdb:
            words += ['-gdb', 'unix:%s,server=on,wait=off' % self.path('gdb') if gdb is True else gdb]
        try:
            self.spawn(words + list(options))
            self.q.command('query-status')
        except BaseException:
            print(self.log()[-2000:] if os.path.exists(self.path('log')) else 'not started', file=sys.stderr)
            self.close()
            raise


def run_postern(*words, timeout=20.0, env=None, cwd=None):
    """Runs the executable to its end; returns (exit code, output)."""
    done = subprocess.run([program()] + [str(w) for w in words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, timeout=seconds(timeout), env=env, cwd=cwd)
    return done.returncode, done.stdout.decode('utf-8', 'replace')


__all__ = ['Died', 'Machine', 'Postern', 'Process', 'Qemu', 'QmpClosed', 'QmpTimeout', 'Thread', 'bare_elf',
           'bare_guest', 'build_dir', 'program', 'run_postern', 'sanitized', 'secret_file']
