//! `GET /containerLogs/{namespace}/{pod}/{container}`.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use http::{Response, StatusCode, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use inotify::{Inotify, WatchMask};
use jiff::{SignedDuration, Timestamp};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

use crate::kubelet::log_file::{self, Follower, Source};
use crate::kubelet::routes::{Place, Query, Routes};
use crate::kubelet::{Answer, text};
use crate::pod::spec;
use crate::pod::task::Shown;

/// Pieces of a log on their way to a client; the reader waits when it is full.
const PIECES_MAX: usize = 64;

/// Read at a time.
const BATCH_BYTES: usize = 64 << 10;

/// What of the log is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Options {
    follow: bool,
    previous: bool,
    timestamps: bool,
    tail_lines: Option<usize>,
    limit_bytes: Option<usize>,
    since: Option<Timestamp>,
}

impl Options {
    fn parse(query: &Query, now: Timestamp) -> Result<Options, String> {
        let number = |name: &str| -> Result<Option<i64>, String> {
            let Some(text) = query.get(name).filter(|text| !text.is_empty()) else {
                return Ok(None);
            };
            let number = text
                .parse()
                .map_err(|_not_a_number| format!("{name}: Invalid value: \"{text}\""))?;
            if number < 0 {
                return Err(format!(
                    "{name}: Invalid value: {number}: must be greater than or equal to 0"
                ));
            }
            Ok(Some(number))
        };
        let since_time = match query.get("sinceTime").filter(|text| !text.is_empty()) {
            None => None,
            Some(text) => Some(
                text.parse::<Timestamp>()
                    .map_err(|error| format!("sinceTime: Invalid value: \"{text}\": {error}"))?,
            ),
        };
        let since_seconds = number("sinceSeconds")?;
        let since = since_seconds
            .and_then(|seconds| now.checked_sub(SignedDuration::from_secs(seconds)).ok())
            .or(since_time);
        let size = |value: Option<i64>| value.and_then(|value| usize::try_from(value).ok());
        Ok(Options {
            follow: query.flag("follow"),
            previous: query.flag("previous"),
            timestamps: query.flag("timestamps"),
            tail_lines: size(number("tailLines")?),
            limit_bytes: size(number("limitBytes")?),
            since,
        })
    }
}

pub(crate) fn answer(routes: &Routes, place: &Place, query: &Query) -> Answer {
    let options = match Options::parse(query, routes.cx.now()) {
        Ok(options) => options,
        Err(reason) => return text(StatusCode::BAD_REQUEST, reason),
    };
    let log = match find(routes, place, &options) {
        Ok(log) => log,
        Err(reason) => return text(StatusCode::BAD_REQUEST, reason),
    };
    let (pieces, receiver) = mpsc::channel::<Result<Frame<Bytes>, io::Error>>(PIECES_MAX);
    let reader = Reader {
        log,
        attempt_container: place.container.clone(),
        shown: place.handle.shown.clone(),
        left: options.limit_bytes,
        options,
        pieces,
    };
    let stop = routes.cx.stop.clone();
    routes.cx.tasks.spawn(async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = reader.run() => {}
        }
    });
    let mut answer = Response::new(BodyExt::boxed(StreamBody::new(ReceiverStream::new(receiver))));
    let kind = header::HeaderValue::from_static("text/plain");
    answer.headers_mut().insert(header::CONTENT_TYPE, kind);
    answer
}

/// The file of the wanted run, or why there is none, in the kubelet's words.
fn find(routes: &Routes, place: &Place, options: &Options) -> Result<PathBuf, String> {
    let (name, pod) = (&place.container, &place.handle.id);
    let dir = spec::log_dir(&routes.cx.config, pod, name);
    let known = place.shown.containers.get(name);
    let current =
        known.and_then(|shown| shown.current.as_ref()).map(crate::pod::track::Run::attempt);
    let previous =
        known.and_then(|shown| shown.previous.as_ref()).map(crate::pod::track::Run::attempt);
    // A pod that was cleared away has no runs any more, but its logs are still there.
    let newest = current.or_else(|| newest_attempt(&dir));
    let attempt = if options.previous {
        previous.or_else(|| newest.and_then(|n| n.checked_sub(1)))
    } else {
        newest
    };
    let log = attempt.map(|attempt| dir.join(format!("{attempt}.log"))).filter(|log| log.exists());
    log.ok_or_else(|| {
        if options.previous {
            return format!(
                "previous terminated container \"{name}\" in pod \"{}\" not found",
                pod.name
            );
        }
        let reason = known.and_then(|shown| shown.waiting.as_deref());
        let why = match reason.unwrap_or("ContainerCreating") {
            "ErrImagePull" | "ErrImageNeverPull" => "image can't be pulled",
            "ImagePullBackOff" => "trying and failing to pull image",
            other => other,
        };
        format!("container \"{name}\" in pod \"{}\" is waiting to start: {why}", pod.name)
    })
}

fn newest_attempt(dir: &Path) -> Option<u32> {
    let entries = std::fs::read_dir(dir).ok()?.flatten();
    let attempt = |entry: std::fs::DirEntry| {
        entry.file_name().to_string_lossy().strip_suffix(".log")?.parse().ok()
    };
    entries.filter_map(attempt).max()
}

