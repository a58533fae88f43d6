//! Flow schemas and priority levels as they are configured.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use atoll_api::access::Access as _;
use atoll_store::kv::Revision;
use http::HeaderValue;
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::Instant;

use super::borrow::{self, Claim};
use super::level::{Level, Shape};
use super::shard;
use crate::authz::Attributes;
use crate::cache::ResourceCache;
use crate::registry::Registry;
use crate::tokens::account_user;

/// How often seats are divided anew. Upstream's is ten seconds.
const ADJUST_EVERY: Duration = Duration::from_secs(1);

const GROUP: &str = "flowcontrol.apiserver.k8s.io";

/// Follows the configuration.
pub(super) struct Configured {
    total: u32,
    schemas: Source,
    levels: Source,
    current: ArcSwap<Snapshot>,
    /// Held while the configuration is read.
    reading: Mutex<Reading>,
}

struct Reading {
    levels: HashMap<String, Arc<Level>>,
    adjusted: Instant,
}

struct Source {
    cache: Option<(Arc<ResourceCache>, watch::Receiver<Revision>)>,
}

/// The configuration as of two revisions.
#[derive(Default)]
pub(super) struct Snapshot {
    revisions: Option<(Revision, Revision)>,
    /// By precedence.
    pub(super) schemas: Vec<Schema>,
    levels: Vec<(Arc<Level>, Bounds)>,
}

#[derive(Debug, Clone, Copy)]
struct Bounds {
    nominal: u32,
    least: u32,
    most: u32,
    exempt: bool,
}

/// One flow schema whose level is there.
pub(super) struct Schema {
    name: String,
    precedence: i64,
    pub(super) uid: HeaderValue,
    pub(super) level: Arc<Level>,
    by: By,
    rules: Vec<Rules>,
}

/// What tells flows of one schema apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Nothing,
    User,
    Namespace,
}

#[derive(Debug, Default)]
struct Rules {
    users: Vec<String>,
    groups: Vec<String>,
    /// Namespaces whose every account is meant.
    accounts_of: Vec<String>,
    resources: Vec<ResourceRule>,
    paths: Vec<PathRule>,
}

#[derive(Debug, Default)]
struct ResourceRule {
    verbs: Vec<String>,
    groups: Vec<String>,
    resources: Vec<String>,
    namespaces: Vec<String>,
    cluster_scope: bool,
}

#[derive(Debug, Default)]
struct PathRule {
    verbs: Vec<String>,
    paths: Vec<String>,
}

impl Configured {
    pub(super) fn new(registry: &Arc<Registry>, total: u32) -> Self {
        let source = |resource: &str| {
            let cache = registry.objects(GROUP, resource);
            Source { cache: cache.map(|cache| (cache.clone(), cache.subscribe())) }
        };
        let reading = Reading { levels: HashMap::new(), adjusted: Instant::now() };
        Self {
            total: total.max(1),
            schemas: source("flowschemas"),
            levels: source("prioritylevelconfigurations"),
            current: ArcSwap::default(),
            reading: Mutex::new(reading),
        }
    }

    pub(super) fn current(&self) -> Arc<Snapshot> {
        let revisions = Some((self.schemas.revision(), self.levels.revision()));
        let current = self.current.load_full();
        if current.revisions == revisions {
            return current;
        }
        let mut reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        let mut levels = HashMap::new();
        let bounds = self.read_levels(&mut reading, &mut levels);
        let mut schemas = self.read_schemas(&levels);
        schemas.sort_by(|a, b| (a.precedence, &a.name).cmp(&(b.precedence, &b.name)));
        reading.levels = levels;
        let read = Arc::new(Snapshot { revisions, schemas, levels: bounds });
        self.current.store(read.clone());
        read
    }

    fn read_levels(
        &self,
        reading: &mut Reading,
        levels: &mut HashMap<String, Arc<Level>>,
    ) -> Vec<(Arc<Level>, Bounds)> {
        let objects = self.levels.objects();
        let all: u64 = objects.iter().map(shares).sum();
        let mut found = Vec::new();
        for object in &objects {
            let name = object["metadata"].text("name");
            let level = reading.levels.remove(name).unwrap_or_else(|| Level::new(name));
            let bounds = bounds(object, self.total, all);
            level.configure(uid(object), shape(object));
            level.set_limit(bounds.nominal);
            levels.insert(name.to_owned(), level.clone());
            found.push((level, bounds));
        }
        found
    }

