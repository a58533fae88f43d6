//! Environment variables of a container, and the values that pods may refer to. Pure.
//!
//! ConfigMaps and Secrets are fetched beforehand; a missing one is an error here, with the
//! kubelet's words.

use std::borrow::Cow;
use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    ConfigMap, Container, EnvVarSource, Pod, ResourceFieldSelector, Secret, Service,
};

use crate::amount;
use crate::pod::identity::find_container;

/// Where values come from.
#[derive(Debug)]
pub struct Surroundings<'a> {
    pub pod: &'a Pod,
    pub pod_ip: Option<&'a str>,
    pub host_ip: &'a str,
    pub node_name: &'a str,
    /// What stands in for limits that a container does not set.
    pub allocatable_cpu_milli: i64,
    pub allocatable_memory: i64,
    pub allocatable_disk: i64,
    pub config_maps: &'a BTreeMap<String, ConfigMap>,
    pub secrets: &'a BTreeMap<String, Secret>,
    pub services: &'a [std::sync::Arc<Service>],
}

/// Shown as the message of `CreateContainerConfigError`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvError {
    #[error("configmap \"{0}\" not found")]
    NoConfigMap(String),
    #[error("secret \"{0}\" not found")]
    NoSecret(String),
    #[error("couldn't find key {key} in ConfigMap {namespace}/{name}")]
    NoConfigMapKey { key: String, namespace: String, name: String },
    #[error("couldn't find key {key} in Secret {namespace}/{name}")]
    NoSecretKey { key: String, namespace: String, name: String },
    #[error("unsupported fieldPath: {0}")]
    NoField(String),
    #[error("unsupported container resource: {0}")]
    NoResource(String),
    #[error("container {0} not found")]
    NoContainer(String),
}

/// All variables of `container` in the order in which they are set; a later one wins.
pub fn environment(
    container: &Container,
    around: &Surroundings<'_>,
) -> Result<Vec<(String, String)>, EnvError> {
    let services = service_variables(around);
    let mut own: BTreeMap<String, String> = BTreeMap::new();
    let mut order: Vec<String> = Vec::new();
    for (name, value) in from_sources(container, around)? {
        set(&mut own, &mut order, name, value);
    }
    for variable in container.env.iter().flatten() {
        let lookup = |name: &str| own.get(name).or_else(|| services.get(name)).cloned();
        let value = match (&variable.value, &variable.value_from) {
            (Some(value), _) if !value.is_empty() => Some(expand(value, lookup)),
            (_, Some(source)) => resolve(source, container, around)?,
            _ => Some(String::new()),
        };
        if let Some(value) = value {
            set(&mut own, &mut order, variable.name.clone(), value);
        }
    }
    let mut all: Vec<_> =
        services.into_iter().filter(|(name, _)| !own.contains_key(name)).collect();
    all.extend(order.into_iter().filter_map(|name| own.remove(&name).map(|value| (name, value))));
    Ok(all)
}

fn set(own: &mut BTreeMap<String, String>, order: &mut Vec<String>, name: String, value: String) {
    if own.insert(name.clone(), value).is_none() {
        order.push(name);
    }
}

fn namespace(around: &Surroundings<'_>) -> String {
    around.pod.metadata.namespace.clone().unwrap_or_default()
}

fn from_sources(
    container: &Container,
    around: &Surroundings<'_>,
) -> Result<Vec<(String, String)>, EnvError> {
    let mut found = Vec::new();
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.clone().unwrap_or_default();
        if let Some(from) = &source.config_map_ref {
            match around.config_maps.get(&from.name) {
                Some(map) => {
                    let entries = map.data.iter().flatten();
                    found.extend(entries.map(|(k, v)| (format!("{prefix}{k}"), v.clone())));
                }
                None if from.optional == Some(true) => {}
                None => return Err(EnvError::NoConfigMap(from.name.clone())),
            }
        }
        if let Some(from) = &source.secret_ref {
            match around.secrets.get(&from.name) {
                Some(secret) => {
                    let entries = secret.data.iter().flatten();
                    found.extend(entries.map(|(k, v)| {
                        (format!("{prefix}{k}"), String::from_utf8_lossy(&v.0).into_owned())
                    }));
                }
                None if from.optional == Some(true) => {}
                None => return Err(EnvError::NoSecret(from.name.clone())),
            }
        }
    }
    Ok(found)
}

