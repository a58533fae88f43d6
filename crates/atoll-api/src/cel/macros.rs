//! Macros: calls that stand for a fold over their receiver.

use super::ast::{Comprehension, Expr, Item, Kind, Select};
use super::error::Issue;
use super::parser::{member_call, qualified_name};

/// The variable in which a fold keeps its value.
const ACCUMULATOR: &str = "@result";
/// A variable that nothing reads.
const UNUSED: &str = "#unused";

type Expanded = Result<Expr, Issue>;

/// `name(args)`.
pub(super) fn global(at: u32, name: &str, mut args: Vec<Expr>) -> Expanded {
    if name == "has" && args.len() == 1 {
        let Some(arg) = args.pop() else { return Ok(Expr::call(at, name, args)) };
        let place = arg.at;
        return match arg.kind {
            Kind::Select(select) if !select.test && !select.optional => {
                let select = Select { test: true, ..*select };
                Ok(Expr::new(at, Kind::Select(Box::new(select))))
            }
            _ => Err(issue(place, "invalid argument to has() macro")),
        };
    }
    Ok(Expr::call(at, name, args))
}

/// `target.name(args)`.
pub(super) fn member(at: u32, target: Expr, name: &str, args: Vec<Expr>) -> Expanded {
    if name == "bind" && args.len() == 3 && qualified_name(&target).as_deref() == Some("cel") {
        return bind(at, args);
    }
    match (name, args.len()) {
        ("all" | "exists" | "exists_one" | "existsOne", 2 | 3) => {
            quantifier(at, target, name, args)
        }
        ("map", 2 | 3) => map(at, target, args),
        ("filter", 2) => filter(at, target, args),
        ("optMap" | "optFlatMap", 2) => optional(at, target, name, args),
        ("transformList", 3 | 4) => transform(at, target, args, Transform::List),
        ("transformMap", 3 | 4) => transform(at, target, args, Transform::Map),
        ("transformMapEntry", 3 | 4) => transform(at, target, args, Transform::Entry),
        ("sortBy", 2) => sort_by(at, target, args),
        _ => Ok(member_call(at, target, name, args)),
    }
}

fn issue(at: u32, message: &str) -> Issue {
    Issue { at, message: message.to_owned() }
}

/// A name for the items.
fn variable(expr: &Expr) -> Result<Box<str>, Issue> {
    match &expr.kind {
        Kind::Ident(name) if name.as_ref() == ACCUMULATOR => {
            Err(issue(expr.at, "iteration variable overwrites accumulator variable"))
        }
        Kind::Ident(name) => Ok(name.clone()),
        _ => Err(issue(expr.at, "argument is not an identifier")),
    }
}

struct Fold {
    variable: Box<str>,
    second: Option<Box<str>>,
    init: Expr,
    condition: Expr,
    step: Expr,
    result: Expr,
}

fn fold(at: u32, range: Expr, fold: Fold) -> Expr {
    Expr::new(
        at,
        Kind::Comprehension(Box::new(Comprehension {
            variable: fold.variable,
            second: fold.second,
            range,
            accumulator: ACCUMULATOR.into(),
            init: fold.init,
            condition: fold.condition,
            step: fold.step,
            result: fold.result,
        })),
    )
}

fn accumulator(at: u32) -> Expr {
    Expr::ident(at, ACCUMULATOR)
}

fn quantifier(at: u32, range: Expr, name: &str, args: Vec<Expr>) -> Expanded {
    let two = args.len() == 3;
    if name == "existsOne" && !two {
        return Ok(member_call(at, range, name, args));
    }
    let mut args = args.into_iter();
    let (Some(first), second) = (args.next(), if two { args.next() } else { None }) else {
        return Err(issue(at, "argument is not an identifier"));
    };
    let (variable, second) = (variable(&first)?, second.as_ref().map(variable).transpose()?);
    let Some(predicate) = args.next() else { return Err(issue(at, "argument is missing")) };
    let not_strictly_false = |of: Expr| Expr::call(at, "@not_strictly_false", vec![of]);
    let made = match name {
        "all" => Fold {
            variable,
            second,
            init: Expr::bool(at, true),
            condition: not_strictly_false(accumulator(at)),
            step: Expr::new(at, Kind::And(vec![accumulator(at), predicate])),
            result: accumulator(at),
        },
        "exists" => Fold {
            variable,
            second,
            init: Expr::bool(at, false),
            condition: not_strictly_false(Expr::call(at, "!_", vec![accumulator(at)])),
            step: Expr::new(at, Kind::Or(vec![accumulator(at), predicate])),
            result: accumulator(at),
        },
        _ => {
            let more = Expr::call(at, "_+_", vec![accumulator(at), Expr::int(at, 1)]);
            Fold {
                variable,
                second,
                init: Expr::int(at, 0),
                condition: Expr::bool(at, true),
                step: Expr::conditional(at, [predicate, more, accumulator(at)]),
                result: Expr::call(at, "_==_", vec![accumulator(at), Expr::int(at, 1)]),
            }
        }
    };
    Ok(fold(at, range, made))
}

