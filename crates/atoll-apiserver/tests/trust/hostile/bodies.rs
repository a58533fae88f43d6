//! Bodies: deep, large, and those that become larger when they are read.

use atoll_api::schema;
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};

use super::{Bounds, MAPS, codes, raw, still_serves};
use crate::client::{Caller, Cluster};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// Posts bytes of some media type; code and message of the answer.
async fn post(
    cluster: &Cluster,
    caller: &Caller,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> (u16, String) {
    let stream = cluster.connect(caller, &[]).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    let mut request = Request::builder().method("POST").uri(path).header("host", "test");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(body.into())).unwrap();
    let exchange = async {
        let answer = sender.send_request(request).await.unwrap();
        let code = answer.status().as_u16();
        let bytes = answer.into_body().collect().await.unwrap().to_bytes();
        let status: Value = serde_json::from_slice(&bytes).unwrap();
        (code, status["message"].as_str().unwrap_or("").to_owned())
    };
    tokio::select! {
        answer = exchange => answer,
        ended = connection => panic!("the connection ended: {ended:?}"),
    }
}

const JSON: (&str, &str) = ("content-type", "application/json");
const YAML: (&str, &str) = ("content-type", "application/yaml");
const PROTOBUF: (&str, &str) = ("content-type", "application/vnd.kubernetes.protobuf");
const LEVELS: usize = 10_000;

#[tokio::test(flavor = "multi_thread")]
async fn deep_documents_are_refused() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let nested = |open: &str, close: &str| {
        format!(
            "{{\"metadata\":{{\"name\":\"n\"}},\"data\":{}1{}}}",
            open.repeat(LEVELS),
            close.repeat(LEVELS)
        )
    };
    let flow = |open: &str, close: &str| {
        format!("data: {}1{}\n", open.repeat(LEVELS), close.repeat(LEVELS))
    };
    let cases = [
        ("JSON lists", JSON, nested("[", "]")),
        ("JSON objects", JSON, nested("{\"a\":", "}")),
        ("JSON that never ends", JSON, "[".repeat(1 << 20)),
        ("YAML lists", YAML, flow("[", "]")),
        ("YAML maps", YAML, flow("{a: ", "}")),
        ("YAML lists in lines", YAML, format!("data: \n  {}x\n", "- ".repeat(LEVELS))),
        ("YAML keys", YAML, "? ".repeat(LEVELS)),
    ];
    for (what, media, body) in cases {
        let bounds = Bounds::begin(what);
        let (code, text) = post(&cluster, &admin, MAPS, &[media], body).await;
        assert_eq!(code, 400, "{what}: {text}");
        assert!(text.len() < 4096, "{what}: the answer shows {} bytes", text.len());
        bounds.hold();
    }
    let bounds = Bounds::begin("protobuf messages");
    let (code, text) = post(&cluster, &admin, DEFINITIONS, &[PROTOBUF], deep_protobuf()).await;
    assert_eq!(code, 400, "{text}");
    assert!(text.contains("nested more than"), "{text}");
    bounds.hold();
    still_serves(&cluster).await;
    cluster.shutdown().await;
}

/// A field of a message, in protobuf's way.
fn field(number: usize, content: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(content.len() + 10);
    let mut put = |mut number: usize| {
        while number >= 0x80 {
            bytes.push((number & 0x7f).to_le_bytes()[0] | 0x80);
            number >>= 7;
        }
        bytes.push(number.to_le_bytes()[0]);
    };
    put(number << 3 | 2);
    put(content.len());
    bytes.extend_from_slice(content);
    bytes
}

/// A definition whose schema says that it is not what is not what is not …
fn deep_protobuf() -> Vec<u8> {
    let tag = |definition: &str, name: &str| {
        let package = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1";
        let id = schema::by_name(&format!("{package}.{definition}")).unwrap();
        usize::try_from(id.definition().field(name).unwrap().tags[0]).unwrap()
    };
    let mut message = Vec::new();
    for _ in 0..LEVELS {
        message = field(tag("JSONSchemaProps", "not"), &message);
    }
    message = field(tag("CustomResourceValidation", "openAPIV3Schema"), &message);
    message = field(tag("CustomResourceDefinitionVersion", "schema"), &message);
    message = field(tag("CustomResourceDefinitionSpec", "versions"), &message);
    message = field(tag("CustomResourceDefinition", "spec"), &message);
    let named = atoll_api::proto::ApiVersionKind {
        api_version: "apiextensions.k8s.io/v1".to_owned(),
        kind: "CustomResourceDefinition".to_owned(),
    };
    atoll_api::proto::seal(&named, &message)
}

