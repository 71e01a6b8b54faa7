//! The reduction of gradients: flat buckets, summed over the ranks while backward goes on.
//!
//! One flat buffer holds every trained parameter's gradient, and behind them the step's sums
//! (losses, token counts, flags), so that nothing else needs communication. It is cut into buckets
//! from its end, since backward reaches the last parameters first. Buckets are reduced in that
//! order on every rank, each as soon as its last gradient has been accumulated. Where the sum has
//! an order of its own, there are a few buffers more, for sums that are added to others later.

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::rc::Rc;
use std::thread::JoinHandle;

use crossbeam::channel::{Receiver, Sender, bounded, unbounded};
use tandem_config::cluster::{GradientDtype, Reduction};
use tch::{Kind, Tensor};

use super::shards::{Turn, in_pieces, in_turn, shards_of};
use super::tree::Tree;
use super::{Collective, CollectiveError};
use crate::model::Parameters;
use crate::native;

/// What is reduced, and how.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// In which order the sum is taken.
    pub reduction: Reduction,
    /// What gradients are rounded to on their way.
    pub dtype: GradientDtype,
    /// Micro-batches of a step, over all ranks.
    pub shards: usize,
    /// Values that are reduced besides the gradients.
    pub sums: usize,
    /// Elements of a bucket at most, unless a single parameter has more.
    pub bucket_elements: usize,
}

/// Sums the gradients of all shards.
pub struct Reducer {
    /// `[N + sums]` f32 each, and a few elements that make the ranks' slices equal.
    buffers: Vec<Tensor>,
    /// Each buffer, cut into the parameters' gradients.
    views: Vec<Vec<Tensor>>,
    leaves: Vec<Tensor>,
    turns: Vec<Turn>,
    gradients: i64,
    sums: i64,
    progress: Rc<Progress>,
    finished: Receiver<Result<(), CollectiveError>>,
    thread: Option<JoinHandle<()>>,
}

/// What the communication thread does.
enum Job {
    /// Adds up a bucket of all ranks, in the backend's order; its last elements are no gradients.
    Sum { bucket: Tensor, behind: i64 },
    /// Adds up a bucket of all buffers of all ranks, in the tree's order.
    Tree(Vec<Tensor>),
    /// Waits for the results, and answers.
    Settle,
}

/// What has been accumulated of the running backward, and what has been sent off.
struct Progress {
    /// The first bucket is the last piece of the buffers.
    buckets: Vec<Vec<Tensor>>,
    reduction: Reduction,
    /// Elements behind the gradients, in the first bucket.
    behind: i64,
    bucket_of: Vec<usize>,
    members: Vec<usize>,
    waiting: RefCell<Vec<usize>>,
    next: Cell<usize>,
    armed: Cell<bool>,
    queue: RefCell<Option<Sender<Job>>>,
}

impl Reducer {
    /// Gives every trained parameter a gradient buffer, and starts the communication thread.
    pub fn new(
        collective: Box<dyn Collective>,
        parameters: &Parameters,
        settings: &Settings,
    ) -> Self {
        let Settings { reduction, dtype, shards, sums, bucket_elements } = *settings;
        let (rank, world_size) = (collective.rank(), collective.world_size());
        let tree = Tree::new(shards, world_size);
        let (turns, slices) = match reduction {
            Reduction::Plain => (in_turn(shards_of(rank, world_size, shards)), 1),
            Reduction::Reproducible => (in_pieces(tree.pieces(rank)), world_size),
        };
        let elements = parameters.weights.size()[0];
        let length = (elements as usize + sums).next_multiple_of(slices);
        let options = (Kind::Float, parameters.weights.device());
        let num_buffers = turns.iter().map(|turn| turn.buffer + 1).max().unwrap_or(1);
        let buffers: Vec<Tensor> =
            (0..num_buffers).map(|_| Tensor::zeros([length as i64], options)).collect();
        let views = |buffer: &Tensor| -> Vec<Tensor> {
            let gradients = buffer.narrow(0, 0, elements);
            parameters.views(&gradients).map(|(_, view)| view).collect()
        };
        let sizes: Vec<usize> = parameters.trained.iter().map(Tensor::numel).collect();
        let behind = length - elements as usize;
        let (ranges, bucket_of) = cut(&sizes, behind, bucket_elements, slices);
        let bucket = |range: &Range<usize>| -> Vec<Tensor> {
            let part = |buffer: &Tensor| buffer.narrow(0, range.start as i64, range.len() as i64);
            buffers.iter().map(part).collect()
        };
        let mut members = vec![0; ranges.len()];
        bucket_of.iter().for_each(|&bucket| members[bucket] += 1);
        let (queue, jobs) = unbounded();
        let (done, finished) = bounded(1);
        let progress = Rc::new(Progress {
            buckets: ranges.iter().map(bucket).collect(),
            reduction,
            behind: behind as i64,
            bucket_of,
            waiting: RefCell::new(members.clone()),
            members,
            next: Cell::new(0),
            armed: Cell::new(false),
            queue: RefCell::new(Some(queue)),
        });
        let hooked = Rc::clone(&progress);
        native::on_accumulated(&parameters.trained, move |index| hooked.accumulated(index));
        let additions = turns.last().map(|turn| turn.additions.clone()).unwrap_or_default();
        let thread = std::thread::spawn(move || {
            communicate(&*collective, dtype, &tree, &additions, &jobs, &done);
        });
        Self {
            views: buffers.iter().map(views).collect(),
            buffers,
            leaves: parameters.trained.iter().map(Tensor::shallow_clone).collect(),
            turns,
            gradients: elements,
            sums: sums as i64,
            progress,
            finished,
            thread: Some(thread),
        }
    }

