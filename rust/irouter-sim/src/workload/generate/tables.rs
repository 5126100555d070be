//! Figures behind the named length models.

use super::lengths::{LogNormalSpec, TaskSpec};

/// Quantiles: (level, tokens), both ascending, levels from 0 to 1.
pub(super) type QuantileTable = [(f64, u32); 27];

/// Prompt tokens of the Azure conversation trace of 2023 (19,366 requests; Azure Public Dataset, CC-BY-4.0; Patel et al.,
/// Splitwise, ISCA 2024).
pub(super) const AZURE_CONVERSATION_INPUT: QuantileTable = [
    (0.0, 2),
    (0.01, 29),
    (0.02, 91),
    (0.05, 181),
    (0.1, 207),
    (0.15, 372),
    (0.2, 387),
    (0.25, 396),
    (0.3, 403),
    (0.35, 414),
    (0.4, 703),
    (0.45, 984),
    (0.5, 1020),
    (0.55, 1045),
    (0.6, 1071),
    (0.65, 1097),
    (0.7, 1130),
    (0.75, 1189),
    (0.8, 1315),
    (0.85, 1876),
    (0.9, 2734),
    (0.95, 4083),
    (0.98, 4098),
    (0.99, 4142),
    (0.995, 4831),
    (0.999, 6179),
    (1.0, 14050),
];

/// Output tokens of the same trace.
pub(super) const AZURE_CONVERSATION_OUTPUT: QuantileTable = [
    (0.0, 7),
    (0.01, 16),
    (0.02, 24),
    (0.05, 41),
    (0.1, 54),
    (0.15, 67),
    (0.2, 77),
    (0.25, 85),
    (0.3, 91),
    (0.35, 96),
    (0.4, 103),
    (0.45, 113),
    (0.5, 129),
    (0.55, 151),
    (0.6, 177),
    (0.65, 217),
    (0.7, 384),
    (0.75, 395),
    (0.8, 400),
    (0.85, 411),
    (0.9, 424),
    (0.95, 451),
    (0.98, 540),
    (0.99, 601),
    (0.995, 643),
    (0.999, 954),
    (1.0, 1000),
];

/// Table 1 of the paper: tasks weighted by their samples, prompts log-normal around their mean (sigma 0.5, an assumption),
/// outputs log-normal with their mean and the sigma that gives their share above 140 tokens.
pub(super) fn paper_five_tasks() -> Vec<TaskSpec> {
    const TASKS: [(&str, u32, f64, f64, f64); 5] = [
        ("translation", 7351, 29.09, 61.76, 0.97),
        ("question answering", 6988, 29.83, 334.40, 1.13),
        ("sentiment", 6564, 211.54, 142.53, 0.53),
        ("in-context question answering", 7122, 125.16, 220.02, 1.01),
        ("entity recognition", 3304, 26.41, 64.10, 0.83),
    ];
    let task = |(name, samples, prompt, output, sigma): (&str, u32, f64, f64, f64)| TaskSpec {
        name: name.to_owned(),
        weight: f64::from(samples),
        prompt: LogNormalSpec { mean: prompt, sigma: 0.5, most: 1000 },
        output: LogNormalSpec { mean: output, sigma, most: 1024 },
    };
    TASKS.map(task).to_vec()
}
