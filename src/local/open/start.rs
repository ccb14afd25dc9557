//! The start of a recovered store: makes its parts and starts its threads.

use std::mem::ManuallyDrop;
use std::sync::Arc;

use crate::error::{Error, IoOp, PoisonCause, Result};
use crate::io::pool::{IoPool, PoolOptions};
use crate::io::{Disk, Env, FileName, How, Thread};
use crate::local::commit::append::Appender;
use crate::local::commit::budget::Budget;
use crate::local::commit::log::{Log, LogOptions, MAINTENANCE_EVERY};
use crate::local::commit::log_handle::{LogHandle, helper_count_max};
use crate::local::commit::phases::Phases;
use crate::local::commit::shared::Shared;
use crate::local::format::PAGE;
use crate::local::format::description::Description;
use crate::local::format::location::Location;
use crate::local::format::place::path_of;
use crate::local::maintenance::memory::MemoryBudget;
use crate::local::maintenance::{Ending, Maintenance, MaintenanceOptions, MaintenanceParts};
use crate::local::options::{Options, WriteMode, limits_from_options};
use crate::local::poison::Poison;
use crate::local::read::recent::Recent;
use crate::local::read::segment::{Views, show_segments};
use crate::local::recovery::listing::Listing;
use crate::local::recovery::{Recovered, Recovery, Replay};
use crate::local::session::{OpenStore, Session};
use crate::local::space::alarm::Alarm;
use crate::local::space::presence::Presence;
use crate::local::space::quota::{Quota, QuotaFile};
use crate::local::space::reserve::Reserve;
use crate::local::space::usage::Usage;
use crate::local::space::{Space, SpaceOptions, SpaceParts, Tail};
use crate::local::stall::StallLog;
use crate::local::wake::WakeUp;
use crate::mvcc::Mvcc;
use crate::sync::channel::bounded;
use crate::sync::{AtomicBool, AtomicU64, Mutex, Ordering};
use crate::unheard::unheard;

/// Messages that may wait in the commit queue. Further callers wait to submit theirs.
const QUEUE_COUNT_MAX: usize = 4096;
/// Commands that may wait for the I/O workers.
const COMMAND_COUNT_MAX: usize = 64;
/// Log bytes between two runs of the maintenance thread, at least.
const LOOK_EVERY_MIN: u64 = 64 << 10;

/// What recovery found.
pub(super) struct Opened<D: Disk> {
    pub(super) store: Description,
    pub(super) recovered: Recovered<QuotaFile<D::File>>,
    /// The log end of a read-only session.
    pub(super) ending: Option<Ending>,
}

/// A store that is locked and not recovered yet.
pub(super) struct Prepared<D: Disk> {
    pub(super) disk: Arc<Quota<D>>,
    pub(super) lock: D::Lock,
    pub(super) options: Options,
    pub(super) space_options: SpaceOptions,
    pub(super) mvcc: Mvcc<Location>,
    pub(super) views: Arc<Views>,
    pub(super) usage: Usage,
    pub(super) reserve: Reserve<Quota<D>>,
}

impl<D: Disk> Prepared<D> {
    /// Makes what recovery fills.
    ///
    /// # Errors
    /// [`Error::Io`]: the reserve cannot be opened.
    pub(super) fn new(disk: Quota<D>, lock: D::Lock, options: Options) -> Result<Prepared<D>> {
        let disk = Arc::new(disk);
        let (reserve_how, how, ahead_len_max) = match (options.read_only, options.write_mode) {
            (true, _) => (How::Read, How::Read, 0),
            (_, WriteMode::Direct) => {
                (How::ReadWrite, How::ReadWriteDirect, options.zero_ahead_len)
            }
            (_, WriteMode::Buffered) => (How::ReadWrite, How::ReadWrite, options.zero_ahead_len),
        };
        let segment_len = options.segment_len_max;
        let reserve = Reserve::open(Arc::clone(&disk), reserve_how, segment_len, options.max_bytes)
            .map_err(|e| Error::io(IoOp::Open, path_of(disk.path(), FileName::Reserve), e))?;
        let views = Views::new(options.read_mode, options.shown_max, show_segments(&disk));
        Ok(Prepared {
            disk,
            lock,
            space_options: SpaceOptions { segment_len, ahead_len_max, how },
            mvcc: Mvcc::new(limits_from_options(&options)),
            options,
            views: Arc::new(views),
            usage: Usage::default(),
            reserve,
        })
    }