    /// This rank's shards, in the order in which [`Reducer::begin`] expects them.
    pub fn shards(&self) -> Vec<usize> {
        self.turns.iter().map(|turn| turn.shard).collect()
    }

    /// The next backward is that of the `index`-th of this rank's shards, which adds `sums`. What
    /// its last backward in the step accumulates is sent off at once.
    pub fn begin(&mut self, index: usize, sums: &Tensor) {
        let Turn { buffer, is_first, .. } = self.turns[index];
        for (leaf, view) in self.leaves.iter().zip(&self.views[buffer]) {
            native::set_grad(leaf, view);
        }
        if is_first {
            let _ = self.buffers[buffer].zero_();
        }
        let mut place = self.sums_of(buffer);
        place += sums.to_device(place.device());
        if index + 1 == self.turns.len() {
            self.progress.arm();
        }
    }

    /// The backward of the `index`-th of this rank's shards has ended.
    pub fn end(&mut self, index: usize) {
        if index + 1 == self.turns.len() {
            // Its additions are made bucket by bucket.
            return;
        }
        for &(from, to) in &self.turns[index].additions {
            let addend = self.buffers[from].shallow_clone();
            self.buffers[to] += addend;
        }
    }

    /// Leaves out the rest of the step: its gradients mean nothing any more, and this rank's part
    /// of its sums are `sums`.
    pub fn give_up(&mut self, sums: &Tensor) {
        (0..self.buffers.len()).for_each(|buffer| drop(self.sums_of(buffer).zero_()));
        self.sums().copy_(sums);
    }

    /// The gradients of all trained parameters, one after another.
    pub fn gradients(&self) -> Tensor {
        self.buffers[0].narrow(0, 0, self.gradients)
    }

    /// The values behind the gradients.
    pub fn sums(&self) -> Tensor {
        self.sums_of(0)
    }

    fn sums_of(&self, buffer: usize) -> Tensor {
        self.buffers[buffer].narrow(0, self.gradients, self.sums)
    }

    /// Waits until all shards' gradients and sums are added up.
    ///
    /// # Errors
    /// A failing communication library.
    pub fn finish(&mut self) -> Result<(), CollectiveError> {
        if self.turns.is_empty() {
            let _ = self.buffers[0].zero_();
        }
        self.progress.send_all();
        self.settle()
    }

    fn settle(&self) -> Result<(), CollectiveError> {
        self.progress.send(Job::Settle);
        self.finished.recv().map_err(|_| CollectiveError::ThreadEnded)?
    }

