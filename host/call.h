/* call.h: the one way into Lua. See call.c. */
#ifndef ATELIER_CALL_H
#define ATELIER_CALL_H

#include <lua.h>

/*
 * Calls the function below `nargs` arguments on the stack, in protected mode.
 * On LUA_OK its results (`nresults`, or LUA_MULTRET) are on the stack. Otherwise one string is: the message with a
 * traceback, whatever the error object was. Never raises; the stack is balanced either way.
 */
int call_lua(lua_State *L, int nargs, int nresults);

#endif
