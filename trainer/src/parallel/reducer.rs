//! The reduction of gradients: flat buckets, summed over the ranks while backward goes on.
//!
//! One flat tensor holds every trained parameter's gradient, and behind them the step's sums
//! (losses, token counts, flags), so that nothing else needs communication. It is cut into buckets
//! from its end, since backward reaches the last parameters first. Buckets are reduced in that
//! order on every rank, each as soon as its last gradient has been accumulated.

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::rc::Rc;
use std::thread::JoinHandle;

use crossbeam::channel::{Receiver, Sender, bounded, unbounded};
use tch::{Kind, Tensor};

use super::{Collective, CollectiveError};
use crate::model::Parameters;
use crate::native;

/// Sums the gradients of all ranks.
pub struct Reducer {
    flat: Tensor, // [N + sums] f32
    gradients: i64,
    progress: Rc<Progress>,
    finished: Receiver<Result<(), CollectiveError>>,
    thread: Option<JoinHandle<()>>,
}

/// What has been accumulated of the running backward, and what has been sent off.
struct Progress {
    /// The first bucket is the last piece of the flat tensor.
    buckets: Vec<Tensor>,
    bucket_of: Vec<usize>,
    members: Vec<usize>,
    waiting: RefCell<Vec<usize>>,
    next: Cell<usize>,
    armed: Cell<bool>,
    queue: RefCell<Option<Sender<Tensor>>>,
}

impl Reducer {
    /// Gives every trained parameter a gradient buffer, and starts the communication thread.
    ///
    /// `sums` is the number of values that are reduced besides; a bucket has at most
    /// `bucket_elements`, unless a single parameter has more.
    pub fn new(
        collective: Box<dyn Collective>,
        parameters: &Parameters,
        sums: usize,
        bucket_elements: usize,
    ) -> Self {
        let elements = parameters.weights.size()[0];
        let options = (Kind::Float, parameters.weights.device());
        let flat = Tensor::zeros([elements + sums as i64], options);
        let gradients = flat.narrow(0, 0, elements);
        for (leaf, (_, view)) in parameters.trained.iter().zip(parameters.views(&gradients)) {
            native::set_grad(leaf, &view);
        }
        let sizes: Vec<usize> = parameters.trained.iter().map(Tensor::numel).collect();
        let (ranges, bucket_of) = cut(&sizes, sums, bucket_elements);
        let bucket = |range: &Range<usize>| {
            flat.narrow(0, range.start as i64, (range.end - range.start) as i64)
        };
        let mut members = vec![0; ranges.len()];
        bucket_of.iter().for_each(|&bucket| members[bucket] += 1);
        let (queue, jobs) = unbounded();
        let (done, finished) = bounded(ranges.len());
        let progress = Rc::new(Progress {
            buckets: ranges.iter().map(bucket).collect(),
            bucket_of,
            waiting: RefCell::new(members.clone()),
            members,
            next: Cell::new(0),
            armed: Cell::new(false),
            queue: RefCell::new(Some(queue)),
        });
        let hooked = Rc::clone(&progress);
        native::on_accumulated(&parameters.trained, move |index| hooked.accumulated(index));
        let thread = std::thread::spawn(move || communicate(&*collective, &jobs, &done));
        Self { flat, gradients: elements, progress, finished, thread: Some(thread) }
    }

    /// Forgets the last step's gradients and sums.
    pub fn zero(&mut self) {
        let _ = self.flat.zero_();
    }

    /// The gradients of all trained parameters, one after another.
    pub fn gradients(&self) -> Tensor {
        self.flat.narrow(0, 0, self.gradients)
    }

    /// The values behind the gradients.
    pub fn sums(&self) -> Tensor {
        self.flat.narrow(0, self.gradients, self.flat.size()[0] - self.gradients)
    }

    /// The next backward is this rank's last in the step, and the sums are set: what it
    /// accumulates is sent off at once.
    pub fn arm(&self) {
        self.progress.waiting.borrow_mut().copy_from_slice(&self.progress.members);
        self.progress.next.set(0);
        self.progress.armed.set(true);
    }

