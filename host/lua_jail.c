/***
 * Runs Lua that nobody trusts, in a child process without rights, and tells how it ended.
 *
 * Owns: a child's handle, what is asked of it, and the reading of its replies, which are as hostile as the script: lengths,
 * numbers and texts are checked, and a text becomes plain UTF-8 before anybody sees it. Knows nothing of what scripts are
 * for. A call blocks for the run's time limit and a moment more at the most, and never yields. Needs the program: the
 * child is the program itself, executed anew.
 *
 * A verdict is a table:
 *
 * - `verdict`: "ok", "error", "syntax", "instructions", "memory", "time", "output" or "crash"
 * - `message`: the reason; "" for "ok"
 * - `script`, `line`: where, when that is known
 * - `usage`: `instructions` and `memory` (bytes, the peak) when the child could still tell, `time_ms`, `output_bytes`
 * - `output`: what the script printed
 * - `calls`: how often each function of the prelude was called
 * - `faults`: with "syntax": each fault, `{script, line, message}`
 *
 * There is none when somebody else killed the child (an operator, the kernel for want of memory): that is not the script's
 * fault, and nil, message, "killed" instead. A script cannot do that: it has no system call for it.
 * @module atelier.jail
 */
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include "jail.h"
#include "jail_wire.h"
#include "managed.h"

#define CHILD_MT "atelier.jail.child"
#define START_TIMEOUT 10000000 /* microseconds until a child must have greeted */
#define GRACE 300000           /* beyond the time limit: the child's own timer tells more than its death does */
#define MIB (1024 * 1024)

int luaopen_atelier_jail(lua_State *L);

enum state { STARTING, READY, ASKED, ENDED };

struct child {
    struct jail_process process;
    struct jail_limits limits;
    enum state state;
    uint32_t standing;  /* walls that the child says stand */
    int loaded;
    int64_t started;    /* when it was last asked, on jail_now's clock */
    int err;            /* how the asking went */
};

static const char *const verdict_names[JAIL_VERDICTS] = {
    "ok", "error", "syntax", "instructions", "memory", "time", "output", "crash",
};

static const struct {
    const char *name;
    uint32_t bit;
} walls[] = {
    {"seccomp", JAIL_SECCOMP},       {"rlimits", JAIL_RLIMITS},   {"uid", JAIL_UID},     {"root", JAIL_ROOT},
    {"allocator", JAIL_ALLOCATOR},   {"hook", JAIL_HOOK},         {"alarm", JAIL_ALARM}, {"finalizers", JAIL_FINALIZERS},
    {"handlers", JAIL_HANDLERS},     {"timer", JAIL_TIMER},       {"sticky", JAIL_STICKY},
};

#define WALLS (sizeof walls / sizeof *walls)

/* ==== the handle =============================================================================== */

static struct child *to_child(lua_State *L)
{
    return luaL_checkudata(L, 1, CHILD_MT);
}

static struct child *check_child(lua_State *L)
{
    struct child *c = to_child(L);

    if (c->state == ENDED)
        luaL_error(L, "jail is closed");
    return c;
}

/*
 * A child that may be asked something. It is checked again after the last Lua allocation before its use: an allocation may
 * run finalisers, and one of them may close it.
 */
static struct child *check_idle(lua_State *L)
{
    struct child *c = check_child(L);

    luaL_argcheck(L, c->state != ASKED, 1, "runs a script: finish that first");
    return c;
}

static void end_child(struct child *c, int patient, struct jail_end *end)
{
    if (c->state == ENDED)
        return;
    c->state = ENDED;
    jail_end(&c->process, patient, end);
    managed_live--;
}

/***
 * Ends the child. Harmless when it has ended.
 * @function child:close
 */
static int l_close(lua_State *L)
{
    end_child(to_child(L), 0, NULL);
    return 0;
}

static int l_tostring(lua_State *L)
{
    const struct child *c = to_child(L);

    if (c->state == ENDED)
        lua_pushliteral(L, "jail (closed)");
    else
        lua_pushfstring(L, "jail (process %d)", (int)c->process.pid);
    return 1;
}

