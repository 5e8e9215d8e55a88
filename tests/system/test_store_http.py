# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""Stores at a real web server: nginx, as Debian has it. Misbehaviour that it cannot be brought to is tests/unit/store's."""

import os
import random
import subprocess
import threading

import pytest

from harness.webs import Nginx, certificate, fails, get, tool
from harness.waiting import wait_for

MIB = 1 << 20
ONCE = ('--attempts', 1)


def content(n, seed=1):
    return random.Random(seed).randbytes(n)


@pytest.fixture(name='server')
def _server(tmp_path):
    with Nginx(tmp_path) as server:
        yield server


def test_ranges_are_read(server):
    data = content(3 * MIB)
    server.write('image/pack-0', data)
    assert get(server.url, 'image/pack-0', 0, len(data)) == data
    assert get(server.url, 'image/pack-0', 12345, 65536) == data[12345:12345 + 65536]
    code, out, _ = tool(server.url, 'up-to', 'image/pack-0', len(data) - 7, 100)
    assert code == 0 and out == data[-7:]
    assert tool(server.url, 'up-to', 'image/pack-0', len(data), 100)[:2] == (0, b'')
    name, text = fails(*ONCE, server.url, 'get', 'image/pack-0', len(data) - 7, 100)
    assert name == 'EBADMSG' and 'image/pack-0' in text and str(len(data)) in text
    assert fails(*ONCE, server.url, 'get', 'image/pack-0', len(data) + 7, 100)[0] == 'EBADMSG'
    assert fails(server.url, 'get', 'image/pack-1', 0, 1)[0] == 'ENOENT'


def test_empty_objects_are_read(server):
    server.write('empty', b'')
    assert tool(server.url, 'up-to', 'empty', 0, 100)[:2] == (0, b'')
    assert fails(*ONCE, server.url, 'get', 'empty', 0, 1)[0] == 'EBADMSG'


def test_objects_are_written_and_removed(server):
    data = content(20 * MIB)
    assert tool(server.url + '/a', 'put', 'b/c', data=data)[0] == 0
    with open(os.path.join(server.files, 'a/b/c'), 'rb') as file:
        assert file.read() == data
    assert get(server.url + '/a', 'b/c', 5 * MIB, MIB) == data[5 * MIB:6 * MIB]
    assert tool(server.url + '/a', 'put', 'b/c', data=b'other')[0] == 0
    assert get(server.url + '/a', 'b/c', 0, 5) == b'other'
    assert tool(server.url + '/a', 'delete', 'b/c')[0] == 0
    assert not os.path.exists(os.path.join(server.files, 'a/b/c'))
    assert tool(server.url + '/a', 'delete', 'b/c')[0] == 0


def test_new_objects_do_not_replace_others(server):
    """nginx overwrites whatever a condition says: it is asked before, and that is told of."""
    code, _, err = tool(server.url, 'new', 'claim', data=b'mine')
    assert code == 0 and 'although it is told not to' in err, err
    assert fails(server.url, 'new', 'claim', data=b'yours')[0] == 'EEXIST'
    assert get(server.url, 'claim', 0, 4) == b'mine'


def test_there_is_no_list(server):
    name, text = fails(server.url, 'list', '')
    assert name in ('ENOTSUP', 'EOPNOTSUPP') and 'has no list' in text


def test_a_name_in_the_url_with_odd_characters_reaches_the_server(server):
    server.write('odd +&= name/x', b'here')
    assert get(server.url + '/odd%20%2b&%3D%20name', 'x', 0, 4) == b'here'


def test_a_server_that_is_not_there_is_told_of_and_may_come_back(server):
    server.write('x', b'here')
    server.kill()
    name, text = fails(*ONCE, server.url, 'get', 'x', 0, 4)
    assert name == 'EAGAIN' and 'onnect' in text
    done = {}
    thread = threading.Thread(target=lambda: done.update(got=tool('--attempts', 30, '--deadline-ms', 30000, server.url, 'get', 'x', 0, 4)))
    thread.start()
    server.start()
    thread.join()
    assert done['got'][:2] == (0, b'here')


def test_a_server_that_hangs_is_given_up(server):
    server.write('x', b'here')
    server.freeze()
    try:
        name, _ = fails(*ONCE, server.url + '?timeout=1', 'get', 'x', 0, 4)
        assert name == 'EAGAIN'
        name, _ = fails(*ONCE, '--attempt-ms', 300, server.url, 'get', 'x', 0, 4)
        assert name == 'ETIMEDOUT'
    finally:
        server.thaw()
    assert get(server.url, 'x', 0, 4) == b'here'


def test_a_server_that_dies_within_an_answer_is_told_of(tmp_path):
    data = content(4 * MIB)
    with Nginx(tmp_path, location='limit_rate 256k;') as server:
        server.write('x', data)
        done = {}
        thread = threading.Thread(target=lambda: done.update(got=tool(*ONCE, server.url, 'get', 'x', 0, len(data))))
        thread.start()
        # Its log has no line before an answer's end: but the connection is there.
        wait_for(lambda: 'ESTAB' in subprocess.run(['ss', '-Htn', 'sport', '= :%d' % server.port], stdout=subprocess.PIPE,
                                                   text=True, check=True).stdout, 20)
        server.kill()
        thread.join()
        code, _, err = done['got']
        assert code == 1 and err.startswith('EAGAIN'), err


