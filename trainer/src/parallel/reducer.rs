//! The all-reduce of gradients in flat buckets, overlapped with backward and with the beginning of the next
//! step's forward pass.
//!
//! One flat buffer holds every trained parameter's gradient, and in front of them the step's sums
//! (losses, token counts, flags), so that nothing else needs communication. It is cut into
//! [`buckets`](super::buckets), which are reduced in one order on every rank, each as soon as its last
//! gradient has been accumulated and its turn has come. If the sum must not depend on the number of ranks,
//! there are a few more buffers, for partial sums that are added to others later.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crossbeam::channel::{Receiver, Sender, unbounded};
use tandem_config::schema::cluster::{GradientDtype, Reduction};
use tch::{Kind, Tensor};

use super::buckets::Buckets;
use super::communication::{Arrived, Communication, Job};
use super::shards::{Turn, in_pieces, in_turn, shards_of};
use super::tree::Tree;
use super::{Collective, CollectiveError};
use crate::device::native;
use crate::model::Parameters;

/// The settings of the reducer.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// The order of the sum.
    pub reduction: Reduction,
    /// The precision in which gradients are sent.
    pub dtype: GradientDtype,
    /// The number of micro-batches of a step, over all ranks.
    pub shards: usize,
    /// The number of values that are summed in addition to the gradients. The first of them is set by the
    /// reducer: how many ranks have a gradient that is not finite.
    pub sums: usize,
    /// The most elements of a bucket, unless a single parameter has more.
    pub bucket_elements: usize,
    /// Whether the next forward pass may begin before all gradients are reduced. This has no effect if
    /// communication is waited for once a step, as on GPUs.
    pub into_forward: bool,
}

/// Sums the gradients of all shards.
///
/// A step is [`begin`](Self::begin), backward and [`end`](Self::end) for each of the rank's shards,
/// then [`send_rest`](Self::send_rest), and waiting: for the sums, for gradients in any order, and for
/// all of them before the next step begins.
pub struct Reducer {
    /// `[sums + N]` f32 each, and a few elements that make the ranks' slices equal.
    buffers: Vec<Tensor>,
    /// Views of the parameters' gradients in each buffer.
    views: Vec<Vec<Tensor>>,
    leaves: Vec<Tensor>,
    turns: Vec<Turn>,
    sums: usize,
    gradients: usize,
    layout: Arc<Buckets>,
    progress: Arc<Mutex<Progress>>,
    arrivals: Receiver<Result<Arrived, CollectiveError>>,
    /// Which buckets are reduced.
    arrived: Vec<bool>,
    /// Whether all communication is complete.
    settled: bool,
    thread: Option<JoinHandle<()>>,
}

