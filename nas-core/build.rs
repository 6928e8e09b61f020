//! Compiles the shim over libtorch's C++ interface (`src/nn/torch/*.cpp`), and writes libtorch's folder into the binaries' rpath.

use std::path::Path;

const SHIM: &str = "src/nn/torch";

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let sources = ["shim.cpp", "collectives.cpp", "guarded.h", "gloo"].map(|file| Path::new(SHIM).join(file));
    sources.iter().for_each(|source| println!("cargo:rerun-if-changed={}", source.display()));
    let Ok(lib) = std::env::var("DEP_TCH_LIBTORCH_LIB") else { return };
    println!("cargo:rustc-link-arg=-Wl,-rpath,{lib}");
    let libtorch = Path::new(&lib).parent().unwrap_or(Path::new("/"));
    cc::Build::new()
        .cpp(true)
        .pic(true)
        .warnings(false)
        // It only passes calls on.
        .opt_level(1)
        .debug(false)
        .include(SHIM)
        .include(libtorch.join("include"))
        .include(libtorch.join("include/torch/csrc/api/include"))
        .define("USE_DISTRIBUTED", None)
        .define("USE_C10D_GLOO", None)
        .flag("-std=c++20")
        .define("_GLIBCXX_USE_CXX11_ABI", std::env::var("LIBTORCH_CXX11_ABI").as_deref().unwrap_or("1"))
        .files(&sources[..2])
        .compile("nas_torch_shim");
}
