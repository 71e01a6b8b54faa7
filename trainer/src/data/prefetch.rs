//! Prepares items ahead of time in a separate thread.

use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvTimeoutError, bounded};

/// How long the preparation of one item may take.
const DEADLINE: Duration = Duration::from_secs(600);
/// How often a wait asks whether to continue.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Why there is no next item.
#[derive(Debug, thiserror::Error)]
pub enum PrefetchError {
    /// The thread cannot be started.
    #[error("cannot start the thread that prepares batches")]
    Start(#[source] std::io::Error),
    /// The thread takes too long.
    #[error("no batch was ready after {} seconds; is the file system of the data hanging?", DEADLINE.as_secs())]
    Slow,
    /// The caller gave up the wait.
    #[error("the wait for a batch was given up")]
    GivenUp,
}

/// Items in order, prepared ahead of time. Dropping it ends the thread at its next item. Nothing waits for the
/// thread, since it may hang on a dead file system.
pub struct Prefetch<T> {
    receiver: Receiver<T>,
}

impl<T: Send + 'static> Prefetch<T> {
    /// Starts preparing items, up to `depth` of them ahead. Items may be results: an error is passed on in its
    /// place like any other item.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn new(
        items: impl Iterator<Item = T> + Send + 'static,
        depth: usize,
    ) -> Result<Self, PrefetchError> {
        let (sender, receiver) = bounded(depth.max(1));
        std::thread::Builder::new()
            .name("prefetch".into())
            .spawn(move || {
                for item in items {
                    if sender.send(item).is_err() {
                        return; // nobody wants more
                    }
                }
            })
            .map_err(PrefetchError::Start)?;
        Ok(Self { receiver })
    }

    /// The next item; `None` after the last. Calls `gives_up` from time to time while waiting.
    ///
    /// # Errors
    /// No item was ready within ten minutes, or `gives_up` returned true.
    pub fn next_item(&mut self, gives_up: &dyn Fn() -> bool) -> Result<Option<T>, PrefetchError> {
        let started = Instant::now();
        loop {
            match self.receiver.recv_timeout(POLL_INTERVAL) {
                Ok(item) => return Ok(Some(item)),
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
                Err(RecvTimeoutError::Timeout) if gives_up() => return Err(PrefetchError::GivenUp),
                Err(RecvTimeoutError::Timeout) if started.elapsed() > DEADLINE => {
                    return Err(PrefetchError::Slow);
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn items_come_in_order_and_end() {
        for depth in [0, 1, 5, 100] {
            let mut prefetch = Prefetch::new(0..50, depth).unwrap();
            for expected in 0..50 {
                assert_eq!(prefetch.next_item(&|| false).unwrap(), Some(expected));
            }
            assert_eq!(prefetch.next_item(&|| false).unwrap(), None);
            assert_eq!(prefetch.next_item(&|| false).unwrap(), None);
        }
    }

    #[test]
    fn errors_are_passed_on_in_their_place() {
        let items = (0..3).map(|item| if item == 1 { Err("broken") } else { Ok(item) });
        let mut prefetch = Prefetch::new(items, 2).unwrap();
        let found: Vec<_> = std::iter::from_fn(|| prefetch.next_item(&|| false).unwrap()).collect();
        assert_eq!(found, [Ok(0), Err("broken"), Ok(2)]);
    }

    #[test]
    fn a_wait_can_be_given_up_even_if_the_item_never_comes() {
        let (_open, door) = bounded::<u32>(0);
        let mut prefetch = Prefetch::new([1].into_iter().chain(door), 2).unwrap();
        assert_eq!(prefetch.next_item(&|| true).unwrap(), Some(1), "what is there is taken");
        assert!(matches!(prefetch.next_item(&|| true), Err(PrefetchError::GivenUp)));
    }

    #[test]
    fn dropping_waits_for_no_item_that_never_comes() {
        let (_open, door) = bounded::<u32>(0);
        let prefetch = Prefetch::new(door.into_iter(), 2).unwrap();
        drop(prefetch); // returns although the thread has not ended
    }

    #[test]
    fn dropping_ends_the_thread_even_of_an_endless_stream() {
        let made = Arc::new(AtomicU32::new(0));
        let counter = Arc::clone(&made);
        let items = std::iter::repeat_with(move || counter.fetch_add(1, Ordering::SeqCst));
        let mut prefetch = Prefetch::new(items, 3).unwrap();
        assert_eq!(prefetch.next_item(&|| false).unwrap(), Some(0));
        drop(prefetch);
        let deadline = Instant::now() + Duration::from_secs(60);
        while Arc::strong_count(&made) > 1 {
            assert!(Instant::now() < deadline, "the thread has not ended");
            std::thread::yield_now();
        }
        assert!(made.load(Ordering::SeqCst) <= 6);
    }
}
