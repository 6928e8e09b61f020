//! Least squares of one family within its bounds: Levenberg-Marquardt from several starts.

use super::families::{Epoch, Family, MAX_PARAMS, Params};

/// Starts that are followed to the end; the others only have their error computed.
const NUM_STARTS: usize = 4;
const MAX_STEPS: usize = 100;

/// A symmetric matrix over the parameters.
pub(super) type Matrix = [[f64; MAX_PARAMS]; MAX_PARAMS];

/// The best fit of a family.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fit {
    pub family: Family,
    pub params: Params,
    /// Weighted sum of squared residuals.
    pub error: f64,
}

/// One curve with the weight of each squared residual.
#[derive(Debug)]
pub(super) struct Data<'a> {
    pub epochs: Vec<Epoch>,
    pub ys: &'a [f64],
    pub weights: Vec<f64>,
}

impl<'a> Data<'a> {
    /// A curve whose weights rise geometrically from its first value to its last, `recency` times as heavy; their sum is
    /// the number of values.
    pub fn new(ys: &'a [f64], recency: f64) -> Self {
        let n = ys.len();
        let rise = |i: usize| recency.powf(i as f64 / (n.max(2) - 1) as f64);
        let total: f64 = (0..n).map(rise).sum();
        let epochs = (1..=n).map(|t| Epoch::new(t as f64)).collect();
        Self { epochs, ys, weights: (0..n).map(|i| rise(i) * n as f64 / total).collect() }
    }

    /// Weighted sum of the squared residuals of a curve.
    pub fn error(&self, family: Family, params: &Params) -> f64 {
        let residuals = self.epochs.iter().zip(self.ys).map(|(&x, y)| family.at(x, params) - y);
        residuals.zip(&self.weights).map(|(r, w)| w * r * r).sum()
    }

    /// `JᵀWJ` and `JᵀWr` of the residuals at `params`.
    pub fn normal_equations(&self, family: Family, params: &Params) -> (Matrix, Params) {
        let (mut matrix, mut vector) = (Matrix::default(), Params::default());
        for ((&x, y), w) in self.epochs.iter().zip(self.ys).zip(&self.weights) {
            let (value, gradient) = family.gradient_at(x, params);
            for i in 0..MAX_PARAMS {
                vector[i] += w * gradient[i] * (value - y);
                for j in 0..MAX_PARAMS {
                    matrix[i][j] += w * gradient[i] * gradient[j];
                }
            }
        }
        (matrix, vector)
    }
}

/// The fit with the smallest error.
pub(super) fn fit(family: Family, data: &Data) -> Fit {
    let with_error = |params| Fit { family, params, error: data.error(family, &params) };
    let mut starts: Vec<Fit> = family.starts(&data.epochs, data.ys).into_iter().map(with_error).collect();
    starts.sort_by(|a, b| a.error.total_cmp(&b.error));
    starts.truncate(NUM_STARTS);
    let ends = starts.into_iter().map(|start| descend(start, data));
    ends.min_by(|a, b| a.error.total_cmp(&b.error)).expect("every family has a start")
}

/// Levenberg-Marquardt with Marquardt's scaling; a parameter at a bound that the gradient pushes outwards stays there.
fn descend(mut at: Fit, data: &Data) -> Fit {
    let (family, mut damping) = (at.family, 1e-3);
    for _ in 0..MAX_STEPS {
        let (matrix, vector) = data.normal_equations(family, &at.params);
        let held = |i: usize| match family.params().get(i) {
            Some(&(_, low, high)) => {
                (at.params[i] <= low && vector[i] > 0.0) || (at.params[i] >= high && vector[i] < 0.0)
            }
            None => true,
        };
        let free: Vec<usize> = (0..MAX_PARAMS).filter(|&i| !held(i)).collect();
        let next = loop {
            let mut damped = matrix;
            free.iter().for_each(|&i| damped[i][i] += damping * matrix[i][i] + 1e-14);
            let step = Cholesky::new(&damped, free.clone()).map(|factor| factor.solve(&vector));
            let next = step.map(|step| {
                let mut params = at.params;
                free.iter().for_each(|&i| params[i] -= step[i]);
                let params = family.clamp(params);
                Fit { params, error: data.error(family, &params), ..at }
            });
            match next {
                Some(next) if next.error < at.error => break next,
                _ if damping > 1e8 => return at,
                _ => damping *= 5.0,
            }
        };
        let gain = at.error - next.error;
        (at, damping) = (next, (damping * 0.2).max(1e-12));
        if gain <= 1e-10 * at.error {
            break;
        }
    }
    at
}

/// The lower triangle of a Cholesky factorisation over some of the parameters.
#[derive(Debug)]
pub(super) struct Cholesky {
    lower: Matrix,
    rows: Vec<usize>,
}

