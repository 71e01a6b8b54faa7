//! Where the time of a run went: each second is in exactly one account.

use std::collections::BTreeMap;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use tandem_cluster::run::records::StepTime;

/// What a second of a run can have been spent on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Account {
    /// Starting the first workers: connecting, loading, tokenising.
    Start,
    /// Steps: waiting for batches.
    Data,
    /// Steps: everything that is neither data nor communication.
    Compute,
    /// Steps: waiting for the other ranks' gradients.
    Communicate,
    /// Waiting for a checkpoint to be written.
    Save,
    /// Scoring, averaging and exporting.
    Evaluate,
    /// From a failure to the next attempt's first step.
    Restart,
    /// Work after the newest checkpoint when an attempt failed: it was done again.
    Lost,
}

impl Account {
    /// All of them, in the order in which they are shown.
    pub(crate) const ALL: [Self; 8] = [
        Self::Start,
        Self::Data,
        Self::Compute,
        Self::Communicate,
        Self::Save,
        Self::Evaluate,
        Self::Restart,
        Self::Lost,
    ];

    /// Its name in TensorBoard and the report.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Data => "data",
            Self::Compute => "compute",
            Self::Communicate => "communicate",
            Self::Save => "save",
            Self::Evaluate => "evaluate",
            Self::Restart => "restart",
            Self::Lost => "lost",
        }
    }
}

/// What is happening.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Activity {
    /// The first workers start.
    #[default]
    Start,
    /// Workers start again.
    Restart,
    /// Steps.
    Train,
    /// A checkpoint is being written, and the ranks wait for it.
    Save,
    /// Scoring, averaging and exporting.
    Evaluate,
}

/// The time of a run by account, over all its launches. The time between two launches is not counted.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Ledger {
    seconds: BTreeMap<Account, f64>,
    /// Work that no checkpoint holds yet.
    unsaved: BTreeMap<Account, f64>,
    #[serde(skip)]
    activity: Activity,
    #[serde(skip)]
    since: Option<Instant>,
    /// The shares of data and communication in the newest steps.
    #[serde(skip)]
    shares: (f64, f64),
}

impl Ledger {
    /// Starts to count at `now`; what an earlier launch left unsaved is lost.
    pub(crate) fn open(&mut self, activity: Activity, now: Instant) {
        self.lose();
        (self.activity, self.since) = (activity, Some(now));
    }

    /// What is happening.
    pub(crate) fn activity(&self) -> Activity {
        self.activity
    }

    /// Changes the activity at `now`.
    pub(crate) fn turn(&mut self, activity: Activity, now: Instant) {
        self.book(now);
        self.activity = activity;
    }

    /// Books the time up to `now`.
    pub(crate) fn book(&mut self, now: Instant) {
        let Some(since) = self.since.replace(now) else { return };
        let seconds = now.saturating_duration_since(since).as_secs_f64();
        let add = |accounts: &mut BTreeMap<Account, f64>, account, seconds: f64| {
            *accounts.entry(account).or_default() += seconds;
        };
        match self.activity {
            Activity::Start => add(&mut self.seconds, Account::Start, seconds),
            Activity::Restart => add(&mut self.seconds, Account::Restart, seconds),
            Activity::Save => add(&mut self.unsaved, Account::Save, seconds),
            Activity::Evaluate => add(&mut self.unsaved, Account::Evaluate, seconds),
            Activity::Train => {
                let (data, communication) = self.shares;
                let compute = (1.0 - data - communication).max(0.0);
                add(&mut self.unsaved, Account::Data, seconds * data);
                add(&mut self.unsaved, Account::Communicate, seconds * communication);
                add(&mut self.unsaved, Account::Compute, seconds * compute);
            }
        }
    }

    /// How the time of the newest steps was spent.
    pub(crate) fn measured(&mut self, time: StepTime, now: Instant) {
        self.book(now);
        if time.total_ms <= 0.0 {
            return;
        }
        let share = |part: f64| part / time.total_ms;
        let (data, communication) = (share(time.data_ms), share(time.communication_ms));
        let data = data.clamp(0.0, 1.0);
        self.shares = (data, communication.clamp(0.0, 1.0 - data));
    }

    /// A checkpoint holds all work so far.
    pub(crate) fn save(&mut self, now: Instant) {
        self.book(now);
        for (account, seconds) in std::mem::take(&mut self.unsaved) {
            *self.seconds.entry(account).or_default() += seconds;
        }
    }

    /// The work since the newest checkpoint is gone, and another attempt begins.
    pub(crate) fn fail(&mut self, now: Instant) {
        self.turn(Activity::Restart, now);
        self.lose();
    }

    fn lose(&mut self) {
        let lost: f64 = std::mem::take(&mut self.unsaved).into_values().sum();
        if lost > 0.0 {
            *self.seconds.entry(Account::Lost).or_default() += lost;
        }
    }

    /// Seconds by account.
    pub(crate) fn totals(&self) -> Vec<(Account, f64)> {
        let of = |account: Account| -> f64 {
            let of = |part: &BTreeMap<Account, f64>| part.get(&account).copied().unwrap_or(0.0);
            of(&self.seconds) + of(&self.unsaved)
        };
        Account::ALL.into_iter().map(|account| (account, of(account))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn every_second_is_in_one_account() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut ledger = Ledger::default();
        ledger.open(Activity::Start, at(0));
        ledger.turn(Activity::Train, at(3));
        let time = StepTime { total_ms: 10.0, data_ms: 2.0, communication_ms: 3.0 };
        ledger.measured(time, at(3));
        ledger.turn(Activity::Save, at(13));
        ledger.turn(Activity::Evaluate, at(14));
        ledger.save(at(16));
        ledger.turn(Activity::Train, at(16));
        ledger.fail(at(20));
        ledger.turn(Activity::Train, at(25));
        ledger.book(at(35));
        let seconds: Vec<f64> = ledger.totals().into_iter().map(|(_, seconds)| seconds).collect();
        assert_eq!(seconds, [3.0, 4.0, 10.0, 6.0, 1.0, 2.0, 5.0, 4.0]);
        assert_eq!(seconds.iter().sum::<f64>(), 35.0);
        // The sum of nothing is -0, which would be printed.
        let nothing = Ledger::default().totals();
        assert!(nothing.iter().all(|(_, seconds)| seconds.is_sign_positive()), "{nothing:?}");

        let text = serde_json::to_string(&ledger).unwrap();
        let mut again: Ledger = serde_json::from_str(&text).unwrap();
        again.open(Activity::Restart, at(1000));
        again.save(at(1001));
        let seconds: Vec<f64> = again.totals().into_iter().map(|(_, seconds)| seconds).collect();
        assert_eq!(seconds, [3.0, 2.0, 5.0, 3.0, 1.0, 2.0, 6.0, 14.0], "the launcher was killed");
    }
}
