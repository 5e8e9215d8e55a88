# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""tools/kernel-symbols, as far as it needs no kernel: tests/lab/test_gdb.py uses it on one."""

import os
import pathlib
import re
import subprocess

import pytest

from harness.vm import ROOT, bare_elf, program
from harness.waiting import seconds

TOOL = os.path.join(ROOT, 'tools/kernel-symbols')


def run(*words):
    """(exit code, output)"""
    done = subprocess.run([TOOL, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
                          timeout=seconds(60))
    return done.returncode, done.stdout


def test_symbols_of_kallsyms_get_into_an_elf_file(tmp_path):
    """Modules are left out; a shifted kernel is put back to where the file says that it is."""
    text = int(re.search(r' \.text +PROGBITS +([0-9a-f]+)', subprocess.run(
        ['readelf', '-SW', bare_elf()], stdout=subprocess.PIPE, text=True, check=True, timeout=seconds(20)).stdout)[1], 16)
    moved = 0xffffffff92000000
    (tmp_path / 'kallsyms').write_text(''.join('%016x %s %s\n' % row for row in (
        (moved, 'T', '_stext'), (moved + 0x10, 't', 'first'), (moved + 0x30, 'T', 'second'), (0x1000, 'A', 'percpu'),
        (0xffffffffc0001000, 't', 'module_text\t[virtio]'))))
    code, said = run('--kallsyms', tmp_path / 'kallsyms', bare_elf(), tmp_path / 'out')
    assert code == 0 and said == '4 symbols, no ORC: no callers\n', said
    names = subprocess.run(['nm', '-S', str(tmp_path / 'out')], stdout=subprocess.PIPE, text=True, check=True,
                           timeout=seconds(20)).stdout
    assert '%016x %016x T first\n' % (text + 0x10, 0x20) in names and re.search(r'%016x(?: 0+)? A percpu\n' % 0x1000, names), names
    assert re.search(r'%016x(?: \w+)? T second' % (text + 0x30), names) and 'module_text' not in names


@pytest.mark.parametrize('length', [0, 3, 63, 64, 1000, 20000])
def test_a_damaged_file_is_an_error_with_a_line(tmp_path, length):
    whole = pathlib.Path(program()).read_bytes()
    (tmp_path / 'in').write_bytes(whole[:length])
    code, said = run(tmp_path / 'in', tmp_path / 'out')
    assert code == 1 and len(said.splitlines()) == 1 and said.startswith('kernel-symbols: '), said


def test_what_is_no_kernel_is_an_error_with_a_line(tmp_path):
    for path in (program(), bare_elf(), __file__, tmp_path / 'none', tmp_path):
        code, said = run(path, tmp_path / 'out')
        assert code == 1 and len(said.splitlines()) == 1 and said.startswith('kernel-symbols: '), said


def test_a_kallsyms_without_addresses_says_what_to_do(tmp_path):
    (tmp_path / 'kallsyms').write_text('0000000000000000 T _stext\n')
    code, said = run('--kallsyms', tmp_path / 'kallsyms', bare_elf(), tmp_path / 'out')
    assert code == 1 and 'kptr_restrict' in said, said
