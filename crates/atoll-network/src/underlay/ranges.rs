//! Which address ranges a cluster gets, so that two on one machine never share one.

use std::net::Ipv4Addr;

use super::Ranges;
use crate::Error;
use crate::settings::Ipv4Net;

/// The default: 10.41.0.0/24, 10.42.0.0/16 and 10.43.0.0/16.
const FIRST: u8 = 41;
const STEP: usize = 3;
const LAST: u8 = 250;

/// The host's place in the underlay.
const HOST: u32 = 254;

/// Addresses somebody else has.
#[derive(Debug, Clone)]
pub(super) struct Taken {
    pub(super) range: Ipv4Net,
    pub(super) holder: String,
}

impl Ranges {
    /// The triple that begins with `10.<octet>`.
    pub(super) fn starting_at(octet: u8) -> Self {
        let net = |offset: u8, prefix| {
            Ipv4Net::new(Ipv4Addr::new(10, octet.saturating_add(offset), 0, 0), prefix)
        };
        Self { underlay: net(0, 24), pods: net(1, 16), services: net(2, 16) }
    }

    pub(super) fn host_address(&self) -> Ipv4Addr {
        self.underlay.nth(HOST).unwrap_or(Ipv4Addr::UNSPECIFIED)
    }

    /// Node k, counted from 1.
    pub(super) fn node_address(&self, k: u32) -> Ipv4Addr {
        self.underlay.nth(k).unwrap_or(Ipv4Addr::UNSPECIFIED)
    }

    pub(super) fn node_pods(&self, k: u32) -> Ipv4Net {
        Ipv4Net::new(self.pods.nth(k << 8).unwrap_or(Ipv4Addr::UNSPECIFIED), 24)
    }

    /// The cluster's DNS: the tenth address of the services.
    pub fn dns_address(&self) -> Ipv4Addr {
        self.services.nth(10).unwrap_or(Ipv4Addr::UNSPECIFIED)
    }

    fn conflict<'a>(&self, taken: &'a [Taken]) -> Option<(Ipv4Net, &'a Taken)> {
        [self.underlay, self.pods, self.services].into_iter().find_map(|range| {
            taken.iter().find(|other| other.range.overlaps(&range)).map(|other| (range, other))
        })
    }
}

/// The wanted ranges if they are free, or the first free ones.
pub(super) fn choose(wanted: Option<Ranges>, taken: &[Taken]) -> Result<Ranges, Error> {
    if let Some(wanted) = wanted {
        return match wanted.conflict(taken) {
            Some((range, other)) => Err(Error::RangeTaken { range, holder: other.holder.clone() }),
            None => Ok(wanted),
        };
    }
    (FIRST..=LAST)
        .step_by(STEP)
        .map(Ranges::starting_at)
        .find(|ranges| ranges.conflict(taken).is_none())
        .ok_or(Error::NoFreeRange)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(range: &str) -> Taken {
        Taken { range: range.parse().unwrap(), holder: "a route".to_owned() }
    }

    #[test]
    fn the_first_cluster_gets_the_documented_ranges() {
        let ranges = choose(None, &[]).unwrap();
        assert_eq!(ranges.underlay.to_string(), "10.41.0.0/24");
        assert_eq!(ranges.pods.to_string(), "10.42.0.0/16");
        assert_eq!(ranges.services.to_string(), "10.43.0.0/16");
        assert_eq!(ranges.host_address(), Ipv4Addr::new(10, 41, 0, 254));
        assert_eq!(ranges.node_pods(3).to_string(), "10.42.3.0/24");
        assert_eq!(ranges.dns_address(), Ipv4Addr::new(10, 43, 0, 10));
    }

    #[test]
    fn the_next_cluster_gets_the_next_free_triple() {
        let ranges = choose(None, &[taken("10.41.0.0/24"), taken("10.45.7.0/24")]).unwrap();
        assert_eq!(ranges, Ranges::starting_at(47));
    }

    #[test]
    fn ranges_that_a_cluster_must_keep_are_refused_when_taken() {
        let error = choose(Some(Ranges::starting_at(41)), &[taken("10.43.9.0/24")]).unwrap_err();
        assert!(error.to_string().contains("10.43.0.0/16"), "{error}");
        assert!(error.to_string().contains("a route"), "{error}");
    }

    #[test]
    fn a_full_machine_is_an_error() {
        assert!(matches!(choose(None, &[taken("10.0.0.0/8")]), Err(Error::NoFreeRange)));
    }
}
