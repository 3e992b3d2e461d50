//! argv and exit codes; everything else is in the library.

fn main() -> std::process::ExitCode {
    kagemusha::cli::main()
}
