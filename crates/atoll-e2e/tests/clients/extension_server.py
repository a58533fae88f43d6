"""An API server behind the cluster of KUBECONFIG, made as Kubernetes' documentation of the
aggregation layer asks for, of nothing but Python's library and the official client.

It learns whom to believe from `kube-system/extension-apiserver-authentication`, takes the user
from the front proxy's headers only where a certificate proves the proxy, has tokens reviewed and
access decided by the cluster. Below it stands what its users and its administrator do.
"""

import base64
import json
import os
import socket
import ssl
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from kubernetes import client, config, utils

GROUP = "sea.example.org"
ROOT = f"/apis/{GROUP}/v1"
KIND = {"group": GROUP, "version": "v1", "kind": "Tide"}
NAMESPACE = "kube-system"
FOLDER = tempfile.mkdtemp()

MANIFESTS = [
    {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "tides"}},
    {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": "tides-auth-reader"},
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io",
            "kind": "Role",
            "name": "extension-apiserver-authentication-reader",
        },
        "subjects": [{"kind": "ServiceAccount", "name": "tides", "namespace": NAMESPACE}],
    },
    {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "tides:system:auth-delegator"},
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io",
            "kind": "ClusterRole",
            "name": "system:auth-delegator",
        },
        "subjects": [{"kind": "ServiceAccount", "name": "tides", "namespace": NAMESPACE}],
    },
    {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "tides"},
        "spec": {"ports": [{"port": 443, "name": "https"}]},
    },
]


def run(*words, fails=False, text=""):
    done = subprocess.run(words, input=text, capture_output=True, text=True, timeout=60)
    assert (done.returncode != 0) == fails, f"{words}: {done.stdout}{done.stderr}"
    return done.stderr if fails else done.stdout


def eventually(what, check):
    for _ in range(150):
        said = check()
        if said is True:
            return
        time.sleep(0.2)
    raise AssertionError(f"not within 30 s: {what}: {said}")


