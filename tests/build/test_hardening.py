# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""How what was built is hardened, read from every program, library and object
of POSTERN_BUILD by readelf.

The bare guest (tests/bare) is none of them: it is freestanding and runs as a
guest.
"""
import functools
import json
import os
import pathlib
import re
import shutil
import subprocess

import pytest

TOP = pathlib.Path(__file__).resolve().parent.parent.parent
BUILD = pathlib.Path(os.environ.get('POSTERN_BUILD', TOP / 'build')).resolve()
BRANCH_MARKS = {'x86': {'IBT', 'SHSTK'}, 'AArch64': {'BTI', 'PAC'}}
# Each of these becomes NAME_chk wherever _FORTIFY_SOURCE is on. (A compiler may
# take back those that write to memory, where it sees that they fit.)
FORTIFIED = {'printf', 'fprintf', 'dprintf', 'vprintf', 'vfprintf', 'asprintf', 'vasprintf'}

pytestmark = pytest.mark.skipif(
    not shutil.which('readelf') or not shutil.which(
        'meson') or not (BUILD / 'build.ninja').exists(),
    reason='needs readelf, meson and a build')


@functools.cache
def output(*command):
    """What a command prints; each is run once, and nothing is built meanwhile."""
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, check=True,
                          timeout=120, env=dict(os.environ, LC_ALL='C'))
    return done.stdout.decode('utf-8', 'replace')


def options():
    """The build's options, by name."""
    known = json.loads(output('meson', 'introspect', '--buildoptions', BUILD))
    return {option['name']: option['value'] for option in known}


def linked():
    """Programs and shared libraries that the build makes and has made."""
    targets = json.loads(output('meson', 'introspect', '--targets', BUILD))
    paths = [pathlib.Path(name) for target in targets for name in target['filename']
             if target['type'] in ('executable', 'shared library')]
    return [path for path in paths if path.exists()]


def objects():
    """What the compiler made of each source file."""
    return sorted(BUILD.glob('**/*.p/*.o'))


def wrong(paths, look):
    """{path: what look() finds wrong with it}, of those where it finds something; there are files to look at."""
    assert paths
    found = {str(path.relative_to(BUILD)): look(path) for path in paths}
    return {path: what for path, what in found.items() if what}


def undefined(path):
    """The names of the functions that it takes from libraries."""
    return set(re.findall(r'\bUND ([^@\s]+)', output('readelf', '-W', '--dyn-syms', path)))


def not_position_independent(path):
    return '' if re.search(r'Type:\s+DYN\b', output('readelf', '-Wh', path)
                           ) else 'not position independent'


def writable_after_start(path):
    text = output('readelf', '-Wld', path)
    wanted = {'GNU_RELRO': r'^\s*GNU_RELRO\s', 'NOW': r'\(FLAGS_1\)\s+Flags:.*\bNOW\b'}
    missing = [what for what, pattern in wanted.items() if not re.search(pattern, text, re.M)]
    return 'no ' + ', '.join(missing) if missing else ''


def writable_code(path):
    segments = re.findall(r'^\s+(LOAD|GNU_STACK)\s+(?:0x\S+\s+){5}([RWE ]{3})',
                          output('readelf', '-Wl', path), re.M)
    if not {'LOAD', 'GNU_STACK'} <= {name for name, _ in segments}:
        return 'no GNU_STACK'
    return ', '.join(f'{name} {flags}' for name, flags in segments if
                     'E' in flags and ('W' in flags or name == 'GNU_STACK'))


def unprotected_stack(path):
    return '' if '__stack_chk_fail' in undefined(path) else 'no __stack_chk_fail'


def unfortified(path):
    return ', '.join(sorted(undefined(path) & FORTIFIED))


def test_every_program_and_library_is_position_independent():
    assert not wrong(linked(), not_position_independent)


def test_relocations_are_read_only_once_it_has_started():
    assert not wrong(linked(), writable_after_start)


def test_nothing_is_writable_and_executable():
    assert not wrong(linked(), writable_code)


def test_stacks_are_protected():
    assert not wrong(linked(), unprotected_stack)


def test_calls_of_the_c_library_are_fortified():
    built = options()
    if built['b_sanitize'] not in ('none', [], ['none']):
        pytest.skip('the sanitizers see what _FORTIFY_SOURCE would hide from them')
    if built['optimization'] in ('0', 'plain'):
        pytest.skip('_FORTIFY_SOURCE needs optimisation')
    assert not wrong(linked(), unfortified)
    assert any('__snprintf_chk' in undefined(path) for path in linked())


def test_every_object_is_marked_for_the_processors_branch_protection():
    assert objects()
    unmarked = []
    for text in re.split(r'^File: ', output('readelf', '-Wn', *objects()), flags=re.M)[1:]:
        marks = {
    word for line in re.findall(
        r'(?:x86|AArch64) feature: (.*)',
         text) for word in line.split(', ')}
        if not any(wanted <= marks for wanted in BRANCH_MARKS.values()):
            unmarked.append(text.split('\n', 1)[0])
    assert not unmarked
