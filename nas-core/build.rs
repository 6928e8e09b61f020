//! Compiles the shim over libtorch's C++ interface (`src/nn/torch/shim.cpp`), and writes libtorch's folder into the binaries' rpath.

use std::path::Path;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=src/nn/torch/shim.cpp");
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
        .include(libtorch.join("include"))
        .flag("-std=c++20")
        .define("_GLIBCXX_USE_CXX11_ABI", std::env::var("LIBTORCH_CXX11_ABI").as_deref().unwrap_or("1"))
        .file("src/nn/torch/shim.cpp")
        .compile("nas_torch_shim");
}
