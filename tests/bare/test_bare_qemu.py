# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""The bare guest in QEMU, so that a fault of the guest is not taken for one of postern.

BARE_ELF names the guest; without it, the newest bare.elf of a build directory in the source tree. Runs under KVM where
/dev/kvm can be used, and under QEMU's emulation.
"""

import fcntl
import glob
import os
import shutil
import struct
import subprocess
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import bare  # noqa: E402

QEMU = shutil.which('qemu-system-x86_64')
KVM_CREATE_VM = 0xae01
MIB = 1 << 20


def find_elf():
    path = os.environ.get('BARE_ELF')
    if path:
        return path
    root = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', '..')
    found = glob.glob(os.path.join(root, '*', 'tests', 'bare', 'bare.elf'))
    return max(found, key=os.path.getmtime) if found else None


def why_no_kvm():
    """None if a VM can be made, else the reason."""
    try:
        fd = os.open('/dev/kvm', os.O_RDWR | os.O_CLOEXEC)
    except OSError as e:
        return str(e)
    try:
        os.close(fcntl.ioctl(fd, KVM_CREATE_VM, 0))
    except OSError as e:
        return 'KVM_CREATE_VM: %s' % e
    finally:
        os.close(fd)
    return None


@pytest.fixture(scope='session')
def elf():
    path = find_elf()
    if not path:
        pytest.skip('no bare.elf built; set BARE_ELF')
    return path


@pytest.fixture(scope='module', params=['kvm', 'tcg'])
def guest(request, elf, tmp_path_factory):
    """A filled guest of 64 MiB; every test leaves it filled, verified and stopped."""
    if not QEMU:
        pytest.skip('qemu-system-x86_64 is not installed')
    reason = why_no_kvm() if request.param == 'kvm' else None
    if reason:
        pytest.skip('no usable /dev/kvm: ' + reason)
    where = tmp_path_factory.mktemp('bare')
    serial = str(where / 'serial')
    log = open(where / 'log', 'wb')
    # -cpu Nehalem: the emulation has SYSEXIT only for an Intel CPU
    vm = subprocess.Popen([QEMU, '-M', 'microvm,acpi=off', '-accel', request.param, '-cpu', 'Nehalem', '-m', '64',
                           '-nodefaults', '-no-user-config', '-display', 'none', '-kernel', elf,
                           '-serial', 'unix:%s,server=on,wait=on' % serial],
                          stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    g = None
    try:
        g = bare.Bare(bare.connect(serial))
        g.boot = g.wait_ready(60)
        assert g.fill() == g.boot['pages']
        yield g
    finally:
        vm.kill()
        vm.wait(20)
        if g:
            g.close()
        log.close()


@pytest.fixture
def clean(guest):
    """The guest, with fresh statistics."""
    guest.reset()
    yield guest
    guest.quiet()


def test_image_is_one_piece_so_that_the_multiboot_header_tells_the_truth(elf):
    note = bare.read_note(elf)
    with open(elf, 'rb') as f:
        data = f.read()
    phoff, = struct.unpack_from('<Q', data, 32)
    phnum, = struct.unpack_from('<H', data, 56)
    loads = [p for p in (struct.unpack_from('<IIQQQQQQ', data, phoff + i * 56) for i in range(phnum)) if p[0] == 1]
    at = data.find(struct.pack('<I', 0x1badb002), 0, 8192)
    assert at > 0 and at % 4 == 0
    magic, flags, check, header, start, load_end, bss_end, _ = struct.unpack_from('<8I', data, at)
    assert (magic + flags + check) % (1 << 32) == 0 and flags & 1 << 16
    for p in loads:
        assert p[3] == p[4], 'virtual and physical address differ'
        assert p[2] - at == p[3] - header, 'not one piece'
    assert start == min(p[3] for p in loads) == MIB
    assert load_end == max(p[3] + p[5] for p in loads)
    assert bss_end == max(p[3] + p[6] for p in loads)
    assert (note.version, note.max_cpus) == (1, 128)
    assert note.cr3 % 4096 == 0 and note.stack_top % 16 == 0
    for address in note[2:5] + note[6:8]:
        assert MIB <= address < bss_end


def test_boots_with_all_of_its_memory(guest):
    info = guest.boot
    assert info['cpus'] == 1
    assert info['base'] >= 4 * MIB and info['base'] % (2 * MIB) == 0
    # the firmware keeps a little
    assert 63 * MIB <= info['low'] <= 64 * MIB
    assert info['pages'] == (info['low'] - info['base']) // 4096


def test_filled_memory_verifies(clean):
    v = clean.verify()
    assert (v['pages'], v['errors'], v['first']) == (clean.boot['pages'], 0, -1)


@pytest.mark.parametrize('mode', ['g', 'w', 'q', 'W'])
def test_walk_visits_every_page_without_error(clean, mode):
    pages = clean.boot['pages']
    clean.walk(mode)
    clean.wait_stats(lambda s: s['passes'] >= 1, 60)
    s = clean.quiet()
    assert s['errors'] == 0 and s['touches'] >= pages
    hist = clean.hist()
    assert sum(n for _, n in hist) == s['touches']
    assert bare.percentile(hist, 0.5) == s['all50'] > 0
    assert clean.verify()['errors'] == 0


def test_write_walk_in_order_bumps_each_page(clean):
    clean.limit(64)
    clean.walk('W')
    clean.wait_stats(lambda s: s['passes'] >= 3, 60)
    clean.quiet()
    assert clean.verify()['errors'] == 0
    assert clean.first_error()['errors'] == 0
    clean.limit(0)


def test_churn_rewrites_and_verifies(clean):
    clean.limit(1024)
    clean.walk('c')
    clean.wait_stats(lambda s: s['passes'] >= 2, 120)
    assert clean.quiet()['errors'] == 0
    assert clean.verify()['errors'] == 0
    assert clean.limit(0) == clean.boot['pages']
    assert clean.verify()['errors'] == 0


def test_once_touches_no_page_twice(clean):
    pages = clean.boot['pages']
    clean.rewind()
    clean.walk('a')
    s = clean.wait_stats(lambda s: s['left'] == 0, 60)
    assert s['touches'] == pages
    clean.walk('a')
    clean.mark()
    assert clean.stats()['touches'] == pages


@pytest.mark.parametrize('where', ['first', 'middle', 'last'])
def test_verify_finds_one_flipped_bit(clean, where):
    pages = clean.boot['pages']
    page = {'first': 0, 'middle': pages // 2, 'last': pages - 1}[where]
    clean.corrupt(page)
    v = clean.verify()
    assert (v['errors'], v['bad'], v['first']) == (1, 1, page)
    assert v['got'] ^ v['want'] == 1
    clean.corrupt(page)
    assert clean.verify()['errors'] == 0


def test_churn_finds_a_flipped_bit_once_and_heals_it(clean):
    clean.limit(256)
    clean.corrupt(17)
    clean.walk('c')
    clean.wait_stats(lambda s: s['passes'] >= 3, 60)
    clean.quiet()
    e = clean.first_error()
    assert (e['errors'], e['page'], e['word']) == (1, 17, 1)
    assert clean.verify()['errors'] == 0
    clean.limit(0)


def test_touch_reports_value_and_cycles(clean):
    t = clean.touch(5)
    assert t['ok'] == 1 and t['cycles'] > 0
    assert t['val'] == clean.touch(5)['val'] != clean.touch(6)['val']


def test_commands_are_answered_while_walking(clean):
    clean.walk('g')
    first = clean.mark()
    second = clean.wait_stats(lambda s: s['touches'] > first['touches'])
    assert second['mode'] == 'g'
    assert clean.status()[0] == 'g'


def test_heartbeat_counts_without_a_hole(clean):
    clean.walk('g')
    clean.heartbeat(True)
    clean.wait_beats(20)
    clean.heartbeat(False)
    counts = [n for _, n in clean.beats]
    assert counts == list(range(counts[0], counts[0] + len(counts)))


def test_masked_cpu_does_not_walk(clean):
    clean.mask(0)
    clean.walk('g')
    clean.mark()
    assert clean.stats()['touches'] == 0
    clean.mask(0xffff)
    clean.wait_stats(lambda s: s['touches'] > 0)


def test_what_is_not_a_command_is_refused(clean):
    for text in ('Y', 't99999999\n', 'bz'):
        clean.send(text)
        with pytest.raises(bare.BareError, match='does not take'):
            clean.expect('nothing')
    clean.mark()


def test_abandoned_job_says_so(clean):
    clean.send('vs')
    with pytest.raises(bare.BareError, match='abandoned'):
        clean.expect('V .*')
    clean.expect('T')
