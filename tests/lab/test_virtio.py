# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""A stock Debian kernel finds the PCI bus and drives virtio devices over it: a disk that is written and read back, entropy."""

import hashlib
import os
import re

from harness.debian import BOOT_SECONDS, Console, debian, guest_file, words
from harness.disks import Nbdkit, qcow2, qcow2_raw
from harness.migration import Pair
from harness.qmp import QmpError
from harness.waiting import wait_for

MIB = 1 << 20


def image(tmp_path, megabytes=16, name='disk'):
    """A raw disk with random content; returns (path, content)."""
    path, content = tmp_path / name, os.urandom(megabytes * MIB)
    path.write_bytes(content)
    return path, content


def run_in(script, *options, cpus=2):
    """Boots, runs the script in the guest, returns its output without the echo of the boot; the exit code must be 0."""
    with debian(cpus=cpus, parameters='guest.run="%s"' % script, options=options) as vm:
        with Console(vm) as console:
            console.wait_ready()
            assert console.expect(r'GUEST-RUN exit=(\d+)', BOOT_SECONDS)[1] == '0', console.text()[-2000:]
            console.assert_well()
            text = console.text()
        assert vm.wait_exit(30) == 0, vm.log()
        assert 'needs a reset' not in vm.log(), vm.log()
    return text


def test_the_bus_and_its_devices_are_found(tmp_path):
    disk, _ = image(tmp_path, 1)
    text = run_in('cd /sys/bus/pci/devices; for d in *; do echo $d $(cat $d/vendor $d/device); done; cat /proc/interrupts; '
                  'grep MMCONFIG /proc/iomem', '--rng', '--disk', str(disk))
    assert re.search(r'^0000:00:00\.0 0x1b36 0x0008$', text, re.M), text
    assert re.search(r'^0000:00:01\.0 0x1af4 0x1044$', text, re.M), text
    assert re.search(r'^0000:00:02\.0 0x1af4 0x1042$', text, re.M), text
    assert re.search(r'PCI-MSI.*virtio1-req', text), text
    assert re.search(r'e0000000-e00fffff : PCI MMCONFIG', text), text


def test_a_disk_is_read_and_written(tmp_path):
    """What the guest reads is what the file holds; what it writes is there afterwards; a flush, and a discard."""
    disk, content = image(tmp_path)
    text = run_in('cat /sys/block/vda/size /sys/block/vda/serial; echo; md5sum < /dev/vda; '
                  'dd if=/dev/urandom of=/tmp/x bs=1M count=4 2>/dev/null; md5sum < /tmp/x; '
                  'dd if=/tmp/x of=/dev/vda bs=64k seek=16 conv=fsync 2>/dev/null; '
                  'dd if=/dev/vda bs=512 skip=3 count=5 2>/dev/null | md5sum; '
                  'blkdiscard -o 8388608 -l 1048576 /dev/vda || echo no discard', '--disk', '%s,serial=postern-1' % disk)
    sums = re.findall(r'^([0-9a-f]{32})  -$', text, re.M)
    assert re.search(r'^32768\npostern-1$', text, re.M), text
    assert sums[0] == hashlib.md5(content).hexdigest()
    after = disk.read_bytes()
    assert len(after) == len(content)
    assert hashlib.md5(after[MIB:5 * MIB]).hexdigest() == sums[1]
    assert hashlib.md5(content[3 * 512:8 * 512]).hexdigest() == sums[2]
    assert after[:MIB] == content[:MIB] and after[5 * MIB:8 * MIB] == content[5 * MIB:8 * MIB]
    if 'no discard' not in text:
        assert after[8 * MIB:9 * MIB] == bytes(MIB)


def test_a_readonly_disk_is_one(tmp_path):
    disk, content = image(tmp_path, 1)
    text = run_in('cat /sys/block/vda/ro; dd if=/dev/zero of=/dev/vda bs=4k count=1 || echo refused; md5sum < /dev/vda',
                  '--disk', '%s,readonly' % disk)
    assert re.search(r'^1$', text, re.M) and 'refused' in text, text
    assert hashlib.md5(content).hexdigest() in text
    assert disk.read_bytes() == content


def test_a_qcow2_image_keeps_what_is_written(tmp_path):
    """Written in one machine, read in the next one; and the image is whole."""
    content = os.urandom(MIB)
    disk = '%s,format=qcow2' % qcow2(tmp_path / 'disk.qcow2', 64, content)
    text = run_in('md5sum < /dev/vda; dd if=/dev/urandom of=/tmp/x bs=1M count=3 2>/dev/null; md5sum < /tmp/x; '
                  'dd if=/tmp/x of=/dev/vda bs=64k seek=80 conv=fsync 2>/dev/null; dd if=/dev/vda bs=1M count=1 2>/dev/null | md5sum; '
                  'blkdiscard -o 33554432 -l 1048576 /dev/vda || echo no discard', '--disk', disk)
    sums = re.findall(r'^([0-9a-f]{32})  -$', text, re.M)
    assert sums[0] == hashlib.md5(content + bytes(63 * MIB)).hexdigest()
    assert sums[2] == hashlib.md5(content).hexdigest()
    text = run_in('dd if=/dev/vda bs=64k skip=80 count=48 2>/dev/null | md5sum', '--disk', disk)
    assert sums[1] in text, text
    after = qcow2_raw(tmp_path / 'disk.qcow2')
    assert after[:MIB] == content and hashlib.md5(after[5 * MIB:8 * MIB]).hexdigest() == sums[1]