/* ==== messages to the child ==================================================================== */

/* Grows a frame's memory before it is written; the writer itself never allocates. */
static void reserve(lua_State *L, struct managed *frame, struct wire_out *o, size_t more)
{
    size_t room = o->n + more;
    char *grown;

    if (room <= o->room)
        return;
    room = room + room / 2;
    grown = realloc(frame->p, room);
    if (grown == NULL)
        luaL_error(L, "not enough memory");
    frame->p = o->p = grown;
    o->room = room;
}

static void begin_frame(lua_State *L, struct managed *frame, struct wire_out *o, uint32_t kind, size_t guess)
{
    *o = (struct wire_out){.p = NULL};
    reserve(L, frame, o, sizeof(struct wire_head) + guess);
    wire_put(o, &(struct wire_head){.kind = kind}, sizeof(struct wire_head));
}

static void end_frame(struct wire_out *o)
{
    struct wire_head head;

    memcpy(&head, o->p, sizeof head);
    head.size = (uint32_t)(o->n - sizeof head);
    memcpy(o->p, &head, sizeof head);
}

static void put_text(lua_State *L, struct managed *frame, struct wire_out *o, const char *s, size_t n)
{
    reserve(L, frame, o, n + 4);
    wire_put_text(o, s, n);
}

static void check_name(lua_State *L, int arg, const char *name, size_t n)
{
    if (n == 0 || n > JAIL_MAX_NAME || strlen(name) != n)
        luaL_argerror(L, arg, lua_pushfstring(L, "a script's name must have 1 to %d bytes and no NUL", JAIL_MAX_NAME));
}

/* The scripts of the table on the top of the stack, or nil there. Returns the bytes of their texts. */
static size_t put_scripts(lua_State *L, int arg, struct managed *frame, struct wire_out *o)
{
    int t = lua_gettop(L);
    size_t at = o->n, total = 0;
    uint32_t count = 0;

    reserve(L, frame, o, 4);
    wire_put_u32(o, 0);
    if (lua_isnil(L, t))
        return 0;
    for (lua_pushnil(L); lua_next(L, t); lua_pop(L, 1), count++) {
        size_t n, size;
        if (lua_type(L, -2) != LUA_TSTRING || lua_type(L, -1) != LUA_TSTRING)
            luaL_argerror(L, arg, "modules must be texts by name");
        check_name(L, arg, lua_tostring(L, -2), lua_rawlen(L, -2));
        luaL_argcheck(L, count < JAIL_MAX_MODULES, arg, "too many modules");
        const char *name = lua_tolstring(L, -2, &n), *text = lua_tolstring(L, -1, &size);
        put_text(L, frame, o, name, n);
        put_text(L, frame, o, text, size);
        total += size;
    }
    memcpy(o->p + at, &count, sizeof count);
    return total;
}

static void get_modules(lua_State *L, int arg)
{
    if (lua_getfield(L, arg, "modules") != LUA_TNIL && !lua_istable(L, -1))
        option_error(L, arg, "modules", "a table");
}

/* ==== texts from the child ===================================================================== */

/* Bytes of the UTF-8 sequence at `p`, 0 when it is none: overlong forms, surrogates and what is past U+10FFFF are none. */
static size_t sequence(const unsigned char *p, size_t n)
{
    uint32_t c;
    size_t size = p[0] < 0x80 ? 1 : p[0] >= 0xc2 && p[0] <= 0xdf ? 2 : (p[0] & 0xf0) == 0xe0 ? 3 : p[0] >= 0xf0 && p[0] <= 0xf4 ? 4 : 0;

    if (size < 2)
        return size;
    if (size > n)
        return 0;
    c = p[0] & (0x7fu >> size);
    for (size_t i = 1; i < size; i++) {
        if ((p[i] & 0xc0) != 0x80)
            return 0;
        c = c << 6 | (p[i] & 0x3f);
    }
    if ((size == 3 && (c < 0x800 || (c >= 0xd800 && c <= 0xdfff))) || (size == 4 && (c < 0x10000 || c > 0x10ffff)))
        return 0;
    return size;
}

