//! Where a webhook is: a URL or a Service.

use serde_json::Value;

use crate::access::Access as _;
use crate::field::{Error, Path};
use crate::names;

const FORM: &str = "; desired format: https://host[/path]";

/// `WebhookClientConfig`, of admission and of conversion.
pub(crate) fn client_config(at: &Path, config: &Value, errors: &mut Vec<Error>) {
    let (url, service) = (config.opt_text("url"), config.has("service"));
    match (url, service) {
        (Some(url), false) => webhook_url(&at.child("url"), url, errors),
        (None, true) => webhook_service(&at.child("service"), &config["service"], errors),
        _ => errors.push(at.required("exactly one of url or service is required")),
    }
}

/// The parts of a URL that a rule looks at.
#[derive(Debug, Default, PartialEq, Eq)]
struct Url<'a> {
    scheme: &'a str,
    user: Option<&'a str>,
    host: &'a str,
    query: &'a str,
    fragment: &'a str,
}

impl<'a> Url<'a> {
    fn parse(text: &'a str) -> Result<Self, String> {
        if text.bytes().any(|byte| byte < 0x20 || byte == 0x7f) {
            return Err("net/url: invalid control character in URL".to_owned());
        }
        let (text, fragment) = text.split_once('#').unwrap_or((text, ""));
        let (text, query) = text.split_once('?').unwrap_or((text, ""));
        let mut url = Self { query, fragment, ..Self::default() };
        let Some(colon) = text.find(':').filter(|at| !text[..*at].contains('/')) else {
            let rest = text.strip_prefix("//").unwrap_or("");
            url.authority(rest)?;
            return Ok(url);
        };
        let scheme = &text[..colon];
        let first = scheme.bytes().next();
        if first.is_none() {
            return Err("missing protocol scheme".to_owned());
        }
        let is_scheme = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
        if !first.is_some_and(|byte| byte.is_ascii_alphabetic()) || !scheme.bytes().all(is_scheme) {
            return Err("first path segment in URL cannot contain colon".to_owned());
        }
        url.scheme = scheme;
        url.authority(text[colon + 1..].strip_prefix("//").unwrap_or(""))?;
        Ok(url)
    }

    fn authority(&mut self, rest: &'a str) -> Result<(), String> {
        let authority = rest.split('/').next().unwrap_or("");
        let (user, host) = match authority.rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, authority),
        };
        let after_brackets = host.rsplit_once(']').map_or(host, |(_, port)| port);
        if let Some((_, port)) = after_brackets.split_once(':')
            && !port.bytes().all(|byte| byte.is_ascii_digit())
        {
            return Err(format!(
                "invalid port {} after host",
                crate::field::quote(&format!(":{port}"))
            ));
        }
        if host.contains(' ') {
            return Err("invalid character \" \" in host name".to_owned());
        }
        (self.user, self.host) = (user, host);
        Ok(())
    }
}

fn webhook_url(at: &Path, text: &str, errors: &mut Vec<Error>) {
    let url = match Url::parse(text) {
        Ok(url) => url,
        Err(why) => {
            let text = crate::field::quote(text);
            errors.push(at.required(format!("url must be a valid URL: parse {text}: {why}{FORM}")));
            return;
        }
    };
    if url.scheme != "https" {
        let why = format!("'https' is the only allowed URL scheme{FORM}");
        errors.push(at.invalid(url.scheme, why));
    }
    if url.host.is_empty() {
        errors.push(at.invalid("", format!("host must be specified{FORM}")));
    }
    if let Some(user) = url.user {
        errors.push(at.invalid(user, "user information is not permitted in the URL"));
    }
    if !url.fragment.is_empty() {
        errors.push(at.invalid(url.fragment, "fragments are not permitted in the URL"));
    }
    if !url.query.is_empty() {
        errors.push(at.invalid(url.query, "query parameters are not permitted in the URL"));
    }
}

fn webhook_service(at: &Path, service: &Value, errors: &mut Vec<Error>) {
    for field in ["name", "namespace"] {
        if service.text(field).is_empty() {
            errors.push(at.child(field).required(""));
        }
    }
    let port = service.int("port").unwrap_or(0);
    if let Some(fault) = names::port_number(port) {
        errors.push(at.child("port").invalid(port, format!("port is not valid: {fault}")));
    }
    if let Some(path) = service.opt_text("path") {
        service_path(&at.child("path"), path, errors);
    }
}

fn service_path(at: &Path, path: &str, errors: &mut Vec<Error>) {
    if path.is_empty() || path == "/" {
        return;
    }
    if path == "//" {
        errors.push(at.invalid(path, "segment[0] may not be empty"));
        return;
    }
    if !path.starts_with('/') {
        errors.push(at.invalid(path, "must start with a '/'"));
    }
    let mut characters = path.chars();
    characters.next();
    let rest = characters.as_str();
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    for (index, step) in rest.split('/').enumerate() {
        if step.is_empty() {
            errors.push(at.invalid(path, format!("segment[{index}] may not be empty")));
            continue;
        }
        for fault in names::dns1123_subdomain(step) {
            errors.push(at.invalid(path, format!("segment[{index}]: {fault}")));
        }
    }
}
