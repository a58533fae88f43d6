//! The arithmetic of a rollout: how many pods may be too many or missing.

use k8s_openapi::{
    api::apps::v1::{Deployment, ReplicaSet},
    apimachinery::pkg::util::intstr::IntOrString,
};

/// Bounds that a rolling update keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bounds {
    pub(super) surge: i32,
    pub(super) unavailable: i32,
}

impl Bounds {
    /// A surge rounds up and an unavailability down; both zero would never move, so then
    /// one pod may be missing (upstream's ResolveFenceposts).
    pub(super) fn of(deployment: &Deployment) -> Self {
        let replicas = replicas(deployment);
        if is_recreate(deployment) {
            return Self { surge: 0, unavailable: 0 };
        }
        let rolling = deployment
            .spec
            .as_ref()
            .and_then(|spec| spec.strategy.as_ref()?.rolling_update.clone())
            .unwrap_or_default();
        let surge = resolve(rolling.max_surge.as_ref(), replicas, true);
        let unavailable = resolve(rolling.max_unavailable.as_ref(), replicas, false);
        if surge == 0 && unavailable == 0 {
            return Self { surge, unavailable: 1 };
        }
        Self { surge, unavailable: unavailable.min(replicas) }
    }
}

/// Percentages are of `total`; an absent bound is 25 %.
fn resolve(bound: Option<&IntOrString>, total: i32, round_up: bool) -> i32 {
    let percent = match bound {
        Some(IntOrString::Int(count)) => return (*count).max(0),
        Some(IntOrString::String(text)) => {
            text.trim_end_matches('%').parse::<i64>().unwrap_or(0).max(0)
        }
        None => 25,
    };
    let product = percent * i64::from(total);
    let count = if round_up { (product + 99) / 100 } else { product / 100 };
    i32::try_from(count).unwrap_or(i32::MAX)
}

pub(super) fn is_recreate(deployment: &Deployment) -> bool {
    let strategy = deployment.spec.as_ref().and_then(|spec| spec.strategy.as_ref());
    strategy.is_some_and(|strategy| strategy.type_.as_deref() == Some("Recreate"))
}

pub(super) fn replicas(deployment: &Deployment) -> i32 {
    deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

pub(super) fn wanted(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0)
}

pub(super) fn available(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0)
}

/// How large the new ReplicaSet may be, given what all of them want now.
pub(super) fn new_size(deployment: &Deployment, new_now: i32, all_now: i32) -> i32 {
    let replicas = replicas(deployment);
    if new_now >= replicas || is_recreate(deployment) {
        return replicas;
    }
    let room = replicas + Bounds::of(deployment).surge - all_now;
    if room <= 0 {
        return new_now;
    }
    new_now + room.min(replicas - new_now)
}

/// New sizes of the old ReplicaSets, oldest first, in the same order as given.
///
/// Pods that are not available go first, as they serve nobody; then as many as the
/// available ones exceed what must stay available.
pub(super) fn shrink_old(
    deployment: &Deployment,
    new: Option<&ReplicaSet>,
    old: &[&ReplicaSet],
) -> Vec<i32> {
    let mut sizes: Vec<i32> = old.iter().map(|set| wanted(set)).collect();
    let must_stay = replicas(deployment) - Bounds::of(deployment).unavailable;
    let (new_wanted, new_available) = new.map_or((0, 0), |set| (wanted(set), available(set)));
    let all: i32 = sizes.iter().sum::<i32>() + new_wanted;
    let mut may_go = all - must_stay - (new_wanted - new_available).max(0);
    if may_go <= 0 {
        return sizes;
    }
    for (size, set) in sizes.iter_mut().zip(old) {
        let idle = (*size - available(set)).max(0).min(may_go);
        *size -= idle;
        may_go -= idle;
    }
    let all_available: i32 = old.iter().map(|set| available(set)).sum::<i32>() + new_available;
    let mut may_go = may_go.min(all_available - must_stay);
    for size in &mut sizes {
        let step = (*size).min(may_go).max(0);
        *size -= step;
        may_go -= step;
    }
    sizes
}

/// A ReplicaSet that takes part in a rollout.
#[derive(Debug, Clone, Copy)]
pub(super) struct Member {
    pub(super) size: i32,
    /// How many pods all sets together could have when this one was last sized.
    pub(super) max_before: i32,
}