def certificate():
    """A certificate of an authority of its own, for the Service's name."""
    name = f"tides.{NAMESPACE}.svc"
    at = lambda file: os.path.join(FOLDER, file)
    quiet = ["-days", "1", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    run("openssl", "req", "-x509", *quiet, "-subj", "/CN=sea", "-keyout", at("ca.key"), "-out", at("ca.crt"))
    run("openssl", "req", *quiet[2:], "-subj", f"/CN={name}", "-keyout", at("own.key"), "-out", at("own.csr"))
    with open(at("names"), "w") as names:
        names.write(f"subjectAltName=DNS:{name}")
    run("openssl", "x509", "-req", "-days", "1", "-in", at("own.csr"), "-CA", at("ca.crt"), "-CAkey",
        at("ca.key"), "-CAcreateserial", "-extfile", at("names"), "-out", at("own.crt"))
    with open(at("ca.crt"), "rb") as bundle:
        return base64.b64encode(bundle.read()).decode()


class Extension:
    """Who asks, and whether he may."""

    def __init__(self, api):
        self.api = api
        said = client.CoreV1Api(api).read_namespaced_config_map(
            "extension-apiserver-authentication", "kube-system"
        ).data
        self.proxies = json.loads(said["requestheader-allowed-names"])
        self.headers = {
            part: json.loads(said[f"requestheader-{part}"])
            for part in ["username-headers", "group-headers", "extra-headers-prefix", "uid-headers"]
        }
        path = os.path.join(FOLDER, "proxies.crt")
        with open(path, "w") as file:
            file.write(said["requestheader-client-ca-file"])
        self.authority = run("openssl", "x509", "-in", path, "-noout", "-subject", "-nameopt", "RFC2253")
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.tls.load_cert_chain(os.path.join(FOLDER, "own.crt"), os.path.join(FOLDER, "own.key"))
        self.tls.verify_mode = ssl.CERT_OPTIONAL
        self.tls.load_verify_locations(cadata=said["requestheader-client-ca-file"])
        self.tls.load_verify_locations(cadata=said["client-ca-file"])
        self.seen = []

    def who(self, connection, headers):
        shown = connection.getpeercert() or {}
        flat = lambda name: {key: value for part in shown.get(name, ()) for key, value in part}
        name, issuer = flat("subject").get("commonName"), flat("issuer").get("commonName")
        proxy = name in self.proxies and issuer and f"CN={issuer}" in self.authority
        if proxy:
            groups = [one for header in self.headers["group-headers"] for one in headers.get_all(header, [])]
            user = headers.get(self.headers["username-headers"][0])
            self.seen.append((name, user, sorted(groups), headers.get("Authorization")))
            return {"user": user, "groups": groups}
        token = (headers.get("Authorization") or "").removeprefix("Bearer ")
        if token:
            review = client.V1TokenReview(spec=client.V1TokenReviewSpec(token=token))
            found = client.AuthenticationV1Api(self.api).create_token_review(review).status
            if found.authenticated:
                return {"user": found.user.username, "groups": found.user.groups}
        return None

    def may(self, who, attributes):
        spec = client.V1SubjectAccessReviewSpec(**who, **attributes)
        review = client.V1SubjectAccessReview(spec=spec)
        answer = client.AuthorizationV1Api(self.api).create_subject_access_review(review)
        return answer.status.allowed


def tide(name, height=3):
    meta = {"name": name, "namespace": "default", "uid": name, "resourceVersion": "7",
            "creationTimestamp": "2026-01-02T03:04:05Z"}
    return {"apiVersion": f"{GROUP}/v1", "kind": "Tide", "metadata": meta, "spec": {"height": height}}


def table(tides):
    columns = [{"name": name, "type": "string", "format": "", "description": "", "priority": 0}
               for name in ["Name", "Height"]]
    rows = [{"cells": [one["metadata"]["name"], f"{one['spec']['height']} m"], "object": one} for one in tides]
    return {"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": {"resourceVersion": "7"},
            "columnDefinitions": columns, "rows": rows}


def document():
    schema = {"type": "object", "description": "Tide is how high the sea stands.",
              "properties": {"spec": {"type": "object", "description": "What was measured."}},
              "x-kubernetes-group-version-kind": [KIND]}
    path = {"get": {"x-kubernetes-action": "list", "x-kubernetes-group-version-kind": KIND,
                    "responses": {"200": {"description": "OK"}}}}
    return {"openapi": "3.0.0", "info": {"title": "sea", "version": "v1"},
            "paths": {f"{ROOT}/namespaces/{{namespace}}/tides": path},
            "components": {"schemas": {"org.example.sea.v1.Tide": schema}}}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, code, value):
        body = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def refuse(self, code, reason, message):
        self.answer(code, {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                           "reason": reason, "message": message, "code": code})

    def body(self):
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        read = b""
        while size := int(self.rfile.readline(), 16):
            read += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return read

    def do_GET(self):
        self.serve("list" if self.path.partition("?")[0].endswith("/tides") else "get")

    def do_POST(self):
        self.serve("create")

    def serve(self, verb):
        extension = self.server.extension
        path, _, query = self.path.partition("?")
        body = self.body()
        who = extension.who(self.connection, self.headers)
        if who is None:
            return self.refuse(401, "Unauthorized", "Unauthorized")
        parts = path.removeprefix(ROOT).strip("/").split("/")
        attributes = {"non_resource_attributes": client.V1NonResourceAttributes(path=path, verb="get")}
        if parts[0] == "namespaces":
            attributes = {"resource_attributes": client.V1ResourceAttributes(
                group=GROUP, version="v1", resource="tides", namespace=parts[1],
                verb="watch" if "watch=true" in query else verb, name="".join(parts[3:]))}
        if not extension.may(who, attributes):
            return self.refuse(403, "Forbidden", f"tides.{GROUP} is forbidden: User {who['user']!r}")
        if parts[0] == "namespaces":
            return self.tides(verb, parts, query, body)
        documents = {
            ROOT: {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": f"{GROUP}/v1",
                   "resources": [{"name": "tides", "singularName": "tide", "namespaced": True, "kind": "Tide",
                                  "verbs": ["create", "get", "list", "watch"], "shortNames": ["td"]}]},
            "/openapi/v3": {"paths": {ROOT[1:]: {"serverRelativeURL": f"/openapi/v3{ROOT}?hash=1"}}},
            f"/openapi/v3{ROOT}": document(),
        }
        if path in documents:
            return self.answer(200, documents[path])
        self.refuse(404, "NotFound", "the server could not find the requested resource")

    def tides(self, verb, parts, query, body):
        if verb == "create":
            return self.answer(201, json.loads(body))
        if "watch=true" in query:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for height in [4, 5]:
                event = json.dumps({"type": "MODIFIED", "object": tide("high", height)}).encode() + b"\n"
                self.wfile.write(b"%x\r\n%s\r\n" % (len(event), event))
                self.wfile.flush()
            self.wfile.write(b"0\r\n\r\n")
            return None
        found = [tide("high"), tide("low", 1)]
        if len(parts) > 3:
            found = [one for one in found if one["metadata"]["name"] == parts[3]]
            if not found:
                return self.refuse(404, "NotFound", f'tides.{GROUP} "{parts[3]}" not found')
        if "as=Table" in self.headers.get("Accept", ""):
            return self.answer(200, table(found))
        whole = {"kind": "TideList", "apiVersion": f"{GROUP}/v1", "metadata": {}, "items": found}
        self.answer(200, found[0] if len(parts) > 3 else whole)


