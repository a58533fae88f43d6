//! Is anybody there: a dial of the kubelet's port.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use atoll_api::access::Access as _;
use atoll_api::kinds;
use tokio::net::TcpStream;

use crate::registry::Registry;

/// A machine on the same network answers within this, whatever it answers.
pub(super) const DIAL_TIMEOUT: Duration = Duration::from_millis(500);
const KUBELET_PORT: u16 = 10250;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// The machine is there: it accepts, or refuses.
    Something,
    /// No answer, or no way to it.
    Nothing,
}

/// Where the node's kubelet listens, by its Node object.
pub(super) fn address(registry: &Registry, name: &str) -> Option<SocketAddr> {
    let row = kinds::find("", "v1", "nodes")?;
    let node = registry.cache(row)?.get("", name)?.object(row).ok()?;
    let ip: IpAddr = node["status"]
        .items("addresses")
        .iter()
        .find(|address| address.text("type") == "InternalIP")
        .and_then(|address| address.text("address").parse().ok())?;
    let port = node["status"]["daemonEndpoints"]["kubeletEndpoint"]
        .int("Port")
        .and_then(|port| u16::try_from(port).ok())
        .unwrap_or(KUBELET_PORT);
    Some(SocketAddr::new(ip, port))
}

pub(super) async fn dial(address: SocketAddr) -> Answer {
    match tokio::time::timeout(DIAL_TIMEOUT, TcpStream::connect(address)).await {
        Ok(Ok(_)) => Answer::Something,
        Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => Answer::Something,
        Ok(Err(_)) | Err(_) => Answer::Nothing,
    }
}
