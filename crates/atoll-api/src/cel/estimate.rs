//! What an expression may cost before it ever runs, from the sizes that a schema states.
//!
//! Upstream refuses rules of custom resources whose worst case is too expensive. The same way is
//! taken here, node by node; where a size is not known both take the largest that a request has
//! room for. Differences: lists that an expression makes have the size of their parts only as far
//! as this can see it, which is never less than what upstream sees.

use std::collections::BTreeMap;

use super::ast::{Call, Comprehension, Expr, Kind, Literal};
use super::cost;
use super::decl::{Decl, REQUEST_BYTES_MAX, Shape};
use super::library;
use super::stack::with_room;

/// What one rule may cost, times how often its schema's place may occur. Upstream's number.
pub const RULE_COST_MAX: u64 = 10_000_000;
/// What all rules of one custom resource definition may cost. Upstream's number.
pub const SCHEMA_COST_MAX: u64 = 100_000_000;

/// The least and the most that an evaluation costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Estimate {
    pub min: u64,
    pub max: u64,
}

impl Estimate {
    fn fixed(cost: u64) -> Self {
        Self { min: cost, max: cost }
    }

    fn plus(self, other: Self) -> Self {
        Self { min: self.min.saturating_add(other.min), max: self.max.saturating_add(other.max) }
    }

    fn times(self, size: Size) -> Self {
        Self { min: self.min.saturating_mul(size.min), max: self.max.saturating_mul(size.max) }
    }

    fn either(self, other: Self) -> Self {
        Self { min: self.min.min(other.min), max: self.max.max(other.max) }
    }
}

pub(super) fn of(root: &Expr, decls: &BTreeMap<String, &Decl>) -> Estimate {
    Walk { decls, scope: Vec::new() }.node(root).cost
}

#[derive(Debug, Clone, Copy)]
struct Size {
    min: u64,
    max: u64,
}

/// A size that nothing is known of.
const ANY: Size = Size { min: 0, max: REQUEST_BYTES_MAX };

impl Size {
    fn exact(size: usize) -> Self {
        let size = u64::try_from(size).unwrap_or(u64::MAX);
        Self { min: size, max: size }
    }

    fn plus(self, other: Self) -> Self {
        Self { min: self.min.saturating_add(other.min), max: self.max.saturating_add(other.max) }
    }

    /// A tenth for each character.
    fn traversal(self) -> Estimate {
        Estimate { min: cost::traversal(self.min), max: cost::traversal(self.max) }
    }
}

/// What is known of a value.
#[derive(Debug, Clone)]
struct Known<'d> {
    decl: Option<&'d Decl>,
    /// Of a list, map or text; scalars have none.
    size: Option<Size>,
    /// What the items of a made list are.
    item: Option<Box<Known<'d>>>,
}

struct Node<'d> {
    cost: Estimate,
    known: Known<'d>,
}

struct Walk<'d, 'm> {
    decls: &'m BTreeMap<String, &'d Decl>,
    scope: Vec<(Box<str>, Known<'d>)>,
}

impl<'d> Known<'d> {
    const NOTHING: Self = Self { decl: None, size: None, item: None };

    fn of_decl(decl: &'d Decl) -> Self {
        let size = match decl.shape {
            Shape::Bool
            | Shape::Int
            | Shape::Double
            | Shape::Timestamp
            | Shape::Duration
            | Shape::Object(_) => None,
            _ => Some(Size { min: 0, max: decl.size_max.unwrap_or(REQUEST_BYTES_MAX) }),
        };
        Self { decl: Some(decl), size, item: None }
    }

    fn sized(size: Size) -> Self {
        Self { size: Some(size), ..Self::NOTHING }
    }

    /// The size for a call that walks over the value.
    fn size(&self) -> Size {
        match (self.size, self.decl) {
            (Some(size), _) => size,
            (None, Some(_)) => Size { min: 1, max: 1 },
            (None, None) => ANY,
        }
    }

