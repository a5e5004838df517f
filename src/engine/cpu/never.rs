//! A step of writing takes the new row alone, so nothing is done again.

use super::{Angles, Cpu, Residual, Tensor};
use crate::{engine::device::Repeat, error::Error};

/// There is none.
pub enum Never {}

impl Repeat<Cpu> for Never {
    type Work = Never;

    fn set_place(&self, _: usize, _: usize) -> Result<(), Error> {
        match *self {}
    }

    fn turn(&self, _: &mut Angles) {
        match *self {}
    }

    fn write_rows(&self, _: &Tensor, _: usize, _: &Tensor) -> Result<(), Error> {
        match *self {}
    }

    fn keep<T>(
        &self,
        _: &mut Residual,
        _: impl FnOnce(&mut Residual) -> Result<T, Error>,
    ) -> Result<(Never, T), Error> {
        match *self {}
    }

    fn repeat(&self, _: &Never) -> Result<bool, Error> {
        match *self {}
    }

    fn row_to_host(&self, _: &[Tensor], _: usize) -> Result<Vec<f32>, Error> {
        match *self {}
    }
}
