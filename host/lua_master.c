/***
 * Supervises child processes, and is the child's end of the channel between the two.
 *
 * Owns the face for Lua of master.c: the supervisor, the channel, the word to the service manager; and what ties a copy to
 * its maker. Knows nothing of what the processes do. A child is this program under another title, which is all of its
 * command line; a variable of the environment, ATELIER_CONTROL_FD, tells it the channel. Needs the host program.
 * @module atelier.master
 * @usage local supervisor <close> = assert(master.open())
 * local id = assert(supervisor:spawn { exe = host.exe, title = "atelier: front 1" })
 * local event = supervisor:wait(1)
 */
#include <fcntl.h>
#include <limits.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "managed.h"
#include "master.h"

int luaopen_atelier_master(lua_State *L);

#define SUPERVISOR_MT "atelier.master.supervisor"
#define CONTROL_MT "atelier.master.control"
#define MOST_DESCRIPTORS 16
#define LONGEST_WAIT 3600.0

struct supervisor {
    int is_open;
    struct master master;
};

struct control {
    int fd; /* -1: closed */
};

extern char **environ;

static struct supervisor *check_supervisor(lua_State *L)
{
    struct supervisor *s = luaL_checkudata(L, 1, SUPERVISOR_MT);

    if (!s->is_open)
        luaL_argerror(L, 1, "supervisor is closed");
    return s;
}

static struct control *check_control(lua_State *L)
{
    struct control *c = luaL_checkudata(L, 1, CONTROL_MT);

    if (c->fd < 0)
        luaL_argerror(L, 1, "control is closed");
    return c;
}

static const struct {
    const char *name;
    int number;
} signals[] = {
    {"HUP", SIGHUP},   {"INT", SIGINT},   {"QUIT", SIGQUIT}, {"KILL", SIGKILL}, {"TERM", SIGTERM}, {"USR1", SIGUSR1},
    {"USR2", SIGUSR2}, {"STOP", SIGSTOP}, {"CONT", SIGCONT}, {"ABRT", SIGABRT}, {"SEGV", SIGSEGV}, {"BUS", SIGBUS},
    {"FPE", SIGFPE},   {"ILL", SIGILL},   {"SYS", SIGSYS},   {"ALRM", SIGALRM}, {"PIPE", SIGPIPE}, {"XCPU", SIGXCPU},
    {NULL, 0},
};

static int check_signal(lua_State *L, int arg)
{
    const char *name = luaL_checkstring(L, arg);

    for (size_t i = 0; signals[i].name != NULL; i++) {
        if (strcmp(signals[i].name, name) == 0)
            return signals[i].number;
    }
    return luaL_argerror(L, arg, lua_pushfstring(L, "no such signal '%s'", name));
}

/* Names a signal, or gives its number as text. */
static void push_signal(lua_State *L, int number)
{
    for (size_t i = 0; signals[i].name != NULL; i++) {
        if (signals[i].number == number) {
            lua_pushstring(L, signals[i].name);
            return;
        }
    }
    lua_pushfstring(L, "%d", number);
}

static int64_t check_wait(lua_State *L, int arg, lua_Number fallback)
{
    lua_Number seconds = luaL_optnumber(L, arg, fallback);

    luaL_argcheck(L, seconds >= 0, arg, "must be 0 or more seconds");
    return (int64_t)ceil((seconds < LONGEST_WAIT ? seconds : LONGEST_WAIT) * 1000);
}

/* ==== the supervisor =========================================================================== */

/***
 * Begins to supervise: from now on this process takes TERM, INT, HUP and the end of children as events. One at a time.
 * @function open
 * @treturn[1] supervisor
 * @return[2] nil
 * @treturn[2] string message
 * @treturn[2] string an errno
 */
static int l_open(lua_State *L)
{
    struct supervisor *s;
    int err;

    if (managed_live > 0)
        return luaL_error(L, "open: this process supervises already");
    s = lua_newuserdatauv(L, sizeof *s, 0);
    memset(s, 0, offsetof(struct supervisor, master.children));
    s->master.change_at = s->master.change_size = 0;
    s->master.signals = s->master.changes = -1;
    luaL_setmetatable(L, SUPERVISOR_MT);
    err = master_open(&s->master);
    if (err != 0) {
        master_close(&s->master);
        return fail_errno(L, err, "supervise", "signals");
    }
    s->is_open = 1;
    managed_live++;
    return 1;
}

/* A string without a zero byte, which execve would cut there. */
static const char *check_text(lua_State *L, int at, const char *what)
{
    size_t size;
    const char *text = lua_type(L, at) == LUA_TSTRING ? lua_tolstring(L, at, &size) : NULL;

    if (text == NULL || strlen(text) != size)
        luaL_argerror(L, 2, lua_pushfstring(L, "%s must be a string without zero bytes", what));
    return text;
}

