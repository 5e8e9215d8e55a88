# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""An S3 server for tests, in memory: it checks signatures as Amazon describes them (SigV4), knows conditions, parts and lists.

    with S3(buckets=['images'], page=3) as server:
        server.url('images/prefix'); server.env; server.objects[('images', 'prefix/a')]; server.uploads

`refuse`: a function of (method, path) that returns a status to answer with instead, or None.
"""

import hashlib
import hmac
import http.server
import itertools
import re
import sys
import threading
import time
import urllib.parse
from xml.sax.saxutils import escape

KEY, SECRET, REGION = 'AKPOSTERN', 'geheim/+=geheim', 'eu-test-1'
UNRESERVED = '-._~'


def _quote(text, safe=''):
    return urllib.parse.quote(text, safe=UNRESERVED + safe)


def _sign(key, text):
    return hmac.new(key, text.encode(), hashlib.sha256).digest()


def signature_flaw(method, raw_path, headers, secret=SECRET, token=None):
    """None, or why a request is not signed as it has to be."""
    match = re.fullmatch(r'AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/s3/aws4_request, ?SignedHeaders=([^,]+), ?Signature=([0-9a-f]{64})',
                         headers.get('Authorization', ''))
    if not match:
        return 'no signature'
    key, day, region, signed, signature = match.groups()
    if key != KEY or region != REGION:
        return 'key or region'
    names = signed.split(';')
    if names != sorted(names) or not {'host', 'x-amz-date', 'x-amz-content-sha256'} <= set(names):
        return 'signed headers: %s' % signed
    if token and ('x-amz-security-token' not in names or headers['x-amz-security-token'] != token):
        return 'session token'
    path, _, query = raw_path.partition('?')
    pairs = sorted((_quote(name), _quote(value)) for name, value in urllib.parse.parse_qsl(query, keep_blank_values=True))
    canonical = '\n'.join([
        method, '/'.join(_quote(urllib.parse.unquote(part)) for part in path.split('/')),
        '&'.join('%s=%s' % pair for pair in pairs),
        *('%s:%s' % (name, ' '.join(headers[name].split())) for name in names), '', signed,
        headers['x-amz-content-sha256']])
    stamp = headers['x-amz-date']
    if not stamp.startswith(day) or abs(time.mktime(time.strptime(stamp, '%Y%m%dT%H%M%SZ')) - time.timezone - time.time()) > 900:
        return 'time'
    scope = '%s/%s/s3/aws4_request' % (day, region)
    text = '\n'.join(['AWS4-HMAC-SHA256', stamp, scope, hashlib.sha256(canonical.encode()).hexdigest()])
    made = ('AWS4' + secret).encode()
    for part in (day, region, 's3', 'aws4_request'):
        made = _sign(made, part)
    return None if hmac.compare_digest(_sign(made, text).hex(), signature) else 'signature of %r' % canonical


class Refused(Exception):
    """A status, and S3's code for it."""

    def __init__(self, status, code):
        super().__init__(code)
        self.status, self.code = status, code


