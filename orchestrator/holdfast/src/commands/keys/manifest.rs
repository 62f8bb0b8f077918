//! A Vault manifest in a file: what its lists say, and a change to one of them that leaves the rest of the file as a person
//! wrote it.

use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use crate::commands::vault::{Failed, read_file};

/// The Vault in a file of YAML (or JSON).
pub(super) struct Manifest {
    path: PathBuf,
    text: String,
    /// The Vault's document among those of the file.
    index: usize,
    object: Value,
}

impl Manifest {
    /// Reads a file; `-` is standard input.
    ///
    /// # Errors
    /// It cannot be read, or holds no Vault or several.
    pub(super) fn read(path: &Path) -> anyhow::Result<Manifest> {
        let mut text = String::new();
        if path == Path::new("-") {
            std::io::stdin().read_to_string(&mut text).map_err(|error| {
                Failed::new(format!("cannot read it: {error}"), "standard input", "give the manifest as text")
            })?;
        } else {
            text = read_file(path, "--file")?;
        }
        Manifest::parse(path, text)
    }

    fn parse(path: &Path, text: String) -> anyhow::Result<Manifest> {
        let place = path.display().to_string();
        let documents = documents(&text).map_err(|error| {
            let at = error.location().map(|at| format!(" (line {})", at.line())).unwrap_or_default();
            Failed::new(format!("this is no YAML{at}"), &place, "give the file with the Vault's manifest")
        })?;
        let is_vault = |(_, object): &(usize, Value)| object["kind"] == "Vault" && object["spec"].is_object();
        let mut vaults: Vec<(usize, Value)> = documents.into_iter().enumerate().filter(is_vault).collect();
        match (vaults.pop(), vaults.is_empty()) {
            (Some((index, object)), true) => Ok(Manifest { path: path.to_owned(), text, index, object }),
            (None, _) => {
                Err(Failed::new("there is no Vault in it", place, "give the file with the Vault's manifest").into())
            }
            (Some(_), false) => {
                Err(Failed::new("there are several Vaults in it", place, "give a file with one Vault").into())
            }
        }
    }

    /// What stands at a path below `spec`; null when nothing does.
    pub(super) fn spec(&self, path: &[&str]) -> &Value {
        path.iter().fold(&self.object["spec"], |value, key| &value[*key])
    }

    /// The Vault's name.
    pub(super) fn name(&self) -> &str {
        self.object["metadata"]["name"].as_str().unwrap_or("vault")
    }

    /// `-n NAMESPACE`, if the manifest names one.
    pub(super) fn namespace_flag(&self) -> String {
        self.object["metadata"]["namespace"].as_str().map_or(String::new(), |namespace| format!(" -n {namespace}"))
    }

    /// Writes the file back with another list at a path below `spec`.
    ///
    /// # Errors
    /// The file is written in a way that cannot be edited safely; nothing is changed then.
    pub(super) fn write(&self, path: &[&str], list: &Value) -> anyhow::Result<()> {
        let place = self.path.display().to_string();
        let unsafe_edit = || {
            Failed::new(
                "this file cannot be edited without changing more",
                &place,
                "run the printed command, or edit it by hand",
            )
        };
        let text = self.edited(path, list).ok_or_else(unsafe_edit)?;
        Ok(std::fs::write(&self.path, text).map_err(|error| {
            Failed::new(format!("cannot write the file: {error}"), &place, "run the printed command instead of --write")
        })?)
    }

    /// The text with the other list; none unless it then says exactly that, and all else as before.
    fn edited(&self, path: &[&str], list: &Value) -> Option<String> {
        let mut lines: Vec<String> = self.text.lines().map(ToOwned::to_owned).collect();
        let (from, to) = document_range(&lines, self.index);
        replace(&mut lines, (from, to), &[&["spec"], path].concat(), list)?;
        let text = lines.join("\n") + "\n";
        let mut expected = documents(&self.text).ok()?;
        let spec = expected.get_mut(self.index)?.get_mut("spec")?;
        let (last, parents) = path.split_last()?;
        let parent = parents.iter().try_fold(spec, |value, key| value.get_mut(*key))?;
        parent.as_object_mut()?.insert((*last).to_owned(), list.clone());
        (documents(&text).ok()? == expected).then_some(text)
    }
}

fn documents(text: &str) -> Result<Vec<Value>, serde_norway::Error> {
    serde_norway::Deserializer::from_str(text)
        .map(Value::deserialize)
        .filter(|value| !matches!(value, Ok(Value::Null)))
        .collect()
}

/// The lines of a document: between `---` lines, documents without content not counted.
fn document_range(lines: &[String], index: usize) -> (usize, usize) {
    let (mut ranges, mut from) = (Vec::new(), 0);
    for (n, line) in lines.iter().enumerate() {
        if line.trim_end() == "---" {
            ranges.push((from, n));
            from = n + 1;
        }
    }
    ranges.push((from, lines.len()));
    let has_content = |(from, to): &(usize, usize)| lines[*from..*to].iter().any(|line| is_content(line));
    ranges.into_iter().filter(has_content).nth(index).unwrap_or((0, lines.len()))
}

fn is_content(line: &str) -> bool {
    let line = line.trim_start();
    !line.is_empty() && !line.starts_with('#')
}

