//! Identify: what the controller says about itself and its namespaces (NVMe Base 2.0, 5.17; NVM Command Set 1.0, 4.1.5).
#![forbid(unsafe_code)]

use zerocopy::IntoBytes;

use super::admin::{CNTLID, LBA_SHIFTS};
use super::copy::{MAX_COPY_BLOCKS, MAX_SOURCE_BLOCKS, MAX_SOURCES_Z};
use super::device::{Device, Reply};
use super::features::WARNING_TEMPERATURE_K;
use super::logs::{ERROR_ENTRIES, put_text};
use super::namespace::Namespace;
use super::prp::Cursor;
use crate::spec::command::{BROADCAST_NSID, Command};
use crate::spec::identify::{Cns, IdentifyCtrlr, IdentifyCtrlrNvm, IdentifyNs, LbaFormat, PrimaryCtrlrCaps};
use crate::spec::status::Status;

/// Bytes of every data structure of Identify.
const BYTES: usize = 4096;
/// NSIDs in a list at most.
const LIST_MAX: usize = 1024;
/// Command set identifier of the NVM command set.
const CSI_NVM: u8 = 0;

impl Device {
    /// Identify.
    pub(super) fn identify(&mut self, command: &Command) -> Reply {
        let cns = Cns(command.cdw10 as u8);
        let csi = (command.cdw11 >> 24) as u8;
        let cntid = (command.cdw10 >> 16) as u16;
        let mut page = [0; BYTES];
        let invalid = Err(Status::INVALID_FIELD.with_dnr());
        match cns {
            Cns::CTRLR => page.copy_from_slice(self.identify_ctrlr().as_bytes()),
            _ if self.config.version < first_version(cns) => return invalid,
            Cns::NS => page.copy_from_slice(self.identify_ns(command.nsid, false)?.as_bytes()),
            Cns::NS_ALLOCATED => page.copy_from_slice(self.identify_ns(command.nsid, true)?.as_bytes()),
            Cns::ACTIVE_NS_LIST => self.list_namespaces(command.nsid, false, &mut page)?,
            Cns::ALLOCATED_NS_LIST => self.list_namespaces(command.nsid, true, &mut page)?,
            Cns::NS_DESCRIPTORS => {
                let index = self.active_namespace(command.nsid)?;
                self.describe_namespace(index, &mut page);
            }
            Cns::CTRLR_LIST => list_controllers(cntid, true, &mut page),
            Cns::NS_CTRLR_LIST => {
                let index = self.allocated_namespace(command.nsid)?;
                list_controllers(cntid, self.namespaces[index].attached, &mut page);
            }
            // No virtual functions, and so no resources to share out.
            Cns::PRIMARY_CTRLR => {
                let caps = PrimaryCtrlrCaps { cntlid: CNTLID, ..PrimaryCtrlrCaps::default() };
                page.copy_from_slice(caps.as_bytes());
            }
            Cns::SECONDARY_CTRLRS => {}
            // The same for one command set; there is but one.
            Cns::CSI_ACTIVE_NS_LIST if csi == CSI_NVM => {
                self.list_namespaces(command.nsid, false, &mut page)?;
            }
            Cns::CSI_ALLOCATED_NS_LIST if csi == CSI_NVM => {
                self.list_namespaces(command.nsid, true, &mut page)?;
            }
            // No protection information: all zero.
            Cns::CSI_NS if csi == CSI_NVM => {
                self.active_namespace(command.nsid)?;
            }
            Cns::CSI_CTRLR if csi == CSI_NVM => {
                let limits = IdentifyCtrlrNvm {
                    wzsl: self.config.wzsl,
                    dmrsl: self.config.dmrsl,
                    ..IdentifyCtrlrNvm::default()
                };
                page.copy_from_slice(limits.as_bytes());
            }
            // One combination: the NVM command set alone.
            Cns::COMMAND_SETS => page[0] = 1 << CSI_NVM,
            _ => return invalid,
        }
        self.memory.describe(command, BYTES)?;
        self.memory.to_host(&mut Cursor::default(), &page);
        Ok(0)
    }