    fn read_schemas(&self, levels: &HashMap<String, Arc<Level>>) -> Vec<Schema> {
        let objects = self.schemas.objects();
        objects.iter().filter_map(|object| Schema::read(object, levels)).collect()
    }

    /// Divides the seats anew when it is time to.
    pub(super) fn adjust(&self) {
        let Ok(mut reading) = self.reading.try_lock() else { return };
        if reading.adjusted.elapsed() < ADJUST_EVERY {
            return;
        }
        reading.adjusted = Instant::now();
        drop(reading);
        let current = self.current.load_full();
        let limited: Vec<_> = current.levels.iter().filter(|(_, bounds)| !bounds.exempt).collect();
        let claims: Vec<Claim> = limited
            .iter()
            .map(|(level, bounds)| Claim {
                nominal: bounds.nominal,
                least: bounds.least,
                most: bounds.most,
                wanted: level.take_peak(),
            })
            .collect();
        let seats = borrow::divide(self.total, &claims);
        for ((level, _), seats) in limited.iter().zip(seats) {
            level.set_limit(seats);
        }
    }

    pub(super) fn render(&self, text: &mut String) {
        let current = self.current();
        type Read = fn(&Level) -> u64;
        let series: [(&str, &str, &str, Read); 5] = [
            (
                "apiserver_flowcontrol_current_limit_seats",
                "gauge",
                "Seats that a priority level may take.",
                |level| u64::from(level.numbers().0),
            ),
            (
                "apiserver_flowcontrol_current_executing_seats",
                "gauge",
                "Seats that are taken.",
                |level| u64::from(level.numbers().1),
            ),
            (
                "apiserver_flowcontrol_current_inqueue_requests",
                "gauge",
                "Requests that wait for a seat.",
                |level| level.numbers().2 as u64,
            ),
            (
                "apiserver_flowcontrol_dispatched_requests_total",
                "counter",
                "Requests that were given a seat.",
                |level| level.dispatched.load(Ordering::Relaxed),
            ),
            (
                "apiserver_flowcontrol_rejected_requests_total",
                "counter",
                "Requests that were told to come again.",
                |level| level.rejected.load(Ordering::Relaxed),
            ),
        ];
        for (name, kind, help, read) in series {
            text.push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
            for (level, _) in &current.levels {
                let (own, value) = (&level.name, read(level));
                text.push_str(&format!("{name}{{priority_level=\"{own}\"}} {value}\n"));
            }
        }
    }
}

impl Source {
    fn revision(&self) -> Revision {
        self.cache.as_ref().map_or(0, |(_, latest)| *latest.borrow())
    }

    fn objects(&self) -> Vec<Value> {
        let Some((cache, _)) = &self.cache else { return Vec::new() };
        let entries = cache.list("");
        entries.iter().filter_map(|entry| crate::storage::parse(&entry.json).ok()).collect()
    }
}

fn uid(object: &Value) -> HeaderValue {
    HeaderValue::from_str(object["metadata"].text("uid")).unwrap_or(HeaderValue::from_static(""))
}

fn is_exempt(object: &Value) -> bool {
    object["spec"].text("type") == "Exempt"
}

/// What is said of shares and lending, whichever type it is.
fn terms(object: &Value) -> &Value {
    &object["spec"][if is_exempt(object) { "exempt" } else { "limited" }]
}

fn shares(object: &Value) -> u64 {
    let shares = terms(object).int("nominalConcurrencyShares").unwrap_or(0);
    u64::try_from(shares).unwrap_or(0)
}

fn bounds(object: &Value, total: u32, all_shares: u64) -> Bounds {
    let nominal = borrow::nominal(total, shares(object), all_shares);
    let percent = |field: &str| terms(object).int(field).and_then(|own| u64::try_from(own).ok());
    let part = |percent: u64| u32::try_from(u64::from(nominal) * percent / 100).unwrap_or(total);
    let lendable = part(percent("lendablePercent").unwrap_or(0).min(100));
    let most =
        percent("borrowingLimitPercent").map_or(total, |own| nominal.saturating_add(part(own)));
    Bounds { nominal, least: nominal - lendable, most, exempt: is_exempt(object) }
}

