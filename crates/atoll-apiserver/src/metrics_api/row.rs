//! The rows of metrics.k8s.io: in discovery and RBAC like any, but never stored.

use std::borrow::Cow;

use atoll_api::access::Access as _;
use atoll_api::columns::Column;
use atoll_api::kinds::{Hooks, ResourceInfo, Row, Scope, Storage, Words};
use atoll_api::names;
use atoll_api::quantity::Quantity;
use jiff::Timestamp;
use serde_json::{Value, json};

pub(super) const GROUP: &str = "metrics.k8s.io";
const VERSION: &str = "v1beta1";

const COLUMNS: &[Column] = &[
    column("Name", "name", "Name of the resource"),
    column("cpu", "quantity", ""),
    column("memory", "quantity", ""),
    column("Window", "duration", ""),
];

const fn column(name: &'static str, format: &'static str, description: &'static str) -> Column {
    Column { name, kind: "string", format, description, priority: 0 }
}

/// NodeMetrics and PodMetrics.
pub(crate) fn rows() -> [Row; 2] {
    let nodes = row("nodes", "NodeMetrics", Scope::Cluster);
    [nodes, row("pods", "PodMetrics", Scope::Namespaced)].map(Row::from)
}

fn row(resource: &'static str, kind: &'static str, scope: Scope) -> ResourceInfo {
    ResourceInfo {
        group: GROUP.into(),
        version: VERSION.into(),
        resource: resource.into(),
        kind: kind.into(),
        list_kind: format!("{kind}List").into(),
        singular: "".into(),
        short_names: Words::Fixed(&[]),
        categories: Words::Fixed(&[]),
        scope,
        verbs: &["get", "list"],
        subresources: Cow::Borrowed(&[]),
        storage: Storage {
            group: GROUP.into(),
            version: VERSION.into(),
            resource: resource.into(),
            kind: kind.into(),
            to_storage: None,
            from_storage: None,
        },
        definition: format!("io.k8s.metrics.pkg.apis.metrics.{VERSION}.{kind}").into(),
        name_rule: names::any_rule,
        served: true,
        deprecation: None,
        virtual_only: true,
        hooks: Hooks { default: None, columns: COLUMNS, row: cells, ..Hooks::NONE },
        custom: None,
    }
}

/// A pod shows the sum over its containers.
fn cells(object: &Value, _now: Timestamp) -> Vec<Value> {
    let amounts = |resource: &str| -> Vec<Quantity> {
        let own = object["usage"].text(resource).parse().ok();
        let containers = object.items("containers").iter();
        let parts = containers.filter_map(|one| one["usage"].text(resource).parse().ok());
        own.into_iter().chain(parts).collect()
    };
    let nanos: i128 = amounts("cpu").iter().map(Quantity::nanos).sum();
    let bytes: i64 = amounts("memory").iter().map(Quantity::value).sum();
    let kibis = if bytes % 1024 == 0 { format!("{}Ki", bytes / 1024) } else { bytes.to_string() };
    vec![
        object["metadata"]["name"].clone(),
        canonical(&format!("{nanos}n")),
        canonical(&kibis),
        object["window"].clone(),
    ]
}

fn canonical(text: &str) -> Value {
    text.parse::<Quantity>().map_or(Value::Null, |amount| json!(amount.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_of_a_pod_is_the_sum_of_its_containers() {
        let pod = json!({"metadata": {"name": "p"}, "window": "10s", "containers": [
            {"usage": {"cpu": "1500u", "memory": "512Ki"}},
            {"usage": {"cpu": "8500u", "memory": "512Ki"}},
        ]});
        let row = cells(&pod, Timestamp::UNIX_EPOCH);
        assert_eq!(row, [json!("p"), json!("10m"), json!("1Mi"), json!("10s")]);
    }
}
