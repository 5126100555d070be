//! Seeded draws whose bits are the same on every machine.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// What a seed is used for: draws for one purpose do not move when another purpose draws more.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Purpose {
    /// Generated arrivals.
    Arrivals = 1,
    /// Generated lengths.
    Lengths,
    /// Phase and thinning of a replayed trace.
    Replay,
    /// Arrivals within the tick of a trace's clock.
    Ticks,
    /// Errors of predictions.
    Prediction,
    /// The sample that a predictor is fitted on.
    Fit,
    /// Clients that go away.
    Aborts,
    /// Ends that the router is never told.
    Leaks,
    /// The sample that stands for all lengths of a generator.
    Population,
    /// Windows of a replayed trace.
    Windows,
    /// Think times of a closed loop's clients.
    Clients,
}

/// The generator of `seed` for one purpose.
pub(crate) fn generator(seed: u64, purpose: Purpose) -> ChaCha8Rng {
    let mut generator = ChaCha8Rng::seed_from_u64(seed);
    generator.set_stream(purpose as u64);
    generator
}

/// Uniform on (0, 1), both ends excluded.
pub(crate) fn uniform(generator: &mut impl Rng) -> f64 {
    ((generator.next_u64() >> 11) as f64 + 0.5) * (1.0 / 9_007_199_254_740_992.0)
}

/// Uniform on 0 to `end`, exclusive; `end` is at least 1.
pub(crate) fn index_below(generator: &mut impl Rng, end: usize) -> usize {
    #[expect(clippy::cast_possible_truncation, reason = "below `end`")]
    {
        ((u128::from(generator.next_u64()) * end as u128) >> 64) as usize
    }
}

/// Standard normal, by inversion.
pub(crate) fn standard_normal(generator: &mut impl Rng) -> f64 {
    normal_quantile(uniform(generator))
}

/// Exponential with mean 1.
pub(crate) fn exponential(generator: &mut impl Rng) -> f64 {
    -libm::log(uniform(generator))
}

/// Gamma with the given shape and mean `shape` (Marsaglia and Tsang, 2000).
pub(crate) fn gamma(generator: &mut impl Rng, shape: f64) -> f64 {
    if shape < 1.0 {
        let boost = libm::pow(uniform(generator), 1.0 / shape);
        return gamma(generator, shape + 1.0) * boost;
    }
    let d = shape - 1.0 / 3.0;
    let c = 1.0 / libm::sqrt(9.0 * d);
    loop {
        let x = standard_normal(generator);
        let cube = libm::pow(1.0 + c * x, 3.0);
        if cube > 0.0 && libm::log(uniform(generator)) < 0.5 * x * x + d - d * cube + d * libm::log(cube) {
            return d * cube;
        }
    }
}

