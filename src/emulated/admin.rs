//! Admin commands but for Identify, log pages and features: queues, Abort, Async Event Request, Format, Namespace Attachment
//! (NVMe Base 2.0, 5).
#![forbid(unsafe_code)]

use super::device::{Device, Reply};
use super::events::Event;
use super::namespace::Namespace;
use super::prp::Cursor;
use super::queues::{Bell, CQE_BYTES, Cq, Entries, Held, SQE_BYTES, Sq, reset_cell};
use crate::spec::command::{AdminOpcode, BROADCAST_NSID, Command};
use crate::spec::status::Status;

/// The controller's id.
pub(super) const CNTLID: u16 = 0;
/// Identifiers in a controller list at most.
const CONTROLLER_LIST_MAX: usize = 2047;
/// Bytes of a controller list.
const LIST_BYTES: usize = 4096;

/// LBA formats without metadata, as logarithms of the block size.
pub(super) const LBA_SHIFTS: [u8; 2] = [9, 12];

impl Device {
    /// Executes an admin command; `None` when it stays outstanding.
    pub(super) fn admin(&mut self, command: &Command) -> Option<Reply> {
        let opcode = AdminOpcode(command.opcode);
        let reply = match opcode {
            AdminOpcode::CREATE_IO_CQ
            | AdminOpcode::CREATE_IO_SQ
            | AdminOpcode::DELETE_IO_CQ
            | AdminOpcode::DELETE_IO_SQ
            | AdminOpcode::ABORT
            | AdminOpcode::ASYNC_EVENT_REQUEST
                if command.nsid != 0 =>
            {
                // These commands have no namespace.
                Err(Status::INVALID_FIELD.with_dnr())
            }
            AdminOpcode::CREATE_IO_CQ => self.create_cq(command),
            AdminOpcode::CREATE_IO_SQ => self.create_sq(command),
            AdminOpcode::DELETE_IO_CQ => self.delete_cq(command),
            AdminOpcode::DELETE_IO_SQ => self.delete_sq(command),
            AdminOpcode::ABORT => self.abort(command),
            AdminOpcode::ASYNC_EVENT_REQUEST => match self.request_event(command) {
                Ok(()) => return None,
                Err(status) => Err(status),
            },
            AdminOpcode::IDENTIFY => self.identify(command),
            AdminOpcode::GET_LOG_PAGE => self.get_log_page(command),
            AdminOpcode::GET_FEATURES => self.get_features(command),
            AdminOpcode::SET_FEATURES => self.set_features(command),
            AdminOpcode::FORMAT_NVM => self.format(command),
            AdminOpcode::NAMESPACE_ATTACHMENT => self.attach_namespace(command),
            AdminOpcode::GET_LBA_STATUS => self.get_lba_status(command),
            AdminOpcode::KEEP_ALIVE => self.keep_alive(command),
            _ => Err(Status::INVALID_OPCODE.with_dnr()),
        };
        Some(reply)
    }

    /// A refusal of something that the driver, and not whoever gave it a command, did wrong.
    fn refuse<T>(&self, status: Status, why: String) -> Result<T, Status> {
        self.transport.violations.record(why);
        Err(status.with_dnr())
    }

