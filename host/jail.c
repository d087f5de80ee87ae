/*
 * jail.c: the parent's side of the jail: starts a child, talks to it within a deadline, ends and reaps it.
 *
 * Owns: the child's process and the channel to it. The child is this program executed anew, so that none of the
 * parent's memory (keys, other people's data) is in it, and so that the cost does not grow with the parent. All that
 * comes from a child is hostile. Must not know Lua.
 */
#include "jail.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "jail_wire.h"

#define SEND_BUFFER (1024 * 1024) /* a usual bundle goes in one call */
#define PATIENCE_MS 100           /* for a child that is about to end by itself */
#define REAP_MS 5000              /* for the kernel to take a killed process apart */

int64_t jail_now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

/* ==== start ==================================================================================== */

/* Without close_range (an old kernel, or a filter around this process): one by one. */
static void close_all_above(unsigned fd)
{
    struct rlimit r = {.rlim_cur = 65536};

    if (syscall(SYS_close_range, fd + 1, ~0u, 0) == 0)
        return;
    getrlimit(RLIMIT_NOFILE, &r);
    for (rlim_t i = fd + 1; i < r.rlim_cur && i < 1048576; i++)
        close((int)i);
}

/*
 * In the new process, which still shares the parent's memory: system calls only. All signals are blocked here; the
 * child unblocks them once they have their default action again.
 */
static void enter_child(int channel)
{
    static char title[] = JAIL_TITLE;
    static char *const argv[] = {title, NULL};
    static char *const envp[] = {NULL};

    if (channel != JAIL_CHANNEL && dup2(channel, JAIL_CHANNEL) < 0)
        _exit(127);
    close_all_above(JAIL_CHANNEL);
    execve("/proc/self/exe", argv, envp);
    _exit(127);
}

/*
 * vfork: the parent may be large, and copying its page tables takes 45 us for each megabyte. The parent waits until
 * the child has executed; what the child does until then is system calls on its own descriptors.
 */
static pid_t start(int channel)
{
    sigset_t all, before;
    pid_t pid;
    int err;

    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, &before);
    pid = vfork();
    if (pid == 0)
        enter_child(channel);
    err = errno;
    sigprocmask(SIG_SETMASK, &before, NULL);
    errno = err;
    return pid;
}

