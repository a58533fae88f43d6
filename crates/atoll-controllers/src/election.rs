//! Who runs what only one may run: the holder of a Lease, as client-go's leader election has it.
//!
//! Surroundings say who may hold the Lease at all and whose hold is void; the record in the API
//! makes sure that two never do at once, and that another program that elects by the same Lease
//! is respected. Renewals are rare, for each is a write: what moves a Lease within seconds is not
//! its age but [`Surroundings::is_gone`].

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{Api, Client, api::PostParams};
use std::{sync::Arc, time::Duration};
use tokio::{sync::watch, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, info, warn};

/// A record that did not change for this long is nobody's, whoever it names.
const LEASE_SECONDS: i32 = 1800;
/// Each renewal is a write to the disks of all servers. It comes when nodes renew theirs, so that
/// it costs little besides.
const RENEW_EVERY: Duration = Duration::from_secs(600);
/// Between two attempts to take or to renew. Nobody but the one who may hold it tries.
const RETRY: Duration = Duration::from_millis(100);
/// How long giving the Lease back may take when this process ends.
const RELEASE_MAX: Duration = Duration::from_secs(1);
const NAMESPACE: &str = "kube-system";

/// What is known outside of the Lease.
#[derive(Clone)]
pub struct Surroundings {
    /// Whether this process may hold Leases at all; when that ends, so does its hold.
    pub may_hold: watch::Receiver<bool>,
    /// Whether the holder of this identity is known to be gone.
    pub is_gone: Arc<dyn Fn(&str) -> bool + Send + Sync>,
}

/// One Lease, and who wants it.
#[derive(Clone)]
pub struct Candidate {
    /// Acts as a user who may write the Lease.
    pub client: Client,
    /// `kube-controller-manager` or `kube-scheduler`.
    pub lease: &'static str,
    /// As client-go's: a name, `_`, and something unique.
    pub identity: String,
    pub surroundings: Surroundings,
}

/// What somebody else's record looked like, and since when.
type Observed = Option<(LeaseSpec, Instant)>;

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Take,
    /// Somebody else holds it.
    Wait,
}

impl Candidate {
    /// Runs `start` whenever and for as long as the Lease is held, until `stop`. What it starts
    /// on the tracker ends with the token, and has ended before the Lease is given back.
    pub async fn run<F>(self, stop: CancellationToken, start: F)
    where
        F: Fn(&TaskTracker, &CancellationToken) + Send,
    {
        let mut may_hold = self.surroundings.may_hold.clone();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                allowed = may_hold.wait_for(|allowed| *allowed) => if allowed.is_err() { return },
            }
            let taken = tokio::select! {
                () = stop.cancelled() => return,
                taken = self.take() => taken,
            };
            let Some(lease) = taken else { continue };
            info!(lease = self.lease, identity = %self.identity, "holds the lease");
            let (tracker, token) = (TaskTracker::new(), stop.child_token());
            start(&tracker, &token);
            tokio::select! {
                () = stop.cancelled() => {}
                () = self.hold(lease) => {}
            }
            token.cancel();
            tracker.close();
            tracker.wait().await;
            info!(lease = self.lease, "no longer holds the lease");
            self.release().await;
            if stop.is_cancelled() {
                return;
            }
        }
    }

    fn api(&self) -> Api<Lease> {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    fn may_hold(&self) -> bool {
        *self.surroundings.may_hold.borrow()
    }

    /// Tries until it has the Lease; `None` when it may no longer.
    async fn take(&self) -> Option<Lease> {
        let mut observed: Observed = None;
        while self.may_hold() {
            match self.try_take(&mut observed).await {
                Ok(Some(lease)) => return Some(lease),
                Ok(None) => {}
                Err(error) => debug!(lease = self.lease, %error, "lease not taken; will retry"),
            }
            tokio::time::sleep(RETRY).await;
        }
        None
    }

    async fn try_take(&self, observed: &mut Observed) -> Result<Option<Lease>, kube::Error> {
        let api = self.api();
        let Some(current) = api.get_opt(self.lease).await? else {
            let metadata =
                ObjectMeta { name: Some(self.lease.to_owned()), ..ObjectMeta::default() };
            let lease = Lease { metadata, spec: Some(self.spec(None)) };
            return won(api.create(&PostParams::default(), &lease).await);
        };
        let spec = current.spec.clone().unwrap_or_default();
        let is_gone = |holder: &str| (self.surroundings.is_gone)(holder);
        if judge(&spec, &self.identity, is_gone, observed, Instant::now()) == Verdict::Wait {
            return Ok(None);
        }
        let lease = Lease { spec: Some(self.spec(Some(&spec))), ..current };
        // Its resourceVersion guards against another that takes it at the same moment.
        won(api.replace(self.lease, &PostParams::default(), &lease).await)
    }

    /// The record with this holder.
    fn spec(&self, former: Option<&LeaseSpec>) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        let is_ours = former.is_some_and(|former| {
            former.holder_identity.as_deref() == Some(self.identity.as_str())
        });
        let transitions = former.and_then(|former| former.lease_transitions).unwrap_or(0);
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: Some(LEASE_SECONDS),
            acquire_time: former
                .filter(|_| is_ours)
                .and_then(|former| former.acquire_time.clone())
                .or_else(|| Some(now.clone())),
            renew_time: Some(now),
            lease_transitions: Some(match former {
                Some(_) if !is_ours => transitions.saturating_add(1),
                _ => transitions,
            }),
            ..LeaseSpec::default()
        }
    }

    /// Until it may no longer, or somebody else has it.
    async fn hold(&self, mut lease: Lease) {
        let mut may_hold = self.surroundings.may_hold.clone();
        let mut renewed = Instant::now();
        let mut next = until_next_renewal(Timestamp::now());
        loop {
            tokio::select! {
                _ = may_hold.wait_for(|allowed| !*allowed) => return,
                () = tokio::time::sleep(next) => {}
            }
            next = RETRY;
            let spec = lease.spec.clone().unwrap_or_default();
            let again = Lease { spec: Some(self.spec(Some(&spec))), ..lease.clone() };
            match self.api().replace(self.lease, &PostParams::default(), &again).await {
                Ok(written) => {
                    lease = written;
                    renewed = Instant::now();
                    next = until_next_renewal(Timestamp::now());
                }
                Err(error) => {
                    debug!(lease = self.lease, %error, "lease not renewed");
                    match self.api().get_opt(self.lease).await {
                        Ok(Some(current)) if holder(&current) == Some(self.identity.as_str()) => {
                            lease = current;
                        }
                        Ok(_) => {
                            warn!(lease = self.lease, "somebody else has taken the lease");
                            return;
                        }
                        Err(_) if renewed.elapsed() > longest() => return,
                        Err(_) => {}
                    }
                }
            }
        }
    }

    /// Lets another take it at once.
    async fn release(&self) {
        let released = async {
            let api = self.api();
            let Some(mut lease) = api.get_opt(self.lease).await? else { return Ok(()) };
            if holder(&lease) != Some(self.identity.as_str()) {
                return Ok(());
            }
            let spec = lease.spec.get_or_insert_default();
            spec.holder_identity = Some(String::new());
            spec.lease_duration_seconds = Some(1);
            spec.renew_time = Some(MicroTime(Timestamp::now()));
            api.replace(self.lease, &PostParams::default(), &lease).await.map(drop)
        };
        match tokio::time::timeout(RELEASE_MAX, released).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => debug!(lease = self.lease, %error, "lease not given back"),
            Err(_elapsed) => debug!(lease = self.lease, "lease not given back in time"),
        }
    }
}

