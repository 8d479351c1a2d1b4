//! The binary: see [`podwire::cli`].

fn main() -> std::process::ExitCode {
    podwire::cli::main()
}
