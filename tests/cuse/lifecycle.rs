//! Nodes follow the controller: signals, deadlines, resets, namespaces that come and go, and the end with ioctls in flight.

use crate::kernel::{EINTR, File, Kernel, Memory};
use crate::rig::{Rack, admin, io, namespace, passthru, pattern, slow_admin, small};
use crate::support::{DEADLINE, PollThread, Rig, wait_until};
use slipring::ctrlr::{ControllerEvent, CtrlrOptions, CtrlrState, EventAnswer, OnEvent, Timeouts};
use slipring::cuse::ioctls::{self, PassthruCmd};
use slipring::cuse::{ServeOptions, Server};
use slipring::emulated::{Config, Faults, Latency, QueueKind};
use slipring::poller::QpairOptions;
use slipring::spec::command::{AdminOpcode, Command, NvmOpcode};
use slipring::spec::identify::{Cns, CtrlrList};
use slipring::spec::log::LogId;
use slipring::spec::status::Status;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use zerocopy::IntoBytes;

/// Longer than any test may take.
const FOR_EVER: Duration = Duration::from_secs(3600);

fn identify() -> Command {
    Command::identify(Cns::CTRLR, 0, 0)
}

fn log() -> Command {
    Command::get_log_page(LogId::SMART, u32::MAX, 512, 0, true)
}

/// A controller whose Get Log Page takes for ever.
fn stuck_log() -> Config {
    Config { latencies: vec![slow_admin(AdminOpcode::GET_LOG_PAGE.0, FOR_EVER)], ..small() }
}

#[test]
fn a_signal_ends_the_ioctl_and_aborts_the_command() {
    let rack = Rack::new(stuck_log());
    let file = rack.ctrlr();
    for _ in 0..20 {
        let file = rack.ctrlr();
        std::thread::scope(|scope| {
            let asking = scope.spawn(|| admin(&file, log(), &[0; 512]));
            // Its third round is the one that is stuck; before, EINTR ends another.
            std::thread::sleep(Duration::from_millis(5));
            // A signal stays pending, and so interrupts whichever round is next.
            wait_until("it is interrupted", || {
                if !asking.is_finished() {
                    file.interrupt();
                }
                asking.is_finished()
            });
            assert_eq!(asking.join().expect("no panic"), Err(EINTR));
        });
    }
    // They were aborted: the queue has room, or there would be none after 20 of them among 32 entries.
    let used = || rack.rig.ctrlr.dma_bytes().0;
    let before = used();
    assert_eq!(admin(&file, identify(), &[0; 4096]).expect("answered").0, 0);
    wait_until("their buffers are back", || {
        let _ = admin(&file, identify(), &[0; 4096]);
        used() <= before
    });
    rack.finish();
}

#[test]
fn a_command_that_takes_too_long_is_aborted() {
    let timeouts =
        Timeouts { abort: Duration::from_millis(200), resets_per_minute: 100, ..Timeouts::default() };
    let options = CtrlrOptions { timeouts, ..CtrlrOptions::default() };
    let rack = Rack::attach(stuck_log(), options, &ServeOptions::default());
    let file = rack.ctrlr();
    let cmd = PassthruCmd { timeout_ms: 50, ..passthru(log()) };
    // The controller answers the abort in time, so the caller learns the status; unless this machine was so busy that the controller had not even seen the command.
    let is_aborted = (0..20).any(|_| {
        let begun = Instant::now();
        let answer = file.command(ioctls::ADMIN_CMD, cmd, &[0; 512]);
        assert!(begun.elapsed() >= Duration::from_millis(50));
        match answer {
            Ok((status, ..)) => {
                assert_eq!(status & 0x7ff, i32::from(Status::ABORTED_BY_REQUEST.0));
                true
            }
            Err(error) => {
                assert_eq!(error, EINTR, "a reset");
                false
            }
        }
    });
    assert!(is_aborted);
    drop(file);
    rack.finish();
}