struct Reader {
    log: PathBuf,
    attempt_container: String,
    shown: watch::Receiver<Arc<Shown>>,
    options: Options,
    left: Option<usize>,
    pieces: mpsc::Sender<Result<Frame<Bytes>, io::Error>>,
}

impl Reader {
    async fn run(mut self) {
        if let Err(error) = self.read().await
            && self.pieces.send(Err(error)).await.is_err()
        {
            tracing::trace!("log client is gone");
        }
    }

    async fn read(&mut self) -> io::Result<()> {
        let log = self.log.clone();
        let mut follower = blocking(move || Follower::open(&log)).await?;
        if let Some(count) = self.options.tail_lines {
            let tail = blocking(move || {
                let lines = log_file::tail(&mut follower, count)?;
                Ok((follower, lines))
            });
            let lines;
            (follower, lines) = tail.await?;
            for line in lines {
                if !self.send(&line).await {
                    return Ok(());
                }
            }
        } else {
            let (log, newest) = (self.log.clone(), follower.inode());
            for older in blocking(move || log_file::open_older(&log, newest)).await? {
                if self.pass_on(older).await?.is_none() {
                    return Ok(());
                }
            }
        }
        if self.options.follow {
            return self.follow(follower).await;
        }
        self.pass_on(follower.rest()).await.map(|_| ())
    }

    /// Everything that the source has now. `None` when no more is wanted.
    async fn pass_on<S: Source + 'static>(&mut self, mut source: S) -> io::Result<Option<S>> {
        loop {
            let lines;
            (source, lines) = blocking(move || {
                let lines = batch(&mut source)?;
                Ok((source, lines))
            })
            .await?;
            if lines.is_empty() {
                return Ok(Some(source));
            }
            for line in lines {
                if !self.send(&line).await {
                    return Ok(None);
                }
            }
        }
    }

    /// Returns whether more is wanted.
    async fn send(&mut self, line: &[u8]) -> bool {
        let Some(entry) = log_file::parse(line) else { return true };
        if self.options.since.is_some_and(|since| entry.is_before(since)) {
            return true;
        }
        let mut bytes = entry.render(self.options.timestamps);
        if let Some(left) = &mut self.left {
            bytes.truncate(*left);
            *left -= bytes.len();
        }
        let sent = self.pieces.send(Ok(Frame::data(bytes.into()))).await.is_ok();
        sent && self.left != Some(0)
    }

    async fn follow(&mut self, mut follower: Follower) -> io::Result<()> {
        let inotify = Inotify::init()?;
        let dir = self.log.parent().unwrap_or(Path::new("/"));
        let mask = WatchMask::MODIFY | WatchMask::CREATE | WatchMask::MOVED_TO;
        inotify.watches().add(dir, mask)?;
        let mut changes = inotify.into_event_stream(vec![0; 4096])?;
        loop {
            // Looked at before reading, so that what it wrote last has been read.
            let ended = self.has_ended();
            let Some(going_on) = self.pass_on(follower).await? else { return Ok(()) };
            follower = going_on;
            if ended {
                return Ok(());
            }
            tokio::select! {
                _ = changes.next() => {}
                changed = self.shown.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                }
                () = self.pieces.closed() => return Ok(()),
            }
        }
    }

    /// The run that writes this log is over.
    fn has_ended(&self) -> bool {
        let shown = self.shown.borrow();
        let Some(run) =
            shown.containers.get(&self.attempt_container).and_then(|c| c.current.as_ref())
        else {
            return true;
        };
        let own = self.log.file_name() == Some(format!("{}.log", run.attempt()).as_ref());
        !own || run.exit().is_some()
    }
}

/// Reads files without holding up those who wait for the network.
async fn blocking<T: Send + 'static>(
    read: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(read).await.map_err(io::Error::other)?
}

fn batch(source: &mut dyn Source) -> io::Result<Vec<Vec<u8>>> {
    let (mut lines, mut bytes) = (Vec::new(), 0);
    while bytes < BATCH_BYTES
        && let Some(line) = source.next_line()?
    {
        bytes += line.len();
        lines.push(line);
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_checked() {
        let now = Timestamp::from_second(1000).unwrap();
        let parse = |query: &str| Options::parse(&Query::parse(Some(query)), now);
        let options = parse("follow=true&tailLines=5&sinceSeconds=10&limitBytes=7").unwrap();
        assert!(options.follow && !options.previous);
        assert_eq!((options.tail_lines, options.limit_bytes), (Some(5), Some(7)));
        assert_eq!(options.since, Some(Timestamp::from_second(990).unwrap()));
        assert!(parse("tailLines=-1").unwrap_err().contains("must be greater than or equal to 0"));
        assert!(parse("sinceTime=yesterday").is_err());
        assert!(parse("tailLines=x").is_err());
    }

    #[test]
    fn the_newest_log_is_the_one_with_the_highest_number() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["2.log", "10.log", "2.log.20260101-000000", "x"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        assert_eq!(newest_attempt(dir.path()), Some(10));
    }
}
