//! Identify data and log pages of any content: whatever is read of them is within them, and fit to be shown.

use crate::corpus;
use crate::dice::{Dice, fuzz};
use slipring::ctrlr::{Ctrlr, CtrlrOptions, Message, Reply};
use slipring::emulated::{self, Config};
use slipring::poller::Poller;
use slipring::ring::{LockFree, Outcome};
use slipring::spec::command::Command;
use slipring::spec::command::{AdminOpcode, NvmOpcode};
use slipring::spec::identify::{
    Cns, CommandSets, CtrlrList, IdentifyCtrlr, IdentifyCtrlrNvm, IdentifyNs, IdentifyNsIndependent,
    IdentifyNsNvm, NsIdList, PrimaryCtrlrCaps, SecondaryCtrlrList, ns_descriptors,
};
use slipring::spec::log::{
    ChangedNsList, CommandEffectsLog, ErrorLogEntry, FirmwareSlotLog, LogId, SmartLog,
};
use std::path::PathBuf;
use std::time::Instant;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Texts as a terminal may be given them: from a device, of any content.
fn check_text(text: &str) -> Result<(), String> {
    match text.chars().find(|character| !matches!(character, ' '..='~')) {
        None => Ok(()),
        Some(character) => Err(format!("{character:?} would reach a terminal in {text:?}")),
    }
}

/// Reads a structure, and gives its bytes back as they were: unknown values survive.
fn round_trip<T: FromBytes + IntoBytes + Immutable + KnownLayout>(bytes: &[u8]) -> Result<Option<T>, String> {
    let Ok((value, _)) = T::read_from_prefix(bytes) else { return Ok(None) };
    if value.as_bytes() == &bytes[..size_of::<T>()] {
        Ok(Some(value))
    } else {
        Err("bytes are changed".into())
    }
}

/// Everything that can be read of a page, taken for each of the structures that it may be.
fn read_all(bytes: &[u8], text_of: fn(&[u8]) -> String) -> Result<(), String> {
    if let Some(ctrlr) = round_trip::<IdentifyCtrlr>(bytes)? {
        for text in [ctrlr.serial(), ctrlr.model(), ctrlr.firmware(), ctrlr.subsystem_nqn()] {
            check_text(&text)?;
        }
        check_text(&text_of(&ctrlr.sn))?;
        let states = ctrlr.power_states();
        if states.is_empty() || states.len() > 32 {
            return Err(format!("{} power states", states.len()));
        }
        for state in states {
            let _ = state.max_power_uw();
        }
        let _ = (ctrlr.ieee_oui(), ctrlr.total_capacity_bytes(), ctrlr.unallocated_capacity_bytes());
    }
    if let Some(ns) = round_trip::<IdentifyNs>(bytes)? {
        let formats = ns.lba_formats();
        if formats.is_empty() || formats.len() > 64 || ns.lba_format_index() > 63 {
            return Err(format!("{} formats, {} in use", formats.len(), ns.lba_format_index()));
        }
        let _ = (ns.lba_format(), ns.capacity_bytes());
    }
    let described: usize = ns_descriptors(bytes).map(|descriptor| 4 + descriptor.nid.len()).sum();
    if described > bytes.len() {
        return Err(format!("{described} bytes of descriptors in {}", bytes.len()));
    }
    if let Some(list) = round_trip::<NsIdList>(bytes)?
        && list.iter().any(|nsid| nsid == 0)
    {
        return Err("namespace 0 is listed".into());
    }
    if let Some(list) = round_trip::<CtrlrList>(bytes)? {
        let _ = list.identifiers().len();
    }
    if let Some(list) = round_trip::<SecondaryCtrlrList>(bytes)? {
        let _ = list.entries().len();
    }
    round_trip::<CommandSets>(bytes)?;
    round_trip::<PrimaryCtrlrCaps>(bytes)?;
    round_trip::<IdentifyCtrlrNvm>(bytes)?;
    round_trip::<IdentifyNsNvm>(bytes)?;
    round_trip::<IdentifyNsIndependent>(bytes)?;
    read_logs(bytes)
}

fn read_logs(bytes: &[u8]) -> Result<(), String> {
    if let Some(entry) = round_trip::<ErrorLogEntry>(bytes)? {
        check_text(&entry.status().to_string())?;
    }
    if let Some(smart) = round_trip::<SmartLog>(bytes)? {
        let _ = (smart.temperature_celsius(), smart.warnings(), SmartLog::count(smart.power_cycles));
    }
    if let Some(log) = round_trip::<FirmwareSlotLog>(bytes)? {
        (0..=u8::MAX).try_for_each(|slot| check_text(&log.revision(slot)))?;
        let _ = (log.active_slot(), log.next_slot());
    }
    if let Some(list) = round_trip::<ChangedNsList>(bytes)?
        && (list.is_overflown() && list.iter().next().is_some() || list.iter().any(|nsid| nsid == 0))
    {
        return Err("namespaces are named that have not changed".into());
    }
    if let Some(log) = round_trip::<CommandEffectsLog>(bytes)? {
        for opcode in 0..=u8::MAX {
            let _ = (log.admin(AdminOpcode(opcode)), log.io(NvmOpcode(opcode)));
        }
    }
    Ok(())
}