/* The option table, which stays on the stack, keeps the text. */
static const char *option_text(lua_State *L, const char *name)
{
    int at = lua_gettop(L) + 1;

    lua_getfield(L, 2, name);
    return check_text(L, at, lua_pushfstring(L, "option '%s'", name));
}

/* Reads the descriptors that the child keeps. */
static void read_keep(lua_State *L, int keep[MOST_DESCRIPTORS + 1])
{
    int n = 0;

    if (lua_getfield(L, 2, "keep") != LUA_TNIL) {
        luaL_argcheck(L, lua_istable(L, -1), 2, "option 'keep' must be a list of descriptors");
        for (; lua_rawgeti(L, -1, n + 1) != LUA_TNIL; n++) {
            lua_Integer fd = lua_tointeger(L, -1);
            luaL_argcheck(L, n < MOST_DESCRIPTORS, 2, "option 'keep' is too long");
            luaL_argcheck(L, lua_isinteger(L, -1) && fd >= 0 && fd <= INT_MAX && fcntl((int)fd, F_GETFD) >= 0, 2,
                          "option 'keep' has what is no open descriptor");
            keep[n] = (int)fd;
            lua_pop(L, 1);
        }
        lua_pop(L, 1);
    }
    lua_pop(L, 1);
    keep[n] = -1;
}

/* Is this variable of ours, at the table on the top, set anew or left out? */
static int is_replaced(lua_State *L, const char *variable)
{
    const char *equals = strchr(variable, '=');
    int is;

    if (equals == NULL)
        return 1;
    lua_pushlstring(L, variable, (size_t)(equals - variable));
    is = strcmp(lua_tostring(L, -1), MASTER_CONTROL_VARIABLE) == 0;
    is = (lua_rawget(L, -2) != LUA_TNIL) || is;
    lua_pop(L, 1);
    return is;
}

/*
 * Pushes the child's environment and what keeps its strings: ours, with the changes of option 'env'. [0] is left for
 * the channel.
 */
static char **push_environment(lua_State *L)
{
    size_t n = 1, most = 2;
    char **envp;
    int texts;

    if (lua_getfield(L, 2, "env") == LUA_TNIL) {
        lua_pop(L, 1);
        lua_newtable(L);
    }
    luaL_argcheck(L, lua_istable(L, -1), 2, "option 'env' must be a table");
    for (char **v = environ; *v != NULL; v++)
        most++;
    for (lua_pushnil(L); lua_next(L, -2); lua_pop(L, 1))
        most++;
    lua_newtable(L);
    texts = lua_gettop(L);
    envp = lua_newuserdatauv(L, most * sizeof *envp, 0);
    lua_pushvalue(L, -3);
    for (char **v = environ; *v != NULL; v++) {
        if (!is_replaced(L, *v))
            envp[n++] = *v;
    }
    for (lua_pushnil(L); lua_next(L, -2); lua_pop(L, 1)) {
        check_text(L, -2, "a name in option 'env'"); /* a string already: converting a key would confuse lua_next */
        if (lua_isboolean(L, -1) && !lua_toboolean(L, -1))
            continue;
        check_text(L, -1, "a value in option 'env'");
        lua_pushfstring(L, "%s=%s", lua_tostring(L, -2), lua_tostring(L, -1));
        envp[n++] = (char *)(uintptr_t)lua_tostring(L, -1);
        lua_rawseti(L, texts, (lua_Integer)n);
    }
    envp[n] = NULL;
    lua_pop(L, 1);
    return envp;
}

/***
 * Starts a child. It is told to end (SIGTERM) when this process dies.
 * @function supervisor:spawn
 * @tparam table options `exe`, path of the program · `title`, all of its command line · `env`, variables that differ: name → text, or
 *   false for none · `keep`, a list of descriptors that stay open in it under their numbers
 * @treturn[1] integer id of the child, never used again
 * @treturn[1] integer process id
 * @return[2] nil
 * @treturn[2] string message
 * @treturn[2] string an errno
 */
