//! How many operators of libtorch a piece of work calls, and whether it waits for a GPU.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use super::native;

/// Calls of libtorch's operators, also those that backward makes and that others make in turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Calls {
    /// How often each operator is called: on a GPU, most of them launch a kernel.
    pub operators: BTreeMap<String, u64>,
    /// Those that wait for the device if it is a GPU: they read its results, or copy from or to it without
    /// being queued. They are seen on CPUs, too.
    pub waits: u64,
}

impl Calls {
    /// The calls of all operators.
    pub fn total(&self) -> u64 {
        self.operators.values().sum()
    }

    /// Those that `work` makes in this thread. One thread counts at a time.
    pub fn of<T>(work: impl FnOnce() -> T) -> (T, Self) {
        static ONE: Mutex<()> = Mutex::new(());
        let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        native::count_calls();
        let done = work();
        let (operators, waits) = native::counted_calls();
        (done, Self { operators, waits })
    }
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind, Tensor};

    use super::*;

    #[test]
    fn what_waits_for_a_gpu_is_counted() {
        let waits = |work: &dyn Fn(&Tensor)| {
            let ones = Tensor::ones([3], (Kind::Float, Device::Cpu)).set_requires_grad(true);
            Calls::of(|| work(&ones)).1.waits
        };
        assert_eq!(waits(&|x| (x * 2.0).sum(Kind::Float).backward()), 0);
        assert_eq!(waits(&|x| assert_eq!(x.double_value(&[0]), 1.0)), 1);
        assert_eq!(waits(&|x| assert!(x.equal(x))), 1);
        assert_eq!(waits(&|x| drop(x.nonzero())), 1);
        assert_eq!(waits(&|x| drop(x.to_device(Device::Cpu))), 1);
        assert_eq!(waits(&|x| drop(x.to_kind(Kind::Double))), 0);
        assert_eq!(waits(&|_| ()), 0, "what was counted before is counted again");
    }
}
