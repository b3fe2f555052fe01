//! The `cubby` binary; see [`cubby::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    cubby::cli::main()
}
