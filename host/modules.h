/* modules.h: the native modules that are linked into the program; each is one file, host/lua_NAME.c. */
#ifndef ATELIER_MODULES_H
#define ATELIER_MODULES_H

#include <lua.h>

int luaopen_atelier_crypto(lua_State *L);
int luaopen_atelier_fs(lua_State *L);
int luaopen_atelier_http(lua_State *L);
int luaopen_atelier_httpd(lua_State *L);
int luaopen_atelier_jail(lua_State *L);
int luaopen_atelier_json(lua_State *L);
int luaopen_atelier_line(lua_State *L);
int luaopen_atelier_master(lua_State *L);
int luaopen_atelier_pg(lua_State *L);
int luaopen_atelier_zip(lua_State *L);

#endif