static int l_spawn(lua_State *L)
{
    static const char *const names[] = {"exe", "title", "env", "keep", NULL};
    struct supervisor *s = check_supervisor(L);
    int keep[MOST_DESCRIPTORS + 1];
    struct master_start start = {.keep = keep};
    struct master_child *child;
    char *argv[2] = {NULL, NULL};
    int err;

    luaL_checktype(L, 2, LUA_TTABLE);
    check_options(L, 2, names);
    lua_settop(L, 2);
    read_keep(L, keep);
    start.exe = option_text(L, "exe");
    argv[0] = (char *)(uintptr_t)option_text(L, "title");
    start.argv = argv;
    start.envp = push_environment(L);
    err = master_spawn(&s->master, &start, &child);
    if (err != 0)
        return fail_errno(L, err, "spawn", argv[0]);
    lua_pushinteger(L, child->id);
    lua_pushinteger(L, child->pid);
    return 2;
}

/***
 * Sends a message to a child; never waits.
 * @function supervisor:send
 * @tparam integer id
 * @tparam string text
 * @treturn[1] boolean true
 * @return[2] nil
 * @treturn[2] string message
 * @treturn[2] string an errno: "EAGAIN" when the child has not read what it was sent, "ESRCH" or "EPIPE" when it is gone
 */
static int l_supervisor_send(lua_State *L)
{
    struct supervisor *s = check_supervisor(L);
    lua_Integer id = luaL_checkinteger(L, 2);
    size_t size;
    const char *text = luaL_checklstring(L, 3, &size);
    int err;

    luaL_argcheck(L, size > 0, 3, "must not be empty");
    err = id > 0 && id <= INT_MAX ? master_send(&s->master, (int)id, text, size) : ESRCH;
    if (err != 0)
        return fail_errno(L, err, "send", "child");
    lua_pushboolean(L, 1);
    return 1;
}

/***
 * Sends a signal to a child.
 * @function supervisor:kill
 * @tparam integer id
 * @tparam string name as in "TERM"
 * @treturn[1] boolean true
 * @return[2] nil
 * @treturn[2] string message
 * @treturn[2] string an errno: "ESRCH" when it has ended
 */
static int l_kill(lua_State *L)
{
    struct supervisor *s = check_supervisor(L);
    lua_Integer id = luaL_checkinteger(L, 2);
    int number = check_signal(L, 3);
    int err = id > 0 && id <= INT_MAX ? master_kill(&s->master, (int)id, number) : ESRCH;

    if (err != 0)
        return fail_errno(L, err, "kill", "child");
    lua_pushboolean(L, 1);
    return 1;
}

/***
 * Watches a folder, itself and not what is below its folders: what is written, made, renamed or removed in it gives events.
 * @function supervisor:watch
 * @tparam string path
 * @treturn[1] integer number of the watch
 * @return[2] nil
 * @treturn[2] string message
 * @treturn[2] string an errno
 */
static int l_watch(lua_State *L)
{
    struct supervisor *s = check_supervisor(L);
    size_t size;
    const char *path = luaL_checklstring(L, 2, &size);
    int watch = -1;
    int err;

    luaL_argcheck(L, strlen(path) == size, 2, "must not have zero bytes");
    err = master_watch(&s->master, path, &watch);
    if (err != 0)
        return fail_errno(L, err, "watch", path);
    lua_pushinteger(L, watch);
    return 1;
}

/***
 * Ends all watches.
 * @function supervisor:unwatch
 */
static int l_unwatch(lua_State *L)
{
    master_forget_watches(&check_supervisor(L)->master);
    return 0;
}

static void set_integer(lua_State *L, const char *name, lua_Integer n)
{
    lua_pushinteger(L, n);
    lua_setfield(L, -2, name);
}

static void push_end(lua_State *L, const struct master_event *event)
{
    if (WIFSIGNALED(event->status)) {
        push_signal(L, WTERMSIG(event->status));
        lua_setfield(L, -2, "signal");
    } else {
        set_integer(L, "code", WEXITSTATUS(event->status));
    }
}

static void push_event(lua_State *L, const struct master_event *event)
{
    static const char *const types[] = {"nothing", "signal", "message", "end", "change"};

    lua_createtable(L, 0, 4);
    lua_pushstring(L, types[event->kind]);
    lua_setfield(L, -2, "type");
    if (event->kind == MASTER_SIGNAL) {
        push_signal(L, event->number);
        lua_setfield(L, -2, "name");
        return;
    }
    if (event->kind == MASTER_CHANGED) {
        set_integer(L, "watch", event->number);
        lua_pushlstring(L, event->text, event->size);
        lua_setfield(L, -2, "name");
        return;
    }
    set_integer(L, "id", event->id);
    set_integer(L, "pid", event->pid);
    if (event->kind == MASTER_MESSAGE_OF) {
        lua_pushlstring(L, event->text, event->size);
        lua_setfield(L, -2, "text");
    } else {
        push_end(L, event);
    }
}

