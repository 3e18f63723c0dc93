//! The program as tests/random/faults.rs runs it: built with its fault points, and under another name than the real one.

fn main() -> std::process::ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    std::process::ExitCode::from(litestream::cmd::main(&words))
}
