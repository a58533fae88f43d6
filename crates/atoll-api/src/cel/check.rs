//! Types of expressions: what no evaluation could make sense of is refused before.

use super::Env;
use super::ast::{Call, Comprehension, Entry, Expr, Index, Item, Kind, Literal, Select, Struct};
use super::declared::{self, Fields, ObjectType, Type};
use super::error::Issue;
use super::library::{self, FunctionId};
use super::parser::qualified_name;
use super::stack::with_room;
use super::unify::{Unifier, most_general};

/// Checks the tree and notes in it what names mean.
pub(super) fn check(env: &Env, root: &mut Expr) -> Result<Type, Vec<Issue>> {
    let mut checker =
        Checker { env, types: Unifier::default(), scope: Vec::new(), issues: Vec::new() };
    let ty = checker.check(root);
    let ty = checker.types.resolve(&ty, true);
    if checker.issues.is_empty() { Ok(ty) } else { Err(checker.issues) }
}

struct Checker<'e> {
    env: &'e Env,
    types: Unifier,
    /// Variables of comprehensions, the innermost last.
    scope: Vec<(Box<str>, Type)>,
    issues: Vec<Issue>,
}

impl Checker<'_> {
    fn issue(&mut self, at: u32, message: String) -> Type {
        self.issues.push(Issue { at, message });
        Type::Error
    }

    fn check(&mut self, expr: &mut Expr) -> Type {
        with_room(|| self.type_of(expr))
    }

    fn type_of(&mut self, expr: &mut Expr) -> Type {
        let at = expr.at;
        match &mut expr.kind {
            Kind::Literal(literal) => of_literal(literal),
            Kind::TypeName(name) => type_named(name, self.env.patches).unwrap_or(Type::Dyn),
            Kind::Ident(_) => self.ident(expr),
            Kind::Select(_) => self.select(expr),
            Kind::Call(_) => self.call(expr),
            Kind::And(terms) | Kind::Or(terms) => {
                for term in terms {
                    let ty = self.check(term);
                    self.expect(term.at, &Type::Bool, &ty);
                }
                Type::Bool
            }
            Kind::Conditional(parts) => {
                let types: Vec<Type> = parts.iter_mut().map(|part| self.check(part)).collect();
                self.resolve(at, library::CONDITIONAL, false, types)
            }
            Kind::Index(index) => self.index(at, index),
            Kind::List(items) => self.list(items),
            Kind::Map(entries) => self.map(entries),
            Kind::Struct(made) => self.structure(at, made),
            Kind::Comprehension(fold) => self.fold(fold),
        }
    }

    fn lookup(&self, name: &str) -> Option<Type> {
        let local = self.scope.iter().rev().find(|(own, _)| own.as_ref() == name);
        local.map(|(_, ty)| ty.clone()).or_else(|| self.env.variables.get(name).cloned())
    }

    fn ident(&mut self, expr: &mut Expr) -> Type {
        let Kind::Ident(name) = &expr.kind else { return Type::Error };
        if let Some(ty) = self.lookup(name) {
            return ty;
        }
        if let Some(ty) = type_named(name, self.env.patches) {
            expr.kind = Kind::TypeName(name.clone());
            return ty;
        }
        let message = format!("undeclared reference to '{name}' (in container '')");
        self.issue(expr.at, message)
    }

    fn select(&mut self, expr: &mut Expr) -> Type {
        if let Some(ty) = self.qualified(expr) {
            return ty;
        }
        let at = expr.at;
        let Kind::Select(select) = &mut expr.kind else { return Type::Error };
        let Select { operand, field, test, optional } = select.as_mut();
        let operand = self.check(operand);
        let ty = self.field(at, &operand, field, *optional);
        if *test { Type::Bool } else { ty }
    }

    /// A variable or a type with dots in its name.
    fn qualified(&mut self, expr: &mut Expr) -> Option<Type> {
        let name = qualified_name(expr)?;
        let root = name.split('.').next().unwrap_or("");
        if self.scope.iter().any(|(own, _)| own.as_ref() == root) {
            return None;
        }
        if let Some(ty) = self.env.variables.get(&name) {
            expr.kind = Kind::Ident(name.into());
            return Some(ty.clone());
        }
        if self.env.variables.contains_key(root) {
            return None;
        }
        let ty = type_named(&name, self.env.patches)?;
        expr.kind = Kind::TypeName(name.into());
        Some(ty)
    }

    fn field(&mut self, at: u32, operand: &Type, field: &str, optional: bool) -> Type {
        let operand = self.types.resolve(operand, false);
        let (target, wrapped) = match &operand {
            Type::Optional(of) => (self.types.resolve(of, false), true),
            _ => (operand, false),
        };
        let ty = match &target {
            Type::Map(_, value) => value.as_ref().clone(),
            Type::Object(object) => match object.field(field) {
                Some(ty) => ty,
                None => self.issue(at, format!("undefined field '{field}'")),
            },
            Type::Var(_) => {
                self.types.fits(&Type::Dyn, &target);
                Type::Dyn
            }
            Type::Dyn | Type::Error => Type::Dyn,
            other => {
                self.issue(at, format!("type '{other}' does not support field selection"));
                Type::Dyn
            }
        };
        if wrapped || optional { Type::optional(ty) } else { ty }
    }

    fn call(&mut self, expr: &mut Expr) -> Type {
        let at = expr.at;
        let Kind::Call(call) = &mut expr.kind else { return Type::Error };
        let mut types = Vec::with_capacity(call.args.len() + 1);
        // Upstream checks the arguments before the receiver, which shows in the order of types
        // that are found; errors are sorted by place.
        let args: Vec<Type> = call.args.iter_mut().map(|arg| self.check(arg)).collect();
        if let Some(id) = self.namespaced(call) {
            call.resolved = Some(id);
            call.target = None;
            return self.resolve(at, id, false, args);
        }
        let member = call.target.is_some();
        if let Some(target) = &mut call.target {
            types.push(self.check(target));
        }
        types.extend(args);
        let Some(id) = library::find(&call.function, self.env.patches) else {
            let message = format!("undeclared reference to '{}' (in container '')", call.function);
            return self.issue(at, message);
        };
        call.resolved = Some(id);
        let ty = self.resolve(at, id, member, types);
        self.literals(call);
        ty
    }

    /// `sets.contains(a, b)`: the receiver is part of the function's name.
    fn namespaced(&self, call: &Call) -> Option<FunctionId> {
        let prefix = qualified_name(call.target.as_ref()?)?;
        library::find(&format!("{prefix}.{}", call.function), self.env.patches)
    }

    /// The result of a call with arguments of these types, the receiver first.
    fn resolve(&mut self, at: u32, id: FunctionId, member: bool, args: Vec<Type>) -> Type {
        let mut result: Option<Type> = None;
        for overload in library::overloads(id) {
            if overload.member != member {
                continue;
            }
            let (params, own) = self.types.instantiate(&overload.params, &overload.result);
            if !self.types.fit_all(&args, &params) {
                continue;
            }
            let own = self.types.resolve(&own, false);
            result = Some(match result {
                None => own,
                Some(before) if before == Type::Dyn || before == own => before,
                Some(_) => Type::Dyn,
            });
        }
        if let Some(result) = result {
            return result;
        }
        let shown: Vec<String> =
            args.iter().map(|ty| self.types.resolve(ty, true).to_string()).collect();
        let applied = match shown.split_first() {
            Some((target, rest)) if member => format!("{target}.({})", rest.join(", ")),
            _ => format!("({})", shown.join(", ")),
        };
        let name = library::name(id);
        self.issue(at, format!("found no matching overload for '{name}' applied to '{applied}'"))
    }

    /// Literals that can never be what the function takes.
    fn literals(&mut self, call: &Call) {
        let position = usize::from(call.function.as_ref() == "matches" && call.target.is_none());
        let Some(arg) = call.args.get(position) else { return };
        let Kind::Literal(Literal::String(text)) = &arg.kind else { return };
        let bad = match call.function.as_ref() {
            "duration" => super::value::parse_duration(text).is_err(),
            "timestamp" => super::value::parse_timestamp(text).is_err(),
            "matches" => library::regex(text).is_err(),
            _ => false,
        };
        if bad {
            let message = format!("invalid {} argument", call.function);
            self.issue(arg.at, message);
        }
    }

    fn index(&mut self, at: u32, index: &mut Index) -> Type {
        let types = vec![self.check(&mut index.operand), self.check(&mut index.index)];
        let id = if index.optional { library::OPTIONAL_INDEX } else { library::INDEX };
        self.resolve(at, id, false, types)
    }

    fn expect(&mut self, at: u32, wanted: &Type, found: &Type) {
        if !self.types.fits(found, wanted) {
            let found = self.types.resolve(found, true);
            self.issue(at, format!("expected type '{wanted}' but found '{found}'"));
        }
    }

    /// What an item that is left out when it is none would be.
    fn unwrapped(&mut self, at: u32, ty: Type) -> Type {
        match self.types.resolve(&ty, false) {
            Type::Optional(of) => of.as_ref().clone(),
            other => {
                let wanted = Type::optional(other.clone());
                if other != Type::Dyn {
                    self.issue(at, format!("expected type '{wanted}' but found '{other}'"));
                }
                other
            }
        }
    }

    fn join(&mut self, at: u32, before: Option<Type>, next: Type) -> Type {
        let Some(before) = before else { return next };
        if self.types.fits(&before, &next) {
            return most_general(&before, &next);
        }
        let (before, next) = (self.types.resolve(&before, true), self.types.resolve(&next, true));
        self.issue(at, format!("expected type '{before}' but found '{next}'"))
    }

    fn list(&mut self, items: &mut [Item]) -> Type {
        let mut joined = None;
        for item in items {
            let mut ty = self.check(&mut item.value);
            if item.optional {
                ty = self.unwrapped(item.value.at, ty);
            }
            joined = Some(self.join(item.value.at, joined, ty));
        }
        Type::list(joined.unwrap_or_else(|| self.types.fresh()))
    }

    fn map(&mut self, entries: &mut [Entry]) -> Type {
        let (mut key, mut value) = (None, None);
        for entry in entries {
            let own = self.check(&mut entry.key);
            key = Some(self.join(entry.key.at, key, own));
            let mut own = self.check(&mut entry.value);
            if entry.optional {
                own = self.unwrapped(entry.value.at, own);
            }
            value = Some(self.join(entry.value.at, value, own));
        }
        let key = key.unwrap_or_else(|| self.types.fresh());
        Type::map(key, value.unwrap_or_else(|| self.types.fresh()))
    }

    fn structure(&mut self, at: u32, made: &mut Struct) -> Type {
        let object = match type_named(&made.name, self.env.patches) {
            Some(Type::Type(of)) => match of.as_ref() {
                Type::Object(object) => object.clone(),
                other => {
                    let message = format!("'{other}' is not a message type");
                    return self.issue(at, message);
                }
            },
            _ => {
                let message = format!("undeclared reference to '{}' (in container '')", made.name);
                return self.issue(at, message);
            }
        };
        for field in &mut made.fields {
            let mut ty = self.check(&mut field.value);
            if field.optional {
                ty = self.unwrapped(field.value.at, ty);
            }
            let Some(wanted) = made_field(&object, &field.name) else {
                self.issue(field.at, format!("undefined field '{}'", field.name));
                continue;
            };
            if let Err(text) = field_fits(&mut self.types, &object, &field.name, &wanted, &ty) {
                self.issue(field.at, text);
            }
        }
        Type::Object(object)
    }

    fn fold(&mut self, fold: &mut Comprehension) -> Type {
        let range = self.check(&mut fold.range);
        let range = self.types.resolve(&range, false);
        let accumulator = self.check(&mut fold.init);
        let (first, second) = match &range {
            Type::List(item) if fold.second.is_some() => (Type::Int, item.as_ref().clone()),
            Type::List(item) => (item.as_ref().clone(), Type::Dyn),
            Type::Map(key, value) => (key.as_ref().clone(), value.as_ref().clone()),
            Type::Dyn | Type::Error | Type::Var(_) => {
                self.types.fits(&Type::Dyn, &range);
                (Type::Dyn, Type::Dyn)
            }
            other => {
                let message = format!(
                    "expression of type '{other}' cannot be range of a comprehension (must be \
                     list, map, or dynamic)"
                );
                self.issue(fold.range.at, message);
                (Type::Error, Type::Error)
            }
        };
        let outer = self.scope.len();
        self.scope.push((fold.accumulator.clone(), accumulator.clone()));
        self.scope.push((fold.variable.clone(), first));
        if let Some(name) = &fold.second {
            self.scope.push((name.clone(), second));
        }
        let condition = self.check(&mut fold.condition);
        self.expect(fold.condition.at, &Type::Bool, &condition);
        let step = self.check(&mut fold.step);
        self.expect(fold.step.at, &accumulator, &step);
        self.scope.truncate(outer + 1);
        let result = self.check(&mut fold.result);
        self.scope.truncate(outer);
        self.types.resolve(&result, false)
    }
}

