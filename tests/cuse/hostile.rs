//! What does not work: clients that lie about lengths, change what they said, point nowhere, or are not allowed to.

use crate::kernel::{File, Memory};
use crate::rig::{Rack, admin, io, passthru, pattern, small};
use crate::support::{DEADLINE, PollThread, Rig};
use slipring::ctrlr::{Message, Reply};
use slipring::cuse::ioctls::{self, PassthruCmd, PassthruCmd64};
use slipring::cuse::wire::{InHeader, IoVec, IoctlIn, opcode};
use slipring::cuse::{Operation, Policy, PolicyRequest, ServeOptions, Verdict};
use slipring::emulated::Config;
use slipring::ring::{LockFree, Outcome};
use slipring::spec::command::{AdminOpcode, Command, NvmOpcode};
use slipring::spec::feature::FeatureId;
use slipring::spec::identify::Cns;
use slipring::spec::log::LogId;
use std::time::Duration;
use zerocopy::IntoBytes;

const EINVAL: i32 = libc::EINVAL;

#[test]
fn a_device_is_never_let_past_the_buffer() {
    let rack = Rack::new(small());
    let (ctrlr, ns) = (rack.ctrlr(), rack.namespace(1));
    let log = |bytes| Command::get_log_page(LogId::ERROR, u32::MAX, bytes, 0, true);
    let attachment = Command::namespace_attachment(1, false);
    let security = Command { cdw11: 513, ..Command::admin(AdminOpcode::SECURITY_RECEIVE, 0) };
    let timestamp = Command::get_features(FeatureId::TIMESTAMP, 0, 0);
    for (command, len) in [
        (Command::identify(Cns::CTRLR, 0, 0), 4092),
        (Command::identify(Cns::CTRLR, 0, 0), 0),
        (log(516), 512),
        (log(4096), 64),
        (log(1 << 20), 4096),
        (attachment, 4095),
        (attachment, 0),
        (security, 512),
        (timestamp, 4),
        (timestamp, 0),
        (Command::firmware_image_download(4096, 0), 4092),
        (Command::get_lba_status(1, 0, 0, 12, true), 8),
        (Command::get_lba_status(1, 0, 0, 12, true), 0),
    ] {
        assert_eq!(admin(&ctrlr, command, &vec![0; len]), Err(EINVAL), "{command:?} with {len} bytes");
    }
    for (command, len) in [
        (Command::read(1, 0, 2), 512),
        (Command::read(1, 0, 1), 511),
        (Command::read(1, 0, 1), 0),
        (Command::write(1, 0, 65_536), 4096),
        (Command::compare(1, 0, 9), 4096),
        (Command::dataset_management(1, 256, true), 4080),
    ] {
        assert_eq!(io(&ns, command, &vec![0; len]), Err(EINVAL), "{command:?} with {len} bytes");
    }
    // More than the device moves is fine, and comes back zeroed, whatever was there.
    let (status, _, data) = admin(&ctrlr, log(64), &[0xa5; 200]).expect("answered");
    assert_eq!((status, &data[64..]), (0, &[0; 136][..]));
    rack.finish();
}

/// The negative control: sent as a message, past the nodes' checks, such a command has the device reach beyond its buffer.
#[test]
fn without_the_checks_the_device_goes_past_the_buffer() {
    let rig = Rig::<LockFree>::attach(small());
    let poll = PollThread::spawn(rig.poller());
    let producer = rig.ctrlr.register("careless").expect("registered");
    let data = Some(Box::new(producer.allocate(4096).expect("memory").into()));
    let ticket = producer.send(Message::Io { command: Command::read(1, 0, 16), data }).expect("sent");
    let outcome = ticket.wait(DEADLINE).expect("answered");
    let Outcome::Completed(Reply::Command { status, .. }) = outcome else { panic!("{outcome:?}") };
    assert!(!status.is_success());
    let violations = rig.transport.violations();
    assert!(violations.iter().any(|violation| violation.contains("not mapped")), "{violations:?}");
    rig.ctrlr.detach(DEADLINE).expect("detached");
    assert!(poll.stop().is_none());
}

