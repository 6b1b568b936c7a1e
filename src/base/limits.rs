//! Every bound of the system and why it is where it is.

use std::time::Duration;

/// Bytes of one input that are accepted unless the configuration says otherwise.
///
/// Below the 4 MiB that gRPC clients in every language accept for a message by default, so that an
/// item can always be read back.
pub const INPUT_BYTES_MAX: usize = 3 << 20;

/// The most that the configuration may allow for one input: a message stays below 65 MiB.
pub const INPUT_BYTES_CEILING: usize = 64 << 20;

/// Bytes of one output, and the most the configuration may allow.
///
/// A result must fit into the 4 MiB that gRPC clients accept by default, with its error and ids.
pub const OUTPUT_BYTES_MAX: usize = 3 << 20;

/// Items of one unary submit unless the configuration says otherwise: one transaction that others wait for.
pub const SUBMIT_ITEMS_MAX: usize = 10_000;

/// Items of one batch: indexes and sequences are packed into 32 bits each.
pub const BATCH_ITEMS_MAX: u32 = u32::MAX - 1;

/// Item ids of an open upload that become one sorted run: what its batch holds in memory at most,
/// and what one transaction writes at once beside its items (about 30 ms).
pub const ID_RUN_ITEMS: usize = 65_536;

/// How long an upload stays open that nobody goes on with, unless its caller says otherwise.
pub const OPEN_TIMEOUT_DEFAULT: Duration = Duration::from_secs(3600);

/// The shortest time that an upload may be told to stay open: it is looked at once a second.
pub const OPEN_TIMEOUT_MIN: Duration = Duration::from_secs(1);

/// How often uploads that nobody goes on with are looked at.
pub const OPEN_TIMEOUT_LOOK: Duration = Duration::from_secs(1);

/// How long a call that uploads a complete batch anew may be silent before it is told the end
/// without having sent everything: a caller who only reads sends nothing, and one who sends does so
/// at once.
pub const UPLOAD_QUIET: Duration = Duration::from_secs(1);

/// How long the first message of an upload may take: until then the call holds a stream for nothing.
pub const UPLOAD_START_MAX: Duration = Duration::from_secs(10);

/// Times of arrival that an open upload remembers apart, for how long its items waited; beyond, one
/// a second.
pub const ARRIVALS_MAX: usize = 1024;

/// Bytes of one request message; see [`message_bytes_max`].
pub const MESSAGE_BYTES_MIN: usize = 16 << 20;

/// The decode limit for requests: room for one input at its cap and all that surrounds it.
pub const fn message_bytes_max(input_bytes_max: usize) -> usize {
    let needed = input_bytes_max + (1 << 20);
    if needed > MESSAGE_BYTES_MIN {
        needed
    } else {
        MESSAGE_BYTES_MIN
    }
}

/// Characters of a batch id: a DNS-like name with room for a path of names.
pub const BATCH_ID_CHARS_MAX: usize = 128;

/// Bytes of an item id: long enough for a path or a URL.
pub const ITEM_ID_BYTES_MAX: usize = 256;

/// Characters of a request id; a UUID has 36.
pub const REQUEST_ID_CHARS_MAX: usize = 128;

/// Characters of a queue's, attribute's or label's name.
pub const NAME_CHARS_MAX: usize = 64;

/// Bytes of a content type.
pub const CONTENT_TYPE_BYTES_MAX: usize = 256;

/// Attributes of one item: they travel in environments and headers.
pub const ATTRIBUTES_MAX: usize = 16;

/// Bytes of one attribute's value.
pub const ATTRIBUTE_BYTES_MAX: usize = 1024;

/// Labels of one batch.
pub const LABELS_MAX: usize = 64;

/// Bytes of one label's value.
pub const LABEL_BYTES_MAX: usize = 256;

/// Failure reasons that a retry policy lists as final: it is looked through after each failure.
pub const LISTED_REASONS_MAX: usize = 64;

/// Bytes of the reason that the caller of a cancel or a pause gives.
pub const GIVEN_REASON_BYTES_MAX: usize = 1024;

