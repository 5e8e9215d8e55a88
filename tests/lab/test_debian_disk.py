# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""A whole Debian starts from its own disk, its kernel taken out of it: systemd, login, work on disks, power-off, reboot; and moves,
with everything that it does, while the link is cut."""

import re

import pytest

from harness.debian_disk import Shell, debian_machine, reason

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
            shell.run('cd /boot && cp vmlinuz-* vmlinuz-new && mv initrd.img-* initrd.img-new && '
                      'ln -sf boot/vmlinuz-new /vmlinuz && ln -sf boot/initrd.img-new /initrd.img && '
                      'ln -s initrd.img-new initrd.img-$(uname -r) && rm vmlinuz-$(uname -r) && sync')
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