/// New sizes, in the order given (oldest first), when `spec.replicas` has become `replicas`.
///
/// Each set keeps its share; what rounding leaves goes to the largest, or comes from it
/// (kube-controller-manager's proportional scaling).
pub(super) fn proportional(members: &[Member], replicas: i32, surge: i32) -> Vec<i32> {
    let allowed = if replicas > 0 { replicas.saturating_add(surge) } else { 0 };
    let mut sizes: Vec<i32> = members.iter().map(|member| member.size).collect();
    let to_add = allowed - sizes.iter().sum::<i32>();
    if to_add == 0 {
        return sizes;
    }
    let mut order: Vec<usize> = (0..members.len()).collect();
    // Of equal ones the newest grows first and the oldest shrinks first.
    order.sort_by_key(|index| {
        let age = i64::try_from(*index).unwrap_or(i64::MAX);
        (std::cmp::Reverse(members[*index].size), if to_add > 0 { -age } else { age })
    });
    let mut added = 0;
    for index in &order {
        let fraction = share(members[*index], replicas, surge);
        let left = to_add - added;
        let step = if to_add > 0 { fraction.clamp(0, left) } else { fraction.clamp(left, 0) };
        sizes[*index] += step;
        added += step;
    }
    if let Some(largest) = order.first() {
        sizes[*largest] = (sizes[*largest] + to_add - added).max(0);
    }
    sizes
}

/// By how much a set grows or shrinks to keep its part of the whole.
fn share(member: Member, replicas: i32, surge: i32) -> i32 {
    if replicas == 0 {
        return -member.size;
    }
    let (size, before) = (i64::from(member.size), i64::from(member.max_before));
    if before <= 0 {
        return 0;
    }
    let scaled = (size * i64::from(replicas.saturating_add(surge)) * 2 + before) / (before * 2);
    i32::try_from(scaled - size).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn deployment(
        replicas: i32,
        surge: serde_json::Value,
        unavailable: serde_json::Value,
    ) -> Deployment {
        serde_json::from_value(json!({ "spec": {
            "replicas": replicas, "selector": {}, "template": {},
            "strategy": { "type": "RollingUpdate",
                "rollingUpdate": { "maxSurge": surge, "maxUnavailable": unavailable } },
        } }))
        .unwrap()
    }

    fn set(wanted: i32, available: i32) -> ReplicaSet {
        serde_json::from_value(json!({
            "spec": { "replicas": wanted, "selector": {} },
            "status": { "replicas": wanted, "availableReplicas": available },
        }))
        .unwrap()
    }

    #[test]
    fn percentages_round_in_favour_of_availability() {
        let bounds = Bounds::of(&deployment(5, json!("25%"), json!("25%")));
        assert_eq!(bounds, Bounds { surge: 2, unavailable: 1 });
        let stuck = Bounds::of(&deployment(5, json!(0), json!(0)));
        assert_eq!(stuck, Bounds { surge: 0, unavailable: 1 });
    }

    #[test]
    fn grows_the_new_set_only_into_the_surge() {
        let web = deployment(5, json!(1), json!(0));
        assert_eq!(new_size(&web, 0, 5), 1);
        assert_eq!(new_size(&web, 1, 6), 1);
        assert_eq!(new_size(&web, 1, 5), 2);
    }

    #[test]
    fn nothing_old_goes_before_something_new_is_available() {
        let web = deployment(5, json!(1), json!(0));
        assert_eq!(shrink_old(&web, Some(&set(1, 0)), &[&set(5, 5)]), [5]);
        assert_eq!(shrink_old(&web, Some(&set(1, 1)), &[&set(5, 5)]), [4]);
    }

    #[test]
    fn broken_old_pods_go_first() {
        let web = deployment(5, json!(0), json!(2));
        assert_eq!(shrink_old(&web, Some(&set(0, 0)), &[&set(2, 2), &set(3, 1)]), [2, 1]);
    }

    #[test]
    fn a_scaled_rollout_keeps_its_proportions() {
        let members = |sizes: &[i32], max_before: i32| -> Vec<Member> {
            sizes.iter().map(|size| Member { size: *size, max_before }).collect()
        };
        assert_eq!(proportional(&members(&[8, 5], 13), 15, 3), [11, 7]);
        assert_eq!(proportional(&members(&[3, 2], 5), 10, 0), [6, 4]);
        assert_eq!(proportional(&members(&[5, 5], 10), 11, 0), [5, 6]);
        assert_eq!(proportional(&members(&[6, 5], 11), 10, 0), [5, 5]);
        assert_eq!(proportional(&members(&[6, 5], 11), 0, 1), [0, 0]);
        assert_eq!(proportional(&members(&[6, 5], 11), 10, 1), [6, 5]);
    }

    /// Whatever order pods become available in, a rollout keeps its bounds and ends.
    #[test]
    fn every_rollout_stays_within_bounds_and_completes() {
        for (replicas, surge, unavailable) in
            [(5, 1, 0), (5, 0, 1), (1, 1, 0), (7, 3, 2), (2, 2, 2)]
        {
            let web = deployment(replicas, json!(surge), json!(unavailable));
            let (mut old, mut new, mut ready) = (replicas, 0, 0);
            for _ in 0..100 {
                new = new_size(&web, new, old + new);
                assert!(old + new <= replicas + surge, "{old}+{new}");
                let sizes = shrink_old(&web, Some(&set(new, ready)), &[&set(old, old)]);
                old = sizes[0];
                assert!(old + ready >= replicas - unavailable.max(i32::from(surge == 0)));
                ready = (ready + 1).min(new);
            }
            assert_eq!((old, new, ready), (0, replicas, replicas));
        }
    }
}
