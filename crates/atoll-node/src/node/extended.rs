//! Resources of this node that others announce: an amount in the status' capacity, which the node
//! offers to pods by copying it to what is allocatable. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::NodeStatus;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::amount;

type List = BTreeMap<String, Quantity>;

/// Whether a resource is of somebody else's domain.
#[must_use]
pub fn is_extended(name: &str) -> bool {
    name.contains('/') && !name.contains("kubernetes.io/") && !name.starts_with("requests.")
}

/// What others have announced.
#[must_use]
pub fn announced(status: &NodeStatus) -> List {
    extended(status.capacity.as_ref())
}

/// What is offered still and announced no more.
#[must_use]
pub fn withdrawn(status: &NodeStatus) -> Vec<String> {
    let announced = announced(status);
    let offered = extended(status.allocatable.as_ref());
    offered.into_keys().filter(|name| !announced.contains_key(name)).collect()
}

/// Whether exactly what is announced is offered.
#[must_use]
pub fn is_offered(status: &NodeStatus) -> bool {
    announced(status) == extended(status.allocatable.as_ref())
}

/// What is announced, in numbers.
#[must_use]
pub fn room(status: &NodeStatus) -> BTreeMap<String, i64> {
    let numbers = announced(status).into_iter();
    numbers.filter_map(|(name, quantity)| Some((name, amount::value(&quantity)?))).collect()
}

fn extended(list: Option<&List>) -> List {
    let all = list.into_iter().flatten().filter(|(name, _)| is_extended(name));
    all.map(|(name, quantity)| (name.clone(), quantity.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_others_announce_is_copied_and_withdrawn() {
        let status: NodeStatus = serde_json::from_value(json!({
            "capacity": {"cpu": "2", "example.com/foo": "5", "kubernetes.io/x": "1"},
            "allocatable": {"cpu": "1", "example.com/bar": "3"}}))
        .unwrap();
        assert_eq!(room(&status), BTreeMap::from([("example.com/foo".to_owned(), 5)]));
        assert_eq!(withdrawn(&status), ["example.com/bar"]);
        assert!(!is_offered(&status));
        let settled = NodeStatus { allocatable: Some(announced(&status)), ..status };
        assert!(is_offered(&settled));
    }
}
