//! Reads resource quantities as numbers, and turns them into cgroup values.
//!
//! Everything is pure; a quantity that cannot be read counts as absent, since the API
//! server has refused it long before.

use std::collections::BTreeMap;

use atoll_container::Resources;
use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// The least and most that `cpu.shares` takes.
const SHARES_MIN: i64 = 2;
const SHARES_MAX: i64 = 262_144;
/// Length of one CPU accounting period.
const PERIOD_US: i64 = 100_000;
/// The kernel refuses smaller quotas.
const QUOTA_US_MIN: i64 = 1_000;

/// A quantity in thousandths, rounded up.
#[must_use]
pub fn milli(quantity: &Quantity) -> Option<i64> {
    let text = quantity.0.trim();
    let split =
        text.find(|c: char| !matches!(c, '0'..='9' | '.' | '+' | '-')).unwrap_or(text.len());
    let (digits, suffix) = text.split_at(split);
    let (multiplier, divisor) = scale(suffix)?;
    let (mantissa, decimals) = decimal(digits)?;
    let numerator = mantissa.checked_mul(multiplier)?.checked_mul(1000)?;
    let denominator = divisor.checked_mul(10_i128.checked_pow(decimals)?)?;
    let rounded =
        numerator.div_euclid(denominator) + i128::from(numerator.rem_euclid(denominator) != 0);
    Some(i64::try_from(rounded).unwrap_or(i64::MAX))
}

/// A quantity in whole units, rounded up.
#[must_use]
pub fn value(quantity: &Quantity) -> Option<i64> {
    let milli = milli(quantity)?;
    Some(milli.div_euclid(1000) + i64::from(milli.rem_euclid(1000) != 0))
}

/// Digits without the point, and how many stood behind it.
fn decimal(digits: &str) -> Option<(i128, u32)> {
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let mantissa = format!("{whole}{fraction}").parse().ok()?;
    Some((mantissa, u32::try_from(fraction.len()).ok()?))
}

fn scale(suffix: &str) -> Option<(i128, i128)> {
    let power = |base: i128, exponent: u32| base.checked_pow(exponent);
    Some(match suffix {
        "" => (1, 1),
        "n" => (1, 1_000_000_000),
        "u" => (1, 1_000_000),
        "m" => (1, 1_000),
        "k" => (1_000, 1),
        "M" => (power(10, 6)?, 1),
        "G" => (power(10, 9)?, 1),
        "T" => (power(10, 12)?, 1),
        "P" => (power(10, 15)?, 1),
        "E" => (power(10, 18)?, 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1 << 60, 1),
        other => {
            let exponent: i32 = other.strip_prefix(['e', 'E'])?.parse().ok()?;
            let size = power(10, exponent.unsigned_abs())?;
            if exponent < 0 { (1, size) } else { (size, 1) }
        }
    })
}

/// Limit of a resource, in its own unit (`cpu` in thousandths).
#[must_use]
pub fn limit(resources: Option<&ResourceRequirements>, name: &str) -> Option<i64> {
    read(resources?.limits.as_ref(), name)
}

/// Request of a resource; a limit without a request requests itself.
#[must_use]
pub fn request(resources: Option<&ResourceRequirements>, name: &str) -> Option<i64> {
    let resources = resources?;
    read(resources.requests.as_ref(), name).or_else(|| read(resources.limits.as_ref(), name))
}

fn read(from: Option<&BTreeMap<String, Quantity>>, name: &str) -> Option<i64> {
    let quantity = from?.get(name)?;
    if name == "cpu" { milli(quantity) } else { value(quantity) }
}

/// The cgroup values of one container.
#[must_use]
pub fn cgroup_values(container: &Container) -> Resources {
    let resources = container.resources.as_ref();
    let shares = request(resources, "cpu").unwrap_or(0) * 1024 / 1000;
    let quota = limit(resources, "cpu")
        .filter(|milli| *milli > 0)
        .map(|milli| (milli * PERIOD_US / 1000).max(QUOTA_US_MIN));
    Resources {
        cpu_shares: u64::try_from(shares.clamp(SHARES_MIN, SHARES_MAX)).ok(),
        cpu_quota_us: quota,
        cpu_period_us: quota.and_then(|_| u64::try_from(PERIOD_US).ok()),
        memory_limit_bytes: limit(resources, "memory").filter(|bytes| *bytes > 0),
        pids_limit: None,
        cpuset_cpus: None,
    }
}

