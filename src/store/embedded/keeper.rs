//! What the writer thread owns: the writing connection, and how a group is committed with it.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode};
use tokio_util::sync::CancellationToken;

use super::avoided::{Avoided, Snag};
use super::checkpoint;
use super::chores::{Chores, Chunks, Left};
use super::disk::{Disk, Room};
use super::group::{Admission, Applied, Connections, Effects, Group, Keeping, Refusal, Removed};
use super::operation::{Answer, Operation, Request};
use super::rows::{self, TimeRow};
use super::scheduler::LiveBatch;
use super::schema::{self, Role};
use super::{Shared, StoreOptions};
use crate::base::clock::{self, Timestamp};
use crate::base::limits;
use crate::domain::ids::BatchNo;
use crate::store::StoreError;

/// How often results are tried again while the disk is full.
const DISK_FULL_PAUSE: Duration = Duration::from_millis(200);

/// How long after the disk was full the ballast is set aside again. Writing it holds commits up.
const BALLAST_PAUSE: Duration = Duration::from_secs(5);

/// The writing side of the store.
#[derive(Debug)]
pub(crate) struct Keeper {
    db: Connection,
    shared: Arc<Shared>,
    disk: Disk,
    pub(super) chores: Chores,
    /// Reads beside a transaction that must not meet damage; opened once some is known.
    beside: Option<Connection>,
    /// Bytes of dead letters' items that the last transaction copied.
    copied_bytes: usize,
    /// What is let be until the next start, because it is damaged.
    avoided: Avoided,
    /// What the last group was at when it failed.
    snag: Option<Snag>,
    /// Whether operations are committed one by one, without chores.
    pub(super) apart: bool,
    /// Whether a group met damage: from then on chores go one at a time, and read beside.
    pub(super) met_damage: bool,
    /// Since when the ballast is given up, or was last asked for.
    disk_full_since: Option<Instant>,
}

/// The store cannot go on; the process must end.
#[derive(Debug)]
pub(crate) struct Fatal;

/// Stops the server if it is dropped while armed.
#[derive(Debug)]
pub(crate) struct Alarm(Option<CancellationToken>);

type Outcomes = Vec<Result<Answer, StoreError>>;

impl Keeper {
    /// A keeper of the store that `db` writes; the chores are those that a restart interrupted.
    pub(crate) fn new(
        db: Connection,
        shared: Arc<Shared>,
        options: &StoreOptions,
        chores: Chores,
    ) -> Self {
        Self {
            db,
            shared,
            beside: None,
            disk: Disk::new(&options.data_dir, options.reserve),
            chores,
            copied_bytes: 0,
            avoided: Avoided::default(),
            snag: None,
            apart: false,
            met_damage: false,
            disk_full_since: None,
        }
    }

    /// Records what has ended with the last process and has no record yet.
    pub(crate) fn finish(&mut self, unrecorded: Vec<Request>) -> Result<(), Fatal> {
        let operations = unrecorded.into_iter().map(Operation::unanswered);
        self.commit(operations.collect(), clock::now(), &mut || None)
    }

    /// What stops the server if the writer ends unplanned.
    pub(crate) fn alarm(&self) -> Alarm {
        Alarm(Some(self.shared.fatal.clone()))
    }

    /// Whether there is something to do that nobody waits for.
    pub(crate) fn has_chores(&self) -> bool {
        let first = self.next_chunks();
        first.sweep.is_some() || first.copy.is_some()
    }

    /// Whether there is, but only once the disk has room again. That nothing of the store's own tells;
    /// room among what may be accepted comes free in a group.
    pub(crate) fn waits_for_disk(&self) -> bool {
        self.chores.copies.first().is_some() && !self.disk_has_room()
    }

    /// Whether the disk has room for new work.
    fn disk_has_room(&self) -> bool {
        self.disk_full_since.is_none() && !self.disk.is_low()
    }

