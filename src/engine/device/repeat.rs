//! Work that a device keeps, to do it again for each token that is written: to ask for it piece by piece can take longer
//! than the work.

use super::Device;
use crate::error::Error;

/// Does work again that it keeps, over a prompt that grows.
pub trait Repeat<D: Device> {
    /// Work that is kept.
    type Work;

    /// Says how many tokens the prompt has, and where its last query block starts, for what the device is given from now
    /// on.
    fn set_place(&self, n_tokens: usize, first_row: usize) -> Result<(), Error>;

    /// Makes angles those of the last query block, wherever it is.
    fn turn(&self, angles: &mut D::Angles);

    /// Writes rows over those of `to` from row `first` on.
    fn write_rows(&self, to: &D::Tensor, first: usize, rows: &D::Tensor) -> Result<(), Error>;

    /// Keeps what `work` gives the device, instead of doing it: a way of rows through the layers, which waits for nothing. It
    /// was done once before. Returns what `work` returns, which is there once the work is done.
    fn keep<T>(
        &self,
        hidden: &mut D::Residual,
        work: impl FnOnce(&mut D::Residual) -> Result<T, Error>,
    ) -> Result<(Self::Work, T), Error>;

    /// Does work again, and marks its end.
    fn repeat(&self, work: &Self::Work) -> Result<D::Mark, Error>;

    /// Returns a row of all parts, side by side.
    fn row_to_host(&self, parts: &[D::Tensor], row: usize) -> Result<Vec<f32>, Error>;
}
