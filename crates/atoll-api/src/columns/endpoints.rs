//! Endpoints and EndpointSlices: the first few addresses.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{AGE, Column, NAME, age, name, text};
use crate::access::Access as _;

/// Addresses and ports shown before `+ 2 more...`.
const SHOWN_MAX: usize = 3;

pub(crate) const COLUMNS: &[Column] =
    &[NAME, text("Endpoints", "The addresses and ports that answer for the service."), AGE];

pub(crate) const SLICE_COLUMNS: &[Column] = &[
    NAME,
    text("AddressType", "addressType specifies the type of address of this slice's endpoints."),
    text("Ports", "The ports of each endpoint in this slice."),
    text("Endpoints", "The addresses of this slice."),
    AGE,
];

pub(crate) fn row(endpoints: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(endpoints), json!(addresses(endpoints.items("subsets"))), age(endpoints, now)]
}

pub(crate) fn slice_row(slice: &Value, now: Timestamp) -> Vec<Value> {
    let ports = slice.items("ports").iter().map(|port| match port.int("port") {
        Some(number) => number.to_string(),
        None => port.opt_text("name").unwrap_or("*").to_owned(),
    });
    let addresses = slice.items("endpoints").iter().flat_map(|endpoint| {
        endpoint.items("addresses").iter().map(|one| one.as_str().unwrap_or("").to_owned())
    });
    vec![
        name(slice),
        json!(slice.text("addressType")),
        json!(shorten(ports.collect(), "<unset>")),
        json!(shorten(addresses.collect(), "<unset>")),
        age(slice, now),
    ]
}

fn addresses(subsets: &[Value]) -> String {
    if subsets.is_empty() {
        return "<none>".to_owned();
    }
    let mut all = Vec::new();
    for subset in subsets {
        let hosts = || subset.items("addresses").iter().map(|address| address.text("ip"));
        let ports = subset.items("ports");
        if ports.is_empty() {
            all.extend(hosts().map(str::to_owned));
        }
        for port in ports {
            let port = port.int("port").unwrap_or(0);
            all.extend(hosts().map(|host| join_host_port(host, port)));
        }
    }
    shorten(all, "")
}

fn join_host_port(host: &str, port: i64) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

fn shorten(list: Vec<String>, empty: &str) -> String {
    let more = list.len().saturating_sub(SHOWN_MAX);
    let shown: Vec<String> = list.into_iter().take(SHOWN_MAX).collect();
    let text = shown.join(",");
    if more > 0 {
        format!("{text} + {more} more...")
    } else if text.is_empty() {
        empty.to_owned()
    } else {
        text
    }
}
