# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""Images as files for others, and others' files as images: raw memory files, diffs, ELF cores, QEMU's mapped-ram."""

import json
import os
import pathlib
import re
import resource
import shutil
import signal
import struct
import subprocess

import pytest

from harness.qmp import QmpError
from harness.vm import Postern, program, run_postern
from harness.waiting import seconds, wait_for

MIB = 1 << 20
PAGE = 4096


def snapshot(*words):
    """What it says with --json; it succeeds."""
    code, out = run_postern('snapshot', '--json', *words, timeout=60)
    assert code == 0, out
    return json.loads(out)


def refused(*words):
    """What it says; it fails."""
    code, out = run_postern('snapshot', *words, timeout=60)
    assert code == 1, out
    return out


def save_soon(vm, image):
    """Once what the guest reboots with has come as well: until then a save is refused."""
    def begun():
        try:
            return vm.save(image, wait=False)
        except QmpError as error:
            assert 'on its way' in str(error)
            return None
    vm.wait_saved(wait_for(begun, 30))


@pytest.fixture(scope='module', name='made')
def _made(tmp_path_factory):
    """A folder with `base`, and `child` on top of it."""
    images = tmp_path_factory.mktemp('images')
    with Postern(name='maker', memory='64M') as vm:
        vm.bare(ready=True).touch(2000)
        vm.command('stop')
        vm.save(images / 'base')
    with Postern.restored(images / 'base', options=['--fill', 'off']) as vm:
        vm.bare().touch(5000)
        save_soon(vm, images / 'child')
    return images


def test_a_raw_file_comes_back_as_it_was(made, tmp_path):
    out = snapshot('export', made / 'child', tmp_path / 'raw')
    raw = (tmp_path / 'raw').read_bytes()
    assert len(raw) == out['bytes'] == 64 * MIB and out['absent-pages'] == 0
    assert os.stat(tmp_path / 'raw').st_blocks * 512 < len(raw) // 2        # zeros are holes
    assert os.stat(tmp_path / 'raw').st_mode & 0o777 == 0o600
    snapshot('import', tmp_path / 'raw', tmp_path / 'again')
    info = snapshot('info', tmp_path / 'again')
    assert info['contents'] == 'memory' and info['pages'] == snapshot('info', made / 'child')['pages']
    assert snapshot('verify', tmp_path / 'again')['damaged'] == 0
    snapshot('export', tmp_path / 'again', tmp_path / 'raw2')
    assert (tmp_path / 'raw2').read_bytes() == raw


def test_a_diff_goes_over_its_parent(made, tmp_path):
    for name in ('base', 'child'):
        snapshot('export', made / name, tmp_path / name)
    out = snapshot('export', '--diff', made / 'child', tmp_path / 'diff')
    whole = {name: (tmp_path / name).read_bytes() for name in ('base', 'child')}
    changed = sum(whole['base'][i:i + PAGE] != whole['child'][i:i + PAGE] for i in range(0, 64 * MIB, PAGE))
    assert out['pages'] == changed > 0
    assert os.stat(tmp_path / 'diff').st_size == 64 * MIB
    snapshot('import', tmp_path / 'base', '--over', tmp_path / 'diff', tmp_path / 'both')
    snapshot('export', tmp_path / 'both', tmp_path / 'together')
    assert (tmp_path / 'together').read_bytes() == whole['child']
    assert 'has no parent' in refused('export', '--diff', made / 'base', tmp_path / 'no')
    assert not (tmp_path / 'no').exists()


def test_zeros_of_a_diff_are_written(tmp_path):
    """A hole would mean the page as it was."""
    with open(tmp_path / 'base', 'wb') as f:
        f.write(b'a' * 2 * MIB)
    with open(tmp_path / 'diff', 'wb') as f:
        f.truncate(2 * MIB)
        f.seek(5 * PAGE)
        f.write(bytes(PAGE))
    snapshot('import', tmp_path / 'base', '--over', tmp_path / 'diff', tmp_path / 'image')
    snapshot('export', tmp_path / 'image', tmp_path / 'out')
    assert (tmp_path / 'out').read_bytes() == b'a' * 5 * PAGE + bytes(PAGE) + b'a' * (2 * MIB - 6 * PAGE)


