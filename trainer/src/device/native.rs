//! The C++ shim: what libtorch offers and tch does not.

use std::collections::BTreeMap;
use std::ffi::{CStr, c_char, c_int, c_void};

use tch::{Device, Kind, Tensor};

unsafe extern "C" {
    fn tandem_free(message: *mut c_char);
    fn tandem_torch_version() -> *const c_char;
    fn tandem_torch_config() -> *const c_char;
    fn tandem_cpu_capability() -> *const c_char;
    fn tandem_set_grad(parameter: *mut c_void, grad: *mut c_void) -> *mut c_char;
    fn tandem_on_accumulated(
        parameter: *mut c_void,
        callback: extern "C" fn(*mut c_void, usize),
        context: *mut c_void,
        index: usize,
    ) -> *mut c_char;
    fn tandem_fused_adam(
        weights: *mut c_void,
        grads: *mut c_void,
        exp_avg: *mut c_void,
        exp_avg_sq: *mut c_void,
        step: *mut c_void,
        skipped: *mut c_void,
        lr: f64,
        beta1: f64,
        beta2: f64,
        eps: f64,
    ) -> *mut c_char;
    fn tandem_multiply_all(
        leaves: *const *mut c_void,
        count: usize,
        factor: *mut c_void,
    ) -> *mut c_char;
    fn tandem_count_calls() -> *mut c_char;
    fn tandem_counted_calls(
        named: extern "C" fn(*mut c_void, *const c_char, u64),
        context: *mut c_void,
        waits: *mut u64,
    ) -> *mut c_char;
    fn tandem_record_event(gpu: i8, made: *mut *mut c_void) -> *mut c_char;
    fn tandem_wait_for_event(event: *mut c_void) -> *mut c_char;
    fn tandem_free_event(event: *mut c_void);
    fn tandem_new_stream(gpu: i8, id: *mut i64, handle: *mut *mut c_void) -> *mut c_char;
    fn tandem_use_stream(gpu: i8, id: i64) -> *mut c_char;
    fn tandem_gpu_memory(gpu: i8, allocated: *mut u64, reserved: *mut u64) -> *mut c_char;
    fn tandem_tune_cpu() -> *mut c_char;
    fn tandem_use_tf32(used: bool) -> *mut c_char;
    fn tandem_dropout(
        out: *mut *mut c_void,
        x: *mut c_void,
        residual: *mut c_void,
        probability: f64,
        seed: u64,
    ) -> *mut c_char;
    fn tandem_attention_weights(
        out: *mut *mut c_void,
        scores: *mut c_void,
        mask: *mut c_void,
        scale: f64,
        probability: f64,
        seed: u64,
    ) -> *mut c_char;
    fn tandem_cross_entropy(
        logits: *mut c_void,
        labels: *mut c_void,
        sums: *mut c_void,
        smoothing: f64,
        gradient: bool,
    ) -> *mut c_char;
    fn tandem_most_probable(
        logits: *mut c_void,
        words: *mut i64,
        log_probs: *mut f32,
    ) -> *mut c_char;
}

/// Whether the kernels below are made for `x`: f32 on the CPU.
pub(crate) fn has_kernels(x: &Tensor) -> bool {
    x.device() == Device::Cpu && x.kind() == Kind::Float
}

/// `residual + dropout(x)`; which elements are zeroed is a function of `seed`.
pub(crate) fn dropout(
    x: &Tensor,
    residual: Option<&Tensor>,
    probability: f64,
    seed: u64,
) -> Tensor {
    let residual = residual.map_or(std::ptr::null_mut(), raw);
    // SAFETY: both are live at::Tensor objects, or null for no residual.
    made(|out| unsafe { tandem_dropout(out, raw(x), residual, probability, seed) })
}

/// `dropout(softmax(scale · scores + mask))` over the last dimension: scores `[B, H, T, S]`, mask
/// `[B or 1, 1, T or 1, S]`.
pub(crate) fn attention_weights(
    scores: &Tensor,
    mask: &Tensor,
    scale: f64,
    probability: f64,
    seed: u64,
) -> Tensor {
    let (scores, mask) = (raw(scores), raw(mask));
    // SAFETY: both are live at::Tensor objects.
    made(|out| unsafe { tandem_attention_weights(out, scores, mask, scale, probability, seed) })
}

/// Smoothed losses and negative log-likelihoods `[C, 2]` of logits `[C, V]` for labels `[C]`;
/// turns the logits into their gradient if requested.
pub(crate) fn cross_entropy(
    logits: &Tensor,
    labels: &Tensor,
    smoothing: f64,
    gradient: bool,
) -> Tensor {
    let sums = Tensor::empty([labels.size()[0], 2], (Kind::Float, Device::Cpu));
    let (logits, labels) = (raw(logits), raw(labels));
    // SAFETY: all are live at::Tensor objects.
    check(unsafe { tandem_cross_entropy(logits, labels, raw(&sums), smoothing, gradient) });
    sums
}

