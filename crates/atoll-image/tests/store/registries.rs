//! Pulls from a real registry, and from one that misbehaves.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use atoll_image::{Config, Credentials, Error, ImageStore, Progress, PullPolicy, PullRequest};

use crate::fixture::{Fixture, Layout, gzip, is_root, layer, layout, two_layers, write_tar};

fn request(image: &str) -> PullRequest {
    PullRequest {
        image: image.into(),
        policy: PullPolicy::IfNotPresent,
        credentials: Vec::new(),
        by_hand: false,
    }
}

fn program(name: &str, package: &str) {
    if Command::new("which").arg(name).stdout(Stdio::null()).status().unwrap().success() {
        return;
    }
    let installed =
        Command::new("apt-get").args(["install", "-y", "-q", package]).status().unwrap();
    assert!(installed.success(), "{package} is needed");
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Debian's docker-registry on a free port; ends with the value.
struct Registry {
    child: Child,
    port: u16,
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Registry {
    fn start(dir: &Path, auth: &str) -> Registry {
        Registry::start_with(dir, auth, "")
    }

    fn start_with(dir: &Path, auth: &str, tls: &str) -> Registry {
        program("docker-registry", "docker-registry");
        program("skopeo", "skopeo");
        let port = free_port();
        let config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
             http: {{addr: '127.0.0.1:{port}'{tls}}}\n{auth}",
            dir.join("registry").display()
        );
        let path = dir.join("registry.yml");
        fs::write(&path, config).unwrap();
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&path)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let registry = Registry { child, port };
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(std::time::Instant::now() < deadline, "the registry starts");
            std::thread::yield_now();
        }
        registry
    }

    fn push(&self, archive: &Path, name: &str, more: &[&str]) {
        let status = Command::new("skopeo")
            .args(["copy", "-q", "--dest-tls-verify=false"])
            .args(more)
            .arg(format!("oci-archive:{}", archive.display()))
            .arg(format!("docker://127.0.0.1:{}/{name}", self.port))
            .status()
            .unwrap();
        assert!(status.success(), "skopeo copy");
    }
}

#[tokio::test]
async fn an_image_that_skopeo_pushed_is_pulled_and_not_twice() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::new().await;
    let registry = Registry::start(fixture.dir.path(), "");
    let image = layout("app:1", &two_layers());
    let archive = write_tar(&fixture.dir.path().join("app.tar"), &image.files);
    registry.push(&archive, "team/app:1", &[]);
    let name = format!("127.0.0.1:{}/team/app:1", registry.port);
    let (first, second) = (request(&name), request(&name));
    let (first, second) =
        tokio::join!(fixture.store.ensure(&first, None), fixture.store.ensure(&second, None));
    let (first, second) = (first.unwrap(), second.unwrap());
    assert!(first.pulled != second.pulled, "one of the two pulled");
    assert_eq!(first.image.config.user, "app");
    assert_eq!(first.image.tags, std::slice::from_ref(&name));

    let again = PullRequest { policy: PullPolicy::Always, ..request(&name) };
    let outcome = fixture.store.ensure(&again, None).await.unwrap();
    assert_eq!((outcome.pulled, outcome.fetched_bytes), (false, 0));

    let by_digest = request(first.image.repo_digests.first().unwrap());
    assert!(!fixture.store.ensure(&by_digest, None).await.unwrap().pulled);

    let missing = request(&format!("127.0.0.1:{}/team/nope:1", registry.port));
    let error = fixture.store.ensure(&missing, None).await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error}");

    let mounted = fixture.store.mount(&first.image, &fixture.dirs("c")).await.unwrap();
    assert_eq!(fs::read_to_string(mounted.rootfs.join("bin/app")).unwrap(), "v2");
    fixture.store.unmount(&mounted.rootfs).await.unwrap();
}

#[tokio::test]
async fn tls_is_checked_against_the_given_authorities() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let (certificate, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    fs::write(&certificate, made.cert.pem()).unwrap();
    fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let tls = format!(", tls: {{certificate: {}, key: {}}}", certificate.display(), key.display());
    let registry = Registry::start_with(dir.path(), "", &tls);
    let image = layout("app:1", &two_layers());
    let archive = write_tar(&dir.path().join("app.tar"), &image.files);
    registry.push(&archive, "app:1", &[]);
    // Loopback by its own name would be spoken to in plain; a mirror names its scheme.
    let origin = format!("127.0.0.1:{}", free_port());
    let mirror = format!("https://localhost:{}", registry.port);
    for trusted in [true, false] {
        let fixture = Fixture::with(|config| {
            config.registry.mirrors.insert(origin.clone(), vec![mirror.clone()]);
            config.registry.extra_roots.extend(trusted.then(|| certificate.clone()));
        })
        .await;
        let pulled = fixture.store.ensure(&request(&format!("{origin}/app:1")), None).await;
        assert_eq!(pulled.is_ok(), trusted, "{pulled:?}");
    }
}

