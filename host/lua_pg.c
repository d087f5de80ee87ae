/***
 * PostgreSQL, over libpq.
 *
 * Owns the Lua face of a connection: calls, their options, results as tables, errors. The operation under
 * way belongs to pg_core.h, the types to pg_types.h and pg_params.h, what calls share to the other pg_*.h. Must not know any
 * table or query of the product. A call waits in poll(2), or, with yield=true inside a coroutine, yields the connection: the
 * loop waits for `socket`, `events`, `timeout` and resumes the coroutine, however often and however early.
 *
 * Every failure of the world is `nil, message, code`: the code is the SQLSTATE, or "timeout" (cancelled;
 * the connection is still good unless its status says "lost"), "connection" (lost), "closed" (closed or
 * given up while a coroutine waited). SQL NULL is `pg.null` both ways.
 * @module atelier.pg
 */
#include <lauxlib.h>
#include <lua.h>
#include <libpq-fe.h>

#include "managed.h"
#include "pg_call.h"
#include "pg_connect.h"
#include "pg_copy.h"
#include "pg_core.h"
#include "pg_params.h"
#include "pg_pipeline.h"
#include "pg_result.h"
#include "pg_transaction.h"
#include "pg_types.h"

int luaopen_atelier_pg(lua_State *L);

/* ==== connect =================================================================================== */

/***
 * Connects. The session speaks UTF-8 and UTC. Looking up a host name happens in the C library and may
 * take longer than the timeout.
 * @function connect
 * @tparam string conninfo keywords ("host=/run/pg dbname=x") or a URI; what it lacks comes from PG… variables
 * @tparam[opt] table options `timeout` in seconds (10), `application_name`, `yield` (false): calls inside a
 *   coroutine yield, `cancel_timeout` in seconds (5): how long a cancelled statement may take to end
 * @treturn[1] conn the connection
 * @return[2] nil
 * @treturn[2] string message, never with a password
 * @treturn[2] string "conninfo", "connection" or "timeout"
 */
static int l_connect(lua_State *L)
{
    static const char *const names[] = {"timeout", "application_name", "yield", "cancel_timeout", NULL};
    const char *conninfo = check_text(L, 1), *application, *odd;
    struct pg_call call = {.timeout_ms = 0};
    struct keywords keywords;
    struct managed *options;
    struct pg_conn *c;
    int64_t cancel_ms;

    check_options(L, 2, names);
    call.timeout_ms = option_timeout(L, 2, "timeout", PG_TIMEOUT_CONNECT);
    cancel_ms = option_timeout(L, 2, "cancel_timeout", PG_TIMEOUT_CANCEL);
    call.yields = option_boolean(L, 2, "yield", 0);
    application = option_string(L, 2, "application_name", NULL);
    c = new_conn(L);
    lua_insert(L, 1);
    options = managed_new(L, free_options);
    options->p = PQconninfoParse(conninfo, NULL);
    if (options->p == NULL) /* libpq's text quotes what it cannot read, which may be the password */
        return fail(L, "conninfo", "connect: malformed connection string (a value to be quoted or percent-encoded?)");
    if ((odd = odd_option(options->p)) != NULL)
        return fail(L, "conninfo", "connect: malformed connection string: %s (a password to be percent-encoded?)", odd);
    collect_keywords(&keywords, options->p, application);
    pg_begin(c, "connect", call.timeout_ms);
    c->cancel_ms = (int)cancel_ms;
    c->yields = call.yields;
    c->op.yields = (unsigned char)(call.yields && lua_isyieldable(L));
    return start_connect(L, c, &keywords);
}

/* ==== statements ================================================================================ */

static int refuse_parameter(lua_State *L, const char *name, int bad)
{
    return fail(L, "22021", "%s: parameter %d: contains a NUL byte, which text cannot hold", name, bad);
}

/***
 * Runs one statement.
 * @function conn:query
 * @tparam string sql with $1, $2, …
 * @tparam[opt] table params strings, numbers, booleans, `pg.null`, or values of `pg.json`, `pg.array`,
 *   `pg.bytea`; a field `n` may give their number
 * @tparam[opt] table options `timeout` in seconds (30); `yield`; `share` (false): rows that follow each other
 *   with the same JSON in a column share one table; `bare` (false): rows alone, `true` where there are no columns
 * @treturn[1] table rows, each a table by column name, with `fields` (the names), `affected`, `command`, and
 *   `undecoded` when a JSON text stayed text because atelier.json refuses it
 * @return[2] nil
 * @treturn[2] string message
 * @treturn[2] string SQLSTATE, "timeout", "connection" or "closed"
 */