/// Bytes of an error message that are kept.
pub const ERROR_MESSAGE_BYTES_MAX: usize = 4 << 10;

/// Characters of a failure reason.
pub const REASON_CHARS_MAX: usize = 63;

/// The longest duration that makes sense in a request: ten years.
pub const DURATION_MAX: Duration = Duration::from_secs(10 * 366 * 24 * 3600);

/// The longest that `wait` holds a unary call: proxies cut calls that are silent for long.
pub const WAIT_MAX: Duration = Duration::from_secs(60);

/// How long before a caller's deadline a waiting call answers, so that the answer still arrives.
pub const WAIT_MARGIN: Duration = Duration::from_millis(100);

/// The shortest interval between two progress messages of a stream.
pub const PROGRESS_INTERVAL_MIN: Duration = Duration::from_secs(1);

/// Interval of a watch's progress messages by default. Envoy cuts a stream that is silent for five minutes.
pub const PROGRESS_INTERVAL_DEFAULT: Duration = Duration::from_secs(30);

/// Field violations that one error lists. Details travel in a header, and clients cap headers at 8 KiB.
pub const VIOLATIONS_MAX: usize = 20;

/// Bytes of a message, a field or a fact of an error. They may quote what a caller sent, however long.
pub const ERROR_TEXT_BYTES_MAX: usize = 256;

/// Bytes of all violations of an error, for the same headers.
pub const VIOLATIONS_BYTES_MAX: usize = 2 << 10;

/// Operations that may wait for the writer. Full means that submits wait, then are told `QUEUE_FULL`.
pub const WRITER_QUEUE_MAX: usize = 4096;

/// Bytes of payload that may wait for the writer.
pub const WRITER_QUEUE_BYTES_MAX: usize = 64 << 20;

/// How long an operation may wait for its place in the writer's queue.
pub const WRITER_QUEUE_WAIT_MAX: Duration = Duration::from_secs(10);

/// Operations in one transaction. More would only make the first wait for the last.
pub const GROUP_OPERATIONS_MAX: usize = 1024;

/// Bytes of payload in one transaction, for the same reason.
pub const GROUP_BYTES_MAX: usize = 16 << 20;

/// Times that one call for leases looks for others in the place of items whose time was over. Each is a
/// commit; between two calls a pool looks whether it is to end.
pub const STALE_ROUNDS_MAX: u32 = 16;

/// Rows of a mass change in the transaction of a call that asks for it: results of other batches wait
/// behind each.
pub const SWEEP_ITEMS_MAX: usize = 1000;

/// Rows of a mass change that goes on by itself, in one transaction: records of a batch that ends early
/// or of stale items, copies of dead letters. As long as that lasts, every other commit waits behind such
/// a chunk, which takes one or two milliseconds.
pub const CHORE_ITEMS_MAX: u32 = 100;

/// Batches that are counted for a scraper at a time: leases wait for that lock.
pub const CENSUS_BATCHES: usize = 256;

/// Bytes of inputs after which a redrive copies no more in one transaction, for the same reason.
pub const REDRIVE_BYTES_MAX: usize = 4 << 20;

/// Dead letters that one look of a list or a redrive visits on a reading thread: those who follow
/// batches wait meanwhile (about 10 ms).
pub const LETTER_VISITS_LOOK: usize = 1000;

/// Dead letters that one call of a list visits for its rows, whatever they are: then it answers, be it
/// without any, and says where to go on.
pub const LETTER_VISITS_MAX: usize = 10_000;

/// Dead letters that the answer to a list's first page counts by reason, visits for its rows included.
pub const LETTER_REASONS_VISITS_MAX: usize = 20_000;

/// Rows of a list unless its caller asks for another number.
pub const PAGE_ROWS_DEFAULT: usize = 100;

/// Rows of a list at most.
pub const PAGE_ROWS_MAX: usize = 1000;

/// Bytes of a list's rows: an answer stays below the 4 MiB that gRPC clients accept by default.
pub const PAGE_ROWS_BYTES_MAX: usize = 3 << 20;

/// Bytes of inputs that are read at once to be compared with what is uploaded again: the stored ones
/// may be far larger than those that came.
pub const SPECS_BYTES_MAX: usize = 1 << 20;

