//! What is done to the servers, one thing after the other, as the seed has it.

use super::{net::Way, servers::Servers};
use rand::{Rng as _, rngs::StdRng, seq::SliceRandom as _};
use rustix::process::Signal;
use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};
use tokio::time::sleep;

/// An election and what comes after it take less.
const LEADER_MAX: Duration = Duration::from_secs(30);

/// Large values are written meanwhile: more than a log keeps, which is 64 MiB.
const AWAY: Duration = Duration::from_secs(8);

macro_rules! faults {
    ($($name:ident: $text:literal, $what:literal;)*) => {
        /// One kind of fault.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Fault {
            $(#[doc = $what] $name,)*
        }

        impl Fault {
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// Its name on the command line.
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

faults! {
    KillLeader: "kill-leader", "kill -9 of the one that leads.";
    KillFollower: "kill-follower", "kill -9 of another.";
    KillAll: "kill-all", "kill -9 of every server at once.";
    Restart: "restart", "SIGTERM, and a start again.";
    Hang: "hang", "SIGSTOP for 0.1 to 10 s, of the leader every second time.";
    Cut: "cut", "A minority is cut off, both ways.";
    CutOneWay: "cut-one-way", "A server is not heard by the others, or does not hear them.";
    CutPair: "cut-pair", "Two servers do not reach each other; the others reach both.";
    Flap: "flap", "A server is cut off and not, in turns of 0.1 to 1 s.";
    Loss: "loss", "A server loses 2 to 20 % of its packets.";
    Delay: "delay", "A server is 20 to 200 ms away.";
    SlowDisk: "slow-disk", "A server's syncs take 50 to 500 ms.";
    FailSync: "fail-sync", "A server's syncs fail.";
    FullDisk: "full-disk", "A server's disk has no room.";
    Away: "away", "A server is cut off until the log of the others no longer reaches back to it.";
    Transfer: "transfer", "The leader is asked to let another lead.";
}

/// How long each fault lasts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Length {
    pub(super) ms_min: u64,
    pub(super) ms_max: u64,
}

impl Length {
    fn draw(self, random: &mut StdRng) -> Duration {
        Duration::from_millis(random.random_range(self.ms_min..=self.ms_max))
    }
}

/// Each once before any comes again.
pub(super) struct Deck {
    kinds: Vec<Fault>,
    left: Vec<Fault>,
}

impl Deck {
    pub(super) fn new(kinds: &[Fault]) -> Self {
        Self { kinds: kinds.to_vec(), left: Vec::new() }
    }

    pub(super) fn draw(&mut self, random: &mut StdRng) -> Fault {
        if self.left.is_empty() {
            self.left = self.kinds.clone();
            self.left.shuffle(random);
        }
        self.left.pop().unwrap()
    }

    pub(super) fn is_through(&self) -> bool {
        self.left.is_empty()
    }
}

/// Does it, waits, and makes it good. While `large` is set, large values are written.
pub(super) async fn inflict(
    fault: Fault,
    servers: &mut Servers,
    random: &mut StdRng,
    length: Length,
    large: &AtomicBool,
) {
    let time = length.draw(random);
    let any = random.random_range(0..servers.count());
    match fault {
        Fault::KillLeader | Fault::KillFollower | Fault::KillAll => {
            kill(fault, servers, random, time).await;
        }
        Fault::Restart => {
            servers.all[any].stop().await;
            sleep(time).await;
        }
        Fault::Hang => hang(servers, random, any).await,
        Fault::Transfer => transfer(servers, any, time).await,
        Fault::Away => {
            servers.net.cut(any, &others(servers, any), Way::Both);
            large.store(true, Ordering::Relaxed);
            sleep(AWAY).await;
            large.store(false, Ordering::Relaxed);
        }
        Fault::SlowDisk => {
            servers.disk().take(random.random_range(50..=500));
            sleep(time).await;
        }
        Fault::FailSync => {
            servers.disk().fail(true);
            sleep(time).await;
        }
        Fault::FullDisk => {
            servers.fill(true);
            sleep(time).await;
        }
        Fault::Flap => {
            for _ in 0..6 {
                servers.net.cut(any, &others(servers, any), Way::Both);
                sleep(Duration::from_millis(random.random_range(100..1000))).await;
                servers.net.heal();
                sleep(Duration::from_millis(random.random_range(100..1000))).await;
            }
        }
        _ => disconnect(fault, servers, random, any, time).await,
    }
    heal(servers);
}

async fn kill(fault: Fault, servers: &mut Servers, random: &mut StdRng, time: Duration) {
    let leader = servers.leader(LEADER_MAX).await.unwrap_or(0);
    let victims: Vec<usize> = match fault {
        Fault::KillLeader => vec![leader],
        Fault::KillAll => (0..servers.count()).collect(),
        _ => vec![(leader + random.random_range(1..servers.count())) % servers.count()],
    };
    for victim in victims {
        servers.all[victim].kill();
    }
    // After all have died, waiting is of no use.
    sleep(if fault == Fault::KillAll { Duration::from_millis(100) } else { time }).await;
}

async fn hang(servers: &mut Servers, random: &mut StdRng, any: usize) {
    let leader = servers.leader(LEADER_MAX).await.unwrap_or(any);
    let victim = if random.random_bool(0.5) { leader } else { any };
    // Most are short.
    let time = if random.random_bool(0.7) { 100..2500 } else { 2500..10_000 };
    servers.all[victim].signal(Signal::STOP);
    sleep(Duration::from_millis(random.random_range(time))).await;
    servers.all[victim].signal(Signal::CONT);
}

async fn transfer(servers: &mut Servers, to: usize, time: Duration) {
    if let Some(id) = servers.link(to).member_id().await
        && let Some(leader) = servers.leader(LEADER_MAX).await
    {
        // It may lead already, or not be able to.
        servers.link(leader).move_leader(id).await.ok();
    }
    sleep(time / 4).await;
}

async fn disconnect(
    fault: Fault,
    servers: &mut Servers,
    random: &mut StdRng,
    any: usize,
    time: Duration,
) {
    let others = others(servers, any);
    let way = if random.random_bool(0.5) { Way::In } else { Way::Out };
    match fault {
        Fault::CutOneWay => servers.net.cut(any, &others, way),
        Fault::CutPair => servers.net.cut(any, &others[..1], Way::Both),
        Fault::Loss => servers.net.lose(any, random.random_range(2..=20)),
        Fault::Delay => {
            servers.net.delay(any, Duration::from_millis(random.random_range(20..=200)));
        }
        _ => {
            // As many as a minority may have; the leader among them more often than not.
            let leader = servers.leader(LEADER_MAX).await.unwrap_or(any);
            let first = if random.random_bool(0.6) { leader } else { any };
            let minority = (servers.count() - 1) / 2;
            let all: Vec<usize> =
                (0..servers.count()).map(|at| (first + at) % servers.count()).collect();
            let (away, rest) = all.split_at(random.random_range(1..=minority));
            for one in away {
                servers.net.cut(*one, rest, Way::Both);
            }
        }
    }
    sleep(time).await;
}

fn others(servers: &Servers, one: usize) -> Vec<usize> {
    (0..servers.count()).filter(|other| *other != one).collect()
}

/// Whatever it was.
pub(super) fn heal(servers: &mut Servers) {
    servers.net.heal();
    servers.disk().take(0);
    servers.disk().fail(false);
    servers.fill(false);
    for server in &servers.all {
        server.signal(Signal::CONT);
    }
    servers.revive();
}
