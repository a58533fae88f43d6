//! Which sandbox has which address: a file per lease, and a bitmap rebuilt from them.
//!
//! Addresses rotate, so that one just given back is the last to be given again.

use std::collections::HashMap;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::Error;
use crate::service::Protocol;
use crate::settings::Ipv4Net;

/// The format of lease files.
const LEASE_VERSION: u32 = 1;

/// The largest range whose bitmap is kept: a /16.
const ADDRESSES_MAX: u64 = 65_536;

/// An address given to a sandbox, and the ports of the node that lead to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    version: u32,
    pub uid: String,
    pub address: Ipv4Addr,
    #[serde(default)]
    pub host_ports: Vec<HostPort>,
}

/// A port of the node that leads to a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostPort {
    /// `None`: every address of the node but loopback.
    pub host_ip: Option<Ipv4Addr>,
    pub host_port: u16,
    pub container_port: u16,
    pub protocol: Protocol,
}

impl HostPort {
    fn meets(&self, other: &Self) -> bool {
        self.protocol == other.protocol
            && self.host_port == other.host_port
            && (self.host_ip.is_none() || other.host_ip.is_none() || self.host_ip == other.host_ip)
    }
}

/// The leases of one node.
#[derive(Debug)]
pub(crate) struct Pool {
    range: Ipv4Net,
    dir: PathBuf,
    by_uid: HashMap<String, Lease>,
    taken: Vec<bool>,
    next: usize,
}

impl Pool {
    /// Reads the leases of `dir`. Those outside of the range are kept until they are
    /// released: their sandboxes may still run.
    pub(crate) fn open(range: Ipv4Net, dir: &Path) -> Result<Self, Error> {
        if range.size() < 4 {
            return Err(Error::TooSmall { cidr: range });
        }
        let size = usize::try_from(range.size().min(ADDRESSES_MAX)).unwrap_or(usize::MAX);
        let mut pool = Self {
            range,
            dir: dir.to_owned(),
            by_uid: HashMap::new(),
            taken: vec![false; size],
            next: FIRST,
        };
        let fault = |source| Error::File { action: "reading leases in", path: dir.into(), source };
        std::fs::create_dir_all(dir).map_err(fault)?;
        for entry in std::fs::read_dir(dir).map_err(fault)? {
            let path = entry.map_err(fault)?.path();
            if path.extension().is_some_and(|kind| kind == "tmp") {
                remove_file(&path)?;
            } else if let Some(lease) = read_lease(&path)? {
                pool.remember(lease);
            }
        }
        Ok(pool)
    }

    /// The sandbox's lease, the same as before if it has one.
    pub(crate) fn lease(&mut self, uid: &str, host_ports: &[HostPort]) -> Result<Lease, Error> {
        self.check_ports(uid, host_ports)?;
        let address = match self.by_uid.get(uid) {
            Some(lease) if lease.host_ports == host_ports => return Ok(lease.clone()),
            Some(lease) => lease.address,
            None => self.free_address()?,
        };
        let lease = Lease {
            version: LEASE_VERSION,
            uid: uid.to_owned(),
            address,
            host_ports: host_ports.to_vec(),
        };
        self.write(&lease)?;
        self.remember(lease.clone());
        Ok(lease)
    }

