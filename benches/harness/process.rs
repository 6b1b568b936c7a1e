//! What a process has used, as Linux tells it.

use std::collections::BTreeMap;
use std::time::Duration;

/// Ticks per second in `/proc`: 100 on every architecture, whatever the kernel's own clock does.
const TICK: Duration = Duration::from_millis(10);

/// What a process has used so far. Elsewhere than on Linux it is all zero.
#[derive(Clone, Debug, Default)]
pub(crate) struct Usage {
    /// Processor time by the names of its threads.
    threads: BTreeMap<String, Duration>,
    /// Processor time, threads that have ended included.
    pub(crate) cpu: Duration,
    /// Resident memory now, in bytes.
    pub(crate) resident: usize,
    /// The most it has been.
    pub(crate) peak: usize,
}

impl Usage {
    /// Of the process `pid`.
    pub(crate) fn of(pid: u32) -> Self {
        let read = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}"));
        let status = read("status").unwrap_or_default();
        let kibibytes = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let number = line.and_then(|line| line.split_whitespace().nth(1));
            number.and_then(|it| it.parse().ok()).unwrap_or(0) * 1024
        };
        let mut threads = BTreeMap::new();
        for entry in std::fs::read_dir(format!("/proc/{pid}/task"))
            .into_iter()
            .flatten()
            .flatten()
        {
            // A thread may end meanwhile.
            if let Some((name, cpu)) = std::fs::read_to_string(entry.path().join("stat"))
                .ok()
                .and_then(|stat| name_and_cpu(&stat))
            {
                *threads.entry(name).or_default() += cpu;
            }
        }
        Self {
            threads,
            cpu: read("stat")
                .ok()
                .and_then(|stat| name_and_cpu(&stat))
                .unwrap_or_default()
                .1,
            resident: kibibytes("VmRSS"),
            peak: kibibytes("VmHWM"),
        }
    }

    /// Processor time since `earlier`.
    pub(crate) fn cpu_since(&self, earlier: &Self) -> Duration {
        self.cpu.saturating_sub(earlier.cpu)
    }

    /// Processor time since `earlier` by thread name, the most first.
    pub(crate) fn threads_since(&self, earlier: &Self) -> Vec<(String, Duration)> {
        let spent = self.threads.iter().map(|(name, cpu)| {
            let before = earlier.threads.get(name).copied().unwrap_or_default();
            (name.clone(), cpu.saturating_sub(before))
        });
        let mut spent: Vec<_> = spent.filter(|(_, cpu)| !cpu.is_zero()).collect();
        spent.sort_unstable_by_key(|(_, cpu)| std::cmp::Reverse(*cpu));
        spent
    }
}

/// From a line such as `1 (the name) S 0 …`: the 14th and 15th fields are ticks in user and kernel.
fn name_and_cpu(stat: &str) -> Option<(String, Duration)> {
    let (head, rest) = stat.rsplit_once(')')?;
    let (_, name) = head.split_once('(')?;
    let mut fields = rest.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u32>().ok();
    Some((name.to_owned(), TICK * (ticks()? + ticks()?)))
}
