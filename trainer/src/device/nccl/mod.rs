//! NCCL as a library that is loaded at run time.
//!
//! There must be one NCCL in a process. Its functions call each other through the dynamic linker,
//! so of two copies the second one calls into the first, whose communicators are laid out
//! differently: joining seems to work, and the first operation fails with "invalid argument".
//! libtorch_cuda brings an NCCL of its own, by a library path (`DT_RPATH`) that comes before
//! `LD_LIBRARY_PATH`. So [`load`] runs before libtorch_cuda is loaded ([`crate::device::cuda::load`]),
//! makes the symbols global, and uses the name that libtorch_cuda asks for, which then finds the
//! library in place. All functions are taken from that one handle. (cudarc, whose types are used
//! here, would look for `libnccl.so`: another name, which may be another file.)

mod error;

use std::ffi::{CStr, c_char, c_int, c_void};
use std::fmt;
use std::path::PathBuf;
use std::sync::OnceLock;

use cudarc::nccl::sys::{
    cudaStream_t, ncclComm_t, ncclConfig_t, ncclDataType_t, ncclRedOp_t, ncclResult_t, ncclUniqueId,
};
use libloading::os::unix as dl;
use tandem_cluster::topology::OLDEST_SHARING_NCCL;

pub(crate) use error::NcclError;

/// NCCL's names; the first is the one that libtorch_cuda asks for.
const NAMES: [&str; 2] = ["libnccl.so.2", "libnccl.so"];
/// The oldest NCCL whose communicators can be created without blocking and aborted from any thread.
pub(crate) const OLDEST: Version = Version(21800);
/// The oldest NCCL that lets several ranks share a GPU.
pub(crate) const OLDEST_SHARING: Version = {
    let (major, minor) = OLDEST_SHARING_NCCL;
    Version((major * 10_000 + minor * 100) as i32)
};

/// A version of NCCL, as the library reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub i32);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(code) = self;
        write!(f, "{}.{}.{}", code / 10_000, code / 100 % 100, code % 100)
    }
}

/// Declares NCCL's functions as fields of one struct, by their names in nccl.h.
macro_rules! functions {
    ($($field:ident = $name:literal ($($argument:ty),*) -> $answer:ty;)*) => {
        /// NCCL's functions, with the types of nccl.h.
        pub(crate) struct Functions {
            $(#[doc = concat!("`", $name, "`.")] pub(crate) $field: unsafe extern "C" fn($($argument),*) -> $answer,)*
        }

        impl Functions {
            /// # Safety
            /// `library` is NCCL, and stays loaded.
            unsafe fn find(library: &dl::Library) -> Result<Self, libloading::Error> {
                // SAFETY: the types are those of nccl.h.
                Ok(unsafe { Self { $($field: *library.get($name)?,)* } })
            }
        }
    };
}

functions! {
    get_unique_id = "ncclGetUniqueId" (*mut ncclUniqueId) -> ncclResult_t;
    comm_init_rank_config = "ncclCommInitRankConfig"
        (*mut ncclComm_t, c_int, ncclUniqueId, c_int, *mut ncclConfig_t) -> ncclResult_t;
    comm_get_async_error = "ncclCommGetAsyncError"
        (ncclComm_t, *mut ncclResult_t) -> ncclResult_t;
    comm_finalize = "ncclCommFinalize" (ncclComm_t) -> ncclResult_t;
    comm_destroy = "ncclCommDestroy" (ncclComm_t) -> ncclResult_t;
    comm_abort = "ncclCommAbort" (ncclComm_t) -> ncclResult_t;
    all_reduce = "ncclAllReduce"
        (*const c_void, *mut c_void, usize, ncclDataType_t, ncclRedOp_t, ncclComm_t, cudaStream_t)
        -> ncclResult_t;
    all_gather = "ncclAllGather"
        (*const c_void, *mut c_void, usize, ncclDataType_t, ncclComm_t, cudaStream_t)
        -> ncclResult_t;
    send = "ncclSend"
        (*const c_void, usize, ncclDataType_t, c_int, ncclComm_t, cudaStream_t) -> ncclResult_t;
    receive = "ncclRecv"
        (*mut c_void, usize, ncclDataType_t, c_int, ncclComm_t, cudaStream_t) -> ncclResult_t;
    group_start = "ncclGroupStart" () -> ncclResult_t;
    group_end = "ncclGroupEnd" () -> ncclResult_t;
    get_error_string = "ncclGetErrorString" (ncclResult_t) -> *const c_char;
    get_last_error = "ncclGetLastError" (ncclComm_t) -> *const c_char;
}

/// NCCL, loaded.
pub(crate) struct Library {
    /// Its functions.
    pub functions: Functions,
    /// Its version.
    pub version: Version,
    /// The file that it was loaded from.
    pub file: PathBuf,
}

/// Loads NCCL, once; it stays for as long as the process.
///
/// # Errors
/// It is not there, too old, or there are two.
pub(crate) fn load() -> Result<&'static Library, NcclError> {
    static LOADED: OnceLock<Library> = OnceLock::new();
    let library = match LOADED.get() {
        Some(library) => library,
        // A failure is not kept: libtorch_cuda, loaded in between, may have brought it.
        None => {
            let found = Library::open()?;
            LOADED.get_or_init(|| found)
        }
    };
    library.check_that_it_is_alone()?;
    Ok(library)
}

