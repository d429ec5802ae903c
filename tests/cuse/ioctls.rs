//! What works: each ioctl, as Linux's own nodes have it.

use crate::kernel::Memory;
use crate::rig::{Rack, admin, io, namespace, passthru, pattern, small};
use slipring::cuse::ioctls::{self, PassthruCmd64, UserIo};
use slipring::cuse::wire::{IOCTL_32BIT, IOCTL_COMPAT, opcode};
use slipring::cuse::{Access, ServeOptions};
use slipring::emulated::{Backing, Config, NamespaceConfig};
use slipring::spec::command::{Command, NvmOpcode};
use slipring::spec::feature::FeatureId;
use slipring::spec::identify::{Cns, IdentifyCtrlr};
use slipring::spec::log::LogId;
use slipring::spec::status::Status;
use std::sync::Arc;
use std::time::Duration;
use zerocopy::{FromBytes, IntoBytes};

const COMPAT: u32 = IOCTL_COMPAT | IOCTL_32BIT;

#[test]
fn nodes_are_there_with_their_access() {
    let access = Access { mode: 0o640, uid: None, gid: Some(7) };
    let config = Config { namespaces: vec![namespace(16, 512), namespace(16, 4096)], ..Config::default() };
    let rack = Rack::with(config, &ServeOptions { access, ..ServeOptions::default() });
    assert_eq!(rack.served.name(), "nvme0");
    assert_eq!(rack.served.nodes(), ["nvme0", "nvme0n1", "nvme0n2"]);
    assert_eq!(rack.kernel.names(), ["nvme0", "nvme0n1", "nvme0n2"]);
    for name in rack.kernel.names() {
        assert_eq!(rack.kernel.access(&name), access);
    }
    rack.finish();
}

#[test]
fn a_taken_name_is_skipped_or_refused() {
    let rack = Rack::new(small());
    rack.kernel.take("nvme1");
    let named = |name: &str| ServeOptions { name: Some(name.into()), ..ServeOptions::default() };
    for name in ["nvme0", "nvme1"] {
        let error = rack.server.serve(&rack.rig.ctrlr, &named(name)).expect_err("taken");
        assert!(error.to_string().contains("is taken"), "{error}");
    }
    let error = rack.server.serve(&rack.rig.ctrlr, &named("nvme0n1")).expect_err("no name");
    assert!(error.to_string().contains("expected nvme and a number"), "{error}");
    let second = rack.server.serve(&rack.rig.ctrlr, &ServeOptions::default()).expect("served");
    assert_eq!(second.nodes(), ["nvme2", "nvme2n1"], "the same controller, under the next free name");
    assert!(second.withdraw(crate::support::DEADLINE));
    assert_eq!(rack.kernel.names(), ["nvme0", "nvme0n1"]);
    rack.finish();
}

#[test]
fn admin_commands_say_what_the_controller_says() {
    let rack = Rack::new(small());
    for file in [rack.ctrlr(), rack.namespace(1)] {
        let (status, _, data) =
            admin(&file, Command::identify(Cns::CTRLR, 0, 0), &[0xa5; 4096]).expect("identified");
        assert_eq!(status, 0);
        let identity = rack.rig.ctrlr.identity().expect("attached");
        assert_eq!(IdentifyCtrlr::read_from_bytes(&data).expect("4096 bytes"), *identity);
        // No data, and a result in dword 0.
        let get = Command::get_features(FeatureId::NUMBER_OF_QUEUES, 0, 0);
        assert_eq!(admin(&file, get, &[]), Ok((0, 63 << 16 | 63, Vec::new())));
        let cmd = passthru(get);
        let wide = PassthruCmd64 { opcode: cmd.opcode, cdw10_15: cmd.cdw10_15, ..Default::default() };
        let answer = file.command64(ioctls::ADMIN64_CMD, wide, &[]).expect("answered");
        assert_eq!((answer.0, answer.1), (0, 63 << 16 | 63));
        // A status is the result, with do-not-retry, and the data is untouched.
        let log = Command::get_log_page(LogId(0x77), u32::MAX, 512, 0, true);
        let (status, _, data) = admin(&file, log, &[0xa5; 512]).expect("answered");
        assert_eq!(status, i32::from(Status::INVALID_LOG_PAGE.with_dnr().0));
        assert_eq!(data, [0xa5; 512]);
        // Any nsid, as with Linux; it is the controller's to refuse.
        let (status, ..) = admin(&file, Command::identify(Cns::NS, 7, 0), &[0; 4096]).expect("answered");
        assert_eq!(status, 0, "not allocated: zeroes");
        let (status, ..) = admin(&file, Command::identify(Cns::NS, 7777, 0), &[0; 4096]).expect("answered");
        assert_eq!(status, i32::from(Status::INVALID_NAMESPACE_OR_FORMAT.with_dnr().0));
    }
    rack.finish();
}

