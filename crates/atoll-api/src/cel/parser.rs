//! Tokens to a tree, with macros expanded.
//!
//! The errors are worded like those of upstream's generated parser where it has one wording;
//! only the first is given, since what follows one is guesswork.

use super::ast::{Call, Entry, Expr, Index, Item, Kind, Literal, Select, Struct, StructField};
use super::error::{CompileError, Issue};
use super::escape::RESERVED;
use super::lexer::{self, Token, TokenKind};
use super::macros;
use super::stack::with_room;

/// Characters of an expression. Upstream's number.
const SOURCE_CHARS_MAX: usize = 100_000;
/// How deep expressions stand within each other. Upstream's number.
const NESTING_MAX: usize = 250;
/// How deep the tree may be, chains like `a + b + c` and `a.b.c` included: every walk over a
/// tree is a recursion.
const DEPTH_MAX: usize = 300;

const PRIMARY: &str = "{'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, \
                       NUM_UINT, STRING, BYTES, IDENTIFIER}";

type Parsed<T> = Result<T, Issue>;

pub(super) fn parse(source: &str) -> Result<Expr, CompileError> {
    let size = source.chars().count();
    if size > SOURCE_CHARS_MAX {
        let message = format!(
            "expression code point size exceeds limit: size: {size}, limit {SOURCE_CHARS_MAX}"
        );
        return Err(CompileError::new("", vec![Issue { at: 0, message }]));
    }
    let tokens = lexer::tokens(source).map_err(|issues| CompileError::new(source, issues))?;
    let mut parser = Parser { tokens: &tokens, position: 0, nesting: 0 };
    let parsed = parser.whole().and_then(|(expr, _)| {
        let depth = depth(&expr, DEPTH_MAX);
        if depth { Ok(expr) } else { Err(parser.too_deep()) }
    });
    parsed.map_err(|issue| CompileError::new(source, vec![issue]))
}

/// Whether the tree is no deeper than `left`. Stops where it is, so it is itself bounded.
fn depth(expr: &Expr, left: usize) -> bool {
    let Some(left) = left.checked_sub(1) else { return false };
    let both = |one: &Expr, other: &Expr| depth(one, left) && depth(other, left);
    match &expr.kind {
        Kind::Literal(_) | Kind::Ident(_) | Kind::TypeName(_) => true,
        Kind::Select(select) => depth(&select.operand, left),
        Kind::Call(call) => call.target.iter().chain(&call.args).all(|one| depth(one, left)),
        Kind::And(terms) | Kind::Or(terms) => terms.iter().all(|one| depth(one, left)),
        Kind::Conditional(parts) => parts.iter().all(|one| depth(one, left)),
        Kind::Index(index) => both(&index.operand, &index.index),
        Kind::List(items) => items.iter().all(|item| depth(&item.value, left)),
        Kind::Map(entries) => entries.iter().all(|entry| both(&entry.key, &entry.value)),
        Kind::Struct(made) => made.fields.iter().all(|field| depth(&field.value, left)),
        Kind::Comprehension(fold) => {
            both(&fold.range, &fold.init)
                && both(&fold.condition, &fold.step)
                && depth(&fold.result, left)
        }
    }
}

struct Parser<'t> {
    tokens: &'t [Token],
    position: usize,
    nesting: usize,
}

/// A tree and how deep it is: chains are cut off before they are built too deep to be dropped.
type Tree = (Expr, usize);

fn precedence(operator: &str) -> Option<(u8, &'static str)> {
    Some(match operator {
        "||" => (1, "_||_"),
        "&&" => (2, "_&&_"),
        "==" => (3, "_==_"),
        "!=" => (3, "_!=_"),
        "<" => (3, "_<_"),
        "<=" => (3, "_<=_"),
        ">" => (3, "_>_"),
        ">=" => (3, "_>=_"),
        "in" => (3, "@in"),
        "+" => (4, "_+_"),
        "-" => (4, "_-_"),
        "*" => (5, "_*_"),
        "/" => (5, "_/_"),
        "%" => (5, "_%_"),
        _ => return None,
    })
}

