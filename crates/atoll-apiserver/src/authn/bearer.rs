//! Bearer tokens: found in a request, and proven.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use http::header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL};
use http::request::Parts;
use jiff::Timestamp;

use crate::tokens::TokenProblem;
use crate::tokens::objects::Objects;
use crate::tokens::secret;
use crate::trust::Trust;
use crate::user::UserInfo;

/// Browsers cannot set headers on WebSockets; they send the token as a subprotocol.
pub(crate) const WEBSOCKET_PREFIX: &str = "base64url.bearer.authorization.k8s.io.";

/// A token that holds.
#[derive(Debug)]
pub(crate) struct Verified {
    pub(crate) user: UserInfo,
    /// Those of the wanted audiences that the token is for.
    pub(crate) audiences: Vec<String>,
}

/// The token of a request, if it carries one.
pub(crate) fn token(request: &Parts) -> Option<String> {
    let header = request.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    if let Some((scheme, token)) = header.and_then(|text| text.trim().split_once(' '))
        && scheme.eq_ignore_ascii_case("bearer")
    {
        return Some(token.trim().to_owned());
    }
    let protocols = request.headers.get(SEC_WEBSOCKET_PROTOCOL)?.to_str().ok()?;
    let encoded =
        protocols.split(',').find_map(|protocol| protocol.trim().strip_prefix(WEBSOCKET_PREFIX))?;
    let bytes = URL_SAFE_NO_PAD
        .decode(encoded)
        .or_else(|_other_alphabet| STANDARD_NO_PAD.decode(encoded))
        .ok()?;
    String::from_utf8(bytes).ok()
}

/// Verifies a ServiceAccount token for the wanted audiences (empty: this API's).
pub(crate) async fn verify(
    trust: &Trust,
    objects: Objects<'_>,
    token: &str,
    wanted: &[String],
    now: Timestamp,
) -> Result<Verified, TokenProblem> {
    let own = [trust.tokens.issuer().to_owned()];
    let wanted = if wanted.is_empty() { &own[..] } else { wanted };
    let claims = match trust.tokens.verify(token, now) {
        // Such a token has no audience of its own: it is for this API.
        Err(problem) if secret::may_be(&problem) => {
            let audiences = common(wanted, &own)?;
            let user = secret::verify(&trust.tokens, objects, token).await?;
            return Ok(Verified { user, audiences });
        }
        claims => claims?,
    };
    let audiences = common(wanted, &claims.aud)?;
    objects.check(&claims).await?;
    Ok(Verified { user: claims.user(), audiences })
}

/// Those of the wanted audiences that a token has; there must be one.
fn common(wanted: &[String], has: &[String]) -> Result<Vec<String>, TokenProblem> {
    let audiences: Vec<String> =
        wanted.iter().filter(|audience| has.contains(audience)).cloned().collect();
    if audiences.is_empty() {
        return Err(TokenProblem::Audience { has: has.to_vec(), wanted: wanted.to_vec() });
    }
    Ok(audiences)
}
