//! The demo's report: one HTML page with the picture, and the picture by itself.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use holdfast_api::run::Step;
use holdfast_api::{Drill, Failover};
use holdfast_hospital::Service;
use holdfast_hospital::verify::Verdict;

use crate::kubernetes::epoch_us;
use crate::timeline::{Span, Timeline, escape};

/// What one failover came to.
pub struct Report {
    pub timeline: Timeline,
    pub failover: Failover,
    pub drill: Option<Drill>,
    pub verdict: Verdict,
}

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:1120px;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;margin:.5rem 0 1.5rem}td,th{padding:.25rem .8rem;border-bottom:1px solid #ddd;text-align:left}
td.n{text-align:right;font-variant-numeric:tabular-nums}svg{width:100%;height:auto}.good{color:#1b7f3b}.bad{color:#b3261e}";

impl Report {
    /// Writes `report.html` and `timeline.svg` into `folder`; returns the page's path.
    pub fn write(&self, folder: &Path) -> Result<PathBuf> {
        fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
        let picture = folder.join("timeline.svg");
        fs::write(&picture, self.timeline.svg()).with_context(|| format!("writing {}", picture.display()))?;
        let page = folder.join("report.html");
        fs::write(&page, self.html()).with_context(|| format!("writing {}", page.display()))?;
        Ok(page)
    }

    fn html(&self) -> String {
        let mut page = format!(
            "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>A hospital fails over</title><style>{STYLE}</style>\n\
             <h1>A hospital fails over</h1>\n"
        );
        self.headline(&mut page);
        page.push_str(&self.timeline.svg());
        self.services(&mut page);
        if let Some(status) = &self.failover.status {
            heading(&mut page, "Steps of the failover");
            steps(&mut page, &status.steps);
        }
        if let Some(status) = self.drill.as_ref().and_then(|drill| drill.status.as_ref()) {
            heading(&mut page, "Drill");
            let word = |well: bool| if well { "yes" } else { "no" };
            let isolated = status.isolated.unwrap_or(false);
            line(
                &mut page,
                format_args!("<p>Isolated: {}. Cleaned up: {}.</p>", word(isolated), word(status.cleaned_up)),
            );
            steps(&mut page, &status.steps);
        }
        page
    }

    fn headline(&self, page: &mut String) {
        let verdict = &self.verdict;
        let class = if verdict.is_intact() { "good" } else { "bad" };
        line(
            page,
            format_args!(
                "<p class=\"{class}\"><b>{} writes acknowledged, {} lost.</b> {} had no answer ({} of them are there), {} \
                 altered, {} duplicated, {} orphaned.</p>",
                verdict.acknowledged,
                verdict.lost,
                verdict.unknown,
                verdict.unknown_present,
                verdict.altered,
                verdict.duplicated,
                verdict.orphaned
            ),
        );
        let Some(status) = &self.failover.status else {
            return;
        };
        if let (Some(writable), Some(serving)) = (status.writable_after_seconds, status.serving_after_seconds) {
            line(
                page,
                format_args!(
                    "<p>Databases writable {writable:.1} s, services serving {serving:.1} s after the order.</p>"
                ),
            );
        }
    }

    fn services(&self, page: &mut String) {
        heading(page, "Services");
        page.push_str(
            "<table><tr><th>service<th>acknowledged<th>lost<th>commit p50 / p95 ms<th>request p50 / p95 ms<th>longest gap s</tr>\n",
        );
        for service in Service::ALL {
            let figures = &self.verdict.services[service.index()];
            let ms = |us: u64| us as f64 / 1000.0;
            let gap = figures.gap.map_or(0.0, |gap| gap.length_us() as f64 / 1e6);
            line(
                page,
                format_args!(
                    "<tr><td>{service}<td class=n>{}<td class=n>{}<td class=n>{:.1} / {:.1}<td class=n>{:.1} / {:.1}<td class=n>{gap:.2}</tr>",
                    figures.acknowledged,
                    figures.lost,
                    ms(figures.commit.p50_us),
                    ms(figures.commit.p95_us),
                    ms(figures.latency.p50_us),
                    ms(figures.latency.p95_us),
                ),
            );
        }
        page.push_str("</table>\n");
    }
}

/// The steps that have begun, as spans; one that is not done ends now.
pub fn spans(steps: &[Step]) -> Vec<Span> {
    let now = jiff::Timestamp::now();
    let begun = steps.iter().filter_map(|step| step.started_at.map(|started| (step, started)));
    let mut spans: Vec<_> = begun
        .map(|(step, started)| Span {
            name: step.name.clone(),
            from_us: epoch_us(started),
            to_us: epoch_us(step.finished_at.unwrap_or(now)),
        })
        .collect();
    spans.sort_by_key(|span| (span.from_us, span.to_us));
    spans
}

fn steps(page: &mut String, steps: &[Step]) {
    page.push_str("<table><tr><th>step<th>state<th>seconds<th>attempts<th></tr>\n");
    for step in steps {
        let seconds = step.duration_ms.map_or("-".to_owned(), |ms| format!("{:.2}", ms as f64 / 1000.0));
        line(
            page,
            format_args!(
                "<tr><td>{}<td>{:?}<td class=n>{seconds}<td class=n>{}<td>{}</tr>",
                escape(&step.name),
                step.state,
                step.attempts,
                escape(step.message.as_deref().unwrap_or("")),
            ),
        );
    }
    page.push_str("</table>\n");
}

fn heading(page: &mut String, text: &str) {
    line(page, format_args!("<h2>{}</h2>", escape(text)));
}

fn line(page: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = writeln!(page, "{text}");
}
