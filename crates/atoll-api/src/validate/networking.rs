//! Ingress and IngressClass: where requests from outside go.

use serde_json::{Value, json};

use super::{faults, immutable};
use crate::access::Access as _;
use crate::field::{Error, Path};
use crate::names;

const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";
const CONTROLLER_LENGTH_MAX: usize = 250;
const PATH_TYPES: [&str; 3] = ["Exact", "ImplementationSpecific", "Prefix"];
const FORBIDDEN_SEQUENCES: [&str; 5] = ["//", "/./", "/../", "%2f", "%2F"];
const FORBIDDEN_ENDS: [&str; 2] = ["/..", "/."];
/// What may follow the domain of a controller's name.
const HTTP_PATH: &str = r"[A-Za-z0-9/\-._~%!$&'()*+,;=:]+";
const NOT_AN_ADDRESS: &str = "must be a DNS name, not an IP address";

/// What the stored object is allowed to keep though it would be refused today.
#[derive(Debug, Clone, Copy, Default)]
struct Leniency {
    secret_names: bool,
    wildcard_rules: bool,
}

pub(crate) fn ingress(ingress: &Value) -> Vec<Error> {
    let mut errors = spec(&ingress["spec"], Leniency::default());
    let annotated = ingress["metadata"]["annotations"].opt_text(CLASS_ANNOTATION);
    let class = ingress["spec"].opt_text("ingressClassName");
    if let (Some(annotated), Some(class)) = (annotated, class)
        && annotated != class
    {
        let text = "must match `ingressClassName` when both are specified";
        errors.push(Path::new("annotations").child(CLASS_ANNOTATION).invalid(annotated, text));
    }
    errors
}

pub(crate) fn ingress_update(new: &Value, old: &Value) -> Vec<Error> {
    spec(&new["spec"], leniency(&old["spec"]))
}

pub(crate) fn ingress_status_update(new: &Value, _: &Value) -> Vec<Error> {
    let mut errors = Vec::new();
    let at = Path::new("status").child("loadBalancer").child("ingress");
    for (index, point) in new["status"]["loadBalancer"].items("ingress").iter().enumerate() {
        let at = at.index(index);
        let (ip, hostname) = (point.text("ip"), point.text("hostname"));
        if !ip.is_empty() {
            faults(&at.child("ip"), ip, names::ip(ip), &mut errors);
        }
        if !hostname.is_empty() {
            let at = at.child("hostname");
            faults(&at, hostname, names::dns1123_subdomain(hostname), &mut errors);
            if names::ip(hostname).is_empty() {
                errors.push(at.invalid(hostname, NOT_AN_ADDRESS));
            }
        }
    }
    errors
}

fn leniency(old: &Value) -> Leniency {
    let secret_names = old.items("tls").iter().any(|tls| !secret_faults(tls).is_empty());
    let wildcard_rules = old.items("rules").iter().any(|rule| {
        let mut errors = Vec::new();
        rule_value(&Path::root(), rule, &mut errors);
        rule.text("host").contains('*') && !errors.is_empty()
    });
    Leniency { secret_names, wildcard_rules }
}

fn spec(spec: &Value, leniency: Leniency) -> Vec<Error> {
    let mut errors = Vec::new();
    let at = Path::new("spec");
    let rules = spec.items("rules");
    if rules.is_empty() && !spec.has("defaultBackend") {
        let text = "either `defaultBackend` or `rules` must be specified";
        errors.push(at.invalid(Value::Null, text));
    }
    if spec.has("defaultBackend") {
        backend(&at.child("defaultBackend"), &spec["defaultBackend"], &mut errors);
    }
    for (index, rule) in rules.iter().enumerate() {
        let at = at.child("rules").index(index);
        host(&at.child("host"), rule.text("host"), &mut errors);
        if !rule.text("host").contains('*') || !leniency.wildcard_rules {
            rule_value(&at, rule, &mut errors);
        }
    }
    for (index, tls) in spec.items("tls").iter().enumerate() {
        self::tls(&at.child("tls").index(index), tls, leniency, &mut errors);
    }
    if let Some(class) = spec.opt_text("ingressClassName") {
        let at = at.child("ingressClassName");
        faults(&at, class, names::dns1123_subdomain(class), &mut errors);
    }
    errors
}

fn host(at: &Path, host: &str, errors: &mut Vec<Error>) {
    if host.is_empty() {
        return;
    }
    if names::ip(host).is_empty() {
        errors.push(at.invalid(host, NOT_AN_ADDRESS));
    }
    host_name(at, host, errors);
}

fn host_name(at: &Path, host: &str, errors: &mut Vec<Error>) {
    let found = if host.contains('*') {
        names::wildcard_dns1123_subdomain(host)
    } else {
        names::dns1123_subdomain(host)
    };
    faults(at, host, found, errors);
}

fn rule_value(at: &Path, rule: &Value, errors: &mut Vec<Error>) {
    if !rule.has("http") {
        return;
    }
    let at = at.child("http").child("paths");
    let paths = rule["http"].items("paths");
    if paths.is_empty() {
        errors.push(at.required(""));
    }
    for (index, path) in paths.iter().enumerate() {
        http_path(&at.index(index), path, errors);
    }
}

