//! CEL as Kubernetes has it: expressions over API objects, checked before they run, bounded
//! while they do.
//!
//! An [`Env`] declares variables; [`Env::compile`] gives a [`Program`] or every fault of the
//! expression in the words of cel-go; [`Program::evaluate`] gives a value and what it cost.
//! Values of objects are read where they lie. The language, the libraries and the limits are
//! those of Kubernetes v1.36; nothing is a copy of cel-go but its texts.
//!
//! ```
//! use atoll_api::cel::{Bindings, Env, Type, Value, PER_CALL_COST_MAX};
//!
//! let env = Env::new().variable("object", Type::Dyn);
//! let program = env.compile("object.spec.replicas <= 5").unwrap();
//! let object = serde_json::json!({"spec": {"replicas": 7}});
//! let mut bindings = Bindings::default();
//! bindings.set("object", Value::of_json(&object));
//! let done = program.evaluate(&bindings, PER_CALL_COST_MAX);
//! assert_eq!(done.result.unwrap().as_bool(), Some(false));
//! ```

pub mod admission;
mod ast;
pub mod authorizer;
mod check;
mod cost;
pub mod decl;
mod declared;
mod error;
pub mod escape;
pub mod estimate;
mod eval;
mod lexer;
mod library;
mod macros;
mod parser;
mod stack;
mod unify;
mod value;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use ast::Expr;

pub use decl::{Decl, Shape};
pub use declared::{Fields, ObjectType, Type};
pub use error::{CompileError, EvalError, Issue};
pub use estimate::Estimate;
pub use value::{Lazy, List, Map, OwnMap, Struct, Text, Value};

/// What one evaluation may cost: about a tenth of a second upstream, less here.
pub const PER_CALL_COST_MAX: u64 = 1_000_000;
/// What all expressions of one policy and binding, or of one custom resource, may cost together.
pub const TOTAL_COST_MAX: u64 = 10_000_000;
/// What all match conditions of one webhook or policy may cost together.
pub const CONDITIONS_COST_MAX: u64 = 2_500_000;
/// Bytes of a message that an expression makes; a longer one is not used.
pub const MESSAGE_BYTES_MAX: usize = 5 * 1024;

/// The variables that an expression may use.
#[derive(Debug, Clone, Default)]
pub struct Env {
    variables: BTreeMap<String, Type>,
    /// `Object{…}` and `JSONPatch{…}` can be made.
    patches: bool,
}

impl Env {
    /// Without variables.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Declares a variable; one with a dot in its name is found before a field of that name.
    #[must_use]
    pub fn variable(mut self, name: &str, ty: Type) -> Self {
        self.declare(name, ty);
        self
    }

    /// As [`Env::variable`], in place.
    pub fn declare(&mut self, name: &str, ty: Type) {
        self.variables.insert(name.to_owned(), ty);
    }

    /// What mutating policies have beside the rest: `Object{…}`, `JSONPatch{…}` and
    /// `jsonpatch.escapeKey`.
    #[must_use]
    pub fn with_patches(mut self) -> Self {
        self.patches = true;
        self
    }

    /// Parses and checks.
    ///
    /// # Errors
    ///
    /// With every fault of the expression and its place.
    pub fn compile(&self, source: &str) -> Result<Program, CompileError> {
        let mut root = parser::parse(source)?;
        let result =
            check::check(self, &mut root).map_err(|issues| CompileError::new(source, issues))?;
        Ok(Program { root, result })
    }
}

/// A checked expression. It is shared between threads and runs any number of times.
#[derive(Debug, Clone)]
pub struct Program {
    root: Expr,
    result: Type,
}

/// What came of one evaluation.
#[derive(Debug)]
pub struct Evaluation<'a> {
    pub result: Result<Value<'a>, EvalError>,
    pub cost: u64,
}

impl Program {
    /// The type of the value that it gives; `dyn` when that is known only then.
    #[must_use]
    pub fn result_type(&self) -> &Type {
        &self.result
    }

    /// Runs it; what would cost more than `cost_max` is broken off.
    pub fn evaluate<'a>(&'a self, bindings: &Bindings<'a>, cost_max: u64) -> Evaluation<'a> {
        eval::run(&self.root, bindings, cost_max)
    }

    /// What it may cost at most, from the sizes that `decls` state of the variables.
    #[must_use]
    pub fn estimate(&self, decls: &BTreeMap<String, &Decl>) -> Estimate {
        estimate::of(&self.root, decls)
    }

    /// Whether the expression reads a variable anywhere: rules over `oldSelf` run on updates
    /// only.
    #[must_use]
    pub fn uses(&self, variable: &str) -> bool {
        check::uses(&self.root, variable)
    }
}

/// The values of variables.
#[derive(Debug, Clone, Default)]
pub struct Bindings<'a>(Vec<(&'a str, Value<'a>)>);

impl<'a> Bindings<'a> {
    /// Sets or replaces one.
    pub fn set(&mut self, name: &'a str, value: Value<'a>) {
        match self.0.iter_mut().find(|(own, _)| *own == name) {
            Some((_, own)) => *own = value,
            None => self.0.push((name, value)),
        }
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Value<'a>> {
        self.0.iter().find(|(own, _)| *own == name).map(|(_, value)| value)
    }
}
