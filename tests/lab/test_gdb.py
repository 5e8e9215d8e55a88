# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""The real gdb on a stock Debian guest, with the symbols and the unwinding tables that tools/kernel-symbols makes of its kernel."""

import os
import re
import signal
import subprocess

import pytest

from harness import gdbremote
from harness.debian import BOOT_SECONDS, Console, debian, guest_file
from harness.vm import ROOT
from harness.waiting import seconds, wait_for

KERNEL_TEXT = (0xffffffff81000000, 0xffffffffc0000000)
TRIES = 10  # where the guest is when it is stopped is a matter of luck


@pytest.fixture(scope='module')
def symbols(tmp_path_factory):
    """The file that gdb reads."""
    if not os.path.exists(guest_file('vmlinux')):
        pytest.skip('the image has no vmlinux')
    path = tmp_path_factory.mktemp('symbols') / 'vmlinux.symbols'
    done = subprocess.run([os.path.join(ROOT, 'tools/kernel-symbols'), guest_file('vmlinux'), str(path)],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=seconds(60))
    assert done.returncode == 0, done.stdout
    print(done.stdout)
    return path


@pytest.fixture(scope='module')
def vm():
    """A guest of two vCPUs that idles, and says twice a second that it lives."""
    script = 'while :; do read up rest < /proc/uptime; echo up $up; sleep 0.5; done'
    with debian(cpus=2, memory='192M', gdb=True, parameters='guest.run="%s"' % script) as machine:
        with Console(machine) as machine.console:
            machine.console.wait_ready(BOOT_SECONDS)
            yield machine
            machine.console.assert_well()


@pytest.fixture
def gdb(vm, symbols):
    """Runs gdb with the symbols on the stub: gdb(commands..., before=[]) -> its output. Afterwards the guest runs on."""
    def run(*commands, before=()):
        output, took = gdbremote.run_gdb([*before, 'target remote ' + vm.path('gdb'), *commands],
                                         ['-iex', 'set height 0', '-iex', 'set width 0', str(symbols)], timeout=25)
        print('gdb: %.1f s\n%s' % (took, output))
        return output
    yield run
    vm.wait_status('running')
    vm.console.expect(r'^up ')


def sections(output):
    """What stands behind each `echo -- NAME\\n` of the session: {NAME: text}."""
    parts = re.split(r'^-- (\w+)\n', output, flags=re.M)
    return dict(zip(parts[1::2], parts[2::2]))


def mark(name):
    """The command that begins a section."""
    return 'echo -- %s\\n' % name


def test_both_vcpus_have_a_place_and_callers(gdb):
    """Each is found somewhere between its first function and where it idles, or is looked at again."""
    for _ in range(TRIES):
        out = sections(gdb(mark('threads'), 'info threads', mark('one'), 'thread apply 1 bt', mark('two'), 'thread apply 2 bt',
                           'detach'))
        assert re.search(r'^\* 1 +Thread 1 .*vCPU 0', out['threads'], re.M | re.I), out
        assert re.search(r'^  2 +Thread 2 .*vCPU 1', out['threads'], re.M | re.I), out
        idle = [re.findall(r'^#\d+ +(?:0x[0-9a-f]+ in )?([\w.]+) \(\)', out[name], re.M) for name in ('one', 'two')]
        assert idle[0] and idle[1], 'no name of a place'
        if all(frames[-1] == 'secondary_startup_64_no_verify' for frames in idle):
            break
    # Up to the first function that there is, and no further.
    assert idle[0][-1] == 'secondary_startup_64_no_verify' and 'start_kernel' in idle[0], idle
    assert idle[1][-1] == 'secondary_startup_64_no_verify' and 'start_secondary' in idle[1], idle
    for frames in idle:
        assert frames.index('do_idle') < frames.index('cpu_startup_entry'), frames
        assert len(frames) == len(set(frames)) or len(frames) < 30, 'it goes in circles: %s' % frames


def test_memory_is_the_kernels(gdb):
    out = sections(gdb(mark('banner'), 'x/s &linux_banner', mark('jiffies'), 'x/gx &jiffies_64', mark('code'),
                       'x/i do_idle', mark('symbol'), 'info symbol $pc', 'detach'))
    assert re.search(r'"Linux version \d+\.\d+\.\d+-\S*cloud-amd64', out['banner'])
    assert int(re.search(r'0x[0-9a-f]{16}$', out['jiffies'].strip())[0], 16) > 0
    assert '<do_idle>' in out['code']
    assert 'in section .' in out['symbol']


