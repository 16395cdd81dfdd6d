//! Several tries at once, of which one wins.

use std::io::ErrorKind;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::Instant;

use super::{Connection, Connector};
use crate::error::ConnectError;
use crate::race::{Attempt, Race, Step};

/// What a race came to.
pub(crate) struct Won {
    pub(crate) connection: Connection,
    /// See [`Race::quic_was_silent`].
    pub(crate) quic_was_silent: bool,
}

impl Connector {
    /// Carries a plan out: the first connection that stands is returned, and the other tries end there, before they
    /// have said anything. When all fail: why, over TCP if that was tried, since TCP is told more.
    pub(crate) async fn race(&self, plan: Vec<Attempt>) -> Result<Won, ConnectError> {
        let began = Instant::now();
        let mut race = Race::new(plan);
        let mut trying = FuturesUnordered::new();
        let mut why = None;
        loop {
            let until = match race.step(began.elapsed()) {
                Step::Begin(attempt) => {
                    trying.push(async move { (attempt, self.try_once(attempt).await) });
                    continue;
                }
                Step::Wait(until) => until.map(|after| began + after),
                Step::Over => break,
            };
            let until = async {
                match until {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Some((attempt, result)) = trying.next() => match result {
                    Ok(connection) => {
                        let quic_was_silent = race.quic_was_silent(began.elapsed(), attempt);
                        return Ok(Won { connection, quic_was_silent });
                    }
                    Err(error) => {
                        race.failed(began.elapsed(), attempt, is_answer(&error));
                        if !attempt.over_quic || why.as_ref().is_none_or(|(over_quic, _)| *over_quic) {
                            why = Some((attempt.over_quic, error));
                        }
                    }
                },
                () = until => {}
            }
        }
        Err(why.map_or_else(|| ConnectError::Quic("nobody answers".into()), |(_, error)| error))
    }

    async fn try_once(&self, attempt: Attempt) -> Result<Connection, ConnectError> {
        if attempt.over_quic {
            self.connect_quic(attempt.address).await
        } else {
            self.connect_tcp(attempt.address).await
        }
    }
}

/// Whether somebody at the server's address caused it.
fn is_answer(error: &ConnectError) -> bool {
    match error {
        ConnectError::Tls(_) | ConnectError::Alpn => true,
        ConnectError::Io { error, .. } => matches!(
            error.kind(),
            ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof
        ),
        _ => false,
    }
}
