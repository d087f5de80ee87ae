/***
 * Line editing with history, over libedit.
 *
 * Owns: the terminal while a line is being read, and the history of this process. Knows nothing of Lua chunks: the
 * prompt loop is lua/cli/repl.lua.
 * @module atelier.line
 */
#include <stdlib.h>

#include <editline/readline.h>

#include "managed.h"

int luaopen_atelier_line(lua_State *L);

/***
 * Reads one line from the terminal. Blocks; never yields.
 * @function read
 * @tparam string prompt
 * @treturn[1] string the line, without its end
 * @return[2] nil at the end of the input
 */
static int l_read(lua_State *L)
{
    const char *prompt = luaL_checkstring(L, 1);
    struct managed *line = managed_new(L, free);

    line->p = readline(prompt);
    if (line->p == NULL) {
        luaL_pushfail(L);
        return 1;
    }
    lua_pushstring(L, line->p);
    managed_free(line);
    return 1;
}

/***
 * Adds a line to the history; blank ones are left out.
 * @function remember
 * @tparam string line
 */
static int l_remember(lua_State *L)
{
    const char *line = luaL_checkstring(L, 1);

    if (line[strspn(line, " \t\r\n")] != '\0')
        add_history(line);
    return 0;
}

/***
 * Reads the history from a file.
 * @function load
 * @tparam string path
 * @treturn[1] boolean true
 * @return[2] nil
 * @treturn[2] string message
 * @treturn[2] string code: the errno's symbol
 */
static int l_load(lua_State *L)
{
    const char *path = luaL_checkstring(L, 1);
    int err;

    errno = 0;
    err = read_history(path);
    if (err != 0)
        return fail_errno(L, errno != 0 ? errno : err, "load history", path);
    lua_pushboolean(L, 1);
    return 1;
}

/***
 * Writes the last lines of the history to a file.
 * @function save
 * @tparam string path
 * @tparam integer count how many lines to keep
 * @treturn[1] boolean true
 * @return[2] nil
 * @treturn[2] string message
 * @treturn[2] string code: the errno's symbol
 */
static int l_save(lua_State *L)
{
    const char *path = luaL_checkstring(L, 1);
    lua_Integer count = luaL_checkinteger(L, 2);
    int err;

    luaL_argcheck(L, count >= 0 && count <= 1000000, 2, "must be between 0 and 1,000,000 lines");
    stifle_history((int)count);
    errno = 0;
    err = write_history(path);
    if (err != 0)
        return fail_errno(L, errno != 0 ? errno : err, "save history", path);
    lua_pushboolean(L, 1);
    return 1;
}

static const luaL_Reg line_funcs[] = {
    {"read", l_read},
    {"remember", l_remember},
    {"load", l_load},
    {"save", l_save},
    {NULL, NULL},
};

int luaopen_atelier_line(lua_State *L)
{
    luaL_checkversion(L);
    using_history();
    luaL_newlib(L, line_funcs);
    return 1;
}