    fn field(&self, name: &str) -> Self {
        match self.decl.map(|decl| &decl.shape) {
            Some(Shape::Object(object)) => {
                object.field(name).map_or(Self::NOTHING, |(_, decl)| Self::of_decl(decl))
            }
            Some(Shape::Map(value)) => Self::of_decl(value),
            _ => Self::NOTHING,
        }
    }

    fn item(&self) -> Self {
        match self.decl.map(|decl| &decl.shape) {
            Some(Shape::List(item, _)) => Self::of_decl(item),
            Some(Shape::Map(value)) => Self::of_decl(value),
            _ => self.item.as_deref().cloned().unwrap_or(Self::NOTHING),
        }
    }

    fn either(self, other: Self) -> Self {
        let (one, two) = (self.size(), other.size());
        Self { size: Some(Size { min: one.min.min(two.min), max: one.max.max(two.max) }), ..self }
    }
}

impl<'d> Walk<'d, '_> {
    fn node(&mut self, expr: &Expr) -> Node<'d> {
        with_room(|| self.node_of(expr))
    }

    fn node_of(&mut self, expr: &Expr) -> Node<'d> {
        match &expr.kind {
            Kind::Literal(literal) => {
                let known = match literal {
                    Literal::String(text) => Known::sized(Size::exact(text.chars().count())),
                    Literal::Bytes(bytes) => Known::sized(Size::exact(bytes.len())),
                    _ => Known::sized(Size { min: 1, max: 1 }),
                };
                Node { cost: Estimate::default(), known }
            }
            Kind::TypeName(_) => {
                Node { cost: Estimate::default(), known: Known::sized(Size { min: 1, max: 1 }) }
            }
            Kind::Ident(name) => {
                Node { cost: Estimate::fixed(cost::NAME), known: self.named(name) }
            }
            Kind::Select(select) => {
                let operand = self.node(&select.operand);
                if select.test {
                    return Node { known: Known::sized(Size { min: 1, max: 1 }), ..operand };
                }
                Node {
                    cost: operand.cost.plus(Estimate::fixed(cost::NAME)),
                    known: operand.known.field(&select.field),
                }
            }
            Kind::Index(index) => {
                let (operand, key) = (self.node(&index.operand), self.node(&index.index));
                let cost = operand.cost.plus(key.cost).plus(Estimate::fixed(cost::NAME));
                Node { cost, known: operand.known.item() }
            }
            Kind::And(terms) | Kind::Or(terms) => {
                let mut cost = Estimate::default();
                for (position, term) in terms.iter().enumerate() {
                    let own = self.node(term).cost;
                    // Only the first is certain to run.
                    let min = if position == 0 { own.min } else { 0 };
                    cost = cost.plus(Estimate { min, ..own });
                }
                Node { cost, known: Known::sized(Size { min: 1, max: 1 }) }
            }
            Kind::Conditional(parts) => {
                let [condition, then, otherwise] = parts.as_ref();
                let condition = self.node(condition).cost;
                let (then, otherwise) = (self.node(then), self.node(otherwise));
                Node {
                    cost: condition.plus(then.cost.either(otherwise.cost)),
                    known: then.known.either(otherwise.known),
                }
            }
            Kind::List(_) | Kind::Map(_) | Kind::Struct(_) => self.made(expr),
            Kind::Call(call) => self.call(call),
            Kind::Comprehension(fold) => self.fold(fold),
        }
    }

    /// What an expression builds.
    fn made(&mut self, expr: &Expr) -> Node<'d> {
        match &expr.kind {
            Kind::List(items) => {
                let mut cost = Estimate::fixed(cost::LIST);
                let mut joined: Option<Known<'d>> = None;
                for item in items {
                    let node = self.node(&item.value);
                    cost = cost.plus(node.cost);
                    joined = Some(match joined {
                        None => node.known,
                        Some(before) => before.either(node.known),
                    });
                }
                let item = joined.map(Box::new);
                Node { cost, known: Known { item, ..Known::sized(Size::exact(items.len())) } }
            }
            Kind::Map(entries) => {
                let mut cost = Estimate::fixed(cost::MAP);
                for entry in entries {
                    cost = cost.plus(self.node(&entry.key).cost).plus(self.node(&entry.value).cost);
                }
                Node { cost, known: Known::sized(Size::exact(entries.len())) }
            }
            Kind::Struct(made) => {
                let mut cost = Estimate::fixed(cost::STRUCT);
                for field in &made.fields {
                    cost = cost.plus(self.node(&field.value).cost);
                }
                Node { cost, known: Known::sized(Size { min: 1, max: 1 }) }
            }
            _ => Node { cost: Estimate::default(), known: Known::NOTHING },
        }
    }

    fn named(&self, name: &str) -> Known<'d> {
        if let Some((_, known)) = self.scope.iter().rev().find(|(own, _)| own.as_ref() == name) {
            return known.clone();
        }
        self.decls.get(name).map_or(Known::NOTHING, |decl| Known::of_decl(decl))
    }

    fn call(&mut self, call: &Call) -> Node<'d> {
        let mut total = Estimate::default();
        let mut args = Vec::new();
        for arg in call.target.iter().chain(&call.args) {
            let node = self.node(arg);
            total = total.plus(node.cost);
            args.push(node.known);
        }
        let name = call.resolved.map_or("", library::name);
        let (own, known) = of_call(name, &args);
        Node { cost: total.plus(own), known }
    }

    fn fold(&mut self, fold: &Comprehension) -> Node<'d> {
        let (range, init) = (self.node(&fold.range), self.node(&fold.init));
        let times = range.known.size();
        let is_map = matches!(range.known.decl.map(|decl| &decl.shape), Some(Shape::Map(_)));
        let key = Known::sized(ANY);
        let (first, second) = match (&fold.second, is_map) {
            (Some(_), true) => (key, range.known.item()),
            (Some(_), false) => (Known::sized(Size { min: 1, max: 1 }), range.known.item()),
            (None, true) => (key, Known::NOTHING),
            (None, false) => (range.known.item(), Known::NOTHING),
        };
        let outer = self.scope.len();
        self.scope.push((fold.accumulator.clone(), init.known.clone()));
        self.scope.push((fold.variable.clone(), first));
        if let Some(name) = &fold.second {
            self.scope.push((name.clone(), second));
        }
        let (condition, step) = (self.node(&fold.condition), self.node(&fold.step));
        self.scope.truncate(outer);
        // What is collected is as long as the range at most, and as its step makes each item.
        let collected = match (&init.known.item, init.known.size) {
            (None, Some(Size { max: 0, .. })) => {
                Known { item: step.known.item.clone(), ..Known::sized(Size { min: 0, ..times }) }
            }
            _ => init.known,
        };
        self.scope.push((fold.accumulator.clone(), collected));
        let result = self.node(&fold.result);
        self.scope.truncate(outer);
        // The loop may end at once.
        let rounds = condition.cost.plus(step.cost).times(Size { min: 0, ..times });
        let cost = range.cost.plus(init.cost).plus(rounds).plus(result.cost);
        Node { cost, known: result.known }
    }
}