static int l_query(lua_State *L)
{
    struct pg_conn *c = check_conn(L);
    const char *sql = check_text(L, 2);
    struct pg_call call = check_call(L, c, 4);
    const struct pg_params *p = pg_bind(L, 3);
    int n;

    if (p->bad)
        return refuse_parameter(L, "query", p->bad);
    if ((n = begin(L, c, "query", &call)) != 0)
        return n;
    return sent(L, c, PQsendQueryParams(c->pg, sql, p->n, p->types, p->values, p->lengths, p->formats, 0),
                finish_result);
}

/***
 * Runs any number of statements in one text (the simple protocol, one implicit transaction unless the text
 * has its own). What they return is dropped but for the last result.
 * @function conn:exec
 * @tparam string sql
 * @tparam[opt] table options as of `conn:query`
 * @treturn[1] table the last statement's result, as of `conn:query`
 * @return[2] nil
 * @treturn[2] string message
 * @treturn[2] string code
 */
static int l_exec(lua_State *L)
{
    struct pg_conn *c = check_conn(L);
    const char *sql = check_text(L, 2);
    struct pg_call call = check_call(L, c, 3);
    int n = begin(L, c, "exec", &call);

    if (n != 0)
        return n;
    c->op.keep_last = 1;
    return sent(L, c, PQsendQuery(c->pg, sql), finish_result);
}

/***
 * Prepares a statement under a name, for `conn:execute` and `conn:pipeline`. Not for transaction poolers.
 * @function conn:prepare
 * @tparam string name
 * @tparam string sql
 * @tparam[opt] table options as of `conn:query`
 * @treturn[1] boolean true
 * @return[2] nil
 * @treturn[2] string message
 * @treturn[2] string code
 */
static int l_prepare(lua_State *L)
{
    struct pg_conn *c = check_conn(L);
    const char *name = check_text(L, 2), *sql = check_text(L, 3);
    struct pg_call call = check_call(L, c, 4);
    int n = begin(L, c, "prepare", &call);

    if (n != 0)
        return n;
    return sent(L, c, PQsendPrepare(c->pg, name, sql, 0, NULL), finish_true);
}

/***
 * Runs a prepared statement.
 * @function conn:execute
 * @tparam string name
 * @tparam[opt] table params as of `conn:query`
 * @tparam[opt] table options as of `conn:query`
 * @treturn[1] table result, as of `conn:query`
 * @return[2] nil
 * @treturn[2] string message
 * @treturn[2] string code
 */
static int l_execute(lua_State *L)
{
    struct pg_conn *c = check_conn(L);
    const char *name = check_text(L, 2);
    struct pg_call call = check_call(L, c, 4);
    const struct pg_params *p = pg_bind(L, 3);
    int n;

    if (p->bad)
        return refuse_parameter(L, "execute", p->bad);
    if ((n = begin(L, c, "execute", &call)) != 0)
        return n;
    return sent(L, c, pg_send_prepared(c->pg, name, p), finish_result);
}

/* ==== pipeline ================================================================================== */

/***
 * Sends several statements at once and reads all answers: one round trip, one transaction. When one
 * fails, none has happened. A statement that may not run in a transaction block must not be in it.
 * @function conn:pipeline
 * @tparam table statements list of `{sql, params}` and `{prepared = name, params}`
 * @tparam[opt] table options as of `conn:query`; the timeout is for all of it
 * @treturn[1] table list of results, each as of `conn:query`
 * @return[2] nil
 * @treturn[2] string message
 * @treturn[2] string code
 * @treturn[2] integer which statement failed, if one did; one more than there are for a failing commit
 * @usage local done, err = conn:pipeline { {prepared = "complete", {id}}, {"select now()"} }
 */
