//! Addresses and networks.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Function, Opaque, function, no_overload};
use crate::cel::error::{EvalError, fail};
use crate::cel::value::Value;
use crate::field::quote;

type Evaluated<'a> = Result<Value<'a>, EvalError>;

const TEST: &[&str] = &["net.IP.() bool"];

pub(super) const FUNCTIONS: &[Function] = &[
    function("ip", &["(string) net.IP", "net.CIDR.() net.IP"], |args, _| match args {
        [Value::String(text)] => address(text.as_str()).map(ip),
        [Value::Opaque(Opaque::Cidr(cidr))] => Ok(ip(cidr.address)),
        _ => no_overload(),
    }),
    function("isIP", &["(string) bool"], |args, _| match args {
        [Value::String(text)] => Ok(Value::Bool(address(text.as_str()).is_ok())),
        _ => no_overload(),
    }),
    function("ip.isCanonical", &["(string) bool"], |args, _| match args {
        [Value::String(text)] => {
            Ok(Value::Bool(address(text.as_str())?.to_string() == text.as_str()))
        }
        _ => no_overload(),
    }),
    function("family", &["net.IP.() int"], |args, _| match args {
        [Value::Opaque(Opaque::Ip(one))] => Ok(Value::Int(if one.is_ipv4() { 4 } else { 6 })),
        _ => no_overload(),
    }),
    function("isUnspecified", TEST, |args, _| test(args, IpAddr::is_unspecified)),
    function("isLoopback", TEST, |args, _| test(args, IpAddr::is_loopback)),
    function("isLinkLocalMulticast", TEST, |args, _| test(args, is_link_local_multicast)),
    function("isLinkLocalUnicast", TEST, |args, _| test(args, is_link_local_unicast)),
    function("isGlobalUnicast", TEST, |args, _| test(args, is_global_unicast)),
    function("cidr", &["(string) net.CIDR"], |args, _| match args {
        [Value::String(text)] => parse(text.as_str()),
        _ => no_overload(),
    }),
    function("isCIDR", &["(string) bool"], |args, _| match args {
        [Value::String(text)] => Ok(Value::Bool(Cidr::parse(text.as_str()).is_ok())),
        _ => no_overload(),
    }),
    function("containsIP", &["net.CIDR.(string) bool", "net.CIDR.(net.IP) bool"], |args, _| {
        match args {
            [Value::Opaque(Opaque::Cidr(cidr)), Value::Opaque(Opaque::Ip(one))] => {
                Ok(Value::Bool(cidr.contains(*one)))
            }
            [Value::Opaque(Opaque::Cidr(cidr)), Value::String(text)] => {
                Ok(Value::Bool(cidr.contains(address(text.as_str())?)))
            }
            _ => no_overload(),
        }
    }),
    function("containsCIDR", &["net.CIDR.(string) bool", "net.CIDR.(net.CIDR) bool"], |args, _| {
        match args {
            [Value::Opaque(Opaque::Cidr(cidr)), Value::Opaque(Opaque::Cidr(other))] => {
                Ok(Value::Bool(cidr.covers(*other)))
            }
            [Value::Opaque(Opaque::Cidr(cidr)), Value::String(text)] => {
                match parse(text.as_str())? {
                    Value::Opaque(Opaque::Cidr(other)) => Ok(Value::Bool(cidr.covers(other))),
                    _ => no_overload(),
                }
            }
            _ => no_overload(),
        }
    }),
    function("prefixLength", &["net.CIDR.() int"], |args, _| match args {
        [Value::Opaque(Opaque::Cidr(cidr))] => Ok(Value::Int(cidr.length.into())),
        _ => no_overload(),
    }),
    function("masked", &["net.CIDR.() net.CIDR"], |args, _| match args {
        [Value::Opaque(Opaque::Cidr(cidr))] => Ok(Value::Opaque(Opaque::Cidr(cidr.masked()))),
        _ => no_overload(),
    }),
];

fn ip<'a>(address: IpAddr) -> Value<'a> {
    Value::Opaque(Opaque::Ip(address))
}

fn test<'a>(args: &[Value<'a>], holds: impl Fn(&IpAddr) -> bool) -> Evaluated<'a> {
    match args {
        [Value::Opaque(Opaque::Ip(address))] => Ok(Value::Bool(holds(address))),
        _ => no_overload(),
    }
}

