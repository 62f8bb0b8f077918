//! The picture of a failover: what each service acknowledged, moment by moment, and what was done.

use std::fmt::Write as _;

use holdfast_hospital::Service;
use holdfast_hospital::ledger::Entry;

const WIDTH: f64 = 1100.0;
const LEFT: f64 = 150.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 64.0;
const LANE: f64 = 64.0;
const STEP: f64 = 20.0;
/// Room for the name of a step.
const LABEL: f64 = 220.0;
/// Width of one bar of acknowledged writes, in microseconds.
const BIN_US: u64 = 250_000;

/// Something that took time; microseconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    pub name: String,
    pub from_us: u64,
    pub to_us: u64,
}

impl Span {
    /// How long it took, in seconds.
    pub fn seconds(&self) -> f64 {
        self.to_us.saturating_sub(self.from_us) as f64 / 1e6
    }
}

/// A moment with a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    pub name: String,
    pub at_us: u64,
}

/// What the picture shows, from `from_us` to `to_us`.
#[derive(Clone, Debug, Default)]
pub struct Timeline {
    pub from_us: u64,
    pub to_us: u64,
    pub marks: Vec<Mark>,
    pub steps: Vec<Span>,
    /// Moments of acknowledged writes, by [`Service::index`].
    pub acked_us: [Vec<u64>; 3],
}

impl Timeline {
    /// Takes the acknowledged writes of the time shown from a ledger.
    pub fn acked_from(&mut self, entries: &[Entry]) {
        for entry in entries {
            if let Entry::Acked { at_us, service, .. } = entry
                && (self.from_us..self.to_us).contains(at_us)
            {
                self.acked_us[service.index()].push(*at_us);
            }
        }
    }

    /// The picture, a complete SVG document.
    pub fn svg(&self) -> String {
        let steps_top = TOP + LANE * 3.0 + 24.0;
        let height = steps_top + STEP * self.steps.len() as f64 + 48.0;
        let mut svg = format!(
            r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="system-ui, sans-serif" font-size="12" role="img" aria-label="Timeline of the failover">
<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>
"##
        );
        self.draw_axis(&mut svg, height - 36.0);
        for service in Service::ALL {
            self.draw_service(&mut svg, service);
        }
        self.draw_steps(&mut svg, steps_top);
        self.draw_marks(&mut svg, height - 36.0);
        svg.push_str("</svg>\n");
        svg
    }

    fn x(&self, at_us: u64) -> f64 {
        let span = self.to_us.saturating_sub(self.from_us).max(1) as f64;
        let offset = at_us.clamp(self.from_us, self.to_us.max(self.from_us)) - self.from_us;
        LEFT + (WIDTH - LEFT - RIGHT) * offset as f64 / span
    }

    /// Seconds are counted from the first mark: the failure.
    fn origin_us(&self) -> u64 {
        self.marks.first().map_or(self.from_us, |mark| mark.at_us)
    }

