//! The webhooks that are configured, ready to be asked.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use atoll_api::access::Access as _;
use atoll_api::cel::admission::MatchConditions;
use atoll_store::kv::Revision;
use serde_json::Value;
use tokio::sync::watch;

use super::super::matching::Criteria;
use crate::cache::ResourceCache;
use crate::hook::Target;
use crate::registry::Registry;

/// Upstream's default, for configurations that were stored without one.
const TIMEOUT_SECONDS: u64 = 10;
const GROUP: &str = "admissionregistration.k8s.io";

/// All webhooks of a server, read again when their configurations change.
pub(crate) struct Webhooks {
    mutating: Kind,
    validating: Kind,
}

struct Kind {
    /// None in a server that does not serve the configurations.
    cache: Option<(Arc<ResourceCache>, watch::Receiver<Revision>)>,
    current: ArcSwap<Configured>,
}

/// The webhooks of one kind as of a revision, in the order in which they are asked.
#[derive(Default)]
pub(super) struct Configured {
    revision: Option<Revision>,
    pub(super) hooks: Vec<Webhook>,
}

/// One webhook.
pub(super) struct Webhook {
    /// Unlike any other's of its kind.
    pub(super) id: String,
    pub(super) configuration: String,
    pub(super) name: String,
    pub(super) criteria: Result<Criteria, String>,
    pub(super) conditions: MatchConditions,
    pub(super) target: Result<Target, String>,
    pub(super) timeout: Duration,
    /// Whether a request goes on without it when it cannot be asked.
    pub(super) ignores_failure: bool,
    /// `None` and `NoneOnDryRun`: it may be asked in a dry run.
    pub(super) takes_dry_run: bool,
    pub(super) if_needed: bool,
    /// The first version of reviews that it reads and this server writes.
    pub(super) review: Option<Version>,
}

/// Versions of `AdmissionReview`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    V1,
    V1Beta1,
}

// === impl Webhooks ===

impl Webhooks {
    pub(crate) fn new(registry: &Registry) -> Self {
        let kind = |resource: &str| {
            let cache = registry.objects(GROUP, resource);
            let cache = cache.map(|cache| (cache.clone(), cache.subscribe()));
            Kind { cache, current: ArcSwap::default() }
        };
        Self {
            mutating: kind("mutatingwebhookconfigurations"),
            validating: kind("validatingwebhookconfigurations"),
        }
    }

    pub(super) fn mutating(&self) -> Arc<Configured> {
        self.mutating.current()
    }

    pub(super) fn validating(&self) -> Arc<Configured> {
        self.validating.current()
    }
}

impl Kind {
    fn current(&self) -> Arc<Configured> {
        let Some((cache, latest)) = &self.cache else { return self.current.load_full() };
        let current = self.current.load_full();
        let revision = *latest.borrow();
        if current.revision == Some(revision) {
            return current;
        }
        let read = Arc::new(Configured { revision: Some(revision), hooks: read(cache) });
        self.current.store(read.clone());
        read
    }
}

/// By the names of the configurations, then by their place in them.
fn read(cache: &ResourceCache) -> Vec<Webhook> {
    let mut hooks = Vec::new();
    for entry in cache.list("") {
        match crate::storage::parse(&entry.json) {
            Ok(configuration) => {
                let all = configuration.items("webhooks").iter().enumerate();
                hooks.extend(all.map(|(at, hook)| Webhook::read(entry.name(), at, hook)));
            }
            Err(error) => tracing::error!(%error, name = entry.name(), "webhooks unreadable"),
        }
    }
    hooks
}

impl Webhook {
    fn read(configuration: &str, at: usize, hook: &Value) -> Self {
        let seconds = hook.int("timeoutSeconds").and_then(|seconds| u64::try_from(seconds).ok());
        let target = Target::new(&hook["clientConfig"]).map_err(|error| error.to_string());
        Self {
            id: format!("{configuration}/{}/{at}", hook.text("name")),
            configuration: configuration.to_owned(),
            name: hook.text("name").to_owned(),
            conditions: MatchConditions::compile(hook.items("matchConditions")),
            criteria: Criteria::of_webhook(hook).map_err(|error| error.to_string()),
            target,
            timeout: Duration::from_secs(seconds.unwrap_or(TIMEOUT_SECONDS).max(1)),
            ignores_failure: hook.text("failurePolicy") == "Ignore",
            takes_dry_run: matches!(hook.text("sideEffects"), "None" | "NoneOnDryRun"),
            if_needed: hook.text("reinvocationPolicy") == "IfNeeded",
            review: hook.items("admissionReviewVersions").iter().find_map(Version::read),
        }
    }
}

// === impl Version ===

impl Version {
    fn read(version: &Value) -> Option<Self> {
        match version.as_str() {
            Some("v1") => Some(Self::V1),
            Some("v1beta1") => Some(Self::V1Beta1),
            _ => None,
        }
    }

    pub(super) fn api_version(self) -> &'static str {
        match self {
            Self::V1 => "admission.k8s.io/v1",
            Self::V1Beta1 => "admission.k8s.io/v1beta1",
        }
    }
}