#[test]
fn io_moves_the_right_bytes_by_every_ioctl() {
    let rack = Rack::new(small());
    let (ctrlr, ns) = (rack.ctrlr(), rack.namespace(1));
    let (first, second) = (pattern(8192, 1), pattern(8192, 2));
    assert_eq!(io(&ctrlr, Command::write(1, 100, 16), &first).expect("written").0, 0);
    assert_eq!(io(&ns, Command::read(1, 100, 16), &[0; 8192]), Ok((0, 0, first.clone())));
    let wide = |command: Command| {
        let cmd = passthru(command);
        PassthruCmd64 { opcode: cmd.opcode, nsid: cmd.nsid, cdw10_15: cmd.cdw10_15, ..Default::default() }
    };
    let written = ns.command64(ioctls::IO64_CMD, wide(Command::write(1, 200, 16)), &[&second]);
    assert_eq!(written.expect("written").0, 0);
    // A vector of odd pieces, in both directions.
    let pieces = [&[0_u8; 100][..], &[0; 1], &[0; 4000], &[0; 4091]];
    let read = ns.command64(ioctls::IO64_CMD_VEC, wide(Command::read(1, 200, 16)), &pieces).expect("read");
    assert_eq!((read.0, read.2.concat()), (0, second.clone()));
    let (left, right) = first.split_at(5001);
    let vector = ns.command64(ioctls::IO64_CMD_VEC, wide(Command::write(1, 300, 16)), &[left, &[], right]);
    assert_eq!(vector.expect("written").0, 0);
    assert_eq!(io(&ns, Command::read(1, 300, 16), &[0; 8192]), Ok((0, 0, first.clone())));
    let compare = |data: &[u8]| io(&ns, Command::compare(1, 300, 16), data).expect("compared").0;
    assert_eq!(compare(&first), 0);
    assert_eq!(compare(&second), i32::from(Status::COMPARE_FAILURE.with_dnr().0));
    let (status, ..) = io(&ns, Command::read(1, 1 << 40, 16), &[0; 8192]).expect("answered");
    assert_eq!(status, i32::from(Status::LBA_OUT_OF_RANGE.with_dnr().0));
    assert_eq!(io(&ns, Command::flush(1), &[]), Ok((0, 0, Vec::new())));
    rack.finish();
}

#[test]
fn submit_io_works_for_both_word_sizes() {
    let rack = Rack::new(small());
    let ns = rack.namespace(1);
    let data = pattern(4096, 3);
    for (ioctl, bytes, flags) in [(ioctls::SUBMIT_IO, 48, 0), (ioctls::SUBMIT_IO_32, 44, COMPAT)] {
        let mut memory = Memory::default();
        let addr = memory.add(&data);
        let slba = 40 + u64::from(flags);
        let mut run = |opcode: NvmOpcode, addr: u64| {
            let io = UserIo { opcode: opcode.0, nblocks_z: 7, addr, slba, ..UserIo::default() };
            let arg = memory.add(&io.as_bytes()[..bytes]);
            (ns.ioctl_with(ioctl, arg, flags, &memory, |_| {}), memory.read(addr, 4096))
        };
        assert_eq!(run(NvmOpcode::WRITE, addr).0, Ok(0));
        assert_eq!(run(NvmOpcode::COMPARE, addr).0, Ok(0));
        assert_eq!(run(NvmOpcode::FLUSH, addr).0, Err(libc::EINVAL), "reads, writes and compares only");
        let empty = memory.add(&[0; 4096]);
        let io = UserIo { opcode: NvmOpcode::READ.0, nblocks_z: 7, addr: empty, slba, ..UserIo::default() };
        let arg = memory.add(&io.as_bytes()[..bytes]);
        assert_eq!(ns.ioctl_with(ioctl, arg, flags, &memory, |_| {}), Ok(0));
        assert_eq!(memory.read(empty, 4096), data);
        let io = UserIo { flags: 1, ..io };
        let arg = memory.add(&io.as_bytes()[..bytes]);
        assert_eq!(ns.ioctl_with(ioctl, arg, flags, &memory, |_| {}), Err(libc::EINVAL));
    }
    rack.finish();
}

