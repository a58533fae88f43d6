//! `/configz`: the settings of a kubelet that hold here, for programs that look them up.

use serde_json::json;

use crate::kubelet::access;
use crate::kubelet::routes::Routes;
use crate::kubelet::{Answer, json as answer_json};
use crate::node::heartbeat::LEASE_SECONDS;
use crate::{eviction, garbage};

pub(crate) fn answer(routes: &Routes) -> Answer {
    let config = &routes.cx.config;
    let disk = format!("{}%", eviction::DISK_AVAILABLE_MIN_PERCENT);
    let inodes = format!("{}%", eviction::INODES_FREE_MIN_PERCENT);
    answer_json(&json!({ "kubeletconfig": {
        "kind": "KubeletConfiguration",
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "enableServer": true,
        "address": config.kubelet_listen.ip().to_string(),
        "port": config.kubelet_listen.port(),
        "authentication": {
            "anonymous": { "enabled": false },
            "webhook": { "enabled": true, "cacheTTL": go_duration(access::TOKEN_FOR) },
        },
        "authorization": { "mode": "Webhook", "webhook": {
            "cacheAuthorizedTTL": go_duration(access::ALLOWED_FOR),
            "cacheUnauthorizedTTL": go_duration(access::DENIED_FOR),
        } },
        "clusterDomain": config.cluster_domain,
        "clusterDNS": [config.cluster_dns.to_string()],
        "syncFrequency": "1m0s",
        "nodeLeaseDurationSeconds": LEASE_SECONDS,
        "maxPods": config.max_pods,
        "cgroupRoot": config.cgroup_root(),
        "cgroupDriver": "cgroupfs",
        "cgroupsPerQOS": true,
        "cpuManagerPolicy": "none",
        "topologyManagerPolicy": "none",
        "seccompDefault": config.seccomp_default,
        "serializeImagePulls": false,
        "imageGCHighThresholdPercent": garbage::HIGH_PERCENT,
        "imageGCLowThresholdPercent": garbage::LOW_PERCENT,
        "evictionHard": {
            "memory.available": format!("{}Mi", eviction::MEMORY_AVAILABLE_MIN >> 20),
            "nodefs.available": disk,
            "nodefs.inodesFree": inodes,
        },
        "enableDebuggingHandlers": true,
        "enableSystemLogHandler": true,
        "failSwapOn": false,
        "featureGates": {},
    } }))
}

/// As Go prints a duration of whole seconds.
fn go_duration(duration: std::time::Duration) -> String {
    match (duration.as_secs() / 60, duration.as_secs() % 60) {
        (0, seconds) => format!("{seconds}s"),
        (minutes, seconds) => format!("{minutes}m{seconds}s"),
    }
}