fn shape(object: &Value) -> Shape {
    let queuing = &object["spec"]["limited"]["limitResponse"]["queuing"];
    let number = |field: &str| {
        queuing.int(field).and_then(|number| usize::try_from(number).ok()).unwrap_or(0)
    };
    Shape {
        exempt: is_exempt(object),
        queues: number("queues").min(QUEUES_MAX),
        hand: number("handSize"),
        length_max: number("queueLengthLimit"),
    }
}

/// Queues of one level that are really made; upstream allows ten million, which is memory.
const QUEUES_MAX: usize = 10_000;

impl Schema {
    fn read(object: &Value, levels: &HashMap<String, Arc<Level>>) -> Option<Self> {
        let spec = &object["spec"];
        // One whose level is missing decides nothing.
        let level = levels.get(spec["priorityLevelConfiguration"].text("name"))?;
        Some(Self {
            name: object["metadata"].text("name").to_owned(),
            precedence: spec.int("matchingPrecedence").unwrap_or(0),
            uid: uid(object),
            level: level.clone(),
            by: match spec["distinguisherMethod"].text("type") {
                "ByUser" => By::User,
                "ByNamespace" => By::Namespace,
                _ => By::Nothing,
            },
            rules: spec.items("rules").iter().map(Rules::read).collect(),
        })
    }

    pub(super) fn fits(&self, asked: &Attributes<'_>) -> bool {
        self.rules.iter().any(|rules| rules.fit(asked))
    }

    pub(super) fn flow(&self, asked: &Attributes<'_>) -> u64 {
        let distinguisher = match self.by {
            By::Nothing => "",
            By::User => &asked.user.name,
            By::Namespace => asked.namespace,
        };
        shard::flow(&self.name, distinguisher)
    }
}

fn texts(from: &Value, field: &str) -> Vec<String> {
    from.items(field).iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|one| one == "*" || one == wanted)
}

impl Rules {
    fn read(rules: &Value) -> Self {
        let mut read = Self::default();
        for subject in rules.items("subjects") {
            let (user, group) = (subject["user"].text("name"), subject["group"].text("name"));
            let account = &subject["serviceAccount"];
            match subject.text("kind") {
                "User" => read.users.push(user.to_owned()),
                "Group" => read.groups.push(group.to_owned()),
                "ServiceAccount" if account.text("name") == "*" => {
                    let namespace = account.text("namespace");
                    read.accounts_of.push(format!("system:serviceaccount:{namespace}:"));
                }
                "ServiceAccount" => {
                    read.users.push(account_user(account.text("namespace"), account.text("name")));
                }
                _ => {}
            }
        }
        read.resources = rules.items("resourceRules").iter().map(ResourceRule::read).collect();
        let paths = rules.items("nonResourceRules").iter();
        read.paths = paths
            .map(|rule| PathRule {
                verbs: texts(rule, "verbs"),
                paths: texts(rule, "nonResourceURLs"),
            })
            .collect();
        read
    }

    fn fit(&self, asked: &Attributes<'_>) -> bool {
        let user = asked.user;
        let meant = has(&self.users, &user.name)
            || user.groups.iter().any(|group| has(&self.groups, group))
            || self.accounts_of.iter().any(|prefix| user.name.starts_with(prefix));
        if !meant {
            return false;
        }
        if asked.resource_request {
            return self.resources.iter().any(|rule| rule.fits(asked));
        }
        self.paths.iter().any(|rule| {
            has(&rule.verbs, asked.verb)
                && rule.paths.iter().any(|path| {
                    path == "*"
                        || path == asked.path
                        || path.strip_suffix('*').is_some_and(|start| asked.path.starts_with(start))
                })
        })
    }
}

impl ResourceRule {
    fn read(rule: &Value) -> Self {
        Self {
            verbs: texts(rule, "verbs"),
            groups: texts(rule, "apiGroups"),
            resources: texts(rule, "resources"),
            namespaces: texts(rule, "namespaces"),
            cluster_scope: rule.flag("clusterScope"),
        }
    }

    fn fits(&self, asked: &Attributes<'_>) -> bool {
        let in_place = if asked.namespace.is_empty() {
            self.cluster_scope
        } else {
            has(&self.namespaces, asked.namespace)
        };
        let resource = |spec: &String| match spec.split_once('/') {
            _ if spec == "*" => true,
            Some((of, part)) => of == asked.resource && part == asked.subresource,
            None => asked.subresource.is_empty() && spec == asked.resource,
        };
        in_place
            && has(&self.verbs, asked.verb)
            && has(&self.groups, asked.group)
            && self.resources.iter().any(resource)
    }
}
