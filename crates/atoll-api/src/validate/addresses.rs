//! ServiceCIDR and IPAddress: the networks of Services, and who holds which address.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::{IMMUTABLE, faults, immutable};
use crate::access::Access as _;
use crate::field::{Error, Path};
use crate::names;

/// One network of each family.
const CIDRS_MAX: usize = 2;

pub(crate) fn service_cidr(cidr: &Value) -> Vec<Error> {
    let mut errors = Vec::new();
    let (cidrs, at) = (cidr["spec"].items("cidrs"), Path::new("spec").child("cidrs"));
    if cidrs.is_empty() {
        errors.push(at.required("at least one CIDR required"));
        return errors;
    }
    if cidrs.len() > CIDRS_MAX {
        errors.push(at.invalid(cidr["spec"].clone(), "may only hold up to 2 values"));
        return errors;
    }
    let texts: Vec<&str> = cidrs.iter().map(|cidr| cidr.as_str().unwrap_or("")).collect();
    for (index, text) in texts.iter().enumerate() {
        faults(&at.index(index), text, canonical_cidr(text), &mut errors);
    }
    if let [Some(one), Some(other)] = texts.iter().map(|text| is_ipv6(text)).collect::<Vec<_>>()[..]
        && one == other
    {
        let text = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and \
                    2001:db8::/64";
        errors.push(at.invalid(json!(texts), text));
    }
    errors
}

pub(crate) fn service_cidr_update(new: &Value, old: &Value) -> Vec<Error> {
    let at = Path::new("spec").child("cidrs");
    let (now, before) = (new["spec"].items("cidrs"), old["spec"].items("cidrs"));
    let added = before.len() == 1 && now.len() == CIDRS_MAX;
    if now.len() != before.len() && !added {
        return vec![at.invalid(json!(now), IMMUTABLE)];
    }
    let changed = now.iter().zip(before).enumerate().filter(|(_, (now, before))| now != before);
    let mut errors: Vec<Error> =
        changed.map(|(index, (now, _))| at.index(index).invalid(now.clone(), IMMUTABLE)).collect();
    if added {
        errors.extend(service_cidr(new));
    }
    errors
}

pub(crate) fn ip_address(address: &Value) -> Vec<Error> {
    let mut errors = Vec::new();
    let at = Path::new("spec").child("parentRef");
    let parent = &address["spec"]["parentRef"];
    if parent.is_null() {
        errors.push(at.required(""));
        return errors;
    }
    let group = parent.text("group");
    if !group.is_empty() {
        faults(&at.child("group"), group, names::dns1123_subdomain(group), &mut errors);
    }
    for (field, required) in [("resource", true), ("name", true), ("namespace", false)] {
        let (at, value) = (at.child(field), parent.text(field));
        if !value.is_empty() {
            faults(&at, value, names::path_segment(value), &mut errors);
        } else if required {
            errors.push(at.required(""));
        }
    }
    errors
}

pub(crate) fn ip_address_update(new: &Value, old: &Value) -> Vec<Error> {
    let mut errors = Vec::new();
    let at = Path::new("spec").child("parentRef");
    immutable(&at, &new["spec"]["parentRef"], &old["spec"]["parentRef"], &mut errors);
    errors
}

fn is_ipv6(cidr: &str) -> Option<bool> {
    let (address, _) = cidr.split_once('/')?;
    address.parse::<IpAddr>().ok().map(|address| address.is_ipv6())
}

/// New fields take networks in the one way in which they are written.
fn canonical_cidr(text: &str) -> Vec<String> {
    let found = names::cidr(text);
    if !found.is_empty() {
        return found;
    }
    let Some((address, prefix)) = text.split_once('/') else { return Vec::new() };
    let (Ok(ip), Ok(bits)) = (address.parse::<IpAddr>(), prefix.parse::<u32>()) else {
        return Vec::new();
    };
    let network = match ip {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(u32::BITS - bits).unwrap_or(0);
            IpAddr::from((ip.to_bits() & mask).to_be_bytes())
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(u128::BITS - bits).unwrap_or(0);
            IpAddr::from((ip.to_bits() & mask).to_be_bytes())
        }
    };
    let canonical = format!("{network}/{bits}");
    if network != ip {
        return vec!["must not have bits set beyond the prefix length".to_owned()];
    }
    if canonical == text {
        Vec::new()
    } else {
        vec![format!("must be in canonical form ({canonical:?})")]
    }
}

/// An IPAddress is called after its address, in canonical form.
pub(crate) fn ip_name(name: &str, _: bool) -> Vec<String> {
    match name.parse::<IpAddr>() {
        Ok(ip) if ip.to_string() == name => Vec::new(),
        Ok(ip) => vec![format!("must be in canonical form ({:?})", ip.to_string())],
        Err(_) => names::ip(name),
    }
}
