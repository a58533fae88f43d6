//! Which upstream resolvers to ask.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

/// Where names outside of the cluster are resolved, unless the snapshot says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Upstreams {
    Fixed(Vec<SocketAddr>),
    /// The nameservers of such a file. Loopback ones are skipped: they are the machine's
    /// own stub, which is not there in a namespace and may lead back to us.
    ResolvConf(PathBuf),
}

impl Upstreams {
    pub(crate) fn addresses(&self) -> std::io::Result<Vec<SocketAddr>> {
        match self {
            Self::Fixed(addresses) => Ok(addresses.clone()),
            Self::ResolvConf(path) => read(path),
        }
    }
}

fn read(path: &Path) -> std::io::Result<Vec<SocketAddr>> {
    Ok(parse(&std::fs::read_to_string(path)?))
}

pub(crate) fn parse(text: &str) -> Vec<SocketAddr> {
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver"))
        .filter_map(|rest| rest.split_whitespace().next()?.parse::<IpAddr>().ok())
        .filter(|address| !address.is_loopback())
        .map(|address| SocketAddr::new(address, 53))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skips_loopback_comments_and_nonsense() {
        let text = "# nameserver 9.9.9.9\nsearch x\nnameserver 127.0.0.53\n\
                    nameserver 192.0.2.7 # ours\n nameserver ::1\nnameserver fd00::3\nnameserver x\n";
        let found: Vec<_> = parse(text).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["192.0.2.7:53", "[fd00::3]:53"]);
    }
}
