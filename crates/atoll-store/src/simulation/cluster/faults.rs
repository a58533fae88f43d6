//! What goes wrong, and what people do to the cluster.

use super::*;
use crate::core::{Ask, AskReply};

pub(super) enum Healing {
    Network,
    Space(u64),
    Slow(u64),
}

impl World {
    pub(super) fn on_fault(&mut self) -> Result<(), String> {
        if self.healed {
            return Ok(());
        }
        let after = Duration::from_millis(self.random.random_range(100..1500));
        self.schedule(after, What::Fault);
        self.refuse_one();
        match self.random.random_range(0..100) {
            0..18 => self.crash_one()?,
            18..30 => self.crash_in_a_write(),
            30..50 => self.cut(),
            50..60 => self.spoil_network(),
            60..70 => self.pause_one(),
            70..76 => self.slow_one(),
            76..81 => self.fill_one(),
            81..82 => self.jump_one()?,
            82..90 => self.change_members()?,
            90..97 => self.ask_someone(Ask::Transfer(None), AskReply::Nobody)?,
            _ if self.plan.bug == Some(Bug::ReusesId) => self.wipe_one()?,
            _ => self.network.heal(),
        }
        Ok(())
    }

    pub(super) fn on_heal(&mut self, healing: Healing) -> Result<(), String> {
        match healing {
            Healing::Network => self.network.heal(),
            Healing::Space(id) => {
                if let Some(node) = self.nodes.get_mut(&id) {
                    node.limit_space(None);
                }
                self.settle(id)?;
            }
            Healing::Slow(id) => {
                if let Some(node) = self.nodes.get_mut(&id) {
                    node.slow = Duration::ZERO;
                }
            }
        }
        Ok(())
    }

    fn later(&mut self, seconds_max: u64, what: What) {
        let after = Duration::from_millis(self.random.random_range(200..seconds_max * 1000));
        self.schedule(after, what);
    }

    fn crash_one(&mut self) -> Result<(), String> {
        let Some(id) = self.live() else { return Ok(()) };
        let crash = node_crash(&mut self.random);
        self.crash(id, crash)
    }

    fn crash_in_a_write(&mut self) {
        let Some(id) = self.live() else { return };
        let more = self.random.random_range(1..40);
        if let Some(node) = self.nodes.get_mut(&id) {
            node.disk.crash_at(Some(node.disk.operations() + more));
        }
    }

    /// One from the others, two groups, or one direction between two.
    fn cut(&mut self) {
        let ids: Vec<_> = self.nodes.keys().copied().collect();
        let side: BTreeSet<_> = match self.random.random_range(0..3) {
            0 => ids.choose(&mut self.random).copied().into_iter().collect(),
            _ => ids.iter().copied().filter(|_| self.random.random_bool(0.5)).collect(),
        };
        let one_way = self.random.random_bool(0.4);
        for from in &ids {
            for to in &ids {
                let leaves = side.contains(from) && !side.contains(to);
                let enters = !side.contains(from) && side.contains(to);
                if leaves || (enters && !one_way) {
                    self.network.cut.insert((*from, *to));
                }
            }
        }
        self.refuse_what_is_cut();
        self.later(6, What::Heal(Healing::Network));
    }

    fn spoil_network(&mut self) {
        self.network.loss = self.random.random_range(0.0..0.15);
        self.network.doubling = self.random.random_range(0.0..0.15);
        self.network.delay = Duration::from_millis(self.random.random_range(0..60));
        self.later(6, What::Heal(Healing::Network));
    }

    /// As SIGSTOP does: what arrives waits, and then comes all at once.
    fn pause_one(&mut self) {
        let Some(id) = self.live() else { return };
        let length = Duration::from_millis(self.random.random_range(100..6000));
        if let Some(node) = self.nodes.get_mut(&id) {
            node.paused_until = Some(self.now + length);
        }
    }

    fn slow_one(&mut self) {
        let Some(id) = self.live() else { return };
        let slow = Duration::from_millis(self.random.random_range(50..1500));
        if let Some(node) = self.nodes.get_mut(&id) {
            node.slow = slow;
        }
        self.later(8, What::Heal(Healing::Slow(id)));
    }

