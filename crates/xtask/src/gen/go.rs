//! Reads Go type files: of struct tags field names, protobuf numbers and pointers, and the values
//! of types that are marked as enumerations.
//!
//! It knows as much of Go as Kubernetes' `types.go` files use, and nothing more.

use anyhow::{Context, Result};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    path::Path,
};

/// A field of a struct, as its tags describe it.
#[derive(Debug, Clone)]
pub(crate) struct GoField {
    /// `None` for an embedded struct whose fields stand in the parent.
    pub json: Option<String>,
    pub omitempty: bool,
    /// Protobuf field number; 0 when protobuf does not carry the field.
    pub tag: u32,
    pub repeated: bool,
    /// The type as it is written.
    pub ty: String,
}

/// What a name stands for.
#[derive(Debug, Clone)]
pub(crate) enum GoType {
    Struct(Vec<GoField>),
    /// `type RestartPolicy string`
    Named(String),
}

/// The types of one package, and what its imports are called.
#[derive(Debug, Default)]
pub(crate) struct Package {
    pub types: BTreeMap<String, GoType>,
    /// The types that are marked `+enum`.
    pub enums: BTreeSet<String>,
    /// The values of constants by their type, in order.
    pub constants: BTreeMap<String, BTreeSet<String>>,
    pub imports: HashMap<String, String>,
}

/// Packages by the prefix that OpenAPI gives them (`io.k8s.api.core.v1`).
pub(crate) type Packages = BTreeMap<String, Package>;

/// Reads every Go file under `root`, whose subfolders are the modules of `k8s.io`.
pub(crate) fn read(root: &Path) -> Result<Packages> {
    let mut packages = Packages::new();
    read_folder(root, "io.k8s", &mut packages)?;
    Ok(packages)
}

fn read_folder(folder: &Path, prefix: &str, packages: &mut Packages) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if path.is_dir() {
            read_folder(&path, &format!("{prefix}.{name}"), packages)?;
        } else if name.ends_with(".go") {
            let text = fs::read_to_string(&path)?;
            let package = packages.entry(prefix.to_owned()).or_default();
            parse(&text, package);
            read_enums(&text, package);
        }
    }
    Ok(())
}

fn parse(text: &str, package: &mut Package) {
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(path) = quoted_import(line) {
            let alias = line.trim().split('"').next().unwrap_or("").trim();
            let alias = alias.strip_prefix("import").unwrap_or(alias).trim();
            let last = path.rsplit('/').next().unwrap_or(path);
            let alias = if alias.is_empty() { last } else { alias };
            let prefix = format!("io.{}", path.replacen("k8s.io", "k8s", 1).replace('/', "."));
            package.imports.insert(alias.to_owned(), prefix);
            continue;
        }
        let Some(rest) = line.strip_prefix("type ") else { continue };
        let Some((name, definition)) = rest.split_once(' ') else { continue };
        let definition = definition.split("//").next().unwrap_or("").trim();
        if definition == "struct {" {
            let fields = lines.by_ref().take_while(|line| *line != "}").filter_map(field);
            package.types.insert(name.to_owned(), GoType::Struct(fields.collect()));
        } else if !definition.starts_with("interface") && !definition.starts_with("func") {
            let written = definition.trim_start_matches("= ").to_owned();
            package.types.insert(name.to_owned(), GoType::Named(written));
        }
    }
}

/// Constants of string types, and which types are enumerations. A type and its constants may
/// stand in different files of a package, so the constants of all types are kept.
fn read_enums(text: &str, package: &mut Package) {
    let mut marked = false;
    for line in text.lines().map(str::trim) {
        if line.starts_with("//") {
            marked |= line == "// +enum";
            continue;
        }
        if let Some((name, _)) = line.strip_prefix("type ").and_then(|rest| rest.split_once(' ')) {
            if marked {
                package.enums.insert(name.to_owned());
            }
        } else if let Some((ty, value)) = constant(line) {
            package.constants.entry(ty.to_owned()).or_default().insert(value.to_owned());
        }
        marked = false;
    }
}

/// The type and the value of `Name Type = "value"`, with or without `const`.
fn constant(line: &str) -> Option<(&str, &str)> {
    let line = line.strip_prefix("const ").unwrap_or(line);
    let (declared, value) = line.split_once(" = \"")?;
    let mut words = declared.split_whitespace();
    let (_, ty) = (words.next()?, words.next()?);
    Some((ty, value.split('"').next()?)).filter(|_| words.next().is_none())
}

fn quoted_import(line: &str) -> Option<&str> {
    let path = line.trim().strip_suffix('"')?.rsplit('"').next()?;
    path.starts_with("k8s.io/").then_some(path)
}

fn field(line: &str) -> Option<GoField> {
    let line = line.trim();
    if line.starts_with("//") {
        return None;
    }
    let (before, rest) = line.split_once('`')?;
    let tags = rest.split('`').next()?;
    let mut words = before.split_whitespace();
    let first = words.next()?;
    let ty: String = words.collect();
    let mut json = tag_value(tags, "json")?.split(',');
    let name = json.next().unwrap_or("");
    let options: Vec<&str> = json.collect();
    let tag = tag_value(tags, "protobuf")
        .and_then(|value| value.split(',').nth(1))
        .and_then(|number| number.parse().ok())
        .unwrap_or(0);
    if name == "-" {
        return None;
    }
    let inline = name.is_empty() && (options.contains(&"inline") || ty.is_empty());
    Some(GoField {
        json: (!inline).then(|| if name.is_empty() { first } else { name }.to_owned()),
        omitempty: options.iter().any(|one| one.starts_with("omit")),
        tag,
        repeated: tag_value(tags, "protobuf").is_some_and(|value| value.contains(",rep,")),
        ty: if ty.is_empty() { first.to_owned() } else { ty },
    })
}

fn tag_value<'a>(tags: &'a str, name: &str) -> Option<&'a str> {
    let start = tags.find(&format!("{name}:\""))? + name.len() + 2;
    tags[start..].split('"').next()
}
