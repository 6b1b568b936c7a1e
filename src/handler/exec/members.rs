//! Who is in a process group: what the system tells of it, which is enough on Linux alone.

use std::collections::BTreeSet;

use rustix::process::{Signal, getpgrp, kill_process_group};

/// Ends what a server that was killed left behind of these items, named by their idempotency keys.
/// Answers how many process groups there were.
///
/// One look at all processes there are: whoever bears such a key in its environment is ended, with
/// its group. Nothing that the dead server had to note is needed, so there is no moment in which its
/// death leaves a program that nobody finds. A process that began a session of its own has left, as
/// at the end of any attempt. Only Linux lets us see all that; elsewhere nothing is done.
pub fn end_orphans(idempotency_keys: &BTreeSet<String>) -> usize {
    if idempotency_keys.is_empty() {
        return 0;
    }
    let mut groups = orphaned_groups(idempotency_keys);
    // This server may be a handler of another one, and in a group with what it left.
    groups.remove(&getpgrp());
    let ended = groups.into_iter();
    ended
        .filter(|&group| kill_process_group(group, Signal::KILL).is_ok())
        .count()
}

#[cfg(target_os = "linux")]
pub(super) use self::proc::has_living;
#[cfg(target_os = "linux")]
use self::proc::orphaned_groups;

/// Whether someone in the group is alive.
///
/// BSD does not count zombies here. A system that does costs a stopped attempt its whole grace.
#[cfg(not(target_os = "linux"))]
pub(super) fn has_living(group: rustix::process::Pid) -> bool {
    rustix::process::test_kill_process_group(group).is_ok()
}

#[cfg(not(target_os = "linux"))]
fn orphaned_groups(_idempotency_keys: &BTreeSet<String>) -> HashSet<Pid> {
    HashSet::new()
}

#[cfg(target_os = "linux")]
mod proc {
    use std::collections::{BTreeSet, HashSet};
    use std::fs;

    use rustix::process::Pid;

    use crate::handler::exec::environment::IDEMPOTENCY_KEY;

    /// A process, as far as it matters here.
    #[derive(Debug, PartialEq, Eq)]
    struct Process {
        is_living: bool,
        group: i32,
        session: i32,
    }

    /// Whether someone in the group is alive, a zombie not counted.
    pub(in crate::handler::exec) fn has_living(group: Pid) -> bool {
        let group = group.as_raw_pid();
        let mut processes = pids().filter_map(|pid| process(&pid));
        processes.any(|process| process.group == group && process.is_living)
    }

    /// The groups of those who compute an item with one of these keys.
    pub(super) fn orphaned_groups(idempotency_keys: &BTreeSet<String>) -> HashSet<Pid> {
        let marked =
            pids().filter(|pid| key(pid).is_some_and(|key| idempotency_keys.contains(&key)));
        let processes = marked.filter_map(|pid| process(&pid));
        let stayed = processes.filter(|process| process.group != process.session);
        // Number 1 would stand for every process there is, and 0 for this one's own group.
        let groups = stayed.filter(|process| process.group > 1);
        groups
            .filter_map(|process| Pid::from_raw(process.group))
            .collect()
    }

    /// The processes there are, by their numbers as `/proc` writes them. One that comes or goes
    /// meanwhile may be missed.
    fn pids() -> impl Iterator<Item = String> {
        let names = fs::read_dir("/proc").into_iter().flatten().flatten();
        let names = names.filter_map(|entry| entry.file_name().into_string().ok());
        names.filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
    }

    /// The idempotency key in a process's environment. Those of other users are not shown to us.
    fn key(pid: &str) -> Option<String> {
        let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
        let mut variables = environment.split(|&byte| byte == 0);
        let value = variables.find_map(|variable| {
            let rest = variable.strip_prefix(IDEMPOTENCY_KEY.as_bytes())?;
            rest.strip_prefix(b"=")
        });
        Some(str::from_utf8(value?).ok()?.to_owned())
    }

    fn process(pid: &str) -> Option<Process> {
        read_stat(&fs::read(format!("/proc/{pid}/stat")).ok()?)
    }

    /// A process from `4711 (name) state parent group session …`.
    fn read_stat(stat: &[u8]) -> Option<Process> {
        // The name may hold anything, brackets and spaces too.
        let name_end = stat.iter().rposition(|&byte| byte == b')')?;
        let fields = str::from_utf8(&stat[name_end + 1..]).ok()?;
        let mut fields = fields.split_ascii_whitespace();
        let is_living = !matches!(fields.next()?, "Z" | "X" | "x");
        Some(Process {
            is_living,
            group: fields.nth(1)?.parse().ok()?,
            session: fields.next()?.parse().ok()?,
        })
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn state_and_group_are_found_behind_any_name() {
            let process = |is_living, group, session| {
                Some(Process {
                    is_living,
                    group,
                    session,
                })
            };
            assert_eq!(read_stat(b"7 (sh) S 1 42 9 0 -1"), process(true, 42, 9));
            let stat = b"7 (a) Z (\xff)) Z 1 42 9 0 -1";
            assert_eq!(read_stat(stat), process(false, 42, 9));
            assert_eq!(read_stat(b"2 (kthreadd) S 0 0 0 0 -1"), process(true, 0, 0));
            assert_eq!(read_stat(b""), None);
        }
    }
}
