//! The authorizer: from `authorizer.group('apps')` to `.check('get').allowed()`.

use std::rc::Rc;

use super::{Context, Function, Opaque, function, no_overload};
use crate::cel::authorizer::{Asking, Decision, Stage};
use crate::cel::error::{EvalError, fail};
use crate::cel::value::Value;
use crate::names;

type Evaluated<'a> = Result<Value<'a>, EvalError>;

const RESOURCE: &[&str] =
    &["kubernetes.authorization.ResourceCheck.(string) kubernetes.authorization.ResourceCheck"];

pub(super) const FUNCTIONS: &[Function] = &[
    function(
        "path",
        &["kubernetes.authorization.Authorizer.(string) kubernetes.authorization.PathCheck"],
        |args, _| {
            let (asking, path) = pair(args, Stage::Authorizer)?;
            if path.is_empty() {
                return fail("path must not be empty");
            }
            step(asking, Stage::Path, |question| question.path = Some(path.to_owned()))
        },
    ),
    function(
        "group",
        &["kubernetes.authorization.Authorizer.(string) kubernetes.authorization.GroupCheck"],
        |args, _| {
            let (asking, group) = pair(args, Stage::Authorizer)?;
            step(asking, Stage::Group, |question| group.clone_into(&mut question.group))
        },
    ),
    function(
        "serviceAccount",
        &[
            "kubernetes.authorization.Authorizer.(string, string) kubernetes.authorization.Authorizer",
        ],
        service_account,
    ),
    function(
        "resource",
        &["kubernetes.authorization.GroupCheck.(string) kubernetes.authorization.ResourceCheck"],
        |args, _| {
            let (asking, resource) = pair(args, Stage::Group)?;
            step(asking, Stage::Resource, |question| resource.clone_into(&mut question.resource))
        },
    ),
    function("subresource", RESOURCE, |args, _| {
        let (asking, text) = pair(args, Stage::Resource)?;
        step(asking, Stage::Resource, |question| text.clone_into(&mut question.subresource))
    }),
    function("namespace", RESOURCE, |args, _| {
        let (asking, text) = pair(args, Stage::Resource)?;
        step(asking, Stage::Resource, |question| text.clone_into(&mut question.namespace))
    }),
    function("name", RESOURCE, |args, _| {
        let (asking, text) = pair(args, Stage::Resource)?;
        step(asking, Stage::Resource, |question| text.clone_into(&mut question.name))
    }),
    function("fieldSelector", RESOURCE, |args, _| {
        let (asking, text) = pair(args, Stage::Resource)?;
        step(asking, Stage::Resource, |question| text.clone_into(&mut question.field_selector))
    }),
    function("labelSelector", RESOURCE, |args, _| {
        let (asking, text) = pair(args, Stage::Resource)?;
        step(asking, Stage::Resource, |question| text.clone_into(&mut question.label_selector))
    }),
    function(
        "check",
        &[
            "kubernetes.authorization.PathCheck.(string) kubernetes.authorization.Decision",
            "kubernetes.authorization.ResourceCheck.(string) kubernetes.authorization.Decision",
        ],
        |args, _| match args {
            [Value::Opaque(Opaque::Asking(asking)), Value::String(verb)]
                if matches!(asking.stage, Stage::Path | Stage::Resource) =>
            {
                Ok(Value::Opaque(Opaque::Decision(Rc::new(asking.check(verb.as_str())))))
            }
            _ => no_overload(),
        },
    ),
    function("allowed", &["kubernetes.authorization.Decision.() bool"], |args, _| {
        decided(args, |decision| Value::Bool(decision.allowed))
    }),
    function("reason", &["kubernetes.authorization.Decision.() string"], |args, _| {
        decided(args, |decision| Value::text(decision.reason.as_str()))
    }),
    function("errored", &["kubernetes.authorization.Decision.() bool"], |args, _| {
        decided(args, |decision| Value::Bool(!decision.error.is_empty()))
    }),
    function("error", &["kubernetes.authorization.Decision.() string"], |args, _| {
        decided(args, |decision| Value::text(decision.error.as_str()))
    }),
];

impl Stage {
    pub(super) fn type_name(self) -> &'static str {
        match self {
            Self::Authorizer => "kubernetes.authorization.Authorizer",
            Self::Path => "kubernetes.authorization.PathCheck",
            Self::Group => "kubernetes.authorization.GroupCheck",
            Self::Resource => "kubernetes.authorization.ResourceCheck",
        }
    }
}

fn pair<'v, 'a>(
    args: &'v [Value<'a>],
    stage: Stage,
) -> Result<(&'v Asking<'a>, &'v str), EvalError> {
    match args {
        [Value::Opaque(Opaque::Asking(asking)), Value::String(text)] if asking.stage == stage => {
            Ok((asking, text.as_str()))
        }
        _ => Err(EvalError::no_overload()),
    }
}

fn step<'a>(
    asking: &Asking<'a>,
    stage: Stage,
    set: impl FnOnce(&mut crate::cel::authorizer::Question),
) -> Evaluated<'a> {
    Ok(Value::Opaque(Opaque::Asking(Rc::new(asking.next(stage, set)))))
}

fn service_account<'a>(args: &[Value<'a>], _: &Context) -> Evaluated<'a> {
    let [Value::Opaque(Opaque::Asking(asking)), Value::String(namespace), Value::String(name)] =
        args
    else {
        return no_overload();
    };
    if asking.stage != Stage::Authorizer {
        return no_overload();
    }
    let (namespace, name) = (namespace.as_str(), name.as_str());
    if let Some(why) = names::subdomain_rule(name, false).first() {
        return fail(format!("Invalid service account name: {why}"));
    }
    if let Some(why) = names::label_rule(namespace, false).first() {
        return fail(format!("Invalid service account namespace: {why}"));
    }
    let account = (namespace.to_owned(), name.to_owned());
    step(asking, Stage::Authorizer, |question| question.account = Some(account))
}

fn decided<'a>(args: &[Value<'a>], read: impl Fn(&Decision) -> Value<'a>) -> Evaluated<'a> {
    match args {
        [Value::Opaque(Opaque::Decision(decision))] => Ok(read(decision)),
        _ => no_overload(),
    }
}