static int l_pipeline(lua_State *L)
{
    struct pg_conn *c = check_conn(L);
    struct pg_call call = check_call(L, c, 3);
    const struct pg_piped *items;
    lua_Unsigned length;
    int n, rc;

    luaL_checktype(L, 2, LUA_TTABLE);
    length = lua_rawlen(L, 2);
    luaL_argcheck(L, length >= 1 && length <= 10000, 2, "1 to 10000 statements");
    n = (int)length;
    items = pg_read_pipeline(L, n);
    for (int i = 0; i < n; i++) {
        if (items[i].params.bad) {
            refuse_parameter(L, "pipeline", items[i].params.bad);
            lua_pushinteger(L, i + 1);
            return 4;
        }
    }
    if ((rc = begin(L, c, "pipeline", &call)) != 0)
        return rc;
    return sent(L, c, pg_send_pipeline(c, items, n), finish_pipeline);
}

/* ==== transaction =============================================================================== */

/***
 * Calls a function inside a transaction. It commits when the function returns nothing or a true first
 * value, and rolls back when the first value is nil or false, or when it raises (the error goes on).
 * @function conn:transaction
 * @tparam function f called with the connection
 * @tparam[opt] table options `timeout` in seconds (30) of BEGIN and of COMMIT; `yield`
 * @return[1] what the function returned; true if nothing
 * @return[2] nil
 * @treturn[2] string message
 * @treturn[2] string code; "25P02" when it could only roll back, since a statement had failed
 */
static int l_transaction(lua_State *L)
{
    struct pg_conn *c = check_conn(L);
    struct pg_call call;
    int n;

    luaL_checktype(L, 2, LUA_TFUNCTION);
    call = check_call(L, c, 3);
    lua_settop(L, 2);
    lua_pushinteger(L, (lua_Integer)pack_call(&call));
    if ((n = begin(L, c, "transaction", &call)) != 0)
        return n;
    if (PQtransactionStatus(c->pg) != PQTRANS_IDLE) {
        pg_end(c);
        return luaL_error(L, "transaction: the connection is in a transaction already");
    }
    return sent(L, c, PQsendQuery(c->pg, "begin"), finish_begin);
}

/* ==== COPY ====================================================================================== */

/***
 * Runs COPY … FROM STDIN.
 * @function conn:copy_in
 * @tparam string sql
 * @param source a string, a list of strings, an open file, or a function that gives a string per call and
 *   nil at the end (it must not yield; its error ends the COPY and goes on)
 * @tparam[opt] table options as of `conn:query`
 * @treturn[1] table result; `affected` is the number of rows
 * @return[2] nil
 * @treturn[2] string message
 * @treturn[2] string code
 */
static int l_copy_in(lua_State *L)
{
    struct pg_conn *c = check_conn(L);
    const char *sql = check_text(L, 2);
    struct pg_call call;
    int n;

    check_source(L);
    call = check_call(L, c, 4);
    lua_settop(L, 3);
    lua_pushinteger(L, 0);
    lua_pushnil(L);
    if ((n = begin(L, c, "copy_in", &call)) != 0)
        return n;
    c->op.copy = 'i';
    return sent(L, c, PQsendQuery(c->pg, sql), pump_copy);
}

/***
 * Runs COPY … TO STDOUT.
 * @function conn:copy_out
 * @tparam string sql
 * @param sink an open file, or a function called with each row's bytes (it must not yield; its error ends
 *   the COPY and goes on)
 * @tparam[opt] table options as of `conn:query`
 * @treturn[1] table result; `affected` is the number of rows
 * @return[2] nil
 * @treturn[2] string message
 * @treturn[2] string code
 */
static int l_copy_out(lua_State *L)
{
    struct pg_conn *c = check_conn(L);
    const char *sql = check_text(L, 2);
    struct pg_call call;
    int n;

    if (!lua_isfunction(L, COPY_SOURCE))
        check_file(L, "function or file");
    call = check_call(L, c, 4);
    lua_settop(L, 3);
    lua_pushnil(L);
    lua_pushnil(L);
    if ((n = begin(L, c, "copy_out", &call)) != 0)
        return n;
    c->op.copy = 'o';
    return sent(L, c, PQsendQuery(c->pg, sql), drain_copy);
}

/* ==== LISTEN and NOTIFY ========================================================================= */

