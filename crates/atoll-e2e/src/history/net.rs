//! Network namespaces on a switch of their own, and what goes wrong between them.
//!
//! They have no names on this machine: each lives as long as a process that does nothing, and
//! that one as long as this.

use crate::{
    cluster::run,
    forwarder::{End, Forwarder},
    http::Origin,
};
use std::{
    fmt::Write as _,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

pub(super) const PEER_PORT: u16 = 2380;
/// Connections that are to go another way are refused for this long, so that all notice.
const RESET: Duration = Duration::from_millis(300);

pub(super) struct Net {
    switch: Space,
    pub(super) places: Vec<Space>,
    /// What delays, while something is delayed.
    forwarders: Vec<Forwarder>,
}

/// One namespace.
pub(super) struct Space {
    holder: Child,
    pub(super) address: Ipv4Addr,
}

/// Which way packets are lost, as the cut-off one sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    In,
    Out,
    Both,
}

impl Space {
    fn new(address: Ipv4Addr) -> Self {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "unshare", "--net", "sleep", "infinity"]);
        let holder = command.stdin(Stdio::null()).spawn().unwrap();
        let space = Self { holder, address };
        let own = std::fs::read_link("/proc/self/ns/net").unwrap();
        crate::eventually(Duration::from_secs(10), "a network namespace", || {
            match std::fs::read_link(space.path()) {
                Ok(link) if link != own => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
        space.ip("link set lo up");
        space
    }

    pub(super) fn path(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.holder.id()).into()
    }

    /// A command that runs in it.
    pub(super) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display())).arg(program);
        command
    }

    fn ip(&self, words: &str) {
        let mut command = self.command("ip");
        command.args(words.split(' '));
        run(command, "").ok();
    }

    fn rules(&self, rules: &str) {
        let mut command = self.command("nft");
        command.args(["-f", "-"]);
        run(command, &format!("{NO_TABLE}table ip history {{\n{rules}\n}}\n")).ok();
    }

    fn no_rules(&self) {
        let mut command = self.command("nft");
        command.args(["-f", "-"]);
        run(command, NO_TABLE).ok();
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        self.holder.kill().ok();
        self.holder.wait().ok();
    }
}

impl Net {
    pub(super) fn new(count: usize) -> Self {
        let switch = Space::new(Ipv4Addr::UNSPECIFIED);
        switch.ip("link add br0 type bridge");
        switch.ip("link set br0 up");
        let places = (1..=count).map(|number| {
            let last = u8::try_from(number).unwrap();
            let place = Space::new(Ipv4Addr::new(10, 77, 0, last));
            let peer = place.holder.id();
            switch.ip(&format!("link add v{number} type veth peer name eth0 netns {peer}"));
            switch.ip(&format!("link set v{number} master br0 up"));
            place.ip(&format!("address add {}/24 dev eth0", place.address));
            place.ip("link set eth0 up");
            place
        });
        Self { places: places.collect(), switch, forwarders: Vec::new() }
    }

    /// Nothing passes between one and the others, in one way or both.
    pub(super) fn cut(&self, one: usize, others: &[usize], way: Way) {
        let others: Vec<String> =
            others.iter().map(|other| self.places[*other].address.to_string()).collect();
        let others = others.join(", ");
        let mut rules = String::new();
        if way != Way::Out {
            writeln!(
                rules,
                "chain in {{ type filter hook input priority 0; ip saddr {{ {others} }} drop\n}}"
            )
            .unwrap();
        }
        if way != Way::In {
            writeln!(
                rules,
                "chain out {{ type filter hook output priority 0; ip daddr {{ {others} }} drop\n}}"
            )
            .unwrap();
        }
        self.places[one].rules(&rules);
    }

    /// So many packets of a hundred are lost, each way.
    pub(super) fn lose(&self, one: usize, percent: u32) {
        let lost = format!("numgen random mod 100 < {percent} drop");
        self.places[one].rules(&format!(
            "chain in {{ type filter hook input priority 0; iifname eth0 {lost}\n}}\n\
             chain out {{ type filter hook output priority 0; oifname eth0 {lost}\n}}"
        ));
    }

    /// What peers say to this one and it to them takes longer.
    pub(super) fn delay(&mut self, one: usize, delay: Duration) {
        let others: Vec<usize> = (0..self.places.len()).filter(|other| *other != one).collect();
        self.reset(one);
        for other in others {
            let forwarder = self.forward(one, other, delay);
            let away = self.redirect(other, &forwarder);
            self.forwarders.push(forwarder);
            let forwarder = self.forward(other, one, delay);
            let back = self.redirect(one, &forwarder);
            self.forwarders.push(forwarder);
            self.places[other].rules(&format!("{NAT} {back}\n}}"));
            let mut command = self.places[one].command("nft");
            command.args(["-f", "-"]);
            run(command, &format!("table ip history {{\n{NAT} {away}\n}}\n}}\n")).ok();
        }
    }

    fn forward(&self, from: usize, to: usize, delay: Duration) -> Forwarder {
        let place = |at: usize| Origin::Namespace(self.places[at].path());
        let local = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let there = SocketAddr::from((self.places[to].address, PEER_PORT));
        let from = End { place: place(from), address: local };
        Forwarder::start(from, End { place: place(to), address: there }, delay)
    }

    /// A rule that leads calls of a peer to the forwarder.
    fn redirect(&self, to: usize, forwarder: &Forwarder) -> String {
        let (address, port) = (self.places[to].address, forwarder.address.port());
        format!("ip daddr {address} tcp dport {PEER_PORT} redirect to :{port}")
    }

    /// Ends the connections between one and its peers.
    fn reset(&self, one: usize) {
        let reset = |ends: &str| format!("tcp {ends} {PEER_PORT} reject with tcp reset");
        let chain = |name: &str| {
            let (to, from) = (reset("dport"), reset("sport"));
            format!("chain {name} {{ type filter hook {name} priority 0; {to}; {from}\n}}\n")
        };
        self.places[one].rules(&[chain("input"), chain("output")].concat());
        std::thread::sleep(RESET);
        self.places[one].no_rules();
    }

    /// Everything passes again.
    pub(super) fn heal(&mut self) {
        for place in &self.places {
            place.no_rules();
        }
        for forwarder in self.forwarders.drain(..) {
            forwarder.cut();
        }
    }
}

/// One that is not there cannot be deleted.
const NO_TABLE: &str = "table ip history\ndelete table ip history\n";
const NAT: &str = "chain nat { type nat hook output priority -110;";

impl Drop for Net {
    fn drop(&mut self) {
        self.forwarders.clear();
        self.switch.no_rules();
    }
}
