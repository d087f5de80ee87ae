/*
 * jail_lock.c: the child gives up every right that it does not need.
 *
 * Owns: the order of the steps (the ones that need a right come before the one that drops it), the kernel's limits and
 * the list of system calls. Each wall stands for itself: a script that gets past Lua meets the next. Must not know Lua.
 */
#include "jail.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <seccomp.h>

/* A user of its own for each child: no file is theirs, and no two children may signal each other. */
#define FIRST_UID 2000000000u
#define NOBODY 65534u

#define SLACK (64u * 1024 * 1024) /* address space above what is mapped and the cap: messages, large blocks' heads */
#define STACK (8u * 1024 * 1024)
#define CPU_HARD 3600 /* seconds in the life of a child; the soft limit follows each run */

#if defined(__SANITIZE_ADDRESS__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SANITIZED 1
#endif
#endif

/* ==== an empty file tree ======================================================================= */

/*
 * Shares the child's memory and its idea of "/" and ends at once: then its folder in /proc is no longer there, and "/"
 * is a place where nothing can be found or made. Nothing is left on any disk.
 */
static int enter_vanishing(void *unused)
{
    (void)unused;
    _exit(chroot("/proc/self/fdinfo") < 0 || chdir("/") < 0 ? 1 : 0);
}

static int hide_files(void)
{
    static char stack[16 * 1024] __attribute__((aligned(16)));
    int status = 1;
    pid_t pid = clone(enter_vanishing, stack + sizeof stack, CLONE_FS | CLONE_VM | CLONE_VFORK | SIGCHLD, NULL);

    if (pid < 0)
        return 0;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    return status == 0;
}

/* ==== a user of its own ======================================================================== */

static int take_uid(unsigned id)
{
    return setgroups(0, NULL) == 0 && setresgid(id, id, id) == 0 && setresuid(id, id, id) == 0;
}

/* Returns whether this child runs as a user that owns nothing. */
static int drop_user(void)
{
    if (geteuid() != 0)
        return 0;
    return take_uid(FIRST_UID + (unsigned)getpid()) || take_uid(NOBODY);
}

/* ==== limits =================================================================================== */

static int limit(int resource, rlim_t soft, rlim_t hard)
{
    const struct rlimit r = {.rlim_cur = soft, .rlim_max = hard};
    return setrlimit((__rlimit_resource_t)resource, &r) == 0;
}

/* Bytes of address space that the program and its libraries take before any script. */
static rlim_t mapped(void)
{
    char text[64] = "";
    int fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? 0 : read(fd, text, sizeof text - 1);

    if (fd >= 0)
        close(fd);
    return n > 0 ? strtoull(text, NULL, 10) * (rlim_t)sysconf(_SC_PAGESIZE) : 0;
}

static int set_limits(const struct jail_limits *limits, rlim_t base)
{
    rlim_t space = base + limits->memory + SLACK;
    int ok = 1;

#ifdef SANITIZED
    space = RLIM_INFINITY; /* the shadow memory is larger than any limit */
#endif
    ok &= limit(RLIMIT_AS, space, space);
    ok &= limit(RLIMIT_CPU, (rlim_t)(limits->time_us / 1000000) + 2, CPU_HARD);
    ok &= limit(RLIMIT_FSIZE, 0, 0);
    ok &= limit(RLIMIT_NOFILE, JAIL_CHANNEL + 1, JAIL_CHANNEL + 1);
    ok &= limit(RLIMIT_CORE, 0, 0);
    ok &= limit(RLIMIT_STACK, STACK, STACK);
    ok &= limit(RLIMIT_MEMLOCK, 0, 0);
    ok &= limit(RLIMIT_MSGQUEUE, 0, 0);
    ok &= limit(RLIMIT_NPROC, 0, 0); /* no effect on root: the user is dropped first */
    return ok;
}

/* The kernel prefers this process when it has to end one for want of memory. */
static void offer_to_oom_killer(void)
{
    int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

    if (fd >= 0) {
        if (write(fd, "1000", 4) < 0) {
            /* a preference only */
        }
        close(fd);
    }
}

/* ==== system calls ============================================================================= */

/* Without conditions: they touch nothing but this process's own memory, clock and end. */
static const int harmless[] = {
    SCMP_SYS(brk), SCMP_SYS(munmap), SCMP_SYS(mremap), SCMP_SYS(madvise), SCMP_SYS(futex), SCMP_SYS(clock_gettime),
    SCMP_SYS(gettimeofday), SCMP_SYS(time), SCMP_SYS(setitimer), SCMP_SYS(rt_sigreturn), SCMP_SYS(restart_syscall),
    SCMP_SYS(exit), SCMP_SYS(exit_group),
#ifdef SANITIZED
    SCMP_SYS(sigaltstack), /* the sanitizer asks for the stack's place ahead of each longjmp */
#endif
};

static int allow_calls(scmp_filter_ctx filter)
{
    /* Compared: number of the argument, how, with what; masked: the mask, then the value. */
    const struct scmp_arg_cmp channel = {0, SCMP_CMP_EQ, JAIL_CHANNEL, 0};
    const struct scmp_arg_cmp not_code = {2, SCMP_CMP_MASKED_EQ, PROT_EXEC, 0};
    const struct scmp_arg_cmp private = {3, SCMP_CMP_MASKED_EQ, MAP_ANONYMOUS | MAP_SHARED, MAP_ANONYMOUS};
    const struct scmp_arg_cmp itself = {0, SCMP_CMP_EQ, 0, 0};
    const struct scmp_arg_cmp processor = {1, SCMP_CMP_EQ, RLIMIT_CPU, 0};
    int err = 0;

    for (size_t i = 0; i < sizeof harmless / sizeof *harmless; i++)
        err |= seccomp_rule_add(filter, SCMP_ACT_ALLOW, harmless[i], 0);
    err |= seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(read), 1, channel);
    err |= seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(writev), 1, channel);
    err |= seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 2, not_code, private);
    err |= seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(mprotect), 1, not_code);
    err |= seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(prlimit64), 2, itself, processor);
    return err;
}

static int filter_calls(void)
{
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_KILL_PROCESS);
    int err;

    if (filter == NULL)
        return 0;
    err = allow_calls(filter);
    if (err == 0)
        err = seccomp_load(filter);
    seccomp_release(filter);
    return err == 0;
}

/* ==== in order ================================================================================= */

uint32_t jail_lock(const struct jail_limits *limits, pid_t parent, const char **missing)
{
    uint32_t wanted = ~limits->without, standing = 0;
    rlim_t base = mapped();

    *missing = NULL;
    offer_to_oom_killer();
    if ((wanted & JAIL_ROOT) && geteuid() == 0 && hide_files())
        standing |= JAIL_ROOT;
    else if (chdir("/") < 0)
        *missing = "an empty working directory";
    if ((wanted & JAIL_UID) && drop_user())
        standing |= JAIL_UID;
    /* Asked for after the user changed, which would undo it. The parent may have died before. */
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || getppid() != parent)
        _exit(1);
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        *missing = "no_new_privs";
    prctl(PR_SET_DUMPABLE, 0);
    if (wanted & JAIL_RLIMITS) {
        if (set_limits(limits, base))
            standing |= JAIL_RLIMITS;
        else
            *missing = "rlimits";
    }
    if (wanted & JAIL_SECCOMP) {
        if (filter_calls())
            standing |= JAIL_SECCOMP;
        else
            *missing = "seccomp";
    }
    return standing;
}