static int run_channel(lua_State *L, const char *name, const char *verb)
{
    struct pg_conn *c = check_conn(L);
    const char *channel = check_text(L, 2), *sql;
    struct pg_call call = check_call(L, c, 3);
    int n;

    luaL_argcheck(L, *channel != '\0' && strlen(channel) < 64, 2, "a channel has 1 to 63 bytes");
    sql = lua_pushfstring(L, "%s \"%s\"", verb, luaL_gsub(L, channel, "\"", "\"\""));
    if ((n = begin(L, c, name, &call)) != 0)
        return n;
    return sent(L, c, PQsendQuery(c->pg, sql), finish_true);
}

/***
 * Listens on a channel. Behind a transaction pooler this succeeds, and nothing ever comes.
 * @function conn:listen
 * @tparam string channel taken as it is, upper case too
 * @tparam[opt] table options as of `conn:query`
 * @treturn[1] boolean true
 * @return[2] nil
 * @treturn[2] string message
 * @treturn[2] string code
 */
static int l_listen(lua_State *L)
{
    return run_channel(L, "listen", "listen");
}

/***
 * Stops listening on a channel.
 * @function conn:unlisten
 * @tparam string channel
 * @tparam[opt] table options as of `conn:query`
 * @treturn[1] boolean true
 * @return[2] nil
 * @treturn[2] string message
 * @treturn[2] string code
 */
static int l_unlisten(lua_State *L)
{
    return run_channel(L, "unlisten", "unlisten");
}

/* Each notification is held by the connection until it is in Lua's hands. */
static int make_notifications(lua_State *L)
{
    struct pg_conn *c = lua_touserdata(L, 1);

    lua_newtable(L);
    for (lua_Integer i = 1; c->notify != NULL; i++) {
        lua_createtable(L, 0, 3);
        lua_pushstring(L, c->notify->relname);
        lua_setfield(L, -2, "channel");
        lua_pushstring(L, c->notify->extra);
        lua_setfield(L, -2, "payload");
        lua_pushinteger(L, c->notify->be_pid);
        lua_setfield(L, -2, "pid");
        lua_rawseti(L, -2, i);
        pg_drop_results(c);
        c->notify = PQnotifies(c->pg);
    }
    return 1;
}

static int finish_notifications(lua_State *L, struct pg_conn *c)
{
    pg_end(c);
    deliver_notices(L, c);
    return failed(c) ? push_failure(L, c) : push_guarded(L, c, make_notifications);
}

/***
 * Waits for notifications on the channels listened on. A signal that the program handles ends the wait.
 * @function conn:notifications
 * @tparam[opt] number timeout in seconds; 0, the default, takes what is there
 * @tparam[opt] table options `yield`
 * @treturn[1] table list of `{channel, payload, pid}`, empty when none came in time
 * @return[2] nil
 * @treturn[2] string message
 * @treturn[2] string code
 */
static int l_notifications(lua_State *L)
{
    static const char *const names[] = {"yield", NULL};
    struct pg_conn *c = check_conn(L);
    struct pg_call call = {.timeout_ms = 0};
    int n;

    call.timeout_ms = check_seconds(L, 2, luaL_optnumber(L, 2, 0), 0);
    check_options(L, 3, names);
    call.yields = option_boolean(L, 3, "yield", c->yields);
    if ((n = begin(L, c, "notifications", &call)) != 0)
        return n;
    pg_stage(c, PG_NOTIFY, finish_notifications);
    return await(L, c);
}

/***
 * Sets who gets the server's notices and warnings: after each call, once per notice, with a table
 * `{severity, message, sqlstate, detail, hint, …}`. Without one they are dropped.
 * @function conn:on_notice
 * @tparam[opt] function f must not use the connection; nil for none
 */
static int l_on_notice(lua_State *L)
{
    struct pg_conn *c = check_conn(L);

    if (!lua_isnoneornil(L, 2))
        luaL_checktype(L, 2, LUA_TFUNCTION);
    lua_settop(L, 2);
    c->want_notices = !lua_isnil(L, 2);
    lua_setiuservalue(L, 1, 1);
    return 0;
}

/* ==== for a loop ================================================================================ */

