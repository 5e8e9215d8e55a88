# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""What of the work tree goes into a lab (lab/host.py). Boots no lab."""
import pathlib
import shutil
import subprocess
import sys

import pytest

TOP = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(TOP / 'lab'))

import host  # noqa: E402


@pytest.fixture(name='tree')
def tree_fixture(tmp_path):
    """A work tree with two builds; the lab gets one of them otherwise."""
    for name in ('Makefile', 'lab/run', 'build/build.ninja',
                 'build/x', 'other/build.ninja', 'other/y'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def files(tree):
    return sorted(host.tree_files(str(tree), str(tree / 'build')))


def test_without_git_it_is_what_lies_there_but_builds(tree, monkeypatch, tmp_path_factory):
    monkeypatch.setenv('PATH', str(tmp_path_factory.mktemp('empty')))
    assert files(tree) == ['Makefile', 'lab/run']


def test_where_there_is_no_repository(tree, monkeypatch):
    monkeypatch.setenv('GIT_CEILING_DIRECTORIES', str(tree.parent))
    assert files(tree) == ['Makefile', 'lab/run']


@pytest.mark.skipif(not shutil.which('git'), reason='needs git')
def test_of_a_repository_it_is_what_git_would_take(tree):
    (tree / '.gitignore').write_text('/build/\n/other/\n')
    (tree / 'ignored.o').touch()
    (tree / '.git' / 'info').mkdir(parents=True)
    subprocess.run(['git', '-C', tree, 'init', '-q'], check=True)
    with open(tree / '.git/info/exclude', 'a', encoding='ascii') as file:
        file.write('*.o\n')
    assert files(tree) == ['.gitignore', 'Makefile', 'lab/run']
