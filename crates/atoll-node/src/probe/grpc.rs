//! gRPC probes: `grpc.health.v1.Health/Check` in plaintext.
//!
//! The two messages have one field each, so they are written out here by hand.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::{Request, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::probe::{Outcome, tcp};

const ANSWER_BYTES_MAX: usize = 10 << 10;
/// `HealthCheckResponse.ServingStatus.SERVING`.
const SERVING: u64 = 1;

pub async fn probe(host: &str, port: u16, service: &str, timeout: Duration) -> Outcome {
    let address = tcp::join(host, port);
    let stream = match tcp::connect(host, port, timeout).await {
        Ok(stream) => stream,
        Err(reason) => {
            return Outcome::Failure(format!(
                "timeout: failed to connect service \"{address}\" within {}s: {reason}",
                timeout.as_secs()
            ));
        }
    };
    let late = || {
        Outcome::Failure(format!(
            "timeout: health rpc did not complete within {}s",
            timeout.as_secs()
        ))
    };
    tokio::time::timeout(timeout, check(stream, &address, service)).await.unwrap_or_else(|_| late())
}

async fn check(stream: tokio::net::TcpStream, address: &str, service: &str) -> Outcome {
    match ask(stream, address, service).await {
        Ok(Answer::Status(SERVING)) => Outcome::Success,
        Ok(Answer::Status(status)) => Outcome::Failure(format!(
            "service unhealthy (responded with \"{}\")",
            match status {
                2 => "NOT_SERVING",
                3 => "SERVICE_UNKNOWN",
                _ => "UNKNOWN",
            }
        )),
        Ok(Answer::Refused(code, text)) => {
            Outcome::Failure(format!("error: health rpc failed with status {code}: {text}"))
        }
        Err(reason) => Outcome::Failure(format!("error: health rpc failed: {reason}")),
    }
}

enum Answer {
    Status(u64),
    Refused(String, String),
}

async fn ask(
    stream: tokio::net::TcpStream,
    address: &str,
    service: &str,
) -> Result<Answer, String> {
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .map_err(|error| error.to_string())?;
    let uri: Uri = format!("http://{address}/grpc.health.v1.Health/Check")
        .parse()
        .map_err(|error| format!("{error}"))?;
    let request = Request::post(uri)
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .header(header::USER_AGENT, "kube-probe/1.36")
        .body(Full::new(frame(service)))
        .map_err(|error| error.to_string())?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let early = grpc_status(response.headers());
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX);
        let body = body.collect().await.map_err(|error| error.to_string())?;
        let late = body.trailers().and_then(grpc_status);
        match early.or(late) {
            Some((code, text)) if code != "0" => Ok(Answer::Refused(code, text)),
            _ => serving_status(&body.to_bytes()).map(Answer::Status),
        }
    };
    tokio::pin!(exchange);
    tokio::select! {
        biased;
        result = &mut exchange => result,
        // The answer may have come whole before the connection ended.
        _ended = connection => exchange.await,
    }
}

fn grpc_status(headers: &http::HeaderMap) -> Option<(String, String)> {
    let text = |name| headers.get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
    Some((text("grpc-status")?, text("grpc-message").unwrap_or_default()))
}

/// One uncompressed message: a flag, four bytes of length, then field 1 as a string.
fn frame(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(0x0a);
        put_varint(&mut message, service.len() as u64);
        message.put_slice(service.as_bytes());
    }
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.put_slice(&message);
    framed.freeze()
}

fn put_varint(to: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        to.put_u8(0x80 | u8::try_from(value & 0x7f).unwrap_or(0));
        value >>= 7;
    }
    to.put_u8(u8::try_from(value).unwrap_or(0));
}

/// Field 1 of the answer; an empty message means 0.
fn serving_status(framed: &[u8]) -> Result<u64, String> {
    let message = framed.get(5..).ok_or("the answer has no message")?;
    match message {
        [] => Ok(0),
        [0x08, status, ..] if *status < 0x80 => Ok(u64::from(*status)),
        _ => Err("the answer is no HealthCheckResponse".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_framed_as_grpc_wants() {
        assert_eq!(&frame("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&frame("ab")[..], [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        assert_eq!(serving_status(&[0, 0, 0, 0, 2, 8, 1]), Ok(SERVING));
        assert_eq!(serving_status(&[0, 0, 0, 0, 0]), Ok(0));
        assert!(serving_status(&[0, 0]).is_err());
    }
}
