//! Log pages.

use super::{assert_bits, assert_offsets};
use crate::spec::command::{AdminOpcode, NvmOpcode};
use crate::spec::log::*;
use crate::spec::status::Status;
use zerocopy::{FromBytes, IntoBytes};

#[test]
fn the_pages_are_laid_out_as_the_specification_has_them() {
    assert_offsets!(ErrorLogEntry, error_count 0, sqid 8, cmdid 10, status_field 12, parm_error_location 14, lba 16,
        nsid 24, vs 28, trtype 29, cs 32, trtype_spec_info 40);
    assert_offsets!(SmartLog, critical_warning 0, temperature 1, avail_spare 3, spare_thresh 4, percent_used 5,
        endu_grp_crit_warn_sumry 6, data_units_read 32, data_units_written 48, host_reads 64, host_writes 80,
        ctrl_busy_time 96, power_cycles 112, power_on_hours 128, unsafe_shutdowns 144, media_errors 160,
        num_err_log_entries 176, warning_temp_time 192, critical_comp_time 196, temp_sensor 200,
        thm_temp1_trans_count 216, thm_temp2_trans_count 220, thm_temp1_total_time 224, thm_temp2_total_time 228);
    assert_offsets!(FirmwareSlotLog, afi 0, frs 8);
    assert_offsets!(CommandEffectsLog, acs 0, iocs 1024);
    assert_bits!(CriticalWarning as u8, spare 0..=0, temperature 1..=1, reliability 2..=2, read_only 3..=3,
        backup_failed 4..=4, pmr 5..=5);
    assert_bits!(CommandEffects as u32, csupp 0..=0, lbcc 1..=1, ncc 2..=2, nic 3..=3, ccc 4..=4, cse 16..=18,
        uuid_sel_supported 19..=19, csp 20..=31);
}

#[test]
fn an_error_entry_carries_the_status_beside_the_phase() {
    let entry = ErrorLogEntry { error_count: 3, status_field: 0x4005, ..ErrorLogEntry::default() };
    assert!(entry.is_used());
    assert_eq!(entry.status(), Status(0x2002));
    assert!(entry.status().more());
    assert!(!ErrorLogEntry::default().is_used());
}

#[test]
fn health_is_read_in_units_people_use() {
    let mut wire = [0; 512];
    // 310 K are 37 degrees Celsius.
    (wire[0], wire[1], wire[2]) = (0b10_1010, 0x36, 0x01);
    wire[112..128].copy_from_slice(&(u128::from(u64::MAX) + 7).to_le_bytes());
    wire[200] = 0x37;
    let log = SmartLog::read_from_bytes(&wire).unwrap();
    assert_eq!((log.temperature_k(), log.temperature_celsius()), (310, 37));
    assert_eq!(SmartLog::count(log.power_cycles), u128::from(u64::MAX) + 7);
    assert_eq!(SmartLog::count(log.power_on_hours), 0);
    assert_eq!(log.temp_sensor[0], 0x37);
    let warnings = log.warnings();
    assert!(warnings.temperature() && warnings.read_only() && warnings.pmr());
    assert!(!warnings.spare() && !warnings.reliability() && !warnings.backup_failed());
    assert_eq!(log.as_bytes(), wire);
    assert_eq!(SmartLog::default().temperature_celsius(), -273);
}

#[test]
fn firmware_slots_count_from_one() {
    let mut log = FirmwareSlotLog { afi: 0x31, ..FirmwareSlotLog::default() };
    log.frs[0] = *b"1.0     ";
    log.frs[2] = *b"2.0\xff\0\0\0\0";
    assert_eq!((log.active_slot(), log.next_slot()), (1, Some(3)));
    assert_eq!([0, 1, 2, 3, 8, 255].map(|slot| log.revision(slot)), ["", "1.0", "", "2.0?", "", ""]);
    log.afi = 0x8f;
    assert_eq!((log.active_slot(), log.next_slot()), (7, None));
}

#[test]
fn changed_namespaces_end_at_zero_and_may_overflow() {
    let mut list = ChangedNsList::default();
    assert_eq!((list.iter().count(), list.is_overflown()), (0, false));
    list.nsids[..3].copy_from_slice(&[2, 4, 0]);
    assert_eq!(list.iter().collect::<Vec<_>>(), [2, 4]);
    list.nsids[0] = u32::MAX;
    assert_eq!((list.iter().count(), list.is_overflown()), (0, true));
}

#[test]
fn effects_are_looked_up_by_opcode() {
    let mut wire = vec![0; 4096];
    // Format NVM is admin opcode 0x80, Write is I/O opcode 0x01.
    wire[0x80 * 4..0x80 * 4 + 4].copy_from_slice(&0x0002_0017_u32.to_le_bytes());
    wire[1024 + 4..1024 + 8].copy_from_slice(&0x0010_0003_u32.to_le_bytes());
    let log = CommandEffectsLog::read_from_bytes(&wire).unwrap();
    let format = log.admin(AdminOpcode::FORMAT_NVM);
    assert!(format.csupp() && format.lbcc() && format.ncc() && !format.nic() && format.ccc());
    assert_eq!(format.cse(), 2);
    let write = log.io(NvmOpcode::WRITE);
    assert!(write.csupp() && write.lbcc());
    assert_eq!((write.cse(), write.csp()), (0, 1));
    assert!(!log.io(NvmOpcode::READ).csupp() && !log.admin(AdminOpcode(0xff)).csupp());
}
