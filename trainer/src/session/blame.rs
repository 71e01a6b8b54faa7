//! The micro-batch that a thread works on, for the words of its failure.

use std::cell::RefCell;

/// Most samples that are named.
const NAMED: usize = 20;

thread_local! {
    static SAMPLES: RefCell<Vec<u32>> = const { RefCell::new(Vec::new()) };
}

/// From now on this thread works on the micro-batch of these samples; none for other work.
pub fn works_on(samples: &[u32]) {
    SAMPLES.with_borrow_mut(|current| {
        current.clear();
        current.extend_from_slice(samples);
    });
}

/// What went wrong on this thread, with the samples that it worked on in a line of their own.
pub fn with_samples(message: &str) -> String {
    SAMPLES.with_borrow(|samples| {
        if samples.is_empty() {
            return message.to_owned();
        }
        let named: Vec<String> = samples.iter().take(NAMED).map(u32::to_string).collect();
        let more = match samples.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let (first, rest) = message.split_once('\n').unwrap_or((message, ""));
        let named = named.join(", ");
        format!("{first}\nin the micro-batch of the samples {named}{more}\n{rest}")
            .trim_end()
            .to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_samples_come_behind_the_first_line() {
        assert_eq!(with_samples("why"), "why");
        works_on(&[3, 5]);
        assert_eq!(with_samples("why"), "why\nin the micro-batch of the samples 3, 5");
        works_on(&(0..25).collect::<Vec<_>>());
        let words = with_samples("why\nwhere");
        assert!(words.ends_with(" 18, 19 and 5 more\nwhere"), "{words}");
        works_on(&[]);
        assert_eq!(with_samples("why"), "why");
    }
}
