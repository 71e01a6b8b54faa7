//! Compiles the C++ shim against libtorch and sets the program's library path.

use std::path::PathBuf;

fn main() {
    println!("cargo:rerun-if-changed=native");
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    let libtorch = std::env::var_os("LIBTORCH").map(PathBuf::from).unwrap_or_default();
    if !libtorch.join("include").is_dir() {
        println!("cargo:error={:?} holds no libtorch; run `make setup` first", libtorch);
        std::process::exit(1);
    }
    cc::Build::new()
        .cpp(true)
        .std("c++20")
        .files(["native/shim.cpp", "native/kernels.cpp", "native/loops.cpp"])
        .flag("-fopenmp")
        // As libtorch was built: some of its classes have another layout without.
        .define("NDEBUG", None)
        // Without these, comparisons in a loop keep it from becoming vector code.
        .flag("-fno-trapping-math")
        .flag("-fno-math-errno")
        .flag("-fno-signed-zeros")
        .include(libtorch.join("include"))
        .include(libtorch.join("include/torch/csrc/api/include"))
        .flag("-Wno-unused-parameter")
        .flag("-Wno-deprecated-declarations")
        .opt_level(3)
        .compile("tandem_shim");
    let library = libtorch.join("lib");
    println!("cargo:rustc-link-search=native={}", library.display());
    println!("cargo:rustc-link-lib=torch_cpu");
    println!("cargo:rustc-link-lib=c10");
    // libtorch's own OpenMP, by its library path: two of them would fight over the cores.
    println!("cargo:rustc-link-lib=dylib:+verbatim=libgomp.so.1");
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", library.display());
    // Where NCCL lies beside it: the one that libtorch loads as well.
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}/../nvidia/nccl/lib", libtorch.display());
    // Behind LD_LIBRARY_PATH, so that another NCCL can be put before it.
    println!("cargo:rustc-link-arg=-Wl,--enable-new-dtags");
}