/// The most probable word of each row of logits `[C, V]`, and its log-probability.
pub(crate) fn most_probable(logits: &Tensor) -> Vec<(i64, f32)> {
    let rows = logits.size()[0] as usize;
    let (mut words, mut log_probs) = (vec![0; rows], vec![0.0; rows]);
    // SAFETY: the logits are alive, and there is room for each row's two results.
    check(unsafe { tandem_most_probable(raw(logits), words.as_mut_ptr(), log_probs.as_mut_ptr()) });
    words.into_iter().zip(log_probs).collect()
}

fn made(make: impl FnOnce(*mut *mut c_void) -> *mut c_char) -> Tensor {
    let mut out = std::ptr::null_mut();
    check(make(&mut out));
    // SAFETY: without a message, `out` is an at::Tensor that is ours.
    unsafe { Tensor::from_ptr(out.cast()) }
}

/// Makes `grad` the buffer that backward adds `parameter`'s gradient to.
pub(crate) fn set_grad(parameter: &Tensor, grad: &Tensor) {
    // SAFETY: both point to live at::Tensor objects.
    check(unsafe { tandem_set_grad(raw(parameter), raw(grad)) });
}

/// Calls `callback(index)` whenever the gradient of one of `parameters` has been accumulated: on the
/// thread that accumulates it, which for a GPU is libtorch's own.
///
/// The callback lives as long as the process: hooks cannot outlive what they call.
pub(crate) fn on_accumulated(
    parameters: &[Tensor],
    callback: impl Fn(usize) + Send + Sync + 'static,
) {
    type Callback = Box<dyn Fn(usize) + Send + Sync>;

    extern "C" fn call(context: *mut c_void, index: usize) {
        // SAFETY: `context` is the leaked box below, which may be called from any thread.
        let callback = unsafe { &*(context as *const Callback) };
        callback(index);
    }
    let boxed: Callback = Box::new(callback);
    let context = Box::into_raw(Box::new(boxed)) as *mut c_void;
    for (index, parameter) in parameters.iter().enumerate() {
        // SAFETY: the tensor is alive and `context` is never freed.
        check(unsafe { tandem_on_accumulated(raw(parameter), call, context, index) });
    }
}

/// One Adam step on flat f32 tensors of equal length. `step` and `skipped` are 0-dimensional and f32: the
/// number of the step, and 1 to change nothing, or 0.
pub(crate) fn fused_adam(
    [weights, grads, exp_avg, exp_avg_sq, step, skipped]: [&Tensor; 6],
    lr: f64,
    betas: [f64; 2],
    eps: f64,
) {
    // SAFETY: all are live at::Tensor objects.
    check(unsafe {
        tandem_fused_adam(
            raw(weights),
            raw(grads),
            raw(exp_avg),
            raw(exp_avg_sq),
            raw(step),
            raw(skipped),
            lr,
            betas[0],
            betas[1],
            eps,
        )
    });
}

/// Multiplies the values of all `leaves` by a 0-dimensional `factor`, of which autograd takes no note.
pub(crate) fn multiply_all(leaves: &[&Tensor], factor: &Tensor) {
    if leaves.is_empty() {
        return; // which libtorch refuses
    }
    let leaves: Vec<*mut c_void> = leaves.iter().map(|leaf| raw(leaf)).collect();
    // SAFETY: all are live at::Tensor objects.
    check(unsafe { tandem_multiply_all(leaves.as_ptr(), leaves.len(), raw(factor)) });
}

/// Begins to count the operators of the calling thread, which must be the only one that counts.
pub(crate) fn count_calls() {
    // SAFETY: no arguments.
    check(unsafe { tandem_count_calls() });
}

/// How often the calling thread has called each operator since [`count_calls`], backward included, and how
/// many calls wait for a GPU where they work on one.
pub(crate) fn counted_calls() -> (BTreeMap<String, u64>, u64) {
    type Operators = BTreeMap<String, u64>;

    extern "C" fn named(context: *mut c_void, name: *const c_char, count: u64) {
        // SAFETY: `context` is the map below, which nobody else uses meanwhile, and the name a C string.
        let (operators, name) =
            unsafe { (&mut *(context as *mut Operators), CStr::from_ptr(name)) };
        operators.insert(name.to_string_lossy().into_owned(), count);
    }
    let (mut operators, mut waits) = (Operators::new(), 0);
    let context = (&raw mut operators).cast();
    // SAFETY: the map outlives the call, and the pointer is valid for a write.
    check(unsafe { tandem_counted_calls(named, context, &mut waits) });
    (operators, waits)
}

/// An event behind what was queued on a GPU.
#[derive(Debug)]
pub(crate) struct Event(*mut c_void);