fn of_literal(literal: &Literal) -> Type {
    match literal {
        Literal::Null => Type::Null,
        Literal::Bool(_) => Type::Bool,
        Literal::Int(_) => Type::Int,
        Literal::Uint(_) => Type::Uint,
        Literal::Double(_) => Type::Double,
        Literal::String(_) => Type::String,
        Literal::Bytes(_) => Type::Bytes,
    }
}

/// What a name means as a type: a `type(T)`.
fn type_named(name: &str, patches: bool) -> Option<Type> {
    let ty = match name {
        "list" => Type::list(Type::Dyn),
        "map" => Type::map(Type::Dyn, Type::Dyn),
        "null_type" => Type::Null,
        "optional_type" => Type::optional(Type::Dyn),
        "type" => Type::Type(Type::Dyn.into()),
        "google.protobuf.Timestamp" => Type::Timestamp,
        "google.protobuf.Duration" => Type::Duration,
        "dyn" | "timestamp" | "duration" | "null" => return None,
        "JSONPatch" if patches => json_patch(),
        _ if patches && (name == "Object" || name.starts_with("Object.")) => {
            let object = ObjectType { name: name.to_owned(), fields: Fields::Open };
            Type::Object(object.into())
        }
        _ if name.len() == 1 => return None,
        _ => declared::simple(name)?,
    };
    Some(Type::Type(ty.into()))
}

