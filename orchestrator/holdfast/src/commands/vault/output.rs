//! What every subcommand prints with: tables, JSON, progress, and errors as what, where, what to do.

use std::fmt;
use std::io::IsTerminal;
use std::path::Path;

use clap::ValueEnum;
use holdfast_vault::{ReadError, StoreError, StoreErrorKind, VaultError};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    #[default]
    Table,
    /// For programs; the fields keep their names.
    Json,
}

/// Prints a result as JSON.
///
/// # Errors
/// It cannot be written as JSON.
pub(crate) fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string_pretty(value)?);
    Ok(())
}

/// A table in plain text: each column as wide as its widest cell.
#[derive(Debug, Default)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with the names of its columns.
    pub(crate) fn new(columns: &[&str]) -> Table {
        Table { rows: vec![columns.iter().map(|name| (*name).to_owned()).collect()] }
    }

    /// Adds a row.
    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or_default();
        let width = |n: usize| self.rows.iter().filter_map(|row| row.get(n)).map(|cell| cell.chars().count()).max();
        let widths: Vec<usize> = (0..columns).map(|n| width(n).unwrap_or_default()).collect();
        for row in &self.rows {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
            let line = cells.collect::<Vec<_>>().join("   ");
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// Bytes for people, in powers of 1024.
pub(crate) fn bytes_text(bytes: u64) -> String {
    let (mut value, mut unit) = (bytes as f64, "B");
    for next in ["KiB", "MiB", "GiB", "TiB"] {
        if value < 1024.0 {
            break;
        }
        (value, unit) = (value / 1024.0, next);
    }
    if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") }
}

/// A progress bar on standard error, of so many steps (bytes or objects; none: unknown). Hidden when nobody looks: standard
/// error is no terminal, or the output is JSON.
pub(crate) fn progress(output: Output, steps: Option<u64>, what: &'static str) -> ProgressBar {
    if output == Output::Json || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let (bar, template) = match steps {
        Some(steps) => (ProgressBar::new(steps), "{prefix} [{bar:40}] {human_pos}/{human_len} {msg} ({eta} left)"),
        None => (ProgressBar::new_spinner(), "{prefix} {spinner} {human_pos} {msg} ({elapsed})"),
    };
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    bar.with_style(style).with_prefix(what)
}

/// What went wrong, where, and what to do. The library's errors become one by themselves.
#[derive(Debug, Serialize, thiserror::Error)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Failed {
    /// What is wrong, in one sentence.
    pub(crate) what: String,
    /// The object, file or option that it is about; empty for the vault (or the command line) as a whole, which is put in
    /// before it is printed.
    #[serde(rename = "where")]
    pub(crate) place: String,
    /// What to do.
    pub(crate) to_do: String,
}

impl Failed {
    /// An error of a person's own making.
    pub(crate) fn new(what: impl Into<String>, place: impl Into<String>, to_do: impl Into<String>) -> Failed {
        Failed { what: what.into(), place: place.into(), to_do: to_do.into() }
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n  where: {}\n  what to do: {}", self.what, self.place, self.to_do)
    }
}

/// What is wrong with one database; the others are looked at all the same.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct DatabaseProblem {
    database: String,
    problem: String,
    to_do: String,
}

impl DatabaseProblem {
    /// What is wrong with this one, and what to do.
    pub(crate) fn new(database: &str, problem: String, to_do: &str) -> DatabaseProblem {
        DatabaseProblem { database: database.to_owned(), problem, to_do: to_do.to_owned() }
    }

    /// # Errors
    /// The error itself, when it is none of this database alone: the rest would fail as well.
    pub(crate) fn of_one(database: &str, error: VaultError) -> Result<DatabaseProblem, VaultError> {
        let (problem, to_do) = match &error {
            VaultError::Store(_) | VaultError::BadConfig { .. } | VaultError::BadKey { .. } => return Err(error),
            // Nobody but a person with other means can have put it there.
            VaultError::BadName { .. } => {
                let to_do =
                    "look at what stands below it with `holdfast vault ls --long`, and find out who put it there";
                (error.to_string(), to_do)
            }
            _ => (error.to_string(), error.hint()),
        };
        Ok(DatabaseProblem::new(database, problem, to_do))
    }

