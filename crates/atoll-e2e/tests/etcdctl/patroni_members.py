"""What Patroni asks of its etcd, by its own code, which speaks JSON to the gateway: two members of one
cluster take turns. Prints what it was told, without what differs from server to server."""

import json
import sys
import threading
import time
from types import SimpleNamespace

from patroni.dcs import get_dcs


def member(name):
    return get_dcs({
        'scope': 'batman', 'namespace': '/service', 'name': name, 'ttl': 5, 'retry_timeout': 5,
        'loop_wait': 2, 'etcd3': {'hosts': [sys.argv[1]]}, 'patronictl': False,
    })


def say(what, told):
    print(f'{what}: {told}')


def seen(dcs):
    cluster = dcs.get_cluster()
    leader = cluster.leader and cluster.leader.name
    return [leader, sorted(one.name for one in cluster.members), cluster.initialize]


def until(what, look, expected):
    """A member learns by its watch of what others write, and of what it wrote itself."""
    deadline = time.monotonic() + 60
    while (told := look()) != expected and time.monotonic() < deadline:
        time.sleep(0.05)
    say(what, told)


def expired():
    one.touch_member({'conn_url': 'postgres://one', 'state': 'running', 'role': 'replica'})
    return seen(one)


none = SimpleNamespace(candidate=None)
one, other = member('one'), member('other')
until('empty', lambda: seen(one), [None, [], None])
say('initialize', bool(one.initialize(create_new=True, sysid='123')))
say('again', bool(other.initialize(create_new=True, sysid='456')))
say('config', one.set_config_value(json.dumps({'ttl': 5})))
for dcs, name in [(one, 'one'), (other, 'other')]:
    state = {'conn_url': f'postgres://{name}', 'state': 'running', 'role': 'replica'}
    say('member', dcs.touch_member(state))
say('acquire', bool(one.attempt_to_acquire_leader()))
say('acquire late', bool(other.attempt_to_acquire_leader()))
both = ['one', ['one', 'other'], '123']
until('seen', lambda: [seen(one), seen(other)], [both, both])
say('update', bool(one.update_leader(one.get_cluster(), 100, {})))
say('history', bool(one.set_history_value('[]')))
say('sync', bool(one.write_sync_state('one', ['other'], 0)))
say('failover', bool(other.manual_failover('one', 'other')))
until('failover seen', lambda: (one.get_cluster().failover or none).candidate, 'other')

# A watch wakes who waits for the leader's key.
woken = []
leader = other.get_cluster().leader
waiting = threading.Thread(target=lambda: woken.append(other.watch(leader.version, 30)))
begun = time.monotonic()
waiting.start()
time.sleep(0.5)
say('deleted', bool(one.delete_leader(one.get_cluster().leader)))
waiting.join(30)
say('woken', [woken, time.monotonic() - begun < 10])
say('taken over', bool(other.attempt_to_acquire_leader()))
both = ['other', ['one', 'other'], '123']
until('seen', lambda: [seen(one), seen(other)], [both, both])

# A leader that says nothing any more is gone when its lease is.
until('expired', expired, [None, ['one'], '123'])
until('after', lambda: bool(one.attempt_to_acquire_leader()), True)
say('cancelled', bool(one.cancel_initialization()))
say('all deleted', bool(one.delete_cluster()))
until('empty', lambda: seen(one), [None, [], None])
print('everything held')
