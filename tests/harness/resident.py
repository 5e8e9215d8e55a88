# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""What a machine has in memory, besides the guest's.

    parts(vm.pid, memory_bytes)     # {what is mapped: KiB}
"""

import os
import re


def parts(pid, memory_bytes):
    """KiB that are resident, by what is mapped there; without the guest's memory, which has to be found."""
    out, found, name, size = {}, 0, None, 0
    with open('/proc/%d/smaps' % pid, encoding='ascii', errors='replace') as f:
        for line in f:
            words = line.split()
            if re.match(r'[0-9a-f]+-[0-9a-f]+$', words[0]):
                start, end = (int(x, 16) for x in words[0].split('-'))
                size = end - start
                name = os.path.basename(words[5]) if len(words) > 5 else 'anonymous'
            elif words[0] == 'Rss:':
                if name == 'anonymous' and size >= memory_bytes:
                    found += 1
                else:
                    out[name] = out.get(name, 0) + int(words[1])
    assert found == 1, 'the memory of the guest is not one mapping: %d' % found
    return out
