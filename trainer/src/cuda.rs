//! CUDA, loaded at start where it is there: one program serves CPUs and GPUs.

use std::ffi::CStr;

/// Loads libtorch's CUDA half, which registers itself.
///
/// # Errors
/// What the dynamic linker says, where it is not installed.
pub fn load() -> Result<(), String> {
    // SAFETY: a plain dlopen of a library whose constructors register kernels.
    let handle =
        unsafe { libc::dlopen(c"libtorch_cuda.so".as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
    if !handle.is_null() {
        return Ok(());
    }
    // SAFETY: dlerror's text is valid until the thread's next call.
    let error = unsafe { libc::dlerror() };
    if error.is_null() {
        return Err("libtorch_cuda.so cannot be loaded".into());
    }
    // SAFETY: a C string, by dlerror's contract.
    Err(unsafe { CStr::from_ptr(error) }.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    #[test]
    fn where_cuda_is_missing_the_linker_says_so() {
        if let Err(reason) = super::load() {
            assert!(reason.contains("libtorch_cuda.so"), "{reason}");
        }
    }
}