    /// On standard error.
    pub(crate) fn print(&self) {
        let failed = Failed::new(&self.problem, format!("database {}", self.database), &self.to_do);
        eprintln!("holdfast: {failed}");
    }

    /// In one line.
    pub(crate) fn line(&self) -> String {
        format!("database {}: {}; what to do: {}", self.database, self.problem, self.to_do)
    }
}

/// The error was printed already.
#[derive(Debug, thiserror::Error)]
#[error("printed already")]
pub(crate) struct Printed;

/// What a command is about when an error does not say so itself.
#[derive(Clone, Debug)]
pub(crate) struct About {
    /// Which vault, or the command line.
    pub(crate) place: String,
    /// It is a Vault object of a cluster: what is to be corrected stands in its spec and its Secrets, not in options.
    pub(crate) object: bool,
}

impl About {
    /// A command without a vault.
    pub(crate) fn the_command_line() -> About {
        About { place: "the command line".to_owned(), object: false }
    }
}

/// Prints an error of a subcommand on standard error: text for people, JSON for programs.
pub(crate) fn report(output: Output, about: &About, error: anyhow::Error) -> anyhow::Error {
    if !error.is::<Printed>() {
        explain(about, &error).print(output);
    }
    Printed.into()
}

impl Failed {
    /// On standard error: text for people, one line of JSON (`{"error": {"what", "where", "toDo"}}`) for programs.
    pub(crate) fn print(&self, output: Output) {
        #[derive(Serialize)]
        struct Line<'a> {
            error: &'a Failed,
        }
        match (output, serde_json::to_string(&Line { error: self })) {
            (Output::Json, Ok(json)) => eprintln!("{json}"),
            _ => eprintln!("holdfast: {self}"),
        }
    }
}

/// Reads a file that an option names.
///
/// # Errors
/// It cannot be read, or is no text.
pub(crate) fn read_file(path: &Path, option: &str) -> Result<String, Failed> {
    let to_do = || format!("give a text file that can be read as {option}");
    std::fs::read_to_string(path)
        .map_err(|error| Failed::new(format!("cannot read the file: {error}"), path.display().to_string(), to_do()))
}

fn explain(about: &About, error: &anyhow::Error) -> Failed {
    let failed = describe(about, error);
    let place = if failed.place.is_empty() { about.place.clone() } else { failed.place };
    Failed { place, ..failed }
}

fn describe(about: &About, error: &anyhow::Error) -> Failed {
    let what = format!("{error:#}");
    for cause in error.chain() {
        if let Some(failed) = cause.downcast_ref::<Failed>() {
            return Failed::new(&failed.what, &failed.place, &failed.to_do);
        }
        if let Some(error) = cause.downcast_ref::<VaultError>() {
            return of_vault(about, what, error);
        }
        if let Some(ReadError::Vault(error)) = cause.downcast_ref::<ReadError>() {
            return of_vault(about, what, error);
        }
        if let Some(error) = cause.downcast_ref::<StoreError>() {
            return of_vault(about, what, &error.clone().into());
        }
    }
    Failed::new(what, "", "see `holdfast vault --help`")
}

fn of_vault(about: &About, what: String, error: &VaultError) -> Failed {
    let place = match error {
        VaultError::Damaged { key, .. } | VaultError::NotIndexed { key, .. } => key.clone(),
        VaultError::BadKey { what, .. } => what.clone(),
        VaultError::Store(error) => error.target.clone(),
        _ => String::new(),
    };
    Failed::new(what, place, to_do(about, error))
}

