//! Resizes of the node's pods: whether they can be done, and those that wait until they can.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use tokio::time::Instant;

use super::Pods;
use crate::pod::identity::is_terminal;
use crate::pod::qos::Qos;
use crate::pod::resize::{self, INFEASIBLE, Pending};
use crate::pod::task::{Desired, PodHandle};

/// Resizes that wait are looked at this often even when nothing has happened.
pub(super) const RETRY: Duration = Duration::from_secs(10);

/// What a pod asks for and has not been given.
pub(super) struct Wish {
    pod: Arc<Pod>,
    since: Instant,
}

impl Pods {
    /// What the API says now of a pod that is here.
    pub(super) fn update(&mut self, handle: &PodHandle, pod: Arc<Pod>) {
        let known = handle.desired.borrow().clone();
        let uid = &handle.id.uid;
        let over = is_terminal(&pod) || known.refused.is_some();
        if over || !resize::is_asked_for(&pod, &known.pod) {
            self.wishes.remove(uid);
            handle.desired.send_replace(Desired { pod, pending: None, ..known });
            return;
        }
        let since = self.wishes.get(uid).map_or_else(Instant::now, |wish| wish.since);
        self.wishes.insert(uid.clone(), Wish { pod, since });
        self.try_resize(handle);
    }

    /// Tries all that wait again: those that ask for no more, then the important, then those that
    /// wait longest.
    pub(super) fn retry_resizes(&mut self) {
        if self.wishes.is_empty() {
            return;
        }
        let index = self.index.borrow().clone();
        self.wishes.retain(|uid, _| index.contains_key(uid));
        let mut waiting: Vec<_> = self
            .wishes
            .iter()
            .filter_map(|(uid, wish)| Some((index.get(uid)?, &wish.pod, wish.since)))
            .map(|(handle, pod, since)| (order(pod, handle, since), handle.clone()))
            .collect();
        waiting.sort_by_key(|(order, _)| *order);
        for (_, handle) in waiting {
            self.try_resize(&handle);
        }
    }

    fn try_resize(&mut self, handle: &PodHandle) {
        let uid = &handle.id.uid;
        let Some(pod) = self.wishes.get(uid).map(|wish| wish.pod.clone()) else { return };
        let known = handle.desired.borrow().clone();
        if known.gone {
            return;
        }
        let others = self.holders(uid);
        let others: Vec<&Pod> = others.iter().map(AsRef::as_ref).collect();
        let Some(pending) = resize::refusal(&pod, &others, &self.cx.room()) else {
            let text = resize::event("Pod resize started", &pod, pod.metadata.generation, None);
            self.cx.normal(&pod, "ResizeStarted", text);
            self.wishes.remove(uid);
            handle.desired.send_replace(Desired { pod, pending: None, ..known });
            self.dirty = true;
            return;
        };
        let now = Arc::new(resize::with_allocation(&pod, &known.pod));
        let is_known = known.pending.as_ref() == Some(&pending);
        if !is_known {
            self.tell_pending(&pod, &pending);
        }
        if !is_known || now != known.pod {
            let pending = Some(pending);
            handle.desired.send_replace(Desired { pod: now, pending, ..known });
        }
    }

    fn tell_pending(&self, pod: &Pod, pending: &Pending) {
        let what = format!("Pod resize {}", pending.reason);
        let text = resize::event(&what, pod, pending.generation, Some(&pending.message));
        let reason =
            if pending.reason == INFEASIBLE { "ResizeInfeasible" } else { "ResizeDeferred" };
        self.cx.warning(pod, reason, text);
    }

    /// The pods that hold resources of the node, but for this one. Those that are gone from the API
    /// hold nothing: whoever put a pod here has counted on their room.
    pub(super) fn holders(&self, uid: &str) -> Vec<Arc<Pod>> {
        let index = self.index.borrow();
        let others = index
            .iter()
            .filter(|(other, handle)| *other != uid && !handle.shown.borrow().has_ended());
        let desired = others.map(|(_, handle)| handle.desired.borrow().clone());
        let holds = |desired: &Desired| desired.refused.is_none() && !desired.gone;
        desired.filter(holds).map(|desired| desired.pod).collect()
    }
}

type Order = (bool, Reverse<i32>, bool, Instant);

fn order(pod: &Pod, handle: &PodHandle, since: Instant) -> Order {
    let allocated = handle.desired.borrow().pod.clone();
    let more = ["cpu", "memory"].iter().any(|name| {
        crate::amount::pod_request(pod, name) > crate::amount::pod_request(&allocated, name)
    });
    let spec = pod.spec.as_ref();
    let priority = spec.and_then(|spec| spec.priority).unwrap_or(0);
    let guaranteed = spec.is_some_and(|spec| Qos::of(spec) == Qos::Guaranteed);
    (more, Reverse(priority), !guaranteed, since)
}
