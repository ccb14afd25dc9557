//! Opening: from a directory to a running store.
//!
//! Order, so that an open that fails changes nothing: look at the directory, take the lock, read
//! `META`, recover, and only then remove unfinished files and start threads. A new store is made so
//! that the renaming of `META` to its name is the step that makes it one: the first segment is durable
//! before.

pub(crate) mod read_only;

use crate::io::os::OsDisk;
use crate::local::LocalBackend;
use crate::local::options::limits_of;
use crate::local::options::open_error;
use crate::local::read::segment::show_segments;
use crate::local::recovery::identity::lock;
use crate::local::recovery::identity::name_store;
use crate::local::recovery::identity::read_description;
use crate::local::recovery::listing::Listing;
use crate::local::recovery::listing::look;
use std::mem::ManuallyDrop;
use std::path::Path;
use std::sync::Arc;

use crate::error::{Defect, Error, IoOp, PoisonCause, Result};
use crate::io::pool::{IoPool, PoolOptions};
use crate::io::{Disk, DiskFile, Env, FileName, How, PAGE_LEN};
use crate::local::commit::append::Appender;
use crate::local::commit::budget::Budget;
use crate::local::commit::driver::Driver;
use crate::local::commit::log::{Log, UPKEEP_EVERY};
use crate::local::commit::phases::Phases;
use crate::local::commit::shared::Shared;
use crate::local::format::PAGE;
use crate::local::format::description::Description;
use crate::local::format::location::Location;
use crate::local::format::place::damaged;
use crate::local::format::place::path_of;
use crate::local::format::segment::SegmentHeader;
use crate::local::maintenance::Ending;
use crate::local::maintenance::checkpoint::Chain;
use crate::local::maintenance::memory::Shares;
use crate::local::maintenance::{Upkeep, UpkeepOptions};
use crate::local::options::{Options, WriteMode};
use crate::local::poison::Poison;
use crate::local::read::recent::Recent;
use crate::local::read::segment::Views;
use crate::local::recovery::{Recovered, Recovery, Replay};
use crate::local::session::{Inner, Session};
use crate::local::space::alarm::Alarm;
use crate::local::space::presence::Presence;
use crate::local::space::quota::{Quota, QuotaFile};
use crate::local::space::reserve::Reserve;
use crate::local::space::usage::Usage;
use crate::local::space::{Source, Space, SpaceOptions, Tail, take_back};
use crate::local::stall::StallLog;
use crate::local::wake::Call;
use crate::mvcc::Mvcc;
use crate::sync::channel::bounded;
use crate::sync::{AtomicBool, AtomicU64, Mutex};

/// Messages that may wait for whoever carries the log. Callers beyond them wait to hand in.
const INBOX_COUNT_MAX: usize = 4096;
/// Commands that may wait for the I/O workers.
const COMMAND_COUNT_MAX: usize = 64;

/// The upkeep does not look at the store more often than after so many log bytes.
const LOOK_EVERY_MIN: u64 = 64 << 10;
impl Options {
    /// Opens the store in a directory, creating it where it is missing.
    ///
    /// # Errors
    /// As [`LocalBackend::open`].
    pub fn open(self, path: impl AsRef<Path>) -> Result<LocalBackend> {
        let path = path.as_ref();
        self.check()?;
        let disk = match self.create && !self.read_only {
            true => OsDisk::open_or_create(path),
            false => OsDisk::open(path),
        };
        let disk = disk.map_err(|source| open_error(path, source))?;
        LocalBackend::open_on(disk, self)
    }
}

pub(crate) fn open<D: Disk>(disk: D, options: Options) -> Result<Inner<Quota<D>>> {
    let started = disk.now();
    look(&disk, options.create)?;
    let lock = lock(&disk)?;
    let path = disk.path().to_path_buf();
    let disk = Quota::new(disk, options.max_bytes).map_err(|e| Error::io(IoOp::List, path, e))?;
    let disk = Arc::new(disk);
    // Again, now that nobody else can change it.
    let listing = look(&*disk, options.create)?;
    let space_options = SpaceOptions {
        segment_len: options.segment_len_max,
        ahead_len_max: options.zero_ahead_len,
        how: match options.write_mode {
            WriteMode::Direct => How::ReadWriteDirect,
            WriteMode::Buffered => How::ReadWrite,
        },
    };
    let (mvcc, usage) = (Mvcc::new(limits_of(&options)), Usage::default());
    let (segment_len, quota_len) = (options.segment_len_max, options.max_bytes);
    let reserve = Reserve::open(Arc::clone(&disk), How::ReadWrite, segment_len, quota_len)
        .map_err(|e| Error::io(IoOp::Open, path_of(disk.path(), FileName::Reserve), e))?;
    let views = Arc::new(Views::new(options.read_mode, options.shown_max, show_segments(&disk)));
    let (store, mut recovered) = if listing.has_meta {
        let store = read_description(&*disk)?;
        let recovery = Recovery {
            disk: &*disk,
            store: &store,
            options: space_options,
            mvcc: &mvcc,
            views: &views,
            usage: &usage,
            reserve: Some(&reserve),
            next_number: listing.next_number,
            on_progress: options.on_progress.clone(),
            replay: Replay::of(&options),
        };
        let recovered = recovery.run(&listing)?;
        (store, recovered)
    } else {
        create(&*disk, &listing, &space_options, &views)?
    };
    remove_unfinished(&*disk, &listing)?;
    recovered.report.unknown_files = listing.unknown_count;
    recovered.report.modes_refused = disk.modes_are_refused();
    recovered.report.elapsed = disk.now().saturating_sub(started);
    start(disk, lock, options, store, space_options, mvcc, views, usage, reserve, recovered, None)
}

