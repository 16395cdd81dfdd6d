//! A talker in a storm: cut off together with all others, and back.

use std::time::Duration;

use super::Talker;
use crate::clock;

impl Talker {
    /// The storm begins, if there is to be one: whoever stays sends, so that the others miss something. Those of the
    /// others who are senders send one more: nobody knows whether it arrives.
    pub(super) fn on_storm(&mut self) {
        let Some(storm) = self.stage.storm else { return };
        let messages = match self.role.is_first {
            true => storm.missed,
            false => u32::from(self.role.sender.is_some()),
        };
        let now = clock::nanos();
        (0..messages).for_each(|_| self.send_one(now));
        self.is_cut = !self.role.is_first && !storm.server_goes;
    }

    pub(super) async fn vanish(&mut self) {
        self.is_cut = false;
        self.client.vanish(Duration::ZERO).await;
    }

    /// It is logged in again, for the so-manieth time. A connection that ends without a reason breaks a promise.
    pub(super) fn on_return(&mut self, returns: u32) {
        let Some(storm) = self.stage.storm else { return };
        let expected = u32::from(storm.server_goes || !self.role.is_first);
        self.chat.log.faults().disconnected += u64::from(returns > expected);
    }

    /// Counts when it has everything for the first time after it was cut off, from the beginning of the storm on.
    pub(super) fn note_back(&mut self) {
        if self.stage.storm.is_none() || !self.has_caught_up() || std::mem::replace(&mut self.is_back, true) {
            return;
        }
        let took = clock::nanos().saturating_sub(self.stage.measured_since());
        let in_vain = self.journey.as_ref().map_or(0, |journey| journey.tries_in_vain());
        self.stage.meter.count(|interval| {
            interval.count("back", 1);
            interval.time("back", took);
            interval.count("back_after_tries_in_vain", u64::from(in_vain > 0));
        });
    }
}
