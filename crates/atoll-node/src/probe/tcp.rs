//! TCP probes, and the words in which a failed connection is reported.

use std::io;
use std::time::Duration;

use tokio::net::TcpStream;

use crate::probe::Outcome;

pub async fn probe(host: &str, port: u16, timeout: Duration) -> Outcome {
    match connect(host, port, timeout).await {
        Ok(_stream) => Outcome::Success,
        Err(reason) => Outcome::Failure(reason),
    }
}

/// Connects; an error reads as Go's would.
pub(crate) async fn connect(host: &str, port: u16, timeout: Duration) -> Result<TcpStream, String> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let address = join(host, port);
    match tokio::time::timeout(timeout, TcpStream::connect((bare, port))).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(format!("dial tcp {address}: {}", describe(&error))),
        Err(_elapsed) => Err(format!("dial tcp {address}: i/o timeout")),
    }
}

pub(crate) fn join(host: &str, port: u16) -> String {
    if host.contains(':') && !host.starts_with('[') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

fn describe(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ECONNREFUSED) => "connect: connection refused".to_owned(),
        Some(libc::EHOSTUNREACH) => "connect: no route to host".to_owned(),
        Some(libc::ENETUNREACH) => "connect: network is unreachable".to_owned(),
        _ => error.to_string(),
    }
}
