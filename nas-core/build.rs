//! Compiles the shim over libtorch's C++ interface (`src/nn/torch/*.cpp`), and writes libtorch's folder into the binaries' rpath.

use std::path::Path;

const SHIM: &str = "src/nn/torch";

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let sources = ["shim.cpp", "collectives.cpp", "nccl.cpp", "norm_act.cpp", "mixture.cpp", "conv.cpp", "grouped.cpp"]
        .map(|file| Path::new(SHIM).join(file));
    let kernels = Path::new(SHIM).join("norm_act_kernels.cpp");
    let headers = ["guarded.h", "nccl.h", "norm_act.h", "parts.h", "gloo"].map(|file| Path::new(SHIM).join(file));
    sources
        .iter()
        .chain([&kernels])
        .chain(&headers)
        .for_each(|source| println!("cargo:rerun-if-changed={}", source.display()));
    let Ok(lib) = std::env::var("DEP_TCH_LIBTORCH_LIB") else { return };
    println!("cargo:rustc-link-arg=-Wl,-rpath,{lib}");
    let libtorch = Path::new(&lib).parent().unwrap_or(Path::new("/"));
    let avx2 = std::env::var("CARGO_CFG_TARGET_ARCH").as_deref() == Ok("x86_64");
    let base = || {
        let mut build = cc::Build::new();
        build.cpp(true).pic(true).warnings(false).debug(false).include(SHIM).flag("-std=c++20");
        if avx2 {
            build.define("NAS_AVX2", None);
        }
        build
    };
    base()
        // It passes calls on.
        .opt_level(1)
        .include(libtorch.join("include"))
        .include(libtorch.join("include/torch/csrc/api/include"))
        .define("USE_DISTRIBUTED", None)
        .define("USE_C10D_GLOO", None)
        .define("_GLIBCXX_USE_CXX11_ABI", std::env::var("LIBTORCH_CXX11_ABI").as_deref().unwrap_or("1"))
        .files(&sources)
        .compile("nas_torch_shim");
    let kernels = |table: &str, flags: &[&str]| {
        let mut build = base();
        build.opt_level(3).file(&kernels).define("NAS_KERNELS", table).flags(flags).flag("-fno-trapping-math");
        build.flag_if_supported("-Wno-psabi").compile(table);
    };
    kernels("nas_kernels_any", &[]);
    if avx2 {
        kernels("nas_kernels_avx2", &["-mavx2", "-mfma"]);
    }
}
