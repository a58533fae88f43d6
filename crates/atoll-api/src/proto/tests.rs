//! Round trips of what clients send, and of hostile bytes. The golden files of upstream are
//! in `tests/golden.rs`.

use super::{MAGIC, ProtoError, decode, encode};
use serde_json::json;

#[test]
fn keeps_a_zero_where_go_has_a_pointer() {
    let object = json!({"kind": "Deployment", "apiVersion": "apps/v1", "metadata": {"name": "a"},
        "spec": {"replicas": 0, "selector": {"matchLabels": {"a": "b"}},
            "strategy": {"rollingUpdate": {"maxSurge": "25%", "maxUnavailable": 0}},
            "template": {"metadata": {}, "spec": {"containers": [{"name": "c", "resources":
                {"limits": {"cpu": "500m"}}, "env": [{"name": "E", "valueFrom": {"configMapKeyRef":
                {"name": "m", "key": "k"}}}]}], "securityContext": {"supplementalGroups": [1, 2]}}}},
        "status": {}});
    let (named, decoded) = decode(&encode(&object).unwrap()).unwrap();
    assert_eq!(named.api_version, "apps/v1");
    assert_eq!(decoded, object);
}

#[test]
fn leaves_out_zero_values_that_go_leaves_out() {
    // ConfigMap { metadata { name: "a", generateName: "", generation: 0, creationTimestamp {} } }
    let meta = b"\x0a\x01a\x12\x00\x38\x00\x42\x00";
    let mut message = Vec::new();
    super::wire::put_bytes(&mut message, 1, meta);
    let named = super::ApiVersionKind { api_version: "v1".into(), kind: "ConfigMap".into() };
    let (_, object) = decode(&super::seal(&named, &message)).unwrap();
    assert_eq!(object["metadata"], json!({"name": "a"}));
}

#[test]
fn refuses_what_is_no_message() {
    assert_eq!(decode(b"{}"), Err(ProtoError::NoMagic));
    let named = super::ApiVersionKind { api_version: "v9".into(), kind: "Pod".into() };
    assert!(matches!(decode(&super::seal(&named, b"")), Err(ProtoError::UnknownKind { .. })));
    let named = super::ApiVersionKind { api_version: "v1".into(), kind: "Pod".into() };
    assert!(decode(&super::seal(&named, b"\x0a\xff")).is_err());
    assert!(decode(&super::seal(&named, b"\x0a\x02\x0a\x05")).is_err());
}

proptest::proptest! {
    #[test]
    fn any_bytes_are_taken_or_refused(bytes in proptest::collection::vec(0_u8..=255, 0..200)) {
        decode(&[MAGIC.as_slice(), &bytes].concat()).ok();
        for kind in ["Pod", "Secret", "Event"] {
            let named = super::ApiVersionKind { api_version: "v1".into(), kind: kind.into() };
            decode(&super::seal(&named, &bytes)).ok();
        }
    }
}
