//! Bad input by kubectl, by curl and by `atoll apply`: refused, with upstream's words and a
//! place to look at.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test, which may block")]

use std::{fs, path::PathBuf, process::Command};

use atoll_e2e::{Cluster, Output, cluster, is_root};
use serde_json::Value;

#[test]
fn bad_input_is_refused_in_upstreams_words() {
    if !is_root("bad_input") {
        return;
    }
    let cluster = Cluster::start(1);
    let curl = Curl::new(&cluster);
    files_that_cannot_be_read(&cluster);
    fields_that_are_unknown_or_twice(&cluster);
    kinds_that_are_not_there(&cluster);
    values_out_of_rule(&cluster);
    fields_that_do_not_change(&cluster);
    selectors(&cluster);
    plain_http(&cluster, &curl);
    patches(&curl);
    list_options(&curl);
    hostile_http(&curl);
}

/// A file of the test's; its name shows in messages.
fn file(cluster: &Cluster, name: &str, text: &str) -> String {
    let path = cluster.dir.parent().unwrap().join(name);
    fs::write(&path, text).unwrap();
    path.display().to_string()
}

#[track_caller]
fn says(output: Output, words: &[&str]) {
    let said = output.fails();
    for word in words {
        assert!(said.contains(word), "{word:?} is not in:\n{said}");
    }
}

fn files_that_cannot_be_read(cluster: &Cluster) {
    let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x\ndata:\n  a: b\n";
    let yaml = file(cluster, "bad.yaml", yaml);
    let json =
        file(cluster, "bad.json", "{\"apiVersion\": \"v1\",\n \"metadata\": {\"name\": \"x\",}\n}");
    says(cluster.atoll(&["apply", "-f", &yaml]), &[&yaml, "line 4", "metadata"]);
    says(cluster.atoll(&["apply", "-f", &json]), &[&json, "line 2"]);
    says(cluster.kubectl(&["apply", "-f", &yaml]), &[&yaml, "error converting YAML to JSON"]);
    says(cluster.kubectl(&["apply", "-f", &json]), &[&json, "invalid character '}'"]);
    let untyped = file(cluster, "untyped.yaml", "metadata: {name: x}\n");
    for said in
        [cluster.atoll(&["apply", "-f", &untyped]), cluster.kubectl(&["apply", "-f", &untyped])]
    {
        says(said, &["[apiVersion not set, kind not set]"]);
    }
}

fn fields_that_are_unknown_or_twice(cluster: &Cluster) {
    let text =
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: unknown}\nspec: {}\ndata: {a: b}\n";
    let path = file(cluster, "unknown.yaml", text);
    let strict = "strict decoding error: unknown field \"spec\"";
    says(
        cluster.kubectl(&["apply", "-f", &path]),
        &["ConfigMap in version \"v1\" cannot be handled as a ConfigMap", strict],
    );
    says(cluster.atoll(&["apply", "-f", &path]), &[".spec: field not declared in schema"]);
    let warned = cluster.kubectl(&["apply", "--validate=warn", "-f", &path]);
    assert_eq!(warned.code, 0, "{}", warned.stderr);
    assert!(warned.stderr.contains("Warning: unknown field \"spec\""), "{}", warned.stderr);
    let ignored = cluster.kubectl(&["apply", "--validate=ignore", "-f", &path]);
    assert_eq!((ignored.code, ignored.stderr.as_str()), (0, ""));
    // A change of what is there is a patch, and upstream blames the patch.
    says(
        cluster.kubectl(&["apply", "-f", &path]),
        &["The request is invalid: patch: Invalid value: \"map[", strict],
    );
    let twice = "{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":{\"name\":\"twice\"},\
                 \"data\":{\"a\":\"1\",\"a\":\"2\"}}";
    let path = file(cluster, "twice.json", twice);
    let raw = "/api/v1/namespaces/default/configmaps?fieldValidation=Strict";
    says(
        cluster.kubectl(&["create", "--raw", raw, "-f", &path]),
        &["strict decoding error: duplicate field \"data.a\""],
    );
    says(cluster.atoll(&["apply", "-f", &path]), &["duplicate field \"data.a\""]);
}