    /// As after a machine was suspended: its clock goes on somewhere ahead.
    fn jump_one(&mut self) -> Result<(), String> {
        let Some(id) = self.live() else { return Ok(()) };
        let jump = Duration::from_millis(self.random.random_range(100..20_000));
        self.report.jumps += 1;
        lock(&self.ledger).forgive_leases(self.now);
        if let Some(node) = self.nodes.get_mut(&id) {
            node.clock.jump(jump);
        }
        self.settle(id)
    }

    fn fill_one(&mut self) {
        let Some(id) = self.live() else { return };
        let spare = self.random.random_range(0..60);
        if let Some(node) = self.nodes.get_mut(&id) {
            node.limit_space(Some(spare));
        }
        self.later(5, What::Heal(Healing::Space(id)));
    }

    fn wipe_one(&mut self) -> Result<(), String> {
        let Some(id) = self.live() else { return Ok(()) };
        let cluster_id = self.cluster_id.clone();
        let members = self.members();
        self.crash(id, Crash::Kill)?;
        if let Some(node) = self.nodes.get_mut(&id) {
            let start = Start::Join { cluster_id, member_id: id, members };
            *node = Node::new(self.plan, MemberStart { start, ..node.start.clone() });
        }
        Ok(())
    }

    fn change_members(&mut self) -> Result<(), String> {
        let live = self.nodes.values().filter(|node| !node.gone).count();
        self.report.changes += 1;
        let too_many = live > self.plan.members || (live > 3 && self.random.random_bool(0.5));
        if live > 1 && too_many {
            let Some(id) = self.live() else { return Ok(()) };
            return self.ask_someone(Ask::Remove(id), AskReply::Nobody);
        }
        if live < 6 { self.add_member() } else { Ok(()) }
    }

    pub(super) fn ask_someone(&mut self, ask: Ask, reply: AskReply) -> Result<(), String> {
        let Some(id) = self.live() else { return Ok(()) };
        if let Some(node) = self.nodes.get_mut(&id) {
            node.set_time(self.now);
            if let Some(core) = &mut node.core {
                core.on_ask(ask, reply);
                core.run();
            }
        }
        self.settle(id)
    }

    fn members(&self) -> Vec<Member> {
        let cores = self.nodes.values().filter_map(|node| node.core.as_ref());
        let all = cores.map(|core| core.shared.cluster.membership().members);
        all.max_by_key(Vec::len).unwrap_or_default()
    }

    /// As an operator would: the cluster is told of the member, then it starts. It may never be
    /// added; then it waits in vain.
    pub(super) fn add_member(&mut self) -> Result<(), String> {
        let id = 1000 + self.next_member;
        let name = format!("m{}", self.next_member);
        self.next_member += 1;
        let members = self.members();
        let (sender, receiver) = oneshot::channel();
        let member = Member {
            id,
            name: name.clone(),
            peer_address: format!("{name}:2380"),
            is_learner: true,
            ..Member::default()
        };
        self.clients.added.push((id, name, members, receiver));
        self.ask_someone(Ask::AddLearner(member), AskReply::Caller(sender))
    }

    /// Those that the cluster has taken in are started.
    pub(super) fn start_added(&mut self) -> Result<(), String> {
        let mut started = Vec::new();
        self.clients.added.retain_mut(|(id, name, members, receiver)| match receiver.try_recv() {
            Ok(Ok(_)) => {
                started.push((*id, name.clone(), members.clone()));
                false
            }
            Ok(Err(_)) | Err(oneshot::error::TryRecvError::Closed) => {
                // It may have been added all the same, so somebody has to be it.
                started.push((*id, name.clone(), members.clone()));
                false
            }
            Err(_) => true,
        });
        for (id, name, members) in started {
            let cluster_id = self.cluster_id.clone();
            let start = Start::Join { cluster_id, member_id: id, members };
            let node = self.machine(member_start(&name, start));
            self.nodes.insert(id, node);
            self.open(id)?;
        }
        Ok(())
    }

    /// A member that was asked for and that the cluster never took in goes again.
    pub(super) fn drop_strangers(&mut self) {
        let members: BTreeSet<_> = {
            let cores = self.nodes.values().filter_map(|node| node.core.as_ref());
            let known = cores.map(|core| core.shared.cluster.membership());
            let newest = known.max_by_key(|known| (known.term, known.leader.is_some()));
            newest.into_iter().flat_map(|known| known.members).map(|member| member.id).collect()
        };
        for (id, node) in &mut self.nodes {
            if !members.contains(id) && node.applied() == 0 {
                node.gone = true;
                node.core = None;
            }
        }
    }
}
