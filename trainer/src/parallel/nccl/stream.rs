//! The stream of a GPU in which communication goes on beside the computation.
//!
//! libtorch computes in each GPU's default stream, CUDA's stream 0, unless a thread is told
//! otherwise: so do the forward pass, the backward pass (on a thread of libtorch's own) and the
//! optimizer. The communication thread works in a stream of libtorch's pool, which does not wait
//! for stream 0 of itself: NCCL's operations are queued in it, and so is what the thread computes
//! with libtorch in between. The stream is libtorch's, and not one made by the driver, because its
//! allocator gives freed memory to later work of the same stream only.
//!
//! The two streams meet twice. When a bucket's last gradient has been queued, an event behind it in
//! stream 0 is what the communication waits for ([`Stream::follow`]). At the end of a step an event
//! behind the last operation is waited for by the thread itself ([`Stream::mark`],
//! [`Stream::is_done`]), which can look after NCCL's errors and the clock meanwhile; whatever any
//! thread queues afterwards comes later. A wait on the GPU alone would be of no use: the step's
//! sums are read into main memory next.

use std::ffi::c_void;

use cudarc::driver::result::{self as driver, DriverError, ctx, event, primary_ctx, stream};
use cudarc::driver::sys::{
    CUcontext, CUdevice, CUevent, CUevent_flags, CUevent_wait_flags, CUresult,
};
use tch::Device;

use crate::device::native;

/// A stream beside the default one. In main memory, as in tests, there is one stream only.
pub struct Stream {
    context: CUcontext,
    /// The GPU and libtorch's number of the stream.
    pooled: Option<(usize, i64)>,
    handle: *mut c_void,
    computed: CUevent,
    communicated: CUevent,
}

impl Stream {
    /// A new stream of `gpu`, which libtorch calls `device`.
    pub fn new(gpu: CUdevice, device: Device) -> Result<Self, DriverError> {
        // SAFETY: the device was answered by the driver.
        let context = unsafe { primary_ctx::retain(gpu) }?;
        // SAFETY: a context that is never released.
        unsafe { ctx::set_current(context) }?;
        let (pooled, handle) = match device {
            Device::Cuda(index) => {
                let (id, handle) = native::new_stream(index);
                (Some((index, id)), handle)
            }
            _ => (None, std::ptr::null_mut()),
        };
        let new_event = || event::create(CUevent_flags::CU_EVENT_DISABLE_TIMING);
        let (computed, communicated) = (new_event()?, new_event()?);
        Ok(Self { context, pooled, handle, computed, communicated })
    }

    /// CUDA's handle of it.
    pub fn handle<T>(&self) -> *mut T {
        self.handle.cast()
    }

    /// From here on the calling thread works in this stream, behind all that has been queued in the
    /// default stream so far.
    pub fn follow(&self) -> Result<(), DriverError> {
        if let Some((index, id)) = self.pooled {
            native::use_stream(index, id);
        }
        let wait = CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
        // SAFETY: context, event and stream live as long as `self`.
        unsafe {
            ctx::set_current(self.context)?;
            event::record(self.computed, stream::null())?;
            stream::wait_event(self.handle(), self.computed, wait)
        }
    }

    /// Remembers what has been queued in this stream so far.
    pub fn mark(&self) -> Result<(), DriverError> {
        // SAFETY: context, event and stream live as long as `self`.
        unsafe {
            ctx::set_current(self.context)?;
            event::record(self.communicated, self.handle())
        }
    }

    /// Whether all that was marked is done.
    pub fn is_done(&self) -> Result<bool, DriverError> {
        // SAFETY: context and event live as long as `self`.
        let found = unsafe {
            ctx::set_current(self.context).and_then(|()| event::query(self.communicated))
        };
        match found {
            Err(driver::DriverError(CUresult::CUDA_ERROR_NOT_READY)) => Ok(false),
            other => other.map(|()| true),
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        for event in [self.computed, self.communicated] {
            // SAFETY: it is destroyed once. A driver that fails now has failed before.
            let _ = unsafe { event::destroy(event) };
        }
    }
}