fn kinds_that_are_not_there(cluster: &Cluster) {
    for (text, missing) in [
        (
            "apiVersion: v1\nkind: ConfigMapp\nmetadata: {name: x}\n",
            "\"ConfigMapp\" in version \"v1\"",
        ),
        (
            "apiVersion: apps/v9\nkind: Deployment\nmetadata: {name: x}\n",
            "\"Deployment\" in version \"apps/v9\"",
        ),
    ] {
        let path = file(cluster, "kind.yaml", text);
        let words = format!("no matches for kind {missing}");
        says(cluster.atoll(&["apply", "-f", &path]), &[&words]);
        // kubectl looks for it in OpenAPI v2, in protobuf, before it says so.
        says(cluster.kubectl(&["apply", "-f", &path]), &["resource mapping not found", &words]);
    }
    let explained =
        cluster.kubectl(&["explain", "deployment.spec", "--output=plaintext-openapiv2"]).ok();
    assert!(explained.contains("minReadySeconds") && explained.contains("replicas"), "{explained}");
    says(
        cluster.kubectl(&["get", "things"]),
        &["the server doesn't have a resource type \"things\""],
    );
}

fn values_out_of_rule(cluster: &Cluster) {
    let overrides = |resources: &str| {
        format!(
            "{{\"spec\":{{\"containers\":[{{\"name\":\"q\",\"image\":\"x\",\"resources\":{resources}}}]}}}}"
        )
    };
    let run = |resources: &str| {
        cluster.kubectl(&["run", "q", "--image=x", "--overrides", &overrides(resources)])
    };
    says(run("{\"limits\":{\"cpu\":\"1x\"}}"), &["quantities must match the regular expression"]);
    says(
        run("{\"limits\":{\"cpu\":\"1\"},\"requests\":{\"cpu\":\"2\"}}"),
        &[
            "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
        ],
    );
    says(
        cluster.kubectl(&["create", "configmap", "Bad_Name"]),
        &[
            "metadata.name: Invalid value: \"Bad_Name\": a lowercase RFC 1123 subdomain must consist of",
        ],
    );
    says(
        cluster.kubectl(&["create", "namespace", "A"]),
        &["a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-'"],
    );
    says(
        cluster.kubectl(&["label", "namespace", "default", "a=b c"]),
        &["a valid label must be an empty string or consist of alphanumeric characters"],
    );
    says(
        cluster.kubectl(&["create", "deployment", "d", "--image=x", "--replicas=-1"]),
        &["spec.replicas: Invalid value: -1: must be greater than or equal to 0"],
    );
}

fn fields_that_do_not_change(cluster: &Cluster) {
    cluster.kubectl(&["create", "deployment", "fixed", "--image=x", "--replicas=0"]).ok();
    let patch = |what: &[&str], patch: &str| {
        let mut arguments = vec!["patch", "--type=merge", "-p", patch];
        arguments.extend(what);
        cluster.kubectl(&arguments)
    };
    says(
        patch(
            &["deployment", "fixed"],
            "{\"spec\":{\"selector\":{\"matchLabels\":{\"x\":\"y\"}}}}",
        ),
        &["spec.selector: Invalid value: ", "field is immutable"],
    );
    for kind in [&["configmap"][..], &["secret", "generic"]] {
        cluster.kubectl(&[&["create"], kind, &["fixed", "--from-literal=a=b"]].concat()).ok();
        patch(&[kind[0], "fixed"], "{\"immutable\":true}").ok();
        says(
            patch(&[kind[0], "fixed"], "{\"data\":{\"a\":\"Yw==\"}}"),
            &["data: Forbidden: field is immutable when `immutable` is set"],
        );
        let words = "immutable: Forbidden: field is immutable when `immutable` is set";
        says(patch(&[kind[0], "fixed"], "{\"immutable\":false}"), &[words]);
    }
    // What cannot be changed can be deleted.
    cluster.kubectl(&["delete", "secret", "fixed"]).ok();
    says(
        patch(
            &["service", "kubernetes"],
            "{\"spec\":{\"clusterIP\":\"10.43.9.9\",\"clusterIPs\":[\"10.43.9.9\"]}}",
        ),
        &["spec.clusterIPs[0]: Invalid value: [\"10.43.9.9\"]: may not change once set"],
    );
    // A status is no spec and a spec no status: each way changes its own half.
    let both = "{\"spec\":{\"minReadySeconds\":7},\"status\":{\"replicas\":9}}";
    patch(&["deployment", "fixed"], both).ok();
    let main = cluster.json(&["deployment", "fixed"]);
    assert_eq!(main["spec"]["minReadySeconds"], 7);
    assert_ne!(main["status"]["replicas"], 9);
    let other = "{\"spec\":{\"minReadySeconds\":8},\"metadata\":{\"labels\":{\"no\":\"no\"}}}";
    patch(&["deployment", "fixed", "--subresource=status"], other).ok();
    let main = cluster.json(&["deployment", "fixed"]);
    assert_eq!(main["spec"]["minReadySeconds"], 7);
    assert!(main["metadata"]["labels"].get("no").is_none(), "{main}");
}

