//! What all pods of the node share.

use std::sync::Arc;

use atoll_container::Runtime;
use atoll_image::ImageStore;
use atoll_informer::{EventType, Informer, Key, Recorder};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::machine::Machine;
use crate::network::PodNetwork;
use crate::node::extended;
use crate::objects::Objects;
use crate::pod::admit::Room;
use crate::rootless::{self, refuse::Allowed};
use crate::volume::folders::Folders;
use crate::volume::token::Tokens;

/// Handles to the engines and the API. Held by every pod task.
pub struct Context {
    pub config: Config,
    pub client: kube::Client,
    pub runtime: Arc<dyn Runtime>,
    pub images: ImageStore,
    pub network: Arc<dyn PodNetwork>,
    pub recorder: Recorder,
    pub services: Arc<Informer<Service>>,
    pub nodes: Arc<Informer<Node>>,
    pub objects: Objects,
    pub tokens: Tokens,
    /// The volumes that are folders of this node.
    pub folders: Arc<Folders>,
    pub machine: Machine,
    pub tasks: TaskTracker,
    /// Ends every task; containers stay.
    pub stop: CancellationToken,
}

impl Context {
    /// The wall clock, in one place.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    /// The node's object as it was last heard of.
    #[must_use]
    pub fn node(&self) -> Option<Arc<Node>> {
        self.nodes.get(&Key::new("", &self.config.node_name))
    }

    /// What the node offers pods: its own, and what others have announced for it.
    #[must_use]
    pub fn room(&self) -> Room {
        let node = self.node();
        let extended = node.and_then(|node| node.status.as_ref().map(extended::room));
        Room { extended: extended.unwrap_or_default(), ..self.machine.room() }
    }

    pub fn normal(&self, pod: &Pod, reason: &str, message: String) {
        self.recorder.record(pod, EventType::Normal, reason, message, None);
    }

    pub fn warning(&self, pod: &Pod, reason: &str, message: String) {
        self.recorder.record(pod, EventType::Warning, reason, message, None);
    }

    /// What a node without root can give its pods.
    #[must_use]
    pub fn allowed(&self) -> Allowed {
        let (uid, gid) = rootless::root::own_ids();
        let programs = self.config.builtin_images.iter();
        let bare = |name: &str| name.split([':', '@']).next().unwrap_or(name).to_owned();
        Allowed {
            isolation: self.runtime.capabilities().isolation,
            uid,
            gid,
            programs: programs.map(|builtin| bare(&builtin.reference)).collect(),
        }
    }

    /// An event about one container of the pod.
    pub fn container_event(
        &self,
        pod: &Pod,
        container: &str,
        kind: EventType,
        reason: &str,
        message: String,
    ) {
        let list = pod
            .spec
            .as_ref()
            .and_then(|spec| crate::pod::identity::find_container(spec, container))
            .map_or("containers", |(list, _)| list);
        let path = format!("spec.{list}{{{container}}}");
        self.recorder.record(pod, kind, reason, message, Some(path));
    }
}