/// `None`: an optional source that is not there leaves the variable unset.
fn resolve(
    source: &EnvVarSource,
    container: &Container,
    around: &Surroundings<'_>,
) -> Result<Option<String>, EnvError> {
    if let Some(field) = &source.field_ref {
        return field_value(&field.field_path, around).map(Some);
    }
    if let Some(resource) = &source.resource_field_ref {
        return resource_value(resource, Some(container), around).map(Some);
    }
    if let Some(from) = &source.config_map_key_ref {
        let optional = from.optional == Some(true);
        let Some(map) = around.config_maps.get(&from.name) else {
            return if optional { Ok(None) } else { Err(EnvError::NoConfigMap(from.name.clone())) };
        };
        let value = map.data.as_ref().and_then(|entries| entries.get(&from.key)).cloned();
        return match value {
            None if !optional => Err(EnvError::NoConfigMapKey {
                key: from.key.clone(),
                namespace: namespace(around),
                name: from.name.clone(),
            }),
            value => Ok(value),
        };
    }
    if let Some(from) = &source.secret_key_ref {
        let optional = from.optional == Some(true);
        let Some(secret) = around.secrets.get(&from.name) else {
            return if optional { Ok(None) } else { Err(EnvError::NoSecret(from.name.clone())) };
        };
        let value = secret.data.as_ref().and_then(|entries| entries.get(&from.key));
        return match value {
            None if !optional => Err(EnvError::NoSecretKey {
                key: from.key.clone(),
                namespace: namespace(around),
                name: from.name.clone(),
            }),
            value => Ok(value.map(|bytes| String::from_utf8_lossy(&bytes.0).into_owned())),
        };
    }
    Ok(None)
}

/// The value behind a `fieldPath`, for variables and for downward API files.
pub fn field_value(path: &str, around: &Surroundings<'_>) -> Result<String, EnvError> {
    let (metadata, spec) = (&around.pod.metadata, around.pod.spec.as_ref());
    let keyed = |prefix: &str| {
        path.strip_prefix(prefix)?.strip_prefix("['")?.strip_suffix("']").map(str::to_owned)
    };
    if let Some(key) = keyed("metadata.labels") {
        return Ok(metadata.labels.as_ref().and_then(|l| l.get(&key)).cloned().unwrap_or_default());
    }
    if let Some(key) = keyed("metadata.annotations") {
        let annotations = metadata.annotations.as_ref();
        return Ok(annotations.and_then(|a| a.get(&key)).cloned().unwrap_or_default());
    }
    let text = |value: Option<&String>| value.cloned().unwrap_or_default();
    Ok(match path {
        "metadata.name" => text(metadata.name.as_ref()),
        "metadata.namespace" => text(metadata.namespace.as_ref()),
        "metadata.uid" => text(metadata.uid.as_ref()),
        "metadata.labels" => quoted_lines(metadata.labels.as_ref()),
        "metadata.annotations" => quoted_lines(metadata.annotations.as_ref()),
        "spec.nodeName" => around.node_name.to_owned(),
        "spec.serviceAccountName" => text(spec.and_then(|s| s.service_account_name.as_ref())),
        "status.hostIP" | "status.hostIPs" => around.host_ip.to_owned(),
        "status.podIP" | "status.podIPs" => around.pod_ip.unwrap_or_default().to_owned(),
        other => return Err(EnvError::NoField(other.to_owned())),
    })
}

fn quoted_lines(map: Option<&BTreeMap<String, String>>) -> String {
    let lines = map.into_iter().flatten().map(|(k, v)| format!("{k}={}", go_quote(v)));
    lines.collect::<Vec<_>>().join("\n")
}

/// As Go's `%q` writes a text.
#[must_use]
pub fn go_quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\u{7}' => quoted.push_str("\\a"),
            '\u{8}' => quoted.push_str("\\b"),
            '\u{b}' => quoted.push_str("\\v"),
            '\u{c}' => quoted.push_str("\\f"),
            c if c.is_ascii_control() => quoted.push_str(&format!("\\x{:02x}", u32::from(c))),
            c if c.is_control() => quoted.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// The value behind a `resourceFieldRef`, divided and rounded up.