fn selectors(cluster: &Cluster) {
    let get = |resource: &str, query: &str| {
        let path = format!("/api/v1/namespaces/default/{resource}?{query}");
        cluster.kubectl(&["get", "--raw", &path])
    };
    let start = "Error from server (BadRequest): ";
    for (resource, query, text) in [
        (
            "configmaps",
            "labelSelector=a%20in%20b",
            "unable to parse requirement: found 'b' expected: '('",
        ),
        (
            "configmaps",
            "labelSelector=-a=b",
            "unable to parse requirement: key: Invalid value: \"-a\": name part must consist of",
        ),
        ("configmaps", "labelSelector=a=b%20c", "found 'c', expected: ',' or 'end of string'"),
        ("configmaps", "fieldSelector=a", "invalid selector: 'a'; can't understand 'a'"),
        (
            "configmaps",
            "fieldSelector=data.a=1",
            "\"data.a\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\"",
        ),
        ("pods", "fieldSelector=spec.foo=1", "field label not supported: spec.foo"),
        ("pods", "limit=x", "strconv.ParseInt: parsing \"x\": invalid syntax"),
        (
            "pods",
            "continue=x",
            "invalid continue token: continue key is not valid: illegal base64 data at input byte 1",
        ),
    ] {
        says(get(resource, query), &[&format!("{start}{text}")]);
    }
}

/// curl with the administrator's certificate.
struct Curl {
    folder: PathBuf,
    server: String,
}

impl Curl {
    fn new(cluster: &Cluster) -> Self {
        use std::os::unix::fs::PermissionsExt as _;

        let folder = cluster.dir.parent().unwrap().to_owned();
        let read = |path: &str| {
            let template = format!("jsonpath={{{path}}}");
            cluster.kubectl(&["config", "view", "--raw", "-o", &template]).ok()
        };
        let files = [
            ("ca", ".clusters[0].cluster.certificate-authority-data"),
            ("cert", ".users[0].user.client-certificate-data"),
            ("key", ".users[0].user.client-key-data"),
        ];
        for (name, path) in files {
            let mut decode = Command::new("base64");
            decode.arg("-d");
            let path = cluster::run(decode, &{ read(path) }).ok();
            let file = folder.join(format!("{name}.pem"));
            fs::write(&file, path).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        }
        let server = read(".clusters[0].cluster.server");
        Self { folder, server }
    }

    /// Code, headers and body.
    fn ask(&self, path: &str, arguments: &[&str], body: &str) -> (u16, String, String) {
        let pem = |name: &str| self.folder.join(format!("{name}.pem"));
        let mut command = Command::new("curl");
        command.args(["-sS", "-i", "--path-as-is", "--max-time", "60"]);
        command.arg("--cacert").arg(pem("ca")).arg("--cert").arg(pem("cert"));
        command.arg("--key").arg(pem("key")).args(arguments);
        if !body.is_empty() {
            command.args(["--data-binary", "@-", "-H", "Expect:"]);
        }
        command.arg(format!("{}{path}", self.server));
        let answer = cluster::run(command, body).ok();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let code = head.split_whitespace().nth(1).unwrap().parse().unwrap();
        (code, head.to_lowercase(), body.to_owned())
    }

