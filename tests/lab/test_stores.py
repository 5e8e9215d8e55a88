# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""A whole Debian at work is saved live to S3 (radosgw) and to RADOS, and restored twice from each on another host, while a daemon of the
cluster is killed and the store is cut off. The cluster is a real one beside the lab: `make test-lab-stores` (tools/lab-stores).

At work: memcheck, which verifies each page of its memory by number and generation and writes it anew; SQLite on the disk and in
memory, each row a transaction whose content follows from its number. One vCPU, as in test_debian_disk.py's move, and for its reason."""

import collections
import re
import subprocess
import time

import pytest

from harness import stores
from harness.debian import guest_file
from harness.debian_disk import Shell, debian_machine, device, options, reason
from harness.gdbremote import GdbRemote
from harness.report import percentile
from harness.vm import Postern
from harness.waiting import wait_for

REASON = stores.reason() or reason()
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))

MEMORY = '320M'
CHECKED_MIB = 24
STOPS, BREAKS = 10, 5           # of each clone, while the store is cut
AT_ONCE_MS = 1000
# A vCPU that waits for a page while the store is away looks stuck, which it is (harness/debian.py). trixie's start takes minutes here,
# longer than systemd waits for the terminal of a login: so a shell, which begins before the rest does.
APPEND = ('rcupdate.rcu_cpu_stall_timeout=200 mitigations=off systemd.debug_shell=ttyS0 '
          'systemd.mask=serial-getty@ttyS0.service')

# Row i and the counter are one transaction. The pad fills the pipe, so that whoever writes rows is ahead of SQLite by few of them.
ROW = "begin; insert into t values($i, printf('%%0%dd', $i * 7919)); update s set n = n + 1; commit;"
WRITE = """rm -f %(file)s; sqlite3 %(file)s 'create table t(x integer primary key, y text); create table s(n); insert into s values(0);'
(i=0; pad=$(printf %%4000s); while [ ! -e /run/stop ]; do i=$((i + 1)); echo "%(row)s --$pad"; %(pause)s; done |
	sqlite3 -cmd '.timeout 60000' %(file)s > %(log)s 2>&1
	echo ended >> %(log)s) &"""
DATABASES = {
    'disk': dict(file='/root/w.db', log='/run/disk.log', row=ROW % 3000, pause=':'),
    'memory': dict(file='/run/m.db', log='/run/memory.log', row=ROW % 300, pause='sleep 0.1'),
}
CHECK = """mkfifo /run/checker; exec 9<>/run/checker
/run/memcheck memcheck.mb=%d memcheck.random=1 memcheck.rate=16 < /run/checker > /run/checker.log 2>&1 &""" % CHECKED_MIB
RANDOM = "cat /proc/sys/kernel/random/uuid; head -c 16 /dev/urandom | od -An -tx1"

Moment = collections.namedtuple('Moment', 'url disk rows')


def memcheck_to(path):
    """The lab guest's memcheck, out of its initramfs, as a disk."""
    with open(guest_file('initrd'), 'rb') as file:
        name, data = '', b''
        while name != 'bin/memcheck':
            head = file.read(110)
            size, length = int(head[54:62], 16), int(head[94:102], 16)
            name = file.read(length).rstrip(b'\0').decode()
            file.read(-(110 + length) % 4)
            data = file.read(size)
            file.read(-size % 4)
    path.write_bytes(data + bytes(-len(data) % 512))


