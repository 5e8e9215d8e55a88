# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""Disks as a machine has them: whose they are, and what happens when one is away. The guest does not use them: tests/lab has that."""

import os
import signal
import subprocess

import pytest

from harness.disks import MIB, Nbdkit, need, qcow2
from harness.migration import Pair
from harness.qmp import QmpError
from harness.vm import Postern, bare_elf, run_postern
from harness.waiting import wait_for

QUICK_MS = 1000


def raw(tmp_path, megabytes=2, name='disk'):
    path = tmp_path / name
    path.write_bytes(bytes(megabytes * MIB))
    return str(path)


def block(vm, i=0):
    return vm.command('query-block')[i]


def refused(*words):
    """postern run fails; returns what it says."""
    code, text = run_postern('run', '--serial', 'null', '--incoming', 'defer', *words)
    assert code == 1, text
    return text


def test_query_block_has_the_shape_that_clients_know(tmp_path):
    disk = raw(tmp_path)
    with Postern(memory='64M', options=['--disk', disk, '--disk', raw(tmp_path, 1, 'b') + ',readonly']) as vm:
        first, second = vm.command('query-block')
        assert first['device'] == 'disk0' and first['io-status'] == 'ok' and not first['removable']
        assert first['inserted']['file'] == disk and not first['inserted']['ro'] and first['inserted']['drv'] == 'raw'
        assert first['inserted']['image']['virtual-size'] == 2 * MIB
        assert second['inserted']['ro'] and second['x-postern'] == {'driver': 'file', 'away': False, 'requests': 0}


def test_programs_that_it_starts_get_nothing_that_was_handed_to_it(tmp_path):
    """qemu-nbd reads what a guest has written: the machine's network is not for it."""
    end, other = os.pipe()
    try:
        with Postern(memory='64M', options=['--disk', '%s,format=qcow2' % qcow2(tmp_path / 'disk', 1)], pass_fds=[other]) as vm:
            tied = os.stat('/proc/self/fd/%d' % other)
            assert os.path.samestat(os.stat('/proc/%d/fd/%d' % (vm.pid, other)), tied)
            with open('/proc/%d/task/%d/children' % (vm.pid, vm.pid), encoding='ascii') as f:
                children = f.read().split()
            assert children
            for child in children:
                for fd in os.listdir('/proc/%s/fd' % child):
                    assert not os.path.samestat(os.stat('/proc/%s/fd/%s' % (child, fd)), tied), (child, fd)
    finally:
        os.close(end)
        os.close(other)


def children(pid):
    """Process numbers."""
    with open('/proc/%d/task/%d/children' % (pid, pid), encoding='ascii') as file:
        return [int(word) for word in file.read().split()]


def test_a_qcow2_image_names_no_file_of_the_hosts(tmp_path):
    """Its header may be anybody's; what it names is opened only if the user names it, too."""
    need('qemu-nbd', 'qemu-utils')
    below = raw(tmp_path, 1, 'below')
    for name in (below, '/etc/passwd', 'nbd://127.0.0.1/x'):
        subprocess.run(['qemu-img', 'create', '-q', '-u', '-f', 'qcow2', '-F', 'raw', '-b', name, str(tmp_path / 'a'), '1M'], check=True)
        code, text = run_postern('run', '--serial', 'null', '--memory', '64M', '--kernel', bare_elf(), '--disk',
                                 '%s,format=qcow2' % (tmp_path / 'a'), timeout=10)
        assert code == 1 and 'its header names "%s"' % name in text and 'backing=FILE' in text, text
    subprocess.run(['qemu-img', 'rebase', '-u', '-f', 'qcow2', '-F', 'raw', '-b', below, str(tmp_path / 'a')], check=True)
    with Postern(memory='64M', options=['--disk', '%s,format=qcow2,backing=%s' % (tmp_path / 'a', below)]) as vm:
        assert block(vm)['inserted']['image']['virtual-size'] == MIB


def test_a_raw_disk_is_never_said_to_be_an_image(tmp_path):
    """Its guest has written those bytes, and would like to see /etc/shadow."""
    disk = tmp_path / 'disk'
    disk.write_bytes(b'QFI\xfb' + bytes(MIB - 4))
    text = refused('--disk', str(disk))
    assert 'format=raw' in text and 'format=qcow2' not in text, text


def test_qemu_nbd_has_few_rights(tmp_path):
    """Nobody, whose root directory, where root has started it, has nothing in it but what it needs."""
    with Postern(memory='64M', env=dict(os.environ, SECRET_TOKEN='x'),
                 options=['--disk', '%s,format=qcow2' % qcow2(tmp_path / 'disk', 1)]) as vm:
        child, = children(vm.pid)
        with open('/proc/%d/status' % child, encoding='ascii') as file:
            status = dict(line.split(':', 1) for line in file.read().splitlines())
        assert status['Name'].strip() == 'qemu-nbd' and status['NoNewPrivs'].split() == ['1'] and '0' not in status['Uid'].split(), status
        # Past the modes of the image, which is root's: in a place that has no other file.
        assert int(status['CapEff'], 16) == (2 if not os.geteuid() else 0)
        with open('/proc/%d/environ' % child, encoding='ascii') as file:
            assert 'SECRET_TOKEN' not in file.read()
        if not os.geteuid():
            assert 'home' not in os.listdir('/proc/%d/root' % child)
            assert os.listdir('/proc/%d/root/proc/self/fd' % child) == ['4']


