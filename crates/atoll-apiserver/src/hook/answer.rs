//! What a server said when it did not do it, as upstream's client puts it.

use atoll_api::access::Access as _;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, StatusCode};
use serde_json::Value;

/// Bytes of a text that are passed on; upstream's number.
const TEXT_BYTES_MAX: usize = 2048;

/// The text of an answer that is no success.
#[must_use]
pub fn refusal_text(code: StatusCode, headers: &HeaderMap, body: &[u8]) -> String {
    if let Ok(status) = serde_json::from_slice::<Value>(body)
        && status.text("kind") == "Status"
        && !status.text("message").is_empty()
    {
        return status.text("message").to_owned();
    }
    let said = said(headers, body);
    match code.as_u16() {
        400 => "the server rejected our request for an unknown reason".to_owned(),
        401 => "the server has asked for the client to provide credentials".to_owned(),
        404 => "the server could not find the requested resource".to_owned(),
        405 => "the server does not allow this method on the requested resource".to_owned(),
        403 | 406 | 415 => said,
        409 => "the server reported a conflict".to_owned(),
        422 => "the server rejected our request due to an error in our request".to_owned(),
        429 => "the server has received too many requests and has asked us to try again later"
            .to_owned(),
        503 => "the server is currently unable to handle the request".to_owned(),
        504 => "the server was unable to return a response in the time allotted, but may still be \
                processing the request"
            .to_owned(),
        500.. => {
            let said = atoll_api::field::quote(&said);
            format!("an error on the server ({said}) has prevented the request from succeeding")
        }
        code => format!(
            "the server responded with the status code {code} but did not return more information"
        ),
    }
}

/// The body where it is text.
fn said(headers: &HeaderMap, body: &[u8]) -> String {
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("text/");
    if !kind.starts_with("text/") {
        return "unknown".to_owned();
    }
    let body = body.get(..TEXT_BYTES_MAX).unwrap_or(body);
    String::from_utf8_lossy(body).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_reads_as_upstreams() {
        let none = HeaderMap::new();
        assert_eq!(
            refusal_text(StatusCode::INTERNAL_SERVER_ERROR, &none, b"it broke\n"),
            "an error on the server (\"it broke\") has prevented the request from succeeding"
        );
        let status = br#"{"kind": "Status", "message": "no"}"#;
        assert_eq!(refusal_text(StatusCode::FORBIDDEN, &none, status), "no");
        assert_eq!(
            refusal_text(StatusCode::NOT_FOUND, &none, b"404 page not found"),
            "the server could not find the requested resource"
        );
    }
}