/// Records of one page read from the journal.
pub const PAGE_RECORDS_MAX: usize = 1000;

/// Bytes of outputs in one page. It is what a watcher may hold in memory.
pub const PAGE_BYTES_MAX: usize = 64 << 10;

/// How long one read transaction may last: while it is open the WAL cannot shrink.
pub const READ_MAX: Duration = Duration::from_secs(1);

/// Threads that read from the store for those who follow and look up.
pub const READERS: usize = 2;

/// Outcomes that may wait for the settler: two groups' worth, one being written, one gathering.
/// More would only hide a slow disk from the pool.
pub const SETTLED_QUEUE_MAX: usize = 512;

/// Failed attempts of an item that `GetItem` tells.
pub const ATTEMPTS_TOLD_MAX: usize = 100;

/// Batches or items in one page of a list unless its caller says otherwise.
pub const LISTED_DEFAULT: usize = 100;

/// Batches or items in one page of a list, whatever its caller says.
pub const LISTED_MAX: usize = 1000;

/// Rows that are looked at for one page of a list, whatever of them it tells: some tens of
/// milliseconds.
pub const LIST_VISITED_MAX: usize = 5000;

/// Bytes of one page of a list: it must fit into a message.
pub const LIST_BYTES_MAX: usize = 3 << 20;

/// Bytes of outputs that are read for one page of a list; large ones are read to be checked, and then
/// left out.
pub const LIST_READ_BYTES_MAX: usize = 16 << 20;

/// Bytes of the largest output that a list of items shows.
pub const LISTED_OUTPUT_BYTES_MAX: usize = 64 << 10;

/// How often a handler may give an item back before it fails `RELEASED_TOO_OFTEN`. What the server gives
/// back for reasons of its own does not count.
pub const RELEASES_MAX: u32 = 100;

/// Failure reasons of a batch that are counted apart; handlers make up their own.
pub const FAILURE_REASONS_MAX: usize = 32;

/// Terminal items from which on a failure policy looks at the share of failed ones: one of one is
/// no trend.
pub const FAILURE_ITEMS_MIN: u32 = 10;

/// How long an item waits for its next turn if its input could not be read just now: long enough not to
/// spin on it.
pub const UNREAD_WAIT: Duration = Duration::from_secs(1);

/// How long an item that runs at most once waits for its next turn if the disk was too full to note
/// that it runs: long enough not to spin on it.
pub const UNTRACED_WAIT: Duration = Duration::from_secs(1);

/// How long a batch stays once it is over, unless it or the configuration says otherwise: long enough
/// to come back after a holiday weekend.
pub const RETENTION_DEFAULT: Duration = Duration::from_secs(7 * 24 * 3600);

/// The shortest retention: what has expired is looked for once a second, and with none at all nobody
/// could read a batch to its end.
pub const RETENTION_MIN: Duration = Duration::from_secs(1);

/// How often is looked for what has expired or was deleted.
pub const TRIM_LOOK: Duration = Duration::from_secs(1);

/// How long results have the store to themselves between two chunks of what is removed.
pub const TRIM_PAUSE: Duration = Duration::from_millis(10);

/// How long nothing is removed after a chunk failed: a disk that is full is not full for a moment.
pub const TRIM_RETRY: Duration = Duration::from_secs(10);

/// Rows that one transaction removes, of all tables together: results of other batches wait behind it.
pub const TRIM_ROWS_MAX: usize = 2000;

/// Bytes of inputs and outputs that one transaction removes: a row of 3 MiB has hundreds of pages.
pub const TRIM_BYTES_MAX: usize = 4 << 20;

/// Batches and items' times that are let be because they met damage. Each look for others reads past
/// them; with more than that the file is past help.
pub const AVOIDED_MAX: usize = 10_000;

/// Expired batches that one transaction takes off the books.
pub const TRIM_BATCHES_MAX: usize = 500;

/// How far the wall clock may be off from one look to the next before nothing that has expired is
/// removed for a while: no time zone or leap second moves it, and more is a clock that was wrong.
pub const CLOCK_JUMP_MAX: Duration = Duration::from_secs(3600);