/// The accumulator with one item more.
fn appended(at: u32, item: Expr) -> Expr {
    Expr::call(at, "_+_", vec![accumulator(at), Expr::list(at, vec![item])])
}

fn collect(
    at: u32,
    range: Expr,
    variables: (Box<str>, Option<Box<str>>),
    filter: Option<Expr>,
    step: Expr,
    init: Expr,
) -> Expr {
    let step = match filter {
        Some(filter) => Expr::conditional(at, [filter, step, accumulator(at)]),
        None => step,
    };
    let (variable, second) = variables;
    let condition = Expr::bool(at, true);
    fold(at, range, Fold { variable, second, init, condition, step, result: accumulator(at) })
}

fn map(at: u32, range: Expr, args: Vec<Expr>) -> Expanded {
    let filtered = args.len() == 3;
    let mut args = args.into_iter();
    let Some(first) = args.next() else { return Err(issue(at, "argument is missing")) };
    let variable = variable(&first)?;
    let filter = if filtered { args.next() } else { None };
    let Some(transform) = args.next() else { return Err(issue(at, "argument is missing")) };
    let step = appended(at, transform);
    Ok(collect(at, range, (variable, None), filter, step, Expr::list(at, Vec::new())))
}

fn filter(at: u32, range: Expr, args: Vec<Expr>) -> Expanded {
    let mut args = args.into_iter();
    let Some(first) = args.next() else { return Err(issue(at, "argument is missing")) };
    let variable = variable(&first)?;
    let step = appended(at, first);
    Ok(collect(at, range, (variable, None), args.next(), step, Expr::list(at, Vec::new())))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transform {
    List,
    Map,
    Entry,
}

fn transform(at: u32, range: Expr, args: Vec<Expr>, into: Transform) -> Expanded {
    let filtered = args.len() == 4;
    let mut args = args.into_iter();
    let (Some(first), Some(second)) = (args.next(), args.next()) else {
        return Err(issue(at, "argument is missing"));
    };
    let variables = (variable(&first)?, Some(variable(&second)?));
    let filter = if filtered { args.next() } else { None };
    let Some(made) = args.next() else { return Err(issue(at, "argument is missing")) };
    let step = match into {
        Transform::List => appended(at, made),
        Transform::Map => Expr::call(at, "cel.@mapInsert", vec![accumulator(at), first, made]),
        Transform::Entry => Expr::call(at, "cel.@mapInsert", vec![accumulator(at), made]),
    };
    let init = match into {
        Transform::List => Expr::list(at, Vec::new()),
        Transform::Map | Transform::Entry => Expr::new(at, Kind::Map(Vec::new())),
    };
    Ok(collect(at, range, variables, filter, step, init))
}

/// `body` with `variable` standing for `value`: a fold over nothing.
fn let_in(at: u32, variable: Box<str>, value: Expr, body: Expr) -> Expr {
    Expr::new(
        at,
        Kind::Comprehension(Box::new(Comprehension {
            step: Expr::ident(at, &variable),
            variable: UNUSED.into(),
            second: None,
            range: Expr::new(at, Kind::List(Vec::<Item>::new())),
            accumulator: variable,
            init: value,
            condition: Expr::bool(at, false),
            result: body,
        })),
    )
}

fn bind(at: u32, args: Vec<Expr>) -> Expanded {
    let mut args = args.into_iter();
    let (Some(name), Some(value), Some(body)) = (args.next(), args.next(), args.next()) else {
        return Err(issue(at, "cel.bind() takes three arguments"));
    };
    match &name.kind {
        Kind::Ident(variable) => Ok(let_in(at, variable.clone(), value, body)),
        _ => Err(issue(name.at, "cel.bind() variable names must be simple identifiers")),
    }
}

/// `target.optMap(x, f(x))`.
fn optional(at: u32, target: Expr, name: &str, args: Vec<Expr>) -> Expanded {
    let mut args = args.into_iter();
    let (Some(first), Some(body)) = (args.next(), args.next()) else {
        return Err(issue(at, "argument is missing"));
    };
    let Kind::Ident(variable) = &first.kind else {
        return Err(issue(
            first.at,
            &format!("{name}() variable name must be a simple identifier"),
        ));
    };
    const TARGET: &str = "@target";
    let value = member_call(at, Expr::ident(at, TARGET), "value", Vec::new());
    let body = let_in(at, variable.clone(), value, body);
    let some = if name == "optMap" { Expr::call(at, "optional.of", vec![body]) } else { body };
    let present = member_call(at, Expr::ident(at, TARGET), "hasValue", Vec::new());
    let none = Expr::call(at, "optional.none", Vec::new());
    let chosen = Expr::conditional(at, [present, some, none]);
    Ok(let_in(at, TARGET.into(), target, chosen))
}

/// `list.sortBy(item, key)`.
fn sort_by(at: u32, target: Expr, args: Vec<Expr>) -> Expanded {
    const INPUT: &str = "@__sortBy_input__";
    let keys = map(at, Expr::ident(at, INPUT), args)?;
    let sorted = member_call(at, Expr::ident(at, INPUT), "@sortByAssociatedKeys", vec![keys]);
    Ok(let_in(at, INPUT.into(), target, sorted))
}
