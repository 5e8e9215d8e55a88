# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""What is written for people: the README is short, and no link leads nowhere."""
import pathlib
import re
import shutil
import subprocess

import pytest

TOP = pathlib.Path(__file__).resolve().parent.parent.parent
README = TOP / 'README.md'
LINK = re.compile(r'\]\(([^)\s]+)\)')


def documents():
    if not shutil.which('git') or not (TOP / '.git').exists():
        pytest.skip('needs git, and its checkout')
    names = subprocess.run(['git', '-C', TOP, 'ls-files', '*.md'], stdout=subprocess.PIPE, text=True,
                           timeout=60, check=True).stdout.split()
    return [TOP / name for name in names if (TOP / name).is_file()]


def anchors(path):
    """The names by which a page's headings can be linked to."""
    found = set()
    for heading in re.findall(r'^#+ +(.*)$', path.read_text('utf-8'), re.M):
        text = re.sub(r'\[([^]]*)\]\([^)]*\)', r'\1', heading)
        found.add(re.sub(r'[^\w\- ]', '', text.lower()).strip().replace(' ', '-'))
    return found


def test_the_readme_has_700_words_and_80_columns_at_most():
    text = README.read_text('utf-8')
    assert len(text.split()) <= 700
    assert [line for line in text.splitlines() if len(line) > 80] == []


def test_every_link_leads_to_a_file_and_a_heading_that_there_is():
    wrong = []
    for path in documents():
        for link in LINK.findall(path.read_text('utf-8')):
            if re.match(r'[a-z]+:', link):
                continue
            name, _, anchor = link.partition('#')
            target = (path.parent / name).resolve() if name else path
            if not target.exists() or anchor and anchor not in anchors(target):
                wrong.append('%s: %s' % (path.relative_to(TOP), link))
    assert not wrong


def test_the_index_has_every_page():
    index = (TOP / 'docs/README.md').read_text('utf-8')
    assert [path.name for path in sorted((TOP / 'docs').glob('*.md'))
            if path.name != 'README.md' and '](%s' % path.name not in index] == []
