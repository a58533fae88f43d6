//! `/metrics` of the API, under upstream's names.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use atoll_api::schema::Name;
use atoll_store::kv;
use http::{Method, StatusCode};

use crate::core::Core;
use crate::registry::Registry;
use crate::request::Target;

/// Upper bounds in seconds; upstream's.
const BUCKETS: [f64; 23] = [
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0,
    10.0, 15.0, 20.0, 30.0, 45.0, 60.0,
];

/// What a series is about. Only known resources appear, so there are only so many.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Labels {
    verb: &'static str,
    group: Name,
    version: Name,
    resource: Name,
    subresource: &'static str,
    scope: &'static str,
}

#[derive(Debug, Default)]
pub struct Metrics {
    requests: Mutex<Requests>,
}

#[derive(Debug, Default)]
struct Requests {
    counts: HashMap<(Labels, u16), u64>,
    durations: HashMap<Labels, Histogram>,
}

#[derive(Debug, Default)]
struct Histogram {
    buckets: [u64; BUCKETS.len()],
    count: u64,
    sum_seconds: f64,
}

impl Labels {
    pub fn of(registry: &Registry, method: &Method, target: &Target) -> Self {
        let Target::Resource(asked) = target else {
            return Self { verb: upper(method_verb(method)), ..Self::default() };
        };
        let verb = upper(asked.verb);
        let Some(row) = registry.row(&asked.group, &asked.version, &asked.resource) else {
            return Self { verb, ..Self::default() };
        };
        let scope = match (asked.name.is_empty(), asked.namespace.is_empty()) {
            (false, _) => "resource",
            (true, false) => "namespace",
            (true, true) => "cluster",
        };
        Self {
            verb,
            group: row.group.clone(),
            version: row.version.clone(),
            resource: row.resource.clone(),
            subresource: row.subresource(&asked.subresource).map_or("", |part| part.name),
            scope,
        }
    }
}

fn method_verb(method: &Method) -> &'static str {
    match *method {
        Method::GET | Method::HEAD => "get",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "",
    }
}

fn upper(verb: &str) -> &'static str {
    match verb {
        "get" => "GET",
        "list" => "LIST",
        "watch" => "WATCH",
        "create" => "POST",
        "update" => "PUT",
        "patch" => "PATCH",
        "delete" => "DELETE",
        "deletecollection" => "DELETECOLLECTION",
        _ => "other",
    }
}

impl Metrics {
    pub fn observe(&self, labels: Labels, code: StatusCode, took: Duration) {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        *requests.counts.entry((labels.clone(), code.as_u16())).or_default() += 1;
        if labels.verb != "WATCH" {
            requests.durations.entry(labels).or_default().observe(took.as_secs_f64());
        }
    }

    /// All series as Prometheus reads them.
    pub async fn render(&self, core: &Core) -> String {
        let mut text = String::new();
        self.requests(&mut text);
        objects(&mut text, core);
        core.fairness.render(&mut text);
        audited(&mut text, core);
        stores(&mut text, core).await;
        text
    }

    fn requests(&self, text: &mut String) {
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        let mut counts: Vec<_> = requests.counts.iter().collect();
        counts.sort();
        line(text, "# HELP apiserver_request_total Requests, by what they asked and how it ended.");
        line(text, "# TYPE apiserver_request_total counter");
        for ((labels, code), count) in counts {
            let own = labels.text();
            line(
                text,
                &format!(
                    "apiserver_request_total{{code=\"{code}\",component=\"apiserver\",{own}}} {count}"
                ),
            );
        }
        let mut durations: Vec<_> = requests.durations.iter().collect();
        durations.sort_by_key(|(labels, _)| *labels);
        line(text, "# HELP apiserver_request_duration_seconds Time to answer requests.");
        line(text, "# TYPE apiserver_request_duration_seconds histogram");
        for (labels, histogram) in durations {
            histogram.render(text, "apiserver_request_duration_seconds", &labels.text());
        }
    }
}

