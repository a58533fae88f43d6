//! Policies and their bindings, compiled once and kept for as long as they stay the same.
//!
//! Every request looks whether the caches have moved on since; so a policy takes effect as soon
//! as the cache has it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use atoll_api::access::Access as _;
use atoll_api::kinds::api_version;
use serde_json::Value;
use tokio::sync::watch;

use super::super::matching::Criteria;
use super::GROUP;
use crate::cache::ResourceCache;
use crate::registry::Registry;

type Compile<P> = fn(&Value) -> P;

/// One kind of policies.
pub(super) struct Kept<P> {
    policies: Option<Side>,
    bindings: Option<Side>,
    compile: Compile<P>,
    state: Mutex<State<P>>,
}

/// A cache and what has been seen of it.
struct Side {
    cache: Arc<ResourceCache>,
    latest: watch::Receiver<i64>,
}

struct State<P> {
    at: Option<(i64, i64)>,
    hooks: Arc<Vec<Arc<Hook<P>>>>,
    /// By uid and generation: changes of labels and status compile nothing.
    compiled: HashMap<(String, i64), Arc<P>>,
}

/// A policy with its bindings.
pub(super) struct Hook<P> {
    pub name: String,
    pub policy: Arc<P>,
    pub criteria: Result<Criteria, String>,
    pub param_kind: Option<ParamKind>,
    /// IfNeeded of a policy that mutates.
    pub reinvoked: bool,
    pub bindings: Vec<Binding>,
}

/// What the parameters of a policy are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ParamKind {
    pub api_version: String,
    pub kind: String,
}

pub(super) struct Binding {
    pub name: String,
    /// None when the binding adds nothing to what the policy matches.
    pub criteria: Option<Result<Criteria, String>>,
    pub param_ref: Value,
    pub actions: Vec<String>,
}

impl Side {
    fn new(registry: &Registry, resource: &str) -> Option<Self> {
        let cache = registry.objects(GROUP, resource)?;
        let latest = cache.subscribe();
        Some(Self { cache, latest })
    }

    fn revision(&self) -> i64 {
        *self.latest.borrow()
    }

    fn objects(&self) -> Vec<Value> {
        let row = self.cache.row();
        self.cache.list("").iter().filter_map(|entry| entry.object(row).ok()).collect()
    }
}

impl<P> Kept<P> {
    pub(super) fn new(
        registry: &Registry,
        policies: &str,
        bindings: &str,
        compile: Compile<P>,
    ) -> Self {
        let state = State { at: None, hooks: Arc::default(), compiled: HashMap::new() };
        Self {
            policies: Side::new(registry, policies),
            bindings: Side::new(registry, bindings),
            compile,
            state: Mutex::new(state),
        }
    }

    /// All policies that have a binding, in the order of their names.
    pub(super) fn current(&self) -> Arc<Vec<Arc<Hook<P>>>> {
        let (Some(policies), Some(bindings)) = (&self.policies, &self.bindings) else {
            return Arc::default();
        };
        // Read before the objects: what comes in between is seen by the next request at the latest.
        let at = (policies.revision(), bindings.revision());
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.at != Some(at) {
            state.read(policies, bindings, self.compile);
            state.at = Some(at);
        }
        state.hooks.clone()
    }
}

impl<P> State<P> {
    fn read(&mut self, policies: &Side, bindings: &Side, compile: Compile<P>) {
        let mut bound: HashMap<String, Vec<Binding>> = HashMap::new();
        for binding in bindings.objects() {
            let policy = binding["spec"].text("policyName").to_owned();
            bound.entry(policy).or_default().push(Binding::read(&binding));
        }
        let mut kept = HashMap::new();
        let mut hooks = Vec::new();
        for object in policies.objects() {
            // One without a binding does nothing, nor does a binding without its policy.
            let Some(bindings) = bound.remove(object["metadata"].text("name")) else { continue };
            let metadata = &object["metadata"];
            let key = (metadata.text("uid").to_owned(), metadata.int("generation").unwrap_or(0));
            let policy = match self.compiled.remove(&key) {
                Some(known) => known,
                None => Arc::new(compile(&object["spec"])),
            };
            kept.insert(key, policy.clone());
            hooks.push(Arc::new(Hook::read(&object, policy, bindings)));
        }
        self.compiled = kept;
        self.hooks = Arc::new(hooks);
    }
}

impl<P> Hook<P> {
    fn read(object: &Value, policy: Arc<P>, bindings: Vec<Binding>) -> Self {
        let spec = &object["spec"];
        let param_kind = spec.has("paramKind").then(|| ParamKind {
            api_version: spec["paramKind"].text("apiVersion").to_owned(),
            kind: spec["paramKind"].text("kind").to_owned(),
        });
        Self {
            name: object["metadata"].text("name").to_owned(),
            policy,
            criteria: criteria(&spec["matchConstraints"]),
            param_kind,
            reinvoked: spec.text("reinvocationPolicy") == "IfNeeded",
            bindings,
        }
    }
}

impl Binding {
    fn read(object: &Value) -> Self {
        let spec = &object["spec"];
        let actions = spec.items("validationActions").iter().filter_map(Value::as_str);
        Self {
            name: object["metadata"].text("name").to_owned(),
            criteria: spec.has("matchResources").then(|| criteria(&spec["matchResources"])),
            param_ref: spec["paramRef"].clone(),
            actions: actions.map(str::to_owned).collect(),
        }
    }
}

impl ParamKind {
    /// `v1, Kind=ConfigMap`.
    pub(super) fn shown(&self) -> String {
        format!("{}, Kind={}", self.api_version, self.kind)
    }

    pub(super) fn is(&self, group: &str, version: &str, kind: &str) -> bool {
        self.kind == kind && self.api_version == api_version(group, version)
    }
}

fn criteria(from: &Value) -> Result<Criteria, String> {
    Criteria::of_policy(from).map_err(|error| error.to_string())
}
