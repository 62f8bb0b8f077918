//! What happens often in a world, what seldom, and what never. Where everything happens as often as everywhere else, no
//! long story is told: a taker always comes between two writers, and whoever sleeps is not missed.

use super::*;

/// What a world's story is mostly about: one after another, four seeds each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Everything happens.
    Usual,
    /// No taker disturbs the writers of one site, whose primary is copied and switched.
    Switching,
    /// Takeovers, promotions, and takeovers from who was promoted.
    TakingOver,
    /// Requests stay long under way, while indexes are written and chunks deleted.
    Sleeping,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Act {
    Deliver,
    Answer,
    Writer,
    Taker,
    Read,
    Switch,
    Crash,
    Mark,
    Archive,
}

pub(super) struct Lean {
    pub(super) kind: Kind,
    /// How often each happens, in a thousand steps or so.
    acts: [(Act, u32); 9],
    /// Of a hundred requests and of a hundred answers.
    pub(super) lost: u32,
    /// Of a hundred requests, those that arrive again later.
    pub(super) twice: u32,
    /// Of a hundred, those that overtake what was sent before.
    pub(super) overtake: u32,
    /// Of a hundred steps.
    pub(super) expire: u32,
    /// Of a hundred claims, those that take the log back from a takeover.
    pub(super) reclaim: u32,
    /// Of a hundred writers, those that are attached to the newest instance, at least.
    pub(super) newest: u32,
    /// All together.
    pub(super) takers: usize,
}

impl Kind {
    pub(super) fn of(seed: u64) -> Kind {
        match seed / 4 % 4 {
            0 => Kind::Usual,
            1 => Kind::Switching,
            2 => Kind::TakingOver,
            _ => Kind::Sleeping,
        }
    }
}

impl Lean {
    pub(super) fn new(kind: Kind) -> Lean {
        let usual = Lean {
            kind,
            acts: acts([330, 200, 220, 110, 90, 20, 20, 10, 15]),
            lost: 12,
            twice: 10,
            overtake: 0,
            expire: 6,
            reclaim: 40,
            newest: 40,
            takers: 4,
        };
        match kind {
            Kind::Usual => usual,
            Kind::Switching => {
                Lean { acts: acts([330, 240, 330, 0, 40, 30, 10, 0, 10]), lost: 3, twice: 3, overtake: 30, ..usual }
            }
            Kind::TakingOver => {
                let acts = acts([330, 240, 240, 200, 60, 5, 10, 0, 10]);
                Lean { acts, lost: 3, twice: 3, reclaim: 15, newest: 75, takers: 8, ..usual }
            }
            Kind::Sleeping => {
                let acts = acts([330, 220, 220, 150, 60, 5, 10, 0, 10]);
                Lean { acts, overtake: 80, expire: 4, ..usual }
            }
        }
    }

    pub(super) fn act(&self, rng: &mut Xoshiro256PlusPlus) -> Act {
        let mut left = rng.random_range(0..self.acts.iter().map(|(_, often)| often).sum());
        for (act, often) in self.acts {
            if left < often {
                return act;
            }
            left -= often;
        }
        Act::Deliver
    }
}

fn acts([deliver, answer, writer, taker, read, switch, crash, mark, archive]: [u32; 9]) -> [(Act, u32); 9] {
    [
        (Act::Deliver, deliver),
        (Act::Answer, answer),
        (Act::Writer, writer),
        (Act::Taker, taker),
        (Act::Read, read),
        (Act::Switch, switch),
        (Act::Crash, crash),
        (Act::Mark, mark),
        (Act::Archive, archive),
    ]
}
