# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""A whole Debian starts from its own disk, its kernel taken out of it: systemd, login, work on disks, power-off, reboot; and moves,
with everything that it does, while the link is cut."""

import re
import subprocess
import threading

import pytest

from harness.debian_disk import Shell, debian_machine, options, reason
from harness.gdbremote import GdbRemote
from harness.lan import Lan
from harness.migration import Pair
from harness.net import Link
from harness.qmp import QmpError
from harness.waiting import seconds, wait_for

pytestmark = pytest.mark.skipif(reason() is not None, reason=str(reason()))

MIB = 1 << 20
FIO = ('fio --name=verify --filename=/dev/vdb --rw=randwrite --bs=4k-64k --size=16M --ioengine=libaio --iodepth=8 --direct=1 '
       '--verify=crc32c --verify_fatal=1 --do_verify=1 --end_fsync=1 --minimal')


def scratch(tmp_path, megabytes=32):
    """An empty second disk."""
    path = tmp_path / 'scratch'
    with open(path, 'wb') as f:
        f.truncate(megabytes * MIB)
    return str(path)


def wait_end(vm, timeout=60):
    """Until the process has ended, and well."""
    assert vm.wait_exit(timeout) == 0, vm.log()
    assert 'needs a reset' not in vm.log(), vm.log()


def test_it_logs_in_works_on_disks_and_powers_off(tmp_path):
    """No --kernel. fio verifies what it wrote to a second disk, SQLite finds its database sound, and the power button ends it in
    order."""
    with debian_machine(more=('--disk', scratch(tmp_path))) as vm:
        with Shell(vm) as shell:
            shell.login()
            assert re.search(r'kernel /vmlinuz, \d+ bytes, initial RAM disk /initrd.img', vm.log()), vm.log()
            assert shell.run('nproc') == '2'
            assert shell.run('findmnt -no SOURCE,FSTYPE /') == '/dev/vda ext4'
            assert shell.run('cat /proc/1/comm') == 'systemd'
            assert shell.run('systemctl --failed --no-legend') == ''
            shell.run(FIO, 60)
            shell.run("sqlite3 /root/t.db 'create table t(x); insert into t values(42);'")
            assert shell.run("sqlite3 /root/t.db 'pragma integrity_check; select x from t;'") == 'ok\n42'
            vm.command('system_powerdown')
            shell.until(r'reboot: Power down', 30)
            shell.assert_well()
            wait_end(vm)


def test_a_reboot_takes_the_kernel_anew():
    """What the guest has installed meanwhile is what starts: here, another name for the same kernel."""
    with debian_machine() as vm:
        with Shell(vm) as shell:
            shell.login()
            first = shell.run('cat /proc/sys/kernel/random/boot_id')
            shell.run('cd /boot; n=new-$(date +%s); mv vmlinuz-* vmlinuz-$n && mv initrd.img-* initrd.img-$n && '
                      'ln -sf boot/vmlinuz-$n /vmlinuz && ln -sf boot/initrd.img-$n /initrd.img; ls -l / /boot')
            shell.begin('systemctl reboot')
            event = vm.q.wait_event('RESET', timeout=60)
            assert event['data']['guest'] is True
            shell.login()
            assert shell.run('cat /proc/sys/kernel/random/boot_id') != first
            assert len(re.findall(r'kernel /vmlinuz, \d+ bytes', vm.log())) == 2, vm.log()
            assert vm.status() == 'running'
            shell.assert_well()
            shell.begin('systemctl poweroff')
            wait_end(vm)


class Ssh:
    """A session that answers each line; lines may be sent while nobody can answer."""

    def __init__(self, lan, key, address):
        words = ['ip', 'netns', 'exec', lan.name, 'ssh', '-T', '-i', key, '-o', 'StrictHostKeyChecking=no', '-o', 'BatchMode=yes',
                 '-o', 'UserKnownHostsFile=/dev/null', '-o', 'ConnectTimeout=%d' % seconds(20), '-o', 'LogLevel=ERROR',
                 'root@' + address, 'echo hello; while read x; do echo got $x; done']
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                        bufsize=1)
        self.lines = []
        self._thread = threading.Thread(target=self._read, name='ssh', daemon=True)
        self._thread.start()

    def _read(self):
        for line in self.process.stdout:
            self.lines.append(line.strip())

    def send(self, text):
        """Types a line."""
        self.process.stdin.write(text + '\n')
        self.process.stdin.flush()

    def expect(self, line, timeout=30.0):
        """Waits for a whole line."""
        def there():
            assert line in self.lines or self.process.poll() is None, 'ssh ended: %s' % self.lines[-5:]
            return line in self.lines
        wait_for(there, timeout, lambda: 'ssh: no %r in %s' % (line, self.lines[-5:]), every=0.02)

    def close(self):
        """Ends it."""
        self.process.kill()
        self.process.wait()
        self._thread.join(seconds(5))
        self.process.stdin.close()
        self.process.stdout.close()


# Each ends with the pass that is under way when /run/stop comes.
FIO_LOOP = ('fio --name=verify --filename=/dev/vdb --rw=randwrite --bs=4k-64k --size=8M --ioengine=libaio --iodepth=4 --direct=1 '
            '--verify=crc32c --verify_fatal=1 --do_verify=1 --minimal')
WORK = """rm -f /run/stop /run/*.log /root/w.db
(while [ ! -e /run/stop ]; do %s > /run/fio.out 2>&1 && echo pass >> /run/fio.log || { echo BAD; cat /run/fio.out; } >> /run/fio.log; done) &
sqlite3 /root/w.db 'create table t(x integer primary key, y blob);'
(i=0; while [ ! -e /run/stop ]; do i=$((i + 1)); echo "insert into t values($i, randomblob(3000));"; done |
	sqlite3 -cmd '.timeout 60000' /root/w.db > /run/sql.log 2>&1; echo ended >> /run/sql.log) &""" % FIO_LOOP


class DiskPair(Pair):
    """Debian from its disk, at work on two disks and a network, with an ssh session."""

    def __init__(self, lan, second, key, **more):
        self.lan, self.key = lan, key
        both = ('--disk', second, '--net', 'tap=tap0')
        append = 'ip=%s::%s:255.255.255.0::eth0:off' % (lan.guest(), lan.address)
        super().__init__(link=True, source_options=dict(kernel=None, options=options(*both, append=append)),
                         destination_options=dict(options=options(*both), gdb=True), **more)

    def new_link(self):
        link = Link()
        for side in (link.a, link.b):
            self.lan.tap(side.name)
        return link

    def greet(self, fill):
        self.guest = Shell(self.source)
        self.stack.callback(self.guest.close)
        self.guest.login()
        with open(self.key + '.pub', encoding='ascii') as f:
            self.guest.run('mkdir -p /root/.ssh; echo "%s" > /root/.ssh/authorized_keys' % f.read().strip())
        self.guest.run('until ip -4 -o addr show dev eth0 | grep -q %s; do sleep 0.2; done' % self.lan.guest(), 60)
        self.ssh = Ssh(self.lan, self.key, self.lan.guest())
        self.stack.callback(self.ssh.close)
        self.ssh.expect('hello', 60)
        self.guest.run(WORK)
        wait_for(lambda: self.count(self.guest), 60, 'no row')

    @staticmethod
    def count(shell):
        """How many rows the database has."""
        text = shell.run("sqlite3 -cmd '.timeout 20000' /root/w.db 'select count(*) from t;'", 60)
        return int(text)

    @staticmethod
    def passes(shell):
        """How often fio has found all well."""
        return int(shell.run('cat /run/fio.log 2> /dev/null | grep -c pass || :', 60))


def test_it_moves_at_work_while_the_link_is_cut(tmp_path):
    """Late memory of a whole system: a disk under fio's verification, a database being written, an ssh session. While the link is out,
    stop, cont and the debugger answer; afterwards nothing is lost, and the session goes on. One vCPU, since the emulation loses
    guests of two that work so hard in most labs (lab/README.md); test_migrate.py's have two."""
    key = str(tmp_path / 'key')
    subprocess.run(['ssh-keygen', '-q', '-t', 'ed25519', '-N', '', '-f', key], check=True, timeout=seconds(30))
    with Lan() as lan, DiskPair(lan, scratch(tmp_path), key, memory='256M', cpus=1) as pair:
        ssh = pair.ssh
        ssh.send('before')
        ssh.expect('got before')
        rows = pair.count(pair.guest)
        pair.start(bandwidth=2 << 20)
        pair.link.down()
        vm = pair.destination
        wait_for(vm.waiting_cpus, 60, 'no vCPU waits for a page')
        ssh.send('during')
        for _ in range(5):
            try:
                took, _ = vm.q.timed('stop')
            except QmpError as error:
                raise AssertionError('%s; %s' % (error, vm.faults())) from error
            assert took < 1000, took
            assert vm.status() == 'paused'
            vm.command('cont')
        with GdbRemote('unix:' + vm.path('gdb')) as gdb:
            took, reply = gdb.timed('?')
            assert reply.startswith(('T', 'S')) and took < 2000, (took, reply)
            took, reply = gdb.timed('g')
            assert len(reply) > 300 and took < 2000, (took, reply)
            gdb.ask('D')
        if vm.status() != 'running':
            vm.command('cont')
        pair.wait_paused()
        pair.link.up()
        pair.recover(bandwidth=0)
        pair.wait_completed(120)
        ssh.expect('got during', 60)
        ssh.send('after')
        ssh.expect('got after', 60)
        shell = Shell(vm)
        pair.stack.callback(shell.close)
        shell.write('\n')
        passes = pair.passes(shell)
        wait_for(lambda: pair.passes(shell) > passes + 1, 60, 'fio does not go on', every=1)
        shell.run('touch /run/stop; until grep -q ended /run/sql.log; do sleep 0.2; done; '
                  'while pgrep -x fio > /dev/null; do sleep 0.2; done', 120)
        assert shell.run('grep -c BAD /run/fio.log || :') == '0'
        assert shell.run('cat /run/sql.log') == 'ended'
        assert shell.run("sqlite3 -cmd '.timeout 20000' /root/w.db 'pragma integrity_check; select count(*) = max(x) from t;'") == 'ok\n1'
        assert pair.count(shell) > rows
        shell.assert_well()
        assert pair.source.status() == 'postmigrate'
        assert pair.running() == ['destination']
        assert 'needs a reset' not in vm.log(), vm.log()
        vm.command('system_powerdown')
        wait_end(vm)
