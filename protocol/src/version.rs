//! Which versions of the tunnel protocol this build speaks.
//!
//! Invariant: a version number stands for one wire format for ever.

/// Every version this build speaks, newest first.
pub const SUPPORTED: &[u16] = &[1];

/// The newest version that both sides speak.
pub fn negotiate(theirs: &[u16]) -> Option<u16> {
    SUPPORTED.iter().copied().find(|version| theirs.contains(version))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_common_version_is_chosen_and_none_means_none() {
        assert_eq!(negotiate(&[7, 1]), Some(1));
        assert_eq!(negotiate(&[0, 9]), None);
        assert_eq!(negotiate(&[]), None);
    }
}