def elf(path):
    """(machine, [notes' descriptions], [(address, bytes)])"""
    data = path.read_bytes()
    assert data[:6] == b'\x7fELF\x02\x01' and struct.unpack_from('<H', data, 16)[0] == 4
    machine, phoff, count = struct.unpack_from('<H', data, 18)[0], struct.unpack_from('<Q', data, 32)[0], struct.unpack_from('<H', data, 56)[0]
    notes, loads = [], []
    for i in range(count):
        kind, _, offset, vaddr, paddr, size, memory, _ = struct.unpack_from('<IIQQQQQQ', data, phoff + i * 56)
        if kind == 4:
            at = offset
            while at < offset + size:
                name, desc, note = struct.unpack_from('<III', data, at)
                assert (name, note) == (5, 1) and data[at + 12:at + 17] == b'CORE\0'
                notes.append(data[at + 20:at + 20 + desc])
                at += 20 + desc
        else:
            assert kind == 1 and vaddr == paddr and size == memory and offset + size <= len(data)
            loads.append((paddr, data[offset:offset + size]))
    return machine, notes, loads


def test_an_elf_core_has_memory_and_registers(made, tmp_path):
    snapshot('export', made / 'child', tmp_path / 'raw')
    out = snapshot('export', '--format', 'elf', made / 'child', tmp_path / 'core')
    machine, notes, loads = elf(tmp_path / 'core')
    assert out['absent-pages'] == 0 and os.stat(tmp_path / 'core').st_size == out['bytes']
    assert b''.join(data for _, data in loads) == (tmp_path / 'raw').read_bytes() and loads[0][0] == 0
    assert len(notes) == 2 and [struct.unpack_from('<i', n, 32)[0] for n in notes] == [1, 2]
    if machine == 62:
        assert struct.unpack_from('<Q', notes[0], 112 + 16 * 8)[0] != 0      # rip
    if shutil.which('readelf'):
        text = subprocess.run(['readelf', '-hln', tmp_path / 'core'], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              timeout=seconds(20), check=True).stdout
        assert 'CORE (Core file)' in text and text.count('NT_PRSTATUS') == 2 and 'arning' not in text, text


def test_gdb_opens_an_elf_core(made, tmp_path):
    if not shutil.which('gdb'):
        pytest.skip('needs gdb')
    snapshot('export', '--format', 'elf', made / 'child', tmp_path / 'core')
    text = subprocess.run(['gdb', '-nx', '-batch', '-ex', 'info threads', '-ex', 'info registers rip', '-ex', 'x/2xg 0x100000', '-c', tmp_path / 'core'],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=seconds(60), check=False).stdout
    assert len(re.findall(r'^[* ] +\d ', text, re.M)) == 2 and '0x100000' in text and 'Cannot access' not in text, text


def test_what_a_file_does_not_have_is_absent(tmp_path):
    """The rest of the last 2 MiB: no page of zeros is made up."""
    (tmp_path / 'file').write_bytes(os.urandom(2 * MIB + PAGE))
    snapshot('import', tmp_path / 'file', tmp_path / 'image')
    assert snapshot('info', tmp_path / 'image')['pages'] == {'data': 513, 'zero': 0, 'absent': 511}
    snapshot('export', tmp_path / 'image', tmp_path / 'again')
    assert (tmp_path / 'again').read_bytes() == (tmp_path / 'file').read_bytes()
    out = snapshot('export', '--format', 'elf', tmp_path / 'image', tmp_path / 'core')
    assert out['absent-pages'] == 511
    _, notes, loads = elf(tmp_path / 'core')
    assert notes == [] and loads == [(0, (tmp_path / 'file').read_bytes())]


