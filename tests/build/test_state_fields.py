# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""What is saved stays readable: the fields of every state are as tests/golden/fields says, and
docs/state.md names the version of each that is recorded."""
import pathlib
import re

TOP = pathlib.Path(__file__).resolve().parent.parent.parent
GOLDEN = TOP / 'tests/golden'
FIELD = re.compile(r'(repeated\s+)?([\w.]+)\s+(\w+)\s*=\s*(\d+)\s*;')
# In no golden file: they need a host of arm64, RAM above 3 GiB, an operator's reset that waits.
UNSEEN = {'postern.device.MachineRange.gpa', 'postern.device.MachineState.reset_by_host'}
DEVICES = {'serial': 'SerialState', 'power': 'PowerState', 'rtc': 'RtcState',
           'identity': 'IdentityState',
           'pci-host': 'PciHostState'}
OWN = {'virtio-blk': 'DiskState', 'virtio-net': 'NetState', 'virtio-balloon': 'BalloonState'}


def states():
    """The .proto files of states."""
    areas = ('arch', 'device', 'machine')
    return [path for area in areas for path in sorted((TOP / area).rglob('*.proto'))]


def fields(text):
    """The lines of tests/golden/fields that a .proto file comes to; it has no nested messages."""
    text = re.sub(r'//[^\n]*', '', text)
    package = re.search(r'package\s+([\w.]+)\s*;', text).group(1)
    found = []
    for message, body in re.findall(r'message\s+(\w+)\s*{([^{}]*)}', text):
        for repeated, kind, name, number in FIELD.findall(body):
            kind = ('repeated ' if repeated else '') + kind
            found.append(f'{package}.{message} {number} {name} {kind}')
    return found


def test_fields_are_those_that_were_recorded():
    """One that is gone or is another now cannot be read any more; a new one wants a thought."""
    recorded = (GOLDEN / 'fields').read_text().splitlines()
    present = [line for path in states() for line in fields(path.read_text())]
    gone = sorted(set(recorded) - set(present))
    new = sorted(set(present) - set(recorded))
    due = 'docs/state.md, "What a change needs"'
    assert not gone, f'no longer there, or not as they were ({due}): ' + '; '.join(gone)
    assert not new, f'new ({due}; then they go into tests/golden/fields): ' + '; '.join(new)


def test_every_number_is_used_once():
    """Also one that is reserved."""
    for path in states():
        text = re.sub(r'//[^\n]*', '', path.read_text())
        for message, body in re.findall(r'message\s+(\w+)\s*{([^{}]*)}', text):
            numbers = [number for _, _, _, number in FIELD.findall(body)]
            for line in re.findall(r'reserved([^;"]*);', body):
                numbers += re.findall(r'\d+', line)
            assert len(set(numbers)) == len(numbers), f'{path.relative_to(TOP)}: {message}'


def test_what_is_recorded_is_documented():
    """Each device's newest golden file is of the version that docs/state.md names."""
    newest = {}
    for path in (GOLDEN / 'devices').glob('*.state'):
        match = re.fullmatch(r'([a-z-]+?)\d*-(\d+)\.state', path.name)
        if match:
            newest[match.group(1)] = max(newest.get(match.group(1), 0), int(match.group(2)))
    text = (TOP / 'docs/state.md').read_text()
    documented = dict(re.findall(r'^\| `([a-z-]+)` \| (\d+) \|', text, re.M))
    assert newest
    assert {name: str(version) for name, version in newest.items()} == documented


def varint(data, at):
    """The number that begins at `at`, and where it ends."""
    value = shift = 0
    while True:
        value |= (data[at] & 0x7f) << shift
        shift += 7
        at += 1
        if data[at - 1] < 0x80:
            return value, at


def wire(data):
    """(number, content) of each field: bytes, or None."""
    at = 0
    while at < len(data):
        tag, at = varint(data, at)
        content = None
        if tag & 7 == 0:
            _, at = varint(data, at)
        elif tag & 7 == 2:
            length, at = varint(data, at)
            content = data[at:at + length]
            at += length
        else:
            at += {1: 8, 5: 4}[tag & 7]
        yield tag >> 3, content


def walk(known, message, data, device, seen):
    """Adds the names of all fields that the message has."""
    package = message.rsplit('.', 1)[0]
    for number, content in wire(data):
        name, kind = known[message][number]
        seen.add(f'{message}.{name}')
        inner = {f'{package}.VirtioState.function': 'PciFunctionState',
                 f'{package}.PciHostState.function': 'PciFunctionState',
                 f'{package}.VirtioState.own': OWN.get(device)}.get(f'{message}.{name}', kind)
        if content and f'{package}.{inner}' in known:
            walk(known, f'{package}.{inner}', content, device, seen)


def test_every_field_is_in_a_golden_file():
    """What is recorded nowhere may change its meaning and nobody sees."""
    known = {}
    for line in (GOLDEN / 'fields').read_text().splitlines():
        message, number, name, kind = line.split(' ', 3)
        known.setdefault(message, {})[int(number)] = (name, kind.replace('repeated ', ''))
    seen = set()
    for path in (GOLDEN / 'devices').glob('*.state'):
        device = re.match(r'[a-z-]*[a-z]', path.name).group()
        message = DEVICES.get(device, 'VirtioState')
        walk(known, f'postern.device.{message}', path.read_bytes(), device, seen)
    for path in (GOLDEN / 'arch').glob('x86-*.state'):
        message = 'VmState' if '-vm-' in path.name else 'VcpuState'
        walk(known, f'x86.{message}', path.read_bytes(), None, seen)
    for path in (GOLDEN / 'machines').glob('*.state'):
        walk(known, 'postern.device.MachineState', path.read_bytes(), None, seen)
    unseen = {f'{message}.{name}' for message, of in known.items() for name, _ in of.values()
              if not message.startswith('arm64.')} - seen
    assert unseen == UNSEEN