#[tokio::test]
async fn a_registry_with_passwords_takes_the_right_one() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::new().await;
    // bcrypt of "open sesame".
    program("htpasswd", "apache2-utils");
    let line = Command::new("htpasswd").args(["-nbB", "ali", "open sesame"]).output().unwrap();
    let file = fixture.dir.path().join("htpasswd");
    fs::write(&file, line.stdout).unwrap();
    let auth = format!("auth: {{htpasswd: {{realm: caves, path: {}}}}}\n", file.display());
    let registry = Registry::start(fixture.dir.path(), &auth);
    let image = layout("app:1", &two_layers());
    let archive = write_tar(&fixture.dir.path().join("app.tar"), &image.files);
    registry.push(&archive, "app:1", &["--dest-creds", "ali:open sesame"]);

    let mut wish = request(&format!("127.0.0.1:{}/app:1", registry.port));
    let error = fixture.store.ensure(&wish, None).await.unwrap_err();
    assert!(matches!(error, Error::Unauthorized { .. }), "{error}");
    let secret = |password: &str| Credentials { username: "ali".into(), password: password.into() };
    wish.credentials = vec![secret("close sesame"), secret("open sesame")];
    assert!(fixture.store.ensure(&wish, None).await.unwrap().pulled);

    // It is here now, but not for those who could not have pulled it.
    wish.credentials = vec![secret("close sesame")];
    let error = fixture.store.ensure(&wish, None).await.unwrap_err();
    assert!(matches!(error, Error::Unauthorized { tried: true, .. }), "{error}");
    let never = PullRequest { policy: PullPolicy::Never, ..wish.clone() };
    let error = fixture.store.ensure(&never, None).await.unwrap_err();
    assert!(matches!(error, Error::NeverPull { .. }), "{error}");
    wish.credentials = vec![secret("open sesame")];
    drop(registry);
    assert!(!fixture.store.ensure(&wish, None).await.unwrap().pulled, "nobody is asked");
}

/// A registry of one image that does as it is told.
struct Liar {
    port: u16,
    /// Requests for blobs so far.
    blobs: Arc<AtomicUsize>,
    ranges: Arc<std::sync::Mutex<Vec<String>>>,
}

#[derive(Clone, Copy)]
enum Lie {
    /// The first answers for layers stop half way to what is left.
    Cut(usize),
    /// The first answers for layers stop at the middle of it.
    Stuck(usize),
    /// Layers come in pieces with pauses.
    Slow,
    /// Layers have other bytes.
    Forge,
    /// A token service stands before it.
    Token,
}

impl Liar {
    fn start(image: &Layout, lie: Lie) -> Liar {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (blobs, ranges) = (Arc::new(AtomicUsize::new(0)), Arc::default());
        let liar = Liar { port, blobs: Arc::clone(&blobs), ranges: Arc::clone(&ranges) };
        let cx = Cx {
            files: Arc::new(image.files.clone()),
            digest: image.manifest_digest.clone(),
            lie,
            port,
            blobs,
        };
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (cx, ranges) = (cx.clone(), Arc::clone(&ranges));
                std::thread::spawn(move || {
                    let mut stream = stream.unwrap();
                    let (path, headers) = head(&mut stream);
                    if let Some(range) = headers.get("range") {
                        ranges.lock().unwrap().push(range.clone());
                    }
                    cx.answer(&mut stream, &path, &headers);
                });
            }
        });
        liar
    }

    fn name(&self) -> String {
        format!("127.0.0.1:{}/app:1", self.port)
    }
}

fn head(stream: &mut TcpStream) -> (String, BTreeMap<String, String>) {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut headers = BTreeMap::new();
    loop {
        line.clear();
        reader.read_line(&mut line).unwrap();
        match line.trim().split_once(": ") {
            Some((key, value)) => headers.insert(key.to_lowercase(), value.to_owned()),
            None => return (path, headers),
        };
    }
}

#[derive(Clone)]
struct Cx {
    files: Arc<BTreeMap<String, Vec<u8>>>,
    digest: String,
    lie: Lie,
    port: u16,
    blobs: Arc<AtomicUsize>,
}

