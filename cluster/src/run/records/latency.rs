//! How long one sentence takes.

use serde::{Deserialize, Serialize};

/// Time to translate one sentence alone: the content of `latency.json`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Sentences timed.
    pub sentences: usize,
    /// What computed: `cpu` or `gpu`; empty where an older version did not say.
    #[serde(default)]
    pub device: String,
    /// CPU threads; 0 where an older version did not say.
    #[serde(default)]
    pub threads: usize,
    /// The median, in milliseconds.
    pub median_ms: f64,
    /// The 90th percentile, in milliseconds.
    pub p90_ms: f64,
    /// The mean, in milliseconds.
    pub mean_ms: f64,
}

impl Latency {
    /// Of the milliseconds of each sentence; none of no sentences.
    pub fn of(mut times: Vec<f64>, device: &str, threads: usize) -> Option<Self> {
        times.sort_by(f64::total_cmp);
        let last = times.len().checked_sub(1)?;
        let at = |share: f64| times[(last as f64 * share).round() as usize];
        Some(Self {
            sentences: times.len(),
            device: device.into(),
            threads,
            median_ms: at(0.5),
            p90_ms: at(0.9),
            mean_ms: times.iter().sum::<f64>() / times.len() as f64,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_tenth_lies_above_the_90th_percentile() {
        let latency = Latency::of((0..=10).rev().map(f64::from).collect(), "cpu", 2).unwrap();
        assert_eq!((latency.median_ms, latency.p90_ms, latency.mean_ms), (5.0, 9.0, 5.0));
        assert_eq!(Latency::of(Vec::new(), "cpu", 2), None);
    }
}
