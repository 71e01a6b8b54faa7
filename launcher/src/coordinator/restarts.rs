//! Whether a failed group of workers is started again.

use crate::journal::failure::Failure;
use crate::terminal::exit::Exit;

/// What to do about a failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Start again.
    Again {
        /// How many restarts are left after this one.
        left: usize,
    },
    /// End the run.
    GiveUp {
        /// The exit code.
        exit: Exit,
        reason: String,
    },
}

/// The budget of restarts.
#[derive(Debug, Clone)]
pub(crate) struct Restarts {
    budget: usize,
    used: usize,
    last: Option<(String, u64)>,
}

impl Restarts {
    /// `budget` restarts, until there is progress.
    pub(crate) fn new(budget: usize) -> Self {
        Self { budget, used: 0, last: None }
    }

    /// A checkpoint was published: the budget is full again, and what went wrong at a start does not do so at
    /// every start.
    pub(crate) fn progress(&mut self) {
        self.used = 0;
        self.last.take_if(|(_, step)| *step == 0);
    }

    /// What to do about a failure.
    pub(crate) fn after(&mut self, failure: &Failure) -> Decision {
        match failure.exit_code.and_then(Exit::from_code) {
            Some(Exit::Usage) => {
                let reason = "fix the config or the data, and launch again".into();
                return Decision::GiveUp { exit: Exit::Usage, reason };
            }
            Some(Exit::DoNotRetry) => {
                let reason = "the worker says that trying again does not help".into();
                return Decision::GiveUp { exit: Exit::DoNotRetry, reason };
            }
            _ => {}
        }
        let fingerprint = failure.fingerprint();
        if fingerprint.is_some() && fingerprint == self.last {
            let reason = format!("the same error at step {} twice; do not retry", failure.step);
            return Decision::GiveUp { exit: Exit::DoNotRetry, reason };
        }
        self.last = fingerprint;
        if self.used == self.budget {
            let reason = match self.budget {
                0 => "cluster.max_restarts is 0".into(),
                budget => format!("{budget} restarts brought no new checkpoint"),
            };
            return Decision::GiveUp { exit: Exit::Failed, reason };
        }
        self.used += 1;
        Decision::Again { left: self.budget - self.used }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::failure::FailureKind;

    fn failure(kind: FailureKind, step: u64, exit: Option<Exit>) -> Failure {
        Failure {
            kind,
            attempt: 1,
            rank: Some(0),
            host: None,
            phase: None,
            step,
            message: "why".into(),
            exit_code: exit.map(|exit| exit.code().into()),
            consequences: Vec::new(),
            log: "log".into(),
        }
    }

    fn gave_up(decision: &Decision) -> Option<Exit> {
        match decision {
            Decision::GiveUp { exit, .. } => Some(*exit),
            Decision::Again { .. } => None,
        }
    }

    #[test]
    fn the_budget_runs_out_unless_there_is_progress() {
        let mut restarts = Restarts::new(2);
        let death = failure(FailureKind::Death, 7, None);
        assert_eq!(restarts.after(&death), Decision::Again { left: 1 });
        assert_eq!(restarts.after(&death), Decision::Again { left: 0 });
        restarts.progress();
        assert_eq!(restarts.after(&death), Decision::Again { left: 1 });
        assert_eq!(restarts.after(&death), Decision::Again { left: 0 });
        assert_eq!(gave_up(&restarts.after(&death)), Some(Exit::Failed));
        assert_eq!(gave_up(&Restarts::new(0).after(&death)), Some(Exit::Failed));
    }

    #[test]
    fn the_same_error_at_the_same_step_is_not_tried_a_third_time() {
        let mut restarts = Restarts::new(9);
        let error = failure(FailureKind::Error, 7, Some(Exit::Failed));
        assert_eq!(gave_up(&restarts.after(&error)), None);
        assert_eq!(
            gave_up(&restarts.after(&failure(FailureKind::Error, 8, Some(Exit::Failed)))),
            None
        );
        assert_eq!(gave_up(&restarts.after(&error)), None, "another step lay between");
        restarts.progress();
        assert_eq!(gave_up(&restarts.after(&error)), Some(Exit::DoNotRetry));
    }

    #[test]
    fn an_error_at_a_start_is_forgotten_once_there_is_progress() {
        let mut restarts = Restarts::new(9);
        let error = failure(FailureKind::Error, 0, Some(Exit::Failed));
        assert_eq!(gave_up(&restarts.after(&error)), None);
        restarts.progress();
        assert_eq!(gave_up(&restarts.after(&error)), None);
        assert_eq!(gave_up(&restarts.after(&error)), Some(Exit::DoNotRetry));
    }

    #[test]
    fn workers_can_forbid_it() {
        let config = failure(FailureKind::Error, 0, Some(Exit::Usage));
        assert_eq!(gave_up(&Restarts::new(9).after(&config)), Some(Exit::Usage));
        let never = failure(FailureKind::Error, 0, Some(Exit::DoNotRetry));
        assert_eq!(gave_up(&Restarts::new(9).after(&never)), Some(Exit::DoNotRetry));
    }
}
