//! Registries: Debian's own, one that serves whatever it is given, and a line to one that
//! is cut.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use atoll_e2e::{
    cluster::{free_port, run},
    eventually,
};

use crate::archive::Image;

/// Debian's docker-registry on the host's loopback.
pub(crate) struct Registry {
    child: Child,
    pub(crate) port: u16,
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Registry {
    /// `passwords` is a user and a password that it asks for.
    pub(crate) fn start(dir: &Path, passwords: Option<(&str, &str)>) -> Self {
        let port = free_port();
        let folder = dir.join(format!("registry-{port}"));
        std::fs::create_dir(&folder).unwrap();
        let mut config = format!(
            "version: 0.1\nlog: {{level: error}}\nhttp: {{addr: '127.0.0.1:{port}'}}\n\
             storage: {{filesystem: {{rootdirectory: {}}}}}\n",
            folder.join("data").display()
        );
        if let Some((user, password)) = passwords {
            let mut htpasswd = Command::new("htpasswd");
            htpasswd.args(["-nbB", user, password]);
            let file = folder.join("htpasswd");
            std::fs::write(&file, run(htpasswd, "").ok()).unwrap();
            config
                .push_str(&format!("auth: {{htpasswd: {{realm: r, path: {}}}}}\n", file.display()));
        }
        let path = folder.join("config.yml");
        std::fs::write(&path, config).unwrap();
        let log = File::create(folder.join("log")).unwrap();
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&path)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("docker-registry runs; `scripts/prepare test` installs it");
        eventually(Duration::from_secs(20), "the registry listens", || {
            TcpStream::connect(("127.0.0.1", port)).map_err(|error| error.to_string())
        });
        Self { child, port }
    }

    /// Pushes an archive with skopeo.
    pub(crate) fn push(&self, archive: &Path, name: &str, credentials: Option<&str>) {
        let mut skopeo = Command::new("skopeo");
        skopeo.args(["copy", "-q", "--dest-tls-verify=false"]);
        if let Some(credentials) = credentials {
            skopeo.args(["--dest-creds", credentials]);
        }
        skopeo.arg(format!("oci-archive:{}", archive.display()));
        skopeo.arg(format!("docker://127.0.0.1:{}/{name}", self.port));
        run(skopeo, "").ok();
    }
}

/// Reads a request's head; the path, and the range that it asks for.
fn request(stream: &TcpStream) -> (String, Option<String>) {
    let mut reader = BufReader::new(stream);
    let (mut line, mut path, mut range) = (String::new(), String::new(), None);
    while reader.read_line(&mut line).is_ok_and(|length| length > 2) {
        if path.is_empty() {
            path = line.split(' ').nth(1).unwrap_or_default().to_owned();
        }
        if let Some((name, value)) = line.trim().split_once(": ")
            && name.eq_ignore_ascii_case("range")
        {
            range = Some(value.to_owned());
        }
        line.clear();
    }
    (path, range)
}

/// A registry that checks nothing: what is in `images` goes out, lies included.
pub(crate) struct Anything {
    pub(crate) port: u16,
}

impl Anything {
    pub(crate) fn start(images: BTreeMap<&'static str, Image>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let images = Arc::new(images);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let images = Arc::clone(&images);
                std::thread::spawn(move || answer(stream, &images));
            }
        });
        Self { port }
    }
}

/// `/v2/NAME/manifests/VERSION` and `/v2/NAME/blobs/DIGEST`.
fn answer(mut stream: TcpStream, images: &BTreeMap<&'static str, Image>) {
    let (path, _) = request(&stream);
    let parts: Vec<&str> = path.split('/').collect();
    let body = images.get(parts.get(2).copied().unwrap_or_default()).and_then(|image| {
        let digest = if parts[3] == "manifests" { image.digest.as_str() } else { parts[4] };
        image.blobs.get(digest)
    });
    let (status, body) = match body {
        Some(body) => ("200 OK", body.as_slice()),
        None => ("404 Not Found", &b"{}"[..]),
    };
    let head =
        format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    // A client that refuses what it sees goes away in the middle.
    stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body)).ok();
}

/// A line to a registry that breaks once, and is dead until it is mended.
pub(crate) struct Line {
    pub(crate) port: u16,
    dead: Arc<AtomicBool>,
    refused: Arc<AtomicUsize>,
    ranges: Arc<Mutex<Vec<String>>>,
}

impl Line {
    /// Breaks after so many bytes of one answer.
    pub(crate) fn to(registry: u16, bytes_max: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let line =
            Self { port, dead: Arc::default(), refused: Arc::default(), ranges: Arc::default() };
        let (dead, refused, ranges) =
            (Arc::clone(&line.dead), Arc::clone(&line.refused), Arc::clone(&line.ranges));
        let mended = Arc::new(AtomicBool::new(false));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if dead.load(Ordering::SeqCst) {
                    refused.fetch_add(1, Ordering::SeqCst);
                    mended.store(true, Ordering::SeqCst);
                    continue;
                }
                let left = if mended.load(Ordering::SeqCst) { usize::MAX } else { bytes_max };
                let (dead, ranges) = (Arc::clone(&dead), Arc::clone(&ranges));
                std::thread::spawn(move || forward(stream, registry, left, &dead, &ranges));
            }
        });
        line
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::SeqCst) && self.refused.load(Ordering::SeqCst) > 0
    }

    pub(crate) fn mend(&self) {
        self.dead.store(false, Ordering::SeqCst);
    }

    /// The ranges that were asked for.
    pub(crate) fn ranges(&self) -> Vec<String> {
        self.ranges.lock().unwrap().clone()
    }
}

fn forward(
    mut client: TcpStream,
    registry: u16,
    bytes_max: usize,
    dead: &AtomicBool,
    ranges: &Mutex<Vec<String>>,
) {
    let (path, range) = request(&client);
    let mut server = TcpStream::connect(("127.0.0.1", registry)).unwrap();
    let range = range.map(|range| {
        ranges.lock().unwrap().push(range.clone());
        format!("Range: {range}\r\n")
    });
    let head = format!(
        "GET {path} HTTP/1.1\r\nHost: registry\r\nConnection: close\r\n\
         Accept: application/vnd.oci.image.manifest.v1+json\r\n{}\r\n",
        range.unwrap_or_default()
    );
    server.write_all(head.as_bytes()).unwrap();
    let (mut left, mut buffer) = (bytes_max, vec![0; 16 * 1024]);
    while let Ok(length) = server.read(&mut buffer) {
        let passed = length.min(left);
        if length == 0 || client.write_all(&buffer[..passed]).is_err() {
            return;
        }
        left -= passed;
        if left == 0 {
            dead.store(true, Ordering::SeqCst);
            client.shutdown(Shutdown::Both).ok();
            return;
        }
    }
}
