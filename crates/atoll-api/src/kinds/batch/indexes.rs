//! Sets of completion indexes as a Job's status writes them: `1,3-5,7`.

use std::collections::BTreeSet;

/// Indexes of a Job, ordered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Indexes(BTreeSet<i32>);

impl Indexes {
    /// Reads the text strictly: ordered, and below `completions`.
    ///
    /// # Errors
    /// In upstream's words.
    pub fn parse(text: &str, completions: i32) -> Result<Self, String> {
        let mut indexes = BTreeSet::new();
        if text.is_empty() {
            return Ok(Self(indexes));
        }
        let mut last: Option<i32> = None;
        for part in text.split(',') {
            let (from, to) = interval(part, completions)?;
            if let Some(last) = last.filter(|last| *last >= from) {
                return Err(format!("non-increasing order, previous: {last}, current: {from}"));
            }
            indexes.extend(from..=to);
            last = Some(to);
        }
        Ok(Self(indexes))
    }

    /// Reads what a status says, as far as it makes sense.
    #[must_use]
    pub fn read(text: &str, completions: i32) -> Self {
        let parts = text.split(',').filter_map(|part| interval(part, completions).ok());
        Self(parts.flat_map(|(from, to)| from..=to).collect())
    }

    #[must_use]
    pub fn contains(&self, index: i32) -> bool {
        self.0.contains(&index)
    }

    pub fn insert(&mut self, index: i32) {
        self.0.insert(index);
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many indexes are in both.
    #[must_use]
    pub fn common(&self, other: &Self) -> usize {
        self.0.intersection(&other.0).count()
    }

    /// The lowest index that is in both.
    #[must_use]
    pub fn first_common(&self, other: &Self) -> Option<i32> {
        self.0.intersection(&other.0).next().copied()
    }
}

impl FromIterator<i32> for Indexes {
    fn from_iter<I: IntoIterator<Item = i32>>(indexes: I) -> Self {
        Self(indexes.into_iter().collect())
    }
}

/// Neighbours of three and more become an interval; two are written one by one.
impl std::fmt::Display for Indexes {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut runs: Vec<(i32, i32)> = Vec::new();
        for index in &self.0 {
            match runs.last_mut() {
                Some((_, last)) if *last + 1 == *index => *last = *index,
                _ => runs.push((*index, *index)),
            }
        }
        for (position, (first, last)) in runs.iter().enumerate() {
            let comma = if position == 0 { "" } else { "," };
            match last - first {
                0 => write!(formatter, "{comma}{first}")?,
                1 => write!(formatter, "{comma}{first},{last}")?,
                _ => write!(formatter, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

fn interval(text: &str, completions: i32) -> Result<(i32, i32), String> {
    let parts: Vec<&str> = text.split('-').collect();
    let index = |text: &str| {
        let quoted = crate::field::quote(text);
        let number = text.parse::<i64>().ok();
        let number = number
            .ok_or_else(|| format!("cannot convert string to integer for index: {quoted}"))?;
        let fits = i32::try_from(number).ok().filter(|number| *number < completions);
        fits.ok_or_else(|| format!("too large index: {quoted}"))
    };
    match parts.as_slice() {
        [one] => index(one).map(|one| (one, one)),
        [from, to] => {
            let (from, to) = (index(from)?, index(to)?);
            if from >= to {
                return Err(format!("non-increasing order, previous: {from}, current: {to}"));
            }
            Ok((from, to))
        }
        _ => Err(format!(
            "the fragment {} violates the requirement that an index interval can have at most two \
             parts separated by '-'",
            crate::field::quote(text)
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_three_and_more_are_intervals() {
        let indexes: Indexes = [0, 1, 3, 4, 5, 9].into_iter().collect();
        assert_eq!(indexes.to_string(), "0,1,3-5,9");
        assert_eq!(Indexes::parse("0,1,3-5,9", 10), Ok(indexes));
        assert_eq!(Indexes::default().to_string(), "");
    }

    #[test]
    fn what_is_wrong_is_said_in_upstreams_words() {
        let wrong = |text: &str| Indexes::parse(text, 5).unwrap_err();
        assert_eq!(wrong("3,1"), "non-increasing order, previous: 3, current: 1");
        assert_eq!(wrong("2-2"), "non-increasing order, previous: 2, current: 2");
        assert_eq!(wrong("5"), "too large index: \"5\"");
        assert_eq!(wrong("a"), "cannot convert string to integer for index: \"a\"");
        assert!(wrong("1-2-3").starts_with("the fragment \"1-2-3\" violates"));
    }
}
