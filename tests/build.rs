//! Lets the tests of this package start from any shell: the place of libtorch is written into them.

use std::path::Path;

fn main() {
    // Set by `.cargo/config.toml`; `make setup` makes the link it names.
    println!("cargo::rerun-if-env-changed=LIBTORCH");
    println!("cargo::rerun-if-changed=build.rs");
    let libtorch = std::env::var("LIBTORCH").unwrap_or_else(|_| String::from(".libtorch"));
    let libraries = Path::new(&libtorch).join("lib");
    println!("cargo::rerun-if-changed={libtorch}/build-version");
    let Ok(real) = libraries.canonicalize() else {
        println!(
            "cargo::error=libtorch is not at {libtorch}; run `make setup` in the checkout once, then build again"
        );
        return;
    };
    // DT_RPATH rather than DT_RUNPATH, so that a libtorch in LD_LIBRARY_PATH does not get in between.
    println!("cargo::rustc-link-arg=-Wl,--disable-new-dtags");
    for path in [&libraries, &real] {
        println!("cargo::rustc-link-arg=-Wl,-rpath,{}", path.display());
    }
}
