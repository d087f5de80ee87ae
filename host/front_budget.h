/* front_budget.h: how long a coroutine may run without waiting. See front_budget.c. */
#ifndef ATELIER_FRONT_BUDGET_H
#define ATELIER_FRONT_BUDGET_H

#include <lua.h>

/* Starts the clock of the calling thread. Returns 0 and sets errno when that fails. */
int budget_open(int slice_ms);
void budget_close(void);

/* Around each slice of a coroutine. The latter returns whether the budget ended it. */
void budget_begin(lua_State *co);
int budget_end(lua_State *co);

/* What to tell about a slice that was ended. */
const char *budget_text(void);

/*
 * Makes the coroutines that scripts create obey the budget too: wraps coroutine.create and coroutine.wrap, once. May raise.
 */
void budget_guard_coroutines(lua_State *L);

#endif
