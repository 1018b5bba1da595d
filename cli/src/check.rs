//! `sluice check`: every problem of the files, nothing else.

use std::path::PathBuf;

use sluice_config::Config;
use sluice_operator::Objects;
use sluice_operator::report::is_place_of_reference;

use crate::documents::{self, Report};
use crate::{Failure, files, print};

/// Flags of `sluice check`.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  sluice check -f apis/ -f secrets.yaml
  kubectl kustomize overlays/staging | sluice check -f - secrets.yaml")]
pub struct Args {
    /// What to check
    #[command(flatten)]
    pub input: Input,
}

/// The files that a command reads once.
#[derive(clap::Args)]
pub struct Input {
    /// Files or directories (*.yaml, *.yml, *.json) of StreamAPIs, StreamPolicies and Secrets; `-` is standard input
    #[arg(short, long = "file", value_name = "FILE|DIR", required = true, num_args = 1..)]
    pub files: Vec<PathBuf>,
    /// Namespace of objects that name none
    #[arg(long, value_name = "NAMESPACE", default_value = "default")]
    pub namespace: String,
}

/// What files say.
pub struct Found {
    /// Everything that can be understood, and what cannot.
    pub objects: Objects,
    /// Every problem in the order of files and lines.
    pub reports: Vec<Report>,
    /// How many documents there are.
    documents: usize,
}

/// Prints every problem; fails if there is one.
pub fn check(args: &Args) -> Result<(), Failure> {
    let Found { reports, documents, .. } = args.input.read();
    let mut text: String = reports.iter().map(|report| format!("{report}\n")).collect();
    if reports.is_empty() {
        text = format!("no problems in {documents} objects\n");
    }
    print(&text)?;
    if reports.is_empty() { Ok(()) } else { Err(Failure::Input) }
}

impl Input {
    /// Reads all files.
    pub fn read(&self) -> Found {
        let mut reports = Vec::new();
        let mut all = Vec::new();
        let mut order = Vec::new();
        for source in &self.files {
            let listed =
                if files::is_standard_input(source) { Ok(vec![source.clone()]) } else { files::list(source) };
            match listed {
                Ok(files) => order.extend(files),
                Err(error) => reports.push(Report::of_file(source, 0, error.to_string())),
            }
        }
        for file in &order {
            let name = file.display().to_string();
            let read = if files::is_standard_input(file) {
                files::read_to_end(std::io::stdin().lock())
            } else {
                files::read(file)
            };
            match read {
                Err(error) => reports.push(Report::of_file(file, 0, error.to_string())),
                Ok(text) => match documents::parse(&name, &text, &self.namespace) {
                    Err(error) => reports.push(Report::of_file(file, error.line, error.message)),
                    Ok(documents) => all.extend(documents),
                },
            }
        }
        let assembled = documents::assemble(all.iter());
        reports.extend(assembled.reports);
        let rendered = sluice_operator::render(&assembled.objects, &Config::default());
        reports.extend(documents::reports(all.iter(), &rendered.refused));
        let place = |report: &Report| order.iter().position(|file| file.display().to_string() == report.file);
        reports.sort_by_key(|report| (place(report), report.line));
        Found { objects: assembled.objects, reports, documents: all.len() }
    }

    /// What all files say. What they refer to may be in a cluster; any other problem is told and fails.
    pub fn objects(&self) -> Result<Objects, Failure> {
        let found = self.read();
        let problems = found.reports.iter().filter(|report| !is_place_of_reference(&report.at));
        let problems: Vec<_> = problems.collect();
        problems.iter().for_each(|problem| eprintln!("{problem}"));
        if problems.is_empty() { Ok(found.objects) } else { Err(Failure::Input) }
    }
}

#[cfg(test)]
mod tests;
