//! Runs a request: finds the connection that it needs, and moves to another one when that turns out to be wrong.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use parking_lot::Mutex;
use rusqlite::Connection;
use tokio::sync::mpsc;

use super::{
    answer::{Answer, Form},
    limits::{Failure, Limits},
    machine::{Machine, Saved, Stop},
    program::Program,
    running::Running,
    state::Place,
    streams::{Stream, Streams},
};
use crate::{
    error::{Error, ErrorKind, Result},
    http::{connection, download, limits::in_flight::SMALL},
    sqlite::guest::{Kind, Mode, Rules, SqlError},
    telemetry::with_request_id_async,
    tenants::tenant::Tenant,
};

/// Pieces of an answer that wait for the client.
const PIECES: usize = 2;

/// How long a read may keep the tenant's one connection from others; then it gets one of its own.
const SHORT: Duration = Duration::from_millis(50);

/// The first bound of an answer, in bytes: what is not counted. Each further one is so many times larger.
#[expect(clippy::cast_possible_truncation, reason = "64 KiB")]
const FIRST: usize = SMALL as usize;
const STEP: usize = 16;

/// One request in its stream.
pub struct Run<'r> {
    /// The limits of all.
    pub limits: &'r Limits,
    /// Where streams are counted.
    pub streams: &'r Streams,
    /// The tenant.
    pub tenant: &'r Tenant,
    running: Shared,
    /// The most that the answer may have now.
    allowed: usize,
    /// A large answer of a read is not run again with more room, but sent in pieces, if there is a place for it.
    may_send: bool,
    place: Option<download::Place>,
}

type Shared = Arc<Mutex<Running>>;

/// What is answered.
pub struct Answered {
    /// The answer, or its beginning.
    pub answer: Answer,
    /// Its rest, as it is made.
    pub rest: Option<mpsc::Receiver<Bytes>>,
}

/// What a request asks for.
pub struct Order {
    /// What is to be done.
    pub program: Program,
    /// How it is answered.
    pub form: Form,
    /// The caller may only read.
    pub read_only: bool,
}

/// Runs what a request asks for.
///
/// # Errors
/// The storage's, and those of limits; the stream is then gone. Errors of statements are in the answer.
pub async fn perform(
    (limits, streams, tenant): (&Limits, &Streams, &Tenant),
    stream: &mut Stream,
    Order { program, form, read_only }: Order,
) -> Result<Answered, Failure> {
    let (is_idle, only_describes) = (program.is_idle(), program.only_describes());
    let may_send = form == Form::Cursor && program.only_reads();
    let allowed = FIRST.min(limits.answer);
    let state = std::mem::take(&mut stream.state);
    let mut machine = Machine::new(Arc::new(program), state, Answer::new(form, allowed), read_only);
    if is_idle {
        machine.run_idle();
    }
    machine.may_grow = allowed < limits.answer;
    let running = Arc::new(Mutex::new(Running { machine, only_describes, fatal: None }));
    let mut run = Run { limits, streams, tenant, running, allowed, may_send, place: None };
    let rest = if is_idle { None } else { run.perform(stream).await? };
    if rest.is_some() {
        // What is still to be sent belongs to the machine that makes it, and it may be waiting for the client.
        return Ok(Answered { answer: Answer::new(form, 0), rest });
    }
    let mut running = run.running.lock();
    let answer = std::mem::replace(&mut running.machine.answer, Answer::new(form, 0));
    stream.state = running.machine.state.clone();
    drop(running);
    Ok(Answered { answer, rest })
}

/// How a machine ended in a job.
struct Stopped {
    stop: Stop,
    /// The job is undone on purpose: that it failed says nothing else.
    undone: bool,
}

/// How a run on one connection ended.
enum Ended {
    At(Stop),
    /// With this error for all that is left.
    Failed(SqlError),
    /// A read took too long where others wait.
    Long,
}

