//! ValidatingAdmissionPolicy: what it says of a request.

use serde_json::Value as Json;

use super::{
    Declared, Expression, Failure, Input, MatchConditions, OUT_OF_BUDGET, Runner, Variables,
};
use crate::access::Access as _;
use crate::cel::{MESSAGE_BYTES_MAX, TOTAL_COST_MAX, Type, Value};

/// A policy, compiled. What does not compile fails when it is asked.
#[derive(Debug)]
pub struct Policy {
    fail: bool,
    conditions: MatchConditions,
    variables: Variables,
    validations: Vec<Validation>,
    annotations: Vec<(String, Expression)>,
}

#[derive(Debug)]
struct Validation {
    expression: Expression,
    message: String,
    message_expression: Option<Expression>,
    reason: String,
}

/// What one validation or the policy as a whole says against a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The place of the validation in the policy.
    pub index: usize,
    pub message: String,
    /// `Invalid`, `Forbidden`, `Unauthorized` or `RequestEntityTooLarge`.
    pub reason: String,
}

/// What came of one policy, with one parameter.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outcome {
    pub refusals: Vec<Refusal>,
    /// Keys and values for the audit.
    pub annotations: Vec<(String, String)>,
    /// Annotations that could not be computed: they deny, whatever the binding's actions are.
    pub annotation_errors: Vec<String>,
}

impl Policy {
    /// From the `spec` of the object.
    #[must_use]
    pub fn compile(spec: &Json) -> Self {
        let declared = Declared { params: spec.has("paramKind"), authorizer: true, patches: false };
        let (variables, composed) = Variables::compile(spec.items("variables"), declared);
        let env = composed.full();
        // Messages may not depend on what the user may do elsewhere.
        let message_env = composed.env(Declared { authorizer: false, ..declared });
        let validation = |one: &Json| Validation {
            expression: Expression::compile(&env, one.text("expression"), &[Type::Bool]),
            message: one.text("message").trim().to_owned(),
            message_expression: one
                .opt_text("messageExpression")
                .filter(|source| !source.is_empty())
                .map(|source| Expression::compile(&message_env, source, &[Type::String])),
            reason: one.opt_text("reason").unwrap_or("Invalid").to_owned(),
        };
        let annotation = |one: &Json| {
            let allowed = [Type::String, Type::Null];
            let value = Expression::compile(&env, one.text("valueExpression"), &allowed);
            (one.text("key").to_owned(), value)
        };
        Self {
            fail: spec.text("failurePolicy") != "Ignore",
            conditions: MatchConditions::compile_in(&env, spec.items("matchConditions")),
            validations: spec.items("validations").iter().map(validation).collect(),
            annotations: spec.items("auditAnnotations").iter().map(annotation).collect(),
            variables,
        }
    }

    /// Whether what goes wrong with the policy itself refuses requests.
    #[must_use]
    pub fn fails(&self) -> bool {
        self.fail
    }

    /// Judges one request.
    #[must_use]
    pub fn validate(&self, input: &Input<'_>) -> Outcome {
        let mut outcome = Outcome::default();
        match self.matches(input) {
            Ok(true) => {}
            Ok(false) => return outcome,
            Err(message) => {
                outcome.refusals.push(refusal(0, message));
                return outcome;
            }
        }
        let runner = Runner::new(input, &self.variables);
        if let Err(message) = self.judge(&runner, &mut outcome) {
            outcome = Outcome::default();
            if self.fail {
                outcome.refusals.push(refusal(0, message));
            }
            return outcome;
        }
        self.annotate(&runner, &mut outcome);
        outcome
    }

    fn matches(&self, input: &Input<'_>) -> Result<bool, String> {
        if self.conditions.is_empty() {
            return Ok(true);
        }
        // Conditions see neither the namespace nor what the rest has computed.
        let input = Input { namespace: &Json::Null, ..input.clone() };
        self.conditions.decide(&Runner::new(&input, &self.variables), self.fail)
    }

    /// The error is that of a budget that is used up.
    fn judge<'a>(&'a self, runner: &Runner<'a>, outcome: &mut Outcome) -> Result<(), String> {
        let mut budget = TOTAL_COST_MAX;
        let mut verdicts = Vec::new();
        for validation in &self.validations {
            match runner.run(&validation.expression, &mut budget) {
                Err(Failure::OutOfBudget) => return Err(OUT_OF_BUDGET.to_owned()),
                other => verdicts.push(other),
            }
        }
        for (index, (validation, verdict)) in self.validations.iter().zip(verdicts).enumerate() {
            match verdict {
                Ok(Value::Bool(true)) => {}
                Ok(_) => {
                    let message = validation.message(runner, &mut budget);
                    let reason = validation.reason.clone();
                    match message {
                        Ok(message) => outcome.refusals.push(Refusal { index, message, reason }),
                        Err(message) if self.fail => outcome.refusals.push(refusal(index, message)),
                        Err(_) => {}
                    }
                }
                Err(failure) if self.fail => {
                    outcome.refusals.push(refusal(index, failure.text().to_owned()));
                }
                Err(_) => {}
            }
        }
        Ok(())
    }

    fn annotate<'a>(&'a self, runner: &Runner<'a>, outcome: &mut Outcome) {
        let mut budget = TOTAL_COST_MAX;
        for (key, expression) in &self.annotations {
            match runner.run(expression, &mut budget) {
                Ok(Value::String(text)) if !text.as_str().trim().is_empty() => {
                    outcome.annotations.push((key.clone(), text.as_str().trim().to_owned()));
                }
                Ok(Value::String(_) | Value::Null) => {}
                Ok(other) => outcome.annotation_errors.push(format!(
                    "valueExpression '{}' resulted in unsupported return type: {}. Return type must \
                     be either string or null.",
                    expression.source,
                    other.type_name()
                )),
                Err(failure) if self.fail => {
                    outcome.annotation_errors.push(failure.text().to_owned());
                }
                Err(_) => {}
            }
        }
    }
}

impl Validation {
    /// The message of a validation that does not hold.
    fn message<'a>(&'a self, runner: &Runner<'a>, budget: &mut u64) -> Result<String, String> {
        let made = match &self.message_expression {
            Some(expression) => match runner.run(expression, budget) {
                Ok(Value::String(text)) => text.as_str().trim().to_owned(),
                Err(Failure::OutOfBudget) => {
                    return Err(format!("failed messageExpression: {OUT_OF_BUDGET}"));
                }
                // One that fails is as good as none.
                Ok(_) | Err(Failure::Failed(_)) => String::new(),
            },
            None => String::new(),
        };
        let fine = !made.is_empty() && made.len() <= MESSAGE_BYTES_MAX && !made.contains('\n');
        if fine {
            return Ok(made);
        }
        if !self.message.is_empty() {
            return Ok(self.message.clone());
        }
        Ok(format!("failed expression: {}", self.expression.source.trim()))
    }
}

fn refusal(index: usize, message: String) -> Refusal {
    Refusal { index, message, reason: "Invalid".to_owned() }
}
