//! Maps slices of a list with a fixed number of threads, with results in order.

use std::thread;

/// Cuts a list into one slice for each thread, and returns the results of `work` in order.
pub fn map_slices<T: Sync, R: Send>(
    items: &[T],
    threads: usize,
    work: impl Fn(&[T]) -> R + Sync,
) -> Vec<R> {
    let slice = items.len().div_ceil(threads.max(1)).max(1);
    if threads <= 1 || items.len() <= slice {
        return items.chunks(slice).map(work).collect();
    }
    thread::scope(|scope| {
        let work = &work;
        let running: Vec<_> =
            items.chunks(slice).map(|part| scope.spawn(move || work(part))).collect();
        running
            .into_iter()
            .map(|thread| match thread.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            })
            .collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_order_for_any_number_of_threads() {
        let items: Vec<u32> = (0..17).collect();
        for threads in 0..30 {
            let parts = map_slices(&items, threads, <[u32]>::to_vec);
            assert_eq!(parts.concat(), items);
            assert!(parts.len() <= threads.max(1));
        }
        assert!(map_slices(&[0u32; 0], 4, <[u32]>::to_vec).is_empty());
    }
}
