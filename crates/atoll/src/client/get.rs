//! `atoll get`: tables, names, JSON, YAML and templates, once or as they change.

use super::{
    answer,
    apply::{Manifests, read_files},
    catalog::{Catalog, Entry, targets},
    connect::Connection,
    jsonpath, output, print,
    table::Table,
};
use anyhow::{Context as _, Result, bail};
use futures::{AsyncBufReadExt as _, TryStreamExt as _};
use http::Request;
use serde_json::{Value, json};
use std::{path::PathBuf, process::ExitCode};

const AS_TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

/// How to print; what `-o` means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Format {
    Wide,
    Json,
    Yaml,
    Name,
    JsonPath(String),
    /// Heading and path of each column.
    Columns(Vec<(String, String)>),
}

fn format(text: &str) -> Result<Format, String> {
    match text.split_once('=').unwrap_or((text, "")) {
        ("wide", "") => Ok(Format::Wide),
        ("json", "") => Ok(Format::Json),
        ("yaml", "") => Ok(Format::Yaml),
        ("name", "") => Ok(Format::Name),
        ("jsonpath", template) if !template.is_empty() => {
            jsonpath::parse(template).map_err(|error| error.to_string())?;
            Ok(Format::JsonPath(template.to_owned()))
        }
        ("custom-columns", spec) if !spec.is_empty() => columns(spec).map(Format::Columns),
        _ => Err(format!(
            "unable to match a printer suitable for the output format \"{text}\", allowed formats are: custom-columns,json,jsonpath,name,wide,yaml"
        )),
    }
}

fn columns(spec: &str) -> Result<Vec<(String, String)>, String> {
    let one = |column: &str| match column.split_once(':') {
        Some((heading, path)) if jsonpath::parse(path).is_ok() => {
            Ok((heading.to_owned(), path.to_owned()))
        }
        _ => Err(format!(
            "unexpected custom-columns spec: {column}, expected <header>:<json-path-expr>"
        )),
    };
    spec.split(',').map(one).collect()
}

#[derive(Debug, clap::Args)]
pub struct Get {
    /// KIND, KIND NAME... or KIND/NAME...
    pub targets: Vec<String>,
    /// The objects that these files or folders name; - is standard input
    #[arg(short, long)]
    pub filename: Vec<PathBuf>,
    /// Also what is in folders below those of --filename
    #[arg(short = 'R', long)]
    pub recursive: bool,
    /// Objects of all namespaces
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
    /// Only objects with these labels, such as app=web
    #[arg(short = 'l', long)]
    pub selector: Option<String>,
    /// Only objects with these fields, such as status.phase=Running
    #[arg(long)]
    pub field_selector: Option<String>,
    /// json, yaml, name, wide, jsonpath=TEMPLATE or custom-columns=HEADING:PATH,...
    #[arg(short, long, value_parser = format, value_name = "FORMAT")]
    pub output: Option<Format>,
    /// In the order of this field, such as .metadata.creationTimestamp
    #[arg(long, value_name = "JSONPATH")]
    pub sort_by: Option<String>,
    /// Do not print headings
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false, action = clap::ArgAction::Set)]
    pub no_headers: bool,
    /// Objects that are not there are no error
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false, action = clap::ArgAction::Set)]
    pub ignore_not_found: bool,
    /// All labels as the last column
    #[arg(long)]
    pub show_labels: bool,
    /// A column for each of these labels
    #[arg(short = 'L', long, value_delimiter = ',')]
    pub label_columns: Vec<String>,
    /// Keep who set which field, in JSON and YAML
    #[arg(long)]
    pub show_managed_fields: bool,
    /// Print changes as they happen, after the list
    #[arg(short, long)]
    pub watch: bool,
}

/// What to show: a kind, and one name of it or all.
struct Wanted<'a> {
    entry: &'a Entry,
    name: Option<String>,
    scope: Option<String>,
}

/// What was asked for, and whether all of it was there.
#[derive(Default)]
struct Tally {
    printed: usize,
    failed: bool,
}

