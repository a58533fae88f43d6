//! Where a `dev` cluster takes etcd connections: at one address for all servers, and, when there
//! are several, at one for each, which the servers tell clients.

use super::Dev;
use crate::{listen::listen, server::check_plain};
use anyhow::{Context as _, Result};
use std::net::{IpAddr, SocketAddr};
use tokio::net::TcpListener;

const FLAG: &str = "--etcd-listen";

/// Of the host, open.
pub struct Listeners {
    pub shared: TcpListener,
    /// In the order of the servers; none of a single one.
    pub own: Vec<TcpListener>,
}

/// `None` when it was not asked for.
pub async fn listeners(dev: &Dev, servers: u32) -> Result<Option<Listeners>> {
    let Some(address) = dev.etcd_listen else { return Ok(None) };
    check_plain(address, false, FLAG)?;
    let shared = listen(address, FLAG).await?;
    let mut own = Vec::new();
    if servers > 1 {
        for number in 1..=servers {
            own.push(listen(own_address(address, number, servers)?, FLAG).await?);
        }
    }
    Ok(Some(Listeners { shared, own }))
}

/// That of the server with this number, from 1 on: a single one has the one that was asked for,
/// several the loopback addresses behind it, at the same port. IPv6 has only one such address, and
/// there the ports behind it are taken.
pub fn own_address(shared: SocketAddr, number: u32, servers: u32) -> Result<SocketAddr> {
    if servers < 2 {
        return Ok(shared);
    }
    let next = match shared {
        SocketAddr::V4(shared) => shared
            .ip()
            .to_bits()
            .checked_add(number)
            .map(|bits| SocketAddr::new(IpAddr::V4(bits.into()), shared.port())),
        SocketAddr::V6(shared) => {
            let port = u16::try_from(u32::from(shared.port()) + number).ok();
            port.map(|port| SocketAddr::new(IpAddr::V6(*shared.ip()), port))
        }
    };
    next.filter(|next| next.ip().is_loopback()).with_context(|| {
        format!(
            "{FLAG} {shared} leaves no address for server {number}: each of the {servers} servers gets one behind it; give a lower one, such as 127.0.0.1:{}",
            shared.port()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(shared: &str, number: u32, servers: u32) -> Result<String> {
        own_address(shared.parse()?, number, servers).map(|own| own.to_string())
    }

    #[test]
    fn each_of_several_servers_has_an_address() {
        assert_eq!(own("127.0.0.1:2379", 1, 1).unwrap(), "127.0.0.1:2379");
        assert_eq!(own("127.0.0.1:2379", 1, 3).unwrap(), "127.0.0.2:2379");
        assert_eq!(own("127.0.0.1:2379", 3, 3).unwrap(), "127.0.0.4:2379");
        assert_eq!(own("[::1]:2379", 2, 3).unwrap(), "[::1]:2381");
        let refused = own("127.255.255.254:2379", 2, 3).unwrap_err().to_string();
        assert!(refused.contains("such as 127.0.0.1:2379"), "{refused}");
    }
}