def test_two_machines_do_not_write_one_disk(tmp_path):
    disk = raw(tmp_path)
    with Postern(memory='64M', options=['--disk', disk]) as vm:
        for words in ([], [',readonly']):
            code, text = run_postern('run', '--serial', 'null', '--memory', '64M', '--kernel', '/dev/null', '--disk',
                                     disk + ''.join(words))
            assert code == 1 and 'process %d ' % vm.pid in text and disk in text, text
    with Postern(memory='64M', options=['--disk', disk + ',readonly']), \
            Postern(memory='64M', options=['--disk', disk + ',readonly']):
        pass


def test_a_disk_goes_with_its_guest(tmp_path):
    """The destination has it from the moment at which it may run; the source until then, also when the migration fails."""
    disk, smaller = raw(tmp_path), raw(tmp_path, 1, 'smaller')
    with Pair(memory='64M', options=['--disk', disk], destination_options={'options': ['--disk', smaller]}) as pair:
        pair.begin()
        info = pair.source.wait_migration('failed')
        assert 'disk %s has %d bytes, the source\'s %d' % (smaller, MIB, 2 * MIB) in info['error-desc'], info
        assert pair.source.status() == 'running'
        assert 'process %d ' % pair.source.pid in holder(disk)
        assert pair.destination.end()[0] == 0
        pair.new_destination(memory='64M', options=['--disk', disk])
        pair.set_link_timeout()
        assert 'process %d ' % pair.source.pid in holder(disk)
        pair.start()
        pair.wait_completed()
        assert pair.running() == ['destination']
        assert 'process %d ' % pair.destination.pid in holder(disk)


def holder(disk):
    """Who has it locked, as another machine's error names it."""
    code, text = run_postern('run', '--serial', 'null', '--memory', '64M', '--kernel', '/dev/null', '--disk', disk)
    assert code == 1, text
    return text


def test_a_qcow2_image_goes_with_its_guest(tmp_path):
    """It is opened by a qemu-nbd on either side, never by both at once."""
    image = '%s,format=qcow2' % qcow2(tmp_path / 'a.qcow2', 8)
    with Pair(memory='64M', options=['--disk', image]) as pair:
        assert block(pair.source)['inserted']['image'] == {
            'filename': str(tmp_path / 'a.qcow2'), 'format': 'qcow2', 'virtual-size': 8 * MIB, 'dirty-flag': False}
        pair.start()
        pair.wait_completed()
        wait_for(lambda: not block(pair.destination)['x-postern']['away'], 20)
        assert 'Failed to get' in holder(image)


def test_a_disk_that_is_away_holds_nobody_up(tmp_path):
    with Nbdkit(tmp_path) as server, Pair(memory='64M', options=['--disk', server.uri]) as pair:
        vm = pair.source
        assert block(vm)['x-postern']['driver'] == 'nbd' and block(vm)['io-status'] == 'ok'
        server.kill()
        assert vm.q.wait_event('POSTERN_DISK_AWAY')['data']['device'] == 'disk0'
        assert block(vm)['io-status'] == 'failed' and block(vm)['x-postern']['reason']
        for name in ('stop', 'cont', 'system_reset'):
            took, _ = vm.q.timed(name)
            assert took < QUICK_MS, (name, took)
        vm.q.wait_event('RESET')
        # The guest cannot go: what it wrote may not have been kept. It runs on here.
        pair.begin()
        info = vm.wait_migration('failed')
        assert 'is away' in info['error-desc'], info
        assert vm.status() == 'running'
        server.start()
        vm.q.wait_event('POSTERN_DISK_BACK')
        assert block(vm)['io-status'] == 'ok'
        server.kill()
        vm.q.wait_event('POSTERN_DISK_AWAY')
        code, took = vm.end(signal.SIGTERM)
        assert code == 0 and took < QUICK_MS, (code, took)


def test_what_cannot_be_opened_says_why(tmp_path):
    disk = raw(tmp_path, 1, 'x.qcow2')
    assert 'No such file' in refused('--disk', str(tmp_path / 'none'))
    assert 'no qcow2 image' in refused('--disk', disk + ',format=qcow2')
    assert 'nbd+unix:///?socket=%s/none' % tmp_path in refused('--disk', 'nbd+unix:///?socket=%s/none' % tmp_path)
    code, text = run_postern('run', '--incoming', 'defer', '--disk', disk)
    assert code == 2 and 'format=qcow2' in text, text


@pytest.mark.parametrize('text', ['nbds://h', 'nbd://h:0', 'x,format=vmdk', 'x,reconnect=1'])
def test_what_is_wrong_ends_with_2(text):
    code, said = run_postern('run', '--incoming', 'defer', '--disk', text)
    assert code == 2 and '--disk' in said, said


def test_a_destination_that_cannot_have_its_disk_waits_for_it(tmp_path):
    """Another machine has it: the guest arrives, and stays paused until that one has gone."""
    mine, taken = raw(tmp_path), raw(tmp_path, name='taken')
    with Postern(memory='64M', options=['--disk', taken]) as other, \
            Pair(memory='64M', source_options={'options': ['--disk', mine]},
                 destination_options={'options': ['--disk', taken]}) as pair:
        pair.begin()
        pair.destination.wait_status('paused')
        with pytest.raises(QmpError, match='process %d ' % other.pid):
            pair.destination.command('cont')
        assert pair.source.status() == 'postmigrate'
        assert other.end()[0] == 0
        pair.destination.command('cont')
        pair.wait_completed()
        assert pair.running() == ['destination']
