//! Which types fit which: what stands for the free ones is found on the way.

use std::collections::HashMap;
use std::sync::Arc;

use super::declared::Type;

/// What stands for free types.
#[derive(Debug, Clone, Default)]
pub(super) struct Unifier {
    known: HashMap<u32, Type>,
    /// What was learned, and what stood there before: an attempt that fails takes it back.
    /// Copying all that is known for each attempt would make long expressions quadratic.
    learned: Vec<(u32, Option<Type>)>,
    next: u32,
}

impl Unifier {
    pub(super) fn fresh(&mut self) -> Type {
        self.next += 1;
        Type::Var(self.next - 1)
    }

    /// The parameters of a signature as free types, the same letter the same one.
    pub(super) fn instantiate(&mut self, params: &[Type], result: &Type) -> (Vec<Type>, Type) {
        let mut letters = HashMap::new();
        let params = params.iter().map(|one| self.freed(one, &mut letters)).collect();
        let result = self.freed(result, &mut letters);
        (params, result)
    }

    fn freed(&mut self, ty: &Type, letters: &mut HashMap<char, Type>) -> Type {
        match ty {
            Type::Param(letter) => {
                if let Some(known) = letters.get(letter) {
                    return known.clone();
                }
                let fresh = self.fresh();
                letters.insert(*letter, fresh.clone());
                fresh
            }
            Type::List(item) => Type::list(self.freed(item, letters)),
            Type::Optional(of) => Type::optional(self.freed(of, letters)),
            Type::Type(of) => Type::Type(Arc::new(self.freed(of, letters))),
            Type::Map(key, value) => {
                let key = self.freed(key, letters);
                Type::map(key, self.freed(value, letters))
            }
            other => other.clone(),
        }
    }

    /// Whether all fit; nothing is learned when one does not.
    pub(super) fn fit_all(&mut self, given: &[Type], wanted: &[Type]) -> bool {
        self.learned.clear();
        let fits = given.len() == wanted.len()
            && given.iter().zip(wanted).all(|(given, wanted)| self.assign(given, wanted));
        if !fits {
            while let Some((var, before)) = self.learned.pop() {
                match before {
                    Some(ty) => self.known.insert(var, ty),
                    None => self.known.remove(&var),
                };
            }
        }
        fits
    }

    fn learn(&mut self, var: u32, ty: Type) {
        let before = self.known.insert(var, ty);
        self.learned.push((var, before));
    }

    pub(super) fn fits(&mut self, given: &Type, wanted: &Type) -> bool {
        self.fit_all(std::slice::from_ref(given), std::slice::from_ref(wanted))
    }

    fn assign(&mut self, one: &Type, other: &Type) -> bool {
        if let Type::Var(var) = other {
            match self.substitute_var(one, *var) {
                Some(true) => return true,
                Some(false) if self.known.contains_key(var) => return false,
                _ => {}
            }
        }
        if let Type::Var(var) = one {
            return self.substitute_var(other, *var).unwrap_or(false);
        }
        if one.is_dyn_or_error() || other.is_dyn_or_error() {
            return true;
        }
        match (one, other) {
            (Type::Null, other) => *other == Type::Null || other.takes_null(),
            (one, Type::Null) => one.takes_null(),
            (Type::Type(_), Type::Type(_)) => true,
            (Type::List(one), Type::List(other)) | (Type::Optional(one), Type::Optional(other)) => {
                self.assign(one, other)
            }
            (Type::Map(key, value), Type::Map(other_key, other_value)) => {
                self.assign(key, other_key) && self.assign(value, other_value)
            }
            _ => one == other,
        }
    }

    /// Whether `ty` may stand for the variable; `None` when it cannot because it contains it.
    fn substitute_var(&mut self, ty: &Type, var: u32) -> Option<bool> {
        if *ty == Type::Var(var) {
            return Some(true);
        }
        if let Some(known) = self.known.get(&var).cloned() {
            if known == *ty {
                return Some(true);
            }
            if !self.assign(ty, &known) {
                return Some(false);
            }
            let general = most_general(ty, &known);
            if !self.contains(&general, var) {
                self.learn(var, general);
            }
            return Some(true);
        }
        if self.contains(ty, var) {
            return None;
        }
        self.learn(var, ty.clone());
        Some(true)
    }

    fn contains(&self, ty: &Type, var: u32) -> bool {
        match ty {
            Type::Var(own) => {
                *own == var || self.known.get(own).is_some_and(|known| self.contains(known, var))
            }
            Type::List(of) | Type::Optional(of) | Type::Type(of) => self.contains(of, var),
            Type::Map(key, value) => self.contains(key, var) || self.contains(value, var),
            _ => false,
        }
    }

    /// The type with everything that is known put in; what stays free is `dyn` if `close`.
    pub(super) fn resolve(&self, ty: &Type, close: bool) -> Type {
        match ty {
            Type::Var(var) => match self.known.get(var) {
                Some(known) => self.resolve(known, close),
                None if close => Type::Dyn,
                None => ty.clone(),
            },
            Type::List(item) => Type::list(self.resolve(item, close)),
            Type::Optional(of) => Type::optional(self.resolve(of, close)),
            Type::Type(of) => Type::Type(Arc::new(self.resolve(of, close))),
            Type::Map(key, value) => {
                Type::map(self.resolve(key, close), self.resolve(value, close))
            }
            other => other.clone(),
        }
    }
}

pub(super) fn most_general(one: &Type, other: &Type) -> Type {
    if equal_or_less_specific(one, other) { one.clone() } else { other.clone() }
}

fn equal_or_less_specific(one: &Type, other: &Type) -> bool {
    match (one, other) {
        (Type::Dyn | Type::Var(_), _) => true,
        (_, Type::Dyn | Type::Var(_)) => false,
        (Type::List(one), Type::List(other)) | (Type::Optional(one), Type::Optional(other)) => {
            equal_or_less_specific(one, other)
        }
        (Type::Map(key, value), Type::Map(other_key, other_value)) => {
            equal_or_less_specific(key, other_key) && equal_or_less_specific(value, other_value)
        }
        (Type::Type(_), Type::Type(_)) => true,
        _ => one == other,
    }
}