/***
 * Waits for the next event. Blocks; never yields.
 * @function supervisor:wait
 * @tparam[opt] number seconds at most (1)
 * @treturn[1] table `type` "signal" with `name` · "message" with `id`, `pid`, `text` · "end" with `id`, `pid` and `code` or `signal`, after
 *   the child's last message · "change" with `watch` and `name` (empty when it is the folder itself)
 * @return[2] nil when nothing happened, alone
 * @return[3] nil
 * @treturn[3] string message
 * @treturn[3] string an errno
 */
static int l_wait(lua_State *L)
{
    struct supervisor *s = check_supervisor(L);
    struct master_event event;
    int err = master_wait(&s->master, check_wait(L, 2, 1), &event);

    if (err != 0)
        return fail_errno(L, err, "wait", "children");
    if (event.kind == MASTER_NOTHING)
        lua_pushnil(L);
    else
        push_event(L, &event);
    return 1;
}

/***
 * Ends the supervision. Children go on; each sees its channel end. May be called again.
 * @function supervisor:close
 */
static int l_supervisor_close(lua_State *L)
{
    struct supervisor *s = luaL_checkudata(L, 1, SUPERVISOR_MT);

    if (s->is_open) {
        managed_live--;
        master_close(&s->master);
    }
    s->is_open = 0;
    return 0;
}

static int l_supervisor_tostring(lua_State *L)
{
    const struct supervisor *s = luaL_checkudata(L, 1, SUPERVISOR_MT);

    if (s->is_open)
        lua_pushfstring(L, SUPERVISOR_MT ": %d children", s->master.count);
    else
        lua_pushliteral(L, SUPERVISOR_MT ": closed");
    return 1;
}

/* ==== the child's end ========================================================================== */

/***
 * The channel to the master, from its descriptor. The descriptor is the handle's from then on; no child of ours inherits it.
 * @function control
 * @tparam integer fd
 * @treturn[1] control
 * @return[2] nil
 * @treturn[2] string message
 * @treturn[2] string an errno
 */
static int l_control(lua_State *L)
{
    lua_Integer fd = luaL_checkinteger(L, 1);
    int type = 0;
    socklen_t size = sizeof type;
    struct control *c;

    luaL_argcheck(L, fd >= 0 && fd <= INT_MAX, 1, "must be a descriptor");
    c = lua_newuserdatauv(L, sizeof *c, 0);
    c->fd = -1;
    luaL_setmetatable(L, CONTROL_MT);
    if (getsockopt((int)fd, SOL_SOCKET, SO_TYPE, &type, &size) != 0)
        return fail_errno(L, errno, "control", "descriptor");
    if (type != SOCK_SEQPACKET)
        return fail_errno(L, EPROTOTYPE, "control", "descriptor");
    if (fcntl((int)fd, F_SETFD, FD_CLOEXEC) != 0)
        return fail_errno(L, errno, "control", "descriptor");
    c->fd = (int)fd;
    managed_live++;
    return 1;
}

/***
 * Sends a message to the master; never waits.
 * @function control:send
 * @tparam string text
 * @treturn[1] boolean true
 * @return[2] nil
 * @treturn[2] string message
 * @treturn[2] string an errno: "EPIPE" when the master is gone, "EAGAIN" when it does not read, "EMSGSIZE" above 128 KiB
 */
static int l_control_send(lua_State *L)
{
    const struct control *c = check_control(L);
    size_t size;
    const char *text = luaL_checklstring(L, 2, &size);

    luaL_argcheck(L, size > 0, 2, "must not be empty");
    if (size > MASTER_MESSAGE) /* the master would take a part of it for the whole */
        return fail_errno(L, EMSGSIZE, "send", "master");
    while (send(c->fd, text, size, MSG_DONTWAIT | MSG_NOSIGNAL) < 0) {
        if (errno != EINTR)
            return fail_errno(L, errno, "send", "master");
    }
    lua_pushboolean(L, 1);
    return 1;
}

static int fail_receive(lua_State *L, int err)
{
    if (err == EAGAIN || err == EWOULDBLOCK)
        return fail(L, "empty", "receive: master: no message");
    if (err == 0 || err == ECONNRESET)
        return fail(L, "gone", "receive: master: it is gone");
    return fail_errno(L, err, "receive", "master");
}

/***
 * Takes the next message of the master, waiting for it if told to. A signal ends the wait.
 * @function control:receive
 * @tparam[opt] number seconds at most (0)
 * @treturn[1] string text
 * @return[2] nil
 * @treturn[2] string message
 * @treturn[2] string code: "empty" when none came, "gone" when the master is, or an errno
 */