def test_ranges_say_where_memory_is(tmp_path):
    (tmp_path / 'file').write_bytes(b'a' * 2 * MIB + b'b' * 4 * MIB)
    snapshot('import', '--ranges', '0:2M,4G:4M', tmp_path / 'file', tmp_path / 'image')
    assert snapshot('info', tmp_path / 'image')['machine']['ranges'] == [
        {'base': 0, 'bytes': 2 * MIB}, {'base': 4 << 30, 'bytes': 4 * MIB}]
    snapshot('export', '--format', 'elf', tmp_path / 'image', tmp_path / 'core')
    assert elf(tmp_path / 'core')[2] == [(0, b'a' * 2 * MIB), (4 << 30, b'b' * 4 * MIB)]
    for wrong, text in (('0:2M', 'the same'), ('4G:2M,0:4M', 'ascend'), ('0:1M,1M:5M', '2 MiB')):
        assert text in refused('import', '--ranges', wrong, tmp_path / 'file', tmp_path / 'no')


def test_memory_alone_cannot_be_run(tmp_path):
    (tmp_path / 'file').write_bytes(b'a' * 2 * MIB)
    snapshot('import', tmp_path / 'file', tmp_path / 'image')
    code, out = run_postern('run', '--restore', tmp_path / 'image', '--serial', 'null')
    assert code == 1 and 'memory alone' in out, out
    code, out = run_postern('snapshot', 'info', tmp_path / 'image')
    assert 'memory alone' in out


def test_what_is_no_such_file_is_refused(made, tmp_path):
    (tmp_path / 'text').write_bytes(b'x' * PAGE)
    os.mkfifo(tmp_path / 'fifo')
    assert 'no migration of QEMU' in refused('import', '--format', 'mapped-ram', tmp_path / 'text', tmp_path / 'no')
    assert 'no plain file' in refused('import', tmp_path / 'fifo', tmp_path / 'no')
    assert 'No such file' in refused('import', tmp_path / 'nothing', tmp_path / 'no')
    assert 'there already' in refused('export', made / 'base', tmp_path / 'text')
    assert (tmp_path / 'text').read_bytes() == b'x' * PAGE and not (tmp_path / 'no').exists()


@pytest.mark.parametrize('name, said', [('', 'empty'), ('x' * 300, 'name too long'), ('text/file', 'Not a directory'), ('no/file', 'No such file')],
                         ids=['empty', 'long', 'below-a-file', 'no-folder'])
def test_a_file_that_cannot_be_is_told_before_the_work(made, tmp_path, name, said):
    (tmp_path / 'text').write_bytes(b'x')
    error = refused('export', made / 'base', tmp_path / name if name else '')
    assert said in error and 'pages' not in error


def test_what_cannot_be_written_is_named(made, tmp_path):
    """And nothing is left, and nothing was said to be written."""
    for words in ([], ['--format', 'elf'], ['--json']):
        done = subprocess.run([program(), 'snapshot', 'export', *words, str(made / 'base'), str(tmp_path / 'raw')], check=False, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=seconds(60),
                              preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, MIB)))
        assert done.returncode == 1 and str(tmp_path / 'raw') in done.stderr and 'too large' in done.stderr, done
        assert not done.stdout and not os.listdir(tmp_path)