impl<'t> Parser<'t> {
    fn whole(&mut self) -> Parsed<Tree> {
        let tree = self.expr()?;
        let token = self.peek();
        if token.kind == TokenKind::End {
            return Ok(tree);
        }
        let last = self.tokens.get(self.position + 1).is_some_and(|one| one.kind == TokenKind::End);
        let word = if last { "extraneous" } else { "mismatched" };
        Err(self.syntax(&format!("{word} input '{}' expecting <EOF>", token.text)))
    }

    fn peek(&self) -> &'t Token {
        // The last token is the end, and nothing goes beyond it.
        let last = self.tokens.len().saturating_sub(1);
        &self.tokens[self.position.min(last)]
    }

    fn next(&mut self) -> &'t Token {
        let token = self.peek();
        self.position += 1;
        token
    }

    fn is(&self, punct: &str) -> bool {
        matches!(self.peek().kind, TokenKind::Punct(own) if own == punct)
    }

    fn take(&mut self, punct: &str) -> bool {
        let found = self.is(punct);
        if found {
            self.position += 1;
        }
        found
    }

    fn expect(&mut self, punct: &str) -> Parsed<()> {
        if self.take(punct) {
            return Ok(());
        }
        let found = &self.peek().text;
        Err(self.syntax(&format!("missing '{punct}' at '{found}'")))
    }

    fn syntax(&self, what: &str) -> Issue {
        self.issue(&format!("Syntax error: {what}"))
    }

    fn issue(&self, message: &str) -> Issue {
        Issue { at: self.peek().at, message: message.to_owned() }
    }

    fn too_deep(&self) -> Issue {
        self.issue(&format!("expression recursion limit exceeded: {NESTING_MAX}"))
    }

    fn deeper(&self, depth: usize) -> Parsed<usize> {
        if depth >= DEPTH_MAX { Err(self.too_deep()) } else { Ok(depth + 1) }
    }

    fn expr(&mut self) -> Parsed<Tree> {
        with_room(|| self.nested())
    }

    fn nested(&mut self) -> Parsed<Tree> {
        self.nesting += 1;
        if self.nesting > NESTING_MAX {
            return Err(self.too_deep());
        }
        let (condition, depth) = self.binary(1)?;
        let at = self.peek().at;
        let tree = if self.take("?") {
            let (then, second) = self.binary(1)?;
            self.expect(":")?;
            let (otherwise, third) = self.expr()?;
            let depth = self.deeper(depth.max(second).max(third))?;
            (Expr::conditional(at, [condition, then, otherwise]), depth)
        } else {
            (condition, depth)
        };
        self.nesting -= 1;
        Ok(tree)
    }

    /// Operators that bind at least so strongly. One function for all of them: the fewer frames
    /// a level of nesting takes, the deeper expressions may be.
    fn binary(&mut self, least: u8) -> Parsed<Tree> {
        let (mut left, mut depth) = self.unary()?;
        loop {
            let token = self.peek();
            let TokenKind::Punct(operator) = token.kind else { return Ok((left, depth)) };
            let Some((own, function)) = precedence(operator).filter(|(own, _)| *own >= least)
            else {
                return Ok((left, depth));
            };
            self.position += 1;
            let (right, other) = self.binary(own + 1)?;
            depth = depth.max(other);
            let joins = joined(&mut left.kind, operator);
            match joins {
                Some(terms) => terms.push(right),
                None => {
                    depth = self.deeper(depth)?;
                    let terms = vec![left, right];
                    left = match operator {
                        "&&" => Expr::new(token.at, Kind::And(terms)),
                        "||" => Expr::new(token.at, Kind::Or(terms)),
                        _ => Expr::call(token.at, function, terms),
                    };
                }
            }
        }
    }

    fn unary(&mut self) -> Parsed<Tree> {
        let at = self.peek().at;
        for (operator, function) in [("!", "!_"), ("-", "-_")] {
            let start = self.position;
            while self.take(operator) {}
            let times = self.position - start;
            if times == 0 {
                continue;
            }
            if operator == "-"
                && let Some(negative) = self.negative_literal()?
            {
                // The last sign belongs to the number.
                let (literal, depth) = self.members(Expr::new(at, negative), 1)?;
                let odd = times.is_multiple_of(2);
                return Ok(if odd {
                    self.wrap(at, function, literal, depth)?
                } else {
                    (literal, depth)
                });
            }
            let (operand, depth) = self.primary()?;
            let (operand, depth) = self.members(operand, depth)?;
            let odd = times % 2 == 1;
            return if odd {
                self.wrap(at, function, operand, depth)
            } else {
                Ok((operand, depth))
            };
        }
        let (primary, depth) = self.primary()?;
        self.members(primary, depth)
    }

    fn wrap(&self, at: u32, function: &str, operand: Expr, depth: usize) -> Parsed<Tree> {
        Ok((Expr::call(at, function, vec![operand]), self.deeper(depth)?))
    }

    fn negative_literal(&mut self) -> Parsed<Option<Kind>> {
        let literal = match &self.peek().kind {
            TokenKind::Literal(Literal::Int(value)) => Literal::Int(value.wrapping_neg()),
            TokenKind::Literal(Literal::Double(value)) => Literal::Double(-value),
            _ => return Ok(None),
        };
        self.position += 1;
        Ok(Some(Kind::Literal(literal)))
    }

    fn members(&mut self, mut expr: Expr, mut depth: usize) -> Parsed<Tree> {
        loop {
            let at = self.peek().at;
            if self.take(".") {
                let optional = self.take("?");
                let name = self.identifier()?;
                if !optional && self.is("(") {
                    let open = self.next().at;
                    let (args, own) = self.arguments(")")?;
                    depth = self.deeper(depth.max(own))?;
                    expr = macros::member(open, expr, &name, args)?;
                    continue;
                }
                let select = Select { operand: expr, field: name, test: false, optional };
                expr = Expr::new(at, Kind::Select(Box::new(select)));
                depth = self.deeper(depth)?;
            } else if self.take("[") {
                let optional = self.take("?");
                let (index, own) = self.expr()?;
                self.expect("]")?;
                depth = self.deeper(depth.max(own))?;
                let index = Index { operand: expr, index, optional };
                expr = Expr::new(at, Kind::Index(Box::new(index)));
            } else if self.is("{")
                && let Some(name) = qualified_name(&expr)
            {
                self.position += 1;
                let (fields, own) = self.struct_fields()?;
                depth = self.deeper(depth.max(own))?;
                let made = Struct { name: name.into(), fields };
                expr = Expr::new(at, Kind::Struct(Box::new(made)));
            } else {
                return Ok((expr, depth));
            }
        }
    }

    /// The name after a dot.
    fn identifier(&mut self) -> Parsed<Box<str>> {
        let token = self.peek();
        if token.kind != TokenKind::Ident {
            let found = &token.text;
            let what = if token.kind == TokenKind::End {
                format!("no viable alternative at input '.{}'", token.text)
            } else {
                format!("mismatched input '{found}' expecting IDENTIFIER")
            };
            return Err(self.syntax(&what));
        }
        self.position += 1;
        Ok(token.text.clone())
    }

    fn primary(&mut self) -> Parsed<Tree> {
        let token = self.peek();
        match &token.kind {
            TokenKind::Literal(Literal::Int(i64::MIN)) => Err(self.issue("invalid int literal")),
            TokenKind::Literal(literal) => {
                self.position += 1;
                Ok((Expr::new(token.at, Kind::Literal(literal.clone())), 1))
            }
            TokenKind::Ident => {
                self.position += 1;
                self.global(token.at, &token.text)
            }
            TokenKind::Punct(".") => {
                self.position += 1;
                let at = self.peek().at;
                let name = self.identifier()?;
                self.global(at, &name)
            }
            TokenKind::Punct("(") => {
                self.position += 1;
                let tree = self.expr()?;
                self.expect(")")?;
                Ok(tree)
            }
            TokenKind::Punct("[") => {
                self.position += 1;
                self.list(token.at)
            }
            TokenKind::Punct("{") => {
                self.position += 1;
                self.map(token.at)
            }
            TokenKind::End | TokenKind::Punct(_) => {
                let found = &token.text;
                Err(self.syntax(&format!("mismatched input '{found}' expecting {PRIMARY}")))
            }
        }
    }

    /// A variable or a call of a function.
    fn global(&mut self, at: u32, name: &str) -> Parsed<Tree> {
        if RESERVED.contains(&name) {
            return Err(Issue { at, message: format!("reserved identifier: {name}") });
        }
        if !self.is("(") {
            return Ok((Expr::ident(at, name), 1));
        }
        let open = self.next().at;
        let (args, depth) = self.arguments(")")?;
        Ok((macros::global(open, name, args)?, self.deeper(depth)?))
    }

    fn arguments(&mut self, close: &str) -> Parsed<(Vec<Expr>, usize)> {
        let (mut args, mut depth) = (Vec::new(), 0);
        if self.take(close) {
            return Ok((args, depth));
        }
        loop {
            let (arg, own) = self.expr()?;
            args.push(arg);
            depth = depth.max(own);
            if !self.take(",") {
                self.expect(close)?;
                return Ok((args, depth));
            }
        }
    }

    fn list(&mut self, at: u32) -> Parsed<Tree> {
        let (mut items, mut depth) = (Vec::new(), 0);
        while !self.is("]") {
            let optional = self.take("?");
            let (value, own) = self.expr()?;
            depth = depth.max(own);
            items.push(Item { value, optional });
            if !self.take(",") {
                break;
            }
        }
        self.expect("]")?;
        Ok((Expr::new(at, Kind::List(items)), self.deeper(depth)?))
    }

    fn map(&mut self, at: u32) -> Parsed<Tree> {
        let (mut entries, mut depth) = (Vec::new(), 0);
        while !self.is("}") {
            let optional = self.take("?");
            let (key, first) = self.expr()?;
            self.expect(":")?;
            let (value, second) = self.expr()?;
            depth = depth.max(first).max(second);
            entries.push(Entry { key, value, optional });
            if !self.take(",") {
                break;
            }
        }
        self.expect("}")?;
        Ok((Expr::new(at, Kind::Map(entries)), self.deeper(depth)?))
    }

    fn struct_fields(&mut self) -> Parsed<(Vec<StructField>, usize)> {
        let (mut fields, mut depth) = (Vec::new(), 0);
        while !self.is("}") {
            let optional = self.take("?");
            let name = self.identifier()?;
            let at = self.peek().at;
            self.expect(":")?;
            let (value, own) = self.expr()?;
            depth = depth.max(own);
            fields.push(StructField { at, name, value, optional });
            if !self.take(",") {
                break;
            }
        }
        self.expect("}")?;
        Ok((fields, depth))
    }
}

/// The terms of a chain of the same logical operator, which another may join. In parentheses it
/// would be the same.
fn joined<'k>(kind: &'k mut Kind, operator: &str) -> Option<&'k mut Vec<Expr>> {
    match (kind, operator) {
        (Kind::And(terms), "&&") | (Kind::Or(terms), "||") => Some(terms),
        _ => None,
    }
}

/// `a.b.c` as a name; `None` when something is computed.
pub(super) fn qualified_name(expr: &Expr) -> Option<String> {
    match &expr.kind {
        Kind::Ident(name) => Some(name.to_string()),
        Kind::Select(select) if !select.test && !select.optional => {
            let prefix = qualified_name(&select.operand)?;
            Some(format!("{prefix}.{}", select.field))
        }
        _ => None,
    }
}

/// A call that is no macro.
pub(super) fn member_call(at: u32, target: Expr, function: &str, args: Vec<Expr>) -> Expr {
    let call = Call { function: function.into(), resolved: None, target: Some(target), args };
    Expr::new(at, Kind::Call(Box::new(call)))
}
