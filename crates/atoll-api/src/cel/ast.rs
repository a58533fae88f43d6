//! The tree of an expression.

use super::library::FunctionId;

/// One node. `at` is where it stands: a position in characters, which errors show.
#[derive(Debug, Clone)]
pub(super) struct Expr {
    pub at: u32,
    pub kind: Kind,
}

#[derive(Debug, Clone)]
pub(super) enum Kind {
    Literal(Literal),
    /// A variable; after checking also one with dots in its name.
    Ident(Box<str>),
    Select(Box<Select>),
    Call(Box<Call>),
    /// Any number of operands of `&&`.
    And(Vec<Expr>),
    Or(Vec<Expr>),
    Conditional(Box<[Expr; 3]>),
    /// `a[b]`, or with `?` `a[?b]`.
    Index(Box<Index>),
    List(Vec<Item>),
    Map(Vec<Entry>),
    Struct(Box<Struct>),
    Comprehension(Box<Comprehension>),
    /// A name that stands for a type: `int`, `kubernetes.Quantity`.
    TypeName(Box<str>),
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Literal {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(Box<str>),
    Bytes(Box<[u8]>),
}

#[derive(Debug, Clone)]
pub(super) struct Select {
    pub operand: Expr,
    pub field: Box<str>,
    /// `has(a.b)`.
    pub test: bool,
    /// `a.?b`.
    pub optional: bool,
}

#[derive(Debug, Clone)]
pub(super) struct Call {
    pub function: Box<str>,
    /// Found by the checker.
    pub resolved: Option<FunctionId>,
    pub target: Option<Expr>,
    pub args: Vec<Expr>,
}

#[derive(Debug, Clone)]
pub(super) struct Index {
    pub operand: Expr,
    pub index: Expr,
    pub optional: bool,
}

#[derive(Debug, Clone)]
pub(super) struct Item {
    pub value: Expr,
    pub optional: bool,
}

#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub key: Expr,
    pub value: Expr,
    pub optional: bool,
}

#[derive(Debug, Clone)]
pub(super) struct Struct {
    pub name: Box<str>,
    pub fields: Vec<StructField>,
}

#[derive(Debug, Clone)]
pub(super) struct StructField {
    pub at: u32,
    pub name: Box<str>,
    pub value: Expr,
    pub optional: bool,
}

/// A fold over a list or the keys of a map: what all macros become.
#[derive(Debug, Clone)]
pub(super) struct Comprehension {
    pub variable: Box<str>,
    pub second: Option<Box<str>>,
    pub range: Expr,
    pub accumulator: Box<str>,
    pub init: Expr,
    pub condition: Expr,
    pub step: Expr,
    pub result: Expr,
}

impl Expr {
    pub(super) fn new(at: u32, kind: Kind) -> Self {
        Self { at, kind }
    }

    pub(super) fn ident(at: u32, name: &str) -> Self {
        Self::new(at, Kind::Ident(name.into()))
    }

    pub(super) fn bool(at: u32, value: bool) -> Self {
        Self::new(at, Kind::Literal(Literal::Bool(value)))
    }

    pub(super) fn int(at: u32, value: i64) -> Self {
        Self::new(at, Kind::Literal(Literal::Int(value)))
    }

    pub(super) fn call(at: u32, function: &str, args: Vec<Self>) -> Self {
        let call = Call { function: function.into(), resolved: None, target: None, args };
        Self::new(at, Kind::Call(Box::new(call)))
    }

    pub(super) fn conditional(at: u32, parts: [Self; 3]) -> Self {
        Self::new(at, Kind::Conditional(Box::new(parts)))
    }

    pub(super) fn list(at: u32, items: Vec<Self>) -> Self {
        let items = items.into_iter().map(|value| Item { value, optional: false }).collect();
        Self::new(at, Kind::List(items))
    }

    /// A variable, or fields and items of one: what is read without computing anything.
    pub(super) fn is_attribute(&self) -> bool {
        match &self.kind {
            Kind::Ident(_) => true,
            Kind::Select(select) => !select.test && select.operand.is_attribute(),
            Kind::Index(index) => index.operand.is_attribute(),
            _ => false,
        }
    }
}
