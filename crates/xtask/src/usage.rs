//! What can be asked of `cargo xtask`, and how.

/// Name, arguments, and what it does.
const COMMANDS: &[(&str, &str, &str)] = &[
    ("tidy", "", "check layers, names, sizes and licences"),
    ("bench", "[NAME…] [--runs N]", "build the release program and measure whole clusters of it"),
    ("simulate", "[--seeds N] [--from S]", "simulate the store, and keep the totals"),
    ("history", "[--operations N] …", "check histories of real clusters under faults"),
    ("golden", "VERSION", "keep what this release writes, for later ones to read"),
    (
        "vm",
        "[--package NAME]… [--filter EXPRESSION] [--atoll PATH] [--emulate] [--timeout SECONDS]",
        "run the node suite on Debian 12's kernel",
    ),
    ("proto", "[--check]", "generate the messages of the etcd API, or compare them"),
    ("gen", "DEFINITIONS GO_ROOT", "write the table of built-in API types"),
];

/// What to print when help was asked for, before anything is built.
pub(crate) fn asked_for(words: &[&str]) -> Option<String> {
    let is_help = |word: &&str| matches!(*word, "--help" | "-h");
    match words {
        ["help"] => Some(all()),
        ["help", name, ..] => Some(of(name)),
        [first, ..] if is_help(first) => Some(all()),
        [name, rest @ ..] if rest.iter().any(is_help) => Some(of(name)),
        _ => None,
    }
}

/// Of one command; of all where there is none of this name.
pub(crate) fn of(name: &str) -> String {
    match COMMANDS.iter().find(|(known, _, _)| *known == name) {
        Some((name, arguments, what)) => {
            format!("usage: {}\n{what}", line(name, arguments))
        }
        None => format!("there is no command {name}\n{}", all()),
    }
}

pub(crate) fn all() -> String {
    let lines = COMMANDS
        .iter()
        .map(|(name, arguments, what)| format!("  {}\n      {what}", line(name, arguments)));
    format!("usage:\n{}", lines.collect::<Vec<_>>().join("\n"))
}

#[allow(clippy::print_stdout, reason = "the answer of a command-line tool")]
pub(crate) fn print(help: &str) {
    println!("{help}");
}

fn line(name: &str, arguments: &str) -> String {
    format!("cargo xtask {name} {arguments}").trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_is_given_for_one_command_or_all_and_only_when_asked_for() {
        for (name, arguments, what) in COMMANDS {
            let help = asked_for(&[name, "--help"]).unwrap();
            assert!(help.contains(arguments) && help.contains(what), "{help}");
            assert_eq!(asked_for(&[name, "x", "-h"]), Some(help.clone()));
            assert_eq!(asked_for(&["help", name]), Some(help));
            assert!(all().contains(what));
            assert_eq!(asked_for(&[name]), None);
        }
        assert_eq!(asked_for(&["--help"]), Some(all()));
        assert!(of("bensh").starts_with("there is no command bensh\nusage:"));
    }
}
