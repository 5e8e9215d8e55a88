# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""Where the soak's images lie: folders and a server of S3, behind one face.

A place has a name, a key that its images are encrypted with or none, a cache
that who restores puts before it or none, and says which objects it has without
asking postern.
"""

import os
import pathlib

from harness.s3 import S3

CACHE_LIMIT = 16 << 20
FLAKY = 37              # of so many requests the server refuses one


class Place:
    """images: {name: Image} of those that are known to be whole."""

    def __init__(self, name, key=None, cache=None):
        self.name, self.key, self.cache, self.images = name, key, cache, {}

    def __str__(self):
        return self.name

    @property
    def key_words(self):
        """Of every command that reads or writes an image here."""
        return ['--key-file', str(self.key)] if self.key else []

    def key_words_of(self, command):
        """Of `postern snapshot COMMAND`, if it takes them."""
        return [] if command in ('list', 'delete') else self.key_words

    @property
    def read_words(self):
        """Of who restores an image that lies here."""
        words = self.key_words
        if self.cache:
            words = words + ['--store-cache', '%s,limit=%d' % (self.cache, CACHE_LIMIT)]
        return words

    def cached_bytes(self):
        """What the cache has; 0 without one."""
        total = 0
        for folder, _, names in os.walk(self.cache) if self.cache else ():
            for name in names:
                try:
                    total += os.stat(os.path.join(folder, name)).st_size
                except FileNotFoundError:
                    pass            # another process has made room
        return total


class Folder(Place):
    """A directory."""

    kind = 'folder'

    def __init__(self, path, **more):
        super().__init__(os.path.basename(path), **more)
        self.path = pathlib.Path(path)
        self.path.mkdir()

    def url(self, image=''):
        """Of an image here, or of all of it."""
        return str(self.path / image) if image else str(self.path)

    def objects(self):
        """{name: bytes} of every file, whatever it is called."""
        found = {}
        for folder, _, names in os.walk(self.path):
            for name in names:
                path = pathlib.Path(folder, name)
                try:
                    found[str(path.relative_to(self.path))] = path.stat().st_size
                except FileNotFoundError:
                    pass            # somebody is at work here
        return found

    def read(self, name):
        """An object's bytes."""
        return (self.path / name).read_bytes()

    def empty_folders(self):
        """Those that have nothing in them."""
        return [folder for folder, folders, names in os.walk(self.path)
                if not folders and not names and folder != str(self.path)]


class Bucket(Place):
    """A prefix of a bucket of an S3 server of tests."""

    kind = 'bucket'

    def __init__(self, server, name, **more):
        super().__init__(name, **more)
        self.server = server

    def url(self, image=''):
        """Of an image here, or of all of it."""
        base, _, query = self.server.url('images/' + self.name).partition('?')
        return '%s%s?%s' % (base, '/' + image if image else '', query)

    def objects(self):
        """{name: bytes}"""
        prefix = self.name + '/'
        with self.server.lock:
            return {key[len(prefix):]: len(data) for (_, key), data in self.server.objects.items()
                    if key.startswith(prefix)}

    def read(self, name):
        """An object's bytes."""
        return self.server.objects['images', '%s/%s' % (self.name, name)]

    def empty_folders(self):
        """There are no folders here."""
        return []


class Server(S3):
    """Refuses a request now and then, which has to be repeated; and ends whoever
    writes, at a request that was chosen before: a moment that no clock hits."""

    def __init__(self):
        super().__init__()
        self.refuse = self._look
        self.httpd.handle_error = lambda *_: None       # clients are killed
        self._left, self._kill, self._done, self._asked = 0, None, False, 0

    def kill_at(self, number, kill, done):
        """Calls kill() when so many more requests that write have come; what
        that one asks for is done nevertheless, or not."""
        with self.lock:
            self._left, self._kill, self._done = number, kill, done

    def disarm(self):
        """What has not come will not."""
        with self.lock:
            self._kill = None

    def _look(self, method, _path):
        self._asked += 1
        if not self._kill or method not in ('PUT', 'POST', 'DELETE'):
            return 503 if self._asked % FLAKY == 0 else None
        self._left -= 1
        if self._left > 0:
            return None
        self._kill()
        self._kill = None
        return None if self._done else 503