fn audited(text: &mut String, core: &Core) {
    let Some(audit) = &core.audit else { return };
    line(text, "# HELP apiserver_audit_error_total Audit events that were not written.");
    line(text, "# TYPE apiserver_audit_error_total counter");
    line(text, &format!("apiserver_audit_error_total{{plugin=\"log\"}} {}", audit.dropped()));
}

fn objects(text: &mut String, core: &Core) {
    line(text, "# HELP apiserver_storage_objects Objects stored, by resource.");
    line(text, "# TYPE apiserver_storage_objects gauge");
    let mut seen = Vec::new();
    for row in core.registry.rows() {
        let stored = (row.storage.group.clone(), row.storage.resource.clone());
        let Some(cache) = core.registry.cache(&row) else { continue };
        if seen.contains(&stored) {
            continue;
        }
        let dot = if stored.0.is_empty() { "" } else { "." };
        line(
            text,
            &format!(
                "apiserver_storage_objects{{resource=\"{}{dot}{}\"}} {}",
                stored.1,
                stored.0,
                cache.len()
            ),
        );
        seen.push(stored);
    }
}

/// The room that each keyspace has.
async fn stores(text: &mut String, core: &Core) {
    let applications =
        core.config.servers.as_ref().and_then(|servers| servers.applications.as_ref());
    let mut all = Vec::new();
    for (keyspace, store) in [("cluster", Some(core.storage.kv())), ("applications", applications)]
    {
        let Some(store) = store else { continue };
        if let Ok(status) = store.status().await {
            all.push((keyspace, status));
        }
    }
    let mut gauge = |name: &str, help: &str, value: fn(&kv::Status) -> u64| {
        line(text, &format!("# HELP {name} {help}"));
        line(text, &format!("# TYPE {name} gauge"));
        for (keyspace, status) in &all {
            line(text, &format!("{name}{{keyspace=\"{keyspace}\"}} {}", value(status)));
        }
    };
    let (live, quota, full) =
        ("atoll_store_live_bytes", "atoll_store_quota_bytes", "atoll_store_no_space");
    gauge(live, "What a keyspace holds, its history included.", |one| one.live_bytes);
    gauge(quota, "What it may hold; 0 where it is not known.", |one| one.quota_bytes);
    gauge(full, "Whether writes are refused for lack of space.", |one| u64::from(one.no_space));
}

impl Labels {
    fn text(&self) -> String {
        format!(
            "group=\"{}\",resource=\"{}\",scope=\"{}\",subresource=\"{}\",verb=\"{}\",version=\"{}\"",
            self.group, self.resource, self.scope, self.subresource, self.verb, self.version
        )
    }
}

impl Histogram {
    fn observe(&mut self, seconds: f64) {
        self.count += 1;
        self.sum_seconds += seconds;
        for (bucket, bound) in self.buckets.iter_mut().zip(BUCKETS) {
            if seconds <= bound {
                *bucket += 1;
            }
        }
    }

    fn render(&self, text: &mut String, name: &str, labels: &str) {
        for (bucket, bound) in self.buckets.iter().zip(BUCKETS) {
            line(
                text,
                &format!(
                    "{name}_bucket{{component=\"apiserver\",{labels},le=\"{bound}\"}} {bucket}"
                ),
            );
        }
        let count = self.count;
        line(
            text,
            &format!("{name}_bucket{{component=\"apiserver\",{labels},le=\"+Inf\"}} {count}"),
        );
        line(text, &format!("{name}_sum{{component=\"apiserver\",{labels}}} {}", self.sum_seconds));
        line(text, &format!("{name}_count{{component=\"apiserver\",{labels}}} {count}"));
    }
}

fn line(text: &mut String, line: &str) {
    // Writing into a String does not fail.
    if writeln!(text, "{line}").is_err() {
        text.clear();
    }
}
