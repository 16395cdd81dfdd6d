//! The day of a real app: direct messages, groups of several sizes, receipts, clients who go away and come back, who
//! look back, or do nothing at all. All of it by a plan that follows from the seed.

use crate::Error;
use crate::args::{Common, MixedArgs};
use crate::mixed::course::measure;
use crate::run::{Run, Scenario};

impl Scenario for MixedArgs {
    const NAME: &'static str = "mixed";

    fn common(&self) -> &Common {
        &self.common
    }

    fn load(&self) -> String {
        match self.kills {
            0 => self.day.load(),
            kills => format!("{}; the server is killed {kills} times", self.day.load()),
        }
    }

    fn rate(&self) -> Option<f64> {
        Some(self.day.rate)
    }

    fn check(&self) -> Result<(), Error> {
        self.day.check(&self.common)
    }

    fn run(&self, run: &mut Run<'_>) -> Result<(), Error> {
        self.day.live(run, None, |run, fleet| measure(run, fleet, self.kills))
    }
}
