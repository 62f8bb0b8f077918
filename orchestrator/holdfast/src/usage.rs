//! A command line that makes no sense, told by the commands that promise what, where and what to do.

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use crate::cli::Arguments;
use crate::commands::vault::{Failed, Output};

/// The commands that print every error so.
const OURS: [&str; 2] = ["vault", "keys"];

/// What clap says is wrong with a command line.
const MEANINGLESS: u8 = 2;

/// The command line; what is to be done instead of running it is printed already (help, the version, what is wrong).
pub(crate) fn parse() -> Result<Arguments, ExitCode> {
    let line: Vec<String> = std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    Arguments::try_parse().map_err(|error| {
        let command = command(&line);
        // Help is no error, also where it is printed because nothing was said.
        let help = !error.use_stderr() || error.kind() == HELP_FOR_WANT_OF_WORDS;
        if help || !command.get(1).is_some_and(|name| OURS.contains(&name.as_str())) {
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(MEANINGLESS));
        }
        explain(&error.to_string(), &command.join(" ")).print(output(&line));
        ExitCode::from(MEANINGLESS)
    })
}

const HELP_FOR_WANT_OF_WORDS: clap::error::ErrorKind = clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;

/// The words of a command line that name a command, such as `holdfast vault ls`.
fn command(line: &[String]) -> Vec<String> {
    let mut names = vec!["holdfast".to_owned()];
    let mut at = Arguments::command();
    for word in line.iter().skip(1) {
        if let Some(next) = at.find_subcommand(word) {
            names.push(word.clone());
            at = next.clone();
        }
    }
    names
}

/// What `-o` says, as far as a line that cannot be parsed has one.
fn output(line: &[String]) -> Output {
    let pair = |words: &[String]| matches!(words[0].as_str(), "-o" | "--output") && words[1] == "json";
    let one = |word: &String| ["-ojson", "-o=json", "--output=json"].contains(&word.as_str());
    if line.windows(2).any(pair) || line.iter().any(one) { Output::Json } else { Output::Table }
}

/// clap's words: what is wrong, then perhaps a tip, the usage, and where the help is.
fn explain(text: &str, command: &str) -> Failed {
    let joined = |paragraph: &str| paragraph.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut paragraphs = text.split("\n\n").map(joined).filter(|text| !text.is_empty());
    let what = paragraphs.next().unwrap_or_default();
    let what = what.strip_prefix("error: ").unwrap_or(&what);
    let help = format!("see `{command} --help`");
    let to_do = match paragraphs.find_map(|text| text.strip_prefix("tip: ").map(ToOwned::to_owned)) {
        Some(tip) => format!("{tip}; {help}"),
        None => help,
    };
    Failed::new(what, format!("the command line of `{command}`"), to_do)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(ToOwned::to_owned).collect()
    }

    #[test]
    fn the_command_and_the_format_are_found_in_a_line_that_cannot_be_parsed() {
        for (line, expected, json) in [
            ("holdfast vault --bucket b ls --nonsense -o json", "holdfast vault ls", true),
            ("/usr/bin/holdfast vault verify --sample x --output=json", "holdfast vault verify", true),
            ("holdfast keys rotate -o table", "holdfast keys rotate", false),
            ("holdfast nonsense -o", "holdfast", false),
        ] {
            let line = words(line);
            assert_eq!((command(&line).join(" ").as_str(), output(&line) == Output::Json), (expected, json));
        }
    }

    #[test]
    fn what_clap_says_becomes_what_where_and_what_to_do() {
        let line = ["holdfast", "vault", "ls", "--limt", "3"];
        let error = Arguments::try_parse_from(line).unwrap_err();
        let failed = explain(&error.to_string(), "holdfast vault ls");
        assert_eq!(failed.what, "unexpected argument '--limt' found");
        assert_eq!(failed.place, "the command line of `holdfast vault ls`");
        assert!(
            failed.to_do.contains("'--limit'") && failed.to_do.ends_with("see `holdfast vault ls --help`"),
            "{failed}"
        );
        let error = Arguments::try_parse_from(["holdfast", "keys", "new"]).unwrap_err();
        let failed = explain(&error.to_string(), "holdfast keys new");
        assert_eq!(failed.what, "the following required arguments were not provided: <KIND>");
        assert_eq!(failed.to_do, "see `holdfast keys new --help`");
    }
}