    /// Checks what both kinds of queue have in common, and finds their memory.
    fn queue_memory(
        &self,
        kind: &str,
        command: &Command,
        exists: bool,
        entry: usize,
    ) -> Result<(u32, Entries), Status> {
        let qid = command.cdw10 as u16;
        let entries = (command.cdw10 >> 16) + 1;
        let refuse = |status: Status, why: String| {
            self.refuse(status, format!("Create I/O {kind} Queue {qid}: {why}"))
        };
        if qid == 0 || qid > self.features.queues {
            let most = self.features.queues;
            return refuse(Status::INVALID_QUEUE_ID, format!("the id is not among 1 to {most}"));
        }
        if exists {
            return refuse(Status::INVALID_QUEUE_ID, "it exists".to_owned());
        }
        if !(2..=self.config.mqes).contains(&entries) {
            let most = self.config.mqes;
            return refuse(
                Status::INVALID_QUEUE_SIZE,
                format!("{entries} entries are not among 2 to {most}"),
            );
        }
        if command.cdw11 & 1 == 0 {
            return refuse(
                Status::INVALID_FIELD,
                "PC is 0, and CAP.CQR asks for contiguous queues".to_owned(),
            );
        }
        let (iova, bytes) = (command.prp1, entries as usize * entry);
        if iova % self.memory.page_size as u64 != 0 {
            return refuse(Status::INVALID_PRP_OFFSET, format!("PRP1 {iova:#x} is not aligned to a page"));
        }
        let found = Entries::find(&self.memory.port.table, iova, bytes);
        match found {
            Some(memory) => Ok((entries, memory)),
            None => refuse(
                Status::DATA_TRANSFER_ERROR,
                format!("its {bytes} bytes at {iova:#x} are not mapped for the device"),
            ),
        }
    }

    fn create_cq(&mut self, command: &Command) -> Reply {
        // An admin-only controller has no I/O queues.
        if self.control.cc().css() == 0b111 {
            return Err(Status::INVALID_OPCODE.with_dnr());
        }
        let qid = command.cdw10 as u16;
        let exists = self.cqs.get(usize::from(qid)).is_some_and(Option::is_some);
        let (entries, memory) = self.queue_memory("Completion", command, exists, CQE_BYTES)?;
        let mut interrupt = None;
        if command.cdw11 & 2 != 0 {
            let vector = (command.cdw11 >> 16) as u16;
            interrupt = self.vector(vector);
            if interrupt.is_none() {
                let why =
                    format!("Create I/O Completion Queue {qid}: interrupt vector {vector} is not enabled");
                return self.refuse(Status::INVALID_INTERRUPT_VECTOR, why);
            }
        }
        let bell = Bell::new(&self.transport.doorbells, self.cq_cell(qid));
        self.cqs[usize::from(qid)] = Some(Cq::new(qid, entries, bell, memory, interrupt));
        Ok(0)
    }

    fn create_sq(&mut self, command: &Command) -> Reply {
        if self.control.cc().css() == 0b111 {
            return Err(Status::INVALID_OPCODE.with_dnr());
        }
        let (qid, cqid) = (command.cdw10 as u16, (command.cdw11 >> 16) as u16);
        let exists = self.sq_exists.get(usize::from(qid)).is_some_and(|&exists| exists);
        let (entries, memory) = self.queue_memory("Submission", command, exists, SQE_BYTES)?;
        if cqid == 0 || cqid > self.features.queues {
            let why =
                format!("Create I/O Submission Queue {qid}: {cqid} is not the id of an I/O completion queue");
            return self.refuse(Status::INVALID_QUEUE_ID, why);
        }
        let Some(cq) = &mut self.cqs[usize::from(cqid)] else {
            let why = format!("Create I/O Submission Queue {qid}: completion queue {cqid} does not exist");
            return self.refuse(Status::INVALID_COMPLETION_QUEUE, why);
        };
        cq.submission_entries += entries;
        if cq.submission_entries > cq.entries {
            let (room, need) = (cq.entries, cq.submission_entries);
            self.transport.violations.record(format!(
                "completion queue {cqid} has {room} entries and its submission queues {need}: completions may not find room"
            ));
        }
        let bell = Bell::new(&self.transport.doorbells, self.sq_cell(qid));
        self.sqs.push(Sq::new(qid, cqid, entries, bell, memory));
        self.sq_exists[usize::from(qid)] = true;
        self.transport.registers.set_shutdown_due(true);
        Ok(0)
    }

    fn delete_cq(&mut self, command: &Command) -> Reply {
        let qid = command.cdw10 as u16;
        if qid == 0 || self.cqs.get(usize::from(qid)).is_none_or(Option::is_none) {
            let why = format!("Delete I/O Completion Queue {qid}: there is no such I/O queue");
            return self.refuse(Status::INVALID_QUEUE_ID, why);
        }
        if let Some(sq) = self.sqs.iter().find(|sq| sq.cqid == qid) {
            let why = format!(
                "Delete I/O Completion Queue {qid}: submission queue {} still uses it and comes first",
                sq.qid
            );
            return self.refuse(Status::INVALID_QUEUE_DELETION, why);
        }
        self.cqs[usize::from(qid)] = None;
        reset_cell(&self.transport.doorbells, self.cq_cell(qid));
        Ok(0)
    }

