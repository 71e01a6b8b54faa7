//! The learning rate: a pure function of the step, so that resuming needs no state.

use tandem_config::schema::training::Schedule;
use tandem_config::schema::transformer::RateSchedule;

/// The learning rate of optimizer step `step` (from 1) of `steps`.
pub fn learning_rate(schedule: &Schedule, step: u64, steps: u64) -> f64 {
    let ramp = |warmup: u64| if warmup == 0 { 1.0 } else { (step as f64 / warmup as f64).min(1.0) };
    match *schedule {
        Schedule::InverseSqrt { peak, warmup, initial } => {
            let (step, warmup) = (step as f64, warmup as f64);
            if step < warmup {
                initial + step * (peak - initial) / warmup
            } else {
                peak * (warmup / step).sqrt()
            }
        }
        Schedule::Linear { peak, warmup } => {
            let left = steps.saturating_sub(step) as f64;
            let falling = steps.saturating_sub(warmup).max(1) as f64;
            peak * ramp(warmup).min(left / falling)
        }
        Schedule::Constant { rate, warmup } => rate * ramp(warmup),
    }
}

/// The factor of the learning rate for fine-tuning a BERT in optimizer step `step` (from 1): ρ of Yang et al.
/// 2020.
pub fn share(schedule: &RateSchedule, step: u64) -> f64 {
    let RateSchedule { peak, end } = *schedule;
    let rising = step as f64 / peak as f64;
    let falling = end.saturating_sub(step) as f64 / end.saturating_sub(peak).max(1) as f64;
    rising.min(falling)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inverse_sqrt_agrees_with_the_released_code() {
        let schedule = Schedule::InverseSqrt { peak: 5e-4, warmup: 4000, initial: 1e-7 };
        let lr = |step| learning_rate(&schedule, step, 200_000);
        assert_eq!(lr(1), 1e-7 + (5e-4 - 1e-7) / 4000.0);
        assert_eq!(lr(3999), 1e-7 + 3999.0 * (5e-4 - 1e-7) / 4000.0);
        assert_eq!(lr(4000), 5e-4);
        assert!((lr(4001) - 5e-4 * 4000f64.sqrt() / 4001f64.sqrt()).abs() < 1e-18);
        assert_eq!(lr(16_000), 2.5e-4); // √(4000 / 16000) = 1/2
    }

    #[test]
    fn linear_rises_and_ends_at_0() {
        let schedule = Schedule::Linear { peak: 1.0, warmup: 10 };
        let lr = |step| learning_rate(&schedule, step, 110);
        assert_eq!([lr(1), lr(5), lr(10), lr(60), lr(110)], [0.1, 0.5, 1.0, 0.5, 0.0]);
    }

    #[test]
    fn a_bert_factor_rises_falls_and_stays_at_0() {
        let share = |step| share(&RateSchedule { peak: 10, end: 30 }, step);
        assert_eq!([share(1), share(5), share(10)], [0.1, 0.5, 1.0]);
        assert_eq!([share(15), share(30), share(31), share(1000)], [0.75, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn constant_stays_after_its_warmup() {
        let schedule = Schedule::Constant { rate: 2.0, warmup: 4 };
        let lr = |step| learning_rate(&schedule, step, 10);
        assert_eq!([lr(1), lr(4), lr(9)], [0.5, 2.0, 2.0]);
        assert_eq!(learning_rate(&Schedule::Constant { rate: 2.0, warmup: 0 }, 1, 10), 2.0);
    }
}
