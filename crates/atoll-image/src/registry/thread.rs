//! The thread that does all registry traffic.

use std::future::Future;
use std::path::PathBuf;

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

/// A runtime on a thread of its own; it ends with this value.
#[derive(Debug)]
pub(crate) struct NetThread {
    handle: Handle,
    stop: CancellationToken,
}

impl Drop for NetThread {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl NetThread {
    /// Starts the thread, in the given network namespace if one is given.
    pub(crate) fn start(netns: Option<PathBuf>) -> std::io::Result<NetThread> {
        let stop = CancellationToken::new();
        let until = stop.clone();
        let (send, receive) = std::sync::mpsc::sync_channel(1);
        std::thread::Builder::new().name("registry".to_owned()).spawn(move || {
            let prepared = prepare(netns);
            let runtime = match prepared {
                Ok(runtime) => runtime,
                Err(error) => {
                    if send.send(Err(error)).is_err() {
                        tracing::debug!("nobody waits for the registry thread");
                    }
                    return;
                }
            };
            if send.send(Ok(runtime.handle().clone())).is_ok() {
                runtime.block_on(until.cancelled());
            }
        })?;
        let handle = receive.recv().map_err(std::io::Error::other)??;
        Ok(NetThread { handle, stop })
    }

    /// Runs a future on the thread. Dropping the returned future ends it there too.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        let task = AbortOnDrop(self.handle.spawn(work));
        task.await
    }
}

fn prepare(netns: Option<PathBuf>) -> std::io::Result<tokio::runtime::Runtime> {
    if let Some(path) = netns {
        let namespace = std::fs::File::open(&path)?;
        rustix::thread::move_into_link_name_space(
            std::os::fd::AsFd::as_fd(&namespace),
            Some(rustix::thread::LinkNameSpaceType::Network),
        )?;
    }
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

impl<T> Future for AbortOnDrop<T> {
    type Output = Option<T>;

    fn poll(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<T>> {
        std::pin::Pin::new(&mut self.0).poll(cx).map(Result::ok)
    }
}

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
