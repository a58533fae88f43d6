//! One line on a terminal that says how far a pull or an import is.

use super::size;
use atoll_image::Progress;
use std::{
    future::Future,
    io::{IsTerminal as _, Write as _},
    time::Duration,
};
use tokio::sync::watch;

/// Between two changes of the line: a terminal over a network must not hold the work up.
const CHANGES_EVERY: Duration = Duration::from_millis(100);

/// Does the work, and shows how far it is when somebody watches.
pub async fn shown<T, F>(node: &str, work: impl FnOnce(Option<watch::Sender<Progress>>) -> F) -> T
where
    F: Future<Output = T>,
{
    if !std::io::stderr().is_terminal() {
        return work(None).await;
    }
    let (sender, receiver) = watch::channel(Progress::default());
    let mut working = std::pin::pin!(work(Some(sender)));
    let result = tokio::select! {
        result = &mut working => result,
        () = show(node, receiver) => working.await,
    };
    write("\r\x1b[K");
    result
}

/// Ends when the work does.
async fn show(node: &str, mut progress: watch::Receiver<Progress>) {
    while progress.changed().await.is_ok() {
        let now = *progress.borrow_and_update();
        write(&format!(
            "\r{node}: {} of {}, {} of {} layers\x1b[K",
            size(now.fetched_bytes),
            size(now.total_bytes),
            now.layers_unpacked,
            now.layers
        ));
        tokio::time::sleep(CHANGES_EVERY).await;
    }
}

/// To standard error: what comes in is listed on standard output.
fn write(text: &str) {
    let mut out = std::io::stderr().lock();
    // Nobody misses a progress line that could not be shown.
    if out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_err() {
        tracing::debug!("progress not shown");
    }
}