    /// The recovery of the store that is listed.
    pub(super) fn recovery<'a>(
        &'a self,
        store: &'a Description,
        listing: &Listing,
    ) -> Recovery<'a, Quota<D>> {
        Recovery {
            disk: &self.disk,
            store,
            options: self.space_options,
            mvcc: &self.mvcc,
            views: &self.views,
            usage: &self.usage,
            reserve: (!self.options.read_only).then_some(&self.reserve),
            next_number: listing.next_number,
            on_progress: self.options.on_progress.clone(),
            replay: Replay::from_options(&self.options),
        }
    }

    /// Makes the parts of the store and starts its threads.
    ///
    /// # Errors
    /// [`Error::Io`]: a thread or a descriptor was refused. The store is closed again.
    pub(super) fn start_store(self, opened: Opened<D>) -> Result<OpenStore<Quota<D>>> {
        let Prepared { disk, lock, options, space_options, views, .. } = self;
        let Opened { store, recovered, ending } = opened;
        let Recovered { tail, chain, ready, next_number, chain_of_images, report } = recovered;
        views.close_sealed_maps(tail.segment.sequence);
        let memory_budget = MemoryBudget::from_options(&options);
        let clock: Arc<dyn Env> = Arc::<Quota<D>>::clone(&disk);
        let shared = new_shared(self.mvcc, self.usage, clock, &options, &memory_budget);
        shared.user_sequence.store(tail.segment.sequence, Ordering::Relaxed);
        if let Some(ending) = ending {
            shared.durable.store(ending.durable.0, Ordering::Relaxed);
        }
        let start_workers = || start_io_workers(&*disk, options.io_threads, &shared.poison);
        let pool = (!options.single_threaded).then(start_workers).transpose()?;
        let appended = Tail { segment: Arc::clone(&tail.segment), ..tail };
        let own_from = tail.segment.sequence + u64::from(tail.offset != PAGE);
        let parts = SpaceParts {
            disk: Arc::clone(&disk),
            store,
            options: space_options,
            views: Arc::clone(&views),
            poison: Arc::clone(&shared.poison),
            pool: pool.clone(),
            quota: disk.ledger().cloned(),
            stalls: Arc::clone(&shared.stalls),
        };
        let space = Space::new(parts, self.reserve, tail, ready, next_number);
        let space = Arc::new(space.map_err(|e| Error::io(IoOp::Open, disk.path(), e))?);
        let is_direct = space_options.how == How::ReadWriteDirect;
        let appender = Appender::new(Arc::clone(&space), is_direct, appended, chain);
        let has_threads = !options.single_threaded && ending.is_none();
        let (log, log_flusher) =
            start_log(&disk, &shared, appender, &options, pool.as_ref().filter(|_| has_threads))?;
        let maintenance = Maintenance::new(
            MaintenanceParts {
                disk: Arc::clone(&disk),
                store,
                options: MaintenanceOptions {
                    checkpoint_log_len: options.checkpoint_log_len,
                    amplification_max: options.space_amplification_max,
                    memory_budget,
                },
                shared: Arc::clone(&shared),
                log: Arc::clone(&log),
                space: Arc::clone(&space),
                views: Arc::clone(&views),
                alarm: Alarm::new(options.on_space_low.clone()),
                ending,
                own_from,
            },
            chain_of_images,
            report.bytes,
        );
        let session =
            Session { log_flusher, maintenance_thread: None, lock: ManuallyDrop::new(lock) };
        let inner = OpenStore {
            disk,
            shared,
            views,
            space,
            pool,
            log,
            maintenance: Arc::new(maintenance),
            durability: options.durability,
            is_read_only: ending.is_some(),
            report,
            closed: AtomicBool::new(false),
            session: Mutex::new(Some(session)),
        };
        start_maintenance(&inner, has_threads).map(|()| inner)
    }
}

