//! The CUDA stream in which communication runs concurrently with computation.
//!
//! libtorch computes in each GPU's default stream, CUDA's stream 0, unless a thread is told
//! otherwise: so do the forward pass, the backward pass (on a thread of libtorch's own) and the
//! optimizer. The communication thread works in a stream of libtorch's pool, which does not wait
//! for stream 0 of itself: NCCL's operations are queued in it, and so is what the thread computes
//! with libtorch in between. The stream is libtorch's, and not one made by the driver, because its
//! allocator reuses freed memory only for later work of the same stream.
//!
//! The two streams synchronise twice. When a bucket's last gradient has been queued, communication waits
//! for an event after it in stream 0 ([`Stream::follow`]). At the end of a step, stream 0 waits for an event
//! after the last operation ([`Stream::precede`]): whatever any thread queues afterwards comes later. The
//! host does not wait for that event until the end of the next step ([`Stream::is_done`]), when it watches
//! for NCCL's errors and the deadline.

use std::ffi::c_void;

use cudarc::driver::result::{self as driver, DriverError, ctx, event, primary_ctx, stream};
use cudarc::driver::sys::{
    CUcontext, CUdevice, CUevent, CUevent_flags, CUevent_wait_flags, CUresult,
};
use tch::Device;

use crate::device::native;

/// A stream other than the default one. In main memory, as in tests, there is only one stream.
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
            _ => (None, std::ptr::dangling_mut::<u8>().cast()),
        };
        let new_event = || event::create(CUevent_flags::CU_EVENT_DISABLE_TIMING);
        let (computed, communicated) = (new_event()?, new_event()?);
        Ok(Self { context, pooled, handle, computed, communicated })
    }

    /// CUDA's handle of the stream.
    pub fn handle<T>(&self) -> *mut T {
        self.handle.cast()
    }

    /// Makes this stream the calling thread's current one, and lets it wait for everything queued in the
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

    /// Lets the default stream wait for everything queued in this stream so far.
    pub fn precede(&self) -> Result<(), DriverError> {
        let wait = CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
        // SAFETY: context, event and stream live as long as `self`.
        unsafe {
            ctx::set_current(self.context)?;
            event::record(self.communicated, self.handle())?;
            stream::wait_event(stream::null(), self.communicated, wait)
        }
    }

    /// Whether all is done that the default stream was last made to wait for.
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
            // SAFETY: the event is destroyed once. If the driver fails here, it has failed before.
            let _ = unsafe { event::destroy(event) };
        }
    }
}
