# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""dump-guest-memory: an ELF core of a guest, which stands still meanwhile; also while its memory is still missing."""

import os
import re
import shutil
import struct
import subprocess

import pytest

from harness.qmp import QmpError
from harness.vm import Postern, run_postern
from harness.waiting import seconds, wait_for

MIB = 1 << 20
PAGE = 4096


def dump(vm, path, wait=True, **arguments):
    vm.command('dump-guest-memory', paging=False, protocol='file:%s' % path, **arguments)
    return wait_for(lambda: over(vm), 30) if wait else None


def over(vm):
    now = vm.command('query-dump')
    return now if now['status'] not in ('active', 'none') else None


def core(path):
    """(notes, [(address, bytes)])"""
    data = path.read_bytes()
    assert data[:4] == b'\x7fELF' and struct.unpack_from('<H', data, 16)[0] == 4
    notes, loads = 0, []
    for i in range(struct.unpack_from('<H', data, 56)[0]):
        kind, _, offset, _, paddr, size, _, _ = struct.unpack_from('<IIQQQQQQ', data, 64 + i * 56)
        if kind == 1:
            assert offset + size <= len(data)
            loads.append((paddr, data[offset:offset + size]))
        else:
            notes += data[offset:offset + size].count(b'CORE\0')
    return notes, loads


def test_a_running_guest_is_dumped_and_goes_on(tmp_path):
    with Postern(memory='64M') as vm:
        guest = vm.bare(ready=True)
        guest.fill()
        guest.walk('c')
        done = dump(vm, tmp_path / 'core', detach=True)
        assert done['status'] == 'completed' and done['completed'] == done['total'] == 64 * MIB
        assert vm.status() == 'running' and done['x-postern-missing-pages'] == 0
        touches = guest.stats()['touches']
        guest.wait_stats(lambda s: s['touches'] > touches)
        vm.command('stop')
        dump(vm, tmp_path / 'again')
        assert vm.status() == 'paused'
        vm.save(tmp_path / 'web')
    notes, loads = core(tmp_path / 'again')
    assert notes == 2 and os.stat(tmp_path / 'again').st_mode & 0o777 == 0o600
    code, out = run_postern('snapshot', 'export', tmp_path / 'web', tmp_path / 'raw', timeout=60)
    assert code == 0, out
    assert b''.join(data for _, data in loads) == (tmp_path / 'raw').read_bytes()
    for tool, words, text in (('readelf', ['-hl'], 'CORE (Core file)'), ('gdb', ['-nx', '-batch', '-ex', 'info threads', '-c'], 'rocess 2')):
        if shutil.which(tool):
            said = subprocess.run([tool, *words, tmp_path / 'again'], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                  timeout=seconds(60), check=False).stdout
            assert text in said or len(re.findall(r'^[* ] +\d ', said, re.M)) == 2, said


def test_a_part_is_dumped(tmp_path):
    with Postern(memory='64M') as vm:
        vm.bare(ready=True)
        vm.command('stop')
        assert dump(vm, tmp_path / 'core', begin=2 * MIB, length=3 * PAGE)['total'] == 3 * PAGE
        assert [(at, len(data)) for at, data in core(tmp_path / 'core')[1]] == [(2 * MIB, 3 * PAGE)]
        for wrong in ({'begin': 1, 'length': PAGE}, {'begin': 1 << 40, 'length': PAGE}, {'begin': 2 ** 64 - PAGE, 'length': 2 * PAGE}):
            with pytest.raises(QmpError):
                dump(vm, tmp_path / 'no', **wrong)
        assert not (tmp_path / 'no').exists()