/// The call itself, and what its result is.
fn of_call<'d>(name: &str, args: &[Known<'d>]) -> (Estimate, Known<'d>) {
    let size = |index: usize| args.get(index).map_or(Size { min: 0, max: 0 }, Known::size);
    let (one, two) = (size(0), size(1));
    let scalar = Known::sized(Size { min: 1, max: 1 });
    let same = |size: Size| Known::sized(Size { min: 0, ..size });
    match name {
        "check" => (Estimate::fixed(cost::CHECK), scalar),
        "fieldSelector" | "labelSelector" => {
            let (min, max) = (cost::selector(two.min), cost::selector(two.max));
            (Estimate { min, max }, scalar)
        }
        "isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" => {
            let item = args.first().map_or(Known::NOTHING, Known::item);
            let each = Estimate::fixed(1).plus(match item.size {
                Some(size) => size.traversal(),
                None => Estimate::default(),
            });
            (each.times(one), scalar)
        }
        "url" | "lowerAscii" | "upperAscii" | "substring" | "trim" | "jsonpatch.escapeKey" => {
            (one.traversal(), same(one))
        }
        "cidr" | "ip" | "isIP" | "isCIDR" | "quantity" | "isQuantity" | "semver" | "isSemver"
        | "bytes" | "string" | "strings.quote" | "format" | "ip.isCanonical" => {
            (one.traversal(), Known::sized(one))
        }
        // Only as much is looked at as the other text is long.
        "startsWith" | "endsWith" => (two.traversal(), Known::sized(one)),
        "replace" | "split" => {
            let longer = Size { min: 0, max: one.max.saturating_mul(size(2).max.max(1)) };
            let twice = Size { min: one.min, max: one.max.saturating_mul(2) };
            let known = if name == "replace" { longer } else { Size { min: 0, ..one } };
            let item = Some(Box::new(Known::sized(one)));
            (twice.traversal(), Known { item, ..Known::sized(known) })
        }
        "join" => {
            let item = args.first().map_or(Known::NOTHING, Known::item).size();
            let max = one.max.saturating_mul(item.max.saturating_add(two.max));
            let joined = Size { min: 0, max };
            (Size { min: 0, max: max.saturating_mul(2) }.traversal(), Known::sized(joined))
        }
        "find" | "findAll" | "matches" => {
            let min = cost::regex(one.min, two.min);
            let estimate = Estimate { min, max: cost::regex(one.max, two.max) };
            (estimate, if name == "matches" { scalar } else { same(one) })
        }
        "validate" => {
            let max = cost::regex(two.max, 97);
            (Estimate { min: cost::regex(two.min, 30), max }, scalar)
        }
        "contains" => {
            let (text, part) = (one.traversal(), two.traversal());
            let max = text.max.saturating_mul(part.max);
            (Estimate { min: text.min.saturating_mul(part.min), max }, scalar)
        }
        "@in" => (Estimate { min: two.min.min(1), max: two.max }, scalar),
        "_==_" | "_!=_" | "_<_" | "_<=_" | "_>_" | "_>=_" => {
            let smaller = Size { min: one.min.min(two.min), max: one.max.min(two.max) };
            let estimate = smaller.traversal();
            (Estimate { min: estimate.min, max: estimate.max.max(1) }, scalar)
        }
        "_+_" => {
            let sum = one.plus(two);
            let item = args.get(1).and_then(|known| known.item.clone());
            let is_text = item.is_none() && args.iter().all(|known| known.size.is_some());
            let max = if is_text { sum.traversal().max.max(1) } else { 1 };
            (Estimate { min: 1, max }, Known { item, ..Known::sized(sum) })
        }
        _ => of_list_call(name, args, one, two),
    }
}

