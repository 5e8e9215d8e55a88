# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""tools/check_names and tools/lint, in a small tree of the test's own."""
import importlib.machinery
import importlib.util
import pathlib
import shutil
import subprocess
import sys

import pytest

TOP = pathlib.Path(__file__).resolve().parent.parent.parent
needs_clang_format = pytest.mark.skipif(not shutil.which('clang-format') or not shutil.which('git'),
                                        reason='needs clang-format and git')
FUNCTION = 'static int %s(int a,\n\t\tint b)\n{\n\treturn a + b;\n}\n'


@pytest.fixture(name='tree')
def tree_fixture(tmp_path):
    """A tree with the tool and two areas."""
    (tmp_path / 'tools').mkdir()
    shutil.copy(TOP / 'tools/check_names', tmp_path / 'tools')
    allow(tmp_path)
    for area in ('queue', 'arch', 'tests'):
        (tmp_path / area).mkdir()
        (tmp_path / area / 'meson.build').touch()
    return tmp_path


def allow(tree, *names):
    (tree / 'tools/names-shared').write_text('# a comment\n' + ''.join(n + '\n' for n in names), 'ascii')


def put(tree, name, text):
    (tree / name).parent.mkdir(exist_ok=True)
    (tree / name).write_text(text, 'ascii')


def names(tree, *words):
    done = subprocess.run([tree / 'tools/check_names', *words], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, timeout=60, check=False)
    return done.returncode, done.stdout


def test_a_name_of_two_files_is_an_error_that_names_both(tree):
    put(tree, 'queue/a.c', FUNCTION % 'pop')
    assert names(tree)[0] == 0
    put(tree, 'arch/b.c', FUNCTION % 'pop')
    code, said = names(tree)
    assert code == 1 and 'pop: in arch/b.c, queue/a.c' in said


def test_a_name_on_the_list_passes_and_is_taken_off_when_it_is_shared_no_more(tree):
    put(tree, 'queue/a.c', FUNCTION % 'pop')
    put(tree, 'arch/b.c', FUNCTION % 'pop')
    allow(tree, 'pop', 'push')
    code, said = names(tree)
    assert code == 0 and 'shared no more: push' in said
    put(tree, 'arch/b.c', FUNCTION % 'arch_pop')
    assert names(tree, '--shrink')[0] == 0
    assert 'pop' not in (tree / 'tools/names-shared').read_text('ascii')
    put(tree, 'arch/b.c', FUNCTION % 'pop')
    assert names(tree)[0] == 1


def test_files_of_which_a_program_has_one_share_nothing(tree):
    for arch in ('x86', 'arm64'):
        put(tree, f'arch/{arch}/a.c', FUNCTION % 'walk')
        put(tree, f'queue/board_{arch}.c', FUNCTION % 'wire')
        put(tree, f'queue/{arch}.c', (FUNCTION % 'queue_open').replace('static ', ''))
    put(tree, 'tests/a.c', FUNCTION % 'walk')
    assert names(tree)[0] == 0
    put(tree, 'queue/b.c', FUNCTION % 'walk')
    assert names(tree)[0] == 1


def lint_module():
    """tools/lint, imported."""
    sys.path.insert(0, str(TOP / 'tools'))
    loader = importlib.machinery.SourceFileLoader('postern_lint', str(TOP / 'tools/lint'))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    loader.exec_module(module)
    return module


@needs_clang_format
@pytest.mark.parametrize('line, wrong', [('\tint a = 1;', 0), ('\tint a=1;', 1), ('    int a = 1;', 1),
                                         ('\tint a = 1;\t\t/* a comment */', 0)])
def test_lint_counts_lines_that_clang_format_would_change(tmp_path, monkeypatch, line, wrong):
    lint = lint_module()
    monkeypatch.setattr(lint, 'TOP', tmp_path)
    shutil.copy(TOP / '.clang-format', tmp_path)
    (tmp_path / 'a.c').write_text('void f(void)\n{\n%s\n}\n' % line, 'ascii')
    assert lint.unformatted('a.c') == wrong
