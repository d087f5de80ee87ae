/*
 * jail_child.c: the life of a jail's child: greet, lock the door, then load and run what the channel brings.
 *
 * Owns: the channel's other end, the memory that messages lie in, and the reply. Ends when the channel does. Must not
 * know what a script may do (jail_library.c) or when it has done too much (jail_state.c).
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "jail_alloc.h"
#include "jail_state.h"

#define FIRST_ROOM (128 * 1024)
#define MOST (1u << 30) /* bytes of a message; the parent keeps to far less */

/* A message's memory. The shared scripts' stays as long as the child, a run's is wiped for the next. */
struct message {
    char *p;
    size_t n, room;
    uint32_t kind;
};

static char reply_room[JAIL_REPLY_ROOM];

/* ==== the channel ============================================================================== */

/* At the end of the channel the parent is gone, or wants no more. */
static size_t read_some(char *p, size_t room)
{
    for (;;) {
        ssize_t n = read(JAIL_CHANNEL, p, room);
        if (n > 0)
            return (size_t)n;
        if (n == 0 || errno != EINTR)
            _exit(0);
    }
}

static void make_room(struct message *m, size_t room)
{
    if (room > m->room) {
        m->p = realloc(m->p, room);
        if (m->p == NULL)
            _exit(2);
        m->room = room;
    }
}

/* One message at a time is under way: the parent waits for each reply. Usually one call reads all of it. */
static struct wire_in read_message(struct message *m)
{
    struct wire_head head;

    m->n = 0;
    make_room(m, FIRST_ROOM);
    while (m->n < sizeof head)
        m->n += read_some(m->p + m->n, m->room - m->n);
    memcpy(&head, m->p, sizeof head);
    if (head.size > MOST)
        _exit(2);
    make_room(m, sizeof head + head.size);
    while (m->n < sizeof head + head.size)
        m->n += read_some(m->p + m->n, m->room - m->n);
    m->kind = head.kind;
    return (struct wire_in){.p = m->p + sizeof head, .end = m->p + sizeof head + head.size};
}

static void write_all(struct iovec *v, int count)
{
    while (count > 0) {
        ssize_t n = writev(JAIL_CHANNEL, v, count);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            _exit(2);
        while (count > 0 && (size_t)n >= v->iov_len) {
            n -= (ssize_t)v->iov_len;
            v++;
            count--;
        }
        if (count > 0) {
            v->iov_base = (char *)v->iov_base + n;
            v->iov_len -= (size_t)n;
        }
    }
}

/* ==== the reply ================================================================================ */

static void put_fault(struct wire_out *o, const struct jail_fault *fault)
{
    wire_put_text(o, fault->script, strlen(fault->script));
    wire_put_u32(o, fault->line);
    wire_put_text(o, fault->message, fault->message_size);
}

static void put_calls(struct wire_out *o)
{
    uint32_t n = 0;

    for (size_t i = 0; i < jail_run.ncalls; i++)
        n += jail_run.calls[i] > 0;
    wire_put_u32(o, n);
    for (size_t i = 0; i < jail_run.ncalls; i++) {
        if (jail_run.calls[i] > 0) {
            wire_put_text(o, jail_run.call_names[i], strlen(jail_run.call_names[i]));
            wire_put_u64(o, jail_run.calls[i]);
        }
    }
}

/* Allocates nothing: it may be called from a signal handler, or from the allocator. */
void jail_reply(void)
{
    struct wire_out o = {.p = reply_room + sizeof(struct wire_head), .room = sizeof reply_room - sizeof(struct wire_head)};
    struct wire_head head = {.kind = JAIL_REPLY};
    struct iovec v[2];

    wire_put_u32(&o, (uint32_t)jail_run.fault.verdict);
    put_fault(&o, &jail_run.fault);
    wire_put_u64(&o, jail_run.instructions);
    wire_put_u64(&o, jail_heap.peak);
    wire_put_u64(&o, (uint64_t)(jail_now() - jail_run.started));
    put_calls(&o);
    wire_put_u32(&o, (uint32_t)jail_run.nfaults);
    for (size_t i = 0; i < jail_run.nfaults; i++)
        put_fault(&o, &jail_run.faults[i]);
    wire_put_u32(&o, (uint32_t)jail_run.output_size);
    if (o.full)
        _exit(2);
    head.size = (uint32_t)(o.n + jail_run.output_size);
    memcpy(reply_room, &head, sizeof head);
    v[0] = (struct iovec){.iov_base = reply_room, .iov_len = sizeof head + o.n};
    v[1] = (struct iovec){.iov_base = jail_run.output, .iov_len = jail_run.output_size};
    write_all(v, 2);
}

static void say_ready(uint32_t standing, const char *missing)
{
    struct wire_out o = {.p = reply_room + sizeof(struct wire_head), .room = 256};
    struct wire_head head = {.kind = JAIL_READY};
    struct iovec v;

    wire_put_u32(&o, standing);
    wire_put_text(&o, missing != NULL ? missing : "", missing != NULL ? strlen(missing) : 0);
    head.size = (uint32_t)o.n;
    memcpy(reply_room, &head, sizeof head);
    v = (struct iovec){.iov_base = reply_room, .iov_len = sizeof head + o.n};
    write_all(&v, 1);
}

/* ==== messages ================================================================================= */

static void get_script(struct wire_in *in, struct jail_script *script)
{
    memset(script, 0, sizeof *script);
    script->name = wire_get_text(in, &script->name_size);
    script->text = wire_get_text(in, &script->text_size);
    if (script->name_size > JAIL_MAX_NAME)
        in->bad = 1;
}

