//! Ray's queue, by the REST interface of its jobs (`/api/jobs/`, version 4 of Ray 2).

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use ureq::Agent;

use super::jobs::{Alive, NewJob, Queue};

/// The jobs of a Ray cluster. Where `RAY_AUTH_TOKEN` is set, it is given as a bearer token.
#[derive(Debug)]
pub struct Ray {
    /// Of the head's dashboard, such as `http://127.0.0.1:8265`.
    pub address: String,
    /// Processors of a job.
    pub cpus: f64,
    /// Cards of a job.
    pub gpus: f64,
}

impl Ray {
    /// A `GET` without `body`, else a `POST`.
    fn ask(&self, path: &str, body: Option<&Value>) -> Result<Value> {
        let url = format!("{}/api/jobs/{path}", self.address.trim_end_matches('/'));
        let config = Agent::config_builder().timeout_global(Some(Duration::from_secs(30))).http_status_as_error(false);
        let agent: Agent = config.build().into();
        let token = std::env::var("RAY_AUTH_TOKEN").map(|token| format!("Bearer {token}")).unwrap_or_default();
        let answer = match body {
            None => agent.get(&url).header("Authorization", &token).call(),
            Some(body) => {
                let post = agent.post(&url).header("Authorization", &token).header("Content-Type", "application/json");
                post.send(body.to_string())
            }
        };
        let mut answer = answer.with_context(|| format!("{url}: cannot ask Ray"))?;
        let text = answer.body_mut().read_to_string().with_context(|| format!("{url}: cannot read"))?;
        let status = answer.status();
        ensure!(status.is_success(), "{url}: {status}: {}", text.lines().next().unwrap_or_default());
        serde_json::from_str(&text).with_context(|| format!("{url}: no JSON"))
    }
}

impl Queue for Ray {
    fn alive(&self, prefix: &str) -> Result<HashMap<String, Alive>> {
        let jobs = self.ask("", None)?;
        let alive = jobs.as_array().into_iter().flatten().filter_map(|job| {
            let name = job["submission_id"].as_str().filter(|name| name.starts_with(prefix))?;
            let waits = match job["status"].as_str() {
                Some("PENDING") => true,
                Some("RUNNING") => false,
                _ => return None,
            };
            Some((named(name), Alive { id: name.to_string(), waits }))
        });
        Ok(alive.collect())
    }

    /// A name stands for one job for ever: one that is submitted again gets a number.
    fn submit(&self, job: &NewJob) -> Result<String> {
        let again = self.ask("", None)?;
        let taken = again.as_array().into_iter().flatten().filter_map(|other| other["submission_id"].as_str());
        let number = taken.filter(|name| named(name) == job.name).count();
        let id = if number == 0 { job.name.clone() } else { format!("{}.{number}", job.name) };
        let log = job.folder.join("run.log");
        let body = json!({
            "submission_id": id,
            "entrypoint": format!("{} >> '{}' 2>&1", job.command, log.display()),
            "entrypoint_num_cpus": self.cpus,
            "entrypoint_num_gpus": self.gpus,
        });
        self.ask("", Some(&body))?;
        Ok(id)
    }

    fn withdraw(&self, id: &str) {
        // It ends by itself where this fails.
        let _ = self.ask(&format!("{id}/stop"), Some(&json!({})));
    }

    fn state(&self, id: &str) -> String {
        let job = self.ask(id, None).unwrap_or_default();
        let text = |key: &str| job[key].as_str().unwrap_or_default().to_string();
        format!("{} {}", text("status"), text("message").lines().next().unwrap_or_default()).trim().to_string()
    }

    /// Ray sets it to the job's processors.
    fn threads(&self) -> &'static str {
        "\"${OMP_NUM_THREADS:-1}\""
    }
}

/// The name of a job, without the number of its submission.
fn named(id: &str) -> String {
    id.split('.').next().unwrap_or_default().to_string()
}
