use std::sync::Arc;

use irouter_core::Picos;
use irouter_core::policy::PolicySpec;
use irouter_sim::Workload;
use irouter_sim::metrics::{Outcome, RequestRecords};
use irouter_sim::simulator::{Aborts, Crash, RunConfig};
use irouter_sim::workload::{ChatSpec, Clients, LengthSpec, LogNormalSpec, Sequels, TurnSpec};

use crate::support::{EVENT_DELAY, config, generated, predictions, run, workload};

const POLICIES: [&str; 5] =
    ["round_robin", "least_requests", "least_work", "central_shortest", "max_capacity"];

fn closed(workload: &Workload, measured: usize, count: u32, think_time: Picos) -> RunConfig {
    following(workload, measured, Some(Clients { count, think_time }))
}

fn following(workload: &Workload, measured: usize, clients: Option<Clients>) -> RunConfig {
    RunConfig { sequels: Sequels::new(workload, clients, 3).map(Arc::new), ..config(measured) }
}

fn records(config: &RunConfig, policy: &str, workload: &Workload) -> RequestRecords {
    run(config, &PolicySpec::named(policy), workload, predictions("noisy", workload)).records
}

fn chats() -> LengthSpec {
    LengthSpec::Chats(ChatSpec {
        turns: TurnSpec { mean: 3.0, most: 8 },
        system_prompt_tokens: 64,
        message: LogNormalSpec { mean: 40.0, sigma: 0.5, most: 200 },
        answer: LogNormalSpec { mean: 80.0, sigma: 0.8, most: 300 },
        think_time_s: 2.0,
        context_tokens: 2000,
    })
}

/// Time from the client's having its answer to `row` until the request `next` comes.
fn pause(records: &RequestRecords, row: usize, next: usize) -> Picos {
    records.arrival[next] - (records.finished[row] + EVENT_DELAY)
}

#[test]
fn a_client_without_pause_asks_as_soon_as_it_has_its_answer() {
    let workload = workload(40);
    for policy in POLICIES {
        let records = records(&closed(&workload, 30, 3, Picos::ZERO), policy, &workload);
        for row in 0..27 {
            assert_eq!(pause(&records, row, row + 3), Picos::ZERO, "{policy}");
        }
    }
}

#[test]
fn what_a_client_asks_and_how_long_it_thinks_is_the_same_for_every_policy() {
    let (count, measured) = (24, 400);
    let workload = workload(2 * measured);
    let run = |policy| records(&closed(&workload, measured, count, Picos::SECOND * 2), policy, &workload);
    let pauses = |records: &RequestRecords| -> Vec<Picos> {
        let clients = count as usize;
        (0..measured - clients).map(|row| pause(records, row, row + clients)).collect()
    };
    let reference = run(POLICIES[0]);
    let mean = pauses(&reference).iter().map(|pause| pause.as_seconds()).sum::<f64>() / 376.0;
    assert!((mean - 2.0).abs() < 0.25, "{mean}");
    for policy in &POLICIES[1..] {
        let other = run(policy);
        assert_eq!(pauses(&reference), pauses(&other), "{policy}");
        assert_ne!(reference.finished, other.finished, "{policy}");
    }
}

#[test]
fn no_more_requests_are_open_than_there_are_clients() {
    let (count, measured) = (20, 300);
    let workload = workload(2 * measured);
    for policy in POLICIES {
        let records =
            records(&closed(&workload, measured, count, Picos::MILLISECOND * 300), policy, &workload);
        assert!(records.outcome[..measured].iter().all(|&outcome| outcome == Outcome::Completed), "{policy}");
        let came = (0..workload.len()).filter(|&row| records.arrival[row] != RequestRecords::NEVER);
        let mut changes: Vec<(Picos, i32)> = came
            .flat_map(|row| {
                [(records.arrival[row], 1), (records.finished[row].saturating_add(EVENT_DELAY), -1)]
            })
            .collect();
        changes.sort_unstable();
        let mut open = 0;
        let most = changes.iter().map(|&(_, change)| {
            open += change;
            open
        });
        assert_eq!(most.max(), Some(20), "{policy}");
    }
}

#[test]
fn clients_go_on_after_failures_and_after_going_away() {
    let workload = workload(800);
    let config = RunConfig {
        aborts: Some(Aborts { share: 0.2 }),
        crashes: vec![Crash { instance: 1, at: Picos::SECOND * 5, down: Picos::SECOND * 5 }],
        leak_share: 0.05,
        ..closed(&workload, 400, 30, Picos::SECOND)
    };
    for policy in POLICIES {
        let records = records(&config, policy, &workload);
        let ended = |outcome| records.outcome[..400].iter().filter(|&&each| each == outcome).count();
        assert_eq!(ended(Outcome::Open), 0, "{policy}");
        assert!(ended(Outcome::Aborted) > 20 && ended(Outcome::Failed) > 0, "{policy}");
    }
}

#[test]
fn a_turn_comes_when_the_answer_before_it_has_ended_and_the_user_has_thought() {
    let workload = generated(300, chats());
    let sessions = workload.columns().session.as_ref().unwrap();
    let thought = workload.columns().think_time.as_ref().unwrap();
    for policy in POLICIES {
        let records = records(&following(&workload, 200, None), policy, &workload);
        assert_eq!(records.arrival[0], workload.arrival()[0]);
        for row in 1..200 {
            if sessions[row] == sessions[row - 1] {
                assert_eq!(pause(&records, row - 1, row), thought[row], "{policy}");
            } else {
                assert_eq!(records.arrival[row], workload.arrival()[row], "{policy}");
            }
        }
    }
}

#[test]
fn a_client_holds_one_conversation_after_the_other() {
    let workload = generated(600, chats());
    let sessions = workload.columns().session.as_ref().unwrap();
    let config = closed(&workload, 300, 10, Picos::SECOND * 5);
    let sequels = Arc::clone(config.sequels.as_ref().unwrap());
    let records = records(&config, "least_work", &workload);
    assert_eq!(sequels.starts().len(), 10);
    let mut new_conversations = 0;
    for row in 0..300 {
        if let Some((thinking, next)) = sequels.after(row).filter(|&(_, next)| next < 300) {
            assert_eq!(pause(&records, row, next), thinking);
            new_conversations += u32::from(sessions[row] != sessions[next]);
        }
    }
    assert!(new_conversations > 50, "{new_conversations}");
}