    fn status(&self, path: &str, arguments: &[&str], body: &str) -> (u16, String) {
        let (code, _, body) = self.ask(path, arguments, body);
        let status: Value = serde_json::from_str(&body).unwrap_or(Value::Null);
        (code, status["message"].as_str().unwrap_or(&body).to_owned())
    }
}

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const POST_JSON: [&str; 4] = ["-X", "POST", "-H", "Content-Type: application/json"];

fn plain_http(cluster: &Cluster, curl: &Curl) {
    let (code, said) = curl.status(MAPS, &["-X", "POST", "-H", "Content-Type: text/xml"], "<a/>");
    assert_eq!(code, 415);
    assert!(said.starts_with("the body of the request was in an unknown format"), "{said}");
    let (code, said) = curl.status(MAPS, &POST_JSON, "{\"kind\":\"Secret\",\"apiVersion\":\"v1\"}");
    assert_eq!(
        (code, said.as_str()),
        (
            400,
            "Secret in version \"v1\" cannot be handled as a ConfigMap: converting (Secret) to (ConfigMap): unknown conversion"
        )
    );
    let (code, said) = curl.status(&format!("{MAPS}/fixed"), &["-X", "POST"], "{}");
    assert_eq!(
        (code, said.as_str()),
        (405, "the server does not allow this method on the requested resource")
    );
    let (code, _, said) = curl.ask("/no/such/path", &[], "");
    assert_eq!((code, said.as_str()), (404, "404 page not found\n"));
    let (code, _, said) = curl.ask(MAPS, &["-H", "Accept: application/cbor"], "");
    assert!(
        code == 406 && said.starts_with("406: Not Acceptable\n\nAvailable representations: "),
        "{said}"
    );
    let stale = cluster.json(&["configmap", "fixed"]);
    cluster.kubectl(&["label", "configmap", "fixed", "a=b"]).ok();
    let put = ["-X", "PUT", "-H", "Content-Type: application/json"];
    let (code, said) = curl.status(&format!("{MAPS}/fixed"), &put, &stale.to_string());
    assert_eq!(code, 409);
    assert!(said.ends_with("the object has been modified; please apply your changes to the latest version and try again"), "{said}");
    let (code, head, _) = curl.ask(&format!("{MAPS}?resourceVersion=90000000"), &[], "");
    assert!(code == 504 && head.contains("retry-after: 1"), "{code} {head}");
    let (code, _, said) =
        curl.ask(&format!("{MAPS}?watch=1&resourceVersion=1&timeoutSeconds=1"), &[], "");
    assert!(
        code == 200 && !said.contains("ERROR") || said.contains("too old resource version: 1 ("),
        "{said}"
    );
}