def test_limits_of_a_server_may_be_asked_again(tmp_path):
    with Nginx(tmp_path, http='limit_req_zone $binary_remote_addr zone=few:1m rate=30r/m;',
               location='limit_req zone=few; limit_req_status 429;') as server:
        server.write('x', b'here')
        for _ in range(2):
            assert get(server.url, 'x', 0, 4, '--attempts', 20) == b'here'
        assert any(' 429 ' in line for line in server.log())


def test_statuses_have_their_errors(tmp_path):
    with Nginx(tmp_path, server='''
            location /401 { return 401; } location /403 { return 403; } location /503 { add_header Retry-After 9 always; return 503; }
            location /404 { return 404; } location /500 { return 500; }''') as server:
        for status, error in (('401', 'EACCES'), ('403', 'EACCES'), ('404', 'ENOENT'), ('500', 'EAGAIN'), ('503', 'EAGAIN')):
            name, text = fails(*ONCE, server.url + '/' + status, 'get', 'x', 0, 4)
            assert name == error and status in text, text
            assert status != '503' or 'in 9 s' in text, text


def test_a_server_without_ranges_gives_what_lies_near(tmp_path):
    data = content(16 * MIB)
    with Nginx(tmp_path, location='max_ranges 0;') as server:
        server.write('x', data)
        assert get(server.url, 'x', MIB, 65536) == data[MIB:MIB + 65536]
        name, text = fails(*ONCE, server.url, 'get', 'x', 8 * MIB, 65536)
        assert name == 'EBADMSG' and 'ignores ranges' in text


def test_an_object_that_is_compressed_on_the_way_is_read_all_the_same(tmp_path):
    """nginx compresses for who accepts it; nobody here does."""
    data = b'abc' * 100000
    with Nginx(tmp_path, location='gzip on; gzip_types *; gzip_min_length 1;') as server:
        server.write('x', data)
        assert get(server.url, 'x', 3000, 30000) == data[3000:33000]


def test_connections_are_kept(server):
    server.write('x', content(32 * MIB))
    code, out, err = tool(server.url, 'time', 'x', 65536, 50)
    assert code == 0, err
    assert out.startswith(b'p50 ')
    with open('/proc/%d/stat' % server.process.pid, encoding='ascii') as file:
        assert file.read()
    assert len(server.log()) == 50


def test_encrypted_servers_are_verified(tmp_path):
    cert, key = certificate(tmp_path)
    other, _ = certificate(tmp_path, 'other')
    with Nginx(tmp_path, tls=(cert, key)) as server:
        server.write('x', b'here')
        assert get(server.url + '?cafile=' + cert, 'x', 0, 4) == b'here'
        for url in (server.url, server.url + '?cafile=' + other):
            name, text = fails(*ONCE, url, 'get', 'x', 0, 4)
            assert name == 'EACCES' and 'certificate' in text.lower(), text
        name, text = fails(*ONCE, server.url + '?cafile=/nowhere', 'get', 'x', 0, 4)
        assert name == 'EACCES', text


def test_redirects_never_lead_to_clear_text(tmp_path):
    cert, key = certificate(tmp_path)
    (tmp_path / 'plain').mkdir()
    with Nginx(tmp_path / 'plain') as plain:
        plain.write('x', b'here')
        with Nginx(tmp_path, tls=(cert, key), server='''
                location /down/ { rewrite ^/down/(.*) http://127.0.0.1:%d/$1 redirect; }
                location /over/ { rewrite ^/over/(.*) /$1 redirect; }''' % plain.port) as server:
            server.write('x', b'here')
            assert get(server.url + '/over?cafile=' + cert, 'x', 0, 4) == b'here'
            name, text = fails(server.url + '/down?cafile=' + cert, 'get', 'x', 0, 4)
            assert name == 'EPROTO' and 'not encrypted' in text
            assert not plain.log()


def test_a_login_comes_from_a_file_or_the_environment(tmp_path):
    users = tmp_path / 'users'
    users.write_text('me:{PLAIN}geheim\n')
    login = tmp_path / 'login'
    login.write_text('[default]\nuser = me\npassword = geheim\n')
    with Nginx(tmp_path, location='auth_basic "x"; auth_basic_user_file %s;' % users) as server:
        server.write('x', b'here')
        assert fails(server.url, 'get', 'x', 0, 4)[0] == 'EACCES'
        assert get(server.url, 'x', 0, 4, '--credentials', login) == b'here'
        env = {'POSTERN_HTTP_USER': 'me', 'POSTERN_HTTP_PASSWORD': 'geheim'}
        assert get(server.url, 'x', 0, 4, env=env) == b'here'
        name, text = fails(server.url, 'get', 'x', 0, 4, env=dict(env, POSTERN_HTTP_PASSWORD='falsch'))
        assert name == 'EACCES' and 'falsch' not in text
        assert fails(server.url.replace('://', '://me:geheim@'), 'get', 'x', 0, 4)[0] == 'EINVAL'