impl Event {
    /// Behind all that this thread has queued so far.
    pub(crate) fn record(gpu: usize) -> Self {
        let mut made = std::ptr::null_mut();
        // SAFETY: the pointer is valid for a write.
        check(unsafe { tandem_record_event(gpu as i8, &mut made) });
        Self(made)
    }

    /// Waits for it.
    pub(crate) fn wait(&self) {
        // SAFETY: the event is alive.
        check(unsafe { tandem_wait_for_event(self.0) });
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: the event is freed once.
        unsafe { tandem_free_event(self.0) };
    }
}

/// A stream of a GPU other than the default one: its number in libtorch, and its handle in CUDA.
pub(crate) fn new_stream(gpu: usize) -> (i64, *mut c_void) {
    let (mut id, mut handle) = (0, std::ptr::null_mut());
    // SAFETY: both pointers are valid for writes.
    check(unsafe { tandem_new_stream(gpu as i8, &mut id, &mut handle) });
    (id, handle)
}

/// Lets libtorch queue in the stream `id` what the calling thread computes on the GPU.
pub(crate) fn use_stream(gpu: usize, id: i64) {
    // SAFETY: no pointers.
    check(unsafe { tandem_use_stream(gpu as i8, id) });
}

/// Bytes of a GPU that this process's tensors take, and that libtorch holds for them.
pub(crate) fn gpu_memory(gpu: usize) -> (u64, u64) {
    let (mut allocated, mut reserved) = (0, 0);
    // SAFETY: both pointers are valid for writes.
    check(unsafe { tandem_gpu_memory(gpu as i8, &mut allocated, &mut reserved) });
    (allocated, reserved)
}

/// Variables by which libtorch and oneDNN bound what they keep of each product's shape: a program of
/// its own. A micro-batch has a few dozen shapes, and the next one others: kept by the thousand, which
/// is what both do, they fill a gigabyte and are never used again.
const SHAPE_CACHES: [&str; 2] = ["LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"];

/// Bounds these caches, unless the environment does.
///
/// # Safety
/// There must be no other thread yet.
pub(crate) unsafe fn bound_caches() {
    for name in SHAPE_CACHES.into_iter().filter(|name| std::env::var_os(name).is_none()) {
        // SAFETY: nobody reads the environment meanwhile.
        unsafe { std::env::set_var(name, "64") };
    }
}

/// Chooses the matrix products and the memory allocation that serve training on CPUs best.
pub(crate) fn tune_cpu() {
    // SAFETY: no arguments.
    check(unsafe { tandem_tune_cpu() });
}

/// Whether GPUs may round the factors of f32 products to TF32.
pub(crate) fn use_tf32(used: bool) {
    // SAFETY: no pointers.
    check(unsafe { tandem_use_tf32(used) });
}

/// The version that the loaded libtorch reports; empty if it reports none.
pub(crate) fn loaded_torch_version() -> String {
    // SAFETY: as below.
    let config = unsafe { CStr::from_ptr(tandem_torch_config()) }.to_string_lossy().into_owned();
    let version = config.split("TORCH_VERSION=").nth(1).unwrap_or_default();
    version.split([',', ' ', '\n']).next().unwrap_or_default().to_owned()
}

/// The version of the libtorch that this program was built with.
pub(crate) fn torch_version() -> String {
    // SAFETY: a C string that lives as long as the program.
    unsafe { CStr::from_ptr(tandem_torch_version()) }.to_string_lossy().into_owned()
}

/// The instructions that libtorch's own kernels use on this CPU, such as AVX2.
pub(crate) fn cpu_capability() -> String {
    // SAFETY: a C string that lives as long as the program.
    unsafe { CStr::from_ptr(tandem_cpu_capability()) }.to_string_lossy().into_owned()
}

/// The CUDA that libtorch was built with, as 1000 · major + 10 · minor, by libcudart, which it loads
/// on CPUs as well; 0 for none.
pub(crate) fn cuda_version() -> i32 {
    // SAFETY: looks up a name.
    let function = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"cudaRuntimeGetVersion".as_ptr()) };
    let mut version = 0;
    if !function.is_null() {
        // SAFETY: the function has this type in every version of CUDA, and needs no driver.
        unsafe {
            let function: extern "C" fn(*mut c_int) -> c_int = std::mem::transmute(function);
            function(&mut version);
        }
    }
    version
}

fn raw(tensor: &Tensor) -> *mut c_void {
    tensor.as_ptr() as *mut c_void
}

/// libtorch refuses only what a mistake of ours asked for, so its message ends the process.
fn check(message: *mut c_char) {
    if message.is_null() {
        return;
    }
    // SAFETY: a message is a C string that the shim allocated.
    let text = unsafe { CStr::from_ptr(message) }.to_string_lossy().into_owned();
    // SAFETY: it is freed once.
    unsafe { tandem_free(message) };
    panic!("libtorch: {text}");
}
