//! Watches the other ranks of a run whose cards talk to each other: on a card one waits for good for what a lost rank does not
//! send. Every rank holds a connection to the first, and all say goodbye in it when they end well. Where one closes without it,
//! whoever is still waiting after a while ends the process.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{sleep, spawn};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::nn::ranks;
use crate::run::{cli, launch, words};

/// What is sent at a good end.
const GOODBYE: u8 = 1;

/// Time for the main thread to see the loss itself and to end as it does elsewhere.
const GRACE: Duration = Duration::from_secs(10);

/// Connections to the other ranks, or to the first.
static LINES: Mutex<Vec<TcpStream>> = Mutex::new(Vec::new());

/// Connects the ranks, the first of which is on `host`. All call it at the same time.
pub(super) fn begin(host: &str) -> Result<()> {
    let lines = connect(host).context("a connection that shows whether the others are there")?;
    for line in &lines {
        keep_alive(line)?;
        let line = line.try_clone()?;
        spawn(move || {
            if !ends_well(line) {
                end_process();
            }
        });
    }
    *LINES.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = lines;
    Ok(())
}

/// Says goodbye: from now on the others do not wait for this rank.
pub(super) fn end() {
    for mut line in take_lines() {
        // Who is gone does not wait.
        let _ = line.write_all(&[GOODBYE]);
    }
}

fn take_lines() -> Vec<TcpStream> {
    std::mem::take(&mut *LINES.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
}

fn connect(host: &str) -> Result<Vec<TcpStream>> {
    const PATIENCE: Duration = Duration::from_secs(60);
    // The name may be one that only others know this machine by.
    let listener = match ranks::is_first() {
        true => Some(TcpListener::bind((host, 0)).or_else(|_| TcpListener::bind("0.0.0.0:0"))?),
        false => None,
    };
    let own = listener.as_ref().map_or(Ok(0), |listener| listener.local_addr().map(|at| at.port()))?;
    let port = ranks::all(&[f64::from(own)])[0][0] as u16;
    let Some(listener) = listener else {
        return Ok(vec![TcpStream::connect((host, port)).with_context(|| format!("{host}:{port}"))?]);
    };
    listener.set_nonblocking(true)?;
    let (started, mut lines) = (Instant::now(), Vec::new());
    while lines.len() + 1 < ranks::world() {
        match listener.accept() {
            Ok((line, _)) => {
                line.set_nonblocking(false)?;
                lines.push(line);
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                ensure!(started.elapsed() < PATIENCE, "{} of {} came", lines.len(), ranks::world() - 1);
                sleep(Duration::from_millis(5));
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(lines)
}

/// Closes the connection half a minute after the other machine has gone without a word.
fn keep_alive(line: &TcpStream) -> Result<()> {
    let options = [
        (libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1),
        #[cfg(target_os = "linux")]
        (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, 10),
        #[cfg(target_os = "linux")]
        (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, 5),
        #[cfg(target_os = "linux")]
        (libc::IPPROTO_TCP, libc::TCP_KEEPCNT, 3),
    ];
    for (level, name, value) in options {
        let value: libc::c_int = value;
        // SAFETY: an open socket, and an option that is one number.
        let done = unsafe {
            libc::setsockopt(
                line.as_raw_fd(),
                level,
                name,
                (&raw const value).cast(),
                size_of_val(&value) as libc::socklen_t,
            )
        };
        ensure!(done == 0, "{}", std::io::Error::last_os_error());
    }
    Ok(())
}

/// Waits for the end of a connection, and whether it is a good one.
fn ends_well(mut line: TcpStream) -> bool {
    let mut byte = [0];
    matches!(line.read(&mut byte), Ok(1)) && byte[0] == GOODBYE
}

/// Tells the others that one is lost, and ends the process unless it ends by itself.
fn end_process() {
    static BEGUN: AtomicBool = AtomicBool::new(false);
    let lines = take_lines();
    // Without lines this rank has said goodbye.
    if lines.is_empty() || BEGUN.swap(true, Ordering::Relaxed) {
        return;
    }
    for line in &lines {
        let _ = line.shutdown(Shutdown::Both);
    }
    sleep(GRACE);
    let lost = format!("{}: its connection is closed", ranks::LOST);
    words::tell(format_args!("error: {}", cli::of_lost_rank(&lost)));
    launch::clean();
    // SAFETY: what runs at an ordinary exit would wait for the card.
    unsafe { libc::_exit(1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_ends_well_with_a_goodbye_alone() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let pair = || {
            let here = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            keep_alive(&here).unwrap();
            (here, listener.accept().unwrap().0)
        };
        let (here, mut there) = pair();
        there.write_all(&[GOODBYE]).unwrap();
        assert!(ends_well(here));
        let (here, there) = pair();
        drop(there);
        assert!(!ends_well(here));
    }
}
