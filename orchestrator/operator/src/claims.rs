//! Two objects that want the same thing: the older one gets it. Pure.

use kube::Resource;
use kube::ResourceExt;

/// An object that wants something. Ordered by age, so that the least one wins.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Claimant {
    /// Creation time, in seconds since 1970.
    pub created: i64,
    /// Decides between objects of the same second.
    pub uid: String,
    /// Kind, namespace and name, for messages.
    pub object: String,
}

impl Claimant {
    /// An object as a claimant.
    pub fn of<K: Resource<DynamicType = ()>>(object: &K) -> Self {
        let created = object.meta().creation_timestamp.as_ref();
        Self {
            created: created.map_or(i64::MAX, |t| t.0.as_second()),
            uid: object.uid().unwrap_or_default(),
            object: crate::apply::describe(object),
        }
    }

    /// The rival that this claimant loses to, if there is one.
    pub fn loses_to<'a>(&self, rivals: &'a [Claimant]) -> Option<&'a Claimant> {
        rivals.iter().filter(|r| r.uid != self.uid).min().filter(|winner| *winner < self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claimant(created: i64, uid: &str) -> Claimant {
        Claimant { created, uid: uid.into(), object: "x".into() }
    }

    #[test]
    fn the_older_one_wins_and_the_uid_decides_a_tie() {
        let me = claimant(10, "u2");
        let cases = [
            (vec![], false),
            (vec![me.clone()], false),
            (vec![claimant(9, "u9")], true),
            (vec![claimant(11, "u1")], false),
            (vec![claimant(10, "u1")], true),
            (vec![claimant(10, "u3"), claimant(12, "u0")], false),
        ];
        for (rivals, loses) in cases {
            assert_eq!(me.loses_to(&rivals).is_some(), loses, "{rivals:?}");
        }
    }
}