    /// The chunks to stage next. What room is left on a full disk is not for copies; a copy that
    /// ended early takes none, it only lets go of its source.
    pub(super) fn next_chunks(&self) -> Chunks {
        if self.apart {
            return Chunks::default();
        }
        let sweep = self.chores.sweeps.front().map(|&no| (no, true));
        let copy = self.chores.copies.first();
        let copy = copy.filter(|&no| self.disk_has_room() || self.is_over(no));
        let copy = copy.filter(|_| sweep.is_none() || !self.met_damage);
        Chunks {
            sweep,
            copy: copy.map(|no| (no, Left::More)),
        }
    }

    /// Whether nothing more is copied into a batch.
    fn is_over(&self, no: BatchNo) -> bool {
        let scheduler = &self.shared.scheduler;
        let scheduler = scheduler.lock().unwrap_or_else(PoisonError::into_inner);
        !scheduler.batch(no).is_some_and(LiveBatch::is_active)
    }

    /// Commits a group, publishes it and answers. `more` is asked for what came meanwhile if the
    /// disk is full and the group has to wait.
    ///
    /// On a full disk new work is refused; everything else is tried until it fits.
    pub(crate) fn commit(
        &mut self,
        mut group: Vec<Operation>,
        now: Timestamp,
        more: &mut impl FnMut() -> Option<Operation>,
    ) -> Result<(), Fatal> {
        if self.disk_full_since.is_some() {
            // What room there is belongs to results until the ballast is back.
            refuse_new_work(&mut group);
        }
        let brings_work = |operation: &Operation| operation.request.is_new_work();
        if group.iter().any(brings_work) || self.chores.copies.first().is_some() {
            let db = &self.db;
            self.disk.look(clock::instant(), |path| {
                // What was removed from the file is room in it: the file never shrinks.
                let reusable = schema::free_bytes(db).unwrap_or_default();
                Room::of(path).map(|room| room.with(reusable))
            });
        }
        loop {
            if self.shared.fatal.is_cancelled() {
                // Another thread could not write: nothing is committed on top of that.
                return Err(abandon(group));
            }
            match self.try_commit(&group, now) {
                Ok((outcomes, effects)) => {
                    self.publish(effects, now);
                    for (operation, outcome) in group.into_iter().zip(outcomes) {
                        // Whoever asked may have gone; it took effect all the same.
                        drop(operation.answer.send(outcome));
                    }
                    return Ok(());
                }
                Err(error) if error.sqlite_error_code() == Some(ErrorCode::DiskFull) => {
                    self.make_room();
                    refuse_new_work(&mut group);
                    refuse(&mut group, Request::is_deferrable, &StoreError::DiskFull);
                    if group.is_empty() && self.chores.sweeps.is_empty() {
                        return Ok(());
                    }
                    if self.shared.closing.load(Ordering::Relaxed) {
                        return self.give_up(group, &error);
                    }
                    std::thread::park_timeout(DISK_FULL_PAUSE);
                    while group.len() < limits::GROUP_OPERATIONS_MAX
                        && let Some(operation) = more()
                    {
                        group.push(operation);
                    }
                    refuse_new_work(&mut group);
                }
                // That must not end the server, or each start would end the same way.
                Err(error) if rows::is_corrupt(&error) => {
                    return self.commit_apart(group, now, &error);
                }
                Err(error) => return self.give_up(group, &error),
            }
        }
    }

    /// Notes that a group met damage: what reads for a transaction from then on, where it is alone in
    /// it, does so beside it, because a transaction that met a damaged page cannot commit.
    pub(super) fn read_beside(&mut self) {
        if self.beside.is_none() {
            let opened = schema::connect(&self.shared.dir.database(), Role::Reader);
            self.beside = opened
                .inspect_err(
                    |error| tracing::warn!(%error, "the damaged file cannot be opened again"),
                )
                .ok();
        }
    }

    /// Lets be from now on what the last group was at when it met damage. Answers whether others are
    /// worth a look.
    pub(super) fn avoid(&mut self, error: &rusqlite::Error) -> bool {
        let snag = self.snag.take();
        let is_new = snag.is_some_and(|snag| self.avoided.insert(snag));
        match snag {
            Some(Snag::Batch(no)) => {
                tracing::error!(batch = no.0, %error,
                    "a batch that was to be removed is damaged and stays in the file");
            }
            Some(Snag::Time(TimeRow { item, .. })) => {
                tracing::error!(batch = item.batch.0, index = item.index, %error,
                    "an item whose time is over cannot be ended: the file is damaged");
            }
            None => tracing::error!(%error, "a look at what is due met damage in the file"),
        }
        is_new
    }

