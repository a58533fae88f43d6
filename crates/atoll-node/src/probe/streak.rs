//! Counts equal results in a row until they are enough to believe. Pure.

use k8s_openapi::api::core::v1::Probe;

/// Results of one probe so far.
#[derive(Debug, Clone, Default)]
pub struct Streak {
    last: Option<bool>,
    length: i32,
}

impl Streak {
    /// The verdict, once `success` has been seen often enough in a row.
    pub fn observe(&mut self, success: bool, probe: &Probe) -> Option<bool> {
        if self.last == Some(success) {
            self.length = self.length.saturating_add(1);
        } else {
            self.last = Some(success);
            self.length = 1;
        }
        let threshold = if success {
            probe.success_threshold.unwrap_or(1)
        } else {
            probe.failure_threshold.unwrap_or(3)
        };
        (self.length >= threshold.max(1)).then_some(success)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_success_and_three_failures_by_default() {
        let (probe, mut streak) = (Probe::default(), Streak::default());
        assert_eq!(streak.observe(true, &probe), Some(true));
        assert_eq!(streak.observe(false, &probe), None);
        assert_eq!(streak.observe(false, &probe), None);
        assert_eq!(streak.observe(false, &probe), Some(false));
        assert_eq!(streak.observe(true, &probe), Some(true));
    }

    #[test]
    fn an_interrupted_row_counts_anew() {
        let probe = Probe { success_threshold: Some(2), ..Probe::default() };
        let mut streak = Streak::default();
        assert_eq!(streak.observe(true, &probe), None);
        assert_eq!(streak.observe(false, &probe), None);
        assert_eq!(streak.observe(true, &probe), None);
        assert_eq!(streak.observe(true, &probe), Some(true));
    }
}
