//! The thread that communicates with the other ranks while this one computes.

use crossbeam::channel::{Receiver, Sender};
use tandem_config::schema::cluster::{GradientDtype, Reduction};
use tch::{Kind, Tensor};

use super::tree::Tree;
use super::{Collective, CollectiveError};

/// A job of the communication thread.
pub(super) enum Job {
    /// Sums a bucket of all buffers over all ranks, into the first buffer.
    Bucket(usize, Vec<Tensor>),
    /// Sums a single value over all ranks.
    Value(Tensor),
    /// Replies once all jobs so far are settled, as [`Collective::settle`] says.
    Settle,
    /// Replies once all jobs so far are complete.
    Complete,
}

/// An answer to the thread that sent the jobs.
pub(super) enum Arrived {
    /// A bucket's sums are complete.
    Bucket(usize),
    /// What all jobs so far have made can be used.
    All,
}

/// How gradients are summed.
pub(super) struct Communication {
    /// The communication backend.
    pub collective: Box<dyn Collective>,
    /// The order of the sum.
    pub reduction: Reduction,
    /// The precision in which gradients are sent.
    pub dtype: GradientDtype,
    /// The tree for sums that do not depend on the number of ranks.
    pub tree: Tree,
    /// Buffers to add beforehand: which one, and to which other.
    pub additions: Vec<(usize, usize)>,
    /// The number of elements in front of the gradients, which are never rounded, and their bucket.
    pub front: (usize, i64),
}

impl Communication {
    /// Does one job after another, until there are no more or one fails.
    pub(super) fn run(
        &self,
        jobs: &Receiver<Job>,
        arrived: &Sender<Result<Arrived, CollectiveError>>,
    ) {
        for job in jobs {
            let answer = self.job(job).transpose();
            let has_failed = matches!(answer, Some(Err(_)));
            if answer.is_some_and(|answer| arrived.send(answer).is_err()) || has_failed {
                break;
            }
        }
    }

    fn job(&self, job: Job) -> Result<Option<Arrived>, CollectiveError> {
        match job {
            Job::Bucket(bucket, mut buffers) => {
                self.collective.begin()?;
                self.sum(bucket, &mut buffers)?;
                let is_done = self.collective.is_done_on_return();
                Ok(is_done.then_some(Arrived::Bucket(bucket)))
            }
            Job::Value(mut value) => {
                self.collective.begin()?;
                self.collective.all_reduce_sum(&mut value)?;
                Ok(None)
            }
            Job::Settle => {
                self.collective.settle()?;
                Ok(Some(Arrived::All))
            }
            Job::Complete => {
                self.collective.complete()?;
                Ok(Some(Arrived::All))
            }
        }
    }

    fn sum(&self, bucket: usize, buffers: &mut [Tensor]) -> Result<(), CollectiveError> {
        match (self.reduction, self.dtype) {
            (Reduction::Plain, GradientDtype::F32) => {
                self.collective.all_reduce_sum(&mut buffers[0])
            }
            (Reduction::Plain, GradientDtype::Bf16) => self.sum_rounded(bucket, &buffers[0]),
            (Reduction::Reproducible, _) => {
                for &(from, to) in &self.additions {
                    let addend = buffers[from].shallow_clone();
                    buffers[to] += addend;
                }
                self.tree.sum(&*self.collective, buffers)
            }
        }
    }

    /// Sums a bucket's gradients in bf16, which halves the communication. The elements in front of them
    /// count tokens and carry flags: they stay f32.
    fn sum_rounded(&self, bucket: usize, buffer: &Tensor) -> Result<(), CollectiveError> {
        let front = if bucket == self.front.0 { self.front.1 } else { 0 };
        let mut gradients = buffer.narrow(0, front, buffer.size()[0] - front);
        let mut rounded = gradients.to_kind(Kind::BFloat16);
        self.collective.all_reduce_sum(&mut rounded)?;
        gradients.copy_(&rounded);
        match front {
            0 => Ok(()),
            _ => self.collective.all_reduce_sum(&mut buffer.narrow(0, 0, front)),
        }
    }
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;
    use crate::parallel::solo::Solo;

    #[test]
    fn what_is_in_front_of_rounded_gradients_stays_exact() -> Result<(), CollectiveError> {
        let communication = Communication {
            collective: Box::new(Solo),
            reduction: Reduction::Plain,
            dtype: GradientDtype::Bf16,
            tree: Tree::new(1, 1),
            additions: Vec::new(),
            front: (1, 2),
        };
        // bf16 has 8 bits of mantissa: 257 lies between 256 and 258, and is rounded to the even one.
        let all = Tensor::full([5], 257.0, (Kind::Float, Device::Cpu));
        for (bucket, expected) in
            [(0, [256f32, 256., 256., 256., 256.]), (1, [257., 257., 256., 256., 256.])]
        {
            let buffer = all.copy();
            communication.sum(bucket, &mut [buffer.shallow_clone()])?;
            assert_eq!(buffer, Tensor::from_slice(&expected), "bucket {bucket}");
        }
        Ok(())
    }
}