    fn identify_ctrlr(&self) -> IdentifyCtrlr {
        let config = &self.config;
        let mut id = IdentifyCtrlr {
            // QEMU's identifiers for PCI devices that no vendor makes.
            vid: 0x1b36,
            ssvid: 0x1af4,
            rab: 6,
            mdts: config.mdts,
            cntlid: CNTLID,
            ver: config.version,
            rtd3r: 1_000_000,
            // Ten seconds at least: its thread may have to wait for a core.
            rtd3e: config.shutdown_delay.as_micros().clamp(10_000_000, u128::from(u32::MAX)) as u32,
            // Namespace attribute notices, firmware activation notices.
            oaes: 1 << 8 | 1 << 9,
            // An I/O controller.
            cntrltype: 1,
            // Format NVM; namespace management, of which Namespace Attachment is the part that exists; Get LBA Status.
            oacs: 1 << 1 | 1 << 3 | 1 << 9,
            acl: (config.aborts - 1) as u8,
            aerl: (config.async_events - 1) as u8,
            // One firmware slot, read-only.
            frmw: 1 | 1 << 1,
            // SMART per namespace, effects log, offsets.
            lpa: 1 | 1 << 1 | 1 << 2,
            elpe: (ERROR_ENTRIES - 1) as u8,
            npss: 0,
            kas: config.kas,
            crdt1: config.crdt[0],
            crdt2: config.crdt[1],
            crdt3: config.crdt[2],
            wctemp: WARNING_TEMPERATURE_K,
            cctemp: WARNING_TEMPERATURE_K + 30,
            sqes: 0x66,
            cqes: 0x44,
            nn: config.nn,
            // Compare, Dataset Management, Write Zeroes, save and select, Verify, Copy.
            oncs: 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 7 | 1 << 8,
            // Copy's source ranges: format 0.
            ocfs: 1,
            // A write cache; Flush takes the broadcast NSID.
            vwc: 1 | 0b11 << 1,
            ..IdentifyCtrlr::default()
        };
        put_text(&mut id.sn, &config.serial);
        put_text(&mut id.mn, &config.model);
        put_text(&mut id.fr, &config.firmware);
        for (byte, value) in id.subnqn.iter_mut().zip(subsystem_nqn(&config.serial).bytes()) {
            *byte = value;
        }
        id
    }

    /// What all namespaces have in common: reads of deallocated blocks return zeroes, and the formats.
    fn common_ns(&self) -> IdentifyNs {
        let with_metadata = usize::from(self.config.metadata_formats);
        let mut id = IdentifyNs {
            nlbaf: (with_metadata + LBA_SHIFTS.len() - 1) as u8,
            dlfeat: 1 | 1 << 3,
            noiob: self.config.noiob,
            mssrl: MAX_SOURCE_BLOCKS,
            mcl: MAX_COPY_BLOCKS,
            msrc: MAX_SOURCES_Z,
            ..IdentifyNs::default()
        };
        id.lbaf[..with_metadata].fill(LbaFormat::new().with_lbads(LBA_SHIFTS[0]).with_ms(8));
        for (format, shift) in id.lbaf[with_metadata..].iter_mut().zip(LBA_SHIFTS) {
            *format = LbaFormat::new().with_lbads(shift);
        }
        id
    }

    fn namespace_data(&self, namespace: &Namespace) -> IdentifyNs {
        let format = LBA_SHIFTS.iter().position(|&shift| shift == namespace.lba_shift).unwrap_or(0) as u8;
        let format = format + self.config.metadata_formats;
        IdentifyNs {
            nsze: namespace.blocks,
            ncap: namespace.blocks,
            nuse: namespace.blocks,
            // The index: bits 3:0 in bits 3:0, bits 5:4 in bits 6:5.
            flbas: format & 0xf | format >> 4 << 5,
            nsattr: namespace.read_only.into(),
            ..self.common_ns()
        }
    }

