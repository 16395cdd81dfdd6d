//! TCP listeners that the service manager has opened and keeps open over restarts (`LISTEN_FDS`, socket activation):
//! clients who come while no server runs wait in the kernel's backlog instead of being refused.

use std::io;
use std::net::{SocketAddr, TcpListener};

use listenfd::ListenFd;
use thiserror::Error;

/// Why they cannot be used, and what to do about it.
#[derive(Debug, Error)]
pub enum InheritedError {
    /// Such as a UDP socket.
    #[error("socket {0} of LISTEN_FDS cannot be used: {1}; expected TCP listeners (ListenStream in systemd)")]
    Unfit(usize, io::Error),
    /// Clients of that address would wait for ever.
    #[error(
        "LISTEN_FDS has a listener for {0}, which is not among the addresses in `listen`: make them agree"
    )]
    NotWanted(SocketAddr),
}

/// Listeners by their addresses.
#[derive(Debug, Default)]
pub struct Inherited(Vec<(SocketAddr, TcpListener)>);

impl Inherited {
    /// Takes what the environment of the process names. Of use once.
    ///
    /// # Errors
    /// [`InheritedError::Unfit`].
    pub fn from_environment() -> Result<Self, InheritedError> {
        let mut sockets = ListenFd::from_env();
        let mut listeners = Vec::new();
        for i in 0..sockets.len() {
            let unfit = |error| InheritedError::Unfit(i, error);
            if let Some(listener) = sockets.take_tcp_listener(i).map_err(unfit)? {
                listener.set_nonblocking(true).map_err(unfit)?;
                listeners.push((listener.local_addr().map_err(unfit)?, listener));
            }
        }
        Ok(Self(listeners))
    }

    /// Every one has to be wanted.
    ///
    /// # Errors
    /// [`InheritedError::NotWanted`].
    pub fn check(&self, wanted: &[SocketAddr]) -> Result<(), InheritedError> {
        match self.0.iter().find(|(address, _)| !wanted.contains(address)) {
            Some((address, _)) => Err(InheritedError::NotWanted(*address)),
            None => Ok(()),
        }
    }

    /// The listener for an address, as often as it is needed: all accept from one backlog.
    pub(super) fn listeners(
        &self,
        address: SocketAddr,
        count: usize,
    ) -> Option<io::Result<Vec<TcpListener>>> {
        let (_, listener) = self.0.iter().find(|(own, _)| *own == address)?;
        Some((0..count).map(|_| listener.try_clone()).collect())
    }
}
