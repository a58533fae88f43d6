// An informer of @kubernetes/client-node while everything that it watches changes and its
// server is started again: at the end it knows what a list says.

import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

const entry = createRequire(`${process.env.CLIENTS_MODULES}/`).resolve('@kubernetes/client-node');
const k8s = await import(pathToFileURL(entry));

const namespace = 'churn';
const changes = 1000;
const config = new k8s.KubeConfig();
config.loadFromDefault();
const core = config.makeApiClient(k8s.CoreV1Api);

const later = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

// Numbers that are the same in every run.
let state = 42;
const below = (limit) => {
    state = (state * 1103515245 + 12345) % 2147483648;
    return state % limit;
};

// What was asked for may have been done although nobody could say so.
async function surely(call, alsoFine) {
    for (let tries = 0; tries < 600; tries += 1) {
        try {
            await call();
            return;
        } catch (error) {
            if (error.code === alsoFine) return;
            if (error.code !== undefined && error.code < 500 && error.code !== 429
                && error.code !== 409) throw error;
        }
        await later(100);
    }
    assert.fail('the server did not come back');
}

const known = new Set();

async function change(index) {
    const name = `c-${below(150)}`;
    const body = { metadata: { name }, data: { index: String(index) } };
    if (!known.has(name)) {
        await surely(() => core.createNamespacedConfigMap({ namespace, body }), 409);
        known.add(name);
    } else if (below(3) === 0) {
        await surely(() => core.deleteNamespacedConfigMap({ namespace, name }), 404);
        known.delete(name);
    } else {
        await surely(() => core.replaceNamespacedConfigMap({ namespace, name, body }));
    }
}

await core.createNamespace({ body: { metadata: { name: namespace } } });
const informer = k8s.makeInformer(config, `/api/v1/namespaces/${namespace}/configmaps`, () =>
    core.listNamespacedConfigMap({ namespace }));
let [events, restarts, stopping] = [0, 0, false];
// What its handlers were told, which has to come to the same as its cache.
const told = new Map();
const tell = (object) => {
    events += 1;
    told.set(object.metadata.name, object.metadata.resourceVersion);
};
informer.on('add', tell);
informer.on('update', tell);
informer.on('delete', (object) => {
    events += 1;
    told.delete(object.metadata.name);
});
informer.on('error', () => {
    restarts += 1;
    if (!stopping) setTimeout(() => informer.start(), 300);
});
await informer.start();
for (let index = 0; index < changes; index += 1) {
    if (index === changes / 2) writeFileSync(process.env.CLIENTS_MARKER, 'half');
    await change(index);
}

const versions = (objects) => Object.fromEntries(
    objects.map((one) => [one.metadata.name, one.metadata.resourceVersion]).sort());
let [listed, cached] = [null, null];
for (let tries = 0; tries < 300; tries += 1) {
    listed = versions((await core.listNamespacedConfigMap({ namespace })).items);
    cached = versions(informer.list());
    if (JSON.stringify(listed) === JSON.stringify(cached)) break;
    await later(100);
}
assert.deepEqual(cached, listed);
assert.deepEqual(Object.fromEntries([...told].sort()), listed);
for (const name of known) assert.ok(name in listed, name);
stopping = true;
await informer.stop();
console.log(`${changes} changes, ${events} events, ${restarts} restarts of the watch: everything held`);
process.exit(0);