static void get_scripts(struct wire_in *in, struct jail_scripts *scripts)
{
    uint32_t n = wire_get_u32(in);

    free(scripts->list);
    scripts->list = NULL; /* a run's scripts point into a message that is gone */
    scripts->n = 0;
    if (n == 0)
        return;
    if (n > JAIL_MAX_MODULES || (scripts->list = calloc(n, sizeof *scripts->list)) == NULL)
        _exit(2);
    for (uint32_t i = 0; i < n; i++)
        get_script(in, &scripts->list[i]);
    scripts->n = n;
}

static void load(struct wire_in *in)
{
    get_script(in, &jail_run.prelude);
    if (jail_run.prelude.text_size == 0)
        jail_run.prelude.text = NULL;
    get_scripts(in, &jail_run.shared);
    if (in->bad)
        _exit(2);
    jail_state_load();
}

static void run(struct wire_in *in)
{
    jail_run.check_all = wire_get_u32(in) != 0;
    get_script(in, &jail_run.script);
    get_scripts(in, &jail_run.personal);
    if (in->bad)
        _exit(2);
    jail_state_run();
}

/* What a script would try that got past Lua. Every wall but this process's own death is answered with what happened. */
static int try_forbidden(const char *what)
{
    int fds[2];

    if (strcmp(what, "open") == 0)
        return open("/etc/passwd", O_RDONLY);
    if (strcmp(what, "create") == 0)
        return open("left", O_WRONLY | O_CREAT, 0600);
    if (strcmp(what, "socket") == 0)
        return socket(AF_INET, SOCK_STREAM, 0);
    if (strcmp(what, "fork") == 0)
        return fork();
    if (strcmp(what, "signal") == 0)
        return kill(getppid(), SIGTERM);
    if (strcmp(what, "execute") == 0)
        return execve("/bin/true", (char *[]){(char[]){"true"}, NULL}, (char *[]){NULL});
    if (strcmp(what, "descriptor") == 0)
        return pipe(fds);
    if (strcmp(what, "chdir") == 0)
        return chdir("/tmp");
    if (strcmp(what, "crash") == 0)
        raise(SIGABRT);
    errno = EINVAL;
    return -1;
}

/* What a child may send whose script got past Lua and past honesty. */
static void tell_lies(const char *lie)
{
    static const struct {
        const char *name;
        uint32_t words[10]; /* the frame */
        size_t n;
    } lies[] = {
        {"lie kind", {JAIL_READY, 0}, 2},
        {"lie size", {JAIL_REPLY, 0xfffffff0u}, 2},
        {"lie short", {JAIL_REPLY, 100, 0}, 3},
        {"lie empty", {JAIL_REPLY, 0}, 2},
        {"lie verdict", {JAIL_REPLY, 4, JAIL_VERDICTS}, 3},
        {"lie text", {JAIL_REPLY, 16, 0, 0xffffffffu, 0, 0}, 6},
        {"lie name", {JAIL_REPLY, 12, 0, 0x7fffffffu, 0}, 5},
    };

    for (size_t i = 0; i < sizeof lies / sizeof *lies; i++)
        if (strcmp(lies[i].name, lie) == 0) {
            write_all(&(struct iovec){.iov_base = (void *)(uintptr_t)lies[i].words, .iov_len = lies[i].n * 4}, 1);
            _exit(0);
        }
    if (strcmp(lie, "lie silent") == 0)
        for (;;)
            ;
}

static void probe(struct wire_in *in)
{
    char what[32] = "";
    size_t n;
    const char *name = wire_get_text(in, &n);
    int result;

    memcpy(what, name, n < sizeof what ? n : sizeof what - 1);
    memset(&jail_run.fault, 0, sizeof jail_run.fault);
    jail_run.nfaults = jail_run.output_size = 0;
    jail_run.started = jail_now();
    tell_lies(what);
    result = strncmp(what, "lie", 3) == 0 ? 0 : try_forbidden(what);
    if (result < 0) {
        const char *reason = strerrorname_np(errno);
        jail_note(&jail_run.fault, JAIL_ERROR, reason, strlen(reason));
    }
}

static void greet(struct wire_in *in)
{
    struct jail_limits limits;
    uint32_t standing;
    pid_t parent;
    const char *missing;

    wire_get(in, &limits, sizeof limits);
    parent = (pid_t)wire_get_u64(in);
    /* The C library reads the time zone's file at its first use: later there is none. */
    if (in->bad || setenv("TZ", "UTC0", 1) != 0 || !jail_state_open(&limits))
        _exit(2);
    tzset();
    standing = jail_lock(&limits, parent, &missing);
    say_ready(standing, missing);
    if (missing != NULL)
        _exit(3);
}

void jail_child_main(void)
{
    static struct message hello, shared, own;
    struct wire_in in = read_message(&hello);

    if (hello.kind != JAIL_HELLO)
        _exit(2);
    greet(&in);
    for (;;) {
        in = read_message(&own);
        if (own.kind == JAIL_LOAD) {
            /* Its texts are pointed at from now on: the message moves out. Once in a life. */
            if (shared.p != NULL)
                _exit(2);
            shared = own;
            memset(&own, 0, sizeof own);
            load(&in);
        } else if (own.kind == JAIL_RUN) {
            run(&in);
        } else if (own.kind == JAIL_PROBE) {
            probe(&in);
        } else {
            _exit(2);
        }
        jail_reply();
        if (jail_run.fault.verdict != JAIL_OK)
            _exit(0);
        jail_state_drop();
        if (own.p != NULL)
            explicit_bzero(own.p, own.n);
    }
}
