//! Several tries at once, of which one wins.

use std::collections::VecDeque;
use std::future::{Future, pending};
use std::pin::Pin;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::Instant;

use super::{Connection, Connector};
use crate::error::ConnectError;
use crate::race::{Attempt, QUIC_GRACE};

type Trying<'a> = Pin<Box<dyn Future<Output = (bool, Result<Connection, ConnectError>)> + Send + 'a>>;

impl Connector {
    /// Carries a plan out: the first connection that stands is returned, and the other tries end there, before they
    /// have said anything. When all fail: why, over TCP if that was tried, since TCP is told more.
    pub(crate) async fn race(&self, plan: Vec<Attempt>) -> Result<Connection, ConnectError> {
        let began = Instant::now();
        let mut over_tcp = plan.iter().filter(|a| !a.over_quic).count();
        let mut waiting = VecDeque::from(plan);
        let mut trying = FuturesUnordered::<Trying<'_>>::new();
        let mut last: Option<(bool, ConnectError)> = None;
        let mut deadline = None;
        loop {
            let next = waiting.front().map(|attempt| attempt.after);
            if trying.is_empty() || next.is_some_and(|after| after.is_some_and(|a| began.elapsed() >= a)) {
                let Some(Attempt { over_quic, address, .. }) = waiting.pop_front() else { break };
                trying.push(Box::pin(async move {
                    let connect = if over_quic {
                        self.connect_quic(address).await
                    } else {
                        self.connect_tcp(address).await
                    };
                    (over_quic, connect)
                }));
                continue;
            }
            let next = next.flatten().map(|after| began + after);
            tokio::select! {
                Some((over_quic, result)) = trying.next() => {
                    let error = match result {
                        Ok(connection) => return Ok(connection),
                        Err(error) => error,
                    };
                    if !over_quic {
                        over_tcp -= 1;
                        if over_tcp == 0 {
                            deadline = Some(Instant::now() + QUIC_GRACE);
                        }
                    }
                    if !over_quic || last.as_ref().is_none_or(|(quic, _)| *quic) {
                        last = Some((over_quic, error));
                    }
                }
                () = until(next) => {}
                () = until(deadline) => break,
            }
        }
        Err(last.map_or(ConnectError::Timeout(Duration::ZERO), |(_, error)| error))
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => pending().await,
    }
}