/* C1 controls (U+0080 to U+009F) drive terminals as well as the C0 ones do. */
static int is_control(const unsigned char *p, size_t size)
{
    return (size == 1 && ((p[0] < 0x20 && p[0] != '\n' && p[0] != '\t') || p[0] == 0x7f))
        || (size == 2 && p[0] == 0xc2 && p[1] < 0xa0);
}

/* Pushes plain text: valid UTF-8 whose only controls are tab and newline. Other bytes show as \xNN. */
static void push_plain(lua_State *L, const char *s, size_t n)
{
    static const char digits[] = "0123456789abcdef";
    const unsigned char *p = (const unsigned char *)s;
    luaL_Buffer b;
    size_t plain = 0; /* nothing to escape before this */

    while (plain < n && ((p[plain] >= 0x20 && p[plain] < 0x7f) || p[plain] == '\n' || p[plain] == '\t'))
        plain++;
    if (plain == n) {
        lua_pushlstring(L, s, n);
        return;
    }
    luaL_buffinit(L, &b);
    luaL_addlstring(&b, s, plain);
    for (size_t i = plain; i < n;) {
        size_t size = sequence(p + i, n - i);
        if (size > 0 && !is_control(p + i, size)) {
            luaL_addlstring(&b, s + i, size);
            i += size;
            continue;
        }
        for (size_t k = size == 0 ? 1 : size; k > 0; k--, i++) {
            char escape[] = {'\\', 'x', digits[p[i] >> 4], digits[p[i] & 15]};
            luaL_addlstring(&b, escape, sizeof escape);
        }
    }
    luaL_pushresult(&b);
}

/* ==== verdicts ================================================================================= */

/* A verdict that the parent comes to by itself. */
static int push_verdict(lua_State *L, enum jail_verdict verdict, const char *message, int64_t us)
{
    lua_createtable(L, 0, 7);
    lua_pushstring(L, verdict_names[verdict]);
    lua_setfield(L, -2, "verdict");
    lua_pushstring(L, message);
    lua_setfield(L, -2, "message");
    lua_pushliteral(L, "");
    lua_setfield(L, -2, "output");
    lua_newtable(L);
    lua_setfield(L, -2, "calls");
    lua_createtable(L, 0, 2);
    lua_pushnumber(L, (lua_Number)us / 1000);
    lua_setfield(L, -2, "time_ms");
    lua_pushinteger(L, 0);
    lua_setfield(L, -2, "output_bytes");
    lua_setfield(L, -2, "usage");
    return 1;
}

/* Script, line and message, into the table on the top of the stack. */
static void read_fault(lua_State *L, struct wire_in *in)
{
    size_t n;
    const char *s = wire_get_text(in, &n);
    uint32_t line;

    if (n > 0) {
        push_plain(L, s, n < JAIL_MAX_NAME ? n : JAIL_MAX_NAME);
        lua_setfield(L, -2, "script");
    }
    line = wire_get_u32(in);
    if (line > 0) {
        lua_pushinteger(L, line);
        lua_setfield(L, -2, "line");
    }
    s = wire_get_text(in, &n);
    push_plain(L, s, n < JAIL_MAX_MESSAGE ? n : JAIL_MAX_MESSAGE);
    lua_setfield(L, -2, "message");
}

static lua_Integer bounded(uint64_t n)
{
    return n > INT64_MAX ? INT64_MAX : (lua_Integer)n;
}

static void read_usage(lua_State *L, struct wire_in *in, int64_t us)
{
    uint64_t theirs;

    lua_createtable(L, 0, 4);
    lua_pushinteger(L, bounded(wire_get_u64(in)));
    lua_setfield(L, -2, "instructions");
    lua_pushinteger(L, bounded(wire_get_u64(in)));
    lua_setfield(L, -2, "memory");
    theirs = wire_get_u64(in);
    lua_pushnumber(L, (lua_Number)(theirs < (uint64_t)us ? (int64_t)theirs : us) / 1000);
    lua_setfield(L, -2, "time_ms");
}

