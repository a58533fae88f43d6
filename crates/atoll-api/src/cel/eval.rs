//! Runs a checked tree, counting what it costs.

use std::rc::Rc;

use super::ast::{Call, Comprehension, Expr, Index, Kind, Literal, Select};
use super::cost;
use super::error::{EvalError, fail};
use super::library::{self, Context};
use super::stack::with_room;
use super::value::{self, List, Map, OwnMap, Struct, Text, Value};
use super::{Bindings, Evaluation};

type Evaluated<'a> = Result<Value<'a>, EvalError>;

pub(super) fn run<'a>(root: &'a Expr, bindings: &Bindings<'a>, cost_max: u64) -> Evaluation<'a> {
    let mut machine =
        Machine { bindings, scope: Vec::new(), cost: 0, cost_max, context: Context::default() };
    let result = machine.eval(root);
    Evaluation { result, cost: machine.cost }
}

struct Machine<'b, 'a> {
    bindings: &'b Bindings<'a>,
    /// Variables of comprehensions, the innermost last.
    scope: Vec<(&'a str, Value<'a>)>,
    cost: u64,
    cost_max: u64,
    context: Context,
}

impl<'a> Machine<'_, 'a> {
    fn charge(&mut self, cost: u64) -> Result<(), EvalError> {
        self.cost = self.cost.saturating_add(cost);
        if self.cost > self.cost_max { Err(EvalError::CostExceeded) } else { Ok(()) }
    }

    fn eval(&mut self, expr: &'a Expr) -> Evaluated<'a> {
        with_room(|| self.value_of(expr))
    }

    fn value_of(&mut self, expr: &'a Expr) -> Evaluated<'a> {
        match &expr.kind {
            Kind::Literal(literal) => Ok(constant(literal)),
            Kind::TypeName(name) => Ok(Value::Type(type_name(name).into())),
            Kind::Ident(name) => {
                self.charge(cost::NAME)?;
                self.lookup(name)
            }
            Kind::Select(select) => self.select(select),
            Kind::Call(call) => self.call(call),
            Kind::And(terms) => self.logic(terms, false),
            Kind::Or(terms) => self.logic(terms, true),
            Kind::Conditional(parts) => {
                let [condition, ..] = parts.as_ref();
                let branch = self.branch(condition, parts)?;
                self.attribute_or(branch)
            }
            Kind::Index(index) => self.index(index),
            Kind::List(items) => {
                let mut values = Vec::with_capacity(items.len());
                for item in items {
                    let value = self.eval(&item.value)?;
                    if item.optional {
                        values.extend(present(value)?);
                    } else {
                        values.push(value);
                    }
                }
                self.charge(cost::LIST)?;
                Ok(Value::list(values))
            }
            Kind::Map(entries) => {
                let mut map = OwnMap::default();
                for entry in entries {
                    let key = self.eval(&entry.key)?;
                    let value = self.eval(&entry.value)?;
                    let value = if entry.optional { present(value)? } else { Some(value) };
                    if let Some(value) = value {
                        map.insert(key, value)?;
                    }
                }
                self.charge(cost::MAP)?;
                Ok(Value::Map(Map::Own(Rc::new(map))))
            }
            Kind::Struct(made) => {
                let mut fields: Vec<(Rc<str>, Value<'a>)> = Vec::with_capacity(made.fields.len());
                for field in &made.fields {
                    let value = self.eval(&field.value)?;
                    let value = if field.optional { present(value)? } else { Some(value) };
                    if let Some(value) = value {
                        fields.retain(|(name, _)| name.as_ref() != field.name.as_ref());
                        fields.push((field.name.as_ref().into(), value));
                    }
                }
                self.charge(cost::STRUCT)?;
                Ok(Value::Struct(Rc::new(Struct { name: made.name.as_ref().into(), fields })))
            }
            Kind::Comprehension(fold) => self.fold(fold),
        }
    }

    fn lookup(&self, name: &str) -> Evaluated<'a> {
        let local = self.scope.iter().rev().find(|(own, _)| *own == name);
        match local.map(|(_, value)| value).or_else(|| self.bindings.get(name)) {
            Some(value) => Ok(value.clone()),
            None => fail(format!("no such attribute(s): {name}")),
        }
    }

    /// The part of a conditional that is chosen.
    fn branch(&mut self, condition: &'a Expr, parts: &'a [Expr; 3]) -> Result<&'a Expr, EvalError> {
        match self.eval(condition)? {
            Value::Bool(true) => Ok(&parts[1]),
            Value::Bool(false) => Ok(&parts[2]),
            _ => Err(EvalError::no_overload()),
        }
    }

    /// Where upstream resolves a variable as part of a larger attribute, its name costs nothing.
    fn attribute_or(&mut self, expr: &'a Expr) -> Evaluated<'a> {
        let value = self.eval(expr)?;
        if expr.is_attribute() {
            self.cost = self.cost.saturating_sub(cost::NAME);
        }
        Ok(value)
    }

    fn select(&mut self, select: &'a Select) -> Evaluated<'a> {
        let operand = self.eval(&select.operand)?;
        let key = Value::String(Text::Borrowed(&select.field));
        if select.test {
            return Ok(Value::Bool(has(&operand, &key)));
        }
        self.charge(qualifier_cost(&select.operand))?;
        if select.optional || matches!(operand, Value::Optional(_)) {
            return optional_get(&operand, &key);
        }
        get(&operand, &key)
    }

    fn index(&mut self, index: &'a Index) -> Evaluated<'a> {
        let operand = self.eval(&index.operand)?;
        let key = self.attribute_or(&index.index)?;
        self.charge(qualifier_cost(&index.operand))?;
        if index.optional || matches!(operand, Value::Optional(_)) {
            return optional_get(&operand, &key);
        }
        get(&operand, &key)
    }

    /// `&&` and `||`: the deciding value wins over errors on either side of it.
    fn logic(&mut self, terms: &'a [Expr], deciding: bool) -> Evaluated<'a> {
        let mut error = None;
        for term in terms {
            match self.eval(term) {
                Ok(Value::Bool(value)) if value == deciding => return Ok(Value::Bool(deciding)),
                Ok(Value::Bool(_)) => {}
                Ok(_) => error = error.or(Some(EvalError::no_overload())),
                Err(EvalError::CostExceeded) => return Err(EvalError::CostExceeded),
                Err(failed) => error = error.or(Some(failed)),
            }
        }
        error.map_or(Ok(Value::Bool(!deciding)), Err)
    }

    fn call(&mut self, call: &'a Call) -> Evaluated<'a> {
        let Some(id) = call.resolved else { return Err(EvalError::no_overload()) };
        if id == library::NOT_STRICTLY_FALSE {
            return self.not_strictly_false(call);
        }
        let mut args = Vec::with_capacity(call.args.len() + 1);
        if let Some(target) = &call.target {
            args.push(self.eval(target)?);
        }
        for arg in &call.args {
            args.push(self.eval(arg)?);
        }
        // What the result does not decide is charged first, so that it is not done in vain.
        self.charge(cost::before(id, &args))?;
        let value = library::call(id, &args, &self.context)?;
        self.charge(cost::after(id, &args, &value))?;
        Ok(value)
    }

    /// Errors count as true: a fold over `&&` goes on to find a false.
    fn not_strictly_false(&mut self, call: &'a Call) -> Evaluated<'a> {
        let Some(arg) = call.args.first() else { return Err(EvalError::no_overload()) };
        let value = self.eval(arg);
        self.charge(1)?;
        match value {
            Err(EvalError::CostExceeded) => Err(EvalError::CostExceeded),
            Ok(Value::Bool(false)) => Ok(Value::Bool(false)),
            _ => Ok(Value::Bool(true)),
        }
    }

    fn fold(&mut self, fold: &'a Comprehension) -> Evaluated<'a> {
        let range = self.eval(&fold.range)?;
        let init = self.eval(&fold.init)?;
        let slot = self.scope.len();
        self.scope.push((&fold.accumulator, init));
        let mut failed = None;
        let run = self.iterate(fold, &range, slot, &mut failed);
        self.scope.truncate(slot + 1);
        let result = run.and_then(|()| match failed {
            Some(error) => Err(error),
            None => self.eval(&fold.result),
        });
        self.scope.truncate(slot);
        result
    }

    /// An accumulator that failed is an error that a later step may still absorb.
    fn iterate(
        &mut self,
        fold: &'a Comprehension,
        range: &Value<'a>,
        slot: usize,
        failed: &mut Option<EvalError>,
    ) -> Result<(), EvalError> {
        let keys = match range {
            Value::Map(map) => map.keys(),
            Value::List(_) => Vec::new(),
            _ => return Err(EvalError::no_overload()),
        };
        let length = match range {
            Value::List(list) => list.len(),
            _ => keys.len(),
        };
        for position in 0..length {
            let (first, second) = item(range, &keys, position, fold.second.is_some())?;
            self.scope.truncate(slot + 1);
            self.scope.push((&fold.variable, first));
            if let (Some(name), Some(value)) = (&fold.second, second) {
                self.scope.push((name, value));
            }
            if failed.is_none() {
                match self.eval(&fold.condition)? {
                    Value::Bool(true) => {}
                    Value::Bool(false) => return Ok(()),
                    _ => return Err(EvalError::no_overload()),
                }
            }
            let next = match failed.take() {
                Some(error) => self.after_failure(&fold.step, error),
                None => self.step(&fold.step, slot),
            };
            match next {
                Ok(value) => {
                    if let Some(place) = self.scope.get_mut(slot) {
                        place.1 = value;
                    }
                }
                Err(EvalError::CostExceeded) => return Err(EvalError::CostExceeded),
                // Only the quantifiers go on after an error.
                Err(error) if matches!(fold.step.kind, Kind::And(_) | Kind::Or(_)) => {
                    *failed = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// A quantifier's step when its accumulator is an error: only the deciding value ends that.
    fn after_failure(&mut self, step: &'a Expr, error: EvalError) -> Evaluated<'a> {
        let (Kind::And(terms) | Kind::Or(terms)) = &step.kind else { return Err(error) };
        let deciding = matches!(step.kind, Kind::Or(_));
        let Some(predicate) = terms.last() else { return Err(error) };
        match self.eval(predicate) {
            Ok(Value::Bool(value)) if value == deciding => Ok(Value::Bool(deciding)),
            Err(EvalError::CostExceeded) => Err(EvalError::CostExceeded),
            _ => Err(error),
        }
    }

    /// One step. What only adds to the accumulator changes it in place, so that a fold over many
    /// items does not copy what it has with each.
    fn step(&mut self, step: &'a Expr, slot: usize) -> Evaluated<'a> {
        match &step.kind {
            Kind::Conditional(parts) => {
                let [condition, ..] = parts.as_ref();
                let chosen = self.branch(condition, parts)?;
                if chosen.is_attribute() {
                    self.attribute_or(chosen)
                } else {
                    self.step(chosen, slot)
                }
            }
            Kind::Call(call) if self.adds(call, slot) => self.add(call, slot),
            _ => self.eval(step),
        }
    }

    /// Whether a call is one that macros make to add to their accumulator.
    fn adds(&self, call: &Call, slot: usize) -> bool {
        let own = self.scope.get(slot).map(|(name, _)| *name);
        let first = call.args.first().map(|arg| &arg.kind);
        matches!(call.resolved, Some(library::ADD | library::MAP_INSERT))
            && matches!((first, own), (Some(Kind::Ident(name)), Some(own)) if name.as_ref() == own
                && own.starts_with('@'))
    }

    fn add(&mut self, call: &'a Call, slot: usize) -> Evaluated<'a> {
        self.charge(cost::NAME)?;
        let mut args = Vec::with_capacity(2);
        for arg in call.args.iter().skip(1) {
            args.push(self.eval(arg)?);
        }
        self.charge(1)?;
        // Null stands in its place meanwhile: nothing else holds it, so it is not copied.
        let current = match self.scope.get_mut(slot) {
            Some(place) => std::mem::replace(&mut place.1, Value::Null),
            None => Value::Null,
        };
        match (current, args.as_slice()) {
            (Value::List(List::Own(mut list)), [Value::List(more)]) => {
                Rc::make_mut(&mut list).extend(more.to_vec()?);
                Ok(Value::List(List::Own(list)))
            }
            (Value::Map(Map::Own(mut map)), [key, value]) => {
                Rc::make_mut(&mut map).insert(key.clone(), value.clone())?;
                Ok(Value::Map(Map::Own(map)))
            }
            (Value::Map(Map::Own(mut map)), [Value::Map(more)]) => {
                for key in more.keys() {
                    let Some(value) = more.get(&key) else { continue };
                    Rc::make_mut(&mut map).insert(key, value?)?;
                }
                Ok(Value::Map(Map::Own(map)))
            }
            (Value::Int(count), [Value::Int(more)]) => match count.checked_add(*more) {
                Some(sum) => Ok(Value::Int(sum)),
                None => fail("integer overflow"),
            },
            _ => Err(EvalError::no_overload()),
        }
    }
}

/// The item or items of one position of a range.
fn item<'a>(
    range: &Value<'a>,
    keys: &[Value<'a>],
    position: usize,
    two: bool,
) -> Result<(Value<'a>, Option<Value<'a>>), EvalError> {
    match range {
        Value::List(list) => {
            let item = list.get(position).unwrap_or(Ok(Value::Null))?;
            if !two {
                return Ok((item, None));
            }
            let index = i64::try_from(position).unwrap_or(i64::MAX);
            Ok((Value::Int(index), Some(item)))
        }
        Value::Map(map) => {
            let key = keys.get(position).cloned().unwrap_or(Value::Null);
            let value = if two { map.get(&key).transpose()? } else { None };
            Ok((key, value))
        }
        _ => Err(EvalError::no_overload()),
    }
}

/// What reading a field or item adds; where the operand is computed it is an attribute anew.
fn qualifier_cost(operand: &Expr) -> u64 {
    if operand.is_attribute() { cost::NAME } else { 2 * cost::NAME }
}

fn constant(literal: &Literal) -> Value<'_> {
    match literal {
        Literal::Null => Value::Null,
        Literal::Bool(value) => Value::Bool(*value),
        Literal::Int(value) => Value::Int(*value),
        Literal::Uint(value) => Value::Uint(*value),
        Literal::Double(value) => Value::Double(*value),
        Literal::String(text) => Value::String(Text::Borrowed(text)),
        Literal::Bytes(bytes) => Value::Bytes(bytes.as_ref().into()),
    }
}

/// Types have one name each.
fn type_name(name: &str) -> &str {
    match name {
        "timestamp" => "google.protobuf.Timestamp",
        "duration" => "google.protobuf.Duration",
        other => other,
    }
}

/// What an optional holds; nothing else can be an optional item.
fn present(value: Value<'_>) -> Result<Option<Value<'_>>, EvalError> {
    match value {
        Value::Optional(inner) => Ok(inner.map(|inner| inner.as_ref().clone())),
        other => fail(format!(
            "cannot initialize optional entry '{}' from non-optional value",
            other.type_name()
        )),
    }
}

fn has(operand: &Value<'_>, key: &Value<'_>) -> bool {
    match operand {
        Value::Optional(Some(inner)) => has(inner, key),
        Value::Map(Map::Json(map, _)) => key.as_text().is_some_and(|key| map.contains_key(key)),
        Value::Object(json, decl) => key
            .as_text()
            .and_then(|key| decl.field(key))
            .is_some_and(|(name, _)| json.contains_key(name)),
        Value::Map(_) | Value::Struct(_) => operand.find(key).is_some(),
        _ => false,
    }
}

fn get<'a>(operand: &Value<'a>, key: &Value<'a>) -> Evaluated<'a> {
    match operand {
        Value::Map(map) => {
            if !matches!(
                key,
                Value::Bool(_)
                    | Value::Int(_)
                    | Value::Uint(_)
                    | Value::Double(_)
                    | Value::String(_)
            ) {
                return fail(format!("unsupported key type: {}", key.type_name()));
            }
            map.get(key).unwrap_or_else(|| Err(EvalError::no_key(value::shown(key))))
        }
        Value::List(list) => {
            let Some(index) = value::index(key) else {
                return fail(format!("unsupported index type '{}' in list", key.type_name()));
            };
            usize::try_from(index)
                .ok()
                .and_then(|index| list.get(index))
                .unwrap_or_else(|| Err(EvalError::no_index(index)))
        }
        other => other.find(key).unwrap_or_else(|| Err(EvalError::no_key(value::shown(key)))),
    }
}

fn optional_get<'a>(operand: &Value<'a>, key: &Value<'a>) -> Evaluated<'a> {
    let found = match operand {
        Value::Optional(None) => None,
        Value::Optional(Some(inner)) => inner.find(key),
        other => other.find(key),
    };
    match found {
        None => Ok(Value::Optional(None)),
        Some(value) => Ok(Value::some(value?)),
    }
}