/// The clock of this machine says when all renew.
fn until_next_renewal(now: Timestamp) -> Duration {
    let since = now.as_second().unsigned_abs() % RENEW_EVERY.as_secs();
    RENEW_EVERY.saturating_sub(Duration::from_secs(since))
}

fn longest() -> Duration {
    Duration::from_secs(LEASE_SECONDS.unsigned_abs().into()).saturating_sub(RENEW_EVERY / 2)
}

fn holder(lease: &Lease) -> Option<&str> {
    lease.spec.as_ref()?.holder_identity.as_deref()
}

/// Two writers of one record: the one whose write was refused has not won.
fn won(written: Result<Lease, kube::Error>) -> Result<Option<Lease>, kube::Error> {
    match written {
        Ok(lease) => Ok(Some(lease)),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether the record leaves the Lease to us. Its age is measured by our own clock, from when we
/// first saw it: the holder's clock may be wrong.
fn judge(
    spec: &LeaseSpec,
    identity: &str,
    is_gone: impl Fn(&str) -> bool,
    observed: &mut Observed,
    now: Instant,
) -> Verdict {
    let holder = spec.holder_identity.as_deref().unwrap_or_default();
    if holder.is_empty() || holder == identity || is_gone(holder) {
        return Verdict::Take;
    }
    match observed {
        Some((seen, since)) if seen == spec => {
            let life = spec.lease_duration_seconds.unwrap_or(LEASE_SECONDS);
            let life = SignedDuration::from_secs(i64::from(life.max(1))).unsigned_abs();
            if now.duration_since(*since) >= life { Verdict::Take } else { Verdict::Wait }
        }
        _ => {
            *observed = Some((spec.clone(), now));
            Verdict::Wait
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held_by(holder: &str, seconds: i32) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_duration_seconds: Some(seconds),
            ..LeaseSpec::default()
        }
    }

    #[test]
    fn a_lease_is_taken_from_nobody_from_the_gone_and_from_the_silent() {
        let now = Instant::now();
        let nobody = |_: &str| false;
        let mut observed = None;
        assert_eq!(judge(&held_by("", 1), "me", nobody, &mut observed, now), Verdict::Take);
        assert_eq!(judge(&held_by("me", 1), "me", nobody, &mut observed, now), Verdict::Take);
        let gone = |holder: &str| holder == "dead_1";
        assert_eq!(judge(&held_by("dead_1", 9), "me", gone, &mut observed, now), Verdict::Take);

        let other = held_by("other_1", 15);
        let at = |seconds| now + Duration::from_secs(seconds);
        assert_eq!(judge(&other, "me", gone, &mut observed, now), Verdict::Wait);
        assert_eq!(judge(&other, "me", gone, &mut observed, at(14)), Verdict::Wait);
        assert_eq!(judge(&other, "me", gone, &mut observed, at(15)), Verdict::Take);
        let renewed = LeaseSpec { lease_transitions: Some(1), ..other };
        assert_eq!(judge(&renewed, "me", gone, &mut observed, at(15)), Verdict::Wait);
        assert_eq!(judge(&renewed, "me", gone, &mut observed, at(29)), Verdict::Wait);
    }
}