    /// The sum of a value over all ranks; every rank calls this between the same two steps.
    ///
    /// # Errors
    /// A failing communication library.
    pub fn total(&self, value: f32) -> Result<f64, CollectiveError> {
        let total = Tensor::from_slice(&[value]).to_device(self.buffers[0].device());
        self.progress.send(Job::Sum { bucket: total.shallow_clone(), behind: 1 });
        self.settle()?;
        Ok(total.double_value(&[0]))
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
    fn arm(&self) {
        self.waiting.borrow_mut().copy_from_slice(&self.members);
        self.next.set(0);
        self.armed.set(true);
    }

    fn accumulated(&self, parameter: usize) {
        if self.armed.get() {
            self.waiting.borrow_mut()[self.bucket_of[parameter]] -= 1;
            self.send_ready();
        }
    }

    /// Sends off what is left: a parameter that the graph did not reach has a gradient of 0.
    fn send_all(&self) {
        if !self.armed.replace(false) {
            self.next.set(0);
        }
        self.waiting.borrow_mut().fill(0);
        self.send_ready();
    }

    fn send_ready(&self) {
        let waiting = self.waiting.borrow();
        while let Some(bucket) = self.buckets.get(self.next.get()) {
            if waiting[self.next.get()] > 0 {
                break;
            }
            let behind = if self.next.get() == 0 { self.behind } else { 0 };
            self.next.set(self.next.get() + 1);
            self.send(match self.reduction {
                Reduction::Plain => Job::Sum { bucket: bucket[0].shallow_clone(), behind },
                Reduction::Reproducible => {
                    Job::Tree(bucket.iter().map(Tensor::shallow_clone).collect())
                }
            });
        }
    }

    fn send(&self, job: Job) {
        if let Some(queue) = &*self.queue.borrow() {
            // A thread that has ended shows where its answers are awaited.
            let _ = queue.send(job);
        }
    }
}

fn communicate(
    collective: &dyn Collective,
    dtype: GradientDtype,
    tree: &Tree,
    additions: &[(usize, usize)],
    jobs: &Receiver<Job>,
    done: &Sender<Result<(), CollectiveError>>,
) {
    let mut outcome = Ok(());
    for job in jobs {
        let settles = matches!(job, Job::Settle);
        outcome = outcome.and_then(|()| match job {
            Job::Sum { mut bucket, behind } => {
                collective.begin()?;
                match dtype {
                    GradientDtype::F32 => collective.all_reduce_sum(&mut bucket),
                    GradientDtype::Bf16 => sum_rounded(collective, &bucket, behind),
                }
            }
            Job::Tree(mut buffers) => {
                collective.begin()?;
                for &(from, to) in additions {
                    let addend = buffers[from].shallow_clone();
                    buffers[to] += addend;
                }
                tree.sum(collective, &buffers)
            }
            Job::Settle => collective.settle(),
        });
        if settles && done.send(std::mem::replace(&mut outcome, Ok(()))).is_err() {
            break;
        }
    }
}

/// Adds up a bucket's gradients in bf16, which halves what is sent. The elements behind them count
/// tokens and carry flags: they stay f32.
fn sum_rounded(
    collective: &dyn Collective,
    bucket: &Tensor,
    behind: i64,
) -> Result<(), CollectiveError> {
    let length = bucket.size()[0] - behind;
    let mut gradients = bucket.narrow(0, 0, length);
    let mut rounded = gradients.to_kind(Kind::BFloat16);
    collective.all_reduce_sum(&mut rounded)?;
    gradients.copy_(&rounded);
    match behind {
        0 => Ok(()),
        _ => collective.all_reduce_sum(&mut bucket.narrow(0, length, behind)),
    }
}

/// Cuts parameters of these sizes, with `behind` values behind them, into buckets from the end.
/// Buckets begin at multiples of `slices`, as the length of all must be one. Answers each bucket's
/// range and each parameter's bucket: the first that holds some of it, since that is sent first.
fn cut(
    sizes: &[usize],
    behind: usize,
    bucket_elements: usize,
    slices: usize,
) -> (Vec<Range<usize>>, Vec<usize>) {
    let end: usize = sizes.iter().sum();
    let mut starts = vec![end];
    let mut bucket_of = vec![0; sizes.len()];
    let (mut elements, mut members, mut start) = (behind, 0, end);
    for (index, &size) in sizes.iter().enumerate().rev() {
        if members > 0 && elements + size > bucket_elements {
            starts.push(start);
            (elements, members) = (0, 0);
        }
        start -= size;
        elements += size;
        members += 1;
        bucket_of[index] = starts.len() - 1;
        if let Some(last) = starts.last_mut() {
            *last = start;
        }
    }
    let mut before = end + behind;
    let range = |start: usize| {
        let end = std::mem::replace(&mut before, start.next_multiple_of(slices));
        before..end
    };
    (starts.into_iter().map(range).collect(), bucket_of)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tandem_config::parameters::{Init, Parameter};
    use tch::Device;

    use super::*;
    use crate::parallel::Message;

    /// A world of one rank, which notes what is asked of it: the operation, and of how many elements.
    #[derive(Clone, Default)]
    struct Noted(Arc<Mutex<Vec<(&'static str, i64)>>>);

    impl Noted {
        fn note(&self, operation: &'static str, elements: i64) -> Result<(), CollectiveError> {
            self.0.lock().unwrap().push((operation, elements));
            Ok(())
        }
    }

    impl Collective for Noted {
        fn rank(&self) -> usize {
            0
        }

        fn world_size(&self) -> usize {
            1
        }

        fn all_reduce_sum(&self, tensor: &mut Tensor) -> Result<(), CollectiveError> {
            self.note("sum", tensor.size()[0])
        }

        fn exchange(&self, _: &[Message], _: &mut [Message]) -> Result<(), CollectiveError> {
            self.note("exchange", 0)
        }

        fn all_gather(&self, tensor: &mut Tensor) -> Result<(), CollectiveError> {
            self.note("gather", tensor.size()[0])
        }
    }

    /// What two steps of four shards, over three layers, ask for; both must add up the same.
    fn two_steps(reduction: Reduction) -> Vec<(&'static str, i64)> {
        let layer = |name: &str, width| Parameter {
            name: name.into(),
            shape: vec![width],
            trained: true,
            init: Init::Ones,
        };
        let list = [layer("a", 4), layer("b", 3), layer("c", 10)];
        let parameters =
            Parameters::new(&list, &[], 1, Kind::Float, Device::Cpu).expect("parameters");
        let dtype = GradientDtype::F32;
        let settings = Settings { reduction, dtype, shards: 4, sums: 2, bucket_elements: 8 };
        let noted = Noted::default();
        let mut reducer = Reducer::new(Box::new(noted.clone()), &parameters, &settings);
        for _ in 0..2 {
            let before = noted.0.lock().unwrap().len();
            for index in 0..4 {
                reducer.begin(index, &Tensor::from_slice(&[1f32, index as f32]));
                let weights = parameters.trained.iter().map(|leaf| leaf.sum(Kind::Float));
                (weights.sum::<Tensor>() * (index as f64 + 1.0)).backward();
                reducer.end(index);
                if index < 3 {
                    assert_eq!(noted.0.lock().unwrap().len(), before, "accumulating is local");
                }
            }
            reducer.finish().expect("a sum");
            assert_eq!(reducer.gradients(), Tensor::full([17], 10.0, (Kind::Float, Device::Cpu)));
            assert_eq!(reducer.sums(), Tensor::from_slice(&[4f32, 6.0]));
        }
        drop(reducer);
        noted.0.lock().unwrap().clone()
    }

    #[test]
    fn a_step_asks_once_for_each_bucket_and_for_nothing_else() {
        let step = [("sum", 12), ("sum", 7)];
        assert_eq!(two_steps(Reduction::Plain), [step, step].concat());
        let step = [("exchange", 0), ("gather", 12), ("exchange", 0), ("gather", 7)];
        assert_eq!(two_steps(Reduction::Reproducible), [step, step].concat());
    }

    #[test]
    fn buckets_are_cut_from_the_end() {
        let (ranges, bucket_of) = cut(&[4, 3, 10, 2, 1], 5, 8, 1);
        assert_eq!(ranges, [17..25, 7..17, 0..7]);
        assert_eq!(bucket_of, [2, 2, 1, 0, 0]);
    }

    #[test]
    fn buckets_can_be_sliced_and_wait_for_all_that_they_hold() {
        let (ranges, bucket_of) = cut(&[4, 3, 10, 2, 1], 4, 8, 3);
        assert_eq!(ranges, [18..24, 9..18, 0..9]);
        assert_eq!(bucket_of, [2, 2, 1, 0, 0]);
        let (ranges, _) = cut(&[1, 1, 1], 1, 1, 4);
        assert_eq!(ranges, [4..4, 4..4, 0..4]);
    }

    #[test]
    fn sums_alone_are_a_bucket() {
        let (ranges, bucket_of) = cut(&[], 5, 8, 1);
        assert_eq!((ranges.len(), ranges[0].clone(), bucket_of.len()), (1, 0..5, 0));
    }
}