/// As with Linux: a command that is late and cannot be aborted is ended by a reset of the controller, and its caller is told EINTR. If the embedder objects, it is
/// left alone, and its caller let go.
#[test]
fn a_command_that_cannot_be_aborted_ends_in_a_reset_if_nobody_objects() {
    for answer in [EventAnswer::Proceed, EventAnswer::Object] {
        let latencies = [AdminOpcode::GET_LOG_PAGE, AdminOpcode::ABORT];
        let latencies = latencies.map(|opcode| slow_admin(opcode.0, FOR_EVER)).to_vec();
        let timeouts = Timeouts { abort: Duration::from_millis(50), ..Timeouts::default() };
        let on_event = Some(OnEvent::new(move |_| answer));
        let options = CtrlrOptions { timeouts, on_event, ..CtrlrOptions::default() };
        let rack = Rack::attach(Config { latencies, ..small() }, options, &ServeOptions::default());
        let file = rack.ctrlr();
        let cmd = PassthruCmd { timeout_ms: 20, ..passthru(log()) };
        assert_eq!(file.command(ioctls::ADMIN_CMD, cmd, &[0; 512]), Err(EINTR));
        let resets = u64::from(answer == EventAnswer::Proceed);
        wait_until("it is over", || rack.rig.ctrlr.state() == CtrlrState::Live);
        assert_eq!(u64::from(rack.rig.ctrlr.statistics().resets), resets);
        assert_eq!(admin(&file, identify(), &[0; 4096]).expect("answered").0, 0);
        drop(file);
        rack.finish();
    }
}

/// A caller that was sent a signal waits no more, but its command's time goes on: it is not left at the device for ever.
#[test]
fn the_time_of_a_command_goes_on_when_its_caller_has_gone() {
    let faults: Faults = "hang opcode=get-log-page nth=1\nhang opcode=abort".parse().expect("right");
    let timeouts = Timeouts { abort: Duration::from_millis(50), ..Timeouts::default() };
    let options = CtrlrOptions { timeouts, ..CtrlrOptions::default() };
    let rack = Rack::attach(Config { faults, ..small() }, options, &ServeOptions::default());
    let file = rack.ctrlr();
    let cmd = PassthruCmd { timeout_ms: 1000, ..passthru(log()) };
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| file.command(ioctls::ADMIN_CMD, cmd, &[0; 512]));
        wait_until("the device has it", || rack.rig.transport.faults_met()[0] == 1);
        wait_until("it is interrupted", || {
            if !asking.is_finished() {
                file.interrupt();
            }
            asking.is_finished()
        });
        assert_eq!(asking.join().expect("no panic"), Err(EINTR));
    });
    let reset = || rack.rig.ctrlr.statistics().resets > 0 && rack.rig.ctrlr.state() == CtrlrState::Live;
    wait_until("the controller was reset for it", reset);
    assert_eq!(admin(&file, identify(), &[0; 4096]).expect("answered").0, 0);
    drop(file);
    rack.finish();
}

/// Resets are root's to bring about: nobody else's command is late before the usual time is over.
#[test]
fn nobody_but_root_can_be_impatient() {
    let delay = Duration::from_millis(300);
    let io_takes = |opcode: NvmOpcode, delay| Latency { queue: QueueKind::Io, opcode: Some(opcode.0), delay };
    let latencies = vec![io_takes(NvmOpcode::READ, delay), io_takes(NvmOpcode::COMPARE, FOR_EVER)];
    let late = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&late);
    let on_event = OnEvent::new(move |event| {
        if let ControllerEvent::TimedOut { opcode, .. } = event {
            told.lock().expect("no panic").push(NvmOpcode(*opcode));
        }
        EventAnswer::Object
    });
    let options = CtrlrOptions { on_event: Some(on_event), ..CtrlrOptions::default() };
    let rack = Rack::attach(Config { latencies, ..small() }, options, &ServeOptions::default());
    let impatient = |command| PassthruCmd { timeout_ms: 1, ..passthru(command) };
    let other = File::open(&rack.kernel.line("nvme0n1"), 1000, libc::O_RDWR as u32).expect("opened");
    let begun = Instant::now();
    let read = other.command(ioctls::IO_CMD, impatient(Command::read(1, 0, 1)), &[0; 512]);
    assert_eq!(read.expect("read").0, 0);
    assert!(begun.elapsed() >= delay);
    let compare = impatient(Command::compare(1, 0, 1));
    assert_eq!(rack.namespace(1).command(ioctls::IO_CMD, compare, &[0; 512]), Err(EINTR), "left alone");
    assert_eq!(late.lock().expect("no panic")[..], [NvmOpcode::COMPARE]);
    drop(other);
    rack.finish();
}

