//! Errors, put into words for people.

use std::error::Error;

/// An error with what caused it; causes that it has told already are not told again.
pub fn with_causes(error: &(dyn Error + 'static)) -> String {
    let mut words = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        let cause = error.to_string();
        if !words.contains(&cause) {
            words += ": ";
            words += &cause;
        }
        next = error.source();
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::control::ControlError;

    /// Has a cause, and does not tell it.
    #[derive(Debug, thiserror::Error)]
    #[error("no report")]
    struct NoReport(#[source] ControlError);

    #[test]
    fn a_cause_is_told_once() {
        let source = std::io::Error::other("no route to host");
        let error = NoReport(ControlError::Unreachable { address: "n1".into(), source });
        assert_eq!(
            with_causes(&error),
            "no report: cannot reach the coordinator at n1: no route to host"
        );
    }
}
