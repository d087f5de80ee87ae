/*
 * master.c: the mechanics of a supervisor: starts children, talks to them, and waits for whatever happens next.
 *
 * Owns: the children's processes and channels, the signals that the process takes while it supervises, and inotify.
 * What a child is for, when one is started again and what is said to it is decided above, in Lua. Must not know Lua.
 * Every child has a channel of whole messages (SEQPACKET); its end is how a child learns that the master is gone.
 */
#include "master.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int64_t now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* ==== open and close =========================================================================== */

static void taken_signals(sigset_t *set)
{
    sigemptyset(set);
    sigaddset(set, SIGTERM);
    sigaddset(set, SIGINT);
    sigaddset(set, SIGHUP);
    sigaddset(set, SIGCHLD);
}

int master_open(struct master *m)
{
    sigset_t set;

    taken_signals(&set);
    m->changes = -1;
    m->next_id = 1;
    m->signals = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
    if (m->signals < 0)
        return errno;
    return sigprocmask(SIG_BLOCK, &set, &m->before) != 0 ? errno : 0;
}

void master_close(struct master *m)
{
    for (int i = 0; i < m->count; i++) {
        if (m->children[i].control >= 0)
            close(m->children[i].control);
    }
    m->count = 0;
    master_forget_watches(m);
    if (m->signals >= 0) {
        close(m->signals);
        sigprocmask(SIG_SETMASK, &m->before, NULL);
    }
    m->signals = -1;
}

/* ==== starting a child ========================================================================= */

/*
 * In the new process, which still shares the parent's memory: system calls only. Its group is its own, so that a
 * Control-C at the terminal reaches the master alone, which then drains it. When the master dies, however, it is
 * told to end as if the master had asked.
 */
static void enter_child(const struct master_start *start, int control, pid_t parent)
{
    sigset_t none;

    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent) /* it died before it could be watched */
        _exit(0);
    fcntl(control, F_SETFD, 0); /* of this process alone: the table of descriptors is not shared */
    for (const int *fd = start->keep; *fd >= 0; fd++)
        fcntl(*fd, F_SETFD, 0);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    execve(start->exe, start->argv, start->envp);
    execve("/proc/self/exe", start->argv, start->envp); /* the file is just being replaced */
    _exit(127);
}

static pid_t start_child(const struct master_start *start, int control)
{
    sigset_t all, before;
    pid_t parent = getpid();
    pid_t pid;
    int err;

    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, &before);
    pid = vfork();
    if (pid == 0)
        enter_child(start, control, parent);
    err = errno;
    sigprocmask(SIG_SETMASK, &before, NULL);
    errno = err;
    return pid;
}

int master_spawn(struct master *m, const struct master_start *start, struct master_child **child)
{
    char variable[64];
    int pair[2];
    pid_t pid;
    int err;

    if (m->count == MASTER_CHILDREN)
        return EAGAIN;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0)
        return errno;
    snprintf(variable, sizeof variable, MASTER_CONTROL_VARIABLE "=%d", pair[1]);
    start->envp[0] = variable;
    pid = start_child(start, pair[1]);
    err = errno;
    start->envp[0] = NULL;
    close(pair[1]);
    if (pid < 0) {
        close(pair[0]);
        return err;
    }
    *child = &m->children[m->count++];
    **child = (struct master_child){.id = m->next_id++, .pid = pid, .control = pair[0]};
    return 0;
}

/* ==== what can be done to one ================================================================== */

static const struct master_child *find_child(const struct master *m, int id)
{
    for (int i = 0; i < m->count; i++) {
        if (m->children[i].id == id)
            return &m->children[i];
    }
    return NULL;
}

int master_send(struct master *m, int id, const char *text, size_t size)
{
    const struct master_child *child = find_child(m, id);

    if (child == NULL || child->control < 0)
        return ESRCH;
    while (send(child->control, text, size, MSG_DONTWAIT | MSG_NOSIGNAL) < 0) {
        if (errno != EINTR)
            return errno;
    }
    return 0;
}

/* A child that was reaped is not in the list any more, or marked: its number may be another process's by now. */
int master_kill(const struct master *m, int id, int number)
{
    const struct master_child *child = find_child(m, id);

    if (child == NULL || child->is_ended)
        return ESRCH;
    return kill(child->pid, number) != 0 ? errno : 0;
}

/* ==== changed files ============================================================================ */

int master_watch(struct master *m, const char *path, int *watch)
{
    /* Not IN_MODIFY: half a file is no news. */
    static const uint32_t kinds =
        IN_CLOSE_WRITE | IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO | IN_ONLYDIR | IN_EXCL_UNLINK;

    if (m->changes < 0)
        m->changes = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    if (m->changes < 0)
        return errno;
    *watch = inotify_add_watch(m->changes, path, kinds);
    return *watch < 0 ? errno : 0;
}

void master_forget_watches(struct master *m)
{
    if (m->changes >= 0)
        close(m->changes);
    m->changes = -1;
    m->change_at = m->change_size = 0;
}