#[test]
fn a_structure_that_changes_between_rounds_is_refused() {
    let rack = Rack::new(small());
    let ns = rack.namespace(1);
    assert_eq!(io(&ns, Command::write(1, 0, 16), &pattern(8192, 1)).expect("written").0, 0);
    // Each of the structure's bytes, changed after the lengths were taken from it.
    for at in 0..72 {
        let mut memory = Memory::default();
        let addr = memory.add(&[0x11; 8192]);
        let cmd = PassthruCmd { addr, data_len: 4096, ..passthru(Command::read(1, 0, 8)) };
        let arg = memory.add(cmd.as_bytes());
        let result = ns.ioctl_with(ioctls::IO_CMD, arg, 0, &memory, |round| {
            if round == 1 {
                let changed = memory.read(arg + at, 1)[0] ^ 1;
                memory.write(arg + at, &[changed]);
            }
        });
        assert_eq!(result, Err(EINVAL), "byte {at}");
        assert_eq!(memory.read(addr, 8192), [0x11; 8192], "nothing was touched");
    }
    // Before the first copy it is simply what the client says.
    let mut memory = Memory::default();
    let addr = memory.add(&[0; 4096]);
    let cmd = PassthruCmd { addr, data_len: 4096, ..passthru(Command::read(1, 0, 9)) };
    let arg = memory.add(cmd.as_bytes());
    let result = ns.ioctl_with(ioctls::IO_CMD, arg, 0, &memory, |round| {
        if round == 0 {
            memory.write(arg + 48, &[7]);
        }
    });
    assert_eq!(result, Ok(0));
    rack.finish();
}

#[test]
fn a_vector_that_lies_is_refused() {
    let rack = Rack::new(small());
    let ns = rack.namespace(1);
    let run = |ranges: &[IoVec], count: u32| {
        let mut memory = Memory::default();
        let cmd = passthru(Command::read(1, 0, 8));
        let addr = memory.add(ranges.as_bytes());
        let cmd = PassthruCmd64 {
            opcode: cmd.opcode,
            nsid: 1,
            cdw10_15: cmd.cdw10_15,
            addr,
            data_len: count,
            ..PassthruCmd64::default()
        };
        let arg = memory.add(cmd.as_bytes());
        ns.ioctl(ioctls::IO64_CMD_VEC, arg, &memory)
    };
    let range = |base, len| IoVec { base, len };
    assert_eq!(run(&[range(16, 4096)], 1), Err(libc::EFAULT), "there is no such memory");
    assert_eq!(run(&[range(0, 4096)], 2), Err(libc::EFAULT), "the vector is shorter than it says");
    assert_eq!(run(&[range(0, u64::MAX), range(0, 4097)], 2), Err(EINVAL), "the sum overflows");
    assert_eq!(run(&[range(0, u64::MAX)], 1), Err(EINVAL));
    assert_eq!(run(&[range(0, 4095)], 1), Err(EINVAL), "too short for the read");
    assert_eq!(run(&[], 0), Err(EINVAL), "too short for the read");
    assert_eq!(run(&vec![range(0, 0); 1025], 1025), Err(EINVAL), "too many");
    rack.finish();
}

#[test]
fn pointers_to_nowhere_are_faults() {
    let rack = Rack::new(small());
    let (ctrlr, ns) = (rack.ctrlr(), rack.namespace(1));
    let mut memory = Memory::default();
    for arg in [0, 8, u64::MAX - 8] {
        assert_eq!(ctrlr.ioctl(ioctls::ADMIN_CMD, arg, &memory), Err(libc::EFAULT));
        assert_eq!(ns.ioctl(ioctls::SUBMIT_IO, arg, &memory), Err(libc::EFAULT));
        // The kernel copies nothing out that the server did not send.
        assert_eq!(ns.ioctl(ioctls::BLKGETSIZE64, arg, &memory), Err(libc::EFAULT));
    }
    for len in [512, 1 << 19] {
        let blocks = len / 512;
        for command in [Command::read(1, 0, blocks), Command::write(1, 0, blocks)] {
            let cmd = PassthruCmd { addr: 4096, data_len: len, ..passthru(command) };
            let arg = memory.add(cmd.as_bytes());
            assert_eq!(ns.ioctl(ioctls::IO_CMD, arg, &memory), Err(libc::EFAULT), "{len} bytes");
        }
    }
    rack.finish();
}

