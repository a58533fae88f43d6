"""The official Python client against the cluster of KUBECONFIG.

Each function is one sentence about what its users do; the first that does not hold ends it.
"""

import os
import threading
import time

import urllib3
from kubernetes import client, config, dynamic, utils, watch
from kubernetes.client.rest import ApiException
from kubernetes.stream import portforward, stream

NAMESPACE = "python"
POD = os.environ["CLIENTS_POD"]


def refused(code, call, *arguments, **options):
    try:
        call(*arguments, **options)
    except ApiException as error:
        assert error.status == code, error
        return error
    raise AssertionError(f"{call} was not refused")


def creates_reads_replaces_patches_and_deletes(core):
    labels = {"team": "paint"}
    body = client.V1ConfigMap(
        metadata=client.V1ObjectMeta(name="colours", labels=labels), data={"sky": "blue"}
    )
    made = core.create_namespaced_config_map(NAMESPACE, body)
    assert made.metadata.uid and made.data == {"sky": "blue"}
    refused(409, core.create_namespaced_config_map, NAMESPACE, body)
    made.data["sea"] = "green"
    replaced = core.replace_namespaced_config_map("colours", NAMESPACE, made)
    stale = refused(409, core.replace_namespaced_config_map, "colours", NAMESPACE, made)
    assert "the object has been modified" in stale.body
    # A dict is a strategic merge patch, a list a JSON patch.
    patched = core.patch_namespaced_config_map("colours", NAMESPACE, {"data": {"sun": "red"}})
    assert patched.data == {"sky": "blue", "sea": "green", "sun": "red"}
    operations = [{"op": "remove", "path": "/data/sun"}]
    patched = core.patch_namespaced_config_map("colours", NAMESPACE, operations)
    assert patched.data == {"sky": "blue", "sea": "green"}
    assert patched.metadata.resource_version != replaced.metadata.resource_version
    listed = core.list_namespaced_config_map(NAMESPACE, label_selector="team=paint")
    assert [item.metadata.name for item in listed.items] == ["colours"]
    everywhere = core.list_config_map_for_all_namespaces(field_selector="metadata.name=colours")
    assert len(everywhere.items) == 1
    core.delete_namespaced_config_map("colours", NAMESPACE)
    missing = refused(404, core.read_namespaced_config_map, "colours", NAMESPACE)
    assert 'configmaps \\"colours\\" not found' in missing.body


def pages_a_list(core):
    for index in range(7):
        meta = client.V1ObjectMeta(name=f"page-{index}")
        core.create_namespaced_secret(NAMESPACE, client.V1Secret(metadata=meta))
    names, token = [], None
    while token != "":
        page = core.list_namespaced_secret(NAMESPACE, limit=3, _continue=token)
        names += [item.metadata.name for item in page.items]
        token = page.metadata._continue or ""
    assert names == [f"page-{index}" for index in range(7)], names


def watches_from_a_list(core):
    begun = core.list_namespaced_config_map(NAMESPACE).metadata.resource_version

    def write():
        meta = client.V1ObjectMeta(name="seen")
        core.create_namespaced_config_map(NAMESPACE, client.V1ConfigMap(metadata=meta))
        core.patch_namespaced_config_map("seen", NAMESPACE, {"data": {"a": "1"}})
        core.delete_namespaced_config_map("seen", NAMESPACE)

    writer = threading.Thread(target=write)
    writer.start()
    watcher, seen = watch.Watch(), []
    events = watcher.stream(
        core.list_namespaced_config_map, NAMESPACE, resource_version=begun, timeout_seconds=30
    )
    for event in events:
        if event["object"].metadata.name == "seen":
            seen.append(event["type"])
        if event["type"] == "DELETED":
            watcher.stop()
    writer.join()
    assert seen == ["ADDED", "MODIFIED", "DELETED"], seen
    old = watch.Watch().stream(
        core.list_namespaced_config_map, NAMESPACE, resource_version="1", timeout_seconds=5
    )
    # The client starts anew by itself after "too old"; here the history may still be there.
    for _ in old:
        break


