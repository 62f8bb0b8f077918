//! `holdfast vault conformance`: whether a store keeps what Holdfast builds on.

use clap::Args;
use holdfast_vault::conformance::{
    Check, ConformanceOptions, Consequence, Finding, Left, Report, Selection, Verdict, checks,
};

use super::{Failed, Output, Printed, Table, Where, print_json, progress};

/// Try whether a store is suitable for a vault: what Holdfast depends on in S3, one by one.
///
/// Works below a fresh random prefix in the bucket, on objects locked for two minutes; what locks and credentials allow is
/// deleted at the end. It shows most with an administrator's credentials: a deletion that the credentials may not make at
/// all proves nothing about the lock, and is told as not tried. Exit code 1 when the store is refused, or not proven
/// suitable.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  holdfast vault conformance --bucket trial --endpoint https://s3.example.org\n  \
    holdfast vault conformance --bucket trial --wait -o json\n  holdfast vault conformance --list")]
pub(crate) struct Conformance {
    /// Make only the check of that name; may be given several times.
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Wait at the end until the locks are over (about two minutes), and delete everything.
    #[arg(long)]
    wait: bool,
    /// List the checks with their reasons, and end.
    #[arg(long, conflicts_with_all = ["only", "wait"])]
    list: bool,
}

impl Conformance {
    pub(crate) async fn run(self, place: &Where) -> anyhow::Result<()> {
        if self.list {
            return list(place.output);
        }
        place.needs_s3()?;
        let known = |name: &String| checks().any(|check| check.name == name);
        if let Some(name) = self.only.iter().find(|name| !known(name)) {
            let to_do = "see `holdfast vault conformance --list` for the names";
            return Err(Failed::new(format!("there is no check `{name}`"), "--only", to_do).into());
        }
        let vault = place.open().await?;
        let selection = if self.only.is_empty() { Selection::All } else { Selection::Named(self.only) };
        let options = ConformanceOptions { selection, wait_for_locks: self.wait };
        let bar = progress(place.output, Some(0), "conformance");
        let report = vault
            .conformance(&options, |finding, total| {
                bar.set_length(total as u64);
                bar.inc(1);
                bar.set_message(finding.name.clone());
            })
            .await;
        bar.finish_and_clear();
        let report = report?;
        match place.output {
            Output::Json => print_json(&report)?,
            Output::Table => print!("{}", text(&report)),
        }
        match report.verdict {
            Verdict::Suitable | Verdict::Limited => Ok(()),
            Verdict::Refused | Verdict::Unproven => Err(Printed.into()),
        }
    }
}

fn list(output: Output) -> anyhow::Result<()> {
    let consequence = |check: &Check| match check.consequence {
        Consequence::Refused => "refused",
        Consequence::Limit => "limit",
    };
    if output == Output::Json {
        let line = |check: &Check| serde_json::json!({"name": check.name, "area": check.area, "consequence": check.consequence, "why": check.why});
        return print_json(&checks().map(line).collect::<Vec<_>>());
    }
    let mut table = Table::new(&["CHECK", "IF IT FAILS", "WHY"]);
    checks().for_each(|check| table.row([check.name.into(), consequence(check).into(), check.why.into()]));
    print!("{table}");
    Ok(())
}

fn text(report: &Report) -> String {
    let mut table = Table::new(&["CHECK", "RESULT", "WHAT WAS SEEN"]);
    let mut area = None;
    for finding in &report.findings {
        if area.replace(finding.area) != Some(finding.area) {
            table.row([finding.area.title().to_uppercase(), String::new(), String::new()]);
        }
        table.row([format!("  {}", finding.name), finding.word().to_uppercase(), finding.detail().to_owned()]);
    }
    let count = |word: &str| report.findings.iter().filter(|finding| finding.word() == word).count();
    let counts = format!(
        "{} checks in {:.0} s: {} passed, {} refuse, {} limit, {} not tried",
        report.findings.len(),
        report.seconds,
        count("pass"),
        count("refused"),
        count("limit"),
        count("not tried")
    );
    let grounds: String = report.grounds().map(ground).collect();
    let left = left(&report.left, &report.prefix);
    format!(
        "{table}\nbucket:  {}\nchecks:  {counts}\nleft:    {left}\nverdict: {}\n{grounds}",
        report.bucket,
        report.verdict.title()
    )
}

/// Why the verdict is what it is: what was seen, and why that matters.
fn ground(finding: &Finding) -> String {
    format!("  {}: {} ({})\n    why: {}\n", finding.name, finding.detail(), finding.word(), finding.why)
}

fn left(left: &Left, prefix: &str) -> String {
    let deleted = format!("{} versions and markers were deleted", left.deleted);
    match (left.versions, left.locked_until) {
        (0, _) if left.why.is_empty() => format!("nothing; {deleted}"),
        (0, _) => format!("what stays below {prefix} is not known: {}", left.why),
        (n, Some(until)) => format!("{n} below {prefix}, the last locked until {until} ({}); {deleted}", left.why),
        (n, None) => format!("{n} below {prefix} ({}); {deleted}", left.why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn report(result: serde_json::Value, consequence: &str) -> Report {
        let mut finding = json!({"name": "lock-ends", "area": "lock", "consequence": consequence, "why": "the reason"});
        finding.as_object_mut().unwrap().extend(result.as_object().unwrap().clone());
        let findings: Vec<Finding> = serde_json::from_value(json!([finding])).unwrap();
        let verdict = Verdict::of(&findings);
        let left = json!({"deleted": 3, "versions": 2, "lockedUntil": "2026-11-24T12:02:00Z", "why": "their locks have not ended"});
        serde_json::from_value(json!({
            "bucket": "b", "prefix": "v1/probe/x/", "ended": "2026-11-24T12:00:00Z", "seconds": 7.2, "verdict": verdict,
            "findings": findings, "left": left
        }))
        .unwrap()
    }

    #[test]
    fn the_table_ends_in_the_verdict_and_its_grounds() {
        let failed = json!({"result": "failed", "what": "it was seen"});
        for (result, consequence, parts) in [
            (json!({"result": "passed"}), "refused", ["PASS", "verdict: suitable\n", "1 passed", "OBJECT LOCK"]),
            (failed.clone(), "limit", ["LIMIT", "suitable with these limits\n", "it was seen", "why: the reason"]),
            (failed, "refused", ["REFUSED", "refused because\n", "lock-ends: it was seen", "1 refuse"]),
            (
                json!({"result": "untried", "reason": "no right"}),
                "refused",
                [
                    "NOT TRIED",
                    "not proven",
                    "no right",
                    "2 below v1/probe/x/, the last locked until 2026-11-24T12:02:00Z",
                ],
            ),
        ] {
            let text = text(&report(result, consequence));
            for part in parts {
                assert!(text.contains(part), "{part} in {text}");
            }
        }
    }
}
