//! What every request shares: the settings, the store, the caches, and who may do what.

use std::sync::Arc;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admission::policies::Policies;
use crate::admission::webhooks::Webhooks;
use crate::aggregate::Aggregate;
use crate::audit::Audit;
use crate::authn::Authenticator;
use crate::authz::Authorizer;
use crate::config::Config;
use crate::crd::convert::Conversions;
use crate::discovery::Discovery;
use crate::expiry::Leases;
use crate::fairness::Fairness;
use crate::hook;
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::openapi::OpenApi;
use crate::registry::Registry;
use crate::servers::Servers;
use crate::storage::Storage;
use crate::turns::Turns;

/// One per server. Everything in it is either fixed at start or safe to share.
pub struct Core {
    pub config: Config,
    /// Writes, and reads that must see every acknowledged write.
    pub storage: Storage,
    /// All objects in memory, following the store's watch.
    pub registry: Arc<Registry>,
    pub authenticator: Arc<dyn Authenticator>,
    pub authorizer: Arc<dyn Authorizer>,
    pub discovery: Discovery,
    pub openapi: OpenApi,
    pub metrics: Metrics,
    pub limits: Limits,
    pub leases: Leases,
    /// Whose turn it is to be charged to a quota.
    pub quotas: Turns,
    /// Whose turn it is to change an object that others change too.
    pub writes: Turns,
    /// Calls webhooks and the API servers behind this one.
    pub hooks: hook::Client,
    pub(crate) webhooks: Webhooks,
    pub(crate) policies: Policies,
    /// The webhooks that convert custom resources.
    pub(crate) conversions: Conversions,
    pub(crate) aggregate: Aggregate,
    pub(crate) fairness: Fairness,
    pub(crate) audit: Option<Arc<Audit>>,
    /// The servers that are there.
    pub servers: Servers,
    /// Cancelled once the first objects are there and everything is in memory.
    pub ready: CancellationToken,
    /// Cancelled when the server is about to end: it is not ready any more.
    pub draining: CancellationToken,
    /// Ends watches, streams and background tasks.
    pub stop: CancellationToken,
    pub tasks: TaskTracker,
}

impl Core {
    pub fn now(&self) -> Timestamp {
        self.config.clock.now()
    }

    /// Now as metadata has it: whole seconds, `Z`.
    pub fn now_text(&self) -> String {
        timestamp(self.now())
    }
}

/// RFC 3339 in whole seconds.
pub fn timestamp(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
