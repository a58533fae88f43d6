//! A disk whose syncs take longer: under a follower, and under the leader.

use super::{
    record::Shared,
    report::Report,
    servers::{SLOW, Servers},
};
use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};
use tokio::time::sleep;

const SYNC_MS: u64 = 200;
const MEASURED_FOR: Duration = Duration::from_secs(4);
const SETTLED_AFTER: Duration = Duration::from_secs(1);
/// The bar is 5 s.
const MOVES_MAX: Duration = Duration::from_secs(60);
const LEADER_MAX: Duration = Duration::from_secs(30);

/// Whose disk is slow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Under {
    Follower,
    Leader,
}

/// Once without and once with it.
pub(super) async fn measure(
    servers: &mut Servers,
    shared: &Shared,
    under: Under,
    report: &mut Report,
) {
    let wanted = if under == Under::Leader { SLOW } else { 0 };
    if !lead(servers, wanted).await {
        report.violations.push(format!("server {wanted} could not be made to lead"));
        return;
    }
    report.happened("slow-disk");
    match under {
        Under::Follower => follower(servers, shared, report).await,
        Under::Leader => leader(servers, report).await,
    }
    servers.disk().take(0);
}

/// Until this one leads.
async fn lead(servers: &mut Servers, wanted: usize) -> bool {
    let start = Instant::now();
    while start.elapsed() < LEADER_MAX {
        match servers.leader(LEADER_MAX).await {
            Some(leader) if leader == wanted => {
                sleep(SETTLED_AFTER).await;
                return true;
            }
            Some(leader) => {
                if let Some(id) = servers.link(wanted).member_id().await {
                    // Asked again if it does not come about.
                    servers.link(leader).move_leader(id).await.ok();
                }
            }
            None => return false,
        }
        sleep(Duration::from_millis(200)).await;
    }
    false
}

async fn follower(servers: &mut Servers, shared: &Shared, report: &mut Report) {
    shared.shunned.store(SLOW, Ordering::Relaxed);
    let healthy = p50(shared).await;
    servers.disk().take(SYNC_MS);
    sleep(SETTLED_AFTER).await;
    let slow = p50(shared).await;
    shared.shunned.store(usize::MAX, Ordering::Relaxed);
    let stays = servers.leader(LEADER_MAX).await == Some(0);
    let ratio = slow.as_secs_f64() / healthy.as_secs_f64();
    report.measured.push(format!(
        "a follower's syncs take {SYNC_MS} ms longer: writes by the other servers p50 {slow:?}, \
         without {healthy:?}: {ratio:.2}; the leader stays: {stays}"
    ));
}

async fn p50(shared: &Shared) -> Duration {
    shared.measure();
    sleep(MEASURED_FOR).await;
    let mut took = shared.measured();
    took.sort_unstable();
    Duration::from_nanos(took.get(took.len() / 2).copied().unwrap_or(0))
}

async fn leader(servers: &mut Servers, report: &mut Report) {
    servers.disk().take(SYNC_MS);
    let begun = Instant::now();
    loop {
        match servers.leader(LEADER_MAX).await {
            Some(leader) if leader != SLOW => break,
            _ if begun.elapsed() > MOVES_MAX => {
                report.measured.push(format!("leadership stays for {MOVES_MAX:?} on a slow disk"));
                return;
            }
            _ => sleep(Duration::from_millis(20)).await,
        }
    }
    report.measured.push(format!(
        "the leader's syncs take {SYNC_MS} ms longer: another leads after {} ms",
        begun.elapsed().as_millis()
    ));
}
