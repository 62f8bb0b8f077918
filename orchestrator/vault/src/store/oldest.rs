//! The oldest versions of one key, out of a listing of any length.

use jiff::Timestamp;

/// So many of a key are kept, the oldest: whoever puts one version over another without end takes time, but no memory.
const KEPT: usize = 1000;

/// The oldest versions of one key.
#[derive(Debug)]
pub(crate) struct Oldest<T> {
    /// The newest first, as they are listed.
    kept: Vec<(Option<Timestamp>, T)>,
    count: usize,
}

impl<T> Default for Oldest<T> {
    fn default() -> Self {
        Oldest { kept: Vec::new(), count: 0 }
    }
}

impl<T> Oldest<T> {
    /// Takes the next one of a listing, which shows the newest first. Where times are told, they decide.
    pub(crate) fn push(&mut self, made: Option<Timestamp>, version: T) {
        self.count += 1;
        self.kept.push((made, version));
        if self.kept.len() >= 2 * KEPT {
            self.sort();
            self.kept.reverse();
        }
    }

    /// How many there were.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// The oldest, at the front, and those after it.
    pub(crate) fn into_vec(mut self) -> Vec<T> {
        self.sort();
        self.kept.into_iter().map(|(_, version)| version).collect()
    }

    /// The oldest first; of the same time the one that was listed last.
    fn sort(&mut self) {
        self.kept.reverse();
        self.kept.sort_by_key(|(made, _)| *made);
        self.kept.truncate(KEPT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_stay_however_many_come() {
        let at = |second: usize| Some(Timestamp::from_second(second as i64 / 10).unwrap());
        let mut oldest = Oldest::default();
        let many = 12_345;
        for n in (0..many).rev() {
            oldest.push(at(n), n);
        }
        assert_eq!(oldest.count(), many);
        assert_eq!(oldest.into_vec(), (0..KEPT).collect::<Vec<_>>());
        // Listed in another order: the times decide.
        let mut oldest = Oldest::default();
        for n in 0..many {
            oldest.push(Some(Timestamp::from_second(n as i64).unwrap()), n);
        }
        assert_eq!(oldest.into_vec(), (0..KEPT).collect::<Vec<_>>());
    }
}
