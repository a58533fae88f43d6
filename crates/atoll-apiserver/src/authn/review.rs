//! Reviews of identity: whose token is this, and who am I.

use atoll_api::access::Access as _;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use serde_json::{Value, json};

use super::bearer;
use crate::core::Core;
use crate::extension::VirtualCreate;
use crate::status::Status;
use crate::tokens::objects::Objects;
use crate::user::UserInfo;

/// `TokenReview`: whose token is this.
pub fn token<'a>(
    core: &'a Core,
    request: VirtualCreate<'a>,
) -> BoxFuture<'a, Result<Value, Status>> {
    answer_token(core, request).boxed()
}

/// `SelfSubjectReview`: who am I.
pub fn own<'a>(core: &'a Core, request: VirtualCreate<'a>) -> BoxFuture<'a, Result<Value, Status>> {
    let VirtualCreate { user, mut object, .. } = request;
    object["status"] = json!({"userInfo": user_value(user)});
    object["metadata"]["creationTimestamp"] = json!(core.now_text());
    async move { Ok(object) }.boxed()
}

async fn answer_token(core: &Core, request: VirtualCreate<'_>) -> Result<Value, Status> {
    let VirtualCreate { mut object, .. } = request;
    let trust = core.trust()?;
    let token = object["spec"].text("token").to_owned();
    if token.is_empty() {
        return Err(Status::bad_request("token is required for TokenReview in authentication"));
    }
    let wanted: Vec<String> = object["spec"]
        .items("audiences")
        .iter()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    let objects = Objects { registry: &core.registry, storage: &core.storage };
    object["status"] = match bearer::verify(trust, objects, &token, &wanted, core.now()).await {
        Ok(verified) => json!({
            "authenticated": true,
            "user": user_value(&verified.user),
            "audiences": verified.audiences,
        }),
        Err(problem) => {
            json!({"user": {}, "error": format!("invalid bearer token, {problem}")})
        }
    };
    Ok(object)
}

/// A user as objects show it.
pub(crate) fn user_value(user: &UserInfo) -> Value {
    let mut value = json!({"username": user.name, "groups": user.groups});
    if !user.uid.is_empty() {
        value["uid"] = json!(user.uid);
    }
    if !user.extra.is_empty() {
        value["extra"] = json!(user.extra);
    }
    value
}
