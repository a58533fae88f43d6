//! Ingress, NetworkPolicy, and the addresses of Services.

use serde_json::{Value, json};

use super::{Hooks, prepare};
use crate::access::Access as _;
use crate::{columns, defaults, validate};

pub(super) const INGRESS_HOOKS: Hooks = Hooks {
    default: Some(defaults::networking::ingress),
    prepare_create: Some(create_ingress),
    prepare_update: Some(prepare::update_with_generation),
    prepare_status_update: Some(prepare::keep_spec),
    validate_create: Some(validate::networking::ingress),
    validate_update: Some(validate::networking::ingress_update),
    validate_status_update: Some(validate::networking::ingress_status_update),
    warnings: Some(ingress_warnings),
    columns: columns::networking::INGRESS,
    row: columns::networking::ingress,
    ..Hooks::NONE
};

pub(super) const INGRESS_CLASS_HOOKS: Hooks = Hooks {
    default: Some(defaults::networking::ingress_class),
    prepare_create: Some(prepare::create_with_generation),
    prepare_update: Some(prepare::raise_if_spec_changed),
    validate_create: Some(validate::networking::ingress_class),
    validate_update: Some(validate::networking::ingress_class_update),
    columns: columns::networking::INGRESS_CLASS,
    row: columns::networking::ingress_class,
    ..Hooks::NONE
};

pub(super) const NETWORK_POLICY_HOOKS: Hooks = Hooks {
    default: Some(defaults::networking::network_policy),
    prepare_create: Some(prepare::create_with_generation),
    prepare_update: Some(prepare::raise_if_spec_changed),
    validate_create: Some(validate::network_policy::create),
    validate_update: Some(validate::network_policy::update),
    columns: columns::networking::NETWORK_POLICY,
    row: columns::networking::network_policy,
    ..Hooks::NONE
};

pub(super) const SERVICE_CIDR_HOOKS: Hooks = Hooks {
    prepare_create: Some(prepare::drop_status),
    prepare_update: Some(prepare::keep_status),
    prepare_status_update: Some(prepare::keep_spec_and_metadata),
    validate_create: Some(validate::addresses::service_cidr),
    validate_update: Some(validate::addresses::service_cidr_update),
    columns: columns::networking::SERVICE_CIDR,
    row: columns::networking::service_cidr,
    ..Hooks::NONE
};

pub(super) const IP_ADDRESS_HOOKS: Hooks = Hooks {
    validate_create: Some(validate::addresses::ip_address),
    validate_update: Some(validate::addresses::ip_address_update),
    selectable_fields: parent_fields,
    selectable_names: PARENT_FIELDS,
    columns: columns::networking::IP_ADDRESS,
    row: columns::networking::ip_address,
    ..Hooks::NONE
};

/// The fields by which upstream finds the address of a Service.
const PARENT_FIELDS: &[&str] = &[
    "spec.parentRef.group",
    "spec.parentRef.resource",
    "spec.parentRef.name",
    "spec.parentRef.namespace",
];

const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";

fn create_ingress(ingress: &mut Value) {
    prepare::create_with_generation(ingress);
    prepare::put(ingress, "status", Some(json!({"loadBalancer": {}})));
}

fn ingress_warnings(new: &Value, old: Option<&Value>) -> Vec<String> {
    let annotated = new["metadata"]["annotations"].get(CLASS_ANNOTATION).is_some();
    if annotated && old.is_none() {
        let text = "annotation \"kubernetes.io/ingress.class\" is deprecated, please use \
                    'spec.ingressClassName' instead";
        return vec![text.to_owned()];
    }
    Vec::new()
}

fn parent_fields(address: &Value) -> Vec<(&'static str, String)> {
    let parent = &address["spec"]["parentRef"];
    let value = |name: &str| {
        let field = name.rsplit('.').next().unwrap_or(name);
        parent.text(field).to_owned()
    };
    PARENT_FIELDS.iter().map(|name| (*name, value(name))).collect()
}