#[tokio::test(flavor = "multi_thread")]
async fn large_documents_are_refused_before_they_are_read() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let limit = "Request entity too large: limit is 3145728";
    let bounds = Bounds::begin("five megabytes");
    let body = format!("{{\"data\":{{\"a\":\"{}\"}}}}", "x".repeat(5 << 20));
    assert_eq!(post(&cluster, &admin, MAPS, &[JSON], body).await, (413, limit.to_owned()));
    bounds.hold();

    let bounds = Bounds::begin("a million labels");
    let labels = |count: usize| {
        let labels: Vec<String> = (0..count).map(|number| format!("\"l{number}\":\"\"")).collect();
        format!("{{\"metadata\":{{\"name\":\"m\",\"labels\":{{{}}}}}}}", labels.join(","))
    };
    let answer = post(&cluster, &admin, MAPS, &[JSON], labels(1_000_000)).await;
    assert_eq!(answer, (413, limit.to_owned()));
    bounds.hold();

    // As many as there is room for, whose owners are written down as well.
    let bounds = Bounds::begin("200,000 labels");
    let (code, text) = post(&cluster, &admin, MAPS, &[JSON], labels(200_000)).await;
    println!("200,000 labels: {code} {}", text.get(..200).unwrap_or(&text));
    assert!(matches!(code, 413 | 422 | 500) && text.len() < 4096, "{code}: {} bytes", text.len());
    bounds.hold();

    let bounds = Bounds::begin("annotations");
    let notes = json!({"metadata": {"name": "n", "annotations": {"a": "x".repeat(300_000)}}});
    let (code, text) = post(&cluster, &admin, MAPS, &[JSON], notes.to_string()).await;
    assert_eq!(code, 422, "{text}");
    assert!(text.contains("may not be more than 262144 bytes"), "{text}");
    bounds.hold();
    announced(&cluster).await;
    still_serves(&cluster).await;
    cluster.shutdown().await;
}

/// What is announced takes no memory, and what never ends is cut off.
async fn announced(cluster: &Cluster) {
    let bounds = Bounds::begin("a terabyte that is only announced");
    let head = format!(
        "POST {MAPS} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
         content-length: 1099511627776\r\n\r\n{{"
    );
    let answer = raw(cluster, &cluster.admin(), head.as_bytes()).await;
    assert!(!codes(&answer).contains(&201), "{answer}");
    bounds.hold();
    let bounds = Bounds::begin("chunks without an end");
    let mut endless = format!(
        "POST {MAPS} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
         transfer-encoding: chunked\r\n\r\n"
    );
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
    endless.push_str(&chunk.repeat(400));
    let answer = raw(cluster, &cluster.admin(), endless.as_bytes()).await;
    assert!(codes(&answer).iter().all(|code| *code == 413), "{answer}");
    bounds.hold();
}

#[tokio::test(flavor = "multi_thread")]
async fn bombs_do_not_go_off() {
    use std::io::Write as _;

    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    for _ in 0..64 {
        gzip.write_all(&[b' '; 1 << 20]).unwrap();
    }
    let gzip = gzip.finish().unwrap();
    assert!(gzip.len() < 1 << 20, "a bomb of {} bytes", gzip.len());
    let bounds = Bounds::begin("a gzip bomb");
    let encoded = [JSON, ("content-encoding", "gzip")];
    let (code, text) = post(&cluster, &admin, MAPS, &encoded, gzip).await;
    assert_eq!(code, 400, "{text}");
    bounds.hold();

    let mut laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..30 {
        let before = format!("*a{}", level - 1);
        laughs.push_str(&format!("a{level}: &a{level} [{}]\n", [before.as_str(); 9].join(", ")));
    }
    let wide = format!("a: &a [{}]\nb: [{}]\n", "x, ".repeat(10_000), "*a, ".repeat(10_000));
    let merges = format!("a: &a {{b: c}}\nd: {{<<: [{}]}}\n", "*a, ".repeat(200_000));
    for (what, yaml) in [("aliases of aliases", laughs), ("wide aliases", wide), ("merges", merges)]
    {
        let bounds = Bounds::begin(what);
        let (code, text) = post(&cluster, &admin, MAPS, &[YAML], yaml).await;
        assert_eq!(code, 400, "{what}: {text}");
        assert!(text.contains("document contains excessive aliasing"), "{what}: {text}");
        bounds.hold();
    }
    still_serves(&cluster).await;
    cluster.shutdown().await;
}
