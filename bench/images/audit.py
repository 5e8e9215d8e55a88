# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""What has to be true between two rounds: of a place's objects, and of what
processes hold.

Nothing here is what postern says of itself, where it can be seen otherwise.
"""

import os
import re
import statistics

RSS_SLACK_KIB = 1024    # what an allocator may keep
WARM = 20               # rounds at least, and a third of all, until it has what it keeps


class Wrong(AssertionError):
    """What the soak is there to find."""


def garbage(objects, manifests):
    """Names of objects that no whole image needs (docs/image.md). manifests:
    {name: its content}."""
    ids = {name: manifest['id'] for name, manifest in manifests.items()}
    packs = set(ids.items())
    for manifest in manifests.values():
        packs |= {(other['name'], other['id']) for other in manifest['images']}
    left = []
    for name in objects:
        image, _, what = name.rpartition('/')
        if what in ('manifest.json', 'working-set'):
            needed = image in ids
        elif re.fullmatch(r'pack-\d+\.[0-9a-f]{32}', what):
            needed = (image, what[-32:]) in packs
        else:
            needed = what[-33:] == '.' + ids.get(image, '?')
        if not needed:
            left.append(name)
    return sorted(left)


def _read(path):
    with open(path, encoding='utf-8', errors='replace') as f:
        return f.read()


def processes_of(word):
    """{pid: command line} of those that have this in their command line or
    their environment, without this process."""
    out = {}
    for pid in filter(str.isdigit, os.listdir('/proc')):
        try:
            line = _read('/proc/%s/cmdline' % pid).replace('\0', ' ')
            if word in line or word in _read('/proc/%s/environ' % pid):
                out[int(pid)] = line
        except OSError:
            continue                # it has just ended, or is not ours
    out.pop(os.getpid(), None)
    return out


def is_keeper(line):
    """The process that keeps a share, by its command line."""
    return ' share-keeper ' in line


def held(pid):
    """What a process holds: descriptors, threads, resident KiB, memfds and
    what of them is in memory, in KiB."""
    out = {'fds': 0, 'threads': len(os.listdir('/proc/%d/task' % pid)), 'memfds': 0}
    for fd in os.listdir('/proc/%d/fd' % pid):
        path = '/proc/%d/fd/%s' % (pid, fd)
        try:
            target = os.readlink(path)
            if target.startswith('/memfd:'):
                out['memfds'] += 1
                out['memfd-kib'] = out.get('memfd-kib', 0) + os.stat(path).st_blocks // 2
        except OSError:
            continue
        out['fds'] += 1
    status = _read('/proc/%d/status' % pid)
    out['rss'] = int(re.search(r'^VmRSS:\s+(\d+)', status, re.M)[1])
    return out


class Watch:
    """What long-lived processes hold, round after round."""

    def __init__(self):
        self.seen = {}          # {who: [held]}

    def note(self, who, pid):
        """Once a round, when nothing is under way there."""
        self.seen.setdefault(who, []).append(held(pid))

    def grown(self):
        """({who: {what: (at first, in the end)}}, [a line on what has grown])."""
        figures, lines = {}, []
        for who, all_rows in self.seen.items():
            warm = len(all_rows) > 2 * WARM
            slack = {'rss': RSS_SLACK_KIB if warm else float('inf')}
            rows = all_rows[max(WARM, len(all_rows) // 3):] if warm else all_rows
            part = max(1, len(rows) // 5)
            for what in rows[-1]:
                first = statistics.median(row.get(what, 0) for row in rows[:part])
                last = statistics.median(row.get(what, 0) for row in rows[-part:])
                figures.setdefault(who, {})[what] = (first, last)
                if last > first + slack.get(what, 0):
                    lines.append('%s: %s grow from %g to %g' % (who, what, first, last))
        return figures, lines
