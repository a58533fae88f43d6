//! Connects to a port of a server's loopback, from inside of its network namespace.

use crate::http::Origin;
use http::Uri;
use hyper_util::rt::TokioIo;
use std::{
    io::{Error, Result},
    net::{Ipv4Addr, SocketAddr, TcpStream as StdStream},
    path::PathBuf,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};
use tokio::net::TcpStream;

const DIAL_MAX: Duration = Duration::from_secs(1);

#[derive(Debug, Clone)]
pub(super) struct Connector {
    pub(super) place: PathBuf,
    pub(super) port: u16,
}

impl tower::Service<Uri> for Connector {
    type Response = TokioIo<TcpStream>;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<TokioIo<TcpStream>>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _uri: Uri) -> Self::Future {
        let Self { place, port } = self.clone();
        Box::pin(async move {
            let (sender, made) = tokio::sync::oneshot::channel();
            // A thread of its own, since it does not come back from there.
            std::thread::spawn(move || {
                Origin::Namespace(place).enter();
                let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
                sender.send(StdStream::connect_timeout(&address, DIAL_MAX)).ok();
            });
            let stream = made.await.map_err(Error::other)??;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            Ok(TokioIo::new(TcpStream::from_std(stream)?))
        })
    }
}