impl Cx {
    fn answer(&self, stream: &mut TcpStream, path: &str, headers: &BTreeMap<String, String>) {
        if path.starts_with("/token") {
            assert!(path.contains("scope=repository%3Aapp%3Apull"), "{path}");
            return reply(stream, "200 OK", "", br#"{"token":"let-me-in"}"#);
        }
        let authorized = headers.get("authorization").is_some_and(|v| v == "Bearer let-me-in");
        if matches!(self.lie, Lie::Token) && !authorized {
            let challenge = format!(
                "WWW-Authenticate: Bearer realm=\"http://127.0.0.1:{}/token\",service=\"x\"\r\n",
                self.port
            );
            return reply(stream, "401 Unauthorized", &challenge, b"");
        }
        if path.contains("/manifests/") {
            return reply(stream, "200 OK", "", self.blob(&self.digest));
        }
        let digest = path.rsplit('/').next().unwrap();
        let bytes = self.blob(digest);
        if bytes.first() == Some(&b'{') {
            return reply(stream, "200 OK", "", bytes);
        }
        let from: usize = headers
            .get("range")
            .and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok())
            .unwrap_or(0);
        let number = self.blobs.fetch_add(1, Ordering::SeqCst);
        let mut body = bytes[from..].to_vec();
        if matches!(self.lie, Lie::Forge) {
            body[0] ^= 1;
        }
        let status = if from > 0 { "206 Partial Content" } else { "200 OK" };
        let extra = format!("Content-Range: bytes {from}-{}/{}\r\n", bytes.len() - 1, bytes.len());
        let extra = if from > 0 { extra } else { String::new() };
        match self.lie {
            Lie::Cut(times) | Lie::Stuck(times) if number < times => {
                let head =
                    format!("HTTP/1.1 {status}\r\n{extra}Content-Length: {}\r\n\r\n", body.len());
                stream.write_all(head.as_bytes()).unwrap();
                let end = match self.lie {
                    Lie::Stuck(_) => (bytes.len() / 2).saturating_sub(from),
                    _ => body.len() / 2,
                };
                stream.write_all(&body[..end]).unwrap();
            }
            Lie::Slow => {
                let head =
                    format!("HTTP/1.1 {status}\r\n{extra}Content-Length: {}\r\n\r\n", body.len());
                stream.write_all(head.as_bytes()).unwrap();
                for piece in body.chunks(body.len() / 8 + 1) {
                    std::thread::sleep(std::time::Duration::from_millis(30));
                    if stream.write_all(piece).is_err() {
                        return;
                    }
                }
            }
            _ => reply(stream, status, &extra, &body),
        }
    }

    fn blob(&self, digest: &str) -> &[u8] {
        &self.files[&format!("blobs/sha256/{}", &digest[7..])]
    }
}

fn reply(stream: &mut TcpStream, status: &str, extra: &str, body: &[u8]) {
    let head = format!(
        "HTTP/1.1 {status}\r\n{extra}Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    // The client may have gone: some of these tests make it.
    if stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body)).is_err() {
        return;
    }
    let mut rest = [0u8; 64];
    while stream.read(&mut rest).is_ok_and(|n| n > 0) {}
}

fn one_layer() -> Layout {
    let text: String = (0..20_000).map(|n| format!("{n}\n")).collect();
    let plain = layer(&[("numbers", &text)]);
    layout("app:1", &[(gzip(&plain), plain)])
}

#[tokio::test]
async fn a_blob_that_breaks_off_is_resumed_where_it_ended() {
    let fixture = Fixture::new().await;
    // As long as something more arrives it goes on, however often it breaks off.
    let liar = Liar::start(&one_layer(), Lie::Cut(6));
    let (sender, progress) = tokio::sync::watch::channel(Progress::default());
    let outcome = fixture.store.ensure(&request(&liar.name()), Some(sender)).await.unwrap();
    assert!(outcome.pulled);
    assert_eq!(liar.blobs.load(Ordering::SeqCst), 7);
    let shown = *progress.borrow();
    assert_eq!(shown.fetched_bytes, shown.total_bytes, "nothing counts twice");
    let ranges = liar.ranges.lock().unwrap().clone();
    assert_eq!(ranges.len(), 6, "{ranges:?}");
    assert!(ranges.iter().all(|range| range != "bytes=0-"));
}

#[tokio::test]
async fn a_blob_that_never_ends_whole_is_told_and_kept_for_the_next_try() {
    let fixture = Fixture::new().await;
    let liar = Liar::start(&one_layer(), Lie::Stuck(4));
    let error = fixture.store.ensure(&request(&liar.name()), None).await.unwrap_err();
    assert!(matches!(error, Error::Truncated { .. }), "{error}");
    assert!(fixture.store.ensure(&request(&liar.name()), None).await.unwrap().pulled);
}

#[tokio::test]
async fn a_blob_with_other_bytes_is_not_stored() {
    let fixture = Fixture::new().await;
    let liar = Liar::start(&one_layer(), Lie::Forge);
    let error = fixture.store.ensure(&request(&liar.name()), None).await.unwrap_err();
    assert!(matches!(error, Error::WrongDigest { .. }), "{error}");
    assert!(fixture.store.list().unwrap().is_empty());
}