pub fn resource_value(
    reference: &ResourceFieldSelector,
    default_container: Option<&Container>,
    around: &Surroundings<'_>,
) -> Result<String, EnvError> {
    let container = match &reference.container_name {
        Some(name) if !name.is_empty() => around
            .pod
            .spec
            .as_ref()
            .and_then(|spec| find_container(spec, name))
            .map(|(_, container)| container)
            .ok_or_else(|| EnvError::NoContainer(name.clone()))?,
        _ => {
            let own = default_container.ok_or_else(|| EnvError::NoContainer(String::new()))?;
            Cow::Borrowed(own)
        }
    };
    let (kind, name) = reference
        .resource
        .split_once('.')
        .ok_or_else(|| EnvError::NoResource(reference.resource.clone()))?;
    let resources = container.resources.as_ref();
    let default = match name {
        "cpu" => around.allocatable_cpu_milli,
        "memory" => around.allocatable_memory,
        "ephemeral-storage" => around.allocatable_disk,
        _ => 0,
    };
    let amount = match kind {
        "limits" => amount::limit(resources, name).unwrap_or(default),
        "requests" => amount::request(resources, name).unwrap_or(0),
        _ => return Err(EnvError::NoResource(reference.resource.clone())),
    };
    let milli = if name == "cpu" { i128::from(amount) } else { i128::from(amount) * 1000 };
    let divisor = reference.divisor.as_ref().and_then(amount::milli).filter(|d| *d > 0);
    let divisor = i128::from(divisor.unwrap_or(1000));
    Ok((milli.div_euclid(divisor) + i128::from(milli.rem_euclid(divisor) != 0)).to_string())
}

/// `$(NAME)` becomes the value, `$$` a dollar; what is not known stays as written.
pub fn expand(text: &str, lookup: impl Fn(&str) -> Option<String>) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        result.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            result.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|r| r.split_once(')')) {
            match lookup(name) {
                Some(value) => result.push_str(&value),
                None => {
                    result.push_str("$(");
                    result.push_str(name);
                    result.push(')');
                }
            }
            rest = after;
        } else {
            result.push('$');
        }
    }
    result.push_str(rest);
    result
}

/// Variables for the services of the pod's namespace, as Docker's links had them.
fn service_variables(around: &Surroundings<'_>) -> BTreeMap<String, String> {
    let own = namespace(around);
    let links = around.pod.spec.as_ref().and_then(|s| s.enable_service_links).unwrap_or(true);
    let mut variables = BTreeMap::new();
    for service in around.services {
        let name = service.metadata.name.as_deref().unwrap_or_default();
        let space = service.metadata.namespace.as_deref().unwrap_or_default();
        let is_api = space == "default" && name == "kubernetes";
        if is_api || (links && space == own) {
            add_service(&mut variables, name, service);
        }
    }
    variables
}

fn add_service(variables: &mut BTreeMap<String, String>, name: &str, service: &Service) {
    let Some(spec) = &service.spec else { return };
    let ip = spec.cluster_ip.as_deref().unwrap_or_default();
    if ip.is_empty() || ip == "None" {
        return;
    }
    let upper = |text: &str| text.to_ascii_uppercase().replace('-', "_");
    let prefix = upper(name);
    for (i, port) in spec.ports.iter().flatten().enumerate() {
        let number = port.port;
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let url = format!("{}://{ip}:{number}", protocol.to_ascii_lowercase());
        if i == 0 {
            variables.insert(format!("{prefix}_SERVICE_HOST"), ip.to_owned());
            variables.insert(format!("{prefix}_SERVICE_PORT"), number.to_string());
            variables.insert(format!("{prefix}_PORT"), url.clone());
        }
        if let Some(port_name) = port.name.as_deref().filter(|n| !n.is_empty()) {
            let key = format!("{prefix}_SERVICE_PORT_{}", upper(port_name));
            variables.insert(key, number.to_string());
        }
        let link = format!("{prefix}_PORT_{number}_{}", protocol.to_ascii_uppercase());
        variables.insert(format!("{link}_PROTO"), protocol.to_ascii_lowercase());
        variables.insert(format!("{link}_PORT"), number.to_string());
        variables.insert(format!("{link}_ADDR"), ip.to_owned());
        variables.insert(link, url);
    }
}

/// Names of the ConfigMaps and Secrets that a container's variables come from, and
/// whether each may be missing.
#[must_use]
pub fn references(container: &Container) -> (Vec<String>, Vec<String>) {
    let (mut maps, mut secrets) = (Vec::new(), Vec::new());
    for source in container.env_from.iter().flatten() {
        maps.extend(source.config_map_ref.as_ref().map(|r| r.name.clone()));
        secrets.extend(source.secret_ref.as_ref().map(|r| r.name.clone()));
    }
    for source in container.env.iter().flatten().filter_map(|v| v.value_from.as_ref()) {
        maps.extend(source.config_map_key_ref.as_ref().map(|r| r.name.clone()));
        secrets.extend(source.secret_key_ref.as_ref().map(|r| r.name.clone()));
    }
    (maps, secrets)
}

#[cfg(test)]
#[path = "env/tests.rs"]
mod tests;
