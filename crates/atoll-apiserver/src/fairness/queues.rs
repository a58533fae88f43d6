//! Fair queues of one priority level, without a clock: who runs, who waits, who is sent away.
//!
//! Every queue has a virtual time at which its next request would begin if all queues were
//! served at once, seat by seat; the one that is earliest goes first. What a request will take
//! is guessed when it begins and set right when it ends.

use std::collections::VecDeque;

use super::shard;

/// What a request is thought to take, in seconds; upstream's number.
const GUESS_SECONDS: f64 = 0.003;

/// The requests of one priority level.
#[derive(Debug)]
pub(super) struct Queues {
    queues: Vec<Queue>,
    hand: usize,
    length_max: usize,
    /// Seats that may be taken at once.
    limit: u32,
    taken: u32,
    waiting_seats: u32,
    virtual_now: f64,
    synced_at: f64,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    running: usize,
    /// Virtual time at which its next request begins.
    next: f64,
}

#[derive(Debug, Clone, Copy)]
struct Waiting {
    id: u64,
    seats: u32,
}

/// What becomes of a request that arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arrival {
    /// In this queue's name.
    Run(usize),
    Wait,
    Reject,
}

/// One that may begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Started {
    pub id: u64,
    pub queue: usize,
}

impl Queues {
    pub(super) fn new() -> Self {
        Self {
            queues: vec![Queue::default()],
            hand: 1,
            length_max: 0,
            limit: 1,
            taken: 0,
            waiting_seats: 0,
            virtual_now: 0.0,
            synced_at: 0.0,
        }
    }

    /// Another shape. Requests keep their queue; queues that go away are emptied first.
    pub(super) fn reshape(&mut self, queues: usize, hand: usize, length_max: usize) {
        let wanted = queues.max(1);
        if wanted > self.queues.len() {
            self.queues.resize_with(wanted, Queue::default);
        }
        while self.queues.len() > wanted
            && self.queues.last().is_some_and(|last| last.waiting.is_empty() && last.running == 0)
        {
            self.queues.pop();
        }
        self.hand = hand.clamp(1, wanted);
        self.length_max = length_max;
    }

    pub(super) fn set_limit(&mut self, limit: u32) {
        self.limit = limit.max(1);
    }

    pub(super) fn limit(&self) -> u32 {
        self.limit
    }

    /// Seats that are taken and seats that are waited for.
    pub(super) fn demand(&self) -> (u32, u32) {
        (self.taken, self.waiting_seats)
    }

    pub(super) fn waiting(&self) -> usize {
        self.queues.iter().map(|queue| queue.waiting.len()).sum()
    }

    /// `now` in seconds since anything.
    pub(super) fn arrive(&mut self, now: f64, flow: u64, id: u64, seats: u32) -> Arrival {
        self.sync(now);
        let chosen = self.choose(flow);
        let free = self.fits(seats) && self.waiting_seats == 0;
        let Some(queue) = self.queues.get_mut(chosen) else { return Arrival::Reject };
        if queue.waiting.is_empty() && queue.running == 0 {
            queue.next = queue.next.max(self.virtual_now);
        }
        if free {
            self.begin(chosen, seats);
            return Arrival::Run(chosen);
        }
        if queue.waiting.len() >= self.length_max {
            return Arrival::Reject;
        }
        queue.waiting.push_back(Waiting { id, seats });
        self.waiting_seats += seats;
        Arrival::Wait
    }

    /// The queue of the hand in which least waits.
    fn choose(&self, flow: u64) -> usize {
        let hand = shard::hand(flow, self.queues.len(), self.hand);
        let load = |at: &usize| {
            self.queues.get(*at).map_or(usize::MAX, |queue| {
                let waiting: u32 = queue.waiting.iter().map(|one| one.seats).sum();
                queue.running + waiting as usize
            })
        };
        hand.into_iter().min_by_key(load).unwrap_or(0)
    }

    fn fits(&self, seats: u32) -> bool {
        // Somebody must get through, however wide.
        self.taken == 0 || self.taken + seats <= self.limit
    }

    fn begin(&mut self, at: usize, seats: u32) {
        self.taken += seats;
        if let Some(queue) = self.queues.get_mut(at) {
            queue.running += 1;
            queue.next += GUESS_SECONDS * f64::from(seats);
        }
    }

    /// One has ended after `took` seconds; those that may begin now.
    pub(super) fn finish(&mut self, now: f64, queue: usize, seats: u32, took: f64) -> Vec<Started> {
        self.sync(now);
        let seats = seats.min(self.taken);
        self.taken -= seats;
        if let Some(queue) = self.queues.get_mut(queue) {
            queue.running = queue.running.saturating_sub(1);
            queue.next += (took - GUESS_SECONDS) * f64::from(seats);
        }
        self.dispatch()
    }

