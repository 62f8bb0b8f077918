//! QR codes: for a terminal, and as SVG to print.

use std::fmt::Write;

use qrcodegen::{QrCode, QrCodeEcc};

use crate::commands::vault::Failed;

/// The white border that scanners need, in modules.
const QUIET: i32 = 4;

/// A QR code that survives a fold and a coffee stain (a quarter of it may be unreadable).
///
/// # Errors
/// The text is too long: about 1,600 characters.
pub(super) fn encode(text: &str) -> anyhow::Result<QrCode> {
    QrCode::encode_text(text, QrCodeEcc::Quartile)
        .map_err(|error| Failed::new(format!("no QR code holds this: {error}"), "", "give one key at a time").into())
}

/// For a terminal with a dark or a light background: two rows of modules a line, colours said outright.
pub(super) fn terminal(code: &QrCode) -> String {
    let mut text = String::new();
    let (from, to) = (-QUIET, code.size() + QUIET);
    for y in (from..to).step_by(2) {
        text.push_str("\x1b[30;107m");
        for x in from..to {
            text.push(match (code.get_module(x, y), code.get_module(x, y + 1)) {
                (true, true) => '█',
                (true, false) => '▀',
                (false, true) => '▄',
                (false, false) => ' ',
            });
        }
        text.push_str("\x1b[0m\n");
    }
    text
}

/// As SVG, `millimetres` wide; black on white.
pub(super) fn svg(code: &QrCode, millimetres: u32) -> String {
    let side = code.size() + 2 * QUIET;
    let mut path = String::new();
    for y in 0..code.size() {
        for x in (0..code.size()).filter(|x| code.get_module(*x, y)) {
            // Writing to a String cannot fail.
            let _ = write!(path, "M{},{}h1v1h-1z", x + QUIET, y + QUIET);
        }
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{millimetres}mm\" height=\"{millimetres}mm\" \
         viewBox=\"0 0 {side} {side}\" shape-rendering=\"crispEdges\"><rect width=\"{side}\" height=\"{side}\" \
         fill=\"#fff\"/><path d=\"{path}\" fill=\"#000\"/></svg>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_vault::{WriterKey, generate_identity};

    /// Reads a code with a scanner that is not ours, from pixels.
    fn scan(side: usize, dark: impl Fn(usize, usize) -> bool) -> String {
        let scale = 4;
        let pixel = |x: usize, y: usize| if dark(x / scale, y / scale) { 0 } else { 255 };
        let mut image = rqrr::PreparedImage::prepare_from_greyscale(side * scale, side * scale, pixel);
        let grids = image.detect_grids();
        assert_eq!(grids.len(), 1, "one code is seen");
        grids[0].decode().unwrap().1
    }

    #[test]
    fn a_scanner_reads_what_is_printed() {
        for text in [generate_identity().0, generate_identity().1, WriterKey::generate().secret()] {
            let code = encode(&text).unwrap();
            let lines: Vec<Vec<char>> = terminal(&code)
                .lines()
                .map(|line| line.replace("\x1b[30;107m", "").replace("\x1b[0m", "").chars().collect())
                .collect();
            let dark = |x: usize, y: usize| match lines[y / 2][x] {
                '█' => true,
                '▀' => y.is_multiple_of(2),
                '▄' => y % 2 == 1,
                _ => false,
            };
            // An odd number of rows leaves the last line half empty.
            assert_eq!(scan(lines[0].len(), dark), text);
            let drawn = svg(&code, 60);
            let at = |x: usize, y: usize| drawn.contains(&format!("M{x},{y}h1v1h-1z"));
            assert_eq!(scan(lines[0].len(), at), text);
        }
    }
}
