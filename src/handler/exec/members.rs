//! Who is in a process group: what the system tells of it, which is enough on Linux alone.

use rustix::process::{Pid, Signal, getpgrp, kill_process_group};

/// Ends a process group that a server left behind when it was killed. True if there was one.
///
/// The group's number may have gone to somebody else since, so it is ended only if one of its
/// processes bears the item's idempotency key in its environment. Only Linux lets us see that;
/// elsewhere nothing is done.
pub fn end_orphan(process_group: u32, idempotency_key: &str) -> bool {
    // Number 1 would stand for every process there is, and 0 for this one's own group.
    let number = i32::try_from(process_group)
        .ok()
        .filter(|&number| number > 1);
    let Some(group) = number.and_then(Pid::from_raw) else {
        return false;
    };
    let is_own = group == getpgrp();
    !is_own && has_marked(group, idempotency_key) && kill_process_group(group, Signal::KILL).is_ok()
}

#[cfg(target_os = "linux")]
pub(super) use self::proc::has_living;
#[cfg(target_os = "linux")]
use self::proc::has_marked;

/// Whether someone in the group is alive.
///
/// BSD does not count zombies here. A system that does costs a stopped attempt its whole grace.
#[cfg(not(target_os = "linux"))]
pub(super) fn has_living(group: Pid) -> bool {
    rustix::process::test_kill_process_group(group).is_ok()
}

#[cfg(not(target_os = "linux"))]
fn has_marked(_group: Pid, _idempotency_key: &str) -> bool {
    false
}

#[cfg(target_os = "linux")]
mod proc {
    use std::fs;

    use rustix::process::{Pid, getpgid};

    use crate::handler::exec::environment::IDEMPOTENCY_KEY;

    /// Whether someone in the group is alive, a zombie not counted.
    pub(in crate::handler::exec) fn has_living(group: Pid) -> bool {
        members(group).any(|pid| {
            let Ok(stat) = fs::read(format!("/proc/{pid}/stat")) else {
                return false;
            };
            // `4711 (name) S …`, and the name may hold anything.
            let name_end = stat.iter().rposition(|&byte| byte == b')');
            let state = name_end.and_then(|at| stat.get(at + 2));
            state.is_some_and(|state| !b"ZXx".contains(state))
        })
    }

    /// Whether someone in the group computes the item with this idempotency key.
    pub(super) fn has_marked(group: Pid, idempotency_key: &str) -> bool {
        let mark = format!("{IDEMPOTENCY_KEY}={idempotency_key}");
        members(group).any(|pid| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment
                .split(|&byte| byte == 0)
                .any(|variable| variable == mark.as_bytes())
        })
    }

    /// The processes of a group, zombies included. One that comes or goes meanwhile may be missed.
    fn members(group: Pid) -> impl Iterator<Item = Pid> {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let pids = numbers.filter_map(Pid::from_raw);
        pids.filter(move |&pid| getpgid(Some(pid)) == Ok(group))
    }
}
