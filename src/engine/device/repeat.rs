//! Work that a device keeps, to do it again for each token that is written: to ask for it piece by piece can take longer
//! than the work.

use crate::error::Error;

/// Does work again that it keeps, over a prompt that grows.
pub trait Repeat {
    /// Activations on the device.
    type Tensor;
    /// The residual stream between layers.
    type Residual;
    /// A point in the device's work.
    type Mark;
    /// Rotary angles of every position.
    type Angles;
    /// Work that is kept.
    type Work;

    /// Says how many tokens the prompt has, and where its last query block starts, for what the device is given from now
    /// on.
    fn set_place(&self, n_tokens: usize, first_row: usize) -> Result<(), Error>;

    /// Makes angles those of the last query block, wherever it is.
    fn turn(&self, angles: &mut Self::Angles);

    /// Writes rows over those of `to` from row `first` on.
    fn write_rows(&self, to: &Self::Tensor, first: usize, rows: &Self::Tensor) -> Result<(), Error>;

    /// Keeps what `work` gives the device, instead of doing it: a way of rows through the layers, which waits for nothing. It
    /// was done once before. Returns what `work` returns, which is there once the work is done.
    fn keep<T>(
        &self,
        hidden: &mut Self::Residual,
        work: impl FnOnce(&mut Self::Residual) -> Result<T, Error>,
    ) -> Result<(Self::Work, T), Error>;

    /// Does work again, and marks its end.
    fn repeat(&self, work: &Self::Work) -> Result<Self::Mark, Error>;

    /// Returns a row of all parts, side by side.
    fn row_to_host(&self, parts: &[Self::Tensor], row: usize) -> Result<Vec<f32>, Error>;
}
