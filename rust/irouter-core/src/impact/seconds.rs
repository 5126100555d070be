//! Seconds from the curves: the forecast form of the latency impact.

use crate::request::Request;
use crate::state::InstanceState;

use super::Impact;
use super::curve::{Curve, GRID, POINTS, WIDTHS};
use super::forecast::{Candidate, Forecast};
use super::line::Turn;

impl Forecast {
    /// The latency impact of a request that would go to the instance of this forecast.
    ///
    /// ```text
    /// TTFT = delay until a step can take it + wait for a batch slot and room + prefill of the line and its own
    /// E2E = TTFT + sum over t of S(t) s(D + 1, K + c)
    /// inflicted = prefill that it adds x D(0) + sum over t of S(t) D(t) (s(D + 1, K + c) - s(D, K))
    /// ```
    ///
    /// * `s`: seconds of a step with so many residents and tokens of context, by the profile at the speed that the twin has
    ///   learned; near affine, so that the step time of expectations is nearly the expected step time;
    /// * `S`, `c`: the chance that it is there at step `t`, and its context then; cached tokens are not computed;
    /// * the largest delay is that of a resident who stays as long as the last of them is expected to.
    ///
    /// Where the KV cache overflows with probability `P`, the newest is preempted first, which it then is; those who would be
    /// without it mostly are all the same:
    ///
    /// ```text
    /// E2E += P (recomputation + wait)         inflicted += P recomputation x D
    /// ```
    ///
    /// * recomputation: prefill of its context at the peak, added to a step; `D`: residents at the peak;
    /// * wait: until as many tokens are free as it holds, by how fast the curve falls from its peak to half of it.
    ///
    /// O([`GRID`]), no allocation.
    pub fn impact(&self, instance: &InstanceState, candidate: &Candidate<'_>) -> Impact {
        let &Candidate { request, ref curve } = candidate;
        let Request { prompt_tokens, prompt_blocks, .. } = request;
        let cached_tokens = instance.cached_tokens(*prompt_tokens, prompt_blocks.as_deref());
        let room = self.room_after(instance, *prompt_tokens, self.line.start());
        let turn = self.line.turn(instance.config(), room, prompt_tokens - cached_tokens, cached_tokens);
        // What changes within the first points of the grid is not seen.
        if turn.start <= GRID[1] / 2 {
            self.along(instance, curve, turn, cached_tokens)
        } else {
            self.along(instance, &Curve::new(request, 0, turn.start), turn, cached_tokens)
        }
    }

    fn along(&self, instance: &InstanceState, curve: &Curve, turn: Turn, cached_tokens: u32) -> Impact {
        let config = instance.config();
        let prefill_steps = f64::from(turn.steps) * self.line.decode_seconds(config);
        let wait = self.elapsed_at(turn.start).max(prefill_steps);
        let ttft_seconds = self.line.boundary_seconds() + wait + turn.seconds;
        let there = self.residents_around(curve.first);
        let mut decode = 0.0;
        let mut inflicted = turn.added_seconds * there;
        let mut largest = turn.added_seconds * there.min(1.0);
        // Its first token came from the prefill.
        let mut computed: f64 = 1.0;
        for point in curve.spans() {
            let steps = (curve.steps[point] - computed).max(0.0);
            computed = (computed - curve.steps[point]).max(0.0);
            let residents = self.mean_residents[point];
            let context = self.mean_context[point] + curve.mean_context(point);
            let step = config.steps.decode_seconds(residents + 1.0, context, self.line.speed());
            let added = steps * (step - self.step_seconds[point]);
            decode += steps * step;
            inflicted += added * residents;
            largest += added * residents.min(1.0);
        }
        let capacity = instance.kv_capacity_tokens() as f64;
        let (peak, peak_tokens) = self.peak_along(curve);
        let overflow_probability = self.overflow_probability_along(curve, capacity);
        if overflow_probability > 0.0 {
            let context = curve.held(peak, 0.0).max(1.0);
            let recomputation = self.line.recomputation_seconds(config, context);
            let wait = context / self.decline_from(peak) * self.step_seconds[peak];
            let likely = overflow_probability * curve.there[peak];
            decode += likely * (recomputation + wait);
            let there = self.residents_around(peak);
            inflicted += likely * recomputation * there;
            largest += likely * recomputation * there.min(1.0);
        }
        Impact {
            ttft_seconds,
            e2e_seconds: ttft_seconds + decode,
            inflicted_seconds: inflicted,
            largest_inflicted_seconds: largest,
            kv_peak_share: peak_tokens / capacity,
            overflow_probability,
            preemptions: None,
            cached_tokens,
            residents: instance.in_flight(),
            prompts_ahead: instance.awaiting_first_token(),
        }
    }

    /// Residents at a point, or before it where more are: those that start and end between two points are at neither.
    fn residents_around(&self, point: usize) -> f64 {
        let before = if point > 0 { self.mean_residents[point - 1] } else { 0.0 };
        self.residents[point].max(before)
    }

    /// Seconds of the decode steps before step `start`.
    fn elapsed_at(&self, start: u32) -> f64 {
        if start == 0 {
            return 0.0;
        }
        let point = GRID.partition_point(|&step| step <= start).min(POINTS) - 1;
        let into = f64::from(start - GRID[point]).min(WIDTHS[point]);
        self.elapsed_seconds[point] + into * self.step_seconds[point]
    }
}
