use super::shared::FatalError;
#[derive(Default)]
pub(super) struct Hooks {}
impl Hooks {
    pub(super) fn before_write(&self) -> Result<(), FatalError> {
        Ok(())
    }
    pub(super) fn before_group(&self) {}
}
