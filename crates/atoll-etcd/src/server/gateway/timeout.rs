//! How long a client waits, as it says to a gateway (`runtime.AnnotateContext` of grpc-gateway):
//! digits of any number, and none is no limit.

use std::time::Duration;

use http::{HeaderMap, HeaderValue};
use tonic::Status;

/// As many milliseconds, and then seconds, as gRPC's own header has room for.
const NUMBER_MAX: u128 = 99_999_999;

pub(super) fn of(headers: &HeaderMap) -> Result<Option<Duration>, Status> {
    let Some(header) = headers.get(super::TIMEOUT) else { return Ok(None) };
    let text = String::from_utf8_lossy(header.as_bytes());
    let timeout = parse(&text);
    let timeout =
        timeout.ok_or_else(|| Status::invalid_argument(format!("invalid grpc-timeout: {text}")))?;
    Ok(Some(timeout).filter(|timeout| !timeout.is_zero()))
}

fn parse(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number: u64 = number.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number.saturating_mul(3600)),
        "M" => Duration::from_secs(number.saturating_mul(60)),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

/// The same for gRPC, rounded up to what its header can say.
pub(super) fn header(timeout: Duration) -> HeaderValue {
    let millis = timeout.as_nanos().div_ceil(1_000_000);
    let text = match millis {
        millis if millis <= NUMBER_MAX => format!("{millis}m"),
        millis => format!("{}S", millis.div_ceil(1_000).min(NUMBER_MAX)),
    };
    // Digits and a letter always are one.
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("99999999S"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_gateways_take_becomes_what_grpc_takes() {
        for (given, expected) in [
            ("100m", "100m"),
            ("1000000000n", "1000m"),
            ("1n", "1m"),
            ("5S", "5000m"),
            ("2H", "7200000m"),
            ("1000000S", "1000000S"),
            ("18446744073709551615H", "99999999S"),
        ] {
            let headers = HeaderMap::from_iter([(super::super::TIMEOUT, given.parse().unwrap())]);
            let timeout = of(&headers).unwrap().unwrap();
            assert_eq!(header(timeout).to_str().unwrap(), expected, "{given}");
        }
        for (given, is_valid) in
            [("0S", true), ("S", false), ("-1S", false), ("1", false), ("", false)]
        {
            let headers = HeaderMap::from_iter([(super::super::TIMEOUT, given.parse().unwrap())]);
            let found = of(&headers);
            assert_eq!(found.as_ref().is_ok_and(Option::is_none), is_valid, "{given} {found:?}");
        }
    }
}
