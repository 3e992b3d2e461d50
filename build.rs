//! Compiles the programs of the eBPF tier when the feature `ebpf` is on. Without clang the build goes on, says so, and the
//! tier tells at run time that it is not there.

use std::path::PathBuf;
use std::process::Command;

const SOURCE: &str = "src/bpf/tunnel.c";

fn main() {
    println!("cargo::rerun-if-changed={SOURCE}");
    println!("cargo::rerun-if-env-changed=CLANG");
    println!("cargo::rustc-check-cfg=cfg(ebpf_programs)");
    if std::env::var_os("CARGO_FEATURE_EBPF").is_none() {
        return;
    }
    match compile() {
        Ok(()) => println!("cargo::rustc-cfg=ebpf_programs"),
        Err(why) => println!(
            "cargo::warning=THE eBPF TIER IS NOT IN THIS BUILD: {why}. Install clang (and linux-libc-dev), or name it by CLANG"
        ),
    }
}

fn compile() -> Result<(), String> {
    let variable = |name: &str| std::env::var(name).map_err(|_| format!("cargo did not set {name}"));
    let object = PathBuf::from(variable("OUT_DIR")?).join("tunnel.bpf.o");
    let clang = std::env::var("CLANG").unwrap_or_else(|_| "clang".to_owned());
    let (architecture, endian) = (variable("CARGO_CFG_TARGET_ARCH")?, variable("CARGO_CFG_TARGET_ENDIAN")?);
    let target = if endian == "big" { "bpfeb" } else { "bpfel" };
    let mut command = Command::new(&clang);
    command.args(["-target", target, "-O2", "-g", "-Wall", "-Wextra", "-Werror"]);
    // Debian keeps <asm/types.h> where only the host's own compiler looks.
    command.arg("-idirafter").arg(format!("/usr/include/{architecture}-linux-gnu"));
    command.args(["-c", SOURCE, "-o"]).arg(&object);
    let output = command.output().map_err(|error| format!("{clang} cannot be run: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr).lines().collect::<Vec<_>>().join(" | ");
    Err(format!("{clang} refuses {SOURCE}: {text}"))
}
