//! A member of the store's cluster, as its certificate names it.
//!
//! The name is a URI, `atoll://<cluster id>/member/<member id>`, both in hex: an address may
//! change, and a node's name may be given again, but a member's id never is.

use jiff::SignedDuration;

use crate::authority::hex;
use crate::leaf::{Leaf, Usage};
use crate::peer::PeerIdentity;

const SCHEME: &str = "atoll://";
const MEMBER: &str = "/member/";

/// Which member of which cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MemberIdentity {
    pub cluster_id: [u8; 16],
    /// Never zero.
    pub member_id: u64,
}

/// A certificate that names no member.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MemberError {
    #[error(
        "the certificate of {subject:?} names no member of a store; it was made for something else"
    )]
    NoMember { subject: String },
    #[error("the certificate of {subject:?} names {count} members of a store; it must name one")]
    SeveralMembers { subject: String, count: usize },
    #[error("{uri:?} does not name a member: it must read atoll://CLUSTER/member/ID, in hex")]
    BadUri { uri: String },
}

impl MemberIdentity {
    #[must_use]
    pub fn uri(&self) -> String {
        format!("{SCHEME}{}{MEMBER}{:x}", hex(&self.cluster_id), self.member_id)
    }

    /// Takes only what [`Self::uri`] writes: one member has one name.
    pub fn parse(uri: &str) -> Result<Self, MemberError> {
        let parsed = uri.strip_prefix(SCHEME).and_then(|rest| rest.split_once(MEMBER)).and_then(
            |(cluster, member)| {
                let member_id = u64::from_str_radix(member, 16).ok().filter(|id| *id != 0)?;
                Some(Self { cluster_id: cluster_bytes(cluster)?, member_id })
            },
        );
        match parsed {
            Some(identity) if identity.uri() == uri => Ok(identity),
            _ => Err(MemberError::BadUri { uri: uri.to_owned() }),
        }
    }

    /// The one member that a verified certificate names.
    pub fn of(certificate: &PeerIdentity) -> Result<Self, MemberError> {
        let subject = || certificate.common_name.clone();
        let mut uris = certificate.uris.iter().filter(|uri| uri.starts_with(SCHEME));
        let Some(first) = uris.next() else {
            return Err(MemberError::NoMember { subject: subject() });
        };
        match uris.count() {
            0 => Self::parse(first),
            more => Err(MemberError::SeveralMembers { subject: subject(), count: more + 1 }),
        }
    }
}

impl Leaf {
    /// A member of the store's cluster: it dials and accepts with the same certificate. To be
    /// signed by the authority of [`AuthorityKind::Peer`](crate::AuthorityKind::Peer).
    #[must_use]
    pub fn member(identity: MemberIdentity, life: SignedDuration) -> Self {
        Self {
            common_name: format!("member {:x}", identity.member_id),
            organizations: Vec::new(),
            dns: Vec::new(),
            ips: Vec::new(),
            uris: vec![identity.uri()],
            usage: Usage::ClientAndServer,
            life,
        }
    }
}

fn cluster_bytes(text: &str) -> Option<[u8; 16]> {
    let mut bytes = [0; 16];
    if text.len() != 32 || !text.is_ascii() {
        return None;
    }
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(at * 2..at * 2 + 2)?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::authority::{Authority, AuthorityKind};

    const ONE: MemberIdentity = MemberIdentity { cluster_id: [0xab; 16], member_id: 0x1f };

    fn certificate(leaf: &Leaf) -> PeerIdentity {
        let now: Timestamp = "2026-11-25T16:00:00Z".parse().unwrap();
        let authority = Authority::create(AuthorityKind::Peer, "c", now).unwrap();
        PeerIdentity::from_pem(&authority.issue(leaf, now).unwrap().certificate_pem).unwrap()
    }

    #[test]
    fn a_member_is_read_back_from_its_certificate() {
        let leaf = Leaf::member(ONE, SignedDuration::from_hours(1));
        assert_eq!(MemberIdentity::of(&certificate(&leaf)), Ok(ONE));
        assert_eq!(ONE.uri(), format!("atoll://{}/member/1f", "ab".repeat(16)));
    }

    #[test]
    fn one_member_has_one_name() {
        let cluster = "ab".repeat(16);
        for bad in [
            format!("atoll://{cluster}/member/0"),
            format!("atoll://{cluster}/member/01f"),
            format!("atoll://{cluster}/member/+1f"),
            format!("atoll://{cluster}/member/1F"),
            format!("atoll://{}/member/1f", cluster.to_uppercase()),
            format!("atoll://{cluster}ab/member/1f"),
            format!("atoll://{cluster}/member/1f/"),
            format!("atoll://{}/member/1f", "é".repeat(16)),
            "atoll://member/1f".to_owned(),
            "https://example.org".to_owned(),
        ] {
            let refused = MemberIdentity::parse(&bad);
            assert_eq!(refused, Err(MemberError::BadUri { uri: bad.clone() }), "{bad}");
        }
        assert_eq!(MemberIdentity::parse(&ONE.uri()), Ok(ONE));
    }

    #[test]
    fn a_certificate_for_something_else_or_for_two_is_refused() {
        let hour = SignedDuration::from_hours(1);
        let client = certificate(&Leaf::client("jane", &[], hour));
        let refused = MemberIdentity::of(&client).unwrap_err();
        assert_eq!(refused, MemberError::NoMember { subject: "jane".to_owned() });
        let mut leaf = Leaf::member(ONE, hour);
        leaf.uris.push(MemberIdentity { member_id: 2, ..ONE }.uri());
        let refused = MemberIdentity::of(&certificate(&leaf)).unwrap_err();
        assert!(matches!(refused, MemberError::SeveralMembers { count: 2, .. }), "{refused}");
    }
}
