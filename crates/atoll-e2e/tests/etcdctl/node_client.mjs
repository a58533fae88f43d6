// npm's etcd3 against the etcd API of ENDPOINTS. The first check that does not hold ends it.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

const entry = createRequire(`${process.env.CLIENTS_MODULES}/`).resolve('etcd3');
const { Etcd3, EtcdLeaseInvalidError, EtcdLockFailedError } =
    (await import(pathToFileURL(entry))).default;

const hosts = process.env.ENDPOINTS.split(',');
const client = new Etcd3({ hosts });
const other = new Etcd3({ hosts });

const later = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

async function keys() {
    await client.put('k/a').value('1');
    await client.put('k/b').value(Buffer.from([0, 255, 10]));
    assert.equal(await client.get('k/a').string(), '1');
    assert.deepEqual(await client.get('k/b').buffer(), Buffer.from([0, 255, 10]));
    assert.equal(await client.get('k/missing').string(), null);
    assert.deepEqual(await client.getAll().prefix('k/').keys(), ['k/a', 'k/b']);
    const sorted = await client.getAll().prefix('k/').sort('Mod', 'Descend').limit(1).keys();
    assert.deepEqual(sorted, ['k/b']);
    assert.equal(await client.getAll().prefix('k/').count(), 2);
    assert.equal(await client.get('k/a').exists(), true);
    const before = (await client.get('k/a').exec()).header.revision;
    const replaced = await client.put('k/a').value('2').getPrevious();
    assert.equal(replaced.value.toString(), '1');
    assert.equal(await client.get('k/a').revision(before).string(), '1');
    await client.put('k/a').touch();
    assert.equal(await client.get('k/a').string(), '2');
    const gone = await client.delete().prefix('k/').getPrevious();
    assert.deepEqual(gone.map((kv) => kv.key.toString()), ['k/a', 'k/b']);
    const inside = client.namespace('inside/');
    await inside.put('x').value('y');
    assert.equal(await client.get('inside/x').string(), 'y');
    await inside.delete().all();
    assert.equal(await client.get('inside/x').string(), null);
}

async function transactions() {
    await client.put('t').value('1');
    const swap = (from, to) => client
        .if('t', 'Value', '==', from)
        .then(client.put('t').value(to), client.get('t'))
        .else(client.get('t'))
        .commit();
    const first = await swap('1', '2');
    assert.equal(first.succeeded, true);
    assert.equal(first.responses[1].response_range.kvs[0].value.toString(), '2');
    const second = await swap('1', '3');
    assert.equal(second.succeeded, false);
    assert.equal(second.responses[0].response_range.kvs[0].value.toString(), '2');
    // Several at once, which see each other only by their conflicts.
    await client.put('counter').value('0');
    const add = (etcd) => etcd.stm({ retries: 100 }).transact(async (tx) => {
        const count = await tx.get('counter').number();
        await tx.put('counter').value(count + 1);
    });
    await Promise.all(Array.from({ length: 12 }, (_, number) => add(number % 2 ? client : other)));
    assert.equal(await client.get('counter').number(), 12);
}

async function leases() {
    const lease = client.lease(10);
    const established = once(lease, 'keepaliveEstablished');
    await lease.put('l/a').value('1');
    const id = await lease.grant();
    assert.deepEqual(await client.getAll().prefix('l/').keys(), ['l/a']);
    await established;
    assert.equal((await lease.keepaliveOnce()).TTL, '10');
    const left = await client.leaseClient.leaseTimeToLive({ ID: id, keys: true });
    assert.deepEqual(left.keys.map(String), ['l/a']);
    await lease.revoke();
    assert.equal(await client.get('l/a').string(), null);
    await assert.rejects(client.put('l/b').value('1').lease(id), EtcdLeaseInvalidError);
    const short = client.lease(2, { autoKeepAlive: false });
    await short.put('l/short').value('lived');
    const watcher = await client.watch().key('l/short').create();
    await once(watcher, 'delete');
    await watcher.cancel();
}

async function watches() {
    const watcher = await client.watch().prefix('w/').withPreviousKV().create();
    const seen = [];
    const done = new Promise((resolve) => {
        watcher.on('put', (kv, previous) => {
            seen.push(`+${kv.key}=${kv.value} ${previous?.value ?? ''}`);
        });
        watcher.on('delete', (kv) => {
            seen.push(`-${kv.key}`);
            resolve();
        });
    });
    await other.put('w/a').value('1');
    await other.put('w/a').value('2');
    await other.put('elsewhere').value('x');
    await other.delete().key('w/a');
    await done;
    assert.deepEqual(seen, ['+w/a=1 ', '+w/a=2 1', '-w/a']);
    await watcher.cancel();
    const start = (await client.get('w/a').exec()).header.revision;
    const past = await client.watch().prefix('w/').startRevision(String(start - 4)).create();
    const [kv] = await once(past, 'put');
    assert.equal(kv.value.toString(), '1');
    await past.cancel();
}

async function locks() {
    const lock = client.lock('lock').ttl(10);
    await lock.acquire();
    await assert.rejects(other.lock('lock').ttl(10).acquire(), EtcdLockFailedError);
    await lock.release();
    assert.equal(await other.lock('lock').ttl(10).do(async () => 'held'), 'held');
    const election = client.election('chair', 5);
    const campaign = election.campaign('ann');
    await once(campaign, 'elected');
    assert.equal(await other.election('chair', 5).leader(), 'ann');
    const next = other.election('chair', 5).campaign('bob');
    await later(100);
    await campaign.resign();
    await once(next, 'elected');
    assert.equal(await client.election('chair', 5).leader(), 'bob');
    await next.resign();
}

async function maintenance() {
    const status = await client.maintenance.status();
    assert.match(status.version, /^3\.6\./);
    const { members } = await client.cluster.memberList({});
    assert.ok(members.length > 0 && members.every((member) => member.clientURLs.length > 0));
}

for (const part of [keys, transactions, leases, watches, locks, maintenance]) {
    await part();
    console.log(`${part.name}: as expected`);
}
client.close();
other.close();
console.log('everything held');
