//! Stories about the real binary, told by real clients.
//!
//! One test binary, so that it links once. Each file is one story; the nouns are in [`harness`].

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test may panic, wait for a process and measure"
)]

mod admission;
mod at_most_once;
mod attacks;
mod bad_bytes;
mod bad_input;
mod bad_questions;
mod batch_ends;
mod cancel_batch;
mod cli_config;
mod cli_dead;
mod cli_get;
mod cli_input;
mod cli_list;
mod cli_pause;
mod cli_room;
mod cli_standstill;
mod cli_submit;
mod cli_watch;
mod connections;
mod create_batch;
mod dead_letters;
mod deadlines;
mod delete_batch;
mod disconnect;
mod drain;
mod examples;
mod faults;
mod format;
mod get_batch;
mod get_item;
mod harness;
mod history;
mod item_times;
mod kills;
mod library;
mod library_ends;
mod lists;
mod logs;
mod low_disk;
mod metrics;
mod ops;
mod orphans;
mod pause_batch;
mod queues;
mod rate_limits;
mod redrive;
mod redrive_large;
mod redrive_limits;
mod reflection;
mod request_budget;
mod retries;
mod run;
mod run_ends;
mod run_kills;
mod run_resume;
mod start;
mod stream_batch;
mod stream_batch_faults;
mod submit_batch;
mod tenants;
mod waiting;
mod watch_batch;