    /// Begins whatever fits, in the order of virtual time.
    pub(super) fn dispatch(&mut self) -> Vec<Started> {
        let mut started = Vec::new();
        loop {
            let next = (0..self.queues.len())
                .filter(|at| !self.queues[*at].waiting.is_empty())
                .min_by(|a, b| self.queues[*a].next.total_cmp(&self.queues[*b].next));
            let Some(at) = next else { return started };
            let Some(first) = self.queues[at].waiting.front().copied() else { return started };
            if !self.fits(first.seats) {
                return started;
            }
            self.queues[at].waiting.pop_front();
            self.waiting_seats -= first.seats;
            self.begin(at, first.seats);
            started.push(Started { id: first.id, queue: at });
        }
    }

    /// One that waits no longer. False when it is not waiting: it has begun.
    pub(super) fn leave(&mut self, id: u64) -> bool {
        for queue in &mut self.queues {
            if let Some(at) = queue.waiting.iter().position(|one| one.id == id) {
                if let Some(gone) = queue.waiting.remove(at) {
                    self.waiting_seats -= gone.seats;
                }
                return true;
            }
        }
        false
    }

    /// Virtual time goes on as fast as each active queue is served.
    fn sync(&mut self, now: f64) {
        let passed = (now - self.synced_at).max(0.0);
        self.synced_at = now;
        let active =
            self.queues.iter().filter(|queue| queue.running > 0 || !queue.waiting.is_empty());
        let active = u32::try_from(active.count()).unwrap_or(u32::MAX);
        if active > 0 {
            let served = (self.taken + self.waiting_seats).min(self.limit);
            self.virtual_now += passed * f64::from(served) / f64::from(active);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn level(queues: usize, limit: u32, length_max: usize) -> Queues {
        let mut level = Queues::new();
        level.reshape(queues, 1, length_max);
        level.set_limit(limit);
        level
    }

    #[test]
    fn without_queues_what_does_not_fit_is_sent_away() {
        let mut level = level(1, 2, 0);
        assert_eq!(level.arrive(0.0, 0, 1, 1), Arrival::Run(0));
        assert_eq!(level.arrive(0.0, 0, 2, 1), Arrival::Run(0));
        assert_eq!(level.arrive(0.0, 0, 3, 1), Arrival::Reject);
        assert_eq!(level.finish(1.0, 0, 1, 1.0), []);
        assert_eq!(level.arrive(1.0, 0, 4, 1), Arrival::Run(0));
    }

    #[test]
    fn who_sends_much_waits_behind_himself() {
        let mut level = level(8, 1, 100);
        // Flows 0 and 1 have queues 0 and 1.
        assert_eq!(level.arrive(0.0, 0, 0, 1), Arrival::Run(0));
        for id in 1..=50 {
            assert_eq!(level.arrive(0.0, 0, id, 1), Arrival::Wait);
        }
        assert_eq!(level.arrive(0.0, 1, 100, 1), Arrival::Wait);
        let first = level.finish(0.1, 0, 1, 0.1);
        assert_eq!(first, [Started { id: 100, queue: 1 }]);
    }

    #[test]
    fn flows_share_what_there_is() {
        let mut level = level(4, 1, 1000);
        let mut now = 0.0;
        let mut running = match level.arrive(now, 0, 0, 1) {
            Arrival::Run(queue) => queue,
            other => panic!("{other:?}"),
        };
        let mut id = 1;
        for _ in 0..100 {
            for flow in 0..4 {
                level.arrive(now, flow, id, 1);
                id += 1;
            }
        }
        let mut served = [0; 4];
        for _ in 0..200 {
            now += 0.01;
            let started = level.finish(now, running, 1, 0.01);
            running = started[0].queue;
            served[running] += 1;
        }
        assert!(served.iter().all(|count| (45..=55).contains(count)), "{served:?}");
    }

    #[test]
    fn a_wide_one_gets_through_alone() {
        let mut level = level(2, 2, 10);
        assert_eq!(level.arrive(0.0, 0, 0, 10), Arrival::Run(0));
        assert_eq!(level.arrive(0.0, 1, 1, 1), Arrival::Wait);
        assert!(level.leave(1) && !level.leave(1));
        assert_eq!(level.finish(1.0, 0, 10, 1.0), []);
        assert_eq!(level.demand(), (0, 0));
    }
}