/// The cgroup values of the pod as a whole: limits only where every container has one.
#[must_use]
pub fn pod_cgroup_values(pod: &Pod) -> Resources {
    let containers = pod.spec.iter().flat_map(|spec| {
        let sidecars = spec.init_containers.iter().flatten();
        spec.containers.iter().chain(sidecars)
    });
    let all: Vec<Resources> = containers.map(cgroup_values).collect();
    let sum = |get: fn(&Resources) -> Option<i64>| {
        all.iter().map(get).sum::<Option<i64>>().filter(|total| *total > 0)
    };
    let quota = sum(|r| r.cpu_quota_us);
    let shares = (pod_request(pod, "cpu") * 1024 / 1000).clamp(SHARES_MIN, SHARES_MAX);
    Resources {
        cpu_shares: u64::try_from(shares).ok(),
        cpu_quota_us: quota,
        cpu_period_us: quota.and_then(|_| u64::try_from(PERIOD_US).ok()),
        memory_limit_bytes: sum(|r| r.memory_limit_bytes),
        pids_limit: None,
        cpuset_cpus: None,
    }
}

/// What a pod requests of one resource: the larger of what its init containers need in
/// turn and what its containers need together, plus the overhead.
#[must_use]
pub fn pod_request(pod: &Pod, name: &str) -> i64 {
    let Some(spec) = &pod.spec else { return 0 };
    let mut running: i64 =
        spec.containers.iter().filter_map(|c| request(c.resources.as_ref(), name)).sum();
    let (mut sidecars, mut peak) = (0, 0);
    for container in spec.init_containers.iter().flatten() {
        let amount = request(container.resources.as_ref(), name).unwrap_or(0);
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars += amount;
            running += amount;
            peak = peak.max(sidecars);
        } else {
            peak = peak.max(sidecars + amount);
        }
    }
    running.max(peak) + read(spec.overhead.as_ref(), name).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quantity(text: &str) -> Quantity {
        Quantity(text.to_owned())
    }

    #[test]
    fn reads_every_suffix() {
        for (text, expected) in [
            ("100m", 100),
            ("1", 1000),
            ("1.5", 1500),
            (".5", 500),
            ("1Ki", 1_024_000),
            ("2k", 2_000_000),
            ("1e3", 1_000_000),
            ("1E3", 1_000_000),
            ("5e-1", 500),
            ("1n", 1),
            ("0", 0),
        ] {
            assert_eq!(milli(&quantity(text)), Some(expected), "{text}");
        }
        for text in ["", "m", "1x", "1..2", "-"] {
            assert_eq!(milli(&quantity(text)), None, "{text}");
        }
        assert_eq!(value(&quantity("1500m")), Some(2));
        assert_eq!(milli(&quantity("100Ei")), Some(i64::MAX));
    }

    fn container(json: serde_json::Value) -> Container {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn cgroup_values_follow_the_kubelet() {
        let c = container(serde_json::json!({"name": "c", "resources": {
            "requests": {"cpu": "250m"}, "limits": {"cpu": "5m", "memory": "64Mi"}}}));
        let values = cgroup_values(&c);
        assert_eq!(values.cpu_shares, Some(256));
        assert_eq!(values.cpu_quota_us, Some(1000));
        assert_eq!(values.cpu_period_us, Some(100_000));
        assert_eq!(values.memory_limit_bytes, Some(64 << 20));
        let none = cgroup_values(&container(serde_json::json!({"name": "c"})));
        assert_eq!((none.cpu_shares, none.cpu_quota_us), (Some(2), None));
    }

    #[test]
    fn a_pod_requests_the_larger_of_init_and_running() {
        let pod: Pod = serde_json::from_value(serde_json::json!({"spec": {
            "initContainers": [
                {"name": "side", "restartPolicy": "Always", "resources": {"requests": {"cpu": "1"}}},
                {"name": "init", "resources": {"requests": {"cpu": "3"}}}],
            "containers": [{"name": "c", "resources": {"limits": {"cpu": "2"}}}]}}))
        .unwrap();
        assert_eq!(pod_request(&pod, "cpu"), 4000);
    }
}