impl Library {
    fn open() -> Result<Self, NcclError> {
        // SAFETY: runs the constructors of a library that NVIDIA made for that.
        let open =
            |name: &&str| unsafe { dl::Library::open(Some(*name), dl::RTLD_NOW | dl::RTLD_GLOBAL) };
        let library = match open(&NAMES[0]) {
            Ok(library) => library,
            Err(error) => NAMES[1..]
                .iter()
                .find_map(|name| open(name).ok())
                .ok_or_else(|| NcclError::NoLibrary { reason: linker_says(&error) })?,
        };
        let (version, address) = version(&library)?;
        let file = file_of(address);
        if version < OLDEST {
            return Err(NcclError::TooOld { found: version, file });
        }
        // SAFETY: it is NCCL, and is forgotten below.
        let functions = match unsafe { Functions::find(&library) } {
            Ok(functions) => functions,
            Err(error) => return Err(NcclError::NoFunction { file, reason: linker_says(&error) }),
        };
        std::mem::forget(library);
        Ok(Self { functions, version, file })
    }

    /// Calls among NCCL's functions go to the first copy in the process's global scope.
    fn check_that_it_is_alone(&self) -> Result<(), NcclError> {
        let ours = self.functions.comm_get_async_error as *const c_void;
        // SAFETY: looks up a name.
        let first = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"ncclCommGetAsyncError".as_ptr()) };
        if first.is_null() || ours == first {
            return Ok(());
        }
        Err(NcclError::TwoCopies { used: self.file.clone(), other: file_of(first) })
    }

    /// Several ranks are to share a GPU, which this version does not let them.
    pub(crate) fn cannot_share(&self, workers: usize) -> NcclError {
        NcclError::NoSharing { workers, found: self.version, file: self.file.clone() }
    }

    /// A new name for a communicator.
    ///
    /// # Errors
    /// What NCCL says, as when the host has no network.
    pub(crate) fn unique_id(&self) -> Result<[u8; 128], NcclError> {
        let mut id = ncclUniqueId { internal: [0; 128] };
        // SAFETY: the pointer is valid for a write.
        match unsafe { (self.functions.get_unique_id)(&mut id) } {
            ncclResult_t::ncclSuccess => Ok(id.internal.map(|byte| byte as u8)),
            error => Err(self.failed("making a unique id", error)),
        }
    }

    /// What NCCL says about a failed call.
    pub(crate) fn failed(&self, operation: &'static str, error: ncclResult_t) -> NcclError {
        let Functions { get_error_string, get_last_error, .. } = self.functions;
        // SAFETY: both answer C strings that outlive the copy; the last error is one of all
        // communicators, and none is asked for.
        let (kind, detail) =
            unsafe { (text(get_error_string(error)), text(get_last_error(std::ptr::null_mut()))) };
        let reason = if detail.is_empty() { kind } else { format!("{kind}: {detail}") };
        NcclError::Failed { operation, reason, version: self.version, file: self.file.clone() }
    }
}

/// The version that the library reports, and an address within it.
fn version(library: &dl::Library) -> Result<(Version, *const c_void), NcclError> {
    type GetVersion = unsafe extern "C" fn(*mut c_int) -> ncclResult_t;
    // SAFETY: the type is that of nccl.h.
    let function = unsafe { library.get::<GetVersion>("ncclGetVersion") };
    let function =
        *function.map_err(|error| NcclError::NoLibrary { reason: linker_says(&error) })?;
    let mut code = 0;
    // SAFETY: the pointer is valid for a write. It cannot fail with one that is not null.
    unsafe { function(&mut code) };
    Ok((Version(code), function as *const c_void))
}

/// Why a library or a function could not be had, in the dynamic linker's words.
pub(crate) fn linker_says(error: &libloading::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}

/// The file whose code or data is at `address`.
fn file_of(address: *const c_void) -> PathBuf {
    // SAFETY: all-zero is a value of this struct.
    let mut found: libc::Dl_info = unsafe { std::mem::zeroed() };
    // SAFETY: any address may be asked for, and the name lives as long as the library is loaded.
    let name = unsafe {
        let is_known = libc::dladdr(address, &mut found) != 0;
        text(if is_known { found.dli_fname } else { std::ptr::null() })
    };
    name.into()
}

/// The settings of a communicator whose calls do not block: NCCL_CONFIG_INITIALIZER of nccl.h.
pub(crate) fn non_blocking() -> ncclConfig_t {
    let (unset, unnamed) = (i32::MIN, std::ptr::null());
    ncclConfig_t {
        size: size_of::<ncclConfig_t>(),
        magic: 0xcafe_beef,
        version: 22900, // that of cudarc's declarations
        blocking: 0,
        cgaClusterSize: unset,
        minCTAs: unset,
        maxCTAs: unset,
        netName: unnamed,
        splitShare: unset,
        trafficClass: unset,
        commName: unnamed,
        collnetEnable: unset,
        CTAPolicy: unset,
        shrinkShare: unset,
        nvlsCTAs: unset,
        nChannelsPerNetPeer: unset,
        nvlinkCentricSched: unset,
        graphUsageMode: unset,
        numRmaCtx: unset,
    }
}

/// # Safety
/// `text` is null or a C string.
unsafe fn text(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: by contract.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_read_as_people_write_them() {
        assert_eq!(Version(22907).to_string(), "2.29.7");
        assert_eq!(Version(21800).to_string(), "2.18.0");
    }
}