impl Reducer {
    /// Gives every trained parameter a gradient buffer, and starts the communication thread.
    pub fn new(
        collective: Box<dyn Collective>,
        parameters: &Parameters,
        settings: &Settings,
    ) -> Self {
        let Settings { reduction, dtype, shards, sums, bucket_elements, into_forward } = *settings;
        let (rank, world_size) = (collective.rank(), collective.world_size());
        let tree = Tree::new(shards, world_size);
        let (turns, slices) = match reduction {
            Reduction::Plain => (in_turn(shards_of(rank, world_size, shards)), 1),
            Reduction::Reproducible => (in_pieces(tree.pieces(rank)), world_size),
        };
        let sizes: Vec<usize> = parameters.trained.iter().map(Tensor::numel).collect();
        let gradients = sizes.iter().sum::<usize>();
        let layout = Buckets::cut(sums, &sizes, bucket_elements, slices);
        let options = (Kind::Float, parameters.weights.device());
        let num_buffers = turns.iter().map(|turn| turn.buffer + 1).max().unwrap_or(1);
        let buffer = |_| Tensor::zeros([layout.ranges[0].end as i64], options);
        let buffers: Vec<Tensor> = (0..num_buffers).map(buffer).collect();
        let views = |buffer: &Tensor| -> Vec<Tensor> {
            let gradients = buffer.narrow(0, sums as i64, gradients as i64);
            parameters.views(&gradients).map(|(_, view)| view).collect()
        };
        let views = buffers.iter().map(views).collect();
        let into_forward = into_forward && world_size > 1 && collective.is_done_on_return();
        let communication = Communication {
            collective,
            reduction,
            dtype,
            tree,
            additions: turns.last().map(|turn| turn.additions.clone()).unwrap_or_default(),
            front: (layout.last(), sums as i64),
        };
        let ((queue, jobs), (answers, arrivals)) = (unbounded(), unbounded());
        let thread = std::thread::spawn(move || communication.run(&jobs, &answers));
        let layout = Arc::new(layout);
        let progress = Progress::new(&buffers, Arc::clone(&layout), into_forward, queue);
        let progress = Arc::new(Mutex::new(progress));
        let hooked = Arc::clone(&progress);
        native::on_accumulated(&parameters.trained, move |index| {
            locked(&hooked).accumulated(index);
        });
        Self {
            buffers,
            views,
            leaves: parameters.trained.iter().map(Tensor::shallow_clone).collect(),
            turns,
            sums,
            gradients,
            arrived: vec![true; layout.ranges.len()],
            settled: true,
            layout,
            progress,
            arrivals,
            thread: Some(thread),
        }
    }

    /// This rank's shards, in the order in which [`Reducer::begin`] expects them.
    pub fn shards(&self) -> Vec<usize> {
        self.turns.iter().map(|turn| turn.shard).collect()
    }

    /// Prepares the backward of this rank's `index`-th shard, which adds `sums`. During the last backward of
    /// the step, each bucket is sent as soon as it is complete and its turn has come.
    pub fn begin(&mut self, index: usize, sums: &Tensor) {
        let Turn { buffer, is_first, .. } = self.turns[index];
        for (leaf, view) in self.leaves.iter().zip(&self.views[buffer]) {
            native::set_grad(leaf, view);
        }
        if is_first {
            let _ = self.buffers[buffer].zero_();
        }
        let mut place = self.sums_of(buffer);
        place += sums;
        if index + 1 == self.turns.len() {
            locked(&self.progress).arm();
        }
    }

    /// Ends the backward of this rank's `index`-th shard.
    pub fn end(&mut self, index: usize) {
        if index + 1 == self.turns.len() {
            // Its additions are done bucket by bucket.
            return;
        }
        for &(from, to) in &self.turns[index].additions {
            let addend = self.buffers[from].shallow_clone();
            self.buffers[to] += addend;
        }
    }

    /// Abandons the rest of the step: its gradients become meaningless, and this rank contributes `sums` to
    /// the step's sums.
    pub fn give_up(&mut self, sums: &Tensor) {
        (0..self.buffers.len()).for_each(|buffer| drop(self.sums_of(buffer).zero_()));
        self.sums_of(0).copy_(sums);
    }

    /// Sends the remaining buckets of the step.
    pub fn send_rest(&mut self) {
        if self.turns.is_empty() {
            let _ = self.buffers[0].zero_();
        }
        self.arrived.fill(false);
        locked(&self.progress).send_rest(&self.buffers[0].narrow(0, 0, 1));
        self.settle(Job::Settle);
    }

    /// Waits for the step's sums, which are in place until the next step begins: `[sums]`, f32. Like
    /// gradients on a GPU, they are there for whatever is queued next.
    ///
    /// # Errors
    /// A failing communication library.
    pub fn sums(&mut self) -> Result<Tensor, CollectiveError> {
        let last = self.layout.last();
        self.wait_for_buckets(last..last + 1)?;
        Ok(self.sums_of(0))
    }

