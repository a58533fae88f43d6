//! Says what a pod's volumes are made of, given the objects that they refer to.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, ProjectedVolumeSource, Volume};

use crate::amount;
use crate::objects::Found;
use crate::pod::env::Surroundings;
use crate::pod::identity::{PodId, all_containers};
use crate::pod::security::run_as;
use crate::volume::payload::{self, File, Payload, Selection};
use crate::volume::token::{Tokens, Wanted};
use crate::volume::{Plan, VolumeError};

/// Names of the ConfigMaps and Secrets behind the pod's volumes.
#[must_use]
pub fn references(pod: &Pod) -> (Vec<String>, Vec<String>) {
    let (mut maps, mut secrets) = (Vec::new(), Vec::new());
    for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
        maps.extend(volume.config_map.as_ref().map(|source| source.name.clone()));
        secrets.extend(volume.secret.as_ref().and_then(|source| source.secret_name.clone()));
        for source in volume.projected.iter().flat_map(|p| p.sources.iter().flatten()) {
            maps.extend(source.config_map.as_ref().map(|source| source.name.clone()));
            secrets.extend(source.secret.as_ref().map(|source| source.name.clone()));
        }
    }
    (maps, secrets)
}

/// One plan a volume. Tokens are asked for here; the volumes of claims are `persistent`.
pub async fn plans(
    pod: &Pod,
    id: &PodId,
    found: &Found,
    around: &Surroundings<'_>,
    tokens: &Tokens,
    now: Timestamp,
    persistent: &BTreeMap<String, Plan>,
) -> Result<BTreeMap<String, Plan>, VolumeError> {
    let mut plans = persistent.clone();
    for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
        // Images are mounted when a container starts that is to see them.
        if plans.contains_key(&volume.name) || volume.image.is_some() {
            continue;
        }
        let plan = plan(volume, pod, id, found, around, tokens, now)
            .await
            .map_err(|reason| VolumeError { volume: volume.name.clone(), reason })?;
        plans.insert(volume.name.clone(), plan);
    }
    Ok(plans)
}

async fn plan(
    volume: &Volume,
    pod: &Pod,
    id: &PodId,
    found: &Found,
    around: &Surroundings<'_>,
    tokens: &Tokens,
    now: Timestamp,
) -> Result<Plan, String> {
    let text = |error: payload::PayloadError| error.to_string();
    if let Some(source) = &volume.host_path {
        let kind = source.type_.clone().unwrap_or_default();
        return Ok(Plan::HostPath { path: source.path.clone().into(), kind });
    }
    if let Some(source) = &volume.csi {
        return Err(no_driver(&source.driver));
    }
    if let Some(source) = &volume.config_map {
        let selection = Selection {
            items: source.items.as_ref(),
            default_mode: source.default_mode,
            optional: source.optional == Some(true),
        };
        let payload =
            payload::config_map(&source.name, found.config_maps.get(&source.name), selection);
        return Ok(Plan::Files { payload: payload.map_err(text)?, in_memory: false });
    }
    if let Some(source) = &volume.secret {
        let name = source.secret_name.as_deref().unwrap_or_default();
        let selection = Selection {
            items: source.items.as_ref(),
            default_mode: source.default_mode,
            optional: source.optional == Some(true),
        };
        let payload = payload::secret(name, found.secrets.get(name), selection);
        return Ok(Plan::Files { payload: payload.map_err(text)?, in_memory: true });
    }
    if let Some(source) = &volume.downward_api {
        let items = source.items.as_deref().unwrap_or_default();
        let payload = payload::downward(items, source.default_mode, around).map_err(text)?;
        return Ok(Plan::Files { payload, in_memory: false });
    }
    if let Some(source) = &volume.projected {
        let payload = projected(source, pod, id, found, around, tokens, now).await?;
        return Ok(Plan::Files { payload, in_memory: true });
    }
    // A volume without a source is an emptyDir, as upstream defaults it.
    let source = volume.empty_dir.clone().unwrap_or_default();
    let size = source.size_limit.as_ref().and_then(amount::value).unwrap_or(0);
    Ok(Plan::EmptyDir {
        in_memory: source.medium.as_deref() == Some("Memory"),
        size_bytes: u64::try_from(size).unwrap_or(0),
    })
}

/// No driver registers with this node, so the pod waits, as it would for one that is late.
fn no_driver(name: &str) -> String {
    format!(
        "kubernetes.io/csi: mounter.SetUpAt failed to get CSI client: driver name {name} not found \
         in the list of registered CSI drivers"
    )
}

async fn projected(
    volume: &ProjectedVolumeSource,
    pod: &Pod,
    id: &PodId,
    found: &Found,
    around: &Surroundings<'_>,
    tokens: &Tokens,
    now: Timestamp,
) -> Result<Payload, String> {
    let text = |error: payload::PayloadError| error.to_string();
    let default_mode = volume.default_mode;
    let mut all = Payload::new();
    for source in volume.sources.iter().flatten() {
        if let Some(source) = &source.config_map {
            let optional = source.optional == Some(true);
            let selection = Selection { items: source.items.as_ref(), default_mode, optional };
            let map = found.config_maps.get(&source.name);
            all.extend(payload::config_map(&source.name, map, selection).map_err(text)?);
        }
        if let Some(source) = &source.secret {
            let optional = source.optional == Some(true);
            let selection = Selection { items: source.items.as_ref(), default_mode, optional };
            let secret = found.secrets.get(&source.name);
            all.extend(payload::secret(&source.name, secret, selection).map_err(text)?);
        }
        if let Some(source) = &source.downward_api {
            let items = source.items.as_deref().unwrap_or_default();
            all.extend(payload::downward(items, default_mode, around).map_err(text)?);
        }
        if let Some(source) = &source.service_account_token {
            let wanted = Wanted {
                account: account(pod),
                audience: source.audience.clone().filter(|audience| !audience.is_empty()),
                seconds: source.expiration_seconds,
            };
            let token = tokens
                .get(id, &wanted, now)
                .await
                .map_err(|error| format!("failed to fetch token: {error}"))?;
            let path = payload::checked(&source.path).map_err(text)?;
            let user = only_user(pod);
            let mode = token_mode(pod, user, default_mode);
            all.insert(path, File { user, ..File::new(token, mode) });
        }
    }
    Ok(all)
}

fn account(pod: &Pod) -> String {
    let spec = pod.spec.as_ref();
    let name = spec.and_then(|s| s.service_account_name.clone().or(s.service_account.clone()));
    name.filter(|name| !name.is_empty()).unwrap_or_else(|| "default".to_owned())
}

/// The user that all containers of the pod run as, where the pod says so.
fn only_user(pod: &Pod) -> Option<u32> {
    let spec = pod.spec.as_ref()?;
    let mut users = all_containers(spec).map(|(_, container)| run_as(pod, container).user);
    let first = users.next()??;
    users.all(|user| user == Some(first)).then_some(first)
}

/// A token is for its user only, where the pod says which user or group that is.
fn token_mode(pod: &Pod, user: Option<u32>, default_mode: Option<i32>) -> u32 {
    let context = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
    if user.is_some() || context.is_some_and(|context| context.fs_group.is_some()) {
        0o600
    } else {
        payload::mode(default_mode, payload::DEFAULT_MODE)
    }
}
