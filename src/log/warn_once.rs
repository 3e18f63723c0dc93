//! A warning that is logged again only if its text has changed.

use crate::error::Error;
use crate::log::LogRecord;

/// What was wrong with one thing when it was last logged.
#[derive(Default)]
pub struct WarnOnce {
    last: Option<String>,
}

impl WarnOnce {
    /// Logs the error, unless it is the one that was logged last.
    pub fn log(&mut self, record: impl FnOnce() -> LogRecord, error: &Error) {
        if self.is_new(error.message()) {
            record().error(error).emit();
        }
    }

    fn is_new(&mut self, text: &str) -> bool {
        let new = self.last.as_deref() != Some(text);
        if new {
            self.last = Some(text.to_string());
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_is_logged_again_only_if_its_text_has_changed() {
        let mut warnings = WarnOnce::default();
        let logged = ["disk full", "disk full", "no permission", "disk full"].map(|text| warnings.is_new(text));
        assert_eq!(logged, [true, false, true, true]);
    }
}