#[test]
fn the_drivers_own_commands_and_metadata_are_refused() {
    let rack = Rack::new(small());
    let ctrlr = rack.ctrlr();
    for command in [
        Command::delete_io_sq(1),
        Command::delete_io_cq(1),
        Command::create_io_sq(9, 9, 16, 0),
        Command::create_io_cq(9, 16, None),
        Command::async_event_request(),
        Command::keep_alive(),
        Command::admin(AdminOpcode::DOORBELL_BUFFER_CONFIG, 0),
        Command::set_features(FeatureId::NUMBER_OF_QUEUES, false, 0, 0),
    ] {
        assert_eq!(admin(&ctrlr, command, &[]), Err(libc::EACCES), "{command:?}");
    }
    let buffer = Command::set_features(FeatureId::HOST_MEMORY_BUFFER, false, 0, 1);
    assert_eq!(admin(&ctrlr, buffer, &[0; 4096]), Err(libc::EACCES));
    let metadata = PassthruCmd { metadata: 4096, metadata_len: 8, ..passthru(Command::read(1, 0, 1)) };
    assert_eq!(rack.namespace(1).command(ioctls::IO_CMD, metadata, &[0; 512]), Err(EINVAL));
    rack.finish();
}

/// What an ordinary user may do, with a file opened for reading, and for writing.
#[test]
fn ordinary_users_may_what_linux_lets_them() {
    let rack = Rack::new(Config { nssr: Some(Duration::ZERO), ..small() });
    let open = |name: &str, flags: i32| {
        File::open(&rack.kernel.line(name), 1000, flags as u32).expect("the mode is the kernel's to check")
    };
    let (ctrlr, reader, writer) =
        (open("nvme0", libc::O_RDWR), open("nvme0n1", libc::O_RDONLY), open("nvme0n1", libc::O_RDWR));
    let denied = Err(libc::EACCES);
    for cns in [Cns::NS, Cns::CTRLR, Cns::CSI_CTRLR] {
        assert!(admin(&ctrlr, Command::identify(cns, 1, 0), &[0; 4096]).is_ok(), "{cns:?}");
    }
    assert_eq!(admin(&ctrlr, Command::identify(Cns::ACTIVE_NS_LIST, 0, 0), &[0; 4096]), denied);
    assert_eq!(admin(&ctrlr, Command::get_log_page(LogId::SMART, 0, 512, 0, true), &[0; 512]), denied);
    assert_eq!(admin(&ctrlr, Command::format_nvm(1, 0, 0), &[]), denied);
    assert_eq!(admin(&reader, Command { opcode: 0xc0, ..Command::default() }, &[]), denied);
    let memory = Memory::default();
    for ioctl in [ioctls::RESET, ioctls::SUBSYS_RESET, ioctls::RESCAN] {
        assert_eq!(ctrlr.ioctl(ioctl, 0, &memory).err(), Some(libc::EACCES));
    }
    assert!(io(&reader, Command::read(1, 0, 1), &[0; 512]).is_ok());
    assert!(io(&reader, Command::flush(1), &[]).is_ok());
    for (command, len) in [
        (Command::write(1, 0, 1), 512),
        (Command::compare(1, 0, 1), 512),
        (Command::write_zeroes(1, 0, 1, false), 0),
        (Command::dataset_management(1, 1, true), 16),
    ] {
        assert_eq!(io(&reader, command, &vec![0; len]), denied, "{command:?} without write permission");
        assert!(io(&writer, command, &vec![0; len]).is_ok(), "{command:?} with it");
    }
    let vendors = Command { opcode: 0x80, nsid: 1, ..Command::default() };
    assert_eq!(io(&writer, vendors, &[]), denied);
    rack.finish();
}

