//! Processes that need the same file take turns, so that one of them makes it and the others find it.

use std::fs::{File, TryLockError};
use std::time::{Duration, Instant};

const DEADLINE: Duration = Duration::from_secs(1800);
const POLL: Duration = Duration::from_millis(50);

/// Waits until no other process holds this lock, and holds it until the file is closed. After the deadline, or if
/// the file system has no locks, what it guards is made twice, with the same content.
pub(crate) fn wait(lock: &File) {
    let start = Instant::now();
    while let Err(TryLockError::WouldBlock) = lock.try_lock() {
        if start.elapsed() > DEADLINE {
            return;
        }
        std::thread::sleep(POLL);
    }
}