/// Starts the threads of an open store. One that is only read, up to its `ending`, has no log to look after.
#[expect(clippy::too_many_arguments, reason = "each is another part of the store, made once")]
pub(crate) fn start<D: Disk>(
    disk: Arc<Quota<D>>,
    lock: D::Lock,
    options: Options,
    store: Description,
    space_options: SpaceOptions,
    mvcc: Mvcc<Location>,
    views: Arc<Views>,
    usage: Usage,
    reserve: Reserve<Quota<D>>,
    recovered: Recovered<QuotaFile<D::File>>,
    ending: Option<Ending>,
) -> Result<Inner<Quota<D>>> {
    let has_keepers = !options.single_threaded && ending.is_none();
    let poison = Arc::new(Poison::default());
    let spawn = |e| Error::io(IoOp::Spawn, disk.path(), e);
    views.give_way(recovered.tail.segment.sequence);
    let pool = match options.single_threaded {
        true => None,
        false => Some(start_workers(&*disk, options.io_threads, &poison).map_err(spawn)?),
    };
    let Recovered { tail, chain, ready, next_number, chain_of_images, report } = recovered;
    let tail_again =
        Tail { segment: Arc::clone(&tail.segment), offset: tail.offset, written: tail.written };
    let is_tail_own = tail.offset == PAGE;
    let own_from = tail.segment.sequence + u64::from(!is_tail_own);
    let clock: Arc<dyn Env> = Arc::<Quota<D>>::clone(&disk);
    let stalls = Arc::new(StallLog::new(clock));
    let space = Space::new(
        Arc::clone(&disk),
        store,
        space_options,
        Arc::clone(&views),
        Arc::clone(&poison),
        pool.clone(),
        reserve,
        disk.ledger().cloned(),
        Arc::clone(&stalls),
        tail,
        ready,
        next_number,
    );
    let space = Arc::new(space.map_err(|e| Error::io(IoOp::Open, disk.path(), e))?);
    let visible = mvcc.index.visible();
    let shares = Shares::of(&options);
    let shared = Arc::new(Shared {
        mvcc,
        poison,
        presence: Presence::default(),
        budget: Budget::new(shares.in_flight_len_max),
        recent: Recent::new(shares.recent_len),
        sync_turn: Mutex::new(()),
        durable: AtomicU64::new(ending.map_or(visible, |ending| ending.durable).0),
        groups: AtomicU64::new(0),
        overlapped: AtomicU64::new(0),
        syncs: AtomicU64::new(0),
        written_len: AtomicU64::new(0),
        user_len: AtomicU64::new(0),
        user_sequence: AtomicU64::new(tail_again.segment.sequence),
        phases: Phases::default(),
        usage,
        stalls,
        look_every: look_every(&options, &shares),
        room_wanted: AtomicBool::new(false),
        upkeep: Call::default(),
    });
    let direct = space_options.how == How::ReadWriteDirect;
    let appender = Appender::new(Arc::clone(&space), direct, tail_again, chain);
    let (inbox, received) = bounded(INBOX_COUNT_MAX);
    let log = Log::new(
        Arc::clone(&disk),
        Arc::clone(&shared),
        appender,
        received,
        options.crowd_min,
        options.sync_interval,
        visible,
    );
    let driver = Arc::new(Driver::new(Arc::clone(&shared), inbox, log, has_keepers));
    let keeper = match has_keepers {
        false => None,
        true => {
            let driver = Arc::clone(&driver);
            let body = Box::new(move || driver.keep());
            Some(disk.spawn("aegis-log".to_string(), body).map_err(spawn)?)
        }
    };
    let upkeep = Arc::new(Upkeep::new(
        Arc::clone(&disk),
        store,
        UpkeepOptions {
            checkpoint_log_len: options.checkpoint_log_len,
            amplification_max: options.space_amplification_max,
            shares,
        },
        Arc::clone(&shared),
        Arc::clone(&driver),
        Arc::clone(&space),
        Arc::clone(&views),
        Alarm::new(options.on_space_low.clone()),
        chain_of_images,
        report.bytes,
        own_from,
        ending,
    ));
    let session = Session { keeper, caretaker: None, lock: ManuallyDrop::new(lock) };
    let inner = Inner {
        disk,
        shared,
        views,
        space,
        pool,
        driver,
        upkeep,
        durability: options.durability,
        is_read_only: ending.is_some(),
        report,
        closed: AtomicBool::new(false),
        session: Mutex::new(Some(session)),
    };
    if has_keepers {
        let upkeep = Arc::clone(&inner.upkeep);
        let body = Box::new(move || upkeep.keep());
        // Without it the store is closed again: a keeper left behind would write to what is no longer locked.
        let caretaker = inner.disk.spawn("aegis-upkeep".to_string(), body);
        let caretaker = caretaker.map_err(|e| Error::io(IoOp::Spawn, inner.disk.path(), e))?;
        if let Some(session) = &mut *inner.session.lock() {
            session.caretaker = Some(caretaker);
        }
    }
    if inner.is_read_only {
        return Ok(inner);
    }
    // Without space there is none for now; ordinary writes wait for it.
    drop(inner.space.reserve.suit(inner.upkeep.load()));
    inner.disk.enforce();
    inner.space.start();
    Ok(inner)
}

