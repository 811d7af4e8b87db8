//! The kernel's means: Landlock for files, seccomp for system calls.

use std::{collections::BTreeMap, path::PathBuf};

use landlock::{
    ABI, Access, AccessFs, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetStatus, path_beneath_rules,
};
use libc::c_long;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

use crate::{SandboxError, program::Becoming};

/// Restricts this thread, and everything that it starts, to reading below some paths.
pub(crate) fn confine(readable: &[PathBuf]) -> Result<(), SandboxError> {
    // The first version of Landlock: what later ones add, seccomp denies.
    let version = ABI::V1;
    let confined = || {
        Ruleset::default()
            .set_compatibility(CompatLevel::HardRequirement)
            .handle_access(AccessFs::from_all(version))?
            .create()?
            .add_rules(path_beneath_rules(readable, AccessFs::from_read(version)))?
            .add_rules(path_beneath_rules(["/dev/null"], AccessFs::from_file(version)))?
            .restrict_self()
    };
    match confined() {
        Ok(status) if status.ruleset == RulesetStatus::FullyEnforced => Ok(()),
        Ok(_) => Err(SandboxError::unavailable("Landlock is not fully enforced by this kernel")),
        Err(error) => Err(SandboxError::unavailable(format!(
            "{error}; it needs Linux 5.13 or later with Landlock enabled"
        ))),
    }
}

/// System calls of a program that computes, reads and writes what is open.
fn allowed() -> Vec<c_long> {
    let mut calls = vec![
        libc::SYS_read,
        libc::SYS_pread64,
        libc::SYS_readv,
        libc::SYS_write,
        libc::SYS_writev,
        libc::SYS_close,
        libc::SYS_close_range,
        libc::SYS_openat,
        libc::SYS_lseek,
        libc::SYS_fstat,
        libc::SYS_newfstatat,
        libc::SYS_statx,
        libc::SYS_faccessat,
        libc::SYS_faccessat2,
        libc::SYS_readlinkat,
        libc::SYS_getdents64,
        libc::SYS_getcwd,
        libc::SYS_fcntl,
        libc::SYS_ioctl,
        libc::SYS_dup,
        libc::SYS_dup3,
        libc::SYS_pipe2,
        libc::SYS_ppoll,
        libc::SYS_pselect6,
        libc::SYS_epoll_create1,
        libc::SYS_epoll_ctl,
        libc::SYS_epoll_pwait,
        libc::SYS_eventfd2,
        libc::SYS_mmap,
        libc::SYS_munmap,
        libc::SYS_mprotect,
        libc::SYS_mremap,
        libc::SYS_madvise,
        libc::SYS_brk,
        libc::SYS_rt_sigaction,
        libc::SYS_rt_sigprocmask,
        libc::SYS_rt_sigreturn,
        libc::SYS_sigaltstack,
        libc::SYS_futex,
        libc::SYS_set_robust_list,
        libc::SYS_set_tid_address,
        libc::SYS_rseq,
        libc::SYS_clock_gettime,
        libc::SYS_clock_getres,
        libc::SYS_clock_nanosleep,
        libc::SYS_nanosleep,
        libc::SYS_gettimeofday,
        libc::SYS_times,
        libc::SYS_getrusage,
        libc::SYS_setitimer,
        libc::SYS_getitimer,
        libc::SYS_getpid,
        libc::SYS_getppid,
        libc::SYS_gettid,
        libc::SYS_getuid,
        libc::SYS_geteuid,
        libc::SYS_getgid,
        libc::SYS_getegid,
        libc::SYS_uname,
        libc::SYS_sysinfo,
        libc::SYS_getrandom,
        libc::SYS_sched_yield,
        libc::SYS_sched_getaffinity,
        libc::SYS_membarrier,
        libc::SYS_restart_syscall,
        libc::SYS_exit,
        libc::SYS_exit_group,
        // Another filter answers this one as an old kernel does.
        libc::SYS_clone3,
    ];
    #[cfg(target_arch = "x86_64")]
    calls.extend([
        libc::SYS_open,
        libc::SYS_stat,
        libc::SYS_lstat,
        libc::SYS_access,
        libc::SYS_readlink,
        libc::SYS_poll,
        libc::SYS_select,
        libc::SYS_epoll_wait,
        libc::SYS_pipe,
        libc::SYS_dup2,
        libc::SYS_arch_prctl,
        libc::SYS_time,
        libc::SYS_alarm,
    ]);
    calls
}

/// The filters as the kernel reads them, in hexadecimal digits.
pub(crate) fn filters(becoming: Becoming) -> Result<Vec<String>, SandboxError> {
    let failed =
        |error: seccompiler::BackendError| SandboxError::unavailable(format!("seccomp: {error}"));
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(failed)?;
    let when = |argument, length, operator, value| {
        let condition = SeccompCondition::new(argument, length, operator, value)?;
        SeccompRule::new(vec![condition])
    };
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        allowed().into_iter().map(|call| (call, Vec::new())).collect();
    if becoming == Becoming::Allowed {
        rules.insert(libc::SYS_execve, Vec::new());
    }
    // Threads, and no processes.
    let thread = libc::CLONE_THREAD as u64;
    let is_thread = when(0, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(thread), thread);
    rules.insert(libc::SYS_clone, vec![is_thread.map_err(failed)?]);
    // Not `F_SETOWN`, by which the kernel signals other processes.
    let commands = [
        libc::F_DUPFD,
        libc::F_GETFD,
        libc::F_SETFD,
        libc::F_GETFL,
        libc::F_SETFL,
        libc::F_DUPFD_CLOEXEC,
    ];
    let of_files: Result<Vec<_>, _> = commands
        .into_iter()
        .map(|command| when(1, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, command as u64))
        .collect();
    rules.insert(libc::SYS_fcntl, of_files.map_err(failed)?);
    // Reads its own limits, and sets none.
    let is_zero = |argument, length| SeccompCondition::new(argument, length, SeccompCmpOp::Eq, 0);
    let reads = SeccompRule::new(vec![
        is_zero(0, SeccompCmpArgLen::Dword).map_err(failed)?,
        is_zero(2, SeccompCmpArgLen::Qword).map_err(failed)?,
    ]);
    rules.insert(libc::SYS_prlimit64, vec![reads.map_err(failed)?]);
    let denied = SeccompAction::Errno(libc::EPERM as u32);
    let computing = SeccompFilter::new(rules, denied, SeccompAction::Allow, arch);
    // glibc makes threads by `clone` then, whose flags a filter can read.
    let unknown = SeccompAction::Errno(libc::ENOSYS as u32);
    let clone3 = [(libc::SYS_clone3, Vec::new())].into_iter().collect();
    let clone3 = SeccompFilter::new(clone3, SeccompAction::Allow, unknown, arch);
    // The one that forbids most comes last: it forbids further filters.
    [clone3, computing]
        .into_iter()
        .map(|filter| {
            let program = filter.and_then(BpfProgram::try_from).map_err(failed)?;
            Ok(program
                .iter()
                .flat_map(|instruction| {
                    let code = instruction.code.to_ne_bytes();
                    let jumps = [instruction.jt, instruction.jf];
                    [code.as_slice(), &jumps, &instruction.k.to_ne_bytes()].concat()
                })
                .map(|byte| format!("{byte:02x}"))
                .collect())
        })
        .collect()
}
