//! Names of addresses: `4.3.2.1.in-addr.arpa` and their IPv6 kin.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The address that a reverse name stands for; `None` for every other name.
pub(super) fn address_of(name: &str) -> Option<IpAddr> {
    if let Some(reversed) = name.strip_suffix(".in-addr.arpa") {
        let octets: Vec<u8> =
            reversed.rsplit('.').map(str::parse).collect::<Result<_, _>>().ok()?;
        return <[u8; 4]>::try_from(octets).ok().map(|o| IpAddr::V4(Ipv4Addr::from(o)));
    }
    let reversed = name.strip_suffix(".ip6.arpa")?;
    let digits: Vec<u8> = reversed
        .rsplit('.')
        .map(|digit| if digit.len() == 1 { u8::from_str_radix(digit, 16).ok() } else { None })
        .collect::<Option<_>>()?;
    if digits.len() != 32 {
        return None;
    }
    let mut octets = [0u8; 16];
    for (octet, pair) in octets.iter_mut().zip(digits.chunks_exact(2)) {
        *octet = pair[0] << 4 | pair[1];
    }
    Some(IpAddr::V6(Ipv6Addr::from(octets)))
}
