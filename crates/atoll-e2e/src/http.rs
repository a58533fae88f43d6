//! Plain HTTP requests, each on a connection of its own, and a load of them.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    os::fd::AsFd as _,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// A request that takes longer has failed.
pub const TIMEOUT: Duration = Duration::from_secs(2);

/// GETs `path` on a new connection; the body of a 200, or what went wrong.
pub fn get(address: SocketAddr, path: &str) -> Result<String, String> {
    get_within(address, path, TIMEOUT)
}

/// The same with a patience of its own, for each step that may hang.
pub fn get_within(address: SocketAddr, path: &str, patience: Duration) -> Result<String, String> {
    let text = |error: std::io::Error| error.to_string();
    let mut stream = TcpStream::connect_timeout(&address, patience).map_err(text)?;
    stream.set_read_timeout(Some(patience)).map_err(text)?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(text)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(text)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("no HTTP answer")?;
    if !head.starts_with("HTTP/1.1 200") {
        return Err(head.lines().next().unwrap_or_default().to_owned());
    }
    Ok(body.to_owned())
}

/// One request of a load.
#[derive(Debug, Clone)]
pub struct Shot {
    /// Since the load began.
    pub at: Duration,
    pub took: Duration,
    pub result: Result<String, String>,
}

/// Where the requests of a load come from.
#[derive(Debug, Clone)]
pub enum Origin {
    Host,
    /// The network namespace at this path, such as [`crate::Cluster::netns`].
    Namespace(PathBuf),
}

impl Origin {
    /// Does something there, in a thread of its own.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let there = scope.spawn(|| {
                self.enter();
                work()
            });
            there.join().unwrap()
        })
    }

    /// Moves the calling thread there: the sockets that it opens from now on are of that place.
    pub(crate) fn enter(&self) {
        if let Self::Namespace(path) = self {
            let file = File::open(path).unwrap();
            let kind = Some(rustix::thread::LinkNameSpaceType::Network);
            rustix::thread::move_into_link_name_space(file.as_fd(), kind).unwrap();
        }
    }
}

/// Sends a datagram from there; the answer, or what went wrong.
pub fn datagram(from: &Origin, address: SocketAddr) -> Result<String, String> {
    let text = |error: std::io::Error| error.to_string();
    let answer = from.run(|| {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.set_read_timeout(Some(TIMEOUT))?;
        socket.connect(address)?;
        socket.send(b"?")?;
        let mut answer = [0; 512];
        let length = socket.recv(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
    });
    answer.map_err(text)
}

/// The same as [`get`], from there.
pub fn get_from(from: &Origin, address: SocketAddr, path: &str) -> Result<String, String> {
    from.run(|| get(address, path))
}

/// Requests at a steady rate until it is stopped, or for ten minutes at the most.
pub struct Load {
    stop: Arc<AtomicBool>,
    workers: Vec<JoinHandle<Vec<Shot>>>,
}

const LOAD_MAX: Duration = Duration::from_secs(600);

impl Load {
    pub fn start(address: SocketAddr, path: &str, per_second: u32, workers: u32) -> Self {
        Self::start_from(&Origin::Host, address, path, per_second, workers)
    }

    pub fn start_from(
        origin: &Origin,
        address: SocketAddr,
        path: &str,
        per_second: u32,
        workers: u32,
    ) -> Self {
        Self::start_patient(origin, address, path, per_second, workers, TIMEOUT)
    }

    /// With so many workers that those whose requests hang do not thin out the load.
    pub fn start_patient(
        origin: &Origin,
        address: SocketAddr,
        path: &str,
        per_second: u32,
        workers: u32,
        patience: Duration,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let begun = Instant::now();
        let gap = Duration::from_secs(1) * workers / per_second;
        let workers = (0..workers).map(|index| {
            let (stop, path, origin) = (stop.clone(), path.to_owned(), origin.clone());
            let offset = gap * index / workers;
            std::thread::spawn(move || {
                origin.enter();
                let mut shots = Vec::new();
                let mut next = begun + offset;
                while !stop.load(Ordering::Relaxed) && begun.elapsed() < LOAD_MAX {
                    std::thread::sleep(next.saturating_duration_since(Instant::now()));
                    next += gap;
                    let at = begun.elapsed();
                    let result = get_within(address, &path, patience);
                    shots.push(Shot { at, took: begun.elapsed().saturating_sub(at), result });
                }
                shots
            })
        });
        let workers = workers.collect();
        Self { stop, workers }
    }

    /// All shots, in order of time.
    pub fn stop(self) -> Vec<Shot> {
        self.stop.store(true, Ordering::Relaxed);
        let mut shots: Vec<Shot> =
            self.workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect();
        shots.sort_by_key(|shot| shot.at);
        shots
    }
}