@pytest.mark.parametrize('words', [('import',), ('export',)], ids=lambda w: w[0])
def test_a_signal_leaves_nothing(made, tmp_path, words):
    """Held up by a file that is a slow one's; here the process is stopped as soon as it has begun."""
    if words[0] == 'import':
        with open(tmp_path / 'file', 'wb') as f:
            f.truncate(1 << 40)
            for at in range(0, 1 << 30, MIB):
                f.seek(at)
                f.write(b'a' * PAGE)
        words = ('import', tmp_path / 'file', tmp_path / 'image')
    else:
        words = ('export', made / 'child', tmp_path / 'raw')
    with subprocess.Popen([program(), 'snapshot', *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as child:
        child.send_signal(signal.SIGSTOP)
        child.send_signal(signal.SIGINT)
        child.send_signal(signal.SIGCONT)
        child.wait(seconds(20))
    assert child.returncode in (-2, 0, 130)
    if child.returncode:
        assert not (tmp_path / 'raw').exists() and not (tmp_path / 'image/manifest.json').exists()


def unpacked():
    """The one that the lab has unpacked, by its own loader; or None."""
    base = pathlib.Path(os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache'), 'postern/lab')
    for root in base.glob('emulator-*/root'):
        loader = next((root / 'usr/lib').glob('*/ld-linux-*.so.*'), None)
        name = root / 'usr/bin/qemu-system-x86_64'
        if loader and name.exists():
            return [str(w) for w in (loader, '--library-path', loader.parent, name, '-L', root / 'usr/share/qemu', '-L', root / 'usr/share/seabios')]
    return None


def emulator():
    """A QEMU that knows mapped-ram: its words, or None."""
    words = os.environ.get('POSTERN_QEMU', '').split() or unpacked() or ['qemu-system-x86_64']
    if not shutil.which(words[0]):
        return None
    done = subprocess.run([*words, '-M', 'none', '-nodefaults', '-display', 'none', '-qmp', 'stdio'], stdout=subprocess.PIPE, text=True,
                          input='{"execute":"qmp_capabilities"}\n{"execute":"query-migrate-capabilities"}\n{"execute":"quit"}\n',
                          stderr=subprocess.DEVNULL, timeout=seconds(30), check=False)
    return words if '"mapped-ram"' in done.stdout else None


def test_memory_of_a_qemu_comes_over(tmp_path):
    words = emulator()
    if not words:
        pytest.skip('needs a QEMU with mapped-ram (9.0 or later; POSTERN_QEMU says where)')
    pages = {1 << 20: b'first', 3 << 20: b'second', (16 << 20) + PAGE: b'third'}
    loads = []
    for i, (at, text) in enumerate(pages.items()):
        (tmp_path / ('load%d' % i)).write_bytes(text * 900)
        loads += ['-device', 'loader,file=%s,addr=%#x,force-raw=on' % (tmp_path / ('load%d' % i), at)]
    requests = ['qmp_capabilities', ('migrate-set-capabilities', {'capabilities': [{'capability': 'mapped-ram', 'state': True}]}),
                ('migrate', {'uri': 'file:%s' % (tmp_path / 'file')})]
    with subprocess.Popen([*words, '-M', 'q35', '-m', '64', '-S', '-nodefaults', '-display', 'none', '-qmp', 'stdio', *loads],
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as qemu:
        try:
            for request in requests:
                name, arguments = request if isinstance(request, tuple) else (request, {})
                qemu.stdin.write(json.dumps({'execute': name, 'arguments': arguments}) + '\n')
            status = None
            while status not in ('completed', 'failed'):
                qemu.stdin.write('{"execute": "query-migrate", "id": "m"}\n')
                qemu.stdin.flush()
                for line in qemu.stdout:
                    reply = json.loads(line)
                    assert 'error' not in reply, reply
                    if reply.get('id') == 'm':
                        status = reply['return'].get('status')
                        break
                else:
                    pytest.fail('QEMU has ended')
            assert status == 'completed'
        finally:
            qemu.kill()
    snapshot('import', '--format', 'mapped-ram', tmp_path / 'file', tmp_path / 'image')
    snapshot('export', tmp_path / 'image', tmp_path / 'raw')
    raw = (tmp_path / 'raw').read_bytes()
    assert len(raw) == 64 * MIB
    for at, text in pages.items():
        assert raw[at:at + len(text) * 900] == text * 900
    refuse = refused('import', '--format', 'mapped-ram', '--block', 'no.ram', tmp_path / 'file', tmp_path / 'no')
    assert 'pc.ram' in refuse
