//! A handler that returns its input: for trying things out and for benchmarks.

use std::time::Duration;

use async_trait::async_trait;

use crate::domain::attempt::Outcome;
use crate::engine::{Attempt, Handler};

/// Output = input, after a delay.
#[derive(Clone, Copy, Debug, Default)]
pub struct Echo {
    /// How long each item takes.
    pub delay: Duration,
}

#[async_trait]
impl Handler for Echo {
    async fn handle(&self, attempt: Attempt) -> Outcome {
        if !self.delay.is_zero() {
            tokio::time::sleep(self.delay).await;
        }
        Outcome::Succeeded(attempt.spec.input.clone())
    }

    fn kind(&self) -> &'static str {
        "echo"
    }

    fn may_block(&self) -> bool {
        false
    }
}
