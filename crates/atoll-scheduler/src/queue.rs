//! Pods that wait for a node: the most important first, and those that no node could
//! take set apart until something changes.

use atoll_informer::Key;
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
};
use tokio::sync::Notify;

type Place = (Reverse<i32>, u64);

#[derive(Default)]
struct State {
    active: BTreeMap<Place, Key>,
    places: HashMap<Key, Place>,
    unschedulable: BTreeSet<Key>,
    sequence: u64,
    /// Rises whenever waiting pods may have become schedulable.
    moves: u64,
}

/// Holds one entry a pod, so its size is bounded by the number of pods.
#[derive(Default)]
pub(crate) struct Queue {
    state: Mutex<State>,
    wake: Notify,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn add(&self, key: Key, priority: i32) {
        self.lock().activate(key, priority);
        self.wake.notify_one();
    }

    pub(crate) fn remove(&self, key: &Key) {
        let mut state = self.lock();
        state.unschedulable.remove(key);
        if let Some(place) = state.places.remove(key) {
            state.active.remove(&place);
        }
    }

    /// The next pod, and the count of moves before it was looked at.
    pub(crate) async fn next(&self) -> (Key, u64) {
        loop {
            let taken = {
                let mut state = self.lock();
                let moves = state.moves;
                state.active.pop_first().map(|(_, key)| {
                    state.places.remove(&key);
                    (key, moves)
                })
            };
            match taken {
                Some(taken) => return taken,
                None => self.wake.notified().await,
            }
        }
    }

    /// Sets a pod apart. If something changed since it was taken it is tried again at once.
    pub(crate) fn park(&self, key: Key, priority: i32, moves: u64) {
        let mut state = self.lock();
        if state.moves == moves {
            state.unschedulable.insert(key);
        } else {
            state.activate(key, priority);
            drop(state);
            self.wake.notify_one();
        }
    }

    /// Something changed that may let waiting pods run; `wakes` gives the priority of a pod
    /// that it concerns.
    pub(crate) fn retry_parked(&self, wakes: impl Fn(&Key) -> Option<i32>) {
        let mut state = self.lock();
        state.moves += 1;
        for key in std::mem::take(&mut state.unschedulable) {
            match wakes(&key) {
                Some(priority) => state.activate(key, priority),
                None => {
                    state.unschedulable.insert(key);
                }
            }
        }
        drop(state);
        self.wake.notify_one();
    }
}

impl State {
    fn activate(&mut self, key: Key, priority: i32) {
        self.unschedulable.remove(&key);
        if self.places.contains_key(&key) {
            return;
        }
        self.sequence += 1;
        let place = (Reverse(priority), self.sequence);
        self.places.insert(key.clone(), place);
        self.active.insert(place, key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key::new("default", name)
    }

    #[tokio::test]
    async fn the_most_important_pod_goes_first() {
        let queue = Queue::default();
        queue.add(key("low"), 0);
        queue.add(key("high"), 1_000);
        assert_eq!(queue.next().await.0, key("high"));
        assert_eq!(queue.next().await.0, key("low"));
    }

    #[tokio::test]
    async fn a_parked_pod_comes_back_when_something_changes() {
        let queue = Queue::default();
        queue.add(key("a"), 0);
        let (taken, moves) = queue.next().await;
        queue.park(taken, 0, moves);
        assert!(queue.lock().active.is_empty());
        queue.retry_parked(|_| Some(0));
        assert_eq!(queue.next().await.0, key("a"));
    }

    #[tokio::test]
    async fn a_change_wakes_only_whom_it_concerns() {
        let queue = Queue::default();
        for name in ["a", "b"] {
            queue.add(key(name), 0);
            let (taken, moves) = queue.next().await;
            queue.park(taken, 0, moves);
        }
        queue.retry_parked(|one| (one.name == "b").then_some(0));
        assert_eq!(queue.next().await.0, key("b"));
        assert!(queue.lock().unschedulable.contains(&key("a")));
    }

    #[tokio::test]
    async fn a_change_during_the_decision_is_not_missed() {
        let queue = Queue::default();
        queue.add(key("a"), 0);
        let (taken, moves) = queue.next().await;
        queue.retry_parked(|_| Some(0));
        queue.park(taken, 0, moves);
        assert_eq!(queue.next().await.0, key("a"));
    }
}