def the_dynamic_client_discovers_and_applies(api):
    dyn = dynamic.DynamicClient(api)
    deployments = dyn.resources.get(api_version="apps/v1", kind="Deployment")
    assert "deploy" in deployments.short_names and deployments.namespaced
    assert dyn.resources.get(api_version="v1", kind="ConfigMap").name == "configmaps"
    template = {
        "metadata": {"labels": {"app": "dynamic"}},
        "spec": {"containers": [{"name": "c", "image": "atoll.local/hello"}]},
    }
    spec = {"replicas": 0, "selector": {"matchLabels": {"app": "dynamic"}}, "template": template}
    body = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "dynamic"},
        "spec": spec,
    }
    deployments.create(body=body, namespace=NAMESPACE)
    applied = deployments.server_side_apply(
        body={**body, "spec": {**spec, "paused": True}},
        namespace=NAMESPACE,
        name="dynamic",
        field_manager="python",
        force_conflicts=True,
    )
    assert applied.spec.paused and applied.metadata.generation >= 2
    for kind, patch in [
        ("application/merge-patch+json", {"spec": {"minReadySeconds": 1}}),
        ("application/strategic-merge-patch+json", {"spec": {"minReadySeconds": 2}}),
        (
            "application/json-patch+json",
            [{"op": "replace", "path": "/spec/minReadySeconds", "value": 3}],
        ),
    ]:
        deployments.patch(body=patch, name="dynamic", namespace=NAMESPACE, content_type=kind)
    assert deployments.get(name="dynamic", namespace=NAMESPACE).spec.minReadySeconds == 3
    scale = deployments.scale.patch(
        body={"spec": {"replicas": 0}},
        name="dynamic",
        namespace=NAMESPACE,
        content_type="application/merge-patch+json",
    )
    assert scale.kind == "Scale"
    # Its controller may still be writing the status.
    seen = [event["type"] for event in deployments.watch(namespace=NAMESPACE, timeout=2)]
    assert seen[:1] == ["ADDED"] and set(seen[1:]) <= {"MODIFIED"}, seen
    deployments.delete(name="dynamic", namespace=NAMESPACE)


def other_groups_are_typed_too(api):
    rbac, auth = client.RbacAuthorizationV1Api(api), client.AuthorizationV1Api(api)
    assert rbac.read_cluster_role("view").aggregation_rule
    attributes = client.V1ResourceAttributes(verb="get", resource="pods")
    spec = client.V1SelfSubjectAccessReviewSpec(resource_attributes=attributes)
    review = client.V1SelfSubjectAccessReview(spec=spec)
    assert auth.create_self_subject_access_review(review).status.allowed
    assert client.VersionApi(api).get_code().minor.startswith("36")
    assert client.StorageV1Api(api) and client.CoordinationV1Api(api).list_lease_for_all_namespaces()
    core = client.CoreV1Api(api)
    assert core.list_node().items[0].status.node_info.kubelet_version
    bad = client.V1Service(
        metadata=client.V1ObjectMeta(name="Bad_Name"),
        spec=client.V1ServiceSpec(ports=[client.V1ServicePort(port=0)]),
    )
    invalid = refused(422, core.create_namespaced_service, NAMESPACE, bad)
    assert "must be between 1 and 65535, inclusive" in invalid.body, invalid.body
    utils.create_from_dict(
        api,
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "from-dict"}},
        namespace=NAMESPACE,
    )


def looks_into_a_pod(core):
    said = stream(
        core.connect_get_namespaced_pod_exec,
        POD,
        "default",
        command=["/atoll", "--version"],
        stderr=True,
        stdin=False,
        stdout=True,
        tty=False,
    )
    assert said.startswith("atoll "), said
    held = stream(
        core.connect_get_namespaced_pod_exec,
        POD,
        "default",
        command=["/atoll", "no-such-command"],
        stderr=True,
        stdin=False,
        stdout=True,
        tty=False,
        _preload_content=False,
    )
    held.run_forever(timeout=20)
    assert held.returncode not in (None, 0) and held.read_stderr(), held.returncode
    tunnel = portforward(core.connect_get_namespaced_pod_portforward, POD, "default", ports="8080")
    socket = tunnel.socket(8080)
    socket.setblocking(True)
    socket.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    answer = b""
    while chunk := socket.recv(4096):
        answer += chunk
    assert b"hello from" in answer, answer
    lines = core.read_namespaced_pod_log(POD, "default", tail_lines=1)
    assert "GET /" in lines, lines
    following = core.read_namespaced_pod_log(POD, "default", follow=True, _preload_content=False)
    first = next(line for line in following.stream())
    assert first
    following.close()


def main():
    urllib3.disable_warnings()
    config.load_kube_config()
    api = client.ApiClient()
    core = client.CoreV1Api(api)
    meta = client.V1ObjectMeta(name=NAMESPACE)
    core.create_namespace(client.V1Namespace(metadata=meta))
    begun = time.monotonic()
    creates_reads_replaces_patches_and_deletes(core)
    pages_a_list(core)
    watches_from_a_list(core)
    the_dynamic_client_discovers_and_applies(api)
    other_groups_are_typed_too(api)
    looks_into_a_pod(core)
    core.delete_namespace(NAMESPACE)
    print(f"python: everything held ({time.monotonic() - begun:.1f} s)")


main()
