//! The policy of `examples/external_policy.py` in Rust: the fewest tokens still to process.
//!
//! ```text
//! cargo build --release -p irouter-external --example external_policy
//! irouter compare conversation --policies "round_robin,external:target/release/examples/external_policy"
//! ```

use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;

use serde_json::{Value, json};

/// The number of the instance for the request; ties go to the lowest number.
fn choose(instances: &[Value]) -> Option<&Value> {
    let tokens = |instance: &Value| {
        let number = |key: &str| instance[key].as_f64().unwrap_or(f64::INFINITY);
        number("queued_prefill_tokens") + number("remaining_output_tokens")
    };
    let least = instances.iter().min_by(|left, right| tokens(left).total_cmp(&tokens(right)))?;
    Some(&least["instance"])
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut connection = UnixStream::connect(std::env::var("IROUTER_POLICY_SOCKET")?)?;
    let lines = BufReader::new(connection.try_clone()?).lines();
    for line in lines {
        let message: Value = serde_json::from_str(&line?)?;
        let answer = match message["instances"].as_array() {
            Some(instances) if message["type"] == "route" => json!({ "instance": choose(instances) }),
            _ => json!({ "protocol": 1 }),
        };
        connection.write_all(format!("{answer}\n").as_bytes())?;
    }
    Ok(())
}