    /// Waits until these elements of the gradients are reduced.
    ///
    /// # Errors
    /// A failing communication library.
    pub fn wait_for(&mut self, elements: &Range<usize>) -> Result<(), CollectiveError> {
        let elements = elements.start + self.sums..elements.end + self.sums;
        self.wait_for_buckets(self.layout.holding(&elements))
    }

    /// Waits until all gradients are reduced, so that the next step may begin.
    ///
    /// # Errors
    /// A failing communication library.
    pub fn finish(&mut self) -> Result<(), CollectiveError> {
        self.wait_until(|reducer| reducer.settled)
    }

    fn wait_for_buckets(&mut self, buckets: Range<usize>) -> Result<(), CollectiveError> {
        self.wait_until(|reducer| reducer.arrived[buckets.clone()].iter().all(|arrived| *arrived))
    }

    fn wait_until(&mut self, done: impl Fn(&Self) -> bool) -> Result<(), CollectiveError> {
        while !done(self) {
            match self.arrivals.recv().map_err(|_| CollectiveError::ThreadEnded)?? {
                Arrived::Bucket(bucket) => self.arrived[bucket] = true,
                Arrived::All => {
                    self.arrived.fill(true);
                    self.settled = true;
                }
            }
        }
        Ok(())
    }

    /// Waits until all communication is over, on a GPU, too: what was computed from it can be read without
    /// waiting for other ranks.
    ///
    /// # Errors
    /// A failing communication library.
    pub fn complete(&mut self) -> Result<(), CollectiveError> {
        self.finish()?;
        self.settle(Job::Complete);
        self.finish()
    }

    fn settle(&mut self, job: Job) {
        self.settled = false;
        locked(&self.progress).send(job);
    }

    /// The gradients of all trained parameters, one after another.
    pub fn gradients(&self) -> Tensor {
        self.buffers[0].narrow(0, self.sums as i64, self.gradients as i64)
    }

    fn sums_of(&self, buffer: usize) -> Tensor {
        self.buffers[buffer].narrow(0, 0, self.sums as i64)
    }

    /// Sums a value over all ranks; every rank must call this between the same two steps.
    ///
    /// # Errors
    /// A failing communication library.
    pub fn total(&mut self, value: f32) -> Result<f64, CollectiveError> {
        self.finish()?;
        let total = Tensor::from_slice(&[value]).to_device(self.buffers[0].device());
        locked(&self.progress).send(Job::Value(total.shallow_clone()));
        self.settle(Job::Complete);
        self.finish()?;
        Ok(total.double_value(&[0]))
    }
}

impl Drop for Reducer {
    fn drop(&mut self) {
        // The hooks keep what they share for ever.
        locked(&self.progress).queue.take();
        if let Some(thread) = self.thread.take() {
            // A panic of that thread would have ended the process already.
            let _ = thread.join();
        }
    }
}

/// The progress of the current backward: what has been accumulated, and what has been sent.
struct Progress {
    buckets: Vec<Vec<Tensor>>,
    layout: Arc<Buckets>,
    order: Vec<usize>,
    /// The number of pending parameters of each bucket; the last bucket also waits for the end of backward.
    members: Vec<usize>,
    waiting: Vec<usize>,
    next: usize,
    armed: bool,
    /// The sum of everything that is complete: it is finite if all of that is.
    total: Tensor,
    queue: Option<Sender<Job>>,
}

impl Progress {
    fn new(
        buffers: &[Tensor],
        layout: Arc<Buckets>,
        into_forward: bool,
        queue: Sender<Job>,
    ) -> Self {
        let bucket = |range: &Range<usize>| -> Vec<Tensor> {
            let part = |buffer: &Tensor| buffer.narrow(0, range.start as i64, range.len() as i64);
            buffers.iter().map(part).collect()
        };
        let mut members = vec![0; layout.ranges.len()];
        layout.of.iter().cloned().flatten().for_each(|bucket| members[bucket] += 1);
        members[layout.last()] += 1;
        Self {
            buckets: layout.ranges.iter().map(bucket).collect(),
            order: layout.order(into_forward),
            layout,
            waiting: members.clone(),
            members,
            next: 0,
            armed: false,
            total: buffers[0].narrow(0, 0, 1).zeros_like(),
            queue: Some(queue),
        }
    }

