/*
 * jail_state.h: the child's Lua side: what is loaded, and one run.
 */
#ifndef ATELIER_JAIL_STATE_H
#define ATELIER_JAIL_STATE_H

#include <lua.h>

#include "jail.h"
#include "jail_wire.h"

/* A script in the child's memory. `code` is our own dump of a script that all runs share, NULL for a personal one. */
struct jail_script {
    const char *name, *text;
    size_t name_size, text_size;
    const char *code;
    size_t code_size;
    int parsed; /* personal: known to be well-formed, or its fault is noted */
};

struct jail_scripts {
    struct jail_script *list;
    size_t n;
};

/* A fault with its place; script and line are empty and 0 when there is none. */
struct jail_fault {
    int verdict;
    char message[JAIL_MAX_MESSAGE];
    size_t message_size;
    char script[JAIL_MAX_NAME + 1];
    uint32_t line;
};

/* The one run that a child is in. */
struct jail_run {
    struct jail_limits limits;
    volatile int running;       /* signal handlers and the allocator act only while a script runs */
    lua_State *main;
    lua_State *volatile current; /* the thread that called last */
    uint64_t instructions;
    int64_t started;            /* jail_now's clock */
    struct jail_scripts shared, personal;
    struct jail_script script;  /* the main one */
    struct jail_script prelude;
    int collecting;             /* the collector was started */
    int check_all;              /* siblings that the script does not ask for are parsed, too */
    struct jail_fault fault;    /* the first that decides */
    struct jail_fault pending;  /* where memory was refused for the first time */
    struct jail_fault *faults;  /* of a load: all */
    size_t nfaults;
    char *output;               /* limits.output bytes */
    size_t output_size;
    size_t ncalls;              /* functions of the prelude, in the order in which they are defined */
    const char *call_names[JAIL_MAX_CALLS];
    uint64_t calls[JAIL_MAX_CALLS];
};

extern struct jail_run jail_run;

/* Once in the life of the child, before it is locked in. Returns 0 when there is no memory. */
int jail_state_open(const struct jail_limits *limits);

/* Parses all shared scripts and keeps their code; fills `faults`. The verdict is in `fault`. */
void jail_state_load(void);

/* Runs `script`. Returns only when another run may follow or the verdict is not final here. */
void jail_state_run(void);

/* Drops and wipes the state of the last run. After the reply: the parent need not wait for it. */
void jail_state_drop(void);

/* Decides: fills in the fault, replies, and ends the process. */
void jail_abort(int verdict, const char *message) __attribute__((noreturn));

/* Where the script is: its innermost Lua function outside the prelude. Safe wherever Lua may be interrupted. */
void jail_locate(lua_State *L, struct jail_fault *fault);

/* Sends the reply (jail_child.c). */
void jail_reply(void);

/* jail_library.c: fills a fresh state with what a script may use. Raises. */
void jail_library_open(lua_State *L);
/* Once, before any run: finds what the libraries have beyond the allow list. Raises. */
int jail_library_learn(lua_State *L);

/* Loads a script's text or code; as lua_load. */
int jail_load_script(lua_State *L, struct jail_script *script);

/* The script of this name, personal ones first, or NULL. */
struct jail_script *jail_find_script(const char *name, size_t size);

/* Notes a fault unless one is noted; a syntax error's text is taken apart into place and reason. */
void jail_note(struct jail_fault *fault, int verdict, const char *message, size_t size);

/* Charges the budget; does not return when it is spent. */
void jail_charge(lua_State *L, uint64_t instructions);

#endif