fn indent(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

/// Replaces (or adds) the list at a path of keys, in block style.
fn replace(lines: &mut Vec<String>, (mut from, mut to): (usize, usize), path: &[&str], list: &Value) -> Option<()> {
    let (last, parents) = path.split_last()?;
    for key in parents {
        (from, to) = block(lines, (from, to), key).map(|(at, end)| (at + 1, end))?;
    }
    let depth = lines[from..to].iter().find(|line| is_content(line)).map(|line| indent(line))?;
    let rendered = render(last, list, depth)?;
    match block(lines, (from, to), last) {
        Some((at, end)) => lines.splice(at..end, rendered),
        None => {
            let end = (from..to).rev().find(|n| is_content(&lines[*n]))? + 1;
            lines.splice(end..end, rendered)
        }
    };
    Some(())
}

/// Where a key stands among its siblings, and where what belongs to it ends.
fn block(lines: &[String], (from, to): (usize, usize), key: &str) -> Option<(usize, usize)> {
    let depth = lines[from..to].iter().find(|line| is_content(line)).map(|line| indent(line))?;
    let is_key = |line: &String| indent(line) == depth && line[depth..].starts_with(&format!("{key}:"));
    let at = from + lines[from..to].iter().position(is_key)?;
    let inside = |line: &String| indent(line) > depth || (indent(line) == depth && line[depth..].starts_with("- "));
    let mut end = at + 1;
    for (n, line) in lines.iter().enumerate().take(to).skip(at + 1) {
        match is_content(line) {
            true if inside(line) => end = n + 1,
            true => break,
            false => {}
        }
    }
    Some((at, end))
}

fn render(key: &str, list: &Value, depth: usize) -> Option<Vec<String>> {
    let (yaml, pad) = (serde_norway::to_string(list).ok()?, " ".repeat(depth));
    if list.as_array()?.is_empty() {
        return Some(vec![format!("{pad}{key}: []")]);
    }
    let items = yaml.lines().map(|line| format!("{pad}{line}"));
    Some(std::iter::once(format!("{pad}{key}:")).chain(items).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const FILE: &str = "# settings of the hospital\napiVersion: v1\nkind: Secret\nmetadata:\n  name: s\n---\n\
        apiVersion: holdfast.dev/v1alpha1\nkind: Vault\nmetadata:\n  name: main # the one\n  namespace: hospital\nspec:\n  \
        bucket: b00\n  # who decrypts\n  encryption:\n    recipients:\n    - age1a # standby\n    - age1b\n\n    identity:\n      \
        secretName: i\n  retentionDays: 90\n# the end\n";

    fn manifest(text: &str) -> Manifest {
        Manifest::parse(Path::new("vault.yaml"), text.to_owned()).unwrap()
    }

    #[test]
    fn a_list_is_changed_and_the_rest_stays_as_it_was_written() {
        let vault = manifest(FILE);
        assert_eq!((vault.name(), vault.namespace_flag().as_str()), ("main", " -n hospital"));
        assert_eq!(vault.spec(&["encryption", "recipients"]), &json!(["age1a", "age1b"]));
        let edited = vault.edited(&["encryption", "recipients"], &json!(["age1b", "age1c"])).unwrap();
        assert_eq!(edited, FILE.replace("    - age1a # standby\n    - age1b\n", "    - age1b\n    - age1c\n"));
        let added = vault.edited(&["writers"], &json!([{"name": "a", "publicKey": "k"}])).unwrap();
        let block = "  retentionDays: 90\n  writers:\n  - name: a\n    publicKey: k\n# the end\n";
        assert_eq!(added, FILE.replace("  retentionDays: 90\n# the end\n", block));
        let again = manifest(&added).edited(&["writers"], &json!([])).unwrap();
        assert_eq!(manifest(&again).spec(&["writers"]), &json!([]));
    }

    #[test]
    fn other_styles_are_edited_or_refused_but_never_spoilt() {
        let flow = "kind: Vault\nmetadata: {name: v}\nspec:\n  encryption:\n    recipients: [age1a, age1b]\n";
        let edited = manifest(flow).edited(&["encryption", "recipients"], &json!(["age1c"])).unwrap();
        assert_eq!(manifest(&edited).spec(&["encryption", "recipients"]), &json!(["age1c"]));
        for text in [
            "kind: Vault\nspec: {encryption: {recipients: [age1a]}}\n",
            "{\"kind\": \"Vault\", \"spec\": {\"encryption\": {\"recipients\": [\"age1a\"]}}}\n",
            "kind: Vault\nspec:\n  encryption: {recipients: [age1a,\n    age1b]}\n",
        ] {
            assert!(manifest(text).edited(&["encryption", "recipients"], &json!(["age1c"])).is_none(), "{text}");
        }
    }

    #[test]
    fn a_file_without_a_vault_or_with_two_is_refused() {
        let two = "kind: Vault\nspec: {a: 1}\n---\nkind: Vault\nspec: {a: 2}\n";
        for (text, part) in [("kind: Secret\n", "no Vault"), (two, "several")] {
            let error = Manifest::parse(Path::new("f"), text.into()).err().unwrap().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