    fn arm(&mut self) {
        self.waiting.copy_from_slice(&self.members);
        self.next = 0;
        let _ = self.total.zero_();
        self.armed = true;
    }

    fn accumulated(&mut self, parameter: usize) {
        if !self.armed {
            return;
        }
        for bucket in self.layout.of[parameter].clone() {
            self.waiting[bucket] -= 1;
            if self.waiting[bucket] == 0 {
                self.add_up(bucket);
            }
        }
        self.send_ready();
    }

    /// Before its sum over the ranks takes its place: their flags must be there as early as that.
    fn add_up(&mut self, bucket: usize) {
        for part in &self.buckets[bucket] {
            self.total += part.sum(Kind::Float);
        }
    }

    /// Sends off what is left: a parameter that the graph did not reach has a gradient of 0. `flag`
    /// is raised if something is not finite.
    fn send_rest(&mut self, flag: &Tensor) {
        if std::mem::take(&mut self.armed) {
            for bucket in 0..self.waiting.len() {
                if self.waiting[bucket] > 0 {
                    self.add_up(bucket);
                }
            }
            let not_finite = self.total.isfinite().logical_not();
            flag.shallow_clone().copy_(&not_finite);
        } else {
            self.next = 0;
        }
        self.waiting.fill(0);
        self.send_ready();
    }

    fn send_ready(&mut self) {
        while let Some(&bucket) = self.order.get(self.next) {
            if self.waiting[bucket] > 0 {
                break;
            }
            self.next += 1;
            let parts = self.buckets[bucket].iter().map(Tensor::shallow_clone).collect();
            self.send(Job::Bucket(bucket, parts));
        }
    }

    fn send(&self, job: Job) {
        if let Some(queue) = &self.queue {
            // A thread that has ended shows where its answers are awaited.
            let _ = queue.send(job);
        }
    }
}