impl Run<'_> {
    /// Runs the program to its end, or till the rest is sent in pieces.
    async fn perform(&mut self, stream: &mut Stream) -> Result<Option<mpsc::Receiver<Bytes>>, Failure> {
        loop {
            let in_session = stream.session.is_some();
            let ended = match stream.session {
                Some(_) => self.in_session(stream).await?,
                None => self.without_session().await?,
            };
            match ended {
                Ended::At(Stop::End) => return Ok(None),
                // What has run in a transaction is not run again, but goes on from where it is.
                Ended::At(Stop::Large) if stream.session.is_some() => self.grow()?,
                Ended::At(Stop::Large) => return Ok(Some(self.send_pieces(stream))),
                Ended::At(Stop::Begins(kind)) => self.begin(stream, kind).await?,
                Ended::At(Stop::Commits) => self.commit(stream).await?,
                Ended::At(Stop::RollsBack) => {
                    if let Some(session) = stream.session.take() {
                        session.rollback().await;
                    }
                    let mut running = self.running.lock();
                    running.machine.resume(Ok(()));
                    running.machine.state.changed_schema = false;
                }
                Ended::At(_) | Ended::Long => return Err(Error::internal("a request stopped for no reason").into()),
                // OR ROLLBACK ends the transaction and is its statement's error alone.
                Ended::Failed(error) if in_session && stream.session.is_none() && error.code == "SQLITE_CONSTRAINT" => {
                    self.running.lock().machine.rolled_back(error);
                }
                Ended::Failed(error) => {
                    let mut running = self.running.lock();
                    if stream.session.is_none() {
                        running.machine.state.transaction = None;
                    }
                    running.machine.fail_rest(&error);
                    return Ok(None);
                }
            }
        }
    }

    async fn without_session(&mut self) -> Result<Ended, Failure> {
        let (saved, mut reads) = {
            let running = self.running.lock();
            (running.machine.save(), running.machine.read_only || running.machine.seems_to_read())
        };
        loop {
            let ended = match reads {
                true => self.read(&saved).await?,
                false => self.write(&saved).await?,
            };
            match &ended {
                Ended::At(Stop::Writes) => reads = false,
                Ended::At(Stop::Large) if reads && self.takes_place() => {}
                Ended::At(Stop::Large) => self.grow()?,
                Ended::At(Stop::End) if self.left_open() => {}
                // What a job did before it failed is undone, too.
                Ended::Failed(_) if !reads => {}
                _ => return Ok(ended),
            }
            let again = {
                let mut running = self.running.lock();
                let again = running.machine.runs_again;
                running.machine.restore(&saved);
                again
            };
            let in_pieces = matches!(ended, Ended::At(Stop::Large)) && self.place.is_some();
            if in_pieces || (matches!(ended, Ended::Failed(_)) && !again) {
                return Ok(ended);
            }
        }
    }

    /// Whether the answer can be sent in pieces. Whoever gets no place for that gets it whole.
    fn takes_place(&mut self) -> bool {
        self.place = self.may_send.then(|| self.limits.senders.take(self.tenant.id()).ok()).flatten();
        self.place.is_some()
    }

    /// Whether a transaction is open that is none of a session: the run is repeated up to where it begins.
    fn left_open(&self) -> bool {
        let mut running = self.running.lock();
        let open = running.machine.in_transaction();
        running.machine.stops_at_begin |= open;
        open
    }

    /// Allows a larger answer, if there is room for it.
    fn grow(&mut self) -> Result<(), Failure> {
        let next = self.allowed.saturating_mul(STEP).min(self.limits.answer);
        connection::hold(next as u64)?;
        self.allowed = next;
        let mut running = self.running.lock();
        running.machine.answer.allow(next);
        running.machine.may_grow = next < self.limits.answer;
        Ok(())
    }

    fn rules(&self, place: Place) -> Rules {
        let running = self.running.lock();
        let caller = running.machine.read_only;
        let read_only = match place {
            Place::Read => caller || !running.only_describes,
            Place::Job => caller,
            Place::Session => caller || running.machine.state.transaction.as_ref().is_some_and(|open| open.read_only),
        };
        Rules { read_only, temp: place == Place::Session && !read_only, ..self.limits.rules.clone() }
    }

    /// On the tenant's one connection, and on one of its own if it takes long.
    async fn read(&self, saved: &Saved) -> Result<Ended, Failure> {
        let rules = self.rules(Place::Read);
        let short = Rules { time: rules.time.min(SHORT), ..rules.clone() };
        let work = |rules: Rules, short: bool| {
            let (machine, saved) = (self.running.clone(), saved.clone());
            move |conn: &Connection| {
                let mut running = machine.lock();
                running.machine.restore(&saved);
                let begun = Instant::now();
                match running.on(conn, Place::Read, &rules) {
                    // It is no fault yet; what was stopped earlier than that, the combiner runs again.
                    Err(error) if short && error.kind() == ErrorKind::Timeout && begun.elapsed() >= rules.time => {
                        Ok(None)
                    }
                    ran => ran.map(Some),
                }
            }
        };
        let whole = |ran: Option<Stop>| ran.ok_or_else(|| Error::new(ErrorKind::Timeout, "it takes long"));
        let first = self.ended(self.tenant.read(work(short, true)).await.and_then(whole), true)?;
        let Ended::Long = first else { return Ok(first) };
        self.ended(self.tenant.read_long(rules.time, work(rules, false)).await.and_then(whole), false)
    }

    /// As a job of the combiner.
    async fn write(&self, saved: &Saved) -> Result<Ended, Failure> {
        let rules = self.rules(Place::Job);
        let (machine, saved, stopped) = (self.running.clone(), saved.clone(), Arc::new(Mutex::new(None)));
        let at = stopped.clone();
        let work = move |tx: &rusqlite::Transaction| {
            let mut running = machine.lock();
            running.machine.restore(&saved);
            *at.lock() = None;
            let stop = running.on(tx, Place::Job, &rules)?;
            let unfinished = running.machine.in_transaction() || running.machine.undo;
            let undone = unfinished || !matches!(stop, Stop::End | Stop::Begins(_));
            *at.lock() = Some(Stopped { stop, undone });
            if undone { Err(Error::new(ErrorKind::Conflict, "undone")) } else { Ok(stop) }
        };
        let result = self.tenant.write_short(work).await;
        let stop = stopped.lock().take();
        match (result, stop) {
            (Ok(stop), _) => {
                self.note_drift().await?;
                Ok(Ended::At(stop))
            }
            (Err(error), Some(Stopped { stop, undone: true })) if error.kind() == ErrorKind::Conflict => {
                Ok(Ended::At(stop))
            }
            (Err(error), _) => self.ended(Err(error), false),
        }
    }

    /// What a closure's result means. A fatal error of the guest's own is answered in the protocol; others are the
    /// server's.
    fn ended(&self, result: Result<Stop>, short: bool) -> Result<Ended, Failure> {
        let fatal = self.running.lock().fatal.take();
        match (result, fatal) {
            (Ok(stop), _) => Ok(Ended::At(stop)),
            (Err(error), Some(_)) if short && error.kind() == ErrorKind::Timeout => Ok(Ended::Long),
            (Err(error), Some(fatal)) if is_the_guests(&error) => {
                let message =
                    if error.kind() == ErrorKind::QuotaExceeded { error.message().to_owned() } else { fatal.message };
                Ok(Ended::Failed(SqlError::new(fatal.code, message)))
            }
            (Err(error), None) if is_full(&error) => {
                Ok(Ended::Failed(SqlError::new("SQLITE_FULL", error.message().to_owned())))
            }
            (Err(error), _) => Err(error.into()),
        }
    }

    async fn in_session(&self, stream: &mut Stream) -> Result<Ended, Failure> {
        let rules = self.rules(Place::Session);
        let machine = self.running.clone();
        let Some(session) = &mut stream.session else { return Err(Error::internal("no session").into()) };
        let result = session.run(move |conn| machine.lock().on(conn, Place::Session, &rules)).await;
        // One that was ended after it ran is kept, so that the next request hears of it and does not run without it.
        if result.is_err() && !session.is_open() {
            stream.session = None;
            let running = self.running.lock();
            let own = running.fatal.as_ref().and_then(|fatal| fatal.fatal.as_ref()).map(Error::message);
            if let Err(error) = &result
                && own != Some(error.message())
                && matches!(error.kind(), ErrorKind::Timeout | ErrorKind::Busy | ErrorKind::Conflict)
            {
                return Err(Failure::Ended(error.message().to_owned()));
            }
        }
        self.ended(result, false)
    }

    /// Runs a read that has a large answer on a connection of its own, which waits for the client.
    fn send_pieces(&mut self, stream: &mut Stream) -> mpsc::Receiver<Bytes> {
        let (sender, receiver) = mpsc::channel(PIECES);
        let rules = Rules { time: self.limits.sending, ..self.rules(Place::Read) };
        let place = self.place.take();
        {
            let mut running = self.running.lock();
            stream.state = running.machine.state.clone();
            running.machine.may_grow = false;
            running.machine.answer.allow(self.limits.pieces);
            running.machine.answer.stream_to(sender.clone());
        }
        let (running, tenant, time) = (self.running.clone(), self.tenant.clone(), rules.time);
        let work = {
            let running = running.clone();
            move |conn: &Connection| running.lock().on(conn, Place::Read, &rules)
        };
        tokio::spawn(with_request_id_async(async move {
            let result = tenant.read_long(time, work).await;
            drop(place);
            let rest = {
                let mut running = running.lock();
                let why = match (result, running.fatal.take()) {
                    (Ok(Stop::End), _) => None,
                    (Ok(_), _) => Some(SqlError::new(
                        "SQLITE_READONLY",
                        "a statement after a large answer writes; send it by itself",
                    )),
                    (Err(_), Some(fatal)) => Some(fatal),
                    (Err(error), None) => Some(SqlError::new("SQLITE_ERROR", error.message().to_owned())),
                };
                if let Some(why) = why {
                    running.machine.fail_rest(&why);
                }
                running.machine.answer.take()
            };
            // The client may have gone.
            let _ = sender.send(rest.into()).await;
        }));
        receiver
    }

    async fn begin(&self, stream: &mut Stream, kind: Kind) -> Result<(), Failure> {
        self.streams.count(stream, self.tenant.id())?;
        let reads = kind == Kind::Begin(Mode::ReadOnly) || self.running.lock().machine.read_only;
        let session = match reads {
            true => self.tenant.begin_read(self.limits.transaction).await?,
            false => self.tenant.begin_write(self.limits.transaction).await?,
        };
        stream.session = Some(session);
        self.running.lock().machine.begun(kind);
        Ok(())
    }

    async fn commit(&self, stream: &mut Stream) -> Result<(), Failure> {
        let Some(session) = &mut stream.session else { return Err(Error::internal("no session").into()) };
        let ended = match session.commit().await {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == ErrorKind::Conflict => {
                Err(SqlError::new("SQLITE_CONSTRAINT", error.message().to_owned()))
            }
            Err(error) if is_full(&error) => Err(SqlError::new("SQLITE_FULL", error.message().to_owned())),
            Err(error) => return Err(error.into()),
        };
        let over = ended.is_ok() || !session.is_open();
        let committed = ended.is_ok();
        {
            let mut running = self.running.lock();
            running.machine.resume(ended);
            if over {
                stream.session = None;
                running.machine.state.transaction = None;
            }
        }
        if committed {
            self.note_drift().await?;
        }
        Ok(())
    }

    /// Writes down that SQL has changed the schema.
    async fn note_drift(&self) -> Result<()> {
        if std::mem::take(&mut self.running.lock().machine.state.changed_schema) {
            self.tenant.mark_drifted().await?;
        }
        Ok(())
    }
}

/// Whether the guest's statement is at fault, so that the answer is one of the protocol.
fn is_the_guests(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Timeout | ErrorKind::Conflict | ErrorKind::TooLarge | ErrorKind::Invalid)
        || is_full(error)
}

fn is_full(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::DiskFull | ErrorKind::QuotaExceeded)
}