/// A page of the corpus, changed, cut, or of nothing but chance.
fn draw(seed: u64, pages: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut dice = Dice::new(seed);
    let mut bytes = pages[dice.below(pages.len())].1.clone();
    let changes = dice.choose(&[0, 1, 4, 64]);
    dice.mutate(&mut bytes, changes);
    match dice.below(8) {
        0 => bytes.fill_with(|| dice.next() as u8),
        1 => bytes.truncate(dice.below(bytes.len() + 1)),
        _ => {}
    }
    bytes
}

#[test]
fn pages_of_any_content_are_read_within_bounds() {
    let pages = corpus::files("pages");
    assert!(pages.len() >= 9, "{} pages", pages.len());
    fuzz("pages", 2_000, |seed| {
        let bytes = draw(seed, &pages);
        read_all(&bytes, |_| String::new()).unwrap_or_else(|what| panic!("{what}"));
    });
}

#[test]
fn a_text_that_is_shown_as_it_comes_is_found_out() {
    let pages = corpus::files("pages");
    let as_it_comes = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let found = (0..10_000).find_map(|seed| read_all(&draw(seed, &pages), as_it_comes).err());
    assert!(found.expect("the check finds it").contains("would reach a terminal"));
}

/// The corpus is what the emulated controller said when it was last written, which `SLIPRING_FUZZ_WRITE_CORPUS=1` does. It need not be what it says now, but has as
/// many bytes, and the driver understands the answers of both.
#[test]
fn the_corpus_has_what_an_emulated_controller_says() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus/pages");
    for (name, command, len) in [
        ("identify-ns", Command::identify(Cns::NS, 1, 0), 4096),
        ("identify-ctrlr", Command::identify(Cns::CTRLR, 0, 0), 4096),
        ("active-ns-list", Command::identify(Cns::ACTIVE_NS_LIST, 0, 0), 4096),
        ("ns-descriptors", Command::identify(Cns::NS_DESCRIPTORS, 1, 0), 4096),
        ("error-log", Command::get_log_page(LogId::ERROR, u32::MAX, 64, 0, true), 64),
        ("smart-log", Command::get_log_page(LogId::SMART, u32::MAX, 512, 0, true), 512),
        ("firmware-log", Command::get_log_page(LogId::FIRMWARE_SLOT, u32::MAX, 512, 0, true), 512),
        ("changed-ns-log", Command::get_log_page(LogId::CHANGED_NS_LIST, u32::MAX, 4096, 0, true), 4096),
        ("effects-log", Command::get_log_page(LogId::COMMAND_EFFECTS, u32::MAX, 4096, 0, true), 4096),
    ] {
        let bytes = ask(command, len);
        if std::env::var_os("SLIPRING_FUZZ_WRITE_CORPUS").is_some() {
            std::fs::write(folder.join(name), &bytes).expect("written");
        }
        let kept = std::fs::read(folder.join(name)).expect("committed");
        assert_eq!(kept.len(), bytes.len(), "{name}");
        for page in [&kept, &bytes] {
            read_all(page, |_| String::new()).unwrap_or_else(|what| panic!("{name}: {what}"));
        }
    }
}

fn ask(command: Command, len: usize) -> Vec<u8> {
    let (transport, mut device) = emulated::new(Config::default()).expect("a controller");
    let mut attach =
        Ctrlr::<LockFree>::begin_attach(transport, CtrlrOptions::default()).expect("attach begins");
    let ctrlr = loop {
        match attach.step(Instant::now()).expect("attach") {
            Some(ctrlr) => break ctrlr,
            None => _ = device.step(),
        }
    };
    let mut poller = Poller::new(&ctrlr, "pages").expect("the seat");
    let data = Some(Box::new(ctrlr.allocate(len).expect("memory").into()));
    let ticket = poller.send(Message::Admin { command, data }).expect("running");
    while !ticket.is_ready() {
        poller.poll(Instant::now()).expect("well");
        device.step();
    }
    match ticket.try_take() {
        Ok(Outcome::Completed(Reply::Command { status, data: Some(data), .. })) if status.is_success() => {
            data.buffer().to_vec()
        }
        other => panic!("{command:?}: {other:?}"),
    }
}