/***
 * The socket to wait for. It may change while connecting.
 * @function conn:socket
 * @treturn integer file descriptor, -1 when the connection is lost
 */
static int l_socket(lua_State *L)
{
    const struct pg_conn *c = check_conn(L);
    lua_pushinteger(L, c->pg != NULL ? PQsocket(c->pg) : -1);
    return 1;
}

/***
 * What to wait for on the socket.
 * @function conn:events
 * @treturn string "r", "w" or "rw"
 */
static int l_events(lua_State *L)
{
    const struct pg_conn *c = check_conn(L);
    int events = c->op.active && !c->op.done ? c->op.events : POLLIN;

    lua_pushstring(L, events == POLLIN ? "r" : events == POLLOUT ? "w" : "rw");
    return 1;
}

/***
 * How long a loop may wait before it calls `conn:step` or resumes the coroutine anyway.
 * @function conn:timeout
 * @treturn[1] number seconds to the deadline of the operation under way
 * @treturn[2] nil when there is none
 */
static int l_timeout(lua_State *L)
{
    const struct pg_conn *c = check_conn(L);
    int64_t left = c->op.done ? 0 : pg_due(c) - pg_now();

    if (c->op.active)
        lua_pushnumber(L, left > 0 ? (lua_Number)left / 1000 : 0);
    else
        lua_pushnil(L);
    return 1;
}

/***
 * Moves the operation under way on as far as it goes without waiting.
 * @function conn:step
 * @treturn boolean whether the coroutine that waits for it should be resumed (true when nothing is under way)
 */
static int l_step(lua_State *L)
{
    struct pg_conn *c = check_conn(L);
    lua_pushboolean(L, !c->op.active || pg_step(c));
    return 1;
}

/***
 * Waits until the socket is ready for what is under way, or its deadline has come. Does not move it on.
 * @function conn:wait
 * @tparam[opt] number timeout in seconds (30)
 * @treturn boolean whether the socket is ready
 */
static int l_wait(lua_State *L)
{
    const struct pg_conn *c = check_conn(L);
    int64_t ms = check_seconds(L, 2, luaL_optnumber(L, 2, PG_TIMEOUT_CALL), 0);

    lua_pushboolean(L, pg_poll(c, ms) > 0);
    return 1;
}

/* ==== state ===================================================================================== */

/***
 * Asks the server to stop what runs on this connection, from another coroutine or a callback. The call
 * that is stopped ends with code "57014". Nothing under way: nothing happens.
 * @function conn:cancel
 * @tparam[opt] table options `timeout` in seconds (5), for the server to take the request
 * @treturn[1] boolean true
 * @return[2] nil
 * @treturn[2] string message
 * @treturn[2] string "timeout" or "connection"
 */
static int l_cancel(lua_State *L)
{
    static const char *const names[] = {"timeout", NULL};
    struct pg_conn *c = check_conn(L);
    struct pg_cancel *k;
    int64_t ms;
    int ended, taken;

    check_options(L, 2, names);
    ms = option_timeout(L, 2, "timeout", PG_TIMEOUT_CANCEL);
    k = c->pg != NULL ? pg_cancel_start(c->pg) : NULL;
    if (k == NULL)
        return fail(L, "connection", "cancel: no connection to cancel on");
    ended = pg_cancel_wait(k, (int)ms);
    taken = ended && atomic_load(&k->sent);
    pg_cancel_drop(k);
    if (!ended)
        return fail(L, "timeout", "cancel: the server did not take the request in time");
    if (!taken)
        return fail(L, "connection", "cancel: the server did not take the request");
    lua_pushboolean(L, 1);
    return 1;
}

/***
 * Forgets the operation of a coroutine that will not go on, if it is done: nothing is waited for. To be called from what
 * that coroutine has to close.
 * @function conn:forget
 * @treturn boolean whether the connection can be used, with nothing open on it
 */
static int l_forget(lua_State *L)
{
    struct pg_conn *c = check_conn(L);

    if (c->op.calling)
        return luaL_error(L, "connection is busy with another operation");
    if (c->op.active && c->op.done) {
        pg_end(c);
        pg_drop_results(c);
        pg_drop_notices(c);
    }
    lua_pushboolean(L, !c->op.active && c->state == PG_OPEN && PQtransactionStatus(c->pg) == PQTRANS_IDLE);
    return 1;
}

