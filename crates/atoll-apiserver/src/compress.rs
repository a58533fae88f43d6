//! gzip of large answers, for clients that take it.
//!
//! Only answers that are there as a whole: watches and logs stay as they are, as upstream's.

use std::io::Write as _;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{
    ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, HeaderMap, HeaderValue, VARY,
};
use http::{Response, StatusCode};

use crate::body::Body;

/// Smaller answers go out as they are; upstream's number.
const BYTES_MIN: usize = 128 * 1024;

/// Whether the client takes gzip. As upstream, weights do not count.
pub(crate) fn accepted(headers: &HeaderMap) -> bool {
    let values = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    let mut tokens = values.flat_map(|value| value.split(','));
    tokens.any(|token| token.split(';').next().unwrap_or("").trim() == "gzip")
}

/// The answer, compressed when it is large. Compressing is work, which a thread of its own
/// does.
pub(crate) async fn large(response: Response<Body>) -> Response<Body> {
    let whole = response.body().whole().filter(|bytes| bytes.len() > BYTES_MIN).cloned();
    let (Some(bytes), StatusCode::OK) = (whole, response.status()) else { return response };
    let Ok(Ok(small)) = tokio::task::spawn_blocking(move || gzip(&bytes)).await else {
        return response;
    };
    let mut response = response.map(|_| Body::from(small));
    let headers = response.headers_mut();
    headers.remove(CONTENT_LENGTH);
    headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    headers.append(VARY, HeaderValue::from_static("Accept-Encoding"));
    response
}

fn gzip(bytes: &Bytes) -> std::io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 8), Compression::fast());
    encoder.write_all(bytes)?;
    encoder.finish()
}
