//! Copies between main memory and a device that are queued like everything else: the host does not wait
//! for the device, but for a copy that it reads.

use tch::kind::Element;
use tch::{Device, Kind, Tensor};

use super::native::Event;

/// `values` on `device`: `[N]`.
pub(crate) fn to_device<T: Element>(values: &[T], device: Device) -> Tensor {
    let here = Tensor::from_slice(values);
    match device {
        Device::Cpu => here,
        // Only a copy from pinned memory can be queued, and there is none of nothing.
        Device::Cuda(_) if !values.is_empty() => {
            here.pin_memory(device).to_device_(device, here.kind(), true, false)
        }
        _ => here.to_device(device),
    }
}

/// A copy into main memory that is under way.
#[derive(Debug)]
pub(crate) struct Reading {
    here: Tensor,
    copied: Option<Event>,
}

impl Reading {
    /// Begins to read `tensor` as it is after everything that has been queued so far.
    pub(crate) fn begin(tensor: &Tensor) -> Self {
        // Into pinned memory.
        let here = tensor.detach().to_device_(Device::Cpu, tensor.kind(), true, true);
        let copied = match tensor.device() {
            Device::Cuda(gpu) => Some(Event::record(gpu)),
            _ => None,
        };
        Self { here, copied }
    }

    /// Waits for the numbers, which are few.
    pub(crate) fn wait(self) -> Vec<f64> {
        if let Some(copied) = &self.copied {
            copied.wait();
        }
        let mut values = vec![0.0; self.here.numel()];
        self.here.to_kind(Kind::Double).copy_data(&mut values, self.here.numel());
        values
    }
}