/// An embedder's own policy is asked by opcode and caller: it can refuse root, and let others do what Linux would not; but neither on read-only nodes nor with what
/// belongs to the driver does its word count.
#[test]
fn an_embedders_policy_has_its_word() {
    let judge = |request: &PolicyRequest<'_>| match (request.uid, request.nsid, request.operation) {
        (0, _, Operation::Admin(command)) if command.opcode == AdminOpcode::FORMAT_NVM.0 => Verdict::Refuse,
        (0, _, Operation::Reset | Operation::SubsystemReset) => Verdict::Refuse,
        (1000, None, Operation::Admin(_) | Operation::Rescan) => Verdict::Allow,
        (1000, Some(1), Operation::Io(command)) if command.opcode == NvmOpcode::READ.0 => Verdict::Refuse,
        (1000, Some(1), Operation::Io(command)) if command.opcode == 0x80 => {
            assert!(!request.may_write, "the kernel said so");
            Verdict::Allow
        }
        (1001, ..) => panic!("a policy with a bug"),
        _ => Verdict::AsLinux,
    };
    for is_read_only in [false, true] {
        let policy = Some(Policy::new(judge));
        let config = Config { nssr: Some(Duration::ZERO), ..small() };
        let rack = Rack::with(config, &ServeOptions { policy, is_read_only, ..ServeOptions::default() });
        let open = |name: &str, uid: u32, flags: i32| {
            File::open(&rack.kernel.line(name), uid, flags as u32).expect("the mode is the kernel's to check")
        };
        let (ctrlr, ns, memory) = (rack.ctrlr(), rack.namespace(1), Memory::default());
        let (theirs, their_ns) = (open("nvme0", 1000, libc::O_RDONLY), open("nvme0n1", 1000, libc::O_RDONLY));
        let denied = Err(libc::EACCES);
        let log = Command::get_log_page(LogId::SMART, u32::MAX, 512, 0, true);
        // Root is refused what the policy says, and nothing else.
        assert_eq!(admin(&ctrlr, Command::format_nvm(1, 0, 0), &[]), denied);
        for ioctl in [ioctls::RESET, ioctls::SUBSYS_RESET] {
            assert_eq!(ctrlr.ioctl(ioctl, 0, &memory), Err(libc::EACCES));
        }
        assert!(admin(&ctrlr, log, &[0; 512]).is_ok() && io(&ns, Command::read(1, 0, 1), &[0; 512]).is_ok());
        // Others may what they could not, on this node, and may not what they could.
        assert!(admin(&theirs, log, &[0; 512]).is_ok());
        assert_eq!(theirs.ioctl(ioctls::RESCAN, 0, &memory), Ok(0));
        assert_eq!(theirs.ioctl(ioctls::RESET, 0, &memory), Err(libc::EACCES), "as with Linux");
        assert_eq!(admin(&their_ns, log, &[0; 512]), denied, "as with Linux");
        assert_eq!(io(&their_ns, Command::read(1, 0, 1), &[0; 512]), denied);
        assert!(io(&their_ns, Command::flush(1), &[]).is_ok(), "as with Linux");
        let vendors = io(&their_ns, Command { opcode: 0x80, nsid: 1, ..Command::default() }, &[]);
        let set = admin(&theirs, Command::set_features(FeatureId::ARBITRATION, false, 0, 0), &[]);
        assert_eq!((vendors.is_err(), set.is_err()), (is_read_only, is_read_only), "{vendors:?} {set:?}");
        // What is the driver's stays the driver's.
        assert_eq!(admin(&theirs, Command::delete_io_sq(1), &[]), denied);
        // A policy that panics has refused, and nothing more happened.
        let unlucky = open("nvme0", 1001, libc::O_RDWR);
        assert_eq!(admin(&unlucky, Command::identify(Cns::CTRLR, 0, 0), &[0; 4096]), denied);
        assert!(admin(&ctrlr, log, &[0; 512]).is_ok());
        drop((ctrlr, ns, theirs, their_ns, unlucky));
        rack.finish();
    }
}