    fn draw_axis(&self, svg: &mut String, y: f64) {
        let origin = self.origin_us() as i64;
        let seconds = (self.to_us.saturating_sub(self.from_us) / 1_000_000) as i64;
        let every = [1, 2, 5, 10, 20, 30, 60, 120].into_iter().find(|every| seconds / every <= 14).unwrap_or(300);
        let first = (self.from_us as i64 - origin).div_euclid(1_000_000 * every) + 1;
        let mut tick = first * every;
        while let Ok(at) = u64::try_from(origin + tick * 1_000_000) {
            if at > self.to_us {
                break;
            }
            let x = self.x(at);
            push(svg, format_args!(r##"<line x1="{x:.1}" y1="{TOP}" x2="{x:.1}" y2="{y}" stroke="#e8e8e8"/>"##));
            push(
                svg,
                format_args!(r##"<text x="{x:.1}" y="{}" text-anchor="middle" fill="#666">{tick} s</text>"##, y + 18.0),
            );
            tick += every;
        }
    }

    fn draw_service(&self, svg: &mut String, service: Service) {
        let base = TOP + LANE * (service.index() as f64 + 1.0);
        let bins = self.bins(service);
        let most = bins.iter().copied().max().unwrap_or(0).max(1) as f64;
        let width = self.x(self.from_us + BIN_US) - LEFT;
        push(svg, format_args!(r##"<text x="12" y="{}" font-weight="600">{service}</text>"##, base - 26.0));
        let total = self.acked_us[service.index()].len();
        push(svg, format_args!(r##"<text x="12" y="{}" fill="#666">{total} acknowledged</text>"##, base - 10.0));
        push(
            svg,
            format_args!(r##"<line x1="{LEFT}" y1="{base}" x2="{}" y2="{base}" stroke="#bbb"/>"##, WIDTH - RIGHT),
        );
        for (number, count) in bins.iter().enumerate().filter(|(_, count)| **count > 0) {
            let x = self.x(self.from_us + number as u64 * BIN_US);
            let height = (LANE - 14.0) * *count as f64 / most;
            let y = base - height;
            push(
                svg,
                format_args!(
                    r##"<rect x="{x:.1}" y="{y:.1}" width="{:.2}" height="{height:.1}" fill="#2b7a78"/>"##,
                    (width - 0.5).max(0.5)
                ),
            );
        }
    }

    fn bins(&self, service: Service) -> Vec<u64> {
        let count = self.to_us.saturating_sub(self.from_us).div_ceil(BIN_US);
        let mut bins = vec![0; usize::try_from(count).unwrap_or(0)];
        for at in &self.acked_us[service.index()] {
            let number = at.saturating_sub(self.from_us) / BIN_US;
            if let Some(bin) = usize::try_from(number).ok().and_then(|number| bins.get_mut(number)) {
                *bin += 1;
            }
        }
        bins
    }

    fn draw_steps(&self, svg: &mut String, top: f64) {
        for (number, step) in self.steps.iter().enumerate() {
            let y = top + STEP * number as f64;
            let (from, to) = (self.x(step.from_us), self.x(step.to_us));
            let width = (to - from).max(2.0);
            push(
                svg,
                format_args!(
                    r##"<rect x="{from:.1}" y="{y:.1}" width="{width:.1}" height="{}" rx="2" fill="#d98324"/>"##,
                    STEP - 7.0
                ),
            );
            // Beside the bar, on the side that has room.
            let (x, anchor) =
                if to < WIDTH - RIGHT - LABEL { (from + width + 6.0, "start") } else { (from - 6.0, "end") };
            let text = escape(&format!("{} {:.2} s", step.name, step.seconds()));
            let middle = y + STEP - 10.0;
            push(svg, format_args!(r##"<text x="{x:.1}" y="{middle:.1}" text-anchor="{anchor}">{text}</text>"##));
        }
    }

    fn draw_marks(&self, svg: &mut String, bottom: f64) {
        for (number, mark) in self.marks.iter().enumerate() {
            let x = self.x(mark.at_us);
            // Three heights in turn, so that marks close together can be read.
            let y = 16.0 + 16.0 * (number % 3) as f64;
            let name = escape(&mark.name);
            push(
                svg,
                format_args!(
                    r##"<line x1="{x:.1}" y1="{}" x2="{x:.1}" y2="{bottom}" stroke="#b3261e" stroke-dasharray="4 3"/>"##,
                    y + 4.0
                ),
            );
            push(svg, format_args!(r##"<text x="{x:.1}" y="{y}" text-anchor="middle" fill="#b3261e">{name}</text>"##));
        }
    }
}

fn push(svg: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = writeln!(svg, "{line}");
}

/// Text for XML and HTML.
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timeline() -> Timeline {
        Timeline {
            from_us: 10_000_000,
            to_us: 40_000_000,
            marks: vec![Mark { name: "power <cut>".into(), at_us: 20_000_000 }],
            steps: vec![Span { name: "takeover".into(), from_us: 22_000_000, to_us: 23_500_000 }],
            acked_us: [vec![10_100_000, 10_200_000, 30_000_000], vec![], vec![]],
        }
    }

    #[test]
    fn writes_are_counted_in_the_bin_of_their_moment() {
        let bins = timeline().bins(Service::Registration);
        assert_eq!(bins.len(), 120);
        assert_eq!((bins[0], bins[80], bins.iter().sum::<u64>()), (2, 1, 3));
    }

    #[test]
    fn the_picture_names_marks_and_steps_and_counts_seconds_from_the_failure() {
        let svg = timeline().svg();
        assert!(svg.contains("power &lt;cut&gt;"));
        assert!(svg.contains("takeover 1.50 s"));
        assert!(svg.contains(">-5 s<") && svg.contains(">20 s<"), "{svg}");
        assert_eq!(svg.matches("fill=\"#2b7a78\"").count(), 2);
    }
}
