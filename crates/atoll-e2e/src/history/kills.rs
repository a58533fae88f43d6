//! Kills under load, and how long writes then stand still.

use super::{record::Shared, report::Report, servers::Servers};
use rand::{Rng as _, rngs::StdRng};
use std::time::{Duration, Instant};
use tokio::time::sleep;

const LEADER_MAX: Duration = Duration::from_secs(30);
const WRITES_MAX: Duration = Duration::from_secs(60);
const BACK_MAX: Duration = Duration::from_secs(120);
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// The leader is killed, and another with it if there are to be two; then they are back.
pub(super) async fn kill(
    servers: &mut Servers,
    shared: &Shared,
    random: &mut StdRng,
    with_another: bool,
    report: &mut Report,
) {
    sleep(Duration::from_millis(random.random_range(100..600))).await;
    let Some(leader) = servers.leader(LEADER_MAX).await else {
        report.violations.push(format!("no server leads within {LEADER_MAX:?}"));
        return;
    };
    let mut victims = vec![leader];
    if with_another {
        let count = servers.count();
        victims.push((leader + random.random_range(1..count)) % count);
    }
    let killed_at = shared.expect_write();
    for victim in &victims {
        servers.all[*victim].kill();
    }
    report.happened(if with_another { "kill-two" } else { "kill-leader" });
    let begun = Instant::now();
    while shared.next_write().is_none() && begun.elapsed() < WRITES_MAX {
        sleep(LOOK_AGAIN).await;
    }
    match shared.next_write() {
        Some(at) => report.pauses_ms.push((at - killed_at) / 1_000_000),
        None => report.violations.push(format!("no write within {WRITES_MAX:?} of a kill")),
    }
    for victim in &victims {
        servers.restart(*victim);
    }
    for victim in victims {
        servers.serves(victim, BACK_MAX).await;
    }
}
