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
fn writes_what_go_writes_for_fields_that_are_not_there() {
    let object = json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "a"},
        "data": {"b": "", "a": "1"}});
    let bytes = encode(&object).unwrap();
    let (_, message) = super::open(&bytes).unwrap();
    // name, generateName, namespace, selfLink, uid, resourceVersion, generation, creationTimestamp
    let meta = b"\x0a\x01a\x12\0\x1a\0\x22\0\x2a\0\x32\0\x38\0\x42\0";
    let data = b"\x12\x06\x0a\x01a\x12\x011\x12\x05\x0a\x01b\x12\0";
    let mut expected = Vec::new();
    super::wire::put_bytes(&mut expected, 1, meta);
    expected.extend_from_slice(data);
    assert_eq!(message, expected);
}

#[test]
fn an_int_or_string_and_a_quantity_have_values_when_they_are_absent() {
    let has = |object: serde_json::Value, part: &[u8]| {
        let bytes = encode(&object).unwrap();
        bytes.windows(part.len()).any(|window| window == part)
    };
    let service = json!({"kind": "Service", "apiVersion": "v1", "metadata": {},
        "spec": {"ports": [{"port": 80}]}, "status": {"loadBalancer": {}}});
    assert!(has(service, b"\x22\x06\x08\0\x10\0\x1a\0"), "targetPort (4) of three zeros");
    let pod = json!({"kind": "Pod", "apiVersion": "v1", "metadata": {}, "spec": {"containers": [
        {"name": "c", "env": [{"name": "E", "valueFrom": {"resourceFieldRef": {"resource": "x"}}}]}]}});
    assert!(has(pod, b"\x0a\0\x12\x01x\x1a\x03\x0a\x010"), "divisor (3) of 0");
}

#[test]
fn long_messages_have_their_length_in_front() {
    for length in [0, 1, 100, 127, 128, 16_383, 16_384, 2_097_152] {
        let object = json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "a"},
            "data": {"a": "x".repeat(length)}});
        assert_eq!(decode(&encode(&object).unwrap()).unwrap().1, object, "{length}");
    }
}

#[test]
fn lists_and_watch_events_are_made_of_messages() {
    let object = json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "a"}});
    let whole = encode(&object).unwrap();
    let (_, message) = super::open(&whole).unwrap();
    let meta = json!({"resourceVersion": "7", "remainingItemCount": 3});
    let mut list = super::List::new("v1", "ConfigMapList", &meta, message.len()).unwrap();
    list.push(message);
    let list = list.finish();
    let expected = json!({"kind": "ConfigMapList", "apiVersion": "v1", "metadata": meta,
        "items": [{"metadata": {"name": "a"}}]});
    assert_eq!(decode(&list).unwrap().1, expected);
    assert_eq!(encode(&expected).unwrap(), list);
    let frame = super::watch_frame("ADDED", &whole);
    let length = u32::from_be_bytes(frame[..4].try_into().unwrap());
    assert_eq!(length as usize, frame.len() - 4);
    let id = crate::schema::by_type("v1", "WatchEvent").unwrap();
    let event = super::decode_message(id, &frame[4..]).unwrap();
    assert_eq!(event, json!({"type": "ADDED", "object": object}));
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

#[test]
fn refuses_a_kind_that_protobuf_does_not_carry() {
    let table = json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "rows": []});
    assert!(matches!(encode(&table), Err(ProtoError::UnknownKind { .. })));
    let partial = json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
        "metadata": {"name": "a"}});
    assert_eq!(decode(&encode(&partial).unwrap()).unwrap().1, partial);
}

#[test]
fn the_first_second_of_1970_is_a_time() {
    let event = json!({"kind": "Event", "apiVersion": "v1", "metadata": {"name": "a"},
        "eventTime": "1970-01-01T00:00:00.000000Z"});
    assert_eq!(decode(&encode(&event).unwrap()).unwrap().1["eventTime"], event["eventTime"]);
}

#[test]
fn refuses_envelopes_nested_without_end() {
    // ControllerRevision.data (2) is a RawExtension (raw is 1), which may hold an envelope.
    let named =
        super::ApiVersionKind { api_version: "apps/v1".into(), kind: "ControllerRevision".into() };
    let mut bytes = super::seal(&named, b"");
    for _ in 0..2000 {
        let (mut raw, mut message) = (Vec::new(), Vec::new());
        super::wire::put_bytes(&mut raw, 1, &bytes);
        super::wire::put_bytes(&mut message, 2, &raw);
        bytes = super::seal(&named, &message);
    }
    assert_eq!(decode(&bytes), Err(ProtoError::TooDeep));
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
