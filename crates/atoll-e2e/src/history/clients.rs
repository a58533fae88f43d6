//! Clients that read and write at random, and holders of leases.

use super::{convert::LARGE, link::Link, record::Shared};
use atoll_history::{Ask, Call, How, Outcome, Range};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::time::sleep;

/// Few, so that clients meet.
const KEYS: u32 = 12;
/// After a refusal.
const AGAIN: Duration = Duration::from_millis(20);
const KEEP_ALIVE_EVERY: Duration = Duration::from_millis(700);
const SECOND: u64 = 1_000_000_000;

pub(super) struct Client {
    number: u64,
    random: StdRng,
    shared: Arc<Shared>,
    links: Vec<Link>,
    written: u64,
    /// A key, when it was last changed, and the highest revision that it was told.
    seen: (String, i64),
    told: i64,
    /// The longest time between two calls.
    think_ms: u64,
}

fn links(shared: &Shared) -> Vec<Link> {
    shared.places.iter().map(|place| Link::new(place.clone())).collect()
}

impl Client {
    pub(super) fn new(number: u64, seed: u64, shared: Arc<Shared>, think_ms: u64) -> Self {
        Self {
            number,
            random: StdRng::seed_from_u64(seed ^ (number << 32)),
            links: links(&shared),
            shared,
            written: 0,
            seen: (key(0), 0),
            told: 1,
            think_ms,
        }
    }

    pub(super) async fn run(mut self) {
        let shared = self.shared.clone();
        while !shared.stop.is_cancelled() {
            let turn = shared.gate.read().await;
            let outcome = self.call().await;
            drop(turn);
            let think = Duration::from_millis(self.random.random_range(0..=self.think_ms));
            sleep(if outcome == Outcome::Refused { AGAIN } else { think }).await;
        }
    }

    /// Mostly on a server of its own.
    fn server(&mut self) -> usize {
        let count = self.links.len();
        let own = usize::try_from(self.number).unwrap() % count;
        let server =
            if self.random.random_bool(0.2) { self.random.random_range(0..count) } else { own };
        let is_shunned = server == self.shared.shunned.load(Ordering::Relaxed);
        if is_shunned { (server + 1) % count } else { server }
    }

    async fn call(&mut self) -> Outcome {
        let server = self.server();
        let ask = self.draw();
        let asked_at = self.shared.now();
        let outcome = self.links[server].carry_out(&self.sent(&ask), 0).await;
        self.remember(&outcome);
        record(&self.shared, asked_at, ask, outcome.clone());
        outcome
    }

    /// A planted bug: stale reads that pass for fresh ones.
    fn sent(&self, ask: &Ask) -> Ask {
        match ask {
            Ask::Read { range, how: How::Fresh } if self.shared.is_lying => {
                Ask::Read { range: range.clone(), how: How::Stale }
            }
            other => other.clone(),
        }
    }

    fn remember(&mut self, outcome: &Outcome) {
        self.told = self.told.max(outcome.revision().unwrap_or(0));
        if let Outcome::Found { found, .. } = outcome
            && let Some(found) = found.choose(&mut self.random)
        {
            self.seen = (found.key.clone(), found.changed_at);
        }
    }

    fn draw(&mut self) -> Ask {
        self.written += 1;
        let value = format!("{}.{}", self.number, self.written);
        let key = key(self.random.random_range(0..KEYS));
        if self.shared.large.load(Ordering::Relaxed) && self.random.random_bool(0.3) {
            let puts = vec![(format!("large{}", self.number % 3), format!("{LARGE}{value}"))];
            return Ask::Write { guard: None, puts, delete: None };
        }
        match self.random.random_range(0..12) {
            0..4 => Ask::Write { guard: None, puts: vec![(key, value)], delete: None },
            4 => {
                let puts = (0..KEYS).step_by(3).map(|number| (self::key(number), value.clone()));
                Ask::Write { guard: None, puts: puts.collect(), delete: Some(self::key(1)) }
            }
            5 => Ask::Write { guard: None, puts: Vec::new(), delete: Some(key) },
            6 => {
                let puts = vec![(self.seen.0.clone(), value)];
                Ask::Write { guard: Some(self.seen.clone()), puts, delete: None }
            }
            7 => Ask::Read { range: Range::Prefix("key".to_owned()), how: How::Fresh },
            8 => Ask::Read { range: Range::Prefix("key".to_owned()), how: How::Stale },
            9 => {
                let base = self.shared.base.load(Ordering::Relaxed);
                let at = self.random.random_range(base..=self.told.max(base));
                Ask::Read { range: Range::Prefix("key".to_owned()), how: How::At(at) }
            }
            _ => Ask::Read { range: Range::Key(key), how: How::Fresh },
        }
    }
}

fn key(number: u32) -> String {
    format!("key{number}")
}

fn record(shared: &Shared, asked_at: u64, ask: Ask, outcome: Outcome) {
    let answered_at = match outcome {
        Outcome::Unknown => u64::MAX,
        _ => shared.now(),
    };
    let is_acknowledged = matches!(outcome, Outcome::Written { .. });
    shared.called(Call { asked_at, answered_at, ask, outcome }, is_acknowledged);
}

/// Keeps one lease after the other alive for a while, with a key or two on each.
pub(super) async fn hold_leases(number: u64, seed: u64, shared: Arc<Shared>) {
    let mut random = StdRng::seed_from_u64(seed ^ (number << 40));
    let links = links(&shared);
    let mut turn = 0;
    while !shared.stop.is_cancelled() {
        let ttl = random.random_range(3..=8);
        let asked_at = shared.now();
        let Ok(id) = links.choose(&mut random).unwrap().grant(ttl).await else {
            sleep(AGAIN * 10).await;
            continue;
        };
        shared.lease(id, |lease| lease.alive_until = asked_at + ttl.unsigned_abs() * SECOND);
        for _ in 0..random.random_range(1..=2) {
            turn += 1;
            put_on(&shared, &links, &mut random, id, &format!("{number}/{turn}")).await;
        }
        keep_alive(&shared, &links, &mut random, id).await;
        if random.random_bool(0.3) {
            let now = shared.now();
            shared.lease(id, |lease| lease.revoked_at = Some(now));
            // It runs out in any case.
            links.choose(&mut random).unwrap().revoke(id).await.ok();
        }
    }
}

async fn put_on(shared: &Shared, links: &[Link], random: &mut StdRng, lease: i64, name: &str) {
    let key = format!("lease/{name}");
    shared.lease(lease, |lease| lease.keys.push(key.clone()));
    let ask = Ask::Write { guard: None, puts: vec![(key, format!("l{name}"))], delete: None };
    let _turn = shared.gate.read().await;
    let server = random.random_range(0..links.len());
    let asked_at = shared.now();
    let outcome = links[server].carry_out(&ask, lease).await;
    record(shared, asked_at, ask, outcome);
}

async fn keep_alive(shared: &Shared, links: &[Link], random: &mut StdRng, id: i64) {
    for _ in 0..random.random_range(1..20) {
        sleep(KEEP_ALIVE_EVERY).await;
        let asked_at = shared.now();
        match links.choose(random).unwrap().keep_alive(id).await {
            Ok(ttl) if ttl > 0 => shared.lease(id, |lease| {
                let until = asked_at + ttl.unsigned_abs() * SECOND;
                lease.alive_until = lease.alive_until.max(until);
            }),
            Ok(_gone) => return,
            // Another server may answer.
            Err(_) => {}
        }
        if shared.stop.is_cancelled() {
            return;
        }
    }
}
