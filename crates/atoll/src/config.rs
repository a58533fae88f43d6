//! `atoll config`: the settings in effect, and where each came from.

use crate::client::{output, table::Table};
use anyhow::Result;
use clap::{CommandFactory as _, FromArgMatches as _, parser::ValueSource};

#[derive(Debug, clap::Args)]
pub struct Show {
    /// Of which command, followed by its flags
    #[arg(value_name = "COMMAND", default_value = "server", value_parser = ["server", "agent", "dev"])]
    pub part: String,
    /// The flags as they would be given to the command
    #[arg(last = true, value_name = "FLAGS")]
    pub flags: Vec<String>,
    /// How to print them
    #[arg(short, long)]
    pub output: Option<crate::cli::Output>,
}

struct Setting {
    name: String,
    value: String,
    source: &'static str,
}

pub fn run(show: &Show) -> Result<()> {
    let settings = settings(show)?;
    if let Some(format) = show.output {
        let fields = settings.iter().map(|one| {
            (one.name.clone(), serde_json::json!({ "value": one.value, "source": one.source }))
        });
        let document = serde_json::Value::Object(fields.collect());
        return crate::client::get::print_document(&document, format == crate::cli::Output::Yaml);
    }
    let rows = settings.into_iter().map(|one| vec![one.name, one.value, one.source.to_owned()]);
    let columns = ["SETTING", "VALUE", "SOURCE"].map(ToOwned::to_owned).to_vec();
    output::write(&Table { columns, rows: rows.collect() }.render(true));
    Ok(())
}

/// Reads the flags as the command itself would.
fn settings(show: &Show) -> Result<Vec<Setting>> {
    let words = ["atoll".to_owned(), show.part.clone()].into_iter().chain(show.flags.clone());
    // The agent cannot do without a server to join; showing defaults can.
    let needed = (show.part == "agent"
        && !show.flags.iter().any(|flag| flag.starts_with("--join")))
    .then(|| ["--join".to_owned(), String::new()]);
    let words: Vec<String> = words.chain(needed.into_iter().flatten()).collect();
    let command = crate::cli::Cli::command();
    let matches = command.clone().try_get_matches_from(words)?;
    crate::cli::Cli::from_arg_matches(&matches)?;
    let Some((name, matches)) = matches.subcommand() else { return Ok(Vec::new()) };
    let Some(command) = command.find_subcommand(name) else { return Ok(Vec::new()) };
    let mut settings = Vec::new();
    for argument in command.get_arguments().filter(|one| !one.is_hide_set()) {
        let id = argument.get_id().as_str();
        let Some(long) = argument.get_long().filter(|_| !matches!(id, "help" | "version")) else {
            continue;
        };
        let values = matches.get_raw(id).into_iter().flatten();
        let values: Vec<String> = values.map(|one| one.to_string_lossy().into_owned()).collect();
        let source = match matches.value_source(id) {
            Some(ValueSource::CommandLine) => "flag",
            Some(ValueSource::EnvVariable) => "environment",
            _ => "default",
        };
        settings.push(Setting { name: long.to_owned(), value: values.join(","), source });
    }
    Ok(settings)
}
