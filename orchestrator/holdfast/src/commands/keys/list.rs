//! `holdfast keys list`.

use clap::Args;
use holdfast_vault::{CensusOptions, KeyCensus, RecipientUse, SignerUse};
use jiff::Timestamp;
use serde::Serialize;

use crate::commands::vault::{Output, Table, Where, print_json, progress};

/// List which keys a vault in fact depends on: who vouches for its objects, and who can open them.
///
/// It reads headers, not configuration. With identities (`--identity`, or those of the Vault object) it tries which of
/// them open what is stored, and warns of objects that none of them opens.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  holdfast keys list --vault vault -n hospital\n  \
    holdfast keys list --bucket vault --credentials /etc/holdfast/s3 --identity all.key -o json")]
pub(super) struct List {
    #[command(flatten)]
    pub(super) place: Where,
    /// Of chunks, segments and parts of backups, read one in so many (and the first and the last of each folder).
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    one_in: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report<'a> {
    #[serde(flatten)]
    census: &'a KeyCensus,
    warnings: &'a [String],
}

impl List {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let (vault, identities) = (self.place.open().await?, self.place.identities().await?);
        let bar = progress(self.place.output, None, "objects");
        let options = CensusOptions { one_in: self.one_in };
        let census = vault.key_census(identities.as_ref(), options, |_| bar.inc(1)).await;
        bar.finish_and_clear();
        let census = census?;
        let warnings = warnings(&census, identities.is_some(), vault.trust().is_anyone());
        match self.place.output {
            Output::Json => print_json(&Report { census: &census, warnings: &warnings }),
            Output::Table => {
                print_tables(&census);
                warnings.iter().for_each(|warning| println!("warning: {warning}"));
                Ok(())
            }
        }
    }
}

fn print_tables(census: &KeyCensus) {
    let mut table = Table::new(&["VOUCHED FOR BY", "NAME", "OBJECTS", "NOT TRUSTED", "FIRST STORED", "LAST STORED"]);
    for signer in &census.signers {
        let [first, last] = times(signer.stored);
        let key = signer.writer.map_or("nobody".to_owned(), |writer| writer.to_string());
        let name = signer.name.clone().unwrap_or_default();
        table.row([key, name, signer.objects.to_string(), signer.untrusted.to_string(), first, last]);
    }
    println!("{table}");
    let mut table = Table::new(&["ENCRYPTED", "TO KEYS", "OPENED BY", "OBJECTS", "FIRST STORED", "LAST STORED"]);
    for usage in &census.recipients {
        let [first, last] = times(usage.stored);
        let opened_by = if usage.opened_by.is_empty() { "-".to_owned() } else { usage.opened_by.join(", ") };
        table.row([usage.kind.into(), usage.recipients.to_string(), opened_by, usage.objects.to_string(), first, last]);
    }
    println!("{table}");
    println!("{} of {} objects were looked at", census.looked_at, census.objects);
}

fn times(stored: Option<(Timestamp, Timestamp)>) -> [String; 2] {
    stored.map_or([String::new(), String::new()], |(first, last)| [first.to_string(), last.to_string()])
}

/// What a person should know. `tried`: identities were given.
fn warnings(census: &KeyCensus, tried: bool, anyone: bool) -> Vec<String> {
    let mut warnings = Vec::new();
    let between = |stored: Option<(Timestamp, Timestamp)>| {
        stored.map_or(String::new(), |(first, last)| format!(", stored {first} to {last}"))
    };
    let closed = |usage: &&RecipientUse| usage.opened_by.is_empty();
    for usage in census.recipients.iter().filter(closed).filter(|_| tried) {
        let (objects, kind) = (usage.objects, usage.kind);
        warnings.push(format!(
            "{objects} objects ({kind}{}) are opened by none of the given identities: find the key, or they are lost",
            between(usage.stored)
        ));
    }
    for usage in census.recipients.iter().filter(|usage| usage.recipients == 1) {
        let (objects, kind) = (usage.objects, usage.kind);
        warnings.push(format!(
            "{objects} objects ({kind}{}) are encrypted to one key only: without it they are lost",
            between(usage.stored)
        ));
    }
    let distrusted = |signer: &&SignerUse| signer.untrusted > 0;
    for signer in census.signers.iter().filter(distrusted) {
        let who = signer.writer.map_or("nobody".to_owned(), |writer| writer.to_string());
        warnings.push(format!(
            "{} objects vouched for by {who} do not count{}",
            signer.untrusted,
            between(signer.stored)
        ));
    }
    if anyone {
        warnings
            .push("no list of writers was given (a Vault object has one): whoever can write is believed".to_owned());
    }
    if !census.unreadable.is_empty() {
        let (count, first) = (census.unreadable.len(), &census.unreadable[0]);
        warnings.push(format!("the headers of {count} objects cannot be read; the first is {first}"));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(recipients: usize, opened_by: &[&str]) -> RecipientUse {
        let opened_by = opened_by.iter().map(|key| (*key).to_owned()).collect();
        RecipientUse { kind: "chunk", recipients, opened_by, objects: 7, stored: None }
    }

    #[test]
    fn a_lost_key_and_a_single_key_are_warned_of() {
        let census = |usage| KeyCensus { recipients: vec![usage], ..KeyCensus::default() };
        for (usage, tried, expected) in [
            (usage(2, &["age1a"]), true, vec![]),
            (usage(2, &[]), false, vec![]),
            (usage(2, &[]), true, vec!["none of the given identities"]),
            (usage(1, &["age1a"]), true, vec!["one key only"]),
            (usage(1, &[]), true, vec!["none of the given identities", "one key only"]),
        ] {
            let found = warnings(&census(usage), tried, false);
            assert_eq!(found.len(), expected.len(), "{found:?}");
            assert!(found.iter().zip(expected).all(|(text, part)| text.contains(part)), "{found:?}");
        }
        assert_eq!(warnings(&KeyCensus::default(), true, true).len(), 1);
    }
}