static const char *state_name(const struct pg_conn *c)
{
    if (c->state != PG_OPEN)
        return c->state == PG_LOST ? "lost" : "closed";
    if (c->op.active)
        return c->op.phase == PG_CONNECT ? "connecting" : "busy";
    switch (PQtransactionStatus(c->pg)) {
    case PQTRANS_INTRANS:
        return "transaction";
    case PQTRANS_INERROR:
        return "failed";
    default:
        return "idle";
    }
}

/***
 * The state of the connection; also of a closed one.
 * @function conn:status
 * @treturn string "idle", "transaction" (inside one), "failed" (inside one that can only roll back), "busy",
 *   "connecting", "lost" or "closed"
 */
static int l_status(lua_State *L)
{
    const struct pg_conn *c = luaL_checkudata(L, 1, PG_CONN_MT);
    lua_pushstring(L, state_name(c));
    return 1;
}

/***
 * The process id of the server's side.
 * @function conn:backend_pid
 * @treturn integer 0 when the connection is lost
 */
static int l_backend_pid(lua_State *L)
{
    const struct pg_conn *c = check_conn(L);
    lua_pushinteger(L, c->pg != NULL ? PQbackendPID(c->pg) : 0);
    return 1;
}

/***
 * A setting that the server reports by itself ("server_version", "TimeZone", …), or "server_version_num".
 * @function conn:parameter
 * @tparam string name
 * @treturn[1] string value
 * @treturn[2] nil when the server does not report it, or the connection is lost
 */
static int l_parameter(lua_State *L)
{
    const struct pg_conn *c = check_conn(L);
    const char *name = check_text(L, 2);

    if (c->pg == NULL)
        lua_pushnil(L);
    else if (strcmp(name, "server_version_num") == 0)
        lua_pushfstring(L, "%d", PQserverVersion(c->pg));
    else
        lua_pushstring(L, PQparameterStatus(c->pg, name));
    return 1;
}

static int make_error(lua_State *L)
{
    struct pg_conn *c = lua_touserdata(L, 1);

    push_diagnostics(L, c->error);
    push_failure(L, c);
    lua_setfield(L, -4, "code");
    lua_setfield(L, -3, "message");
    lua_pop(L, 1);
    return 1;
}

/***
 * All about the failure of the last call.
 * @function conn:last_error
 * @treturn[1] table `code`, `message`, and what the server said: `sqlstate`, `severity`, `detail`, `hint`,
 *   `context`, `position`, `schema`, `table`, `column`, `constraint`
 * @treturn[2] nil when it did not fail
 */
static int l_last_error(lua_State *L)
{
    struct pg_conn *c = check_conn(L);

    if (c->error == NULL && c->fail_code == NULL) {
        lua_pushnil(L);
        return 1;
    }
    return push_guarded(L, c, make_error);
}

/***
 * Closes the connection; a coroutine that waits on it gets code "closed". Closing twice is fine.
 * @function conn:close
 */
static int l_close(lua_State *L)
{
    struct pg_conn *c = luaL_checkudata(L, 1, PG_CONN_MT);

    if (c->op.calling)
        return luaL_error(L, "connection is busy with another operation");
    pg_close(c);
    return 0;
}

static int l_gc(lua_State *L)
{
    pg_close(luaL_checkudata(L, 1, PG_CONN_MT));
    return 0;
}

static int l_tostring(lua_State *L)
{
    const struct pg_conn *c = luaL_checkudata(L, 1, PG_CONN_MT);
    lua_pushfstring(L, PG_CONN_MT ": %s", state_name(c));
    return 1;
}

/* ==== parameter values ========================================================================== */

/***
 * Bytes as a parameter.
 * @function bytea
 * @tparam string bytes
 * @treturn value for a parameter list or `pg.array`
 */
static int l_bytea(lua_State *L)
{
    size_t len;
    const char *s;

    luaL_checktype(L, 1, LUA_TSTRING);
    s = lua_tolstring(L, 1, &len);
    pg_new_value(L, "bytea", s, len)->binary = 1;
    return 1;
}

