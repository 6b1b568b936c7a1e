//! Who is in a process group: what the system tells of it, which is enough on Linux alone.

use rustix::process::{Pid, Signal, kill_process_group};

/// Ends a process group that a server left behind when it was killed. True if there was one.
///
/// The group's number may have gone to somebody else since, so it is ended only if one of its
/// processes bears the item's idempotency key in its environment. Only Linux lets us see that;
/// elsewhere nothing is done.
pub fn end_orphan(process_group: u32, idempotency_key: &str) -> bool {
    // Number 1 would stand for every process there is, and 0 for this one's own group.
    let number = i32::try_from(process_group).unwrap_or(0);
    let Some(group) = Pid::from_raw(number).filter(|_| number > 1) else {
        return false;
    };
    has_orphan(group, idempotency_key) && kill_process_group(group, Signal::KILL).is_ok()
}

#[cfg(target_os = "linux")]
pub(super) use self::proc::has_living;
#[cfg(target_os = "linux")]
use self::proc::has_orphan;

/// Whether someone in the group is alive.
///
/// BSD does not count zombies here. A system that does costs a stopped attempt its whole grace.
#[cfg(not(target_os = "linux"))]
pub(super) fn has_living(group: Pid) -> bool {
    rustix::process::test_kill_process_group(group).is_ok()
}

#[cfg(not(target_os = "linux"))]
fn has_orphan(_group: Pid, _idempotency_key: &str) -> bool {
    false
}

#[cfg(target_os = "linux")]
mod proc {
    use std::fs;

    use rustix::process::Pid;

    use crate::handler::exec::environment::IDEMPOTENCY_KEY;

    /// A process of a group.
    struct Member {
        /// Its number, as `/proc` writes it.
        pid: String,
        is_living: bool,
    }

    /// Whether someone in the group is alive, a zombie not counted.
    pub(in crate::handler::exec) fn has_living(group: Pid) -> bool {
        members(group).any(|member| member.is_living)
    }

    /// Whether someone in the group computes the item with this idempotency key, and this process is
    /// not in the group itself, as it may be if another server runs it as a handler.
    pub(super) fn has_orphan(group: Pid, idempotency_key: &str) -> bool {
        let mark = format!("{IDEMPOTENCY_KEY}={idempotency_key}");
        let is_marked = |member: &Member| {
            let environment = fs::read(format!("/proc/{}/environ", member.pid)).unwrap_or_default();
            let mut variables = environment.split(|&byte| byte == 0);
            variables.any(|variable| variable == mark.as_bytes())
        };
        let own = std::process::id().to_string();
        let members: Vec<Member> = members(group).collect();
        members.iter().all(|member| member.pid != own) && members.iter().any(is_marked)
    }

    /// The processes of a group. One that comes or goes meanwhile may be missed.
    fn members(group: Pid) -> impl Iterator<Item = Member> {
        let names = fs::read_dir("/proc").into_iter().flatten().flatten();
        let names = names.filter_map(|entry| entry.file_name().into_string().ok());
        let pids = names.filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()));
        pids.filter_map(move |pid| {
            let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
            let (is_living, its_group) = read_stat(&stat)?;
            (its_group == group.as_raw_pid()).then_some(Member { pid, is_living })
        })
    }

    /// Whether a process is alive, and its group, from `4711 (name) state parent group …`.
    fn read_stat(stat: &[u8]) -> Option<(bool, i32)> {
        // The name may hold anything, brackets and spaces too.
        let name_end = stat.iter().rposition(|&byte| byte == b')')?;
        let fields = str::from_utf8(&stat[name_end + 1..]).ok()?;
        let mut fields = fields.split_ascii_whitespace();
        let is_living = !matches!(fields.next()?, "Z" | "X" | "x");
        Some((is_living, fields.nth(1)?.parse().ok()?))
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn state_and_group_are_found_behind_any_name() {
            assert_eq!(read_stat(b"7 (sh) S 1 42 9 0 -1"), Some((true, 42)));
            assert_eq!(
                read_stat(b"7 (a) Z (\xff)) Z 1 42 9 0 -1"),
                Some((false, 42))
            );
            assert_eq!(read_stat(b"2 (kthreadd) S 0 0 0 0 -1"), Some((true, 0)));
            assert_eq!(read_stat(b""), None);
        }
    }
}