    /// What is due between two transactions.
    pub(crate) fn after_commit(&mut self, bytes: usize) -> Result<(), Fatal> {
        let bytes = bytes + std::mem::take(&mut self.copied_bytes);
        self.shared.checkpoints.note_commit(bytes);
        self.disk.note_written(bytes);
        if self.shared.checkpoints.take_request()
            && let Err(error) = schema::checkpoint(&self.db, "PASSIVE")
            && !checkpoint::may_be_repeated(&error)
        {
            self.fail(&error);
            return Err(Fatal);
        }
        if self
            .disk_full_since
            .is_some_and(|since| clock::instant().duration_since(since) > BALLAST_PAUSE)
        {
            // Either there is room for it again, or the next look comes after another pause.
            let kept = !self.shared.ballast || self.shared.dir.keep_ballast();
            self.disk_full_since = (!kept).then(clock::instant);
        }
        Ok(())
    }

    /// Empties the log into the file, for a quick start.
    pub(crate) fn shut(self) {
        let emptied = schema::checkpoint(&self.db, "TRUNCATE");
        if let Err(error) = emptied.and_then(|_| self.db.close().map_err(|(_, error)| error)) {
            // Nothing is lost: the log is read at the next start.
            tracing::warn!(%error, "the log could not be emptied into the database file");
        }
    }

    fn try_commit(
        &mut self,
        group: &[Operation],
        now: Timestamp,
    ) -> rusqlite::Result<(Outcomes, Effects)> {
        let began = clock::instant();
        self.db.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        let admission = Admission {
            disk_is_low: self.disk.is_low(),
            limits: &self.shared.limits,
        };
        let keeping = Keeping {
            retention: self.shared.retention,
            avoided: &self.avoided,
        };
        let mut chunks = self.next_chunks();
        let chores = usize::from(chunks.sweep.is_some()) + usize::from(chunks.copy.is_some());
        let parts = chores + group.len();
        let connections = Connections {
            db: &self.db,
            // What earlier parts of the transaction wrote is not seen there.
            beside: self.beside.as_ref().filter(|_| parts == 1),
        };
        let mut staged = Group::new(connections, &self.shared.scheduler, now, admission, keeping);
        let outcome = stage_all(&mut staged, group, &mut chunks).and_then(|outcomes| {
            self.db
                .prepare_cached("COMMIT")?
                .execute([])
                .map(|_| outcomes)
        });
        match outcome {
            Ok(outcomes) => {
                let took = clock::instant().duration_since(began);
                let metrics = &self.shared.metrics;
                metrics.store_commit.observe(took.as_secs_f64());
                let Chores { sweeps, copies } = &mut self.chores;
                if let Some((no, more)) = chunks.sweep {
                    sweeps.pop_front();
                    sweeps.extend(more.then_some(no));
                }
                if let Some((no, left)) = chunks.copy {
                    copies.take_first();
                    copies.put(no, left);
                }
                Ok((outcomes, staged.into_effects()))
            }
            Err(error) => {
                self.snag = staged.snag();
                staged.take_back();
                // SQLite rolls back by itself after most errors; then there is nothing to roll back.
                drop(self.db.execute_batch("ROLLBACK"));
                Err(error)
            }
        }
    }