/// Of the ConfigMap `fixed`.
fn patches(curl: &Curl) {
    let invalid = "PatchOptions.meta.k8s.io \"\" is invalid: ";
    let required = format!("{invalid}fieldManager: Required value: is required for apply patch");
    let forced = format!("{invalid}force: Forbidden: may not be specified for non-apply patch");
    let applied = |more: &str| {
        format!(
            "{{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":{{\"name\":\"fixed\"{more}}}}}"
        )
    };
    for (kind, query, patch, code, words) in [
        ("apply-patch+yaml", "", applied(""), 422, required.as_str()),
        ("merge-patch+json", "?force=true", "{}".to_owned(), 422, &forced),
        (
            "apply-patch+yaml",
            "?fieldManager=t",
            applied(",\"managedFields\":[]"),
            400,
            "metadata.managedFields must be nil",
        ),
        (
            "merge-patch+json",
            "",
            "{\"metadata\":{\"uid\":\"other\"}}".to_owned(),
            409,
            "Precondition failed: UID in precondition: other, UID in object meta: ",
        ),
        (
            "merge-patch+json",
            "",
            "{\"metadata\":{\"resourceVersion\":\"1\"}}".to_owned(),
            409,
            "the object has been modified; please apply your changes to the latest version",
        ),
        (
            "strategic-merge-patch+json",
            "",
            "{\"$patch\":\"bogus\"}".to_owned(),
            400,
            "unknown patch type: \"bogus\" in map: ",
        ),
    ] {
        let header = format!("Content-Type: application/{kind}");
        let path = format!("{MAPS}/fixed{query}");
        let (got, said) = curl.status(&path, &["-X", "PATCH", "-H", &header], &patch);
        assert!(got == code && said.contains(words), "{patch}: {got} {said}");
    }
}

fn list_options(curl: &Curl) {
    for (query, code, words) in [
        (
            "resourceVersionMatch=Exact",
            422,
            "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided",
        ),
        (
            "resourceVersionMatch=Foo&resourceVersion=1",
            422,
            "resourceVersionMatch: Unsupported value: \"Foo\": supported values: \"Exact\", \"NotOlderThan\", \"\"",
        ),
        (
            "sendInitialEvents=true",
            422,
            "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for list",
        ),
        (
            "watch=1&sendInitialEvents=true",
            422,
            "resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
        ),
        ("resourceVersion=-1", 400, "invalid resource version"),
        ("resourceVersion=abc", 400, "invalid resource version"),
    ] {
        let (got, said) = curl.status(&format!("{MAPS}?{query}"), &[], "");
        assert!(got == code && said.contains(words), "{query}: {got} {said}");
    }
}

fn hostile_http(curl: &Curl) {
    let large = format!("{{\"data\":{{\"a\":\"{}\"}}}}", "x".repeat(4 << 20));
    let (code, said) = curl.status(MAPS, &POST_JSON, &large);
    assert_eq!((code, said.as_str()), (413, "Request entity too large: limit is 3145728"));
    let deep = format!("{}{}", "{\"a\":".repeat(50_000), "}".repeat(50_000));
    assert_eq!(curl.status(MAPS, &POST_JSON, &deep).0, 400);
    let yaml = ["-X", "POST", "-H", "Content-Type: application/yaml"];
    let laughs: String =
        (1..30).map(|at| format!("a{at}: &a{at} [*a{0},*a{0}]\n", at - 1)).collect();
    assert_eq!(curl.status(MAPS, &yaml, &format!("a0: &a0 [x]\n{laughs}")).0, 400);
    let proto = ["-X", "POST", "-H", "Content-Type: application/vnd.kubernetes.protobuf"];
    assert_eq!(curl.status(MAPS, &proto, "k8s\0\u{1}\u{2}\u{3}").0, 400);
    for path in [
        "/api/v1/namespaces/default/namespaces/kube-system",
        "/api/v1/namespaces/default/nodes/node-1",
        "/api/v1/namespaces//pods/x",
        "/api/v1/namespaces/default/configmaps/a%2Fb",
        "/api/v1/namespaces/default/configmaps/../secrets",
    ] {
        assert_eq!(curl.status(path, &[], "").0, 404, "{path}");
    }
    let (code, said) = curl.status("/version", &["-H", "Impersonate-Group: system:masters"], "");
    assert_eq!(code, 500, "{said}");
    let (code, said) = curl.status(MAPS, &["-H", "Impersonate-User: nobody"], "");
    assert_eq!(code, 403, "{said}");
    // Whoever offers an upgrade to what is no stream gets an answer and no tunnel.
    let upgrade = ["--http1.1", "-H", "Connection: Upgrade", "-H", "Upgrade: websocket"];
    let (code, head, _) = curl.ask(MAPS, &upgrade, "");
    assert!(code == 200 && !head.contains("upgrade:"), "{code} {head}");
    let (code, _, said) = curl.ask("/readyz", &[], "");
    assert_eq!((code, said.as_str()), (200, "ok"));
}
