//! A TCP forwarder that delivers everything late: a long way between two places.

use crate::http::Origin;
use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

const DIAL_MAX: Duration = Duration::from_secs(5);
const CHUNK: usize = 16 << 10;

/// Takes connections as long as it lives; those that are there go on without it.
pub struct Forwarder {
    pub address: SocketAddr,
    stop: Arc<AtomicBool>,
    taken: Arc<AtomicUsize>,
    /// What was taken, to be ended by [`Forwarder::cut`].
    streams: Arc<Mutex<Vec<TcpStream>>>,
    place: Origin,
    acceptor: Option<JoinHandle<()>>,
}

/// One end of a forwarder: an address, seen from somewhere.
#[derive(Debug, Clone)]
pub struct End {
    pub place: Origin,
    pub address: SocketAddr,
}

impl Forwarder {
    /// Everything takes `delay` in each direction, and connecting takes as long.
    pub fn start(from: End, to: End, delay: Duration) -> Self {
        let place = from.place.clone();
        let (stop, taken) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stopped, count) = (stop.clone(), taken.clone());
        let streams = Arc::new(Mutex::new(Vec::new()));
        let kept = streams.clone();
        let (bound, address) = mpsc::channel();
        let acceptor = std::thread::spawn(move || {
            from.place.enter();
            let listener = TcpListener::bind(from.address).unwrap();
            bound.send(listener.local_addr().unwrap()).unwrap();
            for stream in listener.incoming() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                count.fetch_add(1, Ordering::Relaxed);
                let (stream, to) = (stream.unwrap(), to.clone());
                kept.lock().unwrap().push(stream.try_clone().unwrap());
                std::thread::spawn(move || {
                    std::thread::sleep(delay);
                    to.place.enter();
                    // Without an answer behind it, what was taken is closed.
                    if let Ok(behind) = TcpStream::connect_timeout(&to.address, DIAL_MAX) {
                        join(stream, behind, delay);
                    }
                });
            }
        });
        let address = address.recv().unwrap();
        Self { address, stop, taken, streams, place, acceptor: Some(acceptor) }
    }

    /// Connections so far.
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// Ends what goes through it.
    pub fn cut(self) {
        for stream in self.streams.lock().unwrap().drain(..) {
            stream.shutdown(Shutdown::Both).ok();
        }
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let (place, address) = (self.place.clone(), self.address);
        // So that it looks.
        let last = std::thread::spawn(move || {
            place.enter();
            TcpStream::connect_timeout(&address, DIAL_MAX).is_ok()
        });
        if last.join().is_ok_and(|reached| reached)
            && let Some(acceptor) = self.acceptor.take()
        {
            acceptor.join().ok();
        }
    }
}

fn join(one: TcpStream, other: TcpStream, delay: Duration) {
    for stream in [&one, &other] {
        stream.set_nodelay(true).unwrap();
    }
    let back = (other.try_clone().unwrap(), one.try_clone().unwrap());
    std::thread::spawn(move || carry(back.0, back.1, delay));
    carry(one, other, delay);
}

/// Until `from` ends; its end is late as well.
fn carry(mut from: TcpStream, mut to: TcpStream, delay: Duration) {
    let (sender, chunks) = mpsc::channel::<(Instant, Vec<u8>)>();
    let writer = std::thread::spawn(move || {
        for (at, chunk) in chunks {
            std::thread::sleep((at + delay).saturating_duration_since(Instant::now()));
            if chunk.is_empty() || to.write_all(&chunk).is_err() {
                break;
            }
        }
        to.shutdown(Shutdown::Write).ok();
    });
    let mut buffer = vec![0; CHUNK];
    loop {
        // A connection that broke ends like any other.
        let read = from.read(&mut buffer).unwrap_or_default();
        if sender.send((Instant::now(), buffer[..read].to_vec())).is_err() || read == 0 {
            break;
        }
    }
    drop(sender);
    writer.join().ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_arrives_late_and_whole() {
        let local: SocketAddr = ([127, 0, 0, 1], 0).into();
        let server = TcpListener::bind(local).unwrap();
        let to = End { place: Origin::Host, address: server.local_addr().unwrap() };
        let from = End { place: Origin::Host, address: local };
        let delay = Duration::from_millis(100);
        let forwarder = Forwarder::start(from, to, delay);
        let echo = std::thread::spawn(move || {
            let (mut stream, _) = server.accept().unwrap();
            let mut text = Vec::new();
            stream.read_to_end(&mut text).unwrap();
            stream.write_all(&text).unwrap();
        });
        let text: Vec<u8> = (0..200_000_u32).flat_map(u32::to_le_bytes).collect();
        let begun = Instant::now();
        let mut stream = TcpStream::connect(forwarder.address).unwrap();
        stream.write_all(&text).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut back = Vec::new();
        stream.read_to_end(&mut back).unwrap();
        assert!(back == text, "{} of {} bytes came back", back.len(), text.len());
        assert!(begun.elapsed() >= delay * 3, "{:?}", begun.elapsed());
        assert_eq!(forwarder.taken(), 1);
        echo.join().unwrap();
    }
}
