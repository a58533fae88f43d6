//! `atoll get`: tables, names, JSON and YAML, once or as they change.

use super::{
    catalog::{Catalog, Entry, targets},
    connect::Connection,
    output,
    table::Table,
};
use anyhow::{Context as _, Result, bail};
use futures::{AsyncBufReadExt as _, TryStreamExt as _};
use http::Request;
use serde_json::{Value, json};

const AS_TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    Wide,
    Json,
    Yaml,
    Name,
}

#[derive(Debug, clap::Args)]
pub struct Get {
    /// KIND, KIND NAME... or KIND/NAME...
    #[arg(required = true)]
    pub targets: Vec<String>,
    /// Objects of all namespaces
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
    /// Only objects with these labels, such as app=web
    #[arg(short = 'l', long)]
    pub selector: Option<String>,
    /// Only objects with these fields, such as status.phase=Running
    #[arg(long)]
    pub field_selector: Option<String>,
    #[arg(short, long)]
    pub output: Option<Format>,
    /// Do not print headings
    #[arg(long)]
    pub no_headers: bool,
    /// Print changes as they happen, after the list
    #[arg(short, long)]
    pub watch: bool,
}

pub async fn run(connection: &Connection, namespace: Option<&str>, get: &Get) -> Result<()> {
    let catalog = Catalog::read(&connection.client).await?;
    let namespace = namespace.unwrap_or(&connection.namespace);
    let scope = (!get.all_namespaces).then_some(namespace);
    let targets = targets(&get.targets)?;
    let mut found = Vec::new();
    for (word, name) in &targets {
        for entry in catalog.find_all(word)? {
            found.push((entry, name.as_deref()));
        }
    }
    match get.output {
        Some(Format::Json | Format::Yaml) => objects(connection, scope, get, &found).await,
        _ => tables(connection, scope, get, &found).await,
    }
}

fn uri(
    entry: &Entry,
    scope: Option<&str>,
    name: Option<&str>,
    get: &Get,
    more: &str,
) -> Result<String> {
    let mut uri = entry.path(scope);
    if let Some(name) = name {
        if scope.is_none() && entry.namespaced {
            bail!("a resource cannot be retrieved by name across all namespaces");
        }
        uri = format!("{uri}/{name}");
    }
    let mut query = url_query(&[
        ("labelSelector", get.selector.as_deref()),
        ("fieldSelector", get.field_selector.as_deref()),
    ]);
    if !more.is_empty() {
        query.push(more.to_owned());
    }
    Ok(if query.is_empty() { uri } else { format!("{uri}?{}", query.join("&")) })
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

fn request(uri: String, accept: &str) -> Result<Request<Vec<u8>>> {
    Request::get(uri)
        .header(http::header::ACCEPT, accept)
        .body(Vec::new())
        .context("building a request")
}

async fn tables(
    connection: &Connection,
    scope: Option<&str>,
    get: &Get,
    found: &[(&Entry, Option<&str>)],
) -> Result<()> {
    let several = found.iter().any(|(entry, _)| *entry != found[0].0);
    let mut printed = 0;
    for (entry, name) in found {
        let request = request(uri(entry, scope, *name, get, "")?, AS_TABLE)?;
        let document: Value = connection.client.request(request).await?;
        if get.output == Some(Format::Name) {
            print_names(entry, &document);
        } else {
            let table = Table::read(
                &document,
                get.output == Some(Format::Wide),
                scope.is_none() && entry.namespaced,
            );
            printed += print_table(table, entry, several, get.no_headers, printed > 0);
        }
        if get.watch {
            return follow(connection, scope, get, entry, *name, &document).await;
        }
    }
    if printed == 0 && get.output != Some(Format::Name) {
        match scope.filter(|_| found.iter().any(|(entry, _)| entry.namespaced)) {
            Some(namespace) => {
                output::remark(&format!("No resources found in {namespace} namespace."));
            }
            None => output::remark("No resources found"),
        }
    }
    Ok(())
}

/// Returns how many rows were printed.
fn print_table(mut table: Table, entry: &Entry, prefix: bool, bare: bool, blank: bool) -> usize {
    if table.rows.is_empty() {
        return 0;
    }
    if prefix {
        let column = table.columns.iter().position(|name| name == "NAME").unwrap_or(0);
        for row in &mut table.rows {
            row[column] = entry.name_of(&row[column]);
        }
    }
    if blank {
        output::write("\n");
    }
    output::write(&table.render(!bare));
    table.rows.len()
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
    entry: &Entry,
    name: Option<&str>,
    listed: &Value,
) -> Result<()> {
    let version = listed["metadata"]["resourceVersion"].as_str().unwrap_or("0");
    let mut more = format!("watch=true&resourceVersion={version}");
    if let Some(name) = name {
        more.push_str(&format!("&fieldSelector=metadata.name%3D{}", escape(name)));
    }
    let request = request(uri(entry, scope, None, get, &more)?, AS_TABLE)?;
    let mut lines = connection.client.request_stream(request).await?.lines();
    while let Some(line) = lines.try_next().await.context("reading changes")? {
        let event: Value = serde_json::from_str(&line).context("reading a change")?;
        if event["type"] == "ERROR" {
            bail!("{}", event["object"]["message"].as_str().unwrap_or("the watch ended"));
        }
        let wide = get.output == Some(Format::Wide);
        let table = Table::read(&event["object"], wide, scope.is_none() && entry.namespaced);
        output::write(&table.render(false));
    }
    Ok(())
}

async fn objects(
    connection: &Connection,
    scope: Option<&str>,
    get: &Get,
    found: &[(&Entry, Option<&str>)],
) -> Result<()> {
    let mut items = Vec::new();
    for (entry, name) in found {
        let request = request(uri(entry, scope, *name, get, "")?, "application/json")?;
        let document: Value = connection.client.request(request).await?;
        if name.is_some() {
            items.push(document);
            continue;
        }
        for item in document["items"].as_array().into_iter().flatten() {
            let mut item = item.clone();
            // Items of a typed list carry no kind; alone they need one.
            item["apiVersion"] = entry.api_version().into();
            item["kind"] = entry.kind.clone().into();
            items.push(item);
        }
    }
    for item in &mut items {
        if let Some(metadata) = item["metadata"].as_object_mut() {
            metadata.remove("managedFields");
        }
    }
    let single = items.len() == 1 && found.len() == 1 && found[0].1.is_some();
    let document = if single {
        items.remove(0)
    } else {
        json!({ "apiVersion": "v1", "kind": "List", "items": items, "metadata": { "resourceVersion": "" } })
    };
    print_document(&document, get.output == Some(Format::Yaml))
}

pub fn print_document(document: &Value, yaml: bool) -> Result<()> {
    if yaml {
        output::write(&atoll_api::tree::to_yaml(document));
    } else {
        output::line(&serde_json::to_string_pretty(document).context("writing JSON")?);
    }
    Ok(())
}
