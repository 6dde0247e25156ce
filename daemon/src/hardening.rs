//! Keeps secrets that are in memory out of core dumps.
//!
//! Invariant: after `forbid_core_dumps` returned `Ok`, no dump of this process
//! holds its memory, whoever collects dumps on the machine.

use std::io;

/// Forbids core dumps for the rest of the process's life.
///
/// One lock is not enough: a dump that the kernel pipes to a collector ignores
/// a limit of 0, the filter bounds what such a dump would hold, and a process
/// that is not dumpable cannot be attached to by others of the same user. The
/// filter comes first, since its file belongs to root once the process is not
/// dumpable.
///
/// # Errors
/// The first of the three that failed; the others were tried all the same.
pub fn forbid_core_dumps() -> io::Result<()> {
    let filter = empty_dump_filter();
    let limit = limit_dump_size();
    let attribute = deny_dumps();

    filter.and(limit).and(attribute)
}

#[cfg(target_os = "linux")]
fn empty_dump_filter() -> io::Result<()> {
    const FILTER: &str = "/proc/self/coredump_filter";

    // Only root may write it a second time, and then there is no need to.
    match std::fs::read_to_string(FILTER) {
        Ok(filter) if u32::from_str_radix(filter.trim(), 16) == Ok(0) => Ok(()),
        // A kernel that cannot dump has no such file, nor has a jail without /proc.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Ok(_) | Err(_) => std::fs::write(FILTER, "0"),
    }
}

#[cfg(target_os = "linux")]
fn deny_dumps() -> io::Result<()> {
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn empty_dump_filter() -> io::Result<()> {
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn deny_dumps() -> io::Result<()> {
    Ok(())
}

#[cfg(unix)]
fn limit_dump_size() -> io::Result<()> {
    let none = rustix::process::Rlimit { current: Some(0), maximum: Some(0) };
    rustix::process::setrlimit(rustix::process::Resource::Core, none)?;
    Ok(())
}

#[cfg(not(unix))]
fn limit_dump_size() -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;

    #[test]
    fn no_way_to_a_core_dump_is_left_open() {
        forbid_core_dumps().unwrap();

        let filter = std::fs::read_to_string("/proc/self/coredump_filter").unwrap();
        let limit = rustix::process::getrlimit(rustix::process::Resource::Core);
        let dumpable = rustix::process::dumpable_behavior().unwrap();
        assert_eq!(u32::from_str_radix(filter.trim(), 16), Ok(0));
        assert_eq!((limit.current, limit.maximum), (Some(0), Some(0)));
        assert_eq!(dumpable, rustix::process::DumpableBehavior::NotDumpable);
    }

    #[test]
    fn forbidding_twice_is_harmless() {
        forbid_core_dumps().unwrap();

        forbid_core_dumps().unwrap();
    }
}