    pub(crate) fn get(&self, uid: &str) -> Option<&Lease> {
        self.by_uid.get(uid)
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Lease> + Clone {
        self.by_uid.values()
    }

    pub(crate) fn release(&mut self, uid: &str) -> Result<(), Error> {
        let Some(lease) = self.by_uid.get(uid) else {
            return Ok(());
        };
        remove_file(&self.dir.join(lease.address.to_string()))?;
        if let Some(slot) = self.index(lease.address) {
            self.taken[slot] = false;
        }
        self.by_uid.remove(uid);
        Ok(())
    }

    fn check_ports(&self, uid: &str, wanted: &[HostPort]) -> Result<(), Error> {
        for port in wanted {
            let holder = self
                .by_uid
                .values()
                .find(|lease| lease.uid != uid && lease.host_ports.iter().any(|p| p.meets(port)));
            if let Some(holder) = holder {
                let (port, holder) = (port.host_port, holder.uid.clone());
                return Err(Error::HostPortTaken { port, holder });
            }
        }
        Ok(())
    }

    fn free_address(&mut self) -> Result<Ipv4Addr, Error> {
        let last = self.taken.len() - 1;
        let count = last - FIRST;
        let slot = (0..count)
            .map(|step| FIRST + (self.next - FIRST + step) % count)
            .find(|slot| !self.taken[*slot])
            .ok_or(Error::NoAddress { cidr: self.range })?;
        self.next = if slot + 1 >= last { FIRST } else { slot + 1 };
        u32::try_from(slot)
            .ok()
            .and_then(|slot| self.range.nth(slot))
            .ok_or(Error::NoAddress { cidr: self.range })
    }

    fn remember(&mut self, lease: Lease) {
        if let Some(slot) = self.index(lease.address) {
            self.taken[slot] = true;
            // A restarted agent goes on behind the leases it finds.
            self.next = self.next.max(slot + 1);
            if self.next + 1 >= self.taken.len() {
                self.next = FIRST;
            }
        }
        self.by_uid.insert(lease.uid.clone(), lease);
    }

    fn index(&self, address: Ipv4Addr) -> Option<usize> {
        let offset = address.to_bits().checked_sub(self.range.address().to_bits())?;
        usize::try_from(offset).ok().filter(|slot| *slot < self.taken.len())
    }

    fn write(&self, lease: &Lease) -> Result<(), Error> {
        let path = self.dir.join(lease.address.to_string());
        let beside = self.dir.join(format!("{}.tmp", lease.address));
        let bytes = serde_json::to_vec(lease)
            .map_err(|source| Error::BadLease { path: path.clone(), source })?;
        std::fs::write(&beside, bytes)
            .and_then(|()| std::fs::rename(&beside, &path))
            .map_err(|source| Error::File { action: "writing the lease", path, source })
    }
}

/// Address 0 is the network's, 1 the node's own end of every link.
const FIRST: usize = 2;

fn read_lease(path: &Path) -> Result<Option<Lease>, Error> {
    let bytes = std::fs::read(path).map_err(|source| Error::File {
        action: "reading the lease",
        path: path.into(),
        source,
    })?;
    if bytes.is_empty() {
        // A crash of the machine right after the rename: the sandbox is gone as well.
        remove_file(path)?;
        return Ok(None);
    }
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|source| Error::BadLease { path: path.into(), source })
}

fn remove_file(path: &Path) -> Result<(), Error> {
    match std::fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(Error::File { action: "removing the lease", path: path.into(), source })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(dir: &Path, range: &str) -> Pool {
        Pool::open(range.parse().unwrap(), dir).unwrap()
    }

    #[test]
    fn gives_the_same_address_again_and_rotates() {
        let dir = tempfile::tempdir().unwrap();
        let mut pool = pool(dir.path(), "10.42.1.0/24");
        let first = pool.lease("a", &[]).unwrap().address;
        assert_eq!(first, Ipv4Addr::new(10, 42, 1, 2));
        assert_eq!(pool.lease("a", &[]).unwrap().address, first);
        pool.release("a").unwrap();
        assert_eq!(pool.lease("b", &[]).unwrap().address, Ipv4Addr::new(10, 42, 1, 3));
    }

    #[test]
    fn a_full_range_is_an_error_until_something_is_released() {
        let dir = tempfile::tempdir().unwrap();
        let mut pool = pool(dir.path(), "10.42.1.0/29");
        for uid in 0..5 {
            pool.lease(&uid.to_string(), &[]).unwrap();
        }
        assert!(matches!(pool.lease("x", &[]), Err(Error::NoAddress { .. })));
        pool.release("3").unwrap();
        assert_eq!(pool.lease("x", &[]).unwrap().address, Ipv4Addr::new(10, 42, 1, 5));
    }

    #[test]
    fn leases_survive_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let port = HostPort {
            host_ip: None,
            host_port: 80,
            container_port: 8080,
            protocol: Protocol::Tcp,
        };
        let before =
            pool(dir.path(), "10.42.1.0/24").lease("a", std::slice::from_ref(&port)).unwrap();
        std::fs::write(dir.path().join("10.42.1.9.tmp"), "{").unwrap();
        let mut after = pool(dir.path(), "10.42.1.0/24");
        assert_eq!(after.get("a"), Some(&before));
        assert_ne!(after.lease("b", &[]).unwrap().address, before.address);
        assert!(matches!(after.lease("c", &[port]), Err(Error::HostPortTaken { port: 80, .. })));
    }

    #[test]
    fn a_lease_that_cannot_be_read_is_named() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("10.42.1.9"), "{").unwrap();
        let error = Pool::open("10.42.1.0/24".parse().unwrap(), dir.path()).unwrap_err();
        assert!(error.to_string().contains("10.42.1.9"), "{error}");
    }
}