    /// Lets the world see what is durable.
    fn publish(&mut self, mut effects: Effects, now: Timestamp) {
        // First: once an item is due again, the next trace of it is that of its next attempt.
        if !effects.ended.is_empty() {
            self.shared
                .trace(|in_flight| in_flight.end(effects.ended.iter().copied()));
        }
        let Applied {
            queues,
            accepted,
            held_back,
        } = {
            let scheduler = &self.shared.scheduler;
            let mut scheduler = scheduler.lock().unwrap_or_else(PoisonError::into_inner);
            let applied = effects.apply(&mut scheduler, now);
            let limits = &self.shared.limits;
            let copies = &mut self.chores.copies;
            // One that came with the group may have waited for what the group ended.
            for (no, left) in effects.copying.drain(..) {
                copies.put(no, left);
            }
            copies.wake(|tenant, bytes| limits.admits_one(tenant, scheduler.loads(), bytes));
            applied
        };
        self.count(accepted, &effects);
        self.copied_bytes = effects.copied_bytes;
        let Removed {
            deleted,
            expired,
            records,
        } = effects.removed;
        let removal = &self.shared.metrics.removal;
        removal.deleted.inc_by(deleted);
        removal.expired.inc_by(expired);
        removal.records.inc_by(records);
        for (batch, pause) in effects.policy_paused {
            tracing::warn!(%batch, reason = %pause.why, "a batch is paused: too much of it failed");
        }
        for &no in &effects.ending {
            self.chores.copies.hurry(no);
        }
        self.chores.sweeps.extend(effects.ending);
        effects.stops.iter().for_each(CancellationToken::cancel);
        self.shared.hints.journals_grew(effects.changed.into_iter());
        for queue in &queues {
            self.shared.hints.work_came(queue);
        }
        if held_back {
            self.shared.hints.work_came_everywhere();
        }
    }

    fn count(&self, accepted: u64, effects: &Effects) {
        let metrics = &self.shared.metrics;
        metrics.items_accepted.inc_by(accepted);
        for (state, items) in effects.tally.by_state() {
            metrics.ended(state.name(), items);
        }
        for (queue, &letters) in &effects.dead {
            metrics.died(queue.as_str(), letters);
        }
        metrics.dead_letters_redriven.inc_by(effects.redriven);
        metrics.dead_letters_purged.inc_by(effects.purged);
    }

    fn make_room(&mut self) {
        if self.disk_full_since.is_none() {
            let ballast = self.shared.dir.give_ballast();
            tracing::error!(
                ballast,
                "the disk is full: new work is refused until there is room"
            );
        }
        self.disk_full_since = Some(clock::instant());
    }

    pub(super) fn give_up(
        &self,
        group: Vec<Operation>,
        error: &rusqlite::Error,
    ) -> Result<(), Fatal> {
        self.fail(error);
        Err(abandon(group))
    }

    fn fail(&self, error: &rusqlite::Error) {
        // A sync that failed once may succeed the next time although its pages are gone, so nothing
        // is ever tried again on this file by this process.
        tracing::error!(%error, "writing the store failed; the process ends");
        self.shared.fail();
    }
}

impl Alarm {
    /// The end is a planned one.
    pub(crate) fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        if let Some(fatal) = &self.0 {
            fatal.cancel();
        }
    }
}

fn stage_all(
    staged: &mut Group<'_>,
    group: &[Operation],
    chunks: &mut Chunks,
) -> rusqlite::Result<Outcomes> {
    let mut outcomes = Vec::with_capacity(group.len());
    for operation in group {
        match staged.stage(&operation.request) {
            Ok(answer) => outcomes.push(Ok(answer)),
            Err(Refusal::Refused(refusal)) => outcomes.push(Err(refusal)),
            Err(Refusal::Failed(error)) => return Err(error),
        }
    }
    if let Some((no, more)) = &mut chunks.sweep {
        *more = staged.sweep(*no)?;
    }
    if let Some((no, left)) = &mut chunks.copy {
        *left = staged.copy(*no)?;
    }
    staged.close()?;
    Ok(outcomes)
}

/// Tells those who wait that nobody knows what became of their operation.
fn abandon(group: Vec<Operation>) -> Fatal {
    for operation in group {
        drop(operation.answer.send(Err(StoreError::OutcomeUnknown)));
    }
    Fatal
}

fn refuse_new_work(group: &mut Vec<Operation>) {
    refuse(group, Request::is_new_work, &StoreError::DiskFull);
}

/// Turns some away.
fn refuse(group: &mut Vec<Operation>, is_refused: impl Fn(&Request) -> bool, why: &StoreError) {
    let (refused, rest): (Vec<_>, Vec<_>) = std::mem::take(group)
        .into_iter()
        .partition(|operation| is_refused(&operation.request));
    *group = rest;
    for operation in refused {
        drop(operation.answer.send(Err(why.clone())));
    }
}
