//! The `authorizer` of expressions: it builds a question, and the caller answers it.

use std::fmt;
use std::rc::Rc;

use crate::selector::{FieldSelector, LabelSelector};

/// Who is asked. The answer must come from memory: evaluation does not wait.
pub trait Authorize {
    fn authorize(&self, question: &Question) -> Decision;
}

/// May this user do that? Empty where nothing was said.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Question {
    /// Namespace and name of the service account that is asked about; otherwise it is the user
    /// of the request.
    pub account: Option<(String, String)>,
    pub verb: String,
    /// Set for paths outside of the resources; then only `verb` counts beside it.
    pub path: Option<String>,
    pub group: String,
    pub resource: String,
    pub subresource: String,
    pub namespace: String,
    pub name: String,
    pub field_selector: String,
    pub label_selector: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Decision {
    pub allowed: bool,
    pub reason: String,
    /// Why the question could not be answered; empty when it could.
    pub error: String,
}

/// What an expression holds of an authorizer.
#[derive(Clone)]
pub struct Asking<'a> {
    pub(super) stage: Stage,
    pub(super) question: Question,
    authorizer: Rc<dyn Authorize + 'a>,
}

/// How far a question has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Authorizer,
    Path,
    Group,
    Resource,
}

impl fmt::Debug for Asking<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_tuple("Asking").field(&self.stage).field(&self.question).finish()
    }
}

impl<'a> Asking<'a> {
    /// `authorizer` itself.
    #[must_use]
    pub fn new(authorizer: Rc<dyn Authorize + 'a>) -> Self {
        Self { stage: Stage::Authorizer, question: Question::default(), authorizer }
    }

    /// `authorizer.requestResource`: the question about the resource of the request.
    #[must_use]
    pub fn about(authorizer: Rc<dyn Authorize + 'a>, question: Question) -> Self {
        Self { stage: Stage::Resource, question, authorizer }
    }

    pub(super) fn next(&self, stage: Stage, set: impl FnOnce(&mut Question)) -> Self {
        let mut next = self.clone();
        next.stage = stage;
        set(&mut next.question);
        next
    }

    pub(super) fn check(&self, verb: &str) -> Decision {
        let question = Question { verb: verb.to_owned(), ..self.question.clone() };
        for (text, wrong) in [
            (&question.field_selector, FieldSelector::parse(&question.field_selector).is_err()),
            (&question.label_selector, LabelSelector::parse(&question.label_selector).is_err()),
        ] {
            if wrong && !text.is_empty() {
                let error = format!("unable to parse selector {}", crate::field::quote(text));
                return Decision { error, ..Decision::default() };
            }
        }
        self.authorizer.authorize(&question)
    }
}