/* The next event of those read, or of new ones. Returns whether there is one. */
static int next_change(struct master *m, struct master_event *event)
{
    const struct inotify_event *e;
    ssize_t n;

    if (m->changes < 0)
        return 0;
    if (m->change_at >= m->change_size) {
        n = read(m->changes, m->change, sizeof m->change);
        if (n <= 0)
            return 0;
        m->change_at = 0;
        m->change_size = (size_t)n;
    }
    e = (const struct inotify_event *)(const void *)(m->change + m->change_at);
    m->change_at += sizeof *e + e->len;
    *event = (struct master_event){.kind = MASTER_CHANGED, .number = e->wd, .text = e->len > 0 ? e->name : ""};
    event->size = strlen(event->text);
    return 1;
}

/* ==== waiting ================================================================================== */

/* Children that are not ours in this sense (started before this program was executed) are reaped, and forgotten. */
static void reap(struct master *m)
{
    int status;
    pid_t pid;

    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
        for (int i = 0; i < m->count; i++) {
            if (m->children[i].pid == pid && !m->children[i].is_ended) {
                m->children[i].is_ended = 1;
                m->children[i].status = status;
                break;
            }
        }
    }
}

/* Returns whether a message was there. The end of the channel closes it. */
static int next_message(struct master *m, struct master_child *child, struct master_event *event)
{
    ssize_t n;

    if (child->control < 0)
        return 0;
    do
        n = recv(child->control, m->message, sizeof m->message, MSG_DONTWAIT);
    while (n < 0 && errno == EINTR);
    if (n > 0) {
        *event = (struct master_event){.kind = MASTER_MESSAGE_OF, .id = child->id, .pid = child->pid,
                                       .text = m->message, .size = (size_t)n};
        return 1;
    }
    if (n == 0 || (errno != EAGAIN && errno != EWOULDBLOCK)) {
        close(child->control);
        child->control = -1;
    }
    return 0;
}

/* What a child said before it ended comes before its end. */
static int next_end(struct master *m, struct master_event *event)
{
    for (int i = 0; i < m->count; i++) {
        struct master_child *child = &m->children[i];
        if (!child->is_ended)
            continue;
        if (next_message(m, child, event))
            return 1;
        *event = (struct master_event){.kind = MASTER_END, .id = child->id, .pid = child->pid, .status = child->status};
        if (child->control >= 0)
            close(child->control);
        *child = m->children[--m->count];
        return 1;
    }
    return 0;
}

static int next_signal(struct master *m, struct master_event *event)
{
    struct signalfd_siginfo info;

    while (read(m->signals, &info, sizeof info) == (ssize_t)sizeof info) {
        if (info.ssi_signo != SIGCHLD) {
            *event = (struct master_event){.kind = MASTER_SIGNAL, .number = (int)info.ssi_signo};
            return 1;
        }
    }
    return 0;
}

/* Every child gets its turn: one that talks all the time must not silence the others. */
static int next_word(struct master *m, struct master_event *event)
{
    for (int i = 0; i < m->count; i++) {
        int at = (m->turn + i) % m->count;
        if (next_message(m, &m->children[at], event)) {
            m->turn = at + 1;
            return 1;
        }
    }
    return 0;
}

static int next_event(struct master *m, struct master_event *event)
{
    if (next_signal(m, event))
        return 1;
    reap(m);
    return next_end(m, event) || next_word(m, event) || next_change(m, event);
}

int master_wait(struct master *m, int64_t ms, struct master_event *event)
{
    int64_t deadline = now_ms() + ms;

    for (;;) {
        struct pollfd polled[MASTER_CHILDREN + 2];
        nfds_t n = 0;
        int64_t left = deadline - now_ms();

        if (next_event(m, event))
            return 0;
        *event = (struct master_event){.kind = MASTER_NOTHING};
        if (left <= 0)
            return 0;
        polled[n++] = (struct pollfd){.fd = m->signals, .events = POLLIN};
        polled[n++] = (struct pollfd){.fd = m->changes, .events = POLLIN}; /* poll passes over -1 */
        for (int i = 0; i < m->count; i++)
            polled[n++] = (struct pollfd){.fd = m->children[i].control, .events = POLLIN};
        if (poll(polled, n, left > 3600000 ? 3600000 : (int)left) < 0 && errno != EINTR)
            return errno;
    }
}

/* ==== the service manager ====================================================================== */

int master_notify(const char *text, size_t size, int *is_told)
{
    static const struct timeval patience = {.tv_sec = 2}; /* a manager that does not read must not stop us */
    const char *path = getenv("NOTIFY_SOCKET");
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    size_t length = path != NULL ? strlen(path) : 0;
    int err = 0;
    int fd;

    *is_told = 0;
    if (length == 0)
        return 0;
    if ((path[0] != '/' && path[0] != '@') || length >= sizeof to.sun_path)
        return EINVAL;
    memcpy(to.sun_path, path, length);
    if (path[0] == '@') /* an abstract name begins with a zero byte and ends without one */
        to.sun_path[0] = '\0';
    fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return errno;
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    length += offsetof(struct sockaddr_un, sun_path) + (path[0] == '/');
    if (sendto(fd, text, size, MSG_NOSIGNAL, (const struct sockaddr *)&to, (socklen_t)length) < 0)
        err = errno;
    close(fd);
    *is_told = err == 0;
    return err;
}