class Guest(Shell):
    """Debian at work."""

    def wait_shell(self):
        """Until there is one, of the kind that login() makes."""
        self.until(r'# $', 100)
        self.write("exec env PS1= PS2= TERM=dumb sh\n")
        self.write("stty -echo; set +m; echo QUI''ET\n")
        self.until(r'QUIET$')
        self.run('until systemctl is-active -q basic.target; do sleep 1; done', 120)

    def begin_work(self):
        """All of it, until /run/stop comes."""
        self.run('cat /dev/vdb > /run/memcheck; chmod +x /run/memcheck')
        for database in DATABASES.values():
            self.run(WRITE % database)
        self.run(CHECK)
        wait_for(lambda: self.checked()[0] >= 1 and min(self.rows().values()) > 3, 120, 'no work is done', every=1)

    def checked(self):
        """(passes, pages) of memcheck; no error."""
        found = re.findall(r'memcheck pass=(\d+) pages=(\d+) errors=(\d+)', self.run('grep -v ERROR /run/checker.log | tail -n 1', 60))
        passes, pages, errors = (int(word) for word in found[-1]) if found else (0, 0, 0)
        assert not errors, self.run('grep ERROR /run/checker.log')
        return passes, pages

    def rows(self):
        """{database: rows}"""
        return {name: int(self.sql(name, 'select max(x) from t')) for name in DATABASES}

    def sql(self, database, text):
        """What SQLite says."""
        return self.run("sqlite3 -cmd '.timeout 60000' %s \"%s\"" % (DATABASES[database]['file'], text), 120) or '0'

    def end_work(self):
        """Ends it; memory and databases are right. {'pages': verified, 'disk': rows, 'memory': rows}"""
        self.run('touch /run/stop')
        for database in DATABASES.values():
            self.run('until grep -q ended %s; do sleep 0.5; done' % database['log'], 240)
            assert self.run('cat %s' % database['log']) == 'ended'
        self.run('echo quit > /run/checker; until grep -q "^memcheck quit" /run/checker.log; do sleep 0.5; done', 120)
        quit_line = self.run('tail -n 1 /run/checker.log')
        found = re.search(r'memcheck quit pass=(\d+) pages=(\d+) errors=0$', quit_line)
        assert found, quit_line + self.run('grep ERROR /run/checker.log || :')
        result = {'passes': int(found[1]), 'pages': int(found[2])}
        for name, database in DATABASES.items():
            digits = re.search(r'%0(\d+)d', database['row'])[1]
            said = self.sql(name, "pragma integrity_check; select count(*) = max(x) and count(*) = (select n from s) from t; "
                                  "select count(*) from t where y is not printf('%%0%sd', x * 7919); select max(x) from t" % digits).split()
            assert said[:3] == ['ok', '1', '0'], said
            result[name] = int(said[3])
        self.assert_well()
        return result


@pytest.fixture(scope='module', name='hosts')
def _hosts():
    with stores.Hosts() as hosts:
        yield hosts


@pytest.fixture(scope='module', name='place')
def _place(tmp_path_factory):
    place = tmp_path_factory.mktemp('stores')
    memcheck_to(place / 'memcheck')
    return place


@pytest.fixture(scope='module', name='moments')
def _moments(hosts, place):
    """{store: Moment}. The guest's disk is an overlay, so that its content of a moment is a small file: the guest is stopped for as long
    as it takes to copy that, and goes on while its memory is being saved."""
    first = place / 'first'
    first.mkdir()
    moments = {}
    more = ('--disk', '%s,readonly' % (place / 'memcheck'), '--overlay', str(first))
    with debian_machine(memory=MEMORY, cpus=1, more=more, append=APPEND, netns=hosts.a, env=hosts.env) as vm, Guest(vm) as guest:
        guest.wait_shell()
        guest.begin_work()
        for store in ('s3', 'rados'):
            rows = guest.rows()
            vm.command('stop')
            job = vm.save(hosts.url(store, 'web'), wait=False, track=True)
            wait_for(lambda: vm.saves()['status'] != 'running' or vm.saves().get('phase') in ('copying', 'finishing'), 60, vm.log)
            disk = place / (store + '.qcow2')
            subprocess.run(['cp', '--preserve', '--sparse=always', str(first / (vm.name + '-disk0.qcow2')), str(disk)], check=True)
            assert vm.saves()['status'] == 'running'
            vm.command('cont')
            job = vm.wait_saved(job, 300)
            assert job['mode'] == 'live' and job['copied-pages'] > 0, job
            print('saved to %s: %d pages with data, %d copied before they were written, %.1f s; rows %s, then %s' % (
                store, job['data-pages'], job['copied-pages'], job['total-us'] / 1e6, rows, guest.rows()))
            moments[store] = Moment(hosts.url(store, 'web'), disk, rows)
        print('source: %s' % guest.end_work())
        vm.command('quit')
        assert vm.wait_exit(30) == 0
    return moments


def stops(vm):
    """How long `stop` takes, in ms."""
    times = []
    for _ in range(STOPS):
        wait_for(vm.waiting_cpus, 20, 'no vCPU waits for a page')
        took, _ = vm.q.timed('stop')
        assert vm.status() == 'paused'
        vm.command('cont')
        times.append(took)
    return times