fn json_patch() -> Type {
    Type::object(
        "JSONPatch",
        [
            ("op", Type::String),
            ("path", Type::String),
            ("from", Type::String),
            ("value", Type::Dyn),
        ],
    )
}

fn made_field(object: &ObjectType, name: &str) -> Option<Type> {
    object.field(name)
}

/// A field of `Object.spec` that is an object must be the `Object.spec.field` of its place.
fn field_fits(
    types: &mut Unifier,
    object: &ObjectType,
    name: &str,
    wanted: &Type,
    found: &Type,
) -> Result<(), String> {
    if let (Fields::Open, Type::Object(made)) = (&object.fields, found) {
        let place = format!("{}.{name}", object.name);
        if made.name == place {
            return Ok(());
        }
        return Err(format!(
            "unexpected type name {:?}, expected {place:?}, which matches field name path from root \
             Object type",
            made.name
        ));
    }
    if types.fits(found, wanted) {
        return Ok(());
    }
    let found = types.resolve(found, true);
    Err(format!("expected type of field '{name}' is '{wanted}' but provided type is '{found}'"))
}

/// Whether a variable is read anywhere in the tree.
pub(super) fn uses(expr: &Expr, variable: &str) -> bool {
    let any = |expr: &Expr| uses(expr, variable);
    match &expr.kind {
        Kind::Literal(_) | Kind::TypeName(_) => false,
        Kind::Ident(name) => name.as_ref() == variable,
        Kind::Select(select) => any(&select.operand),
        Kind::Call(call) => call.target.iter().chain(&call.args).any(any),
        Kind::And(terms) | Kind::Or(terms) => terms.iter().any(any),
        Kind::Conditional(parts) => parts.iter().any(any),
        Kind::Index(index) => any(&index.operand) || any(&index.index),
        Kind::List(items) => items.iter().any(|item| any(&item.value)),
        Kind::Map(entries) => entries.iter().any(|entry| any(&entry.key) || any(&entry.value)),
        Kind::Struct(made) => made.fields.iter().any(|field| any(&field.value)),
        Kind::Comprehension(fold) => {
            let hidden = fold.variable.as_ref() == variable
                || fold.second.as_deref() == Some(variable)
                || fold.accumulator.as_ref() == variable;
            any(&fold.range)
                || any(&fold.init)
                || (!hidden && (any(&fold.condition) || any(&fold.step) || any(&fold.result)))
        }
    }
}