static void read_calls(lua_State *L, struct wire_in *in)
{
    uint32_t n = wire_get_u32(in);

    if (n > JAIL_MAX_CALLS)
        in->bad = 1;
    lua_createtable(L, 0, in->bad ? 0 : (int)n);
    for (uint32_t i = 0; i < n && !in->bad; i++) {
        size_t size;
        const char *name = wire_get_text(in, &size);
        push_plain(L, name, size < JAIL_MAX_NAME ? size : JAIL_MAX_NAME);
        lua_pushinteger(L, bounded(wire_get_u64(in)));
        lua_rawset(L, -3);
    }
}

static void read_faults(lua_State *L, struct wire_in *in)
{
    uint32_t n = wire_get_u32(in);

    if (n > JAIL_MAX_FAULTS)
        in->bad = 1;
    if (n == 0 || in->bad)
        return;
    lua_createtable(L, (int)n, 0);
    for (uint32_t i = 0; i < n && !in->bad; i++) {
        lua_createtable(L, 0, 3);
        read_fault(L, in);
        lua_rawseti(L, -2, i + 1);
    }
    lua_setfield(L, -2, "faults");
}

/* Pushes the verdict that a reply says; returns which, or -1 and nothing when the reply is not one. */
static int read_verdict(lua_State *L, const char *body, size_t size, int64_t us)
{
    struct wire_in in = {.p = body, .end = body + size};
    uint32_t verdict = wire_get_u32(&in);
    const char *output;
    size_t n;

    if (verdict >= JAIL_VERDICTS)
        return -1;
    lua_createtable(L, 0, 8);
    lua_pushstring(L, verdict_names[verdict]);
    lua_setfield(L, -2, "verdict");
    read_fault(L, &in);
    read_usage(L, &in, us);
    read_calls(L, &in);
    lua_setfield(L, -3, "calls");
    lua_insert(L, -2); /* usage, table: the faults go into the table */
    read_faults(L, &in);
    output = wire_get_text(&in, &n);
    push_plain(L, output, n);
    lua_setfield(L, -2, "output");
    lua_insert(L, -2);
    lua_pushinteger(L, (lua_Integer)n);
    lua_setfield(L, -2, "output_bytes");
    lua_setfield(L, -2, "usage");
    if (in.bad || in.p != in.end) {
        lua_pop(L, 1);
        return -1;
    }
    return (int)verdict;
}

/*
 * What a child's end means that gave no verdict. Its channel ends only when it does, so that a SIGKILL of ours, after the
 * channel's end, comes too late to be what ended it.
 */
static int push_end(lua_State *L, const struct child *c, const struct jail_end *end, int err, int64_t us)
{
    char text[128];

    if (err == EPIPE && end->known && end->signal == SIGKILL)
        return fail(L, "killed", "run jail: the child was killed by somebody else (signal %d)", SIGKILL);
    if (err == ETIMEDOUT || us >= (int64_t)c->limits.time_us)
        return push_verdict(L, JAIL_TIME, "more time than the limit allows", us);
    if (err == EPROTO)
        return push_verdict(L, JAIL_CRASH, "the jail's child does not keep to the protocol", us);
    if (end->known && end->signal == SIGSYS)
        return push_verdict(L, JAIL_CRASH, "the jail's child was killed: a forbidden system call", us);
    if (end->known && end->signal == SIGXCPU)
        return push_verdict(L, JAIL_TIME, "more processor time than the limit allows", us);
    if (end->known && end->signal != 0)
        snprintf(text, sizeof text, "the jail's child was killed by signal %d (%s)", end->signal, strsignal(end->signal));
    else
        snprintf(text, sizeof text, "the jail's child ended without a verdict (exit code %d)", end->status);
    return push_verdict(L, JAIL_CRASH, text, us);
}