/***
 * Any value as a JSON parameter, encoded by atelier.json.
 * @function json
 * @param value
 * @treturn[1] value for a parameter list or `pg.array`
 * @return[2] nil
 * @treturn[2] string message
 * @treturn[2] string code of atelier.json
 */
static int l_json(lua_State *L)
{
    size_t len;
    const char *s;

    luaL_checkany(L, 1);
    lua_settop(L, 1);
    if (!pg_push_json_function(L, "encode"))
        return lua_error(L);
    lua_pushvalue(L, 1);
    lua_call(L, 1, 3);
    if (lua_type(L, 2) != LUA_TSTRING)
        return 3;
    s = lua_tolstring(L, 2, &len);
    pg_new_value(L, "json", s, len);
    return 1;
}

/***
 * A list as an array parameter. Its elements are strings, numbers, booleans, `pg.null`, values of `pg.bytea`
 * and `pg.json`, or lists of the same length for more dimensions.
 * @function array
 * @tparam table list a field `n` may give its length
 * @treturn value for a parameter list
 * @usage conn:query("select unnest($1::bigint[])", {pg.array({1, 2, pg.null})})
 */
static int l_array(lua_State *L)
{
    luaL_Buffer b;
    size_t len;
    const char *s;

    luaL_checktype(L, 1, LUA_TTABLE);
    lua_settop(L, 2 + PG_ARRAY_DEPTH); /* a slot per dimension, and one for what is too deep */
    luaL_buffinit(L, &b);
    pg_add_array(L, &b, 1, 2, 1);
    luaL_pushresult(&b);
    s = lua_tolstring(L, -1, &len);
    pg_new_value(L, "array", s, len);
    return 1;
}

static int l_value_tostring(lua_State *L)
{
    const struct pg_value *v = luaL_checkudata(L, 1, PG_VALUE_MT);
    lua_pushfstring(L, PG_VALUE_MT ": %s, %I bytes", v->kind, (LUAI_UACINT)v->len);
    return 1;
}

/***
 * How many connections are open.
 * @function live_handles
 * @treturn integer count
 */

/* ==== tables ==================================================================================== */

static const luaL_Reg conn_methods[] = {
    {"query", l_query},
    {"exec", l_exec},
    {"prepare", l_prepare},
    {"execute", l_execute},
    {"pipeline", l_pipeline},
    {"transaction", l_transaction},
    {"copy_in", l_copy_in},
    {"copy_out", l_copy_out},
    {"listen", l_listen},
    {"unlisten", l_unlisten},
    {"notifications", l_notifications},
    {"on_notice", l_on_notice},
    {"socket", l_socket},
    {"events", l_events},
    {"timeout", l_timeout},
    {"step", l_step},
    {"wait", l_wait},
    {"cancel", l_cancel},
    {"forget", l_forget},
    {"status", l_status},
    {"backend_pid", l_backend_pid},
    {"parameter", l_parameter},
    {"last_error", l_last_error},
    {"close", l_close},
    {NULL, NULL},
};

static const luaL_Reg conn_meta[] = {
    {"__gc", l_gc},
    {"__close", l_close},
    {"__tostring", l_tostring},
    {NULL, NULL},
};

static const luaL_Reg value_meta[] = {
    {"__tostring", l_value_tostring},
    {NULL, NULL},
};

static const luaL_Reg pg_funcs[] = {
    {"connect", l_connect},
    {"bytea", l_bytea},
    {"json", l_json},
    {"array", l_array},
    {"live_handles", l_live_handles},
    {NULL, NULL},
};

/* Coroutines are held weakly, or a dead one could never be told from one that waits. */
static void new_waiting_table(lua_State *L)
{
    lua_newtable(L);
    lua_createtable(L, 0, 1);
    lua_pushliteral(L, "v");
    lua_setfield(L, -2, "__mode");
    lua_setmetatable(L, -2);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &pg_waiting_key);
}

int luaopen_atelier_pg(lua_State *L)
{
    luaL_checkversion(L);
    managed_class(L, PG_CONN_MT, conn_meta, conn_methods);
    managed_class(L, PG_VALUE_MT, value_meta, NULL);
    new_waiting_table(L);
    luaL_newlib(L, pg_funcs);
    lua_pushlightuserdata(L, NULL);
    lua_setfield(L, -2, "null");
    return 1;
}