#[test]
fn a_reset_leaves_nobody_without_an_answer() {
    let nssr = Some(Duration::from_millis(3));
    let rack = Rack::new(Config { nssr, ..stuck_log() });
    let memory = Memory::default();
    for round in 0..6 {
        let ioctl = if round % 2 == 0 { ioctls::RESET } else { ioctls::SUBSYS_RESET };
        let files: Vec<_> = (0..6).map(|_| rack.ctrlr()).collect();
        std::thread::scope(|scope| {
            let asking: Vec<_> =
                files.iter().map(|file| scope.spawn(|| admin(file, log(), &[0; 512]))).collect();
            std::thread::sleep(Duration::from_millis(10));
            assert_eq!(rack.ctrlr().ioctl(ioctl, 0, &memory), Ok(0));
            for (file, asking) in files.iter().zip(asking) {
                // Those that came late wait for ever at the device, and are sent a signal.
                wait_until("answered", || {
                    if !asking.is_finished() {
                        file.interrupt();
                    }
                    asking.is_finished()
                });
                assert_eq!(asking.join().expect("no panic"), Err(EINTR));
            }
        });
        assert_eq!(admin(&rack.ctrlr(), identify(), &[0; 4096]).expect("alive again").0, 0);
    }
    let statistics = rack.rig.ctrlr.statistics();
    assert_eq!((statistics.resets, statistics.subsystem_resets), (6, 3), "over when the ioctl was");
    assert_eq!(rack.served.nodes(), ["nvme0", "nvme0n1"], "the nodes stay");
    rack.finish();
}

#[test]
fn nodes_follow_namespaces() {
    let config = Config { namespaces: vec![namespace(16, 512), namespace(16, 512)], ..Config::default() };
    let rack = Rack::new(config);
    let (ctrlr, second) = (rack.ctrlr(), rack.namespace(2));
    let attach = |attach: bool| {
        let list = CtrlrList::of(0);
        admin(&ctrlr, Command::namespace_attachment(2, attach), list.as_bytes()).expect("answered").0
    };
    for _ in 0..3 {
        assert_eq!(attach(false), 0);
        // By the time that the client goes on, the node has gone.
        assert_eq!(rack.kernel.names(), ["nvme0", "nvme0n1"]);
        assert_eq!(attach(true), 0);
        wait_until("the node is back", || rack.kernel.names() == ["nvme0", "nvme0n1", "nvme0n2"]);
    }
    let gone = second.ioctl(ioctls::ID, 0, &Memory::default()).expect_err("its node has gone");
    assert!([libc::ENODEV, libc::ENOTCONN, libc::ECONNABORTED].contains(&gone), "{gone}");
    drop(second);
    let ns = rack.namespace(2);
    let block_bytes = || {
        let mut memory = Memory::default();
        let arg = memory.add(&[0; 4]);
        assert_eq!(ns.ioctl(ioctls::BLKSSZGET, arg, &memory), Ok(0));
        u32::from_le_bytes(memory.read(arg, 4).try_into().expect("4 bytes"))
    };
    assert_eq!(block_bytes(), 512);
    assert_eq!(admin(&ns, Command::format_nvm(2, 1, 0), &[]).expect("formatted").0, 0);
    assert_eq!(block_bytes(), 4096, "known when the format returns");
    assert_eq!(io(&ns, Command::read(2, 0, 1), &[0; 512]), Err(libc::EINVAL));
    assert_eq!(io(&ns, Command::read(2, 0, 1), &[0; 4096]).expect("read").0, 0);
    assert_eq!(ctrlr.ioctl(ioctls::RESCAN, 0, &Memory::default()), Ok(0));
    assert_eq!(ns.ioctl(ioctls::RESCAN, 0, &Memory::default()), Ok(0));
    rack.finish();
}

/// The names go first, then each ioctl in flight is answered, and those who have a node open are told that the device is gone.
#[test]
fn a_withdrawn_controller_answers_until_it_is_closed() {
    let rack = Rack::new(stuck_log());
    let (file, other) = (rack.ctrlr(), rack.ctrlr());
    std::thread::scope(|scope| {
        let before = rack.rig.ctrlr.statistics().messages;
        let asking = scope.spawn(|| admin(&file, log(), &[0; 512]));
        wait_until("it is at the device", || rack.rig.ctrlr.statistics().messages > before);
        let withdrawing = scope.spawn(|| rack.served.withdraw(DEADLINE));
        wait_until("the names are gone", || rack.kernel.names().is_empty());
        let gone = other.ioctl(ioctls::ID, 0, &Memory::default()).expect_err("gone");
        assert!([libc::ENODEV, libc::ENOTCONN, libc::ECONNABORTED].contains(&gone), "{gone}");
        assert_eq!(asking.join().expect("no panic"), Err(libc::ENODEV));
        assert!(withdrawing.join().expect("no panic"));
    });
    drop((file, other));
    rack.rig.ctrlr.detach(DEADLINE).expect("detached");
    assert!(rack.poll.stop().is_none());
    rack.rig.finish();
}