/* ==== a child's life =========================================================================== */

/* The first answer of a child says which walls stand. */
static int await_ready(lua_State *L, struct child *c)
{
    struct managed *body = managed_new(L, free);
    struct jail_end end = {.known = 0};
    struct wire_in in;
    size_t size, n;
    char *p;
    const char *missing;
    int err;

    check_child(L);
    err = jail_receive(&c->process, jail_now() + START_TIMEOUT, JAIL_READY, 1024, &p, &size);
    body->p = p;
    if (err != 0) {
        end_child(c, 1, &end);
        if (end.signal != 0)
            return fail(L, "start", "start jail: the child was killed by signal %d", end.signal);
        return fail(L, "start", "start jail: the child: %s (exit code %d)", strerror(err), end.status);
    }
    in = (struct wire_in){.p = p, .end = p + size};
    c->standing = wire_get_u32(&in);
    missing = wire_get_text(&in, &n);
    if (in.bad || n > 0) {
        end_child(c, 0, NULL);
        return fail(L, "no_wall", "start jail: this system gives no %.*s; the jail is not safe without", (int)n, missing);
    }
    c->state = READY;
    lua_pop(L, 1);
    return 0;
}

static int64_t deadline_of(const struct child *c)
{
    if (c->limits.without & JAIL_TIMER)
        return INT64_MAX / 2;
    return c->started + (int64_t)c->limits.time_us + GRACE;
}

/* Sends the frame. How that went shows in the answer: a child that refuses what it is sent may say why before it ends. */
static void send_frame(struct child *c, const struct wire_out *frame)
{
    c->started = jail_now();
    c->err = jail_send(&c->process, frame->p, frame->n, deadline_of(c));
    c->state = ASKED;
}

/* Waits for the answer and pushes the verdict, or nil, message, code. */
static int push_answer(lua_State *L, struct child *c)
{
    size_t most = JAIL_REPLY_ROOM + (size_t)c->limits.output, size;
    struct managed *body = managed_new(L, free);
    struct jail_end end = {.known = 0};
    int verdict = -1, err = c->err;
    char *p = NULL;
    int64_t us;

    check_child(L);
    if (err == 0 || err == EPIPE)
        err = jail_receive(&c->process, deadline_of(c), JAIL_REPLY, most, &p, &size);
    us = jail_now() - c->started;
    body->p = p;
    c->state = READY;
    if (err == 0) {
        verdict = read_verdict(L, p, size, us);
        err = verdict < 0 ? EPROTO : 0;
    }
    managed_free(body);
    if (verdict == JAIL_OK)
        return 1;
    end_child(c, err == 0 || err == EPIPE, &end);
    if (err == ENOMEM)
        return fail(L, "memory", "run jail: %s", strerror(err));
    return err == 0 ? 1 : push_end(L, c, &end, err, us);
}

static int ask(lua_State *L, struct child *c, const struct wire_out *frame)
{
    send_frame(c, frame);
    return push_answer(L, c);
}

/* A text that is alone larger than the memory that a run may take is not sent. */
static int too_large(lua_State *L, const struct child *c, size_t total)
{
    if ((c->limits.without & JAIL_ALLOCATOR) || total <= c->limits.memory)
        return 0;
    return push_verdict(L, JAIL_MEMORY, "the scripts alone are larger than the memory limit", 0);
}

/***
 * Gives the child what all its runs share. Once, before the first run. Each script is parsed once, in text mode.
 * @function child:load
 * @tparam table kit `modules`: texts by file name; `prelude`: trusted text that prepares each state; `name` of the prelude
 * @treturn[1] table verdict "ok", "syntax", "memory", "time" or "crash"; "error" is a fault of the prelude. All but "ok"
 *   end the child
 * @return[2] nil
 * @treturn[2] string message
 * @treturn[2] string code: "start", "no_wall" or "killed"
 */
