# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""Disks that stay as they are: what machines write to them lies in overlays of their own."""

import os
import subprocess

import pytest

from harness.disks import MIB, need, qcow2
from harness.vm import Postern, program, run_postern
from harness.waiting import seconds, wait_for


@pytest.fixture(name='saved')
def saved_fixture(tmp_path):
    """A guest with a disk, saved, and gone."""
    need('qemu-nbd', 'qemu-utils')
    disk = tmp_path / 'golden,1.img'
    disk.write_bytes(os.urandom(2 * MIB))
    saved = Saved(tmp_path, disk, ['--disk', str(disk).replace(',', ',,')])
    save(tmp_path / 'web', saved.disk_words)
    return saved


class Saved:
    """Where an image, its disk, and overlays are."""

    def __init__(self, directory, disk, disk_words):
        self.image = directory / 'web'
        self.disk = disk
        self.disk_words = disk_words
        self.overlays = directory / 'overlays'
        self.overlays.mkdir()

    def files(self):
        """The overlays that there are."""
        return sorted(os.listdir(self.overlays))

    def restored(self, name):
        """A machine on an overlay."""
        return Postern.restored(self.image, name, options=[*self.disk_words, '--overlay', str(self.overlays)])

    def refused(self, *words, code=1):
        """A restore that fails, and what it says."""
        got, text = run_postern('run', '--restore', self.image, '--name', 'x', '--serial', 'null', *words)
        assert got == code, text
        return text


def save(image, words):
    with Postern(memory='32M', cpus=1, options=words) as vm:
        vm.bare(ready=True)
        vm.command('stop')
        vm.save(image)
        vm.command('quit')
        assert vm.wait_exit(10) == 0


def backing(path):
    """The image below, by qemu-img."""
    out = subprocess.run(['qemu-img', 'info', '-U', '--output=json', str(path)], stdout=subprocess.PIPE, check=True, text=True).stdout
    return [line.split('"')[3] for line in out.splitlines() if '"full-backing-filename"' in line]


def file_of(vm):
    return vm.command('query-block')[0]['inserted']['file']


def test_each_restored_machine_has_an_overlay_and_the_disk_stays(saved):
    before, was = saved.disk.stat(), saved.disk.read_bytes()
    with saved.restored('a') as a, saved.restored('b') as b:
        for vm in (a, b):
            path = saved.overlays / (vm.name + '-disk0.qcow2')
            assert file_of(vm) == str(path) and backing(path) == [str(saved.disk)]
            vm.bare().stats()
        # Nobody may write to what lies below them.
        code, text = run_postern('run', '--serial', 'null', '--memory', '64M', '--kernel', '/dev/null', *saved.disk_words)
        assert code == 1 and 'locked' in text, text
    assert len(saved.files()) == 2
    for name in saved.files():
        subprocess.run(['qemu-img', 'check', '-q', str(saved.overlays / name)], check=True)
    now = saved.disk.stat()
    assert (now.st_mtime_ns, now.st_size) == (before.st_mtime_ns, before.st_size) and saved.disk.read_bytes() == was


def test_a_start_that_fails_leaves_no_overlay(saved):
    words = [*saved.disk_words, '--overlay', str(saved.overlays)]
    assert '--incoming' in saved.refused(*words, '--incoming', 'defer', code=2)
    assert '--disk' in saved.refused('--overlay', str(saved.overlays), code=2)
    assert 'at a server' in saved.refused('--disk', 'nbd://localhost/', *words[2:])
    assert 'No such file' in saved.refused(*saved.disk_words, '--overlay', str(saved.overlays / 'none'))
    # The second disk is one too many for the image; two files were there by then.
    other = saved.disk.parent / 'other'
    other.write_bytes(bytes(MIB))
    assert 'was not there when' in saved.refused(*words, '--disk', str(other))
    assert saved.files() == []
    time_ns = saved.disk.stat().st_mtime_ns
    os.utime(saved.disk)
    text = saved.refused(*words)
    assert str(saved.disk) in text and 'written to' in text and '--changed-disks' in text, text
    assert saved.files() == []
    os.utime(saved.disk, ns=(time_ns, time_ns))
    saved.disk.rename(saved.disk.parent / 'away')
    assert str(saved.disk) in saved.refused(*words)
    assert saved.files() == []


def test_somebody_elses_file_is_not_touched(saved):
    theirs = saved.overlays / 'x-disk0.qcow2'
    theirs.write_text('theirs')
    text = saved.refused(*saved.disk_words, '--overlay', str(saved.overlays))
    assert str(theirs) in text and 'overwritten' in text, text
    assert theirs.read_text() == 'theirs'


def test_a_machine_on_an_overlay_is_saved_and_restored(saved):
    with saved.restored('a') as vm:
        first = file_of(vm)
        wait_for(lambda: 'memory has come' in vm.log(), 20)
        vm.command('stop')
        vm.save(saved.image.parent / 'second')
        vm.command('quit')
        assert vm.wait_exit(10) == 0
    disk = '%s,format=qcow2,backing=%s' % (first, saved.disk_words[1])
    saved.image = saved.image.parent / 'second'
    saved.disk_words = ['--disk', disk]
    with saved.restored('b') as vm:
        assert backing(file_of(vm)) == [first]
    with Postern.restored(saved.image, 'c', options=saved.disk_words) as vm:
        assert file_of(vm) == first
    # An image tells when it was last written to as any other file does.
    os.utime(first)
    assert first in saved.refused('--disk', disk)


def test_a_machine_may_start_with_one(tmp_path):
    image = qcow2(tmp_path / 'golden.qcow2', 8)
    (tmp_path / 'readonly').write_bytes(bytes(MIB))
    words = ['--disk', '%s,readonly' % (tmp_path / 'readonly'), '--disk', '%s,format=qcow2,serial=s' % image, '--overlay', str(tmp_path)]
    with Postern(memory='32M', cpus=1, options=words) as vm:
        disks = [disk['inserted']['file'] for disk in vm.command('query-block')]
        assert disks == [str(tmp_path / 'readonly'), str(tmp_path / (vm.name + '-disk1.qcow2'))]
        assert backing(disks[1]) == [str(image)]


def test_postern_clone_gives_each_an_overlay(saved):
    child = subprocess.Popen([program(), 'clone', str(saved.image), '--count', '3', '--overlay', str(saved.overlays), '--', *saved.disk_words],
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                             env=dict(os.environ, POSTERN_RUNTIME_DIR=str(saved.disk.parent / 'run')))
    try:
        assert child.stdout.readline().startswith('3 machines run after ')
        assert saved.files() == ['0-disk0.qcow2', '1-disk0.qcow2', '2-disk0.qcow2']
    finally:
        child.terminate()
        assert child.wait(seconds(20)) == 0, child.stderr.read()
        child.communicate()
    # They are whoever's now who asked for them; the same names are not taken again.
    code, text = run_postern('clone', saved.image, '--count', '2', '--overlay', saved.overlays, '--', *saved.disk_words)
    assert code == 1 and '0-disk0.qcow2' in text, text
    wait_for(lambda: len(saved.files()) == 3, 5)