/// Log bytes after which the upkeep looks at the store: often enough for an alarm to ring in time, and before
/// the memory's shares are full.
fn look_every(options: &Options, shares: &Shares) -> u64 {
    let threshold = options.on_space_low.as_ref().map_or(u64::MAX, |on| on.threshold);
    UPKEEP_EVERY.min((threshold / 4).min(shares.look_every()).max(LOOK_EVERY_MIN))
}

fn start_workers<D: Disk>(
    disk: &D,
    worker_count: usize,
    poison: &Arc<Poison>,
) -> std::io::Result<Arc<IoPool>> {
    let poison = Arc::clone(poison);
    let on_panic = Arc::new(move || poison.set(PoisonCause::ThreadPanicked));
    let options =
        PoolOptions { name: "aegis-io", worker_count, queue_count_max: COMMAND_COUNT_MAX };
    IoPool::start(disk, options, on_panic).map(Arc::new)
}

/// Makes a new store.
fn create<D: Disk>(
    disk: &D,
    listing: &Listing,
    options: &SpaceOptions,
    views: &Views,
) -> Result<(Description, Recovered<D::File>)> {
    forget_unfinished_store(disk, listing)?;
    let io = |op| move |e| Error::space(op, disk.path(), PAGE_LEN as u64, e);
    let (mut store_id, mut salt) = ([0; 16], [0; 8]);
    disk.random(&mut store_id).map_err(io(IoOp::Open))?;
    disk.random(&mut salt).map_err(io(IoOp::Open))?;
    let store = Description { store_id, salt: u64::from_le_bytes(salt) };
    let number = listing.next_number;
    let header: SegmentHeader = Space::new_header(disk, &store, 1).map_err(io(IoOp::Open))?;
    let (segment, _) =
        Space::make_segment(disk, &store, options, number, &header, Source::New(&[]))
            .map_err(|not_made| io(IoOp::Write)(not_made.source))?;
    // When the name may not be durable there is no store: nobody may find what a power cut would take.
    name_store(disk, &store, number + 1).inspect_err(|_| {
        take_back(disk, FileName::Meta);
    })?;
    views.insert(1, number, &segment.file, segment.len_max()).map_err(io(IoOp::Map))?;
    let first = crate::local::format::PAGE;
    let tail = Tail { segment: Arc::new(segment), offset: first, written: first };
    let report = crate::local::recovery::RecoveryReport { clean: true, ..Default::default() };
    let recovered = Recovered {
        tail,
        chain: 0,
        ready: Vec::new(),
        next_number: number + 2,
        chain_of_images: Chain::empty(views.mode()),
        report,
    };
    Ok((store, recovered))
}

/// A segment without `META` is what an interrupted creation leaves, if nothing was ever written to
/// it. Otherwise `META` is lost, and with it the means to read the log.
fn forget_unfinished_store<D: Disk>(disk: &D, listing: &Listing) -> Result<()> {
    for number in listing.segments.keys() {
        let name = FileName::Segment(*number);
        let path = path_of(disk.path(), name);
        let file = disk.open(name, How::Read).map_err(|e| Error::io(IoOp::Open, &path, e))?;
        let len = file.len().map_err(|e| Error::io(IoOp::Read, &path, e))?;
        if len > PAGE_LEN as u64 {
            return Err(damaged(FileName::Meta, 0, Defect::Meta));
        }
    }
    for number in listing.segments.keys() {
        let name = FileName::Segment(*number);
        disk.remove(name).map_err(|e| Error::io(IoOp::Remove, path_of(disk.path(), name), e))?;
    }
    Ok(())
}

fn remove_unfinished<D: Disk>(disk: &D, listing: &Listing) -> Result<()> {
    for name in &listing.unfinished {
        disk.remove(*name).map_err(|e| Error::io(IoOp::Remove, path_of(disk.path(), *name), e))?;
    }
    Ok(())
}
