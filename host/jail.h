/*
 * jail.h: the jail's two sides and what they say to each other.
 *
 * A jail is a child process that runs Lua that nobody trusts. The parent's side (jail.c) starts it, talks to it
 * within a deadline, ends and reaps it. The child's side is this same program, executed anew: jail_child.c receives,
 * jail_lock.c gives up every right, jail_state.c makes the Lua state, jail_library.c what a script finds in it, and
 * jail_alloc.c its memory.
 */
#ifndef ATELIER_JAIL_H
#define ATELIER_JAIL_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* What the program's first argument is in a child, and what `ps` shows. */
#define JAIL_TITLE "atelier: jail"
#define JAIL_CHANNEL 0 /* the one descriptor of a child */

#define JAIL_MAX_NAME 255        /* bytes of a script's name */
#define JAIL_MAX_MODULES 10000   /* scripts in one message */
#define JAIL_MAX_CALLS 512       /* functions of a prelude that count their calls */
#define JAIL_MAX_MESSAGE 2048    /* bytes of one message about a fault */
#define JAIL_MAX_FAULTS 64       /* faults in one reply */
#define JAIL_REPLY_ROOM (256 * 1024) /* of a reply, captured output aside */

enum jail_verdict {
    JAIL_OK,
    JAIL_ERROR,
    JAIL_SYNTAX,
    JAIL_INSTRUCTIONS,
    JAIL_MEMORY,
    JAIL_TIME,
    JAIL_OUTPUT,
    JAIL_CRASH,
    JAIL_VERDICTS /* how many */
};

/* Walls that can be left out one by one: by specs that show what each holds back, and where a kernel lacks one. */
enum jail_wall {
    JAIL_SECCOMP = 1 << 0,   /* system calls */
    JAIL_RLIMITS = 1 << 1,   /* the kernel's limits */
    JAIL_UID = 1 << 2,       /* a user of its own */
    JAIL_ROOT = 1 << 3,      /* an empty file tree */
    JAIL_ALLOCATOR = 1 << 4, /* the cap on Lua's memory */
    JAIL_HOOK = 1 << 5,      /* the instruction budget */
    JAIL_ALARM = 1 << 6,     /* the child's own timer */
    JAIL_FINALIZERS = 1 << 7, /* the refusal of __gc */
    JAIL_HANDLERS = 1 << 8,  /* error handlers that the hook sees */
    JAIL_TIMER = 1 << 9,     /* the parent's timer */
    JAIL_STICKY = 1 << 10    /* limits that a script cannot catch */
};

struct jail_limits {
    uint64_t memory;       /* bytes of Lua's heap */
    uint64_t instructions; /* of the virtual machine */
    uint64_t time_us;      /* wall time of one run */
    uint64_t output;       /* bytes */
    uint32_t without;      /* walls left out */
};

/* Kinds of frames. To the child: */
#define JAIL_HELLO 0x314c4841u /* limits, the parent's pid */
#define JAIL_LOAD 0x324c4841u  /* what all runs share: scripts, prelude */
#define JAIL_RUN 0x334c4841u   /* a script and its own siblings */
#define JAIL_PROBE 0x344c4841u /* try what the walls forbid */
/* From the child: */
#define JAIL_READY 0x414c4841u /* walls that stand, or what is missing */
#define JAIL_REPLY 0x424c4841u

/* ==== the parent's side (jail.c) =============================================================== */

struct jail_process {
    int fd;    /* the channel, -1 = closed */
    int pidfd; /* -1 = reaped */
    pid_t pid;
};

/* How a child ended. */
struct jail_end {
    int known;  /* 0: somebody else reaped it */
    int signal; /* that killed it, or 0 */
    int status; /* its exit code */
};

/* Starts a child. Returns 0 or an errno; *step then names what failed. */
int jail_spawn(struct jail_process *process, const char **step);

/* Microseconds of the clock that deadlines are on. */
int64_t jail_now(void);

/* Sends a whole frame, not beyond `deadline` (jail_now's clock). Returns as jail_receive. */
int jail_send(struct jail_process *process, const char *frame, size_t size, int64_t deadline);

/*
 * Reads a whole frame, not beyond `deadline`. `*body` is malloc'ed, at most `most` bytes; NULL on failure. Returns 0;
 * ETIMEDOUT; EPIPE when the child is gone; EPROTO when it does not keep to the protocol; ENOMEM.
 */
int jail_receive(struct jail_process *process, int64_t deadline, uint32_t kind, size_t most, char **body,
                 size_t *body_size);

/* Ends the child now (after a moment's patience when `patient`), reaps it, closes everything. */
void jail_end(struct jail_process *process, int patient, struct jail_end *end);

/* ==== the child's side ========================================================================= */

/* The whole life of a child; does not return. */
void jail_child_main(void) __attribute__((noreturn));

/* Gives up every right. Returns the walls that stand; *missing names a wall that must stand and does not. */
uint32_t jail_lock(const struct jail_limits *limits, pid_t parent, const char **missing);

#endif
