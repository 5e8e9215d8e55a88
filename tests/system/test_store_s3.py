# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""Stores at S3 servers: one of the tests' own, which checks each signature, and Ceph's radosgw where it is installed."""

import random

import pytest

from harness.radosgw import RadosGw
from harness.s3 import S3
from harness.webs import fails, get, tool

MIB = 1 << 20
ONCE = ('--attempts', 1)


def content(n, seed=1):
    return random.Random(seed).randbytes(n)


@pytest.fixture(name='ours')
def _ours():
    with S3() as server:
        yield server
        assert not server.flaws


@pytest.fixture(scope='module', params=['ours', 'radosgw'], name='server')
def _server(request, tmp_path_factory):
    with S3(page=3) if request.param == 'ours' else RadosGw(tmp_path_factory.mktemp('ceph')) as server:
        yield server
        assert not server.flaws


def listed(server, place, prefix='', verb='list'):
    code, out, err = tool(server.url(place), verb, prefix, env=server.env)
    assert code == 0, err
    return sorted(out.decode().splitlines())


def test_objects_are_written_read_and_removed(server):
    place, data = 'images/a b+c=d/(e)@f,g:h', content(3 * MIB)
    for name, part in (('pack-0', data), ('empty', b'')):
        code, _, err = tool(server.url(place), 'put', name, data=part, env=server.env)
        assert code == 0, err
    assert get(server.url(place), 'pack-0', 12345, 65536, env=server.env) == data[12345:12345 + 65536]
    assert get(server.url(place), 'pack-0', 0, len(data), env=server.env) == data
    assert tool(server.url(place), 'up-to', 'pack-0', len(data) - 5, 100, env=server.env)[1] == data[-5:]
    assert tool(server.url(place), 'up-to', 'pack-0', len(data), 100, env=server.env)[:2] == (0, b'')
    assert tool(server.url(place), 'up-to', 'empty', 0, 100, env=server.env)[:2] == (0, b'')
    assert fails(*ONCE, server.url(place), 'get', 'pack-0', len(data) - 5, 10, env=server.env)[0] == 'EBADMSG'
    assert listed(server, place) == ['empty 0', 'pack-0 %d' % len(data)]
    for name in ('pack-0', 'empty', 'never'):
        assert tool(server.url(place), 'delete', name, env=server.env)[0] == 0
    assert fails(server.url(place), 'get', 'pack-0', 0, 1, env=server.env)[0] == 'ENOENT'
    assert listed(server, place) == []


def test_long_objects_are_sent_in_parts(server):
    data = content(41 * MIB + 17)
    code, _, err = tool(server.url('images/long'), 'put', 'pack', data=data, env=server.env)
    assert code == 0, err
    assert get(server.url('images/long'), 'pack', 0, len(data), env=server.env) == data
    assert get(server.url('images/long'), 'pack', 8 * MIB - 5, 10, env=server.env) == data[8 * MIB - 5:8 * MIB + 5]
    assert tool(server.url('images/long'), 'delete', 'pack', env=server.env)[0] == 0


def test_new_objects_do_not_replace_others(server):
    place, data = 'images/new', content(20 * MIB)
    for _ in range(2):
        code, _, err = tool(server.url(place), 'new', 'claim', data=b'mine', env=server.env)
        assert code == 0 and 'told not to' not in err, err
        assert fails(server.url(place), 'new', 'claim', data=b'yours', env=server.env)[0] == 'EEXIST'
        assert fails(server.url(place), 'new', 'claim', data=data, env=server.env)[0] == 'EEXIST'
        assert get(server.url(place), 'claim', 0, 4, env=server.env) == b'mine'
        assert tool(server.url(place), 'delete', 'claim', env=server.env)[0] == 0
    assert tool(server.url(place), 'new', 'claim', data=data, env=server.env)[0] == 0
    assert tool(server.url(place), 'delete', 'claim', env=server.env)[0] == 0


def test_lists_are_read_page_by_page(server):
    place = 'images/list 1'
    names = ['%s/pack-%d' % (image, i) for image in ('x', 'y.z') for i in range(4)] + ['top']
    for name in names:
        assert tool(server.url(place), 'put', name, data=b'12345', env=server.env)[0] == 0
    assert listed(server, place) == sorted(name + ' 5' for name in names)
    assert listed(server, place, 'y.') == ['y.z/pack-%d 5' % i for i in range(4)]
    assert listed(server, place, 'x/pack-2') == ['x/pack-2 5']
    assert listed(server, place, '', 'shallow') == ['top 5', 'x/ 0', 'y.z/ 0']
    assert 'list 1' not in ''.join(listed(server, 'images'))
    for name in names:
        assert tool(server.url(place), 'delete', name, env=server.env)[0] == 0


def test_refusals_say_what_to_do(server):
    url, env = server.url('images/x'), server.env
    name, text = fails(*ONCE, url, 'get', 'a', 0, 1, env=dict(env, AWS_SECRET_ACCESS_KEY='falsch'))
    assert name == 'EACCES' and 'secret access key' in text and 'falsch' not in text
    name, text = fails(*ONCE, url, 'get', 'a', 0, 1, env={})
    assert name == 'EACCES' and 'AWS_ACCESS_KEY_ID' in text
    name, text = fails(*ONCE, server.url('nowhere/x'), 'get', 'a', 0, 1, env=env)
    assert name == 'ENOENT' and 'NoSuchBucket' in text
    assert fails(*ONCE, url, 'get', 'a', 0, 1, env=env)[0] == 'ENOENT'
    server.flaws.clear()


def test_a_file_of_credentials_will_do(ours, tmp_path):
    login = tmp_path / 'login'
    login.write_text('[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n' %
                     (ours.env['AWS_ACCESS_KEY_ID'], ours.env['AWS_SECRET_ACCESS_KEY']))
    url = ours.url('images') + '&region=eu-test-1'
    assert tool('--credentials', login, url, 'put', 'a', data=b'x')[0] == 0
    assert ours.objects['images', 'a'] == b'x'
    assert tool(url, 'delete', 'a', env={'AWS_SHARED_CREDENTIALS_FILE': str(login)})[0] == 0


def test_a_session_token_is_signed():
    with S3(token='Sitzung/+=') as server:
        assert tool(server.url('images'), 'put', 'a', data=b'x', env=server.env)[0] == 0
        assert not server.flaws


def test_an_upload_whose_part_fails_leaves_nothing(ours):
    data = content(20 * MIB)
    ours.refuse = lambda method, path: 503 if 'partNumber=2' in path else None
    name, text = fails(*ONCE, ours.url('images'), 'put', 'a', data=data, env=ours.env)
    assert name == 'EAGAIN' and '503' in text
    assert not ours.uploads and not ours.objects


def test_a_part_that_fails_once_is_sent_again(ours):
    data, refused = content(20 * MIB), []

    def once(_method, path):
        if 'partNumber=2' in path and not refused:
            refused.append(path)
            return 500
        return None

    ours.refuse = once
    code, _, err = tool(ours.url('images'), 'put', 'a', data=data, env=ours.env)
    assert code == 0 and refused, err
    assert ours.objects['images', 'a'] == data and not ours.uploads
