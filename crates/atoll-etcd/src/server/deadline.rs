//! How long a client waits for a call: it says so, and the call ends then, as by grpc-go.

use std::time::Duration;

use http::{HeaderMap, HeaderValue};
use tonic::Status;

const HEADER: &str = "grpc-timeout";
/// Digits and a unit, as the protocol has it.
const CHARACTERS_MAX: usize = 9;

/// `None` when the client waits for ever.
pub(super) fn of(headers: &HeaderMap) -> Result<Option<Duration>, Status> {
    let Some(header) = headers.get(HEADER) else { return Ok(None) };
    parse(header).map(Some).map_err(|(reason, text)| {
        Status::internal(format!("malformed grpc-timeout: transport: timeout {reason}: {text:?}"))
    })
}

pub(super) fn exceeded() -> Status {
    Status::deadline_exceeded("context deadline exceeded")
}

fn parse(header: &HeaderValue) -> Result<Duration, (&'static str, String)> {
    let text = String::from_utf8_lossy(header.as_bytes()).into_owned();
    let Some((number, unit)) = text.len().checked_sub(1).and_then(|at| text.split_at_checked(at))
    else {
        return Err(("string is too short", text));
    };
    if number.is_empty() {
        return Err(("string is too short", text));
    }
    if text.len() > CHARACTERS_MAX {
        return Err(("string is too long", text));
    }
    let is_number = number.bytes().all(|byte| byte.is_ascii_digit());
    let Some(number) = number.parse::<u64>().ok().filter(|_| is_number) else {
        return Err(("is not a number", text));
    };
    match unit {
        "H" => Ok(Duration::from_secs(number * 60 * 60)),
        "M" => Ok(Duration::from_secs(number * 60)),
        "S" => Ok(Duration::from_secs(number)),
        "m" => Ok(Duration::from_millis(number)),
        "u" => Ok(Duration::from_micros(number)),
        "n" => Ok(Duration::from_nanos(number)),
        _ => Err(("unit is not recognized", text)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &'static str) -> Result<Option<Duration>, String> {
        let headers = HeaderMap::from_iter([(
            http::HeaderName::from_static(HEADER),
            HeaderValue::from_static(text),
        )]);
        of(&headers).map_err(|status| status.message().to_owned())
    }

    #[test]
    fn every_unit_is_known() {
        for (text, millis) in
            [("2H", 7_200_000), ("3M", 180_000), ("4S", 4000), ("5m", 5), ("99999999u", 99_999)]
        {
            assert_eq!(read(text).map(|found| found.map(|one| one.as_millis())), Ok(Some(millis)));
        }
        assert_eq!(read("7n"), Ok(Some(Duration::from_nanos(7))));
        assert_eq!(of(&HeaderMap::new()).ok(), Some(None));
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in ["", "S", "1", "1x", "-1S", "123456789S", "1.5S"] {
            let refused = read(text).unwrap_err();
            assert!(refused.starts_with("malformed grpc-timeout: "), "{text}: {refused}");
        }
    }
}