    fn delete_sq(&mut self, command: &Command) -> Reply {
        let qid = command.cdw10 as u16;
        let found = self.sqs.iter().position(|sq| sq.qid == qid && qid != 0);
        let Some(index) = found else {
            let why = format!("Delete I/O Submission Queue {qid}: there is no such I/O queue");
            return self.refuse(Status::INVALID_QUEUE_ID, why);
        };
        // What is outstanding is completed as far as there is room; the rest is completed by the deletion itself.
        while let Some(Held { command, .. }) = self.sqs[index].held.pop() {
            let cqid = usize::from(self.sqs[index].cqid);
            if self.cqs[cqid].as_ref().is_some_and(|cq| !cq.is_full()) {
                self.complete(index, &command, Err(Status::ABORTED_SQ_DELETION));
            }
        }
        let sq = self.sqs.remove(index);
        self.sq_exists[usize::from(qid)] = false;
        if let Some(cq) = &mut self.cqs[usize::from(sq.cqid)] {
            cq.submission_entries -= sq.entries;
            cq.interrupt();
        }
        reset_cell(&self.transport.doorbells, self.sq_cell(qid));
        Ok(0)
    }

    /// Whether as many Aborts are outstanding as ACL allows. That takes a latency; without one they are over at once.
    pub(super) fn is_abort_limit_reached(&self) -> bool {
        let aborts = self.sqs[0].held.iter().filter(|held| held.command.opcode == AdminOpcode::ABORT.0);
        aborts.count() >= usize::from(self.config.aborts)
    }

    /// Abort. Only what is held can still be aborted; its completion follows. Dword 0 is 0 when it will be.
    fn abort(&mut self, command: &Command) -> Reply {
        let (sqid, cid) = (command.cdw10 as u16, (command.cdw10 >> 16) as u16);
        let now = self.now();
        let Some(sq) = self.sqs.iter_mut().find(|sq| sq.qid == sqid) else {
            return Err(Status::INVALID_FIELD.with_dnr());
        };
        if sqid == 0 && self.events.withdraw(cid) {
            let command = Command { opcode: AdminOpcode::ASYNC_EVENT_REQUEST.0, cid, ..Command::default() };
            sq.held.push(Held { due: now, sequence: 0, aborted: true, command, mischief: None });
            return Ok(0);
        }
        if sq.held.iter().all(|held| held.command.cid != cid || held.aborted) {
            return Ok(1);
        }
        let mut held = std::mem::take(&mut sq.held).into_vec();
        if let Some(found) = held.iter_mut().find(|held| held.command.cid == cid) {
            found.aborted = true;
            found.due = now;
        }
        sq.held = held.into();
        Ok(0)
    }

    fn request_event(&mut self, command: &Command) -> Result<(), Status> {
        if self.events.request(command.cid, self.mischief) {
            return Ok(());
        }
        let most = self.config.async_events;
        self.transport.violations.record(format!("Async Event Request beyond the {most} that AERL allows"));
        Err(Status::AER_LIMIT_EXCEEDED.with_dnr())
    }

    /// The index of an allocated namespace, attached or not.
    pub(super) fn allocated_namespace(&self, nsid: u32) -> Result<usize, Status> {
        if nsid == 0 || nsid > self.config.nn {
            return Err(Status::INVALID_NAMESPACE_OR_FORMAT.with_dnr());
        }
        let index = nsid as usize - 1;
        if index < self.namespaces.len() { Ok(index) } else { Err(Status::INVALID_FIELD.with_dnr()) }
    }