static int l_load(lua_State *L)
{
    static const char *const names[] = {"modules", "prelude", "name", NULL};
    struct child *c = check_idle(L);
    struct managed *frame;
    struct wire_out o;
    size_t n, size, total;
    const char *name, *prelude;
    int failed;

    luaL_checktype(L, 2, LUA_TTABLE);
    check_options(L, 2, names);
    luaL_argcheck(L, !c->loaded, 1, "is loaded already");
    prelude = option_string(L, 2, "prelude", &size);
    name = option_string(L, 2, "name", &n);
    if (name == NULL) {
        name = "prelude";
        n = strlen(name);
    }
    check_name(L, 2, name, n);
    frame = managed_new(L, free);
    begin_frame(L, frame, &o, JAIL_LOAD, 65536);
    put_text(L, frame, &o, name, n);
    put_text(L, frame, &o, prelude != NULL ? prelude : "", size);
    get_modules(L, 2);
    total = put_scripts(L, 2, frame, &o);
    end_frame(&o);
    check_idle(L);
    if (c->state == STARTING && (failed = await_ready(L, c)) != 0)
        return failed;
    if (too_large(L, c, total)) {
        end_child(c, 0, NULL);
        return 1;
    }
    c->loaded = 1;
    return ask(L, c, &o);
}

/* Sends a script to be run. Returns 0, or how many values it pushed that tell why it is not running. */
static int start_run(lua_State *L, struct child *c)
{
    static const char *const names[] = {"source", "name", "modules", "check", NULL};
    struct managed *frame;
    struct wire_out o;
    size_t n, size, total;
    const char *name, *source;
    int failed;

    luaL_checktype(L, 2, LUA_TTABLE);
    check_options(L, 2, names);
    source = option_string(L, 2, "source", &size);
    luaL_argcheck(L, source != NULL, 2, "option 'source' is missing");
    name = option_string(L, 2, "name", &n);
    if (name == NULL) {
        name = "main.lua";
        n = strlen(name);
    }
    check_name(L, 2, name, n);
    frame = managed_new(L, free);
    begin_frame(L, frame, &o, JAIL_RUN, n + size + 4096);
    wire_put_u32(&o, (uint32_t)option_boolean(L, 2, "check", 1));
    put_text(L, frame, &o, name, n);
    put_text(L, frame, &o, source, size);
    get_modules(L, 2);
    total = size + put_scripts(L, 2, frame, &o);
    end_frame(&o);
    check_idle(L);
    if (c->state == STARTING && (failed = await_ready(L, c)) != 0)
        return failed;
    if (too_large(L, c, total)) {
        end_child(c, 0, NULL);
        return 1;
    }
    send_frame(c, &o);
    return 0;
}

/***
 * Begins to run a script in a fresh state, and returns at once: `finish` tells how it went.
 * @function child:begin
 * @tparam table job as of `run`
 * @treturn[1] boolean true: it is running
 * @treturn[2] table verdict: it did not come to that
 * @return[3] nil
 * @treturn[3] string message
 * @treturn[3] string code: "start" or "no_wall"
 */
static int l_begin(lua_State *L)
{
    int pushed = start_run(L, check_idle(L));

    if (pushed == 0)
        lua_pushboolean(L, 1);
    return pushed == 0 ? 1 : pushed;
}

/***
 * Waits for the script that `begin` sent. Its time runs from then.
 * @function child:finish
 * @treturn[1] table verdict
 * @return[2] nil
 * @treturn[2] string message
 * @treturn[2] string code: "memory" or "killed"
 */
static int l_finish(lua_State *L)
{
    struct child *c = check_child(L);

    luaL_argcheck(L, c->state == ASKED, 1, "runs no script: begin one first");
    return push_answer(L, c);
}

/***
 * Runs a script in a fresh state. Any verdict but "ok" ends the child.
 * @function child:run
 * @tparam table job `source`: its text; `name` (default "main.lua"); `modules`: texts of siblings of its own, by name;
 *   `check` (default true): whether siblings that the script does not ask for must be well-formed, too
 * @treturn[1] table verdict
 * @return[2] nil
 * @treturn[2] string message
 * @treturn[2] string code: "start", "no_wall", "memory" or "killed"
 */
