//! Running other programs and saying what they said when they fail.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::error::{IoContext, LabError, Result};

/// How much of a failed command's output is kept, in bytes.
const OUTPUT_TAIL_BYTES: usize = 4000;

pub(crate) fn command<I, S>(program: impl AsRef<OsStr>, args: I) -> Command
where
    I: IntoIterator<Item = S>,
    S: AsRef<OsStr>,
{
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null());
    command
}

/// What `--pdeathsig` and `--kill-child` are for: without this process, however it ended, nothing of it goes on.
const MORTAL: [&str; 9] = [
    "--pdeathsig=KILL",
    "unshare",
    "--mount",
    "--propagation=private",
    "--pid",
    "--fork",
    "--kill-child",
    "--mount-proc",
    "--",
];

/// [`command`] for work of minutes: it ends when the thread that started it does, also by kill -9, with everything that
/// it has started and mounted.
pub(crate) fn mortal<I, S>(program: impl AsRef<OsStr>, args: I) -> Command
where
    I: IntoIterator<Item = S>,
    S: AsRef<OsStr>,
{
    let mut command = command("setpriv", MORTAL);
    command.arg(program).args(args);
    command
}

/// What cargo tells a program that it runs about the package of that program.
const OF_A_PACKAGE: [&str; 5] =
    ["CARGO_MANIFEST_", "CARGO_PKG_", "CARGO_BIN_", "CARGO_CRATE_NAME", "CARGO_PRIMARY_PACKAGE"];

/// Makes a call of cargo look as it does from a shell. With the variables of the cargo that runs this program, build scripts
/// that watch them (ring's does) run again, and half of the dependencies are built a second time, to and fro.
pub(crate) fn as_from_a_shell(cargo: &mut Command) -> &mut Command {
    for (name, _) in std::env::vars_os() {
        if OF_A_PACKAGE.iter().any(|prefix| name.as_encoded_bytes().starts_with(prefix.as_bytes())) {
            cargo.env_remove(name);
        }
    }
    cargo
}

/// Runs to the end and returns what was printed on standard output.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    let output = command.output().doing(|| format!("start {}", shown(command)))?;
    check(command, &output)?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// [`run`] for the common case of a plain command line.
pub(crate) fn sh<S: AsRef<OsStr>>(program: &str, args: &[S]) -> Result<String> {
    run(&mut command(program, args))
}

/// Runs with both outputs appended to `log`; a failure shows the end of that file.
pub(crate) fn run_logged(command: &mut Command, log: &Path) -> Result<()> {
    let file =
        std::fs::File::options().create(true).append(true).open(log).doing(|| format!("open {}", log.display()))?;
    let twin = file.try_clone().doing(|| format!("open {}", log.display()))?;
    let status = command.stdout(file).stderr(twin).status().doing(|| format!("start {}", shown(command)))?;
    if status.success() {
        return Ok(());
    }
    let text = std::fs::read(log).unwrap_or_default();
    Err(LabError::Command {
        command: shown(command),
        status: status.to_string(),
        output: format!("{}\n(all of it: {})", tail(&text), log.display()),
    })
}

fn check(command: &Command, output: &Output) -> Result<()> {
    if output.status.success() {
        return Ok(());
    }
    let mut text = output.stdout.clone();
    text.extend_from_slice(&output.stderr);
    Err(LabError::Command { command: shown(command), status: output.status.to_string(), output: tail(&text) })
}

/// The end of a text, cut at a line where possible.
pub(crate) fn tail(text: &[u8]) -> String {
    let start = text.len().saturating_sub(OUTPUT_TAIL_BYTES);
    let text = String::from_utf8_lossy(&text[start..]);
    match text.split_once('\n') {
        Some((_, rest)) if start > 0 => rest.trim_end().to_owned(),
        _ => text.trim_end().to_owned(),
    }
}

fn shown(command: &Command) -> String {
    let all = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<_> = all.map(OsStr::to_string_lossy).collect();
    // Of a mortal command what a person would type.
    let from = if words.get(1).is_some_and(|word| word == MORTAL[0]) { 1 + MORTAL.len() } else { 0 };
    let mut text = words[from.min(words.len())..].join(" ");
    if text.len() > 300 {
        let cut = text.floor_char_boundary(300);
        text.truncate(cut);
        text.push('…');
    }
    text
}

/// Asks again every `pause` until there is an answer or the time is over.
pub(crate) fn poll<T>(
    what: &str,
    limit: Duration,
    pause: Duration,
    mut ask: impl FnMut() -> Result<T, String>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        match ask() {
            Ok(value) => return Ok(value),
            Err(last) if start.elapsed() >= limit => {
                return Err(LabError::Timeout { what: what.to_owned(), after: limit, last });
            }
            Err(_) => std::thread::sleep(pause),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_command_shows_its_command_line_and_the_end_of_its_output() {
        let error = sh("sh", &["-c", "echo before; echo broken >&2; exit 3"]).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("sh -c"), "{text}");
        assert!(text.contains("exit status: 3"), "{text}");
        assert!(text.contains("broken"), "{text}");
    }

    #[test]
    fn a_mortal_command_ends_with_whoever_started_it_and_takes_its_children_along() {
        let shown = run(&mut mortal("false", ["--why"])).unwrap_err().to_string();
        assert!(shown.starts_with("`false --why` failed"), "{shown}");
        let sleeping = || {
            let asked = |pid: &i32| crate::process::arguments(*pid).iter().any(|argument| argument == "86399.5");
            crate::process::all().filter(asked).count()
        };
        let (started, hears) = std::sync::mpsc::channel();
        let parent = std::thread::spawn(move || {
            let child = mortal("sh", ["-c", "sleep 86399.5 & sleep 86399.5"]).spawn().unwrap();
            let both = poll("both", Duration::from_secs(10), Duration::from_millis(10), || {
                if sleeping() >= 2 { Ok(()) } else { Err("not yet".into()) }
            });
            started.send(both.is_ok()).unwrap();
            child
        });
        assert!(hears.recv().unwrap(), "it did not start");
        let mut child = parent.join().unwrap();
        child.wait().unwrap();
        poll("the end", Duration::from_secs(10), Duration::from_millis(10), || match sleeping() {
            0 => Ok(()),
            left => Err(format!("{left} are left")),
        })
        .unwrap();
    }

    #[test]
    fn cargo_hears_nothing_of_the_package_whose_program_calls_it() {
        assert!(std::env::var_os("CARGO_PKG_NAME").is_some(), "run the tests by cargo");
        let heard = run(as_from_a_shell(&mut command("env", [""; 0]))).unwrap();
        let of_a_package = |line: &&str| OF_A_PACKAGE.iter().any(|prefix| line.starts_with(prefix));
        assert_eq!(heard.lines().filter(of_a_package).collect::<Vec<_>>(), [""; 0]);
        assert!(heard.lines().any(|line| line.starts_with("PATH=")), "{heard}");
    }

    #[test]
    fn a_long_output_is_cut_at_a_line() {
        let text = (0..2000).map(|n| format!("line {n}\n")).collect::<String>();
        let cut = tail(text.as_bytes());
        assert!(cut.len() <= OUTPUT_TAIL_BYTES);
        assert!(cut.starts_with("line "), "{}", &cut[..20]);
        assert!(cut.ends_with("line 1999"));
    }

    #[test]
    fn a_poll_that_never_succeeds_tells_what_it_saw_last() {
        let never = poll::<()>("rain", Duration::ZERO, Duration::ZERO, || Err("sun".into()));
        assert_eq!(never.unwrap_err().to_string(), "waited 0 s for rain; last seen: sun");
    }
}
