//! Nodes: each gets its share of the pod network.

use std::collections::HashSet;

use atoll_api::access::Access as _;
use atoll_store::kv::{KeyRange, RangeRequest};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use rand::Rng as _;
use serde_json::{Value, json};

use super::{Allocator, PREFIX, difference};
use crate::call::Call;
use crate::config::Cidr;
use crate::status::Status;
use crate::storage::Extra;

pub(super) const ALLOCATOR: Allocator =
    Allocator { group: "", resource: "nodes", create, update, held };

/// Each attempt chooses among this many times as many networks as the one before.
const SPREAD: usize = 16;

fn create<'a>(
    call: &'a Call,
    node: &'a mut Value,
    attempt: usize,
) -> BoxFuture<'a, Result<Extra, Status>> {
    async move {
        if node["spec"].text("podCIDR").is_empty() {
            let cidr = free(call, attempt).await?;
            node["spec"]["podCIDR"] = json!(cidr);
            node["spec"]["podCIDRs"] = json!([cidr]);
        }
        Ok(difference(node, &[], &held(node)))
    }
    .boxed()
}

fn update<'a>(
    _: &'a Call,
    old: &'a Value,
    new: &'a mut Value,
) -> BoxFuture<'a, Result<Extra, Status>> {
    async move { Ok(difference(new, &held(old), &held(new))) }.boxed()
}

fn held(node: &Value) -> Vec<String> {
    let cidr = node["spec"].text("podCIDR");
    if cidr.is_empty() { Vec::new() } else { vec![format!("{}{cidr}", prefix())] }
}

fn prefix() -> String {
    format!("{PREFIX}/podcidrs/")
}

/// The lowest network that nobody holds. After an attempt that met somebody else's claim one
/// by chance among some of the lowest, more of them with each attempt: many nodes that come at
/// once would meet again and again.
async fn free(call: &Call, attempt: usize) -> Result<String, Status> {
    let mut request = RangeRequest::new(KeyRange::prefix(prefix()));
    request.keys_only = true;
    let held = call.core.storage.range(request).await?;
    let prefix = prefix();
    let taken: HashSet<&[u8]> =
        held.kvs.iter().filter_map(|kv| kv.key.strip_prefix(prefix.as_bytes())).collect();
    let config = &call.core.config;
    let among = SPREAD.saturating_pow(u32::try_from(attempt).unwrap_or(u32::MAX));
    let lowest: Vec<String> = networks(config.pod_cidr, config.node_prefix)
        .filter(|cidr| !taken.contains(cidr.as_bytes()))
        .take(among)
        .collect();
    let chosen = rand::rng().random_range(0..lowest.len().max(1));
    lowest.into_iter().nth(chosen).ok_or_else(|| {
        Status::internal(format!(
            "every /{} of the pod network is taken; a larger network or a longer node prefix \
             makes room for more nodes",
            config.node_prefix
        ))
    })
}

fn networks(all: Cidr, prefix: u8) -> impl Iterator<Item = String> {
    let step = 1u32.checked_shl(u32::from(32u8.saturating_sub(prefix))).unwrap_or(u32::MAX);
    (0..u32::MAX)
        .map_while(move |index| all.nth(index.checked_mul(step)?))
        .map(move |address| format!("{address}/{prefix}"))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn a_sixteen_has_256_networks_of_24() {
        let all = Cidr { address: Ipv4Addr::new(10, 42, 0, 0), prefix: 16 };
        let networks: Vec<String> = networks(all, 24).collect();
        assert_eq!(networks.len(), 256);
        assert_eq!(networks.first().map(String::as_str), Some("10.42.0.0/24"));
        assert_eq!(networks.last().map(String::as_str), Some("10.42.255.0/24"));
    }
}