static int l_run(lua_State *L)
{
    struct child *c = check_idle(L);
    int pushed = start_run(L, c);

    return pushed == 0 ? push_answer(L, c) : pushed;
}

/***
 * Lets the child try what its walls forbid, as a script would that got past Lua: for tests of the walls.
 * @function child:probe
 * @tparam string what "open", "create", "socket", "fork", "signal", "execute", "descriptor", "chdir" or "crash"; or an answer
 *   that is none: "lie kind", "lie size", "lie short", "lie empty", "lie verdict", "lie text", "lie name", "lie silent"
 * @treturn[1] table verdict: "ok" when it could, "error" with the errno's symbol, "crash" when the kernel ended it
 * @return[2] nil
 * @treturn[2] string message
 * @treturn[2] string code
 */
static int l_probe(lua_State *L)
{
    struct child *c = check_idle(L);
    size_t n;
    const char *what = luaL_checklstring(L, 2, &n);
    struct managed *frame = managed_new(L, free);
    struct wire_out o;
    int failed;

    begin_frame(L, frame, &o, JAIL_PROBE, n + 16);
    put_text(L, frame, &o, what, n);
    end_frame(&o);
    check_idle(L);
    if (c->state == STARTING && (failed = await_ready(L, c)) != 0)
        return failed;
    return ask(L, c, &o);
}

/***
 * Whether the child's process still runs: between two runs somebody else may have ended it.
 * @function child:alive
 * @treturn boolean
 */
static int l_alive(lua_State *L)
{
    const struct child *c = to_child(L);
    struct pollfd p = {.fd = c->process.pidfd, .events = POLLIN};

    lua_pushboolean(L, c->state != ENDED && poll(&p, 1, 0) == 0);
    return 1;
}

/***
 * The child's process id.
 * @function child:pid
 * @treturn integer
 */
static int l_pid(lua_State *L)
{
    lua_pushinteger(L, check_child(L)->process.pid);
    return 1;
}

/***
 * Which walls stand: those of the kernel are told by the child, once it has greeted.
 * @function child:walls
 * @treturn[1] table booleans by name: "seccomp", "rlimits", "uid", "root"
 * @return[2] nil
 * @treturn[2] string message
 * @treturn[2] string code: "start" or "no_wall"
 */
static int l_walls(lua_State *L)
{
    struct child *c = check_child(L);
    int failed;

    if (c->state == STARTING && (failed = await_ready(L, c)) != 0)
        return failed;
    lua_createtable(L, 0, 4);
    for (size_t i = 0; i < 4; i++) {
        lua_pushboolean(L, (c->standing & walls[i].bit) != 0);
        lua_setfield(L, -2, walls[i].name);
    }
    return 1;
}

/* ==== the module =============================================================================== */

static uint32_t read_without(lua_State *L)
{
    uint32_t without = 0;

    if (lua_getfield(L, 1, "without") == LUA_TNIL) {
        lua_pop(L, 1);
        return 0;
    }
    if (!lua_istable(L, -1))
        option_error(L, 1, "without", "a list of walls");
    for (lua_Integer i = 1; lua_rawgeti(L, -1, i) != LUA_TNIL; i++) {
        const char *name = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : "?";
        size_t k = 0;
        while (k < WALLS && strcmp(walls[k].name, name) != 0)
            k++;
        if (k == WALLS)
            luaL_argerror(L, 1, lua_pushfstring(L, "unknown wall '%s'", name));
        without |= walls[k].bit;
        lua_pop(L, 1);
    }
    lua_pop(L, 2);
    return without;
}

static uint64_t read_limit(lua_State *L, const char *name, lua_Integer fallback, lua_Integer most)
{
    lua_Integer n = option_integer(L, 1, name, fallback);

    if (n < 1 || n > most)
        luaL_argerror(L, 1, lua_pushfstring(L, "option '%s' must be between 1 and %I", name, most));
    return (uint64_t)n;
}

