//! A command that runs beside the backup: signals are passed on, and its exit status becomes ours.

use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus};

use crate::cmd::signals;
use crate::error::{Error, Kind, Result};
use crate::log;

/// The command, running.
pub struct ChildCommand {
    child: Child,
    program: String,
    /// It was told that the end was asked for.
    forwarded: bool,
}

impl ChildCommand {
    /// Starts the command whose words these are; no shell is between.
    pub fn start(words: &[String]) -> Result<ChildCommand> {
        let Some((program, arguments)) = words.split_first() else {
            return Err(Error::new(Kind::Usage, "exec: the command is empty"));
        };
        let mut command = Command::new(program);
        command.args(arguments);
        let signals = || {
            signals::restore_for_child();
            Ok(())
        };
        // SAFETY: what runs between fork and exec calls sigaction(2) alone.
        unsafe { command.pre_exec(signals) };
        let child = command.spawn().map_err(|e| Error::io(Kind::Usage, format!("exec {program:?}"), &e))?;
        Ok(ChildCommand { child, program: program.clone(), forwarded: false })
    }

    /// Passes on that the end was asked for, once. The status to end with, once the command has ended.
    pub fn poll(&mut self) -> Result<Option<u8>> {
        if let Some(status) = self.try_wait()? {
            log::info("command ended").field("status", status).emit();
            return Ok(Some(status));
        }
        if let Some(signal) = signals::shutdown_signal().filter(|_| !self.forwarded) {
            self.signal(signal);
            self.forwarded = true;
        }
        Ok(None)
    }

    /// The status to end with, once the command has ended: its own, or 128 plus the signal that killed it.
    pub fn try_wait(&mut self) -> Result<Option<u8>> {
        let status =
            self.child.try_wait().map_err(|e| Error::io(Kind::Usage, format!("wait for {:?}", self.program), &e))?;
        Ok(status.map(exit_code))
    }

    /// Passes a signal on.
    pub fn signal(&self, signal: i32) {
        if let Ok(pid) = libc::pid_t::try_from(self.child.id()) {
            // SAFETY: the child has not been waited for, so the pid is still its own.
            unsafe { libc::kill(pid, signal) };
        }
    }
}

/// The number of a signal in [`crate::cli::EXEC_SIGNALS`].
pub fn signal_number(name: &str) -> i32 {
    match name {
        "USR1" => libc::SIGUSR1,
        "USR2" => libc::SIGUSR2,
        "TERM" => libc::SIGTERM,
        _ => libc::SIGHUP,
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn exit_code(status: ExitStatus) -> u8 {
    match (status.code(), status.signal()) {
        (Some(code), _) => code as u8,
        (None, signal) => 128 + signal.unwrap_or(0) as u8,
    }
}
