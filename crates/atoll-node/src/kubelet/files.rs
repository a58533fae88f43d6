//! `/logs/`: the machine's log files, and below `pods/` those of the node's containers.
//!
//! No link leads out of the two folders: pods that have one of them as a volume may write there.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use futures::TryStreamExt as _;
use http::{Response, StatusCode, header};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};
use tokio::io::AsyncReadExt as _;
use tokio_util::io::ReaderStream;

use crate::kubelet::routes::Routes;
use crate::kubelet::{Answer, text};

const MACHINE: &str = "/var/log";
/// Where a kubelet has what its containers write.
const PODS: &str = "pods";
/// So much of a file tells whether it is text.
const SNIFFED_BYTES: usize = 512;

/// What lies at a path.
#[derive(Debug)]
enum Found {
    /// Names, those of folders with a slash at their end.
    Folder(Vec<String>),
    File {
        file: File,
        bytes: u64,
        is_text: bool,
    },
}

/// `path` is the request's, `parts` what is behind `/logs` of it.
pub(crate) async fn answer(routes: &Routes, path: &str, parts: &[&str]) -> Answer {
    // A client takes links of a list to stand beside the last slash.
    let is_listed = path.ends_with('/');
    let own = routes.cx.config.logs_dir();
    let asked: PathBuf = parts.iter().filter(|part| !part.is_empty()).collect();
    let name = parts.last().copied().filter(|part| !part.is_empty()).unwrap_or("logs").to_owned();
    let found = tokio::task::spawn_blocking(move || match asked.strip_prefix(PODS) {
        Ok(below) => find(&own, below),
        Err(_) => find(Path::new(MACHINE), &asked).map(|found| with_pods(found, &asked)),
    });
    match found.await.map_err(io::Error::other).flatten() {
        Ok(Found::Folder(_)) if !is_listed => moved(&format!("{}/", escaped(&name))),
        Ok(Found::Folder(names)) => listing(&names),
        Ok(Found::File { file, bytes, is_text }) => content(file, bytes, is_text),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            text(StatusCode::FORBIDDEN, "403 Forbidden\n")
        }
        Err(_) => text(StatusCode::NOT_FOUND, "404 page not found\n"),
    }
}

/// A machine need not have the folder that stands for the node's own.
fn with_pods(found: Found, asked: &Path) -> Found {
    match found {
        Found::Folder(mut names) if asked.as_os_str().is_empty() => {
            names.retain(|name| name.trim_end_matches('/') != PODS);
            names.push(format!("{PODS}/"));
            names.sort();
            Found::Folder(names)
        }
        other => other,
    }
}

fn find(folder: &Path, below: &Path) -> io::Result<Found> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let base = rustix::fs::openat(CWD, folder, flags | OFlags::DIRECTORY, Mode::empty())?;
    let below = if below.as_os_str().is_empty() { Path::new(".") } else { below };
    let within = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let found = rustix::fs::openat2(&base, below, flags, Mode::empty(), within)?;
    let stat = rustix::fs::fstat(&found)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => names(&found).map(Found::Folder),
        FileType::RegularFile => {
            let file = File::from(found);
            let mut head = [0; SNIFFED_BYTES];
            let count = file.read_at(&mut head, 0)?;
            let bytes = u64::try_from(stat.st_size).unwrap_or(0);
            Ok(Found::File { file, bytes, is_text: is_text(&head[..count]) })
        }
        _ => Err(io::ErrorKind::NotFound.into()),
    }
}

fn names(folder: &std::os::fd::OwnedFd) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(folder)? {
        let entry = entry?;
        let mut name = entry.file_name().to_string_lossy().into_owned();
        if name == "." || name == ".." {
            continue;
        }
        if entry.file_type() == FileType::Directory {
            name.push('/');
        }
        names.push(name);
    }
    names.sort();
    Ok(names)
}

/// No byte in it that no text has.
fn is_text(head: &[u8]) -> bool {
    head.iter().all(|byte| !matches!(byte, 0..=8 | 11 | 14..=26 | 28..=31))
}

fn moved(to: &str) -> Answer {
    let mut answer = text(StatusCode::MOVED_PERMANENTLY, "");
    if let Ok(to) = header::HeaderValue::from_str(to) {
        answer.headers_mut().insert(header::LOCATION, to);
    }
    answer
}

/// As Go's file server lists a folder.
fn listing(names: &[String]) -> Answer {
    let mut page = "<!doctype html>\n<meta name=\"viewport\" content=\"width=device-width\">\n\
                    <pre>\n"
        .to_owned();
    for name in names {
        let shown = name.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        let shown = shown.replace('"', "&#34;").replace('\'', "&#39;");
        page.push_str(&format!("<a href=\"{}\">{shown}</a>\n", escaped(name)));
    }
    page.push_str("</pre>\n");
    let mut answer = text(StatusCode::OK, page);
    let kind = header::HeaderValue::from_static("text/html; charset=utf-8");
    answer.headers_mut().insert(header::CONTENT_TYPE, kind);
    answer
}

/// What may stand in a path as it is; a colon would look like a scheme's.
fn escaped(name: &str) -> String {
    let mut link = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/@+=,$".contains(&byte) {
            link.push(char::from(byte));
        } else {
            link.push_str(&format!("%{byte:02X}"));
        }
    }
    link
}

/// As much as there is now: a log may grow for ever.
fn content(file: File, bytes: u64, is_text: bool) -> Answer {
    let pieces = ReaderStream::new(tokio::fs::File::from_std(file).take(bytes));
    let body = StreamBody::new(pieces.map_ok(Frame::data));
    let mut answer = Response::new(body.boxed());
    let kind = if is_text { "text/plain; charset=utf-8" } else { "application/octet-stream" };
    answer.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_listed_and_no_link_leads_out() {
        let dir = tempfile::tempdir().unwrap();
        let below = |path: &str| find(dir.path(), Path::new(path));
        std::fs::create_dir(dir.path().join("in")).unwrap();
        std::fs::write(dir.path().join("in/a.log"), "words\n").unwrap();
        std::fs::write(dir.path().join("in/binary"), [0, 1]).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("out")).unwrap();
        std::os::unix::fs::symlink("in/a.log", dir.path().join("link")).unwrap();
        let Found::Folder(names) = below("").unwrap() else { panic!("a folder") };
        assert_eq!(names, ["in/", "link", "out"]);
        let Found::Folder(names) = with_pods(below("").unwrap(), Path::new("")) else { panic!() };
        assert_eq!(names, ["in/", "link", "out", "pods/"]);
        for path in ["in/a.log", "link"] {
            let Found::File { bytes, is_text, .. } = below(path).unwrap() else { panic!("a file") };
            assert!(bytes == 6 && is_text);
        }
        assert!(matches!(below("in/binary").unwrap(), Found::File { is_text: false, .. }));
        for path in ["out", "../x", "none", "/etc/passwd"] {
            assert!(below(path).is_err(), "{path}");
        }
    }

    #[test]
    fn names_are_written_as_links() {
        assert_eq!(escaped("a b:c/"), "a%20b%3Ac/");
    }
}