static void read_limits(lua_State *L, struct jail_limits *limits)
{
    static const char *const names[] = {"memory", "instructions", "time", "output", "without", NULL};
    lua_Number seconds;

    memset(limits, 0, sizeof *limits);
    if (!check_options(L, 1, names)) {
        lua_settop(L, 0);
        lua_newtable(L);
    }
    limits->memory = read_limit(L, "memory", 32 * MIB, (lua_Integer)16384 * MIB);
    limits->instructions = read_limit(L, "instructions", 10000000, (lua_Integer)1 << 60);
    limits->output = read_limit(L, "output", 65536, 256 * MIB);
    seconds = option_number(L, 1, "time", 2);
    luaL_argcheck(L, seconds >= 0.001 && seconds <= 86400, 1, "option 'time' must be between 0.001 and 86,400 seconds");
    limits->time_us = (uint64_t)(seconds * 1000000);
    limits->without = read_without(L);
}

/* A few hundred bytes always fit into a new channel. */
static int send_hello(struct child *c)
{
    char memory[256];
    struct wire_out o = {.p = memory, .room = sizeof memory};

    wire_put(&o, &(struct wire_head){.kind = JAIL_HELLO}, sizeof(struct wire_head));
    wire_put(&o, &c->limits, sizeof c->limits);
    wire_put_u64(&o, (uint64_t)getpid());
    end_frame(&o);
    return jail_send(&c->process, o.p, o.n, jail_now() + START_TIMEOUT);
}

/***
 * Starts a child. Returns at once: the child gets ready while its owner does something else.
 * @function new
 * @tparam[opt] table limits `memory` (bytes, 32 MiB), `instructions` (10,000,000), `time` (seconds of one run, 2),
 *   `output` (bytes, 65,536); `without`: walls left out, for tests and for systems that lack one
 * @treturn[1] child
 * @return[2] nil
 * @treturn[2] string message
 * @treturn[2] string code: the errno's symbol
 */
static int l_new(lua_State *L)
{
    struct jail_limits limits;
    struct child *c;
    const char *step;
    int err;

    read_limits(L, &limits);
    c = lua_newuserdatauv(L, sizeof *c, 0);
    memset(c, 0, sizeof *c);
    c->state = ENDED;
    c->limits = limits;
    luaL_setmetatable(L, CHILD_MT);
    err = jail_spawn(&c->process, &step);
    if (err != 0)
        return fail_errno(L, err, "start jail", step);
    c->state = STARTING;
    managed_live++;
    err = send_hello(c);
    if (err != 0) {
        end_child(c, 0, NULL);
        return fail_errno(L, err, "start jail", "send");
    }
    return 1;
}

/***
 * How many children are held.
 * @function live_handles
 * @treturn integer
 */

static const luaL_Reg child_methods[] = {
    {"alive", l_alive},
    {"close", l_close},
    {"load", l_load},
    {"pid", l_pid},
    {"probe", l_probe},
    {"begin", l_begin},
    {"finish", l_finish},
    {"run", l_run},
    {"walls", l_walls},
    {NULL, NULL},
};

static const luaL_Reg child_meta[] = {
    {"__gc", l_close},
    {"__close", l_close},
    {"__tostring", l_tostring},
    {NULL, NULL},
};

static const luaL_Reg jail_funcs[] = {
    {"live_handles", l_live_handles},
    {"new", l_new},
    {NULL, NULL},
};

int luaopen_atelier_jail(lua_State *L)
{
    luaL_checkversion(L);
    luaL_newmetatable(L, CHILD_MT);
    luaL_setfuncs(L, child_meta, 0);
    luaL_newlib(L, child_methods);
    lua_setfield(L, -2, "__index");
    lua_pop(L, 1);
    luaL_newlib(L, jail_funcs);
    return 1;
}
