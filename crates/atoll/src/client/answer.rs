//! Reads the API's answers as they are: documents, refusals, and the warnings that come
//! with either.

use super::output;
use anyhow::{Context as _, Result};
use http::Request;
use kube::{Client, client::Body, core::Status};
use serde_json::Value;

/// Asks for `uri`; prints warnings as kubectl does.
pub async fn get(client: &Client, uri: String, accept: &str) -> Result<Value> {
    let request = Request::get(uri)
        .header(http::header::ACCEPT, accept)
        .body(Body::empty())
        .context("building a request")?;
    let response = client.send(request).await?;
    for warning in response.headers().get_all(http::header::WARNING) {
        if let Some(text) = warning.to_str().ok().and_then(warning_text) {
            output::remark(&format!("Warning: {text}"));
        }
    }
    let code = response.status();
    let bytes = response.into_body().collect_bytes().await?;
    if code.is_success() {
        return serde_json::from_slice(&bytes).context("reading the server's answer");
    }
    let status: Status = serde_json::from_slice(&bytes).with_context(|| {
        format!("the server answered {code}: {}", String::from_utf8_lossy(&bytes).trim())
    })?;
    Err(kube::Error::Api(status.boxed()).into())
}

/// The quoted text of `299 - "text"`.
fn warning_text(header: &str) -> Option<String> {
    let quoted = header.splitn(3, ' ').nth(2)?;
    let inner = quoted.strip_prefix('"')?.strip_suffix('"')?;
    Some(inner.replace("\\\"", "\"").replace("\\\\", "\\"))
}

/// A refusal as kubectl prints it: `Error from server (NotFound): …`.
pub fn refusal(error: &anyhow::Error, doing: &str) -> String {
    for cause in error.chain() {
        if let Some(kube::Error::Api(status)) = cause.downcast_ref::<kube::Error>() {
            let reason = if status.reason.is_empty() { "Unknown" } else { &status.reason };
            let doing = if doing.is_empty() { String::new() } else { format!("{doing}: ") };
            return format!("Error from server ({reason}): {doing}{}", status.message);
        }
    }
    format!("error: {error:#}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_is_its_quoted_text() {
        assert_eq!(warning_text(r#"299 - "v1 \"x\" is old""#).unwrap(), r#"v1 "x" is old"#);
        assert_eq!(warning_text("299"), None);
    }
}
