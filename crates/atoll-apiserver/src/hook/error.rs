//! Why a call got no answer, in Go's words where people search for them.

/// A call that brought no answer that can be used.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    /// `Post "https://…": context deadline exceeded`.
    #[error("{method} {url:?}: {source}")]
    Send { method: &'static str, url: String, source: SendError },
    /// The server answered, and it was no success.
    #[error("{text}")]
    Refused { text: String },
}

/// Why a request was not answered.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// No address: the Service, its port, its endpoints or the name is not there.
    #[error("{text}")]
    Resolve { text: String },
    #[error("dial tcp {address}: {}", connect_reason(source))]
    Connect { address: String, source: std::io::Error },
    #[error("dial tcp {address}: i/o timeout")]
    ConnectTime { address: String },
    #[error("{text}")]
    Tls { text: String },
    #[error("{text}")]
    Broken { text: String },
    #[error("the answer has more than {bytes_max} bytes")]
    TooLarge { bytes_max: usize },
    #[error("context deadline exceeded")]
    Deadline,
}

impl HookError {
    /// Whether time ran out.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        matches!(self, Self::Send { source: SendError::Deadline, .. })
    }
}

fn connect_reason(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
        std::io::ErrorKind::HostUnreachable => "connect: no route to host".to_owned(),
        std::io::ErrorKind::NetworkUnreachable => "connect: network is unreachable".to_owned(),
        _ => format!("connect: {error}"),
    }
}

/// What became of a request on a connection.
pub(super) fn broken(error: &hyper::Error) -> SendError {
    let text = if error.is_incomplete_message() || error.is_closed() || error.is_canceled() {
        "EOF".to_owned()
    } else {
        format!("net/http: HTTP/1.x transport connection broken: {error}")
    };
    SendError::Broken { text }
}
