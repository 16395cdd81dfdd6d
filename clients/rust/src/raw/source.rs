//! Many connections from one address of the machine.

// The one system call here, setsockopt(IP_BIND_ADDRESS_NO_PORT), has no safe wrapper in the crates we use.
#![allow(unsafe_code)]

use tokio::net::TcpSocket;

/// A bind without port then leaves the port to `connect`, which looks for one that is free towards that server only, and
/// takes those of closed connections again. A bind has to find one that is free towards everybody: with 10,000 ports taken
/// that is a search of milliseconds.
#[cfg(target_os = "linux")]
pub(super) fn choose_port_late(socket: &TcpSocket) {
    use std::os::fd::AsRawFd;

    let yes: libc::c_int = 1;
    // A kernel that has no such option chooses when it binds.
    // SAFETY: the descriptor is open, and the option is a live integer of the size given; the kernel copies it.
    let _ = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const yes).cast(),
            size_of_val(&yes) as libc::socklen_t,
        )
    };
}

/// Other systems choose when they bind.
#[cfg(not(target_os = "linux"))]
pub(super) fn choose_port_late(_: &TcpSocket) {}
