//! The rates that a device reaches, as limits to measure runs against.

use std::{
    slice,
    time::{Duration, Instant},
};

use safetensors::{Dtype, tensor::TensorView};

use super::Device;
use crate::error::Error;

/// What a device does in a second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rates {
    /// Floating-point operations of one large product.
    pub products: f64,
    /// Numbers read and written by one large sum.
    pub numbers: f64,
}

/// Rows and columns of the tensors, larger ones until a product takes [`LONG`].
const SIDES: [usize; 4] = [1024, 2048, 4096, 8192];

/// Time of a product beside which starting it is nothing.
const LONG: Duration = Duration::from_millis(50);

/// Measures the rates of a device that does nothing else meanwhile.
///
/// # Errors
/// [`Error::Device`] when it has no room for the tensors.
pub fn rates<D: Device>(device: &D) -> Result<Rates, Error> {
    let mut found = Rates { products: 0.0, numbers: 0.0 };
    for side in SIDES {
        let bytes: Vec<u8> = (0..side * side)
            .flat_map(|i| ((i * 2_654_435_761 % 1009) as f32 / 504.0 - 1.0).to_le_bytes())
            .collect();
        let view =
            TensorView::new(Dtype::F32, vec![side, side], &bytes).expect("a square of 4 bytes a number");
        let [x, y] = [device.tensor(&view)?, device.tensor(&view)?];
        let product = seconds(device, || device.linear(&x, &y, None))?;
        let sum = seconds(device, || device.add(&x, &y))?;
        found.products = found.products.max(2.0 * (side as f64).powi(3) / product);
        found.numbers = found.numbers.max(3.0 * (side as f64).powi(2) / sum);
        if product > LONG.as_secs_f64() {
            break;
        }
    }
    Ok(found)
}

/// Returns the least seconds of several runs, each until its result can be read.
fn seconds<D: Device>(device: &D, run: impl Fn() -> Result<D::Tensor, Error>) -> Result<f64, Error> {
    let read = |x: &D::Tensor| device.to_host(&device.rows(x, slice::from_ref(&(0..1)))?);
    read(&run()?)?;
    let mut least = f64::INFINITY;
    for _ in 0..5 {
        let start = Instant::now();
        // Together, so that what one wait costs is small.
        let results: Vec<D::Tensor> = (0..4).map(|_| run()).collect::<Result<_, Error>>()?;
        read(&results[3])?;
        least = least.min(start.elapsed().as_secs_f64() / 4.0);
    }
    Ok(least)
}