static int l_receive(lua_State *L)
{
    const struct control *c = check_control(L);
    struct pollfd p = {.fd = c->fd, .events = POLLIN};
    int64_t ms = check_wait(L, 2, 0);
    luaL_Buffer buffer;
    char *to;
    ssize_t n;

    if (ms > 0)
        poll(&p, 1, (int)ms);
    /* Only the length: the message stays until there is room for it. */
    n = recv(c->fd, NULL, 0, MSG_PEEK | MSG_TRUNC | MSG_DONTWAIT);
    if (n <= 0)
        return fail_receive(L, n < 0 ? errno : 0);
    to = luaL_buffinitsize(L, &buffer, (size_t)n);
    n = recv(c->fd, to, (size_t)n, MSG_DONTWAIT);
    if (n <= 0)
        return fail_receive(L, n < 0 ? errno : 0);
    luaL_pushresultsize(&buffer, (size_t)n);
    return 1;
}

/***
 * The descriptor, to wait for it elsewhere.
 * @function control:fd
 * @treturn integer
 */
static int l_control_fd(lua_State *L)
{
    lua_pushinteger(L, check_control(L)->fd);
    return 1;
}

/***
 * Closes the channel. May be called again.
 * @function control:close
 */
static int l_control_close(lua_State *L)
{
    struct control *c = luaL_checkudata(L, 1, CONTROL_MT);

    if (c->fd >= 0) {
        managed_live--;
        close(c->fd);
    }
    c->fd = -1;
    return 0;
}

static int l_control_tostring(lua_State *L)
{
    const struct control *c = luaL_checkudata(L, 1, CONTROL_MT);

    lua_pushfstring(L, CONTROL_MT ": %s", c->fd >= 0 ? "open" : "closed");
    return 1;
}

/* ==== copies =================================================================================== */

/***
 * Ties the calling process, a copy that fork(2) has made, to its maker: it is killed when that one ends, in any way.
 * @function follow
 * @tparam integer parent the maker's number, as it saw itself
 * @treturn boolean false: the maker has ended already
 */
static int l_follow(lua_State *L)
{
    lua_Integer parent = luaL_checkinteger(L, 1);

    luaL_argcheck(L, parent > 0, 1, "must be a process");
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    lua_pushboolean(L, getppid() == parent); /* it may have ended before it could be watched */
    return 1;
}

/* ==== the service manager ====================================================================== */

/***
 * Tells the service manager (systemd's protocol), when there is one: $NOTIFY_SOCKET names its socket.
 * @function notify
 * @tparam string text as in "READY=1"
 * @treturn[1] boolean whether there is one
 * @return[2] nil
 * @treturn[2] string message
 * @treturn[2] string an errno
 */
static int l_notify(lua_State *L)
{
    size_t size;
    const char *text = luaL_checklstring(L, 1, &size);
    int is_told = 0;
    int err;

    luaL_argcheck(L, size > 0, 1, "must not be empty");
    err = master_notify(text, size, &is_told);
    if (err != 0)
        return fail_errno(L, err, "notify", "NOTIFY_SOCKET");
    lua_pushboolean(L, is_told);
    return 1;
}

/***
 * How many supervisors and channels are open.
 * @function live_handles
 * @treturn integer count
 */

/* ==== tables =================================================================================== */

static const luaL_Reg supervisor_methods[] = {
    {"spawn", l_spawn}, {"send", l_supervisor_send}, {"kill", l_kill}, {"watch", l_watch},
    {"unwatch", l_unwatch}, {"wait", l_wait}, {"close", l_supervisor_close}, {NULL, NULL},
};

static const luaL_Reg supervisor_meta[] = {
    {"__gc", l_supervisor_close},
    {"__close", l_supervisor_close},
    {"__tostring", l_supervisor_tostring},
    {NULL, NULL},
};

static const luaL_Reg control_methods[] = {
    {"send", l_control_send}, {"receive", l_receive}, {"fd", l_control_fd}, {"close", l_control_close}, {NULL, NULL},
};

static const luaL_Reg control_meta[] = {
    {"__gc", l_control_close},
    {"__close", l_control_close},
    {"__tostring", l_control_tostring},
    {NULL, NULL},
};

static const luaL_Reg master_funcs[] = {
    {"open", l_open}, {"control", l_control}, {"follow", l_follow}, {"notify", l_notify},
    {"live_handles", l_live_handles}, {NULL, NULL},
};

int luaopen_atelier_master(lua_State *L)
{
    luaL_checkversion(L);
    managed_class(L, SUPERVISOR_MT, supervisor_meta, supervisor_methods);
    managed_class(L, CONTROL_MT, control_meta, control_methods);
    luaL_newlib(L, master_funcs);
    return 1;
}