/// Calls over whole lists, and what is left.
fn of_list_call<'d>(name: &str, args: &[Known<'d>], one: Size, two: Size) -> (Estimate, Known<'d>) {
    let scalar = Known::sized(Size { min: 1, max: 1 });
    match name {
        "sets.contains" | "sets.intersects" | "sets.equivalent" => {
            let factor = if name == "sets.equivalent" { 2 } else { 1 };
            let max = one.max.saturating_mul(two.max).saturating_mul(factor).saturating_add(1);
            (Estimate { min: 1, max }, scalar)
        }
        "distinct" | "sort" | "@sortByAssociatedKeys" => {
            let max = one.max.saturating_mul(one.max).saturating_mul(2).saturating_add(11);
            let known = args.first().cloned().unwrap_or(Known::NOTHING);
            (Estimate { min: 11, max }, known)
        }
        "slice" | "flatten" | "reverse" => {
            let known = args.first().cloned().unwrap_or(Known::NOTHING);
            (Estimate { min: 11, max: one.max.saturating_add(11) }, known)
        }
        "lists.range" => (Estimate { min: 11, max: ANY.max }, Known::sized(ANY)),
        "size" | "int" | "uint" | "double" | "bool" | "type" => (Estimate::fixed(1), scalar),
        _ => (Estimate::fixed(1), Known::sized(ANY)),
    }
}