/// As two processes would: two stores on one folder, and names that share all layers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pulls_that_share_layers_fetch_each_once() {
    let fixture = Fixture::new().await;
    let other = ImageStore::open(Config::new(fixture.dir.path().join("images"))).await.unwrap();
    let liar = Liar::start(&one_layer(), Lie::Slow);
    let mut pulls = tokio::task::JoinSet::new();
    for index in 0..6 {
        let store = if index % 2 == 0 { fixture.store.clone() } else { other.clone() };
        let wish = request(&format!("127.0.0.1:{}/app:{index}", liar.port));
        pulls.spawn(async move { store.ensure(&wish, None).await });
    }
    while let Some(outcome) = pulls.join_next().await {
        outcome.unwrap().unwrap();
    }
    assert_eq!(liar.blobs.load(Ordering::SeqCst), 1);
    let left = fs::read_dir(fixture.dir.path().join("images/blobs/sha256")).unwrap().count();
    assert_eq!(left, 0, "neither archives nor locks stay");
}

#[tokio::test]
async fn an_image_may_have_a_layer_twice() {
    let fixture = Fixture::new().await;
    let plain = layer(&[("file", "text")]);
    let both = vec![(gzip(&plain), plain.clone()), (gzip(&plain), plain)];
    let liar = Liar::start(&layout("app:1", &both), Lie::Slow);
    let outcome = fixture.store.ensure(&request(&liar.name()), None).await.unwrap();
    assert_eq!(outcome.image.layers.len(), 2);
    assert_eq!(liar.blobs.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_pull_that_is_called_off_leaves_what_a_new_one_goes_on_with() {
    let fixture = Fixture::new().await;
    let liar = Liar::start(&one_layer(), Lie::Slow);
    let wish = request(&liar.name());
    let soon = std::time::Duration::from_millis(120);
    assert!(tokio::time::timeout(soon, fixture.store.ensure(&wish, None)).await.is_err());
    assert!(fixture.store.ensure(&wish, None).await.unwrap().pulled);
    assert_eq!(liar.ranges.lock().unwrap().len(), 1, "it went on where the first one ended");
}

#[tokio::test]
async fn a_token_service_is_asked() {
    let fixture = Fixture::new().await;
    let liar = Liar::start(&one_layer(), Lie::Token);
    assert!(fixture.store.ensure(&request(&liar.name()), None).await.unwrap().pulled);
}

#[tokio::test]
async fn a_registry_that_is_not_there_is_told_with_the_remedy() {
    let fixture = Fixture::new().await;
    let name = format!("127.0.0.1:{}/app:1", free_port());
    let error = fixture.store.ensure(&request(&name), None).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    assert!(error.remedy().unwrap().contains("atoll image import"), "{error}");
    assert!(error.is_transient());
}

#[tokio::test]
async fn a_mirror_is_tried_first_and_its_failure_is_no_error() {
    let image = one_layer();
    let (mirror, origin) = (Liar::start(&image, Lie::Cut(0)), Liar::start(&image, Lie::Cut(0)));
    let registry = format!("127.0.0.1:{}", origin.port);
    for (url, served) in [
        (format!("http://127.0.0.1:{}", mirror.port), true),
        (format!("http://127.0.0.1:{}", free_port()), false),
    ] {
        let fixture = Fixture::with(|config| {
            config.registry.mirrors.insert(registry.clone(), vec![url]);
        })
        .await;
        assert!(fixture.store.ensure(&request(&origin.name()), None).await.unwrap().pulled);
        assert_eq!(origin.blobs.load(Ordering::SeqCst), usize::from(!served));
    }
}

#[tokio::test]
async fn the_registry_thread_stands_in_the_given_network_namespace() {
    if !is_root() {
        return;
    }
    // A namespace without any address: what is reachable from here is not from there.
    let name = format!("ai-test-{}", std::process::id());
    let run = |args: &[&str]| Command::new("ip").args(args).status().unwrap().success();
    assert!(run(&["netns", "add", &name]));
    let path = Path::new("/run/netns").join(&name);
    let fixture = Fixture::with(|config| config.registry.registry_netns = Some(path.clone())).await;
    let liar = Liar::start(&one_layer(), Lie::Cut(0));
    let error = fixture.store.ensure(&request(&liar.name()), None).await;
    assert!(run(&["netns", "del", &name]));
    assert!(matches!(error, Err(Error::Unreachable { .. })), "{error:?}");
    assert_eq!(liar.blobs.load(Ordering::SeqCst), 0);
}