def packets(output, only='.'):
    """[(packet, reply)] of a session with `set debug remote 1`, those that begin with `only`."""
    found = re.findall(r'Sending packet: \$(.*?)#[0-9a-f]{2}.*\n(?:.*\n)*?.*?Packet received: (.*)', output)
    return [(packet, reply) for packet, reply in found if re.match(only, packet)]


def test_the_packets_that_gdb_asks_for_are_answered(gdb):
    """A session's whole talk: nothing is refused, and what has no answer is what gdb can do without."""
    out = gdb('info threads', 'thread 2', 'p $rax', 'set $r15 = $r15 ^ 1', 'set $r15 = $r15 ^ 1', 'p $xmm0', 'set debug remote 0',
              'info registers cr3 fs_base gs_base', 'maint print xml-tdesc', 'set debug remote 1', 'detach',
              before=['set debug remote 1'])
    talk = packets(out)
    assert not [pair for pair in talk if re.match(r'E[0-9a-f]{2}', pair[1])], talk
    replies = dict(talk)
    assert replies['vMustReplyEmpty'] == '' and replies['QStartNoAckMode'] == 'OK'
    assert {'qXfer:features:read+', 'vContSupported+', 'swbreak+', 'hwbreak+'} <= set(
        next(r for p, r in talk if p.startswith('qSupported')).split(';'))
    assert any(p.startswith('qXfer:features:read:target.xml:') for p in replies)
    assert replies['?'].startswith('T') and replies['qAttached'] == '1' and replies['qfThreadInfo'] == 'm1,2'
    assert [r for p, r in talk if p.startswith('P')] == ['OK'] * 2
    unanswered = {re.match('[A-Za-z]+', p)[0] for p, r in talk if r == ''}
    assert unanswered <= {'vMustReplyEmpty', 'qTStatus', 'qOffsets', 'qSymbol', 'qL', 'vFile', 'qSearch'}, unanswered
    for feature in ('core', 'sse', 'segments'):
        assert 'org.gnu.gdb.i386.' + feature in out
    assert re.search(r'^cr3 +0x[0-9a-f]+', out, re.M), out


def test_ctrl_c_stops_a_guest_that_was_told_to_go_on(vm, symbols):
    words = ['gdb', '-nx', '-batch', '-iex', 'set debuginfod enabled off', '-iex', 'set confirm off', str(symbols)]
    for command in ('target remote ' + vm.path('gdb'), 'continue', mark('after'), 'info threads', 'bt', 'detach'):
        words += ['-ex', command]
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        wait_for(lambda: vm.status() == 'debug', 20)
        wait_for(lambda: vm.status() == 'running', 20)
        vm.console.expect(r'^up ')
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=seconds(20))
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    assert 'received signal SIGINT' in output, output
    out = sections(output)['after']
    assert re.search(r'^#0 .* in \w+ \(\)', out, re.M) and 'Thread 2' in out, output
    vm.wait_status('running')
    vm.console.expect(r'^up ')


def test_breakpoints_and_watchpoints_come_and_go_without_a_trace(vm, gdb):
    """Whether they are hit is not this host's to show (lab/README.md, Limits). A software breakpoint stands where the guest never comes."""
    out = gdb(mark('before'), 'x/16xb panic', 'x/16xb do_idle', 'break *panic', 'hbreak *kernel_restart', 'watch *(long *)&pm_power_off',
              'awatch *(int *)&panic_timeout', 'info breakpoints', 'set debug remote 1', 'stepi', 'set debug remote 0', 'delete',
              'set debug remote 1', 'stepi', 'set debug remote 0', mark('after'), 'x/16xb panic', 'x/16xb do_idle', 'detach')
    assert sorted((p[:2], r) for p, r in packets(out, 'Z')) == [('Z0', 'OK'), ('Z1', 'OK'), ('Z2', 'OK'), ('Z4', 'OK')], out
    assert sorted((p[:2], r) for p, r in packets(out, 'z')) == [('z0', 'OK'), ('z1', 'OK'), ('z2', 'OK'), ('z4', 'OK')], out
    code = sections(out)
    strip = re.compile(r'^0x[0-9a-f]+ <.*', re.M)
    before, after = (strip.findall(code[name]) for name in ('before', 'after'))
    assert before[:4] == after[:4] and len(after) == 4, out


def test_steps_go_instruction_by_instruction(gdb):
    """Unless a small loop is what the guest is at: then once more."""
    for _ in range(TRIES):
        out = sections(gdb(mark('steps'), *['printf "%#lx\\n", $pc', 'stepi'] * 12, 'detach'))['steps']
        places = [int(x, 16) for x in re.findall(r'^(0x[0-9a-f]+)$', out, re.M)]
        assert len(places) == 12, out
        if len(set(places)) > 6:
            break
    assert len(set(places)) > 6, out