def start(extension):
    server = ThreadingHTTPServer(("0.0.0.0", 0), Handler)
    server.daemon_threads = True
    server.extension = extension
    server.socket = extension.tls.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def own_address(core):
    """This machine's address towards the nodes."""
    node = core.list_node().items[0]
    there = next(one.address for one in node.status.addresses if one.type == "InternalIP")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect((there, 9))
        return sock.getsockname()[0]


def as_account(kubeconfig_api):
    """A client that is the extension's ServiceAccount and nobody else."""
    own = client.Configuration()
    base = kubeconfig_api.configuration
    own.host, own.ssl_ca_cert = base.host, base.ssl_ca_cert
    token = run("kubectl", "create", "token", "tides", "-n", NAMESPACE).strip()
    own.api_key = {"authorization": f"Bearer {token}"}
    return client.ApiClient(own), token


def register(api, address, port, bundle):
    for manifest in MANIFESTS:
        utils.create_from_dict(api, manifest, namespace=NAMESPACE)
    endpoints = {
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "tides-1", "namespace": NAMESPACE, "labels": {"kubernetes.io/service-name": "tides"}},
        "addressType": "IPv4", "endpoints": [{"addresses": [address]}],
        "ports": [{"name": "https", "port": port}],
    }
    service = {
        "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": {"name": f"v1.{GROUP}"},
        "spec": {"group": GROUP, "version": "v1", "groupPriorityMinimum": 1000, "versionPriority": 15,
                 "caBundle": bundle, "service": {"namespace": NAMESPACE, "name": "tides"}},
    }
    for object in [endpoints, service]:
        run("kubectl", "apply", "-f", "-", text=json.dumps(object))


def its_users_see_it(extension):
    run("kubectl", "wait", "--for=condition=Available", f"apiservice/v1.{GROUP}", "--timeout=30s")
    listed = run("kubectl", "api-resources", f"--api-group={GROUP}")
    assert "tides" in listed and "td" in listed and "Tide" in listed, listed
    shown = run("kubectl", "get", "tides").split()
    assert shown == ["NAME", "HEIGHT", "high", "3", "m", "low", "1", "m"], shown
    assert run("kubectl", "get", "td", "high", "-o", "jsonpath={.spec.height}") == "3"
    assert "how high the sea stands" in run("kubectl", "explain", "tide")
    assert "NotFound" in run("kubectl", "get", "tide", "none", fails=True)
    watched = run("kubectl", "get", "--raw", f"{ROOT}/namespaces/default/tides?watch=true")
    assert [json.loads(line)["object"]["spec"]["height"] for line in watched.splitlines()] == [4, 5]
    made = run("kubectl", "create", "--raw", f"{ROOT}/namespaces/default/tides", "-f", "-", text='{"a": "b"}')
    assert json.loads(made) == {"a": "b"}
    proxy, user, groups, authorization = extension.seen[-1]
    assert "system:masters" in groups and user and authorization is None, extension.seen[-1]
    # Discovery is asked for by the server itself, which is a user too.
    assert any(user == "system:kube-aggregator" for _, user, _, _ in extension.seen), extension.seen
    assert {name for name, *_ in extension.seen} == {proxy}


