//! Leases in an etcd that others use too.
//!
//! A lease belongs to nobody in etcd. Ours are known by the upper half of their ids, which
//! derives from the keyspace; one whose id a client chose has a key of ours that goes with it.
//! Leases of others are never shown, kept alive or revoked.

use atoll_store::kv::{Error, LeaseId, LeaseInfo, Result};
use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use super::caller::{
    Caller, LEASE_GRANT, LEASE_KEEP_ALIVE, LEASE_LEASES, LEASE_REVOKE, LEASE_TIME_TO_LIVE, RANGE,
    TXN,
};
use super::prefix::Prefix;
use super::verdict::{Effect, Failure, Subject};
use crate::proto::etcdserverpb as pb;

/// Ids are random in their lower half; so many in a row are never all taken.
const ATTEMPTS_MAX: usize = 8;

#[derive(Debug)]
pub(super) struct Leases {
    /// The upper half of the ids that we choose.
    tag: i64,
    /// Where a key stands for each lease whose id a client chose.
    chosen: Prefix,
}

impl Leases {
    pub(super) fn new(keyspace: &Prefix, chosen: Prefix) -> Self {
        let digest = Sha256::digest(keyspace.start());
        let tag = digest.iter().take(4).fold(0_i64, |tag, byte| (tag << 8) | i64::from(*byte));
        // Neither negative nor zero.
        Self { tag: (tag & 0x7fff_ffff) | 0x4000_0000, chosen }
    }

    fn is_tagged(&self, id: LeaseId) -> bool {
        id >> 32 == self.tag
    }

    fn key_of(&self, id: LeaseId) -> Bytes {
        self.chosen.add(format!("{:016x}", id.cast_unsigned()).as_bytes())
    }

    async fn is_ours(&self, caller: &Caller, id: LeaseId) -> Result<bool> {
        if self.is_tagged(id) {
            return Ok(true);
        }
        let request = pb::RangeRequest {
            key: self.key_of(id),
            count_only: true,
            ..pb::RangeRequest::default()
        };
        let answer: pb::RangeResponse = ask(caller, Effect::Repeatable, RANGE, request, id).await?;
        Ok(answer.count > 0)
    }

    async fn require(&self, caller: &Caller, id: LeaseId) -> Result<()> {
        if self.is_ours(caller, id).await? { Ok(()) } else { Err(Error::LeaseNotFound { id }) }
    }

    pub(super) async fn grant(
        &self,
        caller: &Caller,
        id: LeaseId,
        ttl: i64,
    ) -> Result<(LeaseId, i64)> {
        if id != 0 {
            return self.grant_chosen(caller, id, ttl).await;
        }
        let mut taken = 0;
        for _ in 0..ATTEMPTS_MAX {
            let id = (self.tag << 32) | i64::from(rand::random::<u32>());
            match self.grant_one(caller, id, ttl).await {
                Err(failure) if failure.is_lease_exists() => taken = id,
                granted => {
                    return granted.map_err(|failure| failure.into_error(&subject(id, ttl), None));
                }
            }
        }
        Err(Error::LeaseExists { id: taken })
    }

    async fn grant_one(
        &self,
        caller: &Caller,
        id: LeaseId,
        ttl: i64,
    ) -> std::result::Result<(LeaseId, i64), Failure> {
        let request = pb::LeaseGrantRequest { ttl, id };
        let answer: pb::LeaseGrantResponse =
            caller.call(Effect::Once, LEASE_GRANT, request).await?;
        Ok((answer.id, answer.ttl))
    }

    async fn grant_chosen(&self, caller: &Caller, id: LeaseId, ttl: i64) -> Result<(LeaseId, i64)> {
        let granted = self.grant_one(caller, id, ttl).await;
        let granted = granted.map_err(|failure| failure.into_error(&subject(id, ttl), None))?;
        if self.is_tagged(id) {
            return Ok(granted);
        }
        let put = pb::PutRequest { key: self.key_of(id), lease: id, ..pb::PutRequest::default() };
        let put = pb::request_op::Request::RequestPut(put);
        let request = pb::TxnRequest {
            success: vec![pb::RequestOp { request: Some(put) }],
            ..pb::TxnRequest::default()
        };
        // The same key and lease however often it is written.
        let marked: Result<pb::TxnResponse> =
            ask(caller, Effect::Repeatable, TXN, request, id).await;
        match marked {
            Ok(_) => Ok(granted),
            Err(error) => {
                // It would be nobody's until it expires.
                let revoke = pb::LeaseRevokeRequest { id };
                let revoked: std::result::Result<pb::LeaseRevokeResponse, _> =
                    caller.call(Effect::Once, LEASE_REVOKE, revoke).await;
                if revoked.is_err() {
                    tracing::warn!(id, "a lease was granted that stays unused until it expires");
                }
                Err(error)
            }
        }
    }