pub async fn run(connection: &Connection, namespace: Option<&str>, get: &Get) -> Result<ExitCode> {
    if get.targets.is_empty() && get.filename.is_empty() {
        bail!(
            "Required resource not specified: name a kind, such as `atoll get pods`; the kinds are pods, deployments, services, nodes and others"
        );
    }
    let catalog = Catalog::read(&connection.client).await?;
    let namespace = namespace.unwrap_or(&connection.namespace);
    let scope = (!get.all_namespaces).then_some(namespace);
    let wanted = wanted(&catalog, scope, namespace, get)?;
    let documents = documents(connection, get, &wanted).await?;
    match &get.output {
        Some(Format::Json | Format::Yaml | Format::JsonPath(_) | Format::Columns(_)) => {
            objects(get, &wanted, documents)
        }
        _ => tables(connection, scope, get, &wanted, documents).await,
    }
}

fn wanted<'a>(
    catalog: &'a Catalog,
    scope: Option<&str>,
    namespace: &str,
    get: &Get,
) -> Result<Vec<Wanted<'a>>> {
    let mut found = Vec::new();
    let Manifests(manifests) = read_files(&get.filename, get.recursive)?;
    for manifest in manifests {
        let entry = catalog.of_object(&manifest.api_version, &manifest.kind)?;
        let scope = manifest.namespace.unwrap_or_else(|| namespace.to_owned());
        found.push(Wanted { entry, name: Some(manifest.name), scope: Some(scope) });
    }
    if get.targets.is_empty() {
        return Ok(found);
    }
    for (word, name) in targets(&get.targets)? {
        for entry in catalog.find_all(&word)? {
            if name.is_some() && scope.is_none() && entry.namespaced {
                bail!("a resource cannot be retrieved by name across all namespaces");
            }
            let scope = scope.map(ToOwned::to_owned);
            found.push(Wanted { entry, name: name.clone(), scope });
        }
    }
    Ok(found)
}

