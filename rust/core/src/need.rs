//! How far a query reads the list of its region, beside the others there: a part of what these read on average where it lies
//! as queries do whose labels come early in lists, and further where it lies as those do whose labels come late.
//!
//! The logarithm is linear in what is known of a query before anything of a list is read.

use crate::elementary::{exp, ln};
use crate::error::{Error, Result};
use crate::memory::Block;
use crate::sums::sum;
use crate::trust::bounded_distance;

/// Weights before those of the query's coordinates: of one, and of the logarithms of the distances to the nearest center, to
/// the second nearest and to the mean query of all, and of the length of the query's coordinates in its region.
pub const SHOWN: usize = 5;

/// No query reads more than so many times what is read on average, or less than that part of it.
pub const MOST_SHARE: f32 = 8.0;

/// Of what is read on average, what a query reads.
pub fn part_of(average: usize, share: f32) -> usize {
    (average as f64 * f64::from(share)) as usize
}

/// What says how far a query reads.
#[derive(Clone)]
pub struct Need(Block<f32>);

/// What of a query weights are for, but for one and for its coordinates.
pub fn known(distances: [f32; 3], local: &[f32]) -> [f32; SHOWN - 1] {
    let [near, second, mean] = distances.map(log);
    [near, second, mean, log_length(local)]
}

fn log(distance: f32) -> f32 {
    ln(bounded_distance(distance))
}

fn log_length(local: &[f32]) -> f32 {
    log(sum(local, local, |a, b| a * b).sqrt())
}

impl Need {
    /// All queries alike, of `r` coordinates.
    pub fn none(r: usize) -> Self {
        Need(Block::copy_of(&vec![0.0; SHOWN + r]))
    }

    /// From weights: [`SHOWN`], and one a coordinate that tells how far centers are.
    pub fn new(weights: Block<f32>) -> Result<Self> {
        if weights.len() <= SHOWN || !weights.iter().all(|weight| weight.is_finite()) {
            let got =
                format!("{} values, {:?}", weights.len(), weights.iter().find(|value| !value.is_finite()));
            return Err(Error::value("need", format!("more than {SHOWN} finite values"), got));
        }
        Ok(Need(weights))
    }

    /// The weights.
    pub fn weights(&self) -> &Block<f32> {
        &self.0
    }

    /// What a query's coordinates and its distances come to.
    pub fn begin(&self, z: &[f32], distances: [f32; 3]) -> f32 {
        let ([one, near, second, mean, _], of_coordinates) = self.parts();
        let [to_near, to_second, to_mean] = distances.map(log);
        one + near * to_near + second * to_second + mean * to_mean + sum(z, of_coordinates, |z, w| z * w)
    }

    /// How far it reads, as a multiple of the average, where it has the coordinates `local` in its region.
    pub fn factor(&self, begun: f32, local: &[f32]) -> f32 {
        let ([.., of_length], _) = self.parts();
        let share = exp(begun + of_length * log_length(local));
        if share.is_nan() { 1.0 } else { share.clamp(MOST_SHARE.recip(), MOST_SHARE) }
    }

    fn parts(&self) -> ([f32; SHOWN], &[f32]) {
        let (shown, of_coordinates) = self.0.split_at(SHOWN);
        let mut each = [0.0; SHOWN];
        each.copy_from_slice(shown);
        (each, of_coordinates)
    }
}