    pub(super) async fn keep_alive(&self, caller: &Caller, id: LeaseId) -> Result<i64> {
        self.require(caller, id).await?;
        let request = pb::LeaseKeepAliveRequest { id };
        let answer: pb::LeaseKeepAliveResponse =
            ask(caller, Effect::Repeatable, LEASE_KEEP_ALIVE, request, id).await?;
        // There is no error in a stream; zero says that it is gone.
        if answer.ttl > 0 { Ok(answer.ttl) } else { Err(Error::LeaseNotFound { id }) }
    }

    pub(super) async fn revoke(&self, caller: &Caller, id: LeaseId) -> Result<()> {
        self.require(caller, id).await?;
        let request = pb::LeaseRevokeRequest { id };
        let _revoked: pb::LeaseRevokeResponse =
            ask(caller, Effect::Once, LEASE_REVOKE, request, id).await?;
        Ok(())
    }

    pub(super) async fn info(
        &self,
        caller: &Caller,
        keyspace: &Prefix,
        id: LeaseId,
    ) -> Result<LeaseInfo> {
        self.require(caller, id).await?;
        let request = pb::LeaseTimeToLiveRequest { id, keys: true };
        let answer: pb::LeaseTimeToLiveResponse =
            ask(caller, Effect::Repeatable, LEASE_TIME_TO_LIVE, request, id).await?;
        if answer.granted_ttl == 0 {
            return Err(Error::LeaseNotFound { id });
        }
        let mut keys: Vec<Bytes> =
            answer.keys.iter().filter_map(|key| keyspace.strip(key)).collect();
        keys.sort_unstable();
        Ok(LeaseInfo { id, ttl: answer.granted_ttl, remaining: answer.ttl, keys })
    }

    pub(super) async fn all(&self, caller: &Caller) -> Result<Vec<LeaseId>> {
        let answer: pb::LeaseLeasesResponse =
            ask(caller, Effect::Repeatable, LEASE_LEASES, pb::LeaseLeasesRequest {}, 0).await?;
        let request = pb::RangeRequest {
            key: self.chosen.start().clone(),
            range_end: self.chosen.end().clone(),
            keys_only: true,
            ..pb::RangeRequest::default()
        };
        let chosen: pb::RangeResponse = ask(caller, Effect::Repeatable, RANGE, request, 0).await?;
        let chosen: std::collections::BTreeSet<LeaseId> =
            chosen.kvs.into_iter().map(|kv| kv.lease).collect();
        let mut ids: Vec<LeaseId> = answer.leases.into_iter().map(|lease| lease.id).collect();
        ids.retain(|id| self.is_tagged(*id) || chosen.contains(id));
        Ok(ids)
    }
}

fn subject(lease: LeaseId, ttl: i64) -> Subject {
    Subject { lease, ttl, ..Subject::default() }
}

async fn ask<Q, A>(
    caller: &Caller,
    effect: Effect,
    path: &'static str,
    request: Q,
    id: LeaseId,
) -> Result<A>
where
    Q: prost::Message + Clone + 'static,
    A: super::caller::Answer,
{
    let answer = caller.call(effect, path, request).await;
    answer.map_err(|failure| failure.into_error(&subject(id, 0), None))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_two_keyspaces_differ_and_are_positive() {
        let leases = |name: &str| Leases::new(&Prefix::new(name.to_owned()), Prefix::new("/l/"));
        let (one, other) = (leases("/atoll/a/cluster/"), leases("/atoll/b/cluster/"));
        let id = (one.tag << 32) | 7;
        assert!(id > 0 && one.is_tagged(id));
        assert!(!other.is_tagged(id));
        assert_eq!(one.key_of(255), "/l/00000000000000ff");
    }
}