#[test]
fn read_only_nodes_change_nothing() {
    let config = Config { nssr: Some(Duration::ZERO), ..small() };
    let rack = Rack::with(config, &ServeOptions { is_read_only: true, ..ServeOptions::default() });
    let (ctrlr, ns) = (rack.ctrlr(), rack.namespace(1));
    assert!(admin(&ctrlr, Command::identify(Cns::CTRLR, 0, 0), &[0; 4096]).is_ok());
    assert!(admin(&ctrlr, Command::get_log_page(LogId::SMART, u32::MAX, 512, 0, true), &[0; 512]).is_ok());
    assert!(admin(&ctrlr, Command::get_features(FeatureId::ARBITRATION, 0, 0), &[]).is_ok());
    assert!(io(&ns, Command::read(1, 0, 1), &[0; 512]).is_ok());
    let denied = Err(libc::EACCES);
    assert_eq!(admin(&ctrlr, Command::set_features(FeatureId::ARBITRATION, false, 0, 0), &[]), denied);
    assert_eq!(admin(&ctrlr, Command::format_nvm(1, 0, 0), &[]), denied);
    assert_eq!(admin(&ctrlr, Command { opcode: 0xc0, ..Command::default() }, &[]), denied);
    assert_eq!(io(&ns, Command::write(1, 0, 1), &[0; 512]), denied);
    assert_eq!(io(&ns, Command::write_zeroes(1, 0, 1, false), &[]), denied);
    let mut memory = Memory::default();
    assert_eq!(ctrlr.ioctl(ioctls::RESET, 0, &memory), Err(libc::EACCES));
    assert_eq!(ctrlr.ioctl(ioctls::SUBSYS_RESET, 0, &memory), Err(libc::EACCES));
    assert_eq!(ctrlr.ioctl(ioctls::RESCAN, 0, &memory), Ok(0));
    let arg = memory.add(&[0; 4]);
    assert_eq!(ns.ioctl(ioctls::BLKROGET, arg, &memory), Ok(0));
    assert_eq!(memory.read(arg, 4), [1, 0, 0, 0]);
    rack.finish();
}

/// Messages as no kernel would send them: wrong lengths, files that are not open, rounds that nobody asked for.
#[test]
fn messages_that_no_kernel_sends_are_refused() {
    let rack = Rack::new(small());
    let ns = rack.namespace(1);
    let ask = |fh: u64, cmd: u32, in_size: u32, out_size: u32, bytes: &[u8]| {
        let ioctl = IoctlIn { fh, flags: 2, cmd, arg: 4096, in_size, out_size };
        ns.line.ask(opcode::IOCTL, 0, 1, &[ioctl.as_bytes(), bytes])
    };
    let cmd = PassthruCmd { addr: 4096, data_len: 512, ..passthru(Command::read(1, 0, 1)) };
    assert_eq!(ask(ns.fh + 1, ioctls::IO_CMD, 0, 0, &[]), Err(libc::EBADF));
    assert_eq!(ask(ns.fh, ioctls::IO_CMD, 72, 4, &[0; 71]), Err(EINVAL), "fewer bytes than it says");
    assert_eq!(ask(ns.fh, ioctls::IO_CMD, 72, u32::MAX, cmd.as_bytes()), Err(EINVAL));
    assert_eq!(ask(ns.fh, ioctls::IO_CMD, 71, 4, &cmd.as_bytes()[..71]), Err(EINVAL));
    assert_eq!(ask(ns.fh, ioctls::IO_CMD, 72, 516, cmd.as_bytes()), Err(EINVAL), "a round too early");
    let retry = ask(ns.fh, ioctls::IO_CMD, 72, 4, cmd.as_bytes()).expect("asks for the data");
    assert_eq!(retry.len(), 16 + 3 * 16);
    assert_eq!(ask(ns.fh, ioctls::IO_CMD, 72, 515, cmd.as_bytes()), Err(EINVAL), "another length than asked");
    assert_eq!(ask(ns.fh, ioctls::IO_CMD, 72, 516, cmd.as_bytes()), Err(EINVAL), "and it was forgotten");
    // A header that lies.
    let header = InHeader { len: 41, opcode: opcode::IOCTL, unique: 999, ..InHeader::default() };
    ns.line.raw(header.as_bytes()).expect("sent");
    ns.line.raw(&[1, 2, 3]).expect("sent");
    assert!(io(&ns, Command::read(1, 0, 1), &[0; 512]).is_ok(), "the server is well");
    rack.finish();
}