fn http_path(at: &Path, path: &Value, errors: &mut Vec<Error>) {
    let Some(kind) = path.opt_text("pathType") else {
        errors.push(at.child("pathType").required("pathType must be specified"));
        return;
    };
    let text = path.text("path");
    let text_at = at.child("path");
    let absolute = text.starts_with('/');
    match kind {
        "Exact" | "Prefix" => {
            if !absolute {
                errors.push(text_at.invalid(text, "must be an absolute path"));
            }
            for sequence in FORBIDDEN_SEQUENCES.iter().filter(|one| text.contains(**one)) {
                errors.push(text_at.invalid(text, format!("must not contain '{sequence}'")));
            }
            for end in FORBIDDEN_ENDS.iter().filter(|one| text.ends_with(**one)) {
                errors.push(text_at.invalid(text, format!("cannot end with '{end}'")));
            }
        }
        "ImplementationSpecific" if !text.is_empty() && !absolute => {
            errors.push(text_at.invalid(text, "must be an absolute path"));
        }
        "ImplementationSpecific" => {}
        other => errors.push(at.child("pathType").not_supported(other, &PATH_TYPES)),
    }
    backend(&at.child("backend"), &path["backend"], errors);
}

fn backend(at: &Path, backend: &Value, errors: &mut Vec<Error>) {
    match (backend.has("resource"), backend.has("service")) {
        (true, true) => {
            errors.push(at.invalid("", "cannot set both resource and service backends"));
        }
        (true, false) => reference(&at.child("resource"), &backend["resource"], errors),
        (false, true) => service_backend(at, &backend["service"], errors),
        (false, false) => errors.push(at.invalid("", "resource or service backend is required")),
    }
}

fn service_backend(at: &Path, service: &Value, errors: &mut Vec<Error>) {
    let (name, name_at) = (service.text("name"), at.child("service").child("name"));
    if name.is_empty() {
        errors.push(name_at.required(""));
    } else {
        faults(&name_at, name, names::dns1035_label(name), errors);
    }
    let port = &service["port"];
    let port_at = at.child("service").child("port");
    match (port.text("name"), port.int("number").unwrap_or(0)) {
        ("", 0) => errors.push(at.required("port name or number is required")),
        ("", number) => {
            if let Some(fault) = names::port_number(number) {
                errors.push(port_at.child("number").invalid(number, fault));
            }
        }
        (name, 0) => faults(&port_at.child("name"), name, names::port_name(name), errors),
        _ => errors.push(at.invalid("", "cannot set both port name & port number")),
    }
}

/// A reference to an object of the same namespace, or to the parameters of a class.
fn reference(at: &Path, reference: &Value, errors: &mut Vec<Error>) {
    if let Some(group) = reference.opt_text("apiGroup") {
        faults(&at.child("apiGroup"), group, names::dns1123_subdomain(group), errors);
    }
    for field in ["kind", "name"] {
        let (at, value) = (at.child(field), reference.text(field));
        if value.is_empty() {
            errors.push(at.required(""));
        } else {
            faults(&at, value, names::path_segment(value), errors);
        }
    }
}

fn tls(at: &Path, tls: &Value, leniency: Leniency, errors: &mut Vec<Error>) {
    for (index, host) in tls.items("hosts").iter().enumerate() {
        host_name(&at.child("hosts").index(index), host.as_str().unwrap_or(""), errors);
    }
    if !leniency.secret_names {
        faults(&at.child("secretName"), tls.text("secretName"), secret_faults(tls), errors);
    }
}

fn secret_faults(tls: &Value) -> Vec<String> {
    match tls.text("secretName") {
        "" => Vec::new(),
        name => names::dns1123_subdomain(name),
    }
}

pub(crate) fn ingress_class(class: &Value) -> Vec<Error> {
    let mut errors = Vec::new();
    let at = Path::new("spec");
    let (controller, controller_at) = (class["spec"].text("controller"), at.child("controller"));
    if controller.is_empty() {
        errors.push(controller_at.required(""));
    } else {
        if controller.len() > CONTROLLER_LENGTH_MAX {
            errors.push(controller_at.too_long(CONTROLLER_LENGTH_MAX));
        }
        domain_path(&controller_at, controller, &mut errors);
    }
    let parameters = &class["spec"]["parameters"];
    if !parameters.is_null() {
        let at = at.child("parameters");
        reference(&at, parameters, &mut errors);
        parameters_scope(&at, parameters, &mut errors);
    }
    errors
}

pub(crate) fn ingress_class_update(new: &Value, old: &Value) -> Vec<Error> {
    let mut errors = Vec::new();
    let at = Path::new("spec").child("controller");
    let controller = |class: &Value| json!(class["spec"].text("controller"));
    immutable(&at, &controller(new), &controller(old), &mut errors);
    errors.extend(ingress_class(new));
    errors
}

/// `acme.io/foo`.
fn domain_path(at: &Path, value: &str, errors: &mut Vec<Error>) {
    let Some((domain, path)) =
        value.split_once('/').filter(|(domain, path)| !domain.is_empty() && !path.is_empty())
    else {
        let text = "must be a domain-prefixed path (such as \"acme.io/foo\")";
        errors.push(at.invalid(value, text));
        return;
    };
    faults(at, domain, names::dns1123_subdomain(domain), errors);
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&byte);
    if !path.bytes().all(allowed) {
        errors.push(at.invalid(path, names::regex_error("Invalid path", HTTP_PATH, &[])));
    }
}

fn parameters_scope(at: &Path, parameters: &Value, errors: &mut Vec<Error>) {
    let (namespace, namespace_at) = (parameters.opt_text("namespace"), at.child("namespace"));
    match parameters.opt_text("scope") {
        None => errors.push(at.child("scope").required("")),
        Some("Namespace") => match namespace {
            None => {
                let text = "`parameters.scope` is set to 'Namespace'";
                errors.push(namespace_at.required(text));
            }
            Some(name) => faults(&namespace_at, name, names::dns1123_label(name), errors),
        },
        Some("Cluster") if namespace.is_some() => {
            errors.push(namespace_at.forbidden("`parameters.scope` is set to 'Cluster'"));
        }
        Some("Cluster") => {}
        Some(other) => {
            errors.push(at.child("scope").not_supported(other, &["Cluster", "Namespace"]));
        }
    }
}