/// The answers in the order of `wanted`; what is missing is told of, and has none.
async fn documents(
    connection: &Connection,
    get: &Get,
    wanted: &[Wanted<'_>],
) -> Result<Vec<Option<Value>>> {
    let as_table = matches!(&get.output, None | Some(Format::Wide | Format::Name));
    let accept = if as_table { AS_TABLE } else { "application/json" };
    let mut documents = Vec::with_capacity(wanted.len());
    for one in wanted {
        let mut more = String::new();
        if as_table && (get.sort_by.is_some()) {
            more.push_str("includeObject=Object");
        }
        let uri = uri(one.entry, one.scope.as_deref(), one.name.as_deref(), get, &more);
        match answer::get(&connection.client, uri, accept).await {
            Ok(document) => documents.push(Some(document)),
            Err(error) if is_not_found(&error) && one.name.is_some() => {
                if !get.ignore_not_found {
                    output::remark(&answer::refusal(&error, ""));
                }
                documents.push(None);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(documents)
}

fn is_not_found(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref::<kube::Error>(), Some(kube::Error::Api(status)) if status.code == 404)
}

fn exit(failed: bool) -> ExitCode {
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn uri(entry: &Entry, scope: Option<&str>, name: Option<&str>, get: &Get, more: &str) -> String {
    let mut uri = entry.path(scope);
    let mut query = Vec::new();
    match name {
        Some(name) => uri = format!("{uri}/{name}"),
        None => {
            query = url_query(&[
                ("labelSelector", get.selector.as_deref()),
                ("fieldSelector", get.field_selector.as_deref()),
            ]);
        }
    }
    if !more.is_empty() {
        query.push(more.to_owned());
    }
    if query.is_empty() { uri } else { format!("{uri}?{}", query.join("&")) }
}

pub(super) fn url_query(pairs: &[(&str, Option<&str>)]) -> Vec<String> {
    let set = pairs.iter().filter_map(|(key, value)| Some((key, (*value)?)));
    set.map(|(key, value)| format!("{key}={}", escape(value))).collect()
}

fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

async fn tables(
    connection: &Connection,
    scope: Option<&str>,
    get: &Get,
    wanted: &[Wanted<'_>],
    documents: Vec<Option<Value>>,
) -> Result<ExitCode> {
    let several = wanted.iter().any(|one| one.entry != wanted[0].entry);
    let mut tally = Tally::default();
    let mut pending: Option<(Table, &Entry)> = None;
    for (one, document) in wanted.iter().zip(documents) {
        let Some(mut document) = document else {
            tally.failed |= !get.ignore_not_found;
            continue;
        };
        if let Some(path) = &get.sort_by {
            sort_rows(&mut document, path)?;
        }
        if get.output == Some(Format::Name) {
            print_names(one.entry, &document);
            tally.printed += 1;
        } else {
            let table = table(get, scope, one.entry, &document);
            // Objects of one kind that were named one by one stand in one table.
            pending = match pending {
                Some((mut open, entry)) if entry == one.entry => {
                    open.rows.extend(table.rows);
                    Some((open, entry))
                }
                Some((open, entry)) => {
                    print_table(open, entry, several, get.no_headers, &mut tally);
                    Some((table, one.entry))
                }
                None => Some((table, one.entry)),
            };
        }
        if get.watch {
            if let Some((open, entry)) = pending.take() {
                print_table(open, entry, several, get.no_headers, &mut tally);
            }
            follow(connection, scope, get, one, &document).await?;
        }
    }
    if let Some((open, entry)) = pending {
        print_table(open, entry, several, get.no_headers, &mut tally);
    }
    let is_silent = get.ignore_not_found || get.output == Some(Format::Name);
    if tally.printed == 0 && !tally.failed && !is_silent {
        nothing(scope.filter(|_| wanted.iter().any(|one| one.entry.namespaced)));
    }
    Ok(exit(tally.failed))
}

fn nothing(namespace: Option<&str>) {
    match namespace {
        Some(namespace) => output::remark(&format!("No resources found in {namespace} namespace.")),
        None => output::remark("No resources found"),
    }
}

fn table(get: &Get, scope: Option<&str>, entry: &Entry, document: &Value) -> Table {
    let wide = get.output == Some(Format::Wide);
    let mut table = Table::read(document, wide, scope.is_none() && entry.namespaced);
    let labels = |row: &Value| row["object"]["metadata"]["labels"].clone();
    let rows = || document["rows"].as_array().into_iter().flatten();
    for label in &get.label_columns {
        let heading = label.rsplit('/').next().unwrap_or(label);
        table.columns.push(heading.to_uppercase());
        for (cells, row) in table.rows.iter_mut().zip(rows()) {
            cells.push(labels(row)[label].as_str().unwrap_or_default().to_owned());
        }
    }
    if get.show_labels {
        table.columns.push("LABELS".into());
        for (cells, row) in table.rows.iter_mut().zip(rows()) {
            let labels = labels(row);
            let pairs = labels.as_object().into_iter().flatten();
            let mut pairs: Vec<String> = pairs
                .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
                .collect();
            pairs.sort();
            cells.push(if pairs.is_empty() { "<none>".into() } else { pairs.join(",") });
        }
    }
    table
}

fn sort_key(template: &jsonpath::Template, object: &Value) -> (Option<f64>, String) {
    let value = template.values(object).first().copied().cloned().unwrap_or_default();
    (value.as_f64(), jsonpath::shown(&value))
}

fn by_key(left: &(Option<f64>, String), right: &(Option<f64>, String)) -> std::cmp::Ordering {
    match (left.0, right.0) {
        (Some(one), Some(other)) => one.total_cmp(&other),
        _ => left.1.cmp(&right.1),
    }
}

fn sort_rows(document: &mut Value, path: &str) -> Result<()> {
    let template = jsonpath::parse(path)?;
    if let Some(rows) = document["rows"].as_array_mut() {
        let key = |row: &Value| sort_key(&template, &row["object"]);
        rows.sort_by(|left, right| by_key(&key(left), &key(right)));
    }
    Ok(())
}

fn print_table(mut table: Table, entry: &Entry, prefix: bool, bare: bool, tally: &mut Tally) {
    if table.rows.is_empty() {
        return;
    }
    if prefix {
        let column = table.columns.iter().position(|name| name == "NAME").unwrap_or(0);
        for row in &mut table.rows {
            row[column] = entry.name_of(&row[column]);
        }
    }
    if tally.printed > 0 {
        output::write("\n");
    }
    output::write(&table.render(!bare));
    tally.printed += table.rows.len();
}

fn print_names(entry: &Entry, document: &Value) {
    for row in document["rows"].as_array().into_iter().flatten() {
        let name = row["object"]["metadata"]["name"].as_str().unwrap_or_default();
        output::line(&entry.name_of(name));
    }
}

async fn follow(
    connection: &Connection,
    scope: Option<&str>,
    get: &Get,
    wanted: &Wanted<'_>,
    listed: &Value,
) -> Result<()> {
    let version = listed["metadata"]["resourceVersion"].as_str().unwrap_or("0");
    let mut more = format!("watch=true&resourceVersion={version}");
    if let Some(name) = &wanted.name {
        more.push_str(&format!("&fieldSelector=metadata.name%3D{}", escape(name)));
    }
    let uri = uri(wanted.entry, wanted.scope.as_deref(), None, get, &more);
    let request = Request::get(uri)
        .header(http::header::ACCEPT, AS_TABLE)
        .body(Vec::new())
        .context("building a request")?;
    let mut lines = connection.client.request_stream(request).await?.lines();
    while let Some(line) = lines.try_next().await.context("reading changes")? {
        let event: Value = serde_json::from_str(&line).context("reading a change")?;
        if event["type"] == "ERROR" {
            bail!("{}", event["object"]["message"].as_str().unwrap_or("the watch ended"));
        }
        if get.output == Some(Format::Name) {
            print_names(wanted.entry, &event["object"]);
        } else {
            output::write(&table(get, scope, wanted.entry, &event["object"]).render(false));
        }
    }
    Ok(())
}

fn objects(get: &Get, wanted: &[Wanted<'_>], documents: Vec<Option<Value>>) -> Result<ExitCode> {
    let mut items = Vec::new();
    let mut failed = false;
    for (one, document) in wanted.iter().zip(documents) {
        let Some(document) = document else {
            failed |= !get.ignore_not_found;
            continue;
        };
        if one.name.is_some() {
            items.push(document);
            continue;
        }
        for item in document["items"].as_array().into_iter().flatten() {
            let mut item = item.clone();
            // Items of a typed list carry no kind; alone they need one.
            item["apiVersion"] = one.entry.api_version().into();
            item["kind"] = one.entry.kind.clone().into();
            items.push(item);
        }
    }
    for item in items.iter_mut().filter(|_| !get.show_managed_fields) {
        if let Some(metadata) = item["metadata"].as_object_mut() {
            metadata.remove("managedFields");
        }
    }
    if let Some(path) = &get.sort_by {
        let template = jsonpath::parse(path)?;
        items
            .sort_by(|left, right| by_key(&sort_key(&template, left), &sort_key(&template, right)));
    }
    if let Some(Format::Columns(columns)) = &get.output {
        custom_columns(columns, &items, get.no_headers)?;
        return Ok(exit(failed));
    }
    let single = items.len() == 1 && wanted.len() == 1 && wanted[0].name.is_some();
    if items.is_empty() && wanted.iter().all(|one| one.name.is_some()) {
        return Ok(exit(failed));
    }
    let document = if single {
        items.remove(0)
    } else {
        json!({ "apiVersion": "v1", "kind": "List", "items": items, "metadata": { "resourceVersion": "" } })
    };
    match &get.output {
        Some(Format::JsonPath(template)) => {
            output::write(&jsonpath::parse(template)?.render(&document));
        }
        format => print_document(&document, *format == Some(Format::Yaml))?,
    }
    Ok(exit(failed))
}

fn custom_columns(columns: &[(String, String)], items: &[Value], bare: bool) -> Result<()> {
    let mut table = Table {
        columns: columns.iter().map(|(heading, _)| heading.clone()).collect(),
        rows: Vec::new(),
    };
    let templates: Vec<jsonpath::Template> =
        columns.iter().map(|(_, path)| jsonpath::parse(path)).collect::<Result<_>>()?;
    for item in items {
        let cell = |template: &jsonpath::Template| {
            let values: Vec<String> =
                template.values(item).into_iter().map(jsonpath::shown).collect();
            if values.is_empty() { "<none>".into() } else { values.join(",") }
        };
        table.rows.push(templates.iter().map(cell).collect());
    }
    output::write(&table.render(!bare));
    Ok(())
}

pub fn print_document(document: &Value, yaml: bool) -> Result<()> {
    output::write(&if yaml { print::yaml(document) } else { print::json(document) });
    Ok(())
}
