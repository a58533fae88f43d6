"""Helm's SDK and client-go, through kubernetes-mcp-server, against the cluster of KUBECONFIG.

The server is spoken to in JSON-RPC on its standard input and output. Each function is one
sentence about what its users do; the first that does not hold ends it.
"""

import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time

import yaml
from kubernetes import client, config

NAMESPACE = "harbour"
CHART = os.path.join(os.path.dirname(os.path.abspath(__file__)), "chart")
ANSWER_SECONDS = 120


class Server:
    """One process, asked one question after the other."""

    def __init__(self, binary):
        arguments = [binary, "--toolsets", "core,config,helm", "--log-file", "stderr"]
        self.process = subprocess.Popen(
            arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=sys.stderr, text=True
        )
        self.lines = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        self.number = 0
        about = {"name": "test", "version": "1"}
        self.ask("initialize", protocolVersion="2025-03-26", capabilities={}, clientInfo=about)
        self._send({"jsonrpc": "2.0", "method": "notifications/initialized"})

    def _read(self):
        for line in self.process.stdout:
            self.lines.put(json.loads(line))

    def _send(self, message):
        self.process.stdin.write(json.dumps(message) + "\n")
        self.process.stdin.flush()

    def ask(self, method, **parameters):
        self.number += 1
        self._send(
            {"jsonrpc": "2.0", "id": self.number, "method": method, "params": parameters}
        )
        while True:
            message = self.lines.get(timeout=ANSWER_SECONDS)
            if message.get("id") == self.number and "method" not in message:
                assert "error" not in message, message
                return message["result"]

    def call(self, tool, fails=False, **arguments):
        """The text that a tool answers."""
        result = self.ask("tools/call", name=tool, arguments=arguments)
        text = "\n".join(part.get("text", "") for part in result["content"])
        assert bool(result.get("isError")) == fails, f"{tool} {arguments}: {text}"
        return text


def until(what, holds, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        answer = holds()
        if answer:
            return answer
        time.sleep(0.2)
    raise AssertionError(f"never: {what}")


def applies_and_reads_objects(server, core):
    wanted = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "ropes", "namespace": NAMESPACE},
        "data": {"long": "7"},
    }
    said = server.call("resources_create_or_update", resource=yaml.safe_dump(wanted))
    assert "ropes" in said, said
    # It applies server-side, so a second manager's fields stay.
    core.patch_namespaced_config_map("ropes", NAMESPACE, {"data": {"short": "3"}})
    wanted["data"]["long"] = "8"
    server.call("resources_create_or_update", resource=yaml.safe_dump(wanted))
    stored = core.read_namespaced_config_map("ropes", NAMESPACE)
    assert stored.data == {"long": "8", "short": "3"}, stored.data
    applied = [one.operation for one in stored.metadata.managed_fields]
    assert "Apply" in applied, applied
    where = {"apiVersion": "v1", "kind": "ConfigMap", "namespace": NAMESPACE}
    assert "long:" in server.call("resources_get", name="ropes", **where)
    assert "ropes" in server.call("resources_list", **where)
    server.call("resources_delete", name="ropes", **where)
    gone = server.call("resources_get", fails=True, name="ropes", **where)
    assert 'configmaps "ropes" not found' in gone, gone


def scales(server, apps):
    workload = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "crane", "namespace": NAMESPACE},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": {"app": "crane"}},
            "template": {
                "metadata": {"labels": {"app": "crane"}},
                "spec": {"containers": [{"name": "c", "image": "atoll.local/hello"}]},
            },
        },
    }
    server.call("resources_create_or_update", resource=yaml.safe_dump(workload))
    where = {"apiVersion": "apps/v1", "kind": "Deployment", "namespace": NAMESPACE}
    ready = lambda n: apps.read_namespaced_deployment("crane", NAMESPACE).status.ready_replicas == n
    until("one crane", lambda: ready(1))
    server.call("resources_scale", name="crane", scale=2, **where)
    assert apps.read_namespaced_deployment("crane", NAMESPACE).spec.replicas == 2
    until("two cranes", lambda: ready(2))
    server.call("resources_delete", name="crane", **where)


def runs_looks_into_and_enters_pods(server, core):
    server.call("pods_run", name="sailor", namespace=NAMESPACE, image="atoll.local/hello")
    ready = lambda: core.read_namespaced_pod("sailor", NAMESPACE).status.phase == "Running"
    until("the sailor runs", ready)
    assert "sailor" in server.call("pods_list_in_namespace", namespace=NAMESPACE)
    assert "phase: Running" in server.call("pods_get", name="sailor", namespace=NAMESPACE)
    where = {"name": "sailor", "namespace": NAMESPACE}
    said = server.call("pods_exec", command=["/atoll", "--version"], **where)
    assert said.startswith("atoll "), said
    log = server.call("pods_log", tail=5, **where)
    assert isinstance(log, str)
    assert "Started" in until(
        "its events", lambda: server.call("events_list", namespace=NAMESPACE)
    )
    server.call("pods_delete", **where)