def it_believes_the_proxy_alone(extension, address, port, token):
    jane = ["kubectl", "get", "tides", "--as=jane", "--as-group=sailors"]
    # The cluster does not even ask for somebody who may not.
    assert "Forbidden" in run(*jane, fails=True)
    assert all(user != "jane" for _, user, _, _ in extension.seen), extension.seen
    run("kubectl", "create", "role", "sailor", "--verb=get,list", f"--resource=tides.{GROUP}")
    run("kubectl", "create", "rolebinding", "sailors", "--role=sailor", "--group=sailors")
    eventually("jane may look", lambda: subprocess.run(jane, capture_output=True).returncode == 0)
    assert extension.seen[-1][1:3] == ("jane", ["sailors", "system:authenticated"]), extension.seen[-1]
    tls = ssl.create_default_context(cafile=os.path.join(FOLDER, "ca.crt"))
    tls.check_hostname = False

    def directly(**headers):
        url = f"https://{address}:{port}{ROOT}"
        request = urllib.request.Request(url, headers=headers)
        try:
            return urllib.request.urlopen(request, context=tls).status
        except urllib.error.HTTPError as error:
            return error.code

    assert directly() == 401
    assert directly(**{"X-Remote-User": "root", "X-Remote-Group": "system:masters"}) == 401
    assert directly(Authorization=f"Bearer {token}") == 200
    assert directly(Authorization="Bearer forged") == 401


def condition():
    path = '{.status.conditions[?(@.type=="Available")]}'
    return json.loads(run("kubectl", "get", "apiservice", f"v1.{GROUP}", "-o", f"jsonpath={path}"))


def its_administrator_sees_why_not(server):
    patch = json.dumps({"spec": {"caBundle": base64.b64encode(open(os.path.join(FOLDER, "proxies.crt"), "rb").read()).decode()}})
    run("kubectl", "patch", "apiservice", f"v1.{GROUP}", "--type=merge", "-p", patch)
    eventually("another authority", lambda: condition()["reason"] == "FailedDiscoveryCheck" or condition())
    assert "x509: certificate signed by unknown authority" in condition()["message"], condition()
    assert "ServiceUnavailable" in run("kubectl", "get", "--raw", f"{ROOT}/namespaces/default/tides", fails=True)
    server.shutdown()
    run("kubectl", "delete", "endpointslice", "tides-1", "-n", NAMESPACE)
    eventually("no endpoints", lambda: condition()["reason"] == "EndpointsNotFound" or condition())
    # The rest of the cluster does not suffer.
    run("kubectl", "get", "configmaps")
    run("kubectl", "delete", "apiservice", f"v1.{GROUP}")
    assert "NotFound" in run("kubectl", "get", "--raw", ROOT, fails=True)


def main():
    config.load_kube_config()
    api = client.ApiClient()
    bundle = certificate()
    for manifest in MANIFESTS[:3]:
        utils.create_from_dict(api, manifest, namespace=NAMESPACE)
    del MANIFESTS[:3]
    own, token = as_account(api)
    extension = Extension(own)
    server = start(extension)
    address, port = own_address(client.CoreV1Api(api)), server.server_address[1]
    register(api, address, port, bundle)
    its_users_see_it(extension)
    it_believes_the_proxy_alone(extension, address, port, token)
    its_administrator_sees_why_not(server)
    print("everything held")


main()
