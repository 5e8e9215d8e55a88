# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""A stock Debian kernel boots, over every kind of console, sees the machine as it is, and ends it in its own ways."""

import contextlib
import os
import re
import subprocess
import time

import pytest

from harness.debian import BOOT_SECONDS, Console, Descriptors, debian, guest_file, words
from harness.machine import ARM64, CLOCK
from harness.qmp import QmpClosed
from harness.vm import Died, program
from harness.waiting import seconds, wait_for

BOOT_AND_END = BOOT_SECONDS + 20
# A short watchdog: a stop of some seconds would be a soft lockup if the guest noticed it.
WATCHDOG = 'watchdog_thresh=1 '
BUTTON = '/sys/firmware/acpi/interrupts/ff_pwr_btn'


def end_of(vm, timeout=BOOT_AND_END):
    """Waits for the process's end; returns (exit code, its last SHUTDOWN event's data or None)."""
    code = vm.wait_exit(timeout)
    with contextlib.suppress(QmpClosed):
        vm.q.poll_events()
    shutdown = [e['data'] for e in vm.q.events if e['event'] == 'SHUTDOWN']
    return code, shutdown[-1] if shutdown else None


def test_one_vcpu_a_shell_on_stdio_and_power_off():
    process = subprocess.Popen([program(), 'run', '--kernel', guest_file('vmlinuz'), '-m', '128M', '--serial', 'stdio']
                               + words(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        with Console(stream=Descriptors(os.dup(process.stdout.fileno()), os.dup(process.stdin.fileno()))) as console:
            ready = console.wait_ready()
            assert ready['cpus'] == '1' and ready['clock'] == CLOCK
            console.expect(r'BusyBox|/ #', BOOT_SECONDS)
            console.write('echo $((6 * 7)); cat /proc/sys/kernel/osrelease\n')
            console.expect(r'^42$')
            console.expect(r'^\d+\.\d+\.\S+-cloud-a')
            console.write('poweroff -f\n')
            assert process.wait(seconds(30)) == 0
            console.assert_well()
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def test_two_vcpus_elf_kernel_console_in_a_file_and_reboot_ends_it(tmp_path):
    """--no-reboot: a reset by the guest is the end."""
    if not os.path.exists(guest_file('vmlinux')):
        pytest.skip('the image has no vmlinux')
    path = tmp_path / 'console'
    with debian(kernel='vmlinux', parameters='guest.run=nproc guest.off=reboot', memory='256M',
                serial='file:%s' % path, options=['--no-reboot']) as vm:
        code, shutdown = end_of(vm)
        text = path.read_text('utf-8', 'replace').replace('\r', '')
        assert code == 0, vm.log()
        assert shutdown and shutdown['guest'], shutdown
        assert re.search(r'^GUEST-READY .* cpus=2 ', text, re.M), text
        assert re.search(r'^2\nGUEST-RUN exit=0$', text, re.M), text


def test_four_vcpus_memory_above_the_hole_console_on_a_pty(tmp_path):
    """4 GiB: the guest's memory has a part above 4 GiB, and memcheck finds it sound. Memory that the guest does not touch
    is not taken from the host, so this fits."""
    link = tmp_path / 'tty'
    script = 'nproc; grep System.RAM /proc/iomem; grep MemTotal /proc/meminfo; read line; echo got $line'
    with debian(cpus=4, memory='4G', serial='pty:%s' % link, parameters='guest.run="%s"' % script) as vm:
        fd = os.open(str(link), os.O_RDWR | os.O_NOCTTY)
        with Console(stream=Descriptors(fd, fd)) as console:
            vm.q.command('query-status')
            assert console.wait_ready(BOOT_SECONDS)['cpus'] == '4'
            console.expect(r'^4$')
            console.expect(r'-13fffffff : System RAM$' if ARM64 else r'^100000000-[1-9a-f][0-9a-f]+ : System RAM$')
            total = int(console.expect(r'^MemTotal: +(\d+) kB')[1])
            assert total > 3800 << 10, total
            console.write('typed here\n')
            console.expect(r'^got typed here$')
            console.expect(r'GUEST-RUN exit=0')
            code, shutdown = end_of(vm)
            assert (code, shutdown['guest'], shutdown['reason']) == (0, True, 'guest-shutdown')
            console.assert_well()


def test_reboot_is_noticed_and_boots_again():
    with debian(cpus=1, memory='128M', parameters='guest.run=true guest.off=reboot') as vm:
        vm.q.command('query-status')
        with Console(vm) as console:
            console.wait_ready()
            event = vm.q.wait_event('RESET', timeout=BOOT_SECONDS)
            assert event['data']['guest'] is True
            console.wait_ready()
            assert vm.status() == 'running'
            console.assert_well()
        code, _ = vm.end()
        assert code == 0


@pytest.mark.skipif(ARM64, reason='no power button on arm64')
def test_power_button_reaches_the_guest():
    """system_powerdown: ACPI's fixed event, counted by the guest's driver, by an interrupt; then it powers off."""
    script = ('cat {b}; echo waiting; until grep -q ^[^0]*[1-9] {b}; do sleep 0.1; done; cat {b}; '
              'grep acpi /proc/interrupts').format(b=BUTTON)
    with debian(cpus=1, memory='128M', parameters='guest.run="%s"' % script) as vm:
        with Console(vm) as console:
            console.wait_ready()
            before = console.expect(r'^ *(\d+) .*enabled')
            assert before[1] == '0'
            console.expect(r'^waiting$')
            vm.command('system_powerdown')
            vm.q.wait_event('POWERDOWN')
            assert int(console.expect(r'^ *(\d+) .*enabled')[1]) == 1
            assert int(console.expect(r'^ *9: +(\d+) .*acpi')[1]) >= 1
            code, shutdown = end_of(vm)
            assert code == 0 and shutdown['guest'] is True
            console.assert_well()


def test_stop_and_cont_leave_the_guests_clock_sane():
    """Stopped for longer than the guest's watchdog allows: it may not notice."""
    script = 'while :; do read up rest < /proc/uptime; echo up $up; sleep 0.1; done'
    with debian(cpus=2, memory='128M', parameters=WATCHDOG + 'guest.run="%s"' % script) as vm:
        with Console(vm) as console:
            console.wait_ready()
            console.expect(r'^up ')
            for pause in (0.05, 0.05, 0.05, 5):
                vm.command('stop')
                time.sleep(pause)       # not a wait for anything: the length of the stop
                vm.command('cont')
                console.expect(r'^up ')
            for _ in range(10):
                console.expect(r'^up ')
            ups = [float(x) for x in re.findall(r'^up ([\d.]+)$', console.text(), re.M)]
            assert ups == sorted(ups), 'the clock went backwards'
            whens = [when for when, line in console.lines() if line.startswith('up ')]
            assert ups[-1] - ups[0] < whens[-1] - whens[0] + seconds(1), 'the clock ran ahead'
            console.assert_well()
            with open('/proc/%d/stat' % vm.pid, encoding='ascii', errors='replace') as f:
                assert f.read().rsplit(')', 1)[1].split()[0] in 'SR'


def test_kernel_that_panics_does_not_hang_anybody():
    """No initrd: the guest panics, and panic=-1 asks for a reset."""
    with debian(cpus=1, memory='128M', options=['--no-reboot'], parameters='rdinit=/nothing root=/dev/none') as vm:
        with Console(vm) as console:
            console.expect(r'Kernel panic', BOOT_SECONDS)
        wait_for(lambda: not vm.is_alive(), 30, vm.log)
        with pytest.raises(Died):
            vm.assert_alive()
        assert vm.process.returncode == 0