def test_entropy_comes():
    text = run_in('cat /sys/class/misc/hw_random/rng_current; dd if=/dev/hwrng bs=512 count=4 2>/dev/null | wc -c', '--rng')
    assert re.search(r'^virtio_rng\.0\n2048$', text, re.M), text


# Writes a block of the disk, drops what the guest has cached, reads it back; says so, for ever.
ROUNDS = ('i=0; while :; do dd if=/dev/urandom of=/tmp/x bs=256k count=1 2>/dev/null; '
          'dd if=/tmp/x of=/dev/vda bs=256k seek=$((i % 32)) conv=fsync 2>/dev/null || echo round $i FAILED; '
          'echo 3 > /proc/sys/vm/drop_caches; '
          'dd if=/dev/vda bs=256k skip=$((i % 32)) count=1 2>/dev/null | cmp - /tmp/x && echo round $i well || echo round $i BAD; '
          'i=$((i + 1)); done')


def test_a_disk_is_away_and_a_disk_is_slow(tmp_path):
    """Its server dies: requests are kept, everything answers, and the guest notices nothing but that it took a while. Its server is
    stuck: a reset waits for what it may still write, and nothing else does."""
    with Nbdkit(tmp_path) as server, debian(parameters='guest.run="%s"' % ROUNDS, options=['--disk', server.uri]) as vm, \
            Console(vm) as console:
        console.wait_ready()
        console.expect(r'^round 2 well', 60)
        server.kill()
        vm.q.wait_event('POSTERN_DISK_AWAY', timeout=30)
        wait_for(lambda: vm.command('query-block')[0]['x-postern']['requests'], 30)
        for name in ('stop', 'cont'):
            took, _ = vm.q.timed(name)
            assert took < 1000, (name, took)
        server.start()
        vm.q.wait_event('POSTERN_DISK_BACK', timeout=30)
        for _ in range(3):
            console.expect(r'^round \d+ well', 60)
        console.assert_well()
        assert not re.search('BAD|FAILED|I/O error', console.text()), console.text()[-2000:]
        server.freeze()
        wait_for(lambda: vm.command('query-block')[0]['x-postern']['requests'], 30)
        for name in ('system_reset', 'stop', 'query-status'):
            took, _ = vm.q.timed(name)
            assert took < 1000, (name, took)
        assert vm.status() == 'paused' and "until its disks have finished" in vm.log()
        server.thaw()
        vm.q.wait_event('RESET', timeout=30)
        assert vm.status() == 'prelaunch'       # stopped meanwhile
        vm.command('cont')
        console.wait_ready()
        console.expect(r'^round 1 well', 60)
        code, took = vm.end()
        assert code == 0, vm.log()


class DiskPair(Pair):
    """A Pair of machines with one disk, whose guest writes and reads it all the time."""

    def __init__(self, disk, **more):
        source = dict(kernel=guest_file('vmlinuz'),
                      options=words('no-kvmapf watchdog_thresh=60 guest.run="%s"' % ROUNDS) + ['--disk', disk])
        super().__init__(source_options=source, destination_options=dict(options=['--disk', disk]), **more)

    def greet(self, fill):
        self.guest = Console(self.source)
        self.stack.callback(self.guest.close)
        self.guest.wait_ready()
        self.guest.expect(r'^round 3 well')


def test_a_disk_is_used_across_a_migration_whose_link_is_cut(tmp_path):
    """While pages are missing for good the machine answers, its disk's queues with it; once they come, no request is lost, torn or
    failed."""
    disk, _ = image(tmp_path)
    with DiskPair(str(disk), link=True, memory='192M', cpus=2) as pair:
        pair.start(bandwidth=1 << 20)
        pair.link.down()
        pair.wait_all_waiting(cpus={0}, timeout=60)
        vm = pair.destination
        for _ in range(5):
            try:
                took, _ = vm.q.timed('stop')
            except QmpError as error:
                raise AssertionError('%s; %s; %s' % (error, vm.faults(), vm.stacks())) from error
            assert took < 1000, took
            assert vm.status() == 'paused'
            vm.command('cont')
        pair.wait_paused()
        pair.link.up()
        pair.recover(bandwidth=8 << 20)
        pair.wait_completed(120)
        console = Console(vm)
        pair.stack.callback(console.close)
        for _ in range(4):
            console.expect(r'^round \d+ well', 60)
        console.assert_well()
        assert not re.search('BAD|FAILED|I/O error', pair.guest.text() + console.text()), console.text()[-2000:]
        assert pair.source.status() == 'postmigrate'
        assert pair.running() == ['destination']


def test_a_qcow2_image_is_used_across_a_migration(tmp_path):
    """Each side's qemu-nbd has it alone, and what the source's has written the destination's reads."""
    with DiskPair('%s,format=qcow2' % qcow2(tmp_path / 'disk.qcow2', 16), memory='192M', cpus=2) as pair:
        pair.start()
        pair.wait_completed(120)
        console = Console(pair.destination)
        pair.stack.callback(console.close)
        for _ in range(3):
            console.expect(r'^round \d+ well', 60)
        console.assert_well()
        assert not re.search('BAD|FAILED|I/O error', pair.guest.text() + console.text()), console.text()[-2000:]
        assert pair.running() == ['destination']
    qcow2_raw(tmp_path / 'disk.qcow2')