    /// Identify Namespace. An inactive one is all zero, unless it is asked for as an allocated one.
    fn identify_ns(&self, nsid: u32, allocated: bool) -> Result<IdentifyNs, Status> {
        if nsid == BROADCAST_NSID && !allocated {
            // What all namespaces have in common.
            return Ok(self.common_ns());
        }
        match self.allocated_namespace(nsid) {
            Ok(index) if allocated || self.namespaces[index].attached => {
                Ok(self.namespace_data(&self.namespaces[index]))
            }
            // Not allocated, but valid.
            Ok(_) => Ok(IdentifyNs::default()),
            Err(status) if status.sc() == Status::INVALID_FIELD.sc() => Ok(IdentifyNs::default()),
            Err(status) => Err(status),
        }
    }

    /// NSIDs greater than the given one, in order.
    fn list_namespaces(&self, after: u32, allocated: bool, page: &mut [u8; BYTES]) -> Result<(), Status> {
        if after >= BROADCAST_NSID - 1 {
            return Err(Status::INVALID_NAMESPACE_OR_FORMAT.with_dnr());
        }
        let listed = self.namespaces.iter().filter(|ns| ns.nsid > after && (allocated || ns.attached));
        for (slot, namespace) in page.chunks_exact_mut(4).zip(listed.take(LIST_MAX)) {
            slot.copy_from_slice(&namespace.nsid.to_le_bytes());
        }
        Ok(())
    }

    /// Namespace Identification Descriptors: NGUID and UUID, which are as stable as the serial number, and the command set.
    fn describe_namespace(&self, index: usize, page: &mut [u8; BYTES]) {
        let id = identifier(&self.config.serial, self.namespaces[index].nsid);
        let uuid = uuid(id);
        let mut at = 0;
        for (kind, value) in [(2, &id[..]), (3, &uuid[..]), (4, &[CSI_NVM][..])] {
            page[at] = kind;
            page[at + 1] = value.len() as u8;
            page[at + 4..at + 4 + value.len()].copy_from_slice(value);
            at += 4 + value.len();
        }
    }
}

/// Sixteen bytes that differ between serial numbers and namespaces (FNV-1a of both, twice).
fn identifier(serial: &str, nsid: u32) -> [u8; 16] {
    let hash = |seed: u64| {
        let bytes = serial.bytes().chain(nsid.to_le_bytes());
        bytes.fold(seed, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
    };
    let mut id = [0; 16];
    id[..8].copy_from_slice(&hash(0xcbf2_9ce4_8422_2325).to_be_bytes());
    id[8..].copy_from_slice(&hash(0x6c62_272e_07bb_0142).to_be_bytes());
    id
}

/// A UUID of version 8 (RFC 9562), which is whatever its maker wants.
fn uuid(mut id: [u8; 16]) -> [u8; 16] {
    id[6] = id[6] & 0x0f | 0x80;
    id[8] = id[8] & 0x3f | 0x80;
    id
}

/// The subsystem's name: a UUID, which the serial number makes.
fn subsystem_nqn(serial: &str) -> String {
    let hex = format!("{:032x}", u128::from_be_bytes(uuid(identifier(serial, 0))));
    let groups = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]];
    format!("nqn.2014-08.org.nvmexpress:uuid:{}", groups.join("-"))
}

/// A controller list with this controller in it, if it is listed and its id is not below `from`.
fn list_controllers(from: u16, listed: bool, page: &mut [u8; BYTES]) {
    if listed && (from..).contains(&CNTLID) {
        page[..2].copy_from_slice(&1_u16.to_le_bytes());
        page[2..4].copy_from_slice(&CNTLID.to_le_bytes());
    }
}

/// The version of NVMe that brought a data structure.
fn first_version(cns: Cns) -> u32 {
    match cns.0 {
        0x00 | 0x01 => 0x0001_0000,
        0x02 => 0x0001_0100,
        0x10..=0x13 => 0x0001_0200,
        0x03 | 0x14 | 0x15 => 0x0001_0300,
        _ => 0x0002_0000,
    }
}