/// How long the clocks must have agreed after such a jump until expired batches are removed again.
pub const CLOCK_AGREED_MIN: Duration = Duration::from_secs(3600);

/// How often batches and items are looked at whose time may be over.
pub const OVERDUE_LOOK: Duration = Duration::from_secs(1);

/// The most that a tenant may weigh against one of weight 1: what is more than a thousand times as
/// much is not sharing.
pub const WEIGHT_MAX: u32 = 1000;

/// How long a batch may wait for a turn until it goes before its tenant's batches of higher priority.
pub const TURN_AGED: Duration = Duration::from_secs(60);

/// Items in backoff after which a batch gets no first attempts until some are done: the bound on
/// what a batch of failing items holds in memory.
pub const WAITING_ITEMS_MAX: usize = 65_536;

/// Batches that may be open at once, unless the configuration says otherwise: about 100 MB of memory,
/// and what a start has to look at.
pub const OPEN_BATCHES_MAX: usize = 100_000;

/// Items that may be without a result at once, unless the configuration says otherwise.
pub const QUEUED_ITEMS_MAX: usize = 20_000_000;

/// Bytes of inputs of items that may be without a result at once, unless the configuration says otherwise.
pub const QUEUED_BYTES_MAX: usize = 64 << 30;

/// How often an upload that waits for room looks whether there is some: an end of an item is not told
/// to everybody who waits.
pub const ROOM_LOOK: Duration = Duration::from_millis(100);

/// Room on the disk that is kept for the results of accepted work, at most: new work does not get it.
pub const DISK_RESERVE_MAX: u64 = 256 << 20;

/// The reserve is no more than this part of the disk: a small one would hold nothing else.
pub const DISK_RESERVE_DIVISOR: u64 = 20;

/// How old the last look at the disk's room may be when new work comes.
pub const DISK_LOOK: Duration = Duration::from_secs(1);

/// The largest reserve that may be configured: more than any disk has.
pub const DISK_RESERVE_CEILING: usize = 1 << 60;

/// Slots one queue may have.
pub const SLOTS_MAX: usize = 65_536;

/// Attempts per second that a queue may be limited to, and at once: above it the limit would cost more
/// than the attempts.
pub const RATE_MAX: u32 = 1_000_000;

/// The lowest rate of a queue: one attempt in nearly three hours. Below it, pausing is meant.
pub const RATE_MIN: f64 = 0.0001;

/// How long a pool sleeps at least for its next token: at a high rate it takes several at once
/// instead of waking up for each.
pub const RATE_LOOK: Duration = Duration::from_millis(1);

/// Item ids in one cancel.
pub const CANCEL_ITEMS_MAX: usize = 10_000;

/// Item ids in one redrive or purge of dead letters: as many as a batch may be submitted with at once.
pub const LETTER_ITEMS_MAX: usize = 10_000;

/// Streams that one HTTP/2 connection may have open.
pub const CONNECTION_STREAMS_MAX: u32 = 1024;

/// Bytes of the headers of one request.
pub const HEADER_BYTES_MAX: u32 = 16 << 10;

/// How long a pool waits for a hint before it looks for work anyway: hints may be lost.
pub const WORK_HINT_LOST_MAX: Duration = Duration::from_secs(1);

/// How long a reader waits for a hint before it looks at the journal anyway. Longer, because there
/// may be thousands of readers and each look is a read.
pub const JOURNAL_HINT_LOST_MAX: Duration = Duration::from_secs(10);

/// Connections at once, unless the configuration says otherwise or the process may open fewer files.
pub const CONNECTIONS_MAX: usize = 10_000;

/// Connections at once from one address. A proxy or sidecar brings all its clients from one address,
/// but it needs few connections for them: each carries [`CONNECTION_STREAMS_MAX`] calls.
pub const ADDRESS_CONNECTIONS_MAX: usize = 1000;

/// File descriptors that connections leave to the store, to handlers and to everything else.
pub const DESCRIPTORS_KEPT: u64 = 256;

/// Open result streams in all. Each may pin [`STREAM_SEND_BYTES`] and a page while its reader is stuck.
pub const WATCHERS_MAX: usize = 4096;

