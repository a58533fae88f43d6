//! What a server measures of its machine for `atoll check`.

use super::peers::Peers;
use crate::keys::Keys;
use atoll_identity::{AuthorityKind, PeerIdentity, certificates_from_pem};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::{
    fs::OpenOptions,
    io::{Seek as _, Write as _},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

/// Writes that are timed; their median counts.
const SYNCS: usize = 5;
const BLOCK: [u8; 4_096] = [0; 4_096];

/// Blocking: it writes to the disk of the store.
pub fn document(folder: &Path, peers: Option<&Arc<Peers>>) -> Value {
    let space = rustix::fs::statvfs(folder);
    let latency = sync_latency(&folder.join("check.tmp"));
    json!({
        "folder": folder,
        "syncMicroseconds": latency.as_ref().ok().map(|latency| micros(*latency)),
        "syncProblem": latency.err().map(|error| error.to_string()),
        "diskFreeBytes": space.as_ref().ok().map(|space| space.f_bavail * space.f_frsize),
        "diskBytes": space.as_ref().ok().map(|space| space.f_blocks * space.f_frsize),
        "peerCertificateEnds": peers
            .and_then(|peers| peers.certificate_ends())
            .map(seconds),
        "peers": peers.map(|peers| connections(peers)),
        "certificates": certificates(&folder.join("keys"), peers),
    })
}

/// Those that the API server has no part in.
fn certificates(keys: &Path, peers: Option<&Arc<Peers>>) -> Value {
    let authorities = [AuthorityKind::Peer, AuthorityKind::Etcd].into_iter().filter_map(|kind| {
        let text = std::fs::read_to_string(Keys::certificate_of(keys, kind)).ok()?;
        let chain = certificates_from_pem(kind.name(), &text).ok()?;
        let ends = PeerIdentity::from_der(chain.first()?).ok()?.not_after;
        Some(json!({ "name": format!("{} authority", kind.name()), "until": seconds(ends) }))
    });
    let own = peers.and_then(|peers| peers.certificate_renewed_at());
    let own =
        own.map(|at| json!({ "name": "peer of the other servers", "renewedAt": seconds(at) }));
    authorities.chain(own).collect()
}

fn seconds(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn connections(peers: &Peers) -> Value {
    let all = peers.status().into_iter().map(|peer| {
        json!({
            "id": format!("{:x}", peer.id),
            "address": peer.address,
            "isConnected": peer.connected_since.is_some(),
            "roundTripMicroseconds": peer.round_trip.map(micros),
            "problem": peer.last_problem,
            "refusal": peer.last_refusal.map(|refusal| refusal.to_string()),
        })
    });
    all.collect()
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// The median time that a block takes to the disk.
fn sync_latency(path: &Path) -> std::io::Result<Duration> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
    let mut times = Vec::with_capacity(SYNCS);
    for _ in 0..SYNCS {
        let started = Instant::now();
        file.rewind()?;
        file.write_all(&BLOCK)?;
        file.sync_data()?;
        times.push(started.elapsed());
    }
    drop(file);
    std::fs::remove_file(path)?;
    times.sort();
    Ok(times.get(SYNCS / 2).copied().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_measured_and_left_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let keys = Keys::open(&folder.path().join("keys"), "c").unwrap();
        keys.authority(AuthorityKind::Peer, Timestamp::now()).unwrap();
        let document = document(folder.path(), None);
        assert!(document["syncMicroseconds"].is_u64(), "{document}");
        assert!(document["diskBytes"].as_u64() > Some(0), "{document}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        let certificates = document["certificates"].as_array().unwrap();
        assert_eq!(certificates.len(), 1, "{document}");
        assert_eq!(certificates[0]["name"], "peer authority");
        assert!(certificates[0]["until"].as_str().unwrap().ends_with('Z'), "{document}");
        let gone = super::document(&folder.path().join("gone"), None);
        assert!(gone["syncProblem"].is_string(), "{gone}");
    }
}