def breaks(vm):
    """How long gdb's Ctrl-C and its read of the registers take, in ms."""
    interrupts, registers = [], []
    with GdbRemote('unix:' + vm.path('gdb')) as gdb:
        gdb.ask('?')
        for _ in range(BREAKS):
            gdb.send('c')
            wait_for(lambda: vm.status() == 'running' and vm.waiting_cpus(), 20, 'no vCPU waits for a page')
            start = time.perf_counter()
            gdb.interrupt()
            reply = gdb.receive()
            interrupts.append((time.perf_counter() - start) * 1e3)
            assert reply.startswith(('T', 'S')), reply
            took, reply = gdb.timed('g')
            assert len(reply) > 300, reply
            registers.append(took)
        gdb.ask('D')
    if vm.status() != 'running':
        vm.command('cont')
    return interrupts, registers


def told(what, times):
    """Prints them; none is too long."""
    print('%s: n=%d, median %.1f ms, longest %.1f ms' % (what, len(times), percentile(times, 0.5), max(times)))
    assert max(times) < AT_ONCE_MS, (what, times)


@pytest.mark.parametrize('store', ['s3', 'rados'])
def test_two_clones_live_through_a_dead_daemon_and_a_cut(hosts, place, moments, expected_way_out, store):
    moment = moments[store]
    hosts.mend()                # as another test may have left it
    words = options('--disk', '%s,readonly' % (place / 'memcheck'), append='')
    words[words.index('--disk') + 1] = '%s,format=qcow2,backing=%s' % (moment.disk, device())
    words = words[:words.index('--append')]

    def clone(name):
        return Postern.restored(moment.url, store + name, netns=hosts.b, env=hosts.env, gdb=True,
                                options=[*words, '--overlay', str(place), '--fill', 'off', '--working-set', 'off'])

    with clone('a') as a, clone('b') as b, Guest(a) as of_a, Guest(b) as of_b:
        clones = [(a, of_a), (b, of_b)]
        random = [' '.join(guest.run(RANDOM, 120).split()) for _, guest in clones]
        print('random numbers: %s' % random)
        assert len(set(random)) == 2
        for guest in (of_a, of_b):
            if guest.run('ls -d /sys/bus/acpi/drivers/vmgenid 2> /dev/null || :'):
                assert guest.run('dmesg | grep -c "due to virtual machine fork"') == '1'
            else:
                print("the guest's kernel has no driver of the VM generation ID")
        hosts.kill_osd(store)
        brought = [vm.faults()['source']['urgent-pages'] for vm, _ in clones]
        for (vm, _), before in zip(clones, brought):
            wait_for(lambda vm=vm, before=before: vm.faults()['source']['urgent-pages'] > before + 20, 120, 'no page comes', every=0.1)
        print('%d daemons up; %s pages fetched' % (hosts.up(), [vm.faults()['source']['urgent-pages'] for vm, _ in clones]))
        hosts.cut()
        told('stop', [ms for vm, _ in clones for ms in stops(vm)])
        both = [breaks(vm) for vm, _ in clones]
        told("gdb's Ctrl-C", [ms for interrupts, _ in both for ms in interrupts])
        told("gdb's registers", [ms for _, registers in both for ms in registers])
        for vm, _ in clones:
            assert vm.waiting_cpus(), 'the store was not away'
            faults = vm.faults()
            assert faults['way-out'] == expected_way_out
            assert (faults['counters']['ejects'] > 0) == (expected_way_out == 'eject'), faults
        hosts.mend()
        for vm, guest in clones:
            vm.command('postern-set-fill', fill='on')
            passes = guest.checked()[0]
            wait_for(lambda guest=guest, passes=passes: guest.checked()[0] >= passes + 2, 120, 'memory is not verified', every=3)
        for vm, guest in clones:
            result = guest.end_work()
            print('%s: %s' % (vm.name, result))
            for name, rows in moment.rows.items():
                assert result[name] > rows, (result, rows)
            assert 'needs a reset' not in vm.log() and not vm.faults()['pages']['lost'], vm.log()
        assert hosts.up() < hosts.given['daemons']