/// Bytes of request messages in memory at once: sixteen of the largest, or the small ones of everybody.
pub const REQUEST_BYTES_MAX: usize = 256 << 20;

/// A message up to this size waits in a lane of its own, so that a cancel or a look-up never waits
/// behind uploads.
pub const SMALL_MESSAGE_BYTES: usize = 64 << 10;

/// The small messages' lane is this part of the requests' budget, on top of it.
pub const SMALL_LANE_DIVISOR: usize = 8;

/// Fields of a request message besides its items, with room to spare: they are known and few.
pub const OTHER_FIELDS_MAX: usize = 1000;

/// How long a message may wait for its place in the budget before its caller is told to come back.
pub const REQUEST_WAIT_MAX: Duration = Duration::from_secs(10);

/// Messages that may wait for the budget at once. Each pins what its stream's window lets in.
pub const REQUEST_WAITERS_MAX: usize = 256;

/// Bytes a client may send on one call before it is read: room for a large submit to keep flowing.
pub const STREAM_WINDOW_BYTES: u32 = 1 << 20;

/// Bytes all calls of a connection may send before they are read.
pub const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;

/// Bytes of results that one stream may have waiting in its connection. It is what a stuck reader pins;
/// two frames of results keep a fast one busy.
pub const STREAM_SEND_BYTES: usize = 32 << 10;

/// How long a new connection has to say which protocol it speaks, and an HTTP/1 one for all it has to say.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes and count of an HTTP/1 request's headers.
pub const HTTP1_HEADER_BYTES_MAX: usize = HEADER_BYTES_MAX as usize;

/// See [`HTTP1_HEADER_BYTES_MAX`].
pub const HTTP1_HEADERS_MAX: usize = 100;

/// How long one request message may take to arrive once it has begun. While it arrives it holds its
/// place in the budget: 16 MiB in a minute is a slow mobile line.
pub const MESSAGE_TIMEOUT: Duration = Duration::from_secs(60);

/// How long calls may go on over a connection that has reached its age, where ages are limited.
pub const AGE_GRACE: Duration = Duration::from_secs(600);

/// Part of a connection's age that is left to chance, so that a restart's clients do not all come back at once.
pub const AGE_JITTER: f64 = 0.1;

/// How often the same trouble with connections is logged at most; what came in between is counted.
pub const TROUBLE_LOG_INTERVAL: Duration = Duration::from_secs(10);

/// How often a silent connection is pinged; network address translators forget sooner than minutes.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);

/// How long the answer to such a ping may take.
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// How long the last outcomes of a drain may take to be recorded.
pub const LAST_OUTCOMES_MAX: Duration = Duration::from_secs(2);

/// Bytes of outputs that may wait for the settler, and go to the store in one call: what one
/// transaction takes.
pub const SETTLED_BYTES_MAX: usize = GROUP_BYTES_MAX;

/// Connections at once to the ops port: a few probes and scrapers. More are closed at once, so that a
/// flood there takes nothing from the port that serves.
pub const OPS_CONNECTIONS_MAX: usize = 64;

/// Calls at once on one connection to the ops port: probes ask one thing at a time.
pub const OPS_STREAMS_MAX: u32 = 16;

/// How long a connection to the ops port may take to say what it wants, or stay silent between two questions.
pub const OPS_SILENCE_MAX: Duration = Duration::from_secs(10);

/// How long a thread of a blocking handler stays without work: starting one costs tens of
/// microseconds, keeping one that nobody needs costs memory.
pub const THREAD_IDLE_MAX: Duration = Duration::from_secs(10);

/// How long a blocking handler may take to notice that it should stop, unless it says otherwise. It
/// is what a cancel or a limit waits for an attempt that does not notice.
pub const BLOCKING_STOP_GRACE: Duration = Duration::from_secs(1);

/// How long an item waits that found no thread to run on: others must end first.
pub const NO_THREAD_WAIT: Duration = Duration::from_secs(1);

/// Threads that one queue's handler may be polled on: each costs a stack.
pub const QUEUE_THREADS_MAX: usize = 1024;
