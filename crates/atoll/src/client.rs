//! The commands for machines without kubectl, in kubectl's words and output.

pub mod answer;
pub mod apply;
pub mod catalog;
pub mod connect;
pub mod delete;
pub mod events;
pub mod exec;
pub mod get;
pub mod jsonpath;
pub mod logs;
pub mod output;
pub mod print;
pub mod rollout;
pub mod scale;
pub mod table;

/// `90s`, `5m`, `1h30m`, or a number of seconds.
fn duration(text: &str) -> Result<std::time::Duration, String> {
    let wrong = || format!("{text:?} is not a duration such as 30s, 5m or 1h");
    if let Ok(seconds) = text.parse::<u64>() {
        return Ok(std::time::Duration::from_secs(seconds));
    }
    let (mut total, mut rest) = (0.0, text);
    while !rest.is_empty() {
        let end = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.');
        let (number, after) = rest.split_at(end.ok_or_else(wrong)?);
        let length = after.find(|letter: char| letter.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(length);
        let seconds = match unit {
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3_600.0,
            _ => return Err(wrong()),
        };
        total += number.parse::<f64>().map_err(|_not_a_number| wrong())? * seconds;
        rest = after;
    }
    std::time::Duration::try_from_secs_f64(total).map_err(|_not_a_number| wrong())
}

/// The one object that a command is about: `KIND/NAME` or `KIND NAME`.
fn one_target(words: &[String]) -> anyhow::Result<(String, String)> {
    match words {
        [word] => match word.split_once('/') {
            Some((kind, name)) if !name.is_empty() => Ok((kind.to_owned(), name.to_owned())),
            _ => anyhow::bail!("{word:?} is not of the form KIND/NAME, such as deployment/web"),
        },
        [kind, name] => Ok((kind.clone(), name.clone())),
        _ => anyhow::bail!("name one object, such as deployment/web"),
    }
}

#[cfg(test)]
mod tests {
    use super::duration;

    #[test]
    fn durations_are_read_as_kubectl_reads_them() {
        let seconds = |text: &str| duration(text).map(|one| one.as_secs());
        assert_eq!(seconds("90s"), Ok(90));
        assert_eq!(seconds("1h30m"), Ok(5_400));
        assert_eq!(seconds("5"), Ok(5));
        assert!(duration("5x").is_err() && duration("s").is_err());
    }
}
