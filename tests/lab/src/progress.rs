//! What is being done and for how long: bars on a terminal, plain lines elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{HumanDuration, MultiProgress, ProgressBar, ProgressStyle};

/// Steps that end sooner than this are not announced outside a terminal.
const WORTH_A_LINE: Duration = Duration::from_millis(500);

#[derive(Clone, Debug)]
pub struct Progress {
    bars: Option<MultiProgress>,
    silent: bool,
}

impl Progress {
    /// Bars when standard error is a terminal, lines otherwise.
    pub fn new() -> Self {
        let bars = std::io::stderr().is_terminal().then(MultiProgress::new);
        Self { bars, silent: false }
    }

    pub fn silent() -> Self {
        Self { bars: None, silent: true }
    }

    /// Starts a step. `about` is how long it usually takes on two cores.
    pub fn step(&self, what: impl Into<String>, about: Option<Duration>) -> Step {
        let what = what.into();
        let hint = about.map_or(String::new(), |about| format!(" (about {})", HumanDuration(about)));
        let bar = self.bars.as_ref().map(|bars| {
            let bar = bars.add(ProgressBar::new_spinner());
            bar.set_style(spinner());
            bar.set_prefix(format!("{what}{hint}"));
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        if bar.is_none() && about.is_some() && !self.silent {
            eprintln!("{what}{hint} …");
        }
        Step { bars: self.bars.clone(), silent: self.silent, what, bar, start: Instant::now() }
    }

    /// A line that stays.
    pub fn say(&self, line: &str) {
        match &self.bars {
            // A bar that is hidden (no terminal any more) must not swallow the message.
            Some(bars) if bars.println(line).is_ok() => {}
            _ if self.silent => {}
            _ => eprintln!("{line}"),
        }
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

/// One thing that is being done. Dropped without [`Step::done`], it vanishes: it failed.
#[derive(Debug)]
pub struct Step {
    bars: Option<MultiProgress>,
    silent: bool,
    what: String,
    bar: Option<ProgressBar>,
    start: Instant,
}

impl Step {
    /// Turns the spinner into a bar of `total` parts.
    pub fn set_total(&self, total: u64) {
        if let Some(bar) = &self.bar {
            bar.set_style(counter());
            bar.set_length(total);
        }
    }

    pub fn advance(&self, detail: &str) {
        if let Some(bar) = &self.bar {
            bar.inc(1);
            bar.set_message(detail.to_owned());
        }
    }

    pub fn detail(&self, detail: impl Into<String>) {
        if let Some(bar) = &self.bar {
            bar.set_message(detail.into());
        }
    }

    pub fn done(self) {
        let took = self.start.elapsed();
        let line = format!("{}: {:.1} s", self.what, took.as_secs_f64());
        match (&self.bars, &self.bar) {
            (Some(bars), Some(bar)) => {
                bar.finish_and_clear();
                let _ = bars.println(format!("✓ {line}"));
            }
            _ if took >= WORTH_A_LINE && !self.silent => eprintln!("✓ {line}"),
            _ => {}
        }
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn spinner() -> ProgressStyle {
    ProgressStyle::with_template("{spinner} {prefix} {elapsed} {wide_msg}")
        .unwrap_or_else(|_| ProgressStyle::default_spinner())
}

fn counter() -> ProgressStyle {
    ProgressStyle::with_template("{spinner} {prefix} {elapsed} {bar:24} {pos}/{len} {wide_msg}")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
}
