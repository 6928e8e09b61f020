//! Build script of every crate that links libtorch (`build.rs` there is a link to this file): writes the library folder into the
//! binaries' rpath, so that they start from any folder without `LD_LIBRARY_PATH`.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if let Ok(lib) = std::env::var("DEP_TCH_LIBTORCH_LIB") {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{lib}");
    }
}
