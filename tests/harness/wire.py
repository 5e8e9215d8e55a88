# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""The migration protocol's bytes (docs/wire.md), for tests that play a side of it by hand."""

import ctypes
import os
import struct

VERSION = 2
CONTROL, URGENT, BULK = range(3)
PREFACE_BYTES = 64
FRAME_BYTES = HANDSHAKE_BYTES = 40
MESSAGE, PAGES, ZERO, REQUEST, LOST = range(1, 6)
PAGE = 4096


def xxh3(data):
    """XXH3 of data with 64 bits, by the library that postern is linked with."""
    library = ctypes.CDLL('libxxhash.so.0')
    library.XXH3_64bits.restype = ctypes.c_uint64
    library.XXH3_64bits.argtypes = [ctypes.c_char_p, ctypes.c_size_t]
    return library.XXH3_64bits(bytes(data), len(data))


def summed(data):
    """With its checksum behind it."""
    return data + struct.pack('<Q', xxh3(data))


def preface(channel, session, epoch=0, kind=0, version=VERSION):
    """A connection's first bytes; kind: of proof, 1 HMAC-SHA256."""
    return summed(struct.pack('<8sHHI16s16sH6x', b'POSTERN', version, channel, epoch, session, os.urandom(16), kind))


def challenge(kind, version=VERSION):
    """A destination's answer to a preface."""
    return summed(struct.pack('<8sHHI16s', b'PSTCHAL', version, kind, 0, os.urandom(16)))


def frame(kind, payload=b'', count=0, gfn=0, payload_sum=0):
    """A frame with right checksums."""
    return summed(struct.pack('<IHHIIQQ', 0x46545350, kind, 0, len(payload), count, gfn, payload_sum)) + payload


def pages_frame(gfn, pages):
    """A PAGES frame of these pages' bytes."""
    n = len(pages) // PAGE
    sums = b''.join(struct.pack('<Q', xxh3(pages[i * PAGE:(i + 1) * PAGE])) for i in range(n))
    return frame(PAGES, sums + pages, n, gfn)


def varint(value):
    """A protobuf number."""
    out = bytearray()
    while value > 0x7f:
        out.append(value & 0x7f | 0x80)
        value >>= 7
    return bytes(out + bytes([value]))


def field(number, value):
    """A protobuf field: of a number, or of bytes."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def message(body, content):
    """A MESSAGE frame: an Envelope with a body, by its field's number in wire.proto."""
    envelope = field(body, content)
    return frame(MESSAGE, envelope, payload_sum=xxh3(envelope))


PING = message(14, b'')
