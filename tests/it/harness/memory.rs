//! What a server holds in memory, as the kernel counts it.

use super::Server;

/// A mebibyte.
pub(crate) const MIB: usize = 1 << 20;

/// Resident bytes now.
pub(crate) fn resident(server: &Server) -> usize {
    of(server, "VmRSS:")
}

/// The most resident bytes there ever were.
pub(crate) fn peak(server: &Server) -> usize {
    of(server, "VmHWM:")
}

fn of(server: &Server, name: &str) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kibibytes = line.unwrap().trim().trim_end_matches(" kB");
    kibibytes.parse::<usize>().unwrap() * 1024
}