/// Makes what threads share, with all that is visible durable.
fn new_shared(
    mvcc: Mvcc<Location>,
    usage: Usage,
    clock: Arc<dyn Env>,
    options: &Options,
    memory_budget: &MemoryBudget,
) -> Arc<Shared> {
    Arc::new(Shared {
        durable: AtomicU64::new(mvcc.index.visible_lsn().0),
        mvcc,
        poison: Arc::default(),
        presence: Presence::default(),
        budget: Budget::new(memory_budget.in_flight_len_max),
        recent: Recent::new(memory_budget.recent_len),
        sync_turn: Mutex::default(),
        write_count: AtomicU64::new(0),
        groups: AtomicU64::new(0),
        overlapped: AtomicU64::new(0),
        syncs: AtomicU64::new(0),
        written_len: AtomicU64::new(0),
        user_len: AtomicU64::new(0),
        user_sequence: AtomicU64::new(0),
        phases: Phases::default(),
        usage,
        stalls: Arc::new(StallLog::new(clock)),
        look_every: maintenance_interval_len(options, memory_budget),
        reclaim_wanted: AtomicBool::new(false),
        wake_up: WakeUp::default(),
    })
}

/// Makes the log and starts the log flusher.
fn start_log<D: Disk>(
    disk: &Arc<D>,
    shared: &Arc<Shared>,
    appender: Appender<D>,
    options: &Options,
    pool: Option<&Arc<IoPool>>,
) -> Result<(Arc<LogHandle<D>>, Option<Thread>)> {
    let (queue, received) = bounded(QUEUE_COUNT_MAX);
    // Each worker writes a group. Two callers may do that, too.
    let worker_count = pool.map_or(0, |pool| 1 + helper_count_max(pool.worker_count()));
    let group_count_max = worker_count.max(2);
    let log_options = LogOptions {
        many_callers_min: options.many_callers_min,
        group_count_max,
        sync_interval: options.sync_interval,
    };
    let log = Log::new(Arc::clone(disk), Arc::clone(shared), appender, received, log_options);
    let log = LogHandle::new(Arc::clone(shared), queue, log, pool);
    if pool.is_none() {
        return Ok((log, None));
    }
    let body = Arc::clone(&log);
    let log_flusher = disk.spawn("aegis-log".to_string(), Box::new(move || body.run_flusher()));
    let log_flusher = log_flusher.map_err(|e| Error::io(IoOp::Spawn, disk.path(), e))?;
    Ok((log, Some(log_flusher)))
}

/// Starts the maintenance thread and the preparation of space. Does nothing in a read-only session.
fn start_maintenance<D: Disk>(inner: &OpenStore<Quota<D>>, has_threads: bool) -> Result<()> {
    if has_threads {
        let maintenance = Arc::clone(&inner.maintenance);
        let body = Box::new(move || maintenance.run_thread());
        // If this fails, the store is closed again, which ends the log flusher before the lock is
        // released.
        let maintenance_thread = inner.disk.spawn("aegis-upkeep".to_string(), body);
        let maintenance_thread =
            maintenance_thread.map_err(|e| Error::io(IoOp::Spawn, inner.disk.path(), e))?;
        if let Some(session) = &mut *inner.session.lock() {
            session.maintenance_thread = Some(maintenance_thread);
        }
    }
    if !inner.is_read_only {
        let suited = inner.space.reserve.resize_for(inner.maintenance.store_load());
        unheard(suited, "the reserve stays short, and ordinary writes wait for it");
        inner.disk.start_enforcing();
        inner.space.start_zeroing();
    }
    Ok(())
}

/// Log bytes between two runs of the maintenance thread: few enough for an alarm in time, and for
/// a checkpoint before the memory budget is used up.
fn maintenance_interval_len(options: &Options, memory_budget: &MemoryBudget) -> u64 {
    let threshold = options.on_space_low.as_ref().map_or(u64::MAX, |on| on.threshold);
    MAINTENANCE_EVERY
        .min((threshold / 4).min(memory_budget.check_interval_len()).max(LOOK_EVERY_MIN))
}

fn start_io_workers<D: Disk>(
    disk: &D,
    worker_count: usize,
    poison: &Arc<Poison>,
) -> Result<Arc<IoPool>> {
    let poison = Arc::clone(poison);
    let on_panic = Arc::new(move || poison.set(PoisonCause::ThreadPanicked));
    let options =
        PoolOptions { name: "aegis-io", worker_count, queue_count_max: COMMAND_COUNT_MAX };
    let pool = IoPool::start(disk, options, on_panic);
    pool.map(Arc::new).map_err(|e| Error::io(IoOp::Spawn, disk.path(), e))
}
