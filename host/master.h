/* master.h: the mechanics of a supervisor: child processes, channels to them, signals, changed files. See master.c. */
#ifndef ATELIER_MASTER_H
#define ATELIER_MASTER_H

#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/inotify.h>
#include <sys/types.h>

#define MASTER_CHILDREN 1024          /* of all generations together */
#define MASTER_MESSAGE (128 * 1024)   /* bytes; a socket pair takes that in one piece */
#define MASTER_CHANGES 8192           /* bytes of inotify's events that are read at once */

struct master_child {
    int id;       /* never reused, unlike pid */
    pid_t pid;
    int control;  /* our end of the channel, or -1 once the child has closed its own */
    int is_ended; /* reaped: `status` is what waitpid said */
    int status;
};

struct master {
    int signals, changes; /* signalfd; inotify, or -1 until something is watched */
    sigset_t before;
    int count, next_id, turn;
    struct master_child children[MASTER_CHILDREN];
    size_t change_at, change_size; /* what is left of the events read last */
    _Alignas(struct inotify_event) char change[MASTER_CHANGES];
    char message[MASTER_MESSAGE];
};

enum master_kind { MASTER_NOTHING, MASTER_SIGNAL, MASTER_MESSAGE_OF, MASTER_END, MASTER_CHANGED };

struct master_event {
    enum master_kind kind;
    int id;           /* of the child */
    pid_t pid;
    int number;       /* the signal; the watch */
    int status;       /* of MASTER_END, as waitpid says it */
    const char *text; /* message, or name of what changed; good until the next call */
    size_t size;
};

/* What a child starts with. `envp` has room at [0] for the channel's variable, which is set here. */
struct master_start {
    const char *exe;
    char **argv, **envp;
    const int *keep; /* descriptors that stay open, ended by -1 */
};

#define MASTER_CONTROL_VARIABLE "ATELIER_CONTROL_FD"

/* Each returns 0 or an errno. */
int master_open(struct master *m);
int master_spawn(struct master *m, const struct master_start *start, struct master_child **child);
int master_send(struct master *m, int id, const char *text, size_t size);
int master_kill(const struct master *m, int id, int number);
int master_watch(struct master *m, const char *path, int *watch);
void master_forget_watches(struct master *m);

/* Waits for one event, at most so many milliseconds; then the kind is MASTER_NOTHING. */
int master_wait(struct master *m, int64_t ms, struct master_event *event);

/* Leaves the children alone: they see their channel end. */
void master_close(struct master *m);

/* Tells the service manager, over the datagram socket that the environment names; 0 also when it names none. */
int master_notify(const char *text, size_t size, int *is_told);

#endif