fn parse<'a>(text: &str) -> Evaluated<'a> {
    match Cidr::parse(text) {
        Ok(cidr) => Ok(Value::Opaque(Opaque::Cidr(cidr))),
        Err(why) => {
            fail(format!("network address parse error during conversion from string: {why}"))
        }
    }
}

/// No zones, and no IPv4 in the clothes of IPv6.
fn address(text: &str) -> Result<IpAddr, EvalError> {
    let shown = || quote(text);
    if text.contains('%')
        && text.split('%').next().is_some_and(|head| head.parse::<Ipv6Addr>().is_ok())
    {
        return fail(format!("IP address {} with zone value is not allowed", shown()));
    }
    let Ok(address) = text.parse::<IpAddr>() else {
        let why = format!("ParseAddr({}): unable to parse IP", shown());
        return fail(format!(
            "IP Address {} parse error during conversion from string: {why}",
            shown()
        ));
    };
    if is_mapped(address) {
        return fail(format!("IPv4-mapped IPv6 address {} is not allowed", shown()));
    }
    Ok(address)
}

fn is_mapped(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(six) if six.to_ipv4_mapped().is_some())
}

fn is_link_local_multicast(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(four) => matches!(four.octets(), [224, 0, 0, _]),
        IpAddr::V6(six) => six.segments()[0] & 0xff0f == 0xff02,
    }
}

fn is_link_local_unicast(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(four) => four.is_link_local(),
        IpAddr::V6(six) => six.segments()[0] & 0xffc0 == 0xfe80,
    }
}

fn is_global_unicast(address: &IpAddr) -> bool {
    *address != IpAddr::V4(Ipv4Addr::BROADCAST)
        && !address.is_unspecified()
        && !address.is_loopback()
        && !address.is_multicast()
        && !is_link_local_unicast(address)
}

/// An address and the length of its network's prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    pub(super) address: IpAddr,
    pub(in crate::cel) length: u8,
}

impl Cidr {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let bad = |why: &str| {
            format!(
                "network address parse error during conversion from string: netip.ParsePrefix({}): {why}",
                quote(text)
            )
        };
        let Some((address, length)) = text.rsplit_once('/') else { return Err(bad("no '/'")) };
        let Ok(address) = address.parse::<IpAddr>() else {
            return Err(bad(&format!("ParseAddr({}): unable to parse IP", quote(address))));
        };
        let plain = !length.is_empty()
            && length.bytes().all(|one| one.is_ascii_digit())
            && (length == "0" || !length.starts_with('0'));
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let parsed = if plain { length.parse::<u8>().ok() } else { None };
        let Some(length) = parsed.filter(|length| *length <= bits) else {
            let why = if plain { "prefix length out of range" } else { "bad bits after slash: " };
            let shown = if plain { String::new() } else { quote(length) };
            return Err(bad(&format!("{why}{shown}")));
        };
        if is_mapped(address) {
            return Err(format!("IPv4-mapped IPv6 address {} is not allowed", quote(text)));
        }
        Ok(Self { address, length })
    }

    fn network(self, address: IpAddr) -> u128 {
        let (value, bits) = match address {
            IpAddr::V4(four) => (u128::from(four.to_bits()), 32),
            IpAddr::V6(six) => (six.to_bits(), 128),
        };
        value.checked_shr(u32::from(bits - self.length)).unwrap_or(0)
    }

    pub(super) fn contains(self, other: IpAddr) -> bool {
        self.address.is_ipv4() == other.is_ipv4()
            && self.network(self.address) == self.network(other)
    }

    fn covers(self, other: Self) -> bool {
        self.length <= other.length && self.contains(other.address)
    }

    fn masked(self) -> Self {
        let network = self.network(self.address);
        let address = match self.address {
            IpAddr::V4(_) => {
                let value = network.checked_shl(u32::from(32 - self.length)).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from_bits(u32::try_from(value).unwrap_or(0)))
            }
            IpAddr::V6(_) => {
                let value = network.checked_shl(u32::from(128 - self.length)).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(value))
            }
        };
        Self { address, length: self.length }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.address, self.length)
    }
}