#[test]
fn what_cuse_cannot_carry_goes_through_the_process() {
    let rack = Rack::new(Config { mdts: 8, ..small() });
    let ns = rack.namespace(1);
    // Just below the limit, just above, and the most that the controller takes.
    for (seed, len) in [(1, 126_976), (2, 131_072), (3, 1 << 20)] {
        let data = pattern(len, seed);
        let blocks = len as u32 / 512;
        assert_eq!(io(&ns, Command::write(1, 1000, blocks), &data).expect("written").0, 0, "{len}");
        let (status, _, back) = io(&ns, Command::read(1, 1000, blocks), &vec![0; len]).expect("read");
        assert!(status == 0 && back == data, "{len} bytes came back as they were");
    }
    assert_eq!(io(&ns, Command::read(1, 0, 2056), &vec![0; 2056 * 512]), Err(libc::EINVAL), "beyond MDTS");
    // More pieces than CUSE has room for.
    let data = pattern(300 * 512, 4);
    let pieces: Vec<_> = data.chunks(512).collect();
    let command = passthru(Command::write(1, 5000, 300));
    let command = PassthruCmd64 {
        opcode: command.opcode,
        nsid: 1,
        cdw10_15: command.cdw10_15,
        ..PassthruCmd64::default()
    };
    assert_eq!(ns.command64(ioctls::IO64_CMD_VEC, command, &pieces).expect("written").0, 0);
    let (_, _, back) = io(&ns, Command::read(1, 5000, 300), &vec![0; 300 * 512]).expect("read");
    assert_eq!(back, data);
    // A process that cannot be reached: CUSE's own limit, and its own error.
    let mut hidden = rack.namespace(1);
    hidden.hide = true;
    assert_eq!(io(&hidden, Command::read(1, 1000, 248), &vec![0; 126_976]).expect("read").0, 0);
    assert_eq!(io(&hidden, Command::read(1, 1000, 256), &vec![0; 131_072]), Err(libc::ENOMEM));
    assert_eq!(io(&hidden, Command::write(1, 1000, 256), &vec![0; 131_072]), Err(libc::ENOMEM));
    rack.finish();
}

#[test]
fn block_devices_ioctls_have_linuxs_units() {
    let config = Config { namespaces: vec![namespace(16, 512), namespace(16, 4096)], ..Config::default() };
    let rack = Rack::new(config);
    for (nsid, block) in [(1, 512_u32), (2, 4096)] {
        let ns = rack.namespace(nsid);
        let get = |ioctl: u32, len: usize, flags: u32| {
            let mut memory = Memory::default();
            let arg = memory.add(&vec![0xff; len]);
            let result = ns.ioctl_with(ioctl, arg, flags, &memory, |_| {});
            result.map(|result| (result, memory.read(arg, len)))
        };
        assert_eq!(get(ioctls::BLKGETSIZE64, 8, 0), Ok((0, (16_u64 << 20).to_le_bytes().to_vec())));
        assert_eq!(get(ioctls::BLKGETSIZE64_32, 8, COMPAT), Ok((0, (16_u64 << 20).to_le_bytes().to_vec())));
        assert_eq!(get(ioctls::BLKGETSIZE, 8, 0), Ok((0, (16_u64 << 11).to_le_bytes().to_vec())));
        assert_eq!(get(ioctls::BLKGETSIZE, 4, COMPAT), Ok((0, (16_u32 << 11).to_le_bytes().to_vec())));
        assert_eq!(get(ioctls::BLKSSZGET, 4, 0), Ok((0, block.to_le_bytes().to_vec())));
        assert_eq!(get(ioctls::BLKPBSZGET, 4, 0), Ok((0, block.to_le_bytes().to_vec())));
        assert_eq!(get(ioctls::BLKROGET, 4, 0), Ok((0, vec![0; 4])));
        assert_eq!(get(ioctls::BLKFLSBUF, 0, 0), Ok((0, vec![])));
        assert_eq!(get(ioctls::BLKRRPART, 0, 0), Ok((0, vec![])));
        let mut memory = Memory::default();
        let (good, bad) = (memory.add(&4096_u64.to_le_bytes()), memory.add(&768_u64.to_le_bytes()));
        assert_eq!(ns.ioctl(ioctls::BLKBSZSET, good, &memory), Ok(0));
        assert_eq!(ns.ioctl(ioctls::BLKBSZSET, bad, &memory), Err(libc::EINVAL));
        assert_eq!(ns.ioctl(ioctls::ID, 0, &memory), Ok(nsid.cast_signed()));
    }
    rack.finish();
}

