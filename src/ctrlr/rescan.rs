//! Reading the namespaces: the active list, then each one's Identify data and, of a controller with several command sets, its command set; then a new
//! snapshot for everybody.
//!
//! Nothing is allocated by NN, which may be any number: the active list says how many there are (NVMe Base 2.0, 5.17.2.3), with the walk from
//! 1 to NN for controllers of NVMe 1.0 that have no such list.
#![forbid(unsafe_code)]

use super::bring_up::CSS_ALL;
use super::core::{Core, Phase, Purpose};
use super::message::{Refusal, Reply};
use super::namespace::{Namespace, Unsupported};
use super::registers::read_cc;
use crate::dma::DmaSlice;
use crate::ring::Outcome;
use crate::spec::command::Command;
use crate::spec::completion::Completion;
use crate::spec::identify::{Cns, IdentifyNs, NsDescriptor, ns_descriptors};
use crate::spec::status::Status;
use zerocopy::FromBytes;

/// The most namespaces that the driver keeps; a controller that lists more shows the first ones.
const MAX_NAMESPACES: usize = 4096;
/// The most identifiers that are tried one by one where there is no active list.
const MAX_WALK: u32 = 256;
/// Identifiers in one active list.
const LIST_ENTRIES: usize = 1024;

/// What a command of a reading asks for.
#[derive(Clone, Copy, Debug, Default)]
enum Asked {
    /// A list of namespaces.
    #[default]
    List,
    /// The Identify data of this one.
    Ns(u32),
    /// The command set of this one.
    Csi(u32),
}

/// One reading on its way.
#[derive(Debug, Default)]
pub(super) struct Rescan {
    /// Identifiers that are still to be identified, the next one last.
    pending: Vec<u32>,
    /// Where the next list goes on, if the last one was full.
    after: Option<u32>,
    /// The identifier that was listed last, and how many were. What comes next is above it: a device that lists the same ones again, or ever more that are not
    /// there, cannot keep us reading.
    listed: (u32, usize),
    /// What was asked last.
    asked: Asked,
    /// How many commands were asked for.
    pub(super) commands: u32,
    /// Whether namespaces may be of other command sets than NVM's (CC.CSS), so that each has to be asked.
    has_command_sets: bool,
    /// The namespace found last, if its command set is still to be asked.
    csi_of: Option<u32>,
    found: Vec<Namespace>,
    /// A refusal that is passed on to those who asked.
    refused: Option<Status>,
    /// Another reading was asked for meanwhile.
    pub(super) again: bool,
}

impl Core {
    /// Starts a reading for a message or an event, unless one is on its way: then another one follows it.
    pub(super) fn start_rescan(&mut self) {
        match &mut self.rescan {
            Some(rescan) => rescan.again = true,
            None if matches!(self.phase, Phase::Running) => self.begin_rescan(),
            // Bring-up ends with one.
            None => {}
        }
    }

    /// Starts a reading.
    pub(super) fn begin_rescan(&mut self) {
        let has_command_sets = read_cc(&*self.hub.transport).css() == CSS_ALL;
        self.rescan = Some(Rescan { after: Some(0), has_command_sets, ..Rescan::default() });
        self.rescan_on();
    }

    /// Asks for the next list or namespace, or ends.
    fn rescan_on(&mut self) {
        if matches!(self.phase, Phase::TakingDown(_)) {
            // It ends with the device's stop.
            return;
        }
        let Some(rescan) = &mut self.rescan else { return };
        let command = if let Some(nsid) = rescan.csi_of.take() {
            rescan.asked = Asked::Csi(nsid);
            Command::identify(Cns::NS_DESCRIPTORS, nsid, 0)
        } else if let Some(nsid) = rescan.pending.pop() {
            rescan.asked = Asked::Ns(nsid);
            Command::identify(Cns::NS, nsid, 0)
        } else if let Some(after) = rescan.after.take() {
            rescan.asked = Asked::List;
            Command::identify(Cns::ACTIVE_NS_LIST, after, 0)
        } else {
            return self.rescan_ends();
        };
        rescan.commands += 1;
        let data = self.scratch.take().map(DmaSlice::from);
        if !self.start_driver(Purpose::Rescan, command, data) {
            self.rescan_ends();
        }
    }

    /// The answer to what was asked.
    pub(super) fn rescan_answered(&mut self, completion: Completion, data: Option<DmaSlice>) {
        let status = completion.status();
        let bytes = data.as_ref().map(|data| data.buffer().to_vec()).unwrap_or_default();
        self.scratch = self.scratch.take().or(data.map(DmaSlice::into_buffer));
        let nn = self.hub.identity.load().as_ref().map_or(0, |identity| identity.nn);
        if let Some(rescan) = &mut self.rescan {
            match rescan.asked {
                Asked::List if status.is_success() => rescan.list_read(&bytes),
                // NVMe 1.0 has no list.
                Asked::List => rescan.pending = (1..=nn.min(MAX_WALK)).rev().collect(),
                Asked::Ns(nsid) if status.is_success() => rescan.ns_read(nsid, &bytes),
                Asked::Csi(_) if status.is_success() => rescan.csi_read(&bytes),
                // Gone between the list and the question, or refused; the others are usable all the same.
                Asked::Ns(nsid) | Asked::Csi(nsid) => {
                    tracing::warn!(nsid, %status, "Identify Namespace was refused");
                    rescan.refused = Some(status);
                }
            }
        }
        self.rescan_on();
    }

    fn rescan_ends(&mut self) {
        let Some(mut rescan) = self.rescan.take() else { return };
        rescan.found.sort_unstable_by_key(|namespace| namespace.nsid);
        let found_none = rescan.found.is_empty();
        self.hub.publish_namespaces(rescan.found);
        if rescan.again {
            return self.begin_rescan();
        }
        self.announce_changes();
        for responder in self.rescan_waiters.drain(..) {
            responder.deliver(Outcome::Completed(match rescan.refused {
                Some(status) if found_none => Reply::refused(Refusal::Status(status)),
                _ => Reply::Rescanned,
            }));
        }
    }
}

impl Rescan {
    fn ns_read(&mut self, nsid: u32, bytes: &[u8]) {
        let Ok((data, _)) = IdentifyNs::read_from_prefix(bytes) else { return };
        // A namespace of no blocks is an inactive one.
        if data.nsze != 0 {
            self.found.push(Namespace::from_identify(nsid, &data));
            self.csi_of = self.has_command_sets.then_some(nsid);
        }
    }

    /// The command set of the namespace found last.
    fn csi_read(&mut self, bytes: &[u8]) {
        let csi = ns_descriptors(bytes).find(|descriptor| descriptor.nidt == NsDescriptor::CSI);
        let csi = csi.and_then(|descriptor| descriptor.nid.first().copied());
        if let (Some(csi @ 1..), Some(namespace)) = (csi, self.found.last_mut()) {
            namespace.unsupported = Some(Unsupported::CommandSet { csi });
        }
    }

    /// Takes a list in: ascending identifiers, ended by 0. One that is out of order ends it, and so does the last that the driver keeps.
    fn list_read(&mut self, bytes: &[u8]) {
        let (mut last, before) = self.listed;
        let mut count = 0;
        let room = MAX_NAMESPACES - before;
        for chunk in bytes.chunks_exact(4).take(LIST_ENTRIES) {
            let nsid = u32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]);
            if nsid <= last || count == room {
                break;
            }
            self.pending.push(nsid);
            last = nsid;
            count += 1;
        }
        self.listed = (last, before + count);
        self.pending.reverse();
        self.after = (count == LIST_ENTRIES && count < room).then_some(last);
    }
}