/// Locks what the hooks share with the reducer. A panic ends the process, so that no thread meets what
/// another has left half done.
fn locked(progress: &Mutex<Progress>) -> MutexGuard<'_, Progress> {
    progress.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use tandem_config::parameters::{Init, Parameter};
    use tch::Device;

    use super::*;
    use crate::parallel::Message;

    /// A rank among others that contribute zeros. It records the calls: the operation and its number of
    /// elements.
    #[derive(Clone)]
    struct Noted {
        world_size: usize,
        asked: Arc<Mutex<Vec<(&'static str, i64)>>>,
    }

    impl Noted {
        fn new(world_size: usize) -> Self {
            Self { world_size, asked: Arc::default() }
        }

        fn note(&self, operation: &'static str, elements: i64) -> Result<(), CollectiveError> {
            self.asked.lock().unwrap().push((operation, elements));
            Ok(())
        }
    }

    impl Collective for Noted {
        fn rank(&self) -> usize {
            0
        }

        fn world_size(&self) -> usize {
            self.world_size
        }

        fn is_done_on_return(&self) -> bool {
            true
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

    fn parameters(widths: &[usize]) -> Parameters {
        let layer = |(index, width): (usize, &usize)| Parameter {
            name: format!("layer.{index}"),
            shape: vec![*width],
            trained: true,
            init: Init::Ones,
        };
        let list: Vec<Parameter> = widths.iter().enumerate().map(layer).collect();
        Parameters::new(&list, &[], 1, Kind::Float, Device::Cpu).expect("parameters")
    }

    fn settings(reduction: Reduction, shards: usize, bucket_elements: usize) -> Settings {
        let (dtype, into_forward) = (GradientDtype::F32, true);
        Settings { reduction, dtype, shards, sums: 3, bucket_elements, into_forward }
    }

    fn numbers(sums: Result<Tensor, CollectiveError>) -> Vec<f32> {
        Vec::try_from(sums.expect("sums")).expect("[sums]")
    }

    /// The backward of a loss whose gradient is `factor` everywhere.
    fn backward(parameters: &Parameters, factor: f64) {
        let weights = parameters.trained.iter().map(|leaf| leaf.sum(Kind::Float));
        (weights.sum::<Tensor>() * factor).backward();
    }

    /// The calls of two steps of four shards, over three layers; both must have the same sums.
    fn two_steps(reduction: Reduction) -> Vec<(&'static str, i64)> {
        let (parameters, noted) = (parameters(&[4, 3, 10]), Noted::new(1));
        let settings = settings(reduction, 4, 8);
        let mut reducer = Reducer::new(Box::new(noted.clone()), &parameters, &settings);
        for _ in 0..2 {
            let before = noted.asked.lock().unwrap().len();
            for index in 0..4 {
                reducer.begin(index, &Tensor::from_slice(&[0f32, 1.0, index as f32]));
                backward(&parameters, index as f64 + 1.0);
                reducer.end(index);
                if index < 3 {
                    assert_eq!(noted.asked.lock().unwrap().len(), before, "accumulating is local");
                }
            }
            reducer.send_rest();
            assert_eq!(numbers(reducer.sums()), [0.0, 4.0, 6.0]);
            reducer.finish().expect("gradients");
            assert_eq!(reducer.gradients(), Tensor::full([17], 10.0, (Kind::Float, Device::Cpu)));
        }
        drop(reducer);
        noted.asked.lock().unwrap().clone()
    }

    #[test]
    fn a_step_asks_once_for_each_bucket_and_for_nothing_else() {
        let step = [("sum", 10), ("sum", 10)];
        assert_eq!(two_steps(Reduction::Plain), [step, step].concat());
        let step = [("exchange", 0), ("gather", 10), ("exchange", 0), ("gather", 10)];
        assert_eq!(two_steps(Reduction::Reproducible), [step, step].concat());
    }

    #[test]
    fn half_of_the_buckets_follow_as_the_next_forward_needs_them() {
        let (parameters, noted) = (parameters(&[2, 3, 4, 5, 6]), Noted::new(2));
        let settings = settings(Reduction::Plain, 2, 1);
        let mut reducer = Reducer::new(Box::new(noted.clone()), &parameters, &settings);
        reducer.begin(0, &Tensor::from_slice(&[0f32, 1.0, 2.0]));
        backward(&parameters, 1.0);
        reducer.end(0);
        reducer.send_rest();
        reducer.wait_for(&(14..20)).expect("the last layer's gradients");
        reducer.finish().expect("all gradients");
        // The first parameter has three values in front of it.
        let order = [("sum", 6), ("sum", 4), ("sum", 5), ("sum", 3), ("sum", 5)];
        assert_eq!(*noted.asked.lock().unwrap(), order);
    }

    #[test]
    fn a_gradient_that_is_not_finite_is_known_with_the_sums() {
        let parameters = parameters(&[4, 3, 10]);
        let settings = settings(Reduction::Plain, 2, 8);
        let mut reducer = Reducer::new(Box::new(Noted::new(2)), &parameters, &settings);
        for (factor, not_finite) in [(f64::NAN, 1f32), (1.0, 0.0), (f64::INFINITY, 1.0)] {
            reducer.begin(0, &Tensor::from_slice(&[0f32, 1.0, 2.0]));
            let weights = parameters.trained.iter().map(|leaf| leaf.sum(Kind::Float));
            (weights.sum::<Tensor>() + parameters.trained[1].get(0) * factor).backward();
            reducer.end(0);
            reducer.send_rest();
            assert_eq!(numbers(reducer.sums()), [not_finite, 1.0, 2.0], "{factor}");
            reducer.finish().expect("gradients");
        }
    }
}