/// A thousand controllers come, are served, and go with ioctls in flight: all of them are answered, the nodes go, nothing is left behind.
#[test]
fn a_thousand_detaches_with_ioctls_in_flight() {
    const ROUNDS: usize = 1000;
    let kernel = Kernel::default();
    let server = Server::start(kernel.clone()).expect("a server");
    let descriptors = || std::fs::read_dir("/proc/self/fd").expect("our descriptors").count();
    let mut before = None;
    for round in 0..ROUNDS {
        let rig = Rig::attach(Config { io_queues: 2, ..stuck_log() });
        let poll = PollThread::spawn(rig.poller());
        let served = server.serve(&rig.ctrlr, &ServeOptions::default()).expect("served");
        let files: Vec<_> = (0..3).map(|_| kernel.open_node("nvme0")).collect();
        std::thread::scope(|scope| {
            let asking: Vec<_> = files
                .iter()
                .map(|file| scope.spawn(|| admin(file, log(), &[0; 512]).map(|(status, ..)| status)))
                .collect();
            // At every moment of the three rounds, and after.
            std::thread::sleep(Duration::from_micros(round as u64 % 50 * 20));
            rig.ctrlr.detach(DEADLINE).expect("detached");
            for asking in asking {
                let error = asking.join().expect("no panic").expect_err("the command cannot end");
                assert!([libc::ENODEV, libc::ENOTCONN, libc::ECONNABORTED].contains(&error), "{error}");
            }
        });
        drop(files);
        assert!(served.wait_gone(DEADLINE), "round {round}");
        assert_eq!(kernel.names(), Vec::<String>::new());
        assert!(poll.stop().is_none());
        drop(served);
        rig.finish();
        if round == 10 {
            before = Some(descriptors());
        }
    }
    let (before, after) = (before.expect("there were so many rounds"), descriptors());
    assert!(after <= before + 30, "{before} descriptors became {after}");
}

/// Twelve clients at once, with resets, formats and namespaces that go between them: whatever is answered with success is right, and all is answered. Meanwhile a
/// queue pair of the same controller goes on.
#[test]
fn twelve_clients_at_once() {
    const RUN: Duration = Duration::from_millis(2500);
    let config = Config {
        namespaces: vec![namespace(16, 512), namespace(16, 512), namespace(16, 512)],
        ..Config::default()
    };
    let rack = Rack::new(config);
    let stop = AtomicBool::new(false);
    let (asked, went_well) = (AtomicU64::new(0), AtomicU64::new(0));
    let is_over = || stop.load(Ordering::Relaxed);
    let count = |result: Result<i32, i32>| {
        asked.fetch_add(1, Ordering::Relaxed);
        match result {
            Ok(0) => drop(went_well.fetch_add(1, Ordering::Relaxed)),
            Ok(_) => {}
            Err(error) => {
                let known = [EINTR, libc::ENODEV, libc::ENOTCONN, libc::ECONNABORTED, libc::EINVAL];
                assert!(known.contains(&error), "{error}");
            }
        }
        result == Ok(0)
    };
    std::thread::scope(|scope| {
        for client in 0..4_u32 {
            let (rack, is_over, count) = (&rack, &is_over, &count);
            // Each has blocks of its own on the first namespace, which nobody formats.
            scope.spawn(move || {
                let ns = rack.namespace(1);
                let mut round = 0;
                while !is_over() {
                    round += 1;
                    let data = pattern(4096, client << 24 | round);
                    let slba = u64::from(client) * 1000 + u64::from(round % 100) * 8;
                    let written = io(&ns, Command::write(1, slba, 8), &data).map(|(status, ..)| status);
                    let read = io(&ns, Command::read(1, slba, 8), &[0; 4096]);
                    let is_written = count(written);
                    if count(read.as_ref().map(|(status, ..)| *status).map_err(|error| *error)) && is_written
                    {
                        assert!(read.expect("read").2 == data, "the wrong data");
                    }
                }
            });
        }
        for client in 0..4 {
            let (rack, is_over, count) = (&rack, &is_over, &count);
            scope.spawn(move || {
                let file = rack.ctrlr();
                // A vendor's log, which no controller here has: SPDK #3628.
                let vendors = Command::get_log_page(LogId(0xc0), u32::MAX, 4096, 0, true);
                while !is_over() {
                    let command = if client == 0 { vendors } else { identify() };
                    let answer = admin(&file, command, &[0xa5; 4096]);
                    if count(answer.as_ref().map(|(status, ..)| *status).map_err(|error| *error)) {
                        let serial = &answer.expect("answered").2[4..24];
                        assert_eq!(serial, b"SLIPRING0001        ");
                    }
                }
            });
        }
        let (rack, is_over, count) = (&rack, &is_over, &count);
        scope.spawn(move || {
            while !is_over() {
                count(rack.ctrlr().ioctl(ioctls::RESET, 0, &Memory::default()));
                std::thread::sleep(Duration::from_millis(150));
            }
        });
        scope.spawn(move || {
            let file = rack.ctrlr();
            while !is_over() {
                for lbaf in [1, 0] {
                    count(admin(&file, Command::format_nvm(2, lbaf, 0), &[]).map(|(status, ..)| status));
                }
            }
        });
        scope.spawn(move || {
            let (file, list) = (rack.ctrlr(), CtrlrList::of(0));
            while !is_over() {
                for attach in [false, true] {
                    let command = Command::namespace_attachment(3, attach);
                    count(admin(&file, command, list.as_bytes()).map(|(status, ..)| status));
                }
            }
        });
        scope.spawn(move || {
            while !is_over() {
                count(rack.ctrlr().ioctl(ioctls::RESCAN, 0, &Memory::default()));
            }
        });
        std::thread::sleep(RUN);
        // Longer on a machine that is so busy that next to nothing has happened.
        let has_happened =
            || went_well.load(Ordering::Relaxed) > 100 && rack.rig.ctrlr.statistics().resets > 0;
        let started = Instant::now();
        while !has_happened() && started.elapsed() < DEADLINE {
            std::thread::sleep(Duration::from_millis(10));
        }
        stop.store(true, Ordering::Relaxed);
    });
    let (asked, went_well) = (asked.into_inner(), went_well.into_inner());
    assert!(went_well > 100, "{went_well} of {asked} went well");
    assert!(rack.rig.ctrlr.statistics().resets > 0);
    rack.finish();
}

