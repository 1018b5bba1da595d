//! The `sluice` command: one binary for a laptop and for a container.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod asyncapi;
mod check;
mod diff;
mod documents;
mod files;
mod key;
mod logging;
mod render;
mod run;
mod serve;
mod yaml;

/// What went wrong, by whose doing.
enum Failure {
    /// The user's input; what is wrong with it was told.
    Input,
    /// Anything else.
    Real(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Real(error.into())
    }
}

const EXAMPLES: &str = "\
Examples:
  sluice run -f examples/orders.yaml       serve it at http://127.0.0.1:8080, follow changes
  sluice check -f examples/orders.yaml     tell every problem as file:line
  sluice render -f examples/orders.yaml    what the operator would make of it in a cluster
  sluice diff -f examples/orders.yaml      what it would change in a cluster, and who would notice
  sluice asyncapi -f examples/orders.yaml  describe it to its clients as an AsyncAPI document
  sluice crds | kubectl apply -f -         teach a cluster the resources
  sluice key create shop-keys              make an API key and the Secret that knows it

Exit codes: 0 fine, 1 the input has problems, 2 wrong usage, 3 a real failure.";

/// Turns event brokers into managed streaming APIs.
#[derive(Parser)]
#[command(name = "sluice", version, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve StreamAPIs from files, with no cluster, and follow the files' changes
    Run(Box<run::Args>),
    /// Serve in a pod what the operator wrote
    Serve(Box<serve::Args>),
    /// Tell every problem of the files as file:line: at: message
    Check(check::Args),
    /// Print the objects that the operator would apply to a cluster
    Render(render::Args),
    /// Tell what applying the files would do to those who use what they describe
    Diff(diff::Args),
    /// Print the AsyncAPI 3.0.0 document of a StreamAPI
    Asyncapi(asyncapi::Args),
    /// Print the custom resource definitions
    #[command(after_help = "Example:\n  sluice crds | kubectl apply --server-side -f -")]
    Crds,
    /// API keys
    #[command(subcommand)]
    Key(key::Command),
}

fn main() -> ExitCode {
    // Before anything can ask for TLS: several crates would otherwise each pick their own.
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.install_default().expect("nothing installed a provider before main");
    let done = match Cli::parse().command {
        Command::Run(args) => run::run(*args),
        Command::Serve(args) => serve::serve(*args),
        Command::Check(args) => check::check(&args),
        Command::Render(args) => render::render(args),
        Command::Diff(args) => diff::diff(args),
        Command::Asyncapi(args) => asyncapi::asyncapi(&args),
        Command::Crds => print_crds(),
        Command::Key(command) => key::key(&command),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Input) => ExitCode::from(1),
        Err(Failure::Real(error)) => {
            eprintln!("sluice: {error:#}");
            ExitCode::from(3)
        }
    }
}

fn print_crds() -> Result<(), Failure> {
    for crd in sluice_crds::crds() {
        print(&format!("---\n{}", sluice_crds::yaml::to_yaml(&serde_json::to_value(crd)?)))?;
    }
    Ok(())
}

/// Writes to standard output; whoever closed it (`| head`) has read enough.
fn print(text: &str) -> Result<(), Failure> {
    use std::io::{ErrorKind, Write as _};
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound_and_every_command_shows_an_example() {
        let mut command = Cli::command();
        command.build();
        command.clone().debug_assert();
        fn leaves(command: &clap::Command, found: &mut Vec<clap::Command>) {
            let inner = command.get_subcommands().filter(|inner| inner.get_name() != "help");
            let inner: Vec<_> = inner.collect();
            if inner.is_empty() {
                found.push(command.clone());
            }
            inner.into_iter().for_each(|inner| leaves(inner, found));
        }
        let mut found = Vec::new();
        leaves(&command, &mut found);
        assert_eq!(found.len(), 8);
        for mut command in found {
            let help = command.render_long_help().to_string();
            assert!(help.contains("  sluice "), "{help}");
        }
    }
}
