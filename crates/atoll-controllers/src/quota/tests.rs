//! What a namespace uses of its quota.

use super::{is_counted, kind_of};
use serde_json::json;

#[test]
fn limits_name_the_objects_they_are_about() {
    let of = |limit: &str| kind_of(limit).unwrap();
    let pair = |group: &str, resource: &str| (group.to_owned(), resource.to_owned());
    assert_eq!(of("pods"), pair("", "pods"));
    assert_eq!(of("requests.cpu"), pair("", "pods"));
    assert_eq!(of("requests.example.com/gpu"), pair("", "pods"));
    assert_eq!(of("services.nodeports"), pair("", "services"));
    assert_eq!(of("requests.storage"), pair("", "persistentvolumeclaims"));
    assert_eq!(
        of("gold.storageclass.storage.k8s.io/requests.storage"),
        pair("", "persistentvolumeclaims")
    );
    assert_eq!(of("count/deployments.apps"), pair("apps", "deployments"));
    assert_eq!(of("count/widgets.example.com"), pair("example.com", "widgets"));
    assert_eq!(of("secrets"), pair("", "secrets"));
}

#[test]
fn a_status_about_other_limits_is_counted_anew() {
    let quota = |status: serde_json::Value| {
        serde_json::from_value(json!({
            "metadata": {"name": "q"}, "spec": {"hard": {"pods": "1"}}, "status": status,
        }))
        .unwrap()
    };
    assert!(is_counted(&quota(json!({"hard": {"pods": "1"}, "used": {"pods": "0"}}))));
    assert!(!is_counted(&quota(json!({}))));
    assert!(!is_counted(&quota(json!({"hard": {"pods": "2"}, "used": {"pods": "0"}}))));
}
