//! Many numbers, made some at a time in all threads.

use std::{mem::MaybeUninit, ops::Range};

use rayon::prelude::*;

/// Makes `n` numbers, `at_once` at a time; `write` gets the places of these and zeros, which it writes over. Each thread
/// zeros what it writes: it is in its cache then, and the system's pages arrive in all threads.
#[expect(unsafe_code, reason = "memory is zeroed part by part")]
pub(super) fn in_parts(
    n: usize,
    at_once: usize,
    write: impl Fn(Range<usize>, &mut [f32]) + Sync,
) -> Vec<f32> {
    let mut numbers = Vec::with_capacity(n);
    let make = |(i, part): (usize, &mut [MaybeUninit<f32>])| {
        part.fill(MaybeUninit::new(0.0));
        let start = i * at_once;
        // SAFETY: all numbers of the part are zeros.
        write(start..start + part.len(), unsafe { part.assume_init_mut() });
    };
    let all = &mut numbers.spare_capacity_mut()[..n];
    match n {
        0 => {}
        _ if n <= at_once => make((0, all)),
        _ => all.par_chunks_mut(at_once).enumerate().for_each(make),
    }
    // SAFETY: the parts are all of the numbers.
    unsafe { numbers.set_len(n) };
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_written_once() {
        for (n, at_once) in [(0, 4), (3, 4), (4, 4), (1003, 10)] {
            let found = in_parts(n, at_once, |at, out| {
                assert_eq!(at.len(), out.len());
                out.iter_mut().zip(at).for_each(|(out, i)| *out += i as f32);
            });
            assert_eq!(found, (0..n).map(|i| i as f32).collect::<Vec<_>>());
        }
    }
}
