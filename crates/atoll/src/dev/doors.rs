//! The host's port of a `dev` cluster: each connection goes to a server that is there.

use crate::handoff;
use std::{
    collections::BTreeSet,
    net::TcpStream,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::net::TcpListener;
use tracing::warn;

/// Servers that are being started again are asked for this often.
const HANDOFF_RETRY: Duration = Duration::from_millis(20);
/// Without descriptors nothing can be accepted until some are closed.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Servers whose link is down, by number: their process takes connections all the same.
#[derive(Debug, Clone, Default)]
pub struct Shut(Arc<Mutex<BTreeSet<usize>>>);

impl Shut {
    pub fn set(&self, server: usize, is_shut: bool) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if is_shut {
            all.insert(server);
        } else {
            all.remove(&server);
        }
    }

    pub fn all(&self) -> BTreeSet<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A socket for each server.
pub struct Doors {
    doors: Vec<Door>,
    shut: Shut,
    /// The one that took the last connection; it takes the next, too.
    current: usize,
}

struct Door {
    path: PathBuf,
    sender: Option<handoff::Sender>,
    /// It did not answer the last time; others are tried first.
    is_silent: bool,
}

impl Doors {
    pub fn new(paths: Vec<PathBuf>, shut: Shut) -> Self {
        let doors =
            paths.into_iter().map(|path| Door { path, sender: None, is_silent: false }).collect();
        Self { doors, shut, current: 0 }
    }

    /// Accepts on the host's loopback for ever. While no server is there one connection waits
    /// here, and the others in the kernel's queue.
    pub async fn accept(mut self, listener: TcpListener) {
        loop {
            let stream = match listener.accept().await.and_then(|(stream, _)| stream.into_std()) {
                Ok(stream) => stream,
                Err(error) => {
                    warn!(%error, "a connection was not accepted");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                    continue;
                }
            };
            while !self.hand_over(&stream).await {
                tokio::time::sleep(HANDOFF_RETRY).await;
            }
        }
    }

    /// To the first that takes it; false when none does.
    async fn hand_over(&mut self, stream: &TcpStream) -> bool {
        let count = self.doors.len();
        let mut shut = self.shut.all();
        if shut.len() == count {
            // One that is cut off from its nodes still says what it knows.
            shut.clear();
        }
        let mut order: Vec<usize> = (0..count).map(|step| (self.current + step) % count).collect();
        order.sort_by_key(|server| self.doors.get(*server).is_some_and(|door| door.is_silent));
        for server in order {
            let Some(door) = self.doors.get_mut(server).filter(|_| !shut.contains(&server)) else {
                continue;
            };
            if door.take(stream).await {
                self.current = server;
                return true;
            }
        }
        false
    }
}

impl Door {
    async fn take(&mut self, stream: &TcpStream) -> bool {
        // A server that was started again has another socket of the same name.
        for former in [self.sender.take(), None] {
            let mut sender = match former {
                Some(sender) => sender,
                None => match handoff::Sender::connect(&self.path) {
                    Ok(sender) => sender,
                    Err(_not_there) => return false,
                },
            };
            let Ok(taken) = sender.send(stream).await else { continue };
            if !taken && !self.is_silent {
                warn!(socket = %self.path.display(), "a server takes no connections; others get them");
            }
            self.is_silent = !taken;
            self.sender = Some(sender);
            return taken;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};

    #[tokio::test]
    async fn a_connection_goes_to_a_server_that_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let paths: Vec<PathBuf> = (0..3).map(|n| folder.path().join(format!("{n}"))).collect();
        let shut = Shut::default();
        let doors = Doors::new(paths.clone(), shut.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        #[allow(clippy::disallowed_methods, reason = "aborted at the end")]
        let accepting = tokio::spawn(doors.accept(listener));

        // The first has ended and left its socket, the second is isolated.
        drop(handoff::Receiver::bind(&paths[0]).unwrap());
        let _second = handoff::Receiver::bind(&paths[1]).unwrap();
        shut.set(1, true);
        let third = handoff::Receiver::bind(&paths[2]).unwrap();
        let mut client = TcpStream::connect(address).unwrap();
        let incoming = third.accept().await.unwrap();
        let mut crossed = incoming.next().await.unwrap().unwrap();
        client.write_all(b"hello").unwrap();
        let mut text = [0; 5];
        crossed.set_nonblocking(false).unwrap();
        crossed.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"hello");

        // It ends; the first is back.
        drop((incoming, third));
        let first = handoff::Receiver::bind(&paths[0]).unwrap();
        let _client = TcpStream::connect(address).unwrap();
        let incoming = first.accept().await.unwrap();
        assert!(incoming.next().await.unwrap().is_some());
        accepting.abort();
    }

    #[tokio::test]
    async fn a_server_that_stands_still_is_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let paths: Vec<PathBuf> = (0..2).map(|n| folder.path().join(format!("{n}"))).collect();
        let stopped = handoff::Receiver::bind(&paths[0]).unwrap();
        let other = handoff::Receiver::bind(&paths[1]).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let doors = Doors::new(paths, Shut::default());
        #[allow(clippy::disallowed_methods, reason = "aborted at the end")]
        let accepting = tokio::spawn(doors.accept(listener));
        let first = TcpStream::connect(address).unwrap();
        let second = TcpStream::connect(address).unwrap();
        let incoming = other.accept().await.unwrap();
        for client in [first, second] {
            let crossed = incoming.next().await.unwrap().unwrap();
            assert_eq!(crossed.peer_addr().unwrap(), client.local_addr().unwrap());
        }
        // The other ends; the one that stood still goes on.
        drop((incoming, other));
        let third = TcpStream::connect(address).unwrap();
        let crossed = stopped.accept().await.unwrap().next().await.unwrap().unwrap();
        assert_eq!(crossed.peer_addr().unwrap(), third.local_addr().unwrap());
        accepting.abort();
    }

    #[tokio::test]
    async fn the_only_server_is_reached_although_it_is_isolated() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("0");
        let shut = Shut::default();
        shut.set(0, true);
        let server = handoff::Receiver::bind(&path).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        #[allow(clippy::disallowed_methods, reason = "aborted at the end")]
        let accepting = tokio::spawn(Doors::new(vec![path], shut).accept(listener));
        let _client = TcpStream::connect(address).unwrap();
        let arrival = async { server.accept().await.unwrap().next().await.unwrap() };
        let arrived = tokio::time::timeout(Duration::from_secs(5), arrival).await;
        assert!(arrived.unwrap().is_some());
        accepting.abort();
    }
}