/// Quantile of the standard normal distribution at `level` in (0, 1): Wichura's algorithm AS 241 (1988), relative error
/// about 1e-16.
#[expect(clippy::unreadable_literal, clippy::excessive_precision, reason = "coefficients as published")]
pub(crate) fn normal_quantile(level: f64) -> f64 {
    const CENTRE: [[f64; 8]; 2] = [
        [
            3.3871328727963666080e0,
            1.3314166789178437745e2,
            1.9715909503065514427e3,
            1.3731693765509461125e4,
            4.5921953931549871457e4,
            6.7265770927008700853e4,
            3.3430575583588128105e4,
            2.5090809287301226727e3,
        ],
        [
            1.0,
            4.2313330701600911252e1,
            6.8718700749205790830e2,
            5.3941960214247511077e3,
            2.1213794301586595867e4,
            3.9307895800092710610e4,
            2.8729085735721942674e4,
            5.2264952788528545610e3,
        ],
    ];
    const NEAR: [[f64; 8]; 2] = [
        [
            1.42343711074968357734e0,
            4.63033784615654529590e0,
            5.76949722146069140550e0,
            3.64784832476320460504e0,
            1.27045825245236838258e0,
            2.41780725177450611770e-1,
            2.27238449892691845833e-2,
            7.74545014278341407640e-4,
        ],
        [
            1.0,
            2.05319162663775882187e0,
            1.67638483018380384940e0,
            6.89767334985100004550e-1,
            1.48103976427480074590e-1,
            1.51986665636164571966e-2,
            5.47593808499534494600e-4,
            1.05075007164441684324e-9,
        ],
    ];
    const FAR: [[f64; 8]; 2] = [
        [
            6.65790464350110377720e0,
            5.46378491116411436990e0,
            1.78482653991729133580e0,
            2.96560571828504891230e-1,
            2.65321895265761230930e-2,
            1.24266094738807843860e-3,
            2.71155556874348757815e-5,
            2.01033439929228813265e-7,
        ],
        [
            1.0,
            5.99832206555887937690e-1,
            1.36929880922735805310e-1,
            1.48753612908506148525e-2,
            7.86869131145613259100e-4,
            1.84631831751005468180e-5,
            1.42151175831644588870e-7,
            2.04426310338993978564e-15,
        ],
    ];
    let ratio = |table: &[[f64; 8]; 2], x: f64| {
        let [above, below] =
            table.map(|terms| terms.iter().rev().fold(0.0, |sum, &term| libm::fma(sum, x, term)));
        above / below
    };
    let centred = level - 0.5;
    if centred.abs() <= 0.425 {
        return centred * ratio(&CENTRE, 0.180625 - centred * centred);
    }
    let tail = libm::sqrt(-libm::log(level.min(1.0 - level)));
    let distance = if tail <= 5.0 { ratio(&NEAR, tail - 1.6) } else { ratio(&FAR, tail - 5.0) };
    if centred < 0.0 { -distance } else { distance }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moments(values: &[f64]) -> (f64, f64) {
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let squares: f64 = values.iter().map(|value| (value - mean) * (value - mean)).sum();
        (mean, squares / values.len() as f64)
    }

    #[test]
    fn the_normal_quantile_inverts_the_error_function() {
        for level in [1e-300, 1e-20, 1e-12, 1e-3, 0.07, 0.3, 0.5, 0.77, 0.93, 0.999, 1.0 - 1e-12] {
            let back = 0.5 * libm::erfc(-normal_quantile(level) / std::f64::consts::SQRT_2);
            assert!((back / level - 1.0).abs() < 1e-10, "{level} {back}");
        }
    }

    #[test]
    fn draws_have_the_moments_of_their_distributions() {
        let mut generator = generator(1, Purpose::Lengths);
        let mut sample = |draw: &mut dyn FnMut(&mut ChaCha8Rng) -> f64| {
            moments(&(0..100_000).map(|_| draw(&mut generator)).collect::<Vec<_>>())
        };
        let close = |(mean, variance): (f64, f64), expected: (f64, f64)| {
            let ok = (mean - expected.0).abs() < 0.02 * expected.1.sqrt();
            assert!(ok && (variance / expected.1 - 1.0).abs() < 0.06, "{mean} {variance} {expected:?}");
        };
        close(sample(&mut |generator| uniform(generator)), (0.5, 1.0 / 12.0));
        close(sample(&mut |generator| standard_normal(generator)), (0.0, 1.0));
        close(sample(&mut |generator| exponential(generator)), (1.0, 1.0));
        close(sample(&mut |generator| gamma(generator, 4.0)), (4.0, 4.0));
        close(sample(&mut |generator| gamma(generator, 0.25)), (0.25, 0.25));
        close(sample(&mut |generator| index_below(generator, 10) as f64), (4.5, 8.25));
    }

    #[test]
    fn purposes_do_not_share_draws() {
        let first = |purpose| generator(7, purpose).next_u64();
        assert_ne!(first(Purpose::Arrivals), first(Purpose::Lengths));
        assert_eq!(first(Purpose::Arrivals), first(Purpose::Arrivals));
    }
}
