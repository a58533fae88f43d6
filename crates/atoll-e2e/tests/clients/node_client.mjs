// @kubernetes/client-node against the cluster of KUBECONFIG. The first check that does not
// hold ends it.

import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import { PassThrough, Writable } from 'node:stream';
import { pathToFileURL } from 'node:url';

const entry = createRequire(`${process.env.CLIENTS_MODULES}/`).resolve('@kubernetes/client-node');
const k8s = await import(pathToFileURL(entry));

const namespace = 'node-client';
const pod = process.env.CLIENTS_POD;
const config = new k8s.KubeConfig();
config.loadFromDefault();
const core = config.makeApiClient(k8s.CoreV1Api);

const later = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

async function until(what, holds) {
    for (let tries = 0; tries < 300; tries += 1) {
        if (holds()) return;
        await later(100);
    }
    assert.fail(`never: ${what}`);
}

async function refused(code, call) {
    await assert.rejects(call, (error) => {
        assert.equal(error.code, code, String(error));
        return true;
    });
}

async function informs() {
    const path = `/api/v1/namespaces/${namespace}/configmaps`;
    const informer = k8s.makeInformer(config, path, () =>
        core.listNamespacedConfigMap({ namespace }));
    const seen = [];
    for (const verb of ['add', 'update', 'delete']) {
        informer.on(verb, (object) => {
            if (object.metadata.name === 'seen') seen.push(verb);
        });
    }
    let stopping = false;
    informer.on('error', (error) => assert.ok(stopping, String(error)));
    await informer.start();
    const body = { metadata: { name: 'seen' }, data: { a: '1' } };
    await core.createNamespacedConfigMap({ namespace, body });
    await until('added', () => seen.includes('add'));
    const read = await core.readNamespacedConfigMap({ namespace, name: 'seen' });
    read.data.a = '2';
    await core.replaceNamespacedConfigMap({ namespace, name: 'seen', body: read });
    await until('updated', () => seen.includes('update'));
    await refused(409, () => core.createNamespacedConfigMap({ namespace, body }));
    await core.deleteNamespacedConfigMap({ namespace, name: 'seen' });
    await until('deleted', () => seen.includes('delete'));
    // Stopping aborts its watch, of which it tells as of an error.
    stopping = true;
    await informer.stop();
    assert.deepEqual(seen, ['add', 'update', 'delete']);
    await refused(404, () => core.readNamespacedConfigMap({ namespace, name: 'seen' }));
}

async function watches() {
    const list = await core.listNamespacedConfigMap({ namespace });
    const seen = [];
    const query = { resourceVersion: list.metadata.resourceVersion, allowWatchBookmarks: true };
    const path = `/api/v1/namespaces/${namespace}/configmaps`;
    const watch = await new k8s.Watch(config).watch(
        path, query, (type, object) => seen.push(`${type} ${object.metadata.name}`), () => {});
    await core.createNamespacedConfigMap({ namespace, body: { metadata: { name: 'w' } } });
    await until('watched', () => seen.includes('ADDED w'));
    watch.abort();
}

async function appliesAnything() {
    const objects = k8s.KubernetesObjectApi.makeApiClient(config);
    const object = {
        apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: 'any', namespace }, data: { a: '1' },
    };
    const patch = (more, force, kind) => objects.patch(
        { ...object, data: more }, undefined, undefined, 'node-client', force, kind);
    const applied = await patch({ a: '1' }, true, k8s.PatchStrategy.ServerSideApply);
    assert.equal(applied.metadata.managedFields[0].operation, 'Apply');
    const merged = await patch({ b: '2' }, undefined, undefined);
    assert.deepEqual(merged.data, { a: '1', b: '2' });
    assert.equal((await objects.list('v1', 'ConfigMap', namespace)).kind, 'ConfigMapList');
    await objects.delete(object);
}

async function run(command) {
    let text = '';
    const output = new Writable({ write: (chunk, _, done) => { text += chunk; done(); } });
    const status = await new Promise((done, fail) => {
        new k8s.Exec(config)
            .exec('default', pod, '', command, output, output, null, false, done)
            .catch(fail);
    });
    return { text, status };
}

async function looksIntoAPod() {
    const version = await run(['/atoll', '--version']);
    assert.match(version.text, /^atoll /);
    assert.equal(version.status.status, 'Success');
    const failed = await run(['/atoll', 'no-such-command']);
    assert.equal(failed.status.reason, 'NonZeroExitCode');
    const log = new PassThrough();
    const read = new k8s.Log(config);
    let text = '';
    log.on('data', (chunk) => { text += chunk; });
    const following = await read.log('default', pod, '', log, { follow: true, tailLines: 1 });
    await until('a line of the log', () => text.length > 0);
    following.abort();
}

await core.createNamespace({ body: { metadata: { name: namespace } } });
await informs();
await watches();
await appliesAnything();
await looksIntoAPod();
await core.deleteNamespace({ name: namespace });
console.log('node: everything held');
process.exit(0);