/// The library speaks to an operator with a Vault object, which tries again; a person has options, and tries again himself.
fn to_do(about: &About, error: &VaultError) -> &'static str {
    let kind = match error {
        VaultError::Store(error) => Some(error.kind),
        _ => None,
    };
    match (error, kind) {
        (_, Some(StoreErrorKind::Unreachable | StoreErrorKind::Damaged)) => {
            "check the endpoint and the network, and give the command again"
        }
        (_, Some(StoreErrorKind::Throttled)) => "give the command again later, with less at the same time",
        _ if about.object => error.hint(),
        (VaultError::BadCredentials { .. }, _) | (_, Some(StoreErrorKind::Credentials)) => {
            "check the access key and the secret, in the folder that --credentials names, else in the environment; or the \
             role and the token that the environment names, and that the role trusts the token's issuer and subject"
        }
        (VaultError::NoSuchBucket { .. }, _) | (_, Some(StoreErrorKind::NoSuchBucket)) => {
            "correct --bucket or --endpoint, or create the bucket with Object Lock enabled"
        }
        (VaultError::BadConfig { .. }, _) => {
            "correct what the message names on the command line (--help lists the options)"
        }
        _ => error.hint(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_vault::ObjectError;

    #[test]
    fn tables_line_up() {
        let mut table = Table::new(&["NAME", "N"]);
        table.row(["registration".into(), "7".into()]);
        table.row(["lab".into(), "12".into()]);
        assert_eq!(table.to_string(), "NAME           N\nregistration   7\nlab            12\n");
    }

    #[test]
    fn sizes_read_well() {
        for (bytes, text) in
            [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (3 << 30, "3.0 GiB"), (5 << 40, "5.0 TiB")]
        {
            assert_eq!(bytes_text(bytes), text);
        }
    }

    #[test]
    fn what_is_wrong_with_one_database_stops_no_other() {
        let name = |name: &str| VaultError::BadName { what: "a database", name: name.to_owned() };
        let damaged = VaultError::Damaged { key: "p/v1/k".into(), error: ObjectError::Signature };
        for error in [name("A B"), VaultError::UnknownDatabase { name: "junk".into() }, damaged] {
            let problem = DatabaseProblem::of_one("junk", error).unwrap();
            assert!(problem.line().starts_with("database junk: ") && !problem.to_do.is_empty(), "{problem:?}");
        }
        let (kind, detail) = (holdfast_vault::StoreErrorKind::Denied, String::new());
        let away = holdfast_vault::StoreError { kind, operation: "GetObject", target: "b".into(), detail };
        assert!(DatabaseProblem::of_one("junk", away.into()).is_err(), "the others would fail as well");
    }

    #[test]
    fn what_to_correct_is_an_option_or_the_vault_object() {
        let error = || VaultError::BadConfig { reason: "r".into() };
        let about = |object| About { place: "p".into(), object };
        assert!(explain(&about(false), &error().into()).to_do.contains("command line"));
        assert_eq!(explain(&about(true), &error().into()).to_do, error().hint());
        let (kind, detail) = (StoreErrorKind::Unreachable, String::new());
        let away = StoreError { kind, operation: "GetObject", target: "b".into(), detail };
        assert!(explain(&about(true), &away.into()).to_do.contains("give the command again"));
    }

    #[test]
    fn errors_say_what_where_and_what_to_do() {
        let error = VaultError::Damaged { key: "p/v1/k".into(), error: ObjectError::Signature };
        let about = About { place: "bucket b".into(), object: false };
        let failed = explain(&about, &anyhow::Error::from(error).context("verifying"));
        assert_eq!(failed.place, "p/v1/k");
        assert!(failed.what.starts_with("verifying: ") && failed.to_do.contains("copy"), "{failed}");
        let failed = explain(&about, &Failed::new("a", "", "c").into());
        assert_eq!(failed.to_string(), "a\n  where: bucket b\n  what to do: c");
    }
}