def test_what_has_not_come_is_left_out(tmp_path):
    """And nobody waits for it."""
    with Postern(memory='64M') as vm:
        vm.bare(ready=True).fill()
        vm.save(tmp_path / 'web')
    with Postern.restored(tmp_path / 'web', options=['--fill', 'off']) as vm:
        vm.bare().touch(100)
        vm.command('stop')
        done = dump(vm, tmp_path / 'core')
        assert done['status'] == 'completed'
        pages = vm.faults()['pages']
        missing = pages['missing'] + pages['requested']
        assert done['x-postern-missing-pages'] == missing > 64 * MIB // PAGE // 2
        assert done['total'] == 64 * MIB - missing * PAGE
        assert 'pages that are not here' in vm.log()
    run_postern('snapshot', 'export', tmp_path / 'web', tmp_path / 'raw', timeout=60)
    raw = (tmp_path / 'raw').read_bytes()
    _, loads = core(tmp_path / 'core')
    assert sum(len(data) for _, data in loads) == done['total']
    same = sum(data[i:i + PAGE] == raw[at + i:at + i + PAGE] for at, data in loads for i in range(0, len(data), PAGE))
    assert same > done['total'] // PAGE // 2        # what the guest has written since differs


def test_the_end_is_told_and_a_quit_ends_it(tmp_path):
    with Postern(memory='1G') as vm:
        vm.bare(ready=True)
        q = vm.qmp()
        dump(vm, tmp_path / 'core', wait=False)
        event = q.wait_event('DUMP_COMPLETED', timeout=30)
        assert event['data']['result']['status'] == 'completed' and 'error' not in event['data']
        dump(vm, tmp_path / 'core', wait=False)
        vm.command('postern-dump-cancel')
        event = q.wait_event('DUMP_COMPLETED', timeout=30)
        if event['data']['result']['status'] == 'failed':
            assert 'cancelled' in event['data']['error'] and not (tmp_path / 'core').exists()
        vm.wait_status('running')
        dump(vm, tmp_path / 'core', wait=False)
        vm.command('quit')
        assert vm.wait_exit(10) == 0


def test_a_dump_and_a_save_do_not_meet(tmp_path):
    """Whoever is first has the guest to himself, and it goes on afterwards."""
    with Postern(memory='1G') as vm:
        guest = vm.bare(ready=True)
        guest.fill()
        q = vm.qmp()
        dump(vm, tmp_path / 'core', wait=False)
        with pytest.raises(QmpError, match='being dumped'):
            vm.save(tmp_path / 'web', wait=False)
        q.wait_event('DUMP_COMPLETED', timeout=60)
        vm.wait_status('running')
        vm.save(tmp_path / 'web', wait=False)
        with pytest.raises(QmpError, match='being saved'):
            dump(vm, tmp_path / 'core2')
        vm.command('postern-snapshot-cancel')
        vm.wait_status('running')
        guest.stats()


@pytest.mark.parametrize('path, text', [('/nowhere/at/all', 'No such file'), ('/dev/zero', 'no plain file')])
def test_a_file_that_cannot_be_is_refused(path, text):
    with Postern(memory='64M') as vm:
        vm.bare(ready=True)
        with pytest.raises(QmpError, match=text):
            dump(vm, path)
        assert vm.status() == 'running' and vm.command('query-dump')['status'] == 'none'


def test_a_dump_goes_into_a_descriptor_that_is_passed(tmp_path):
    with Postern(memory='64M') as vm:
        vm.bare(ready=True)
        vm.command('stop')
        with open(tmp_path / 'core', 'wb+') as file, open(tmp_path / 'core', 'ab') as appended, open('/dev/null', 'wb') as null:
            vm.q.getfd('core', file.fileno())
            vm.command('dump-guest-memory', paging=False, protocol='fd:core')
            assert wait_for(lambda: over(vm), 30)['status'] == 'completed'
            # It was taken; and what cannot be written at any place is none for it.
            for name, fd, said in (('core', None, "'core' not found"), ('app', appended, 'appending'), ('null', null, 'no plain file')):
                if fd:
                    vm.q.getfd(name, fd.fileno())
                for words in (said, "'%s' not found" % name):
                    with pytest.raises(QmpError, match=words):
                        vm.command('dump-guest-memory', paging=False, protocol='fd:' + name)
        dump(vm, tmp_path / 'again')
    assert (tmp_path / 'core').read_bytes() == (tmp_path / 'again').read_bytes()