/// A namespace that its controller protects from writing (NSATTR) says so, as Linux's does; nobody else is kept from trying.
#[test]
fn a_write_protected_namespace_says_so() {
    let image = std::env::temp_dir().join(format!("slipring-{}-write-protected", std::process::id()));
    std::fs::write(&image, vec![7; 1 << 20]).expect("an image");
    let protected = NamespaceConfig {
        backing: Backing::Image { path: image.clone(), read_only: true },
        ..namespace(0, 512)
    };
    let config = Config { namespaces: vec![protected, namespace(16, 512)], ..Config::default() };
    let rack = Rack::new(config);
    for (nsid, is_protected) in [(1, 1), (2, 0)] {
        let ns = rack.namespace(nsid);
        let mut memory = Memory::default();
        let arg = memory.add(&[0xff; 4]);
        assert_eq!(ns.ioctl(ioctls::BLKROGET, arg, &memory), Ok(0));
        assert_eq!(memory.read(arg, 4), [is_protected, 0, 0, 0], "namespace {nsid}");
        let (status, ..) =
            io(&ns, Command::write(nsid, 0, 1), &[1; 512]).expect("the controller's to refuse");
        assert_eq!(status != 0, is_protected == 1, "{status:#x}");
        assert_eq!(io(&ns, Command::read(nsid, 0, 1), &[0; 512]).expect("read").0, 0);
    }
    rack.finish();
    std::fs::remove_file(image).expect("it was there");
}

/// Where there is one, on the controller's node only; answered when it is over, and all goes on.
#[test]
fn a_subsystem_reset_is_over_when_it_is_answered() {
    let rack = Rack::new(Config { nssr: Some(Duration::from_millis(20)), ..small() });
    let (ctrlr, ns, memory) = (rack.ctrlr(), rack.namespace(1), Memory::default());
    let data = pattern(512, 1);
    assert_eq!(io(&ns, Command::write(1, 5, 1), &data).expect("written").0, 0);
    assert_eq!(ns.ioctl(ioctls::SUBSYS_RESET, 0, &memory), Err(libc::ENOTTY));
    for round in 1..=3 {
        assert_eq!(ctrlr.ioctl(ioctls::SUBSYS_RESET, 0, &memory), Ok(0));
        assert_eq!(rack.rig.ctrlr.statistics().subsystem_resets, round);
        assert_eq!(io(&ns, Command::read(1, 5, 1), &[0; 512]), Ok((0, 0, data.clone())));
    }
    rack.finish();
}

#[test]
fn the_rest_is_refused_as_linux_refuses_it() {
    let config = Config { namespaces: vec![namespace(16, 512), namespace(16, 4096)], ..Config::default() };
    let rack = Rack::new(config);
    let (ctrlr, ns) = (rack.ctrlr(), rack.namespace(2));
    let memory = Memory::default();
    for ioctl in [
        ioctls::ID,
        ioctls::SUBMIT_IO,
        ioctls::IO64_CMD,
        ioctls::IO64_CMD_VEC,
        ioctls::SUBSYS_RESET,
        ioctls::BLKGETSIZE64,
        0x5401,
        0,
        u32::MAX,
    ] {
        assert_eq!(ctrlr.ioctl(ioctl, 0, &memory), Err(libc::ENOTTY), "{ioctl:#x} on the controller");
    }
    for ioctl in [ioctls::RESET, ioctls::SUBSYS_RESET, 0x5401, 0x127c] {
        assert_eq!(ns.ioctl(ioctl, 0, &memory), Err(libc::ENOTTY), "{ioctl:#x} on the namespace");
    }
    assert_eq!(io(&ctrlr, Command::flush(1), &[]), Err(libc::EINVAL), "which of two namespaces?");
    assert_eq!(io(&ns, Command::read(1, 0, 1), &[0; 4096]), Err(libc::EINVAL), "another namespace");
    let flags = ioctls::PassthruCmd { flags: 1, ..passthru(Command::flush(2)) };
    assert_eq!(ns.command(ioctls::IO_CMD, flags, &[]), Err(libc::EINVAL), "flags");
    let line = Arc::clone(&ns.line);
    assert_eq!(line.ask(opcode::READ, 0, 1, &[&[0; 40]]), Err(libc::EINVAL));
    assert_eq!(line.ask(opcode::WRITE, 0, 1, &[&[0; 40], b"data"]), Err(libc::EINVAL));
    assert_eq!(line.ask(opcode::FSYNC, 0, 1, &[&[0; 16]]), Err(libc::ENOSYS));
    let poll = line.ask(opcode::POLL, 0, 1, &[&[0; 24]]).expect("always ready");
    assert_eq!(poll.len(), 8);
    rack.finish();
}