def installs_a_chart(server, core, apps, custom):
    release = {"name": "pier", "namespace": NAMESPACE}
    said = server.call(
        "helm_install", chart=CHART, values={"replicas": 2, "colour": "green"}, **release
    )
    assert "deployed" in said, said
    assert core.read_namespaced_config_map("pier-before", NAMESPACE).data == {"colour": "green"}
    # The hook that succeeded is gone, that of the end has not come.
    names = [pod.metadata.name for pod in core.list_namespaced_pod(NAMESPACE).items]
    assert "pier-after" not in names, names
    maps = [one.metadata.name for one in core.list_namespaced_config_map(NAMESPACE).items]
    assert "pier-farewell" not in maps, maps
    secrets = core.list_namespaced_secret(NAMESPACE, label_selector="owner=helm").items
    assert [one.type for one in secrets] == ["helm.sh/release.v1"]
    both = lambda: apps.read_namespaced_stateful_set("pier", NAMESPACE).status.ready_replicas == 2
    until("both replicas", both)
    lantern = custom.get_namespaced_custom_object(
        "harbour.example.com", "v1", NAMESPACE, "lanterns", "pier"
    )
    assert lantern["spec"] == {"lights": 2}, lantern
    labels = lantern["metadata"]["labels"]
    assert labels["app.kubernetes.io/managed-by"] == "Helm", labels
    listed = server.call("helm_list", namespace=NAMESPACE)
    for line in ("name: pier", "chart: harbour", "revision: 1", "status: deployed"):
        assert line in listed, listed
    assert "pier" in server.call("helm_list", all_namespaces=True)
    again = server.call("helm_install", fails=True, chart=CHART, **release)
    assert "cannot re-use a name that is still in use" in again, again
    where = {"apiVersion": "harbour.example.com/v1", "kind": "Lantern", "namespace": NAMESPACE}
    assert "pier" in server.call("resources_list", **where)


def tells_what_is_wrong_with_a_chart(server, core):
    """What the server refuses is told, and the release says that it failed."""
    folder = tempfile.mkdtemp()
    chart = os.path.join(folder, "broken")
    shutil.copytree(CHART, chart)
    path = os.path.join(chart, "templates", "objects.yaml")
    with open(path, encoding="utf-8") as file:
        text = file.read()
    with open(path, "w", encoding="utf-8") as file:
        file.write(text.replace("serviceName: ", "podManagementPolicy: Any # "))
    said = server.call(
        "helm_install", fails=True, chart=chart, name="broken", namespace=NAMESPACE
    )
    assert "spec.podManagementPolicy: Invalid value: \"Any\"" in said, said
    listed = server.call("helm_list", namespace=NAMESPACE)
    assert "name: broken" in listed and "status: failed" in listed, listed
    server.call("helm_uninstall", name="broken", namespace=NAMESPACE)
    assert not core.list_namespaced_secret(NAMESPACE, label_selector="owner=helm").items
    for left in core.list_namespaced_config_map(NAMESPACE).items:
        if left.metadata.name.startswith("broken-"):
            core.delete_namespaced_config_map(left.metadata.name, NAMESPACE)
    shutil.rmtree(folder)


def uninstalls_it(server, core, apps):
    said = server.call("helm_uninstall", name="pier", namespace=NAMESPACE)
    assert "pier" in said, said
    assert core.read_namespaced_config_map("pier-farewell", NAMESPACE).data
    assert not apps.list_namespaced_stateful_set(NAMESPACE).items
    assert not core.list_namespaced_secret(NAMESPACE, label_selector="owner=helm").items


def main():
    config.load_kube_config()
    core, apps = client.CoreV1Api(), client.AppsV1Api()
    meta = client.V1ObjectMeta(name=NAMESPACE)
    core.create_namespace(client.V1Namespace(metadata=meta))
    account = lambda: core.list_namespaced_service_account(NAMESPACE).items
    until("the namespace's account", account)
    server = Server(os.environ["CLIENTS_MCP"])
    applies_and_reads_objects(server, core)
    scales(server, apps)
    runs_looks_into_and_enters_pods(server, core)
    tells_what_is_wrong_with_a_chart(server, core)
    installs_a_chart(server, core, apps, client.CustomObjectsApi())
    uninstalls_it(server, core, apps)
    server.process.terminate()
    print("everything held")


main()
