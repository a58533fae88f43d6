//! API servers behind this one: an APIService names a Service that answers for a group and
//! version, and requests for it are passed on with the user's name in headers, on a connection
//! that proves whose servers they come from.

mod available;
mod checked;
mod documents;
mod headers;
mod local;
mod proxy;
mod trusted;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use atoll_api::access::Access as _;
use atoll_store::kv::Revision;
use serde_json::Value;
use tokio::sync::watch;

use crate::cache::ResourceCache;
use crate::hook::{Identity, Target};
use crate::registry::Registry;
use crate::request;
use crate::trust::Trust;

pub(crate) use documents::{merge, take_known};
pub(crate) use proxy::serve;

pub(crate) const GROUP: &str = "apiregistration.k8s.io";
const RESOURCE: &str = "apiservices";

/// The servers behind one server.
pub(crate) struct Aggregate {
    cache: Option<(Arc<ResourceCache>, watch::Receiver<Revision>)>,
    identity: Option<Identity>,
    current: ArcSwap<Snapshot>,
    /// What each said of itself when it was last asked, by the name of its APIService.
    said: Mutex<HashMap<String, Said>>,
}

#[derive(Default)]
pub(crate) struct Snapshot {
    revision: Option<Revision>,
    remotes: Vec<Arc<Remote>>,
}

/// A server behind this one, for one group and version.
pub(crate) struct Remote {
    pub(crate) name: String,
    pub(crate) group: String,
    pub(crate) version: String,
    service: Value,
    target: Result<Target, String>,
    available: bool,
}

/// A server's own documents.
#[derive(Debug, Clone, Default, PartialEq)]
struct Said {
    /// Its APIResourceList.
    resources: Value,
    /// Where its OpenAPI v3 document is, with a hash; empty when it has none.
    openapi: String,
}

impl Aggregate {
    pub(crate) fn new(registry: &Registry, trust: Option<&Arc<Trust>>) -> Self {
        let cache = registry.objects(GROUP, RESOURCE);
        let identity = trust.map(|trust| Identity {
            name: "front-proxy",
            certificate: trust.kubelet_certificate.clone(),
        });
        Self {
            cache: cache.map(|cache| (cache.clone(), cache.subscribe())),
            identity,
            current: ArcSwap::default(),
            said: Mutex::default(),
        }
    }

    fn current(&self) -> Arc<Snapshot> {
        let current = self.current.load_full();
        let Some((cache, latest)) = &self.cache else { return current };
        let revision = *latest.borrow();
        if current.revision == Some(revision) {
            return current;
        }
        let entries = cache.list("");
        let services = entries.iter().filter_map(|entry| crate::storage::parse(&entry.json).ok());
        let remotes = services.filter(|service| service["spec"].has("service"));
        let remotes = remotes.map(|service| Arc::new(self.remote(&service))).collect();
        let read = Arc::new(Snapshot { revision: Some(revision), remotes });
        self.current.store(read.clone());
        read
    }

    fn remote(&self, service: &Value) -> Remote {
        let spec = &service["spec"];
        let conditions = service["status"].items("conditions").iter();
        let available = conditions
            .filter(|condition| condition.text("type") == "Available")
            .any(|condition| condition.text("status") == "True");
        let target = Target::of_api_service(spec, self.identity.as_ref());
        Remote {
            name: service["metadata"].text("name").to_owned(),
            group: spec.text("group").to_owned(),
            version: spec.text("version").to_owned(),
            service: spec["service"].clone(),
            target: target.map_err(|error| error.to_string()),
            available,
        }
    }

    /// Whose a request is, if it is not this server's.
    pub(crate) fn route(&self, target: &request::Target, path: &str) -> Option<Arc<Remote>> {
        let current = self.current();
        if current.remotes.is_empty() {
            return None;
        }
        let (group, version) = match target {
            request::Target::Resource(asked) => (asked.group.as_str(), asked.version.as_str()),
            request::Target::Plain => {
                let path = path.trim_matches('/');
                let path = path.strip_prefix("openapi/v3/").unwrap_or(path);
                path.strip_prefix("apis/")?
                    .split_once('/')
                    .filter(|(_, rest)| !rest.contains('/'))?
            }
        };
        let mut remotes = current.remotes.iter();
        remotes.find(|remote| remote.group == group && remote.version == version).cloned()
    }

    fn said(&self) -> MutexGuard<'_, HashMap<String, Said>> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) use available::keep as keep_available;
pub(crate) use local::keep as keep_local;
pub(crate) use trusted::keep as keep_trusted;