    /// The index of a namespace that is attached to this controller.
    pub(super) fn active_namespace(&self, nsid: u32) -> Result<usize, Status> {
        let index = self.allocated_namespace(nsid)?;
        if self.namespaces[index].attached { Ok(index) } else { Err(Status::INVALID_FIELD.with_dnr()) }
    }

    /// Format NVM (NVM Command Set 1.0 and NVMe Base 2.0, 5.14).
    fn format(&mut self, command: &Command) -> Reply {
        let which: Vec<usize> = if command.nsid == BROADCAST_NSID {
            (0..self.namespaces.len()).filter(|&index| self.namespaces[index].attached).collect()
        } else {
            vec![self.active_namespace(command.nsid)?]
        };
        let (lbaf, metadata, protection) =
            (command.cdw10 & 0xf, command.cdw10 >> 4 & 1, command.cdw10 >> 5 & 0b1111);
        let (erase, lbaf_upper) = (command.cdw10 >> 9 & 0b111, command.cdw10 >> 12 & 0b11);
        let format = (lbaf | lbaf_upper << 4) as usize;
        // No metadata, no protection information; a cryptographic erase needs a key.
        let invalid_format = Status::INVALID_FORMAT.with_dnr();
        let without_metadata = format.checked_sub(self.config.metadata_formats.into());
        let lba_shift =
            without_metadata.and_then(|index| LBA_SHIFTS.get(index)).copied().ok_or(invalid_format)?;
        if metadata != 0 || protection != 0 {
            return Err(invalid_format);
        }
        if erase > 1 {
            return Err(Status::INVALID_FIELD.with_dnr());
        }
        let fits = |ns: &Namespace| ns.bytes().is_multiple_of(1 << lba_shift);
        if which.iter().any(|&index| self.namespaces[index].read_only) {
            return Err(Status::NAMESPACE_WRITE_PROTECTED.with_dnr());
        }
        if !which.iter().all(|&index| fits(&self.namespaces[index])) {
            return Err(invalid_format);
        }
        for index in which {
            self.namespaces[index].format(lba_shift)?;
            let nsid = self.namespaces[index].nsid;
            self.namespace_changed(nsid);
        }
        Ok(0)
    }

    /// Namespace Attachment (NVMe Base 2.0, 5.20).
    fn attach_namespace(&mut self, command: &Command) -> Reply {
        let attach = match command.cdw10 & 0xf {
            0 => true,
            1 => false,
            _ => return Err(Status::INVALID_FIELD.with_dnr()),
        };
        if command.nsid == BROADCAST_NSID {
            return Err(Status::INVALID_FIELD.with_dnr());
        }
        let index = self.allocated_namespace(command.nsid)?;
        self.memory.describe(command, LIST_BYTES)?;
        let list = &mut self.scratch[..LIST_BYTES];
        self.memory.fill_from_host(&mut Cursor::default(), list);
        let id = |i: usize| u16::from_le_bytes([list[2 * i], list[2 * i + 1]]);
        let count = usize::from(id(0));
        // The first word counts; the ids follow. There is one controller.
        if count == 0 || count > CONTROLLER_LIST_MAX || (1..=count).any(|i| id(i) != CNTLID) {
            return Err(Status::INVALID_CONTROLLER_LIST.with_dnr());
        }
        let namespace = &mut self.namespaces[index];
        match (namespace.attached, attach) {
            (true, true) => return Err(Status::NAMESPACE_ALREADY_ATTACHED.with_dnr()),
            (false, false) => return Err(Status::NAMESPACE_NOT_ATTACHED.with_dnr()),
            _ => namespace.attached = attach,
        }
        self.namespace_changed(command.nsid);
        Ok(0)
    }

    /// Logs a change of a namespace, and raises the event if the driver asked for it.
    fn namespace_changed(&mut self, nsid: u32) {
        const NAMESPACE_ATTRIBUTE_NOTICES: u32 = 1 << 8;
        self.logs.namespace_changed(nsid);
        if self.features.async_event_config() & NAMESPACE_ATTRIBUTE_NOTICES != 0 {
            self.events.raise(Event::NAMESPACE_CHANGED);
        }
    }
}