/* Descriptor 0 of the parent may be free; the child's end must not be there, or its close-on-exec would stay. */
static int open_channel(int pair[2])
{
    const int size = SEND_BUFFER;
    int moved;

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
        return -1;
    if (pair[1] == JAIL_CHANNEL) {
        moved = fcntl(pair[1], F_DUPFD_CLOEXEC, JAIL_CHANNEL + 1);
        close(pair[1]);
        pair[1] = moved;
    }
    setsockopt(pair[0], SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
    return pair[1] < 0 ? -1 : 0;
}

int jail_spawn(struct jail_process *process, const char **step)
{
    int pair[2] = {-1, -1};
    int err = 0;

    process->fd = process->pidfd = -1;
    *step = "socketpair";
    if (open_channel(pair) < 0) {
        err = errno;
        if (pair[0] >= 0)
            close(pair[0]);
        return err;
    }
    process->fd = pair[0];
    *step = "vfork";
    process->pid = start(pair[1]);
    if (process->pid < 0)
        err = errno;
    close(pair[1]);
    if (err == 0) {
        *step = "pidfd_open";
        process->pidfd = (int)syscall(SYS_pidfd_open, process->pid, 0);
        if (process->pidfd < 0) {
            err = errno;
            kill(process->pid, SIGKILL); /* not reaped yet: the number is still this child's */
            waitpid(process->pid, NULL, 0);
        }
    }
    if (err != 0) {
        close(process->fd);
        process->fd = -1;
    }
    return err;
}

/* ==== talk ===================================================================================== */

/* Waits for the channel. Returns 0, ETIMEDOUT or an errno; a hang-up counts as ready, since reading tells it. */
static int wait_ready(int fd, short events, int64_t deadline)
{
    struct pollfd p = {.fd = fd, .events = events};

    for (;;) {
        int64_t left = deadline - jail_now();
        struct timespec t = {.tv_sec = 0, .tv_nsec = 0};
        int n;

        if (left > 0)
            t = (struct timespec){.tv_sec = left / 1000000, .tv_nsec = left % 1000000 * 1000};
        n = ppoll(&p, 1, &t, NULL);
        if (n > 0) /* even when we are late ourselves: what is there counts */
            return 0;
        if (n < 0 && errno != EINTR)
            return errno;
        if (n == 0 && left <= 0)
            return ETIMEDOUT;
    }
}

static int send_all(int fd, const char *p, size_t n, int64_t deadline)
{
    while (n > 0) {
        ssize_t sent = send(fd, p, n, MSG_DONTWAIT | MSG_NOSIGNAL);
        int err;

        if (sent >= 0) {
            p += sent;
            n -= (size_t)sent;
            continue;
        }
        if (errno == EINTR)
            continue;
        if (errno != EAGAIN)
            return errno == ECONNRESET ? EPIPE : errno;
        err = wait_ready(fd, POLLOUT, deadline);
        if (err != 0)
            return err;
    }
    return 0;
}

int jail_send(struct jail_process *process, const char *frame, size_t size, int64_t deadline)
{
    return send_all(process->fd, frame, size, deadline);
}

static int receive_all(int fd, char *p, size_t n, int64_t deadline)
{
    while (n > 0) {
        ssize_t got;
        int err = wait_ready(fd, POLLIN, deadline);

        if (err != 0)
            return err;
        got = recv(fd, p, n, MSG_DONTWAIT);
        if (got > 0) {
            p += got;
            n -= (size_t)got;
        } else if (got == 0 || errno == ECONNRESET) {
            return EPIPE;
        } else if (errno != EINTR && errno != EAGAIN) {
            return errno;
        }
    }
    return 0;
}

int jail_receive(struct jail_process *process, int64_t deadline, uint32_t kind, size_t most, char **body,
                 size_t *body_size)
{
    struct wire_head head;
    int err = receive_all(process->fd, (char *)&head, sizeof head, deadline);

    *body = NULL;
    *body_size = 0;
    if (err != 0)
        return err;
    if (head.kind != kind || head.size > most)
        return EPROTO;
    *body = malloc(head.size > 0 ? head.size : 1);
    if (*body == NULL)
        return ENOMEM;
    err = receive_all(process->fd, *body, head.size, deadline);
    if (err != 0) {
        free(*body);
        *body = NULL;
        return err;
    }
    *body_size = head.size;
    return 0;
}

/* ==== the end ================================================================================== */

static void wait_exit(int pidfd, int ms)
{
    struct pollfd p = {.fd = pidfd, .events = POLLIN};
    int64_t deadline = jail_now() + (int64_t)ms * 1000;
    int64_t left;

    while ((left = deadline - jail_now()) > 0 && poll(&p, 1, (int)(left / 1000) + 1) < 0 && errno == EINTR)
        ;
}

/* The kernel says ECHILD when the host reaps all its children by other means. */
static void reap(int pidfd, struct jail_end *end)
{
    siginfo_t info = {.si_pid = 0};

    memset(end, 0, sizeof *end);
    while (waitid(P_PIDFD, (id_t)pidfd, &info, WEXITED | WNOHANG) < 0)
        if (errno != EINTR)
            return;
    if (info.si_pid == 0)
        return;
    end->known = 1;
    if (info.si_code == CLD_EXITED)
        end->status = info.si_status;
    else
        end->signal = info.si_status;
}

void jail_end(struct jail_process *process, int patient, struct jail_end *end)
{
    struct jail_end unused;

    if (end == NULL)
        end = &unused;
    memset(end, 0, sizeof *end);
    if (process->fd >= 0)
        close(process->fd);
    process->fd = -1;
    if (process->pidfd < 0)
        return;
    if (patient)
        wait_exit(process->pidfd, PATIENCE_MS);
    syscall(SYS_pidfd_send_signal, process->pidfd, SIGKILL, NULL, 0);
    wait_exit(process->pidfd, REAP_MS);
    reap(process->pidfd, end);
    close(process->pidfd);
    process->pidfd = -1;
}
