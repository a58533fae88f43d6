//! Which volume suits a claim: pure, and what was promised but does not show yet.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use atoll_api::quantity::Quantity;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Amount;
use kube::ResourceExt;

use super::binding;
use crate::selector;

/// Nano-units of an amount; what is no amount is nothing.
fn size(amount: Option<&Amount>) -> i128 {
    amount.and_then(|amount| Quantity::parse(&amount.0).ok()).map_or(0, |size| size.nanos())
}

/// How much storage the claim asks for.
pub(super) fn asked(claim: &PersistentVolumeClaim) -> i128 {
    let spec = claim.spec.as_ref();
    let requests = spec.and_then(|spec| spec.resources.as_ref()?.requests.as_ref());
    size(requests.and_then(|requests| requests.get("storage")))
}

pub(super) fn capacity(volume: &PersistentVolume) -> i128 {
    let capacity = volume.spec.as_ref().and_then(|spec| spec.capacity.as_ref());
    size(capacity.and_then(|capacity| capacity.get("storage")))
}

fn modes(list: Option<&Vec<String>>) -> &[String] {
    list.map_or(&[], Vec::as_slice)
}

/// Why the volume that a claim names cannot be its own, in upstream's words.
pub(super) fn misfit(
    volume: &PersistentVolume,
    claim: &PersistentVolumeClaim,
) -> Option<&'static str> {
    if asked(claim) > capacity(volume) {
        return Some("requested PV is too small");
    }
    if binding::class_of_volume(volume) != binding::class_of_claim(claim).unwrap_or_default() {
        return Some("storageClassName does not match");
    }
    if mode(volume.spec.as_ref().and_then(|spec| spec.volume_mode.as_deref()))
        != mode(claim.spec.as_ref().and_then(|spec| spec.volume_mode.as_deref()))
    {
        return Some("incompatible volumeMode");
    }
    (!offers_modes(volume, claim)).then_some("incompatible accessMode")
}

fn mode(stated: Option<&str>) -> &str {
    stated.unwrap_or("Filesystem")
}

fn offers_modes(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let offered = modes(volume.spec.as_ref().and_then(|spec| spec.access_modes.as_ref()));
    let wanted = modes(claim.spec.as_ref().and_then(|spec| spec.access_modes.as_ref()));
    wanted.iter().all(|mode| offered.contains(mode))
}

/// The volume for a claim: one that names it already, else the smallest free one that is large
/// enough. `only_named` leaves free ones alone.
pub(super) fn best<'a>(
    claim: &PersistentVolumeClaim,
    volumes: &'a [Arc<PersistentVolume>],
    only_named: bool,
) -> Option<&'a Arc<PersistentVolume>> {
    let named = |volume: &&Arc<PersistentVolume>| {
        binding::names(volume, claim) && misfit_of_named(volume, claim)
    };
    if let Some(volume) = volumes.iter().find(named) {
        return Some(volume);
    }
    if only_named {
        return None;
    }
    let free = volumes.iter().filter(|volume| is_free(volume) && fits(volume, claim));
    free.min_by_key(|volume| (capacity(volume), volume.name_any()))
}

/// A volume that names the claim need not have its class.
fn misfit_of_named(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    !matches!(
        misfit(volume, claim),
        Some("requested PV is too small" | "incompatible volumeMode" | "incompatible accessMode")
    )
}

fn is_free(volume: &PersistentVolume) -> bool {
    volume.metadata.deletion_timestamp.is_none()
        && binding::claim_ref(volume).is_none()
        && binding::phase_of_volume(volume) == "Available"
}

fn fits(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let wanted = claim.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    misfit(volume, claim).is_none()
        && wanted.is_none_or(|wanted| selector::matches(wanted, volume.labels()))
}

/// Whether the class binds only once a pod wants the claim.
pub(super) fn waits(class: Option<&StorageClass>) -> bool {
    class.and_then(|class| class.volume_binding_mode.as_deref()) == Some("WaitForFirstConsumer")
}

/// Of several default classes the newest, then the first by name.
pub(super) fn default_class(classes: &[Arc<StorageClass>]) -> Option<String> {
    let is_default = |class: &&Arc<StorageClass>| {
        let marked = |name: &str| binding::annotation(class.as_ref(), name) == Some("true");
        marked("storageclass.kubernetes.io/is-default-class")
            || marked("storageclass.beta.kubernetes.io/is-default-class")
    };
    let newest = classes.iter().filter(is_default).max_by(|one, other| {
        let age = |class: &StorageClass| class.creation_timestamp().map(|time| time.0);
        age(one).cmp(&age(other)).then_with(|| other.name_any().cmp(&one.name_any()))
    });
    newest.map(|class| class.name_any())
}

/// Volumes that a claim was given a moment ago: two claims decided upon at once do not both
/// begin to bind the same one. The API's word replaces the promise: it holds for the volume as
/// it was, and whatever came of it, the volume that shows has another version.
#[derive(Default)]
pub(super) struct Promises(Mutex<HashMap<String, Promise>>);

struct Promise {
    claim_uid: String,
    version: Option<String>,
    made: Instant,
}

impl Promise {
    fn new(claim_uid: &str, version: Option<String>) -> Self {
        Self { claim_uid: claim_uid.to_owned(), version, made: Instant::now() }
    }
}

/// How long a volume waits for the claim that chose it to be written down: longer than a write and
/// its tries take.
const KEPT_FOR: Duration = Duration::from_secs(60);

impl Promises {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Promise>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Chooses by `choose` among the volumes that are promised to nobody else, and promises.
    pub(super) fn choose(
        &self,
        claim_uid: &str,
        volumes: Vec<Arc<PersistentVolume>>,
        choose: impl FnOnce(&[Arc<PersistentVolume>]) -> Option<Arc<PersistentVolume>>,
    ) -> Option<Arc<PersistentVolume>> {
        let mut promised = self.lock();
        // A claim that chooses again gives up what it chose, and one that is gone chooses no more.
        promised.retain(|name, promise| {
            let holds = promise.claim_uid != claim_uid && promise.made.elapsed() < KEPT_FOR;
            holds
                && volumes.iter().any(|volume| {
                    volume.name_any() == *name && volume.resource_version() == promise.version
                })
        });
        let open: Vec<_> = volumes
            .into_iter()
            .filter(|volume| {
                promised
                    .get(&volume.name_any())
                    .is_none_or(|promise| promise.claim_uid == claim_uid)
            })
            .collect();
        let chosen = choose(&open)?;
        let promise = Promise::new(claim_uid, chosen.resource_version());
        promised.insert(chosen.name_any(), promise);
        Some(chosen)
    }
}