impl Cholesky {
    /// The factor of `matrix` over `rows`; none where it is not positive definite.
    pub fn new(matrix: &Matrix, rows: Vec<usize>) -> Option<Self> {
        let mut lower = Matrix::default();
        for (i, &row) in rows.iter().enumerate() {
            for (j, &column) in rows[..=i].iter().enumerate() {
                let rest = matrix[row][column] - (0..j).map(|k| lower[i][k] * lower[j][k]).sum::<f64>();
                lower[i][j] = match i == j {
                    true if rest > 0.0 => rest.sqrt(),
                    true => return None,
                    false => rest / lower[j][j],
                };
            }
        }
        Some(Self { lower, rows })
    }

    /// The solution for `vector`; 0 in the rows that were left out.
    pub fn solve(&self, vector: &Params) -> Params {
        self.solve_transposed(self.forward(vector))
    }

    /// The solution of the system with the factor's transpose; turns independent values of variance 1 into ones with
    /// the inverse of the factored matrix as their covariance.
    pub fn solve_transposed(&self, mut y: Params) -> Params {
        let n = self.rows.len();
        for i in (0..n).rev() {
            let rest = y[i] - (i + 1..n).map(|k| self.lower[k][i] * y[k]).sum::<f64>();
            y[i] = rest / self.lower[i][i];
        }
        let mut solution = Params::default();
        self.rows.iter().zip(y).for_each(|(&row, value)| solution[row] = value);
        solution
    }

    /// `vᵀ A^-1 v` of the factored matrix `A`.
    pub fn inverse_form(&self, vector: &Params) -> f64 {
        self.forward(vector).iter().map(|y| y * y).sum()
    }

    /// Logarithm of the determinant.
    pub fn log_det(&self) -> f64 {
        (0..self.rows.len()).map(|i| 2.0 * self.lower[i][i].ln()).sum()
    }

    fn forward(&self, vector: &Params) -> Params {
        let mut y = Params::default();
        for (i, &row) in self.rows.iter().enumerate() {
            let rest = vector[row] - (0..i).map(|k| self.lower[i][k] * y[k]).sum::<f64>();
            y[i] = rest / self.lower[i][i];
        }
        y
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_of_a_family_is_fitted_by_the_family() {
        for family in Family::ALL {
            let ys: Vec<f64> = (1..=20).map(|t| family.value(f64::from(t), &family.example())).collect();
            let fit = fit(family, &Data::new(&ys, 1.0));
            let (found, expected) = (family.value(60.0, &fit.params), family.value(60.0, &family.example()));
            assert!((found - expected).abs() < 1e-3, "{family:?}: {found} {expected} {fit:?}");
        }
    }

    #[test]
    fn the_gradient_vanishes_at_a_fit_but_for_parameters_at_their_bounds() {
        let ys: Vec<f64> = (1..=15).map(|t| 0.7 - 0.5 / f64::from(t) + 0.02 * f64::from(t * 7 % 5)).collect();
        let data = Data::new(&ys, 3.0);
        for family in Family::ALL {
            let Fit { params, error, .. } = fit(family, &data);
            let (matrix, vector) = data.normal_equations(family, &params);
            for (i, &(name, low, high)) in family.params().iter().enumerate() {
                let inside = params[i] > low && params[i] < high;
                let slope = if inside { vector[i].abs() / (matrix[i][i] * error).sqrt().max(1e-12) } else { 0.0 };
                assert!(slope < 1e-3, "{family:?}: {name} {params:?} {slope}");
                assert!((low..=high).contains(&params[i]), "{family:?}: {name} {params:?}");
            }
        }
    }

    #[test]
    fn weights_rise_by_the_given_factor_and_sum_to_the_number_of_values() {
        let data = Data::new(&[0.1; 6], 10.0);
        assert!((data.weights[5] / data.weights[0] - 10.0).abs() < 1e-12);
        assert!((data.weights.iter().sum::<f64>() - 6.0).abs() < 1e-12);
    }

    #[test]
    fn cholesky_solves() {
        let matrix = [[4.0, 2.0, 0.0, 0.6], [2.0, 5.0, 0.0, 1.0], [0.0, 0.0, 1.0, 0.0], [0.6, 1.0, 0.0, 3.0]];
        let rows = [0, 1, 3];
        let factor = Cholesky::new(&matrix, rows.to_vec()).unwrap();
        let vector = [1.0, -2.0, 9.0, 0.5];
        let solution = factor.solve(&vector);
        for &row in &rows {
            let product: f64 = (0..4).map(|k| matrix[row][k] * solution[k]).sum();
            assert!((product - vector[row]).abs() < 1e-12);
        }
        let form: f64 = rows.iter().map(|&i| vector[i] * solution[i]).sum();
        assert!((factor.inverse_form(&vector) - form).abs() < 1e-12);
        // det = 4 (15 - 1) - 2 (6 - 0.6) + 0.6 (2 - 3).
        assert!((factor.log_det() - 44.6f64.ln()).abs() < 1e-12);
        assert!(Cholesky::new(&[[-1.0; 4]; 4], rows.to_vec()).is_none());
    }
}