class _Server(http.server.ThreadingHTTPServer):
    """Says nothing of clients that have gone, as a save does that is cancelled."""

    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    disable_nagle_algorithm = True      # or the end of an answer waits for the client's ACK

    def log_message(self, *_):
        """Says nothing."""

    def say(self, status, body=b'', **fields):
        """An answer; of HEAD its head."""
        self.send_response(status)
        for name, value in fields.items():
            self.send_header(name.replace('_', '-'), value)
        if status != 204:
            self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        if self.command != 'HEAD':
            self.wfile.write(body)

    def serve(self):
        """Any request."""
        body = self.rfile.read(int(self.headers.get('Content-Length') or 0))
        s3 = self.server.s3
        path, _, query = self.path.partition('?')
        bucket, _, key = urllib.parse.unquote(path[1:]).partition('/')
        query = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
        with s3.lock:
            s3.requests.append((self.command, self.path))
            try:
                status = s3.refuse(self.command, self.path) if s3.refuse else None
                if status:
                    raise Refused(status, 'Refused')
                flaw = signature_flaw(self.command, self.path, self.headers, token=s3.token)
                if flaw:
                    s3.flaws.append(flaw)
                    raise Refused(403, 'SignatureDoesNotMatch')
                if bucket not in s3.buckets:
                    raise Refused(404, 'NoSuchBucket')
                getattr(self, 'do_' + ('part_' if 'uploadId' in query or 'uploads' in query else 'object_') + self.command.lower())(bucket, key, query, body)
            except Refused as refused:
                self.say(refused.status, b'<?xml version="1.0"?><Error><Code>%s</Code><Message>no</Message></Error>' % refused.code.encode())

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = serve

    def find(self, bucket, key):
        """An object's bytes."""
        if (bucket, key) not in self.server.s3.objects:
            raise Refused(404, 'NoSuchKey')
        return self.server.s3.objects[bucket, key]

    def tag(self, bucket, key):
        """An object's ETag; made once, since it is asked for with every range of a pack."""
        data, tags = self.find(bucket, key), self.server.s3.tags
        if tags.get((bucket, key), (None, None))[0] is not data:
            tags[bucket, key] = data, _etag(data)
        return tags[bucket, key][1]

    def do_object_head(self, bucket, key, _query, _body):
        """Is it there?"""
        data = self.find(bucket, key)
        self.say(200, data, ETag=self.tag(bucket, key))

    def do_object_get(self, bucket, key, query, _body):
        """A range, or a list."""
        if not key:
            self.list(bucket, query)
            return
        data = self.find(bucket, key)
        etag = self.tag(bucket, key)
        if self.headers.get('If-Match') not in (None, etag):
            raise Refused(412, 'PreconditionFailed')
        if 'Range' not in self.headers:
            self.say(200, data, ETag=etag)
            return
        first, last = (int(n) for n in re.fullmatch(r'bytes=(\d+)-(\d+)', self.headers['Range']).groups())
        if first >= len(data):
            raise Refused(416, 'InvalidRange')
        last = min(last, len(data) - 1)
        self.say(206, data[first:last + 1], ETag=etag, Content_Range='bytes %d-%d/%d' % (first, last, len(data)))

    def list(self, bucket, query):
        """ListObjectsV2."""
        prefix, after = query.get('prefix', ''), query.get('continuation-token', '')
        assert query['list-type'] == '2'
        found = {}
        for name, key in self.server.s3.objects:
            if name == bucket and key.startswith(prefix):
                rest, slash, _ = key[len(prefix):].partition('/')
                folder = query.get('delimiter') == '/' and slash
                found[prefix + rest + '/' if folder else key] = None if folder else len(self.server.s3.objects[name, key])
        names = sorted(name for name in found if name > after)
        page, rest = names[:self.server.s3.page], names[self.server.s3.page:]
        quote = _quote if query.get('encoding-type') == 'url' else escape
        out = ['<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">']
        out += ['<EncodingType>url</EncodingType>'] if 'encoding-type' in query else []
        out += ['<IsTruncated>true</IsTruncated><NextContinuationToken>%s</NextContinuationToken>' % escape(page[-1])] if rest else []
        for name in page:
            out.append('<CommonPrefixes><Prefix>%s</Prefix></CommonPrefixes>' % quote(name) if found[name] is None else
                       '<Contents><Key>%s</Key><Size>%d</Size></Contents>' % (quote(name), found[name]))
        self.say(200, ''.join(out + ['</ListBucketResult>']).encode(), Content_Type='application/xml')

    def store(self, bucket, key, data):
        """Writes an object, unless it is to be new and is not."""
        if self.headers.get('If-None-Match') == '*' and (bucket, key) in self.server.s3.objects:
            raise Refused(412, 'PreconditionFailed')
        self.server.s3.objects[bucket, key] = data

    def do_object_put(self, bucket, key, _query, body):
        """Writes one at once."""
        self.store(bucket, key, body)
        self.say(200, ETag=_etag(body))

    def do_object_delete(self, bucket, key, _query, _body):
        """Removes one, there or not."""
        self.server.s3.objects.pop((bucket, key), None)
        self.say(204)

    def do_part_post(self, bucket, key, query, body):
        """Begins an upload, or ends one."""
        s3 = self.server.s3
        if 'uploads' in query:
            upload = 'upload/%d+=' % next(s3.numbers)
            s3.uploads[upload] = {}
            self.say(200, b'<InitiateMultipartUploadResult><UploadId>%s</UploadId></InitiateMultipartUploadResult>' % upload.encode())
            return
        parts = s3.uploads[query['uploadId']]
        listed = re.findall(rb'<PartNumber>(\d+)</PartNumber><ETag>([^<]*)</ETag>', body)
        if [(int(n), tag.decode()) for n, tag in listed] != [(n, _etag(parts[n])) for n in sorted(parts)]:
            raise Refused(400, 'InvalidPart')
        self.store(bucket, key, b''.join(parts[n] for n in sorted(parts)))
        del s3.uploads[query['uploadId']]
        self.say(200, b'<CompleteMultipartUploadResult><Key>x</Key></CompleteMultipartUploadResult>')

    def do_part_put(self, _bucket, _key, query, body):
        """A part."""
        self.server.s3.uploads[query['uploadId']][int(query['partNumber'])] = body
        self.say(200, ETag=_etag(body))

    def do_part_delete(self, _bucket, _key, query, _body):
        """Gives an upload up."""
        if self.server.s3.uploads.pop(query['uploadId'], None) is None:
            raise Refused(404, 'NoSuchUpload')
        self.say(204)


def _etag(data):
    return '"%s"' % hashlib.md5(data).hexdigest()


class S3:
    """The server, on a thread of its own."""

    def __init__(self, buckets=('images',), page=1000, token=None):
        self.buckets, self.page, self.token = set(buckets), page, token
        self.objects, self.uploads, self.requests, self.flaws = {}, {}, [], []
        self.tags = {}          # (bucket, key) -> the bytes and their ETag
        self.numbers = itertools.count()
        self.lock = threading.RLock()
        self.refuse = None
        self.httpd = _Server(('127.0.0.1', 0), _Handler)
        self.httpd.daemon_threads = True
        self.httpd.s3 = self
        self.endpoint = 'http://127.0.0.1:%d' % self.httpd.server_address[1]
        self.thread = threading.Thread(target=self.httpd.serve_forever, args=(0.05,))

    @property
    def env(self):
        """Who may ask."""
        env = {'AWS_ACCESS_KEY_ID': KEY, 'AWS_SECRET_ACCESS_KEY': SECRET, 'AWS_REGION': REGION}
        return dict(env, AWS_SESSION_TOKEN=self.token) if self.token else env

    def url(self, place):
        """Of a bucket, or a bucket/prefix."""
        return 's3://%s?endpoint=%s' % (_quote(place, '/'), self.endpoint)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *exc):
        self.httpd.shutdown()
        self.thread.join()
        self.httpd.server_close()