/// Clients come and go while a poller has a queue pair of its own: its I/O is all there, and right.
#[test]
fn a_queue_pair_goes_on_beside_the_clients() {
    let rig = Rig::attach(small());
    let mut poller = rig.poller();
    let mut qpair = poller.queue_pair(&QpairOptions::default()).expect("a queue pair");
    let kernel = Kernel::default();
    let server = Server::start(kernel.clone()).expect("a server");
    let stop = Arc::new(AtomicBool::new(false));
    let (done, clients) = std::thread::scope(|scope| {
        let ctrlr = rig.ctrlr.clone();
        let (kernel, server) = (&kernel, &server);
        let serving = scope.spawn({
            let stop = Arc::clone(&stop);
            move || {
                let served = server.serve(&ctrlr, &ServeOptions::default()).expect("served");
                let clients = std::thread::scope(|scope| {
                    let clients: Vec<_> = (0..4)
                        .map(|_| {
                            scope.spawn(|| {
                                let file = kernel.open_node("nvme0");
                                for _ in 0..100 {
                                    assert_eq!(admin(&file, identify(), &[0; 4096]).expect("answered").0, 0);
                                }
                                100
                            })
                        })
                        .collect();
                    clients.into_iter().map(|client| client.join().expect("no panic")).sum::<u32>()
                });
                drop(served);
                stop.store(true, Ordering::Relaxed);
                clients
            }
        });
        let namespace = rig.ctrlr.namespaces()[0];
        let mut done = 0_u64;
        let mut spare = vec![rig.ctrlr.allocate(4096).expect("memory")];
        while !stop.load(Ordering::Relaxed) {
            if let Some(buffer) = spare.pop() {
                buffer.fill(done as u8);
                qpair.write(&namespace, done % 1000 * 8, buffer.into(), done).expect("submitted");
            }
            let polled = qpair.poll(32, |io| {
                assert!(io.is_success() && io.token == done);
                done += 1;
                spare.extend(io.data.map(slipring::dma::DmaSlice::into_buffer));
            });
            polled.expect("alive");
            poller.poll(Instant::now()).expect("alive");
        }
        (done, serving.join().expect("no panic"))
    });
    assert!(done > 0 && clients == 400, "{done} writes, {clients} ioctls");
    drop(qpair);
    poller.detach(DEADLINE).expect("detached");
    drop(server);
    rig.finish();
}