    /// Waits until all ranks' gradients and sums are added up.
    ///
    /// # Errors
    /// A failing communication library.
    pub fn finish(&self) -> Result<(), CollectiveError> {
        // A parameter that the graph did not reach has a gradient of 0.
        self.progress.waiting.borrow_mut().fill(0);
        self.progress.send_ready();
        self.progress.armed.set(false);
        for _ in &self.progress.buckets {
            self.finished.recv().map_err(|_| CollectiveError::ThreadEnded)??;
        }
        Ok(())
    }

    /// Whether any rank says so; every rank calls this between the same two steps.
    ///
    /// # Errors
    /// A failing communication library.
    pub fn any(&self, says_so: bool) -> Result<bool, CollectiveError> {
        let votes = Tensor::from_slice(&[f32::from(u8::from(says_so))]);
        let votes = votes.to_device(self.flat.device());
        if let Some(queue) = &*self.progress.queue.borrow() {
            // A thread that has ended shows below.
            let _ = queue.send(votes.shallow_clone());
        }
        self.finished.recv().map_err(|_| CollectiveError::ThreadEnded)??;
        Ok(votes.double_value(&[0]) > 0.0)
    }
}

impl Drop for Reducer {
    fn drop(&mut self) {
        self.progress.queue.borrow_mut().take();
        if let Some(thread) = self.thread.take() {
            // A panic of that thread has ended the process already.
            let _ = thread.join();
        }
    }
}

impl Progress {
    fn accumulated(&self, parameter: usize) {
        if self.armed.get() {
            self.waiting.borrow_mut()[self.bucket_of[parameter]] -= 1;
            self.send_ready();
        }
    }

    fn send_ready(&self) {
        let waiting = self.waiting.borrow();
        while let Some(bucket) = self.buckets.get(self.next.get()) {
            if waiting[self.next.get()] > 0 {
                break;
            }
            self.next.set(self.next.get() + 1);
            if let Some(queue) = &*self.queue.borrow() {
                // A thread that has ended shows in `finish`.
                let _ = queue.send(bucket.shallow_clone());
            }
        }
    }
}

fn communicate(
    collective: &dyn Collective,
    jobs: &Receiver<Tensor>,
    done: &Sender<Result<(), CollectiveError>>,
) {
    for mut bucket in jobs {
        if done.send(collective.all_reduce_sum(&mut bucket)).is_err() {
            break;
        }
    }
}

/// Cuts parameters of these sizes, with `sums` values behind them, into buckets from the end.
/// Answers each bucket's range and each parameter's bucket.
fn cut(sizes: &[usize], sums: usize, bucket_elements: usize) -> (Vec<Range<usize>>, Vec<usize>) {
    let end: usize = sizes.iter().sum();
    let mut ranges: Vec<Range<usize>> = std::iter::once(end..end + sums).collect();
    let mut bucket_of = vec![0; sizes.len()];
    let (mut last, mut members) = (0, 0);
    for (index, &size) in sizes.iter().enumerate().rev() {
        let start = ranges[last].start;
        if members > 0 && ranges[last].len() + size > bucket_elements {
            ranges.push(start..start);
            (last, members) = (last + 1, 0);
        }
        ranges[last].start = start - size;
        bucket_of[index] = last;
        members += 1;
    }
    (ranges, bucket_of)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_cut_from_the_end() {
        let (ranges, bucket_of) = cut(&[4, 3, 10, 2, 1], 5, 8);
        assert_eq!(ranges, [17..25, 7..17, 0..7]);
        assert_eq!(bucket_of, [2, 2, 1, 0, 0]);
    }

    #[test]
    fn sums_alone_are_a_bucket() {
        let (ranges, bucket_of) = cut(&[], 5, 8);
        assert_eq!((ranges.len(), ranges[0].clone(), bucket_of.len()), (1, 0..5, 0));
    }
}
